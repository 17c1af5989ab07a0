"""Read the values that a plan found, one array at a time, and put them into the leaves of a tree."""

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from paramtree.checkpoint.contents import Contents, Offer
from paramtree.checkpoint.layout import as_leaf, is_key
from paramtree.checkpoint.rawfile import read_ahead
from paramtree.checkpoint.stored import Array, ReadOne, Stored, new_array
from paramtree.checkpoint.tensors import array_of, is_tensor, tensor_of
from paramtree.errors import MismatchError, raise_faults
from paramtree.names import Structure
from paramtree.renaming import Move


class Use(NamedTuple):
    """Where a value goes.

    Attributes:
        at: the place of the leaf, in JAX's order.
        name: of the parameter.
        offer: the value.
        transposed: whether it is swapped in its last two axes once more, as the name is tied that way.
        held: the dtype that the stored bits are of.
        final: the dtype that the leaf gets.
    """

    at: int
    name: str
    offer: Offer
    transposed: bool
    held: Any
    final: Any


class Fill(NamedTuple):
    """All that it takes to read the values of a planned load.

    Attributes:
        stored: the file.
        contents: its arrays under all their names.
        leaves: of the tree to fill, in JAX's order.
        structure: of the tree to fill.
        model: a tree whose order the filled one gets.
        chosen: the names that are to be loaded.
        uses: what is read, and where it goes.
    """

    stored: Stored
    contents: Contents
    leaves: Sequence[Any]
    structure: Structure
    model: Any
    chosen: frozenset[str]
    uses: Mapping[Move, Sequence[Use]]


def fill_leaves(fill: Fill) -> Any:
    """Read the values, and build the tree.

    Raises:
        MismatchError: listing every parameter that has two values in the file, and every one that has none.
        ParamTreeError: where the values are damaged.
    """
    leaves, structure = list(fill.leaves), fill.structure
    done = _restore_sharded(fill, leaves)
    faults: list[str] = []
    with ExitStack() as stack:
        read: ReadOne | None = None
        for move, uses in fill.uses.items():
            left = [use for use in uses if use.at not in done or use.offer.source != done[use.at]]
            if not left:
                continue
            read = read or stack.enter_context(_opened(fill))
            faults += _place(fill, leaves, move, left, read, done)
    raise_faults(MismatchError, "load: the file has two values for one parameter:", faults)
    named = zip(structure.names, structure.indices, strict=True)
    bare = [
        f"{name} has no value: `like` has only its shape and dtype"
        for name, index in named
        if name in fill.chosen and index not in done and isinstance(leaves[index], jax.ShapeDtypeStruct)
    ]
    raise_faults(MismatchError, "load: these parameters are not in the file:", bare)
    return in_order_of(structure.treedef.unflatten(leaves), fill.model)


@contextmanager
def _opened(fill: Fill) -> Generator[ReadOne]:
    """Open the values for reading, and read ahead where the format can."""
    with fill.stored.reading() as read:
        if not fill.stored.parallel:
            yield read
            return
        names = [fill.contents.origin[name][0] for move in fill.uses for name in move.sources]
        specs = fill.stored.specs
        sizes = {name: math.prod(specs[name].shape) * specs[name].dtype.itemsize for name in names}
        with read_ahead(read, sizes) as read_next:
            yield read_next


def in_order_of(tree: Any, model: Any) -> Any:
    """Put the keys of nested dicts in the order of another tree, which JAX forgets.

    >>> in_order_of({"a": 1, "b": {"c": 2}}, {"b": {"c": 0}, "a": 0, "d": 0})
    {'b': {'c': 2}, 'a': 1}
    """
    if type(tree) is not dict or type(model) is not dict:
        return tree
    order = dict.fromkeys([*(key for key in model if key in tree), *tree])
    return {key: in_order_of(tree[key], model.get(key)) for key in order}


def _place(
    fill: Fill, leaves: list[Any], move: Move, uses: Sequence[Use], read: ReadOne, done: dict[int, str]
) -> list[str]:
    """Read what one move takes, and put its results where they are used; say where a second value differs."""
    faults: list[str] = []
    results = move.apply([_read(fill, name, read) for name in move.sources])
    for use in uses:
        value: Any = results[use.offer.output]
        if use.transposed and value.ndim > 1:
            value = value.swapaxes(-1, -2)
        if use.at in done:
            if not _same_bits(leaves[use.at], _finished(value, use)):
                second = use.offer.source
                faults.append(
                    f"{use.name}: the values of {done[use.at]} and of {second} differ; leave one out by "
                    f"rename={{{second!r}: None}}"
                )
            continue
        try:
            leaves[use.at] = _as_leaf(_finished(value, use), leaves[use.at])
        except ValueError as error:  # a sharding of `like` that JAX refuses
            raise MismatchError(f"load: {use.name} cannot be put where it is in `like`: {error}") from error
        done[use.at] = use.offer.source
    return faults


def _read(fill: Fill, name: str, read: ReadOne) -> Any:
    source, transposed = fill.contents.origin[name]
    kind = fill.stored.notes.get("keys", {}).get(source)
    value = read(source)
    if kind is not None:
        value = jax.random.wrap_key_data(jax.device_put(value), impl=kind)
    return value.swapaxes(-1, -2) if transposed and value.ndim > 1 else value


def _finished(value: Any, use: Use) -> Any:
    """Give a value its dtype, and memory of its own."""
    if isinstance(value, jax.Array):
        return value
    if value.dtype != use.held:
        value = value.view(use.held)
    if value.dtype != use.final:
        value = value.astype(use.final)
    if value.base is None or (value.flags.c_contiguous and not use.offer.move.steps):
        return value
    own = new_array(value.shape, value.dtype)
    own[...] = value
    return own


def _as_leaf(value: Any, old: Any) -> Any:
    """Make a leaf like another: of NumPy or JAX, a number, and on the same devices."""
    if isinstance(old, bool | int | float | complex):
        return type(old)(value.item())
    if is_tensor(old):
        return tensor_of(value, old)
    if isinstance(old, np.generic):
        return value[()]
    if isinstance(old, np.ndarray):
        return value
    sharding = getattr(old, "sharding", None)
    if sharding is None or (isinstance(old, jax.Array) and not old.committed):
        return value if isinstance(value, jax.Array) else as_leaf(value)
    return as_leaf(value, lambda array: jax.device_put(array, sharding))


def _restore_sharded(fill: Fill, leaves: list[Any]) -> dict[int, str]:
    """Let a format that can read each device's part alone do so; note which leaves are done, from where."""
    if fill.stored.restore is None:
        return {}
    wanted: dict[str, Use] = {}
    for uses in fill.uses.values():
        for use in uses:
            source, seen_transposed = fill.contents.origin[use.offer.move.sources[0]]
            plain = not use.offer.move.steps and not use.transposed and not seen_transposed
            leaf = leaves[use.at]
            plain = plain and not (isinstance(leaf, jax.Array) and not leaf.committed)
            plain = plain and source not in fill.stored.notes.get("keys", {})
            sharding = getattr(leaves[use.at], "sharding", None)
            if plain and use.held == use.final and sharding is not None and source not in wanted:
                wanted[source] = use
    if not wanted:
        return {}
    specs = {
        source: jax.ShapeDtypeStruct(use.offer.spec.shape, use.held, sharding=leaves[use.at].sharding)
        for source, use in wanted.items()
    }
    for source, value in fill.stored.restore(specs).items():
        leaves[wanted[source].at] = value
    return {use.at: use.offer.source for use in wanted.values()}


def _same_bits(one: Any, other: Any) -> bool:
    if isinstance(one, jax.Array) and is_key(one):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    if isinstance(one, bool | int | float | complex):
        one = np.asarray(one, other.dtype)
    return _bytes_of(one).tobytes() == _bytes_of(other).tobytes()


def _bytes_of(value: Any) -> Array:
    return np.ascontiguousarray(array_of(value) if is_tensor(value) else np.asarray(value))
