"""Parts of a tree, packed or not: what an optimiser is given, and how its results are put back.

A part keeps the structure of the tree, with holes (None) where its other leaves were; `taken` gives the flat
dict of some names. Both work alike on nested dicts, on other pytrees and on what `fuse` has packed.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import jax

from paramtree.names import Structure, TreeDef, flatten_named, structure_of, untyped_jax
from paramtree.train.fused import Fused, is_fused, pack
from paramtree.tree import flat_leaves


def structure_below(tree: Any) -> Structure:
    """Name the leaves of a tree; of a packed one, those of what it packs."""
    if is_fused(tree):
        return structure_of(tree.layout.treedef.unflatten(range(len(tree.layout.slots))))
    return structure_of(tree)


def leaves_below(tree: Any) -> list[Any]:
    """List the leaves of a tree in JAX's order; of a packed one, those of what it packs."""
    return tree.leaves() if is_fused(tree) else jax.tree.leaves(tree)


def named_below(tree: Any) -> dict[str, Any]:
    """Map the names of a tree, packed or not, to its leaves, in JAX's order."""
    structure = structure_below(tree)
    by_index = dict(zip(structure.indices, structure.names, strict=True))
    return {by_index[index]: leaf for index, leaf in enumerate(leaves_below(tree))}


def abstract(tree: Any) -> Any:
    """Give a packed tree unpacked, with the shapes and dtypes of its leaves alone; another as it is."""
    return untyped_jax.eval_shape(Fused.tree, tree) if is_fused(tree) else tree


def part_of(tree: Any, names: Collection[str]) -> Any:
    """Give the tree with holes wherever a leaf is not one of these.

    >>> part_of({"a": 1.0, "b": {"c": 2.0}}, {"b/c"})
    {'a': None, 'b': {'c': 2.0}}
    """
    structure = structure_below(tree)
    indices, treedef = _holes(structure, frozenset(names))
    if is_fused(tree):
        return tree.restricted(indices, treedef)
    leaves = jax.tree.leaves(tree)
    return treedef.unflatten([leaves[index] for index in indices])


@lru_cache(maxsize=64)
def _holes(structure: Structure, names: frozenset[str]) -> tuple[tuple[int, ...], TreeDef]:
    kept = sorted(i for name, i in zip(structure.names, structure.indices, strict=True) if name in names)
    keeping = set(kept)
    numbered = [index if index in keeping else None for index in range(len(structure.names))]
    return tuple(kept), untyped_jax.tree.structure(structure.treedef.unflatten(numbered))


def filled(part: Any, leaves: Sequence[Any]) -> Any:
    """Build a part like another of new leaves, given in JAX's order."""
    if is_fused(part):
        return pack(part.layout, leaves)
    return untyped_jax.tree.structure(part).unflatten(leaves)


def taken(tree: Any, names: Sequence[str]) -> Any:
    """Give some leaves as a flat dict by name, packed where the tree is.

    >>> taken({"a": 1.0, "b": {"c": 2.0}}, ["b/c"])
    {'b/c': 2.0}

    Raises:
        MismatchError: where a buffer of a packed tree holds some of these leaves, and others.
    """
    names = sorted(names)  # as JAX sorts the keys of a dict
    structure = structure_below(tree)
    indices = [structure.indices[structure.position[name]] for name in names]
    if is_fused(tree):
        return tree.restricted(indices, untyped_jax.tree.structure(dict.fromkeys(names, 0)))
    leaves = jax.tree.leaves(tree)
    return {name: leaves[index] for name, index in zip(names, indices, strict=True)}


def overlaid(tree: Any, parts: Sequence[Any]) -> Any:
    """Return the tree with parts of it, as `taken` or `part_of` give them, in place of what it had.

    >>> overlaid({"a": 1.0, "b": {"c": 2.0}}, [{"b/c": 5.0}])
    {'a': 1.0, 'b': {'c': 5.0}}
    """
    if is_fused(tree):
        for part in parts:
            tree = tree.overlaid(part)
        return tree
    leaves, structure = flatten_named(tree)
    for part in parts:
        for name, leaf in flat_leaves(part).items():
            leaves[structure.indices[structure.position[name]]] = leaf
    return structure.treedef.unflatten(leaves)
