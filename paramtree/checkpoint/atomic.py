"""Replace a file in one step."""

import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, flush it to the disk, and move it to `path` in one step.

    Whatever goes wrong before the move, `path` is left as it was. A link is followed, and stays a link.

    Raises:
        FileNotFoundError: where the directory does not exist.
    """
    path = path.resolve()  # else the move would put the file in place of a link to it
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {str(path.parent)!r} to save in. Make it first.")
    beside = path.with_name(f".{uuid4().hex}.tmp")
    try:
        beside.touch(exist_ok=False)
        mode = beside.stat().st_mode  # what the umask says; the safetensors library makes its file 0600
        write(beside)
        beside.chmod(mode)
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
