"""The `.safetensors` format: every header is checked by its own library, every array is read alone."""

import json
import math
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from paramtree.checkpoint.layout import Leaves, Notes, host_array, read_notes
from paramtree.checkpoint.rawfile import (
    RawFile,
    Stamp,
    as_bytes,
    damaged,
    open_raw,
    spec_of,
    written_file,
)
from paramtree.checkpoint.stored import ReadOne, Stored
from paramtree.errors import BadNameError, MismatchError, ParamTreeError, listing, raise_faults

SUFFIXES = (".safetensors",)
NOTES = "paramtree"  # the key of our notes in the file's metadata

_METADATA = "__metadata__"  # the format's own key among the names
_FORMAT = "format"  # the key in the metadata that torch's writers and readers have
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32",
    "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
_LETTERS = {dtype: letters for letters, dtype in _DTYPES.items()}

_Pairs = list[tuple[str, Any]]


def recognises(path: Path, head: bytes) -> bool:
    """Tell whether a file begins as one of this format: with the length of a JSON object, and the object."""
    del path
    return head[4:9] == b"\0\0\0\0{"  # the library takes no header of 4 GiB


def open_file(path: Path) -> Stored:
    """Read a file's header. Of names that torch's `save_model` dropped, the notes hold the ties.

    Raises:
        ParamTreeError: where the file is not of this format, or is damaged.
    """
    with open_raw(path, SUFFIXES[0]) as file:
        _check_header(path)
        start = 8 + int.from_bytes(file.bytes_at(0, 8), "little")
        header = read_json(file, file.bytes_at(8, start - 8))
        file.check_in_place()  # else the library may have looked at another one
        stamp = file.stamp
    metadata: Mapping[str, str] = header.pop(_METADATA, None) or {}
    specs: dict[str, jax.ShapeDtypeStruct] = {}
    refused: dict[str, str] = {}
    starts: dict[str, int] = {}
    for name, entry in header.items():
        if not isinstance(entry, dict):
            raise damaged(path, SUFFIXES[0], f"the entry of {name!r} is {entry!r}, and not an object")
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            refused[name] = f"of dtype {entry['dtype']}, which NumPy does not have"
            continue
        spec = spec_of(tuple(entry["shape"]), dtype)
        if isinstance(spec, str):
            refused[name] = spec
            continue
        specs[name], starts[name] = spec, start + entry["data_offsets"][0]
    notes = read_notes(metadata[NOTES]) if NOTES in metadata else _torch_ties(metadata, specs)
    return Stored(specs, lambda: _reading(path, stamp, specs, starts), notes, refused, parallel=True)


def _check_header(path: Path) -> None:
    from safetensors import SafetensorError, safe_open  # not at the top: importing paramtree imports only jax

    try:
        with safe_open(path, "numpy"):  # checks that offsets and sizes fit each other, and the file
            pass
    except SafetensorError as error:
        raise damaged(path, SUFFIXES[0], error) from error


def read_json(file: RawFile, text: bytes) -> dict[str, Any]:
    """Read a JSON object of a file, without a name that is there twice: libraries take the last one.

    Raises:
        ParamTreeError: where it is none.
    """
    twice: list[str] = []

    def to_dict(pairs: _Pairs) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.extend(
                repr(name) for name, count in Counter(name for name, _ in pairs).items() if count > 1
            )
        return found

    try:
        found = json.loads(text, object_pairs_hook=to_dict)
    except (ValueError, RecursionError) as error:
        raise file.damage(f"its JSON cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise file.damage(f"its JSON is no object, but {text[:40]!r}")
    if twice:
        raise file.damage(f"it names these twice: {listing(twice)}")
    return found


@contextmanager
def _reading(
    path: Path, stamp: Stamp, specs: Mapping[str, jax.ShapeDtypeStruct], starts: Mapping[str, int]
) -> Generator[ReadOne]:
    with open_raw(path, SUFFIXES[0], stamp) as file:
        yield lambda name: file.array_at(starts[name], specs[name].shape, specs[name].dtype, repr(name))


def _torch_ties(metadata: Mapping[str, str], specs: Mapping[str, jax.ShapeDtypeStruct]) -> Notes:
    """Read what torch's `save_model` notes: for each name that it dropped, the one that it kept."""
    ties = {
        dropped: {"target": kept, "transpose": False}
        for dropped, kept in metadata.items()
        if dropped != _FORMAT and kept in specs and dropped not in specs and all(dropped.split("/"))
    }
    return {"ties": ties} if ties else {}


def write(path: Path, leaves: Leaves, notes: Notes) -> None:
    """Write arrays and notes to a file, one array after the other.

    Raises:
        MismatchError: listing every array of a dtype that the format does not have.
        BadNameError: for the one name that the format keeps to itself.
        ParamTreeError: where the library does not read what is written.
    """
    check_leaves(leaves)
    write_arrays(path, leaves, {NOTES: json.dumps(notes)})


def check_leaves(leaves: Leaves) -> None:
    """Check that the format has a type for each array, and that none has its own name.

    Raises:
        MismatchError: listing every array of a dtype that the format does not have.
        BadNameError: for the one name that the format keeps to itself.
    """
    faults = [
        f"{name} is {leaf.dtype}; pt.cast it, or save to a .npz file"
        for name, leaf in leaves.items()
        if leaf.dtype.name not in _LETTERS
    ]
    raise_faults(MismatchError, "save: a .safetensors file has no type for these:", faults)
    if _METADATA in leaves:
        raise BadNameError(
            f"save: a .safetensors file keeps its notes as {_METADATA!r}; rename it, or save to a .npz file."
        )


def write_arrays(path: Path, leaves: Leaves, metadata: Mapping[str, str]) -> None:
    """Write arrays that `check_leaves` has passed, and the metadata as it is.

    Raises:
        ParamTreeError: where the library does not read what is written.
    """
    # wide ones first, as the library does: so each begins at a multiple of its own size
    names = sorted(leaves, key=lambda name: (-jnp.dtype(leaves[name].dtype).itemsize, name))
    header: dict[str, Any] = {_METADATA: metadata}
    at = 0
    for name in names:
        leaf = leaves[name]
        begin, at = at, at + leaf_bytes(leaf)
        letters = _LETTERS[leaf.dtype.name]
        header[name] = {"dtype": letters, "shape": list(leaf.shape), "data_offsets": [begin, at]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with written_file(path) as append:
        append(len(text).to_bytes(8, "little") + text)
        for name in names:
            append(as_bytes(host_array(leaves[name])))
    try:
        _check_header(path)
    except ParamTreeError as error:
        raise ParamTreeError(
            f"save: the safetensors library does not read what was written: {error}"
        ) from error


def leaf_bytes(leaf: Any) -> int:
    """Give the size of a leaf's values in a file."""
    return math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
