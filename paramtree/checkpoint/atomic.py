"""Replace a file, or a directory: a crash at any moment leaves the old one whole, or the new one.

A saver writes in a hidden directory of its own beside the place, and holds a lock on it while it lives. The
next save of the same place removes those that killed savers left behind: nobody holds a lock on them.
"""

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from uuid import uuid4

if sys.platform != "win32":
    import fcntl

_LONGEST = 200  # bytes of a name that leave room for what is added, in the 255 that file systems allow


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, flush it to the disk, and move it to `path` in one step.

    Whatever goes wrong before the move, `path` is left as it was. A link is followed, and stays a link.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_file(Path(folder, "x.txt"), lambda place: place.write_text("whole") and None)
    ...     Path(folder, "x.txt").read_text()
    'whole'

    Raises:
        FileNotFoundError: where the directory does not exist.
    """
    path = path.resolve()  # else the move would put the file in place of a link to it
    with _workplace(path) as folder:
        made = folder / path.name
        made.touch()
        mode = made.stat().st_mode  # what the umask says; the safetensors library makes its file 0600
        write(made)
        made.chmod(mode)
        _flush(made)
        os.replace(made, path)
        _flush(path.parent)


def replace_set(
    path: Path, write: Callable[[Path], None], look: Callable[[Path], str], tidy: Callable[[Path, str], None]
) -> None:
    """Let `write` make a file and others that it names, and put the set in the place of an older one.

    The others have names of their own, so they are moved first, and the file that names them last.

    Args:
        path: the file that names the others.
        write: makes the set, the others beside the path it is given.
        look: gives what `tidy` must know of the older set, before it is replaced.
        tidy: removes what is left of older sets, once the new one is in its place.

    Raises:
        FileNotFoundError: where the directory does not exist.
    """
    path = path.resolve()
    with _workplace(path) as folder:
        made = folder / path.name
        write(made)
        others = [each for each in folder.iterdir() if each != made]
        for each in [*others, made]:
            _flush(each)
        with _locked(path.parent), contextlib.ExitStack() as moved:  # of two savers, one after the other
            old = look(path)
            for each in others:
                os.replace(each, path.with_name(each.name))
                moved.callback(path.with_name(each.name).unlink)
            _flush(path.parent)
            os.replace(made, path)
            moved.pop_all()
            _flush(path.parent)
            tidy(path, old)


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a directory beside `path`, flush it to the disk, and put it in the place of `path`.

    No portable call replaces a directory in one step: the old one is moved aside first.
    A crash between the two moves leaves it there, where `whole_folder` finds it.

    Raises:
        FileNotFoundError: where the directory around it does not exist.
    """
    path = path.resolve()
    with _workplace(path) as folder:
        made = folder / "made"  # short: Orbax adds to it
        write(made)
        for each in [*made.rglob("*"), made]:
            _flush(each)
        with _locked(path.parent):  # of two savers, one after the other
            _swap(made, path)
        _flush(path.parent)


def whole_folder(path: Path) -> Path:
    """Give `path`, or where it was moved when a crash stopped `replace_folder` between its two moves."""
    aside = _aside(path.resolve())
    return aside if aside.is_dir() and not path.exists() else path


def _swap(made: Path, path: Path) -> None:
    aside = _aside(path)
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
    try:
        os.replace(made, path)
    except OSError:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{_short(path.name)}.old")


def _short(name: str) -> str:
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST else hashlib.sha256(encoded).hexdigest()


@contextlib.contextmanager
def _workplace(path: Path) -> Generator[Path]:
    """Give a new directory beside `path`: locked until it is left, and then removed."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {str(path.parent)!r} to save in. Make it first.")
    _sweep(path)
    with contextlib.ExitStack() as stack:
        while True:
            folder = path.with_name(f".{_short(path.name)}.{uuid4().hex}.partial")
            folder.mkdir()
            stack.enter_context(_locked(folder))
            if folder.is_dir():  # else a sweep of another saver was faster than the lock
                break
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _sweep(path: Path) -> None:
    """Remove what killed savers of `path` left behind."""
    partial = re.compile(rf"\.{re.escape(_short(path.name))}\.[0-9a-f]{{32}}\.partial")
    for name in filter(partial.fullmatch, os.listdir(path.parent)):
        with _locked(path.with_name(name), wait=False) as alone:
            if alone:
                shutil.rmtree(path.with_name(name), ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Generator[bool]:
    """Hold the lock of a directory, and tell whether it is held: not every system, or disk, has locks."""
    if sys.platform == "win32":
        yield False
        return
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            held = False
        else:
            held = True
        yield held


def _flush(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():  # there, directories cannot be opened
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
