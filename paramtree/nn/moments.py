"""Means and variances, and how norm layers take them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from paramtree.errors import MismatchError
from paramtree.scope import Scope

Mean = Callable[[jax.Array], jax.Array]


def widen(scope: Scope, x: Any) -> tuple[jax.Array, Any]:
    """Give an input in at least float32, and the dtype that the output is to have.

    Raises:
        MismatchError: for complex numbers.
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise MismatchError(f"{scope.called()} needs real numbers.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
    return x.astype(x.dtype if x.dtype.itemsize >= 4 else jnp.float32), x.dtype


def moments(x: jax.Array, mean_of: Mean) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Give an input less its mean, the mean, and the biased variance.

    E[x^2] - E[x]^2 loses all digits where the mean is large. And a mean is itself off, by its rounding and
    by that of a long sum, so it is taken in two steps: the second is the mean of what the first has left.

    >>> moments(jnp.array([1e4 + 1, 1e4 + 3]), lambda x: x.mean(keepdims=True))[2]
    Array([1.], dtype=float32)
    """
    first = jax.lax.stop_gradient(mean_of(x))  # whatever it is, the second step makes up for it
    x = x - first
    rest = mean_of(x)
    x = x - rest
    return x, first + rest, mean_of(jnp.square(x))


# A function of its own to JAX, so that its gradient is summed up before that of a skip connection is added.
# Summed the other way round, XLA on CPUs computes the gradient of all later layers again in each.
@partial(jax.jit, static_argnames=("axes", "eps"))
def standardized(
    x: jax.Array, axes: tuple[int, ...], eps: float, share: jax.Array | None = None
) -> jax.Array:
    """Give `(x - mean) / sqrt(variance + eps)`, over axes; or given shares, over groups along the axis."""
    mean = partial(jnp.mean, axis=axes, keepdims=True)
    mean_of = mean if share is None else partial(group_mean, *axes, share)
    centred, _, variance = moments(x, mean_of)
    return centred * jax.lax.rsqrt(variance + eps)


def group_mean(channel: int, share: jax.Array, x: jax.Array) -> jax.Array:
    """Take the mean of each sample over all spatial axes and a group of channels, with sizes 1 kept.

    Args:
        channel: the axis of the channels; the first axis is the batch.
        share: (channels, groups), 1 where a channel is of a group. With it the number of channels may be a
            symbol, which no reshape to (groups, channels / groups) can divide.
        x: the input.
    """
    spatial = tuple(axis for axis in range(1, x.ndim) if axis != channel)
    means = jnp.moveaxis(x.mean(spatial, keepdims=True), channel, -1)
    even = share / share.sum(0, keepdims=True)
    # an accelerator would by default round the factors to fewer bits
    means = jnp.matmul(jnp.matmul(means, even, precision="highest"), share.T, precision="highest")
    return jnp.moveaxis(means, -1, channel)


def moved(old: jax.Array, new: jax.Array, momentum: float) -> jax.Array:
    """Give `momentum * old + (1 - momentum) * new` in the old's shape and dtype, computed in the new's.

    >>> moved(jnp.zeros(1, jnp.bfloat16), jnp.ones((1, 1)), 0.5)
    Array([0.5], dtype=bfloat16)
    """
    new = new.reshape(old.shape)
    return (momentum * old.astype(new.dtype) + (1 - momentum) * new).astype(old.dtype)


def beside(value: jax.Array, x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Lay a value along axes of an input, in the input's dtype and with sizes 1 elsewhere."""
    return jnp.expand_dims(value.astype(x.dtype), [axis for axis in range(x.ndim) if axis not in axes])
