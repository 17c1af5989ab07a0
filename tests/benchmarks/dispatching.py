"""Jobs of calling compiled functions with trees of many leaves: what Python does at each call."""

import sys

import jax
import jax.numpy as jnp
from timing import interleaved

import paramtree as pt


def dispatch_job(leaves, rounds=15):
    """Call a jitted step that changes every leaf; with marks, a tenth is fixed and a tenth tied."""
    arrays = {f"layer{at}": {"weight": jnp.float32(at), "bias": jnp.float32(at)} for at in range(leaves // 2)}
    fixed = pt.freeze(arrays, r"layer\d*0/bias")
    tied = {**fixed, **{f"tied{at}": pt.Alias(f"layer{at}") for at in range(leaves // 20)}}
    ways = {
        "a plain dict": _stepping(jax.jit(_change), arrays),
        "with ties and fixed leaves": _stepping(jax.jit(_change), tied),
        **_equinox(leaves),
        **_nnx(leaves),
    }
    return interleaved(ways, rounds, inner=max(1, 1000 // leaves))


def _change(tree):
    return jax.tree.map(lambda leaf: leaf + 1, tree)


def _stepping(step, state):
    state = step(state)

    def call():
        nonlocal state
        state = jax.block_until_ready(step(state))

    return call


def _equinox(leaves):
    try:
        import equinox
    except ImportError:
        print("equinox is not installed: its row is left out", file=sys.stderr)
        return {}

    class Layer(equinox.Module):
        weight: jax.Array
        bias: jax.Array

    layers = [Layer(jnp.float32(at), jnp.float32(at)) for at in range(leaves // 2)]
    return {"Equinox, filter_jit": _stepping(equinox.filter_jit(_change), layers)}


def _nnx(leaves):
    try:
        from flax import nnx
    except ImportError:
        print("flax is not installed: its row is left out", file=sys.stderr)
        return {}

    class Layer(nnx.Module):
        def __init__(self, at):
            self.weight, self.bias = nnx.Param(jnp.float32(at)), nnx.Param(jnp.float32(at))

    class Net(nnx.Module):
        def __init__(self):
            self.layers = nnx.List([Layer(at) for at in range(leaves // 2)])

    net = Net()

    @nnx.jit
    def step(net):
        state = nnx.state(net)
        nnx.update(net, jax.tree.map(lambda leaf: leaf + 1, state))

    def call():
        step(net)
        jax.block_until_ready(nnx.state(net))

    call()
    return {"Flax NNX, nnx.jit": call}
