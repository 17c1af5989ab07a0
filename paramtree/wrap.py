"""Modules made elsewhere: any pair of functions `init` and `apply`."""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp

from paramtree.draw import Joint, Part
from paramtree.errors import MismatchError
from paramtree.module import Module
from paramtree.names import flatten_named, untyped_jax
from paramtree.scope import Scope


def wrap(
    init: Callable[..., Any], apply: Callable[..., Any], /, *, title: str = "Wrapped", name: str | None = None
) -> Module:
    """Make a module of a foreign pair `init(key, *inputs) -> params`, `apply(params, *inputs) -> outputs`.

    The foreign parameters, whatever their containers, become a block of the nested dict, by their names. Two
    conventions are known by their argument names: stax's `init(rng, input_shape)`, which also returns the
    output's shape, and Haiku's `apply(params, rng, ...)`. At init the inputs are zeros of the right shape.

    `train` is not passed on, and running statistics are parameters like any other here: `freeze` them, or
    wrap a function that does with them what is meant. A model of Flax: `wrap(model.init, model.apply)`.

    >>> net = wrap(lambda key, x: {"w": jnp.ones(x.shape[-1])}, lambda params, x: x @ params["w"])
    >>> net.specs("batch, 5")
    {'w': ParamSpec((5,), float32)}

    Raises:
        MismatchError: at the call, where a size that parameters depend on is only a symbol.
    """
    takes_shape = "input_shape" in signature(init).parameters
    takes_rng = list(signature(apply).parameters)[1:2] == ["rng"]

    def make(key: jax.Array, shapes: Sequence[Any]) -> Any:
        if takes_shape:
            return init(key, shapes[0].shape if len(shapes) == 1 else [each.shape for each in shapes])[1]
        return init(key, *jax.tree.map(_zeros, shapes))

    def abstract(shapes: Sequence[Any]) -> Any:
        return untyped_jax.eval_shape(partial(make, shapes=shapes), jax.random.key(0))

    def call(scope: Scope, *inputs: Any) -> Any:
        shapes = jax.tree.map(partial(_known_shape, 1), inputs)
        like, structure = flatten_named(abstract(shapes))
        sizes = [size for each in jax.tree.leaves(inputs) for size in jnp.shape(each)]
        symbolic = not all(isinstance(size, int) for size in sizes)
        if symbolic and jax.tree.leaves(abstract(jax.tree.map(partial(_known_shape, 2), inputs))) != like:
            raise MismatchError(f"{scope.called()} needs the sizes that its parameters depend on as numbers.")
        joint = Joint(scope.home, lambda key: jax.tree.map(jnp.asarray, jax.tree.leaves(make(key, shapes))))
        values = list(like)
        for name, index in zip(structure.names, structure.indices, strict=True):
            values[index] = scope.foreign(name, like[index], Part(joint, index))
        params = jax.tree.unflatten(structure.treedef, values)
        if takes_rng:
            return apply(params, scope.key() if scope.has_key else None, *inputs)
        keyed = {"rng": scope.key()} if takes_shape and scope.has_key else {}
        return apply(params, *inputs, **keyed)

    return Module(call, title, name)


def _zeros(like: Any) -> jax.Array:
    return untyped_jax.numpy.zeros(like.shape, like.dtype)


def _known_shape(stand_in: int, value: Any) -> jax.ShapeDtypeStruct:
    """Give an input's shape, with a stand-in for every size that is only a symbol."""
    value = value if hasattr(value, "dtype") else untyped_jax.numpy.asarray(value)
    sizes = [size if isinstance(size, int) else stand_in for size in value.shape]
    return jax.ShapeDtypeStruct(sizes, value.dtype)
