"""NumPy's `.npz` format: a zip file of `.npy` files, and `paramtree.json` with our notes.

NumPy forgets the name of a dtype that it does not have itself, such as bfloat16: such arrays are written as
unsigned integers of the same bits, and their dtypes as notes.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.layout import Arrays, Notes, read_notes
from paramtree.errors import ParamTreeError

_NOTES = "paramtree.json"  # no array's name can be this: all of theirs end in .npy
_SUFFIX = ".npy"


def write(path: Path, arrays: Arrays, notes: Notes) -> None:
    """Write arrays and notes to a file."""
    foreign = {name: array.dtype.name for name, array in arrays.items() if array.dtype.isbuiltin != 1}
    stored = {name: _bits(array) if name in foreign else array for name, array in arrays.items()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(_NOTES, json.dumps(notes | {"dtypes": foreign}))
        for name, array in stored.items():
            with archive.open(name + _SUFFIX, "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.view(f"u{array.dtype.itemsize}")


def read(path: Path) -> tuple[Arrays, Notes]:
    """Read arrays and notes from a file; a file of another program has no notes.

    Raises:
        ParamTreeError: where the file is not of this format.
    """
    with path.open("rb") as file:
        try:
            # by hand: numpy.load mixes up the names w and w.npy
            with zipfile.ZipFile(file) as archive:
                arrays = {name: _read_array(archive, name) for name in archive.namelist() if name != _NOTES}
                text = archive.read(_NOTES).decode() if _NOTES in archive.namelist() else "{}"
        except Exception as error:  # a damaged file makes zipfile and NumPy raise whatever comes
            raise ParamTreeError(f"{str(path)!r} is not a whole .npz file of arrays: {error}.") from error
    arrays = {name.removesuffix(_SUFFIX): array for name, array in arrays.items()}
    notes = read_notes(text)
    try:
        for name, dtype in notes.get("dtypes", {}).items():
            arrays[name] = arrays[name].view(jnp.dtype(dtype))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ParamTreeError(f"load: the notes on dtypes are damaged: {error}.") from error
    return arrays, notes


def _read_array(archive: zipfile.ZipFile, entry: str) -> np.ndarray[Any, Any]:
    if not entry.endswith(_SUFFIX):
        raise ValueError(f"{entry!r} is no {_SUFFIX} file")
    with archive.open(entry) as opened:
        return np.lib.format.read_array(opened, allow_pickle=False)
