"""Layers that only act in training."""

from numbers import Real

import jax
import jax.numpy as jnp

from paramtree.bits import fused
from paramtree.errors import ParamTreeError
from paramtree.module import Module
from paramtree.scope import Scope


def Dropout(rate: float, *, name: str | None = None) -> Module:
    """Drop each element with probability `rate` in training, and scale the others by 1 / (1 - rate).

    (...) -> (...). Outside of training it is the identity. Each use in a net draws of its own, and each
    repetition of `Repeat`; a `jax.lax` loop or `vmap` of a module's own drops the same elements in all steps.

    >>> Dropout(0.5).apply({}, jnp.ones(4), train=True, key=jax.random.key(0)).sum() in (0, 2, 4, 6, 8)
    True

    Source: Srivastava et al. 2014, Dropout: a simple way to prevent neural networks from overfitting.

    Raises:
        ParamTreeError: for a rate outside of [0, 1), at construction; in training without a key.
    """
    if not isinstance(rate, Real) or not 0 <= rate < 1:
        raise ParamTreeError(f"Dropout needs a rate in [0, 1), the share that is dropped, and got {rate!r}.")
    rate = float(rate)  # a NumPy number would change the dtype of what it scales

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        if not scope.train or rate == 0:
            return x
        kept = jax.random.bernoulli(fused(scope.key()), 1 - rate, x.shape)
        return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))

    return Module(call, "Dropout", name, describe=lambda _: f"Dropout({rate})")
