"""Modules made of modules, and of plain functions."""

from collections.abc import Callable
from typing import Any

from paramtree.errors import ParamTreeError
from paramtree.module import Module, assign_keys, chain
from paramtree.scope import Scope


def Sequential(*layers: Module, name: str | None = None) -> Module:
    """Call layers one after the other.

    Each layer's key is its `name`, or counts its kind: `dense0`, `dense1`. `net[i]` is a layer, `net[:2]` a
    net of the first two under the same keys, so it takes the parameters of the whole.

    >>> from paramtree import nn
    >>> nn.Sequential(nn.Dense(256, activation="relu"), nn.Dense(10))
    Sequential(
      (0) dense0: Dense(256, relu)
      (1) dense1: Dense(10, linear)
    )

    Raises:
        ParamTreeError: for a layer that is not a module.
        BadNameError: for two layers with one name.
    """
    for number, layer in enumerate(layers):
        if not isinstance(layer, Module):
            raise ParamTreeError(
                f"Sequential takes modules, and layer {number} is {layer!r}. "
                "Make one with nn.Lambda(function), pt.wrap(init, apply) or pt.module(function)."
            )
    return chain(assign_keys(layers), "Sequential", name)


def Lambda(function: Callable[..., Any], *, name: str | None = None) -> Module:
    """Make a layer without parameters of a function of the inputs.

    >>> import jax.numpy as jnp
    >>> Lambda(jnp.square).apply({}, jnp.array([3.0]))
    Array([9.], dtype=float32)

    Raises:
        ParamTreeError: for what is not a function, at construction.
    """
    if not callable(function):
        raise ParamTreeError(f"Lambda takes a function of the inputs, and not {function!r}.")

    def call(scope: Scope, *inputs: Any) -> Any:
        del scope
        return function(*inputs)

    text = getattr(function, "__name__", repr(function))
    return Module(call, "Lambda", name, describe=lambda _: f"Lambda({text})")
