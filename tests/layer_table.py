"""One row for each layer: how it is made, what goes in, what it holds, what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from paramtree import Module, init, nn


@dataclass(frozen=True, eq=False)
class Row:
    """A layer and its contract; `make(**options)` takes `name=` and, where it has parameters, `params=`."""

    make: Callable[..., Any]
    inputs: tuple[tuple[int, ...], ...]  # the batch comes first
    output: tuple[int, ...]
    params: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtype: str = "float32"
    text: str = ""
    bound: str = ""  # how it prints with its parameters; as `text`, if left out
    symbolic_params: dict[str, str] = field(default_factory=dict)  # shapes where all sizes are symbols
    trains_on_nothing: bool = True  # whether an empty batch can be trained on
    init: Any = None  # rules for values at which the layer can be tested; all weights are normal, if left out


def recurrent(rows, inputs, hidden, key="l0"):
    """Give the shapes of one layer, in one direction."""
    biases = {f"{key}_i2h_bias": (rows,), f"{key}_h2h_bias": (rows,)}
    return {f"{key}_i2h_weight": (rows, inputs), f"{key}_h2h_weight": (rows, hidden)} | biases


def texts(shapes):
    return {name: str(shape).replace("'", "") for name, shape in shapes.items()}


# values other than those at first, so that each parameter shows in the outputs, which keep away from 0
NORM_INIT = {"gamma": init.Normal(1.0), "beta": init.Constant(5.0)}
STATS_INIT = {"running_mean": init.Normal(0.5), "running_var": init.Constant(2.0)}
NORM_STATS = {"gamma": (4,), "beta": (4,), "running_mean": (4,), "running_var": (4,)}


def mix():
    """Make a layer with a square weight, which gives what it takes, whatever its size."""

    def call(scope, x):
        x = jax.numpy.asarray(x)
        return x @ scope.param("weight", (x.shape[-1],) * 2).T

    return Module(call, "Mix", describe=lambda _: "Mix()")


ROWS = {
    "Dense": Row(
        lambda **kw: nn.Dense(5, **kw), ((3, 4),), (3, 5), {"weight": (5, 4), "bias": (5,)},
        text="Dense(5, linear)", bound="Dense(4 -> 5, linear)",
        symbolic_params={"weight": "(5, s1)", "bias": "(5,)"},
    ),
    "Dense of time": Row(
        lambda **kw: nn.Dense(5, "tanh", **kw), ((3, 2, 4),), (3, 2, 5), {"weight": (5, 4), "bias": (5,)},
        text="Dense(5, tanh)", bound="Dense(4 -> 5, tanh)",
        symbolic_params={"weight": "(5, s2)", "bias": "(5,)"},
    ),
    "Dense without bias": Row(
        lambda **kw: nn.Dense(2, jax.nn.softplus, use_bias=False, **kw),
        ((3, 4),), (3, 2), {"weight": (2, 4)},
        text="Dense(2, softplus)", bound="Dense(4 -> 2, softplus)", symbolic_params={"weight": "(2, s1)"},
    ),
    "Embedding": Row(
        lambda **kw: nn.Embedding(10, 4, **kw), ((3, 2),), (3, 2, 4), {"weight": (10, 4)},
        dtype="int32", text="Embedding(10 -> 4)", symbolic_params={"weight": "(10, 4)"},
    ),
    "Activation": Row(lambda **kw: nn.Activation("gelu", **kw), ((3, 4),), (3, 4), text="Activation(gelu)"),
    "Dropout": Row(lambda **kw: nn.Dropout(0.5, **kw), ((3, 4),), (3, 4), text="Dropout(0.5)"),
    "Flatten": Row(lambda **kw: nn.Flatten(**kw), ((3, 2, 4),), (3, 8), text="Flatten()"),
    "Lambda": Row(
        lambda **kw: nn.Lambda(lambda x, y: x * y + x, **kw),
        ((3, 4), (3, 4)), (3, 4), text="Lambda(<lambda>)",
    ),
    # --- conv, pool ---
    "Conv": Row(
        lambda **kw: nn.Conv(4, 3, "tanh", stride=2, padding="same", **kw), ((3, 5, 6, 2),), (3, 3, 3, 4),
        {"weight": (4, 2, 3, 3), "bias": (4,)},
        text="Conv(4, 3x3, stride 2, same, tanh)", bound="Conv(2 -> 4, 3x3, stride 2, same, tanh)",
        symbolic_params={"weight": "(4, s3, 3, 3)", "bias": "(4,)"},
    ),
    "Conv of time without bias": Row(
        lambda **kw: nn.Conv(4, (3,), padding=((2, 0),), layout="NCW", use_bias=False, **kw),
        ((3, 2, 6),), (3, 4, 6), {"weight": (4, 2, 3)},
        text="Conv(4, 3, pad 2+0, NCW)", bound="Conv(2 -> 4, 3, pad 2+0, NCW)",
        symbolic_params={"weight": "(4, s1, 3)"},
    ),
    "Conv of volumes": Row(
        lambda **kw: nn.Conv(2, (2, 1, 2), dilation=(2, 1, 1), padding=(0, 0, 1), layout="NCHW", **kw),
        ((3, 2, 4, 2, 2),), (3, 2, 2, 2, 3), {"weight": (2, 2, 2, 1, 2), "bias": (2,)},
        text="Conv(2, 2x1x2, pad 0x0x1, dilation 2x1x1, NCDHW)",
        bound="Conv(2 -> 2, 2x1x2, pad 0x0x1, dilation 2x1x1, NCDHW)",
        symbolic_params={"weight": "(2, s1, 2, 1, 2)", "bias": "(2,)"},
    ),
    "ConvTranspose": Row(
        lambda **kw: nn.ConvTranspose(3, 3, "tanh", stride=2, padding=1, output_padding=(1, 0), **kw),
        ((3, 3, 2, 2),), (3, 6, 3, 3), {"weight": (2, 3, 3, 3), "bias": (3,)},
        text="ConvTranspose(3, 3x3, stride 2, pad 1, output pad 1x0, tanh)",
        bound="ConvTranspose(2 -> 3, 3x3, stride 2, pad 1, output pad 1x0, tanh)",
        symbolic_params={"weight": "(s3, 3, 3, 3)", "bias": "(3,)"},
    ),
    "ConvTranspose of time": Row(
        lambda **kw: nn.ConvTranspose(2, (2,), padding="same", dilation=2, stride=3, layout="NCHW", **kw),
        ((3, 4, 3),), (3, 2, 9), {"weight": (4, 2, 2), "bias": (2,)},
        text="ConvTranspose(2, 2, stride 3, same, dilation 2, NCW)",
        bound="ConvTranspose(4 -> 2, 2, stride 3, same, dilation 2, NCW)",
        symbolic_params={"weight": "(s1, 2, 2)", "bias": "(2,)"},
    ),
    "MaxPool": Row(
        lambda **kw: nn.MaxPool(2, **kw), ((3, 4, 5, 2),), (3, 2, 2, 2), text="MaxPool(2x2)",
    ),
    "MaxPool padded": Row(
        lambda **kw: nn.MaxPool((3, 2), stride=2, padding=(1, 0), ceil=True, layout="NCHW", **kw),
        ((3, 2, 4, 5),), (3, 2, 3, 3), text="MaxPool(3x2, stride 2, pad 1x0, NCHW, ceil)",
    ),
    "AvgPool": Row(
        lambda **kw: nn.AvgPool(2, stride=(2, 1), padding="same", **kw), ((3, 4, 5, 2),), (3, 2, 5, 2),
        text="AvgPool(2x2, stride 2x1, same)",
    ),
    "AvgPool of time": Row(
        lambda **kw: nn.AvgPool((3,), stride=2, padding=1, ceil=True, count_include_pad=False, **kw),
        ((3, 6, 2),), (3, 4, 2), text="AvgPool(3, stride 2, pad 1, ceil, pad not counted)",
    ),
    "GlobalAvgPool": Row(
        lambda **kw: nn.GlobalAvgPool(**kw), ((3, 4, 5, 2),), (3, 1, 1, 2), text="GlobalAvgPool()",
    ),
    "GlobalMaxPool": Row(
        lambda **kw: nn.GlobalMaxPool(layout="NCHW", **kw), ((3, 2, 4, 2, 2),), (3, 2, 1, 1, 1),
        text="GlobalMaxPool(NCHW)",
    ),
    # --- norm, PReLU ---
    "BatchNorm": Row(
        lambda **kw: nn.BatchNorm(**kw), ((3, 4),), (3, 4), NORM_STATS,
        text="BatchNorm()", bound="BatchNorm(4)", symbolic_params=dict.fromkeys(NORM_STATS, "(s1,)"),
        trains_on_nothing=False, init=NORM_INIT | STATS_INIT,
    ),
    "BatchNorm of channels first": Row(
        lambda **kw: nn.BatchNorm(axis=1, momentum=0.8, eps=0.001, scale=False, **kw), ((3, 4, 2, 5),),
        (3, 4, 2, 5), {"beta": (4,), "running_mean": (4,), "running_var": (4,)},
        text="BatchNorm(axis 1, momentum 0.8, eps 0.001, no scale)",
        bound="BatchNorm(4, axis 1, momentum 0.8, eps 0.001, no scale)",
        symbolic_params=dict.fromkeys(("beta", "running_mean", "running_var"), "(s1,)"),
        trains_on_nothing=False, init={"beta": init.Constant(5.0)} | STATS_INIT,
    ),
    "LayerNorm": Row(
        lambda **kw: nn.LayerNorm(**kw), ((3, 2, 4),), (3, 2, 4), {"gamma": (4,), "beta": (4,)},
        text="LayerNorm()", bound="LayerNorm(4)", symbolic_params={"gamma": "(s2,)", "beta": "(s2,)"},
        init=NORM_INIT,
    ),
    "LayerNorm of two axes": Row(
        lambda **kw: nn.LayerNorm(axis=(-1, 1), eps=0.01, center=False, **kw), ((3, 2, 5, 4),), (3, 2, 5, 4),
        {"gamma": (2, 4)}, text="LayerNorm(axis (-1, 1), eps 0.01, no center)",
        bound="LayerNorm(2x4, axis (-1, 1), eps 0.01, no center)", symbolic_params={"gamma": "(s1, s3)"},
        init={"gamma": init.Normal(1.0)},
    ),
    "RMSNorm": Row(
        lambda **kw: nn.RMSNorm(**kw), ((3, 2, 4),), (3, 2, 4), {"gamma": (4,)},
        text="RMSNorm()", bound="RMSNorm(4)", symbolic_params={"gamma": "(s2,)"},
        init={"gamma": init.Normal(1.0)},
    ),
    "GroupNorm": Row(
        lambda **kw: nn.GroupNorm(2, **kw), ((3, 5, 4),), (3, 5, 4), {"gamma": (4,), "beta": (4,)},
        text="GroupNorm(2 groups)", bound="GroupNorm(4, 2 groups)",
        symbolic_params={"gamma": "(s2,)", "beta": "(s2,)"}, init=NORM_INIT,
    ),
    "GroupNorm of channels first, per group": Row(
        lambda **kw: nn.GroupNorm(2, per_group=True, layout="NCHW", **kw), ((3, 6, 2, 3),), (3, 6, 2, 3),
        {"gamma": (2,), "beta": (2,)}, text="GroupNorm(2 groups, layout NCHW, per group)",
        symbolic_params={"gamma": "(2,)", "beta": "(2,)"}, init=NORM_INIT,
    ),
    "InstanceNorm": Row(
        lambda **kw: nn.InstanceNorm(**kw), ((3, 2, 5, 4),), (3, 2, 5, 4), {"gamma": (4,), "beta": (4,)},
        text="InstanceNorm()", bound="InstanceNorm(4)", symbolic_params={"gamma": "(s3,)", "beta": "(s3,)"},
        init=NORM_INIT,
    ),
    "InstanceNorm of channels first": Row(
        lambda **kw: nn.InstanceNorm(layout="NCHW", **kw), ((3, 4, 5),), (3, 4, 5),
        {"gamma": (4,), "beta": (4,)}, text="InstanceNorm(layout NCHW)",
        bound="InstanceNorm(4, layout NCHW)", symbolic_params={"gamma": "(s1,)", "beta": "(s1,)"},
        init=NORM_INIT,
    ),
    "PReLU": Row(
        lambda **kw: nn.PReLU(**kw), ((3, 4),), (3, 4), {"alpha": (1,)},
        text="PReLU()", symbolic_params={"alpha": "(1,)"},
    ),
    # --- recurrent, attention ---
    "RNN": Row(
        lambda **kw: nn.RNN(3, activation="softsign", **kw), ((3, 2, 4),), (3, 2, 3), recurrent(3, 4, 3),
        text="RNN(3, softsign)", bound="RNN(4 -> 3, softsign)",
        symbolic_params=texts(recurrent(3, "s2", 3)),
    ),
    "LSTM": Row(
        lambda **kw: nn.LSTM(3, **kw), ((3, 2, 4),), (3, 2, 3), recurrent(12, 4, 3),
        text="LSTM(3)", bound="LSTM(4 -> 3)", symbolic_params=texts(recurrent(12, "s2", 3)),
    ),
    "LSTM deep": Row(
        lambda **kw: nn.LSTM(2, layers=2, bidirectional=True, **kw), ((3, 2, 5),), (3, 2, 4),
        recurrent(8, 5, 2) | recurrent(8, 5, 2, "r0") | recurrent(8, 4, 2, "l1") | recurrent(8, 4, 2, "r1"),
        text="LSTM(2, 2 layers, both ways)", bound="LSTM(5 -> 2, 2 layers, both ways)",
        symbolic_params=texts(
            recurrent(8, "s2", 2) | recurrent(8, "s2", 2, "r0")
            | recurrent(8, 4, 2, "l1") | recurrent(8, 4, 2, "r1")
        ),
    ),
    "GRU": Row(
        lambda **kw: nn.GRU(3, **kw), ((3, 2, 4),), (3, 2, 3), recurrent(9, 4, 3),
        text="GRU(3)", bound="GRU(4 -> 3)", symbolic_params=texts(recurrent(9, "s2", 3)),
    ),
    "MultiHeadAttention": Row(
        lambda **kw: nn.MultiHeadAttention(2, features=4, **kw), ((3, 2, 6),), (3, 2, 4),
        {
            "query/weight": (4, 6), "query/bias": (4,), "key/weight": (4, 6), "key/bias": (4,),
            "value/weight": (4, 6), "value/bias": (4,), "out/weight": (4, 4), "out/bias": (4,),
        },
        text="MultiHeadAttention(4, 2 heads)", bound="MultiHeadAttention(6 -> 4, 2 heads)",
        symbolic_params={
            "query/weight": "(4, s2)", "query/bias": "(4,)", "key/weight": "(4, s2)", "key/bias": "(4,)",
            "value/weight": "(4, s2)", "value/bias": "(4,)", "out/weight": "(4, 4)", "out/bias": "(4,)",
        },
    ),
    "MultiHeadAttention grouped": Row(
        lambda **kw: nn.MultiHeadAttention(4, features=8, kv_heads=2, causal=True, use_bias=False, **kw),
        ((3, 2, 4), (3, 5, 6)), (3, 2, 8),
        {"query/weight": (8, 4), "key/weight": (4, 6), "value/weight": (4, 6), "out/weight": (8, 8)},
        text="MultiHeadAttention(8, 4 heads, 2 kv_heads, causal)",
        bound="MultiHeadAttention(4 -> 8, 4 heads, 2 kv_heads, causal)",
        symbolic_params={
            "query/weight": "(8, s2)", "key/weight": "(4, s2)", "value/weight": "(4, s2)",
            "out/weight": "(8, 8)",
        },
    ),
    # --- containers ---
    "Sequential": Row(
        lambda **kw: nn.Sequential(nn.Flatten(), nn.Dense(3, "tanh"), nn.Dropout(0.5), nn.Dense(2), **kw),
        ((3, 2, 4),), (3, 2),
        {"dense0/weight": (3, 8), "dense0/bias": (3,), "dense1/weight": (2, 3), "dense1/bias": (2,)},
        text=(
            "Sequential(\n  (0) flatten0: Flatten()\n  (1) dense0: Dense(3, tanh)\n"
            "  (2) dropout0: Dropout(0.5)\n  (3) dense1: Dense(2, linear)\n)"
        ),
        bound=(
            "Sequential(\n  (0) flatten0: Flatten()\n  (1) dense0: Dense(8 -> 3, tanh)\n"
            "  (2) dropout0: Dropout(0.5)\n  (3) dense1: Dense(3 -> 2, linear)\n)"
        ),
        symbolic_params={
            "dense0/weight": "(3, s1*s2)", "dense0/bias": "(3,)",
            "dense1/weight": "(2, 3)", "dense1/bias": "(2,)",
        },
    ),
    "Sequential of nothing": Row(lambda **kw: nn.Sequential(**kw), ((3, 4),), (3, 4), text="Sequential()"),
    "Residual": Row(
        lambda **kw: nn.Residual(mix(), nn.Activation("tanh"), **kw),
        ((3, 4),), (3, 4), {"mix0/weight": (4, 4)},
        text="Residual(\n  (0) mix0: Mix()\n  (1) activation0: Activation(tanh)\n)",
        symbolic_params={"mix0/weight": "(s1, s1)"},
    ),
    "Residual with a shortcut": Row(
        lambda **kw: nn.Residual(nn.Dense(5, "tanh"), shortcut=nn.Dense(5, use_bias=False), **kw),
        ((3, 4),), (3, 5), {"dense0/weight": (5, 4), "dense0/bias": (5,), "shortcut/weight": (5, 4)},
        text="Residual(\n  (0) dense0: Dense(5, tanh)\n  (1) shortcut: Dense(5, linear)\n)",
        bound="Residual(\n  (0) dense0: Dense(4 -> 5, tanh)\n  (1) shortcut: Dense(4 -> 5, linear)\n)",
        symbolic_params={"dense0/weight": "(5, s1)", "dense0/bias": "(5,)", "shortcut/weight": "(5, s1)"},
    ),
    "Parallel": Row(
        lambda **kw: nn.Parallel(nn.Dense(2, "tanh"), nn.Activation("silu"), **kw),
        ((3, 4),), (3, 6), {"dense0/weight": (2, 4), "dense0/bias": (2,)},
        text="Parallel concatenate(\n  (0) dense0: Dense(2, tanh)\n  (1) activation0: Activation(silu)\n)",
        bound=(
            "Parallel concatenate(\n  (0) dense0: Dense(4 -> 2, tanh)\n"
            "  (1) activation0: Activation(silu)\n)"
        ),
        symbolic_params={"dense0/weight": "(2, s1)", "dense0/bias": "(2,)"},
    ),
    "Parallel sum of two inputs": Row(
        lambda **kw: nn.Parallel(
            nn.Lambda(lambda x, y: x * y), nn.Lambda(lambda x, y: x), combine="sum", **kw
        ),
        ((3, 4), (3, 4)), (3, 4),
        text="Parallel sum(\n  (0) lambda0: Lambda(<lambda>)\n  (1) lambda1: Lambda(<lambda>)\n)",
    ),
    "Repeat": Row(
        lambda **kw: nn.Repeat(mix(), 3, **kw), ((3, 4),), (3, 4), {"mix/weight": (3, 4, 4)},
        text="Repeat 3 times(\n  (0) mix: Mix()\n)", symbolic_params={"mix/weight": "(3, s1, s1)"},
    ),
    "Repeat of a Repeat": Row(
        lambda **kw: nn.Repeat(
            nn.Sequential(nn.Repeat(nn.Residual(mix(), nn.PReLU()), 2), nn.Dropout(0.5), name="block"),
            3, **kw,
        ),
        ((3, 4),), (3, 4),
        {
            "block/repeat0/residual/mix0/weight": (3, 2, 4, 4),
            "block/repeat0/residual/prelu0/alpha": (3, 2, 1),
        },
        text=(
            "Repeat 3 times(\n  (0) block: Sequential(\n    (0) repeat0: Repeat 2 times(\n"
            "      (0) residual: Residual(\n        (0) mix0: Mix()\n        (1) prelu0: PReLU()\n"
            "      )\n    )\n    (1) dropout0: Dropout(0.5)\n  )\n)"
        ),
        symbolic_params={
            "block/repeat0/residual/mix0/weight": "(3, 2, s1, s1)",
            "block/repeat0/residual/prelu0/alpha": "(3, 2, 1)",
        },
        init={".*weight": init.Normal(0.3)},
    ),
    "remat": Row(
        lambda **kw: nn.remat(nn.Dense(5, "tanh", **kw)), ((3, 4),), (3, 5), {"weight": (5, 4), "bias": (5,)},
        text="Dense(5, tanh)", bound="Dense(4 -> 5, tanh)",
        symbolic_params={"weight": "(5, s1)", "bias": "(5,)"},
    ),
    "remat in a Repeat": Row(
        lambda **kw: nn.Repeat(nn.remat(nn.Residual(mix(), nn.Dropout(0.5))), 2, **kw),
        ((3, 4),), (3, 4), {"residual/mix0/weight": (2, 4, 4)},
        text=(
            "Repeat 2 times(\n  (0) residual: Residual(\n    (0) mix0: Mix()\n"
            "    (1) dropout0: Dropout(0.5)\n  )\n)"
        ),
        symbolic_params={"residual/mix0/weight": "(2, s1, s1)"},
    ),
}  # fmt: skip
