"""Plain bytes of files: read at any place, and no more than is asked for; written, and flushed meanwhile."""

import math
import os
import stat
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.stored import Array, ReadOne, new_array
from paramtree.errors import ParamTreeError

Stamp = tuple[int, int, int, int]

_FLUSHED = 64 << 20  # bytes written until they are flushed, in a second thread: disks are slower than memory
_AHEAD = 32 << 20  # bytes that are read before they are asked for
_WORTH_A_THREAD = 64 << 10  # bytes: to hand a smaller array over takes longer than to read it
_MOST_AT_ONCE = 1 << 30  # bytes of one call: systems take less than 2 GiB
_MOST_AXES = 32  # what every NumPy can hold
_MOST_BYTES = 2**63 - 1
_MOVING = threading.Lock()  # where a system has no way to read at a place without moving there


class RawFile:
    """A file that is open for reading, at any byte and from several threads at once.

    Attributes:
        path: where it is.
        file: it, without a buffer.
        size: its bytes.
        stamp: what tells it from another file at the same path.
    """

    def __init__(self, path: Path, suffix: str, file: Any) -> None:
        found = os.fstat(file.fileno())
        self.path = path
        self.file = file
        self.size = found.st_size
        self.stamp: Stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        self._suffix = suffix

    def damage(self, fault: object) -> ParamTreeError:
        """Make the error that says what is wrong with the file."""
        return damaged(self.path, self._suffix, fault)

    def check_in_place(self) -> None:
        """Check that this is still the file at its path.

        Raises:
            FileChangedError: where it has changed: it was replaced, or removed.
        """
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            raise FileChangedError(self.path) from None
        if (found.st_dev, found.st_ino) != self.stamp[:2]:
            raise FileChangedError(self.path)

    def bytes_at(self, start: int, size: int) -> bytes:
        """Read some bytes.

        Raises:
            ParamTreeError: where the file ends before.
        """
        if start + size > self.size:  # before any memory is taken
            raise self.damage(f"it ends at byte {self.size}, and {size} B at byte {start} are missing")
        memory = bytearray(size)
        self._fill(memoryview(memory), start)
        return bytes(memory)

    def array_at(self, start: int, shape: tuple[int, ...], dtype: Any, what: str) -> Array:
        """Read an array whose values lie as plain bytes, in C order and of this machine's byte order.

        Args:
            start: the first byte.
            shape: its shape.
            dtype: its dtype.
            what: which one it is, for messages.

        Raises:
            ParamTreeError: where the file ends before, or a bool is neither 0 nor 1.
        """
        if start + math.prod(shape) * np.dtype(dtype).itemsize > self.size:
            raise self.damage(f"{what}: it ends at byte {self.size}, and the values at byte {start} do not")
        array = new_array(shape, dtype)
        self._fill(as_bytes(array).data, start)
        if array.dtype == np.bool_ and (fault := bool_fault(array, start)):
            raise self.damage(f"{what}, {fault}")
        return array

    def _fill(self, memory: memoryview, start: int) -> None:
        at = 0
        while at < len(memory):
            count = _read_into(self.file.fileno(), memory[at : at + _MOST_AT_ONCE], start + at)
            if not count:
                raise FileChangedError(self.path)
            at += count


@contextmanager
def open_raw(path: Path, suffix: str, stamp: Stamp | None = None) -> Generator[RawFile]:
    """Open a file for reading.

    Args:
        path: where it is.
        suffix: what its format is called, in messages.
        stamp: what it had when it was opened before: it must be the same file still.

    Raises:
        FileChangedError: where it has changed, or is gone.
        ParamTreeError: where it is damaged so far that it is no regular file.
    """
    try:
        regular = stat.S_ISREG(
            path.stat().st_mode
        )  # before it is opened: that would wait for the end of a pipe
        opened = path.open("rb", buffering=0) if regular else None
    except FileNotFoundError:
        if stamp is None:
            raise
        raise FileChangedError(path) from None
    if opened is None:
        raise damaged(path, suffix, "it is no regular file")
    with opened as file:
        raw = RawFile(path, suffix, file)
        if stamp not in (None, raw.stamp):
            raise FileChangedError(path)
        yield raw


def damaged(path: Path, suffix: str, fault: object) -> ParamTreeError:
    """Make the error that says what is wrong with a file.

    >>> damaged(Path("net.npz"), ".npz", "it is empty")
    ParamTreeError("'net.npz' is not a whole .npz file: it is empty.")
    """
    return ParamTreeError(f"{str(path)!r} is not a whole {suffix} file: {str(fault).removesuffix('.')}.")


class FileChangedError(ParamTreeError):
    """Report a file that is not what it was when its headers were read."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{str(path)!r} has changed, or is gone, since its headers were read. Load it again."
        )


def _read_into(descriptor: int, memory: memoryview, start: int) -> int:
    if sys.platform != "win32":
        return os.preadv(descriptor, [memory], start)
    with _MOVING:
        os.lseek(descriptor, start, os.SEEK_SET)
        data = os.read(descriptor, len(memory))
    memory[: len(data)] = data
    return len(data)


def as_bytes(array: Array) -> Array:
    """View the memory of an array in C order as bytes, whatever its dtype.

    >>> as_bytes(np.ones(1, "int16"))
    array([1, 0], dtype=uint8)
    """
    return array.reshape(-1).view(np.uint8)


def bool_fault(array: Array, start: int) -> str:
    """Say which of some bools is neither 0 nor 1, which no library expects; an empty text where none is.

    >>> bool_fault(np.array([1, 7], "uint8").view(bool), 100)
    'at byte 101: expected a bool, 0 or 1, and found 7'
    """
    values = as_bytes(array)
    wrong = np.flatnonzero(values > 1)
    if not wrong.size:
        return ""
    first = int(wrong[0])
    return f"at byte {start + first}: expected a bool, 0 or 1, and found {values[first]}"


def spec_of(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct | str:
    """Give the spec of an array, or say why no array can have such a shape.

    >>> spec_of((2, 3), "float32"), spec_of((2**62, 0), "int32")
    (ShapeDtypeStruct(shape=(2, 3), dtype=float32),
     'of shape (4611686018427387904, 0), larger than any array')
    """
    dtype = jnp.dtype(dtype)
    if len(shape) > _MOST_AXES:
        return f"of {len(shape)} axes, more than the {_MOST_AXES} that NumPy has"
    if math.prod(size or 1 for size in shape) * dtype.itemsize > _MOST_BYTES:  # also of an empty array
        return f"of shape {shape}, larger than any array"
    return jax.ShapeDtypeStruct(shape, dtype)


@contextmanager
def read_ahead(read: ReadOne, sizes: Mapping[str, int]) -> Generator[ReadOne]:
    """Read arrays in two threads before they are asked for: most of the time goes into memory that is new.

    Args:
        read: reads one array, and may be called from several threads.
        sizes: the bytes of each array, in the order in which they will be asked for; small and other ones,
            and any that is asked for again, are read when they are asked for.
    """
    found: dict[str, Future[Array]] = {}
    waiting = iter([name for name, size in sizes.items() if size >= _WORTH_A_THREAD])
    ahead = 0
    with ThreadPoolExecutor(2) as pool:

        def read_next(name: str) -> Array:
            nonlocal ahead
            while ahead < _AHEAD and (following := next(waiting, None)) is not None:
                found[following] = pool.submit(read, following)
                ahead += sizes[following]
            if name not in found:
                return read(name)
            ahead -= sizes[name]
            return found.pop(name).result()

        yield read_next


@contextmanager
def written_file(path: Path) -> Generator[Callable[[Any], None]]:
    """Make a file, and give the function that appends bytes to it.

    What is written is flushed to the disk meanwhile, so that the caller's last flush has little left to do.
    """
    since = 0
    flushing: Future[None] | None = None
    with path.open("wb") as file, ThreadPoolExecutor(1) as pool:

        def append(data: Any) -> None:
            nonlocal since, flushing
            file.write(data)
            since += memoryview(data).nbytes
            if since >= _FLUSHED and (flushing is None or flushing.done()):
                if flushing is not None:
                    flushing.result()  # raises what the disk said: a later flush would not say it again
                file.flush()
                flushing, since = pool.submit(os.fsync, file.fileno()), 0

        yield append
        file.flush()
        if flushing is not None:
            flushing.result()
