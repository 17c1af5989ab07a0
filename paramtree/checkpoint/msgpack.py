"""Flax's `.msgpack` format: what `flax.serialization.to_bytes` writes, byte for byte, without flax.

A file is one map of maps in MessagePack's encoding, whose leaves are arrays as extensions, or numbers. Arrays
above 1 GiB are split into parts. Arrays are read and written one at a time. Notes on ties and fixed marks, if
a tree has any, are JSON under the key `__paramtree__` at the top; flax loads such a file with one key more.
"""

import json
import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.layout import Leaves, Notes, dtype_fault, host_array, read_notes
from paramtree.checkpoint.packing import Packed, Source, head, integer, text
from paramtree.checkpoint.rawfile import Stamp, as_bytes, open_raw, spec_of, written_file
from paramtree.checkpoint.stored import Array, ReadOne, Stored, new_array
from paramtree.errors import BadNameError, raise_faults
from paramtree.names import is_dict, nest

SUFFIXES = (".msgpack",)

_NOTES = "__paramtree__"
_KEPT = (
    "ties",
    "fixed",
    "frozen",
    "keys",
)  # the notes that are worth a key: the format itself has empty dicts
_SPLIT, _SHAPE, _PARTS = "__msgpack_chunked_array__", "shape", "chunks"
_MOST_OF_A_PART = 2**30
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # flax's extensions
_KINDS = {"text": "of type str", "bytes": "of type bytes", "list": "an empty list", "map": "an empty dict"}
_DEEPEST = 500


class _Entry(NamedTuple):
    """An array in a file: where the bytes of its parts are, or the number that it is."""

    spec: jax.ShapeDtypeStruct
    parts: tuple[tuple[int, int], ...] = ()
    number: Any = None


def recognises(path: Path, head: bytes) -> bool:
    """Tell whether a file is a map of MessagePack's whose first key is a text, or that is empty."""
    if head[:1] == b"\x80":
        return path.stat().st_size == 1
    before = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x80 < head[0] < 0x90 else 0) if head else 0
    return 0 < before < len(head) and head[before] in (*range(0xA1, 0xC0), 0xD9, 0xDA, 0xDB)


def open_file(path: Path) -> Stored:
    """Read names, shapes and dtypes of a file; Python's numbers count as arrays without axes.

    Raises:
        ParamTreeError: where the file is damaged.
        BadNameError: listing all names that the file has twice.
    """
    entries: dict[str, _Entry] = {}
    refused: dict[str, str] = {}
    with open_raw(path, SUFFIXES[0]) as file:
        source = Source(file)
        values = _read_values(source)
        notes: Notes = {}
        if isinstance(kept := values.get(_NOTES), Packed) and kept.kind == "text":
            notes = read_notes(source.text(values.pop(_NOTES)))
        empty = [name for name, value in values.items() if isinstance(value, Packed) and value.kind == "map"]
        for name, value in _joined(source, values):
            entry = value if isinstance(value, _Entry | str) else _entry(source, value)
            if isinstance(entry, _Entry):
                entries[name] = entry
            elif name not in empty:
                refused[name] = entry
        stamp = file.stamp
    specs = {name: entry.spec for name, entry in entries.items()}
    return Stored(
        specs, partial(_reading, path, stamp, entries), notes | ({"empty": empty} if empty else {}), refused
    )


def _read_values(source: Source) -> dict[str, Any]:
    """Read all values by name; of containers, the empty ones."""
    values: dict[str, Any] = {}
    twice: list[str] = []
    left: list[Iterator[str]] = [iter([""])]
    while left:
        name = next(left[-1], None)
        if name is None:
            left.pop()
            continue
        at = source.at
        value = source.value()
        container = isinstance(value, Packed) and value.kind in ("map", "list")
        if container and (value.size or not name):
            if len(left) > _DEEPEST:
                raise source.damage(at, f"containers within each other, more than {_DEEPEST} deep")
            left.append(_names(source, name, value))
        elif not name:
            raise source.damage(at, "a value without a name, and not a dict of them")
        else:
            twice += [f"{name!r} names two values"] if name in values else []
            values[name] = value
    if source.at != source.file.size:
        raise source.damage(source.at, f"{source.file.size - source.at} B after the end of the tree")
    raise_faults(BadNameError, f"{str(source.file.path)!r} has names that no tree can have:", twice)
    return values


def _names(source: Source, outer: str, container: Packed) -> Iterator[str]:
    """Yield the name of each value in a container, when what comes next is that value."""
    for place in range(container.size):
        key: Any = place
        if container.kind == "map":
            at = source.at
            key = source.value()
            if isinstance(key, Packed) and key.kind == "text" and key.size:
                key = source.text(key)
            elif type(key) is not int:
                raise source.damage(at, "a key that is neither a text nor an integer")
        yield f"{outer}/{key}" if outer else str(key)


def _joined(source: Source, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield all values, with each array that is split into parts as one."""
    split = {mark.removesuffix(f"/{_SPLIT}"): mark for mark in values if mark.endswith(f"/{_SPLIT}")}
    shapes = {base: _counted(f"{base}/{_SHAPE}", values) for base in split}
    parts = {base: _counted(f"{base}/{_PARTS}", values) for base in split}
    inside = {name for names in (*shapes.values(), *parts.values()) for name in names}
    bases = {mark: base for base, mark in split.items()}
    for name, value in values.items():
        if name in bases:
            base = bases[name]
            yield base, _whole(source, base, *([values[each] for each in of[base]] for of in (shapes, parts)))
        elif name not in inside:
            yield name, value


def _counted(base: str, values: Mapping[str, Any]) -> list[str]:
    """List the names base/0, base/1 and so on, as many as there are."""
    found: list[str] = []
    while (name := f"{base}/{len(found)}") in values:
        found.append(name)
    return found


def _whole(source: Source, name: str, shape: list[Any], parts: list[Any]) -> _Entry | str:
    entries = [_entry(source, part) for part in parts]
    arrays = [entry for entry in entries if isinstance(entry, _Entry)]
    fits = bool(entries) and len(arrays) == len(entries) and all(map(_is_size, shape))
    if (
        not fits
        or len({array.spec.dtype for array in arrays}) > 1
        or any(not array.parts for array in arrays)
    ):
        raise source.damage(0, f"{name} is an array in parts, which are not all there")
    spec = spec_of(tuple(shape), arrays[0].spec.dtype)
    held = sum(math.prod(array.spec.shape) for array in arrays)
    if isinstance(spec, str) or held != math.prod(shape):
        raise source.damage(
            0, f"{name} is an array of shape {tuple(shape)}, and its parts have {held} values"
        )
    return _Entry(spec, tuple(part for array in arrays for part in array.parts))


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _entry(source: Source, value: Any) -> _Entry | str:
    """Give the array that a value is, or say what else it is."""
    if isinstance(value, bool | int | float):
        wide = type(value) is int and value >= 2**63
        return _Entry(jax.ShapeDtypeStruct((), np.uint64 if wide else np.asarray(value).dtype), (), value)
    if value is None:
        return "of type NoneType"
    if value.kind not in (_ARRAY, _SCALAR, _COMPLEX):
        return _KINDS.get(value.kind, f"of MessagePack's extension type {value.kind}")
    source.at = value.start
    entry = _read_complex(source) if value.kind == _COMPLEX else _read_array(source)
    if source.at != value.start + value.size:
        found = f"an extension of {value.size} B, whose content has {source.at - value.start} B"
        raise source.damage(value.start, found)
    return entry


def _read_complex(source: Source) -> _Entry:
    at = source.at
    pair = source.value()
    if isinstance(pair, Packed) and pair.kind == "list" and pair.size == 2:
        real, imaginary = source.value(), source.value()
        if isinstance(real, float) and isinstance(imaginary, float):
            return _Entry(jax.ShapeDtypeStruct((), np.complex128), (), complex(real, imaginary))
    raise source.damage(at, "a complex number that is not two numbers")


def _read_array(source: Source) -> _Entry | str:
    """Read what stands before an array's values: its shape, and the name of its dtype."""
    at = source.at
    whole, axes = source.value(), source.value()
    if _kind(whole) == _kind(axes) == "list" and whole.size == 3 and axes.size < source.file.size:
        shape = tuple(source.value() for _ in range(axes.size))
        named, values = source.value(), source.value()
        if all(map(_is_size, shape)) and _kind(named) == "text" and _kind(values) in ("bytes", "text"):
            dtype = _dtype(source.text(named))
            spec = dtype if isinstance(dtype, str) else spec_of(shape, dtype)
            if isinstance(spec, str):
                return spec
            if math.prod(shape) * spec.dtype.itemsize != values.size:
                raise source.damage(at, f"an array of shape {shape} and type {spec.dtype} in {values.size} B")
            return _Entry(spec, ((values.start, values.size),))
    raise source.damage(at, "an array that is not a shape, a dtype and values")


def _kind(value: Any) -> str | int | None:
    return value.kind if isinstance(value, Packed) else None


def _dtype(name: str) -> np.dtype[Any] | str:
    try:
        dtype = jnp.dtype(name if re.fullmatch("[a-z][a-z0-9_]{2,31}", name) else "")
    except TypeError:
        return f"of dtype {name[:32]!r}, which NumPy does not have"
    return dtype_fault(dtype) or dtype


@contextmanager
def _reading(path: Path, stamp: Stamp, entries: Mapping[str, _Entry]) -> Generator[ReadOne]:
    with open_raw(path, SUFFIXES[0], stamp) as file:

        def read(name: str) -> Array:
            spec, parts, number = entries[name]
            if len(parts) == 1:
                return file.array_at(parts[0][0], spec.shape, spec.dtype, name)
            array = new_array(spec.shape, spec.dtype)
            if not parts:
                array[...] = number
            memory, filled = as_bytes(array), 0
            for start, size in parts:
                memory[filled : filled + size] = file.array_at(start, (size,), np.uint8, name)
                filled += size
            return array

        yield read


def write(path: Path, leaves: Leaves, notes: Notes) -> None:
    """Write leaves and notes to a file that flax reads, one leaf at a time.

    Raises:
        BadNameError: for the one name that our notes have.
    """
    tree: dict[str, Any] = nest({**leaves, **{name: {} for name in notes.get("empty", ())}})
    if _NOTES in tree:
        raise BadNameError(
            f"save: a .msgpack file keeps its notes as {_NOTES!r}; rename it, or save to a .npz file."
        )
    if any(notes.get(kind) for kind in _KEPT):
        tree[_NOTES] = json.dumps(notes)
    with written_file(path) as put:
        _write(put, tree)


def _write(put: Callable[[Any], None], node: Any) -> None:
    if isinstance(node, str):
        put(text(node))
    elif is_dict(node):
        put(head("map", len(node)))
        for key, child in node.items():
            put(text(key))
            _write(put, child)
    else:
        array = host_array(node)
        if array.nbytes > _MOST_OF_A_PART:
            _write_parts(put, array)
        else:
            _write_array(put, array)


def _write_parts(put: Callable[[Any], None], array: Array) -> None:
    step = max(1, _MOST_OF_A_PART // array.itemsize)
    flat = array.reshape(-1)
    put(head("map", 3) + text(_SPLIT) + b"\xc3" + text(_SHAPE) + head("map", array.ndim))
    for place, axis in enumerate(array.shape):
        put(text(str(place)) + integer(axis))
    starts = range(0, flat.size, step)
    put(text(_PARTS) + head("map", len(starts)))
    for place, start in enumerate(starts):
        put(text(str(place)))
        _write_array(put, flat[start : start + step])


def _write_array(put: Callable[[Any], None], array: Array) -> None:
    axes = head("list", array.ndim) + b"".join(map(integer, array.shape))
    before = head("list", 3) + axes + text(array.dtype.name) + head("bytes", array.nbytes)
    put(head("extension", len(before) + array.nbytes) + bytes([_ARRAY]) + before)
    put(as_bytes(array).data)
