"""Jobs of files: each save and load runs in a process of its own, which tells its time and its peak memory.

A fresh process is what loads a checkpoint, and what it pays most for is memory that it never touched before.
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved

import paramtree as pt

LEAVES, SHAPE = 1000, (512, 524)  # 1 GiB of float32
_NAMES = {
    "safetensors": "safetensors.numpy",
    "flushed": "safetensors.numpy, and flush to disk",
    "paramtree": "paramtree (saves and flushes to disk)",
    "msgpack": "flax msgpack",
    "orbax": "Orbax StandardCheckpointer",
}
_FILES = {"safetensors": "a.safetensors", "flushed": "a.safetensors", "paramtree": "b.safetensors"}
_SLOW = ("msgpack", "orbax")  # ten seconds each; run once


def save_job():
    """Save a tree of 1 GiB in 1,000 leaves."""
    return _save_and_load()["save"]


def load_job():
    """Load a tree of 1 GiB in 1,000 leaves, from the files that were saved."""
    return _save_and_load()["load"]


@lru_cache(maxsize=1)
def _save_and_load():
    loaded = [way for way in _NAMES if way != "flushed"]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        return {"save": _in_turns("save", list(_NAMES), folder), "load": _in_turns("load", loaded, folder)}


def plan_job(count=10_000):
    """Plan a load of 10,000 parameters with 20 rules, beside the library's own look at the header."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    blocks = count // 20
    file_names = [f"net.layers.{block}.part{part}.weight" for block in range(blocks) for part in range(20)]
    rules = {rf"net\.layers\.(\d+)\.part{part}\.weight": rf"block\1/kind{part}/weight" for part in range(20)}
    spec = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    like = {
        f"block{block}": {f"kind{part}": {"weight": spec} for part in range(20)} for block in range(blocks)
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "net.safetensors")
        save_file(dict.fromkeys(file_names, np.ones((4, 4), np.float32)), file)

        def look():
            with safe_open(file, "numpy") as opened:
                return len(opened.keys())

        plan = pt.plan_load(file, like, rename=rules)
        assert {row.status for row in plan.rows} == {"renamed"}
        header = int.from_bytes(file.read_bytes()[:8], "little")
        before = _bytes_read()
        pt.plan_load(file, like, rename=rules)
        print(f"  read beyond a header of {header:,} B: {_bytes_read() - before - header:,} B", flush=True)
        ways = {"safetensors' safe_open, keys": look}
        ways["paramtree.plan_load"] = lambda: pt.plan_load(file, like, rename=rules)
        return interleaved(ways, 7)


def _bytes_read():
    io = Path("/proc/self/io")  # of Linux alone
    return int(io.read_text().split("rchar: ")[1].split()[0]) if io.exists() else 0


def _in_turns(job, ways, folder, rounds=3):
    """Run every way in turns; print the peak memory of each, and give the median seconds."""
    found = {}
    for number in range(rounds):
        for way in ways if number == 0 else [way for way in ways if way not in _SLOW]:
            try:
                found.setdefault(_NAMES[way], []).append(_run(job, way, folder))
            except ModuleNotFoundError as error:
                print(f"{error}: its row is left out", file=sys.stderr)
    for name, runs in found.items():
        peak = median(peak for _, peak in runs)
        times = ", ".join(f"{seconds:.2f}" for seconds, _ in sorted(runs))
        print(f"  {name:42} peak beyond the tree {peak / 2**20:8.1f} MiB; seconds {times}", flush=True)
    return {name: median(seconds for seconds, _ in runs) for name, runs in found.items()}


def _run(job, way, folder):
    """Run one way in a fresh process; give its seconds, and its peak memory beyond the tree in bytes."""
    paths = os.pathsep.join([str(Path(pt.__file__).parent.parent), str(Path(__file__).parent)])
    out = subprocess.run(
        [sys.executable, __file__, job, way, folder],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if "ModuleNotFoundError" in out.stderr:
        raise ModuleNotFoundError(out.stderr.strip().splitlines()[-1])
    if out.returncode:
        raise RuntimeError(out.stderr)
    seconds, peak = out.stdout.split()[-2:]
    return float(seconds), float(peak)


# --- within the process -------------------------------------------------------------------------------------


def _main(job, way, folder):
    place = Path(folder, _FILES.get(way, way))
    if job == "save":
        tree = jax.block_until_ready(_tree())
        call = _saving(way, tree, place)
    else:
        jax.device_put(np.ones(2)).block_until_ready()  # starts JAX
        call = _loading(way, place)
    os.sync()  # else the disk is still busy with the run before
    seconds, peak, result = measured(call)
    if job == "load":
        leaves = jax.tree.leaves(result)
        assert [float(leaf[-1, -1]) for leaf in leaves] == [float(leaf[0, 0]) for leaf in leaves]
        assert len(leaves) == LEAVES
        peak -= sum(leaf.nbytes for leaf in leaves)
    print(seconds, peak)


def _tree():
    """Make the tree, of values as irregular as parameters: constant ones would be nothing once compressed."""
    values = jax.random.normal(jax.random.key(0), SHAPE)

    @jax.jit
    def weight(number):
        return (values * (1 + number / LEAVES)).at[[0, -1], [0, -1]].set(number)

    return {
        f"block{block}": {f"layer{layer}": {"weight": weight(10.0 * block + layer)} for layer in range(10)}
        for block in range(LEAVES // 10)
    }


def measured(call):
    """Call once; give the seconds, by how many bytes the memory grew at its peak, and the result."""
    before = _memory("VmRSS")
    refs = Path("/proc/self/clear_refs")
    if refs.exists():
        refs.write_text("5")  # the peak is counted from here
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    seconds = time.perf_counter() - start
    return seconds, _memory("VmHWM") - before, result


def _memory(field):
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(status.read_text().split(f"{field}:")[1].split()[0]) * 1024


def _saving(way, tree, place):
    if way == "paramtree":
        save = pt.save  # imports it, as the others are imported here
        return lambda: save(tree, place)
    if way == "msgpack":
        from flax import serialization

        return lambda: place.write_bytes(serialization.msgpack_serialize(tree)) and None
    if way == "orbax":
        import orbax.checkpoint as ocp

        def save():
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(place.absolute(), tree, force=True)

        return save
    from safetensors.numpy import save_file

    flat = {name: np.asarray(leaf) for name, leaf in pt.collect_params(tree).items()}
    save_file({"w": np.ones(1)}, place.with_suffix(".warm"))

    def write():
        save_file(flat, place)
        if way == "flushed":
            with place.open("rb") as file:
                os.fsync(file.fileno())

    return write


def _loading(way, place):
    if way == "paramtree":
        load = pt.load  # imports it, as the others are imported here
        return lambda: load(place)
    if way == "msgpack":
        from flax import serialization

        return lambda: serialization.msgpack_restore(place.read_bytes())
    if way == "orbax":
        import orbax.checkpoint as ocp

        def load():
            with ocp.StandardCheckpointer() as checkpointer:
                return checkpointer.restore(place.absolute())

        return load
    from safetensors.numpy import load_file

    return lambda: load_file(place)


if __name__ == "__main__":
    _main(*sys.argv[1:])
