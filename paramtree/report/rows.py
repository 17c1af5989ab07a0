"""Arrays laid out in common rows, and the batches that this is done in."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

ROW = 128  # elements: few enough for exact sums of 8 bits, and many enough to be done at once
LARGE = 1 << 20  # elements, from which an array is not copied
_BATCH = 1 << 21  # elements copied at a time: what bounds the memory


class Rows(NamedTuple):
    """The rows of several small arrays of one dtype.

    Attributes:
        owner: for each row the array it is of.
        length: for each row the elements it holds; the rest of it is padding.
        first: for each array its first row.
    """

    owner: Any
    length: Any
    first: Any

    @property
    def arrays(self) -> int:
        """The number of arrays."""
        return self.first.shape[0]

    def join(self, reduce: Callable[..., Any]) -> Callable[[Any], Any]:
        """Make of a reduction of segments the one that joins what was found of rows, array by array."""
        return lambda values: reduce(values, self.owner, self.arrays, indices_are_sorted=True)


@lru_cache(maxsize=64)
def lay_out(sizes: tuple[int, ...]) -> Rows:
    """Say which rows hold arrays of these sizes, which are in order.

    >>> lay_out((130, 2))
    Rows(owner=array([0, 0, 1], dtype=int32), length=array([128,   2,   2], dtype=int32),
         first=array([0, 2], dtype=int32))
    """
    held = np.asarray(sizes)
    rows = -(-held // ROW)
    ends = np.cumsum(rows)
    owner = np.repeat(np.arange(len(held), dtype=np.int32), rows)
    length = np.full(len(owner), ROW, np.int32)
    length[ends - 1] = held - (rows - 1) * ROW
    return Rows(owner, length, (ends - rows).astype(np.int32))


def spread_out(arrays: Iterable[Any]) -> Any:
    """Lay arrays of one dtype out in rows of `ROW` elements, each padded to whole rows; within `jit`.

    Arrays of one size are taken together, so that what is compiled hardly grows with their number.
    """
    parts: list[Any] = []
    for size, group in groupby(arrays, key=lambda array: array.size):
        alike = [array.reshape(-1) for array in group]
        flat = jnp.concatenate(alike) if len(alike) > 1 else alike[0]
        if size % ROW:
            flat = jnp.pad(flat.reshape(len(alike), size), ((0, 0), (0, -size % ROW))).reshape(-1)
        parts.append(flat)
    return (jnp.concatenate(parts) if len(parts) > 1 else parts[0]).reshape(-1, ROW)


def alike_rows(arrays: Sequence[Any]) -> tuple[Any, Any]:
    """Lay arrays of one size out in rows; give them, and what is no padding, or None for all of it."""
    laid = _laid_once(arrays)
    rest = arrays[0].size % ROW
    if not rest:
        return laid, None
    each = laid.shape[0] // len(arrays)
    row, column = (lax.broadcasted_iota(jnp.int32, laid.shape, axis) for axis in (0, 1))
    return laid, (row % each < each - 1) | (column < rest)


def common_rows(arrays: Sequence[Any], rows: Rows) -> tuple[Any, Any]:
    """Lay arrays out in common rows; give them, and which elements are no padding."""
    laid = _laid_once(arrays)
    column = lax.broadcasted_iota(jnp.int32, laid.shape, 1)
    return laid, column < rows.length[:, None]


def _laid_once(arrays: Sequence[Any]) -> Any:
    laid = spread_out(arrays)
    return lax.optimization_barrier(laid) if len(arrays) > 1 else laid  # not again in every reduction


class Kind(NamedTuple):
    """What decides which arrays are laid out together: in this order, and cut where the device changes."""

    device: int
    dtype: str
    size: int


def batches(kinds: Sequence[Kind]) -> Iterator[list[int]]:
    """Group the positions of small arrays: by device, dtype and size, and not too much at a time.

    >>> list(batches([Kind(0, "int8", 2), Kind(1, "int8", 2), Kind(0, "int8", 1)]))
    [[2, 0], [1]]
    """
    batch: list[int] = []
    held = 0
    for at in sorted(range(len(kinds)), key=kinds.__getitem__):
        kind = kinds[at]
        if batch and (kind.device != kinds[batch[-1]].device or held + kind.size > _BATCH):
            yield batch
            batch, held = [], 0
        batch.append(at)
        held += kind.size
    if batch:
        yield batch
