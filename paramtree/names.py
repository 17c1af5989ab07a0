"""From a tree to the names of its leaves, once per tree structure.

A *name* is a leaf's path: its keys joined with `/`. Names depend only on the structure, so they are built
once for each `PyTreeDef` and kept in a bounded cache: a warm look-up costs a flatten and a hash.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, TypeGuard

import jax

from paramtree.errors import BadNameError, listing, raise_faults

SEPARATOR = "/"

untyped_jax: Any = jax  # seen without its types: jaxlib gives none for treedefs, key paths and what is traced

_LEADING = ("weight", "kernel", "gamma", "scale")  # a weight is listed before its bias, as models print it
_KEPT_KEYS = 1000  # of a dict whose order is kept; a flat tree of a million would take as much memory again

TreeDef = Any  # a jax.tree_util.PyTreeDef


@dataclass(frozen=True, eq=False, repr=False)
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
        containers: every container that is no dict, its leaves replaced by their positions; empty dicts too.
        odd_keys: keys of its dicts that cannot stand in a name.
    """

    treedef: TreeDef
    names: tuple[str, ...]
    indices: tuple[int, ...]
    position: dict[str, int]
    leafless: dict[str, Any]
    containers: tuple[Any, ...]
    odd_keys: tuple[Any, ...]


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


def blocks_above(name: str) -> list[str]:
    """List the blocks that a name lies in, the outermost first.

    >>> blocks_above("encoder/layer2/weight")
    ['encoder', 'encoder/layer2']
    """
    return [name[:end] for end, char in enumerate(name) if char == SEPARATOR]


@lru_cache(maxsize=65_536)
def natural_key(key: str) -> tuple[Any, ...]:
    """Give the sort key that puts `layer2` before `layer10`, and `weight` before its bias.

    >>> sorted(["layer10", "bias", "layer2", "weight"], key=natural_key)
    ['weight', 'bias', 'layer2', 'layer10']
    """
    return key not in _LEADING, [_natural(part) for part in re.split(r"(\d+)", key)], key


def _natural(part: str) -> Any:
    if not part.isdecimal():
        return part
    digits = part.lstrip("0")
    return len(digits), digits  # in the order of the numbers, of which Python refuses to read very long ones


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
    """Say why a key cannot stand in a name; an empty text where it can.

    >>> key_fault("dense0"), key_fault("")
    ('', 'is empty; give it a name')
    """
    if not isinstance(key, str):
        return f"is of type {type(key).__name__}; keys are strings, such as {str(key)!r}"
    if not key:
        return "is empty; give it a name"
    if SEPARATOR in key:
        instead = key.replace(SEPARATOR, "_")
        return f"holds a {SEPARATOR!r}, which separates keys; nest dicts instead, or write {instead!r}"
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


def children(node: Any) -> list[tuple[str, Any]]:
    """List the (key, child) pairs one level below a node, in JAX's order; a leaf has none.

    >>> children([5, {"a": 6}]), children(5)
    ([('0', 5), ('1', {'a': 6})], [])
    """
    pairs, _ = _flatten_level(node)
    return [(key_text(path[0]), child) for path, child in pairs if path]


def map_children(change: Callable[[str, Any], Any], node: Any) -> Any:
    """Rebuild a node with `change(key, child)` for each child one level below; a leaf stays as it is.

    >>> map_children(lambda key, child: (key, child), [5, {"a": 6}])
    [('0', 5), ('1', {'a': 6})]
    """
    pairs, treedef = _flatten_level(node)
    if not all(path for path, _ in pairs):
        return node
    return treedef.unflatten([change(key_text(path[0]), child) for path, child in pairs])


def _flatten_level(node: Any) -> tuple[list[tuple[Any, Any]], TreeDef]:
    def is_below(part: Any) -> bool:
        return part is not node

    return untyped_jax.tree_util.tree_flatten_with_path(node, is_leaf=is_below)


def index_tree(treedef: TreeDef) -> Any:
    """Build the tree of this structure whose leaves are their own positions in `jax.tree.leaves`.

    Whatever a verb does to a structure it does once to this tree of integers; see `Plan`.
    """
    return treedef.unflatten(range(treedef.num_leaves))


class Walked(NamedTuple):
    """What lies below an index tree, in natural order.

    Attributes:
        names: of the leaves.
        positions: theirs, beside the names.
        leafless: name to value, of all that holds no leaf.
        containers: all that is not a dict and may hold leaves, and empty dicts.
        odd_keys: keys of dicts that cannot stand in a name.
    """

    names: list[str]
    positions: list[int]
    leafless: dict[str, Any]
    containers: list[Any]
    odd_keys: list[Any]


def walk(node: Any) -> Walked:
    """Name all that lies below an index tree.

    A container whose type has `transparent = True` gives its one leaf its own name.

    Raises:
        BadNameError: where a key is empty.
    """
    found = Walked([], [], {}, [], [])
    _walk_into(found, node, "")
    return found


def _walk_into(found: Walked, node: Any, name: str) -> None:
    if type(node) is int:
        found.names.append(name)
        found.positions.append(node)
    elif is_dict(node) and node:
        if "" in node:
            raise BadNameError(f"the key '' in {name or 'the root'!r} is empty; give it a name.")
        lead = f"{name}{SEPARATOR}" if name else ""
        keys = in_order(node)
        found.odd_keys.extend(_odd_keys(keys) if len(keys) <= _KEPT_KEYS else filter(key_fault, keys))
        for key in keys:
            child = node[key]
            if type(child) is int:  # most are: a call for each would take half of the time
                found.names.append(f"{lead}{key}")
                found.positions.append(child)
            else:
                _walk_into(found, child, f"{lead}{key}")
    else:
        found.containers.append(node)
        below = children(node)
        if not below:
            found.leafless[name] = node
        transparent = is_transparent(node)
        for key, child in sorted(below, key=lambda pair: natural_key(pair[0])):
            _walk_into(found, child, name if transparent else join(name, key))


def in_order(node: dict[Any, Any]) -> tuple[Any, ...]:
    """List the keys of a dict in natural order; the blocks of a net have the same few again and again.

    >>> in_order({"layer10": 0, "layer2": 1})
    ('layer2', 'layer10')
    """
    if isinstance(next(iter(node), None), str) and len(node) <= _KEPT_KEYS:
        return _ordered(tuple(node))
    return _by_name(node)


@lru_cache(maxsize=4096)
def _ordered(keys: tuple[str, ...]) -> tuple[str, ...]:
    return _by_name(keys)


@lru_cache(maxsize=4096)
def _odd_keys(keys: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(filter(key_fault, keys))


def _by_name(keys: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(keys, key=lambda key: natural_name_key(str(key))))  # an OrderedDict may mix types


def is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    """Tell whether something in a tree is a dict."""
    return isinstance(value, dict)


def is_transparent(value: object) -> bool:
    """Tell whether something in a tree gives its one leaf its own name."""
    return getattr(type(value), "transparent", False) is True  # a field of that name is something else


def structure_of(tree: Any) -> Structure:
    """Name every leaf of a tree.

    Raises:
        BadNameError: where a key is empty, two leaves have one name, the keys of a dict cannot be sorted,
            or the tree is one bare leaf.
    """
    return flatten_named(tree)[1]


def _structure_of(treedef: TreeDef) -> Structure:
    try:
        return _cached_structure(treedef)
    except BadNameError:
        raise
    except ValueError:  # a tree of another library may carry static data that cannot be compared: arrays
        return _read_structure(treedef)


def _read_structure(treedef: TreeDef) -> Structure:
    names, indices, leafless, containers, odd_keys = walk(index_tree(treedef))
    if len(names) != treedef.num_leaves:
        raise BadNameError(
            "a container of this tree changes its children when JAX rebuilds it, as with jnp.asarray in a "
            "__post_init__, so its leaves cannot be named. Let it keep its children as they are."
        )
    position = {name: place for place, name in enumerate(names)}
    if len(position) < len(names):
        _raise_name_clash(treedef, names, indices)
    if "" in position:
        raise BadNameError("the tree is one bare leaf, without a name; put it in a dict: {'weight': leaf}.")
    return Structure(
        treedef, tuple(names), tuple(indices), position, leafless, tuple(containers), tuple(odd_keys)
    )


_cached_structure = lru_cache(maxsize=64)(_read_structure)


def _raise_name_clash(treedef: TreeDef, names: Sequence[str], indices: Sequence[int]) -> None:
    with_paths = untyped_jax.tree_util.tree_leaves_with_path(index_tree(treedef))
    paths = [untyped_jax.tree_util.keystr(path) for path, _ in with_paths]
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

    Raises:
        BadNameError: as `structure_of` does, and for what is not a tree.
    """
    leaves, treedef = flatten_tree(tree)
    if tree is None or (len(leaves) == 1 and leaves[0] is tree and not hasattr(tree, "shape")):
        raise BadNameError(
            f"{type(tree).__name__} is not a tree of parameters. Pass the nested dict that init returned."
        )
    return leaves, _structure_of(treedef)


def flatten_tree(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> tuple[list[Any], TreeDef]:
    """Flatten a tree as `jax.tree.flatten` does.

    >>> flatten_tree({"b": 1.0, "a": 2.0})[0]
    [2.0, 1.0]

    Raises:
        BadNameError: where JAX cannot flatten it: the keys of a dict cannot be sorted, or it is too deep.
    """
    try:
        return untyped_jax.tree_util.tree_flatten(tree, is_leaf)
    except ValueError as error:
        raise BadNameError(f"JAX cannot flatten this tree: {error} Make all keys strings.") from error
    except (RecursionError, SystemError) as error:  # the second is how JAX reports the first
        raise BadNameError("this tree is nested too deeply for JAX; put its blocks side by side.") from error


Picker = Callable[[Sequence[Any]], tuple[Any, ...]]


def picker(indices: Sequence[int]) -> Picker:
    """Make the function that picks these positions out of a sequence.

    >>> picker([2, 0])("abc"), picker([])("abc")
    (('c', 'a'), ())
    """
    if len(indices) > 1:
        return itemgetter(*indices)
    return lambda values: tuple(values[index] for index in indices)


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """How to build a tree from the leaves of another: made once per structure, from an index tree."""

    pick: Picker
    treedef: TreeDef

    @classmethod
    def of(cls, tree: Any) -> "Plan":
        """Read a plan off an index tree that a verb has restructured."""
        indices, treedef = flatten_tree(tree)
        return cls(picker(indices), treedef)

    def build(self, leaves: Sequence[Any]) -> Any:
        """Build the planned tree from the leaves of the tree that the index tree was made of."""
        return self.treedef.unflatten(self.pick(leaves))


def nest(flat: Mapping[Any, Any]) -> dict[str, Any]:
    """Build the nested dict of (name, value) pairs.

    >>> nest({"a/weight": 1.0, "b/c/bias": 2.0})
    {'a': {'weight': 1.0}, 'b': {'c': {'bias': 2.0}}}

    Raises:
        BadNameError: listing every name that is not a text or has an empty key, and every name that is also
            a block.
    """
    faults: list[str] = []
    blocks: dict[str, dict[str, Any]] = {"": {}}  # all made here, by name: a dict among the values is a value
    for name, value in flat.items():
        if not isinstance(name, str):
            faults.append(f"{name!r} is of type {type(name).__name__}; names are strings")
            continue
        parent, separator, key = name.rpartition(SEPARATOR)
        if not key or (separator and not all(parent.split(SEPARATOR))):
            faults.append(f"{name!r} has an empty key; write 'block/weight'")
        elif name in blocks:
            inside = listing([repr(join(name, key)) for key in blocks[name]])
            faults.append(f"{name!r} is a parameter, and a block that holds {inside}")
        elif parent in blocks or _open_blocks(blocks, name, faults):
            blocks[parent][key] = value
    raise_faults(BadNameError, "these names cannot be nested:", faults)
    return blocks[""]


def _open_blocks(blocks: dict[str, dict[str, Any]], name: str, faults: list[str]) -> bool:
    """Make the blocks that a name lies in, and tell whether none of them is a parameter already."""
    missing: list[tuple[str, str]] = []
    block = name.rpartition(SEPARATOR)[0]
    while block not in blocks:
        outer, _, key = block.rpartition(SEPARATOR)
        missing.append((block, key))
        block = outer
    for inner, key in reversed(missing):
        if key in blocks[block]:
            faults.append(f"{inner!r} is a parameter, and a block that holds {name!r}")
            return False
        blocks[inner] = blocks[block][key] = {}
        block = inner
    return True
