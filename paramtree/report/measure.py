"""The numbers of many arrays, found in one compiled pass: what `stats` tells of each parameter.

Arrays are cut into rows of 128 elements; each row is reduced by itself, and rows are then put together, so
that sums stay sound in float32 and an array of any shape needs the same few instructions. Small arrays are
copied into common rows, a bounded number at a time, and measured by one program; a large one, and one that
is spread over devices, is measured where it lies, by a program that arrays of its shape share. Least and
largest values, NaN, infinities and subnormal numbers are told by their bits, which no device flushes to zero.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from paramtree.names import untyped_jax
from paramtree.report.numbers import Array, power_of_two, read_numbers, width_of
from paramtree.report.rows import ROW, Rows, alike_rows, common_rows

BINS = 16  # of a histogram: as many as a short line of text can show

_LANES = 16  # elements of a row that are combined side by side
_CLASSES = 4  # NaN, infinite, zero, subnormal; the count of finite numbers follows them


class Measured(NamedTuple):
    """What one compiled pass finds of several arrays; on the host it is read from one array.

    Attributes:
        least: the keys of the least finite values, as `numbers.Reading` orders them.
        most: the keys of the largest.
        counts: NaN, infinite, zero, subnormal and finite elements, then those in each bin but the first,
            which holds the rest: (20, arrays), each count as (count >> 4, count & 15).
        scale: the powers of two that the moments were multiplied with, so that no square overflows.
        mean: of the finite values.
        spread: the sums of the squared distances from the mean.
    """

    least: Any
    most: Any
    counts: tuple[Any, Any]
    scale: Any
    mean: Any
    spread: Any

    def pack(self) -> Any:
        """Put all into one array of whole numbers, floats by their bits: so one transfer takes all of it."""
        whole = self.least.dtype
        floats = [lax.bitcast_convert_type(each, whole) for each in (self.scale, self.mean, self.spread)]
        return jnp.concatenate([jnp.stack([self.least, self.most, *floats]), *self.counts], dtype=whole)

    @classmethod
    def unpack(cls, packed: Array) -> "Measured":
        """Read on the host what was packed."""
        least, most = packed[:2]
        scale, mean, spread = packed[2:5].view(width_of(packed.dtype).real)
        many, rest = np.split(packed[5:], 2)
        return cls(least, most, (many, rest), scale, mean, spread)


class _Join(NamedTuple):
    """How what was found of rows, along the last axes, becomes what holds of whole arrays, and back."""

    add: Callable[[Any], Any]
    least: Callable[[Any], Any]
    most: Callable[[Any], Any]
    spread: Callable[[Any], Any]


@untyped_jax.jit
def measure_rows(arrays: Sequence[Any], rows: Sequence[Rows]) -> list[Any]:
    """Measure small arrays, laid out in common rows: a `Rows` for those of each dtype, in their order.

    Returns:
        for each dtype what was found, packed.
    """
    found: list[Any] = []
    start = 0
    for each in rows:
        group = arrays[start : start + each.arrays]
        start += each.arrays
        if len({array.size for array in group}) == 1:
            found.append(_measure_alike(group).pack())
        else:
            found.append(_measure(*common_rows(group, each), 1, _join_segments(each)).pack())
    return found


@partial(untyped_jax.jit, static_argnames="spread")
def measure_one(array: Any, spread: bool) -> Any:
    """Measure one array where it lies; give what was found, packed.

    Args:
        array: not of size zero.
        spread: whether it lies on several devices: then each line along its longest axis is a row, so that
            nothing is moved.
    """
    if not spread or not array.ndim:
        return _measure_alike([array]).pack()
    axis = max(range(array.ndim), key=lambda each: array.shape[each])
    shape = tuple(size for at, size in enumerate(array.shape) if at != axis)
    join = _Join(
        lambda values: values.sum(tuple(range(-len(shape), 0)))[..., None],
        lambda values: values.min()[None],
        lambda values: values.max()[None],
        lambda values: jnp.broadcast_to(values.reshape((1,) * len(shape)), shape),
    )
    return _measure(array, None, axis, join).pack()


def _measure_alike(arrays: Sequence[Any]) -> Measured:
    """Measure arrays of one size: plain reductions join their rows, where segments are taken one by one."""
    laid, valid = alike_rows(arrays)
    many, rows = len(arrays), laid.shape[0] // len(arrays)
    join = _Join(
        lambda values: values.reshape(*values.shape[:-1], many, rows).sum(-1),
        lambda values: values.reshape(many, rows).min(1),
        lambda values: values.reshape(many, rows).max(1),
        lambda values: jnp.broadcast_to(values[:, None], (many, rows)).reshape(-1),
    )
    return _measure(laid, valid, 1, join)


def _join_segments(rows: Rows) -> _Join:
    add = rows.join(jax.ops.segment_sum)
    return _Join(
        lambda values: add(values.T).T,
        rows.join(jax.ops.segment_min),
        rows.join(jax.ops.segment_max),
        lambda values: values[rows.owner],
    )


def _measure(laid: Any, valid: Any, axis: int, join: _Join) -> Measured:
    seen = read_numbers(laid)
    finite = ~(seen.nan | seen.infinite)
    masks = [seen.nan, seen.infinite, seen.zero, seen.subnormal, finite]
    if valid is not None:
        masks = [mask & valid for mask in masks]
    low, high, *counts = _classes(seen.key, masks, axis)
    least, most = join.least(low), join.most(high)
    ends = [jnp.where(least <= most, seen.number_of(each), 0) for each in (least, most)]
    scale = power_of_two(jnp.maximum(abs(ends[0]), abs(ends[1])))
    count = counts[_CLASSES]
    halves = [seen.number_of(key) * join.spread(scale) * 0.5 for key in (low, high)]
    centre = jnp.where(count > 0, halves[0] + halves[1], 0)
    # worked out once for each row, where XLA would do it anew for each element
    of_rows = lax.optimization_barrier((*map(join.spread, (scale, *ends)), centre))
    scales, lows, highs, centres = (jnp.expand_dims(each, axis) for each in of_rows)
    # not the mask from above, which would be written to memory to be read again
    inside = (seen.number >= lows) & (seen.number <= highs)
    inside = inside if valid is None else inside & valid
    counts += _bins(seen.number * scales, inside, lows * scales, highs * scales, axis)
    each = jnp.stack(counts)
    if laid.size < 2**31:
        whole = join.add(each)
        parts = whole >> 4, whole & 15
    else:  # 32 bits may not hold the count of all
        parts = join.add(each >> 4), join.add(each & 15)
    centre = of_rows[-1]
    if laid.shape[axis] != ROW:  # many are far from the middle of a long line that holds one large number
        total = jnp.where(inside, seen.number * scales, 0).sum(axis)
        centre = total / jnp.maximum(count, 1).astype(total.dtype)
        centres = jnp.expand_dims(centre, axis)
    off = jnp.where(inside, seen.number * scales - centres, 0)
    mean, spread = _moments(off, centre, count, axis, join)
    return Measured(least, most, parts, scale, mean, spread)


def _classes(key: Any, masks: Sequence[Any], axis: int) -> list[Any]:
    """Reduce each row: its least and largest finite key, and how many there are of each class."""
    ends = jnp.iinfo(key.dtype)
    keys = jnp.where(masks[_CLASSES], key, ends.max), jnp.where(masks[_CLASSES], key, ends.min)
    if key.shape[axis] != ROW:
        combine = (lax.min, lax.max, *[lax.add] * len(masks))
        starts = (ends.max, ends.min, *[0] * len(masks))
        return _reduce((*keys, *map(_count, masks)), starts, combine, axis)
    # the counts of four classes in one word: none is more than 128
    word = sum(
        jnp.where(mask, np.uint32(1 << 8 * at), np.uint32(0)) for at, mask in enumerate(masks[:_CLASSES])
    )
    low, high, word, finite = _reduce(
        (*keys, word, _count(masks[_CLASSES])),
        (ends.max, ends.min, 0, 0),
        (lax.min, lax.max, lax.add, lax.add),
        axis,
    )
    counts = [((word >> np.uint32(8 * at)) & 255).astype(jnp.int32) for at in range(_CLASSES)]
    return [low, high, *counts, finite]


def _count(mask: Any) -> Any:
    return mask.astype(jnp.int32)


def _bins(scaled: Any, finite: Any, low: Any, high: Any, axis: int) -> list[Any]:
    """Count in each row what lies in each bin, but for the first, which the rest lies in."""
    steps = lax.optimization_barrier(BINS / jnp.where(high > low, high - low, 1))
    place = _rounded_down(jnp.where(finite, jnp.minimum((scaled - low) * steps, BINS - 1), -1))
    if place.shape[axis] == ROW:
        return _packed_counts(place, axis)
    inside = [_count(place == np.uint32(each)) for each in range(1, BINS)]
    return _reduce(inside, [0] * len(inside), [lax.add] * len(inside), axis)


def _rounded_down(place: Any) -> Any:
    """Round numbers from -1 to 15 down, to unsigned ones of 32 bits, so that -1 is the largest of these.

    What a number added to 48 has before its point stands in the first bits of its float, as all up to 63
    have one exponent; a conversion would take three times as long, to look for numbers that do not fit.
    """
    width = width_of(place.dtype)
    after = width.unsigned(width.fraction - 5)
    zero = np.array(48, width.real).view(width.unsigned) >> after
    bits = lax.bitcast_convert_type(place + width.real(48), width.unsigned)
    return ((bits >> after) - zero).astype(jnp.uint32)


def _packed_counts(place: Any, axis: int) -> list[Any]:
    """Count how often each number from 1 to 15 stands in a row of 128.

    The counts of eight numbers share a word, 4 bits each, while no more than 8 elements are added up, and
    those of four share one, 8 bits each, up to 128. To shift by more than a word has gives 0: so what is none
    of a word's numbers adds nothing to it.
    """
    parts = _parts(place << np.uint32(2), axis)
    one = jnp.ones(parts[0].shape, jnp.uint32)
    eights = [sum(lax.shift_left(one, part - np.uint32(first)) for part in parts) for first in (0, 32)]
    fours = [each >> np.uint32(shift) & np.uint32(0x0F0F0F0F) for each in eights for shift in (0, 4)]
    sums = _reduce(fours, [0] * 4, [lax.add] * 4, axis)
    counts = [
        (sums[each // 8 * 2 + each % 2] >> np.uint32(each % 8 // 2 * 8)) & 255 for each in range(1, BINS)
    ]
    return [each.astype(jnp.int32) for each in counts]


def _moments(off: Any, centre: Any, count: Any, axis: int, join: _Join) -> tuple[Any, Any]:
    """Give the mean, and the sum of the squared distances from it.

    The distances `off` are taken from the middle of what the row holds, or its mean: so the squares that are
    subtracted are never much larger than what remains, whatever the values in this row or in others.
    """
    parts = _parts(off, axis)
    total, squares = _row_sums((sum(parts), sum(part * part for part in parts)), axis)
    count = count.astype(off.dtype)
    mine = total / jnp.maximum(count, 1)
    whole = jnp.maximum(join.add(count), 1)
    weight = count / join.spread(whole)
    mean = join.add((centre + mine) * weight)
    # the mean so far is rounded as a large number is; how far it is from the rows' own puts it right
    away = centre - join.spread(mean) + mine
    rest = join.add(away * weight)
    away -= join.spread(rest)
    return mean + rest, join.add(jnp.maximum(squares - total * mine, 0) + count * away * away)


def _row_sums(arrays: Sequence[Any], axis: int) -> Sequence[Any]:
    if arrays[0].shape[axis] != _LANES:
        return [each.sum(axis) for each in arrays]  # part by part, where one loop for both adds one by one
    # by a product, in which a CPU may add in any order, and so several at once
    ones = jnp.ones(_LANES, arrays[0].dtype)
    parts = lax.optimization_barrier(arrays)
    return [jnp.tensordot(each, ones, (axis, 0), precision="highest") for each in parts]


def _parts(array: Any, axis: int) -> list[Any]:
    """Cut rows into parts, to be added up element by element, which a CPU does many at a time."""
    if array.shape[axis] != ROW:
        return [array]
    return [lax.slice_in_dim(array, at, at + _LANES, axis=axis) for at in range(0, ROW, _LANES)]


def _reduce(arrays: Sequence[Any], starts: Sequence[Any], combine: Sequence[Any], axis: int) -> list[Any]:
    """Reduce several arrays along an axis in one loop over them, which XLA would not make of several."""
    initial = [np.asarray(start, array.dtype) for start, array in zip(starts, arrays, strict=True)]

    def step(old: Any, new: Any) -> Any:
        return tuple(function(*pair) for function, *pair in zip(combine, old, new, strict=True))

    return list(lax.reduce(tuple(arrays), tuple(initial), step, (axis,)))
