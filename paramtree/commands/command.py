"""What a command is, and the arguments that several of them take."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NamedTuple

_READ = (
    "a file: .safetensors or the index of its shards, .npz, .pt, .bin, .h5, .keras, .params, .msgpack, .eqx; "
    "or an Orbax directory. Its content says which"
)


class Outcome(NamedTuple):
    """What a command has to say.

    Attributes:
        code: its exit code, but for errors that it raises.
        text: for the standard output.
        remarks: lines for the standard error.
    """

    code: int
    text: str = ""
    remarks: tuple[str, ...] = ()


class Command(NamedTuple):
    """One command of the command line.

    Attributes:
        name: what is typed.
        help: one line for the list of all commands.
        description: what its own help says first.
        example: what its own help says last.
        configure: adds its arguments to a parser.
        run: does it.
        nothing_found: its exit code where a select hits nothing.
    """

    name: str
    help: str
    description: str
    example: str
    configure: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], Outcome]
    nothing_found: int = 2


def add_file(parser: ArgumentParser, name: str, text: str = "") -> None:
    """Add the argument that names a file or directory to read."""
    parser.add_argument(name, metavar=name.upper(), help=text or _READ)


def add_select(parser: ArgumentParser) -> None:
    """Add the argument that says which parameters are meant."""
    parser.add_argument(
        "select",
        metavar="SELECT",
        nargs="?",
        help="a regular expression that must match the whole name, such as '.*bias' (default: all)",
    )


def add_json(parser: ArgumentParser) -> None:
    """Add the option that writes for programs."""
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")


def add_rules(parser: ArgumentParser) -> None:
    """Add the options that say what becomes of names and dtypes on the way."""
    parser.add_argument(
        "--rename",
        metavar="RULE",
        action="append",
        help="PATTERN=TEMPLATE, as in Python's re.sub, where PATTERN must match the whole name; 'PATTERN=' "
        "leaves parameters out; torch, linen, nnx or haiku is a ready set for the names of that library, "
        "whose blocks PATTERN=TEMPLATE then renames. May be repeated: the first that matches wins",
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="use the rules of --rename backwards: what reads another library's names then writes them",
    )
    parser.add_argument(
        "--cast",
        metavar="RULE",
        action="append",
        help="DTYPE, such as bfloat16, for all parameters of its kind; PATTERN=DTYPE for some of them, by "
        "their new names. May be repeated: the first that matches wins",
    )
