"""Jobs of initialisation: a deep MLP in each library, each in a fresh process, eager and under `jit`.

As a program, `python initialising.py LIBRARY LAYERS WAY`, it prints the seconds that one of them took.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import paramtree as pt

WIDTH = 64
LIBRARIES = {
    "paramtree": "paramtree", "linen": "flax", "nnx": "flax", "haiku": "haiku", "equinox": "equinox",
}  # fmt: skip
_TITLES = {
    "paramtree": "net.init",
    "linen": "Flax linen",
    "nnx": "Flax NNX",
    "haiku": "Haiku",
    "equinox": "Equinox",
}
_PLACED = "net.init(..., shardings=)"


def init_job(layers, way):
    """Initialise in a fresh process: the time of the first call, compilation included, imports not."""
    found = {}
    for library in LIBRARIES:
        if seconds := _in_fresh_process(library, layers, way):
            title = "jax.jit(net.init)" if (library, way) == ("paramtree", "jit") else _TITLES[library]
            if (library, way) == ("paramtree", "jit"):
                found[_PLACED] = _in_fresh_process(library, layers, "placed")
            found[title] = seconds
    return found


def _in_fresh_process(library, layers, way):
    environment = {**os.environ, "PYTHONPATH": str(Path(pt.__file__).parent.parent)}
    command = [sys.executable, __file__, library, str(layers), way]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 3:
        print(f"  {LIBRARIES[library]} is not installed: its row is left out", file=sys.stderr)
        return None
    done.check_returncode()
    return float(done.stdout.split()[-1])


def _paramtree(layers):
    net = pt.nn.Sequential(*(pt.nn.Dense(WIDTH) for _ in range(layers)))
    x = jnp.ones((1, WIDTH))
    return (lambda key: net.init(key, x)), net, x


def _linen(layers):
    from flax import linen

    net = linen.Sequential([linen.Dense(WIDTH) for _ in range(layers)])
    x = jnp.ones((1, WIDTH))
    return lambda key: net.init(key, x)


def _nnx(layers):
    from flax import nnx

    def make(key):
        rngs = nnx.Rngs(params=key)
        return nnx.state(nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(layers)]))

    return make


def _haiku(layers):
    import haiku

    net = haiku.transform(lambda x: haiku.Sequential([haiku.Linear(WIDTH) for _ in range(layers)])(x))
    x = jnp.ones((1, WIDTH))
    return lambda key: net.init(key, x)


def _equinox(layers):
    import equinox

    def make(key):
        keys = jax.random.split(key, layers)
        return equinox.filter(
            equinox.nn.Sequential([equinox.nn.Linear(WIDTH, WIDTH, key=each) for each in keys]),
            equinox.is_array,
        )

    return make


def main(library, layers, way):
    """Print the seconds of one initialisation."""
    key = jax.block_until_ready(jax.random.key(0))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if library == "paramtree":
        make, net, x = _paramtree(layers)
        if way == "placed":
            make = lambda key: net.init(key, x, shardings=here)
    else:
        try:
            make = {"linen": _linen, "nnx": _nnx, "haiku": _haiku, "equinox": _equinox}[library](layers)
        except ImportError:
            sys.exit(3)
    if way == "jit":
        make = jax.jit(make, out_shardings=here)
    start = time.perf_counter()
    jax.block_until_ready(make(key))
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
