"""Jobs of nets with many small leaves: a training step, packed or not, and written by hand."""

import jax
import jax.numpy as jnp
from timing import interleaved
from training import library

import paramtree as pt


def packed_job(layers, width, rounds=20, batch=8):
    """Train a deep and narrow net with AdamW, one step, donated: packed, plain, by hand, and in linen."""
    import optax

    x = jax.random.normal(jax.random.key(0), (batch, width))
    net = pt.nn.Sequential(*(pt.nn.Dense(width, activation="tanh") for _ in range(layers)))
    params = net.init(jax.random.key(1), x)

    def loss_fn(params, batch):
        return (net.apply(params, batch) ** 2).mean()

    ways = {
        "pt.train_step, pt.fuse": _stepping(loss_fn, optax.adamw(1e-3), pt.fuse(params), x),
        "pt.train_step": _stepping(loss_fn, optax.adamw(1e-3), params, x),
    }
    if layers <= 200 and library("linen"):  # more of them would compile for half a minute
        ways["Flax linen, optax"] = _by_hand(*_narrow_linen(layers, width, x), x)
    if layers < 200:  # where both take the same time, as linen does
        ways["written by hand, optax"] = _by_hand(loss_fn, optax.adamw(1e-3), params, x)
        unchecked = _stepping(loss_fn, optax.adamw(1e-3), params, x, check_finite=False)
        ways["pt.train_step, check_finite=False"] = unchecked
        guarded = optax.apply_if_finite(optax.adamw(1e-3), 5)  # what pt.train_step does by itself
        ways["by hand, optax.apply_if_finite"] = _by_hand(loss_fn, guarded, params, x)
    for call in list(ways.values()) * 3:
        call()  # compiles
    return interleaved(ways, rounds, 5)


def _stepping(loss_fn, optimizer, params, batch, **options):
    step = pt.train_step(loss_fn, optimizer, **options)
    state = step.init(params)

    def call():
        nonlocal state
        state, loss = step(state, batch)
        jax.block_until_ready((state, loss))

    return call


def _by_hand(loss_fn, optimizer, params, batch):
    """Do what a user writes: value_and_grad, update, apply_updates, jitted and donated."""
    import optax

    def step(params, state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    jitted = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, params)
    state = optimizer.init(params)

    def call():
        nonlocal params, state
        params, state, loss = jitted(params, state, batch)
        jax.block_until_ready((params, state, loss))

    return call


def _narrow_linen(layers, width, x):
    import optax
    from flax import linen

    class Narrow(linen.Module):
        @linen.compact
        def __call__(self, x):
            for _ in range(layers):
                x = linen.tanh(linen.Dense(width)(x))
            return x

    net = Narrow()
    loss_fn = lambda params, batch: (net.apply(params, batch) ** 2).mean()
    return loss_fn, optax.adamw(1e-3), net.init(jax.random.key(1), x)
