"""Measure paramtree against plain JAX and its peers in one interleaved run: `python tests/benchmarks/run.py`.

Prints one table: each job, each way to do it, its median time, and the ratio to the job's first row, which is
the yardstick. Times of one job are taken in turns, so that a busy machine slows all of its rows alike.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

import paramtree as pt
from paramtree import nn


def interleaved(ways, rounds, inner=1):
    """Time each way `inner` times in each round, taking turns; give the median seconds of one call."""
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            start = time.perf_counter()
            for _ in range(inner):
                call()
            times[name].append((time.perf_counter() - start) / inner)
    return {name: median(each) for name, each in times.items()}


def select_job(leaves):
    """Select by regular expression from a nested dict, warm."""
    tree = {
        f"block{block}": {
            f"layer{layer}": {"weight": np.zeros(1), "bias": np.zeros(1)} for layer in range(50)
        }
        for block in range(leaves // 100)
    }
    ways = {"jax.tree.flatten": lambda: jax.tree.flatten(tree)}
    ways["paramtree.collect_params"] = lambda: pt.collect_params(tree, ".*weight")
    pattern = re.compile(".*weight")

    def by_path():
        pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
        named = ((jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in pairs)
        return {name: leaf for name, leaf in named if pattern.fullmatch(name)}

    try:
        from flax.traverse_util import flatten_dict
    except ImportError:
        print("flax is not installed: its row is left out", file=sys.stderr)
    else:
        ways["flax flatten_dict + re"] = lambda: {
            name: leaf for name, leaf in flatten_dict(tree, sep="/").items() if pattern.fullmatch(name)
        }
    ways["jax tree_flatten_with_path + keystr + re"] = by_path
    assert len({len(call()) for name, call in ways.items() if name != "jax.tree.flatten"}) == 1
    return interleaved(ways, 15)


def import_job():
    """Import in a fresh process: what paramtree adds to `import jax`."""
    code = (
        "from time import perf_counter as now; start = now(); import jax; middle = now(); import paramtree; "
        "print(middle - start, now() - start)"
    )
    # with byte code kept, as an installed package has it; the first run writes it
    cached = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(Path(pt.__file__).parent.parent)}
    runs = []
    for _ in range(22):
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=cached
        )
        runs.append([float(text) for text in out.stdout.split()])
    alone, both = (median(column) for column in zip(*runs[1:], strict=True))
    return {"import jax": alone, "import jax, paramtree": both}


def dispatch_job():
    """Call the chapter's net, jitted, warm: against a hand-written function of the same dict."""
    net = nn.Sequential(nn.Dense(256, activation="relu"), nn.Dense(10))
    x = jax.random.uniform(jax.random.key(1), (2, 20))
    params = net.init(jax.random.key(0), x)

    def by_hand(params, x):
        first, second = params["dense0"], params["dense1"]
        hidden = jax.nn.relu(x @ first["weight"].T + first["bias"][None])
        return hidden @ second["weight"].T + second["bias"][None]

    hand, ours = jax.jit(by_hand), jax.jit(net.apply)
    assert jnp.array_equal(hand(params, x), ours(params, x))
    ways = {
        "hand-written, jitted": lambda: hand(params, x).block_until_ready(),
        "jax.jit(net.apply)": lambda: ours(params, x).block_until_ready(),
    }
    return interleaved(ways, 41, inner=200)


def tied_dispatch_job():
    """The same with a tied layer and a constant: against a hand-written function of a plain dict."""
    shared = nn.Dense(64, activation="relu", name="shared")
    net = nn.Sequential(
        nn.Dense(64, activation="relu"), shared, nn.Dense(64, activation="relu", params=shared)
    )
    x = jax.random.uniform(jax.random.key(1), (2, 20))
    params = pt.freeze(net.init(jax.random.key(0), x), "dense0/bias")
    plain = pt.unfreeze({key: block for key, block in params.items() if key != "dense1"})

    def by_hand(params, x):
        for key in ("dense0", "shared", "shared"):
            x = jax.nn.relu(x @ params[key]["weight"].T + params[key]["bias"][None])
        return x

    hand, ours = jax.jit(by_hand), jax.jit(net.apply)
    ways = {
        "hand-written, jitted": lambda: hand(plain, x).block_until_ready(),
        "jax.jit(net.apply)": lambda: ours(params, x).block_until_ready(),
    }
    return interleaved(ways, 41, inner=200)


JOBS = {
    "select '.*weight' from 100,000 leaves, warm": lambda: select_job(100_000),
    "import, in a fresh process": import_job,
    "apply of the chapter's net": dispatch_job,
    "apply with a tie and a constant": tied_dispatch_job,
}


def main():
    """Run the jobs whose names contain the argument, print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("job", nargs="?", default="", help="a part of the names of the jobs to run")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    arguments = parser.parse_args()
    found = {name: job() for name, job in JOBS.items() if arguments.job in name}
    for name, rows in found.items():
        yardstick = next(iter(rows.values()))
        print(f"\n{name}")
        for way, seconds in rows.items():
            print(f"  {way:42} {seconds * 1e3:10.4f} ms  {seconds / yardstick:7.3f}x")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
