"""The table of a load plan: a row for every parameter on either side, and proposals for what does not fit."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from paramtree import display
from paramtree.errors import nearest

RESOLVED = ("loaded", "renamed", "cast", "tied", "left out", "not selected")
UNRESOLVED = ("missing", "unexpected", "shape", "dtype", "collision", "refused", "rule")

_PROPOSED = 20  # rows that are given a proposal, so that a plan never takes seconds
_LONGEST = 120  # letters of a name
_SAME_SHAPE = 3  # candidates of the same shape that are named


class Row(NamedTuple):
    """What becomes of one parameter.

    Attributes:
        status: one of `RESOLVED` or `UNRESOLVED`.
        name: in the tree; empty for what only the file has.
        sources: names in the file.
        spec: the shape and dtype: of the parameter, or, for what only the file has, of the array there.
        note: more, in words: a proposal, the steps on the way, the place it is tied to.
    """

    status: str
    name: str
    sources: tuple[str, ...]
    spec: Any
    note: str = ""

    @property
    def resolved(self) -> bool:
        """Whether the parameter is loaded, or a rule or select says what becomes of it."""
        return self.status in RESOLVED

    def cells(self) -> tuple[str, str, str, str]:
        """Give the row's status, name, shape and dtype, and all else."""
        source = " + ".join(map(_shown, self.sources))
        named = _shown(self.name) if self.name else source
        origin = f"from {source}" if source and source != named else ""
        return self.status, named, spec_text(self.spec), "; ".join(filter(None, (origin, self.note)))


def _shown(name: str) -> str:
    """Write a name on one line of a table: a very long one without its middle, control characters escaped."""
    name = name if name.isprintable() and name else repr(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST * 2 // 3]}...{name[-_LONGEST // 3 :]}"


def spec_text(spec: Any) -> str:
    """Write a shape and dtype in short.

    >>> import numpy as np
    >>> spec_text(np.zeros((2, 3), np.float32)), spec_text(None)
    ('float32[2,3]', '')
    """
    return "" if spec is None else f"{spec.dtype}[{','.join(map(str, spec.shape))}]"


def propose(rows: Sequence[Row]) -> list[Row]:
    """Add proposals to what is missing and what is unexpected: the nearest names, and others of one shape."""
    missing = [row for row in rows if row.status == "missing"]
    spare = [row for row in rows if row.status == "unexpected"]
    proposed = {id(row): _proposal(row, spare) for row in missing[:_PROPOSED]}
    proposed |= {id(row): _proposal(row, missing) for row in spare[:_PROPOSED]}
    return [row._replace(note="; ".join(filter(None, (row.note, proposed.get(id(row)))))) for row in rows]


def _proposal(row: Row, others: Sequence[Row]) -> str:
    alike = [other for other in others if tuple(other.spec.shape) == tuple(row.spec.shape)]
    if near := _nearest(row, alike):
        return f"did you mean {' or '.join(near)}?"
    if alike:
        named = [_label(other) for other in alike[:_SAME_SHAPE]]
        more = ", ..." if len(alike) > _SAME_SHAPE else ""
        return f"of the same shape: {', '.join(named)}{more}"
    near = _nearest(row, others)
    return f"of another shape: {' or '.join(near)}" if near else ""


def _nearest(row: Row, others: Sequence[Row]) -> list[str]:
    by_path = {_as_path(_label(other)): _label(other) for other in others}
    return [by_path[found] for found in nearest(_as_path(_label(row)), by_path)]


def _label(row: Row) -> str:
    return row.name or " + ".join(row.sources)


def _as_path(name: str) -> str:
    return name.replace(".", "/").lower()


def count_text(rows: Sequence[Row]) -> str:
    """Count the rows of each status, the unresolved ones first.

    >>> count_text([Row("loaded", "a", ("a",), None), Row("missing", "b", (), None)])
    '1 missing, 1 loaded'
    """
    counts = Counter(row.status for row in rows)
    return ", ".join(f"{counts[status]:,} {status}" for status in UNRESOLVED + RESOLVED if counts[status])


def table_lines(rows: Sequence[Row]) -> list[str]:
    """Write the rows in columns, the unresolved ones first."""
    cells = [row.cells() for row in ordered(rows)]
    lines: list[str] = []
    widths = [max((len(row[column]) for row in cells), default=0) for column in range(3)]
    for row in cells:
        columns = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*columns, row[3]]).rstrip())
    return display.elide(lines)


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Put the unresolved rows first."""
    return sorted(rows, key=lambda row: row.resolved)
