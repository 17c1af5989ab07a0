"""NumPy's `.npz` format: a zip file of `.npy` files, and `paramtree.json` with our notes.

NumPy forgets the name of a dtype that it does not have itself, such as bfloat16: such arrays are written as
unsigned integers of the same bits, and their dtypes as notes. NumPy itself writes them as bits without a type
("V2"), and so they are read.
"""

import json
import math
import zipfile
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.layout import Leaves, Notes, dtype_fault, host_array, read_notes
from paramtree.checkpoint.rawfile import RawFile, Stamp, as_bytes, bool_fault, open_raw, spec_of
from paramtree.checkpoint.stored import Array, ReadOne, Stored, new_array
from paramtree.errors import ParamTreeError

SUFFIXES = (".npz",)

_NOTES = "paramtree.json"  # no array's name can be this: all of theirs end in .npy
_DTYPES = "dtypes"  # among the notes: those that NumPy does not have
_NPY = ".npy"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes; others can ask for any memory
_HIGHEST_RATIO = 1100  # no deflated data is more than 1032 times larger than its source
_AT_ONCE = 1 << 20  # bytes of an entry that are read in one step
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BITS = (1, 2)  # sizes of what NumPy calls V1 and V2


class _Entry(NamedTuple):
    """An array in the zip file: its header takes `skip` bytes, and its dtype may be big-endian."""

    info: zipfile.ZipInfo
    skip: int
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def recognises(path: Path, head: bytes) -> bool:
    """Tell whether a file is a zip file with an array of NumPy, or with our notes, in it."""
    if not head.startswith(b"PK\3\4"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(_NPY) or name == _NOTES for name in archive.namelist())
    except Exception:  # a damaged file makes zipfile raise whatever comes; `open_file` says what is wrong
        return False


def open_file(path: Path) -> Stored:
    """Read the directory of a file, and the header of each array; a file of another program has no notes.

    Raises:
        ParamTreeError: where the file is not of this format, or is damaged.
    """
    refused: dict[str, str] = {}
    entries: dict[str, _Entry] = {}
    text = "{}"
    with open_raw(path, SUFFIXES[0]) as file, _parsing(file), zipfile.ZipFile(file.file) as archive:
        _check_directory(file, archive.infolist())
        for info in archive.infolist():
            if info.filename == _NOTES:
                text = archive.read(info).decode()
                continue
            name = info.orig_filename.removesuffix(_NPY)  # the other one ends at a NUL
            found = _read_header(file, archive, info)
            if isinstance(found, str):
                refused[name] = found
            else:
                entries[name] = found
        stamp = file.stamp
    notes = read_notes(text)
    specs = {name: _native_spec(entry) for name, entry in entries.items()}
    specs |= _foreign_specs(notes.pop(_DTYPES, {}), specs)
    return Stored(specs, lambda: _reading(path, stamp, entries, specs), notes, refused)


@contextmanager
def _parsing(file: RawFile) -> Generator[None]:
    """Make whatever goes wrong in a damaged file one kind of error."""
    try:
        yield
    except ParamTreeError:
        raise
    except EOFError as error:  # which zipfile raises without a text
        raise file.damage("an entry ends too early") from error
    except Exception as error:  # a damaged file makes zipfile, zlib and NumPy raise whatever comes
        raise file.damage(error) from error


def _check_directory(file: RawFile, infos: list[zipfile.ZipInfo]) -> None:
    """Check, before anything is read, that no entry can be larger than it says, or is there twice."""
    counts = Counter(info.orig_filename for info in infos)
    faults = [f"{name!r} is there {count} times" for name, count in counts.items() if count > 1]
    end, before = 0, ""
    for info in sorted(infos, key=lambda info: info.header_offset):
        name = info.orig_filename
        if info.compress_type not in _METHODS or info.flag_bits & 1:
            faults.append(f"{name!r} is encrypted, or compressed in a way that NumPy does not write")
        most = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else _HIGHEST_RATIO)
        if info.file_size > most:
            faults.append(f"{name!r} cannot hold {info.file_size} B in {info.compress_size} B of the file")
        if info.header_offset < end:
            faults.append(f"{name!r} begins at byte {info.header_offset}, inside of {before!r}")
        end, before = info.header_offset + info.compress_size, name
        if end > file.size:
            faults.append(f"{name!r} ends at byte {end}, after the file")
    if infos and not any(name.endswith(_NPY) or name == _NOTES for name in counts):
        faults.append(f"{infos[0].orig_filename!r} is no {_NPY} file")
    if faults:
        raise file.damage("; ".join(faults))


def _read_header(file: RawFile, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Entry | str:
    """Read the header of one array, or say why it cannot be one of a tree."""
    if not info.orig_filename.endswith(_NPY):
        return f"no {_NPY} file"
    with archive.open(info) as opened:
        version = np.lib.format.read_magic(opened)
        if version == (3, 0):
            return "an array of named fields"  # which alone need this version
        if version not in _HEADERS:
            raise file.damage(f"{info.orig_filename!r} is a {_NPY} file of version {version}")
        shape, fortran, dtype = _HEADERS[version](opened)
        skip = opened.tell()
    bits = dtype.kind == "V" and dtype.names is None and dtype.subdtype is None and dtype.itemsize in _BITS
    if fault := "" if bits else dtype_fault(dtype):
        return fault
    spec = spec_of(shape, dtype)
    if isinstance(spec, str):
        return spec
    size = skip + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size != info.file_size:
        found = f"{info.orig_filename!r} has {info.file_size} B"
        raise file.damage(f"{found}, and not the {size} B of shape {shape} and {dtype}")
    return _Entry(info, skip, shape, fortran and len(shape) > 1, dtype)


def _native_spec(entry: _Entry) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(entry.shape, entry.dtype.newbyteorder("="))


def _foreign_specs(dtypes: Any, specs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
    """Give the specs of the arrays that are stored as bits of a dtype that NumPy does not have."""
    found: dict[str, jax.ShapeDtypeStruct] = {}
    try:
        for name, text in dtypes.items():
            dtype = jnp.dtype(text)
            if dtype.itemsize != specs[name].dtype.itemsize or dtype_fault(dtype):
                raise ValueError(f"{name!r} is {specs[name].dtype}, which is not how {dtype} is stored")
            found[name] = jax.ShapeDtypeStruct(specs[name].shape, dtype)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ParamTreeError(f"load: the notes on dtypes are damaged: {error}.") from error
    return found


@contextmanager
def _reading(
    path: Path, stamp: Stamp, entries: Mapping[str, _Entry], specs: Mapping[str, jax.ShapeDtypeStruct]
) -> Generator[ReadOne]:
    with open_raw(path, SUFFIXES[0], stamp) as file, zipfile.ZipFile(file.file) as archive:

        def read(name: str) -> Array:
            with _parsing(file):
                array = _read_values(archive, entries[name])
            if array.dtype == np.bool_ and (fault := bool_fault(array, entries[name].skip)):
                raise file.damage(f"{name!r}, {fault}")
            return array.view(specs[name].dtype)

        yield read


def _read_values(archive: zipfile.ZipFile, entry: _Entry) -> Array:
    array = new_array(entry.shape[::-1] if entry.fortran else entry.shape, entry.dtype)
    memory = as_bytes(array).data
    with archive.open(entry.info) as opened:
        opened.read(entry.skip)
        _read_into(opened, memory)
    if not entry.dtype.isnative:
        array = array.byteswap(inplace=True).view(entry.dtype.newbyteorder("="))
    if not entry.fortran:
        return array
    own = new_array(entry.shape, array.dtype)
    own[...] = array.T
    return own


def _read_into(opened: IO[bytes], memory: memoryview) -> None:
    """Fill memory in small steps: at its last byte, zipfile compares the checksum."""
    at = 0
    while at < len(memory):
        data = opened.read(min(_AT_ONCE, len(memory) - at))
        if not data:
            raise EOFError
        memory[at : at + len(data)] = data
        at += len(data)


def write(path: Path, leaves: Leaves, notes: Notes) -> None:
    """Write arrays and notes to a file, one array after the other."""
    foreign = {
        name: leaf.dtype.name for name, leaf in leaves.items() if np.dtype(leaf.dtype.type).isbuiltin != 1
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(_NOTES, json.dumps(notes | {_DTYPES: foreign}))
        for name, leaf in leaves.items():
            array = host_array(leaf)
            stored = array.view(f"u{array.dtype.itemsize}") if name in foreign else array
            with archive.open(name + _NPY, "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, stored, allow_pickle=False)
