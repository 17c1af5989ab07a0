"""Layers that normalise by a mean and a variance, or by a mean square.

Statistics are computed in at least float32, whatever the dtypes of the input and of the parameters, and the
output has the input's dtype (float32 for integers). So a bfloat16 net may keep these layers in float32.
"""

from collections.abc import Sequence
from functools import partial
from math import inf, prod
from typing import Any

import jax
import jax.numpy as jnp

from paramtree.errors import MismatchError, ParamTreeError
from paramtree.init import Ones, Zeros
from paramtree.module import Module
from paramtree.nn.checks import check_axes, check_least_rank, check_number, check_size, find_axes
from paramtree.nn.moments import beside, moments, moved, standardized, widen
from paramtree.scope import Scope

_ONES = Ones()
_ZEROS = Zeros()
_STATISTICS = (("running_mean", _ZEROS), ("running_var", _ONES))


def BatchNorm(
    *,
    axis: int = -1,
    momentum: float = 0.9,
    eps: float = 1e-5,
    scale: bool = True,
    center: bool = True,
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Normalise each channel over all other axes, then compute `y * gamma + beta`: (...) -> (...).

    In training by the mean and the biased variance of the batch, and the running statistics move towards
    them: `running = momentum * running + (1 - momentum) * batch`. Outside of training by the running
    statistics. `net.apply_and_update` returns these with the parameters; nothing else changes them.

    Parameters: `gamma`, `beta` (channels,). Fixed, without a gradient: `running_mean`, `running_var`
    (channels,). Statistics that are narrower than float32 stop short of small changes: keep them wide with
    a rule such as `pt.cast(params, {".*running_.*": "float32", ".*": "bfloat16"})`.

    Args:
        axis: the axis of the channels.
        momentum: the share of the old running statistic that is kept; torch's momentum is 1 less this.
        eps: what is added to the variance.
        scale: whether there is a gamma.
        center: whether there is a beta.
        name: its key in the parent.
        params: a layer whose parameters, and running statistics, this one shares.

    >>> net = BatchNorm(momentum=0.5)
    >>> params = net.init(jax.random.key(0), "batch, 1")
    >>> y, params = net.apply_and_update(params, jnp.array([[1.0], [3.0]]))
    >>> y.ravel().round(3), params["running_mean"]
    (Array([-1.,  1.], dtype=float32), Fixed(value=Array([1.], dtype=float32)))

    Source: Ioffe and Szegedy 2015, Batch normalization: accelerating deep network training by reducing
    internal covariate shift.

    Raises:
        ParamTreeError: for options that are not valid, at construction.
        MismatchError: at the call, for an input without the axis, or of complex numbers; in training, with
            one value or none for each channel.
    """
    channel = check_axes("BatchNorm", axis, several=False)
    momentum = check_number("BatchNorm", "momentum", momentum, lambda value: 0 <= value <= 1, "in [0, 1]")
    eps = _check_eps("BatchNorm", eps)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x, dtype = widen(scope, x)
        axes = find_axes(scope, x, channel)
        affine = _affine(scope, x, axes, scale, center)
        states = [scope.state(key, (x.shape[axes[0]],), init) for key, init in _STATISTICS]
        if scope.train:
            _check_count(scope, x, axes)
            others = tuple(other for other in range(x.ndim) if other not in axes)
            x, mean, variance = moments(x, partial(jnp.mean, axis=others, keepdims=True))
            for (key, _), old, new in zip(_STATISTICS, states, (mean, variance), strict=True):
                scope.update(key, moved(old, new, momentum))
        else:
            # statistics are not trained, even in a tree whose leaves have all been unfrozen
            mean, variance = (beside(jax.lax.stop_gradient(state), x, axes) for state in states)
            x = x - mean
        gamma, beta = affine
        factor = jax.lax.rsqrt(variance + eps)  # and gamma, for one product with the input instead of two
        return _transformed(x * (factor if gamma is None else factor * gamma), (None, beta), dtype)

    options = [
        *_changed(axis=(_axis_text(channel), "-1"), momentum=(momentum, 0.9), eps=(eps, 1e-5)),
        *_left_out(scale, center),
    ]
    return Module(call, "BatchNorm", name, params, describe=partial(_text, "BatchNorm", options))


def LayerNorm(
    *,
    axis: int | Sequence[int] = -1,
    eps: float = 1e-5,
    scale: bool = True,
    center: bool = True,
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Normalise over an axis, or several, then compute `y * gamma + beta`: (...) -> (...).

    Parameters: `gamma`, `beta` (features,), or of the sizes of the axes, in the order of the input.

    Args:
        axis: the axis, or axes, of the features.
        eps: what is added to the variance.
        scale: whether there is a gamma.
        center: whether there is a beta.
        name: its key in the parent.
        params: a layer whose parameters this one shares.

    >>> net = LayerNorm()
    >>> params = net.init(jax.random.key(0), "batch, 2")
    >>> net.apply(params, jnp.array([[1.0, 3.0]])).round(3)
    Array([[-1.,  1.]], dtype=float32)

    Source: Ba, Kiros and Hinton 2016, Layer normalization.

    Raises:
        ParamTreeError: for options that are not valid, at construction.
        MismatchError: at the call, for an input without the axes, or of complex numbers.
    """
    named = check_axes("LayerNorm", axis)
    eps = _check_eps("LayerNorm", eps)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x, dtype = widen(scope, x)
        axes = find_axes(scope, x, named)
        affine = _affine(scope, x, axes, scale, center)
        return _transformed(standardized(x, axes, eps), affine, dtype)

    options = [*_changed(axis=(_axis_text(named), "-1"), eps=(eps, 1e-5)), *_left_out(scale, center)]
    return Module(call, "LayerNorm", name, params, describe=partial(_text, "LayerNorm", options))


def RMSNorm(
    *,
    axis: int | Sequence[int] = -1,
    eps: float = 1e-6,
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Divide by the root of the mean square over an axis, or several, times gamma: (...) -> (...).

    Parameters: `gamma` (features,), or of the sizes of the axes, in the order of the input.

    Args:
        axis: the axis, or axes, of the features.
        eps: what is added to the mean square.
        name: its key in the parent.
        params: a layer whose parameters this one shares.

    >>> net = RMSNorm()
    >>> params = net.init(jax.random.key(0), "batch, 2")
    >>> net.apply(params, jnp.array([[3.0, 3.0]])).round(3)
    Array([[1., 1.]], dtype=float32)

    Source: Zhang and Sennrich 2019, Root mean square layer normalization.

    Raises:
        ParamTreeError: for options that are not valid, at construction.
        MismatchError: at the call, for an input without the axes, or of complex numbers.
    """
    named = check_axes("RMSNorm", axis)
    eps = _check_eps("RMSNorm", eps)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x, dtype = widen(scope, x)
        axes = find_axes(scope, x, named)
        affine = _affine(scope, x, axes, scale=True, center=False)
        square = jnp.square(x).mean(axes, keepdims=True)
        return _transformed(x * jax.lax.rsqrt(square + eps), affine, dtype)

    options = _changed(axis=(_axis_text(named), "-1"), eps=(eps, 1e-6))
    return Module(call, "RMSNorm", name, params, describe=partial(_text, "RMSNorm", options))


def GroupNorm(
    groups: int,
    *,
    eps: float = 1e-5,
    scale: bool = True,
    center: bool = True,
    per_group: bool = False,
    layout: str = "NHWC",
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Normalise each sample over groups of channels and all spatial axes, then compute `y * gamma + beta`.

    (batch, ..., channels) -> (batch, ..., channels), with any number of spatial axes, or none.

    Parameters: `gamma`, `beta` (channels,), or (groups,) with `per_group`.

    Args:
        groups: the number of groups of neighbouring channels.
        eps: what is added to the variance.
        scale: whether there is a gamma.
        center: whether there is a beta.
        per_group: whether all channels of a group share a gamma and a beta, as in MXNet 1.
        layout: "NHWC" for channels last, "NCHW" for channels after the batch; for any number of axes.
        name: its key in the parent.
        params: a layer whose parameters this one shares.

    >>> net = GroupNorm(2)
    >>> params = net.init(jax.random.key(0), "batch, 4")
    >>> net.apply(params, jnp.array([[1.0, 3.0, 10.0, 50.0]])).round(3)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)

    Source: Wu and He 2018, Group normalization.

    Raises:
        ParamTreeError: for options that are not valid, at construction.
        MismatchError: at the call, for channels that the groups do not divide, fewer than 2 axes, or complex
            numbers.
    """
    groups = check_size("GroupNorm", "groups", groups)
    channel, eps = _check_layout("GroupNorm", layout), _check_eps("GroupNorm", eps)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x, dtype = widen(scope, x)
        check_least_rank(scope, x, 2, "the batch and the channels")
        axes = find_axes(scope, x, (channel,))
        channels = x.shape[axes[0]]
        if isinstance(channels, int) and channels % groups:
            raise MismatchError(
                f"{scope.called()} needs channels that make {groups} groups of one size, and got {channels}."
            )
        number = jnp.arange(channels) * groups // channels  # the group of each channel
        affine = _affine(scope, x, axes, scale, center, number if per_group else None, groups)
        share = jax.nn.one_hot(number, groups, dtype=x.dtype)
        return _transformed(standardized(x, axes, eps, share), affine, dtype)

    options = [
        f"{groups} groups",
        *_changed(eps=(eps, 1e-5), layout=(layout, "NHWC")),
        *_left_out(scale, center),
        *(["per group"] if per_group else []),
    ]
    return Module(
        call,
        "GroupNorm",
        name,
        params,
        describe=lambda own: _text("GroupNorm", options, not per_group and own),
    )


def InstanceNorm(
    *,
    eps: float = 1e-5,
    scale: bool = True,
    center: bool = True,
    layout: str = "NHWC",
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Normalise each channel of each sample over the spatial axes, then compute `y * gamma + beta`.

    (batch, ..., channels) -> (batch, ..., channels), with any number of spatial axes.

    Parameters: `gamma`, `beta` (channels,).

    Args:
        eps: what is added to the variance.
        scale: whether there is a gamma.
        center: whether there is a beta.
        layout: "NHWC" for channels last, "NCHW" for channels after the batch; for any number of axes.
        name: its key in the parent.
        params: a layer whose parameters this one shares.

    >>> net = InstanceNorm()
    >>> params = net.init(jax.random.key(0), "batch, time, 1")
    >>> net.apply(params, jnp.array([[[1.0], [3.0]]])).ravel().round(3)
    Array([-1.,  1.], dtype=float32)

    Source: Ulyanov, Vedaldi and Lempitsky 2016, Instance normalization: the missing ingredient for fast
    stylization.

    Raises:
        ParamTreeError: for options that are not valid, at construction.
        MismatchError: at the call, for an input of fewer than 3 axes, or of complex numbers.
    """
    channel, eps = _check_layout("InstanceNorm", layout), _check_eps("InstanceNorm", eps)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x, dtype = widen(scope, x)
        check_least_rank(scope, x, 3, "the batch, at least one spatial axis and the channels")
        axes = find_axes(scope, x, (channel,))
        affine = _affine(scope, x, axes, scale, center)
        spatial = tuple(axis for axis in range(1, x.ndim) if axis not in axes)
        return _transformed(standardized(x, spatial, eps), affine, dtype)

    options = [*_changed(eps=(eps, 1e-5), layout=(layout, "NHWC")), *_left_out(scale, center)]
    return Module(call, "InstanceNorm", name, params, describe=partial(_text, "InstanceNorm", options))


# what they share


def _affine(
    scope: Scope,
    x: jax.Array,
    axes: tuple[int, ...],
    scale: bool,
    center: bool,
    number: jax.Array | None = None,
    groups: int = 0,
) -> tuple[jax.Array | None, jax.Array | None]:
    """Ask for gamma and beta along axes of the input; or for one a group, given each channel's group."""
    shape = tuple(x.shape[axis] for axis in axes) if number is None else (groups,)

    def ask(key: str, init: Any) -> jax.Array:
        value = scope.param(key, shape, init)
        return beside(value if number is None else value[number], x, axes)

    return ask("gamma", _ONES) if scale else None, ask("beta", _ZEROS) if center else None


def _transformed(y: jax.Array, affine: tuple[jax.Array | None, jax.Array | None], dtype: Any) -> jax.Array:
    gamma, beta = affine
    y = y if gamma is None else y * gamma
    y = y if beta is None else y + beta
    return y.astype(dtype)


def _check_count(scope: Scope, x: jax.Array, axes: tuple[int, ...]) -> None:
    count = prod(size for axis, size in enumerate(x.shape) if axis not in axes)
    if isinstance(count, int) and count < 2:  # a symbol is not known to be
        found = "one" if count else "none"
        raise MismatchError(
            f"{scope.called()} needs more than one value for each channel to train on, and got {found}. "
            "Pass a larger batch, and check axis=, which is where the channels are."
        )


def _check_eps(layer: str, eps: Any) -> float:
    return check_number(layer, "eps", eps, lambda value: 0 < value < inf, "above 0")


def _check_layout(layer: str, layout: Any) -> int:
    if layout not in ("NHWC", "NCHW"):
        raise ParamTreeError(
            f"{layer} needs layout to be 'NHWC' or 'NCHW', for any number of axes, and got {layout!r}."
        )
    return -1 if layout == "NHWC" else 1


def _axis_text(axes: tuple[int, ...]) -> str:
    return str(axes[0] if len(axes) == 1 else axes)


def _changed(**options: tuple[Any, Any]) -> list[str]:
    return [f"{key} {value}" for key, (value, default) in options.items() if value != default]


def _left_out(scale: bool, center: bool) -> list[str]:
    return [text for text, kept in (("no scale", scale), ("no center", center)) if not kept]


def _text(title: str, options: Sequence[str], own: Any) -> str:
    held = [own[key].shape for key in ("gamma", "beta", "running_mean") if own and key in own]
    sizes = ["x".join(map(str, held[0]))] if held else []
    return f"{title}({', '.join([*sizes, *options])})"
