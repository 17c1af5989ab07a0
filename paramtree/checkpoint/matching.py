"""Put what a file offers beside the names of a tree: one row for each, and where its value goes."""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.contents import Contents, Offer, turned
from paramtree.checkpoint.fill import Fill, Use
from paramtree.checkpoint.rows import Row, spec_text
from paramtree.checkpoint.stored import Stored
from paramtree.checkpoint.tensors import is_tensor, tensor_spec
from paramtree.names import SEPARATOR, flatten_named, natural_name_key
from paramtree.nodes import follow, tied_names
from paramtree.renaming import Move
from paramtree.select import Rules, Select, held_leaves, match_rules, matches, parse_rules
from paramtree.tree import cast_fault, check_cast_rules, is_array_like


def wanted_spec(leaf: Any) -> Any:
    """Give the shape and dtype that a leaf of `like` asks for; None for what is no array."""
    if is_tensor(leaf):
        return tensor_spec(leaf)
    if is_array_like(leaf):
        return leaf
    return np.asarray(leaf) if isinstance(leaf, bool | int | float | complex) else None


class Matching:
    """Puts the offers of a file beside the names of a tree."""

    def __init__(self, tree: Any, chosen: set[str], contents: Contents, filled: bool) -> None:
        self.leaves, self.structure = flatten_named(tree)
        self.held = held_leaves(tree)
        self.tied = tied_names(self.structure)  # raises where a tie leads nowhere
        self.chosen = chosen
        self.contents = contents
        self.filled = filled
        self.uses: dict[Move, list[Use]] = {}

    def fill(self, stored: Stored, model: Any) -> Fill:
        """Give what it takes to read the values."""
        return Fill(
            stored, self.contents, self.leaves, self.structure, model, frozenset(self.chosen), self.uses
        )

    def rows(self, offers: Sequence[Offer], select: Select | None, cast: Rules | None) -> list[Row]:
        """Make the rows of all parameters, and note which values are used where."""
        by_name: dict[str, list[tuple[Offer, bool]]] = {}
        rest: list[Row] = []
        spare: list[Offer] = []
        for offer in offers:
            source, transposed = follow(self.structure, offer.place)
            if source in self.structure.position:
                by_name.setdefault(source, []).append((offer, transposed))
            else:
                spare.append(offer)
        self.used = {
            self.contents.origin[each][0]
            for found in by_name.values()
            for offer, _ in found
            for each in offer.move.sources
        }
        rest += [self._spare(offer, select) for offer in spare]
        dtypes, rule_rows = self._dtypes(cast)
        rows: list[Row] = []
        for name, index in zip(self.structure.names, self.structure.indices, strict=True):
            wanted = wanted_spec(self.leaves[index])
            if name not in self.chosen:
                sources = tuple(each for offer, _ in by_name.get(name, ()) for each in offer.move.sources)
                rows.append(Row("not selected", name, sources, wanted, "" if sources else "not in the file"))
            elif wanted is not None:
                rows += self._rows_of(name, wanted, by_name.get(name, []), dtypes.get(name))
            else:
                note = f"{name} is no array in `like`"
                rows += [
                    Row("unexpected", "", offer.move.sources, offer.spec, note)
                    for offer, _ in by_name.get(name, ())
                ]
        rest.sort(key=lambda row: natural_name_key(row.sources[0].replace(".", SEPARATOR)))
        return [*rows, *self._tied_rows(), *rest, *rule_rows]

    def _spare(self, offer: Offer, select: Select | None) -> Row:
        """Make the row of what the tree has no place for."""
        place, move = offer.place, offer.move
        stored, _ = self.contents.origin[move.sources[0]]
        plain = len(move.sources) == 1 and not move.steps
        if (
            plain and stored != move.sources[0] and stored in self.used
        ):  # one name more of an array that may be used under another
            return Row(
                "tied", "", move.sources, offer.spec, f"to {stored} in the file; the tree has one of them"
            )
        if not self.filled or (
            select is not None and not matches(select, place, offer.spec, self.structure.position)
        ):
            return Row("not selected", "", move.sources, offer.spec, "only in the file")
        note = f"as {place}" if (place,) != move.sources else ""
        return Row("unexpected", "", move.sources, offer.spec, note)

    def _dtypes(self, cast: Rules | None) -> tuple[dict[str, Any], list[Row]]:
        """Give the dtype that rules say for a name, and the rows of the rules' faults."""
        if cast is None:
            return {}, []
        check_cast_rules(parse_rules(cast))
        named = zip(self.structure.names, self.structure.indices, strict=True)
        specs = {
            name: jax.tree.map(wanted_spec, self.held[index]) for name, index in named if name in self.chosen
        }
        _, structure, dtypes, faults = match_rules(specs, cast, default=None)
        given = {
            name: jnp.dtype(dtype)
            for name, dtype in zip(structure.names, dtypes, strict=True)
            if dtype is not None
        }
        return given, [Row("rule", "", (), None, f"cast: {fault}") for fault in faults]

    def _rows_of(self, name: str, wanted: Any, offers: Sequence[tuple[Offer, bool]], dtype: Any) -> list[Row]:
        if not offers:
            return [Row("missing", name, (), wanted)]
        rows: list[Row] = []
        places: dict[str, Offer] = {}
        for offer, transposed in self._distinct(offers):
            if offer.place in places and not (offer.move.exact and places[offer.place].move.exact):
                other = places[offer.place].source
                note = f"{other} is to be {offer.place} too"
                rows.append(Row("collision", name, offer.move.sources, offer.spec, note))
                continue
            places[offer.place] = offer
            rows.append(
                self._row(name, wanted, offer, transposed, dtype, again=any(row.resolved for row in rows))
            )
        return rows

    def _distinct(self, offers: Sequence[tuple[Offer, bool]]) -> list[tuple[Offer, bool]]:
        """Drop the offers that are another's array under a second name, as the file itself ties them."""
        origin = self.contents.origin
        real = [each for each in offers if all(origin[name][0] == name for name in each[0].move.sources)]
        taken = {(name, turn) for offer, turn in real if not offer.move.steps for name in offer.move.sources}
        more = [each for each in offers if each not in real and not self._is_taken(*each, taken)]
        return real + more

    def _is_taken(self, offer: Offer, turn: bool, taken: Collection[tuple[str, bool]]) -> bool:
        source, seen_turned = self.contents.origin[offer.move.sources[0]]
        return not offer.move.steps and (source, seen_turned != turn) in taken

    def _row(self, name: str, wanted: Any, offer: Offer, transposed: bool, dtype: Any, again: bool) -> Row:
        found = turned(offer.spec) if transposed and len(offer.spec.shape) > 1 else offer.spec
        sources = offer.move.sources
        if tuple(found.shape) != tuple(wanted.shape):
            note = f"the file has {spec_text(found)}"
            return Row("shape", name, sources, wanted, "; ".join(filter(None, (note, offer.note))))
        held = _typed(found.dtype, wanted.dtype)
        if held is None:
            note = f"the file has {found.dtype}, bits without a type; pass like="
            return Row("dtype", name, sources, wanted, note)
        final = held if dtype is None else dtype
        if fault := self._dtype_fault(name, held, final, wanted, dtype is not None):
            return Row("dtype", name, sources, wanted, fault)
        use = Use(self.structure.indices[self.structure.position[name]], name, offer, transposed, held, final)
        self.uses.setdefault(offer.move, []).append(use)
        note = offer.note
        if again:
            return Row("tied", name, sources, found, "the same parameter; both must have one value")
        if final != held:
            return Row("cast", name, sources, jax.ShapeDtypeStruct(found.shape, final), f"from {held}")
        same = not offer.move.steps and sources == (offer.place,)
        return Row("loaded" if same else "renamed", name, sources, found, note)

    def _dtype_fault(self, name: str, held: Any, final: Any, wanted: Any, said: bool) -> str:
        if said and (
            fault := _number_fault(self.leaves[self.structure.indices[self.structure.position[name]]], final)
        ):
            return fault
        if said:
            abstract = jax.ShapeDtypeStruct(tuple(wanted.shape), held)
            return "" if final == held else cast_fault(name, abstract, final)
        if final != wanted.dtype:
            return f"the file has {held}; cast={{{name!r}: '{wanted.dtype}'}} converts it"
        return ""

    def _tied_rows(self) -> list[Row]:
        rows: list[Row] = []
        for place, source in self.tied.items():
            index = self.structure.indices[self.structure.position[source]]
            spec = wanted_spec(self.leaves[index])
            turn = follow(self.structure, place)[1]
            note = f"to {source}{', transposed' if turn else ''}"
            if spec is not None:
                rows.append(Row("tied", place, (), turned(spec) if turn else spec, note))
        return rows


def _number_fault(leaf: Any, dtype: Any) -> str:
    """Say that a Python number cannot stand for values of a dtype; an empty text where it can."""
    kinds = {bool: np.bool_, int: np.integer, float: np.floating, complex: np.complexfloating}
    if type(leaf) in kinds and not jnp.issubdtype(dtype, kinds[type(leaf)]):
        return f"`like` has a {type(leaf).__name__} there, which cannot hold {dtype}"
    return ""


def _typed(found: Any, wanted: Any) -> Any:
    """Give the dtype of stored bits; raw ones, as NumPy writes bfloat16, are of the dtype wanted."""
    if getattr(found, "type", None) is not np.void:
        return found
    fits = getattr(wanted, "isbuiltin", 1) == 2 and wanted.itemsize == found.itemsize  # 2: of ml_dtypes
    return wanted if fits else None
