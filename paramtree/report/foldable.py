"""The HTML of a tree: nested lists that fold without a script, in columns that line up at any depth."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

from paramtree import display
from paramtree.letters import printable
from paramtree.names import SEPARATOR
from paramtree.report.cells import bytes_text, count_text, number_text
from paramtree.report.outline import (
    Block,
    Line,
    entries,
    faults_text,
    holds_text,
    key_text,
)

_OPEN = 60  # lines that are seen before anything is opened
_HIGH = 16  # pixels, of a histogram
_WIDE = 4  # pixels, of one of its bars
_INDENT = 2  # characters, as in the style sheet
_BESIDE = 4  # characters that a copy button takes
_GAP = 2  # characters between columns, as in the style sheet
_LEAST = 12  # characters of names
_NAMES = (24, 56)  # characters that names have where there is little room, and at most
_ROOM = ((5, 26), (5, 14), (5, 18), (12, 14), (0, 12), (0, 24))  # and of each column beside them
_CLOSED = "</ul></details></li>"


class _Cells(NamedTuple):
    """The texts of a line's columns."""

    shape: str = "shape"
    dtype: str = "dtype"
    size: str = "count"
    values: str = "values, size"
    mark: str = ""
    faults: str = ""


def tree_html(rows: Sequence[Line], blocks: Mapping[str, Block], identity: str) -> str:
    """Write a tree as nested lists.

    Args:
        rows: its parameters and tied places, in natural order.
        blocks: what lies in each block.
        identity: what the ids of the lines that ties lead to begin with.
    """
    if not rows:
        return ""
    known = {row.name for row in rows} | blocks.keys()
    sources = sorted({row.tied for row in rows} & known - {""})
    ids = {source: f"paramtree-{identity}-{place}" for place, source in enumerate(sources)}
    return (
        f'<div class="paramtree-tree" style="{_widths(rows, blocks)}">'
        f"<header><b>name</b> {_spans(_Cells())}</header>"
        f"<ul>{''.join(_nested(rows, blocks, ids))}</ul></div>"
    )


def _nested(rows: Sequence[Line], blocks: Mapping[str, Block], ids: Mapping[str, str]) -> Iterator[str]:
    level, open_levels = 0, _open_levels(rows, blocks)
    for depth, name, entry in entries(rows, blocks):
        yield _CLOSED * (level - depth)
        level = depth
        head = f"{_id(name, ids)}>{_key(name)} "
        if isinstance(entry, Block):
            opened = " open" if depth < open_levels else ""
            cells = _spans(_block_cells(entry))
            yield f'<li class="b"><details{opened}><summary{head}{cells}</summary><ul>\n'
            level = depth + 1
        elif entry.tied:
            yield f"<li{head}{_tie(entry, ids)}</li>\n"
        else:
            yield f"<li{head}{_spans(_line_cells(entry), _picture(entry))}</li>\n"
    yield _CLOSED * level


def _open_levels(rows: Sequence[Line], blocks: Mapping[str, Block]) -> int:
    """Choose how many levels of blocks are open at first: as many as show few lines in all."""
    counts = Counter(depth for depth, _, _ in entries(rows, blocks))
    seen = counts[0]
    for depth in range(1, len(counts)):
        seen += counts[depth]
        if seen > _OPEN:
            return depth - 1
    return len(counts)


def _id(name: str, ids: Mapping[str, str]) -> str:
    return f' id="{ids[name]}"' if name in ids else ""


def _key(name: str) -> str:
    """Write a key; one that cannot be read back from the page as it is stands in an attribute too."""
    shown, key = key_text(name), name.rpartition(SEPARATOR)[2]
    return f"<b{'' if shown == key else _data('key', key)}>{escape(shown)}</b>"


def _data(word: str, text: str) -> str:
    encoded = text.encode("utf-8", "replace")  # half a surrogate pair cannot be in a page
    return f' data-{word}="{escape(encoded.decode())}"'


def _tie(row: Line, ids: Mapping[str, str]) -> str:
    source = escape(printable(row.tied))
    place = f'<a href="#{ids[row.tied]}">{source}</a>' if row.tied in ids else source
    names = [name[len(row.name) :] for name in row.inside]
    inside = _data("inside", json.dumps(names)) if names != [""] else ""
    return f"<i{inside}>→ {place}{', transposed' if row.transposed else ''}</i>"


def _block_cells(block: Block) -> _Cells:
    faults = faults_text(block.nan, block.infinite)
    if not block.parameters:
        return _Cells(holds_text(block), "", "", "", "", faults)
    return _Cells(holds_text(block), "", count_text(block.size), bytes_text(block.nbytes), "", faults)


def _line_cells(row: Line) -> _Cells:
    faults = faults_text(row.values.nan, row.values.infinite) if row.values else ""
    if row.shape is None:
        return _Cells(row.said, row.dtype, "", "", row.mark, faults)
    shape, count = display.shape_text(row.shape), count_text(row.size)
    return _Cells(shape, row.dtype, count, _same_text(row), row.mark, faults)


def _same_text(row: Line) -> str:
    """Say what a parameter holds that is a number, or has one value only."""
    values = row.values
    if row.said or values is None or values.least is None or values.least != values.most:
        return row.said
    word = "others " if values.nan or values.infinite else "all " if row.size != 1 else ""
    return f"{word}{values.least:.4g}"


def _spans(cells: _Cells, picture: str = "") -> str:
    """Write the columns; empty ones at the end are left out."""
    *plain, faults = map(escape, cells)
    plain[3] = picture or plain[3]
    every = [*plain, f"<em>{faults}</em>" if faults else ""]
    while every and not every[-1]:
        every.pop()
    return " ".join(f"<span>{cell}</span>" for cell in every)


def _picture(row: Line) -> str:
    """Draw a small histogram, with its numbers as its title."""
    values = row.values
    if row.said or values is None or values.least == values.most:
        return ""
    mean, std, least, most = map(number_text, (values.mean, values.std, values.least, values.most))
    told = f"mean {mean}, std {std}, from {least} to {most}"
    size = f'width="{_WIDE * len(values.bins)}" height="{_HIGH}"'
    return f"<svg {size}><title>{told}</title>{_bars(values.bins)}</svg>"


def _bars(bins: Sequence[int]) -> str:
    """Draw bars as one outline; a bin that holds anything is seen."""
    highest = max(bins)
    tops = [_HIGH - (max(1, round(_HIGH * count / highest)) if count else 0) for count in bins]
    steps = (f"V{top}h{_WIDE * len(list(run))}" for top, run in groupby(tops))
    return f'<path d="M0 {_HIGH}{"".join(steps)}V{_HIGH}"/>'


def _widths(rows: Sequence[Line], blocks: Mapping[str, Block]) -> str:
    """Give each column the room of its longest cell, in characters, within bounds."""
    named, lengths = _LEAST, [0] * len(_ROOM)
    for depth, name, entry in entries(rows, blocks):
        named = max(named, _INDENT * (depth + 1) + len(key_text(name)) + _BESIDE)
        cells = _block_cells(entry) if isinstance(entry, Block) else _line_cells(entry)
        lengths = list(map(max, lengths, map(len, cells)))
    widths = [min(max(size, least), most) for size, (least, most) in zip(lengths, _ROOM, strict=True)]
    widths = [width + _GAP if width else 0 for width in widths]
    columns = "".join(f"--c{place}:{width}ch;" for place, width in enumerate(widths, 1))
    least, most = (min(named, most) + sum(widths) for most in _NAMES)
    return f"{columns}min-width:{least}ch;max-width:{most}ch"
