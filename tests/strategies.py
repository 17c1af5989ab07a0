"""Trees to test on, drawn by hypothesis."""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from paramtree.nodes import Alias, Fixed
from paramtree.tree import collect_params, names

# natural order, `weight` first, prefixes of each other, digits only, letters beyond ASCII, spaces and dots
KEYS = (
    "weight", "bias", "kernel", "dense1", "dense2", "dense10", "dense", "layer2", "layer10", "layer02",
    "0", "2", "10", "é", "层", "a.b", "a b", "A", "a",
)  # fmt: skip
SHAPES = ((), (1,), (2,), (2, 3), (3, 2), (0,), (2, 0))
DTYPES = (np.float32, np.int32, jnp.bfloat16, np.bool_, np.float64)


@st.composite
def arrays(draw):
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES))
    start = draw(st.integers(-3, 3))
    array = np.arange(start, start + int(np.prod(shape))).reshape(shape).astype(dtype)
    return jnp.asarray(array) if array.dtype != np.float64 and draw(st.booleans()) else array


def plain_params(min_size=1):
    """Nested dicts of arrays: no nodes, no empty dicts."""
    return st.recursive(
        st.dictionaries(st.sampled_from(KEYS), arrays(), min_size=min_size, max_size=3),
        lambda inner: st.dictionaries(
            st.sampled_from(KEYS), st.one_of(arrays(), inner), min_size=min_size, max_size=3
        ),
        max_leaves=5,
    )


def blocks_of(params, name=""):
    """List the names of all blocks of a nested dict."""
    found = []
    for key, value in params.items():
        if isinstance(value, dict):
            place = f"{name}/{key}" if name else key
            found += [place, *blocks_of(value, place)]
    return found


@st.composite
def params(draw):
    """Nested dicts with constants, and ties to parameters, to blocks and to other ties."""
    tree = draw(plain_params())
    flat = names(tree)
    for name in draw(st.lists(st.sampled_from(flat), max_size=2, unique=True)):
        *outer, last = name.split("/")
        block = tree
        for key in outer:
            block = block[key]
        block[last] = Fixed(block[last])
    targets = flat + blocks_of(tree)
    for key in draw(st.lists(st.sampled_from(("tied2", "tied10", "0tied", "z")), max_size=3, unique=True)):
        target = draw(st.sampled_from(targets))
        leaf = collect_params(tree).get(target)
        matrix = leaf is not None and np.ndim(leaf) == 2
        alias = Alias(target, transpose=matrix and draw(st.booleans()))
        if draw(st.booleans()):
            tree[key], place = {"weight": alias}, f"{key}/weight"
        else:
            tree[key], place = alias, key
        targets.append(place)
    return tree


@st.composite
def selects(draw, tree):
    """A select that hits something in the tree."""
    found = names(tree)
    name = draw(st.sampled_from(found))
    wide = draw(st.sampled_from((".*", f"{name.split('/')[0]}.*", f".*{name.split('/')[-1]}")))
    kind = draw(st.sampled_from(("name", "wide", "predicate", "several")))
    if kind == "name":
        return name  # the dot in `a.b` matches itself
    if kind == "wide":
        return wide
    if kind == "predicate":
        return lambda each, leaf: each == name or getattr(leaf, "ndim", 0) == 2
    return [name, draw(st.sampled_from(found))]


@st.composite
def rules(draw, tree):
    """Rules that all hit and cover the tree: the whole names of some parameters, then all the rest."""
    found = names(tree)
    chosen = draw(st.lists(st.sampled_from(found), max_size=len(found) - 1, unique=True))
    return {**{name.replace(".", r"\."): place for place, name in enumerate(chosen)}, ".*": "rest"}


def renamed_keys(tree, suffix):
    """Change every key of a nested dict, and every target with them."""
    if isinstance(tree, dict):
        return {key + suffix: renamed_keys(value, suffix) for key, value in tree.items()}
    if isinstance(tree, Alias):
        return Alias("/".join(key + suffix for key in tree.target.split("/")), tree.transpose)
    return tree


def reordered(tree):
    """The same nested dict, its keys put in the other way round."""
    if not isinstance(tree, dict):
        return tree
    return {key: reordered(value) for key, value in reversed(tree.items())}
