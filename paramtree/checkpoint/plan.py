"""Plan a load before a value is read: every parameter on either side is accounted for, in one table."""

import os
from collections import Counter
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree import display
from paramtree.checkpoint.contents import Contents, Offer, contents_of, find_offers, skeleton, turned
from paramtree.checkpoint.fill import Fill, Use, fill_leaves
from paramtree.checkpoint.formats import open_stored
from paramtree.checkpoint.rawfile import FileChangedError
from paramtree.checkpoint.rows import UNRESOLVED, Row, count_text, ordered, propose, spec_text, table_lines
from paramtree.checkpoint.stored import Stored
from paramtree.checkpoint.tensors import is_tensor, tensor_spec
from paramtree.errors import MismatchError, ParamTreeError
from paramtree.names import SEPARATOR, flatten_named, natural_name_key
from paramtree.nodes import follow, tied_names
from paramtree.renaming import Move, Naming
from paramtree.select import Rule, Rules, Select, apply_select, match_rules, matches, parse_rules
from paramtree.tree import cast_fault, check_cast_rules, is_array_like, partition


class LoadPlan:
    """What a load would do, parameter by parameter: it prints as a table, and `params` does it.

    Attributes:
        file: the file.
        rows: one `Row` (status, name, sources, spec, note) for every parameter of the tree, for every array
            of the file that has no place there, and for every rule that does nothing.
    """

    def __init__(self, file: Path, rows: Sequence[Row], fill: Fill) -> None:
        self.file = file
        self.rows = tuple(rows)
        self._fill = fill

    @property
    def unresolved(self) -> tuple[Row, ...]:
        """The rows that keep the plan from being done: `strict=` of `params` says which of them may."""
        return tuple(row for row in self.rows if not row.resolved)

    def params(self, *, strict: bool | Collection[str] = True) -> Any:
        """Read the values, and build the tree.

        Args:
            strict: True raises where any row is unresolved. False leaves such parameters as `like` has them,
                and such arrays in the file. A list of statuses, as `["shape", "dtype"]`, raises for these.
                A collision always raises.

        Raises:
            MismatchError: with the whole table, where a row is unresolved; listing every parameter that would
                have no value, and every one of which the file has two values.
            ParamTreeError: where the file was replaced since the plan was made, or its values are damaged.
        """
        wrong = self._strict_statuses(strict)
        if any(row.status in wrong for row in self.rows):
            raise MismatchError(f"load: {self}\n{_HELP}")
        return fill_leaves(self._fill)

    def to_dict(self) -> dict[str, Any]:
        """Give the plan as plain values: what JSON can hold."""
        return {
            "file": str(self.file),
            "rows": [
                {
                    "status": row.status,
                    "name": row.name,
                    "sources": list(row.sources),
                    "shape": None if row.spec is None else list(row.spec.shape),
                    "dtype": None if row.spec is None else str(row.spec.dtype),
                    "note": row.note,
                }
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        """Write the table, what is unresolved first."""
        return "\n".join([self._headline(), *(f"  {line}" for line in table_lines(self.rows))])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = ("status", "parameter", "shape and dtype", "note")
        rows = [row.cells() for row in ordered(self.rows)]
        return display.table_html(self._headline(), head, rows, strong=len(self.unresolved))

    def _headline(self) -> str:
        return f"{str(self.file)!r}: {count_text(self.rows) or 'no parameters'}"

    def _strict_statuses(self, strict: bool | Collection[str]) -> Collection[str]:
        if isinstance(strict, bool):
            return UNRESOLVED if strict else ("collision",)
        unknown = [status for status in strict if status not in UNRESOLVED]
        if unknown or isinstance(strict, str):
            raise ParamTreeError(
                f"strict={strict!r}: pass True, False, or a list of {', '.join(map(repr, UNRESOLVED))}."
            )
        return {*strict, "collision"}


_HELP = (
    "Say what is meant with rename=, cast= or select=, or pass strict=False: then what is unresolved is left "
    "as `like` has it."
)


def plan_load(
    file: str | os.PathLike[str],
    /,
    like: Any = None,
    select: Select | None = None,
    rename: Any = None,
    cast: Rules | None = None,
) -> LoadPlan:
    """Plan what `load` with these arguments would do: read the file's headers, and account for every name.

    >>> import tempfile
    >>> from paramtree.checkpoint import save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"0.w": jnp.ones(2), "1.w": jnp.ones(3)}, f"{folder}/net.npz")
    ...     plan = plan_load(f"{folder}/net.npz", {"a": {"w": jnp.zeros(2)}}, rename={"0.w": "a/w"})
    >>> [(row.status, row.name, row.sources) for row in plan.rows]
    [('renamed', 'a/w', ('0.w',)), ('unexpected', '', ('1.w',))]

    Args:
        file: its path, of any format that `load` reads.
        like: params or specs to fill; without it the tree is the file's own.
        select: the parameters of the tree that are loaded; the others are left as they are in `like`.
        rename: rules from names in the file to names in the tree, as in `pt.renaming`: pattern -> template,
            `Convert` with steps, or None for what is left out; or one of its ready sets.
        cast: rules from names in the tree to the dtypes that their values are cast to.

    Raises:
        ParamTreeError: where the file is of no known format, or damaged.
        NoMatchError: where the select hits nothing.
        RuleError: where `rename` or `cast` are not rules.
        BadNameError: without `like`, where the file's names cannot be nested.
        TieError: where a tie of `like` leads nowhere.
        FileNotFoundError: where there is no such file.
    """
    path = Path(file)
    with _naming(path):
        stored = open_stored(path)
        contents = contents_of(stored.specs, stored.notes)
    if stored.by_position:
        rename = _by_position(path, stored, like, rename)
    rename = rename if like is None else _without_spare(rename, contents, like)
    offers, rows = find_offers(stored, contents, rename, select)
    with _naming(path):
        model = skeleton(stored, contents, offers, rename is not None) if like is None else like
    tree, chosen = _tree_and_chosen(model, select, like is None)
    planner = _Planner(tree, chosen, contents, like is not None)
    rows = planner.rows(offers, select, cast) + rows
    return LoadPlan(path, propose(rows), Fill(stored, contents, tree, model, frozenset(chosen), planner.uses))


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Name the file in an error about its names and notes."""
    try:
        yield
    except ParamTreeError as error:
        if repr(str(path)) in str(error) or isinstance(error, FileChangedError):
            raise
        raise type(error)(f"{str(path)!r}: {str(error).removeprefix('load: ')}") from error


def _by_position(path: Path, stored: Stored, like: Any, rename: Any) -> dict[str, str]:
    """Give the rules that name the arrays of a file without names, in the order of JAX's leaves."""
    if like is None or rename is not None:
        raise ParamTreeError(
            f"{str(path)!r} holds {len(stored.specs)} arrays without names: pass like=, a tree that has "
            "them in the same order, and no rename=."
        )
    leaves, structure = flatten_named(like)
    names = dict(zip(structure.indices, structure.names, strict=True))
    inside = [names[index] for index, leaf in enumerate(leaves) if wanted_spec(leaf) is not None]
    return dict(zip(stored.specs, inside, strict=False))


def _without_spare(rename: Any, contents: Contents, like: Any) -> Any:
    """Drop the rules for further names of one parameter that the file does not have: it needs only one."""
    if rename is None or isinstance(rename, Naming):
        return rename
    _, structure = flatten_named(like)
    rules = parse_rules(rename)
    targets = [follow(structure, rule.value)[0] if isinstance(rule.value, str) else "" for rule in rules]
    twice = {name for name, count in Counter(targets).items() if count > 1}
    several = twice.union(tied_names(structure).values())

    def is_spare(rule: Rule, target: str) -> bool:
        return target in several and not any(matches(rule.select, name) for name in contents.specs)

    return [rule for rule, target in zip(rules, targets, strict=True) if not is_spare(rule, target)]


def _tree_and_chosen(model: Any, select: Select | None, pruned: bool) -> tuple[Any, set[str]]:
    """Give the tree to fill, only its selected part if `pruned`, and the names that are to be loaded."""
    if pruned and select is not None:
        model, _ = partition(model, select)
        select = None
    found = apply_select(model, select)
    return model, {found.structure.names[place] for place in found.places}


def wanted_spec(leaf: Any) -> Any:
    """Give the shape and dtype that a leaf of `like` asks for; None for what is no array."""
    if is_tensor(leaf):
        return tensor_spec(leaf)
    if is_array_like(leaf):
        return leaf
    return np.asarray(leaf) if isinstance(leaf, bool | int | float | complex) else None


class _Planner:
    """Puts the offers of a file beside the names of a tree."""

    def __init__(self, tree: Any, chosen: set[str], contents: Contents, filled: bool) -> None:
        self.leaves, self.structure = flatten_named(tree)
        self.tied = tied_names(self.structure)  # raises where a tie leads nowhere
        self.chosen = chosen
        self.contents = contents
        self.filled = filled
        self.uses: dict[Move, list[Use]] = {}

    def rows(self, offers: Sequence[Offer], select: Select | None, cast: Rules | None) -> list[Row]:
        """Make the rows of all parameters, and note which values are used where."""
        by_name: dict[str, list[tuple[Offer, bool]]] = {}
        rest: list[Row] = []
        for offer in offers:
            source, transposed = follow(self.structure, offer.place)
            if source in self.structure.position:
                by_name.setdefault(source, []).append((offer, transposed))
            else:
                rest.append(self._spare(offer, select))
        dtypes, rule_rows = self._dtypes(cast)
        rows: list[Row] = []
        for name, index in zip(self.structure.names, self.structure.indices, strict=True):
            wanted = wanted_spec(self.leaves[index])
            if name not in self.chosen:
                sources = tuple(each for offer, _ in by_name.get(name, ()) for each in offer.move.sources)
                rows.append(Row("not selected", name, sources, wanted, "" if sources else "not in the file"))
            elif wanted is not None:
                rows += self._rows_of(name, wanted, by_name.get(name, []), dtypes.get(name))
        rest.sort(key=lambda row: natural_name_key(row.sources[0].replace(".", SEPARATOR)))
        return [*rows, *self._tied_rows(), *rest, *rule_rows]

    def _spare(self, offer: Offer, select: Select | None) -> Row:
        """Make the row of what the tree has no place for."""
        place, move = offer.place, offer.move
        stored, _ = self.contents.origin[move.sources[0]]
        if stored != move.sources[0]:  # one name more of an array that may be used under another
            return Row(
                "tied", "", move.sources, offer.spec, f"to {stored} in the file; the tree has one of them"
            )
        if not self.filled or (select is not None and not matches(select, place, offer.spec)):
            return Row("not selected", "", move.sources, offer.spec, "only in the file")
        note = f"as {place}" if (place,) != move.sources else ""
        return Row("unexpected", "", move.sources, offer.spec, note)

    def _dtypes(self, cast: Rules | None) -> tuple[dict[str, Any], list[Row]]:
        """Give the dtype that rules say for a name, and the rows of the rules' faults."""
        if cast is None:
            return {}, []
        check_cast_rules(parse_rules(cast))
        named = zip(self.structure.names, self.structure.indices, strict=True)
        specs = {name: wanted_spec(self.leaves[index]) for name, index in named if name in self.chosen}
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
            rows.append(self._row(name, wanted, offer, transposed, dtype, again=len(places) > 1))
        return rows

    def _distinct(self, offers: Sequence[tuple[Offer, bool]]) -> list[tuple[Offer, bool]]:
        """Drop the offers that are another's array under a second name, as the file itself ties them."""
        origin = self.contents.origin
        real = [each for each in offers if all(origin[name][0] == name for name in each[0].move.sources)]
        taken = {name for offer, _ in real if not offer.move.steps for name in offer.move.sources}
        more = [each for each in offers if each not in real and not self._is_taken(each[0], taken)]
        return real + more

    def _is_taken(self, offer: Offer, taken: Collection[str]) -> bool:
        return not offer.move.steps and self.contents.origin[offer.move.sources[0]][0] in taken

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


def _typed(found: Any, wanted: Any) -> Any:
    """Give the dtype of stored bits; raw ones, as NumPy writes bfloat16, are of the dtype wanted."""
    if getattr(found, "type", None) is not np.void:
        return found
    fits = getattr(wanted, "isbuiltin", 1) == 2 and wanted.itemsize == found.itemsize  # 2: of ml_dtypes
    return wanted if fits else None
