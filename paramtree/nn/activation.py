"""Activation functions: by name, and with a parameter."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from paramtree.errors import ParamTreeError, did_you_mean
from paramtree.init import Constant
from paramtree.module import Module
from paramtree.nn.moments import widen
from paramtree.scope import Scope

Function = Callable[[jax.Array], jax.Array]

_QUARTER = Constant(0.25)

_FUNCTIONS: dict[str, Function] = {
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softrelu": jax.nn.softplus,  # Gluon's name
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": jax.nn.gelu,  # the tanh form, as everywhere in JAX
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "log_softmax": jax.nn.log_softmax,
    "softmax": jax.nn.softmax,
}


def activation_function(activation: str | Function | None) -> Function:
    """Give the function an activation names; None is the identity.

    Raises:
        ParamTreeError: for a name that is not one of these, with the nearest.
    """
    if activation is None:
        return lambda x: x
    if callable(activation):
        return activation
    function = _FUNCTIONS.get(str(activation))
    if function is None:
        near, known = did_you_mean(str(activation), _FUNCTIONS), ", ".join(sorted(_FUNCTIONS))
        raise ParamTreeError(f"no activation is {activation!r}.{near} Pass a function, or one of {known}.")
    return function


def activation_text(activation: str | Function | None) -> str:
    """Name an activation as layers print it.

    >>> activation_text("relu"), activation_text(None), activation_text(jax.nn.gelu)
    ('relu', 'linear', 'gelu')
    """
    if activation is None or isinstance(activation, str):
        return activation or "linear"
    return getattr(activation, "__name__", repr(activation))


def Activation(activation: str | Function, *, name: str | None = None) -> Module:
    """Apply a function to every element: (...) -> (...).

    >>> Activation("relu").apply({}, jnp.array([-1.0, 2.0]))
    Array([0., 2.], dtype=float32)

    Raises:
        ParamTreeError: for a name that is not known, at construction.
    """
    function = activation_function(activation)

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        del scope
        return function(x)

    return Module(call, "Activation", name, describe=lambda _: f"Activation({activation_text(activation)})")


def PReLU(*, name: str | None = None, params: Module | None = None) -> Module:
    """Multiply what is below 0 by a trained number: (...) -> (...).

    Parameters: `alpha` (1,), 0.25 at first. The output has the input's dtype, or float32 for integers.

    >>> net = PReLU()
    >>> net.apply(net.init(jax.random.key(0), "3"), jnp.array([-2.0, 0.0, 3.0]))
    Array([-0.5,  0. ,  3. ], dtype=float32)

    Source: He, Zhang, Ren and Sun 2015, Delving deep into rectifiers: surpassing human-level performance on
    ImageNet classification.

    Raises:
        MismatchError: at the call, for complex numbers.
    """

    def call(scope: Scope, x: jax.Array) -> jax.Array:
        x, dtype = widen(scope, x)
        alpha = scope.param("alpha", (1,), _QUARTER)[0].astype(x.dtype)
        return jnp.where(x > 0, x, alpha * x).astype(dtype)

    return Module(call, "PReLU", name, params, describe=lambda _: "PReLU()")
