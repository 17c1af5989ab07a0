"""MXNet's `.params` format: what Gluon's `save_parameters`, `ParameterDict.save` and `export` write.

A file holds its arrays one after the other, then their names. All four versions of an entry are read, mixed
or not. A name is read as it stands: Gluon's `0.weight` is one key, so the tree is flat; only a `/` nests, as
in every other file. Arrays of a file without names are called `0`, `1` and so on. The device that an array
was on is ignored, and so are the reserved word of the header and whatever follows the names, as MXNet does.
"""

import math
import os
import struct
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.layout import Leaves, Notes, host_array
from paramtree.checkpoint.rawfile import RawFile, Stamp, as_bytes, open_raw, written_file
from paramtree.checkpoint.stored import Array, ReadOne, Stored
from paramtree.errors import BadNameError, MismatchError, ParamTreeError, raise_faults
from paramtree.names import SEPARATOR, is_dict, nest, structure_of
from paramtree.nodes import Alias, follow, resolve
from paramtree.tree import flatten

SUFFIXES = (".params",)

_LIST_MARK = 0x112
_MARKS = {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}  # version 0 has none: it begins with its rank
_VERSIONS = {mark: version for version, mark in _MARKS.items()}
_DENSE = 0
_STORAGE = {_DENSE: "dense", 1: "row_sparse", 2: "csr"}
_INDEX_ARRAYS = {1: 1, 2: 2}  # per sparse kind, besides its values
_DTYPES = {
    0: "float32", 1: "float64", 2: "float16", 3: "uint8", 4: "int32", 5: "int8", 6: "int64", 7: "bool",
    12: "bfloat16",
}  # fmt: skip
_FLAGS = {dtype: flag for flag, dtype in _DTYPES.items()}
_REFUSED = {
    8: " (int16)",
    9: " (uint16)",
    10: " (uint32)",
    11: " (uint64)",
}  # named, not read, by MXNet 1.9.1
_CONTEXT = (1, 0)  # the CPU, as MXNet writes it
_MOST_AXES = 32  # what every NumPy can hold
_MOST_BYTES = 2**63 - 1


class _Entry(NamedTuple):
    """Where the values of an array lie.

    Attributes:
        part: which entry of the file it is, for messages.
        start: the first byte.
        shape: its shape.
        dtype: its dtype's name.
    """

    part: str
    start: int
    shape: tuple[int, ...]
    dtype: str

    def read(self, file: RawFile) -> Array:
        return file.array_at(self.start, self.shape, jnp.dtype(self.dtype), self.part)


class _Leaf(NamedTuple):
    """An array to write under one of its names."""

    leaf: Any
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.leaf.shape)
        return (*shape[:-2], *shape[:-3:-1]) if self.transposed else shape

    def values(self) -> Array:
        array = host_array(self.leaf)
        return np.ascontiguousarray(array.swapaxes(-1, -2)) if self.transposed else array


def recognises(path: Path, head: bytes) -> bool:
    """Tell whether a file begins with MXNet's mark."""
    del path
    return head.startswith(struct.pack("<Q", _LIST_MARK))


def write(path: Path, leaves: Leaves, notes: Notes) -> None:
    """Write arrays to a file that MXNet 1.9.1 loads, under Gluon's names: `0/weight` becomes `0.weight`.

    Gluon keeps no notes, so the file has none. A tied parameter is written under each of its names, as Gluon
    does: the file fits a net that ties it, and one that does not. A `Fixed` array is written as any other,
    and an empty dict leaves no trace. Loading gives plain arrays under the dotted names.

    Entries are of version 2, which `Block.load_parameters` reads in both of MXNet's modes. Scalars and empty
    arrays exist only in version 3, and MXNet mixes no versions: with one of them, all entries are of that
    version, which only its numpy mode reads.

    Raises:
        MismatchError: listing every array of a dtype that MXNet does not have.
        BadNameError: listing all names that differ only in `/` and `.`.
        TieError: where what is tied transposed is not a matrix.
    """
    untied = _untied(leaves, notes)
    faults = [
        f"{name} is {each.leaf.dtype}; pt.cast it, or save to a .npz file"
        for name, each in untied.items()
        if each.leaf.dtype.name not in _FLAGS
    ]
    raise_faults(MismatchError, "save: a .params file has no type for these:", faults)
    names = _dotted(untied)
    version = 2 if all(each.shape and math.prod(each.shape) for each in untied.values()) else 3
    with written_file(path) as append:
        append(struct.pack("<3Q", _LIST_MARK, 0, len(untied)))
        for each in untied.values():
            append(_entry_head(each, version))
            append(as_bytes(each.values()))
        append(struct.pack("<Q", len(names)))
        for name in names:
            encoded = name.encode()
            append(struct.pack("<Q", len(encoded)) + encoded)


def _untied(leaves: Leaves, notes: Notes) -> dict[str, _Leaf]:
    """Give every array under each of its names, before any is transposed."""
    ties = {place: Alias(**tie) for place, tie in notes.get("ties", {}).items()}
    if not ties:
        return {name: _Leaf(leaf, False) for name, leaf in leaves.items()}
    empty: dict[str, Any] = {name: {} for name in notes.get("empty", ())}  # a tie may lead to one
    # shapes alone, all of one dtype: JAX would warn of those that it narrows
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for name, leaf in leaves.items()}
    tree = nest(shapes | ties | empty)
    structure = structure_of(tree)
    found: dict[str, _Leaf] = {}
    for name, shape in flatten(resolve(tree)).items():
        if not is_dict(shape):
            source, transposed = follow(structure, name)
            found[name] = _Leaf(leaves[source], transposed)
    return found


def _dotted(names: Iterable[str]) -> list[str]:
    sources: dict[str, list[str]] = {}
    for name in names:
        sources.setdefault(name.replace(SEPARATOR, "."), []).append(name)
    faults = [
        f"{' and '.join(map(repr, found))} would be {dotted!r}; leave one under this name"
        for dotted, found in sources.items()
        if len(found) > 1
    ]
    raise_faults(BadNameError, "save: a .params file joins keys with '.', so these names clash:", faults)
    return list(sources)


def _entry_head(each: _Leaf, version: int) -> bytes:
    rank = len(each.shape)
    head = struct.pack("<Iii", _MARKS[version], _DENSE, rank)
    shape = struct.pack(f"<{rank}q", *each.shape)
    return head + shape + struct.pack("<3i", *_CONTEXT, _FLAGS[each.leaf.dtype.name])


def open_file(path: Path) -> Stored:
    """Read the headers and names of a file; there are never notes. What is sparse, or none, is refused.

    Raises:
        ParamTreeError: where the file is not of this format, or is damaged.
        BadNameError: listing every name that is there twice, or has an empty key.
    """
    with open_raw(path, SUFFIXES[0]) as file:
        names, entries = _read_entries(file)
        stamp = file.stamp
    if not names:
        names = [str(place) for place in range(len(entries))]
    _check_names(path, names)
    named = dict(zip(names, entries, strict=True))
    dense = {name: entry for name, entry in named.items() if isinstance(entry, _Entry)}
    return Stored(
        {name: jax.ShapeDtypeStruct(entry.shape, jnp.dtype(entry.dtype)) for name, entry in dense.items()},
        lambda: _reading(path, stamp, dense),
        refused={name: entry for name, entry in named.items() if isinstance(entry, str)},
        parallel=True,
    )


@contextmanager
def _reading(path: Path, stamp: Stamp, entries: Mapping[str, _Entry]) -> Generator[ReadOne]:
    with open_raw(path, SUFFIXES[0], stamp) as file:
        yield lambda name: entries[name].read(file)


def _check_names(path: Path, names: Iterable[str]) -> None:
    entries: dict[str, list[str]] = {}
    for place, name in enumerate(names):
        entries.setdefault(name, []).append(str(place))
    faults = [
        f"{name!r} names entries {' and '.join(places)}"
        for name, places in entries.items()
        if len(places) > 1
    ]
    faults += [f"{name!r} has an empty key" for name in entries if not all(name.split(SEPARATOR))]
    headline = f"{str(path)!r} has names that no tree can have; read it with checkpoint.mxnet.read_arrays:"
    raise_faults(BadNameError, headline, faults)


def read_arrays(file: str | os.PathLike[str], /) -> tuple[list[str], list[Array]]:
    """Read a file's names and arrays as they stand: any name, also the empty one, and any of them twice.

    There are no names where MXNet saved a list.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder, "net.params"), {"0.bias": np.ones(2, "float32")}, {})
    ...     read_arrays(f"{folder}/net.params")
    (['0.bias'], [array([1., 1.], dtype=float32)])

    Raises:
        ParamTreeError: where the file is not of this format, or is damaged.
        MismatchError: listing every array that is sparse, or none.
    """
    path = Path(file)
    with open_raw(path, SUFFIXES[0]) as opened:
        names, entries = _read_entries(opened)
        faults = [
            f"{repr(names[place]) if names else f'entry {place}'} is {entry}"
            for place, entry in enumerate(entries)
            if isinstance(entry, str)
        ]
        raise_faults(MismatchError, f"{str(path)!r} holds what is not a dense array:", faults)
        return names, [entry.read(opened) for entry in entries if isinstance(entry, _Entry)]


def _read_entries(file: RawFile) -> tuple[list[str], list[_Entry | str]]:
    source = _Source(file)
    mark = source.number("Q", f"the mark {_LIST_MARK:#x} of an MXNet file")
    if mark != _LIST_MARK:
        raise source.damage(0, f"the mark {_LIST_MARK:#x} of an MXNet file", f"{mark:#x}")
    source.skip(8, "a reserved word")
    count = source.number("Q", "the number of arrays")
    entries: list[_Entry | str] = []
    for place in range(count):
        source.part = f"entry {place} of {count}"
        entries.append(_read_entry(source))
    return _read_names(source, count), entries


class _Source:
    """The headers of a file, read from front to back: what lies between them is stepped over.

    Attributes:
        at: the byte where the next part begins.
        part: what is being read, for messages.
    """

    def __init__(self, file: RawFile) -> None:
        self.file = file
        self.at = 0
        self.part = "the header"

    def damage(self, at: int, expected: str, found: str) -> ParamTreeError:
        """Make the error that tells what is wrong, and at which byte."""
        return self.file.damage(f"{self.part}, at byte {at}: expected {expected}, and found {found}")

    def skip(self, size: int, what: str) -> int:
        """Step over some bytes; return where they begin."""
        left = self.file.size - self.at
        if size > left:
            raise self.damage(self.at, f"{what} ({size} B)", f"the end of the file after {left} B")
        self.at += size
        return self.at - size

    def bytes(self, size: int, what: str) -> bytes:
        """Read some bytes."""
        return self.file.bytes_at(self.skip(size, what), size)

    def numbers(self, form: str, what: str) -> tuple[int, ...]:
        """Read some integers; `form` is one of the struct module, without the byte order."""
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}"), what))

    def number(self, form: str, what: str) -> int:
        """Read one integer."""
        return self.numbers(form, what)[0]

    def array(self, dtype: str, shape: tuple[int, ...], what: str) -> _Entry:
        """Step over the values of an array."""
        item = jnp.dtype(dtype)
        if math.prod(size or 1 for size in shape) * item.itemsize > _MOST_BYTES:  # also of an empty array
            raise self.damage(self.at, f"{what} of an array", f"the shape {shape}, larger than any array's")
        start = self.skip(math.prod(shape) * item.itemsize, f"{what} of shape {shape} and type {dtype}")
        return _Entry(self.part, start, shape, dtype)


def _read_entry(source: _Source) -> _Entry | str:
    """Read one array, or say why it cannot be one of a tree: its name is not known yet."""
    mark = source.number("I", "the mark of a version")
    version = _VERSIONS.get(mark, 0)
    storage = _read_storage(source) if version > 1 else _DENSE
    stored = _read_shape(source, version) if storage != _DENSE else ()
    shape = _read_shape(source, version) if version else _read_oldest_shape(source, mark)
    if version == 2 and not shape:
        return "none: it has no shape and no values"
    source.skip(8, "the device")
    dtype = _read_dtype(source)
    if storage == _DENSE:
        return source.array(dtype, shape, "the values")
    indices = [(_read_dtype(source), _read_shape(source, version)) for _ in range(_INDEX_ARRAYS[storage])]
    source.array(dtype, stored, "the values")
    for index_dtype, index_shape in indices:
        source.array(index_dtype, index_shape, "the indices")
    return f"{_STORAGE[storage]}; in MXNet, save its tostype('default') instead"


def _read_storage(source: _Source) -> int:
    storage = source.number("i", "the storage type")
    if storage not in _STORAGE:
        raise source.damage(source.at - 4, "a storage type from 0 to 2", str(storage))
    return storage


def _read_shape(source: _Source, version: int) -> tuple[int, ...]:
    rank = source.number("i", "the number of axes")
    least = 1 if version == 1 else 0
    if not least <= rank <= _MOST_AXES:
        raise source.damage(source.at - 4, f"a number of axes from {least} to {_MOST_AXES}", str(rank))
    shape = source.numbers(f"{rank}q", "the shape")
    if any(size < 0 for size in shape):
        raise source.damage(source.at - 8 * rank, "a shape", str(shape))
    return shape


def _read_oldest_shape(source: _Source, rank: int) -> tuple[int, ...]:
    if not 1 <= rank <= _MOST_AXES:
        expected = f"the mark of a version, or a number of axes from 1 to {_MOST_AXES}"
        raise source.damage(source.at - 4, expected, f"{rank:#x}")
    return source.numbers(f"{rank}I", "the shape")


def _read_dtype(source: _Source) -> str:
    flag = source.number("i", "the type flag")
    if flag not in _DTYPES:
        found = f"{flag}{_REFUSED.get(flag, '')}, which MXNet 1.9.1 does not know"
        raise source.damage(source.at - 4, "a type flag from 0 to 7, or 12", found)
    return _DTYPES[flag]


def _read_names(source: _Source, count: int) -> list[str]:
    source.part = "the names"
    found = source.number("Q", "the number of names")
    if found not in (0, count):
        raise source.damage(source.at - 8, f"as many names as arrays ({count}), or none", str(found))
    names: list[str] = []
    for place in range(found):
        source.part = f"name {place} of {found}"
        size = source.number("Q", "the length of the name")
        encoded = source.bytes(size, "the name")
        try:
            names.append(encoded.decode())
        except UnicodeDecodeError as error:
            at = source.at - size + error.start
            raise source.damage(at, "UTF-8", f"the byte {encoded[error.start]:#04x}") from error
    return names
