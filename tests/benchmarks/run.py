"""Measure paramtree against plain JAX and its peers: `python tests/benchmarks/run.py [part of a job's name]`.

Prints one table: each job, each way to do it, its median time, and the ratio to the job's first row, which is
the yardstick. Times of one job are taken in turns, so that a busy machine slows all of its rows alike. With
--keep they are kept in results.json, from which --readme writes the README's table and --chart draws.
"""

import argparse
import gc
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import results
from calls import dispatch_job, import_job, tied_dispatch_job
from checkpoints import load_job, plan_job, save_job
from dispatching import dispatch_job as many_leaves_job
from initialising import init_job
from looking import diff_job, html_job, stats_job, summary_job
from memory import memory_job
from sharding import devices_job, sharding_plan_job
from sharding import init_job as placed_job
from stepping import packed_job
from training import compile_job, depth_job, step_job
from verbs import change_job, rebuild_job, select_job

_NETWORKS = {
    "MLP": "an MLP of {} layers",
    "Transformer": "a Transformer of {} blocks",
    "ResNet": "a ResNet-{}",
}


class Job(NamedTuple):
    """One job: its name, how it is run in full and quickly, what grows in its family, and the unit."""

    name: str
    run: Any
    quick: Any = None
    family: str = ""
    size: int = 0
    unit: str = "s"


def _jobs():
    for leaves in (100, 10_000, 100_000, 1_000_000):
        rounds = {100_000: 5, 1_000_000: 3}.get(leaves, 9)
        small = leaves == 100
        for cold in (False, True):
            heat = "cold" if cold else "warm"
            run = partial(select_job, leaves, rounds, cold)
            quick = partial(select_job, leaves, 2, cold) if small else None
            yield Job(
                f"select `.*weight` from {leaves:,} leaves, {heat}", run, quick, f"select, {heat}", leaves
            )
        quick = partial(change_job, leaves, 2) if small else None
        yield Job(f"change {leaves:,} leaves", partial(change_job, leaves, rounds), quick, "change", leaves)
        if leaves < 1_000_000:
            run, quick = (
                partial(rebuild_job, leaves, rounds),
                partial(rebuild_job, leaves, 2) if small else None,
            )
            name = f"split and rename {leaves:,} leaves, cold"
            yield Job(name, run, quick, "split and rename, cold", leaves)
    yield Job("import, in a fresh process", import_job, partial(import_job, 1))
    yield Job("apply of the chapter's net", dispatch_job, partial(dispatch_job, 2))
    yield Job("apply with a tie and a constant", tied_dispatch_job, partial(tied_dispatch_job, 2))
    for leaves in (10, 100, 1000, 10_000):
        for step, what in ((False, "apply"), (True, "step")):
            quick = partial(many_leaves_job, leaves, 2, step) if leaves == 10 else None
            run = partial(many_leaves_job, leaves, 15, step)
            yield Job(f"call a jitted {what} of {leaves:,} leaves", run, quick, f"call, {what}", leaves)
    for network, depth in (("MLP", 100), ("MLP", 400), ("MLP", 2000), ("Transformer", 48), ("ResNet", 50)):
        family = "initialise" if network == "MLP" else ""
        quick = partial(init_job, "MLP", 10, "eager") if depth == 100 else None
        run = partial(init_job, network, depth, "eager")
        yield Job(f"initialise {_NETWORKS[network].format(depth)}", run, quick, family, depth)
    for network, depth in (("MLP", 100), ("MLP", 400), ("Transformer", 48), ("ResNet", 50)):
        family = "initialise where they shall lie" if network == "MLP" else ""
        quick = partial(init_job, "MLP", 10, "jit") if depth == 100 else None
        name = f"initialise {_NETWORKS[network].format(depth)}, where it shall lie"
        yield Job(name, partial(init_job, network, depth, "jit"), quick, family, depth)
    for title, network, repeat in (("ResNet", "resnet", False), ("Transformer", "transformer", True)):
        yield Job(f"train a {title}, one step, warm", partial(step_job, network, repeat=repeat))
        yield Job(f"compile the step of the {title}, cold", partial(compile_job, network, repeat=repeat))
    for depth in (6, 24):
        run = partial(depth_job, depth)
        yield Job(f"compile the step of {depth} blocks, cold", run, None, "compile", depth)
    for layers, width in ((50, 16), (200, 16), (400, 16), (200, 64)):
        quick = partial(packed_job, 4, width, 2) if layers == 50 else None
        name = f"train {layers} layers of width {width} with AdamW, one step"
        yield Job(name, partial(packed_job, layers, width), quick, f"train, width {width}", layers)
    one = "train 200 layers of width 16 with AdamW, one step of one example"  # no product of matrices
    yield Job(one, partial(packed_job, 200, 16, batch=1))
    yield Job("save 1 GiB in 1,000 leaves", save_job)
    yield Job("load 1 GiB in 1,000 leaves", load_job)
    yield Job("plan a load of 10,000 parameters with 20 rules", plan_job, partial(plan_job, 1000))
    yield Job("statistics of 2,000 leaves of 64 x 64", partial(stats_job, 64), partial(stats_job, 8, 20))
    yield Job("statistics of 2,000 leaves of 256 x 256", partial(stats_job, 256, loop=False))
    yield Job("differences of 2,000 leaves of 64 x 64", diff_job, partial(diff_job, 20, 8))
    yield Job("summary of 100,000 leaves", summary_job, summary_job)
    yield Job("page of 5,000 parameters", html_job, html_job)
    yield Job("memory at the peak, beyond the tree and what is returned", memory_job, None, unit="B")
    yield Job("plan 405 billion parameters on 512 devices", sharding_plan_job, sharding_plan_job)
    yield Job("initialise 1 GiB over two processes", placed_job)
    yield Job("train data-parallel on host devices, one step", devices_job)


def _measure(jobs, quick, keep):
    kept = results.read() if keep else {}
    here = results.about_here()
    bar = _bar(jobs)
    for job in bar:
        gc.collect()
        gc.freeze()  # what the jobs before have left is not looked through again and again during this one
        start = time.perf_counter()
        found = (job.quick if quick else job.run)()
        kept[job.name] = {
            "family": job.family, "size": job.size, "unit": job.unit, "here": here, "ways": found,
        }  # fmt: skip
        results.print_job(job.name, kept[job.name], f"{time.perf_counter() - start:.0f} s")
        if keep:
            results.keep({each.name: kept[each.name] for each in _jobs() if each.name in kept})
    return kept


def _bar(jobs):
    try:
        from tqdm import tqdm
    except ImportError:
        return jobs
    return tqdm(jobs, unit="job", disable=not sys.stderr.isatty())


def main():
    """Run the jobs whose names contain the argument, and do with the figures what is asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("job", nargs="?", default="", help="a part of the names of the jobs to run")
    parser.add_argument(
        "--quick", action="store_true", help="run each job once and small, to see that it runs"
    )
    parser.add_argument("--keep", action="store_true", help="keep the figures in results.json")
    parser.add_argument("--readme", action="store_true", help="write the README's table from what is kept")
    parser.add_argument("--chart", type=Path, help="draw what is kept to this file, as bars and growth")
    options = parser.parse_args()
    if not (options.readme or options.chart) or options.job or options.keep:
        jobs = [job for job in _jobs() if options.job in job.name and (job.quick or not options.quick)]
        _measure(jobs, options.quick, options.keep and not options.quick)
    if options.readme:
        results.put_into_readme(results.read())
    if options.chart:
        results.draw(results.read(), options.chart)
    for (family, way), (exponent, _) in results.growth(results.read() if options.chart else {}).items():
        print(f"{family:24} {way:48} grows with the power {exponent:.2f}")


if __name__ == "__main__":
    main()
