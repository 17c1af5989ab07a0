"""`paramtree stats`: what the values of a file are, in numbers."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import jax

from paramtree.checkpoint.stored import ReadOne
from paramtree.commands import terminal
from paramtree.commands.command import Command, Outcome, add_file, add_json, add_select
from paramtree.commands.files import Opened, bytes_of, open_file
from paramtree.report.stats import ParamStats, Stats, stats
from paramtree.select import apply_select

_AT_ONCE = 64_000_000  # bytes measured at a time, unless one parameter has more


def _configure(parser: ArgumentParser) -> None:
    add_file(parser, "file")
    add_select(parser)
    add_json(parser)


def _run(options: Namespace) -> Outcome:
    opened = open_file(options.file)
    chosen = apply_select(opened.specs, options.select)
    names = [chosen.structure.names[place] for place in chosen.places]
    found = _measure(opened, names)
    unread = opened.refusals(options.select)
    if options.json:
        return Outcome(0, json.dumps({"file": options.file, **found.to_dict()}, indent=2), unread)
    colours = ["red" if row.values.nan or row.values.infinite else "" for row in found]
    return Outcome(0, terminal.report_text(found, colours), unread)


def _measure(opened: Opened, names: Sequence[str]) -> Stats:
    """Read and measure some parameters at a time, so that a file may be larger than the memory."""
    sizes = {name: bytes_of(opened.stored.specs[name]) for name in names}
    rows: dict[str, ParamStats] = {}
    with opened.stored.reading() as read, terminal.progress("reading", sum(sizes.values())) as bar:
        for part in _parts(sizes):
            rows |= {row.name: row for row in stats({name: _value(opened, name, read) for name in part})}
            bar.add(sum(sizes[name] for name in part))
    return Stats(tuple(rows[name] for name in names))


def _parts(sizes: Mapping[str, int]) -> Generator[list[str]]:
    """Cut names into those that are measured together: small ones, of which any mixture is compiled anew."""
    part: list[str] = []
    held = 0
    for name in sorted(sizes, key=lambda name: sizes[name]):
        if part and held + sizes[name] > _AT_ONCE:
            yield part
            part, held = [], 0
        part.append(name)
        held += sizes[name]
    if part:
        yield part


def _value(opened: Opened, name: str, read: ReadOne) -> Any:
    kind = opened.stored.notes.get("keys", {}).get(name)
    if kind is None:
        return read(name)
    return jax.random.wrap_key_data(jax.device_put(read(name)), impl=kind)


STATS = Command(
    name="stats",
    help="say what the values of a file are: mean, range, zeros, NaN, ...",
    description="Read the values of a file, and say of each parameter its mean, standard deviation, range, "
    "and how many elements are zero, NaN, infinite or subnormal. Some are in memory at a time, or one alone "
    "where it is large. The exit code is 0, 1 where SELECT hits nothing, and 2 for trouble.",
    example="paramtree stats net.safetensors '.*bias'",
    configure=_configure,
    run=_run,
    nothing_found=1,
)
