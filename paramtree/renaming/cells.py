"""Recurrent cells of other libraries: a matrix for each gate, or one of all, and one bias instead of two."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from paramtree.errors import MismatchError
from paramtree.names import join
from paramtree.renaming.conventions import Layers, Turn, cut
from paramtree.renaming.convert import Array, Join, Shape, Split, Step, Transpose

WEIGHTS = ("l0_i2h_weight", "l0_h2h_weight")
BIASES = ("l0_i2h_bias", "l0_h2h_bias")


@dataclass(frozen=True)
class TwoBiases:
    """Give each gate a bias for the input and one for the state, where there was one for both.

    The other one is a constant. On the way back the two are added, as the gate adds them; where the second
    is still that constant, the first comes back bit for bit.

    Args:
        constants: for each gate's bias of the input, then of the state: the constant, or None for one that
            is there.
        layer: its name, for messages.
        back: do the opposite.

    >>> TwoBiases((0.0, None), "lstm0").apply([np.ones(2)])[0].tolist()
    [0.0, 0.0]
    """

    constants: tuple[float | None, ...]
    layer: str
    back: bool = False

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Give the shapes that come out."""
        return [shapes[0]] * (self.constants.count(None) if self.back else len(self.constants))

    def apply(self, arrays: Sequence[Array]) -> list[Array]:
        """Give the arrays that come out.

        Raises:
            MismatchError: on the way back, where the two cannot be added.
        """
        if self.back:
            return self._added(list(arrays))
        there, like = iter(arrays), arrays[0]
        return [next(there) if each is None else np.full_like(like, each) for each in self.constants]

    def inverse(self) -> "TwoBiases":
        """Give the step that undoes this one."""
        return replace(self, back=not self.back)

    def _added(self, arrays: list[Array]) -> list[Array]:
        gates = len(self.constants) // 2
        for place, constant in enumerate(self.constants):
            more = 0 if constant is None else arrays[place] - arrays[place].dtype.type(constant)
            if not np.any(more):
                continue
            if gates == 3 and place % gates == 2:  # of a GRU's last gate the state's part is gated alone
                raise MismatchError(
                    f"{self.layer}: the last gate of the other library's GRU has one bias, and here both are "
                    "not zero. Make the one of the state zeros."
                )
            other = (place + gates) % len(arrays)
            arrays[other] = arrays[other] + more
        return [array for array, each in zip(arrays, self.constants, strict=True) if each is None]


@dataclass(frozen=True)
class Reorder:
    """Change the order of the arrays.

    >>> Reorder((1, 0)).shapes([(2,), (3,)])
    [(3,), (2,)]
    """

    order: tuple[int, ...]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Give the shapes that come out."""
        return [shapes[at] for at in self.order]

    def apply(self, arrays: Sequence[Array]) -> list[Array]:
        """Give the arrays that come out."""
        return [arrays[at] for at in self.order]

    def inverse(self) -> "Reorder":
        """Give the step that undoes this one."""
        return Reorder(tuple(map(int, np.argsort(self.order))))


class Part(NamedTuple):
    """What is made of some arrays of a cell, by their keys in it and by ours."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell that is made of linear layers, with the gates in our order.

    Attributes:
        gates: how many gates.
        inputs: the keys of the layers for the input: one for each gate, or one of all.
        states: those for the state.
        biased: which of these have a bias.
        kernel: the key of their matrices.
        bias: the key of their biases.
    """

    gates: int
    inputs: tuple[str, ...]
    states: tuple[str, ...]
    biased: tuple[str, ...]
    kernel: str = "kernel"
    bias: str = "bias"

    def parts(self, layer: str) -> Iterator[Part]:
        """Tell what becomes of the arrays."""
        layers = (*self.inputs, *self.states)
        for ours, theirs in zip(WEIGHTS, (self.inputs, self.states), strict=True):
            joined = (Join(1, len(theirs)),) if len(theirs) > 1 else ()
            yield Part(tuple(f"{key}/{self.kernel}" for key in theirs), (ours,), (*joined, Transpose()))
        biases = tuple(f"{key}/{self.bias}" for key in layers if key in self.biased)
        if len(biases) == 2 and len(layers) == 2:
            yield from (Part((theirs,), (ours,), ()) for theirs, ours in zip(biases, BIASES, strict=True))
            return
        each = self.gates // len(self.inputs)
        constants = tuple(None if key in self.biased else 0.0 for key in layers for _ in range(each))
        steps = (TwoBiases(constants, layer), Join(0, 2 * self.gates), Split(2))
        yield Part(biases, BIASES, (Split(each), *steps) if each > 1 else steps)

    def fits(self, layers: Layers, block: str) -> bool:
        """Tell whether a block is such a cell."""
        keys = (*self.inputs, *self.states)
        held = [layers.blocks.get(join(block, key), {}) for key in keys]
        if any(
            set(each) != {self.kernel, *([self.bias] if key in self.biased else [])}
            for key, each in zip(keys, held, strict=True)
        ):
            return False
        shapes = [layers.shape(join(block, key), self.kernel) or () for key in keys]
        hidden = sum(shapes[-1][:1])
        rows = {shape[:-1] for shape in shapes[: len(self.inputs)]}
        return (
            all(shape[1:] == (hidden * self.gates // len(self.inputs),) for shape in shapes)
            and len(rows) == 1
            and {shape[:1] for shape in shapes[len(self.inputs) :]} == {(hidden,)}
        )


def read_cells(layers: Layers, cells: Sequence[Cell], called: str = ".*") -> Iterator[Turn]:
    """Read all blocks that are such cells; each becomes a layer of its own.

    Args:
        layers: the blocks.
        cells: those that are known.
        called: a pattern of the last keys that these blocks have.
    """
    for cell in cells:
        outer = [cut(block)[0] for block in layers.blocks if cut(block)[1] == cell.inputs[0]]
        for block in outer:
            if re.fullmatch(called, cut(block)[1]) and cell.fits(layers, block):
                for theirs, ours, steps in cell.parts(block):
                    places = [cut(join(block, key)) for key in theirs]
                    yield Turn(tuple(layers.blocks[at][key] for at, key in places), block, ours, steps)


def write_cell(cell: Cell, block: str, keys: Mapping[str, str]) -> Iterator[Turn]:
    """Write one of our recurrent layers as such a cell."""
    for theirs, ours, steps in cell.parts(block):
        back = tuple(step.inverse() for step in reversed(steps))
        yield Turn(tuple(keys[key] for key in ours), block, theirs, back)


def gates_of(layers: Layers, block: str) -> int:
    """Count the gates of a block of ours; 0 where it is no recurrent layer, or several in one block."""
    if layers.blocks[block].keys() != {*WEIGHTS, *BIASES}:
        return 0
    shape = layers.shape(block, WEIGHTS[1]) or ()
    return shape[0] // shape[1] if len(shape) == 2 and shape[1] else 0
