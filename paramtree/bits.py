"""The random bits of JAX's own generator, written so that XLA fuses them with what is made of them.

On a CPU JAX works out Threefry in a loop over whole arrays, five times over three of them. Element by element
it is a part of the loop that turns bits into numbers: ten times as fast, and in no memory but the result's.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from paramtree.names import untyped_jax

_PLAIN, _FUSED = "threefry2x32", "fused_threefry2x32"  # what JAX calls its generator, and we ours
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def is_threefry(keys: jax.Array) -> bool:
    """Tell whether keys are of JAX's own generator, whose bits are the same for each key in a batch.

    >>> is_threefry(jax.random.key(0)), is_threefry(jax.random.key(0, impl="rbg"))
    (True, False)
    """
    return str(jax.random.key_impl(keys)) in (_PLAIN, _FUSED)


def fused(keys: jax.Array) -> jax.Array:
    """Give the same keys in a kind of their own, which has the same bits; those of other generators as is.

    >>> key = jax.random.key(0)
    >>> bool(jax.random.bits(fused(key)) == jax.random.bits(key))
    True
    """
    plain = jax.random.key_impl(keys) == _PLAIN and untyped_jax.config.jax_threefry_partitionable
    return jax.random.wrap_key_data(jax.random.key_data(keys), impl=_kind()) if plain else keys


@lru_cache(maxsize=1)
def _kind() -> Any:
    from jax.extend import random  # loads more than all of this package does

    like: Any = random.threefry_prng_impl
    return random.define_prng_impl(
        key_shape=like.key_shape,
        seed=like.seed,
        split=like.split,
        fold_in=like.fold_in,
        random_bits=partial(_bits, like.random_bits),
        name=_FUSED,
        tag=_FUSED,
    )


def _bits(plain: Callable[..., Any], key: Any, width: int, shape: tuple[int, ...]) -> Any:
    """Draw unsigned numbers of 8, 16, 32 or 64 bits; `plain` does so where one word cannot number them."""
    if math.prod(shape) >= 2**32:
        return plain(key, width, shape)
    first, second = _enciphered(key[0], key[1], _numbered(shape))
    if width == 64:
        return (first.astype(jnp.uint64) << np.uint64(32)) | second.astype(jnp.uint64)
    return (first ^ second).astype(f"uint{width}")


def _numbered(shape: tuple[int, ...]) -> Any:
    """Number the elements of an array, the last axis first."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    places = [
        lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride)
        for axis, stride in enumerate(strides)
    ]
    return sum(places, jnp.zeros(shape, jnp.uint32))


def fold_words(key: Any, data: Any) -> tuple[Any, Any]:
    """Fold the two words of a key with one row of words after the other, as `jax.random.fold_in` does.

    For arrays of NumPy: to fold keys in JAX takes longer to compile than many a net. XLA would fuse it into
    all that is drawn from the keys, and fold anew for each element.

    Args:
        key: uint32 (2,).
        data: uint32 (folds, keys).

    >>> words = np.stack(fold_words(np.array([0, 7], "uint32"), np.array([[1, 2], [3, 4]], "uint32")), -1)
    >>> by_jax = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 2), 4)
    >>> bool((words[1] == jax.random.key_data(by_jax)).all())
    True
    """
    one, other = key[:1], key[1:]
    for row in data:
        one, other = _enciphered(one, other, row)
    return one, other


def _enciphered(one: Any, other: Any, number: Any) -> tuple[Any, Any]:
    """Encipher the words (0, number) by 20 rounds of Threefry-2x32.

    Source: Salmon, Moraes, Dror and Shaw, 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.2.
    """
    keys = one, other, one ^ other ^ _PARITY
    left, right = one, number + other
    for group in range(5):
        for by in _ROTATIONS[group % 2]:
            left = left + right
            right = left ^ ((right << np.uint32(by)) | (right >> np.uint32(32 - by)))
        left = left + keys[(group + 1) % 3]
        right = right + keys[(group + 2) % 3] + np.uint32(group + 1)
    return left, right
