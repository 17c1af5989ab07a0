"""Mesh axes of type Explicit: there the type of a traced value says how it is spread, and must be kept."""

import math
from typing import Any

from jax.sharding import NamedSharding, PartitionSpec

from paramtree.names import untyped_jax


def is_split(value: Any) -> bool:
    """Tell whether the type of a traced value says that it is spread, as it does on explicit axes."""
    return any(axis is not None for axis in _spec(value))


def spread_like(new: Any, old: Any) -> Any:
    """Give a value the spread that the type of another of its shape says."""
    return new if _spec(new) == _spec(old) else untyped_jax.sharding.reshard(new, _sharding(old))


def split_leading(array: Any, count: int) -> Any:
    """Split the leading axis into (count, size / count), and let what it is spread over spread the second.

    >>> split_leading(untyped_jax.numpy.ones((6, 2)), 3).shape
    (3, 2, 2)
    """
    shape = (count, array.shape[0] // count, *array.shape[1:])
    if not is_split(array):
        return array.reshape(shape)
    first, *rest = _spec(array)
    sizes = _sharding(array).mesh.shape
    shares = math.prod(sizes[axis] for axis in (first if isinstance(first, tuple) else (first,)) if axis)
    kept = None if shape[1] % shares else first
    placed = NamedSharding(_sharding(array).mesh, PartitionSpec(None, kept, *rest))
    return untyped_jax.numpy.reshape(array, shape, out_sharding=placed)


def _sharding(value: Any) -> Any:
    return untyped_jax.typeof(value).sharding


def _spec(value: Any) -> Any:
    return _sharding(value).spec
