"""NumPy's `.npz` format: a zip file of `.npy` files.

NumPy forgets the name of a dtype that it does not have itself, such as bfloat16: such arrays are written as
unsigned integers of the same bits, and their dtypes as notes.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.layout import Arrays
from paramtree.errors import ParamTreeError

_NOTES = "__paramtree__"


def write(path: Path, arrays: Arrays, notes: dict[str, Any]) -> None:
    """Write arrays and notes to a file."""
    foreign = {name: array.dtype.name for name, array in arrays.items() if array.dtype.isbuiltin != 1}
    stored = {name: _bits(array) if name in foreign else array for name, array in arrays.items()}
    stored[_NOTES] = np.array(json.dumps(notes | {"dtypes": foreign}))
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in stored.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def _bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.view(f"u{array.dtype.itemsize}")


def read(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read arrays and notes from a file; a file of another program has no notes.

    Raises:
        ParamTreeError: where the file is not of this format.
    """
    try:
        with np.load(path, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ParamTreeError(f"{str(path)!r} is not a whole .npz file of arrays: {error}.") from error
    notes = json.loads(str(arrays.pop(_NOTES, "{}")))
    for name, dtype in notes.get("dtypes", {}).items():
        arrays[name] = arrays[name].view(jnp.dtype(dtype))
    return arrays, notes
