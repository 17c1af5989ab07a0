"""Convolutions, and convolutions transposed, over one to three spatial axes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from paramtree import display
from paramtree.errors import MismatchError, ParamTreeError
from paramtree.init import Zeros
from paramtree.module import Module
from paramtree.nn.activation import Function, activation_function, activation_text
from paramtree.nn.checks import check_size, check_sizes
from paramtree.nn.window import Pads, Window, make_window, per_axis
from paramtree.scope import Scope

_ZEROS = Zeros()

Sizes = int | Sequence[int]
Padding = int | str | Sequence[int | Sequence[int]]


def Conv(
    channels: int,
    kernel: Sizes,
    activation: str | Function | None = None,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    layout: str = "NHWC",
    use_bias: bool = True,
    weight_init: Any = None,
    bias_init: Any = _ZEROS,
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Convolve over one to three spatial axes: (batch, *sizes, in) -> (batch, *sizes, channels).

    As everywhere in deep learning, the kernel is not flipped.

    Parameters: `weight` (channels, in/groups, *kernel), whatever the layout, and `bias` (channels,).

    Args:
        channels: the number of output channels.
        kernel: the window's size: a tuple with an entry for each spatial axis, or an integer for two.
        activation: a name, a function, or None for a linear layer.
        stride: how far the window moves; as all that follow, an integer or one for each axis.
        padding: the zeros around the input; also (before, after) pairs, "same" (the output has the input's
            size divided by the stride, rounded up) or "valid" (none).
        dilation: how far the window's elements lie apart.
        groups: into how many parts the channels are split, each convolved on its own.
        layout: "NHWC" for the channels at the end, "NCHW" for them after the batch, whatever the rank.
        use_bias: whether to add a bias.
        weight_init: the weight's initialiser; with none it gets the one given to `net.init`.
        bias_init: the bias's initialiser.
        name: its key in the parent.
        params: a layer whose parameters this one shares.

    >>> net = Conv(16, 3, "relu", stride=2, padding="same")
    >>> net.specs("batch, 28, 28, 3")["weight"]
    ParamSpec((16, 3, 3, 3), float32)
    >>> net
    Conv(16, 3x3, stride 2, same, relu)

    Source: LeCun, Bottou, Bengio and Haffner, 1998, "Gradient-based learning applied to document
    recognition".

    Raises:
        ParamTreeError: for a setting that is not valid, or channels that the groups do not divide.
        MismatchError: at the call, for an input of another rank, channels that the groups do not divide, or a
            window that is larger than the padded input.
    """
    channels = _check_channels("Conv", channels, groups)
    window = make_window("Conv", "kernel", kernel, stride, padding, layout, dilation)
    function = activation_function(activation)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        window.check(scope, x)
        inputs = _input_channels(scope, x, window, groups)
        weight = scope.param("weight", (channels, inputs // groups, *window.sizes), weight_init)
        y = _convolve(x, weight, window, groups, window.padding, strides=window.strides)
        return function(_with_bias(scope, y, window, bias_init) if use_bias else y)

    def describe(own: Any) -> str:
        inputs = own["weight"].shape[1] * groups if own and "weight" in own else None
        return _text("Conv", inputs, channels, groups, window, [], activation)

    return Module(call, "Conv", name, params, describe=describe)


def ConvTranspose(
    channels: int,
    kernel: Sizes,
    activation: str | Function | None = None,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    layout: str = "NHWC",
    use_bias: bool = True,
    weight_init: Any = None,
    bias_init: Any = _ZEROS,
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Convolve, transposed: (batch, *sizes, in) -> (batch, *sizes, channels).

    It computes the gradient by its input of the `Conv` with the same settings and the same weight. An axis of
    size i gets size (i - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + output_padding.

    Parameters: `weight` (in, channels/groups, *kernel), whatever the layout, and `bias` (channels,).

    Args:
        channels: the number of output channels.
        kernel: the window's size: a tuple with an entry for each spatial axis, or an integer for two.
        activation: a name, a function, or None for a linear layer.
        stride: how far apart the input's elements are put; as all that follow, an integer or one for each
            axis.
        padding: how much is cut off the output; also (before, after) pairs, "same" (the output has the
            input's size times the stride) or "valid" (nothing).
        output_padding: extra size at the end of the output: with a stride several input sizes give one
            output size, and this picks among them.
        dilation: how far the window's elements lie apart.
        groups: into how many parts the channels are split, each convolved on its own.
        layout: "NHWC" for the channels at the end, "NCHW" for them after the batch, whatever the rank.
        use_bias: whether to add a bias.
        weight_init: the weight's initialiser; with none it gets the one given to `net.init`.
        bias_init: the bias's initialiser.
        name: its key in the parent.
        params: a layer whose parameters this one shares.

    >>> net = ConvTranspose(8, 4, stride=2, padding=1)
    >>> params = net.init(jax.random.key(0), jnp.ones((2, 5, 5, 3)))
    >>> params["weight"].shape, net.apply(params, jnp.ones((2, 5, 5, 3))).shape
    ((3, 8, 4, 4), (2, 10, 10, 8))

    Source: Zeiler, Krishnan, Taylor and Fergus, 2010, "Deconvolutional networks".

    Raises:
        ParamTreeError: for a setting that is not valid, channels that the groups do not divide, or an output
            padding not below the stride or the dilation.
        MismatchError: at the call, for an input of another rank, channels that the groups do not divide, or
            padding that leaves no output.
    """
    channels = _check_channels("ConvTranspose", channels, groups)
    window = make_window("ConvTranspose", "kernel", kernel, stride, padding, layout, dilation)
    extra = _check_output_padding(output_padding, window)
    pads = _transposed_pads(window, extra)
    function = activation_function(activation)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        _check_output(scope, x, window, pads)
        inputs = _input_channels(scope, x, window, groups)
        weight = scope.param("weight", (inputs, channels // groups, *window.sizes), weight_init)
        y = _convolve(x, _turned(weight, groups), window, groups, pads, spread=window.strides)
        return function(_with_bias(scope, y, window, bias_init) if use_bias else y)

    def describe(own: Any) -> str:
        inputs = own["weight"].shape[0] if own and "weight" in own else None
        more = [f"output pad {per_axis(extra)}"] if any(extra) else []
        return _text("ConvTranspose", inputs, channels, groups, window, more, activation)

    return Module(call, "ConvTranspose", name, params, describe=describe)


def _convolve(
    x: jax.Array,
    weight: jax.Array,
    window: Window,
    groups: int,
    pads: str | Pads,
    strides: tuple[int, ...] | None = None,
    spread: tuple[int, ...] | None = None,
) -> jax.Array:
    dtype = jnp.result_type(x, weight)  # images are often integers, which jax.lax does not promote
    return lax.conv_general_dilated(
        x.astype(dtype),
        weight.astype(dtype),
        strides or (1,) * len(window.sizes),
        pads,
        lhs_dilation=spread,
        rhs_dilation=window.dilation,
        dimension_numbers=window.dimension_numbers,
        feature_group_count=groups,
    )


def _with_bias(scope: Scope, y: jax.Array, window: Window, bias_init: Any) -> jax.Array:
    bias = scope.param("bias", (y.shape[window.channel_axis],), bias_init)
    # explicit, for those who forbid rank promotion
    return y + bias.reshape([-1 if axis == "C" else 1 for axis in window.layout])


def _turned(weight: jax.Array, groups: int) -> jax.Array:
    """Make the weight of a plain convolution: (in, out/groups, ...) -> (out, in/groups, ...)."""
    inputs, outputs, *kernel = weight.shape
    flipped = jnp.flip(weight, range(2, weight.ndim))
    parts = flipped.reshape(groups, inputs // groups, outputs, *kernel).swapaxes(1, 2)
    return parts.reshape(groups * outputs, inputs // groups, *kernel)


def _transposed_pads(window: Window, extra: tuple[int, ...]) -> Pads:
    """Give what surrounds the spread input: enough for any overlap with the window, less what is cut off."""
    axes = zip(window.reach, window.strides, strict=True)
    # for "SAME" as XLA cuts it: what the convolution with this stride pads an input that the stride divides
    same = tuple((max(size - step, 0) // 2, size - step - max(size - step, 0) // 2) for size, step in axes)
    cuts = same if isinstance(window.padding, str) else window.padding
    return tuple(
        (size - 1 - before, size - 1 - after + more)
        for size, (before, after), more in zip(window.reach, cuts, extra, strict=True)
    )


def _check_channels(layer: str, channels: Any, groups: Any) -> int:
    channels, groups = check_size(layer, "channels", channels), check_size(layer, "groups", groups)
    if channels % groups:
        raise ParamTreeError(f"{layer} needs channels that its {groups} groups divide, and got {channels}.")
    return channels


def _check_output_padding(output_padding: Any, window: Window) -> tuple[int, ...]:
    extra = check_sizes("ConvTranspose", "output_padding", output_padding, len(window.sizes), least=0)
    if any(more >= max(steps) for more, *steps in zip(extra, window.strides, window.dilation, strict=True)):
        raise ParamTreeError(
            f"ConvTranspose needs output_padding smaller than its stride, {per_axis(window.strides)}, or its "
            f"dilation, {per_axis(window.dilation)}, and got {output_padding!r}."
        )
    return extra


def _check_output(scope: Scope, x: jax.Array, window: Window, pads: Pads) -> None:
    window.check_rank(scope, x)
    sizes = [
        (size - 1) * step + before + after + 2 - reach
        for size, step, (before, after), reach in zip(
            window.spatial(x), window.strides, pads, window.reach, strict=True
        )
    ]
    if any(isinstance(size, int) and size < 1 for size in sizes):
        raise MismatchError(
            f"{scope.called()} needs a larger input or less padding: its output would have the spatial axes "
            f"{display.shape_text(sizes)}."
        )


def _input_channels(scope: Scope, x: jax.Array, window: Window, groups: int) -> Any:
    inputs = x.shape[window.channel_axis]
    if groups > 1 and inputs % groups != 0:
        hint = "" if isinstance(inputs, int) else f" Write a symbol as a multiple, {groups}*{inputs}."
        raise MismatchError(
            f"{scope.called()} needs input channels that its {groups} groups divide, and got {inputs}.{hint}"
        )
    return inputs


def _text(
    layer: str,
    inputs: Any,
    channels: int,
    groups: int,
    window: Window,
    more: list[str],
    activation: str | Function | None,
) -> str:
    arrow = f"{channels}" if inputs is None else f"{inputs} -> {channels}"
    ends = [
        *([f"groups {groups}"] if groups > 1 else []),
        *([activation_text(activation)] if activation else []),
    ]
    texts = [arrow, *window.texts((1,) * len(window.sizes)), *more, *ends]
    return f"{layer}({', '.join(texts)})"
