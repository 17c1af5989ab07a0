"""Norms of gradients: one row for each parameter, next to the norm of its values, and their ratio."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paramtree.display import shape_text
from paramtree.errors import MismatchError, UnknownNameError, did_you_mean, listing, raise_faults
from paramtree.names import flatten_named, structure_of
from paramtree.report.plot_canvas import (
    BLUE,
    INK,
    LINE,
    ORANGE,
    RED,
    SMALL,
    SOFT,
    Box,
    head_height,
    label_ticks,
    lay_rows,
    log_ticks,
    make_canvas,
    sheet_width,
)
from paramtree.report.plot_data import (
    Drawn,
    Item,
    count_nonfinite,
    cut_middle,
    finite,
    holds_numbers,
    read_items,
    rms,
)
from paramtree.tree import fixed_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 200  # rows of one picture
_NORMS, _RATIO = 4.2, 2.6  # inches of the two panels


class Norms(NamedTuple):
    """The L2 norms of one parameter and of its gradient.

    Attributes:
        name: of the parameter.
        weight: the norm of its finite values.
        grad: the norm of the gradient's finite values.
        note: what is odd about the gradient.
    """

    name: str
    weight: float
    grad: float
    note: str

    @property
    def ratio(self) -> float:
        """The gradient's norm in parts of the parameter's; NaN where either is zero."""
        return self.grad / self.weight if self.weight and self.grad else float("nan")


def read_norms(params: Any, drawn: Drawn, grads: Any) -> tuple[list[Norms], list[str]]:
    """Pair parameters with their gradients by name; give the norms, and notes on what is left out.

    Raises:
        UnknownNameError: listing every gradient whose parameter is not in the tree.
        MismatchError: listing every gradient of another shape, or where no parameter has one.
    """
    found, fixed, structure = _by_name(grads), fixed_names(structure_of(params)), structure_of(params)
    unknown = [
        f"{name!r} is not in the tree.{did_you_mean(name, structure.names)}"
        for name in found
        if name not in structure.position
    ]
    raise_faults(UnknownNameError, "plot: these gradients have no parameter:", unknown)
    bare = [item.name for item in drawn.items if item.name not in found]
    held = [item.name for item in drawn.items if item.name in found and item.name in fixed]
    paired = [
        (item, found[item.name]) for item in drawn.items if item.name in found and item.name not in fixed
    ]
    faults = [
        f"{item.name} has shape {shape_text(item.shape)}, and its gradient {shape_text(grad.shape)}"
        for item, grad in paired
        if item.shape != grad.shape
    ]
    raise_faults(MismatchError, "plot: these gradients do not fit:", faults)
    if not paired:
        names = listing([item.name for item in drawn.items], 6)
        raise MismatchError(f"plot: none of these parameters has a gradient: {names}.")
    notes = [
        f"left out, as they {why}: {listing(names, 6)}"
        for why, names in (("are fixed", held), ("have no gradient", bare))
        if names
    ]
    return [_norms(item, grad) for item, grad in paired], [*drawn.notes(), *notes]


def _by_name(grads: Any) -> dict[str, Item]:
    """Map names to gradients; that of an integer, which JAX writes as an array of no numbers, is none."""
    if not any(map(holds_numbers, flatten_named(grads)[0])):
        return {}
    return {item.name: item for item in read_items(grads, None).items}


def _norms(item: Item, grad: Item) -> Norms:
    weight, slope = item.numbers(), grad.numbers()
    strange = count_nonfinite(slope)
    norm = _norm(slope)
    note = f"gradient {strange}" if strange else "gradient 0" if not norm else ""
    return Norms(item.name, _norm(weight), norm, note)


def _norm(values: Any) -> float:
    kept = finite(values)
    return rms(kept) * float(np.sqrt(kept.size))


def draw_grads(norms: list[Norms], notes: list[str], figure: Any) -> Any:
    """Draw the norms of parameters and gradients in rows, and their ratio beside."""
    shown, cut = cut_middle(norms, _MOST)
    zero = any(not each.weight or not each.grad for each in shown)
    notes = [*notes, *(["x at the left edge: a norm of 0"] if zero else []), *([cut] if cut else [])]
    rows = lay_rows([each.name for each in shown], [each.note for each in shown], tallest=0.5)
    top = head_height(notes) + 0.3
    left = rows.label + 0.15
    wide = sheet_width(figure, left + _NORMS + 0.3 + _RATIO + rows.note)
    room = max(wide - left - 0.3 - rows.note, 1.0) / (_NORMS + _RATIO)
    canvas = make_canvas(wide, top + rows.total + 0.6, figure)
    one = len(norms) == 1
    canvas.head("Gradient norm" if one else f"Gradient norms of {len(norms):,} parameters", notes)
    both = canvas.axes(Box(left, top, room * _NORMS, rows.total))
    ratio = canvas.axes(Box(left + room * _NORMS + 0.3, top, room * _RATIO, rows.total))
    _draw_both(both, shown)
    _draw_points(ratio, [each.ratio for each in shown], marker="D", color=ORANGE, markersize=4)
    _axis(both, "L2 norm", [size for each in shown for size in (each.weight, each.grad)], rows.total > 6)
    _axis(ratio, "gradient / parameter", [each.ratio for each in shown], rows.total > 6)
    rows.mark(both)
    rows.mark(ratio)
    ratio.tick_params(labelleft=False)
    rows.annotate(ratio, [each.note for each in shown])
    return canvas.figure


def _draw_both(axes: "Axes", norms: list[Norms]) -> None:
    weights, grads = [each.weight or np.nan for each in norms], [each.grad or np.nan for each in norms]
    axes.hlines(range(len(norms)), weights, grads, color=LINE, linewidth=1.5, zorder=1)
    _draw_points(
        axes, weights, marker="o", color=SOFT, markersize=4.5, markerfacecolor="white", label="parameter"
    )
    _draw_points(axes, grads, marker="o", color=BLUE, markersize=4.5, label="gradient")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        bbox_transform=axes.transAxes,
        ncols=2,
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        borderaxespad=1.6 if len(norms) > 30 else 0.2,
    )
    for row, each in enumerate(norms):
        for value, colour, place in ((each.weight, SOFT, 0.03), (each.grad, RED, 0.01)):
            if not value:
                axes.plot(place, row, "x", transform=axes.get_yaxis_transform(), color=colour, markersize=4)


def _draw_points(axes: "Axes", values: list[float], **look: Any) -> None:
    axes.plot(values, range(len(values)), linestyle="none", zorder=3, **look)


def _axis(axes: "Axes", label: str, values: list[float], tall: bool) -> None:
    positive = [value for value in values if value > 0] or [0.1, 10.0]
    middle = float(np.sqrt(min(positive)) * np.sqrt(max(positive)))
    low, high = min(min(positive) / 2, middle / 10), max(max(positive) * 2, middle * 10)
    axes.set_xlim(low, high)  # first, as the margin that matplotlib adds to an open axis may overflow
    axes.set_xscale("log")
    label_ticks(axes.xaxis, log_ticks(low, high, 5))
    axes.set_xlabel(label, size=SMALL + 1, color=INK)
    axes.grid(axis="x", color=LINE, linewidth=0.6, zorder=0)
    axes.tick_params(axis="x", top=tall, labeltop=tall)
