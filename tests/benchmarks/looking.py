"""Jobs of looking at parameters: statistics, a summary, a page."""

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved

import paramtree as pt


def stats_job(width, leaves=2000, loop=True):
    """Find the statistics of many square arrays: one pass, against a loop of calls per leaf."""
    keys = jax.random.split(jax.random.key(0), leaves)
    params = {f"layer{at}": {"weight": jax.random.normal(key, (width, width))} for at, key in enumerate(keys)}
    leaves = jax.tree.leaves(params)
    sums = jax.jit(lambda leaves: [jnp.sum(leaf) for leaf in leaves])
    numbers = [
        jnp.mean, jnp.std, jnp.min, jnp.max, lambda leaf: jnp.sqrt(jnp.mean(leaf * leaf)),
        lambda leaf: jnp.abs(leaf).max(), lambda leaf: (leaf == 0).mean(), lambda leaf: jnp.isnan(leaf).sum(),
        lambda leaf: jnp.isinf(leaf).sum(), lambda leaf: jnp.histogram(leaf, 16)[0],
    ]  # fmt: skip

    def loop_over(leaves):
        return [[np.asarray(number(leaf)) for number in numbers] for leaf in leaves]

    ways = {
        "jnp.sum of each, one jitted call": lambda: jax.device_get(sums(leaves)),
        "pt.stats": lambda: pt.stats(params),
    }
    for call in ways.values():
        call()
    found = interleaved(ways, 15)
    if loop:
        loop_over(leaves[:1])  # compiles
        found |= interleaved({"a loop of jnp calls": lambda: loop_over(leaves)}, 1)
    return found


def diff_job(leaves=2000, width=64):
    """Compare two trees: all differences by name, against a loop of NumPy calls per leaf."""
    keys = jax.random.split(jax.random.key(0), leaves)
    one = {f"layer{at}": {"weight": jax.random.normal(key, (width, width))} for at, key in enumerate(keys)}
    other = pt.update(one, {"layer1/weight": lambda old: old + 1})

    def by_hand():
        found = {}
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
        ):
            a, b = np.asarray(a), np.asarray(b)
            off = np.abs(a - b)
            size = np.maximum(np.abs(a), np.abs(b))
            relative = np.divide(off, size, out=np.zeros_like(off), where=size > 0)
            found[jax.tree_util.keystr(path)] = (a != b).sum(), off.max(), relative.max()
        return found

    ways = {"a loop of NumPy calls": by_hand, "pt.diff": lambda: pt.diff(one, other)}
    for call in ways.values():
        call()
    return interleaved(ways, 5)


def summary_job():
    """Summarise 100,000 parameters, and print the table."""
    params = {
        f"block{block}": {f"layer{layer}": np.zeros((4, 4), np.float32) for layer in range(100)}
        for block in range(1000)
    }
    ways = {"pt.summary": lambda: pt.summary(params), "and its text": lambda: str(pt.summary(params))}
    return interleaved(ways, 3)


def html_job():
    """Write the foldable page of 5,000 parameters, with their histograms; print its size."""
    params = {
        f"block{block}": {f"layer{layer}": jnp.full((16, 16), 1.0 * layer) for layer in range(50)}
        for block in range(100)
    }
    page = pt.show(params).to_html()
    print(f"  {len(page.encode()) / 1e6:.2f} MB")
    return interleaved({"pt.show(params).to_html()": lambda: pt.show(params).to_html()}, 3)
