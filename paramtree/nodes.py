"""Nodes: what stands in a tree for an array that is not there yet.

A node is a small registered pytree below `Node`. The protocol, for the kinds here and for a user's own:

- its leaves are named below the key it stands at; or, with `transparent = True` and one leaf, that leaf
  keeps the key's own name;
- `resolve(lookup)` is a pure method that gives the array (or the block) it stands for, where
  `lookup(name)` gives whatever another name stands for.

>>> import jax, jax.numpy as jnp
>>> @jax.tree_util.register_dataclass
... @dataclass(frozen=True)
... class LowRank(Node):
...     left: jax.Array
...     right: jax.Array
...     def resolve(self, lookup):
...         return self.left @ self.right
>>> params = {"dense0": {"weight": LowRank(jnp.ones((3, 1)), jnp.ones((1, 2)))}}
>>> resolve(params)["dense0"]["weight"].shape
(3, 2)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from paramtree.errors import TieError, did_you_mean
from paramtree.names import SEPARATOR, Structure, index_tree, is_under, join, structure_of, walk

Lookup = Callable[[str], Any]


class Node:
    """Stand in a tree for an array, or a block of arrays; see the module's page for the protocol."""

    transparent: ClassVar[bool] = False

    def resolve(self, lookup: Lookup, /) -> Any:
        """Give what this node stands for; `lookup(name)` gives what another name stands for."""
        raise NotImplementedError(f"{type(self).__name__} has no method resolve(lookup)")


@partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("target", "transpose"))
@dataclass(frozen=True)
class Alias(Node):
    """Say that this key is that key: one parameter, or block, under a second name, stored once.

    An alias has no leaves, so gradients of all uses add up in the one leaf at `target`, an optimiser keeps
    one state for it, and `jit`, donation, `jax.tree.map` and files meet it once.

    Args:
        target: the name, from the root of the tree, of a parameter, a block or another alias.
        transpose: whether this place sees the array with its last two axes exchanged.

    >>> params = {"embed": {"weight": jnp.ones((5, 3))}, "head": {"weight": Alias("embed/weight", transpose=True)}}
    >>> resolve(params)["head"]["weight"].shape
    (3, 5)
    """

    target: str
    transpose: bool = False

    def resolve(self, lookup: Lookup, /) -> Any:
        """Look the target up."""
        found = lookup(self.target)
        if not self.transpose:
            return found
        if isinstance(found, dict) or found.ndim < 2:
            raise TieError(f"{self.target!r} is tied transposed, but is no matrix. Tie it without transpose=True.")
        return jnp.swapaxes(found, -1, -2)

    def __str__(self) -> str:
        return f"{self.target}, transposed" if self.transpose else self.target


@partial(jax.tree_util.register_dataclass, data_fields=("value",), meta_fields=())
@dataclass(frozen=True, eq=False)
class Fixed(Node):
    """Hold a constant, or a running statistic: one leaf, under the key's own name, without a gradient.

    >>> import jax
    >>> jax.grad(lambda p: (resolve(p)["a"] * resolve(p)["b"]).sum())({"a": jnp.ones(2), "b": Fixed(jnp.ones(2))})["b"]
    Fixed(value=Array([0., 0.], dtype=float32))
    """

    transparent: ClassVar[bool] = True
    value: Any

    def resolve(self, lookup: Lookup, /) -> Any:
        """Give the value, with its gradient stopped."""
        del lookup
        return jax.lax.stop_gradient(self.value) if isinstance(self.value, jax.Array) else self.value

    # a predicate (name, leaf) is given the node itself, and asks it what it would ask an array
    @property
    def shape(self) -> tuple[int, ...]:
        """The value's shape."""
        return self.value.shape

    @property
    def dtype(self) -> Any:
        """The value's dtype."""
        return self.value.dtype

    @property
    def ndim(self) -> int:
        """The value's number of axes."""
        return len(self.value.shape)

    @property
    def size(self) -> int:
        """The value's number of elements."""
        return self.value.size


def is_node(value: object) -> bool:
    """Tell whether something in a tree is a node."""
    return isinstance(value, Node)


def is_transparent(value: object) -> bool:
    """Tell whether something in a tree gives its one leaf its own name."""
    return getattr(type(value), "transparent", False)


@lru_cache(maxsize=256)
def has_nodes(structure: Structure) -> bool:
    """Tell whether a structure holds any node."""
    return any(map(is_node, jax.tree.leaves(index_tree(structure.treedef), is_leaf=is_node)))


def resolve(params: Any, /) -> Any:
    """Turn a tree with nodes into plain arrays; a tree without nodes is returned as it is.

    `Module.apply` does this by itself. A tied array appears under each of its names, so the result is for
    reading: do not train or donate it.

    >>> resolve({"a": {"w": 1.0}, "b": Alias("a"), "c": Fixed(2.0)})
    {'a': {'w': 1.0}, 'b': {'w': 1.0}, 'c': 2.0}

    Raises:
        TieError: where an alias leads nowhere, out of this tree, or back to itself.
    """
    return _Resolution(params).expand(params, "") if has_nodes(structure_of(params)) else params


@dataclass
class _Resolution:
    """One walk that resolves a tree.

    Attributes:
        root: the whole tree, which aliases are named from.
        names_only: follow aliases, and leave every other node and every array as it is.
        open: the places whose resolution is under way.
    """

    root: Any
    names_only: bool = False
    open: list[str] = field(default_factory=list)

    def expand(self, node: Any, place: str) -> Any:
        if type(node) is dict:
            return {key: self.expand(child, join(place, key)) for key, child in node.items()}
        if is_node(node):
            return self._resolve(node, place)
        return jax.tree.map(lambda part: self._resolve(part, place) if is_node(part) else part, node, is_leaf=is_node)

    def _resolve(self, node: Node, place: str) -> Any:
        if place in self.open:
            circle = " -> ".join([*self.open[self.open.index(place) :], place])
            raise TieError(f"the tie of {place!r} is a circle: {circle}. Let one of these be an array.")
        self.open.append(place)
        try:
            if not self.names_only:
                return node.resolve(partial(self._lookup, place))
            return self._lookup(place, node.target) if isinstance(node, Alias) else node
        finally:
            self.open.pop()

    def _lookup(self, place: str, target: str) -> Any:
        node, at = self.root, ""
        for key in target.split(SEPARATOR):
            if is_node(node):
                node = self._resolve(node, at)
            if not isinstance(node, dict) or key not in node:
                _raise_dangling(self.root, place, target)
            node, at = node[key], join(at, key)
        # what holds the place cannot be looked up from the place: it would contain itself
        if place.startswith(at + SEPARATOR):
            raise TieError(f"{place!r} is tied to {target!r}, which contains it. Tie it to a parameter or block beside it.")
        return self.expand(node, at)


def _raise_dangling(root: Any, place: str, target: str) -> None:
    raise TieError(
        f"{place!r} is tied to {target!r}, which is not in this tree.{did_you_mean(target, _places(root))} "
        "Aliases are named from the root: pass the whole tree, or pt.untie it before taking a part."
    )


def _places(root: Any) -> list[str]:
    structure = structure_of(root)
    blocks = {name[:end] for name in structure.names for end, char in enumerate(name) if char == SEPARATOR}
    return [*structure.names, *sorted(blocks)]


@lru_cache(maxsize=256)
def tied_names(structure: Structure) -> dict[str, str]:
    """Map every name that exists only through an alias to the name where its parameter lives.

    >>> tied_names(structure_of({"a": {"w": 1, "b": 2}, "c": Alias("a")}))
    {'c/b': 'a/b', 'c/w': 'a/w'}

    Raises:
        TieError: where an alias leads nowhere, out of this tree, or back to itself.
    """
    if not has_nodes(structure):
        return {}
    owner = dict(zip(structure.indices, structure.names, strict=True))
    tree = index_tree(structure.treedef)
    expanded = _Resolution(tree, names_only=True).expand(tree, "")
    found = ((name, owner[index]) for name, index in walk(expanded) if type(index) is int)
    return {name: source for name, source in found if name != source}


def spread_aliases(flat: dict[str, Any]) -> dict[str, Any]:
    """Replace each alias of a block, in a flattened tree, by aliases of all that the block holds.

    Every tie must lead somewhere; see `tied_names`.

    >>> spread_aliases({"a/w": 1, "a/b": 2, "c": Alias("a")})
    {'a/w': 1, 'a/b': 2, 'c/w': Alias(target='a/w', transpose=False), 'c/b': Alias(target='a/b', transpose=False)}
    """
    flat = dict(flat)
    while blocks := {name: node for name, node in flat.items() if isinstance(node, Alias) and node.target not in flat}:
        for place, alias in blocks.items():
            inside = [name for name in flat if is_under(name, alias.target)]
            if inside:  # else the target is itself reached through an alias, which is spread first
                del flat[place]
                flat |= {place + name[len(alias.target) :]: Alias(name) for name in inside}
    return flat


def gather_aliases(tree: dict[str, Any], places: set[str]) -> dict[str, Any]:
    """Replace each block that is nothing but aliases of all that another block holds by one alias of it.

    Args:
        tree: nested dicts.
        places: the names whose aliases may be gathered.

    >>> gather_aliases({"a": {"w": 1}, "c": {"w": Alias("a/w")}}, {"c/w"})
    {'a': {'w': 1}, 'c': Alias(target='a', transpose=False)}
    """

    def gather(node: Any, name: str) -> Any:
        if not isinstance(node, dict) or not node:
            return node
        node = {key: gather(child, join(name, key)) for key, child in node.items()}
        target = _common_target(node)
        if not name or target is None or not all(_may_gather(join(name, key)) for key in node):
            return node
        other = _block_at(tree, target)
        if other is None or set(other) != set(node):
            return node
        gathered.add(name)
        return Alias(target)

    def _may_gather(name: str) -> bool:
        return name in places or name in gathered

    gathered: set[str] = set()
    return gather(tree, "")


def _common_target(block: dict[str, Any]) -> str | None:
    targets: set[str] = set()
    for key, node in block.items():
        if not isinstance(node, Alias) or node.transpose or not node.target.endswith(SEPARATOR + key):
            return None
        targets.add(node.target.removesuffix(SEPARATOR + key))
    return targets.pop() if len(targets) == 1 else None


def _block_at(tree: Any, name: str) -> dict[str, Any] | None:
    for key in name.split(SEPARATOR):
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return tree if isinstance(tree, dict) else None
