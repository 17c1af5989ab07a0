"""Layers that multiply by a matrix, or look rows of one up."""

from typing import Any

import jax
import jax.numpy as jnp

from paramtree.errors import MismatchError
from paramtree.init import Zeros
from paramtree.module import Module
from paramtree.nn.activation import Function, activation_function, activation_text
from paramtree.nn.checks import check_size
from paramtree.scope import Scope

_ZEROS = Zeros()


def Dense(
    units: int,
    activation: str | Function | None = None,
    *,
    use_bias: bool = True,
    weight_init: Any = None,
    bias_init: Any = _ZEROS,
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Compute `activation(x @ weight.T + bias)` over the last axis: (..., in) -> (..., units).

    Parameters: `weight` (units, in), `bias` (units,).

    Args:
        units: the size of the output's last axis.
        activation: a name, a function, or None for a linear layer.
        use_bias: whether to add a bias.
        weight_init: the weight's initialiser; with none it gets the one given to `net.init`.
        bias_init: the bias's initialiser.
        name: its key in the parent.
        params: a layer whose parameters this one shares.

    >>> from paramtree.tree import names
    >>> net = Dense(3, activation="relu")
    >>> params = net.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> names(params), net.apply(params, jnp.ones((2, 4))).shape
    (['weight', 'bias'], (2, 3))

    Raises:
        ParamTreeError: for units below 1, or an unknown activation.
        MismatchError: at the call, for an input without an axis.
    """
    units = check_size("Dense", "units", units)
    function = activation_function(activation)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        if x.ndim == 0:
            raise MismatchError(f"{scope.called()} needs an input with at least one axis, the features.")
        weight = scope.param("weight", (units, x.shape[-1]), weight_init)
        y = x @ weight.T
        if use_bias:
            bias = scope.param("bias", (units,), bias_init)
            y = y + jnp.expand_dims(bias, range(y.ndim - 1))  # explicit, for those who forbid rank promotion
        return function(y)

    def describe(own: Any) -> str:
        sizes = own["weight"].shape if own and "weight" in own else ()
        inputs = f"{sizes[-1]} -> " if sizes else ""
        return f"Dense({inputs}{units}, {activation_text(activation)})"

    return Module(call, "Dense", name, params, describe=describe)


def Embedding(
    vocabulary: int,
    features: int,
    *,
    weight_init: Any = None,
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Look rows of a table up by integer: (...) -> (..., features).

    Parameters: `weight` (vocabulary, features). An id outside of the vocabulary gives a row of NaN, so that
    it is seen.

    >>> net = Embedding(10, 4)
    >>> params = net.init(jax.random.key(0), "int32[batch, time]")
    >>> net.apply(params, jnp.array([[1, 2, 3]])).shape
    (1, 3, 4)

    Source: Bengio, Ducharme, Vincent and Jauvin 2003, A neural probabilistic language model.

    Raises:
        ParamTreeError: for sizes below 1.
        MismatchError: at the call, for ids that are not integers.
    """
    vocabulary = check_size("Embedding", "vocabulary", vocabulary)
    features = check_size("Embedding", "features", features)

    def call(scope: Scope, ids: jax.Array) -> jax.Array:
        ids = jnp.asarray(ids)
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise MismatchError(f"{scope.called()} needs integer ids. Convert them with .astype(int).")
        weight = scope.param("weight", (vocabulary, features), weight_init)
        # -1, which so many use for padding, is no id and must not read the last row
        return weight.at[ids].get(mode="fill", wrap_negative_indices=False)

    text = f"Embedding({vocabulary} -> {features})"
    return Module(call, "Embedding", name, params, describe=lambda _: text)
