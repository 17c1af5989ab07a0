"""A table of text that fits the terminal."""

import shutil
from collections.abc import Sequence

from paramtree import display

_WIDTH = 110  # columns, where there is no terminal
_LEAST = 12  # columns that a cut cell keeps
_GAP = "  "


def terminal_width() -> int:
    """Give the width to print in."""
    return shutil.get_terminal_size((_WIDTH, 24)).columns


def table_text(head: Sequence[str], rows: Sequence[Sequence[str]], width: int, wide: int = 2) -> str:
    """Write rows in columns; the first `wide` columns are cut in the middle of their cells to fit the width.

    The other columns hold numbers: they stand at the right, and are never cut.

    >>> print(table_text(("name", "count"), [("a/weight", "12"), ("b", "3")], 40, wide=1))
    name      count
    a/weight     12
    b             3
    """
    cells = [[_printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = width - sum(widths[wide:]) - len(_GAP) * (len(widths) - 1)
    widths[:wide] = _shared(widths[:wide], room)
    lines = [
        _GAP.join(
            _cut(cell, size).ljust(size) if column < wide else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join(display.elide(lines))


def _shared(widths: Sequence[int], room: int) -> list[int]:
    """Share room among columns: the widest give way first."""
    given = list(widths)
    while sum(given) > room and max(given) > _LEAST:
        widest = max(given)
        next_widest = max([size for size in given if size < widest], default=_LEAST)
        several = given.count(widest)
        over = -(-(sum(given) - room) // several)
        given = [max(size - over, next_widest, _LEAST) if size == widest else size for size in given]
    return given


def _cut(text: str, size: int) -> str:
    if len(text) <= size:
        return text
    right = (size - 1) // 2
    return f"{text[: size - 1 - right]}…{text[len(text) - right :]}"


def _printable(text: str) -> str:
    """Write what would move the cursor, as in a name from a file, the way Python does."""
    return text if text.isprintable() else repr(text)[1:-1]
