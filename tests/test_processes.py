"""Two processes, joined by `jax.distributed` on this machine, train as one does; what fails, fails soon."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent

WORKER = """
import json, sys
import jax
number, port, processes = map(int, sys.argv[1:])
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, number, initialization_timeout=60)
import jax.numpy as jnp
import numpy as np
import optax
import paramtree as pt
from jax.sharding import Mesh, PartitionSpec as P
from paramtree import init, nn

net = nn.Sequential(nn.Dense(32, activation="relu"), nn.Dropout(0.1), nn.Dense(8))
x = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
y = np.random.default_rng(1).integers(0, 8, 16).astype(np.int32)

def loss_fn(params, batch, key):
    logits = net.apply(params, batch[0], train=True, key=key)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

found = {"devices": len(jax.devices()), "local": len(jax.local_devices())}
for way, rules in {"data": {".*": None}, "full": {".*": P("data")}}.items():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    where = pt.shardings(net.specs(x), mesh, rules)
    params = net.init(jax.random.key(0), x, shardings=where, init=init.Xavier())
    step = pt.train_step(loss_fn, optax.adamw(1e-2))
    state = step.init(params, jax.random.key(1))
    batch = pt.shard([x, y], mesh, {".*": P("data")})
    losses = []
    for _ in range(6):
        state, loss = step(state, batch)
        losses.append(float(loss))
    held = pt.collect_params(state.params).items()
    shares = {name: leaf.addressable_shards[0].data.size for name, leaf in held}
    found[way] = {"losses": losses, "shares": shares}
print(json.dumps(found))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(code, *arguments, devices=1, seconds=240):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds)


def result(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_two_processes_of_four_devices_train_as_one_device_does():
    pytest.importorskip("optax")
    port = free_port()
    with ThreadPoolExecutor() as pool:
        workers = [pool.submit(run, WORKER, number, port, 2, devices=4) for number in range(2)]
        found = [result(worker.result()) for worker in workers]
    alone = result(run(WORKER, 0, 0, 1))
    assert found[0] == found[1]
    assert (found[0]["devices"], found[0]["local"], alone["devices"]) == (8, 4, 1)
    for way in ("data", "full"):
        np.testing.assert_allclose(found[0][way]["losses"], alone[way]["losses"], rtol=2e-4)
    whole, eighth = found[0]["data"]["shares"], found[0]["full"]["shares"]
    assert whole == {name: 8 * size for name, size in eighth.items()} == alone["full"]["shares"]


STOPPING = """
import json, sys
import jax
number, port = map(int, sys.argv[1:])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number, initialization_timeout=60)
import jax.numpy as jnp
import numpy as np
import optax
import paramtree as pt
from jax.sharding import Mesh, PartitionSpec as P

def loss_fn(params, batch):
    work = jax.lax.fori_loop(0, 300, lambda _, x: jnp.tanh(x @ x), jnp.eye(256))  # takes a while
    return ((params["w"] * batch) ** 2).mean() + 0 * work.sum()

mesh = Mesh(np.array(jax.devices()), ("data",))
step = pt.train_step(loss_fn, optax.sgd(0.1))
state = step.init(pt.shard({"w": np.ones(4, np.float32)}, mesh, {".*": P()}))
good, bad = (pt.shard([np.float32([1, 1, 1, last])], mesh, {".*": P("data")})[0] for last in (1, np.nan))
state, _ = step(state, good)
state, loss = step(state, bad)
if number == 0:
    jax.block_until_ready(loss)  # this one knows of the NaN when it goes on, and the other does not
try:
    step(state, good)
    told = "nothing"
except pt.ParamTreeError as error:
    told = str(error)
print(json.dumps({"told": told, "step": int(state.step), "w": pt.find_nonfinite(state.params).headline()}))
"""


def test_every_process_stops_at_the_step_at_which_one_has_a_nan():
    pytest.importorskip("optax")
    port = free_port()
    with ThreadPoolExecutor() as pool:
        workers = [pool.submit(run, STOPPING, number, port, seconds=100) for number in range(2)]
        found = [result(worker.result()) for worker in workers]
    assert found[0] == found[1]
    assert found[0]["told"].startswith(
        "train_step: after step 1 a loss, gradient or statistic was not finite."
    )
    assert (found[0]["step"], found[0]["w"]) == (1, "no NaN or Inf in 1 parameter")


JOIN = """
import sys
import jax
number, port, processes = map(int, sys.argv[1:])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", processes, number, initialization_timeout=5)
print(len(jax.devices()))
"""


@pytest.mark.parametrize("number", [0, 1], ids=["the others never come", "no coordinator is there"])
def test_who_waits_in_vain_is_told_in_seconds(number):
    done = run(JOIN, number, free_port(), 2, seconds=100)
    assert done.returncode != 0
    assert "DEADLINE_EXCEEDED" in done.stderr, done.stderr[-2000:]


def test_two_processes_that_count_three_are_told_in_seconds():
    port = free_port()
    with ThreadPoolExecutor() as pool:
        workers = [pool.submit(run, JOIN, number, port, 3, seconds=100) for number in range(2)]
        ended = [worker.result() for worker in workers]
    for done in ended:
        assert done.returncode != 0
        assert "DEADLINE_EXCEEDED" in done.stderr, done.stderr[-2000:]


def test_a_process_whose_number_is_beyond_the_count_is_told():
    done = run(JOIN, 2, free_port(), 2, seconds=100)
    assert done.returncode != 0
    assert "process_id < num_processes" in done.stderr, done.stderr[-2000:]
