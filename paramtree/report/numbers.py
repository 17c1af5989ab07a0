"""Arrays of any dtype read for one purpose: to order, count and add up what they hold.

A *key* is a whole number that orders as the value does, made of its bits: so values that a device flushes to
zero, as XLA does with subnormal numbers on a CPU, keep their place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

Array = np.ndarray[Any, Any]


class Reading(NamedTuple):
    """What the elements of an array are.

    Attributes:
        key: whole numbers in the order of the values, of 32 bits, or 64 for a dtype as wide.
        nan: which are NaN.
        infinite: which are infinite.
        zero: which are zero.
        subnormal: which are too small for a full precision in their dtype.
        number: the values, in float32, or float64 for a dtype as wide; of complex numbers the magnitudes.
        number_of: gives the number of a key.
    """

    key: Any
    nan: Any
    infinite: Any
    zero: Any
    subnormal: Any
    number: Any
    number_of: Callable[[Any], Any]


class _Width(NamedTuple):
    """The dtypes, and the bits of a float, of one width."""

    whole: Any
    unsigned: Any
    real: Any
    fraction: int  # bits

    @property
    def infinity(self) -> int:
        return int(np.array(np.inf, self.real).view(self.whole))


_NARROW = _Width(np.int32, np.uint32, np.float32, 23)
_WIDE = _Width(np.int64, np.uint64, np.float64, 52)


def width_of(dtype: Any) -> _Width:
    """Give the width that numbers of a dtype are measured in."""
    narrow = np.dtype(dtype).itemsize <= 4 or dtype == np.complex64
    return _NARROW if narrow else _WIDE


def read_numbers(array: Any) -> Reading:
    """Read an array; within `jit`."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return _read_complex(array)
    if jnp.issubdtype(array.dtype, jnp.floating):
        tiny = float(jnp.finfo(array.dtype).smallest_normal)
        width = width_of(array.dtype)
        bits = lax.bitcast_convert_type(array.astype(width.real), width.whole)
        return _read_bits(bits, tiny, width)
    return _read_whole(array)


def _read_bits(bits: Any, tiny: float, width: _Width) -> Reading:
    size = bits & np.iinfo(width.whole).max
    return Reading(
        key=_reversed_below_zero(bits, width),
        nan=size > width.infinity,
        infinite=size == width.infinity,
        zero=size == 0,
        subnormal=(size > 0) & (size < int(np.array(tiny, width.real).view(width.whole))),
        number=lax.bitcast_convert_type(bits, width.real),
        number_of=lambda key: lax.bitcast_convert_type(_reversed_below_zero(key, width), width.real),
    )


def _reversed_below_zero(bits: Any, width: _Width) -> Any:
    """Turn the bits of floats into keys, or keys into bits: negative floats have their bits the other way."""
    last = np.iinfo(width.whole)
    return bits ^ ((bits >> width.whole(last.bits - 1)) & width.whole(last.max))


def _read_complex(array: Any) -> Reading:
    width = width_of(array.dtype)
    parts = [lax.bitcast_convert_type(part, width.whole) for part in (array.real, array.imag)]
    sizes = [part & np.iinfo(width.whole).max for part in parts]
    larger = jnp.maximum(*sizes)
    nan = (sizes[0] > width.infinity) | (sizes[1] > width.infinity)
    bits = lax.bitcast_convert_type(jnp.abs(array), width.whole)
    tiny = float(np.finfo(width.real).smallest_normal)
    # where the device has flushed both parts to zero, and where one is not finite, the larger part tells
    plain = (larger < int(np.array(tiny, width.real).view(width.whole))) | (larger >= width.infinity)
    # a magnitude may be larger than the largest number though both parts are finite
    bits = jnp.where(plain, larger, jnp.minimum(bits, width.infinity - 1))
    return _read_bits(jnp.where(nan, width.whole(width.infinity + 1), bits), tiny, width)


def _read_whole(array: Any) -> Reading:
    width = width_of(array.dtype)
    sign = np.iinfo(width.whole).min
    unsigned = array.dtype == width.unsigned
    key = lax.bitcast_convert_type(array, width.whole) ^ sign if unsigned else array.astype(width.whole)
    never = jnp.zeros(array.shape, bool)

    def number_of(key: Any) -> Any:
        whole = lax.bitcast_convert_type(key ^ sign, width.unsigned) if unsigned else key
        return whole.astype(width.real)

    return Reading(key, never, never, array == jnp.zeros((), array.dtype), never, number_of(key), number_of)


def power_of_two(size: Any) -> Any:
    """Give the power of two that brings a size near to 1, so that no square of it overflows.

    >>> power_of_two(jnp.float32(5.0)) * 5.0
    Array(0.625, dtype=float32)
    """
    width = width_of(size.dtype)
    bias = width.infinity >> width.fraction
    exponent = lax.bitcast_convert_type(size, width.whole) >> width.whole(width.fraction)
    new = jnp.clip(bias - 2 - exponent, 1, bias - 1).astype(width.whole)
    return lax.bitcast_convert_type(new << width.whole(width.fraction), width.real)


def values_of_keys(keys: Array, dtype: Any) -> Array:
    """Give the values of keys, on the host: float64, or the whole numbers as they are.

    >>> values_of_keys(np.array([3, -2]), np.dtype("int8"))
    array([ 3, -2], dtype=int32)
    """
    width = width_of(dtype)
    keys = keys.astype(width.whole)
    if jnp.issubdtype(dtype, jnp.inexact):
        bits = keys ^ ((keys >> width.whole(np.iinfo(width.whole).bits - 1)) & np.iinfo(width.whole).max)
        return bits.view(width.real).astype(np.float64)
    unsigned = dtype == width.unsigned
    return (keys ^ np.iinfo(width.whole).min).view(width.unsigned) if unsigned else keys
