"""The command line: `paramtree`, or `python -m paramtree`."""

import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module

from paramtree.commands.command import Command
from paramtree.commands.convert import CONVERT
from paramtree.commands.diff import DIFF
from paramtree.commands.plan import PLAN
from paramtree.commands.show import SHOW
from paramtree.commands.stats import STATS
from paramtree.commands.tour import TOUR
from paramtree.commands.wording import in_options
from paramtree.errors import NoMatchError, ParamTreeError, did_you_mean
from paramtree.letters import printable

_COMMANDS: dict[str, Command] = {each.name: each for each in (SHOW, STATS, DIFF, PLAN, CONVERT, TOUR)}
_TROUBLE = 2
_INTERRUPTED = 130  # what shells say of a program that Ctrl-C stopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    Args:
        arguments: what was typed after `paramtree`; the arguments of this process, if left out.
    """
    if sys.stdout is None:  # as Python has it where the shell closed it
        return _tell("the standard output is closed.", _TROUBLE)
    try:
        options = _parse(arguments)
        return _run(_COMMANDS[options.command], options)
    except SystemExit:  # of --help, and bad usage
        _write("")
        raise
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser("paramtree", description="Look at model parameters, by name.", allow_abbrev=False)
    version = import_module("paramtree").__version__
    parser.add_argument("--version", action="version", version=f"paramtree {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    parsers: dict[str, ArgumentParser] = {}
    for command in _COMMANDS.values():
        parsers[command.name] = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=f"example: {command.example}",
            allow_abbrev=False,
        )
        command.configure(parsers[command.name])
    options, rest = parser.parse_known_args(arguments)
    if rest:
        _take_rest(parsers[options.command], options, rest)
    return options


def _take_rest(parser: ArgumentParser, options: Namespace, rest: Sequence[str]) -> None:
    """Take a SELECT that stands behind an option, which argparse does not find; refuse all else."""
    spare = [text for text in rest if not text.startswith("-")]
    if spare and getattr(options, "select", "") is None:
        options.select = spare.pop(0)
    wrong = [text for text in rest if text.startswith("-")]
    if wrong or spare:
        known = re.findall(r"--\w+", parser.format_usage())
        hints = "".join(did_you_mean(text.partition("=")[0], known) for text in wrong[:1])
        parser.error(f"unrecognized arguments: {' '.join([*wrong, *spare])}.{hints}")


def _run(command: Command, options: Namespace) -> int:
    try:
        outcome = command.run(options)
    except ParamTreeError as error:
        code = command.nothing_found if isinstance(error, NoMatchError) else _TROUBLE
        return _tell(in_options(str(error)), code)
    except BrokenPipeError:
        return _leave_quietly()
    except OSError as error:
        return _tell(_os_text(error), _TROUBLE)
    except MemoryError as error:
        return _tell(f"there is not enough memory. {error}".rstrip(), _TROUBLE)
    for line in outcome.remarks:
        _tell(line)
    return _write(outcome.text and f"{outcome.text}\n") or outcome.code


def _tell(text: str, code: int = 0) -> int:
    """Print a message on the standard error, and give the code back."""
    lines = map(printable, f"paramtree: {text}".split("\n"))
    print("\n".join(lines), file=sys.stderr)
    return code


def _os_text(error: OSError) -> str:
    if error.strerror is None or error.filename is None:
        return str(error)  # our own, which say more
    return f"{str(error.filename)!r}: {error.strerror}."


def _write(text: str) -> int:
    """Write to the standard output, and give the exit code that this asks for: 0 where all is well.

    A reader that has seen enough, such as head, is no trouble: the exit code stays the command's own.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        return _leave_quietly()
    except OSError as error:  # a full disk
        _leave_quietly()
        return _tell(f"the output cannot be written: {error.strerror}.", _TROUBLE)
    return 0


def _leave_quietly() -> int:
    """Send what is still buffered nowhere: else Python would try to write it at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
