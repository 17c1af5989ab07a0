"""Values by name: what each parameter is drawn from, and which initialiser it gets."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import paramtree as pt
from paramtree import init, nn
from paramtree.draw import draw, fold_name

KEY = jax.random.key(0)
X = jnp.ones((2, 4))
JAX = jax.nn.initializers

INITIALISERS = [
    init.Zeros(), init.Ones(), init.Constant(3.0), init.Uniform(), init.Normal(), init.TruncatedNormal(),
    init.Xavier(), init.LecunNormal(), init.Orthogonal(), init.Identity(), JAX.normal(0.02),
]  # fmt: skip


def spec(initialiser, shape=(3, 5), dtype="float32"):
    return pt.ParamSpec(shape, jnp.dtype(dtype), initialiser)


def bits(tree):
    return {
        name: np.asarray(leaf).tobytes() for name, leaf in pt.collect_params(tree, allow_empty=True).items()
    }


def mlp(*names):
    return nn.Sequential(*(nn.Dense(4, name=name, weight_init=init.Normal(1.0)) for name in names))


def my_init(key, shape, dtype, name):
    """The chapter's initialiser: U[5, 10] and U[-10, -5] with 1/4 each, else 0."""
    del name
    drawn = jax.random.uniform(key, shape, dtype, -10, 10)
    return drawn * (jnp.abs(drawn) >= 5).astype(dtype)


@pt.module
def WithConstant(scope, x):
    x = x @ scope.constant("rand_weight", (4, 4), init.Uniform(1.0))
    mean = scope.state("mean", (4,), init.Zeros())
    return scope.call(nn.Dense(4), x - mean[None])


# by name


def test_other_layers_change_no_value():
    whole = mlp("a", "b", "c").init(KEY, X)
    for other in (mlp("c", "a", "b"), mlp("b"), mlp("a", "new", "b")):
        params = other.init(KEY, X)
        for name in params.keys() & whole.keys():
            assert bits(params[name]) == bits(whole[name])
    assert len(set(bits(whole).values())) == 4  # three weights, and one value of all biases


def test_a_value_is_its_initialiser_with_the_key_of_its_name():
    params = mlp("a", "b").init(KEY, X)
    assert np.array_equal(
        params["b"]["weight"], init.Normal(1.0)(fold_name(KEY, "b/weight"), (4, 4), jnp.float32)
    )


def test_another_key_or_name_gives_another_value():
    specs = {name: spec(init.Normal()) for name in ("a", "b")}
    values = [draw(KEY, specs)["a"], draw(KEY, specs)["b"], draw(jax.random.key(1), specs)["a"]]
    assert len({np.asarray(value).tobytes() for value in values}) == 3


@pytest.mark.parametrize(
    "initialiser", INITIALISERS, ids=lambda each: getattr(each, "__qualname__", repr(each))
)
def test_bits_are_the_same_eager_jitted_and_vmapped(initialiser):
    specs = {name: spec(initialiser, (7, 5)) for name in ("a", "b")}
    eager = draw(KEY, specs)
    assert bits(jax.jit(lambda key: draw(key, specs))(KEY)) == bits(eager)
    batched = jax.vmap(lambda key: draw(key, specs))(KEY[None])
    assert bits(jax.tree.map(lambda leaf: leaf[0], batched)) == bits(eager)


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float8_e4m3fn", "int8", "int4", "bool", "complex64"]
)
@pytest.mark.parametrize("initialiser", [init.Zeros(), init.Ones()], ids=repr)
@pytest.mark.parametrize("shape", [(8, 4), (), (0, 3)], ids=str)
def test_zeros_and_ones_are_what_a_program_would_make(initialiser, dtype, shape):
    specs = {"a": spec(initialiser, shape, dtype)}
    value, traced = draw(KEY, specs)["a"], jax.jit(lambda key: draw(key, specs))(KEY)["a"]
    assert (value.dtype, value.shape, value.weak_type) == (traced.dtype, traced.shape, False)
    assert bits({"a": value}) == bits({"a": traced})
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    sharding = NamedSharding(mesh, PartitionSpec("x") if shape else PartitionSpec())
    placed = draw(KEY, specs, {"a": sharding})["a"]
    assert placed.sharding == sharding
    assert bits({"a": placed}) == bits({"a": traced})


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_all_lie_on_the_mesh_that_is_set(kind):
    specs = {"a": spec(init.Zeros(), (8, 4)), "b": spec(init.Normal(), (8, 4))}
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind,) * 2)
    with jax.set_mesh(mesh):
        values = draw(KEY, specs)
    assert {value.sharding.mesh for value in values.values()} == {mesh}


def test_a_users_sums_are_the_same_eager_and_jitted():
    class Scaled(init.Initializer):
        def __call__(self, key, shape, dtype=jnp.float32):
            drawn = jax.random.normal(key, shape, dtype)
            return drawn / jnp.sqrt((drawn * drawn).sum())

    specs = {"a": spec(Scaled(), (64, 48))}
    assert bits(draw(KEY, specs)) == bits(jax.jit(lambda key: draw(key, specs))(KEY))


def test_a_key_of_zeros():
    specs = {"a": pt.ParamSpec((2,), KEY.dtype, init.Zeros())}
    assert draw(KEY, specs)["a"].dtype == KEY.dtype


def test_zeros_and_ones_have_buffers_of_their_own():
    first, second = (draw(KEY, {"a": spec(init.Ones(), (64, 64))})["a"] for _ in range(2))
    changed = jax.jit(lambda array: array + 1, donate_argnums=0)(first)
    assert first.is_deleted()
    assert float(second.sum()) == float(changed.sum()) / 2 == 4096


def test_bits_are_the_same_sharded():
    net = nn.Sequential(
        nn.Dense(16, weight_init=JAX.normal(1.0)), nn.Dense(8, weight_init=init.Normal()), nn.Dense(8)
    )
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("model",)), PartitionSpec("model"))
    assert len(jax.devices()) == 8
    sharded = jax.jit(net.init, out_shardings=sharding)(KEY, X)
    assert sharded["dense0"]["weight"].sharding == sharding
    assert bits(sharded) == bits(net.init(KEY, X))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_every_kind_of_key_draws_by_name(impl):
    key = jax.random.key(0, impl=impl)
    few, many = ({name: spec(init.Uniform()) for name in names} for names in ("cb", "abc"))
    values = bits(draw(key, many))
    assert bits(draw(key, few)) == {name: values[name] for name in "bc"}
    assert len(set(values.values())) == 3


def test_an_old_style_key_draws_the_same():
    assert bits(mlp("a").init(jax.random.PRNGKey(0), X)) == bits(mlp("a").init(KEY, X))
    assert bits(mlp("a").init(np.asarray(jax.random.PRNGKey(0)), X)) == bits(mlp("a").init(KEY, X))


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (0, "0"),
        (None, "None"),
        (jnp.ones((2, 4)), "shape=(2, 4), dtype=float32"),
        (jax.random.split(jax.random.key(0), 3), "shape=(3,), dtype=key<fry>"),
        (jax.random.split(jax.random.PRNGKey(0), 3), "shape=(3, 2), dtype=uint32"),
    ],
)
def test_a_bad_key(key, found):
    message = f"the first argument must be one random key, such as jax.random.key(0); found {found}."
    for call in (lambda: mlp("a").init(key, X), lambda: pt.reinit(key, {"a": X}, {"a": init.Ones()})):
        with pytest.raises(pt.ParamTreeError) as e:
            call()
        assert str(e.value) == message


# which initialiser


def test_the_default_is_uniform_0_07_for_weights_and_zero_for_biases():
    params = nn.Dense(400).init(KEY, "1, 500")
    weight = np.asarray(params["weight"], np.float64)
    assert not params["bias"].any()
    assert np.abs(weight).max() <= 0.07 < np.abs(weight).max() * 1.001
    assert abs(weight.mean()) < 4 * 0.07 / np.sqrt(3 * weight.size)
    assert abs(weight.var() / (0.07**2 / 3) - 1) < 0.01
    counts, _ = np.histogram(weight, bins=20, range=(-0.07, 0.07))
    assert np.abs(counts / weight.size - 0.05).max() < 0.003


def test_one_initialiser_is_for_all_whose_layer_names_none():
    net = nn.Sequential(nn.Dense(3), nn.Dense(3, weight_init=init.Constant(2), bias_init=None))
    params = net.init(KEY, X, init=init.Ones())
    assert [float(leaf.mean()) for leaf in pt.collect_params(params).values()] == [1, 0, 2, 1]


def test_an_explicit_rule_beats_the_layers_own_which_beats_the_default():
    net = nn.Sequential(nn.Dense(3, weight_init=init.Constant(2)), nn.Dense(3))
    params = net.init(KEY, X, init={"dense0/weight": init.Constant(7), ".*0/.*": init.Constant(8)})
    means = [float(leaf.mean()) for leaf in pt.collect_params(params).values()]
    assert means[:2] == [7, 8]
    assert 0 < abs(means[2]) < 0.07
    pairs = net.init(KEY, X, init=[("dense0/weight", init.Constant(7)), (".*0/.*", init.Constant(8))])
    assert bits(pairs) == bits(params)
    assert bits(net.init(KEY, X, init={})) == bits(net.init(KEY, X))


def test_rule_faults_are_listed():
    rules = {"dense0": init.Ones(), ".*/weight": init.Ones(), "dense0/weight": init.Zeros()}
    with pytest.raises(pt.RuleError) as e:
        nn.Sequential(nn.Dense(3)).init(KEY, X, init=rules)
    assert str(e.value) == (
        "rules do not fit the tree of 2 parameters:\n"
        "  rule 0 'dense0' hits nothing. Did you mean 'dense0/.*'? Nearest: dense0/bias, dense0/weight.\n"
        "  rule 2 'dense0/weight' is shadowed: all it hits goes to rule 1 '.*/weight'. Put it "
        "first, or remove it."
    )


def test_a_rule_for_a_tied_place_says_where_the_parameter_lives():
    a = nn.Dense(4, name="a")
    with pytest.raises(pt.RuleError) as e:
        nn.Sequential(a, nn.Dense(4, name="b", params=a)).init(KEY, X, init={"b/weight": init.Ones()})
    assert str(e.value) == (
        "rules do not fit the tree of 2 parameters:\n  rule 0 'b/weight' hits nothing. It names "
        "only tied places: "
        "b/weight is a/weight. Select a tied parameter where it lives."
    )


def test_mixed():
    normal = JAX.normal(1.0)
    mixed = init.Mixed({"dense0/.*": init.Ones(), ".*": normal})
    net = nn.Sequential(nn.Dense(4), nn.Dense(4), nn.Dense(4, weight_init=mixed))
    as_init = net.init(KEY, X, init=mixed)
    as_rule = net.init(KEY, X, init={".*": mixed})
    assert bits(as_init) == bits(net.init(KEY, X, init={"dense0/.*": init.Ones(), ".*": normal}))
    assert bits(as_rule["dense0"]) == bits({"weight": jnp.ones((4, 4)), "bias": jnp.ones(4)})
    assert bits(as_init["dense1"])["weight"] == bits(as_rule["dense1"])["weight"]
    assert bits(as_init["dense2"])["weight"] == bits(as_rule["dense2"])["weight"]
    own = nn.Sequential(nn.Dense(4), nn.Dense(4), nn.Dense(4, weight_init=normal)).init(KEY, X)
    assert bits(own["dense2"])["weight"] == bits(as_init["dense2"])["weight"]


def test_mixed_as_init_is_checked_as_rules():
    net = nn.Sequential(nn.Dense(4), nn.Dense(4))
    with pytest.raises(pt.RuleError) as e:
        net.init(KEY, X, init=init.Mixed({"dense0/weight": init.Ones(), "dense2/bias": init.Ones()}))
    assert str(e.value) == (
        "rules do not fit the tree of 4 parameters:\n"
        "  rule 1 'dense2/bias' hits nothing. Nearest: dense1/bias, dense0/bias."
    )
    with pytest.raises(pt.ParamTreeError) as e:
        nn.Dense(4, weight_init=init.Mixed({"x": init.Ones()})).init(KEY, X)
    assert str(e.value) == "weight: Mixed: no rule hits weight; the rules are 'x'. End them with '.*'."


def test_a_name_in_a_mixture_means_itself_though_its_dots_match_more():
    tree = {"w.1": jnp.zeros(1), "wx1": jnp.zeros(1)}
    mixed = init.Mixed({"w.1": init.Constant(5), ".*": init.Ones()})
    assert jax.tree.leaves(pt.reinit(KEY, tree, {".*": mixed})) == [5, 1]


def test_load():
    net = nn.Sequential(nn.Dense(4), nn.Dense(4))
    old = net.init(jax.random.key(9), X, init={".*": init.Normal(1.0)})
    assert bits(net.init(KEY, X, init={".*": init.Load(old)})) == bits(old)
    assert bits(net.init(KEY, X, init=init.Load(old))) == bits(old)
    with pytest.raises(pt.UnknownNameError) as e:
        net.init(KEY, X, init=init.Load(old | {"dense9": old["dense0"]}))
    assert str(e.value) == (
        "Load: the tree holds what the net has no place for:\n"
        "  dense9/weight is not a parameter of the net. Did you mean dense1/weight or dense0/weight?\n"
        "  dense9/bias is not a parameter of the net. Did you mean dense1/bias or dense0/bias?"
    )
    part = net.init(KEY, X, init={".*": init.Load({"dense0": old["dense0"]}, default=init.Ones())})
    assert bits(part["dense0"]) == bits(old["dense0"])
    assert (part["dense1"]["bias"] == 1).all()
    own = nn.Dense(4, weight_init=init.Load({"weight": np.full((4, 4), 3, np.float32)})).init(KEY, X)
    assert (own["weight"] == 3).all()


def test_load_faults():
    net = nn.Dense(4)
    with pytest.raises(pt.ParamTreeError) as e:
        net.init(KEY, X, init={"weight": init.Load({"wieght": X})})
    assert str(e.value) == (
        "weight: Load: the tree does not hold weight. Did you mean wieght? Rename it, or pass default=."
    )
    with pytest.raises(pt.ParamTreeError) as e:
        net.init(KEY, X, init={"weight": init.Load({"weight": np.ones((4, 3), np.float32)})})
    assert (
        str(e.value)
        == "weight: Load: the tree's values do not fit:\n  weight needs shape (4, 4), and got (4, 3)"
    )


def test_a_loaded_value_has_a_buffer_of_its_own():
    old = {"weight": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    for initialiser in (
        init.Load(old),
        lambda key, shape, dtype: old["bias" if len(shape) == 1 else "weight"],
    ):
        params = nn.Dense(4).init(KEY, X, init={".*": initialiser})
        jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)(params)
        assert old["weight"].sum() == 16
    source = np.ones((4, 4), np.float32)
    params = nn.Dense(4, weight_init=lambda *_: source).init(KEY, X)
    source[:] = 5
    assert (params["weight"] == 1).all()


def test_the_chapters_own_initialiser():
    names = []

    def spy(key, shape, dtype, name):
        names.append(name)
        return my_init(key, shape, dtype, name)

    params = nn.Sequential(nn.Dense(200, name="out")).init(KEY, "1, 100", init=spy)
    drawn = np.asarray(params["out"]["weight"])
    assert set(names) == {"out/weight"}
    assert ((drawn == 0) | ((np.abs(drawn) >= 5) & (np.abs(drawn) <= 10))).all()
    assert abs((drawn == 0).mean() - 0.5) < 0.02
    assert abs((drawn > 0).mean() - 0.25) < 0.02
    # a user's function runs as it is: its operations may be fused under jit, and then round otherwise
    jitted = jax.jit(lambda key: nn.Dense(9).init(key, X, init=my_init))(KEY)
    np.testing.assert_allclose(jitted["weight"], nn.Dense(9).init(KEY, X, init=my_init)["weight"], rtol=1e-6)


def test_a_users_function_runs_once_for_each_parameter_at_each_init():
    calls = []

    def impure(key, shape, dtype, name):
        calls.append(name)
        return np.full(shape, len(calls), dtype)

    net = nn.Sequential(*(nn.Dense(4) for _ in range(3)))
    for first in (1, 4):
        params = net.init(KEY, X, init=impure)
        drawn = [float(params[f"dense{number}"]["weight"][0, 0]) for number in range(3)]
        assert drawn == [first, first + 1, first + 2]
    assert calls == 2 * [f"dense{number}/weight" for number in range(3)]


def test_an_initializer_class_may_take_the_name_too():
    class Length(init.Initializer):
        def __call__(self, key, shape, dtype, name):
            return jnp.full(shape, len(name), dtype)

    assert (nn.Dense(3).init(KEY, X, init=Length())["weight"] == 6).all()


def test_an_initialiser_that_needs_numpy_runs_as_it_is():
    def from_numpy(key, shape, dtype):
        seed = int(jax.random.bits(key))
        return np.random.default_rng(seed).normal(size=shape).astype(dtype)

    params = nn.Dense(3).init(KEY, X, init=from_numpy)
    assert isinstance(params["weight"], jax.Array)
    assert bits(params) == bits(nn.Dense(3).init(KEY, X, init=from_numpy))


def test_values_are_strongly_typed():
    params = nn.Dense(3).init(KEY, X, init=lambda key, shape, dtype: jnp.full(shape, 0.5))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(params))


# constants


def test_a_constant_is_drawn_anew_only_by_a_rule_that_spells_it_out():
    params = WithConstant.init(KEY, X)
    assert isinstance(params["rand_weight"], pt.Fixed)
    kept = WithConstant.init(KEY, X, init={".*": init.Constant(3)})
    assert bits(kept)["rand_weight"] == bits(params)["rand_weight"]
    assert bits(kept)["mean"] == bits(params)["mean"]
    assert (kept["dense0"]["bias"] == 3).all()
    spelled = WithConstant.init(KEY, X, init={"rand_weight": init.Constant(3)})
    assert (spelled["rand_weight"].value == 3).all()
    anew = pt.reinit(jax.random.key(1), params, {".*": init.Constant(3)})
    assert bits(anew)["rand_weight"] == bits(params)["rand_weight"]
    assert (anew["dense0"]["weight"] == 3).all()
    spelled = pt.reinit(KEY, params, {"mean": init.Ones()})
    assert isinstance(spelled["mean"], pt.Fixed)
    assert (spelled["mean"].value == 1).all()
    loaded = WithConstant.init(jax.random.key(5), X, init={"rand_weight": init.Load(params)})
    assert bits(loaded)["rand_weight"] == bits(params)["rand_weight"]


def test_a_rule_that_hits_only_constants_raises():
    for call in (
        lambda rules: WithConstant.init(KEY, X, init=rules),
        lambda rules: pt.reinit(KEY, WithConstant.init(KEY, X), rules),
    ):
        with pytest.raises(pt.RuleError) as e:
            call({"rand.*": init.Ones()})
        assert str(e.value).startswith(
            "rules do not fit the tree of 4 parameters:\n"
            "  rule 0 'rand.*' hits only what is fixed: rand_weight. Spell out the whole name to mean it."
        )


# reinit


def test_reinit_draws_the_chosen_and_keeps_the_rest():
    params = mlp("a", "b").init(KEY, X)
    anew = pt.reinit(jax.random.key(1), params, {"a/weight": init.Normal(1.0), "b/bias": init.Constant(42)})
    assert anew["b"]["weight"] is params["b"]["weight"]
    assert anew["a"]["bias"] is params["a"]["bias"]
    assert (anew["b"]["bias"] == 42).all()
    assert bits(anew)["a/weight"] == bits(mlp("a", "b").init(jax.random.key(1), X))["a/weight"]
    again = pt.reinit(KEY, anew, {".*/weight": init.Normal(1.0), ".*bias": init.Zeros()})
    assert bits(again) == bits(params)


def test_reinit_keeps_ties_and_dtypes():
    params = {"a": {"w": jnp.ones((2, 3), jnp.bfloat16)}, "b": pt.Alias("a")}
    anew = pt.reinit(KEY, params, {".*": init.Normal()})
    assert anew["b"] == pt.Alias("a")
    assert anew["a"]["w"].dtype == jnp.bfloat16
    assert bits(jax.jit(lambda p: pt.reinit(KEY, p, {".*": init.Normal()}))(params)) == bits(anew)


def test_reinit_faults():
    with pytest.raises(pt.RuleError) as e:
        pt.reinit(KEY, {"a": X}, {"b": init.Ones()})
    assert (
        str(e.value)
        == "rules do not fit the tree of 1 parameter:\n  rule 0 'b' hits nothing. The names are a."
    )
    with pytest.raises(pt.ParamTreeError) as e:
        pt.reinit(KEY, {"a": X}, {"a": None})
    assert str(e.value) == (
        "these are not initialisers:\n  a: None of type NoneType is not one; pass a callable "
        "(key, shape, dtype) "
        "-> array, such as paramtree.init.Constant(0.5)"
    )


# faults


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (init.Normal, "<class 'paramtree.init.Normal'> of type type"),
        (0.5, "0.5 of type float"),
        ("normal", "'normal' of type str"),
    ],
)
def test_what_is_no_initialiser(wrong, text):
    with pytest.raises(pt.ParamTreeError) as e:
        nn.Dense(3).init(KEY, X, init=wrong)
    assert str(e.value) == (
        f"these are not initialisers:\n  weight: {text} is not one; pass a callable (key, shape, "
        "dtype) -> array, "
        "such as paramtree.init.Constant(0.5)"
    )


def wrong_shape(key, shape, dtype):
    return jnp.ones(shape[::-1], dtype)


def wrong_dtype(key, shape, dtype):
    return np.ones(shape, np.float64)


def no_array(key, shape, dtype):
    return 0.5


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_all_that_initialisers_did_wrong_is_listed(transform):
    net = nn.Sequential(
        nn.Dense(3, weight_init=wrong_shape, bias_init=no_array), nn.Dense(2, weight_init=wrong_dtype)
    )
    for _ in range(2):  # and a second time, from what is compiled
        with pytest.raises(pt.MismatchError) as e:
            transform(net.init)(KEY, X)
        assert str(e.value) == (
            "these initialisers did not give what was asked:\n"
            "  dense0/weight: wrong_shape was asked for shape (3, 4), and gave (4, 3)\n"
            "  dense0/bias: no_array gave 0.5 of type float, not an array\n"
            "  dense1/weight: wrong_dtype was asked for dtype float32, and gave float64"
        )


def test_an_initialiser_that_a_function_made_is_called_by_its_maker_as_jaxs_own_are():
    def halves():
        def init(key, shape, dtype):
            return jnp.full(shape, 0.5, jnp.float16)

        return init

    with pytest.raises(pt.MismatchError) as e:
        nn.Dense(3, weight_init=halves()).init(KEY, X)
    assert str(e.value) == (
        "these initialisers did not give what was asked:\n"
        "  weight: halves was asked for dtype float32, and gave float16"
    )


def test_an_initialisers_own_error_comes_through():
    def broken(key, shape, dtype):
        raise TypeError("my own")

    with pytest.raises(TypeError, match=r"^my own$"):
        nn.Dense(3).init(KEY, X, init=broken)
    with pytest.raises(pt.ParamTreeError) as e:
        nn.Dense(3, bias_init=init.Xavier()).init(KEY, X)
    assert str(e.value) == (
        "bias: Xavier needs a shape of at least 2 dimensions, (out, in, ...), found (3,). "
        "For a vector or a scalar use e.g. Normal or Zeros."
    )


@dataclass(frozen=True)
class Turned(init.Initializer):
    """An initialiser of a user's own class, which gives the transpose, in half precision."""

    def __call__(self, key, shape, dtype):
        return jnp.zeros(shape[::-1], "float16")


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_what_a_class_of_initialisers_did_wrong_is_told_too(transform):
    for net in (
        nn.Dense(3, weight_init=Turned()),
        nn.Repeat(nn.Residual(nn.Dense(4, bias_init=Turned())), 2),
    ):
        with pytest.raises(pt.MismatchError) as e:
            transform(net.init)(KEY, X)
        assert "Turned() was asked for dtype float32, and gave float16" in str(e.value)
    with pytest.raises(
        pt.MismatchError, match=r"weight: Turned\(\) was asked for shape \(3, 4\), and gave \(4, 3\)"
    ):
        transform(nn.Dense(3, weight_init=Turned()).init)(KEY, X)
