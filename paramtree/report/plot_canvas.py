"""The sheet that pictures are drawn on: places in inches, one look, and a figure that shows in a notebook.

A figure is made without pyplot, so that none stays open and no backend is needed. Axes are placed by hand:
this costs nothing with hundreds of them, and works in a user's figure, whatever lays it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paramtree.display import cut_apart
from paramtree.errors import ParamTreeError
from paramtree.letters import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Okabe and Ito, 2008, "Color universal design": told apart with colour-blind eyes, and here in grey too
BLUE, ORANGE, RED = "#0072B2", "#E69F00", "#D55E00"
SERIES = ("#000000", "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#E69F00", "#999999")
# dark blue, neutral at zero, yellow: the sign is told by hue, and by lightness where hue is lost
SIGNED = "cividis"
INK, SOFT, LINE = "#222222", "#666666", "#DDDDDD"
MONO = "monospace"
SMALL = 8.0  # points

_TITLE = 12.0
_EM = 0.602  # the width of a letter of DejaVu Sans Mono, in sizes of the font


class Box(NamedTuple):
    """A place on the sheet, in inches from its left upper corner."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Canvas:
    """A figure, and the size in inches that the places on it are given for.

    Attributes:
        figure: of matplotlib; of another size than planned, places are stretched to it.
        width: in inches.
        height: in inches.
    """

    figure: "Figure | SubFigure"
    width: float
    height: float

    def axes(self, box: Box, **settings: Any) -> "Axes":
        """Add axes with a quiet frame."""
        bottom = self.height - box.top - box.height
        place = (
            box.left / self.width,
            bottom / self.height,
            box.width / self.width,
            box.height / self.height,
        )
        added: Any = self.figure.add_axes(place, **settings)
        for side, spine in added.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(SOFT)
        added.set_facecolor("none")
        added.tick_params(colors=SOFT, labelcolor=INK, labelsize=SMALL, width=0.6, length=3)
        added.tick_params(which="minor", length=0)
        return added

    def text(self, left: float, top: float, text: str, **settings: Any) -> None:
        """Write a text whose left upper corner is given; it may hold any letters, as names do."""
        look: dict[str, Any] = {"size": SMALL, "color": INK, "va": "top", "parse_math": False} | settings
        self.figure.text(left / self.width, 1 - top / self.height, text, **look)

    def head(self, title: str, notes: Sequence[str]) -> None:
        """Write the title and, below it, the notes."""
        self.text(_EDGE, 0.14, title, size=_TITLE, weight="bold")
        room = int((self.width - 2 * _EDGE) * 72 / (SMALL * 0.52))
        for row, note in enumerate(notes):
            self.text(_EDGE, 0.42 + row * 0.16, elided(note, room), color=SOFT)


_EDGE = 0.15


def head_height(notes: Sequence[str]) -> float:
    """Give the height of a title and its notes, in inches.

    >>> head_height([]), head_height(["one note"])
    (0.5, 0.66)
    """
    return 0.5 + 0.16 * len(notes)


def check_matplotlib(figure: object = None) -> None:
    """Make sure that matplotlib is there, and that `figure` is one that can be drawn on.

    Raises:
        ParamTreeError: where matplotlib is not installed, or `figure` is something else.
    """
    try:
        from matplotlib.figure import FigureBase
    except ImportError as error:
        raise ParamTreeError(
            "plot needs matplotlib. Install it with: pip install 'paramtree-jax[plot]'"
        ) from error
    if figure is not None and not isinstance(figure, FigureBase):
        raise ParamTreeError(
            f"plot: figure= takes a matplotlib Figure or SubFigure, and got {type(figure).__name__}. "
            "Every kind draws axes of its own; give it a place with figure.subfigures(1, 2)[0]."
        )


def make_canvas(width: float, height: float, figure: Any = None) -> Canvas:
    """Make a sheet of a size in inches, or take the user's figure for one."""
    from matplotlib.figure import Figure

    if figure is None:
        figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
        figure._repr_png_ = partial(_png, figure)  # what a notebook asks for
    return Canvas(figure, width, height)


def _png(figure: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def sheet_width(figure: Any, planned: float) -> float:
    """Give the width to plan with, in inches: that of the user's figure, where it gives one."""
    return planned if figure is None else max(figure.bbox.width / figure.get_figure(root=True).dpi, 3.0)


def elided(text: str, most: int) -> str:
    """Write a text on one line of so many letters, its middle cut out where it is longer.

    >>> elided("encoder/layer12/attention/query/weight", 20)
    'encoder/la…ry/weight'
    """
    text = printable(text)
    if len(text) <= most:
        return text
    right = max((most - 1) // 2, 0)
    return f"{text[: max(most - 1 - right, 0)]}…{text[len(text) - right :]}"


def letters(inches: float, size: float = SMALL) -> int:
    """Give the number of letters of the names' font that fit a width.

    >>> letters(1.0)
    14
    """
    return int(inches * 72 / (size * _EM))


def inches(count: int, size: float = SMALL) -> float:
    """Give the width of so many letters of the names' font."""
    return count * size * _EM / 72


class Rows(NamedTuple):
    """How parameters stand below each other: a name, a place for the picture, a note.

    Attributes:
        labels: the names, cut to fit.
        label: the width of the names, in inches.
        height: of one row, in inches.
        size: of the letters, in points.
        note: the width of the notes, in inches.
    """

    labels: list[str]
    label: float
    height: float
    size: float
    note: float

    @property
    def total(self) -> float:
        """The height of all rows, in inches."""
        return self.height * len(self.labels)

    def mark(self, axes: "Axes") -> None:
        """Write the names at the left of axes whose rows count downwards from 0."""
        axes.set_ylim(len(self.labels) - 0.5, -0.5)
        look: dict[str, Any] = {"family": MONO, "size": self.size, "parse_math": False}
        axes.set_yticks(range(len(self.labels)), self.labels, **look)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    def annotate(self, axes: "Axes", notes: Sequence[str]) -> None:
        """Write notes at the right of the rows."""
        for row, note in enumerate(notes):
            colour = RED if "NaN" in note or "Inf" in note else SOFT
            axes.annotate(
                note,
                (1, row),
                xytext=(6, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                va="center",
                color=colour,
                size=self.size,
                annotation_clip=False,
            )


def elided_apart(texts: Sequence[str], most: int) -> list[str]:
    """Write texts on one line of so many letters each, cut where it keeps most of them apart.

    >>> elided_apart(["decoder/layer1/query/weight", "decoder/layer2/query/weight"], 20)
    ['decoder/layer1…eight', 'decoder/layer2…eight']
    """
    return list(cut_apart([printable(text) for text in texts], max(most, 1)))


def lay_rows(names: Sequence[str], notes: Sequence[str], tallest: float = 2.2) -> Rows:
    """Find the sizes with which rows stay legible, for one of them and for hundreds."""
    height = min(tallest, max(4.5 / len(names), 0.17 if len(names) <= 120 else 0.14))
    size = min(9.0, height * 72 * 0.66)
    labels = elided_apart(names, 40)
    noted = max(map(len, notes), default=0)
    return Rows(
        labels,
        inches(max(map(len, labels)), size) + 0.2,
        height,
        size,
        inches(noted, size) * 0.95 + 0.2 if noted else 0.15,
    )


class Grid(NamedTuple):
    """How panels stand in rows and columns; sizes in inches, gaps included.

    Attributes:
        columns: their number.
        width: of one panel.
        size: of the letters, in points.
    """

    columns: int
    width: float
    size: float

    def at(self, number: int) -> tuple[int, int]:
        """Give the row and column of a panel."""
        return divmod(number, self.columns)

    def rows(self, count: int) -> int:
        """Give the number of rows that so many panels take."""
        return -(-count // self.columns)


def lay_grid(count: int, room: float = 10.0) -> Grid:
    """Find the columns with which panels stay legible, for one of them and for hundreds."""
    columns = count if count <= 3 else min(8, round(float(np.sqrt(1.3 * count))))
    width = min(room / columns, 4.2)
    return Grid(columns, width, 8.5 if columns <= 5 else 7.0)


class Scale(NamedTuple):
    """An axis of values: linear; or, with a width, linear up to it and logarithmic beyond (inverse sinh)."""

    width: float = 0.0

    def forward(self, values: Any) -> Any:
        """Give the places on the axis."""
        return np.arcsinh(values / self.width) if self.width else values

    def backward(self, places: Any) -> Any:
        """Give the values at places on the axis."""
        return self.width * np.sinh(places) if self.width else places

    def label(self, what: str) -> str:
        """Name the axis."""
        return f"{what}, logarithmic beyond ±{self.width:g}" if self.width else what

    def ticks(self, low: float, high: float, widest: float = 1e3) -> list[float]:
        """Give round numbers between two ends, of a scale with a width: zero, the width, powers of ten.

        Args:
            low: the lower end.
            high: the upper end.
            widest: how many widths an end may be away, so that there is room for the width beside zero.

        >>> Scale(0.05).ticks(-0.06, 20.0), Scale(0.1).ticks(-0.6, 0.6)
        ([-0.05, 0.0, 0.05, 1.0, 10.0], [-0.5, -0.1, 0.0, 0.1, 0.5])
        >>> Scale(0.002).ticks(0.0, 1.0), Scale(0.002).ticks(0.0, 1.0, 200)
        ([0.0, 0.002, 0.01, 0.1, 1.0], [0.0, 0.01, 0.1, 1.0])
        """
        far = max(abs(low), abs(high))
        powers = log_ticks(self.width * 4, far, 4)
        if len(powers) < 2 or far < self.width * 40:
            powers = log_ticks(far / 2.6, far)[-1:] if far > self.width * 4 else []
        crowded = far > self.width * widest  # the width would stand on top of zero
        ends = [*([] if crowded else [self.width]), *powers]
        return [tick for tick in (*(-end for end in ends[::-1]), 0.0, *ends) if low <= tick <= high]


def shared_scale(sizes: Sequence[float], largest: float, linear: float = 3.0, spread: float = 25.0) -> Scale:
    """Choose the scale that several parameters are legible on together.

    Args:
        sizes: the RMS of each.
        largest: the largest absolute value of all.
        linear: the width of the linear part, in sizes of the small ones.
        spread: the largest value, in sizes of the small ones, that a linear scale has room for.

    >>> shared_scale([0.9, 1.0], 3.0), shared_scale([0.01, 1.0, 1.0], 3.0).width > 0
    (Scale(width=0.0), True)
    """
    positive = [size for size in sizes if size > 0]
    if not positive:
        return Scale()
    typical = float(np.quantile(positive, 0.1, method="lower"))
    # below six decades nothing could be told from zero
    width = max(linear * typical, largest * 1e-6)
    return Scale(_round(width)) if largest > spread * typical else Scale()


def _round(value: float) -> float:
    """Round to the nearest of 1, 2 and 5 times a power of ten."""
    power = np.floor(np.log10(value))
    return float(f"{min((1, 2, 5, 10), key=lambda each: abs(each * 10**power - value))}e{int(power)}")


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Give round numbers between the ends of a logarithmic axis.

    >>> log_ticks(0.05, 3.0), log_ticks(1e-9, 2.0)
    ([0.1, 1.0], [1e-08, 1e-06, 0.0001, 0.01, 1.0])
    """
    first, last = int(np.ceil(np.log10(low) - 1e-9)), int(np.floor(np.log10(high) + 1e-9))
    if last - first >= 1:
        step = -(-(last - first + 1) // most)
        return [float(f"1e{power}") for power in range(last, first - 1, -step)][::-1]
    found = [float(f"{digit}e{power}") for power in range(first - 1, last + 1) for digit in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high]


def label_ticks(axis: Any, ticks: Sequence[float], places: Sequence[float] | None = None) -> None:
    """Put ticks on an axis of matplotlib, each labelled as Python writes it in short, and no others.

    Args:
        axis: such as `axes.xaxis`.
        ticks: the values.
        places: where they stand, if not where the axis has them.
    """
    axis.set_ticks([], minor=True)
    labels = [f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks]
    axis.set_ticks(ticks if places is None else places, labels)
