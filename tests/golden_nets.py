"""Nets, parameters and arrays of the Gluon reference data: one of each case in `goldens/index.json`."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import paramtree as pt
from paramtree import init, nn

FOLDER = Path(__file__).parent / "goldens"
INDEX = json.loads((FOLDER / "index.json").read_text())
CASES = {case["id"]: case for case in INDEX["cases"]}

# arrays that have no counterpart here, and why; all others must be read by a check
NOT_COMPARED = {
    "bn_noscale": {"param:0.gamma": "scale=False makes no gamma; Gluon stores one that is always 1"}
}


def arrays(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


class Record:
    """The arrays of a case in one precision, and which of them no check has read."""

    def __init__(self, case, bits=""):
        self.case = case
        self.dtype = jnp.float64 if bits else jnp.float32
        self.tolerance = _tolerance(case, bits)
        self._arrays = _of_precision(arrays(case["id"]), bits)
        self.unread = set(self._arrays)

    def read(self, key):
        self.unread.discard(key)
        return self._arrays[key]

    def named(self, kind):
        """Map names to arrays, for all keys `kind:name`."""
        found = [key for key in self._arrays if key.startswith(f"{kind}:")]
        return {key.partition(":")[2]: self.read(key) for key in found}

    def given(self, kind):
        """Map names to arrays as a net takes them, in this precision."""
        return {name: self.as_given(value) for name, value in self.named(kind).items()}

    def as_given(self, value):
        return jnp.asarray(value, self.dtype if value.dtype.kind == "f" else None)

    def params(self, kind="param"):
        """Make the parameter tree of the case: a tie is an alias; constants and statistics are fixed."""
        skipped = NOT_COMPARED.get(self.case["id"], {})
        flat = {}
        for name, entry in self.case["params"].items():
            if f"{kind}:{name}" in skipped:
                continue
            place, value = our_name(self.case, name), self.as_given(self.read(f"{kind}:{name}"))
            if "tied_to" in entry:
                flat[place.rpartition("/")[0]] = pt.Alias(entry["tied_to"].rpartition(".")[0])
            else:
                fixed = entry["kind"] == "Constant" or ".running_" in name
                flat[place] = pt.Fixed(value) if fixed else value
        return pt.unflatten(flat)

    def compare(self, kind, found):
        """Check arrays by name against all keys `kind:name`."""
        wanted = self.named(kind)
        assert set(found) == set(wanted), kind
        for name, value in found.items():
            close(value, wanted[name], self.tolerance, f"{kind}:{name}")

    def compare_one(self, key, found):
        close(found, self.read(key), self.tolerance, key)


def _of_precision(found, bits):
    """Pick the arrays of one precision: `output64:y` is the `output:y` of float64."""
    given = ("param:", "input:", "cotangent:")
    return {
        key.replace("64:", ":"): value
        for key, value in found.items()
        if key.startswith(given) or ("64:" in key) == bool(bits)
    }


def _tolerance(case, bits):
    if not bits or "scaled" in case["tolerance"]:
        return case["tolerance"]
    default = INDEX["default_tolerance"]
    return {"rtol": default["float64_rtol"], "atol": default["float64_atol"]}


def close(found, wanted, tolerance, key=""):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape, key
    assert found.dtype == wanted.dtype, key
    if "scaled" in tolerance:
        tolerance = {"rtol": 0, "atol": tolerance["scaled"] * np.abs(wanted).max(initial=0)}
    np.testing.assert_allclose(found, wanted, **tolerance, err_msg=key)


# names: ours are Gluon's structural names, but for the recurrent layers


def our_name(case, name):
    name = re.sub(r"^_unfused\.(\d+)\.", r"l\1_", name)
    return f"cell/l0_{name}" if case["arch"]["type"].endswith("Cell") else name.replace(".", "/")


def by_gluon_name(case, params, select=pt.trainable):
    """Collect parameters under Gluon's names, a tied one at all its places."""
    theirs = {our_name(case, name): name for name in case["params"]}
    found = pt.collect_params(pt.untie(params, copy=False), select, allow_empty=True)
    return {theirs[name]: leaf for name, leaf in found.items()}


def grouped(inputs):
    """Group inputs as our recurrent layers take them: x, and one state or a tuple of them."""
    x, *state = inputs
    return (x, tuple(state) if len(state) > 1 else state[0]) if state else (x,)


# nets


def build(case):
    """Make the net of a case; its keys are Gluon's structural names."""
    ties = {name: entry["tied_to"] for name, entry in case["params"].items() if "tied_to" in entry}
    shared = {place.rpartition(".")[0]: source.rpartition(".")[0] for place, source in ties.items()}
    return _build(case["arch"], None, shared)


def _build(arch, name, shared):
    if "children" not in arch:
        return LAYERS[arch["type"]](arch, name=name)
    layers = {}
    for key, child in arch["children"].items():
        layer = _build(child, key, {})
        layers[key] = replace(layer, shares=layers[shared[key]]) if key in shared else layer
    if arch["type"] == "Sequential":
        return nn.Sequential(*layers.values(), name=name)
    return replace({"FancyMLP": fancy_mlp, "NestMLP": nest_mlp}[arch["class"]](**layers), name=name)


def _dense(arch, name):
    return nn.Dense(arch["units"], arch["activation"], use_bias=arch["use_bias"], name=name)


def _conv(arch, name):
    make = nn.ConvTranspose if "output_padding" in arch else nn.Conv
    sizes = {"stride": "strides", "padding": "padding", "dilation": "dilation"}
    sizes |= {"output_padding": "output_padding"} if "output_padding" in arch else {}
    return make(
        arch["channels"],
        tuple(arch["kernel_size"]),
        arch["activation"],
        **{ours: tuple(arch[theirs]) for ours, theirs in sizes.items()},
        groups=arch["groups"],
        layout=arch["layout"],
        use_bias=arch["use_bias"],
        name=name,
    )


def _pool(arch, name):
    make, more = nn.MaxPool, {}
    if arch["pool_type"] == "avg":
        make, more = nn.AvgPool, {"count_include_pad": arch["count_include_pad"]}
    return make(
        tuple(arch["pool_size"]),
        stride=tuple(arch["strides"]),
        padding=tuple(arch["padding"]),
        ceil=arch["ceil_mode"],
        layout=arch["layout"],
        name=name,
        **more,
    )


def _norm(arch, name, make, **more):
    return make(eps=arch["epsilon"], scale=arch["scale"], center=arch["center"], name=name, **more)


def _batch_norm(arch, name):
    return _norm(arch, name, nn.BatchNorm, axis=arch["axis"], momentum=arch["momentum"])


def _recurrent(arch, name):
    make = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}[arch["type"]]
    more = {"activation": arch["mode"].removeprefix("rnn_")} if make is nn.RNN else {}
    return make(
        arch["hidden_size"],
        layers=arch["num_layers"],
        bidirectional=arch["bidirectional"],
        layout=arch["layout"],
        name=name,
        **more,
    )


def _cell(arch, name):
    """One step of a layer of one time step."""
    layer = {"LSTMCell": nn.LSTM, "GRUCell": nn.GRU}[arch["type"]](arch["hidden_size"], layout="TNC")

    @pt.module
    def Cell(scope, x, state):
        x, state = jax.tree.map(lambda each: jnp.expand_dims(each, 0), (x, state))
        _, state = scope.call(layer, x, state, name="cell")
        return jax.tree.map(lambda each: each[0], state)

    return replace(Cell, name=name)


LAYERS = {
    "Dense": _dense,
    "Embedding": lambda arch, name: nn.Embedding(arch["input_dim"], arch["output_dim"], name=name),
    "Activation": lambda arch, name: nn.Activation(arch["activation"], name=name),
    "PReLU": lambda arch, name: nn.PReLU(name=name),
    "Dropout": lambda arch, name: nn.Dropout(arch["rate"], name=name),
    "Flatten": lambda arch, name: nn.Flatten(name=name),
    "Conv1D": _conv,
    "Conv2D": _conv,
    "Conv2DTranspose": _conv,
    "MaxPool2D": _pool,
    "AvgPool2D": _pool,
    "GlobalAvgPool2D": lambda arch, name: nn.GlobalAvgPool(layout=arch["layout"], name=name),
    "BatchNorm": _batch_norm,
    "LayerNorm": lambda arch, name: _norm(arch, name, nn.LayerNorm, axis=arch["axis"]),
    # version 1.9.1 has one gamma and beta per group
    "GroupNorm": lambda arch, name: _norm(
        arch, name, partial(nn.GroupNorm, arch["num_groups"]), per_group=True, layout="NCHW"
    ),
    "InstanceNorm": lambda arch, name: _norm(arch, name, nn.InstanceNorm, layout="NCHW"),
    "RNN": _recurrent,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "LSTMCell": _cell,
    "GRUCell": _cell,
}


def nest_mlp(net, dense):
    @pt.module
    def NestMLP(scope, x):
        return scope.call(dense, scope.call(net, x))

    return NestMLP


def fancy_mlp(dense):
    @pt.module
    def FancyMLP(scope, x):
        x = scope.call(dense, x)
        weight = scope.constant("rand_weight", (20, 20), init.Uniform(1.0))
        x = jax.nn.relu(x @ weight + 1)
        x = scope.call(dense, x)
        while jnp.abs(x).sum() > 1:
            x = x / 2
        if jnp.abs(x).sum() < 0.8:
            x = x * 10
        return x.sum()

    return FancyMLP
