"""What a file offers to a tree: its arrays under all their names, and what rules make of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from paramtree.checkpoint.layout import Notes, join_parts, key_specs
from paramtree.checkpoint.rows import Row
from paramtree.checkpoint.stored import Stored
from paramtree.errors import MismatchError, listing
from paramtree.names import structure_of
from paramtree.nodes import follow, tied_names
from paramtree.renaming import Move, find_moves
from paramtree.select import Select, matches

Spec = jax.ShapeDtypeStruct


class Contents(NamedTuple):
    """The arrays of a file under every name that they have there.

    Attributes:
        specs: name -> shape and dtype, of stored arrays and of the places tied to them.
        origin: name -> the stored name, and whether the array is seen transposed.
    """

    specs: dict[str, Spec]
    origin: dict[str, tuple[str, bool]]


def contents_of(stored: Mapping[str, Spec], notes: Notes) -> Contents:
    """List the arrays of a file under every name, the tied ones too.

    Raises:
        ParamTreeError: where its notes are damaged.
    """
    specs = {**stored, **key_specs(stored, notes)}
    origin = {name: (name, False) for name in specs}
    if notes.get("ties"):
        structure = structure_of(join_parts(specs, notes))
        for place in tied_names(structure):
            source, transposed = follow(structure, place)
            origin[place] = (source, transposed)
            specs[place] = turned(specs[source]) if transposed else specs[source]
    return Contents(specs, origin)


def turned(spec: Any) -> Spec:
    """Swap the last two axes of a spec."""
    shape = tuple(spec.shape)
    return jax.ShapeDtypeStruct((*shape[:-2], *shape[:-3:-1]), spec.dtype)


class Offer(NamedTuple):
    """A value that a file has for a name of a tree.

    Attributes:
        place: the name, as the rules give it.
        move: where the value comes from.
        output: which of the move's results it is.
        spec: its shape and dtype.
    """

    place: str
    move: Move
    output: int
    spec: Spec

    @property
    def source(self) -> str:
        """Name the arrays of the file that it is made of."""
        return " + ".join(self.move.sources)

    @property
    def note(self) -> str:
        """Say what is done to the arrays on the way."""
        return ", ".join(map(str, self.move.steps))


def find_offers(
    stored: Stored, contents: Contents, rename: Any, select: Select | None = None
) -> tuple[list[Offer], list[Row]]:
    """Find what the file offers, and the rows of what is settled without the tree: rules, what is left out.

    Raises:
        RuleError: where `rename` is not rules.
    """
    refused = dict.fromkeys(stored.refused)
    moves, faults = find_moves({**contents.specs, **refused}, rename)
    rows = [Row("rule", "", (), None, f"rename: {fault}") for fault in faults]
    offers: list[Offer] = []
    for move in moves:
        bad = [name for name in move.sources if name in refused]
        known = [contents.specs[name] for name in move.sources if name not in refused]
        if not move.targets:
            rows += [Row("left out", "", (name,), contents.specs.get(name)) for name in move.sources]
        elif bad and select is not None and not any(matches(select, target) for target in move.targets):
            rows.append(Row("not selected", "", move.sources, None))
        elif bad:
            note = listing([f"it is {stored.refused[name]}" for name in bad])
            rows.append(Row("refused", "", move.sources, known[0] if known else None, note))
        else:
            try:
                specs = move.specs(contents.specs)
            except MismatchError as error:
                rows.append(Row("shape", "", move.sources, known[0], str(error)))
                continue
            offers += [
                Offer(target, move, output, spec)
                for output, (target, spec) in enumerate(zip(move.targets, specs, strict=True))
            ]
    return offers, rows


def skeleton(stored: Stored, contents: Contents, offers: list[Offer], renamed: bool) -> dict[str, Any]:
    """Build the tree that a file has by itself: specs for leaves, with its ties and fixed marks.

    Raises:
        BadNameError: where the names cannot be nested.
        ParamTreeError: where the notes are damaged.
    """
    if not renamed:
        specs = {name: contents.specs[name] for name in stored.specs}
        return join_parts(specs, stored.notes)
    notes = carry_notes(stored.notes, contents, offers)
    return join_parts(
        {offer.place: offer.spec for offer in offers if offer.place not in notes["ties"]}, notes
    )


def carry_notes(notes: Notes, contents: Contents, offers: list[Offer]) -> Notes:
    """Give a file's notes under new names; a tie that a step would break is dropped, its value offered."""
    whole = {offer.move.sources[0]: offer.place for offer in offers if _is_plain(offer.move)}
    tied = {
        whole[place]: {"target": whole[source], "transpose": transposed}
        for place, (source, transposed) in contents.origin.items()
        if place != source and place in whole and source in whole
    }
    return {
        "ties": tied,
        "fixed": _carried(notes.get("fixed", ()), whole),
        "frozen": _carried(notes.get("frozen", ()), whole),
        "keys": {whole[name]: kind for name, kind in notes.get("keys", {}).items() if name in whole},
    }


def _is_plain(move: Move) -> bool:
    return not move.steps and len(move.sources) == len(move.targets) == 1


def _carried(names: Any, whole: Mapping[str, str]) -> list[str]:
    return [whole[name] for name in names if name in whole]
