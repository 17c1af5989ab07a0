"""What a file offers to a tree: its arrays under all their names, and what rules make of them."""

from collections.abc import Container, Mapping
from typing import Any, NamedTuple

import jax

from paramtree.checkpoint.layout import Notes, join_parts, key_specs
from paramtree.checkpoint.rows import Row
from paramtree.checkpoint.stored import Stored
from paramtree.errors import BadNameError, MismatchError, listing
from paramtree.names import blocks_above, structure_of
from paramtree.nodes import follow, tied_names
from paramtree.renaming import Move, find_moves
from paramtree.select import Select, apply_select, depends_on_leaves, matches

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
    if any(notes.get(kind) for kind in ("ties", "fixed", "frozen", "empty")):
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
    names = {target for move in moves for target in move.targets}
    for move in moves:
        bad = [name for name in move.sources if name in refused]
        known = [contents.specs[name] for name in move.sources if name not in refused]
        if not move.targets:
            rows += [Row("left out", "", (name,), contents.specs.get(name)) for name in move.sources]
        elif bad and _is_outside(select, move, names):
            rows.append(Row("not selected", "", move.sources, None))
        elif bad:
            note = listing([f"it is {stored.refused[name]}" for name in bad])
            rows.append(Row("refused", "", move.sources, known[0] if known else None, note))
        else:
            try:
                specs = move.specs(contents.specs)
            except MismatchError as error:
                if _is_outside(select, move, names):
                    rows.append(Row("not selected", "", move.sources, known[0]))
                    continue
                rows.append(Row("shape", "", move.sources, known[0], str(error)))
                continue
            offers += [
                Offer(target, move, output, spec)
                for output, (target, spec) in enumerate(zip(move.targets, specs, strict=True))
            ]
    return offers, rows


def _is_outside(select: Select | None, move: Move, names: Container[str]) -> bool:
    """Tell whether a select leaves out all that a move gives; a predicate would have to see the values."""
    if select is None or depends_on_leaves(select):
        return False
    return not any(matches(select, target, names=names) for target in move.targets)


def skeleton(
    stored: Stored, contents: Contents, offers: list[Offer], renamed: bool, select: Select | None = None
) -> dict[str, Any]:
    """Build the tree that a file has by itself: specs for leaves, with its ties and fixed marks.

    Where not all names can be nested, it is the tree of those that are selected.

    Raises:
        BadNameError: where the names cannot be nested.
        NoMatchError: where the select hits none of such names.
        ParamTreeError: where the notes are damaged.
    """
    if renamed:
        notes = carry_notes(stored.notes, contents, offers)
        specs = {offer.place: offer.spec for offer in offers if offer.place not in notes["ties"]}
    else:
        notes, specs = stored.notes, {name: contents.specs[name] for name in stored.specs}
    try:
        return join_parts(specs, notes)
    except BadNameError:
        if select is None:
            raise
    found = apply_select(specs, select)
    chosen = {found.structure.names[place] for place in found.places}
    return join_parts({name: specs[name] for name in specs if name in chosen}, _part_of(notes, chosen))


def _part_of(notes: Notes, chosen: set[str]) -> Notes:
    marks = {kind: [name for name in notes.get(kind, ()) if name in chosen] for kind in ("fixed", "frozen")}
    ties = {place: tie for place, tie in notes.get("ties", {}).items() if tie["target"] in chosen}
    return {**marks, "ties": ties}


def carry_notes(notes: Notes, contents: Contents, offers: list[Offer]) -> Notes:
    """Give a file's notes under new names; a tie that a step would break is dropped, its value offered."""
    whole = {offer.move.sources[0]: offer.place for offer in offers if _is_plain(offer.move)}
    tied = {
        whole[place]: {"target": whole[source], "transpose": transposed}
        for place, (source, transposed) in contents.origin.items()
        if place != source and place in whole and source in whole and whole[place] != whole[source]
    }
    made_of = {
        offer.place: {contents.origin[name][0] for name in offer.move.sources}
        for offer in offers
        if offer.place not in tied
    }
    fixed, frozen, keys = set(notes.get("fixed", ())), set(notes.get("frozen", ())), notes.get("keys", {})
    taken = {block for offer in offers for block in (*blocks_above(offer.place), offer.place)}
    return {
        "ties": tied,
        "fixed": [place for place, sources in made_of.items() if sources <= fixed],
        "frozen": [place for place, sources in made_of.items() if sources <= frozen],
        "keys": {place: keys[name] for place, names in made_of.items() for name in names if name in keys},
        "empty": [name for name in notes.get("empty", ()) if taken.isdisjoint((*blocks_above(name), name))],
    }


def _is_plain(move: Move) -> bool:
    return not move.steps and len(move.sources) == len(move.targets) == 1
