"""Layers: functions that make modules, each written with the public `Scope` alone.

Weights are (out, in). Every layer takes `name=`, its key in the parent, and those with parameters take
`params=`, a layer whose parameters it shares.
"""

from paramtree.nn.activation import Activation
from paramtree.nn.containers import Lambda, Sequential
from paramtree.nn.linear import Dense, Embedding
from paramtree.nn.regularize import Dropout
from paramtree.nn.reshape import Flatten

__all__ = ["Activation", "Dense", "Dropout", "Embedding", "Flatten", "Lambda", "Sequential"]
