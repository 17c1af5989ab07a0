"""The `.safetensors` format, checked and written by its own library."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.layout import Arrays, Notes, read_notes
from paramtree.errors import BadNameError, MismatchError, ParamTreeError, raise_faults

_NOTES = "paramtree"  # the key of our notes in the file's metadata
_METADATA = "__metadata__"  # the format's own key among the names
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32",
    "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


def write(path: Path, arrays: Arrays, notes: Notes) -> None:
    """Write arrays and notes to a file.

    Raises:
        MismatchError: listing every array of a dtype that the format does not have.
        BadNameError: for the one name that the format keeps to itself.
        ParamTreeError: where the library cannot write the file.
    """
    from safetensors import SafetensorError  # not at the top: importing paramtree imports only jax and numpy
    from safetensors.numpy import save_file

    known = _DTYPES.values()
    faults = [
        f"{name} is {array.dtype}; pt.cast it, or save to a .npz file"
        for name, array in arrays.items()
        if array.dtype.name not in known
    ]
    raise_faults(MismatchError, "save: a .safetensors file has no type for these:", faults)
    if _METADATA in arrays:
        raise BadNameError(
            f"save: a .safetensors file keeps its notes as {_METADATA!r}; rename it, or save to a .npz file."
        )
    contiguous = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    try:
        save_file(contiguous, path, metadata={_NOTES: json.dumps(notes)})
    except SafetensorError as error:
        raise ParamTreeError(f"save: the file cannot be written: {error}.") from error


def read(path: Path) -> tuple[Arrays, Notes]:
    """Read arrays and notes from a file; a file of another program has no notes.

    Raises:
        ParamTreeError: where the file is not of this format.
        MismatchError: listing every array of a dtype that NumPy does not have.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy"):  # checks the header: all that is read below is there
            pass
    except SafetensorError as error:
        raise ParamTreeError(f"{str(path)!r} is not a whole .safetensors file: {error}.") from error
    data = memoryview(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(bytes(data[8:start]))
    notes = read_notes((header.pop(_METADATA, None) or {}).get(_NOTES, "{}"))
    dtypes = {name: entry["dtype"] for name, entry in header.items()}
    faults = [f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in _DTYPES]
    raise_faults(MismatchError, "load: NumPy has no type for these:", faults)
    return {name: _array(entry, data[start:]) for name, entry in header.items()}, notes


def _array(entry: dict[str, Any], data: memoryview) -> np.ndarray[Any, Any]:
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[begin:end], jnp.dtype(_DTYPES[entry["dtype"]])).reshape(entry["shape"])
