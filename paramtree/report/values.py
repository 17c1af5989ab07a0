"""The leaves of a tree as what can be looked into, and the programs that look, launched all at once.

Nothing waits for what it has launched: the results of all programs come to the host in one transfer.
"""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, use_abstract_mesh

from paramtree.checkpoint.layout import dtype_fault, is_narrowed
from paramtree.checkpoint.tensors import array_of, is_tensor
from paramtree.display import shape_text
from paramtree.errors import MismatchError, first_of, listing, raise_faults
from paramtree.names import untyped_jax
from paramtree.nodes import tied_names
from paramtree.report.rows import LARGE, Kind, Rows, batches, lay_out
from paramtree.select import Select, apply_select
from paramtree.tree import is_array, is_array_like


class Item(NamedTuple):
    """One leaf.

    Attributes:
        name: its name.
        array: what to look into, of JAX or NumPy; None where there are no numbers.
        shape: its shape; None for what has none.
        dtype: the name of its dtype, or of its type.
        said: what it is, where there are no numbers.
    """

    name: str
    array: Any
    shape: tuple[Any, ...] | None
    dtype: str
    said: str = ""


def read_items(tree: Any, select: Select | None = None) -> list[Item]:
    """List the leaves that a select hits; functions, which some libraries keep in trees, are left out.

    >>> [item.said for item in read_items({"label": "decay", "spec": jax.ShapeDtypeStruct((2,), "int8")})]
    ["'decay'", 'no values']

    Raises:
        NoMatchError: where the select hits nothing.
        TieError: where a tie is broken.
        MismatchError: listing arrays whose values were donated.
    """
    found = apply_select(tree, select)
    structure = found.structure
    tied_names(structure)  # raises where a tie is broken
    leaves = [(structure.names[at], found.leaves[structure.indices[at]]) for at in found.places]
    gone = [name for name, leaf in leaves if isinstance(leaf, jax.Array) and _is_deleted(leaf)]
    headline = "the values of these are gone, donated or deleted; look at what the step returned:"
    raise_faults(MismatchError, headline, first_of(gone))
    return [
        _jax_item(name, leaf) if isinstance(leaf, jax.Array) else _item(name, leaf)
        for name, leaf in leaves
        if isinstance(leaf, jax.Array) or is_array_like(leaf) or not callable(leaf)
    ]


def _is_deleted(array: jax.Array) -> bool:
    return not is_traced(array) and array.is_deleted()


def _jax_item(name: str, array: jax.Array) -> Item:
    dtype, said = read_dtype(array.dtype)
    if said:
        return Item(name, None, array.shape, dtype, said)
    near = is_traced(array) or _place_of(array.sharding).near
    return Item(name, array if near else np.asarray(array), array.shape, dtype)


def is_number(leaf: object) -> bool:
    """Tell whether a leaf is a number of Python.

    >>> is_number(1.0), is_number(np.float32(1))
    (True, False)
    """
    return isinstance(leaf, bool | int | float | complex)


def _item(name: str, leaf: Any) -> Item:
    if is_number(leaf):
        leaf = np.asarray(leaf)
    elif hasattr(leaf, "__jax_array__"):
        return _jax_item(name, leaf.__jax_array__())
    elif is_tensor(leaf):
        leaf = array_of(leaf)
    if not is_array_like(leaf):
        return Item(name, None, None, type(leaf).__name__, reprlib.repr(leaf))
    dtype, said = read_dtype(leaf.dtype)
    if said or not is_array(leaf):
        return Item(name, None, tuple(leaf.shape), dtype, said or "no values")
    array = np.asarray(leaf)
    return Item(name, array.astype(array.dtype.newbyteorder("="), copy=False), array.shape, dtype)


@lru_cache(maxsize=256)
def read_dtype(dtype: Any) -> tuple[str, str]:
    """Give the name of a dtype, and what arrays of it hold in place of numbers."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return str(dtype), "random keys"
    return dtype_name(dtype), dtype_fault(dtype)


@lru_cache(maxsize=256)
def dtype_name(dtype: Any) -> str:
    """Give the name of a dtype, of JAX, NumPy or PyTorch; kept, as NumPy takes its time to build it.

    >>> dtype_name(np.dtype("float32"))
    'float32'
    """
    return getattr(dtype, "name", str(dtype)).removeprefix("torch.")


class _Place(NamedTuple):
    """Where an array lies: on which device, on several, and in the memory that programs compute on."""

    device: int
    spread: bool
    near: bool


@lru_cache(maxsize=256)
def _place_of(sharding: Any) -> _Place:
    device = min(sharding.device_set, key=lambda each: each.id)
    near = sharding.memory_kind in (None, device.default_memory().kind)
    return _Place(device.id, len(sharding.device_set) > 1, near)


def is_traced(value: object) -> bool:
    """Tell whether a value is one that JAX is tracing."""
    return isinstance(value, untyped_jax.core.Tracer)


def check_not_traced(what: str, items: Sequence[Item], advice: str = "") -> None:
    """Check that all values are there.

    Raises:
        MismatchError: listing the leaves that are traced.
    """
    traced = [item.name for item in items if is_traced(item.array)]
    if traced:
        raise MismatchError(
            f"{what} are looked at outside of jit, and these are traced: {listing(traced)}.{advice}"
        )


def check_gradients(verb: str, shapes: Mapping[str, Any], grads: Sequence[Item], whole: bool) -> None:
    """Check that gradients are of these parameters.

    Args:
        verb: what messages call the report.
        shapes: name -> shape, of the parameters.
        grads: the gradients.
        whole: whether those are all parameters, so that another name is a fault.

    Raises:
        MismatchError: listing every gradient of no parameter, and every one of another shape.
    """
    faults: list[str] = []
    for item in grads:
        if item.name not in shapes:
            faults += [f"{item.name} is not a parameter"] if whole else []
        elif shapes[item.name] != item.shape:
            wanted, got = (_shape(each) for each in (shapes[item.name], item.shape))
            faults.append(f"{item.name} has {wanted}, and its gradient {got}")
    raise_faults(MismatchError, f"{verb}: these gradients are not of these params:", faults)


def _shape(shape: Any) -> str:
    return "no shape" if shape is None else f"shape {shape_text(shape)}"


@lru_cache(maxsize=256)
def _is_narrowed(dtype: Any, x64: bool) -> bool:
    del x64  # what the answer depends on
    return is_narrowed(dtype)


def is_on_host(array: Any) -> bool:
    """Tell whether an array must be looked into in NumPy, as JAX would narrow its 64-bit numbers."""
    return isinstance(array, np.ndarray) and _is_narrowed(array.dtype, untyped_jax.config.jax_enable_x64)


Launched = tuple[list[int], Any]


def launch(
    arrays: Sequence[Any],
    many: Callable[[tuple[Any, ...], list[Rows]], Sequence[Any]],
    one: Callable[[Any, bool], Any],
) -> list[Launched]:
    """Run programs over arrays, none of size zero; give what each found, and of which arrays.

    Args:
        arrays: JAX's, and those of NumPy that it would not narrow.
        many: for small arrays in common rows; gives a result for each of the `Rows`.
        one: for a large array, or one that is spread over devices, as its second argument says.
    """
    with use_abstract_mesh(_NO_MESH):  # one that the user has set would have to be that of every array
        return _launch(arrays, many, one)


def _launch(
    arrays: Sequence[Any],
    many: Callable[[tuple[Any, ...], list[Rows]], Sequence[Any]],
    one: Callable[[Any, bool], Any],
) -> list[Launched]:
    arrays = [_on_auto_axes(each) if isinstance(each, jax.Array) else each for each in arrays]
    places = [_place_of(each.sharding) if isinstance(each, jax.Array) else _HOST for each in arrays]
    kinds = [
        Kind(place.device, read_dtype(array.dtype)[0], array.size)
        for place, array in zip(places, arrays, strict=True)
    ]
    small = [at for at, place in enumerate(places) if kinds[at].size < LARGE and not place.spread]
    held = set(small)
    found = [([at], one(arrays[at], places[at].spread)) for at in range(len(arrays)) if at not in held]
    for batch in batches([kinds[at] for at in small]):
        positions = [small[at] for at in batch]
        groups = [list(group) for _, group in groupby(positions, key=lambda at: kinds[at].dtype)]
        rows = [lay_out(tuple(kinds[at].size for at in group)) for group in groups]
        found += zip(groups, many(tuple(arrays[at] for at in positions), rows), strict=True)
    return list(zip((at for at, _ in found), jax.device_get([each for _, each in found]), strict=True))


def _on_auto_axes(array: jax.Array) -> jax.Array:
    """Give an array whose mesh has Explicit axes on a mesh of Auto axes, without a copy."""
    sharding = array.sharding
    if not isinstance(sharding, NamedSharding) or AxisType.Explicit not in sharding.mesh.axis_types:
        return array
    devices: Any = sharding.mesh.devices
    mesh = Mesh(devices, sharding.mesh.axis_names)
    return jax.device_put(array, NamedSharding(mesh, sharding.spec))


def sixteens(parts: tuple[Any, Any]) -> np.ndarray[Any, Any]:
    """Put counts together whose first part counts sixteens.

    >>> sixteens((np.int32([2]), np.int32([3])))
    array([35])
    """
    many, rest = (np.asarray(part, np.int64) for part in parts)
    return many * 16 + rest


_HOST = _Place(-1, False, True)
_NO_MESH = AbstractMesh((), ())
