"""Fit what a file holds into a known tree: every name on either side is accounted for, or is an error."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paramtree.errors import HINTED, MismatchError, did_you_mean, raise_faults
from paramtree.names import Structure, flatten_named, structure_of
from paramtree.nodes import follow, resolve, tied_names
from paramtree.tree import flat_leaves, value_faults

Offers = dict[str, list[tuple[str, Any]]]  # for each parameter, the names in the file that give its value

_LISTED = 20  # faults of one kind that are listed


def fit(tree: dict[str, Any], like: Any, rename: Mapping[str, str]) -> Any:
    """Give a tree like another, with the values of a file's tree.

    A tied parameter may stand in the file under one of its names, or under several with one value.

    >>> from paramtree.nodes import Alias
    >>> like = {"a": {"w": np.ones(1)}, "b": Alias("a")}
    >>> fit({"1.w": np.zeros(1)}, like, {"1.w": "b/w"})
    {'a': {'w': array([0.])}, 'b': Alias(target='a', transpose=False)}

    Raises:
        MismatchError: listing all that is missing, left over, of another shape or dtype, or there twice.
        TieError: where a tie of `like` leads nowhere.
    """
    leaves, structure = flatten_named(like)
    tied_names(structure)  # raises where a tie leads nowhere
    offers, left = _offers(tree, structure, rename)
    missing = [name for name in structure.names if name not in offers]
    faults = _cut([f"{name} is missing.{_near(name, left, at)}" for at, name in enumerate(missing)])
    faults += _cut([f"{name} is left over.{_near(name, missing, at)}" for at, name in enumerate(left)])
    used: dict[int, Any] = {}
    for name, index in zip(structure.names, structure.indices, strict=True):
        for other, value in offers.get(name, ()):
            fitting = value_faults(name, leaves[index], value)
            if not fitting and not _same_bits(value, offers[name][0][1]):
                fitting = [f"{name} is both {offers[name][0][0]} and {other}, and they differ"]
            faults += fitting
        leaves[index] = _own(offers[name][0][1], used) if name in offers else leaves[index]
    raise_faults(MismatchError, "load: the file does not fit the tree:", faults)
    return structure.treedef.unflatten(leaves)


def _offers(tree: Any, structure: Structure, rename: Mapping[str, str]) -> tuple[Offers, list[str]]:
    offers: Offers = {}
    left: list[str] = []
    stored = structure_of(tree).position
    for name, value in flat_leaves(resolve(tree)).items():
        source, transposed = follow(structure, rename.get(name, name))
        if source in structure.position:
            offers.setdefault(source, []).append((name, value.swapaxes(-1, -2) if transposed else value))
        elif name in stored:  # a name that the file itself ties to another is one more, not all there is
            left.append(name)
    return offers, left


def _own(value: Any, used: dict[int, Any]) -> Any:
    """Give an array that no other leaf has: two of one buffer cannot be donated."""
    if id(value) in used:
        return value.copy()
    used[id(value)] = value
    return value


def _near(name: str, others: Sequence[str], at: int) -> str:
    return did_you_mean(name, others) if at < HINTED else ""


def _cut(faults: list[str]) -> list[str]:
    more = len(faults) - _LISTED
    return faults if more <= 0 else [*faults[:_LISTED], f"... and {more} more"]


def _same_bits(one: Any, other: Any) -> bool:
    return one is other or np.asarray(one).tobytes() == np.asarray(other).tobytes()
