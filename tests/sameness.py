"""The one way in which tests compare trees."""

import jax
import numpy as np


def same_leaf(a, b):
    if hasattr(a, "dtype") != hasattr(b, "dtype"):
        return False
    if not hasattr(a, "dtype"):
        return a == b and type(a) is type(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if isinstance(a, jax.ShapeDtypeStruct) or isinstance(b, jax.ShapeDtypeStruct):
        return type(a) is type(b)
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def same_tree(a, b):
    """Tell whether two trees have one structure, and leaves that are equal bit for bit, dtypes included."""
    (a_leaves, a_def), (b_leaves, b_def) = jax.tree.flatten(a), jax.tree.flatten(b)
    return a_def == b_def and all(map(same_leaf, a_leaves, b_leaves))
