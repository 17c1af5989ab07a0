"""Layers that only change a shape."""

from math import prod

import jax
import jax.numpy as jnp

from paramtree.errors import MismatchError
from paramtree.module import Module
from paramtree.scope import Scope


def Flatten(*, name: str | None = None) -> Module:
    """Flatten all axes but the first: (batch, ...) -> (batch, features).

    >>> Flatten().apply({}, jnp.ones((2, 8, 8))).shape
    (2, 64)

    Raises:
        MismatchError: at the call, for an input without an axis.
    """

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        if x.ndim == 0:
            raise MismatchError(f"{scope.called()} needs an input with at least one axis, the batch.")
        return x.reshape(x.shape[0], prod(x.shape[1:]))  # not -1, which an empty batch leaves open

    return Module(call, "Flatten", name)
