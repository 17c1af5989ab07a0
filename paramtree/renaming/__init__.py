"""Names of other programs: rules that turn them into ours and back, steps for the arrays, ready sets."""

from paramtree.renaming.convert import Convert, Flatten, Join, Split, Step, Transpose, Unflatten
from paramtree.renaming.flax_names import linen, nnx
from paramtree.renaming.haiku_names import haiku
from paramtree.renaming.inverse import invert
from paramtree.renaming.moves import Move, Naming, find_moves
from paramtree.renaming.torch_names import torch

__all__ = [
    "Convert", "Flatten", "Join", "Move", "Naming", "Split", "Step", "Transpose", "Unflatten",
    "find_moves", "haiku", "invert", "linen", "nnx", "torch",
]  # fmt: skip
