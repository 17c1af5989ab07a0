"""The job of memory: what each verb takes at its peak, beyond the tree it works on and what it returns.

As a program, `python memory.py VERB`, it prints the bytes that one verb took in a fresh process.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from checkpoints import measured

import paramtree as pt

LEAVES, WIDTH = 128, 1024  # 512 MiB of float32
_BYTES = LEAVES * WIDTH * WIDTH * 4


def memory_job():
    """Find the peak of each verb, in a fresh process each; the yardstick is the tree's own size."""
    found = {"the tree itself": float(_BYTES)}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for title, verb in _VERBS.items():
            found[title] = max(1.0, _in_fresh_process(verb.__name__, Path(folder, "net.safetensors")))
    return found


def _in_fresh_process(verb, file):
    paths = os.pathsep.join([str(Path(pt.__file__).parent.parent), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, __file__, verb, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    return float(done.stdout.split()[-1])


# each gives the call to measure, once all that it compiles has been compiled, and the size of what it returns


def init(file):
    net = pt.nn.Sequential(*(pt.nn.Dense(WIDTH, use_bias=False) for _ in range(LEAVES)))
    one = pt.nn.Dense(WIDTH, use_bias=False)
    jax.block_until_ready(one.init(jax.random.key(1), f"1, {WIDTH}"))
    return lambda: net.init(jax.random.key(0), f"1, {WIDTH}"), _BYTES


def by_hand(file):
    draw = jax.jit(lambda key: jax.random.uniform(key, (WIDTH, WIDTH), jnp.float32, -0.07, 0.07))
    jax.block_until_ready(draw(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(0), LEAVES)
    return lambda: [draw(key) for key in keys], _BYTES


def update(file):
    tree = _tree()
    return lambda: pt.update(tree, pt.collect_params(tree)), 0


def save(file):
    tree = _tree()
    return lambda: pt.save(tree, file), 0


def load(file):
    return lambda: pt.load(file), _BYTES


def stats(file):
    tree = _tree()
    pt.stats(tree)
    return lambda: str(pt.stats(tree)), 0


def _tree():
    tree = {f"layer{at}": {"weight": jnp.full((WIDTH, WIDTH), float(at))} for at in range(LEAVES)}
    return jax.block_until_ready(tree)


_VERBS = {
    "net.init": init,
    "jax.random.uniform of each, by hand": by_hand,
    "pt.update, all of it": update,
    "pt.save": save,
    "pt.load": load,
    "pt.stats": stats,
}


def main(verb, file):
    """Print the peak of one verb."""
    jax.device_put(1.0).block_until_ready()  # starts JAX
    call, returned = globals()[verb](Path(file))
    _, peak, _ = measured(call)
    print(peak - returned)


if __name__ == "__main__":
    main(*sys.argv[1:])
