"""Replace a file in one step."""

import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, flush it to the disk, and move it to `path` in one step.

    Whatever goes wrong before the move, `path` is left as it was.
    """
    beside = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        write(beside)
        _flush(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
