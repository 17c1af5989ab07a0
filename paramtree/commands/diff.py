"""`paramtree diff`: what differs between two files."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from paramtree.commands import terminal
from paramtree.commands.command import Command, Outcome, add_file, add_json, add_select
from paramtree.commands.files import open_file
from paramtree.compare import Diff, Difference, diff
from paramtree.letters import printable

_COLOURS = {"only in a": "red", "only in b": "green", "renamed": "cyan"}


def _configure(parser: ArgumentParser) -> None:
    add_file(parser, "a")
    add_file(parser, "b", "another")
    add_select(parser)
    same = "values x and y are the same where abs(x - y) <= atol + rtol * max(abs(x), abs(y)) (default: 0)"
    for word, text in (("--rtol", same), ("--atol", "see --rtol (default: 0)")):
        parser.add_argument(word, metavar="X", type=_tolerance, default=0.0, help=text)
    add_json(parser)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ArgumentTypeError(f"{text!r} is no number from 0 up")
    return value


def _run(options: Namespace) -> Outcome:
    opened = (open_file(options.a), open_file(options.b))
    unread = tuple(line for each in opened for line in each.refusals(options.select))
    with terminal.progress("comparing"):
        found = diff(options.a, options.b, select=options.select, rtol=options.rtol, atol=options.atol)
    if options.json:
        text = json.dumps({"a": options.a, "b": options.b, **found.to_dict()}, indent=2)
    else:
        text = _text(options, found)
    return Outcome(2 if unread else int(bool(found)), text, unread)


def _text(options: Namespace, found: Diff) -> str:
    if not found:
        return found.headline()
    colours = [_colour(row) for row in found]
    lines = terminal.noted_table(*found.table(), 2, colours, note=1, implied="values")
    sides = (
        terminal.paint(f"a: {printable(options.a)}", "red"),
        terminal.paint(f"b: {printable(options.b)}", "green"),
    )
    return "\n".join([*sides, terminal.paint(found.headline(), "bold"), *lines])


def _colour(row: Difference) -> str:
    return _COLOURS.get(row.kinds[0], "yellow") if len(row.kinds) == 1 else "yellow"


DIFF = Command(
    name="diff",
    help="say what differs between two files",
    description="Say what differs between two files: names, shapes, dtypes, ties, fixed marks and values. "
    "The files may be of different formats. The exit code is 0 where nothing differs, 1 where something "
    "does, and 2 for trouble.",
    example="paramtree diff before.safetensors after.npz 'head/.*' --rtol 1e-5",
    configure=_configure,
    run=_run,
)
