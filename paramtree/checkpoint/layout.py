"""What every format stores: arrays by name, and notes on what stands in the tree besides arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.errors import MismatchError, raise_faults
from paramtree.names import nest
from paramtree.nodes import Alias, Fixed
from paramtree.tree import flatten

Arrays = dict[str, np.ndarray[Any, Any]]


def split_parts(params: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """Split a tree into its arrays by name, and notes that JSON can hold.

    >>> split_parts({"a": {"w": np.ones(1)}, "b": Alias("a"), "c": Fixed(np.zeros(1))})[1]
    {'version': 1, 'ties': {'b': {'target': 'a', 'transpose': False}}, 'fixed': ['c'], 'empty': []}

    Raises:
        MismatchError: listing every leaf that is no array.
    """
    arrays: Arrays = {}
    notes: dict[str, Any] = {"version": 1, "ties": {}, "fixed": [], "empty": []}
    faults: list[str] = []
    for name, node in flatten(params).items():
        if isinstance(node, Alias):
            notes["ties"][name] = {"target": node.target, "transpose": node.transpose}
            continue
        if isinstance(node, dict):
            notes["empty"].append(name)
            continue
        leaf = node.value if isinstance(node, Fixed) else node
        if not isinstance(leaf, jax.Array | np.ndarray) or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            faults.append(f"{name} is {leaf!r} of type {type(leaf).__name__}, not an array")
            continue
        if isinstance(node, Fixed):
            notes["fixed"].append(name)
        arrays[name] = np.asarray(leaf)
    raise_faults(MismatchError, "save: only arrays can be saved:", faults)
    return arrays, notes


def join_parts(arrays: Arrays, notes: dict[str, Any]) -> dict[str, Any]:
    """Build the tree again: the inverse of `split_parts`."""
    flat: dict[str, Any] = {name: _as_jax(array) for name, array in arrays.items()}
    for name in notes.get("fixed", ()):
        flat[name] = Fixed(flat[name])
    flat |= {place: Alias(**tie) for place, tie in notes.get("ties", {}).items()}
    return nest(flat | {name: {} for name in notes.get("empty", ()) if name})


def _as_jax(array: np.ndarray[Any, Any]) -> Any:
    return jnp.asarray(array) if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype else array
