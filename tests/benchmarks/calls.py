"""Jobs of paramtree's own verbs and calls, beside plain JAX."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
from timing import interleaved

import paramtree as pt
from paramtree import nn

_IMPORTED = ("paramtree", "haiku", "flax.linen", "equinox", "flax.nnx")


def import_job(rounds=5):
    """Import in fresh processes: JAX, and what each library adds to it, timed in the same process."""
    # with byte code kept, as an installed package has it; the first run writes it
    cached = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(Path(pt.__file__).parent.parent)}
    alone, added = [], {name: [] for name in _IMPORTED if find_spec(name.split(".")[0])}
    for warm in range(rounds + 1):
        for name, times in added.items():
            timed = f"start = now(); import jax; mid = now(); import {name}; print(mid - start, now() - mid)"
            command = [sys.executable, "-c", f"from time import perf_counter as now; {timed}"]
            out = subprocess.run(command, capture_output=True, text=True, check=True, env=cached).stdout
            if warm:
                alone.append(float(out.split()[0]))
                times.append(float(out.split()[1]))
    found = {f"import jax, {name}": median(alone) + median(times) for name, times in added.items()}
    return {"import jax": median(alone), **found}


def dispatch_job(rounds=41):
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
    return interleaved(ways, rounds, inner=200)


def tied_dispatch_job(rounds=41):
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
    return interleaved(ways, rounds, inner=200)
