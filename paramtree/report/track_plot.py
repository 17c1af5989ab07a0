"""Recorded statistics over the steps: lines for a few parameters, rows of colours for many."""

from typing import TYPE_CHECKING, Any

import numpy as np

from paramtree.errors import ParamTreeError
from paramtree.report.plot_canvas import (
    INK,
    LINE,
    MONO,
    RED,
    SERIES,
    SIGNED,
    SMALL,
    Box,
    Canvas,
    elided_apart,
    head_height,
    label_ticks,
    lay_rows,
    log_ticks,
    make_canvas,
    shared_scale,
    sheet_width,
)
from paramtree.report.plot_data import Array, count_nonfinite, cut_middle, finite, rms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Names = tuple[str, ...]
Values = dict[str, Array]

_MOST = 200  # rows of one picture
_SPREAD = 30  # largest over smallest value, from which on a scale is logarithmic
_RISING = "viridis"  # one hue to another, from dark to light, also in grey
_PANEL = 3.4  # inches


def draw_frame(names: Names, steps: Array, values: Values, figure: Any) -> Any:
    """Draw a panel for each statistic.

    Raises:
        ParamTreeError: where no step is recorded.
    """
    if not len(steps):
        raise ParamTreeError("track: there is nothing to plot; no step is recorded yet.")
    strange = count_nonfinite(np.stack(list(values.values())))
    notes = [f"not finite, and not shown: {strange}"] if strange else []
    if len(names) <= len(SERIES):
        return _draw_lines(names, steps, values, notes, figure)
    return _draw_rows(names, steps, values, notes, figure)


def _title(names: Names, steps: Array) -> str:
    number = f"{len(names):,} parameter{'' if len(names) == 1 else 's'}"
    return f"{number} over {len(steps):,} recorded step{'' if len(steps) == 1 else 's'}"


def _draw_lines(
    names: tuple[str, ...], steps: Array, values: dict[str, Array], notes: list[str], figure: Any
) -> Any:
    columns = min(len(values), 2)
    lines = -(-len(values) // columns)
    legend = 0.17 * len(names)
    top, high, gap = head_height(notes) + legend + 0.35, 2.3, 0.85
    width = sheet_width(figure, 0.75 + columns * (_PANEL + gap))
    wide = (width - 0.75) / columns - gap + 0.1
    canvas = make_canvas(width, top + lines * (high + 0.6) + 0.1, figure)
    canvas.head(_title(names, steps), notes)
    for at, name in enumerate(elided_apart(names, 90)):
        look = {"size": SMALL, "family": MONO}
        place = head_height(notes) + 0.17 * at
        canvas.text(0.15, place, "\N{BLACK SQUARE}", color=SERIES[at], size=SMALL)
        canvas.text(0.32, place, name, **look)
    for number, (statistic, rows) in enumerate(values.items()):
        row, column = divmod(number, columns)
        axes = canvas.axes(Box(0.75 + column * (wide + gap), top + row * (high + 0.6), wide, high))
        for at in range(len(names)):
            style = "o" if len(steps) == 1 else "-"
            axes.plot(steps, _known(rows[:, at]), style, color=SERIES[at], linewidth=1.4, markersize=4)
        _finish_lines(axes, statistic, rows)
        margin = 0.05 * float(steps[-1] - steps[0]) or 0.5
        axes.set_xlim(float(steps[0]) - margin, float(steps[-1]) + margin)  # one for all, known or not
        axes.set_xlabel("step" if number + columns >= len(values) else "", size=SMALL + 1, color=INK)
    return canvas.figure


def _known(values: Array) -> Array:
    return np.where(np.isfinite(values), values, np.nan).astype(np.float64)


def _finish_lines(axes: "Axes", statistic: str, rows: Array) -> None:
    axes.grid(color=LINE, linewidth=0.6, zorder=0)
    ends = _log_ends(rows)
    if ends:
        axes.set_yscale("log")
        axes.set_ylim(ends[0] / 1.3, ends[1] * 1.3)
        label_ticks(axes.yaxis, log_ticks(ends[0] / 1.3, ends[1] * 1.3))
    axes.set_title(statistic, loc="left", size=SMALL + 2, color=INK)
    _count_steps(axes)


def _count_steps(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _log_ends(values: Array) -> tuple[float, float] | None:
    """Give the ends of a logarithmic scale, where values are positive and far apart; else nothing."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not known.size or known.min() <= 0 or known.max() < _SPREAD * known.min():
        return None
    return float(known.min()), float(known.max())


def _draw_rows(
    names: tuple[str, ...], steps: Array, values: dict[str, Array], notes: list[str], figure: Any
) -> Any:
    shown, cut = cut_middle(range(len(names)), _MOST)
    notes = [*notes, *([cut] if cut else [])]
    rows = lay_rows([names[at] for at in shown], [])
    left, gap = rows.label + 0.15, 0.45
    width = sheet_width(figure, left + len(values) * (2.4 + gap))
    wide = (width - left) / len(values) - gap
    top = head_height(notes) + 0.75
    canvas = make_canvas(width, top + rows.total + 0.6, figure)
    canvas.head(_title(names, steps), notes)
    for number, (statistic, found) in enumerate(values.items()):
        box = Box(left + number * (wide + gap), top, wide, rows.total)
        axes = canvas.axes(box)
        _draw_colours(canvas, axes, box, statistic, _known(found[:, shown]), steps)
        rows.mark(axes)
        axes.tick_params(labelleft=number == 0)
        _count_steps(axes)
        axes.set_xlabel("step", size=SMALL + 1, color=INK)
    return canvas.figure


def _draw_colours(canvas: Canvas, axes: "Axes", box: Box, statistic: str, found: Array, steps: Array) -> None:
    """Draw parameters as rows and steps as columns, with a bar of colours above."""
    from matplotlib import colormaps

    norm, ticks, signed = _colour_scale(found)
    colours = colormaps[SIGNED if signed else _RISING].with_extremes(bad=RED)
    edges = np.append(steps, steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1))
    places = np.arange(found.shape[1] + 1) - 0.5
    mesh = axes.pcolormesh(edges, places, np.ma.masked_invalid(found).T, norm=norm, cmap=colours)
    bar: Any = canvas.figure.colorbar(
        mesh, cax=canvas.axes(Box(box.left, box.top - 0.42, box.width, 0.1)), orientation="horizontal"
    )
    bar.outline.set_visible(False)
    label_ticks(bar.ax.xaxis, [float(f"{tick:.2g}") for tick in ticks], ticks)
    canvas.text(box.left, box.top - 0.62, statistic, size=SMALL + 2)


def _colour_scale(found: Array) -> tuple[Any, list[float], bool]:
    """Choose the norm of colours, its ticks, and whether it is symmetric around zero."""
    from matplotlib.colors import AsinhNorm, LogNorm, Normalize

    known = found[np.isfinite(found)]
    ends = _log_ends(found)
    if ends:
        return LogNorm(*ends), log_ticks(*ends, 4), False
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    signed = low < 0
    if signed:
        low, high = -max(-low, high), max(-low, high)
        scale = shared_scale([rms(finite(column)) for column in found.T], high, 1.0)
        if scale.width:
            ticks = scale.ticks(low, high)
            return AsinhNorm(scale.width, low, high), [ticks[0], 0.0, ticks[-1]], True
    if low == high:
        low, high = low - 0.5, high + 0.5
    return Normalize(low, high), [low, (low + high) / 2, high], signed
