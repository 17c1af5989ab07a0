"""What the values of parameters are, in numbers: found for all of them in one pass."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from paramtree.errors import UnknownNameError, did_you_mean
from paramtree.report.cells import (
    bars_text,
    count_text,
    json_number,
    number_text,
    share_text,
)
from paramtree.report.columns import Column, columns_html, columns_text, text_column
from paramtree.report.moments import Moments, measure
from paramtree.report.values import Item, check_gradients, check_not_traced, read_items
from paramtree.select import Select

_NOTHING = Moments()


class ParamStats(NamedTuple):
    """What the values of one parameter are.

    Attributes:
        name: its name.
        shape: its shape; None for what is no array.
        dtype: the name of its dtype, or of its type.
        said: what it is, where there are no numbers: a label, a spec, a key of `jax.random`.
        size: the number of elements.
        values: its numbers; those of a parameter of complex numbers are of their magnitudes.
        update: those of its gradient, or update; None where none was given.
    """

    name: str
    shape: tuple[Any, ...] | None
    dtype: str
    said: str = ""
    size: int = 0
    values: Moments = _NOTHING
    update: Moments | None = None

    @property
    def zeros(self) -> float | None:
        """The share of elements that are zero, from 0 to 1; None where there is no element."""
        return self.values.zero / self.size if self.size else None

    @property
    def ratio(self) -> float | None:
        """The update's RMS over the parameter's own; infinite where this is zero, None where both are."""
        if self.update is None or self.update.rms is None or self.values.rms is None:
            return None
        if not self.values.rms:
            return float("inf") if self.update.rms else None
        return self.update.rms / self.values.rms

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it; an infinite ratio is the text "inf"."""
        shape = None if self.shape is None else [n if isinstance(n, int) else str(n) for n in self.shape]
        told = {"name": self.name, "shape": shape, "dtype": self.dtype, "said": self.said, "size": self.size}
        if self.said:
            return told
        told |= {"zeros": self.zeros, **_moments_dict(self.values)}
        if self.update is None:
            return told
        return {**told, "ratio": json_number(self.ratio), "update": _moments_dict(self.update)}


def _moments_dict(moments: Moments) -> dict[str, Any]:
    return {**moments._asdict(), "bins": list(moments.bins), "largest": moments.largest}


@dataclass(frozen=True, repr=False)
class Stats:
    """What the values of parameters are: a table where it is printed.

    Attributes:
        rows: one for each parameter, in natural order.
    """

    rows: tuple[ParamStats, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ParamStats]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> ParamStats:
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            near = did_you_mean(name, [row.name for row in self.rows])
            raise UnknownNameError(f"{name!r} is not among the {len(self.rows)} parameters looked at.{near}")
        return found

    def headline(self) -> str:
        """Count in one line what was looked at, and what is wrong with it."""
        count, size = len(self.rows), sum(row.size for row in self.rows)
        nan, infinite = (sum(getattr(row.values, kind) for row in self.rows) for kind in ("nan", "infinite"))
        faults = [f"{number:,} {kind}" for number, kind in ((nan, "NaN"), (infinite, "Inf")) if number]
        said = [
            f"{count:,} parameter{'' if count == 1 else 's'}",
            f"{size:,} element{'' if size == 1 else 's'}",
        ]
        return ", ".join([*said, *faults])

    def to_text(self, width: int | None = None) -> str:
        """Write the table, as wide as the terminal if no width is given; what has no room is left out."""
        if not self.rows:
            return self.headline()
        return f"{self.headline()}\n{columns_text(_columns(self.rows), width)}"

    def __repr__(self) -> str:
        return self.to_text()

    def to_html(self) -> str:
        """Write the table in HTML, as a notebook shows it: a click on a head sorts it."""
        return columns_html(self.headline(), _columns(self.rows))

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it."""
        return {"parameters": [row.to_dict() for row in self.rows]}


def _columns(rows: Sequence[ParamStats]) -> list[Column]:
    def numbers(head: str, values: Sequence[float | int | None], spare: int = 0) -> Column:
        return Column(head, list(map(number_text, values)), _keys(values), spare)

    def counts(head: str, values: Sequence[int]) -> Column:
        return Column(head, [count_text(value) if value else "" for value in values], values)

    held = [row.values for row in rows]
    what = [row.said or f"{row.dtype}[{','.join(map(str, row.shape or ()))}]" for row in rows]
    bars = [bars_text(each.bins) for each in held]
    zeros = [share_text(row.values.zero, row.size) for row in rows]
    return [
        text_column("name", [row.name for row in rows]),
        text_column("what", what, 2),
        numbers("mean", [each.mean for each in held]),
        numbers("std", [each.std for each in held]),
        numbers("min", [each.least for each in held], 4),
        numbers("max", [each.most for each in held], 4),
        numbers("RMS", [each.rms for each in held], 5),
        numbers("largest", [each.largest for each in held], 6),
        Column("zero", zeros, _keys([row.zeros for row in rows]), 1),
        counts("NaN", [each.nan for each in held]),
        counts("Inf", [each.infinite for each in held]),
        counts("subnormal", [each.subnormal for each in held]),
        numbers("update/own", [row.ratio for row in rows]),
        Column("histogram", bars, [each.std or 0.0 for each in held], 3),
    ]


def _keys(values: Sequence[float | int | None]) -> list[float | str]:
    return ["" if value is None else value for value in values]


def stats(params: Any, /, grads: Any = None, *, select: Select | None = None) -> Stats:
    """Find what the values of parameters are: mean, spread, range, histogram, and what is wrong with them.

    All are found in one pass and come to the host in one transfer: one compiled program for all small
    arrays, at most 2 Mi elements of copies at a time, and one for each shape of those from 1 Mi elements up,
    which are not copied. Values are summed up in float32, or float64 for a dtype as wide: mean, standard
    deviation and RMS are right to 1e-5 of the RMS, the rest exactly, where a value within 1e-6 of the range
    from an edge of the histogram may count on its other side. Whole numbers are summed up as floats of that
    width, which tell no two apart whose difference is too small. Subnormal numbers are zero in sums.

    Args:
        params: any tree of parameters; a tied one is seen once, where it lives.
        grads: gradients, or updates, by the same names, or some of them: for the ratio of their RMS to that
            of the parameters.
        select: which ones; all, if left out.

    >>> import numpy as np
    >>> weight = np.float32([[1, -1], [np.nan, 0]])
    >>> found = stats({"dense0": {"weight": weight, "bias": np.zeros(2, "float32")}})
    >>> found["dense0/weight"].values.nan, found["dense0/weight"].values.std
    (1, 0.816496580927726)
    >>> print(found.to_text(80))
    2 parameters, 6 elements, 1 NaN
    name           what          mean    std  min  max  zero  NaN         histogram
    dense0/weight  float32[2,2]     0  0.816   -1    1   25%    1  █       █      █
    dense0/bias    float32[2]       0      0    0    0  100%       █

    Raises:
        NoMatchError: where the select hits nothing.
        MismatchError: listing every leaf that is traced, and all gradients that do not fit.
    """
    items = read_items(params, select)
    given = [] if grads is None else read_items(grads)
    check_not_traced("stats: values", [*items, *given])
    check_gradients("stats", {item.name: item.shape for item in items}, given, select is None)
    by_name = {item.name: item for item in given}
    updates = [by_name.get(item.name) for item in items]
    arrays = [item.array for item in (*items, *updates) if item is not None and item.array is not None]
    found = iter(measure(arrays))
    values = [_NOTHING if item.array is None else next(found) for item in items]
    moves = [None if item is None or item.array is None else next(found) for item in updates]
    return Stats(
        tuple(
            ParamStats(item.name, item.shape, item.dtype, item.said, _size(item), held, move)
            for item, held, move in zip(items, values, moves, strict=True)
        )
    )


def _size(item: Item) -> int:
    return 0 if item.array is None else math.prod(item.array.shape)
