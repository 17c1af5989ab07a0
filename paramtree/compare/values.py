"""How far two arrays are apart: counted and measured piece by piece, in NumPy.

NumPy and not a compiled function: 64-bit numbers are compared whatever JAX's x64 says, nothing is compiled
for each shape, and values read from a file are never put on a device.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.layout import dtype_fault
from paramtree.tree import is_array

Array = np.ndarray[Any, Any]

_CHUNK = 1 << 18  # elements measured at a time: what bounds the memory of the wide numbers on the way


class Gap(NamedTuple):
    """How far the values of two arrays are apart.

    Attributes:
        changed: the number of elements that differ by more than the tolerances; NaN is equal to NaN.
        largest: the largest absolute difference, exact for whole numbers; None where there are no numbers.
        relative: the largest difference relative to the larger of the two absolute values, from 0 to 2, or
            infinite where one of them is.
        nan_a: the number of elements that are NaN in the first array only.
        nan_b: the number of elements that are NaN in the second array only.
    """

    changed: int = 0
    largest: float | int | None = 0
    relative: float | None = 0.0
    nan_a: int = 0
    nan_b: int = 0


def measure(a: Array, b: Array, rtol: float = 0.0, atol: float = 0.0) -> Gap:
    """Measure how far two arrays of one shape are apart.

    Two elements differ where `abs(x - y) > atol + rtol * max(abs(x), abs(y))`, where one alone is NaN, and
    where one is infinite and the other is not the same.

    >>> measure(np.array([1.0, 2.0, np.nan]), np.array([1.0, 4.0, np.nan]))
    Gap(changed=1, largest=2.0, relative=0.5, nan_a=0, nan_b=0)
    """
    if dtype_fault(a.dtype) or dtype_fault(b.dtype):
        return Gap(_unlike(a, b), None, None)
    whole = _is_whole(a.dtype) and _is_whole(b.dtype)
    gaps = [_whole_gap(x, y, rtol, atol) if whole else _gap(x, y, rtol, atol) for x, y in _unequal(a, b)]
    if not gaps:
        return Gap()
    changed, largest, relative, nan_a, nan_b = zip(*gaps, strict=True)
    return Gap(sum(changed), max(largest), max(relative), sum(nan_a), sum(nan_b))


def _unlike(a: Array, b: Array) -> int:
    """Count the elements that differ of arrays of texts, times or objects; NaT is equal to NaT.

    >>> _unlike(np.array(["NaT", "2026-01-01"], "M8[D]"), np.array(["NaT", "2026-01-02"], "M8[D]"))
    1
    """
    if a.dtype.kind in "mM":
        return int(np.count_nonzero((a != b) & ~(np.isnat(a) & np.isnat(b))))
    if a.dtype.kind != "O":
        return int(np.count_nonzero(a != b))
    return sum(not same(x, y) for x, y in zip(a.flat, b.flat, strict=True))


def same(x: Any, y: Any) -> bool:
    """Tell whether two objects are the same; there may be arrays among them, or in them.

    >>> same((np.ones(2), "a"), (np.ones(2), "a")), same([1, 2], np.array([1, 2]))
    (True, False)
    """
    if x is y:
        return True
    if is_array(x) or is_array(y):
        return is_array(x) and is_array(y) and np.array_equal(x, y)
    if isinstance(x, list | tuple) and type(x) is type(y):
        return len(x) == len(y) and all(map(same, x, y))
    if isinstance(x, dict) and type(x) is type(y):
        return x.keys() == y.keys() and all(same(x[key], y[key]) for key in x)
    return bool(x == y)


def _unequal(a: Array, b: Array) -> Iterator[tuple[Array, Array]]:
    """Give the pieces of two arrays that are not equal bit for bit."""
    a, b = a.reshape(-1), b.reshape(-1)
    for start in range(0, a.size, _CHUNK):
        x, y = a[start : start + _CHUNK], b[start : start + _CHUNK]
        if x.dtype != y.dtype or not np.array_equal(x.view(np.uint8), y.view(np.uint8)):
            yield x, y


def _is_whole(dtype: Any) -> bool:
    return dtype == np.bool_ or jnp.issubdtype(dtype, np.integer)


def _whole_gap(x: Array, y: Array, rtol: float, atol: float) -> Gap:
    unsigned = [each.dtype == np.uint64 for each in (x, y)]
    if any(unsigned) and not all(unsigned):
        x, y = x.astype(object), y.astype(object)  # Python's numbers: nothing else holds all of both
        exact = abs(x - y)
    else:
        wide = np.uint64 if all(unsigned) else np.int64
        x, y = x.astype(wide), y.astype(wide)
        # two's complement: the difference of two 64-bit numbers is exact in 64 bits without a sign
        exact = np.where(x > y, x.view(np.uint64) - y.view(np.uint64), y.view(np.uint64) - x.view(np.uint64))
    gap = exact.astype(np.float64)
    size = np.maximum(np.abs(x.astype(np.float64)), np.abs(y.astype(np.float64)))
    changed = (exact != 0) & (gap > atol + rtol * size)
    relative = np.divide(gap, size, out=np.zeros_like(gap), where=size > 0)
    return Gap(int(np.count_nonzero(changed)), int(exact.max()), float(relative.max()))


def _gap(x: Array, y: Array, rtol: float, atol: float) -> Gap:
    wide = np.complex128 if "c" in (x.dtype.kind, y.dtype.kind) else np.float64
    with np.errstate(all="ignore"):
        x, y = x.astype(wide), y.astype(wide)
        nan_x, nan_y = np.isnan(x), np.isnan(y)
        numbers = ~(nan_x | nan_y)
        gap = np.where(numbers & (x != y), np.abs(x - y), 0.0)
        gap[numbers & np.isnan(gap)] = np.inf  # of complex numbers that are infinite
        size = np.where(numbers, np.maximum(np.abs(x), np.abs(y)), 0.0)
        changed = (gap > atol + rtol * size) | np.isinf(gap)
        relative = np.divide(gap, size, out=np.zeros_like(gap), where=size > 0)
    relative[np.isinf(gap)] = np.inf
    alone = int(np.count_nonzero(nan_x & ~nan_y)), int(np.count_nonzero(nan_y & ~nan_x))
    return Gap(int(np.count_nonzero(changed)) + sum(alone), float(gap.max()), float(relative.max()), *alone)
