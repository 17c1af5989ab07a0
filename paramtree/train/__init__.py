"""Train parts of a tree: optimisers by rules, one jitted step, and packing of many small leaves."""

from paramtree.train.fused import Fused, fuse, unfuse
from paramtree.train.groups import group_optimizers
from paramtree.train.state import TrainState
from paramtree.train.step import TrainStep, train_step

__all__ = ["Fused", "TrainState", "TrainStep", "fuse", "group_optimizers", "train_step", "unfuse"]
