"""Which format a file has: by its content when it is read, by its suffix when it is written."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from paramtree.checkpoint import equinox, hdf5, msgpack, mxnet, npz, orbax, safetensors, sharded, torch
from paramtree.checkpoint.atomic import replace_file, replace_set, whole_folder
from paramtree.checkpoint.layout import Leaves, Notes
from paramtree.checkpoint.stored import Stored
from paramtree.errors import ParamTreeError

_HEAD = 64  # bytes that the formats look at first


class Format(Protocol):
    """What the module of every format has."""

    SUFFIXES: tuple[str, ...]
    recognises: Callable[[Path, bytes], bool]
    open_file: Callable[[Path], Stored]


class Writer(Protocol):
    """What the module of a format has that is written too."""

    write: Callable[[Path, Leaves, Notes], None]


_READ: tuple[Any, ...] = (orbax, safetensors, sharded, torch, npz, mxnet, hdf5, msgpack, equinox)
_WRITTEN: tuple[Any, ...] = (safetensors, sharded, npz, mxnet, msgpack, orbax)


def open_stored(path: Path) -> Stored:
    """Read the headers of a file, whatever its format.

    Raises:
        FileNotFoundError: where there is none.
        ParamTreeError: where it is of no known format, or damaged.
    """
    path = whole_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r} to load.")
    return _format_of(path).open_file(path)


def _format_of(path: Path) -> Format:
    head = b""
    if not path.is_dir():
        with path.open("rb") as file:
            head = file.read(_HEAD)
    for form in _READ:
        if form.recognises(path, head):
            return form
    named = [form for form in _READ if _has_suffix(path, form.SUFFIXES)]
    if named and not path.is_dir():
        return named[0]  # which says what is wrong with the file
    what = "directory" if path.is_dir() else "file"
    begins = "" if path.is_dir() else f" It begins with {head[:16]!r}."
    raise ParamTreeError(f"{str(path)!r} is a {what} of no known format.{begins} {_readable()}")


def writer_of(path: Path) -> Any:
    """Give the format that a file's suffix names.

    Raises:
        ParamTreeError: where it names none, or one that is read only.
        IsADirectoryError: where a directory stands in the file's place.
    """
    form = next((form for form in _WRITTEN if _has_suffix(path, form.SUFFIXES)), None)
    if form is None:
        suffixes = [suffix for each in _WRITTEN for suffix in each.SUFFIXES]
        raise ParamTreeError(
            f"{str(path)!r} is of no format that is written. End its name in {_join(suffixes)}; torch, flax "
            "and others read .safetensors."
        )
    if path.is_dir() and form is not orbax:
        raise IsADirectoryError(f"{str(path)!r} is a directory. Name a file.")
    return form


def _has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    return any(path.name.lower().endswith(suffix) and path.name != suffix for suffix in suffixes)


def _readable() -> str:
    return f"Files that are read: {_join([suffix for form in _READ for suffix in form.SUFFIXES])}."


def _join(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def save_file(path: Path, leaves: Leaves, notes: Notes) -> None:
    """Write leaves and notes to a file of the format that its suffix names, whole or not at all.

    Raises:
        ParamTreeError: as `writer_of` does.
    """
    form = writer_of(path)
    if form is orbax:
        orbax.write(path, leaves, notes)
    elif form is sharded:
        replace_set(
            path,
            write=lambda place: sharded.write(place, leaves, notes),
            look=sharded.text_of,
            tidy=sharded.remove_old,
        )
    else:
        replace_file(path, lambda place: form.write(place, leaves, notes))
