"""Layers: functions that make modules, each written with the public `Scope` alone.

Weights are (out, in). Every layer takes `name=`, its key in the parent, and those with parameters take
`params=`, a layer whose parameters it shares.
"""

from paramtree.nn.activation import Activation, PReLU
from paramtree.nn.attention import MultiHeadAttention
from paramtree.nn.containers import Lambda, Parallel, Repeat, Residual, Sequential, remat
from paramtree.nn.conv import Conv, ConvTranspose
from paramtree.nn.linear import Dense, Embedding
from paramtree.nn.norm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from paramtree.nn.pool import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from paramtree.nn.recurrent import GRU, LSTM, RNN
from paramtree.nn.regularize import Dropout
from paramtree.nn.reshape import Flatten

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "InstanceNorm",
    "Lambda",
    "LayerNorm",
    "MaxPool",
    "MultiHeadAttention",
    "PReLU",
    "Parallel",
    "RMSNorm",
    "Repeat",
    "Residual",
    "Sequential",
    "remat",
]
