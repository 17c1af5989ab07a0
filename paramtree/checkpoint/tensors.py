"""Tensors of PyTorch among the leaves of a tree: their values as arrays, and arrays as tensors again."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.errors import MismatchError

Array = np.ndarray[Any, Any]

_BITS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}  # what both libraries know, by size in bytes


def is_tensor(leaf: Any) -> bool:
    """Tell whether a leaf is a tensor, without importing torch."""
    return type(leaf).__module__.partition(".")[0] == "torch" and hasattr(leaf, "detach")


def tensor_spec(tensor: Any) -> jax.ShapeDtypeStruct:
    """Give a tensor's shape and dtype as JAX writes them.

    Raises:
        MismatchError: for a dtype that NumPy does not have.
    """
    try:
        dtype = jnp.dtype(str(tensor.dtype).removeprefix("torch."))
    except TypeError as error:
        raise MismatchError(
            f"a tensor of {tensor.dtype} has no dtype that NumPy knows; dequantise it."
        ) from error
    return jax.ShapeDtypeStruct(tuple(tensor.shape), dtype)


def array_of(tensor: Any) -> Array:
    """Give a tensor's values: on a CPU the same memory, not a copy."""
    import torch

    dtype = tensor_spec(tensor).dtype
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if dtype.isbuiltin == 1:
        return tensor.numpy()
    return tensor.view(getattr(torch, _BITS[dtype.itemsize])).numpy().view(dtype)


def tensor_of(array: Array, like: Any) -> Any:
    """Make a tensor of an array, of the dtype and on the device of another."""
    import torch

    if array.dtype.isbuiltin == 1:
        return torch.from_numpy(array).to(like.device)
    return (
        torch.from_numpy(array.view(_BITS[array.dtype.itemsize]))
        .view(getattr(torch, array.dtype.name))
        .to(like.device)
    )
