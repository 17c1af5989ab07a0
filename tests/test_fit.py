"""Loading into a known tree: all of it, nothing else, nothing guessed."""

import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree import nn

X = jnp.ones((2, 3))
NET = nn.Sequential(nn.Dense(4), nn.BatchNorm(), nn.Dense(2))


def message(call, kind=pt.MismatchError):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def saved(tmp_path, tree, form="npz"):
    pt.save(tree, tmp_path / f"net.{form}")
    return tmp_path / f"net.{form}"


def same(one, other):
    assert pt.names(one) == pt.names(other)
    for name, leaf in pt.collect_params(one).items():
        np.testing.assert_array_equal(leaf, pt.get(other, name))


@pytest.mark.parametrize("form", ["npz", "safetensors", "params"])
@pytest.mark.parametrize("of", [lambda net, params: params, lambda net, params: net.specs(X)])
def test_there_and_back_by_position(tmp_path, form, of, key):
    params = NET.init(key, X)
    names = pt.bind(NET, params).positional_names()
    flat = {theirs: pt.get(params, ours) for theirs, ours in names.items()}
    file = saved(tmp_path, flat, form)
    found = pt.load(file, like=of(NET, params), rename=names)
    same(found, params)
    assert isinstance(found["batchnorm0"]["running_mean"], pt.Fixed)


@pytest.fixture
def key():
    import jax

    return jax.random.key(0)


def tied():
    return {"a": {"w": jnp.arange(4.0).reshape(2, 2)}, "b": pt.Alias("a"), "c": {"w": pt.Alias("a/w", True)}}


def test_a_tied_parameter_has_any_of_its_names(tmp_path):
    value = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    for flat in (
        {"a/w": value},
        {"b/w": value},
        {"c/w": value.T},
        {"a/w": value, "b/w": value, "c/w": value.T},
    ):
        found = pt.load(saved(tmp_path, pt.unflatten(flat)), like=tied())
        assert found["b"] == pt.Alias("a")
        np.testing.assert_array_equal(found["a"]["w"], value)
    found = pt.load(saved(tmp_path, tied()), like=pt.untie(tied()))
    assert sorted(found) == ["a", "b", "c"]
    np.testing.assert_array_equal(found["c"]["w"], tied()["a"]["w"].T)


def test_two_values_for_one_parameter(tmp_path):
    file = saved(tmp_path, {"a": {"w": jnp.ones((2, 2))}, "b": {"w": jnp.zeros((2, 2))}})
    assert message(lambda: pt.load(file, like={"a": {"w": jnp.ones((2, 2))}, "b": pt.Alias("a")})) == (
        "load: the file does not fit the tree:\n  a/w is both a/w and b/w, and they differ"
    )
    nan = {"a": {"w": jnp.full(2, jnp.nan)}, "b": {"w": jnp.full(2, jnp.nan)}}
    assert pt.load(saved(tmp_path, nan), like={"a": {"w": jnp.ones(2)}, "b": pt.Alias("a")})["b"] == pt.Alias(
        "a"
    )


def test_all_faults_at_once(tmp_path):
    file = saved(tmp_path, {
        "dense0": {"weigth": jnp.ones((4, 3)), "bias": jnp.ones(5)}, "extra": np.ones(2, "float16"),
        "shift": np.ones(2, "float16"),
    })  # fmt: skip
    like = {"dense0": {"weight": jnp.ones((4, 3)), "bias": jnp.ones(4)}, "shift": jnp.ones(2)}
    assert message(lambda: pt.load(file, like=like)) == (
        "load: the file does not fit the tree:\n"
        "  dense0/weight is missing. Did you mean dense0/weigth?\n"
        "  dense0/weigth is left over. Did you mean dense0/weight?\n"
        "  extra is left over.\n"
        "  dense0/bias needs shape (4,), and got (5,)\n"
        "  shift needs dtype float32, and got float16; convert it, or pt.cast the tree first"
    )


def test_very_many_faults_are_cut(tmp_path):
    file = saved(tmp_path, {"other": jnp.ones(1)})
    text = message(lambda: pt.load(file, like={f"w{n}": jnp.ones(1) for n in range(100)}))
    assert text.count("\n") == 22
    assert "\n  ... and 80 more\n  other is left over." in text


def test_rename_alone(tmp_path):
    file = saved(tmp_path, {"w": jnp.ones(1)})
    assert message(lambda: pt.load(file, rename={"w": "v"}), pt.ParamTreeError) == (
        "load: rename= goes with like=, the tree to fill. pt.rename changes any tree."
    )


def test_a_tie_of_like_that_leads_nowhere(tmp_path):
    file = saved(tmp_path, {"w": jnp.ones(1)})
    message(lambda: pt.load(file, like={"w": jnp.ones(1), "v": pt.Alias("u")}), pt.TieError)
    message(lambda: pt.load(file, like={"w": pt.Alias("v"), "v": pt.Alias("w")}), pt.TieError)


def test_wide_numbers_are_not_narrowed(tmp_path):
    file = saved(tmp_path, {"w": np.arange(3.0)})
    assert pt.load(file, like={"w": np.zeros(3)})["w"].dtype == np.float64
    assert "needs dtype float32, and got float64" in message(lambda: pt.load(file, like={"w": jnp.zeros(3)}))
