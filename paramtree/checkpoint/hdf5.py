"""HDF5 files, such as Keras' `.weights.h5`, read by h5py: every dataset under its path in the file.

What would lead out of the file or run other code is never followed: soft and external links, values kept in
other files, virtual datasets, and filters beyond those that h5py has built in (gzip, lzf, shuffle,
fletcher32). A dataset that is linked twice is a tie. Attributes are not read, but for Keras' mark of
bfloat16.
"""

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.layout import Notes, dtype_fault
from paramtree.checkpoint.rawfile import Stamp, damaged, open_raw, spec_of
from paramtree.checkpoint.stored import Array, ReadOne, Stored, new_array
from paramtree.errors import ParamTreeError

SUFFIXES = (".h5", ".hdf5", ".keras")

_FORMAT = "HDF5"
_MARK = b"\x89HDF\r\n\x1a\n"
_RAW = (np.dtype("V1"), np.dtype("V2"))  # how h5py writes the types that NumPy lacks
_SHUFFLE, _FLETCHER32, _LZF, _GZIP = 2, 3, 32000, 1
_FILTERS = {
    _SHUFFLE: 1,
    _FLETCHER32: 1,
    _LZF: 256,
    _GZIP: 1032,
}  # and by how much each can shrink values, at most


def recognises(path: Path, head: bytes) -> bool:
    """Tell whether a file is an HDF5 file."""
    del path
    return head.startswith(_MARK)


def open_file(path: Path) -> Stored:
    """Read names, shapes and dtypes of a file's datasets.

    Raises:
        ParamTreeError: where the file is damaged, or h5py is not installed.
    """
    h5py = _h5py(path)
    with open_raw(path, _FORMAT) as file:
        size, stamp, head = file.size, file.stamp, file.bytes_at(0, min(file.size, len(_MARK)))
    if head.startswith(b"PK"):
        raise ParamTreeError(
            f"{str(path)!r} is a zip file, as Keras writes a whole model. Unpack model.weights.h5 from it, "
            "and load that."
        )
    if head != _MARK:
        raise damaged(path, _FORMAT, f"it begins with {head!r}")
    tour = _Tour(h5py, size)
    try:
        with h5py.File(path, "r") as opened:
            tour.visit(opened)
    except Exception as error:  # a damaged file makes h5py raise whatever comes
        raise damaged(path, _FORMAT, _line(error)) from error
    notes: Notes = {"ties": tour.ties} if tour.ties else {}
    return Stored(tour.specs, partial(_reading, h5py, path, stamp, tour.specs), notes, tour.refused)


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ParamTreeError(
            f"{str(path)!r} is an HDF5 file, and h5py is not installed. Install it with: pip install "
            "'paramtree-jax[h5py]'."
        ) from error
    return h5py


class _Tour:
    """What is found on the way through a file.

    Attributes:
        specs: name -> shape and dtype of each dataset that can be read.
        refused: name -> what it is, of all else.
        ties: name -> tie, of each dataset that is linked a second time.
    """

    def __init__(self, h5py: Any, size: int) -> None:
        self.h5py = h5py
        self.size = size
        self.specs: dict[str, jax.ShapeDtypeStruct] = {}
        self.refused: dict[str, str] = {}
        self.ties: dict[str, dict[str, Any]] = {}
        self.seen: dict[int, str] = {}

    def visit(self, group: Any) -> None:
        """Note all that a group and those in it hold, in the order of the file."""
        left: list[tuple[str, Any]] = [("", group)]
        while left:
            name, node = left.pop()
            if isinstance(node, str):
                self.refused[name] = node
            elif isinstance(node, self.h5py.Group) and self.is_new(name, node):
                left += [(f"{name}/{key}" if name else key, self.child(node, key)) for key in node][::-1]
            elif isinstance(node, self.h5py.Dataset):
                self.note(name, node)

    def child(self, group: Any, key: str) -> Any:
        """Give the object that a key leads to, or say where else it leads."""
        kind = group.get(key, getclass=True, getlink=True)
        if kind is self.h5py.HardLink:
            return group[key]
        if kind is self.h5py.SoftLink:
            return f"a soft link to {group.get(key, getlink=True).path!r}, which is not followed"
        return "a link out of the file, which is not followed"

    def is_new(self, name: str, group: Any) -> bool:
        """Tell whether a group was not met before: it may be linked twice, and within itself."""
        first = self.seen.setdefault(self.h5py.h5o.get_info(group.id).addr, name)
        if first != name:
            self.refused[name] = f"a second link to the group {first or '/'}, which is not followed"
        return first == name

    def note(self, name: str, dataset: Any) -> None:
        """Note a dataset as one to read, as tied, or as refused."""
        first = self.seen.setdefault(self.h5py.h5o.get_info(dataset.id).addr, name)
        if first in self.refused:
            self.refused[name] = self.refused[first]
        elif first != name:
            self.ties[name] = {"target": first, "transpose": False}
        else:
            spec = _fault(dataset, self.size) or spec_of(dataset.shape, _dtype(dataset))
            if isinstance(spec, str):
                self.refused[name] = spec
            else:
                self.specs[name] = spec


def _dtype(dataset: Any) -> np.dtype[Any]:
    dtype = dataset.dtype.newbyteorder("=")
    # Keras marks bfloat16, and nothing else, by an attribute; reading its text could hang in a damaged file
    if dtype == np.dtype("V2") and "dtype" in dataset.attrs:
        return jnp.dtype("bfloat16")
    return dtype


def _fault(dataset: Any, size: int) -> str:
    """Say why a dataset cannot be an array of a tree; an empty text for one that can."""
    try:
        dtype = _dtype(dataset)
    except TypeError:
        return "of a type that NumPy does not have"
    if dtype not in (np.dtype("V1"), np.dtype("V2")) and (
        fault := dtype_fault(dtype)
    ):  # raw: a type NumPy lacks
        return fault
    if dataset.shape is None:
        return "a dataset without a shape"
    if dataset.external:
        return "kept in another file, which is not opened"
    if dataset.is_virtual:
        return "a virtual dataset, of values in other datasets"
    filters = dataset.id.get_create_plist()
    codes = [filters.get_filter(place)[0] for place in range(filters.get_nfilters())]
    if unknown := [code for code in codes if code not in _FILTERS]:
        return f"compressed by the HDF5 filter {unknown[0]}, which is not run"
    # the values, and the chunk that is unpacked at a time, must come from what the file holds
    limit = min(size, dataset.id.get_storage_size()) * math.prod(_FILTERS[code] for code in codes)
    largest = max(math.prod(shape) for shape in (dataset.shape, dataset.chunks or ()))
    if largest * dataset.dtype.itemsize > max(limit, size):
        return f"an array of shape {dataset.shape}, of which the file holds no values"
    return ""


@contextmanager
def _reading(
    h5py: Any, path: Path, stamp: Stamp, specs: Mapping[str, jax.ShapeDtypeStruct]
) -> Generator[ReadOne]:
    with open_raw(path, _FORMAT, stamp), h5py.File(path, "r") as file:

        def read(name: str) -> Array:
            array = new_array(specs[name].shape, specs[name].dtype)
            bits = array.view("V2") if array.dtype == jnp.bfloat16 else array
            try:
                if array.size:
                    file[name].read_direct(bits)
            except Exception as error:  # damaged values make h5py raise whatever comes
                raise damaged(path, _FORMAT, f"{name}: {_line(error)}") from error
            return array

        yield read


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
