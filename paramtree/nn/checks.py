"""What layers check of their arguments at construction, and of their inputs at the call."""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import jax
import numpy as np

from paramtree.errors import MismatchError, ParamTreeError
from paramtree.scope import Scope

_LAST = {1: "NWC", 2: "NHWC", 3: "NDHWC"}
_FIRST = {1: "NCW", 2: "NCHW", 3: "NCDHW"}


def check_size(layer: str, what: str, size: Any) -> int:
    """Give an integer of at least 1.

    Raises:
        ParamTreeError: for anything else, naming the layer and the argument.
    """
    if not _is_size(size) or size < 1:
        raise ParamTreeError(f"{layer} needs {what} to be an integer of at least 1, and got {size!r}.")
    return int(size)


def check_sizes(layer: str, what: str, sizes: Any, rank: int, least: int = 1) -> tuple[int, ...]:
    """Give one integer for each of `rank` axes: one for all of them, or a sequence.

    >>> check_sizes("Conv", "stride", 2, rank=2)
    (2, 2)

    Raises:
        ParamTreeError: for anything else, naming the layer and the argument.
    """
    found = (sizes,) * rank if _is_size(sizes) else sizes
    if (
        not isinstance(found, Sequence)
        or len(found) != rank
        or not all(_is_size(size) and size >= least for size in found)
    ):
        one = f"an integer of at least {least}"
        raise ParamTreeError(f"{layer} needs {what} to be {one}, or {rank} of them, and got {sizes!r}.")
    return tuple(map(int, found))


def channel_axis(layer: str, layout: Any, rank: int) -> int:
    """Give the axis of the channels among a batch, `rank` spatial axes and channels.

    "NHWC" and "NCHW" say whether the channels come last or first, for any rank; "NWC", "NCDHW" and the like
    are taken too where they fit the rank.

    >>> channel_axis("Conv", "NHWC", 1), channel_axis("Conv", "NCW", 1)
    (-1, 1)

    Raises:
        ParamTreeError: for another layout.
    """
    if layout in ("NHWC", _LAST[rank]):
        return -1
    if layout in ("NCHW", _FIRST[rank]):
        return 1
    raise ParamTreeError(
        f"{layer} needs layout to be {_LAST[rank]!r} or {_FIRST[rank]!r}, and got {layout!r}."
    )


def check_rank(scope: Scope, x: jax.Array, rank: int, axes: str) -> None:
    """Check that an input has `rank` axes, which are described by `axes`.

    Raises:
        MismatchError: where it has not.
    """
    if x.ndim != rank:
        raise MismatchError(f"{scope.called()} needs an input of {rank} axes, {axes}, and got {x.ndim}.")


def check_number(layer: str, what: str, value: Any, holds: Callable[[float], bool], wanted: str) -> float:
    """Give a real number for which `holds`, as `wanted` says.

    Raises:
        ParamTreeError: for anything else, naming the layer and the argument.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not holds(float(value)):
        raise ParamTreeError(f"{layer} needs {what} to be a number {wanted}, and got {value!r}.")
    return float(value)  # a NumPy number would change the dtype of what it meets


def check_axes(layer: str, axes: Any, several: bool = True) -> tuple[int, ...]:
    """Give the axes of an argument `axis`: an integer, or where there may be `several` a sequence of them.

    >>> check_axes("LayerNorm", -1), check_axes("LayerNorm", [1, 2])
    ((-1,), (1, 2))

    Raises:
        ParamTreeError: for anything else, or one axis twice.
    """
    found = (axes,) if _is_size(axes) else axes if several else None
    if (
        not isinstance(found, Sequence)
        or not found
        or not all(map(_is_size, found))
        or len(set(found)) < len(found)
    ):
        wanted = "an integer, or different integers" if several else "an integer"
        raise ParamTreeError(f"{layer} needs axis to be {wanted}, and got {axes!r}.")
    return tuple(map(int, found))


def find_axes(scope: Scope, x: jax.Array, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Give the axes of an input that are meant, counted from the first and in order.

    Raises:
        MismatchError: where the input has not these axes, or two of them are one.
    """
    for axis in axes:
        if not -x.ndim <= axis < x.ndim:
            raise MismatchError(
                f"{scope.called()} needs an input with an axis {axis}, and got {x.ndim} axes."
            )
    found = sorted({axis % x.ndim for axis in axes})
    if len(found) < len(axes):
        raise MismatchError(f"{scope.called()} needs different axes, and of {x.ndim} axes {axes} are not.")
    return tuple(found)


def check_least_rank(scope: Scope, x: jax.Array, rank: int, axes: str) -> None:
    """Check that an input has at least `rank` axes, which are described by `axes`.

    Raises:
        MismatchError: where it has not.
    """
    if x.ndim < rank:
        raise MismatchError(
            f"{scope.called()} needs an input of at least {rank} axes, {axes}, and got {x.ndim}."
        )


def _is_size(size: object) -> bool:
    return isinstance(size, int | np.integer) and not isinstance(size, bool)
