"""`paramtree convert`: a file written in another format, or under other names."""

import json
import os
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from paramtree.checkpoint import LoadPlan, orbax, plan_load, save
from paramtree.checkpoint.export import Pending, rename_leaves
from paramtree.checkpoint.formats import open_stored, save_file, writer_of
from paramtree.checkpoint.layout import Leaves, host_array, split_parts
from paramtree.checkpoint.rows import count_text
from paramtree.checkpoint.stored import Array
from paramtree.commands import terminal
from paramtree.commands.command import Command, Outcome, add_file, add_json, add_rules
from paramtree.commands.files import bytes_of, open_file
from paramtree.commands.plan import plan_lines
from paramtree.commands.rules import read_casts, read_renames
from paramtree.errors import MismatchError, ParamTreeError
from paramtree.report.cells import bytes_text

_WRITTEN = ("loaded", "renamed", "cast")
_NOTHING = jax.ShapeDtypeStruct((), bool)


def _configure(parser: ArgumentParser) -> None:
    add_file(parser, "in")
    add_file(parser, "out", "where to: .safetensors or its .index.json, .npz, .params, .msgpack or .orbax")
    add_rules(parser)
    parser.add_argument(
        "--like",
        metavar="FILE",
        help="a file whose names, dtypes and ties the result gets; needed for files without names (.eqx). "
        "All values are then held in memory at once",
    )
    add_json(parser)
    parser.add_argument("--force", action="store_true", help="replace OUT where it exists")


def _run(options: Namespace) -> Outcome:
    source, out = getattr(options, "in"), Path(options.out)
    writer_of(out)
    if os.path.lexists(out) and not options.force:
        raise ParamTreeError(f"{options.out!r} exists. Pass --force to replace it.")
    rename, cast = read_renames(options.rename, options.invert), read_casts(options.cast)
    like = open_file(options.like).specs if options.like else None
    plan = plan_load(source, like, rename=rename, cast=cast)
    if plan.unresolved:
        table = "\n".join(plan_lines(plan, plan.unresolved))
        raise MismatchError(f"nothing is written, as not everything is resolved:\n{table}")
    written = [row for row in plan.rows if row.name and row.status in _WRITTEN]
    size = sum(bytes_of(row.spec) for row in written)
    with terminal.progress("converting", size if like is None else 0) as bar:
        if like is None:
            _write_one_by_one(source, out, rename, plan, bar)
        else:
            save(plan.params(), out)
    if options.json:
        done = {"in": source, "out": options.out, "parameters": len(written), "bytes": size}
        return Outcome(0, json.dumps(done, indent=2))
    count = f"{len(written):,} parameter{'' if len(written) == 1 else 's'}"
    return Outcome(0, f"wrote {options.out!r}: {count}, {bytes_text(size)} ({count_text(plan.rows)})")


def _write_one_by_one(source: str, out: Path, rename: Any, plan: LoadPlan, bar: terminal.Bar) -> None:
    """Write what a plan found, with the memory of one parameter."""
    opened = open_stored(Path(source))  # its names need no nesting, as rules may give it others
    dtypes = {row.name: row.spec.dtype for row in plan.rows if row.status == "cast"}
    with opened.reading() as read:
        # what cannot be read is left out by rules, as the plan is resolved: to these it is shown
        specs = {**opened.specs, **dict.fromkeys(opened.refused, _NOTHING)}
        leaves: Leaves = {name: Pending(spec, partial(read, name)) for name, spec in specs.items()}
        notes = split_parts({})[1] | opened.notes
        if rename is not None:
            leaves, notes = rename_leaves(leaves, notes, rename)
        leaves = {name: _cast(leaf, dtypes.get(name, leaf.dtype), bar) for name, leaf in leaves.items()}
        if writer_of(out) is orbax:  # which takes the whole tree at once
            leaves = {name: host_array(leaf) for name, leaf in leaves.items()}
        save_file(out, leaves, notes)


def _cast(leaf: Any, dtype: Any, bar: terminal.Bar) -> Pending:
    def make() -> Array:
        values = host_array(leaf).astype(dtype, copy=False)
        bar.add(values.nbytes)
        return values

    return Pending(jax.ShapeDtypeStruct(leaf.shape, dtype), make)


CONVERT = Command(
    name="convert",
    help="write a file in another format, or under other names",
    description="Write the parameters of IN to OUT: in the format that its suffix says, and under other "
    "names and in other dtypes if so asked. Nothing is written where anything is left unresolved; see the "
    "plan command. One parameter is held in memory at a time, but for .orbax directories, which are written "
    "from the whole tree.",
    example="paramtree convert torch.pt net.safetensors --rename torch --cast bfloat16",
    configure=_configure,
    run=_run,
)
