"""Gluon's and PyTorch's names: by position in a Sequential, by attribute elsewhere."""

import jax.numpy as jnp
import pytest

import paramtree as pt
from paramtree import nn


def names_of(net, *inputs, style="gluon", trace=()):
    return pt.bind(net, net.specs(*inputs)).positional_names(*trace, style=style)


def message(call):
    with pytest.raises(pt.ParamTreeError) as caught:
        call()
    assert type(caught.value) is pt.ParamTreeError
    return str(caught.value)


def test_layers_without_parameters_have_a_position_too():
    net = nn.Sequential(nn.Flatten(), nn.Dense(3), nn.Activation("relu"), nn.Dense(2, use_bias=False))
    assert names_of(net, "b, 2, 2") == {
        "1.weight": "dense0/weight",
        "1.bias": "dense0/bias",
        "3.weight": "dense1/weight",
    }


def test_nested_containers():
    inner = nn.Sequential(nn.Dense(3), nn.Sequential(nn.Dense(3)))
    net = nn.Sequential(inner, nn.Parallel(nn.Dense(2), nn.Dense(2)), nn.Residual(nn.Dense(4)))
    found = names_of(net, "b, 3")
    assert list(found)[::2] == ["0.0.weight", "0.1.0.weight", "1.0.weight", "1.1.weight", "2.dense0.weight"]
    assert found["0.1.0.bias"] == "sequential0/sequential0/dense0/bias"


def test_one_layer_has_bare_names():
    assert names_of(nn.Dense(2), "b, 3") == {"weight": "weight", "bias": "bias"}


def test_tied_layers_have_every_name_and_one_parameter():
    shared = nn.Dense(4)
    net = nn.Sequential(shared, nn.Dense(4, params=shared), shared)
    found = names_of(net, "b, 4")
    assert found == {
        f"{place}.{kind}": f"{block}/{kind}"
        for place, block in enumerate(["dense0", "dense1", "dense0"])
        for kind in ("weight", "bias")
    }


def test_a_transposed_tie_has_its_own_name():
    params = {"a": {"weight": jnp.ones((2, 3))}, "b": {"weight": pt.Alias("a/weight", transpose=True)}}
    net = nn.Sequential(nn.Dense(2, use_bias=False, name="a"), nn.Dense(3, use_bias=False, name="b"))
    assert pt.bind(net, params).positional_names() == {"0.weight": "a/weight", "1.weight": "b/weight"}


def test_norms_and_activations():
    net = nn.Sequential(nn.BatchNorm(), nn.PReLU())
    keys = ["gamma", "beta", "running_mean", "running_var"]
    ours = [*(f"batchnorm0/{key}" for key in keys), "prelu0/alpha"]
    assert names_of(net, "b, 3") == dict(zip([*(f"0.{key}" for key in keys), "1.alpha"], ours, strict=True))
    torch = ["0.weight", "0.bias", "0.running_mean", "0.running_var", "1.weight"]
    assert names_of(net, "b, 3", style="torch") == dict(zip(torch, ours, strict=True))


def test_recurrent_layers():
    one = names_of(nn.Sequential(nn.LSTM(4, layers=2)), "b, t, 3")
    assert one["0._unfused.1.h2h_bias"] == "lstm0/l1_h2h_bias"
    assert len(one) == 8
    both = names_of(nn.GRU(4, bidirectional=True), "b, t, 3")
    assert both["_unfused.0.l_cell.i2h_weight"] == "l0_i2h_weight"
    assert both["_unfused.0.r_cell.i2h_weight"] == "r0_i2h_weight"
    torch = names_of(nn.GRU(4, bidirectional=True), "b, t, 3", style="torch")
    assert torch["weight_ih_l0"] == "l0_i2h_weight"
    assert torch["bias_hh_l0_reverse"] == "r0_h2h_bias"


def nest_mlp():
    net, dense = nn.Sequential(nn.Dense(4, "relu"), nn.Dense(4)), nn.Dense(2)

    @pt.module
    def NestMLP(scope, x):
        return scope.call(dense, scope.call(net, x, name="net"), name="dense")

    return nn.Sequential(NestMLP, nn.Dense(3))


def test_modules_of_functions_are_looked_into_where_inputs_are_given():
    blind = names_of(nest_mlp(), "b, 5")
    assert "0.net.dense0.weight" in blind
    found = names_of(nest_mlp(), "b, 5", trace=["b, 5"])
    assert list(found)[::2] == ["0.net.0.weight", "0.net.1.weight", "0.dense.weight", "1.weight"]
    assert found["0.net.1.bias"] == "nestmlp0/net/dense1/bias"


def test_faults():
    net = nn.Sequential(nn.Dense(2), nn.Dense(2))
    bound = pt.bind(net, net.specs("b, 2"))
    assert message(lambda: bound.positional_names(style="keras")) == (
        "positional names are of style 'gluon' or 'torch', and not 'keras'."
    )
    assert message(lambda: bound[0].positional_names()) == (
        "dense0 is a part; bind the net that its file is of."
    )

    @pt.module
    def Clash(scope, x):
        return x * scope.param("gamma", (1, 2)) + scope.param("weight", (1, 2))

    clash = pt.bind(Clash, Clash.specs("b, 2"))
    assert message(lambda: clash.positional_names(style="torch")) == (
        "gamma and weight would both be 'weight'; rename a layer."
    )
