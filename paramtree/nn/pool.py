"""Pools: the largest or the mean of what a window covers, channel by channel."""

from collections.abc import Sequence
from math import inf, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from paramtree.errors import MismatchError, ParamTreeError
from paramtree.module import Module
from paramtree.nn.checks import channel_axis
from paramtree.nn.conv import Padding, Sizes
from paramtree.nn.window import Pads, Window, check_not_empty, make_window, times
from paramtree.scope import Scope


def MaxPool(
    window: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    ceil: bool = False,
    layout: str = "NHWC",
    name: str | None = None,
) -> Module:
    """Take the largest of each window: (batch, *sizes, channels) -> (batch, *sizes, channels).

    Padding never wins: it is -inf, or the least integer. Of equal elements the first gets the gradient.

    Args:
        window: its size: a tuple with an entry for each of one to three spatial axes, or an integer for two.
        stride: how far the window moves; the window's own size, if left out.
        padding: an integer; one or a (before, after) pair for each axis; "same" or "valid". Below the
            window's size, so that every window holds an element.
        ceil: whether a window may end outside of the padded input, so that the output's size is rounded up.
            One that would hold nothing of the input is left out.
        layout: "NHWC" for the channels at the end, "NCHW" for them after the batch, whatever the rank.
        name: its key in the parent.

    >>> MaxPool((2,)).apply({}, jnp.array([1.0, 5.0, 2.0, 3.0]).reshape(1, 4, 1)).ravel()
    Array([5., 3.], dtype=float32)

    Raises:
        ParamTreeError: for a setting that is not valid.
        MismatchError: at the call, for an input of another rank or of what is no real number, or a window
            that is larger than the padded input.
    """
    shape = _pool_window("MaxPool", window, stride, padding, layout)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x = _numbers(scope, x)
        shape.check(scope, x)
        return _slide(x, _least(x), lax.max, shape, _pads(shape, x, ceil))

    return Module(call, "MaxPool", name, describe=lambda _: _text("MaxPool", shape, ceil))


def AvgPool(
    window: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    ceil: bool = False,
    count_include_pad: bool = True,
    layout: str = "NHWC",
    name: str | None = None,
) -> Module:
    """Take the mean of each window: (batch, *sizes, channels) -> (batch, *sizes, channels).

    Integers, and what is narrower than float32, are added up in float32.

    Args:
        window: its size: a tuple with an entry for each of one to three spatial axes, or an integer for two.
        stride: how far the window moves; the window's own size, if left out.
        padding: an integer; one or a (before, after) pair for each axis; "same" or "valid". Below the
            window's size, so that every window holds an element.
        ceil: whether a window may end outside of the padded input, so that the output's size is rounded up.
            What is outside never counts, and a window that would hold nothing of the input is left out.
        count_include_pad: whether the zeros of the padding count.
        layout: "NHWC" for the channels at the end, "NCHW" for them after the batch, whatever the rank.
        name: its key in the parent.

    >>> AvgPool((2,)).apply({}, jnp.array([1.0, 5.0, 2.0, 3.0]).reshape(1, 4, 1)).ravel()
    Array([3. , 2.5], dtype=float32)

    Raises:
        ParamTreeError: for a setting that is not valid.
        MismatchError: at the call, for an input of another rank or of what is no real number, or a window
            that is larger than the padded input.
    """
    shape = _pool_window("AvgPool", window, stride, padding, layout)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x = _numbers(scope, x)
        shape.check(scope, x)
        pads, dtype = _pads(shape, x, ceil), _sum_dtype(x)
        sums = _slide(x.astype(dtype), 0, lax.add, shape, pads)
        if count_include_pad and pads == shape.padding:
            return (sums / prod(shape.sizes)).astype(_mean_dtype(x))
        return (sums / _counts(shape, x, pads, count_include_pad, dtype)).astype(_mean_dtype(x))

    more = [] if count_include_pad else ["pad not counted"]
    return Module(call, "AvgPool", name, describe=lambda _: _text("AvgPool", shape, ceil, more))


def GlobalAvgPool(*, layout: str = "NHWC", name: str | None = None) -> Module:
    """Take the mean over the spatial axes: (batch, *sizes, channels) -> (batch, 1, ..., channels).

    Args:
        layout: "NHWC" for the channels at the end, "NCHW" for them after the batch, whatever the rank.
        name: its key in the parent.

    >>> GlobalAvgPool().apply({}, jnp.ones((2, 5, 4, 3))).shape
    (2, 1, 1, 3)

    Source: Lin, Chen and Yan, 2013, "Network in network".

    Raises:
        ParamTreeError: for another layout.
        MismatchError: at the call, for an input of other than 3 to 5 axes, or with an empty spatial axis.
    """
    channels = channel_axis("GlobalAvgPool", layout, 2)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x = _numbers(scope, x)
        axes = _spatial_axes(scope, x, channels)
        return x.astype(_sum_dtype(x)).mean(axes, keepdims=True).astype(_mean_dtype(x))

    return Module(call, "GlobalAvgPool", name, describe=lambda _: _global_text("GlobalAvgPool", channels))


def GlobalMaxPool(*, layout: str = "NHWC", name: str | None = None) -> Module:
    """Take the largest over the spatial axes: (batch, *sizes, channels) -> (batch, 1, ..., channels).

    Args:
        layout: "NHWC" for the channels at the end, "NCHW" for them after the batch, whatever the rank.
        name: its key in the parent.

    >>> GlobalMaxPool().apply({}, jnp.ones((2, 5, 4, 3))).shape
    (2, 1, 1, 3)

    Raises:
        ParamTreeError: for another layout.
        MismatchError: at the call, for an input of other than 3 to 5 axes, or with an empty spatial axis.
    """
    channels = channel_axis("GlobalMaxPool", layout, 2)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x = _numbers(scope, x)
        axes = _spatial_axes(scope, x, channels)
        # not jnp.max, which asks whether a symbolic size may be 0
        return jnp.expand_dims(lax.reduce(x, np.asarray(_least(x), x.dtype), lax.max, axes), axes)

    return Module(call, "GlobalMaxPool", name, describe=lambda _: _global_text("GlobalMaxPool", channels))


def _pool_window(layer: str, sizes: Any, stride: Any, padding: Any, layout: Any) -> Window:
    window = make_window(layer, "window", sizes, sizes if stride is None else stride, padding, layout)
    pairs = () if isinstance(window.padding, str) else zip(window.sizes, window.padding, strict=True)
    if any(max(pads) >= size for size, pads in pairs):
        raise ParamTreeError(
            f"{layer} needs padding smaller than its window, {times(window.sizes)}, and got {padding!r}: "
            "a window in the padding alone holds nothing."
        )
    return window


def _slide(x: jax.Array, start: float, combine: Any, window: Window, pads: str | Pads) -> jax.Array:
    # a constant start and the lax function itself, so that jax finds the operation that has gradients
    around = pads if isinstance(pads, str) else window.spread(pads, (0, 0))
    sizes, strides = window.spread(window.sizes, 1), window.spread(window.strides, 1)
    return lax.reduce_window(x, np.asarray(start, x.dtype), combine, sizes, strides, around)


def _pads(window: Window, x: jax.Array, ceil: bool) -> str | Pads:
    if isinstance(window.padding, str) or not ceil:
        return window.padding
    axes = zip(window.spatial(x), window.sizes, window.strides, window.padding, strict=True)
    return tuple(_rounded_up(*axis) for axis in axes)


def _rounded_up(size: Any, window: int, step: int, pads: tuple[int, int]) -> tuple[Any, Any]:
    """Pad further after the end, so that the last window is a whole one."""
    before, after = pads
    missing = -(size + before + after - window) % step
    # of that window `window - missing` is inside of the padded input, and `after` of it is padding
    return before, after if missing >= window - after else after + missing


def _counts(window: Window, x: jax.Array, pads: str | Pads, include_pad: bool, dtype: Any) -> jax.Array:
    """Count what each window covers: the product of the counts along each axis, which are cheap."""
    sizes, own = window.spatial(x), window.padding
    if (
        include_pad and not isinstance(own, str) and not isinstance(pads, str)
    ):  # what is padded counts as input
        sizes = tuple(before + size + after for size, (before, after) in zip(sizes, own, strict=True))
        pads = tuple((0, end - after) for (_, end), (_, after) in zip(pads, own, strict=True))
    counts = jnp.ones((1,) * x.ndim, dtype)
    for axis, size in enumerate(sizes):
        around = pads if isinstance(pads, str) else (pads[axis],)
        window_size, step, zero = (window.sizes[axis],), (window.strides[axis],), np.zeros((), dtype)
        along = lax.reduce_window(jnp.ones((size,), dtype), zero, lax.add, window_size, step, around)
        place = axis + (2 if window.channel_axis == 1 else 1)
        counts = counts * jnp.expand_dims(along, [each for each in range(x.ndim) if each != place])
    return counts


def _numbers(scope: Scope, x: Any) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating) and not jnp.issubdtype(x.dtype, jnp.integer):
        raise MismatchError(f"{scope.called()} needs real numbers. Convert them with .astype(float).")
    return x


def _least(x: jax.Array) -> float:
    return -inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min


def _sum_dtype(x: jax.Array) -> Any:
    return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize >= 4 else jnp.float32


def _mean_dtype(x: jax.Array) -> Any:
    return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32


def _spatial_axes(scope: Scope, x: jax.Array, channels: int) -> tuple[int, ...]:
    if not 3 <= x.ndim <= 5:
        needed = "3 to 5 axes, a batch, 1 to 3 spatial axes and channels"
        raise MismatchError(f"{scope.called()} needs an input of {needed}, and got {x.ndim}.")
    axes = tuple(range(2, x.ndim) if channels == 1 else range(1, x.ndim - 1))
    check_not_empty(scope, (x.shape[axis] for axis in axes))
    return axes


def _text(layer: str, window: Window, ceil: bool, more: Sequence[str] = ()) -> str:
    return f"{layer}({', '.join([*window.texts(window.sizes), *(['ceil'] if ceil else []), *more])})"


def _global_text(layer: str, channels: int) -> str:
    return f"{layer}({'NCHW' if channels == 1 else ''})"
