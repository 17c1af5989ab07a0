"""Images of weights: all on one scale of colours, symmetric around zero."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paramtree.report.plot_canvas import (
    MONO,
    RED,
    SIGNED,
    SOFT,
    Box,
    Canvas,
    Grid,
    Scale,
    elided,
    elided_apart,
    head_height,
    label_ticks,
    lay_grid,
    letters,
    make_canvas,
    shared_scale,
    sheet_width,
)
from paramtree.report.plot_data import Array, Drawn, Item, count_nonfinite, cut_middle, finite, rms
from paramtree.report.plot_matrices import Sheet, as_tiles, mosaic, ordinal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 200  # images of one picture
_TOGETHER = 5  # images that stand below each other: a matrix and the vectors that go with it
_SAMPLE = 4096  # values of one parameter that the scale is found from
_DPI = 100  # of a figure made here: a value is drawn as a whole number of pixels
_LEFT = 0.15  # inches
_GAP = 0.16  # inches between images
_WORDS = 0.30  # inches of the name and sizes above an image
_STRIP = 0.14  # inches of a vector's height


class _Tile(NamedTuple):
    """One image with its words; sizes in inches.

    Attributes:
        label: the name of the parameter, cut to the width of a cell.
        words: its sizes, and what part of it is shown.
        fault: what is wrong with its values; empty where nothing is.
        sheet: the image.
        width: as drawn.
        height: as drawn.
    """

    label: str
    words: str
    fault: str
    sheet: Sheet
    width: float
    height: float


class _Colours(NamedTuple):
    """The scale of colours: from -limit to limit."""

    scale: Scale
    limit: float
    clipped: bool

    def paint(self, sheet: Sheet) -> Array:
        """Give the pixels: red where a value is not finite, clear in the gaps."""
        from matplotlib import colormaps
        from matplotlib.colors import to_rgba

        known = np.isfinite(sheet.values)
        places = self.scale.forward(np.where(known, sheet.values, 0).astype(np.float64))
        pixels = colormaps[SIGNED](0.5 + 0.5 * places / self.scale.forward(self.limit))
        pixels[~known] = to_rgba(RED)
        pixels[sheet.gaps] = (0, 0, 0, 0)
        return pixels


def draw_image(drawn: Drawn, figure: Any) -> Any:
    """Draw each parameter as an image, in a grid."""
    items, cut = cut_middle(drawn.items, _MOST)
    colours = _colours([_sample(item) for item in items])
    grid, cells = _lay(items, sheet_width(figure, 10.15) - _LEFT)
    heights = [sum(_WORDS + tile.height + _GAP for tile in cell) for cell in cells]
    lines = [max(heights[at : at + grid.columns]) for at in range(0, len(cells), grid.columns)]
    notes = [*drawn.notes(), *([cut] if cut else [])]
    top = head_height(notes) + 0.66
    width = sheet_width(figure, max(_LEFT + min(len(cells), grid.columns) * grid.width, 4.5))
    canvas = make_canvas(_whole(width), _whole(top + sum(lines)), figure)
    canvas.head(f"Images of {len(drawn.items):,} parameters" if len(drawn.items) > 1 else "Image", notes)
    _colour_bar(canvas, head_height(notes), colours)
    for number, cell in enumerate(cells):
        row, column = grid.at(number)
        _draw_cell(canvas, cell, _LEFT + column * grid.width, top + sum(lines[:row]), grid, colours)
    return canvas.figure


def _sample(item: Item) -> Array:
    kept = finite(item.numbers())
    return np.abs(kept[:: max(1, kept.size // _SAMPLE)]).astype(np.float64)


def _colours(sampled: list[Array]) -> _Colours:
    pooled = np.concatenate(sampled)
    largest = float(pooled.max(initial=0.0))
    scale = shared_scale([rms(each) for each in sampled], largest, 1.0)
    limit = largest if scale.width or not pooled.size else float(np.quantile(pooled, 0.998))
    return _Colours(scale, limit or largest or 1.0, 0 < limit < largest)


def _whole(inches: float) -> float:
    """Round to whole pixels."""
    return round(inches * _DPI) / _DPI


def _lay(items: list[Item], room: float) -> tuple[Grid, list[list[_Tile]]]:
    """Find the grid, and put into each of its cells a matrix with the vectors of the same block."""
    blocks: list[list[Item]] = []
    for item in items:
        together = blocks[-1] if blocks else []
        same = together and together[0].name.rpartition("/")[0] == item.name.rpartition("/")[0]
        if same and len(item.shape) < 2 and len(together) < _TOGETHER:
            together.append(item)
        else:
            blocks.append([item])
    grid = lay_grid(len(blocks), room)
    grid = grid._replace(width=_whole(grid.width))
    pixels = round((grid.width - _GAP) * _DPI)
    labels = iter(elided_apart([item.name for item in items], letters(grid.width - _GAP, grid.size)))
    return grid, [[_tile(item, next(labels), pixels) for item in block] for block in blocks]


def _tile(item: Item, label: str, room: int) -> _Tile:
    values = item.numbers()
    fault = count_nonfinite(values)
    if not values.size:
        empty = Sheet(np.zeros((1, 1)), np.ones((1, 1), bool))
        return _Tile(label, "x".join(map(str, item.shape)), "empty", empty, room / _DPI, _STRIP)
    if values.ndim < 2:
        return _strip(label, values, fault, room)
    tiles = as_tiles(item.name, values)
    sheet = mosaic(tiles, room // 2 if tiles.kernels else room)
    rows, columns = sheet.values.shape
    # a side is drawn no shorter than a quarter of the other, and each value in whole pixels
    longer = max(rows, columns)
    zoom_x = max(1, int(room * max(columns / longer, 0.25)) // columns)
    zoom_y = max(1, int(room * max(rows / longer, 0.25)) // rows)
    words = ", ".join(filter(None, (tiles.text, sheet.note)))
    return _Tile(label, words, fault, sheet, columns * zoom_x / _DPI, rows * zoom_y / _DPI)


def _strip(label: str, values: Array, fault: str, room: int) -> _Tile:
    step = -(-values.size // room)
    shown = values.reshape(1, -1)[:, ::step]
    words = str(values.size) if values.ndim else f"{float(values):.4g}"
    note = f"every {ordinal(step)}" if step > 1 else ""
    width = shown.size * (room // shown.size) / _DPI
    sheet = Sheet(shown, np.zeros(shown.shape, bool))
    return _Tile(label, ", ".join(filter(None, (words, note))), fault, sheet, width, _STRIP)


def _draw_cell(
    canvas: Canvas, cell: list[_Tile], left: float, top: float, grid: Grid, colours: _Colours
) -> None:
    most = letters(grid.width - _GAP, grid.size)
    for tile in cell:
        canvas.text(left, top, tile.label, size=grid.size, family=MONO)
        words = elided(", ".join(filter(None, (tile.fault, tile.words))), round(most * 1.1))
        canvas.text(left, top + 0.135, words, size=grid.size - 0.5, color=RED if tile.fault else SOFT)
        box = Box(_whole(left), _whole(top + _WORDS), tile.width, tile.height)
        _draw_tile(canvas.axes(box), tile, colours)
        top += _WORDS + tile.height + _GAP


def _draw_tile(axes: "Axes", tile: _Tile, colours: _Colours) -> None:
    axes.imshow(colours.paint(tile.sheet), aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _colour_bar(canvas: Canvas, top: float, colours: _Colours) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    end = colours.scale.forward(colours.limit)
    bar: Any = canvas.figure.colorbar(
        ScalarMappable(Normalize(-end, end), SIGNED),
        cax=canvas.axes(Box(_LEFT + 0.1, top + 0.2, 3.6, 0.13)),
        orientation="horizontal",
        extend="both" if colours.clipped else "neither",
    )
    bar.outline.set_visible(False)
    if colours.scale.width:
        ticks = colours.scale.ticks(-colours.limit, colours.limit, 200)  # the bar is short
        label_ticks(bar.ax.xaxis, ticks, colours.scale.forward(np.array(ticks)))
    canvas.text(_LEFT + 0.1, top + 0.02, colours.scale.label("value"), color=SOFT)
