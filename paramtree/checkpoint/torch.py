"""PyTorch's `.pt`, `.pth` and `.bin` files: zip files of a pickle and the values, read by `torch.load` alone.

The pickle is read with `weights_only=True`, so it runs no code; besides that, a file is refused that names
anything that is neither a tensor nor a container. A state dict's dotted names stay as they are; the keys of
nested dicts and places in lists are joined with `/`. Tensors that are one piece of memory are ties.
"""

import pickletools
import re
import warnings
import zipfile
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from paramtree.checkpoint.layout import Notes
from paramtree.checkpoint.rawfile import RawFile, Stamp, damaged, open_raw, spec_of
from paramtree.checkpoint.stored import Array, ReadOne, Stored, new_array
from paramtree.errors import BadNameError, ParamTreeError, listing, raise_faults

SUFFIXES = (".pt", ".pth", ".bin")

_FORMAT = "PyTorch"
_OLD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # how files began before they were zip files
_PICKLE = "/data.pkl"
_PROGRAM = "/constants.pkl"  # only TorchScript has it
_VALUES = re.compile(  # what pickles of tensors and containers name; none takes memory for a mere number
    r"torch [a-z]\w*"  # dtypes
    r"|torch (Size|(?!Typed)\w+Storage)"
    r"|torch\.storage UntypedStorage"
    r"|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor|tensor_v[23]|parameter|parameter_with_state|qtensor|sparse_tensor)"
    r"|torch\._utils _rebuild_meta_tensor_no_storage"
    r"|torch\.serialization _get_layout"
    r"|collections (OrderedDict|Counter)"
    r"|(__builtin__|builtins) (set|complex)"
    r"|_codecs encode"
)
_DTYPES = {
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16",
    "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e8m0fnu",
}  # fmt: skip
_NAME_SHARE = (
    64  # by how much the names may be longer than the pickle: prefixes repeat, and a loop never ends
)
_MAPPED = 48 * 2**20  # bytes read before the file is mapped anew: mapped bytes that were read count as memory
_WIDEST = 16  # bytes of the widest values
_LONGEST = 200  # characters of a reason


def recognises(path: Path, head: bytes) -> bool:
    """Tell whether a file is one of PyTorch's, also one of the kind before zip files."""
    if head.startswith(_OLD):
        return True
    if not head.startswith(b"PK"):
        return False
    try:
        return any(entry.filename.endswith(_PICKLE) for entry in _entries(path))
    except ParamTreeError:
        return False


def open_file(path: Path) -> Stored:
    """Read names, shapes and dtypes of a file.

    Raises:
        ParamTreeError: where the file is damaged, holds more than values, or torch is not installed.
        BadNameError: listing all names that the file has twice.
    """
    torch = _torch(path)
    with open_raw(path, _FORMAT) as file:
        values, size, stamp = _load(torch, file, _check(file)), file.size, file.stamp
    specs: dict[str, jax.ShapeDtypeStruct] = {}
    refused: dict[str, str] = {}
    ties: dict[str, dict[str, Any]] = {}
    seen: dict[Any, str] = {}
    for name, value in values.items():
        spec = _fault(torch, value, size) or spec_of(tuple(value.shape), _dtype(value))
        if isinstance(spec, str):
            refused[name] = spec
        elif tie := _tie(value, seen, name):
            ties[name] = tie
        else:
            specs[name] = spec
    notes: Notes = {"ties": ties} if ties else {}
    return Stored(specs, partial(_reading, torch, path, stamp), notes, refused)


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ParamTreeError(
            f"{str(path)!r} is a PyTorch file, and torch is not installed. Install it with: pip install "
            "'paramtree-jax[torch]'."
        ) from error
    return torch


@contextmanager
def _reading(torch: Any, path: Path, stamp: Stamp) -> Generator[ReadOne]:
    with open_raw(path, _FORMAT, stamp) as file:
        entries = _check(file)
        tensors = _load(torch, file, entries)
        mapped = 0

        def read(name: str) -> Array:
            nonlocal tensors, mapped
            if mapped > _MAPPED:
                tensors, mapped = _load(torch, file, entries), 0
            mapped += tensors[name].nbytes
            return _values(torch, tensors[name])

        yield read


def _values(torch: Any, tensor: Any) -> Array:
    tensor = tensor.detach().resolve_conj().resolve_neg()
    array = new_array(tuple(tensor.shape), jnp.dtype(_dtype(tensor)))
    bits = {1: "uint8", 2: "int16", 4: "int32", 8: "int64", 16: "complex128"}[
        array.itemsize
    ]  # which both know
    torch.from_numpy(array.view(bits)).copy_(tensor.view(getattr(torch, bits)))
    return array


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _fault(torch: Any, value: Any, limit: int) -> str:
    """Say what a value is that cannot be an array of a tree; an empty text for one that can."""
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return f"of type {type(value).__name__}"
    if value.layout is not torch.strided:
        return "a sparse array"
    if value.is_quantized:
        return "a quantised array"
    if value.device.type != "cpu":
        return f"an array without values, of the device {value.device.type}"
    if _dtype(value) not in _DTYPES:
        return f"of dtype {_dtype(value)}, which NumPy does not have"
    if value.nbytes > limit:
        return "an expanded array, larger than the whole file; in PyTorch, save its contiguous()"
    return ""


def _tie(tensor: Any, seen: dict[Any, str], name: str) -> dict[str, Any] | None:
    """Give the tie to an earlier tensor that is the same memory, seen the same way or transposed."""
    if not tensor.numel():
        return None
    place = (tensor.data_ptr(), tensor.dtype, tensor.is_conj(), tensor.is_neg())
    shape, strides = tuple(tensor.shape), tensor.stride()
    if (place, shape, strides) in seen:
        return {"target": seen[place, shape, strides], "transpose": False}
    if len(shape) == 2 and (place, shape[::-1], strides[::-1]) in seen:
        return {"target": seen[place, shape[::-1], strides[::-1]], "transpose": True}
    seen[place, shape, strides] = name
    return None


def _load(torch: Any, file: RawFile, entries: dict[str, int]) -> dict[str, Any]:
    """Load values by name; those of tensors stay in the file, which is mapped, until they are read."""
    file.check_in_place()  # torch opens the path once more
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of functions that it calls itself
            held = torch.load(str(file.path), weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # a damaged file makes torch raise whatever comes
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
        raise _damage(file.path, reason.splitlines()[0]) from error
    values: dict[str, Any] = {}
    sizes = sorted(entries.values())
    twice: list[str] = []
    for name, value in _named(file.path, held, entries[_PICKLE] * _NAME_SHARE):
        twice += [f"{name!r} names two values"] if name in values else []
        values[name] = value
        if _is_plain(torch, value) and not _is_stored(value.untyped_storage().nbytes(), sizes):
            raise _damage(file.path, f"{name} has more values than are stored")
    raise_faults(BadNameError, f"{str(file.path)!r} has names that no tree can have:", twice)
    return values


def _named(path: Path, held: Any, budget: int) -> Iterator[tuple[str, Any]]:
    """Yield each value of nested containers with its name; containers may hold themselves, without end."""
    if not isinstance(held, dict | list | tuple):
        what = f"holds one {type(held).__name__} without a name. In PyTorch, save a dict of tensors."
        raise ParamTreeError(f"{str(path)!r} {what}")
    left = [("", held)]
    while left:
        name, node = left.pop()
        budget -= len(name)
        if budget < 0:
            raise _damage(path, "its containers hold themselves")
        if isinstance(node, dict | list | tuple):
            items = node.items() if isinstance(node, dict) else enumerate(node)
            prefix = "" if node is held and not name else f"{name}/"
            left += [(f"{prefix}{key}", child) for key, child in items][::-1]
        else:
            yield name, node


def _is_plain(torch: Any, value: Any) -> bool:
    dense = isinstance(value, torch.Tensor) and value.layout is torch.strided
    return dense and value.device.type == "cpu" and not value.is_quantized


def _is_stored(size: int, sizes: list[int]) -> bool:
    """Tell whether one of the sorted sizes is this one, but for a part of a value that is left over there."""
    place = bisect_left(sizes, size)
    return not size or (place < len(sizes) and sizes[place] < size + _WIDEST)


def _check(file: RawFile) -> dict[str, int]:
    """Check that a file holds values alone, and no more than its own size; give the sizes of its entries."""
    path = file.path
    if file.bytes_at(0, min(1, file.size)) == _OLD[:1]:
        raise ParamTreeError(
            f"{str(path)!r} is a pickle, as PyTorch wrote it before version 1.6. Load it in PyTorch and save "
            "it again with torch.save, or as .safetensors."
        )
    entries = _entries(path)
    pickles = [entry.filename for entry in entries if entry.filename.endswith(_PICKLE)]
    if not pickles:
        raise _damage(path, f"it has no entry *{_PICKLE}")
    if any(entry.filename.endswith(_PROGRAM) for entry in entries):
        raise ParamTreeError(
            f"{str(path)!r} is a TorchScript program. In PyTorch, save torch.jit.load(file).state_dict() "
            "instead."
        )
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise _damage(path, f"its entry {entry.filename!r} is compressed")
        if entry.header_offset + entry.file_size > file.size:
            raise _damage(path, f"its entry {entry.filename!r} ends after the file")
    data: bytes = _of_zip(path, lambda archive: archive.read(pickles[0]))
    objects = sorted(name.replace(" ", ".") for name in _named_in(path, data) if not _VALUES.fullmatch(name))
    if objects:
        raise ParamTreeError(
            f"{str(path)!r} holds objects besides plain tensors, and they are not read: {listing(objects)}. "
            "In PyTorch, save model.state_dict() alone."
        )
    return {entry.filename: entry.file_size for entry in entries} | {_PICKLE: len(data)}


def _named_in(path: Path, data: bytes) -> set[str]:
    """Give what a pickle wants to import, and import nothing."""
    try:
        return {str(value) for code, value, _ in pickletools.genops(data) if code.name == "GLOBAL"}
    except Exception as error:  # a damaged pickle makes pickletools raise whatever comes
        raise _damage(path, str(error)) from error


def _entries(path: Path) -> list[zipfile.ZipInfo]:
    return _of_zip(path, lambda archive: archive.infolist())


def _of_zip(path: Path, get: Callable[[zipfile.ZipFile], Any]) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            return get(archive)
    except Exception as error:  # a damaged file makes zipfile raise whatever comes
        raise _damage(path, str(error) or type(error).__name__) from error


def _damage(path: Path, reason: str) -> ParamTreeError:
    line = " ".join(reason.split())
    return damaged(path, _FORMAT, line if len(line) <= _LONGEST else f"{line[:_LONGEST]}...")
