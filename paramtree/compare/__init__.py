"""What differs between two trees, or two files: names, shapes, dtypes, ties, fixed marks and values.

Names decide what is compared with what; the kinds of the containers do not, so that a net can be compared
with its file, a Haiku net with the flat dict of its parameters, or specs with values. Functions among the
leaves of another library's tree are no parameters, and are left out.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from paramtree import display
from paramtree.checkpoint.layout import dtype_fault
from paramtree.compare.renames import pair_names
from paramtree.compare.sides import Place, Side, open_side
from paramtree.compare.values import Gap, measure, same
from paramtree.errors import NoMatchError, ParamTreeError, listing
from paramtree.names import natural_name_key
from paramtree.select import (
    Select,
    apply_select,
    depends_on_leaves,
    describe_select,
    freeze_select,
    matching_names,
)

KINDS = ("only in a", "only in b", "renamed", "shape", "dtype", "tie", "mark", "values")
_HEAD = ("name", "difference", "changed", "largest", "relative")


@dataclass(frozen=True)
class Difference:
    """One parameter that differs.

    Attributes:
        name: in `a`, or in `b` where only this has it.
        kinds: of `KINDS`, all that differ.
        a: what stands under the name in `a`; None where nothing does.
        b: what stands in `b`, under `other` where it was renamed; None where nothing does.
        other: its name in `b`.
        gap: how far the values are apart; None where they were not compared: for other shapes, or no values.
    """

    name: str
    kinds: tuple[str, ...]
    a: Place | None = None
    b: Place | None = None
    other: str = ""
    gap: Gap | None = None

    @property
    def size(self) -> int:
        """The number of elements compared."""
        shape = self.a.shape if self.a is not None else None
        return math.prod(map(int, shape)) if shape is not None and self.gap is not None else 0

    def text(self) -> str:
        """Say in words what differs."""
        if self.a is None or self.b is None:
            return f"{self.kinds[0]}: {self.b or self.a}"
        said = {
            "renamed": f"renamed to {self.other}",
            "shape": f"shape {_shape(self.a)} -> {_shape(self.b)}",
            "dtype": f"dtype {self.a.dtype} -> {self.b.dtype}",
            "tie": f"{self.a.tie_text()} -> {self.b.tie_text()}",
            "mark": f"{self.a.mark or 'not fixed'} -> {self.b.mark or 'not fixed'}",
            "values": _values_text(self),
        }
        return "; ".join(said[kind] for kind in self.kinds)

    def cells(self) -> tuple[str, ...]:
        """Give the row of a table."""
        if self.gap is None or not self.gap.changed:
            return self.name, self.text(), "", "", ""
        changed = f"{self.gap.changed:,} of {self.size:,}"
        return self.name, self.text(), changed, _number(self.gap.largest), _number(self.gap.relative)

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it; an infinite number is the text "inf"."""
        sides = {label: place and _place_dict(place) for label, place in (("a", self.a), ("b", self.b))}
        gap = self.gap and {**self.gap._asdict(), "size": self.size}
        if gap:
            gap |= {key: "inf" if gap[key] == math.inf else gap[key] for key in ("largest", "relative")}
        return {"name": self.name, "kinds": list(self.kinds), "other": self.other, **sides, "values": gap}


def _shape(place: Place) -> str:
    return str(place) if place.shape is None else display.shape_text(place.shape)


def _values_text(row: Difference) -> str:
    if row.gap is None:
        return f"{row.a} -> {row.b}"
    alone = [
        f"{count:,} NaN only in {side}"
        for side, count in (("a", row.gap.nan_a), ("b", row.gap.nan_b))
        if count
    ]
    return ", ".join(["values", *alone])


def _number(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _place_dict(place: Place) -> dict[str, Any]:
    return {**place._asdict(), "shape": None if place.shape is None else list(place.shape)}


@dataclass(frozen=True, repr=False)
class Diff:
    """What differs between two sides: false where nothing does, and a table where it is printed.

    Attributes:
        rows: one for each parameter that differs, in natural order.
        compared: the number of parameters on both sides together, a pair counted once.
    """

    rows: tuple[Difference, ...]
    compared: int

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Difference]:
        return iter(self.rows)

    @property
    def renamed(self) -> dict[str, str]:
        """Names in `a` -> names in `b`, of all that were most likely renamed."""
        return {row.name: row.other for row in self.rows if row.other}

    def headline(self) -> str:
        """Count the differences in one line."""
        number = f"{self.compared:,} parameter{'' if self.compared == 1 else 's'}"
        if not self.rows:
            return f"no differences in {number}"
        counts = Counter(kind for row in self.rows for kind in row.kinds)
        listed = ", ".join(f"{kind} {counts[kind]:,}" for kind in KINDS if counts[kind])
        return f"{len(self.rows):,} of {number} differ{'s' if len(self.rows) == 1 else ''}: {listed}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Give the head and the rows of the table; the columns of numbers only where values differ."""
        cells = [row.cells() for row in self.rows]
        shown = len(_HEAD) if any(any(row[2:]) for row in cells) else 2
        return _HEAD[:shown], [row[:shown] for row in cells]

    def to_text(self, width: int | None = None) -> str:
        """Write the table, as wide as the terminal if no width is given."""
        if not self.rows:
            return self.headline()
        return f"{self.headline()}\n{display.table_text(*self.table(), width or display.terminal_width())}"

    def __repr__(self) -> str:
        return self.to_text()

    def to_html(self) -> str:
        """Write the table in HTML, as a notebook shows it."""
        return display.table_html(self.headline(), *self.table())

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it."""
        return {"compared": self.compared, "differences": [row.to_dict() for row in self.rows]}


def diff(a: Any, b: Any, /, *, select: Select | None = None, rtol: float = 0.0, atol: float = 0.0) -> Diff:
    """Compare two trees, two files, or a tree with a file.

    NaN is equal to NaN at the same place. A name on one side only is paired with the one on the other side
    that it was most likely renamed to: of the same shape and dtype, with equal values first, and then the
    nearest name. Values are read and compared one parameter at a time; a tree of specs has none.

    Args:
        a: a tree of any kind, or the path of a file.
        b: another.
        select: which names, on either side; all, if left out. A file's leaves are specs for a predicate.
        rtol: two elements are the same where `abs(x - y) <= atol + rtol * max(abs(x), abs(y))`.
        atol: see `rtol`.

    >>> import numpy as np
    >>> before = {"dense0": {"weight": np.ones((2, 3)), "bias": np.zeros(2)}}
    >>> after = {"dense0": {"kernel": np.ones((2, 3)), "bias": np.array([0.0, 0.5])}}
    >>> diff(before, after)
    2 of 2 parameters differ: renamed 1, values 1
    name           difference                changed  largest  relative
    dense0/weight  renamed to dense0/kernel
    dense0/bias    values                     1 of 2      0.5         1

    Raises:
        NoMatchError: where the select hits nothing on either side.
        FileNotFoundError: where there is no such file.
        ParamTreeError: for a tolerance below zero, and a file that cannot be read.
        BadNameError: for what is neither a tree nor a path.
        TieError: for a tie that leads nowhere.
        MismatchError: listing every leaf that is traced.
    """
    for word, value in (("rtol", rtol), ("atol", atol)):
        if not isinstance(value, int | float) or not value >= 0:
            raise ParamTreeError(f"diff: {word} is a number from 0 up, and not {value!r}.")
    with ExitStack() as stack:
        one, two = open_side(a, "a", stack, b), open_side(b, "b", stack, a)
        return _Comparison(one, two, rtol, atol).run(select)


def _check_not_only_tied(select: Any, held: Mapping[str, Any], ties: Mapping[str, tuple[str, bool]]) -> None:
    tied = {place: held[source] for place, (source, _) in ties.items()}
    for each in select if isinstance(select, tuple) else (select,):
        places = [] if matching_names(each, held) else matching_names(each, tied)
        if places:
            where = listing([f"{place} is {ties[place][0]}" for place in places], 6)
            raise NoMatchError(
                f"select {describe_select(each)} hits only tied places: {where}. "
                "Select a tied parameter where it lives."
            )


@dataclass(frozen=True)
class _Comparison:
    a: Side
    b: Side
    rtol: float
    atol: float

    def run(self, select: Select | None) -> Diff:
        mine, theirs = self._chosen(select)
        lone = (
            [name for name in mine if not self.b.has(name)],
            [name for name in theirs if not self.a.has(name)],
        )
        renamed: dict[str, str] = {}
        if all(lone):
            renamed = pair_names(
                *({name: side.candidate(name) for name in names} for side, names in self._with(lone))
            )
        new = set(renamed.values())
        pairs = [(name, renamed.get(name, name)) for name in mine if self.b.has(name) or name in renamed]
        rows = [row for name, other in pairs if (row := self._compare(name, other, renamed))]
        rows += [
            Difference(name, ("only in a",), a=self.a.place(name)) for name in lone[0] if name not in renamed
        ]
        rows += [
            Difference(name, ("only in b",), b=self.b.place(name)) for name in lone[1] if name not in new
        ]
        rows.sort(key=lambda row: natural_name_key(row.name))
        return Diff(tuple(rows), len(mine) + len(lone[1]) - len(new))

    def _with(self, names: tuple[list[str], list[str]]) -> Iterator[tuple[Side, list[str]]]:
        return zip((self.a, self.b), names, strict=True)

    def _chosen(self, select: Select | None) -> tuple[list[str], list[str]]:
        """List the names of each side that are compared: a tied place goes with what it is tied to."""
        if select is None:
            return self.a.names(), self.b.names()
        frozen = freeze_select(select)
        hit: set[str] = set()
        for side in (self.a, self.b):
            hit.update(matching_names(frozen, side.held))
        if not hit or not depends_on_leaves(frozen):
            held = {**self.b.held, **self.a.held}
            _check_not_only_tied(frozen, held, {**self.b.ties, **self.a.ties})
            apply_select(held, select)  # raises where one hits nothing
        for side in (self.a, self.b):
            tied = {place: side.held[source] for place, (source, _) in side.ties.items()}
            hit.update(place for place, (source, _) in side.ties.items() if source in hit)
            hit.update(matching_names(frozen, tied))
        mine, theirs = self.a.names(), self.b.names()
        return [name for name in mine if name in hit], [name for name in theirs if name in hit]

    def _compare(self, name: str, other: str, renamed: Mapping[str, str]) -> Difference | None:
        one, two = self.a.place(name), self.b.place(other)
        tie = (renamed.get(one.tied, one.tied), one.transposed) != (two.tied, two.transposed)
        arrays = one.shape is not None and two.shape is not None
        differ = {
            "renamed": name != other,
            "shape": arrays and one.shape != two.shape,
            "dtype": arrays and one.dtype != two.dtype,
            "tie": tie,
            "mark": one.mark != two.mark,
        }
        if self.a.leaf(name) is self.b.leaf(other) and not any(differ.values()):
            return None
        shared = bool(one.tied) and not tie  # the values are compared where the parameter lives
        gap = self._gap(name, other) if arrays and one.shape == two.shape and not shared else None
        differ["values"] = self._differ(one, two, name, other) if gap is None else gap.changed > 0
        kinds = tuple(kind for kind in KINDS if differ.get(kind))
        return Difference(name, kinds, one, two, other if name != other else "", gap) if kinds else None

    def _differ(self, one: Place, two: Place, name: str, other: str) -> bool:
        """Tell whether two leaves differ that are not both arrays."""
        if one.shape is None and two.shape is None:
            return not same(self.a.leaf(name), self.b.leaf(other))
        return one.shape is None or two.shape is None

    def _gap(self, name: str, other: str) -> Gap | None:
        x, y = self.a.values(name), self.b.values(other)
        if x is None or y is None or (x.dtype != y.dtype and (dtype_fault(x.dtype) or dtype_fault(y.dtype))):
            return None
        return measure(x, y, self.rtol, self.atol)
