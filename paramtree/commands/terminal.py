"""What the commands write: tables as wide as the terminal, colours where they can be seen, and a bar."""

import os
import sys
import textwrap
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TextIO

from paramtree import display
from paramtree.letters import printable, text_width
from paramtree.report.cells import bytes_text

_UNLIMITED = 1_000_000  # columns: what reads from a pipe gets whole names
_AT_ONCE = 300  # rows, fewer than `display` elides: whoever asks for a file's names wants all of them
_PATIENCE = 1.0  # seconds until a bar is shown
_EVERY = 0.1  # seconds between two pictures of it
_LONGEST_BAR = 40  # columns
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def width() -> int:
    """Give the columns to write in: the terminal's, or those that COLUMNS says; a pipe has no limit."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return display.terminal_width() if known else _UNLIMITED


def in_colour(out: TextIO) -> bool:
    """Tell whether colours can be seen, and are wanted: see no-color.org."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str = "") -> str:
    """Give a text a colour, where the standard output has any."""
    if not colour or not in_colour(sys.stdout):
        return text
    return f"\033[{_CODES[colour]}m{text}\033[0m"


def report_text(found: Any, colours: Sequence[str]) -> str:
    """Write a report, such as `summary` gives, with all its rows: very many in several tables.

    Args:
        found: a dataclass with rows, a headline, and a text of the two with a line for each row.
        colours: of each row.
    """
    lines, head = [paint(found.headline(), "bold")], ""
    for start in range(0, len(found.rows), _AT_ONCE):
        part = replace(found, rows=found.rows[start : start + _AT_ONCE])
        _, its_head, *table = part.to_text(width()).split("\n")
        if its_head != head:
            lines.append(paint(its_head, "bold"))
        head = its_head
        lines += map(paint, table, colours[start : start + _AT_ONCE])
    return "\n".join(lines)


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], wide: int, colours: Iterable[str] = ()
) -> list[str]:
    """Write rows in columns, all of them, as `display.table_text` does.

    Args:
        head: the titles of the columns.
        rows: the cells.
        wide: how many of the first columns hold text, and are cut to fit.
        colours: of each row; without any they have none.
    """
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    # heads every piece, so that all have columns of one width, and is not shown
    ruler = ["-" * max(map(text_width, column)) for column in zip(*cells, strict=True)]
    lines: list[str] = []
    for start in range(0, len(cells), _AT_ONCE):
        text = display.table_text(ruler, cells[start : start + _AT_ONCE], width(), wide)
        lines += text.split("\n")[1:]
    shades = ("bold", *(colours or ("",) * len(rows)))
    return [paint(line, shade) for line, shade in zip(lines, shades, strict=True)]


def noted_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    wide: int,
    colours: Sequence[str],
    note: int,
    implied: str = "",
) -> list[str]:
    """Write rows as `table` does, or, where there is no room, each with its note on lines of its own.

    A note that is cut in its middle says nothing.

    Args:
        head: the titles of the columns.
        rows: the cells.
        wide: how many of the first columns hold text.
        colours: of each row.
        note: the column of the notes, one of these.
        implied: a note that the other columns tell as well, and that needs no line.
    """
    sizes = [max(map(text_width, map(printable, column))) for column in zip(head, *rows, strict=True)]
    if sum(sizes) + 2 * (len(sizes) - 1) <= width():
        return table(head, rows, wide, colours)
    short_head, *short = [(*cells[:note], *cells[note + 1 :]) for cells in (head, *rows)]
    first, *lines = table(short_head, short, wide - 1, colours)
    noted = [first]
    for line, cells, colour in zip(lines, rows, colours, strict=True):
        text = "" if cells[note] == implied else printable(cells[note])
        noted += [line, *(paint(f"    {each}", colour) for each in textwrap.wrap(text, max(width() - 4, 20)))]
    return noted


@contextmanager
def progress(what: str, total: int = 0) -> Generator["Bar"]:
    """Show a bar on the standard error, where this is a terminal and the work takes long; remove it again.

    Args:
        what: what is done, in a word.
        total: the bytes to be done; without them the time is shown that has passed.
    """
    bar = Bar(what, total)
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield bar
        return
    done = threading.Event()
    # a thread of its own, as one parameter may take long
    drawing = threading.Thread(target=bar.draw_until, args=(done, sys.stderr), daemon=True)
    drawing.start()
    try:
        yield bar
    finally:
        done.set()
        drawing.join()


class Bar:
    """How far some work is."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._began = time.monotonic()

    def add(self, count: int) -> None:
        """Count some bytes as done."""
        self._done = min(self._done + count, self._total)

    def draw_until(self, done: threading.Event, out: TextIO) -> None:
        """Draw again and again, once it has taken long, until all is done."""
        if done.wait(_PATIENCE):
            return
        while True:
            ended = done.is_set()  # the last picture shows where it ended
            columns = os.get_terminal_size(out.fileno()).columns or 80
            out.write(f"\r{self.text(columns - 1)}\033[K")
            out.flush()
            if ended:
                break
            done.wait(_EVERY)
        out.write("\r\033[K")
        out.flush()

    def text(self, columns: int) -> str:
        """Write it in one line."""
        passed = time.monotonic() - self._began
        if not self._total:
            return f"{self._what} {_time_text(passed)}"[:columns]
        share = self._done / self._total
        left = f", {_time_text(passed / share - passed)} left" if share else ""
        said = f"{share:4.0%} of {bytes_text(self._total)}{left}"
        room = min(columns - len(self._what) - len(said) - 4, _LONGEST_BAR)
        full = round(share * room)
        bar = f"[{'#' * full}{'.' * (room - full)}] " if room > 3 else ""
        return f"{self._what} {bar}{said}"[:columns]


def _time_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
