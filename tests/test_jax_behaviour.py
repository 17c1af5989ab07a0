"""Trees with ties and constants under JAX's transformations, and trees of other libraries."""

import copy
import pickle
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paramtree.nodes import Alias, Fixed, resolve
from paramtree.ties import find_tied, freeze, trainable, untie
from paramtree.train import train_step
from paramtree.tree import (
    ParamDict,
    cast,
    collect_params,
    get,
    label_params,
    map_params,
    mask,
    names,
    update,
)


class State(NamedTuple):
    mu: object
    nu: object


def tied(uses=2):
    """One square matrix under `uses` names, a bias, and a constant."""
    weight = jnp.arange(9.0).reshape(3, 3) / 9 - 0.4
    params = {"layer0": {"weight": weight}, "out": {"bias": jnp.ones(3)}, "shift": Fixed(jnp.full(3, 0.5))}
    return params | {f"layer{use}": Alias("layer0") for use in range(1, uses)}


def loss(params):
    plain = resolve(params)
    x = plain["shift"]
    for key in sorted(plain):
        if key.startswith("layer"):
            x = jnp.tanh(plain[key]["weight"] @ x)
    return (x * plain["out"]["bias"]).sum()


@pytest.mark.parametrize("uses", [2, 5])
@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
def test_the_gradient_of_a_tied_leaf_is_the_sum_over_its_uses(uses, wrap):
    params = tied(uses)
    grads = wrap(jax.grad(loss))(params)
    apart = wrap(jax.grad(loss))(untie(params))
    total = sum(apart[f"layer{use}"]["weight"] for use in range(uses))
    np.testing.assert_allclose(grads["layer0"]["weight"], total, rtol=1e-5, atol=1e-7)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert not grads["shift"].value.any()
    assert names(grads) == names(params)


def test_nodes_go_through_jit_vmap_and_eval_shape():
    params = tied(3)
    np.testing.assert_allclose(jax.jit(loss)(params), loss(params), rtol=1e-6)
    same = jax.jit(lambda p: p)(params)
    assert same["layer2"] == Alias("layer0")
    assert isinstance(same["shift"], Fixed)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    out = jax.vmap(loss)(stacked)
    np.testing.assert_allclose(out[0], loss(params), rtol=1e-6)
    axes = jax.vmap(loss, in_axes=(jax.tree.map(lambda leaf: 0, params),))(stacked)
    np.testing.assert_allclose(axes, out)
    shapes = jax.eval_shape(lambda p: p, params)
    assert shapes["layer0"]["weight"].shape == (3, 3)
    assert shapes["layer1"] == Alias("layer0")
    assert jax.eval_shape(loss, shapes).shape == ()


def test_two_trees_with_other_ties_are_traced_apart():
    traces = []

    @jax.jit
    def total(params):
        traces.append(1)
        return sum(leaf.sum() for leaf in jax.tree.leaves(resolve(params)))

    a, b = jnp.ones(2), jnp.full(2, 10.0)
    assert total({"a": a, "b": b, "c": Alias("a")}) == 24
    assert total({"a": a, "b": b, "c": Alias("b")}) == 42
    assert total({"c": Alias("b"), "b": b, "a": a}) == 42
    assert len(traces) == 2


def test_a_tied_tree_can_be_donated_where_a_duplicated_one_cannot():
    def step(params):
        return jax.tree.map(lambda leaf: leaf + 1, params)

    params = tied()
    new = jax.jit(step, donate_argnums=0)(jax.tree.map(jnp.copy, params))
    np.testing.assert_array_equal(new["layer0"]["weight"], params["layer0"]["weight"] + 1)
    twice = untie(jax.tree.map(jnp.copy, params), copy=False)
    assert find_tied(twice)
    with pytest.raises(Exception, match="donate"):
        jax.block_until_ready(jax.jit(step, donate_argnums=0)(twice))
    jax.jit(step, donate_argnums=0)(untie(params))


def test_nodes_go_through_tree_map_pickle_and_deepcopy():
    params = tied()
    for other in (
        jax.tree.map(lambda leaf: leaf, params),
        pickle.loads(pickle.dumps(params)),
        copy.deepcopy(params),
    ):
        assert jax.tree.structure(other) == jax.tree.structure(params)
        np.testing.assert_array_equal(other["layer0"]["weight"], params["layer0"]["weight"])
        assert other["layer1"] == Alias("layer0")
        np.testing.assert_array_equal(other["shift"].value, params["shift"].value)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    assert paths == ["['layer0']['weight']", "['out']['bias']", "['shift'].value"]


def test_adam_keeps_one_state_for_a_tied_leaf():
    optax = pytest.importorskip("optax")
    params = tied()
    optimizer = optax.adam(0.1)
    state = optimizer.init(params)
    assert len(jax.tree.leaves(state[0].mu)) == 3
    assert names(state[0].mu) == names(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic mixes dtypes
        new, state = step(params, state)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    assert not np.array_equal(new["layer0"]["weight"], params["layer0"]["weight"])
    np.testing.assert_array_equal(new["shift"].value, params["shift"].value)
    assert [name for name in names(state) if "/mu/" in name] == [
        "0/mu/layer0/weight",
        "0/mu/out/bias",
        "0/mu/shift",
    ]
    labels = label_params(params, {"layer0/.*": "slow"}, default="fast")
    grouped = optax.partition({"slow": optax.sgd(0.1), "fast": optax.set_to_zero()}, labels)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = grouped.update(jax.grad(loss)(params), grouped.init(params), params)
    assert updates["layer0"]["weight"].any()
    assert not updates["out"]["bias"].any()


def test_masked_optimizers_leave_holes_in_constants():
    optax = pytest.importorskip("optax")
    params = tied()
    state = optax.masked(optax.trace(0.9), mask(params, trainable)).init(params)
    assert [name.rpartition("trace/")[2] for name in names(state)] == ["layer0/weight", "out/bias"]
    assert list(collect_params(state, trainable)) == names(state)
    assert len(collect_params(state, lambda name, leaf: "weight" in name and leaf.shape == (3, 3))) == 1


@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
def test_a_part_is_trained_through_update(wrap):
    params = tied()
    part = collect_params(params, ["layer0/.*"])
    grads = wrap(jax.grad(lambda sub, whole: loss(update(whole, sub))))(part, params)
    assert type(grads) is ParamDict
    assert list(grads) == ["layer0/weight"]
    np.testing.assert_allclose(grads["layer0/weight"], jax.grad(loss)(params)["layer0"]["weight"], rtol=1e-6)
    only = collect_params(params, trainable)
    assert list(wrap(jax.grad(lambda sub: loss(update(params, sub))))(only)) == ["layer0/weight", "out/bias"]


def test_a_collection_keeps_its_order_through_jit():
    params = {
        "layer10": {"weight": jnp.ones(1), "bias": jnp.zeros(1)},
        "layer2": {"weight": jnp.full(1, 2.0)},
    }
    found = collect_params(params)
    order = ["layer2/weight", "layer10/weight", "layer10/bias"]
    seen = []

    @jax.jit
    def double(inner):
        seen.append(list(inner))
        return jax.tree.map(lambda leaf: 2 * leaf, inner)

    doubled = double(found)
    assert list(found) == list(doubled) == seen[0] == order
    assert [float(leaf[0]) for leaf in doubled.values()] == [4.0, 2.0, 0.0]
    assert [path[0].key for path, _ in jax.tree.leaves_with_path(found)] == order
    assert list(jax.grad(lambda inner: sum(leaf.sum() for leaf in inner.values()))(found)) == order


def test_names_and_verbs_inside_of_jit():
    params = tied()
    seen = []

    @jax.jit
    def inside(inner):
        seen.append((names(inner), repr(collect_params(inner, "out/.*"))))
        inner = update(inner, {"out/bias": lambda old: 2 * old})
        inner = map_params(lambda name, leaf: leaf + 1, inner, "shift")
        return cast(freeze(inner, "layer0/.*"), {"out/.*": "bfloat16"})

    new = inside(params)
    assert seen[0] == (names(params), repr(collect_params(params, "out/.*")))
    assert new["out"]["bias"].dtype == jnp.bfloat16
    assert isinstance(new["layer0"]["weight"], Fixed)
    assert get(new, "layer1/weight").shape == (3, 3)


LEAVES = {
    "bfloat16": jnp.ones(2, jnp.bfloat16),
    "numpy": np.ones((2, 2)),
    "empty": jnp.ones((0, 3)),
    "scalar": jnp.ones(()),
    "numpy scalar": np.float32(1),
    "int": jnp.arange(3),
    "bool": jnp.array([True]),
    "key": jax.random.key(0),
    "stand-in": jax.ShapeDtypeStruct((2,), jnp.float32),
    "python": 1.0,
}


@pytest.mark.parametrize("kind", LEAVES)
def test_every_kind_of_leaf(kind):
    leaf = LEAVES[kind]
    params = {"a": {"w": leaf}, "b": Alias("a"), "c": Fixed(leaf)}
    assert collect_params(params)["a/w"] is leaf
    assert get(params, "b/w") is leaf
    assert update(params, {"a/w": leaf})["a"]["w"] is leaf
    assert update(params, {"c": lambda old: old})["c"].value is leaf
    assert resolve(mask(params, ".*w")) == {"a": {"w": True}, "b": {"w": True}, "c": False}
    shared = {} if kind in ("stand-in", "python") else {"b": "a", "c": "a/w"}
    assert find_tied(untie(params, copy=False)) == shared
    assert "a/w" in repr(collect_params(params))
    assert "<table" in collect_params(params)._repr_html_()
    assert resolve(params)["b"]["w"] is leaf


def test_an_empty_tree_and_one_leaf():
    assert names({}) == []
    assert collect_params({}) == {}
    assert update({}, {}) == {}
    assert resolve({}) == {}
    assert find_tied({}) == {}
    assert map_params(len, {}) == {}
    assert jax.jit(lambda inner: inner)(collect_params({})) == {}
    one = {"w": jnp.ones(2)}
    assert names(one) == ["w"]
    assert collect_params(one, "w")["w"] is one["w"]
    assert update(one, {"w": jnp.zeros(2)})["w"].tolist() == [0.0, 0.0]


FOREIGN = [
    ("list", [{"w": 1.0}, {"w": 2.0}], ["0/w", "1/w"]),
    ("tuple", (1.0, (2.0,)), ["0", "1/0"]),
    ("namedtuple", State(mu={"w": 1.0}, nu={"w": 2.0}), ["mu/w", "nu/w"]),
    ("haiku", {"mlp/~/linear_0": {"w": 1.0, "b": 2.0}}, ["mlp/~/linear_0/b", "mlp/~/linear_0/w"]),
    ("integers", {0: 1.0, 10: 2.0, 2: 3.0}, ["0", "2", "10"]),
]


@pytest.mark.parametrize(("kind", "tree", "expected"), FOREIGN, ids=[case[0] for case in FOREIGN])
def test_trees_of_other_libraries(kind, tree, expected):
    assert names(tree) == expected
    flat = collect_params(tree)
    assert list(flat) == expected
    assert list(collect_params(tree, expected[1])) == expected[1:2]
    updated = update(tree, {expected[0]: 9.0})
    assert get(updated, expected[0]) == 9.0
    assert get(updated, expected[1]) == flat[expected[1]]
    structure = jax.tree.structure(tree)
    labels = label_params(tree, {expected[0]: "x"}, default="y")
    assert jax.tree.structure(updated) == jax.tree.structure(labels) == structure
    assert list(collect_params(labels).values()) == ["x"] + ["y"] * (len(expected) - 1)
    assert list(collect_params(mask(tree, expected[0])).values()) == [True] + [False] * (len(expected) - 1)
    mapped = map_params(lambda name, leaf: name, tree)
    assert jax.tree.structure(mapped) == structure
    assert dict(collect_params(mapped)) == {e: e for e in expected}
    assert names(freeze(tree, expected[0])) == expected


def test_trees_of_flax():
    flax = pytest.importorskip("flax")

    @flax.struct.dataclass
    class Train:
        params: object
        rate: float = flax.struct.field(pytree_node=False, default=0.1)

    tree = Train({"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})
    assert names(tree) == ["params/Dense_0/kernel", "params/Dense_0/bias"]
    updated = update(tree, {"params/Dense_0/bias": jnp.zeros(3)})
    assert type(updated) is Train
    assert not updated.params["Dense_0"]["bias"].any()
    assert updated.rate == 0.1
    frozen = flax.core.freeze(tree.params)
    assert names(frozen) == ["Dense_0/kernel", "Dense_0/bias"]
    assert type(mask(frozen, ".*bias")) is type(frozen)
    assert label_params(tree, {".*kernel": 1}, default=0).params["Dense_0"]["bias"] == 0


def python_calls(function, *arguments):
    """Count the Python functions that a call runs; give what it returns, too."""
    seen = []
    sys.setprofile(lambda frame, event, _: seen.append(frame.f_code) if event == "call" else None)
    try:
        result = function(*arguments)
    finally:
        sys.setprofile(None)
    return len(seen), result


def wide(layers):
    params = {f"layer{at}": {"weight": jnp.ones(2), "bias": jnp.ones(2)} for at in range(layers)}
    # one node of each kind: JAX makes each that is returned anew, as a Python object
    return freeze(params | {"again": Alias("layer0")}, "layer1/bias")


def square(params, batch):
    return sum((leaf * batch).sum() for leaf in jax.tree.leaves(resolve(params)))


def compiled_apply(layers):
    return jax.jit(square), wide(layers), jnp.ones(2)


def compiled_step(layers):
    optax = pytest.importorskip("optax")
    step = train_step(square, optax.adamw(1e-3))
    first, _ = step(step.init(wide(layers)), jnp.ones(2))
    return step, jax.block_until_ready(first), jnp.ones(2)  # a call looks at the verdict if it is there


@pytest.mark.parametrize("make", [compiled_apply, compiled_step])
def test_calling_what_is_compiled_runs_no_python_for_each_leaf(make):
    counts = []
    for layers in (2, 40):
        function, params, batch = make(layers)
        calls = []
        for _ in range(6):
            count, result = python_calls(function, params, batch)
            jax.block_until_ready(result)
            params = result[0] if make is compiled_step else params
            calls.append(count)
        counts.append(min(calls))  # a call may be met by the garbage collector, and what that runs
    assert counts[0] == counts[1]
