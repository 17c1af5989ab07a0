"""Optax, as it is called from here."""

from contextlib import AbstractContextManager
from inspect import Parameter, signature
from typing import Any

import jax
import jax.numpy as jnp

from paramtree import display
from paramtree.errors import ParamTreeError
from paramtree.names import untyped_jax
from paramtree.tree import flat_leaves

_ASKING = ("required keyword-only argument", "must be provided")  # as Python says it, and optax


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


def updates_of(optimizer: Any, gradients: Any, state: Any, params: Any, loss: Any) -> tuple[Any, Any]:
    """Call an optimiser with gradients and, where it takes it, the loss; return updates and its new state.

    Raises:
        ParamTreeError: where it asks for something else.
    """
    asked = signature(optimizer.update).parameters
    takes = "value" in asked or any(each.kind is Parameter.VAR_KEYWORD for each in asked.values())
    try:
        with promoting():
            return optimizer.update(gradients, state, params, **({"value": loss} if takes else {}))
    except (TypeError, ValueError) as error:
        if not any(words in str(error) for words in _ASKING):
            raise
        raise ParamTreeError(
            "train_step: gives an optimiser the gradients, its state, the parameters, and the loss as "
            "value=, and this one asks for more, such as a function to search along. Take one that does not, "
            "as optax.lbfgs(linesearch=None) and optax.contrib.sam(opaque_mode=False), or call it by hand. "
            f"It said: {error}"
        ) from error


def state_faults(optimizer: Any, params: Any, state: Any) -> list[str]:
    """List what an optimiser's state has otherwise than one made of these parameters."""
    with promoting():
        wanted = untyped_jax.eval_shape(optimizer.init, params)
    if _types(wanted) == _types(state):
        return []
    new, old = (_types_by_name(each) for each in (wanted, state))
    faults = [
        f"{name} is {old.get(name, 'not there')}, and would be {new.get(name, 'not there')}"
        for name in dict.fromkeys((*new, *old))
        if new.get(name) != old.get(name)
    ]
    return faults or ["its containers are of other types"]


def _types(state: Any) -> tuple[Any, list[Any]]:
    leaves, structure = untyped_jax.tree.flatten(state)
    return structure, [(jnp.shape(leaf), untyped_jax.typeof(leaf).dtype) for leaf in leaves]


def _types_by_name(state: Any) -> dict[str, str]:
    leaves = flat_leaves(state) if jax.tree.leaves(state) else {}
    return {name: f"of {display.shape_dtype(leaf)}" for name, leaf in leaves.items()}
