"""The `.safetensors` format, through its own library."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.layout import Arrays
from paramtree.errors import MismatchError, ParamTreeError

_NOTES = "paramtree"  # the key of our notes in the file's metadata
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32",
    "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


def write(path: Path, arrays: Arrays, notes: dict[str, Any]) -> None:
    """Write arrays and notes to a file.

    Raises:
        MismatchError: for a dtype that the format does not have.
    """
    from safetensors import SafetensorError  # not at the top: importing paramtree imports only jax and numpy
    from safetensors.numpy import save_file

    contiguous = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    try:
        save_file(contiguous, path, metadata={_NOTES: json.dumps(notes)})
    except SafetensorError as error:
        raise MismatchError(f"save: {error}") from error


def read(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read arrays and notes from a file; a file of another program has no notes.

    Raises:
        ParamTreeError: where the file is not of this format.
    """
    from safetensors import SafetensorError, deserialize, safe_open

    try:
        with safe_open(path, "numpy") as opened:
            metadata = opened.metadata() or {}
        tensors = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise ParamTreeError(f"{str(path)!r} is not a whole .safetensors file: {error}.") from error
    arrays = {name: _array(name, tensor) for name, tensor in tensors}
    return arrays, json.loads(metadata.get(_NOTES, "{}"))


def _array(name: str, tensor: dict[str, Any]) -> np.ndarray[Any, Any]:
    if tensor["dtype"] not in _DTYPES:
        raise MismatchError(f"load: {name} is of dtype {tensor['dtype']}, which NumPy has no type for.")
    return np.frombuffer(tensor["data"], jnp.dtype(_DTYPES[tensor["dtype"]])).reshape(tensor["shape"])
