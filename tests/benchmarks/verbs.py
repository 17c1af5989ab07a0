"""Jobs of the verbs: trees of many leaves, warm and cold, against plain JAX and the common idioms."""

import re
import sys
from itertools import cycle

import jax
import numpy as np
from timing import interleaved

import paramtree as pt

_LEAF = np.zeros(1)
_PATTERN = re.compile(".*weight")


def tree_of(leaves, moved=0):
    """Build a nested dict: blocks of 50 layers with a weight and a bias each, some moved to a block more."""
    blocks = [min(50, (leaves - start) // 2) for start in range(0, leaves, 100)]
    blocks = [blocks[0] - moved, *blocks[1:], moved]
    return {
        "net": {
            f"block{at}": {f"layer{layer}": {"weight": _LEAF, "bias": _LEAF} for layer in range(layers)}
            for at, layers in enumerate(blocks)
            if layers
        }
    }


def by_path(tree):
    """Select as JAX's own key paths allow."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = ((jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in pairs)
    return {name: leaf for name, leaf in named if _PATTERN.fullmatch(name)}


def _by_flax():
    try:
        from flax.traverse_util import flatten_dict
    except ImportError:
        print("flax is not installed: its row is left out", file=sys.stderr)
        return {}

    def select(tree):
        flat = flatten_dict(tree, sep="/")
        return {name: leaf for name, leaf in flat.items() if _PATTERN.fullmatch(name)}

    return {"flax.traverse_util.flatten_dict and re": select}


def select_job(leaves, rounds=9, cold=False):
    """Select by regular expression; cold, each call is given a tree of a structure never seen."""
    calls = {
        "jax.tree.flatten, for comparison": jax.tree.flatten,
        "pt.collect_params": lambda tree: pt.collect_params(tree, ".*weight"),
        **_by_flax(),
    }
    if leaves < 1_000_000:  # half a minute there, and the slowest everywhere
        calls["jax.tree_util.tree_flatten_with_path and re"] = by_path
    seen = tree_of(leaves)
    assert len({len(call(seen)) for name, call in calls.items() if "comparison" not in name}) == 1
    inner = _inner(leaves, 4 if cold else 100)
    unseen = range(1, 1 + rounds * (inner + (inner > 1)))
    ways = {way: _given_trees(call, leaves, unseen if cold else (0,)) for way, call in calls.items()}
    return interleaved(ways, rounds, inner)


def _given_trees(call, leaves, moved):
    trees = cycle([tree_of(leaves, each) for each in moved])
    return lambda: call(next(trees))


def _inner(leaves, most):
    """Call small trees often in a round: what is first called then pays for code that left the caches."""
    return most if leaves <= 100 else 3 if leaves <= 10_000 else 1


def rebuild_job(leaves, rounds=5):
    """Split and rename trees of structures never seen, against the idiom of flax and `re`."""
    rules = {r"(.*)/layer(\d+)/(.*)": r"\1/dense\2/\3"}
    calls = {
        **_splits_by_flax(rules),
        "pt.partition": lambda tree: pt.partition(tree, ".*weight"),
        "pt.rename": lambda tree: pt.rename(tree, rules),
    }
    unseen = range(1, 1 + rounds * 2)
    return interleaved({way: _given_trees(call, leaves, unseen) for way, call in calls.items()}, rounds)


def _splits_by_flax(rules):
    try:
        from flax.traverse_util import flatten_dict, unflatten_dict
    except ImportError:
        print("flax is not installed: its rows are left out", file=sys.stderr)
        return {}

    def split(tree):
        sides = {}, {}
        for name, leaf in flatten_dict(tree, sep="/").items():
            sides[not _PATTERN.fullmatch(name)][name] = leaf
        return [unflatten_dict(side, sep="/") for side in sides]

    def rename(tree):
        ((pattern, template),) = rules.items()
        flat = flatten_dict(tree, sep="/")
        return unflatten_dict({re.sub(pattern, template, name): leaf for name, leaf in flat.items()}, sep="/")

    return {"flatten_dict, re, unflatten_dict: split": split, "the same: rename": rename}


def change_job(leaves, rounds=9):
    """Change a tree by each verb, against a flatten and an unflatten."""
    tree = tree_of(leaves)
    values = pt.collect_params(tree, ".*weight")
    halves = pt.partition(tree, ".*weight")
    rules = {r"(.*)/layer(\d+)/(.*)": r"\1/dense\2/\3"}

    def again():
        flat, structure = jax.tree.flatten(tree)
        return jax.tree.unflatten(structure, flat)

    ways = {
        "jax.tree.flatten and unflatten, for comparison": again,
        "pt.update": lambda: pt.update(tree, values),
        "pt.partition": lambda: pt.partition(tree, ".*weight"),
        "pt.merge": lambda: pt.merge(*halves),
        "pt.label_params": lambda: pt.label_params(tree, {".*weight": "decay", ".*": "none"}),
        "pt.rename": lambda: pt.rename(tree, rules),
    }
    for call in ways.values():
        call()
    return interleaved(ways, rounds, _inner(leaves, 100))
