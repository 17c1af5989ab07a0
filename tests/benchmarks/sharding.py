"""Jobs of many devices: a plan of a large tree, initialisation over two processes, steps on host devices."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P
from timing import interleaved

import paramtree as pt

INIT = """
import resource, sys, threading, time
import jax
number, port = map(int, sys.argv[1:])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
import numpy as np
import paramtree as pt
from jax.sharding import Mesh, PartitionSpec as P
from paramtree import nn

net = nn.Sequential(*(nn.Dense(2048, use_bias=False) for _ in range(64)))
mesh = Mesh(np.array(jax.devices()), ("data",))
small = nn.Dense(2048, use_bias=False)
first = pt.shardings(small.specs("1, 8"), mesh, {".*": P("data")})
jax.block_until_ready(small.init(jax.random.key(1), "1, 8", shardings=first))
where = pt.shardings(net.specs("1, 2048"), mesh, {".*": P("data")})

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

held = []
def timed(key):
    # the seconds of one initialisation, and the MiB it takes at its peak
    before, seen, going = resident(), [0], [True]
    def watch():
        while going:
            seen.append(resident())
            time.sleep(0.001)
    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    held.append(jax.block_until_ready(net.init(key, "1, 2048", shardings=where)))
    took = time.perf_counter() - start
    going.clear()
    thread.join()
    return took, (max(seen) - before) / 2**20

print(*timed(jax.random.key(0)), *timed(jax.random.key(1)))
"""

STEP = """
import json, sys
import jax, optax
import numpy as np
sys.path.insert(0, sys.argv[1])
from timing import interleaved
import paramtree as pt
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from paramtree import nn

net = nn.Sequential(*(nn.Dense(512, activation="relu") for _ in range(4)), nn.Dense(10))
x, y = np.ones((256, 512), np.float32), np.zeros(256, np.int32)

def loss_fn(params, batch):
    return optax.softmax_cross_entropy_with_integer_labels(net.apply(params, batch[0]), batch[1]).mean()

def way(count):
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
    step = pt.train_step(loss_fn, optax.adamw(1e-3))
    held = [step.init(net.init(jax.random.key(0), x, shardings=NamedSharding(mesh, P())))]
    batch = pt.shard((x, y), mesh, {".*": P("data")})
    def call():
        held[0], loss = step(held[0], batch)
        loss.block_until_ready()
    call()
    call()
    return call

print(json.dumps(interleaved({count: way(count) for count in (1, 2, 4, 8)}, 15)))
"""


def sharding_plan_job():
    """Plan the tree of a Transformer of 126 layers."""

    def spec(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    layer = {
        "attention": {
            "query": spec(16384, 16384), "key": spec(1024, 16384), "value": spec(1024, 16384),
            "out": spec(16384, 16384),
        },
        "mlp": {"gate": spec(53248, 16384), "up": spec(53248, 16384), "down": spec(16384, 53248)},
        "norm0": {"gamma": spec(16384)}, "norm1": {"gamma": spec(16384)},
    }  # fmt: skip
    tree = {f"layer{number}": layer for number in range(126)}
    tree |= {"embed": {"weight": spec(128256, 16384)}, "head": {"weight": spec(128256, 16384)}}
    rules = {".*(out|down)": P("data", "model"), ".*gamma": None, ".*": P("model", "data")}
    mesh = AbstractMesh((64, 8), ("data", "model"))
    print(f"  {pt.plan_sharding(tree, mesh, rules).headline()}")
    return interleaved({"pt.plan_sharding": lambda: str(pt.plan_sharding(tree, mesh, rules))}, 5)


def _run(code, *arguments, devices):
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(Path(pt.__file__).parent.parent),
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()[-1]


def init_job():
    """Initialise 64 leaves of 16 MiB, half of each in each of two processes; print what one of them takes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(_run, INIT, number, port, devices=1) for number in range(2)]
        found = [[float(text) for text in run.result().split()] for run in runs]
    seconds, first, _, again = (max(column) for column in zip(*found, strict=True))
    print(
        f"  at most {first:.0f} MiB in a process, what is compiled included; {again:.1f} the second time; "
        "its share is 512, of a leaf 8"
    )
    return {"net.init(..., shardings=)": seconds}


def devices_job():
    """Take one data-parallel step on 1, 2, 4 and 8 devices of this host, which share its cores."""
    found = json.loads(_run(STEP, Path(__file__).parent, devices=8))
    return {f"{count} device{'' if count == '1' else 's'}": seconds for count, seconds in found.items()}
