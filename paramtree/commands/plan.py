"""`paramtree plan`: what a load would do, before it is done."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from paramtree.checkpoint import LoadPlan, Row, plan_load
from paramtree.checkpoint.rows import count_text, ordered
from paramtree.commands import terminal
from paramtree.commands.command import Command, Outcome, add_file, add_json, add_rules
from paramtree.commands.files import open_file
from paramtree.commands.rules import read_casts, read_renames
from paramtree.commands.wording import in_options

_HEAD = ("status", "parameter", "shape and dtype", "note")
_QUIET = ("left out", "not selected")


def _configure(parser: ArgumentParser) -> None:
    add_file(parser, "file")
    add_file(parser, "like", "a file that holds the names, shapes and dtypes to be filled")
    add_rules(parser)
    parser.add_argument(
        "--select",
        metavar="SELECT",
        dest="chosen",
        help="a pattern: which parameters of LIKE are filled",
    )
    add_json(parser)


def _run(options: Namespace) -> Outcome:
    plan = plan_load(
        options.file,
        open_file(options.like).specs,
        select=options.chosen,
        rename=read_renames(options.rename, options.invert),
        cast=read_casts(options.cast),
    )
    code = 1 if plan.unresolved else 0
    if options.json:
        found = plan.to_dict()
        found["rows"] = [{**row, "note": in_options(row["note"])} for row in found["rows"]]
        known = {**found, "like": options.like, "resolved": not plan.unresolved}
        return Outcome(code, json.dumps(known, indent=2))
    return Outcome(code, "\n".join(plan_lines(plan, plan.rows)))


def plan_lines(plan: LoadPlan, rows: Sequence[Row]) -> list[str]:
    """Write some rows of a plan as a table, the unresolved ones first."""
    title = terminal.paint(f"{str(plan.file)!r}: {count_text(plan.rows) or 'no parameters'}", "bold")
    rows = ordered(rows)
    cells = [row._replace(note=in_options(row.note)).cells() for row in rows]
    colours = ["red" if not row.resolved else "dim" if row.status in _QUIET else "" for row in rows]
    return [title, *terminal.noted_table(_HEAD, cells, len(_HEAD), colours, note=3)]


PLAN = Command(
    name="plan",
    help="say what loading a file into the names of another would do",
    description="Put the parameters of FILE beside the names, shapes and dtypes of LIKE, and say what "
    "becomes of each. Only headers are read. The exit code is 0 where everything is "
    "resolved, 1 where something is not, and 2 for trouble.",
    example="paramtree plan torch.pt net.safetensors --rename torch --cast bfloat16",
    configure=_configure,
    run=_run,
)
