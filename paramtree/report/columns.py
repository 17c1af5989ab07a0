"""Tables made of columns: which are shown where there is little room, as text, and as HTML to be sorted."""

from collections.abc import Sequence
from typing import NamedTuple

from paramtree import display
from paramtree.letters import text_width
from paramtree.report.page import sortable_table

_GAP = 2  # characters between columns
_NAMES = 40  # characters that the first column needs at least
_TEXTS = 20  # and any other of texts


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        head: its title.
        cells: its texts.
        keys: what each row is sorted by.
        spare: whether it may be left out where there is no room, those with the largest number first.
        is_text: whether it stands at the left and may be cut, as names; numbers stand at the right.
    """

    head: str
    cells: Sequence[str]
    keys: Sequence[float | str]
    spare: int = 0
    is_text: bool = False


def text_column(head: str, cells: Sequence[str], spare: int = 0) -> Column:
    """Make a column of texts, sorted by themselves."""
    return Column(head, cells, cells, spare, is_text=True)


def columns_text(columns: Sequence[Column], width: int | None = None) -> str:
    """Write columns, texts first, as wide as the terminal if no width is given; what has no room is left out.

    >>> columns = [text_column("name", ["a"]), Column("x", ["1234"], [1], 1), Column("y", ["5"], [2])]
    >>> print(columns_text(columns, 10))
    name  y
    a     5
    """
    width = width or display.terminal_width()
    kept = _fitting(_filled(columns), width)
    rows = list(zip(*(column.cells for column in kept), strict=True))
    return display.table_text(
        [column.head for column in kept], rows, width, sum(column.is_text for column in kept)
    )


def columns_html(caption: str, columns: Sequence[Column]) -> str:
    """Write columns in HTML, as a notebook shows it: a click on a head sorts the table."""
    kept = _filled(columns)
    cells = list(zip(*(column.cells for column in kept), strict=True))
    keys = list(zip(*(column.keys for column in kept), strict=True))
    return sortable_table(caption, [column.head for column in kept], cells, keys)


def _filled(columns: Sequence[Column]) -> list[Column]:
    """Leave out the columns that are empty in every row, but for the first, of names."""
    return [column for at, column in enumerate(columns) if at == 0 or any(column.cells)]


def _fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Leave out columns until the table fits the width, if those of texts are cut."""
    kept = list(columns)

    def need() -> int:
        sizes = [max(map(text_width, (column.head, *column.cells))) for column in kept]
        rest = zip(kept[1:], sizes[1:], strict=True)
        cut = [min(size, _TEXTS) if column.is_text else size for column, size in rest]
        return min(sizes[0], _NAMES) + sum(cut) + _GAP * len(cut)

    while need() > width and any(column.spare for column in kept):
        kept.remove(max(kept, key=lambda column: column.spare))
    return kept
