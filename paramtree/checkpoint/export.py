"""Give the arrays of a tree the names, and the forms, that another program expects in a file."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from paramtree.checkpoint.contents import Contents, Offer, carry_notes, contents_of
from paramtree.checkpoint.layout import Leaves, Notes, host_array
from paramtree.checkpoint.stored import Array
from paramtree.errors import BadNameError, MismatchError, RuleError, raise_faults
from paramtree.renaming import Move, find_moves


class Pending:
    """An array that is made when it is written, so that converting a tree takes the memory of one leaf."""

    def __init__(self, spec: jax.ShapeDtypeStruct, make: Callable[[], Array]) -> None:
        self.shape = spec.shape
        self.dtype = spec.dtype
        self._make = make

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Make the array; NumPy calls this."""
        return np.array(self._make(), dtype, copy=copy)


def rename_leaves(leaves: Leaves, notes: Notes, rename: Any) -> tuple[Leaves, Notes]:
    """Rename the arrays of a tree by rules, with their steps; ties are kept where the rules keep them whole.

    Raises:
        RuleError: listing every fault of the rules.
        BadNameError: listing every name that two arrays would have.
        MismatchError: where steps do not fit the arrays, or are for keys of `jax.random`.
    """
    specs = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    contents = contents_of(specs, notes)
    moves, faults = find_moves(contents.specs, rename)
    raise_faults(RuleError, "save: the rules of rename= do not fit the tree:", faults)
    offers = [
        Offer(target, move, output, spec)
        for move in moves
        if move.targets
        for output, (target, spec) in enumerate(zip(move.targets, move.specs(contents.specs), strict=True))
    ]
    carried = carry_notes(notes, contents, offers)
    turned = [
        f"{offer.place} would be the transpose of {name}"
        for offer in offers
        for name, transposed in (contents.origin[each] for each in offer.move.sources)
        if transposed and name in notes["keys"] and offer.place not in carried["ties"]
    ]
    raise_faults(MismatchError, "save: keys of jax.random can be renamed, and not converted:", turned)
    renamed: Leaves = {}
    twice: list[str] = []
    placed: set[str] = set()
    for offer in offers:
        if offer.place in placed:
            twice.append(f"{offer.place} is made of {offer.source}, and of another before")
        placed.add(offer.place)
        if offer.place in carried["ties"]:
            continue
        renamed[offer.place] = _leaf_of(leaves, contents, offer)
    raise_faults(BadNameError, "save: two arrays would have one name in the file:", twice)
    return renamed, carried


def _leaf_of(leaves: Leaves, contents: Contents, offer: Offer) -> Any:
    sources = [contents.origin[name] for name in offer.move.sources]
    if not offer.move.steps and not sources[0][1]:
        return leaves[sources[0][0]]
    return Pending(offer.spec, lambda: _values(leaves, sources, offer.move)[offer.output])


def _values(leaves: Leaves, sources: Sequence[tuple[str, bool]], move: Move) -> list[Array]:
    arrays = [
        host_array(leaves[name]).swapaxes(-1, -2) if transposed else host_array(leaves[name])
        for name, transposed in sources
    ]
    return move.apply(arrays)
