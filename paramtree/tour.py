"""The tour: a session in the interpreter, typed and run before the reader's eyes."""

import os
import re
import sys
from importlib.resources import files
from importlib.util import find_spec
from typing import Any, TextIO

from paramtree.errors import ParamTreeError

_HEADING = re.compile(r"^(?:\d\.|Parameters).*$", re.MULTILINE)
_NEEDS = ("optax", "sklearn", "tqdm")


def run(out: TextIO | None = None) -> dict[str, Any]:
    """Print every step of `tour.txt` with its result, and return the names that the session defined.

    Raises:
        ParamTreeError: where a package of the `tour` extra is missing.
    """
    from doctest import DocTestParser, Example  # loads a debugger

    missing = [package for package in _NEEDS if find_spec(package) is None]
    if missing:
        raise ParamTreeError(
            f"the tour needs {', '.join(missing)}. Install them with: pip install 'paramtree-jax[tour]'"
        )
    stream: TextIO = out or sys.stdout
    bold, plain = ("\033[1m", "\033[0m") if _in_colour(stream) else ("", "")
    session: dict[str, Any] = {"__name__": "__tour__"}
    for part in DocTestParser().parse((files("paramtree") / "tour.txt").read_text("utf-8")):
        if isinstance(part, Example):
            print(f"{bold}{_prompted(part.source)}{plain}", file=stream, flush=True)
            exec(compile(part.source, "<tour>", "single"), session)
        elif part.strip():
            prose = _HEADING.sub(lambda found: f"{bold}{found[0]}{plain}", part.strip())
            print(f"\n{prose}\n", file=stream)
    return session


def _prompted(source: str) -> str:
    first, *rest = source.rstrip("\n").split("\n")
    return "\n".join([f">>> {first}", *(f"... {line}" for line in rest)])


def _in_colour(out: TextIO) -> bool:
    return out.isatty() and not os.environ.get("NO_COLOR")
