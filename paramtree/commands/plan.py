"""`paramtree plan`: what a load would do, before it is done."""

import json
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from paramtree.checkpoint import LoadPlan, Row, plan_load
from paramtree.checkpoint.rows import count_text, ordered
from paramtree.commands import terminal
from paramtree.commands.command import Command, Outcome, add_file, add_json, add_rules
from paramtree.commands.files import open_file
from paramtree.commands.rules import read_casts, read_renames

_HEAD = ("status", "parameter", "shape and dtype", "note")
_QUIET = ("left out", "not selected")


def _configure(parser: ArgumentParser) -> None:
    add_file(parser, "file")
    add_file(parser, "like", "a file that holds the names, shapes and dtypes to be filled")
    add_rules(parser)
    parser.add_argument(
        "--select", metavar="SELECT", help="a regular expression: which parameters of LIKE are filled"
    )
    add_json(parser)


def _run(options: Namespace) -> Outcome:
    plan = plan_load(
        options.file,
        open_file(options.like).specs,
        select=options.select,
        rename=read_renames(options.rename, options.invert),
        cast=read_casts(options.cast),
    )
    code = 1 if plan.unresolved else 0
    if options.json:
        known = {**plan.to_dict(), "like": options.like, "resolved": not plan.unresolved}
        return Outcome(code, json.dumps(known, indent=2))
    return Outcome(code, "\n".join(plan_lines(plan, plan.rows)))


def plan_lines(plan: LoadPlan, rows: Sequence[Row]) -> list[str]:
    """Write some rows of a plan as a table, the unresolved ones first."""
    title = terminal.paint(f"{str(plan.file)!r}: {count_text(plan.rows) or 'no parameters'}", "bold")
    rows = ordered(rows)
    cells = [row.cells() for row in rows]
    colours = ["red" if not row.resolved else "dim" if row.status in _QUIET else "" for row in rows]
    whole = terminal.table(_HEAD, cells, len(_HEAD), colours)
    if _fits(cells):
        return [title, *whole]
    # a note that is cut in its middle says nothing: it gets lines of its own
    short = terminal.table(_HEAD[:3], [row[:3] for row in cells], 3, colours)
    lines = [title, short[0]]
    for line, row, colour in zip(short[1:], cells, colours, strict=True):
        note = textwrap.wrap(
            terminal.printable(row[3]), terminal.width(), initial_indent="    ", subsequent_indent="    "
        )
        lines += [line, *(terminal.paint(each, colour) for each in note)]
    return lines


def _fits(cells: Sequence[Sequence[str]]) -> bool:
    widths = [max(map(len, column)) for column in zip(_HEAD, *cells, strict=True)]
    return sum(widths) + 2 * (len(widths) - 1) <= terminal.width()


PLAN = Command(
    name="plan",
    help="say what loading a file into the names of another would do",
    description="Put the parameters of FILE beside the names, shapes and dtypes of LIKE, and say what "
    "becomes of each, as pt.plan_load does. Only headers are read. The exit code is 0 where everything is "
    "resolved, 1 where something is not, and 2 for trouble.",
    example="paramtree plan torch.pt net.safetensors --rename torch --cast bfloat16",
    configure=_configure,
    run=_run,
)
