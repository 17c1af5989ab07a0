"""Files as the commands see them: their headers as a tree of specs, and in words what cannot be read."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from paramtree.checkpoint.formats import open_stored
from paramtree.checkpoint.layout import join_parts, key_specs
from paramtree.checkpoint.rawfile import FileChangedError
from paramtree.checkpoint.stored import Stored
from paramtree.errors import ParamTreeError
from paramtree.select import freeze_select, matching_names


class Opened(NamedTuple):
    """A file whose headers are read.

    Attributes:
        path: as it was typed.
        stored: its headers.
        specs: the tree it holds: specs under its own names, with its ties and fixed marks.
    """

    path: str
    stored: Stored
    specs: dict[str, Any]

    def refusals(self, select: str | None = None) -> tuple[str, ...]:
        """Say what the file holds besides, which no tree can hold."""
        refused = self.stored.refused
        chosen = refused if select is None else matching_names(freeze_select(select), refused)
        return tuple(f"{self.path!r}: {name!r} cannot be read: it is {refused[name]}." for name in chosen)


def open_file(path: str) -> Opened:
    """Read the headers of a file.

    Raises:
        FileNotFoundError: where there is none.
        ParamTreeError: where it is of no known format, or damaged.
        BadNameError: where its names cannot be nested.
    """
    if not path:
        raise ParamTreeError("the path of the file is empty: a variable of the shell that is not set?")
    with _naming(path):
        stored = open_stored(Path(path))
        specs = join_parts(stored.specs | key_specs(stored.specs, stored.notes), stored.notes)
    return Opened(path, stored, specs)


def bytes_of(spec: Any) -> int:
    """Give the size of the values of a spec; a key of `jax.random` counts as the words that it holds."""
    return math.prod(spec.shape) * spec.dtype.itemsize


@contextmanager
def _naming(path: str) -> Generator[None]:
    """Name the file in an error about its names and notes."""
    try:
        yield
    except ParamTreeError as error:
        if repr(str(Path(path))) in str(error) or isinstance(error, FileChangedError):
            raise
        raise type(error)(f"{path!r}: {str(error).removeprefix('load: ')}") from error
