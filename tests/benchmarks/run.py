"""Measure paramtree against plain JAX and its peers in one interleaved run: `python tests/benchmarks/run.py`.

Prints one table: each job, each way to do it, its median time, and the ratio to the job's first row, which is
the yardstick. Times of one job are taken in turns, so that a busy machine slows all of its rows alike.
"""

import argparse
import json
from functools import partial
from pathlib import Path

from calls import dispatch_job, import_job, select_job, tied_dispatch_job
from checkpoints import load_job, plan_job, save_job
from looking import html_job, stats_job, summary_job
from sharding import devices_job, init_job, sharding_plan_job
from stepping import packed_job
from training import compile_job, depth_job, step_job

JOBS = {
    "select '.*weight' from 100,000 leaves, warm": partial(select_job, 100_000),
    "import, in a fresh process": import_job,
    "apply of the chapter's net": dispatch_job,
    "apply with a tie and a constant": tied_dispatch_job,
    "train a ResNet, one step, warm": partial(step_job, "resnet"),
    "train a Transformer, one step, warm": partial(step_job, "transformer", repeat=True),
    "compile the step of the ResNet, cold": partial(compile_job, "resnet"),
    "compile the step of the Transformer, cold": partial(compile_job, "transformer", repeat=True),
    "compile the step of 6 blocks, cold": partial(depth_job, 6, rounds=3),
    "compile the step of 24 blocks, cold": partial(depth_job, 24, rounds=3),
    "compile the step of 96 blocks, cold": partial(depth_job, 96, rounds=1),
    **{
        f"train {layers} layers of width {width} with AdamW, one step": partial(packed_job, layers, width)
        for width in (16, 64)
        for layers in (50, 200, 800)
    },
    "save 1 GiB in 1,000 leaves": save_job,
    "load 1 GiB in 1,000 leaves": load_job,
    "plan a load of 10,000 parameters with 20 rules": plan_job,
    "statistics of 2,000 leaves of 64 x 64, warm": partial(stats_job, 64),
    "statistics of 2,000 leaves of 256 x 256, warm": partial(stats_job, 256),
    "summary of 100,000 leaves": summary_job,
    "page of 5,000 parameters": html_job,
    "plan 405 billion parameters on 512 devices": sharding_plan_job,
    "initialise 1 GiB over two processes": init_job,
    "train data-parallel on host devices, one step": devices_job,
}


def main():
    """Run the jobs whose names contain the argument, print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("job", nargs="?", default="", help="a part of the names of the jobs to run")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    arguments = parser.parse_args()
    found = {}
    for name in (name for name in JOBS if arguments.job in name):
        print(f"\n{name}", flush=True)
        found[name] = JOBS[name]()
        yardstick = next(iter(found[name].values()), None)
        for way, seconds in found[name].items():
            print(f"  {way:42} {seconds * 1e3:10.4f} ms  {seconds / yardstick:7.3f}x", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
