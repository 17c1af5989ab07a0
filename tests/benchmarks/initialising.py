"""Jobs of initialisation: networks in each library, each in a fresh process, eager and under `jit`.

As a program, `python initialising.py LIBRARY NETWORK DEPTH WAY`, it prints the seconds that one took.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import initial_nets
import jax

import paramtree as pt

_TITLES = {
    "paramtree": "net.init",
    "by_hand": "written by hand",
    "linen": "Flax linen",
    "nnx": "Flax NNX",
    "haiku": "Haiku",
    "equinox": "Equinox",
    "penzai": "penzai",
}
_SLOW = {  # slower than others in the row when all were timed: left out, so that the command ends in time
    ("MLP", 2000, "eager"): ("linen", "nnx", "penzai"),
    ("Transformer", 48, "eager"): ("haiku", "equinox"),
    ("ResNet", 50, "eager"): ("by_hand", "haiku", "equinox"),
    ("MLP", 100, "jit"): ("nnx", "equinox"),
    ("MLP", 400, "jit"): ("by_hand", "nnx", "haiku", "equinox", "penzai"),
    ("Transformer", 48, "jit"): ("by_hand", "nnx", "haiku", "equinox"),
    ("ResNet", 50, "jit"): ("by_hand", "nnx", "haiku", "equinox"),
}
_ABSENT = 3  # the exit code of a library that is not installed, or lacks the network


def init_job(network, depth, way):
    """Initialise in a fresh process: the time of the first call, compilation included, imports not."""
    found = {}
    if way == "jit":
        found["net.init(..., shardings=)"] = _in_fresh_process("paramtree", network, depth, "placed")
    for library, title in _TITLES.items():
        if library in _SLOW.get((network, depth, way), ()):
            continue
        if seconds := _in_fresh_process(library, network, depth, way):
            found["jax.jit(net.init)" if (library, way) == ("paramtree", "jit") else title] = seconds
    return found


def _in_fresh_process(library, network, depth, way):
    environment = {**os.environ, "PYTHONPATH": str(Path(pt.__file__).parent.parent)}
    command = [sys.executable, __file__, library, network, str(depth), way]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == _ABSENT:
        print(f"{library} has no {network} here: its row is left out", file=sys.stderr)
        return None
    done.check_returncode()
    return float(done.stdout.split()[-1])


def main(library, network, depth, way):
    """Print the seconds of one initialisation."""
    key = jax.block_until_ready(jax.random.key(0))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    try:
        make = getattr(initial_nets, library)(network, depth)
    except ModuleNotFoundError:
        make = None
    if make is None:
        sys.exit(_ABSENT)
    if way == "jit":
        make = jax.jit(make, out_shardings=here)
    start = time.perf_counter()
    jax.block_until_ready(make(key, shardings=here) if way == "placed" else make(key))
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
