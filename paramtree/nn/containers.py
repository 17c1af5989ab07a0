"""Modules made of modules, and of plain functions."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import jax.numpy as jnp

from paramtree import display
from paramtree.errors import MismatchError, ParamTreeError
from paramtree.module import Module, assign_keys, chain
from paramtree.nn.checks import check_axes, check_size
from paramtree.scope import Keys, Scope, call_layer, key_stem
from paramtree.tree import is_array


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
    return chain(assign_keys(_check_layers("Sequential", layers)), "Sequential", name)


def Residual(*layers: Module, shortcut: Module | None = None, name: str | None = None) -> Module:
    """Add the input to what layers, called one after the other, make of it: (...) -> (...).

    Args:
        *layers: the layers.
        shortcut: a layer applied to the input before it is added, needed where the layers change its shape;
            its key is "shortcut".
        name: its key in the parent.

    >>> import jax
    >>> from paramtree import nn
    >>> net = Residual(nn.Dense(8, "relu"), nn.Dense(8))
    >>> net.apply(net.init(jax.random.key(0), "2, 8"), jnp.ones((2, 8))).shape
    (2, 8)

    Source: He et al. 2015, Deep residual learning for image recognition.

    Raises:
        ParamTreeError: for a layer that is not a module.
        BadNameError: for two layers with one name.
        MismatchError: at the call, where the two do not have one shape.
    """
    keys = Keys()
    body = [(keys.key(layer), layer) for layer in _check_layers("Residual", layers)]
    ways = _check_layers("Residual", [] if shortcut is None else [shortcut])
    way = [(keys.key(layer, "shortcut"), layer) for layer in ways]

    def call(scope: Scope, x: Any) -> Any:
        y = x
        for key, layer in body:
            y = scope.call(layer, y, name=key)
        for key, layer in way:
            x = scope.call(layer, x, name=key)
        return _combine(scope, "sum", [x, y])

    return Module(call, "Residual", name, layers=(*body, *way))


def Parallel(
    *layers: Module, combine: str = "concatenate", axis: int = -1, name: str | None = None
) -> Module:
    """Call layers on the same inputs, and put their outputs together.

    Args:
        *layers: the layers.
        combine: "concatenate", or "sum".
        axis: along which axis to concatenate.
        name: its key in the parent.

    >>> import jax
    >>> from paramtree import nn
    >>> net = Parallel(nn.Dense(3), nn.Dense(5))
    >>> net.apply(net.init(jax.random.key(0), "2, 4"), jnp.ones((2, 4))).shape
    (2, 8)

    Raises:
        ParamTreeError: for a layer that is not a module, for none at all, or another way to combine.
        BadNameError: for two layers with one name.
        MismatchError: at the call, where the outputs' shapes do not fit.
    """
    keyed = assign_keys(_check_layers("Parallel", layers))
    if not keyed:
        raise ParamTreeError("Parallel needs at least one layer.")
    if combine not in ("concatenate", "sum"):
        raise ParamTreeError(f"Parallel can 'concatenate' or 'sum', and got {combine!r}.")
    check_axes("Parallel", axis, several=False)

    def call(scope: Scope, *inputs: Any) -> Any:
        outputs = [scope.call(layer, *inputs, name=key) for key, layer in keyed]
        return _combine(scope, combine, outputs, axis)

    text = f"Parallel {combine}"
    return Module(call, "Parallel", name, layers=tuple(keyed), describe=lambda _: text)


def _combine(scope: Scope, how: str, outputs: Sequence[Any], axis: int = 0) -> Any:
    found = " and ".join(
        f"{each.dtype}{display.shape_text(each.shape)}" if is_array(each) else type(each).__name__
        for each in outputs
    )
    try:
        if not all(map(is_array, outputs)):
            raise TypeError("these are not all arrays")
        if how == "concatenate":
            return jnp.concatenate(outputs, axis)
        if len({each.shape for each in outputs}) > 1:
            raise ValueError("a sum needs one shape")
        return reduce(add, map(jnp.asarray, outputs))
    except (TypeError, ValueError) as error:
        reason = str(error).removesuffix(".")
        raise MismatchError(f"{scope.called()} cannot {how} {found}: {reason}.") from error


def Repeat(layer: Module, count: int, *, name: str | None = None) -> Module:
    """Call `count` layers of one kind one after the other: compiled once, with stacked parameters.

    The parameters have a leading axis of `count`, under one key: the layer's name, or its kind. Their values
    are those of `count` separate layers, `block0`, `block1` and so on for a layer of kind `Block`, in a
    `Sequential` of the same name; `pt.unstack(params, "repeat0/block")` makes the ones of the others, and
    `pt.stack` goes back. Inputs after the first are the same for each of them.

    To share the layers of two repetitions use one layer in both, or `pt.tie` the one block to the other as a
    whole. A parameter in it that is tied to one outside is the same for all repetitions.

    >>> from paramtree import nn
    >>> net = Repeat(nn.Dense(8, "tanh"), 6)
    >>> net.specs("batch, 8")["dense"]["weight"]
    ParamSpec((6, 8, 8), float32)

    Raises:
        ParamTreeError: for what is not a module, or a count below 1.
        MismatchError: at the call, where the layer does not give what it takes.
    """
    _check_layers("Repeat", [layer])
    count = check_size("Repeat", "count", count)
    key = key_stem(layer)

    def call(scope: Scope, x: Any, *inputs: Any) -> Any:
        return scope.repeat(layer, count, x, *inputs)

    text = f"Repeat {count} times"
    return Module(call, "Repeat", name, layers=((key, layer),), repeats=count, describe=lambda _: text)


def remat(layer: Module, *, policy: Callable[..., Any] | None = None) -> Module:
    """Make the same layer, with the same parameters, which keeps less for the backward pass.

    What it computes inside is computed again there. In a `Repeat`, `Repeat(remat(block), n)` keeps the inputs
    of the blocks alone. Where both are used in a net, they share their parameters.

    Args:
        layer: the layer.
        policy: what is kept nevertheless, one of `jax.checkpoint_policies`; nothing, if left out.

    >>> from paramtree import nn
    >>> remat(nn.Dense(8, "tanh"))
    Dense(8, tanh)

    Source: Chen et al. 2016, Training deep nets with sublinear memory cost.

    Raises:
        ParamTreeError: for what is not a module.
    """
    _check_layers("remat", [layer])

    def call(scope: Scope, *inputs: Any) -> Any:
        return scope.remat(lambda scope, *inputs: call_layer(layer, scope, inputs), *inputs, policy=policy)

    return replace(layer, call=call, shares=layer)


def _check_layers(kind: str, layers: Sequence[Any]) -> Sequence[Module]:
    for number, layer in enumerate(layers):
        if not isinstance(layer, Module):
            which = f"layer {number} is {layer!r}" if len(layers) > 1 else f"got {layer!r}"
            raise ParamTreeError(
                f"{kind} takes modules, and {which}. "
                "Make one with nn.Lambda(function), pt.wrap(init, apply) or pt.module(function)."
            )
    return layers


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
