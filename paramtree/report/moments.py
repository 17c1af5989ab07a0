"""Mean, spread, range, classes and histogram of many arrays, as plain numbers on the host."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from paramtree.report.measure import BINS, Measured, measure_one, measure_rows
from paramtree.report.numbers import values_of_keys
from paramtree.report.values import is_on_host, launch, sixteens

Array = np.ndarray[Any, Any]


class Moments(NamedTuple):
    """What the numbers of one array are; of complex numbers the magnitudes.

    Attributes:
        finite: the number of elements that are finite; what follows but the counts is of these.
        nan: the number of elements that are NaN.
        infinite: the number that are infinite.
        zero: the number that are zero.
        subnormal: the number that are too small for the full precision of the dtype.
        mean: None where no element is finite; so are std, rms, least and most.
        std: the standard deviation, around the mean of all elements.
        rms: the root of the mean square.
        least: the smallest.
        most: the largest.
        bins: the number of elements in each of the 16 bins of one width from the least to the most; all in
            the first, where these are the same.
    """

    finite: int = 0
    nan: int = 0
    infinite: int = 0
    zero: int = 0
    subnormal: int = 0
    mean: float | None = None
    std: float | None = None
    rms: float | None = None
    least: float | int | None = None
    most: float | int | None = None
    bins: tuple[int, ...] = (0,) * BINS

    @property
    def largest(self) -> float | int | None:
        """The largest absolute value."""
        if self.least is None or self.most is None:
            return None
        return max(abs(self.least), abs(self.most))

    @property
    def norm(self) -> float:
        """The root of the sum of the squares: NaN or infinite where an element is."""
        if self.nan or self.infinite:
            return math.nan if self.nan else math.inf
        return (self.rms or 0.0) * math.sqrt(self.finite)


def measure(arrays: Sequence[Any]) -> list[Moments]:
    """Measure arrays of numbers: all that JAX can hold in one pass, and one transfer to the host.

    >>> measure([np.float32([1, 3]), np.int8([])])[0][5:8]
    (2.0, 1.0, 2.23606797749979)
    """
    found = [Moments()] * len(arrays)
    held = [at for at, array in enumerate(arrays) if array.size]
    there = [at for at in held if not is_on_host(arrays[at])]
    for positions, packed in launch([arrays[at] for at in there], measure_rows, measure_one):
        each = _moments(Measured.unpack(packed), arrays[there[positions[0]]].dtype)
        for position, moments in zip(positions, each, strict=True):
            found[there[position]] = moments
    for at in held if len(there) < len(held) else ():
        if is_on_host(arrays[at]):
            found[at] = _measure_host(arrays[at])
    return found


def _moments(found: Measured, dtype: Any) -> list[Moments]:
    counts = sixteens(found.counts).T
    finite = counts[:, 4]
    least, most = (values_of_keys(keys, dtype) for keys in (found.least, found.most))
    scale, mean, spread = (each.astype(np.float64) for each in (found.scale, found.mean, found.spread))
    mean = np.where(finite > 0, mean / scale, 0.0)
    std = np.where(least < most, np.sqrt(spread / np.maximum(finite, 1)) / scale, 0.0)
    with np.errstate(invalid="ignore"):  # the ends of what holds no finite number are none
        mean = np.clip(mean, least.astype(np.float64), most.astype(np.float64))
    inner = counts[:, 5:]
    bins = map(tuple, np.concatenate([finite[:, None] - inner.sum(1, keepdims=True), inner], 1).tolist())
    columns = [counts[:, at] for at in (4, 0, 1, 2, 3)]
    columns += [mean, std, np.hypot(mean, std), least, most]
    rows = zip(*(column.tolist() for column in columns), bins, strict=True)
    return [Moments._make(row) if row[0] else Moments(*row[:5]) for row in rows]


def _measure_host(array: Array) -> Moments:
    """Measure an array in NumPy."""
    with np.errstate(all="ignore"):
        nan, infinite = np.isnan(array), np.isinf(array)
        infinite &= ~nan  # a complex number may be both
        finite = array[~(nan | infinite)]
        if array.dtype.kind == "c":  # whose magnitude may be larger than the largest number
            finite = np.minimum(np.abs(finite), np.finfo(array.dtype).max)
        size = np.abs(finite)
        tiny = np.finfo(finite.dtype).smallest_normal if finite.dtype.kind == "f" else 0
        classes = [nan, infinite, finite == 0, (size > 0) & (size < tiny)]
        found = _counted(finite.size, classes)
        if not finite.size:
            return found
        least, most = finite.min(), finite.max()
        exponent = math.frexp(max(abs(float(least)), abs(float(most))))[1]
        scale = math.ldexp(1.0, min(-exponent, 1000))
        scaled = finite.astype(np.float64) * scale
        mean, std = float(scaled.mean()), float(scaled.std())
        bins = _bins(scaled, float(least) * scale, float(most) * scale)
    return found._replace(
        mean=mean / scale,
        std=std / scale,
        rms=math.hypot(mean, std) / scale,
        least=least.item(),
        most=most.item(),
        bins=bins,
    )


def _counted(finite: int, classes: Sequence[Array]) -> Moments:
    nan, infinite, zero, subnormal = (int(np.count_nonzero(each)) for each in classes)
    return Moments(finite, nan, infinite, zero, subnormal)


def _bins(scaled: Array, low: float, high: float) -> tuple[int, ...]:
    if low == high:
        return (scaled.size, *[0] * (BINS - 1))
    return tuple(np.histogram(scaled, BINS, (low, high))[0].tolist())
