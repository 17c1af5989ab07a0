"""Jobs of paramtree's own verbs and calls, beside plain JAX."""

import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved

import paramtree as pt
from paramtree import nn


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
