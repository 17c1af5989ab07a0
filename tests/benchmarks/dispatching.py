"""Jobs of calling compiled functions with trees of many leaves: what Python does at each call."""

import sys

import jax
import jax.numpy as jnp
from timing import interleaved

import paramtree as pt


def dispatch_job(leaves, rounds=15, step=True):
    """Call a jitted step that changes every leaf, or a jitted function of all that gives one number.

    With marks, a tenth is fixed and a twentieth tied.
    """
    arrays = {f"layer{at}": {"weight": jnp.float32(at), "bias": jnp.float32(at)} for at in range(leaves // 2)}
    fixed = pt.freeze(arrays, r"layer\d*0/bias")
    tied = {**fixed, **{f"tied{at}": pt.Alias(f"layer{at}") for at in range(leaves // 20)}}
    first = (lambda tree: tree["layer0"]["weight"] + 1) if not step else None
    ways = {
        "a plain dict": _calling(arrays, first),
        "with ties and fixed leaves": _calling(tied, first),
    }
    if leaves < 10_000:  # they compile for half a minute there
        ways |= _equinox(leaves, step) | _nnx(leaves, step) | _penzai(leaves, step)
    return interleaved(ways, rounds, inner=max(3, 1000 // leaves) if leaves < 10_000 else 1)


def _change(tree):
    return jax.tree.map(lambda leaf: leaf + 1, tree)


def _calling(tree, read=None, jit=jax.jit):
    """Give what changes the whole tree again and again, or what reads it by a function."""
    # a function of its own for each tree: JAX keeps what one function has compiled for several trees together
    # and looks at all of it in every call
    function = jit(lambda tree: _change(tree) if read is None else read(tree))
    if read is None:
        return _stepping(function, tree)
    return lambda: jax.block_until_ready(function(tree))


def _stepping(step, state):
    state = step(state)

    def call():
        nonlocal state
        state = jax.block_until_ready(step(state))

    return call


def _equinox(leaves, step):
    try:
        import equinox
    except ImportError:
        print("equinox is not installed: its row is left out", file=sys.stderr)
        return {}

    class Layer(equinox.Module):
        weight: jax.Array
        bias: jax.Array

    layers = [Layer(jnp.float32(at), jnp.float32(at)) for at in range(leaves // 2)]
    first = None if step else lambda layers: layers[0].weight + 1
    return {"Equinox, filter_jit": _calling(layers, first, equinox.filter_jit)}


def _nnx(leaves, step):
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
    if not step:
        return {"Flax NNX, nnx.jit": _calling(net, lambda net: net.layers[0].weight + 1, nnx.jit)}

    @nnx.jit
    def change(net):
        state = nnx.state(net)
        nnx.update(net, jax.tree.map(lambda leaf: leaf + 1, state))

    def call():
        change(net)
        jax.block_until_ready(nnx.state(net))

    call()
    return {"Flax NNX, nnx.jit": call}


def _penzai(leaves, step):
    try:
        from penzai import pz
        from penzai.models import simple_mlp
    except ImportError:
        print("penzai is not installed: its row is left out", file=sys.stderr)
        return {}
    net = simple_mlp.MLP.from_config(
        name="mlp", init_base_rng=jax.random.key(0), feature_sizes=[1] * (leaves // 2 + 1)
    )
    values = pz.unbind_params(net, freeze=True)[1]
    first = None if step else lambda values: values[0].value.untag(*values[0].value.named_shape) + 1
    return {"penzai, unbound and jitted": _calling(values, first)}
