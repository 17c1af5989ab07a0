"""Against MXNet Gluon 1.9.1: the same values give the same outputs and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_nets import CASES, INDEX, arrays, build, params_of

import paramtree as pt
from paramtree import nn

TRACEABLE = [
    name for name in CASES if "constants" not in CASES[name]
]  # FancyMLP branches on values in Python


def close(found, wanted, tolerance):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    if "scaled" in tolerance:
        assert np.abs(found - wanted).max() <= tolerance["scaled"] * np.abs(wanted).max()
    else:
        np.testing.assert_allclose(found, wanted, **tolerance)


def tolerance_of(case, bits):
    if bits == "" or "scaled" in case["tolerance"]:
        return case["tolerance"]
    default = INDEX["default_tolerance"]
    return {"rtol": default["float64_rtol"], "atol": default["float64_atol"]}


def check(name, bits, transform):
    case, values = CASES[name], arrays(name)
    dtype = jnp.float64 if bits else jnp.float32
    net, params = build(case), params_of(case, values, dtype)
    x, cotangent = jnp.asarray(values["input:x"], dtype), jnp.asarray(values["cotangent:y"], dtype)
    tolerance = tolerance_of(case, bits)

    def loss(params, x):
        y = net.apply(params, x)
        return (y * cotangent).sum(), y

    (grads, grad_x), y = transform(jax.grad(loss, (0, 1), has_aux=True))(params, x)
    assert y.dtype == dtype
    close(y, values[f"output{bits}:y"], tolerance)
    close(grad_x, values[f"grad_input{bits}:x"], tolerance)
    wanted = {key.partition(":")[2] for key in values if key.startswith(f"grad{bits}:")}
    found = {key.replace("/", "."): grad for key, grad in pt.collect_params(grads).items()}
    for key in wanted - set(case.get("ties", {})):
        close(found.pop(key), values[f"grad{bits}:{key}"], tolerance)
    assert set(found) == set(case.get("constants", ()))
    assert not any(np.asarray(grad).any() for grad in found.values())  # a constant has no gradient


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    check(name, "", lambda function: function)


@pytest.mark.parametrize("name", TRACEABLE)
def test_values_and_gradients_jitted(name):
    check(name, "", jax.jit)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_in_float64(name):
    with jax.enable_x64(True):
        check(name, "64", jax.jit if name in TRACEABLE else lambda function: function)


@pytest.mark.parametrize("name", CASES)
def test_specs_are_the_same_tree(name):
    case, values = CASES[name], arrays(name)
    wanted = params_of(case, values, jnp.float32)
    found = build(case).specs(values["input:x"])
    assert [spec.shape for spec in jax.tree.leaves(found)] == [leaf.shape for leaf in jax.tree.leaves(wanted)]
    assert jax.tree.structure(found) == jax.tree.structure(wanted)


@pytest.mark.parametrize("transform", [lambda function: function, jax.jit], ids=["eager", "jit"])
def test_the_gradient_of_a_tie_is_the_sum_of_the_untied_ones(transform):
    case, values = CASES["tied_chapter"], arrays("tied_chapter")
    net, tied = build(case), params_of(case, values, jnp.float32)
    untied = pt.untie(tied)

    def loss(params):
        return (net.apply(params, values["input:x"]) * values["cotangent:y"]).sum()

    grads, apart = transform(jax.grad(loss))(tied), transform(jax.grad(loss))(untied)
    assert grads["2"] == pt.Alias("1")
    assert pt.names(apart) == [*(f"{layer}/{key}" for layer in range(4) for key in ("weight", "bias"))]
    for key in ("weight", "bias"):
        close(grads["1"][key], apart["1"][key] + apart["2"][key], case["tolerance"])
        for layer in "0123":
            close(apart[layer][key], values[f"untied_grad:{layer}.{key}"], case["tolerance"])
    assert jax.tree.structure(pt.tie(untied, pt.find_tied(pt.untie(tied, copy=False)))) == jax.tree.structure(
        tied
    )


def test_the_chapter_prints():
    """The chapter's own weights give the chapter's printed outputs, to the last printed digit."""
    values = arrays("chapter_values")
    net = nn.Sequential(nn.Dense(256, activation="relu"), nn.Dense(10))
    zeros = {"dense0": jnp.zeros(256), "dense1": jnp.zeros(10)}
    params = {name: {"weight": values[f"{name}_weight"], "bias": bias} for name, bias in zeros.items()}
    y = np.asarray(net.apply(params, values["x"]))
    np.testing.assert_allclose(y, values["net_out"], rtol=0, atol=2e-8)
    with np.printoptions(precision=6, suppress=True, linewidth=100):
        assert str(y[0]) == (
            "[ 0.062403 -0.032686  0.025827  0.022542 -0.037288 -0.042538  0.005406 -0.013642 -0.099155\n"
            " -0.022727]"
        )


def test_the_chapter_edits():
    values = arrays("chapter_values")
    params = {"dense0": {"weight": jnp.asarray(values["myinit:dense0_weight"])}}
    edited = pt.update(params, {"dense0/weight": lambda old: (old + 1).at[0, 0].set(42)})
    assert np.array_equal(edited["dense0"]["weight"][0], values["edited:dense0_weight_row0"])
