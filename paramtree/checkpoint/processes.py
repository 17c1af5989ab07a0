"""Several JAX processes that save together: all write, one puts what they wrote in its place."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from paramtree.checkpoint.atomic import replace_folder
from paramtree.errors import ParamTreeError

_LONGEST = 4096  # bytes of a path


def replace_folder_together(path: Path, write: Callable[[Path], None]) -> None:
    """Do what `replace_folder` does, from all processes: each writes into the same directory.

    The first process makes the directory, and moves it when all have written; the others return after that.

    Raises:
        ParamTreeError: where another process has failed.
        FileNotFoundError: where the directory around it does not exist.
    """
    if jax.process_count() == 1:
        replace_folder(path, write)
    else:
        agree(lambda: _lead(path, write) if jax.process_index() == 0 else _follow(write))


def _lead(path: Path, write: Callable[[Path], None]) -> None:
    told: list[Path] = []

    def write_told(place: Path) -> None:
        told.append(place)
        _tell(str(place))
        agree(lambda: write(place))

    try:
        replace_folder(path, write_told)
    finally:
        if not told:
            _tell("")


def _follow(write: Callable[[Path], None]) -> None:
    place = _tell("")
    if place:
        agree(lambda: write(Path(place)))


def agree(do: Callable[[], None]) -> None:
    """Do something in all processes, and wait for all: where one fails, all raise.

    Raises:
        ParamTreeError: where another process has failed.
    """
    if jax.process_count() == 1:
        do()
        return
    fault: Exception | None = None
    try:
        do()
    except Exception as error:
        fault = error
    failed = np.flatnonzero(multihost_utils.process_allgather(np.array(fault is not None)))
    if fault is not None:
        raise fault
    if failed.size:
        raise ParamTreeError(f"save: process {failed[0]} of JAX has failed, so nothing is replaced.")


def _tell(text: str) -> str:
    """Give the text of the first process to all."""
    sent = np.frombuffer(text.encode().ljust(_LONGEST, b"\0"), np.uint8)
    return multihost_utils.broadcast_one_to_all(sent).tobytes().rstrip(b"\0").decode()
