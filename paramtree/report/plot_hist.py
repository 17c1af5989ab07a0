"""Histograms: one row for each parameter, all on one scale."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paramtree.report.plot_canvas import (
    BLUE,
    INK,
    LINE,
    ORANGE,
    SMALL,
    Box,
    Scale,
    head_height,
    label_ticks,
    lay_rows,
    make_canvas,
    shared_scale,
    sheet_width,
)
from paramtree.report.plot_data import Array, Drawn, Item, count_nonfinite, cut_middle, finite, rms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 120
_MOST = 200  # rows of one picture
_WIDTH = 6.2  # inches of the histograms
_SPREAD = 100.0  # sizes of the small ones that a straight axis has room for: they take 3 % of its width
_CHUNK = 1 << 20  # values counted at a time


class _Seen(NamedTuple):
    """What the values of one parameter are like."""

    low: float
    high: float
    rms: float
    note: str


def draw_hist(drawn: Drawn, figure: Any) -> Any:
    """Draw the histogram of each parameter in a row of its own."""
    items, cut = cut_middle(drawn.items, _MOST)
    seen = [_look(item) for item in items]
    lows, highs = [each.low for each in seen], [each.high for each in seen]
    low, high = min(lows, default=0.0), max(highs, default=0.0)
    scale = shared_scale([each.rms for each in seen], max(abs(low), abs(high)), spread=_SPREAD)
    edges = _edges(scale, low, high)
    names = [item.name for item in items]
    first = "each to its own peak" if len(items) > 1 else f"number of values: {np.size(items[0].leaf):,}"
    notes = [first, *drawn.notes(), *([cut] if cut else [])]
    notes += [f"the axis bends: a bell much wider than ±{scale.width:g} shows as two"] if scale.width else []
    rows = lay_rows(names, [each.note for each in seen])
    top = head_height(notes) + 0.3
    left = rows.label + 0.15
    wide = sheet_width(figure, left + _WIDTH + rows.note)
    canvas = make_canvas(wide, top + rows.total + 0.6, figure)
    canvas.head(_title(len(drawn.items)), notes)
    axes = canvas.axes(Box(left, top, max(wide - left - rows.note, 0.5), rows.total))
    _axis(axes, scale, edges, tall=rows.total > 6)
    for row, item in enumerate(items):
        _draw_row(axes, row, item, scale, edges)
    rows.mark(axes)
    rows.annotate(axes, [each.note for each in seen])
    _legend(axes, {len(item.shape) > 1 for item in items})
    return canvas.figure


def _title(count: int) -> str:
    return f"Histograms of {count:,} parameters" if count > 1 else "Histogram"


def _look(item: Item) -> _Seen:
    values = item.numbers()
    if not values.size:
        return _Seen(0.0, 0.0, 0.0, "empty")
    strange, kept = count_nonfinite(values), finite(values)
    if not kept.size:
        return _Seen(0.0, 0.0, 0.0, f"all {strange}")
    low, high = float(kept.min()) + 0.0, float(kept.max()) + 0.0  # which makes -0 a 0
    said = [f"constant {low:.3g}"] if low == high and values.size > 1 else []
    said += [f"{strange} left out"] if strange else []
    return _Seen(low, high, rms(kept), ", ".join(said))


def _edges(scale: Scale, low: float, high: float) -> Array:
    """Give the places of the bins' edges: of equal width on the axis, with a margin at both ends."""
    first, last = float(scale.forward(low)), float(scale.forward(high))
    margin = (last - first) * 0.03 or abs(first) * 0.5 or 1.0
    return np.linspace(first - margin, last + margin, _BINS + 1)


def _counts(values: Array, scale: Scale, edges: Array) -> Array:
    most = len(edges) - 1
    counts, step = np.zeros(most, np.int64), (edges[-1] - edges[0]) / most
    flat = finite(values)
    for start in range(0, flat.size, _CHUNK):
        places = scale.forward(flat[start : start + _CHUNK].astype(np.float64))
        bins = np.clip((places - edges[0]) / step, 0, most - 1).astype(np.int64)
        counts += np.bincount(bins, minlength=most)
    return counts


def _draw_row(axes: "Axes", row: int, item: Item, scale: Scale, edges: Array) -> None:
    counts = _counts(item.numbers(), scale, edges)
    base = row + 0.42
    axes.axhline(base, color=LINE, linewidth=0.6, zorder=1)
    if counts.any():
        colour = BLUE if len(item.shape) > 1 else ORANGE
        heights = base - 0.84 * counts / counts.max()
        axes.stairs(heights, scale.backward(edges), baseline=base, fill=True, color=colour, zorder=2)


def _axis(axes: "Axes", scale: Scale, edges: Array, tall: bool) -> None:
    if scale.width:
        axes.set_xscale("asinh", linear_width=scale.width)
    low, high = scale.backward(edges[[0, -1]])
    axes.set_xlim(low, high)
    if scale.width:
        label_ticks(axes.xaxis, scale.ticks(low, high))
    axes.set_xlabel(scale.label("value"), size=SMALL + 1, color=INK)
    axes.grid(axis="x", color=LINE, linewidth=0.6, zorder=0)
    axes.tick_params(axis="x", top=tall, labeltop=tall)


def _legend(axes: "Axes", kinds: set[bool]) -> None:
    """Name the colours, where there are two."""
    if len(kinds) < 2:
        return
    for colour, text, back in ((BLUE, "matrices, kernels", 100), (ORANGE, "vectors, scalars", 0)):
        axes.annotate(
            f"■ {text}",
            (1, 1),
            xytext=(-back, 20),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            size=SMALL,
            color=colour,
        )
