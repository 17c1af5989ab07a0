"""Two processes, joined by `jax.distributed` on this machine, train as one does; what fails, fails soon."""

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import paramtree as pt

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


def start(code, *arguments, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def run(code, *arguments, devices=1, seconds=240):
    with start(code, *arguments, devices=devices) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


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


SAVER = """
import json, sys
import jax
number, port, folder, last = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number, initialization_timeout=60)
import jax.numpy as jnp
import numpy as np
import paramtree as pt
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

mesh = Mesh(np.array(jax.devices()), ("d",))
rows, copies = NamedSharding(mesh, P("d")), NamedSharding(mesh, P())

def put(step, where):
    whole = np.arange(32, dtype=np.float32).reshape(8, 4) + step
    return jax.make_array_from_callback((8, 4), where, lambda part: whole[part])

def tree(step):
    spread = {"rows": put(step, rows), "copies": pt.Fixed(put(step, copies)), "tied": pt.Alias("rows")}
    return {**spread, "own": jnp.float32(step), "host": np.full(3, step), "none": np.zeros((0, 2), np.int8)}

for step in range(last):
    pt.save(tree(step), f"{folder}/x.orbax")
    print(step, flush=True)

def said(call):
    try:
        call()
    except pt.ParamTreeError as error:
        return str(error)
    except FileNotFoundError as error:
        return "no directory" if "there is no directory" in str(error) else str(error)

def spec(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))

like = jax.tree.map(spec, tree(0))
loaded = pt.load(f"{folder}/x.orbax", like)
pt.save({"copies": loaded["copies"], "own": loaded["own"]}, f"{folder}/y.npz")
refused = {"a": loaded["rows"], **({"b": jnp.zeros(2, "uint4")} if number else {})}
print(json.dumps({
    "shardings": loaded["rows"].sharding == rows and loaded["copies"].value.sharding == copies,
    "parts": [part.data.tolist() for part in loaded["rows"].addressable_shards],
    "spread": said(lambda: pt.save(loaded, f"{folder}/z.npz")),
    "nowhere": said(lambda: pt.save(loaded, f"{folder}/no/x.orbax")),
    "refused": said(lambda: pt.save(refused, f"{folder}/x.orbax")),
}))
"""


def whole_tree(step):
    rows = np.arange(32, dtype=np.float32).reshape(8, 4) + step
    return {"rows": rows, "copies": rows, "own": np.float32(step), "host": np.full(3, step)}


def assert_holds(file, step):
    """A file holds the whole tree of one step."""
    held = pt.collect_params(pt.load(file))
    for name, array in whole_tree(step).items():
        np.testing.assert_array_equal(held[name], array)
    assert sorted(held) == ["copies", "host", "none", "own", "rows"]


def test_two_processes_save_and_load_one_orbax_directory(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    port = free_port()
    with ThreadPoolExecutor() as pool:
        workers = [pool.submit(run, SAVER, number, port, tmp_path, 2, devices=2) for number in range(2)]
        found = [result(worker.result()) for worker in workers]
    assert_holds(tmp_path / "x.orbax", 1)
    assert found[0].pop("parts") + found[1].pop("parts") == whole_tree(1)["rows"].reshape(4, 2, 4).tolist()
    failed = "save: process {} of JAX has failed, so nothing is replaced."
    refused = "save: Orbax has no type for these:\n  b is uint4; pt.cast it"
    spread = (
        "save: an array of shape (8, 4) is spread over several processes. Save to a .orbax directory from "
        "all of them, or gather it first, as with jax.experimental.multihost_utils.process_allgather."
    )
    assert found == [
        {"shardings": True, "spread": spread, "nowhere": "no directory", "refused": failed.format(1)},
        {"shardings": True, "spread": spread, "nowhere": failed.format(0), "refused": refused},
    ]
    assert sorted(os.listdir(tmp_path)) == ["x.orbax", "y.npz"]
    np.testing.assert_array_equal(pt.load(tmp_path / "y.npz")["copies"].value, whole_tree(1)["rows"])


def test_of_two_processes_that_are_killed_while_they_save_the_last_whole_step_is_left(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    port = free_port()
    workers = [start(SAVER, number, port, tmp_path, 1000, devices=2) for number in range(2)]
    step = -1
    try:
        step = next((2 for line in workers[0].stdout if line.strip() == "2"), -1)
        time.sleep(random.Random().uniform(0, 0.5))  # in the middle of one of the next saves
        workers[1].kill()
        time.sleep(0.5)  # what the other one does alone
    finally:
        for worker in workers:
            worker.kill()
            rest = worker.communicate()[0]
            step = max([step, *map(int, re.findall(r"^\d+$", rest, re.MULTILINE))])
    assert step >= 2
    left = int(pt.load(tmp_path / "x.orbax")["own"])
    assert left in (step, step + 1)
    assert_holds(tmp_path / "x.orbax", left)
    pt.save({"a": np.ones(1)}, tmp_path / "x.orbax")
    assert os.listdir(tmp_path) == ["x.orbax"]


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
