"""Nodes: what stands in a tree for an array that is not there yet.

A node is a small registered pytree below `Node`. The protocol, for the kinds here and for a user's own:

- its leaves are named below the key it stands at; or, with `transparent = True` and one leaf, that leaf
  keeps the key's own name;
- `resolve(lookup)` is a pure method that gives the array (or the block) it stands for, where
  `lookup(name)` gives whatever another name stands for. Nodes in a node are resolved before it is.

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
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from paramtree import display
from paramtree.errors import TieError, did_you_mean
from paramtree.names import (
    SEPARATOR,
    Structure,
    blocks_above,
    children,
    index_tree,
    is_dict,
    is_transparent,
    is_under,
    join,
    map_children,
    structure_of,
    untyped_jax,
    walk,
)

Lookup = Callable[[str], Any]

_ABSENT: Any = object()


class Node:
    """Stand in a tree for an array, or a block of arrays; see the module's page for the protocol."""

    transparent: ClassVar[bool] = False

    def resolve(self, lookup: Lookup, /) -> Any:
        """Give what this node stands for; `lookup(name)` gives what another name stands for.

        Raises:
            NotImplementedError: where a kind of node has no such method.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method resolve(lookup)")


@dataclass(frozen=True)
class Alias(Node):
    """Say that this key is that key: one parameter, or block, under a second name, stored once.

    An alias has no leaves, so gradients of all uses add up in the one leaf at `target`, an optimiser keeps
    one state for it, and `jit`, donation, `jax.tree.map` and files meet it once.

    Args:
        target: the name, from the root of the tree, of a parameter, a block or another alias.
        transpose: whether this place sees the array with its last two axes exchanged.

    >>> params = {"embed": {"weight": jnp.ones((5, 3))}}
    >>> params["head"] = {"weight": Alias("embed/weight", transpose=True)}
    >>> resolve(params)["head"]["weight"].shape
    (3, 5)
    """

    target: str
    transpose: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.target, str):
            raise TieError(f"an Alias holds the name where a parameter lives, and not {self.target!r}.")

    def __getitem__(self, key: str) -> Any:
        raise TieError(f"this place is tied to {self}: look there, or use pt.get, pt.bind or pt.resolve.")

    def resolve(self, lookup: Lookup, /) -> Any:
        """Look the target up.

        Raises:
            TieError: where it is to be transposed, and is not a matrix.
        """
        found = lookup(self.target)
        return _transpose(found, self.target) if self.transpose else found

    def __repr__(self) -> str:
        return display.call_text(self)

    def __str__(self) -> str:
        return f"{self.target}, transposed" if self.transpose else self.target


# its own static data, so that JAX neither takes it apart nor makes it anew at every call
jax.tree_util.register_pytree_node(Alias, lambda alias: ((), alias), lambda alias, _: alias)


@partial(jax.tree_util.register_dataclass, data_fields=("value",), meta_fields=())
@dataclass(frozen=True, eq=False)
class Fixed(Node):
    """Hold a constant, or a running statistic: one leaf, under the key's own name, without a gradient.

    An optimiser still sees the leaf; `ties.freeze` says how to keep weight decay from it.

    >>> loss = lambda params: (resolve(params)["a"] * resolve(params)["b"]).sum()
    >>> jax.grad(loss)({"a": jnp.ones(2), "b": Fixed(jnp.ones(2))})["b"]
    Fixed(value=Array([0., 0.], dtype=float32))
    """

    transparent: ClassVar[bool] = True
    value: Any

    def resolve(self, lookup: Lookup, /) -> Any:
        """Give the value, with its gradient stopped."""
        del lookup
        return jax.tree.map(_stop_gradient, self.value)

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


@partial(jax.tree_util.register_dataclass, data_fields=("value",), meta_fields=())
@dataclass(frozen=True, eq=False)
class Frozen(Fixed):
    """Hold a parameter that is not trained for now; `unfreeze` takes it out again."""


def _transpose(matrix: Any, name: str) -> Any:
    if isinstance(matrix, bool | str):
        return matrix  # a mask or label is the same for a transposed place
    if len(getattr(matrix, "shape", ())) < 2:
        raise TieError(f"{name!r} is tied transposed, but is not a matrix. Tie it without transpose=True.")
    if hasattr(matrix, "swapaxes"):
        return matrix.swapaxes(-1, -2)
    return untyped_jax.eval_shape(partial(jnp.swapaxes, axis1=-1, axis2=-2), matrix)


def _stop_gradient(value: Any) -> Any:
    return jax.lax.stop_gradient(value) if isinstance(value, jax.Array) else value


def is_node(value: object) -> bool:
    """Tell whether something in a tree is a node."""
    return isinstance(value, Node)


@lru_cache(maxsize=64)
def has_nodes(structure: Structure) -> bool:
    """Tell whether a structure holds any node."""
    return any(map(is_node, structure.containers))


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


_LONGEST = 1000  # ties followed from one name
_MOST_FOLLOWED = 100_000  # aliases followed in one walk: a few lines of a hostile file can mean billions


class _Resolution:
    """One walk that resolves a tree.

    Args:
        root: the whole tree, which aliases are named from.
        names_only: follow aliases, and leave every other node and every array as it is.
    """

    def __init__(self, root: Any, names_only: bool = False) -> None:
        self.root = root
        self.names_only = names_only
        self.open: list[str] = []  # the places whose resolution is under way
        self.followed = 0

    def expand(self, node: Any, place: str) -> Any:
        if is_dict(node) and type(node) is dict:
            return {key: self.expand(child, join(place, str(key))) for key, child in node.items()}
        if jax.tree_util.all_leaves([node]):
            return node
        inside = "" if is_transparent(node) else SEPARATOR
        node = map_children(lambda key, child: self.expand(child, join(place, inside and key)), node)
        if isinstance(node, Alias) or (is_node(node) and not self.names_only):
            return self._resolve(node, place)
        return node

    def _resolve(self, node: Node, place: str) -> Any:
        if place in self.open:
            _raise_circle(place, self.open)
        self.followed += 1
        if self.followed > _MOST_FOLLOWED:
            raise TieError(
                f"the ties of this tree multiply: after {_MOST_FOLLOWED:,} of them there are more. Blocks "
                "that are tied to blocks of ties double with every level; tie them to what holds the arrays."
            )
        self.open.append(place)
        try:
            if self.names_only and isinstance(node, Alias):
                return self._lookup(place, node.target)
            return node.resolve(partial(self._lookup, place))
        finally:
            self.open.pop()

    def _lookup(self, place: str, target: str) -> Any:
        node, at = self.root, ""
        for key in target.split(SEPARATOR):
            if isinstance(node, Alias):
                node = self._resolve(node, at)
            while is_transparent(node):
                node = children(node)[0][1]
            node, at = _child(node, key), join(at, key)
            if node is _ABSENT:
                _raise_dangling(self.root, place, target)
        # what holds the place cannot be looked up from the place: it would contain itself
        if place.startswith(at + SEPARATOR):
            raise TieError(
                f"{place!r} is tied to {target!r}, which contains it. "
                "Tie it to a parameter or block beside it."
            )
        return self.expand(node, at)


def _child(node: Any, key: str) -> Any:
    if is_dict(node) and key in node:
        return node[key]
    return next((child for found, child in children(node) if found == key), _ABSENT)


def _raise_circle(place: str, met: list[str]) -> None:
    circle = " -> ".join([*met[met.index(place) :], place])
    raise TieError(f"the tie of {place!r} is a circle: {circle}. Let one of these be an array.")


def _raise_dangling(root: Any, place: str, target: str) -> None:
    raise TieError(
        f"{place!r} is tied to {target!r}, which is not in this tree.{did_you_mean(target, places_of(root))} "
        "Aliases are named from the root: pass the whole tree, or pt.untie it before taking a part."
    )


def places_of(root: Any) -> list[str]:
    """List the names of all parameters of a tree, and of all blocks.

    >>> places_of({"a": {"w": 1}})
    ['a/w', 'a']
    """
    structure = structure_of(root)
    blocks = {block for name in structure.names for block in blocks_above(name)}
    return [*structure.names, *sorted(blocks)]


def follow(structure: Structure, name: str) -> tuple[str, bool]:
    """Give the place that a parameter or block lives at, and whether it is seen transposed from here.

    >>> follow(structure_of({"a": {"w": 1}, "c": Alias("a")}), "c/w")
    ('a/w', False)

    Raises:
        TieError: where it leads back to itself.
    """
    transposed, met = False, [name]
    while step := _first_tie(structure, name):
        name, turned = step
        transposed ^= turned
        if name in met:
            _raise_circle(name, met)
        met.append(name)
        if len(met) > _LONGEST:
            raise TieError(f"the tie of {met[0]!r} leads back into itself: {' -> '.join(met[:4])} ...")
    return name, transposed


def _first_tie(structure: Structure, name: str) -> tuple[str, bool] | None:
    """Give where the outermost alias above a name leads, and whether transposed; None where there is none."""
    keys = name.split(SEPARATOR)
    for end in range(1, len(keys) + 1):
        alias = structure.leafless.get(SEPARATOR.join(keys[:end]))
        if isinstance(alias, Alias):
            return join(alias.target, *keys[end:]), alias.transpose
    return None


@lru_cache(maxsize=64)
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
    try:
        expanded = _Resolution(tree, names_only=True).expand(tree, "")
    except (RecursionError, SystemError) as error:  # the second is how JAX reports the first
        raise TieError("the ties of this tree are nested too deeply for Python.") from error
    found = walk(expanded)
    named = zip(found.names, map(owner.__getitem__, found.positions), strict=True)
    return {name: source for name, source in named if name != source}


def whole_ties(structure: Structure) -> dict[str, str]:
    """Map as `tied_names` does, for messages: a tree whose ties are broken has none to tell of.

    >>> whole_ties(structure_of({"c": Alias("a")}))
    {}
    """
    try:
        return tied_names(structure)
    except TieError:
        return {}


def spread_aliases(flat: dict[str, Any]) -> dict[str, Any]:
    """Replace each alias of a block, in a flattened tree, by aliases of all that the block holds.

    Every tie must lead somewhere; see `tied_names`.

    >>> spread_aliases({"a/w": 1, "c": Alias("a")})
    {'a/w': 1, 'c/w': Alias(target='a/w')}
    """
    flat, spread = dict(flat), True
    while spread:  # until no alias is left whose block was itself reached through an alias
        spread = False
        for place, alias in [(name, node) for name, node in flat.items() if isinstance(node, Alias)]:
            if alias.target in flat:
                continue
            inside = [name for name in flat if is_under(name, alias.target)]
            if inside:
                del flat[place]
                flat |= {place + name[len(alias.target) :]: Alias(name) for name in inside}
                spread = True
    return flat


def gather_aliases(tree: dict[str, Any], places: set[str], blocks: set[str] | None = None) -> dict[str, Any]:
    """Replace each block that is nothing but aliases of all that another block holds by one alias of it.

    Args:
        tree: nested dicts.
        places: the names whose aliases may be gathered.
        blocks: the names that may be gathered up to; as far as can be, if left out.

    >>> gather_aliases({"a": {"w": 1}, "c": {"w": Alias("a/w")}}, {"c/w"})
    {'a': {'w': 1}, 'c': Alias(target='a')}
    """

    def gather(node: Any, name: str, inside: bool) -> Any:
        if not is_dict(node) or not node:
            return node
        inside = inside or blocks is None or name in blocks
        node = {key: gather(child, join(name, key), inside) for key, child in node.items()}
        target = _common_target(node)
        if not name or not inside or target is None or not all(_may_gather(join(name, key)) for key in node):
            return node
        other = block_at(tree, target)
        if other is None or set(other) != set(node):
            return node
        gathered.add(name)
        return Alias(target)

    def _may_gather(name: str) -> bool:
        return name in places or name in gathered

    gathered: set[str] = set()
    return gather(tree, "", False) if places else tree


def _common_target(block: dict[str, Any]) -> str | None:
    targets: set[str] = set()
    for key, node in block.items():
        if not isinstance(node, Alias) or node.transpose or not node.target.endswith(SEPARATOR + key):
            return None
        targets.add(node.target.removesuffix(SEPARATOR + key))
    return targets.pop() if len(targets) == 1 else None


def block_at(tree: Any, name: str) -> dict[str, Any] | None:
    """Give the dict at a place of nested dicts; None where there is none, as with arrays, lists and nodes."""
    for key in name.split(SEPARATOR):
        if not is_dict(tree) or key not in tree:
            return None
        tree = tree[key]
    return tree if is_dict(tree) else None
