"""What every format stores: arrays by name, and notes on what stands in the tree besides arrays."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.errors import BadNameError, MismatchError, ParamTreeError, raise_faults
from paramtree.names import nest, structure_of
from paramtree.nodes import Alias, Fixed, Frozen, Node, tied_names
from paramtree.tree import flatten

Arrays = dict[str, np.ndarray[Any, Any]]
Notes = dict[str, Any]

_VERSION = 1


def split_parts(params: dict[str, Any]) -> tuple[Arrays, Notes]:
    """Split a tree into its arrays by name, and notes that JSON can hold.

    >>> split_parts({"a": {"w": np.ones(1)}, "b": Alias("a"), "c": Fixed(np.zeros(1))})[1]
    {'version': 1, 'ties': {'b': {'target': 'a', 'transpose': False}},
     'fixed': ['c'], 'frozen': [], 'empty': []}

    Raises:
        MismatchError: listing every leaf that is not an array.
        BadNameError: listing every name with a character that no file can hold.
        TieError: for a tie that leads nowhere, or out of this tree.
    """
    flat = flatten(params)
    bad = [f"{name!r} holds a NUL or half a surrogate pair; rename it" for name in flat if not _is_text(name)]
    raise_faults(BadNameError, "save: these names cannot be written:", bad)
    tied_names(structure_of(params))  # raises here, and not when the file is loaded
    arrays: Arrays = {}
    notes: Notes = {"version": _VERSION, "ties": {}, "fixed": [], "frozen": [], "empty": []}
    faults: list[str] = []
    for name, node in flat.items():
        if isinstance(node, Alias):
            notes["ties"][name] = {"target": node.target, "transpose": node.transpose}
            continue
        if isinstance(node, dict):
            notes["empty"].append(name)
            continue
        leaf = node.value if isinstance(node, Fixed) else node
        if fault := _leaf_fault(leaf):
            faults.append(f"{name} is {fault}")
            continue
        try:
            arrays[name] = _native(np.asarray(leaf))
        except jax.errors.TracerArrayConversionError:
            faults.append(f"{name} is traced; save outside of jit")
        if isinstance(node, Fixed):
            notes["frozen" if isinstance(node, Frozen) else "fixed"].append(name)
    raise_faults(MismatchError, "save: only arrays of numbers can be saved:", faults)
    return arrays, notes


def join_parts(arrays: Arrays, notes: Notes) -> dict[str, Any]:
    """Build the tree again: the inverse of `split_parts`.

    Raises:
        ParamTreeError: where the notes are damaged, or lead to names that the file does not hold.
        MismatchError: listing every array that is not of numbers.
        BadNameError: where the names cannot be nested.
    """
    faults = [f"{name} is {fault}" for name, array in arrays.items() if (fault := _leaf_fault(array))]
    raise_faults(MismatchError, "load: only arrays of numbers can be loaded:", faults)
    flat: dict[str, Any] = {name: _as_jax(_native(array)) for name, array in arrays.items()}
    try:
        flat |= {name: Fixed(flat[name]) for name in notes.get("fixed", ())}
        flat |= {name: Frozen(flat[name]) for name in notes.get("frozen", ())}
        for place, tie in notes.get("ties", {}).items():
            _put(flat, place, Alias(str(tie["target"]), bool(tie["transpose"])))
        for name in notes.get("empty", ()):
            _put(flat, name, {})
        tree = nest(flat)
        tied_names(structure_of(tree))
    except (RecursionError, SystemError) as error:  # the second is how JAX reports the first
        raise ParamTreeError("load: the names, or the ties, are nested too deeply for Python.") from error
    except (AttributeError, KeyError, TypeError) as error:
        kind = type(error).__name__
        raise ParamTreeError(f"load: the notes are damaged: {kind}: {error}.") from error
    return tree


def read_notes(text: str) -> Notes:
    """Read the notes of a file from their JSON text.

    >>> read_notes('{"version": 1, "fixed": ["scale"]}')
    {'version': 1, 'fixed': ['scale']}

    Raises:
        ParamTreeError: where they are not notes, or those of a later version.
    """
    try:
        notes = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParamTreeError(f"load: the notes are not JSON: {error}.") from error
    if not isinstance(notes, dict):
        raise ParamTreeError(f"load: the notes are damaged: {text[:40]!r} is not an object.")
    version = notes.get("version", _VERSION)
    if version != _VERSION:
        raise ParamTreeError(f"load: the notes are of version {version!r}; this paramtree reads {_VERSION}.")
    return notes


def _put(flat: dict[str, Any], name: str, node: Any) -> None:
    if name in flat:
        raise KeyError(f"{name} is there twice")
    flat[name] = node


def _is_text(name: str) -> bool:
    return not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in name)


def _leaf_fault(leaf: Any) -> str:
    if isinstance(leaf, Node):
        return f"a {type(leaf).__name__}, a node that files do not know; pt.resolve the tree first"
    if not isinstance(leaf, jax.Array | np.ndarray):
        return f"{leaf!r} of type {type(leaf).__name__}"
    if not _is_number(leaf.dtype):
        return f"an array of {leaf.dtype}"
    return ""


def _is_number(dtype: Any) -> bool:
    numeric = jnp.issubdtype(dtype, np.number) or dtype == np.bool_
    return numeric and dtype not in (np.longdouble, np.clongdouble)  # which JAX does not have


def _native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _as_jax(array: np.ndarray[Any, Any]) -> Any:
    narrowed = jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype
    return array.copy() if narrowed else jnp.asarray(array)  # a copy, as a file's own bytes are read-only
