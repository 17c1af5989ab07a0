"""`paramtree show`: what a file holds, from its headers alone."""

import json
from argparse import ArgumentParser, Namespace

from paramtree.commands import terminal
from paramtree.commands.command import Command, Outcome, add_file, add_json, add_select
from paramtree.commands.files import open_file
from paramtree.report.summary import summary


def _configure(parser: ArgumentParser) -> None:
    add_file(parser, "file")
    add_select(parser)
    add_json(parser)


def _run(options: Namespace) -> Outcome:
    opened = open_file(options.file)
    found = summary(opened.specs, select=options.select)
    unread = opened.refusals(options.select)
    if options.json:
        return Outcome(0, json.dumps({"file": options.file, **found.to_dict()}, indent=2), unread)
    colours = ["dim" if row.kind == "tie" else "" for row in found.rows]
    return Outcome(0, terminal.report_text(found, colours), unread)


SHOW = Command(
    name="show",
    help="list what a file holds: names, shapes, dtypes, sizes, ties",
    description="List the parameters of a file: names, shapes, dtypes, sizes, ties, fixed marks. Only "
    "headers are read. The exit code is 0, 1 where SELECT hits nothing, and 2 for trouble.",
    example="paramtree show net.safetensors 'encoder/.*'",
    configure=_configure,
    run=_run,
    nothing_found=1,
)
