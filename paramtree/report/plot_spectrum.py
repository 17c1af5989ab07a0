"""Singular values: a panel for each matrix, all on the same axes."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paramtree.errors import MismatchError, listing
from paramtree.report.plot_canvas import (
    BLUE,
    LINE,
    MONO,
    RED,
    SOFT,
    Box,
    Canvas,
    Grid,
    elided,
    elided_apart,
    head_height,
    label_ticks,
    lay_grid,
    letters,
    log_ticks,
    make_canvas,
    sheet_width,
)
from paramtree.report.plot_data import LARGEST, Array, Drawn, Item, count_nonfinite, cut_middle, is_complex
from paramtree.report.plot_matrices import as_matrices, as_tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 200  # panels of one picture
_FEW = 24  # singular values that are drawn as points
_DECADES = 1e-8  # of the largest of its matrix: what is smaller is zero but for rounding
_WORDS = 0.32  # inches above a panel
_LEFT = 0.75  # inches of the numbers at the left


class Spectrum(NamedTuple):
    """The singular values of one parameter.

    Attributes:
        name: of the parameter.
        values: (several, singular values), each row falling; empty where there are none.
        words: the sizes, and the rank.
        fault: why there are none, or that the rank is not full.
    """

    name: str
    values: Array
    words: str
    fault: str


def draw_spectrum(drawn: Drawn, figure: Any) -> Any:
    """Draw the singular values of each matrix in a panel of its own.

    Raises:
        MismatchError: where there is no matrix.
    """
    matrices = [item for item in drawn.items if len(item.shape) > 1]
    if not matrices:
        names = listing([item.name for item in drawn.items], 6)
        raise MismatchError(
            f"plot: kind 'spectrum' needs matrices, and these have fewer than two axes: {names}."
        )
    shown, cut = cut_middle(matrices, _MOST)
    spectra = [spectrum_of(item) for item in shown]
    less = len(drawn.items) - len(matrices)
    said = [f"not shown: {less:,} of fewer than two axes"] if less else []
    notes = [*drawn.notes(parts=True), *said, *([cut] if cut else [])]
    grid = lay_grid(len(spectra), sheet_width(figure, 10.45) - _LEFT - 0.1)
    height = min(grid.width * 0.72, 2.6)
    top, lines = head_height(notes), grid.rows(len(spectra))
    width = sheet_width(figure, max(_LEFT + min(len(spectra), grid.columns) * grid.width + 0.1, 4.5))
    canvas = make_canvas(width, top + lines * (height + _WORDS) + 0.6, figure)
    one = len(matrices) == 1
    canvas.head("Singular values" if one else f"Singular values of {len(matrices):,} matrices", notes)
    limits = _limits(spectra)
    labels = elided_apart([each.name for each in spectra], letters(grid.width - 0.1, grid.size))
    for number, (spectrum, label) in enumerate(zip(spectra, labels, strict=True)):
        row, column = grid.at(number)
        box = Box(
            _LEFT + column * grid.width,
            top + row * (height + _WORDS) + _WORDS,
            grid.width - 0.2,
            height - 0.08,
        )
        axes = canvas.axes(box)
        _draw_panel(axes, spectrum, limits)
        axes.tick_params(labelleft=column == 0, labelbottom=number + grid.columns >= len(spectra))
        _write(canvas, box, spectrum, label, grid)
    canvas.text(_LEFT, canvas.height - 0.22, "place among the singular values, from the largest to the least")
    middle = top + lines * (height + _WORDS) / 2
    canvas.text(0.15, middle, "singular value (not normalised)", rotation=90, va="center")
    return canvas.figure


def spectrum_of(item: Item) -> Spectrum:
    """Find the singular values of a parameter of two or more axes.

    >>> found = spectrum_of(Item("weight", np.diag([3.0, 2.0, 0.0])))
    >>> found.values, found.words, found.fault
    (array([[3., 2., 0.]]), '3x3', 'rank 2 of 3')
    """
    values = item.numbers()
    none = np.zeros((1, 0))
    if not values.size:
        return Spectrum(item.name, none, "x".join(map(str, item.shape)), "empty")
    tiles = as_tiles(item.name, np.asarray(item.leaf) if is_complex(item.leaf) else values)
    strange = count_nonfinite(values)
    if strange:
        return Spectrum(item.name, none, tiles.text, f"{strange}: none")
    matrices = as_matrices(tiles)
    scale = np.abs(matrices).max()  # of numbers near the largest, singular values have no place in the dtype
    found = np.linalg.svd(matrices / scale if scale else matrices, compute_uv=False)
    least = found[:, :1] * max(matrices.shape[1:]) * np.finfo(found.dtype).eps
    rank, full = int((found > least).sum(1).min()), found.shape[1]
    found = np.minimum(found.astype(np.float64) * float(scale or 1), LARGEST)
    return Spectrum(item.name, found, tiles.text, f"rank {rank} of {full}" if rank < full else "")


def _limits(spectra: list[Spectrum]) -> tuple[float, float]:
    """Give the ends of the axis of singular values: all there are, but for what is zero by rounding."""
    each = [spectrum.values for spectrum in spectra]
    shown = np.concatenate([values[values > values.max(initial=0.0) * _DECADES] for values in each])
    largest = float(shown.max(initial=0.0)) or 1.0
    return float(shown.min(initial=largest / 10)) / 1.5, largest * 1.5


def _draw_panel(axes: "Axes", spectrum: Spectrum, limits: tuple[float, float]) -> None:
    several, count = spectrum.values.shape
    places = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    positive = np.where(spectrum.values > 0, spectrum.values, np.nan)
    style: dict[str, Any] = {"marker": "o", "markersize": 3} if count <= _FEW and several == 1 else {}
    if count:
        axes.plot(places, positive.T, color=BLUE, linewidth=1.4 if several == 1 else 0.7, **style)
    axes.set_ylim(*limits)  # first, as the margin that matplotlib adds to an open axis may overflow
    axes.set_yscale("log")
    label_ticks(axes.yaxis, log_ticks(*limits))
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.grid(color=LINE, linewidth=0.6)


def _write(canvas: Canvas, box: Box, spectrum: Spectrum, label: str, grid: Grid) -> None:
    most = letters(box.width + 0.1, grid.size)
    canvas.text(box.left, box.top - _WORDS + 0.03, label, size=grid.size, family=MONO)
    words = elided(", ".join(filter(None, (spectrum.fault, spectrum.words))), round(most * 1.1))
    colour = RED if spectrum.fault else SOFT
    canvas.text(box.left, box.top - _WORDS + 0.165, words, size=grid.size - 0.5, color=colour)
