"""Residual, Parallel, Repeat and remat: what they compute, and that stacked blocks are separate ones."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals
from sameness import same_tree

import paramtree as pt
from paramtree import init, nn

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError:
    st = None

KEY = jax.random.key(3)
X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 4)).astype("float32"))


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), a, b)


def apart(net, params):
    """Unstack all that a net repeats, from the outside in."""
    specs = net.specs(X)
    while True:
        repeats = [spec.repeats for spec in jax.tree.leaves(specs) if spec.repeats]
        if not repeats:
            return params
        place = re.escape(min(repeats)[0][0])
        specs, params = pt.unstack(specs, place), pt.unstack(params, place)


def described(specs):
    leaves, treedef = jax.tree.flatten(specs)
    kinds = [re.sub("^init of .*", "foreign", str(spec.init)) for spec in leaves]
    return treedef, kinds, [(spec.shape, spec.dtype, spec.repeats) for spec in leaves]


def equations(function, *inputs):
    """Count the equations of a function, and of all that it calls."""

    def count(jaxpr):
        parts = jax.tree.leaves([list(eqn.params.values()) for eqn in jaxpr.eqns], is_leaf=is_jaxpr)
        inside = [part.jaxpr if hasattr(part, "jaxpr") else part for part in filter(is_jaxpr, parts)]
        return len(jaxpr.eqns) + sum(map(count, inside))

    def is_jaxpr(part):
        return hasattr(part, "eqns")

    return count(jax.make_jaxpr(function)(*inputs).jaxpr)


def block(name="block"):
    return nn.Sequential(nn.Dense(4, "tanh"), nn.BatchNorm(momentum=0.5), nn.Dropout(0.5), name=name)


@pt.module
def Walk(scope, x):
    """Count its uses, add noise, and shift by a constant and by a parameter of two keys."""
    count = scope.state("count", (), init.Zeros())
    shift = scope.constant("shift", (1, x.shape[-1]), init.Normal(0.1))
    if scope.train:
        scope.update("count", count + 1)
        x = x + 0.1 * jax.random.normal(scope.key(), x.shape)
    return jnp.tanh(x + shift) * scope.param("scale", (1, x.shape[-1]), init.Constant(0.9))


def counting():
    return pt.Module(Walk.call, "Walk")


def in_training(net, params, change=lambda tree: tree):
    """Compute outputs with a key, new params and gradients: in float64, as norms amplify errors."""

    def objective(params, x):
        y, new = net.apply_and_update(params, x, key=jax.random.key(7))
        return (y * y).sum(), (y, new)

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), params)
        grads, (y, new) = jax.jit(jax.grad(objective, has_aux=True))(wide, np.asarray(X, "float64"))
        y, new, grads = jax.tree.map(np.asarray, (y, new, grads))
    return y, change(new), change(grads)


def check_alike(stacked, separate, **kw):
    """Check that a net with repeats is the net with separate blocks, in all that can be asked of it."""
    params, wanted = stacked.init(KEY, X, **kw), separate.init(KEY, X, **kw)
    assert same_tree(apart(stacked, params), wanted)
    assert described(apart(stacked, stacked.specs(X))) == described(separate.specs(X))
    assert same_tree(jax.jit(lambda key: stacked.init(key, X, **kw))(KEY), params)
    close(jax.jit(stacked.apply)(params, X), separate.apply(wanted, X))
    close(in_training(stacked, params, partial(apart, stacked)), in_training(separate, wanted))


def foreign():
    def make(key, x):
        weight, shift = jax.random.split(key)
        return [{"w": jax.random.normal(weight, (4, 4))}, jax.random.normal(shift, (1, 4))]

    return pt.wrap(make, lambda params, x: jnp.tanh(x @ params[0]["w"] + params[1]), title="Foreign")


# --- Residual, Parallel -------------------------------------------------------------------------------------


def test_residual_adds_its_input():
    net = nn.Residual(nn.Dense(4, "tanh"), nn.Dense(4))
    params = net.init(KEY, X, init=init.Normal(0.5))
    hidden = np.tanh(X @ params["dense0"]["weight"].T)
    np.testing.assert_allclose(net.apply(params, X), X + hidden @ params["dense1"]["weight"].T, rtol=1e-5)
    np.testing.assert_array_equal(nn.Residual().apply({}, X), 2 * X)


def test_residual_with_a_shortcut():
    net = nn.Residual(nn.Dense(5, "tanh"), shortcut=nn.Dense(5, name="projection"))
    params = net.init(KEY, X, init=init.Normal(0.5))
    assert list(params) == ["dense0", "shortcut"]
    hidden = np.tanh(X @ params["dense0"]["weight"].T)
    np.testing.assert_allclose(net.apply(params, X), X @ params["shortcut"]["weight"].T + hidden, rtol=1e-5)


def test_a_shortcut_used_elsewhere_is_one_set_of_parameters():
    layer = nn.Dense(4)
    net = nn.Sequential(nn.Residual(nn.Dense(4), shortcut=layer), nn.Residual(layer, shortcut=layer), layer)
    params = net.init(KEY, X)
    assert params["residual1"] == {
        "dense0": pt.Alias("residual0/shortcut"), "shortcut": pt.Alias("residual0/shortcut")
    }  # fmt: skip
    assert params["dense0"] == pt.Alias("residual0/shortcut")
    plain = pt.untie(params)
    np.testing.assert_array_equal(net.apply(params, X), net.apply(plain, X))


def test_parallel_concatenates_or_adds():
    layers = nn.Dense(4), nn.Activation("tanh")
    weight = nn.Parallel(*layers).init(KEY, X)["dense0"]["weight"]
    params = {"dense0": {"weight": weight, "bias": jnp.zeros(4)}}
    one, other = X @ weight.T, np.tanh(X)
    close(nn.Parallel(*layers).apply(params, X), np.concatenate([one, other], 1))
    close(nn.Parallel(*layers, axis=0).apply(params, X), np.concatenate([one, other], 0))
    close(nn.Parallel(*layers, combine="sum").apply(params, X), one + other)
    both = nn.Parallel(nn.Lambda(lambda x, y: x - y), nn.Lambda(lambda x, y: x + y), combine="sum")
    close(both.apply({}, X, 2 * X), 2 * X)


def test_parts_of_residual_and_parallel():
    body, way = nn.Dense(4), nn.Dense(4)
    net = nn.Residual(body, shortcut=way)
    assert (len(net), net[0], net[1], net[-1]) == (2, body, way, way)
    assert nn.Parallel(body, way)[1] is way
    assert nn.Repeat(body, 3)[0] is body
    assert nn.remat(nn.Sequential(body))[0] is body


NOT_A_MODULE = "Make one with nn.Lambda(function), pt.wrap(init, apply) or pt.module(function)."


@pytest.mark.parametrize(
    ("kind", "text", "make"),
    [
        (pt.ParamTreeError, f"Residual takes modules, and layer 1 is 3. {NOT_A_MODULE}",
         lambda: nn.Residual(nn.Dense(3), 3)),
        (pt.ParamTreeError, f"Residual takes modules, and got 'x'. {NOT_A_MODULE}",
         lambda: nn.Residual(shortcut="x")),
        (pt.ParamTreeError, f"Parallel takes modules, and got 3. {NOT_A_MODULE}", lambda: nn.Parallel(3)),
        (pt.ParamTreeError, f"Repeat takes modules, and got 3. {NOT_A_MODULE}", lambda: nn.Repeat(3, 2)),
        (pt.ParamTreeError, f"remat takes modules, and got 3. {NOT_A_MODULE}", lambda: nn.remat(3)),
        (pt.ParamTreeError, "Parallel needs at least one layer.", lambda: nn.Parallel()),
        (pt.ParamTreeError, "Parallel can 'concatenate' or 'sum', and got 'mean'.",
         lambda: nn.Parallel(nn.Dense(3), combine="mean")),
        (pt.ParamTreeError, "Parallel needs axis to be an integer, and got '1'.",
         lambda: nn.Parallel(nn.Dense(3), axis="1")),
        (pt.BadNameError, "two layers are named 'shortcut': Dense(4, linear) and Dense(5, linear). "
         "Give each a name of its own; or, to share parameters, use one layer twice.",
         lambda: nn.Residual(nn.Dense(4, name="shortcut"), shortcut=nn.Dense(5))),
        (pt.BadNameError, "two layers are named 'a': Dense(4, linear) and Dense(5, linear). "
         "Give each a name of its own; or, to share parameters, use one layer twice.",
         lambda: nn.Parallel(nn.Dense(4, name="a"), nn.Dense(5, name="a"))),
        *[(pt.ParamTreeError, f"Repeat needs count to be an integer of at least 1, and got {count!r}.",
           partial(nn.Repeat, nn.Dense(4), count)) for count in (0, -1, True, "3", 2.0, None)],
        (pt.MismatchError, "Residual(float32[3,4]) cannot sum float32(3, 4) and float32(3, 5): "
         "a sum needs one shape.", lambda: nn.Residual(nn.Dense(5)).specs(X)),
        (pt.MismatchError, "block/residual0(float32[3,4]) cannot sum float32(3, 5) and float32(3, 4): "
         "a sum needs one shape.",
         lambda: nn.Sequential(nn.Sequential(nn.Residual(shortcut=nn.Dense(5)), name="block")).init(KEY, X)),
        (pt.MismatchError, "Residual(float32[3,4]) cannot sum float32(3, 4) and tuple: "
         "these are not all arrays.", lambda: nn.Residual(nn.Lambda(lambda x: (x, x))).apply({}, X)),
        (pt.MismatchError, "Parallel(float32[3,4]) cannot concatenate float32(3, 4) and float32(): "
         "Cannot concatenate arrays with different numbers of dimensions: got (3, 4), ()",
         lambda: nn.Parallel(nn.Activation("tanh"), nn.Lambda(jnp.sum)).apply({}, X)),
        (pt.MismatchError, "Parallel(float32[3,4]) cannot concatenate float32(3, 4): "
         "axis 2 is out of bounds for array of dimension 2.",
         lambda: nn.Parallel(nn.Activation("tanh"), axis=2).apply({}, X)),
        (pt.ParamTreeError, "Repeat(): missing a required argument: 'x'. Pass its inputs by position, key= "
         "and train= by keyword.", lambda: nn.Repeat(nn.Dense(4), 2).apply({})),
        (pt.ParamTreeError, "dense(float32[3,4], float32[3,4]): too many positional arguments. Pass its "
         "inputs by position, key= and train= by keyword.",
         lambda: nn.Repeat(nn.Dense(4), 2).specs(X, X)),
        (pt.ParamTreeError, "Dense(float32[3,4], float32[3,4]): too many positional arguments. Pass its "
         "inputs by position, key= and train= by keyword.",
         lambda: nn.remat(nn.Dense(4)).apply({}, X, X)),
    ],
)  # fmt: skip
def test_messages_of_what_does_not_fit(kind, text, make):
    found = message(kind, make)
    assert found == text or (found.startswith(text) and "different numbers" in text)  # JAX's own words


def test_how_nested_containers_print():
    way = nn.remat(nn.Dense(4, "relu"))
    net = nn.Sequential(
        nn.Repeat(nn.Residual(nn.Dense(4), shortcut=way), 3),
        nn.Parallel(nn.Dense(3), nn.Sequential(nn.Dense(2)), combine="concatenate", axis=1),
    )
    text = (
        "Sequential(\n"
        "  (0) repeat0: Repeat 3 times(\n"
        "    (0) residual: Residual(\n"
        "      (0) dense0: Dense(4, linear)\n"
        "      (1) shortcut: Dense(4, relu)\n"
        "    )\n"
        "  )\n"
        "  (1) parallel0: Parallel concatenate(\n"
        "    (0) dense0: Dense(3, linear)\n"
        "    (1) sequential0: Sequential(\n"
        "      (0) dense0: Dense(2, linear)\n"
        "    )\n"
        "  )\n"
        ")"
    )
    assert repr(net) == text
    bound = pt.bind(net, net.init(KEY, X))
    assert repr(bound) == re.sub(r"Dense\(", "Dense(4 -> ", text)
    assert bound[0][0][0].weight.shape == (3, 4, 4)


# --- Repeat: stacked blocks are separate ones ---------------------------------------------------------------


def repeated(make, count, name="deep"):
    """Make the two nets: one that repeats a block, and one of separate blocks."""
    stacked = nn.Sequential(nn.Repeat(make(), count, name=name))
    return stacked, nn.Sequential(nn.Sequential(*[make() for _ in range(count)], name=name))


MAKERS = {
    "Dense": lambda: nn.Dense(4, "tanh"),
    "one without parameters": lambda: nn.Dropout(0.5),
    "nothing at all": nn.Sequential,
    "norm and dropout": lambda: nn.Sequential(nn.Dense(4), nn.BatchNorm(), nn.Dropout(0.5)),
    "residual": lambda: nn.Residual(nn.Dense(4, "tanh"), nn.LayerNorm(), shortcut=nn.Dense(4)),
    "recurrent": lambda: nn.Parallel(nn.Dense(4), nn.Dense(4, "tanh"), combine="sum"),
    "constants, states and keys": counting,
    "foreign, with a layer": lambda: nn.Sequential(foreign(), nn.Dense(4)),
    "foreign, itself": foreign,
    "a raw pair": lambda: pt.wrap(
        lambda key, x: {"w": jax.random.normal(key, (4,)), "deep": [jnp.ones(())]},
        lambda p, x: jnp.tanh(x * p["w"][None]) * p["deep"][0],
    ),
    "a kind with a digit": lambda: pt.Module(nn.Dense(4).call, "Net2"),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_repeat_is_its_blocks(make):
    check_alike(*repeated(make, 3))


@pytest.mark.parametrize(("name", "keys"), [("conv", "conv"), ("conv2", "conv2_"), ("2", "2_")])
def test_a_named_block_keeps_its_name(name, keys):
    stacked = nn.Repeat(nn.Dense(4, name=name), 2)
    separate = nn.Sequential(*[nn.Dense(4, name=f"{keys}{number}") for number in range(2)])
    assert list(stacked.specs(X)) == [keys]
    check_alike(stacked, separate)


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg", "threefry2x32", "raw"])
def test_values_with_every_kind_of_key(kind):
    key = jax.random.PRNGKey(5) if kind == "raw" else jax.random.key(5, impl=kind)
    stacked, separate = repeated(lambda: nn.Sequential(nn.Dense(4), nn.Dropout(0.5)), 3)
    params, wanted = stacked.init(key, X), separate.init(key, X)
    assert same_tree(apart(stacked, params), wanted)
    assert same_tree(jax.jit(stacked.init)(key, X), params)
    y, z = (net.apply(p, X, train=True, key=key) for net, p in ((stacked, params), (separate, wanted)))
    close(y, z)
    assert np.array_equal(y == 0, z == 0)


def test_ties_inside_a_block_and_a_layer_from_outside():
    def net_of(repeat):
        shared = nn.Dense(4, "tanh", name="shared")

        def make():
            own = nn.Dense(4, name="own")
            return nn.Sequential(own, shared, nn.Sequential(own, nn.Dense(4, params=own)), nn.Dropout(0.3))

        return nn.Sequential(shared, repeat(make, 3), nn.Dense(4, params=shared))

    stacked = net_of(lambda make, count: nn.Repeat(make(), count, name="deep"))
    separate = net_of(lambda make, count: nn.Sequential(*[make() for _ in range(count)], name="deep"))
    specs = stacked.specs(X)
    assert specs["deep"]["sequential"]["shared"] == pt.Alias("shared")
    assert specs["deep"]["sequential"]["sequential0"]["dense0"] == pt.Alias("deep/sequential/own")
    check_alike(stacked, separate)


@pytest.mark.parametrize(
    "net_of",
    [
        lambda first: nn.Sequential(first, first),
        lambda first: nn.Sequential(nn.Sequential(first), nn.Sequential(first, nn.Dense(4)), first),
    ],
)
def test_a_repeat_used_twice(net_of):
    stacked = net_of(nn.Repeat(block(), 2, name="deep"))
    separate = net_of(nn.Sequential(block("block0"), block("block1"), name="deep"))
    check_alike(stacked, separate)


@pytest.mark.parametrize("again", ["params", "block"])
def test_a_repeat_of_the_parameters_of_another(again):
    one = nn.Dense(4, "tanh", name="one")
    other = nn.Dense(4, "tanh", params=one, name="other") if again == "params" else one
    net = nn.Sequential(nn.Repeat(one, 2), nn.Repeat(other, 2))
    params = net.init(KEY, X)
    assert list(params["repeat1"].values()) == [pt.Alias("repeat0/one")]
    plain = pt.untie(params)
    close(net.apply(params, X), net.apply(plain, X))
    grads, alone = (jax.grad(lambda p: net.apply(p, X).sum())(tree) for tree in (params, plain))
    both = jax.tree.map(jnp.add, alone["repeat0"]["one"], next(iter(alone["repeat1"].values())))
    close(grads["repeat0"]["one"], both)


def named_initialiser(key, shape, dtype, name):
    return jax.random.normal(jax.random.fold_in(key, 10 * len(name) + int(name[-8])), shape, dtype)


def plain_initialiser(key, shape, dtype):
    return jax.random.normal(key, shape, dtype)


@pytest.mark.parametrize(
    "rule",
    [
        init.Xavier(),
        init.Orthogonal(),
        jax.nn.initializers.normal(0.3),
        named_initialiser,
        plain_initialiser,
        init.Mixed({".*": plain_initialiser}),
    ],
    ids=["xavier", "orthogonal", "jax", "named", "plain", "mixed"],
)
def test_initialisers_see_one_block_at_a_time(rule):
    stacked, separate = repeated(lambda: nn.Dense(4, use_bias=False), 3)
    check_alike(stacked, separate, init=rule)
    check_alike(stacked, separate, init={".*weight": rule})
    check_alike(stacked, separate, init=init.Mixed({".*": rule}))


def test_rules_and_load_know_a_stack_by_its_name():
    net = nn.Sequential(nn.Repeat(nn.Dense(4), 3))
    params = net.init(KEY, X, init={"repeat0/dense/weight": init.Constant(2.0), ".*bias": init.Ones()})
    assert (params["repeat0"]["dense"]["weight"] == 2).all()
    assert (params["repeat0"]["dense"]["bias"] == 1).all()
    given = jax.tree.map(
        lambda leaf: leaf + jnp.arange(leaf.size, dtype="float32").reshape(leaf.shape), params
    )
    assert same_tree(net.init(KEY, X, init=init.Load(given)), given)
    assert same_tree(net.init(KEY, X, init={".*": init.Load(given)}), given)
    assert same_tree(net.init(KEY, X, init=init.Mixed({".*": init.Load(given)})), given)
    assert message(
        pt.ParamTreeError,
        lambda: nn.Sequential(nn.Repeat(nn.Dense(4), 2)).init(KEY, X, init=init.Load(given)),
    ).startswith("repeat0/dense/weight: Load: the tree's values do not fit:")


def test_initialisers_that_give_something_else():
    net = nn.Repeat(nn.Dense(4, use_bias=False), 2)

    def wide(key, shape, dtype):
        return jnp.zeros((*shape, 1), dtype)

    assert message(pt.MismatchError, lambda: net.init(KEY, X, init=wide)) == (
        "these initialisers did not give what was asked:\n"
        "  dense0/weight: wide was asked for shape (4, 4), and gave (4, 4, 1)\n"
        "  dense1/weight: wide was asked for shape (4, 4), and gave (4, 4, 1)"
    )

    def broken(key, shape, dtype):
        return 3

    assert message(pt.MismatchError, lambda: net.init(KEY, X, init=broken)) == (
        "these initialisers did not give what was asked:\n"
        "  dense0/weight: broken gave 3 of type int, not an array\n"
        "  dense1/weight: broken gave 3 of type int, not an array"
    )
    assert message(pt.ParamTreeError, lambda: net.init(KEY, X, init=3)) == (
        "these are not initialisers:\n  dense/weight: 3 of type int is not one; pass a callable "
        "(key, shape, dtype) -> array, such as paramtree.init.Constant(0.5)"
    )


# --- Repeat under transformations ---------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["apply", "train", "init", "key", "specs"])
def test_the_program_does_not_grow_with_the_count(what):
    def size(count):
        net = nn.Sequential(nn.Repeat(nn.Residual(block(None)), count))
        params = net.specs(X) if what == "specs" else net.init(KEY, X)
        if what == "specs":
            return len(jax.tree.leaves(params))
        if what == "init":
            return equations(net.init, KEY, X)
        if what == "apply":
            return equations(jax.grad(lambda p: net.apply(p, X).sum()), params)
        if what == "key":
            return equations(lambda key: net.apply(params, X, train=True, key=key), KEY)
        return equations(jax.grad(lambda p: net.apply_and_update(p, X, key=KEY)[0].sum()), params)

    assert size(6) == size(96)


def test_vmap_over_inputs_and_over_parameters():
    net = nn.Sequential(nn.Repeat(nn.Residual(nn.Dense(4, "tanh")), 3))
    params = net.init(KEY, X)
    rows = jax.vmap(lambda x: net.apply(params, x[None])[0])(X)
    close(rows, net.apply(params, X))
    many = jax.vmap(net.init, in_axes=(0, None))(jax.random.split(KEY, 2), X)
    each = [net.init(key, X) for key in jax.random.split(KEY, 2)]
    assert same_tree(jax.tree.map(lambda leaf: leaf[1], many), each[1])
    outputs = jax.vmap(net.apply, in_axes=(0, None))(many, X)
    close(outputs, jnp.stack([net.apply(one, X) for one in each]))


def test_checkpoint_around_and_a_scan_around():
    net = nn.Repeat(block(), 2)
    params = net.init(KEY, X)

    def loss(params):
        y, params = net.apply_and_update(params, X, key=KEY)
        return (y * y).sum(), params

    close(jax.grad(jax.checkpoint(loss), has_aux=True)(params), jax.grad(loss, has_aux=True)(params))
    scanned = jax.lax.scan(lambda p, _: (net.apply_and_update(p, X, key=KEY)[1], None), params, length=3)[0]
    looped = params
    for _ in range(3):
        looped = net.apply_and_update(looped, X, key=KEY)[1]
    close(scanned, looped)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes(dtype):
    net = nn.Repeat(block(), 2)
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), net.init(KEY, X))
        y, new = net.apply_and_update(params, X.astype(dtype), key=KEY)
        assert y.dtype == dtype
        assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(dtype)}


def test_symbolic_sizes():
    net = nn.Repeat(nn.Residual(nn.BatchNorm()), 3)
    assert str(net.specs("batch, n")["residual"]["batchnorm0"]["gamma"]).startswith("ParamSpec((3, n), ")
    assert message(pt.MismatchError, lambda: nn.Repeat(nn.Dense(4), 3).specs("batch, n")) == (
        "dense is repeated, and must give what it takes; "
        "it gave shape=(batch, 4), dtype=float32 for shape=(batch, n), dtype=float32."
    )


def test_more_inputs_are_the_same_for_each_repetition():
    @pt.module
    def Masked(scope, x, mask, scale, nothing, mode):
        assert (nothing, mode) == (None, "on")
        return jnp.where(mask, scope.call(nn.Dense(4), x) * scale["by"], x)

    net, mask = nn.Repeat(Masked, 2), np.array([[True, False, True, True]])
    inputs = (X, mask, {"by": jnp.float32(2)}, None)

    @pt.module
    def Holder(scope, *inputs):
        return scope.call(net, *inputs, "on")

    params = Holder.init(KEY, *inputs)
    dense = params["repeat0"]["masked"]["dense0"]
    wanted = X
    for weight in dense["weight"]:
        wanted = jnp.where(mask, wanted @ weight.T * 2, wanted)
    close(Holder.apply(params, *inputs), wanted)
    close(jax.jit(Holder.apply)(params, *inputs), wanted)
    grads = jax.grad(lambda by: Holder.apply(params, X, mask, {"by": by}, None).sum())(jnp.float32(2))
    assert float(grads) != 0


def test_what_is_passed_on_may_be_a_tree():
    @pt.module
    def Step(scope, state):
        hidden, (steps, rate) = state["hidden"], state["more"]
        return {"hidden": scope.call(nn.Dense(4, "tanh"), hidden), "more": (steps + 1, rate)}

    net, start = nn.Repeat(Step, 3), {"hidden": X, "more": (0, 0.5)}
    params = net.init(KEY, start)
    out = net.apply(params, start)
    assert int(out["more"][0]) == 3
    assert float(out["more"][1]) == 0.5
    assert out["hidden"].shape == X.shape
    close(jax.jit(net.apply)(params, start), out)
    swap = pt.module(lambda scope, x: (x[1], x[0]))
    close(nn.Repeat(swap, 3).apply({}, (X, 2 * X)), (2 * X, X))


def test_a_tree_of_stacked_parameters_may_be_numpy_frozen_or_hold_nodes():
    net = nn.Sequential(nn.Repeat(nn.Dense(4, "tanh"), 3), nn.Dense(4))
    params = net.init(KEY, X)
    wanted = net.apply(params, X)
    close(net.apply(jax.tree.map(np.asarray, params), X), wanted)
    frozen = pt.freeze(params, "repeat0/.*")
    close(net.apply(frozen, X), wanted)
    grads = jax.grad(lambda p: net.apply(p, X).sum())(frozen)
    assert not np.asarray(grads["repeat0"]["dense"]["weight"].value).any()
    extra = {**params, "unused": {"weight": jnp.ones(7)}}
    close(net.apply(extra, X), wanted)


def test_a_user_may_repeat_with_the_scope():
    @pt.module
    def Encoder(scope, x):
        x = scope.repeat(nn.Dense(4, "tanh"), 2, x, name="up")
        x = scope.repeat(nn.Dense(4, "tanh"), 3, x, name="layer2")
        return scope.call(nn.Dense(4), x)

    params = Encoder.init(KEY, X)
    assert {name: leaf.shape for name, leaf in pt.collect_params(params, ".*bias").items()} == {
        "dense0/bias": (4,), "layer2_/bias": (3, 4), "up/bias": (2, 4),
    }  # fmt: skip
    assert list(pt.unstack(params, "layer2_")) == ["up", "layer2_0", "layer2_1", "layer2_2", "dense0"]


# --- Repeat: messages ---------------------------------------------------------------------------------------


def calls(*steps):
    """Make a module that calls (method, layer, ...) one after the other."""

    def call(scope, x):
        for method, *arguments in steps:
            x = scope.repeat(*arguments, x) if method == "repeat" else scope.call(*arguments, x)
        return x

    return pt.Module(call, "Calls")


def test_blocks_that_do_not_give_what_they_take():
    give = "is repeated, and must give what it takes; it gave"
    assert message(pt.MismatchError, lambda: nn.Sequential(nn.Repeat(nn.Dense(3), 2)).specs(X)) == (
        f"repeat0/dense {give} shape=(3, 3), dtype=float32 for shape=(3, 4), dtype=float32."
    )
    half = nn.Lambda(lambda x: x.astype("bfloat16"))
    for call in (nn.Repeat(half, 2).specs, partial(nn.Repeat(half, 2).apply, {})):
        assert message(pt.MismatchError, lambda call=call: call(X)) == (
            f"lambda {give} shape=(3, 4), dtype=bfloat16 for shape=(3, 4), dtype=float32."
        )
    pair = nn.Lambda(lambda x: (x, x))
    assert (
        message(pt.MismatchError, lambda: nn.Repeat(pair, 2).apply({}, X))
        == f"lambda {give} another structure."
    )


def test_parameters_that_do_not_fit():
    net = nn.Sequential(nn.Repeat(nn.Dense(4), 3))
    params = net.init(KEY, X)
    assert message(pt.MismatchError, lambda: nn.Sequential(nn.Repeat(nn.Dense(4), 5)).apply(params, X)) == (
        "repeat0/dense is repeated 5 times, and needs stacks of 5:\n"
        "  repeat0/dense/weight has shape (3, 4, 4)\n"
        "  repeat0/dense/bias has shape (3, 4)"
    )
    uneven = pt.merge(
        pt.partition(params, ".*weight")[0], {"repeat0": {"dense": {"bias": jnp.zeros((2, 4))}}}
    )
    assert message(pt.MismatchError, lambda: net.apply(uneven, X)) == (
        "repeat0/dense is repeated 3 times, and needs stacks of 3:\n  repeat0/dense/bias has shape (2, 4)"
    )
    assert message(pt.MismatchError, lambda: net.apply(params, X[:, :3])) == (
        "repeat0/dense/weight has shape (4, 4), and repeat0/dense(float32[3,3]) needs (4, 3). "
        "Pass an input that fits, or init new parameters."
    )
    weight = pt.partition(params, ".*weight")[0]
    assert message(pt.UnknownNameError, lambda: net.apply(weight, X)) == (
        "repeat0/dense/bias is missing: repeat0/dense(float32[3,4]) asks for it. "
        "Did you mean repeat0/dense/weight?"
    )
    for nothing in ({}, {"repeat0": {}}, {"repeat0": {"dense": {}}}, {"repeat0": jnp.ones(3)}):
        assert message(pt.UnknownNameError, lambda nothing=nothing: net.apply(nothing, X)) == (
            "repeat0/dense/weight is missing: repeat0/dense(float32[3,4]) asks for it. "
            "The params hold nothing."
        )
    single = {"repeat0": pt.unstack(params, "repeat0/dense")["repeat0"]["dense0"]}
    assert message(pt.UnknownNameError, lambda: net.apply(single, X)).startswith(
        "repeat0/dense/weight is missing: repeat0/dense(float32[3,4]) asks for it."
    )


@pytest.mark.parametrize("kind", [nn.BatchNorm, counting])
def test_a_statistic_of_all_repetitions_cannot_be_updated(kind):
    shared = kind()
    net = nn.Sequential(shared, nn.Repeat(nn.Sequential(nn.Dense(4), shared, name="block"), 2))
    params = net.init(KEY, X)
    assert net.apply(params, X).shape == X.shape
    names = {nn.BatchNorm: "batchnorm0/running_mean, batchnorm0/running_var", counting: "walk0/count"}
    assert message(pt.TieError, lambda: net.apply_and_update(params, X, key=KEY)) == (
        f"{names[kind]} is shared by all repetitions of repeat0/block, and cannot be updated in one of them. "
        "Give the block a statistic of its own."
    )


def test_layers_that_are_repeated_and_not():
    layer = nn.Dense(4, name="layer")
    inside = nn.Sequential(layer, name="block")
    outside = "To share a layer with all repetitions, call it outside, before them."
    assert message(pt.TieError, lambda: nn.Sequential(nn.Repeat(inside, 3), layer).specs(X)) == (
        "layer/weight is tied to repeat0/block/layer/weight, which is repeated 3 times; "
        f"here it is not repeated. {outside}"
    )
    tied = nn.Sequential(nn.Repeat(nn.Sequential(nn.Dense(4, params=layer)), 3), layer)
    assert message(pt.TieError, lambda: tied.init(KEY, X)) == (
        "layer/weight is tied to repeat0/sequential/dense0/weight, which is repeated 3 times; "
        f"here it is not repeated. {outside}"
    )
    twice = nn.Sequential(nn.Repeat(inside, 3), nn.Repeat(nn.Sequential(layer), 3))
    assert message(pt.TieError, lambda: twice.specs(X)) == (
        "repeat1/sequential/layer/weight is tied to repeat0/block/layer/weight, which is repeated 3 times; "
        f"here it is not repeated. {outside}"
    )
    assert message(pt.TieError, lambda: nn.Sequential(layer, nn.Repeat(layer, 3)).specs(X)) == (
        "repeat0/layer/weight is tied to layer/weight, which is not repeated; here it is repeated 3 times. "
        "Repeat a block that calls the layer instead."
    )
    assert message(pt.TieError, lambda: nn.Sequential(nn.Repeat(layer, 3), nn.Repeat(layer, 4)).specs(X)) == (
        "repeat1/layer/weight is tied to repeat0/layer/weight, which is repeated 3 times; "
        "here it is repeated 4 times. Repeat both as often."
    )
    once = calls(("call", layer), ("repeat", layer, 2))
    assert message(pt.TieError, lambda: once.specs(X)) == (
        "layer/weight is not repeated; here it is repeated 2 times. "
        "Repeat a block that calls the layer instead."
    )


def test_names_of_repetitions_belong_to_them():
    text = (
        "'dense0' is the name of a layer, and of a repetition of 'dense', so that both would draw the same "
        "values. Give one of them a name of its own."
    )
    one, other = nn.Dense(4), nn.Dense(4)
    for net in (calls(("repeat", one, 2), ("call", other)), calls(("call", one), ("repeat", other, 2))):
        assert message(pt.BadNameError, lambda net=net: net.specs(X)) == text
    assert message(pt.BadNameError, lambda: calls(("repeat", one, 2), ("repeat", other, 2)).specs(X)) == (
        "two layers are named 'dense': Dense(4, linear) and Dense(4, linear). "
        "Give each a name of its own; or, to share parameters, use one layer twice."
    )
    fine = calls(("repeat", nn.Dense(4, name="a"), 2), ("call", nn.Dense(4, name="b0")), ("repeat", other, 2))
    assert list(fine.specs(X)) == ["a", "b0", "dense"]
    empty = pt.module(lambda scope, x: scope.repeat(one, 2, x, name=""))
    assert message(pt.BadNameError, lambda: empty.specs(X)) == "the key '' is empty; give it a name."
    assert message(pt.ParamTreeError, lambda: pt.Module(lambda s, x: s.repeat(3, 2, x), "Net").specs(X)) == (
        "Net: scope.call takes a Module, and got 3. Make one with pt.module(function), "
        "pt.wrap(init, apply) or nn.Lambda(function)."
    )


@pt.module
def Choosy(scope, x):
    return scope.call(nn.Dense(4), x) if x.sum() > 0 else x


def test_a_module_that_decides_by_values():
    x = jnp.ones((2, 4))
    net = nn.Repeat(Choosy, 2)
    params = net.init(KEY, x)
    assert message(pt.ParamTreeError, lambda: net.apply(params, x)) == (
        "choosy is repeated, so it cannot decide by values in Python. Use jax.lax.cond or jax.lax.while_loop."
    )
    layer = nn.remat(Choosy)
    params = layer.init(KEY, x)
    assert message(pt.ParamTreeError, lambda: layer.apply(params, x)) == (
        "Choosy is computed again in the backward pass, so it cannot decide by values in Python. "
        "Use jax.lax.cond or jax.lax.while_loop."
    )
    assert message(pt.ParamTreeError, lambda: net.specs("2, 4")).startswith(
        "Repeat decides by values in Python"
    )


# --- remat --------------------------------------------------------------------------------------------------


REMATTED = {
    "Dense": lambda: nn.Dense(4, "tanh"),
    "block": block,
    "states": counting,
    "repeat": lambda: nn.Repeat(block(), 2),
    "foreign": lambda: foreign(),
}


@pytest.mark.parametrize("make", REMATTED.values(), ids=REMATTED)
@pytest.mark.parametrize("place", ["alone", "in a net", "in a Repeat"])
def test_remat_changes_nothing_that_is_computed(make, place):
    def net_of(change):
        if place == "alone":
            return change(make())
        if place == "in a net":
            return nn.Sequential(nn.Dense(4), change(make()), nn.Dropout(0.5), nn.Dense(4))
        return nn.Repeat(change(make()), 2)

    plain, again = net_of(lambda layer: layer), net_of(nn.remat)
    params = plain.init(KEY, X)
    assert same_tree(again.init(KEY, X), params)
    assert repr(again) == repr(plain)
    assert repr(pt.bind(again, params)) == repr(pt.bind(plain, params))
    close(in_training(again, params), in_training(plain, params))


def kept(capsys, net, **kw):
    params = net.init(KEY, X)
    print_saved_residuals(lambda p: net.apply(p, X, **kw).sum(), params)
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if "argument" not in line and "constant" not in line]


def test_remat_keeps_less(capsys):
    deep = lambda: nn.Sequential(*[nn.Dense(4, "tanh") for _ in range(3)])
    bare, less = (
        kept(capsys, nn.Sequential(change(deep()), deep())) for change in (lambda one: one, nn.remat)
    )
    assert len(less) < len(bare)
    assert len(kept(capsys, nn.remat(deep()))) == 0
    everything = jax.checkpoint_policies.everything_saveable
    assert len(kept(capsys, nn.remat(deep(), policy=everything))) > 0
    stacked = lambda change: nn.Repeat(change(deep()), 5)
    bare, less = (kept(capsys, stacked(change)) for change in (lambda one: one, nn.remat))
    assert len(less) < len(bare)
    assert sum("f32[5,3,4]" in line for line in less) <= 1  # the inputs of the blocks alone
    some = kept(capsys, stacked(partial(nn.remat, policy=everything)))
    assert len(some) > len(less)


def test_remat_of_a_layer_that_is_used_twice_or_tied():
    layer = nn.remat(nn.Dense(4, "tanh", name="a"))
    net = nn.Sequential(
        layer, layer, nn.Dense(4, params=layer), nn.remat(nn.Dense(4, params=layer, name="b"))
    )
    params = net.init(KEY, X)
    assert {name: node for name, node in params.items() if name != "a"} == {
        "dense0": pt.Alias("a"), "b": pt.Alias("a")
    }  # fmt: skip
    bare = nn.Dense(4, "tanh", name="a")
    plain = nn.Sequential(bare, bare, nn.Dense(4, params=bare), nn.Dense(4, params=bare, name="b"))
    close(
        jax.grad(lambda p: net.apply(p, X).sum())(params), jax.grad(lambda p: plain.apply(p, X).sum())(params)
    )


def test_a_user_may_remat_a_part():
    @pt.module
    def Part(scope, x):
        def inner(scope, x):
            x = scope.call(nn.Dense(4, "tanh"), x)
            return scope.call(nn.Dropout(0.5), x)

        return scope.call(nn.Dense(4), scope.remat(inner, x))

    params = Part.init(KEY, X)
    assert list(params) == ["dense0", "dense1"]
    plain = nn.Sequential(nn.Dense(4, "tanh"), nn.Dropout(0.5), nn.Dense(4))
    close(in_training(Part, params), in_training(plain, params))


# --- nets drawn at random -----------------------------------------------------------------------------------


def built(kind, stacked, shared):
    """Build a drawn layer, with its repeats stacked or as separate layers."""
    name, *parts = kind if isinstance(kind, tuple) else (kind,)
    inner = lambda: [built(part, stacked, shared) for part in parts[-1]]
    if name == "sequential":
        return nn.Sequential(*inner())
    if name == "residual":
        return nn.Residual(*inner(), shortcut=nn.Dense(4))
    if name == "remat":
        return nn.remat(nn.Sequential(*inner()))
    if name == "repeat":
        unique, count = parts[:2]
        make = lambda: nn.Sequential(
            nn.PReLU(), *inner()
        )  # a block all of ties does not say how many there are
        if stacked:
            return nn.Repeat(make(), count, name=unique)
        return nn.Sequential(*[make() for _ in range(count)], name=unique)
    if name == "tied":
        own = nn.Dense(4, "tanh")
        return nn.Sequential(own, nn.Sequential(own, nn.Dense(4, params=own)))
    return {
        "dense": lambda: nn.Dense(4, "tanh"),
        "norm": lambda: nn.BatchNorm(momentum=0.5),
        "dropout": lambda: nn.Dropout(0.3),
        "states": counting,
        "foreign": lambda: foreign(),
        "shared": lambda: shared,
    }[name]()


LEAVES = ("dense", "norm", "dropout", "states", "foreign", "tied", "shared")


def renamed(kind, name="r"):
    """Give every repeat a name by its place."""
    if not isinstance(kind, tuple):
        return kind
    *head, parts = kind
    parts = [renamed(part, f"{name}_{place}x") for place, part in enumerate(parts)]
    return ("repeat", name, head[1], parts) if head[0] == "repeat" else (head[0], parts)


def test_repeats_in_repeats():
    inner = ("repeat", "inner", 2, ["dense", "norm", "dropout", "states", "foreign", "tied", "shared"])
    nets = []
    for stacked in (True, False):
        shared = nn.Dense(4, name="shared")
        nets.append(nn.Sequential(shared, built(("repeat", "outer", 3, [inner, "dropout"]), stacked, shared)))
    check_alike(*nets)


if st:
    kinds = st.recursive(
        st.sampled_from(LEAVES),
        lambda inner: st.one_of(
            st.tuples(st.sampled_from(("sequential", "residual", "remat")), st.lists(inner, max_size=2)),
            st.tuples(st.just("repeat"), st.integers(1, 3), st.lists(inner, min_size=1, max_size=2)),
            st.tuples(st.just("repeat"), st.integers(2, 3), st.lists(inner, min_size=2, max_size=3)),
        ),
        max_leaves=5,
    )

    @settings(max_examples=5)  # each compiles six programs
    @given(st.lists(kinds, min_size=1, max_size=2))
    def test_random_nets(drawn):
        drawn = renamed(("sequential", [("repeat", 2, drawn)]))[1]
        nets = []
        for stacked in (True, False):
            shared = nn.Dense(4, name="shared")
            nets.append(nn.Sequential(shared, *[built(kind, stacked, shared) for kind in drawn]))
        check_alike(*nets)
