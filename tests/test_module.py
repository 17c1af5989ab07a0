"""Modules: init and apply, keys, ties, states, randomness, symbolic shapes, and foreign pairs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.example_libraries import stax

import paramtree as pt
from paramtree import init, nn

KEY = jax.random.key(0)
X = jnp.ones((2, 4))
ONES = init.Ones()
JAX = jax.nn.initializers


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x == y if isinstance(x, pt.ParamSpec) else np.array_equal(x, y)


def raises(kind, text, call):
    with pytest.raises(pt.ParamTreeError) as e:
        call()
    assert str(e.value) == text
    assert type(e.value) is kind


@pt.module
def Fancy(scope, x):
    """DESIGN's FancyMLP, with the loop and the branch of the chapter."""
    dense = nn.Dense(4, activation="relu")
    x = scope.call(dense, x, name="dense")
    x = jax.nn.relu(x @ scope.constant("rand_weight", (4, 4), init.Uniform(1.0)) + 1)
    x = scope.call(dense, x, name="dense")
    while jnp.abs(x).sum() > 1:
        x = x / 2
    if jnp.abs(x).sum() < 0.8:
        x = x * 10
    return x.sum()


@pt.module
def Mean(scope, x):
    """Count its uses in training, and keep a mean."""
    mean, count = scope.state("mean", x.shape[1:], init.Zeros()), scope.state("count", (), init.Zeros())
    if scope.train:
        scope.update("mean", 0.5 * mean + 0.5 * x.mean(0))
        scope.update("count", count + 1)
    return x * scope.param("scale", x.shape[1:], ONES)[None] - mean[None]


# the pair


def test_a_module_unpacks_to_init_and_apply():
    net = nn.Sequential(nn.Dense(3, activation="relu"), nn.Dense(2))
    init_fn, apply_fn = net
    assert (init_fn, apply_fn) == (net.init, net.apply)
    params = init_fn(KEY, X)
    assert type(params) is dict
    hidden = jax.nn.relu(X @ params["dense0"]["weight"].T)
    np.testing.assert_allclose(apply_fn(params, X), hidden @ params["dense1"]["weight"].T, rtol=1e-6)


def test_jit_in_a_loop_traces_once():
    traces = []
    net = pt.module(lambda scope, x: traces.append(0) or scope.call(nn.Dense(3), x))
    params = net.init(KEY, X, init=ONES)
    traces.clear()
    for _ in range(3):
        jax.jit(net.apply)(params, X)
    assert len(traces) == 1


def test_specs_compute_nothing_and_agree_with_init():
    net = nn.Sequential(nn.Dense(10**6), nn.Dense(10**6))  # 4 TB, were it made
    assert net.specs(X)["dense1"]["weight"] == pt.ParamSpec((10**6, 10**6), jnp.dtype("float32"))
    net = nn.Sequential(nn.Dense(3, name="a"), Mean)
    specs, params = net.specs(X), net.init(KEY, X)
    assert jax.tree.structure(specs) == jax.tree.structure(params)
    assert [s.shape for s in jax.tree.leaves(specs)] == [p.shape for p in jax.tree.leaves(params)]
    shapes = jax.eval_shape(net.init, KEY, X)
    assert jax.tree.structure(shapes) == jax.tree.structure(params)


def test_vmap_over_init_makes_an_ensemble():
    net, keys = nn.Dense(3), jax.random.split(KEY, 3)
    many = jax.vmap(net.init, in_axes=(0, None))(keys, X)
    assert jax.vmap(net.apply, in_axes=(0, None))(many, X).shape == (3, 2, 3)
    same(jax.tree.map(lambda leaf: leaf[1], many), net.init(keys[1], X))


def test_no_tracer_leaks():
    net = nn.Sequential(nn.Dense(3), Mean, nn.Dropout(0.5), pt.wrap(*stax.Gelu))
    net = nn.Sequential(
        net, pt.wrap(lambda key, x: {"w": jnp.ones(3)}, lambda params, x: x * params["w"][None])
    )
    with jax.checking_leaks():
        params = jax.jit(net.init)(KEY, X)
        jax.jit(jax.grad(lambda p: net.apply(p, X).sum()))(params)
        jax.jit(net.apply_and_update)(params, X, key=KEY)


def test_checkpoint_around_a_call():
    layer = nn.Dense(4)
    plain = nn.Sequential(layer)
    net = pt.module(lambda scope, x: jax.checkpoint(lambda x: scope.call(layer, x))(x))
    params = net.init(KEY, X)
    same(params, plain.init(KEY, X))
    same(
        jax.grad(lambda p: net.apply(p, X).sum())(params), jax.grad(lambda p: plain.apply(p, X).sum())(params)
    )


# keys


def test_automatic_keys_count_per_kind():
    inner = nn.Sequential(nn.Dense(4), nn.Dense(4))
    net = nn.Sequential(
        nn.Dense(4),
        nn.Activation("relu"),
        nn.Dense(4, name="mine"),
        nn.Flatten(),
        inner,
        nn.Dense(4),
        nn.Dropout(0.1),
    )
    assert pt.names(net.specs(X)) == [
        *("dense0/weight", "dense0/bias", "dense1/weight", "dense1/bias", "mine/weight", "mine/bias"),
        *("sequential0/dense0/weight", "sequential0/dense0/bias"),
        *("sequential0/dense1/weight", "sequential0/dense1/bias"),
    ]
    assert nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).specs(X) == {}


def test_keys_of_functions():
    block1 = pt.module(lambda scope, x: scope.call(nn.Dense(4), x))

    def net2d(scope, x):
        return scope.call(nn.Dense(4), x)

    named = dataclasses.replace(block1, name="named")
    params = nn.Sequential(block1, pt.module(net2d), named, dataclasses.replace(block1, title="net2")).specs(
        X
    )
    assert list(params) == ["lambda0", "net2d0", "named", "net2_0"]


def test_two_layers_of_one_name():
    text = (
        "two layers are named 'a': Dense(3, linear) and Dense(4, linear). Give each a name of "
        "its own; or, to "
        "share parameters, use one layer twice."
    )
    raises(pt.BadNameError, text, lambda: nn.Sequential(nn.Dense(3, name="a"), nn.Dense(4, name="a")))
    outer = pt.module(
        lambda scope, x: [scope.call(nn.Dense(units), x, name="a") for units in (3, 4)],
    )
    raises(pt.BadNameError, text, lambda: outer.init(KEY, X))
    raises(pt.BadNameError, text.replace("are named", "in 'x' are named"), lambda: nn.Sequential(
        dataclasses.replace(outer, name="x")).init(KEY, X))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "the key '' in 'Dense' is empty; give it a name."),
        (
            "a/b",
            "the key 'a/b' in 'Dense' holds a '/', which separates keys; nest dicts instead, or write 'a_b'.",
        ),
    ],
)
def test_bad_names(name, text):
    raises(pt.BadNameError, text, lambda: nn.Dense(3, name=name))
    wanted = text.replace(" in 'Dense'", "")
    raises(
        pt.BadNameError, wanted, lambda: pt.module(lambda s, x: s.call(nn.Dense(3), x, name=name)).specs(X)
    )
    raises(pt.BadNameError, wanted, lambda: pt.module(lambda s, x: s.param(name, 3)).specs(X))


def test_what_scope_call_and_module_take():
    raises(
        pt.ParamTreeError,
        "Net: scope.call takes a Module, and got 3. Make one with pt.module(function), "
        "pt.wrap(init, apply) or "
        "nn.Lambda(function).",
        lambda: dataclasses.replace(pt.module(lambda s, x: s.call(3, x)), title="Net").specs(X),
    )
    text = "a module wraps a function call(scope, *inputs), and not 3."
    raises(pt.ParamTreeError, text, lambda: pt.Module(3, "Three"))
    text = "Dense(params=...) takes the layer whose parameters are shared, and not dict."
    raises(pt.TieError, text, lambda: nn.Dense(3, params={}))


def test_indexing():
    net = nn.Sequential(nn.Dense(3), nn.Dense(2), nn.Dense(1))
    assert len(net) == 3
    assert net[-1] is net[2]
    assert list(net[1:].specs(X)) == ["dense1", "dense2"]
    params = net.init(KEY, X)
    np.testing.assert_array_equal(net[2:].apply(params, net[:2].apply(params, X)), net.apply(params, X))
    raises(pt.ParamTreeError, "Sequential has no layer 3: it has 3 layers, 0 to 2.", lambda: net[3])
    for index in (0, slice(2)):
        raises(pt.ParamTreeError, "Fancy has no layers to index.", lambda index=index: Fancy[index])


# ties


def test_one_object_twice_in_one_parent_has_one_key():
    layer = nn.Dense(4)
    net = nn.Sequential(layer, nn.Dense(4), layer)
    assert pt.names(net.specs(X)) == ["dense0/weight", "dense0/bias", "dense1/weight", "dense1/bias"]
    assert jax.tree.structure(net.specs(X)).num_leaves == 4


def test_one_object_under_two_parents_is_an_alias():
    layer = nn.Dense(4, name="shared")
    net = nn.Sequential(nn.Sequential(nn.Dense(4), layer), nn.Sequential(layer, nn.Dense(4)), layer)
    params = net.init(KEY, X)
    assert params["sequential1"]["shared"] == params["shared"] == pt.Alias("sequential0/shared")
    plain = pt.untie(params)
    np.testing.assert_array_equal(net.apply(params, X), net.apply(plain, X))
    grads, apart = (jax.grad(lambda p: net.apply(p, X).sum())(tree) for tree in (params, plain))
    total = (
        sum(apart[a]["shared"]["weight"] for a in ("sequential0", "sequential1")) + apart["shared"]["weight"]
    )
    np.testing.assert_allclose(grads["sequential0"]["shared"]["weight"], total, rtol=1e-5)


def test_a_net_shared_between_parents():
    block = nn.Sequential(nn.Dense(4), nn.Sequential(nn.Dense(4)))
    net = nn.Sequential(nn.Sequential(block), nn.Sequential(block, block[1]))
    assert net.specs(X)["sequential1"] == {
        "sequential0": pt.Alias("sequential0/sequential0"),
        "sequential1": pt.Alias("sequential0/sequential0/sequential0"),
    }
    assert net.apply(net.init(KEY, X), X).shape == (2, 4)


def test_params_ties_a_layer_and_chains():
    a = nn.Dense(4, name="a")
    b = nn.Dense(4, activation="relu", params=a)
    net = nn.Sequential(nn.Dense(4), a, b, nn.Dense(4, name="c", params=b))
    params = net.init(KEY, X)
    assert set(params) == {"dense0", "a", "dense1", "c"}
    assert params["dense1"] == params["c"] == pt.Alias("a")
    assert net.apply(params, X).shape == (2, 4)


def test_a_tied_layer_that_comes_first_is_still_the_alias():
    shared = nn.Dense(4, name="shared", weight_init=init.Normal(1.0))
    first, last = (
        nn.Sequential(nn.Dense(4, params=shared), shared),
        nn.Sequential(shared, nn.Dense(4, params=shared)),
    )
    assert first.specs(X)["dense0"] == pt.Alias("shared")
    same(first.init(KEY, X), last.init(KEY, X))
    eager = nn.Sequential(nn.Dense(4, params=shared), shared, Fancy)
    assert eager.init(KEY, X)["dense0"] == pt.Alias("shared")
    nowhere = nn.Sequential(nn.Dense(4, params=shared), nn.Dense(4, params=shared))
    assert nowhere.specs(X)["dense1"] == pt.Alias("dense0")


def test_a_tied_layer_without_parameters_adds_no_key():
    layer = nn.Activation("relu")
    assert nn.Sequential(nn.Sequential(layer), nn.Sequential(layer)).specs(X) == {}


def test_ties_must_agree():
    a = nn.Dense(4, name="a", weight_init=init.Normal(1.0))
    text = (
        "b/weight is tied to a/weight, once as shape=(4, 4), dtype=float32 and once as "
        "shape=(3, 4), dtype=float32. "
        "Shared parameters need one shape and dtype."
    )
    raises(pt.TieError, text, lambda: nn.Sequential(a, nn.Dense(3, name="b", params=a)).init(KEY, X))
    text = (
        "b/weight shares a/weight, and names another initialiser: Normal(sigma=1.0) and Uniform(scale=0.07). "
        "Name it in one place."
    )
    other = nn.Dense(4, name="b", params=a, weight_init=init.Uniform())
    raises(pt.TieError, text, lambda: nn.Sequential(a, other).init(KEY, X))
    agreed = nn.Dense(4, name="b", params=a, weight_init=init.Normal(1.0))
    assert nn.Sequential(a, agreed).specs(X)["b"] == pt.Alias("a")
    twice = pt.module(lambda scope, x: [scope.param("w", 3), scope.param("w", 4)])
    text = (
        "w is used twice, once as shape=(3,), dtype=float32 and once as shape=(4,), dtype=float32. "
        "Shared parameters need one shape and dtype."
    )
    raises(pt.TieError, text, lambda: twice.specs(X))
    both = pt.module(lambda scope, x: [scope.param("w", 3), scope.constant("w", 3)])
    raises(
        pt.TieError,
        "w is asked for as a parameter and as a constant; name them apart.",
        lambda: both.specs(X),
    )


def test_a_block_used_twice_may_make_its_initialiser_anew():
    normal = jax.nn.initializers.normal
    block = pt.module(lambda scope, x: scope.call(nn.Dense(4, weight_init=normal(1.0)), x))
    assert list(nn.Sequential(block, block).specs(X)) == ["lambda0"]


# shapes


def test_symbolic_shapes():
    net = nn.Sequential(nn.Dense(256), nn.Dense(10))
    specs = net.specs("batch, features")
    assert repr(specs["dense0"]["weight"]) == "ParamSpec((256, features), float32)"
    assert (
        repr(specs["dense1"])
        == "{'weight': ParamSpec((10, 256), float32), 'bias': ParamSpec((10,), float32, Zeros())}"
    )
    raises(
        pt.MismatchError,
        "init: pass an input with these sizes as numbers:\n"
        "  dense0/weight has shape (256, features), and features is not known",
        lambda: net.init(KEY, "batch, features"),
    )
    same(nn.Dense(3).init(KEY, "batch, 4"), nn.Dense(3).init(KEY, X))
    same(nn.Dense(3).init(KEY, jax.ShapeDtypeStruct((2, 4), jnp.float32)), nn.Dense(3).init(KEY, X))
    embed = nn.Sequential(nn.Embedding(7, 4), nn.Dense(3))
    assert embed.specs("int32[batch, time]")["dense0"]["weight"].shape == (3, 4)
    size = pt.module(lambda scope, x: scope.param("w", x.shape[-1]))
    assert repr(size.specs("batch, features")) == "{'w': ParamSpec((features,), float32)}"


def test_symbols_are_shared_between_inputs():
    add = pt.module(lambda scope, a, b: scope.call(nn.Dense(3), a["x"] + b))
    assert repr(add.specs({"x": "batch, n"}, "batch, n")["dense0"]["weight"]) == "ParamSpec((3, n), float32)"
    with pytest.raises(TypeError, match="incompatible shapes"):
        add.specs({"x": "batch, n"}, "batch, m")


@pytest.mark.parametrize(
    "text", ["", "batch, ...", "_", "b b", "2.5", "-3", "foo[3]", "int32[batch, 4", "batch]", "3,,4", "[[3]]"]
)
def test_bad_shapes(text):
    wanted = f"{text!r} is not a shape. Write sizes and symbols, such as 'batch, 20' or 'int32[batch, time]'."
    raises(pt.ParamTreeError, wanted, lambda: nn.Flatten().specs(text))


# values in Python


def test_a_net_with_python_control_flow_inits_eagerly():
    plain = pt.module(
        lambda s, x: (
            s.call(nn.Dense(4), x, name="dense"),
            s.constant("rand_weight", (4, 4), init.Uniform(1.0)),
        )
    )
    params = Fancy.init(KEY, X)
    same(params, plain.init(KEY, X))
    same(Fancy.specs(X), plain.specs(X))
    rules = {"dense/weight": init.Normal(1.0), "rand_weight": ONES}
    same(Fancy.init(KEY, X, init=rules), plain.init(KEY, X, init=rules))
    grads = jax.grad(lambda p: Fancy.apply(p, X))(params)
    assert grads["dense"]["weight"].shape == (4, 4)


def test_a_constant_trains_once_it_is_unfrozen():
    net = pt.module(lambda scope, x: x @ scope.constant("c", (4, 4), ONES))
    params = net.init(KEY, X)
    grad = jax.grad(lambda p: net.apply(p, X).sum())
    assert not grad(params)["c"].value.any()
    assert (grad(pt.unfreeze(params, "c"))["c"] == 2).all()


def test_eager_init_sees_the_values_it_returns():
    seen = {}

    def Net(scope, x):
        seen.update(c=scope.constant("c", (3,)), w=scope.param("w", (3,)), m=scope.param("m", (3,), ONES))
        return float(x.sum())

    for rules in (None, init.Normal(), {".*": init.Normal()}, {"c": init.Normal(), "w": ONES}):
        params = pt.module(Net).init(KEY, X, init=rules)
        same(pt.resolve(params), dict(seen))


def test_other_ways_to_need_values():
    masked = pt.module(lambda s, x: s.call(nn.Dense(3), x)[x[:, 0] > 0])
    host = pt.module(lambda s, x: np.asarray(s.call(nn.Dense(3), x)))
    for net in (masked, host):
        same(net.init(KEY, X), nn.Sequential(nn.Dense(3)).init(KEY, X))


@pytest.mark.parametrize(
    "call",
    [
        lambda: jax.jit(Fancy.init)(KEY, X),
        lambda: jax.vmap(Fancy.init, in_axes=(0, None))(jax.random.split(KEY, 2), X),
        lambda: Fancy.specs("batch, 4"),
        lambda: Fancy.init(KEY, jax.ShapeDtypeStruct((2, 4), jnp.float32)),
    ],
    ids=["jit", "vmap", "string", "struct"],
)
def test_python_control_flow_without_values(call):
    text = (
        "Fancy decides by values in Python, so its parameters cannot be found from shapes "
        "alone. Pass arrays, "
        "outside of jit and vmap; or use jax.lax.cond or jax.lax.while_loop."
    )
    raises(pt.ParamTreeError, text, call)


# states


def test_states_change_in_training_only():
    params = Mean.init(KEY, X)
    y, after = Mean.apply_and_update(params, X)
    same(y, X)
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert after["scale"] is params["scale"]
    assert (after["mean"].value == 0.5).all()
    same(jax.jit(Mean.apply_and_update)(params, X), (y, after))
    same(Mean.apply(after, X), X - 0.5)
    same(Mean.apply(params, X, train=True), X)


def test_states_under_scan_grad_and_vmap():
    params = Mean.init(KEY, X)
    last, _ = jax.lax.scan(lambda p, x: Mean.apply_and_update(p, x)[::-1], params, jnp.ones((3, 2, 4)))
    assert (last["mean"].value == 0.875).all()
    assert last["count"].value == 3

    def loss(p):
        y, p = Mean.apply_and_update(p, X)
        return y.sum() + 7 * p["mean"].value.sum(), p

    grads, after = jax.grad(loss, has_aux=True)(params)
    assert (grads["scale"] == 2).all()
    assert (after["mean"].value == 0.5).all()
    many = jax.vmap(Mean.apply_and_update, in_axes=(None, 0))(params, jnp.ones((5, 2, 4)))[1]
    assert many["mean"].value.shape == (5, 4)


def test_a_state_in_a_layer_used_twice_counts_both():
    once, twice = nn.Sequential(Mean, Mean), nn.Sequential(nn.Sequential(Mean), nn.Sequential(Mean))
    assert once.apply_and_update(once.init(KEY, X), X)[1]["mean0"]["count"].value == 2
    after = twice.apply_and_update(twice.init(KEY, X), X)[1]
    assert after["sequential0"]["mean0"]["count"].value == 2
    assert after["sequential1"]["mean0"] == pt.Alias("sequential0/mean0")


def test_update_faults():
    def net(value, name="s"):
        def Net(scope, x):
            scope.state("s", (2,), init.Zeros())
            scope.update(name, value)

        return pt.module(Net)

    params = {"s": pt.Fixed(jnp.zeros(2)), "w": jnp.zeros(2)}
    text = "s cannot be updated outside of training; ask scope.train first."
    raises(pt.ParamTreeError, text, lambda: net(jnp.ones(2)).apply(params, X))
    text = "w cannot be updated: ask for it with scope.state first."
    raises(pt.ParamTreeError, text, lambda: net(jnp.ones(2), "w").apply(params, X, train=True))
    text = (
        "scope.update: this value does not fit:\n  s needs shape (2,), and got (3,)\n"
        "  s needs dtype float32, and got int32; convert it, or pt.cast the tree first"
    )
    for call in (
        net(jnp.ones(3, int)).apply_and_update,
        lambda *a: net(jnp.ones(3, int)).apply(*a, train=True),
    ):
        raises(pt.MismatchError, text, lambda call=call: call(params, X))


def test_a_state_stays_strongly_typed():
    net = pt.module(lambda scope, x: scope.state("s", ()) + (scope.update("s", jnp.asarray(1.0)) or 0))
    after = net.apply_and_update({"s": pt.Fixed(jnp.zeros(()))}, X)[1]
    assert not after["s"].value.weak_type


# randomness


def test_each_use_and_each_place_has_a_key_of_its_own():
    layer = pt.module(lambda scope, x: (*x, scope.key(), scope.key()))
    net = nn.Sequential(nn.Lambda(lambda: ()), layer, layer, nn.Sequential(layer), pt.module(layer.call))
    keys = jax.random.key_data(jnp.stack(net.apply({}, key=KEY)))
    assert len(np.unique(keys, axis=0)) == 8
    assert np.array_equal(keys, jax.random.key_data(jnp.stack(jax.jit(net.apply)({}, key=KEY))))


def test_dropout():
    net, x = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5, name="b")), jnp.ones((100, 100))
    same(net.apply({}, x), x)
    same(net.apply({}, x, key=KEY), x)
    y = net.apply({}, x, train=True, key=KEY)
    assert abs(float((y == 4).mean()) - 0.25) < 0.02
    same(jax.jit(net.apply, static_argnames="train")({}, x, train=True, key=KEY), y)
    text = "dropout0 needs randomness: pass key= to apply."
    raises(pt.ParamTreeError, text, lambda: net.apply({}, x, train=True))
    raises(pt.ParamTreeError, text.replace("dropout0", "Dropout"), lambda: net[0].apply({}, x, train=True))
    text = "key= must be one random key, such as jax.random.key(0); found 0."
    raises(pt.ParamTreeError, text, lambda: net.apply({}, x, train=True, key=0))


def test_a_traced_train():
    text = "train= is a traced value; write jax.jit(net.apply, static_argnames='train')."
    raises(pt.ParamTreeError, text, lambda: jax.jit(nn.Dense(3).apply)({}, X, train=True))


# params that do not fit


def test_params_that_do_not_fit():
    net = nn.Sequential(nn.Dense(3))
    weight, bias = jnp.ones((3, 4)), jnp.ones(3)
    text = (
        "dense0/bias is missing: dense0(float32[2,4]) asks for it. "
        "Did you mean dense0/weight or dense0/offset?"
    )
    params = {"dense0": {"weight": weight, "offset": bias}}
    raises(pt.UnknownNameError, text, lambda: net.apply(params, X))
    text = "dense0/weight is missing: dense0(float32[2,4]) asks for it. The params hold nothing."
    raises(pt.UnknownNameError, text, lambda: net.apply({}, X))
    params = {"dense0": {"weight": weight, "bias": bias}}
    text = (
        "dense0/weight has shape (3, 4), and dense0(float32[2,5]) needs (3, 5). "
        "Pass an input that fits, or init new parameters."
    )
    raises(pt.MismatchError, text, lambda: net.apply(params, jnp.ones((2, 5))))
    text = "dense0/weight is one key of the params, which are nested dicts; pt.unflatten them first."
    raises(pt.UnknownNameError, text, lambda: net.apply(pt.collect_params(params), X))
    for leaf, kind in (
        (0.5, "float"),
        ({"w": weight}, "dict"),
        (net.specs(X)["dense0"]["weight"], "ParamSpec"),
    ):
        text = f"dense0/weight is of type {kind}, not an array, and dense0(float32[2,4]) asks for it."
        raises(pt.MismatchError, text, lambda leaf=leaf: net.apply({"dense0": {"weight": leaf}}, X))
    for wrong, kind in ((None, "NoneType"), ([weight], "list"), (X, "ArrayImpl")):
        text = (
            f"Sequential: params are of type {kind}; pass the nested dict that init returned, "
            "then the inputs."
        )
        raises(pt.MismatchError, text, lambda wrong=wrong: net.apply(wrong, X))


def test_numpy_params():
    net = nn.Dense(3)
    params = jax.tree.map(np.asarray, net.init(KEY, X))
    same(net.apply(params, X), net.apply(net.init(KEY, X), X))
    wide = jax.tree.map(np.float64, params)
    text = "weight is float64, which JAX would narrow; pt.cast it, or set jax_enable_x64."
    raises(pt.MismatchError, text, lambda: net.apply(wide, X))
    with jax.enable_x64(True):
        assert net.apply(wide, np.ones((2, 4))).dtype == jnp.float64


# foreign pairs


@pytest.fixture
def foreign_rules():
    """Let stax add its biases as it does."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.usefixtures("foreign_rules")
def test_wrap_stax():
    init_fn, apply_fn = stax.serial(stax.Dense(5), stax.Relu, stax.Dense(3))
    net = pt.wrap(init_fn, apply_fn, title="Stax")
    params = net.init(KEY, X)
    assert pt.names(params) == ["0/0", "0/1", "2/0", "2/1"]
    foreign = [tuple(params[i].values()) if i in params else () for i in "012"]
    same(jax.jit(net.apply)(params, X), apply_fn(foreign, X))
    same(params, net.init(KEY, "batch, 4"))
    same(params, jax.jit(net.init)(KEY, X))
    raises(
        pt.MismatchError,
        "Stax(float32[batch,n]) needs the sizes that its parameters depend on as numbers.",
        lambda: net.specs("batch, n"),
    )


@pytest.mark.usefixtures("foreign_rules")
def test_wrap_stax_in_a_sequential_with_dropout():
    wrapped = pt.wrap(
        *stax.serial(stax.Dense(4, JAX.uniform(1.0), JAX.zeros), stax.Dropout(0.5)), name="foreign"
    )
    net = nn.Sequential(nn.Dense(4), wrapped, wrapped, nn.Sequential(wrapped))
    params = net.init(KEY, X, init=ONES)
    assert pt.names(params) == ["dense0/weight", "dense0/bias", "foreign/0/0", "foreign/0/1"]
    assert params["sequential0"]["foreign"] == pt.Alias("foreign")
    one, two = (net.apply(params, X, train=True, key=jax.random.key(seed)) for seed in (0, 2))
    assert not np.array_equal(one, two)
    anew = net.init(KEY, X, init={"foreign/0/0": ONES})
    assert (anew["foreign"]["0"]["0"] == 1).all()
    same(anew["foreign"]["0"]["1"], params["foreign"]["0"]["1"])


def test_wrap_a_raw_pair():
    def init_fn(key, x):
        return {"w": jax.random.normal(key, (x.shape[-1],)), "scale": 2.0}

    net = pt.wrap(init_fn, lambda params, x: params["scale"] * x @ params["w"])
    params = net.init(KEY, X)
    assert {name: leaf.weak_type for name, leaf in params.items()} == {"w": False, "scale": False}
    same(net.apply(params, X), 2 * X @ params["w"])
    nothing = pt.wrap(lambda key, x: (), lambda params, x: x + 1)
    assert nn.Sequential(nothing).init(KEY, X) == {}
    same(nn.Sequential(nothing).apply({}, X), X + 1)


def test_wrap_linen():
    linen = pytest.importorskip("flax.linen")
    model = linen.Sequential([linen.Dense(5), linen.relu, linen.Dense(3)])
    net = pt.wrap(model.init, model.apply)
    params = net.init(KEY, "batch, 4")
    assert pt.names(params)[0] == "params/layers_0/kernel"
    same(net.apply(params, X), model.apply(params, X))
    same(params, net.init(KEY, X))


def test_wrap_haiku():
    haiku = pytest.importorskip("haiku")
    model = haiku.transform(lambda x: haiku.nets.MLP([5, 3])(x))
    net = pt.wrap(model.init, model.apply)
    params = net.init(KEY, "batch, 4")
    assert pt.names(params)[0] == "mlp/~/linear_0/b"
    foreign = {f"mlp/~/{key}": block for key, block in params["mlp"]["~"].items()}
    same(net.apply(params, X), model.apply(foreign, None, X))
    assert pt.names(nn.Sequential(net).specs(X))[0] == "wrapped0/mlp/~/linear_0/b"


@pytest.mark.parametrize("uses", [2, 5])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_the_gradient_of_a_tied_layer_is_the_sum_over_its_uses(uses, transform):
    shared = nn.Dense(4, activation="tanh", name="shared")
    others = [nn.Dense(4, activation="tanh", params=shared) for _ in range(uses - 1)]
    net = nn.Sequential(nn.Dense(4), shared, *others, nn.Dense(2))
    x = jax.random.normal(jax.random.key(1), (3, 5))
    params = net.init(jax.random.key(0), x, init={".*": init.Normal(0.5)})
    places = ["shared", *(f"dense{number}" for number in range(1, uses))]
    assert [key for key, node in params.items() if node == pt.Alias("shared")] == places[1:]

    def loss(params):
        return (net.apply(params, x) ** 2).sum()

    tied, apart = transform(jax.grad(loss))(params), transform(jax.grad(loss))(pt.untie(params))
    for key in ("weight", "bias"):
        total = sum(apart[place][key] for place in places)
        np.testing.assert_allclose(tied["shared"][key], total, rtol=1e-5, atol=1e-6)
        assert all(np.abs(apart[place][key]).max() > 1e-3 for place in places)


def test_what_is_no_dtype_is_named():
    @pt.module
    def Odd(scope, x):
        return x * scope.param("w", (), dtype="flot32")

    with pytest.raises(pt.ParamTreeError) as caught:
        nn.Sequential(Odd).specs("2")
    assert str(caught.value) == "odd0/w: dtype 'flot32' is none of NumPy's."


def test_the_functions_of_a_module_go_by_its_title():
    with pytest.raises(TypeError) as caught:
        nn.Dense(3).apply({}, X, deterministic=True)
    assert str(caught.value) == "Dense.apply() got an unexpected keyword argument 'deterministic'"
    assert [function.__name__ for function in nn.Dense(3)] == ["init", "apply"]
