"""Attention."""

from typing import Any

import jax
import jax.numpy as jnp

from paramtree.display import shape_text
from paramtree.errors import MismatchError, ParamTreeError
from paramtree.module import Module
from paramtree.nn.checks import check_rank, check_size
from paramtree.nn.linear import Dense
from paramtree.scope import Scope


def MultiHeadAttention(
    heads: int,
    *,
    features: int | None = None,
    kv_heads: int | None = None,
    causal: bool = False,
    use_bias: bool = True,
    weight_init: Any = None,
    out_init: Any = None,
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Let every step look at all steps: (batch, time, in) -> (batch, time, features).

    `net.apply(params, x)` looks at x itself, `(params, x, memory)` at a memory (batch, time of the memory,
    any width), and `(params, x, None, mask)` or `(params, x, memory, mask)` only where the mask is True. The
    mask is boolean, of shape (T, S), (batch, T, S) or (batch, heads, T, S), for T steps that look at S; any
    of its sizes may be 1. A step whose mask is False everywhere attends to nothing: it gets the bias of
    `out`, and gives no gradient.

    The softmax is computed in float32, whatever the dtype.

    Parameters: `query/weight` (features, in), `key/weight` and `value/weight` (kv_heads * features / heads,
    in of the memory), `out/weight` (features, features), and the `bias` of each.

    Args:
        heads: how many there are.
        features: the width of the outputs, a multiple of heads; that of x, if left out.
        kv_heads: how many heads keys and values have, each for heads / kv_heads of the others; as many as
            heads, if left out.
        causal: whether step t looks at the steps up to t only.
        use_bias: whether the four layers add a bias.
        weight_init: the initialiser of the four weights; with none they get the one given to `net.init`.
        out_init: that of the weight of `out`, where it is another.
        name: its key in the parent.
        params: a layer whose parameters this one shares.

    >>> net = MultiHeadAttention(2, causal=True)
    >>> params = net.init(jax.random.key(0), "8, 5, 4")
    >>> net.apply(params, jnp.ones((8, 5, 4))).shape
    (8, 5, 4)

    Source: Vaswani et al. 2017, Attention is all you need; with kv_heads, Ainslie et al. 2023, GQA: training
    generalized multi-query transformer models.

    Raises:
        ParamTreeError: at construction, for sizes below 1, and heads that do not divide.
        MismatchError: at the call, for inputs or a mask of another shape or dtype.
    """
    heads = check_size("MultiHeadAttention", "heads", heads)
    kv_heads = heads if kv_heads is None else check_size("MultiHeadAttention", "kv_heads", kv_heads)
    if heads % kv_heads:
        raise ParamTreeError(
            f"MultiHeadAttention needs kv_heads to divide its {heads} heads, and got {kv_heads}."
        )
    if features is not None and check_size("MultiHeadAttention", "features", features) % heads:
        raise ParamTreeError(
            f"MultiHeadAttention needs features to be a multiple of its {heads} heads, and got {features}."
        )

    def call(scope: Scope, x: jax.Array, memory: Any = None, mask: Any = None) -> jax.Array:
        x = jnp.asarray(x)
        check_rank(scope, x, 3, "(batch, time, features)")
        memory = x if memory is None else _checked_memory(scope, x, jnp.asarray(memory))
        if mask is not None:
            mask = _checked_mask(scope, jnp.asarray(mask), (x.shape[0], heads, x.shape[1], memory.shape[1]))
        width = _width(scope, x, heads) if features is None else features
        size = width // heads

        def project(key: str, inputs: jax.Array, count: int) -> jax.Array:
            layer = Dense(count * size, use_bias=use_bias, weight_init=weight_init, name=key)
            y = scope.call(layer, inputs)
            return y.reshape(*y.shape[:-1], count, size)

        query = project("query", x, heads)
        key, value = project("key", memory, kv_heads), project("value", memory, kv_heads)
        seen = _look(query, key, value, mask, causal)
        out = Dense(width, use_bias=use_bias, weight_init=out_init or weight_init, name="out")
        return scope.call(out, seen.reshape(*x.shape[:-1], width))

    shared = f"{kv_heads} kv_heads" if kv_heads < heads else ""
    notes = [f"{heads} heads", shared, "causal" if causal else ""]

    def describe(own: Any) -> str:
        known = own and "weight" in own.get("query", {})
        sizes = own["query"]["weight"].shape[::-1] if known else filter(None, (features,))
        return f"MultiHeadAttention({', '.join(filter(None, [' -> '.join(map(str, sizes)), *notes]))})"

    return Module(call, "MultiHeadAttention", name, params, describe=describe)


def _width(scope: Scope, x: jax.Array, heads: int) -> int:
    width: Any = x.shape[-1]
    if not isinstance(width, int):
        raise MismatchError(
            f"{scope.called()} needs to know the size of the last axis, which its {heads} heads divide. "
            "Give that size, or features= to the layer."
        )
    if width == 0 or width % heads:
        raise MismatchError(
            f"{scope.called()} needs a last axis that divides among {heads} heads, and got {width}. "
            "Give features= to the layer, a multiple of its heads."
        )
    return width


def _checked_memory(scope: Scope, x: jax.Array, memory: jax.Array) -> jax.Array:
    if memory.ndim != 3 or memory.shape[0] != x.shape[0] or memory.dtype != x.dtype:
        raise MismatchError(
            f"{scope.called()} needs memory of {x.dtype} and shape ({x.shape[0]}, time, features), "
            f"and got {memory.dtype} of {shape_text(memory.shape)}."
        )
    return memory


def _checked_mask(scope: Scope, mask: jax.Array, shape: tuple[Any, ...]) -> jax.Array:
    """Give a mask its four axes: batch, heads, steps that look, steps looked at.

    Raises:
        MismatchError: where it is not boolean, or of another shape.
    """
    if mask.dtype != jnp.bool:
        raise MismatchError(
            f"{scope.called()} needs a boolean mask, True where a step may look, and got {mask.dtype}. "
            "Convert it with .astype(bool)."
        )
    batch, heads, *steps = shape
    taken = {2: (*steps,), 3: (batch, *steps), 4: (batch, heads, *steps)}
    wanted = taken.get(mask.ndim)
    if not wanted or any(size not in (1, most) for size, most in zip(mask.shape, wanted, strict=True)):
        first, second, third = map(shape_text, taken.values())
        raise MismatchError(
            f"{scope.called()} needs a mask of shape {first}, {second} or {third}, in which any size may be "
            f"1, and got {shape_text(mask.shape)}."
        )
    return jnp.expand_dims(mask, {2: (0, 1), 3: 1, 4: ()}[mask.ndim])


def _look(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool
) -> jax.Array:
    dtype = query.dtype
    if dtype == jnp.float16:  # for which JAX's own has no product on CPUs under jit
        query, key, value = (each.astype(jnp.float32) for each in (query, key, value))
    if mask is None:
        return _attend(query, key, value, None, causal).astype(dtype)
    reach = jnp.tril(jnp.ones((query.shape[1], key.shape[1]), bool)) if causal else jnp.ones((1, 1), bool)
    some = jnp.any(mask & jnp.expand_dims(reach, (0, 1)), axis=-1, keepdims=True)
    # over nothing, a softmax is a mean of all or NaN, by backend: such steps look, and forget what they saw
    seen = _attend(query, key, value, mask | ~some, causal)
    return jnp.where(some.swapaxes(1, 2), seen, jnp.zeros_like(seen)).astype(dtype)


def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool
) -> jax.Array:
    # JAX's own promotes dtypes, which strict users forbid; its bfloat16 gradient does too, out of reach
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=causal)
