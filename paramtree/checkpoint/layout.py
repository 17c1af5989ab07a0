"""What every format stores: arrays by name, and notes on what stands in the tree besides arrays."""

import json
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.tensors import array_of, is_tensor
from paramtree.errors import BadNameError, MismatchError, ParamTreeError, raise_faults
from paramtree.names import flatten_named, is_dict, nest, structure_of, untyped_jax
from paramtree.nodes import Alias, Fixed, Frozen, Node, is_node, tied_names
from paramtree.select import held_leaves
from paramtree.tree import flatten

Leaves = dict[
    str, Any
]  # by name: JAX's arrays and NumPy's; `host_array` gives the values of each in its turn
Notes = dict[str, Any]

_VERSION = 1
_NUMBERS = bool | int | float | complex | np.generic


def split_parts(params: Any) -> tuple[Leaves, Notes]:
    """Split a tree into its arrays by name, and notes that JSON can hold.

    Of the trees of other libraries the functions among the leaves are left out, as these are no parameters.

    >>> split_parts({"a": {"w": np.ones(1)}, "b": Alias("a"), "c": Fixed(np.zeros(1))})[1]
    {'version': 1, 'ties': {'b': {'target': 'a', 'transpose': False}},
     'fixed': ['c'], 'frozen': [], 'empty': [], 'keys': {}}

    Raises:
        MismatchError: listing every leaf that is not an array.
        BadNameError: listing every name with a character that no file can hold.
        TieError: for a tie that leads nowhere, or out of this tree.
    """
    plain = is_plain(params)
    flat = flatten(params) if plain else _flatten_foreign(params)
    bad = [f"{name!r} holds a NUL or half a surrogate pair; rename it" for name in flat if not _is_text(name)]
    raise_faults(BadNameError, "save: these names cannot be written:", bad)
    tied_names(structure_of(params))  # raises here, and not when the file is loaded
    leaves: Leaves = {}
    notes: Notes = {"version": _VERSION, "ties": {}, "fixed": [], "frozen": [], "empty": [], "keys": {}}
    faults: list[str] = []
    for name, node in flat.items():
        if isinstance(node, Alias):
            notes["ties"][name] = {"target": node.target, "transpose": node.transpose}
            continue
        if is_dict(node):
            notes["empty"].append(name)
            continue
        leaf = node.value if isinstance(node, Fixed) else node
        if is_tensor(leaf):
            leaf = array_of(leaf)
        if fault := _unsaved(leaf):
            faults.append(f"{name} is {fault}")
            continue
        if is_key(leaf):
            notes["keys"][name] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        leaves[name] = leaf
        if isinstance(node, Fixed):
            notes["frozen" if isinstance(node, Frozen) else "fixed"].append(name)
    raise_faults(MismatchError, "save: only arrays of numbers can be saved:", faults)
    return leaves, notes


def is_plain(tree: Any) -> bool:
    """Tell whether a tree is made of dicts alone, with keys that can be names, as this package makes them.

    >>> is_plain({"a": {"w": 1.0}}), is_plain({"a": [1.0]}), is_plain({"a/b": 1.0})
    (True, False, False)
    """
    if is_dict(tree):
        return type(tree) is dict and all(
            isinstance(key, str) and key and "/" not in key and is_plain(child) for key, child in tree.items()
        )
    return isinstance(tree, Node) or untyped_jax.tree_util.all_leaves([tree])


def _flatten_foreign(tree: Any) -> dict[str, Any]:
    """Flatten another library's tree: its arrays by name, its numbers as arrays, and the ties in it."""
    _, structure = flatten_named(tree)
    held = held_leaves(tree)
    named = zip(structure.names, structure.indices, strict=True)
    flat = {name: held[index] for name, index in named if not callable(held[index])}
    numbers = {name: np.asarray(leaf) for name, leaf in flat.items() if isinstance(leaf, _NUMBERS)}
    ties = {name: node for name, node in structure.leafless.items() if isinstance(node, Alias)}
    return flat | numbers | ties


def join_parts(leaves: Leaves, notes: Notes) -> dict[str, Any]:
    """Build the tree again: the inverse of `split_parts`.

    Raises:
        ParamTreeError: where the notes are damaged, or lead to names that the file does not hold.
        BadNameError: where the names cannot be nested.
    """
    flat: dict[str, Any] = dict(leaves)
    try:
        flat |= {name: Fixed(flat[name]) for name in notes.get("fixed", ())}
        flat |= {name: Frozen(flat[name]) for name in notes.get("frozen", ())}
        for place, tie in notes.get("ties", {}).items():
            _put(flat, place, Alias(str(tie["target"]), bool(tie["transpose"])))
        for name in notes.get("empty", ()):
            _put(flat, name, {})
        tree = nest(flat)
        tied_names(structure_of(tree))
    except RecursionError as error:
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


def _unsaved(leaf: Any) -> str:
    """Say what a leaf is that cannot be saved; an empty text for one that can."""
    if is_node(leaf):
        return f"a {type(leaf).__name__}, a node that files do not know; pt.resolve the tree first"
    if isinstance(leaf, untyped_jax.core.Tracer):
        return "traced; save outside of jit"
    if not isinstance(leaf, jax.Array | np.ndarray):
        return f"{reprlib.repr(leaf)} of type {type(leaf).__name__}"
    return "" if is_key(leaf) else dtype_fault(leaf.dtype)


def is_key(leaf: Any) -> bool:
    """Tell whether an array is one of `jax.random`'s keys.

    >>> is_key(jax.random.key(0)), is_key(np.zeros(2, "uint32"))
    (True, False)
    """
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def dtype_fault(dtype: Any) -> str:
    """Say that arrays of a dtype hold no numbers; an empty text where they are.

    >>> dtype_fault(np.dtype("<U1")), dtype_fault(np.dtype("float32"))
    ('an array of <U1', '')
    """
    numeric = jnp.issubdtype(dtype, np.number) or dtype == np.bool_
    wide = dtype in (np.longdouble, np.clongdouble)  # which JAX does not have
    return "" if numeric and not wide else f"an array of {dtype}"


def host_array(leaf: Any) -> np.ndarray[Any, Any]:
    """Give a leaf's values as a NumPy array, in C order and native byte order.

    No copy stays behind with the leaf, as `numpy.asarray` leaves one with an array of a GPU or of several
    devices: so a tree is written with the memory of one leaf.
    """
    array = _fetch(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array if array.flags.c_contiguous else array.copy()


def _fetch(leaf: jax.Array) -> np.ndarray[Any, Any]:
    devices = leaf.devices()
    if len(devices) == 1 and next(iter(devices)).platform == "cpu":
        return np.asarray(leaf)
    if leaf.is_fully_replicated:
        return np.array(jax.device_get(leaf.addressable_data(0)))
    if not leaf.is_fully_addressable:
        raise ParamTreeError(
            f"save: an array of shape {leaf.shape} is spread over several processes. Save to a .orbax "
            "directory from all of them, or gather it first, as with "
            "jax.experimental.multihost_utils.process_allgather."
        )
    values = np.empty(leaf.shape, leaf.dtype)
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            values[shard.index] = jax.device_get(shard.data)
    return values


def as_leaf(array: np.ndarray[Any, Any], place: Callable[[Any], Any] = jax.device_put) -> Any:
    """Make a leaf of an array read from a file: JAX's, unless JAX would narrow its 64-bit numbers.

    Args:
        array: the values, in memory that nothing else holds.
        place: puts them on their devices.
    """
    return array if is_narrowed(array.dtype) else place(array)


def is_narrowed(dtype: Any) -> bool:
    """Tell whether JAX would make an array of this dtype a narrower one, as x64 is off."""
    return not jnp.issubdtype(dtype, jax.dtypes.prng_key) and jax.dtypes.canonicalize_dtype(dtype) != dtype


def key_specs(specs: Mapping[str, jax.ShapeDtypeStruct], notes: Notes) -> dict[str, jax.ShapeDtypeStruct]:
    """Give, for each name noted as a key of `jax.random`, the shape and dtype of the key.

    Raises:
        ParamTreeError: where the notes are damaged.
    """
    keys = notes.get("keys", {})
    try:
        return {
            name: jax.eval_shape(
                lambda data, kind=str(kind): jax.random.wrap_key_data(data, impl=kind), specs[name]
            )
            for name, kind in keys.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ParamTreeError(f"load: the notes on random keys are damaged: {error}.") from error
