"""Pages for notebooks: tables that are sorted by a click, and a tree that folds and is searched.

All that a page needs is in it: its style, its script, nothing to be fetched. Where scripts are not run, as
in a notebook that is not trusted, a table is a table, and a tree still folds.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from html import escape
from importlib.resources import files

from paramtree.names import natural_name_key

_ROWS = 5_000  # in a table; a browser is slow to lay out more


def sortable_table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], keys: Sequence[Sequence[float | str]]
) -> str:
    """Build an HTML table that a click on a column's head sorts: up, down, and back as it was.

    Every cell is escaped. Columns whose keys are numbers stand at the right. Rows without a key, `""` or NaN,
    come last in either direction. Of more than 5,000 rows the first ones are shown, and the rest counted.

    Args:
        caption: its title.
        head: the titles of the columns.
        rows: the cells.
        keys: for each cell what it is sorted by: a number, or a text, in natural order.

    >>> rows = [["layer10", "1,000"], ["layer2", "20"]]
    >>> page = sortable_table("sizes", ["name", "count"], rows, [["layer10", 1000], ["layer2", 20]])
    >>> "<td>layer10</td><td>1,000</td>" in page
    True
    """
    shown = rows[:_ROWS]
    columns = list(zip(*keys[:_ROWS], strict=True)) or [() for _ in head]
    body = "".join(f"<tr>{_cells('td', row)}</tr>\n" for row in shown)
    rest = len(rows) - len(shown)
    note = f'<tfoot><tr><td colspan="{len(head)}">... {rest:,} more ...</td></tr></tfoot>' if rest else ""
    table = (
        f"<caption>{escape(caption)}</caption>"
        f"<thead><tr>{_cells('th', head)}</tr></thead>\n<tbody>{body}</tbody>{note}</table>"
    )
    ranks = json.dumps([_ranks(column) for column in columns], separators=(",", ":"))
    identity = identity_of(table, ranks)
    return (
        f"<style>{resource('table.css')}{_numbers_style(identity, columns)}</style>"
        f'<table class="paramtree-sort" data-paramtree="{identity}">{table}'
        f'<script>({resource("table.js")})("{identity}", {ranks})</script>'
    )


def _cells(tag: str, cells: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)


def _numbers_style(identity: str, columns: Sequence[Sequence[float | str]]) -> str:
    """Move the columns of numbers to the right: by a rule, as a class in every cell would double the page."""
    numbered = [f"tr > :nth-child({place})" for place, keys in enumerate(columns, 1) if _are_numbers(keys)]
    if not numbered:
        return ""
    return (
        f'\n.paramtree-sort[data-paramtree="{identity}"] :is({", ".join(numbered)}):not([colspan])'
        " { padding: .22em .5em .22em 1em; text-align: right; }"
    )


def _is_missing(key: float | str) -> bool:
    return key == "" or key != key


def _are_numbers(column: Sequence[float | str]) -> bool:
    held = [key for key in column if not _is_missing(key)]
    return bool(held) and not any(isinstance(key, str) for key in held)


def _ranks(column: Sequence[float | str]) -> list[int]:
    """Give each key its place among all keys, the same to equal ones; -1 where there is none."""
    held = {key for key in column if not _is_missing(key)}
    order = {key: place for place, key in enumerate(sorted(held, key=_sort_key))}
    return [order.get(key, -1) for key in column]


def _sort_key(key: float | str) -> tuple[bool, float, list[tuple[object, ...]]]:
    return (True, 0.0, natural_name_key(key)) if isinstance(key, str) else (False, key, [])


def identity_of(*parts: str) -> str:
    """Derive an id from what a page shows: the same page has the same id whenever it is made.

    >>> identity_of("a", "b") == identity_of("a", "b") != identity_of("ab")
    True
    """
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


@lru_cache(maxsize=8)
def resource(name: str) -> str:
    """Read a style sheet or script that lies beside this file."""
    return files("paramtree.report").joinpath(name).read_text(encoding="utf-8").strip()
