"""What happens to arrays on their way from one program's names to another's: turned, split, joined.

A *step* takes a list of arrays and gives a list of arrays: `Split` makes several of one, `Join` one of
several, the others change each. Every step tells shapes before there are values, and knows its inverse.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np

from paramtree.display import call_text, shape_text
from paramtree.errors import MismatchError, RuleError

Shape = tuple[int, ...]
Array = np.ndarray[Any, Any]


class Step(Protocol):
    """What every step can do."""

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Give the shapes that come out, or raise a MismatchError."""
        ...

    def apply(self, arrays: Sequence[Array]) -> list[Array]:
        """Give the arrays that come out; where possible views, not copies."""
        ...

    def inverse(self) -> "Step":
        """Give the step that undoes this one, or raise a RuleError."""
        ...


@dataclass(frozen=True)
class Transpose:
    """Change the order of the axes, as `numpy.transpose` does.

    Args:
        axes: the old places of the new axes. Left out, a kernel (*window, in, out) becomes the weight
            (out, in, *window): for a matrix, its transpose. A vector stays as it is.
        back: do the opposite.

    >>> Transpose().shapes([(3, 3, 16, 32)]), Transpose((1, 0)).shapes([(2, 5)])
    ([(32, 16, 3, 3)], [(5, 2)])
    """

    axes: tuple[int, ...] | None = None
    back: bool = False

    def __repr__(self) -> str:
        return call_text(self)

    def __post_init__(self) -> None:
        """Check the fields, and make lists tuples."""
        _check_whole(self, "axes")

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Give the shapes that come out.

        Raises:
            MismatchError: where the axes are not those of the array.
        """
        return [tuple(shape[axis] for axis in self._order(shape)) for shape in shapes]

    def apply(self, arrays: Sequence[Array]) -> list[Array]:
        """Give the arrays that come out: views."""
        return [array.transpose(self._order(array.shape)) for array in arrays]

    def inverse(self) -> "Transpose":
        """Give the step that undoes this one."""
        return Transpose(self.axes, not self.back)

    def _order(self, shape: Shape) -> tuple[int, ...]:
        rank = len(shape)
        order = (
            tuple(self.axes) if self.axes is not None else (*range(rank)[-2:][::-1], *range(max(rank - 2, 0)))
        )
        if sorted(order) != list(range(rank)):
            raise MismatchError(f"Transpose({order}) does not fit the shape {shape_text(shape)}.")
        return tuple(map(int, np.argsort(order))) if self.back else order


@dataclass(frozen=True)
class Split:
    """Make several arrays of one, along an axis.

    Args:
        parts: their number, or the size of each.
        axis: along which; negative ones count from the last.

    >>> Split(3).shapes([(12, 4)]), Split((8, 2, 2)).shapes([(12, 4)])
    ([(4, 4), (4, 4), (4, 4)], [(8, 4), (2, 4), (2, 4)])
    """

    parts: int | tuple[int, ...]
    axis: int = 0

    def __repr__(self) -> str:
        return call_text(self)

    def __post_init__(self) -> None:
        """Check the fields, and make lists tuples."""
        _check_whole(self, "parts", "axis")

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Give the shapes that come out.

        Raises:
            MismatchError: where there is not one array, or its size does not go into the parts.
        """
        if len(shapes) != 1:
            raise MismatchError(f"{self} takes one array, and gets {len(shapes)}.")
        (shape,) = shapes
        axis = _axis(self, shape, self.axis)
        return [(*shape[:axis], size, *shape[axis + 1 :]) for size in self._sizes(shape, axis)]

    def apply(self, arrays: Sequence[Array]) -> list[Array]:
        """Give the arrays that come out: views."""
        (array,) = arrays
        axis = _axis(self, array.shape, self.axis)
        ends = list(accumulate(self._sizes(array.shape, axis), initial=0))
        return [array[(slice(None),) * axis + (slice(start, end),)] for start, end in pairwise(ends)]

    def inverse(self) -> "Join":
        """Give the step that undoes this one."""
        return Join(self.axis, self.parts)

    def _sizes(self, shape: Shape, axis: int) -> tuple[int, ...]:
        if isinstance(self.parts, int):
            count = max(self.parts, 1)
            sizes = (shape[axis] // count,) * self.parts
        else:
            sizes = tuple(self.parts)
        if sum(sizes) != shape[axis] or min(sizes, default=0) < 0:
            sizes = ()
        if not sizes:
            raise MismatchError(f"{self} does not go into the shape {shape_text(shape)}.")
        return sizes


@dataclass(frozen=True)
class Join:
    """Make one array of several, along an axis.

    Args:
        axis: along which; negative ones count from the last.
        parts: for the way back, where the parts are not of equal size: the size of each.

    >>> Join().shapes([(8, 4), (2, 4)])
    [(10, 4)]
    """

    axis: int = 0
    parts: int | tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return call_text(self)

    def __post_init__(self) -> None:
        """Check the fields, and make lists tuples."""
        _check_whole(self, "axis", "parts")

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Give the shape that comes out.

        Raises:
            MismatchError: where the arrays cannot be joined.
        """
        axis = _axis(self, shapes[0], self.axis)
        rest = {(len(shape), shape[:axis], shape[axis + 1 :]) for shape in shapes}
        if len(rest) != 1:
            listed = " and ".join(shape_text(shape) for shape in shapes)
            raise MismatchError(f"{self} cannot join the shapes {listed}.")
        return [(*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])]

    def apply(self, arrays: Sequence[Array]) -> list[Array]:
        """Give the array that comes out."""
        return [np.concatenate(arrays, axis=self.axis)]

    def inverse(self) -> Split:
        """Give the step that undoes this one.

        Raises:
            RuleError: where the number of parts is not known.
        """
        if self.parts is None:
            raise RuleError(f"{self} cannot be undone: its parts are not known. Pass parts=.")
        return Split(self.parts, self.axis)


@dataclass(frozen=True)
class _Reshape(ABC):
    """What `Flatten` and `Unflatten` have in common: both change one place of every shape."""

    axis: int
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check the fields, and make lists tuples."""
        _check_whole(self, "axis", "sizes")

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Give the shapes that come out.

        Raises:
            MismatchError: where the sizes do not fit the array.
        """
        return [self._shape(shape) for shape in shapes]

    def apply(self, arrays: Sequence[Array]) -> list[Array]:
        """Give the arrays that come out."""
        return [array.reshape(self._shape(array.shape)) for array in arrays]

    @abstractmethod
    def _shape(self, shape: Shape) -> Shape:
        """Give the shape that comes out of one."""


@dataclass(frozen=True)
class Flatten(_Reshape):
    """Make one axis of several that follow each other.

    Args:
        axis: the first of them.
        sizes: their sizes, one of which may be -1.

    >>> Flatten(1, (4, -1)).shapes([(32, 4, 8)])
    [(32, 32)]
    """

    def inverse(self) -> "Unflatten":
        """Give the step that undoes this one."""
        # an axis counted from the last is another one after it
        return Unflatten(self.axis if self.axis >= 0 else self.axis + len(self.sizes) - 1, self.sizes)

    def _shape(self, shape: Shape) -> Shape:
        axis = _axis(self, shape, self.axis)
        end = axis + len(self.sizes)
        found = shape[axis:end]
        fits = len(found) == len(self.sizes) and all(
            a in (-1, b) for a, b in zip(self.sizes, found, strict=True)
        )
        if not fits:
            raise MismatchError(f"{self} does not fit the shape {shape_text(shape)}.")
        return (*shape[:axis], math.prod(found), *shape[end:])


@dataclass(frozen=True)
class Unflatten(_Reshape):
    """Make several axes of one.

    Args:
        axis: which.
        sizes: of the new axes; one may be -1.

    >>> Unflatten(0, (4, -1)).shapes([(32, 3)])
    [(4, 8, 3)]
    """

    def inverse(self) -> Flatten:
        """Give the step that undoes this one."""
        return Flatten(self.axis if self.axis >= 0 else self.axis - len(self.sizes) + 1, self.sizes)

    def _shape(self, shape: Shape) -> Shape:
        axis = _axis(self, shape, self.axis)
        known = math.prod(size for size in self.sizes if size != -1)
        open_size = shape[axis] // known if known else 0
        sizes = tuple(open_size if size == -1 else size for size in self.sizes)
        if math.prod(sizes) != shape[axis]:
            raise MismatchError(f"{self} does not go into the shape {shape_text(shape)}.")
        return (*shape[:axis], *sizes, *shape[axis + 1 :])


def _check_whole(step: object, *fields: str) -> None:
    """Check that fields are whole numbers, or sequences of them; these become tuples, which can be keys."""
    for name in fields:
        value = getattr(step, name)
        several = isinstance(value, list | tuple)
        numbers = value if several else () if value is None else (value,)
        if any(isinstance(each, bool) or not isinstance(each, int | np.integer) for each in numbers):
            raise RuleError(f"{type(step).__name__} takes whole numbers as {name}, and not {value!r}.")
        if name == "sizes" and (
            sum(each == -1 for each in numbers) > 1 or any(each < -1 for each in numbers)
        ):
            raise RuleError(f"{type(step).__name__} takes sizes of which one may be -1, and not {value!r}.")
        if several:
            object.__setattr__(step, name, tuple(map(int, numbers)))


def _axis(step: object, shape: Shape, axis: int) -> int:
    if not -len(shape) <= axis < len(shape):
        raise MismatchError(f"{step}: the shape {shape_text(shape)} has no axis {axis}.")
    return axis % len(shape)


class Convert:
    r"""Say what becomes of the arrays that a rule hits: their new names, and the steps on the way.

    Args:
        to: the template of the new name, as in `re`; several where a `Split` is among the steps.
        steps: `Transpose`, `Split`, `Join`, `Flatten`, `Unflatten`, in the order they are done.

    >>> Convert(r"\1/weight", Transpose())
    Convert('\\1/weight', Transpose())

    Raises:
        RuleError: where a template is not a text, or a step is not one.
    """

    def __init__(self, to: str | Sequence[str], *steps: Step) -> None:
        templates: Any = to
        self.to: tuple[str, ...] = tuple(templates) if isinstance(to, list | tuple) else (templates,)
        self.steps = steps
        bad = [repr(each) for each in self.to if not isinstance(each, str)]
        bad += [repr(step) for step in steps if not hasattr(step, "shapes") or isinstance(step, type)]
        if bad or not self.to:
            found = ", ".join(bad) or "no template"
            raise RuleError(f"Convert takes templates, which are texts, then steps, and not {found}.")

    def __repr__(self) -> str:
        """Write it as it is made."""
        to = self.to[0] if len(self.to) == 1 else self.to
        return f"Convert({', '.join(map(repr, (to, *self.steps)))})"
