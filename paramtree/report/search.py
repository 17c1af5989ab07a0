"""Where arrays hold NaN or infinite numbers: searched for in one compiled pass, as `measure` measures."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from paramtree.names import untyped_jax
from paramtree.report.numbers import read_numbers
from paramtree.report.rows import ROW, Rows, alike_rows, common_rows
from paramtree.report.values import is_on_host, launch, sixteens


class Faults(NamedTuple):
    """What one array holds besides finite numbers.

    Attributes:
        nan: the number of elements that are NaN.
        infinite: the number that are infinite.
        first: the position of the first of either, in C order; -1 where there is none.
    """

    nan: int = 0
    infinite: int = 0
    first: int = -1


class _Found(NamedTuple):
    """What one compiled pass finds of several arrays.

    Attributes:
        counts: NaN and infinite elements, in sixteens and ones.
        row: the first row that holds any; where none does, the one after the last.
        column: the place of the first in that row.
    """

    counts: tuple[Any, Any]
    row: Any
    column: Any


def search(arrays: Sequence[Any]) -> list[Faults]:
    """Search arrays of numbers for what is not finite.

    >>> search([np.float32([1, np.inf, np.nan]), np.int8([1])])
    [Faults(nan=1, infinite=1, first=1), Faults(nan=0, infinite=0, first=-1)]
    """
    found = [Faults()] * len(arrays)
    held = [at for at, array in enumerate(arrays) if array.size and is_inexact(array)]
    there = [at for at in held if not is_on_host(arrays[at])]
    for positions, result in launch([arrays[at] for at in there], _search_rows, _search_one):
        counts = sixteens(result.counts)
        for place, position in enumerate(positions):
            if counts[place].any():
                array = arrays[there[position]]
                first = int(result.row[place]) * _length(array) + int(result.column[place])
                found[there[position]] = Faults(int(counts[place][0]), int(counts[place][1]), first)
    for at in held if len(there) < len(held) else ():
        if is_on_host(arrays[at]):
            found[at] = _search_host(arrays[at])
    return found


def is_inexact(array: Any) -> bool:
    """Tell whether an array can hold NaN."""
    return bool(jnp.issubdtype(array.dtype, jnp.inexact))


def _length(array: Any) -> int:
    """Give the length of the rows that `_search_one` sees an array in."""
    spread = isinstance(array, jax.Array) and len(array.sharding.device_set) > 1
    return array.shape[-1] if spread and array.ndim else ROW


@untyped_jax.jit
def _search_rows(arrays: Sequence[Any], rows: Sequence[Rows]) -> list[_Found]:
    found: list[_Found] = []
    start = 0
    for each in rows:
        laid, valid = common_rows(arrays[start : start + each.arrays], each)
        start += each.arrays
        add, least = map(each.join, (jax.ops.segment_sum, jax.ops.segment_min))
        found.append(_search(laid, valid, add, least, each.first))
    return found


@partial(untyped_jax.jit, static_argnames="spread")
def _search_one(array: Any, spread: bool) -> _Found:
    laid, valid = (array, None) if spread and array.ndim else alike_rows([array])
    return _search(laid, valid, lambda values: values.sum(0)[None], lambda values: values.min()[None], 0)


def _search(
    laid: Any, valid: Any, add: Callable[[Any], Any], least: Callable[[Any], Any], start: Any
) -> _Found:
    seen = read_numbers(laid)
    column = lax.broadcasted_iota(jnp.int32, laid.shape, laid.ndim - 1)
    end = laid.shape[-1]
    # padding is no zero in a dtype that has none
    masks = [mask if valid is None else mask & valid for mask in (seen.nan, seen.infinite)]
    counted = [mask.astype(jnp.int32) for mask in masks]
    starts = (np.int32(0), np.int32(0), np.int32(end))

    def step(old: Any, new: Any) -> Any:
        return old[0] + new[0], old[1] + new[1], lax.min(old[2], new[2])

    operands = (*counted, jnp.where(masks[0] | masks[1], column, end))
    *counts, first = (each.reshape(-1) for each in lax.reduce(operands, starts, step, (laid.ndim - 1,)))
    place = lax.broadcasted_iota(jnp.int32, first.shape, 0)
    row = least(jnp.where(first < end, place, first.shape[0]))
    parts = jnp.stack(counts, -1)
    found = first[jnp.minimum(row, first.shape[0] - 1)]
    return _Found((add(parts >> 4), add(parts & 15)), row - start, found)


def _search_host(array: np.ndarray[Any, Any]) -> Faults:
    nan = np.isnan(array)
    infinite = np.isinf(array) & ~nan  # a complex number may be both
    bad = (nan | infinite).reshape(-1)
    if not bad.any():
        return Faults()
    return Faults(int(np.count_nonzero(nan)), int(np.count_nonzero(infinite)), int(bad.argmax()))
