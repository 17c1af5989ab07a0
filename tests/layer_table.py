"""One row for each layer: how it is made, what goes in, what it holds, what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from paramtree import nn


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
    # --- norm, PReLU ---
    # --- recurrent, attention ---
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
}  # fmt: skip
