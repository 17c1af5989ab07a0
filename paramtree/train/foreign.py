"""Optax, as it is called from here."""

from contextlib import AbstractContextManager
from typing import Any

import jax

from paramtree.errors import ParamTreeError


def import_optax(asked: str) -> Any:
    """Import optax.

    Raises:
        ParamTreeError: where it is not installed.
    """
    try:
        import optax
    except ImportError as error:
        raise ParamTreeError(
            f"{asked} needs optax. Install it with: pip install 'paramtree-jax[train]'."
        ) from error
    return optax


def promoting() -> AbstractContextManager[None]:
    """Let dtypes be promoted as JAX does by default, which optax counts on: it raises floats to integers."""
    return jax.numpy_dtype_promotion("standard")
