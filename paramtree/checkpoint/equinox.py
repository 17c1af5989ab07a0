"""Equinox's `.eqx` format: what `eqx.tree_serialise_leaves` writes, one `.npy` block per leaf and no names.

The names here are the places in the file: "0", "1", and so on, in the order of JAX's leaves. Python's numbers
are leaves too. bfloat16 and most other types that NumPy lacks are written as raw bytes: their dtype is
`void16` or `void8` here, and what they are is known only from the tree that is to be filled.
"""

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.layout import dtype_fault
from paramtree.checkpoint.rawfile import RawFile, Stamp, open_raw, spec_of
from paramtree.checkpoint.stored import Array, ReadOne, Stored, new_array
from paramtree.errors import ParamTreeError

SUFFIXES = (".eqx",)

_MARK = b"\x93NUMPY"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LONGEST = 10_012  # bytes of a header that NumPy takes: longer ones could make Python's parser slow
_E5M2, _RAW_BYTE = b"'descr': '<f1'", b"'descr': '|V1'"  # NumPy writes float8_e5m2 as what it cannot read
_RAW = (np.dtype("V1"), np.dtype("V2"))  # how NumPy writes the types that it lacks


class _Block(NamedTuple):
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool


def recognises(path: Path, head: bytes) -> bool:
    """Tell whether a file begins with an array of NumPy's."""
    del path
    return head.startswith(_MARK)


def open_file(path: Path) -> Stored:
    """Read the headers of a file's arrays, one after the other to its end.

    Raises:
        ParamTreeError: where the file is damaged, or holds pickled objects.
    """
    blocks: dict[str, _Block] = {}
    specs: dict[str, jax.ShapeDtypeStruct] = {}
    refused: dict[str, str] = {}
    with open_raw(path, _called(path)) as file:
        at = 0
        while at < file.size:
            place = str(len(blocks))
            blocks[place] = block = _read_header(file, place, at)
            at = block.start + math.prod(block.shape) * block.dtype.itemsize
            fault = "" if block.dtype in _RAW else dtype_fault(block.dtype)
            spec = fault or spec_of(block.shape, block.dtype.newbyteorder("="))
            if isinstance(spec, str):
                refused[place] = spec
            else:
                specs[place] = spec
        stamp = file.stamp
    return Stored(specs, partial(_reading, path, stamp, blocks), {}, refused, by_position=True)


def _called(path: Path) -> str:
    return path.suffix if path.suffix == ".npy" else SUFFIXES[0]  # one array alone is of this format too


def _read_header(file: RawFile, place: str, begin: int) -> _Block:
    head = file.bytes_at(begin, min(_LONGEST, file.size - begin))
    opened = BytesIO(head.replace(_E5M2, _RAW_BYTE))
    try:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(opened)](opened)
    except Exception as error:  # a damaged header makes NumPy raise whatever comes
        raise _damage(file, place, begin, "no header of an array") from error
    if dtype.hasobject:
        raise _damage(file, place, begin, "an array of Python objects, which are pickled, and are not read")
    if min(shape, default=0) < 0:
        raise _damage(file, place, begin, f"an array of shape {shape}")
    if _E5M2 in head[: opened.tell()]:
        dtype = jnp.dtype(jnp.float8_e5m2)
    start = begin + opened.tell()
    wanted, left = math.prod(shape) * dtype.itemsize, file.size - start
    if wanted > left:
        raise _damage(file, place, begin, f"an array of {wanted} B, and the file ends after {left} B of it")
    return _Block(start, shape, dtype, fortran)


@contextmanager
def _reading(path: Path, stamp: Stamp, blocks: Mapping[str, _Block]) -> Generator[ReadOne]:
    with open_raw(path, _called(path), stamp) as file:

        def read(name: str) -> Array:
            block = blocks[name]
            shape = block.shape[::-1] if block.fortran else block.shape
            stored = file.array_at(block.start, shape, block.dtype, f"entry {name}")
            if not block.fortran and block.dtype.isnative:
                return stored
            array = new_array(block.shape, block.dtype.newbyteorder("="))
            array[...] = stored.T if block.fortran else stored
            return array

        yield read


def _damage(file: RawFile, place: str, at: int, found: str) -> ParamTreeError:
    return file.damage(f"entry {place}, at byte {at}, is {found}")
