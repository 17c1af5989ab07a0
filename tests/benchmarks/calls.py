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

_IMPORTS = {
    "import jax": "jax",
    "import jax, paramtree": "paramtree",
    "import jax, haiku": "haiku",
    "import jax, flax.linen": "flax.linen",
    "import jax, equinox": "equinox",
    "import jax, flax.nnx": "flax.nnx",
}


def import_job(rounds=5):
    """Import in a fresh process: what each library adds to `import jax`."""
    # with byte code kept, as an installed package has it; the first run writes it
    cached = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(Path(pt.__file__).parent.parent)}
    ways = {way: name for way, name in _IMPORTS.items() if find_spec(name.split(".")[0])}
    times = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, name in ways.items():
            timed = f"start = now(); import jax, {name}; print(now() - start)"
            command = [sys.executable, "-c", f"from time import perf_counter as now; {timed}"]
            out = subprocess.run(command, capture_output=True, text=True, check=True, env=cached)
            times[way].append(float(out.stdout))
    return {way: median(each[1:]) for way, each in times.items()}


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
