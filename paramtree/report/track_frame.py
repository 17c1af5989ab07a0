"""What was recorded, read back: steps, and the statistics of each parameter at each of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from paramtree.errors import UnknownNameError, did_you_mean, listing
from paramtree.report.cells import number_text
from paramtree.report.columns import Column, columns_html, columns_text, text_column
from paramtree.report.plot_canvas import check_matplotlib
from paramtree.report.track_plot import draw_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Frame:
    """The recorded statistics, in the order of the steps; `frame[name][statistic]` is an array over them.

    Attributes:
        names: of the parameters, in natural order.
        steps: those recorded, rising; (steps,) int32.
        values: statistic -> (steps, parameters) float32.
    """

    names: tuple[str, ...]
    steps: Array
    values: dict[str, Array]

    def __getitem__(self, name: str) -> dict[str, Array]:
        """Give the statistics of one parameter, each over the steps.

        Raises:
            UnknownNameError: where it is not recorded.
        """
        if name not in self.names:
            near = did_you_mean(str(name), self.names) or f" There are {listing(self.names, 6)}."
            raise UnknownNameError(f"{name!r} is not recorded.{near}")
        at = self.names.index(name)
        return {statistic: rows[:, at] for statistic, rows in self.values.items()}

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def headline(self) -> str:
        """Say in one line what is recorded."""
        number = f"{len(self.names):,} parameter{'' if len(self.names) == 1 else 's'}"
        if not len(self):
            return f"no steps of {number} recorded"
        steps = f"{len(self):,} step{'' if len(self) == 1 else 's'}"
        first, last = self.steps[0], self.steps[-1]
        return f"{steps} of {number}, from step {first:,} to {last:,}; at the last:"

    def _columns(self) -> list[Column]:
        last = {name: rows[-1].tolist() for name, rows in self.values.items()} if len(self) else {}
        numbers = [Column(name, list(map(number_text, row)), row) for name, row in last.items()]
        return [text_column("name", self.names), *numbers]

    def to_text(self, width: int | None = None) -> str:
        """Write the values at the last step, as wide as the terminal if no width is given."""
        return f"{self.headline()}\n{columns_text(self._columns(), width)}"

    def __repr__(self) -> str:
        return self.to_text()

    def to_html(self) -> str:
        """Write the same in HTML, as a notebook shows it: a click on a head sorts it."""
        return columns_html(self.headline(), self._columns())

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it; what is not finite is a text: "nan", "inf" or "-inf".

        >>> Frame(("a",), np.array([0, 1]), {"rms": np.array([[0.5], [np.nan]])}).to_dict()
        {'steps': [0, 1], 'values': {'a': {'rms': [0.5, 'nan']}}}
        """
        columns = {
            name: {which: list(map(_json, column.tolist())) for which, column in self[name].items()}
            for name in self.names
        }
        return {"steps": self.steps.tolist(), "values": columns}

    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure | SubFigure":
        """Draw each statistic over the steps; needs matplotlib.

        Few parameters are lines; of more than eight, each is a row whose colour tells the value.

        Args:
            figure: a figure or subfigure to draw on; a new one, if left out.

        Raises:
            ParamTreeError: where matplotlib is not installed, or nothing is recorded yet.
        """
        check_matplotlib(figure)
        return draw_frame(self.names, self.steps, self.values, figure)


def _json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
