"""What every format gives when a file is opened: headers at once, values one by one when asked for."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from paramtree.checkpoint.layout import Notes

Array = np.ndarray[Any, Any]
ReadOne = Callable[[str], Array]

_ALIGNED = 64  # bytes: what JAX asks of memory that it takes over without a copy, on CPUs


@dataclass(frozen=True)
class Stored:
    """A file whose headers are read, and whose values are not.

    Attributes:
        specs: name -> shape and dtype, as `jax.ShapeDtypeStruct`; int64 stays int64.
        refused: name -> what it is, of what no tree can hold: "a sparse array".
        notes: our notes (see `layout`); of a file of another program, the `ties` that its format knows.
        reading: opens the values: a context manager that gives a function name -> array. The arrays have
            memory of their own, in C order and native byte order, so that nothing else is kept.
        restore: reads arrays onto devices, each device's part alone, from specs that say where (Orbax only).
        parallel: whether values may be read from several threads at once.
        by_position: whether the names are positions only ("0", "1", ...) in the order of JAX's leaves.
    """

    specs: dict[str, jax.ShapeDtypeStruct]
    reading: Callable[[], AbstractContextManager[ReadOne]]
    notes: Notes = field(default_factory=dict[str, Any])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    restore: Callable[[dict[str, jax.ShapeDtypeStruct]], dict[str, jax.Array]] | None = None
    parallel: bool = False
    by_position: bool = False


def new_array(shape: tuple[int, ...], dtype: Any) -> Array:
    """Allocate an array to read values into, aligned so that JAX on a CPU takes it over without a copy.

    >>> new_array((2, 3), "float32").shape
    (2, 3)
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + size].view(dtype).reshape(shape)
