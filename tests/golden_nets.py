"""Nets and parameters of the Gluon reference data: one of each case in `goldens/index.json`."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import paramtree as pt
from paramtree import init, nn

FOLDER = Path(__file__).parent / "goldens"
INDEX = json.loads((FOLDER / "index.json").read_text())
CASES = {case["id"]: case for case in INDEX["cases"]}


def arrays(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def build(case):
    """Make the net of a case; its keys are Gluon's structural names."""
    shared = {
        place.rpartition(".")[0]: source.rpartition(".")[0] for place, source in case.get("ties", {}).items()
    }
    return _build(case["arch"], None, shared)


def _build(arch, key, shared):
    kind = arch.get("class", arch["type"])
    if kind == "Dense":
        return nn.Dense(arch["units"], activation=arch.get("activation"), name=key)
    layers = {}
    for name, child in arch["children"].items():
        layer = _build(child, name, {})
        layers[name] = replace(layer, shares=layers[shared[name]]) if name in shared else layer
    if kind == "Sequential":
        return nn.Sequential(*layers.values(), name=key)
    return replace({"FancyMLP": fancy_mlp, "NestMLP": nest_mlp}[kind](**layers), name=key)


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


def params_of(case, values, dtype):
    """Make the parameter tree of a case: a tie is an alias, a constant is fixed."""
    flat = {}
    for key, value in values.items():
        kind, _, name = key.partition(":")
        if kind == "param" and name not in case.get("ties", {}):
            value = jnp.asarray(value, dtype)
            flat[name.replace(".", "/")] = pt.Fixed(value) if name in case.get("constants", ()) else value
    for place, source in case.get("ties", {}).items():
        flat[place.rpartition(".")[0]] = pt.Alias(source.rpartition(".")[0])
    return pt.unflatten(flat)
