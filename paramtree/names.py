"""From a tree to the names of its leaves, once per tree structure.

A *name* is a leaf's path: its keys joined with `/`. Names depend only on the structure, so they are built
once for each `PyTreeDef` and kept in a bounded cache: a warm look-up costs a flatten and a hash.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

import jax
from jax.tree_util import PyTreeDef

from paramtree.errors import BadNameError, listing, raise_faults

SEPARATOR = "/"

_LEADING = ("weight", "kernel", "gamma", "scale")  # a weight is listed before its bias, as models print it


@dataclass(frozen=True, eq=False)
class Structure:
    """What a tree's structure says about names.

    There is one `Structure` for each treedef, compared by identity: comparing treedefs costs time in
    proportion to their leaves, so it is done once, in `structure_of`, and other caches are keyed by this.

    Attributes:
        treedef: JAX's description of the structure.
        names: every leaf's name, in natural order.
        indices: for each name, the position of its leaf in `jax.tree.leaves`.
        position: each name's place in `names`.
        leafless: name to value, of all that holds no leaf: an `Alias`, `None`, an empty container.
    """

    treedef: PyTreeDef
    names: tuple[str, ...]
    indices: tuple[int, ...]
    position: dict[str, int]
    leafless: dict[str, Any]


def join(*keys: str) -> str:
    """Join keys, or parts of names, to a name; empty ones are left out.

    >>> join("", "encoder", "layer2/weight")
    'encoder/layer2/weight'
    """
    return SEPARATOR.join(filter(None, keys))


def is_under(name: str, block: str) -> bool:
    """Tell whether a name is `block` itself or lies in it.

    >>> is_under("dense1/weight", "dense1"), is_under("dense10/weight", "dense1")
    (True, False)
    """
    return not block or name == block or name.startswith(block + SEPARATOR)


@lru_cache(maxsize=65_536)
def natural_key(key: str) -> tuple[Any, ...]:
    """Give the sort key that puts `layer2` before `layer10`, and `weight` before its bias.

    >>> sorted(["layer10", "bias", "layer2", "weight"], key=natural_key)
    ['weight', 'bias', 'layer2', 'layer10']
    """
    parts = re.split(r"(\d+)", key)
    return (
        key not in _LEADING,
        [int(part) if part.isdecimal() else part for part in parts],
        key,
    )


def natural_name_key(name: str) -> list[tuple[Any, ...]]:
    """Give the sort key of a whole name: its keys' natural order, outermost first.

    >>> sorted(["b/layer10/bias", "b/layer2/bias", "b/layer2/weight"], key=natural_name_key)
    ['b/layer2/weight', 'b/layer2/bias', 'b/layer10/bias']
    """
    return [natural_key(key) for key in name.split(SEPARATOR)]


def check_key(key: object, where: str = "") -> str:
    """Return a key that may stand in a name, or raise.

    Raises:
        BadNameError: where the key is not a string, is empty, or holds a `/`.
    """
    fault = key_fault(key)
    if fault:
        raise BadNameError(f"the key {key!r}{f' in {where!r}' if where else ''} {fault}.")
    return str(key)


def key_fault(key: object) -> str:
    if not isinstance(key, str):
        return f"is of type {type(key).__name__}; keys are strings, such as {str(key)!r}"
    if not key:
        return "is empty; give it a name"
    if SEPARATOR in key:
        return f"holds a {SEPARATOR!r}, which separates keys; nest dicts instead, or write {key.replace('/', '_')!r}"
    return ""


def key_text(entry: Any) -> str:
    """Give the text of one entry of a JAX key path.

    >>> key_text(jax.tree_util.SequenceKey(3)), key_text(jax.tree_util.GetAttrKey("mu"))
    ('3', 'mu')
    """
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def children(node: Any) -> list[tuple[Any, Any]]:
    """List the (key path entry, child) pairs one level below a node that is not a dict.

    >>> children([5, {"a": 6}])
    [(SequenceKey(idx=0), 5), (SequenceKey(idx=1), {'a': 6})]
    """
    pairs = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)[0]
    return [(path[0], child) for path, child in pairs]


def index_tree(treedef: PyTreeDef) -> Any:
    """Build the tree of this structure whose leaves are their own positions in `jax.tree.leaves`.

    Whatever a verb does to a structure it does once to this tree of integers; see `Plan`.
    """
    return treedef.unflatten(range(treedef.num_leaves))


def walk(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) for all that lies below an index tree: leaf positions, and what holds no leaf.

    A container whose type has `transparent = True` gives its one leaf its own name.
    """
    if type(node) is int:
        yield name, node
    elif isinstance(node, dict) and node:
        for key in sorted(node, key=lambda key: natural_key(str(key))):
            if key == "":
                raise BadNameError(f"the key '' in {name or 'the root'!r} is empty; give it a name.")
            yield from walk(node[key], f"{name}{SEPARATOR}{key}" if name else str(key))
    else:
        below = children(node)
        if not below:
            yield name, node
        for entry, child in below:
            transparent = getattr(type(node), "transparent", False)
            yield from walk(child, name if transparent else join(name, key_text(entry)))


def structure_of(tree: Any) -> Structure:
    """Name every leaf of a tree.

    Raises:
        BadNameError: where a key is empty, two leaves have one name, or the tree is one bare leaf.
    """
    return _structure_of(jax.tree.structure(tree))


def _structure_of(treedef: PyTreeDef) -> Structure:
    try:
        hash(treedef)
    except TypeError:  # a tree of another library may carry static data that cannot be hashed
        return _read_structure(treedef)
    return _cached_structure(treedef)


def _read_structure(treedef: PyTreeDef) -> Structure:
    names: list[str] = []
    indices: list[int] = []
    leafless: dict[str, Any] = {}
    for name, value in walk(index_tree(treedef)):
        if type(value) is int:
            names.append(name)
            indices.append(value)
        else:
            leafless[name] = value
    position = {name: place for place, name in enumerate(names)}
    if len(position) < len(names):
        _raise_name_clash(treedef, names, indices)
    if "" in position:
        raise BadNameError("the tree is one bare leaf, without a name; put it in a dict: {'weight': leaf}.")
    return Structure(treedef, tuple(names), tuple(indices), position, leafless)


_cached_structure = lru_cache(maxsize=256)(_read_structure)


def _raise_name_clash(treedef: PyTreeDef, names: Sequence[str], indices: Sequence[int]) -> None:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(index_tree(treedef))]
    by_name: dict[str, list[str]] = {}
    for name, index in zip(names, indices, strict=True):
        by_name.setdefault(name, []).append(paths[index])
    faults = [
        f"{name!r} is {' and '.join(found)}; rename one of the keys"
        for name, found in by_name.items()
        if len(found) > 1
    ]
    raise_faults(BadNameError, "two leaves have one name:", faults)


def flatten_named(tree: Any) -> tuple[list[Any], Structure]:
    """Flatten a tree; give its leaves in JAX's order, and its structure.

    >>> leaves, structure = flatten_named({"b": {"weight": 1.0, "bias": 2.0}})
    >>> leaves, structure.names, structure.indices
    ([2.0, 1.0], ('b/weight', 'b/bias'), (1, 0))
    """
    leaves, treedef = jax.tree.flatten(tree)
    return leaves, _structure_of(treedef)


def picker(indices: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Make the function that picks these positions out of a sequence.

    >>> picker([2, 0])("abc"), picker([])("abc")
    (('c', 'a'), ())
    """
    if len(indices) > 1:
        return itemgetter(*indices)
    return lambda values: tuple(values[index] for index in indices)


@dataclass(frozen=True, eq=False)
class Plan:
    """How to build a tree from the leaves of another: made once per structure, from an index tree."""

    pick: Callable[[Sequence[Any]], tuple[Any, ...]]
    treedef: PyTreeDef

    @classmethod
    def of(cls, tree: Any) -> "Plan":
        """Read a plan off an index tree that a verb has restructured."""
        indices, treedef = jax.tree.flatten(tree)
        return cls(picker(indices), treedef)

    def build(self, leaves: Sequence[Any]) -> Any:
        """Build the planned tree from the leaves of the tree that the index tree was made of."""
        return self.treedef.unflatten(self.pick(leaves))


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Build the nested dict of (name, value) pairs.

    Raises:
        BadNameError: listing every name with an empty key, and every name that is also a block.
    """
    faults: list[str] = []
    nested: dict[str, Any] = {}
    blocks = {"": nested}  # every dict made here, by name: a dict among the values is a value
    for name, value in flat.items():
        if not isinstance(name, str) or not all(name.split(SEPARATOR)):
            faults.append(f"{name!r} has an empty key; write 'block/weight'")
            continue
        parent, block = "", nested
        *outer, last = name.split(SEPARATOR)
        for key in outer:
            parent = join(parent, key)
            if parent not in blocks:
                if key in block:
                    faults.append(f"{parent!r} is a parameter, and a block that holds {name!r}")
                    break
                block[key] = blocks[parent] = {}
            block = blocks[parent]
        else:
            if name in blocks:
                faults.append(f"{name!r} is a parameter, and a block that holds {listing(list(blocks[name]))}")
            else:
                block[last] = value
    raise_faults(BadNameError, "these names cannot be nested:", faults)
    return nested
