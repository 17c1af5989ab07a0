"""Every layer keeps every promise: one row a layer in `layer_table`, one test a promise here."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from layer_table import ROWS

import paramtree as pt
from paramtree import init, nn

KEY = jax.random.key(3)
LAYERS = [pytest.param(row, id=name) for name, row in ROWS.items()]
WITH_PARAMS = [pytest.param(row, id=name) for name, row in ROWS.items() if row.params]
CONTAINERS = [
    row.make
    for name, row in ROWS.items()
    if name.split()[0] in ("Sequential", "Residual", "Parallel", "Repeat") or name == "remat in a Repeat"
]
every_layer = pytest.mark.parametrize("row", LAYERS)


def inputs_of(row, dtype=None, numpy=False):
    random = np.random.default_rng(0)
    make = np.asarray if numpy else jnp.asarray
    if row.dtype == "int32":
        return tuple(make(random.integers(0, 10, shape).astype(row.dtype)) for shape in row.inputs)
    return tuple(make(random.uniform(-1, 1, shape).astype(dtype or row.dtype)) for shape in row.inputs)


@cache  # one layer for all tests, so that each of its functions compiles once
def made(row):
    layer, inputs = row.make(), inputs_of(row)
    return layer, layer.init(KEY, *inputs, init=row.init or init.Normal(0.5)), inputs


@cache
def computed(row):
    """Give the layer's outputs, computed eagerly."""
    layer, params, inputs = made(row)
    return layer.apply(params, *inputs)


def shapes(tree):
    return {name: leaf.shape for name, leaf in pt.collect_params(tree).items()}


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


# --- what holds for every layer -----------------------------------------------------------------------------


def test_the_table_has_every_layer():
    assert {name.split()[0] for name in ROWS} == set(nn.__all__)


@every_layer
def test_shapes_of_specs_of_init_and_applied(row):
    layer, params, inputs = made(row)
    assert shapes(layer.specs(*inputs)) == shapes(params) == row.params
    abstract = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in inputs]
    assert shapes(layer.specs(*abstract)) == row.params
    assert shapes(jax.eval_shape(layer.init, KEY, *inputs)) == row.params
    out = computed(row)
    assert np.isfinite(out).all()
    trained = jax.eval_shape(lambda *x: layer.apply(*x, train=True, key=KEY), params, *inputs)
    for each in (out, trained, jax.eval_shape(layer.apply, params, *inputs)):
        assert (each.shape, each.dtype) == (row.output, jnp.float32)


@every_layer
def test_it_takes_no_more_and_no_less_than_its_parameters(row):
    layer, params, inputs = made(row)
    for name in row.params:
        rest = pt.partition(params, re.escape(name))[1]
        with pytest.raises(pt.UnknownNameError) as caught:
            layer.apply(rest, *inputs)
        assert str(caught.value).startswith(f"{name} is missing: ")


@every_layer
def test_eager_is_jit(row):
    layer, params, inputs = made(row)
    np.testing.assert_allclose(jax.jit(layer.apply)(params, *inputs), computed(row), rtol=1e-6, atol=1e-7)
    jitted = jax.jit(layer.apply, static_argnames="train")
    trained = layer.apply(params, *inputs, train=True, key=KEY)
    np.testing.assert_allclose(jitted(params, *inputs, train=True, key=KEY), trained, rtol=1e-6, atol=1e-7)
    again = jax.jit(lambda key: layer.init(key, *inputs, init=row.init or init.Normal(0.5)))(KEY)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@every_layer
def test_gradients_against_numerical_differences(row):
    layer, params, inputs = made(row)
    trained = pt.collect_params(params, pt.trainable, allow_empty=True)
    if row.dtype == "float32":
        apply = jax.jit(lambda part, *x: layer.apply(pt.update(params, part), *x))
        check_grads(apply, (trained, *inputs), 1, ["rev"], atol=2e-2, rtol=2e-2)
    elif trained:
        apply = jax.jit(lambda part: layer.apply(pt.update(params, part), *inputs))
        check_grads(apply, (trained,), 1, ["rev"], atol=2e-2, rtol=2e-2)
    grads = jax.jit(jax.grad(lambda p: (layer.apply(p, *inputs) ** 2).sum()))(params)
    for name, grad in pt.collect_params(grads).items():
        assert np.isfinite(grad).all()
        assert np.asarray(grad).any() == (name in trained), name  # a running statistic has no gradient


@every_layer
def test_vmap_is_a_loop(row):
    layer, params, inputs = made(row)
    one = jax.jit(lambda *one: layer.apply(params, *[each[None] for each in one])[0])
    mapped = jax.jit(jax.vmap(one))(*inputs)
    looped = [one(*[np.asarray(each)[i] for each in inputs]) for i in range(3)]
    np.testing.assert_allclose(mapped, np.stack(looped), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mapped, computed(row), rtol=1e-5, atol=1e-6)


@every_layer
def test_bfloat16(row):
    layer, params, inputs = made(row)
    half = pt.cast(params, {".*": "bfloat16"}) if row.params else params
    halves = [each.astype("bfloat16") if each.dtype == jnp.float32 else each for each in inputs]
    out = jax.jit(layer.apply)(half, *halves)
    trained = jax.eval_shape(lambda *x: layer.apply(*x, train=True, key=KEY), half, *halves)
    assert out.dtype == trained.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, "float32"), computed(row), rtol=0.1, atol=0.05)


@every_layer
def test_float64(row):
    layer, params, _ = made(row)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), params)
        doubles = inputs_of(row, "float64")
        out = jax.jit(layer.apply)(wide, *doubles)
        trained = jax.eval_shape(lambda *x: layer.apply(*x, train=True, key=KEY), wide, *doubles)
        assert out.dtype == trained.dtype == jnp.float64
    np.testing.assert_allclose(out, computed(row), rtol=1e-4, atol=1e-5)


@every_layer
def test_numpy_inputs(row):
    layer, params, _ = made(row)
    wanted = computed(row)
    plain = jax.tree.map(np.asarray, params)
    np.testing.assert_allclose(layer.apply(plain, *inputs_of(row, numpy=True)), wanted, rtol=1e-6, atol=1e-6)
    if row.dtype == "float32":  # what pandas and scikit-learn hand over
        doubles = inputs_of(row, "float64", numpy=True)
        assert shapes(layer.init(KEY, *doubles)) == row.params
        if row.make is not ROWS["Lambda"].make:  # which leaves its inputs alone
            np.testing.assert_allclose(layer.apply(params, *doubles), wanted, rtol=1e-4, atol=1e-5)


@every_layer
def test_a_symbolic_batch(row):
    layer = row.make()
    dtype = "int32" if row.dtype == "int32" else ""
    texts = [f"{dtype}[batch, {', '.join(map(str, shape[1:]))}]" for shape in row.inputs]
    if not dtype:
        texts = [text[1:-1] for text in texts]
    assert shapes(layer.specs(*texts)) == row.params


@pytest.mark.parametrize("row", WITH_PARAMS)
def test_symbols_everywhere(row):
    sizes = ", ".join(f"s{axis}" for axis in range(len(row.inputs[0])))
    found = row.make().specs(f"int32[{sizes}]" if row.dtype == "int32" else sizes)
    texts = {name: pt.collect_params(found)[name] for name in row.params}
    for name, wanted in row.symbolic_params.items():
        assert str(texts[name]).startswith(f"ParamSpec({wanted}, float32")
    assert row.symbolic_params.keys() == row.params.keys()


@every_layer
def test_no_tracer_leaks(row):
    layer, params, inputs = made(row)
    with jax.checking_leaks():
        layer.specs(*inputs)
        jax.eval_shape(layer.init, KEY, *inputs)
        jax.eval_shape(lambda p, *x: layer.apply(p, *x, train=True, key=KEY), params, *inputs)
        jax.eval_shape(jax.grad(lambda p: layer.apply(p, *inputs).sum()), params)


@every_layer
def test_an_empty_batch(row):
    layer, params, inputs = made(row)
    empty = [np.asarray(each)[:0] for each in inputs]
    assert shapes(layer.specs(*empty)) == row.params
    assert layer.apply(params, *empty).shape == (0, *row.output[1:])
    if row.trains_on_nothing:
        trained = jax.jit(lambda p: layer.apply(p, *empty, train=True, key=KEY))(params)
        assert trained.shape == (0, *row.output[1:])
    grads = jax.jit(jax.grad(lambda p: layer.apply(p, *empty).sum()))(params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


@every_layer
def test_how_it_prints(row):
    layer, params, _ = made(row)
    assert repr(layer) == row.text
    assert repr(pt.bind(layer, params)) == (row.bound or row.text)
    assert repr(pt.bind(layer, {})) == row.text


@every_layer
def test_a_name_is_its_key(row):
    layer, inputs = row.make(name="mine"), inputs_of(row)

    @pt.module
    def Holder(scope, *inputs):
        return scope.call(layer, *inputs)

    params = Holder.init(KEY, *inputs)
    assert shapes(params) == {f"mine/{name}": shape for name, shape in row.params.items()}
    assert set(params) == ({"mine"} if row.params else set())  # without parameters, without a key
    np.testing.assert_array_equal(Holder.apply(params, *inputs), layer.apply(params.get("mine", {}), *inputs))
    assert message(pt.BadNameError, lambda: row.make(name="a/b")).startswith(
        f"the key 'a/b' in {layer.title!r} holds a '/'"
    )


@pytest.mark.parametrize("row", WITH_PARAMS)
def test_one_layer_twice_and_params_of_another_are_one_set(row):
    def net_of(one, other):
        @pt.module
        def Both(scope, *inputs):
            return scope.call(one, *inputs) + scope.call(other, *inputs)

        return Both

    inputs = inputs_of(row)
    layer = row.make()
    twice = net_of(layer, layer).init(KEY, *inputs)
    assert len(jax.tree.leaves(twice)) == len(row.params)
    if row.make in CONTAINERS:
        return  # which have no params=, as their layers have
    home = row.make(name="home")
    net = net_of(home, row.make(params=home, name="other"))
    params = net.init(KEY, *inputs)
    assert params["other"] == pt.Alias("home")
    np.testing.assert_array_equal(net.apply(params, *inputs), 2 * home.apply(params["home"], *inputs))
    grads = jax.jit(jax.grad(lambda p: net.apply(p, *inputs).sum()))(params)
    single = jax.jit(jax.grad(lambda p: home.apply(p, *inputs).sum()))(params["home"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 2 * b, rtol=1e-6), grads["home"], single)


# --- Activation ---------------------------------------------------------------------------------------------


KNOWN = (
    "elu, gelu, leaky_relu, log_softmax, relu, selu, sigmoid, silu, softmax, softplus, softrelu, softsign, "
    "swish, tanh"
)


@pytest.mark.parametrize("make", [nn.Activation, lambda activation: nn.Dense(3, activation)])
def test_an_unknown_activation_raises_at_construction(make):
    assert message(pt.ParamTreeError, lambda: make("rleu")) == (
        f"no activation is 'rleu'. Did you mean relu? Pass a function, or one of {KNOWN}."
    )
    assert message(pt.ParamTreeError, lambda: make("ReLU")) == (
        f"no activation is 'ReLU'. Did you mean relu or elu or selu? Pass a function, or one of {KNOWN}."
    )
    assert message(pt.ParamTreeError, lambda: make(3)) == (
        f"no activation is 3. Pass a function, or one of {KNOWN}."
    )
    assert message(pt.ParamTreeError, lambda: make(["relu"])) == (
        f"no activation is ['relu']. Did you mean relu? Pass a function, or one of {KNOWN}."
    )


def test_activations_compute_what_their_names_say():
    x = np.linspace(-3, 3, 13, dtype=np.float32)
    formulas = {
        "relu": np.maximum(x, 0),
        "sigmoid": 1 / (1 + np.exp(-x)),
        "tanh": np.tanh(x),
        "softrelu": np.log1p(np.exp(x)),
        "softplus": np.log1p(np.exp(x)),
        "softsign": x / (1 + np.abs(x)),
        "leaky_relu": np.where(x > 0, x, 0.01 * x),
        "elu": np.where(x > 0, x, np.exp(x) - 1),
        "selu": 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1)),
        "gelu": 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "silu": x / (1 + np.exp(-x)),
        "swish": x / (1 + np.exp(-x)),
        "softmax": np.exp(x) / np.exp(x).sum(),
        "log_softmax": x - np.log(np.exp(x).sum()),
    }
    assert ", ".join(sorted(formulas)) == KNOWN
    for name, wanted in formulas.items():
        out = nn.Activation(name).apply({}, x)
        np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-6, err_msg=name)


# --- Dense --------------------------------------------------------------------------------------------------


def test_dense_is_its_formula():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    weight, bias = np.arange(12, dtype=np.float32).reshape(4, 3) - 5, np.arange(4, dtype=np.float32)
    out = nn.Dense(4, "relu").apply({"weight": weight, "bias": bias}, x)
    np.testing.assert_allclose(out, np.maximum(x @ weight.T + bias, 0), rtol=1e-6)
    one = nn.Dense(4).apply({"weight": weight, "bias": bias}, x[0])
    np.testing.assert_allclose(one, weight @ x[0] + bias, rtol=1e-6)


@pytest.mark.parametrize("units", [0, -3, "10", 2.0, None, True, np.float32(2), jnp.int32])
def test_dense_of_bad_units(units):
    assert message(pt.ParamTreeError, lambda: nn.Dense(units)) == (
        f"Dense needs units to be an integer of at least 1, and got {units!r}."
    )


def test_dense_of_numpy_units():
    assert nn.Dense(np.int64(3)).init(KEY, jnp.ones((1, 2)))["weight"].shape == (3, 2)


def test_dense_of_a_scalar():
    assert message(pt.MismatchError, lambda: nn.Dense(3).init(KEY, jnp.float32(1))) == (
        "Dense(float32[]) needs an input with at least one axis, the features."
    )


def test_dense_of_another_width():
    params = nn.Dense(3).init(KEY, jnp.ones((2, 4)))
    assert message(pt.MismatchError, lambda: nn.Dense(3).apply(params, jnp.ones((2, 5)))) == (
        "weight has shape (3, 4), and Dense(float32[2,5]) needs (3, 5). "
        "Pass an input that fits, or init new parameters."
    )


def test_dense_initialisers():
    layer = nn.Dense(3, weight_init=init.Constant(2.0), bias_init=init.Constant(5.0))
    params = layer.init(KEY, jnp.ones((1, 2)), init=init.Normal(1.0))
    assert (params["weight"] == 2).all()
    assert (params["bias"] == 5).all()
    plain = nn.Dense(300).init(KEY, jnp.ones((1, 200)))
    assert not plain["bias"].any()
    assert 0.069 < abs(plain["weight"]).max() <= 0.07


# --- Embedding ----------------------------------------------------------------------------------------------


def test_embedding_looks_rows_up():
    weight = jnp.arange(20, dtype=jnp.float32).reshape(5, 4)
    for dtype in ("int8", "uint8", "int32", "uint32"):
        out = nn.Embedding(5, 4).apply({"weight": weight}, jnp.array([[4, 0], [1, 1]], dtype))
        np.testing.assert_array_equal(out, weight[np.array([[4, 0], [1, 1]])])
    np.testing.assert_array_equal(nn.Embedding(5, 4).apply({"weight": weight}, 3), weight[3])
    table = jnp.arange(300, dtype=jnp.float32)[:, None]  # more rows than a byte can name
    assert nn.Embedding(300, 1).apply({"weight": table}, jnp.array([255], "uint8")) == 255


def test_embedding_ids_out_of_range_are_seen():
    weight = jnp.arange(20, dtype=jnp.float32).reshape(5, 4)
    layer = nn.Embedding(5, 4)
    out = layer.apply({"weight": weight}, jnp.array([5, 4, -1, -5, 100, 0]))
    assert jnp.isnan(out).all(axis=1).tolist() == [True, False, True, True, True, False]
    grads = jax.grad(lambda p: layer.apply(p, jnp.array([-1, 1])).sum())({"weight": weight})
    assert (grads["weight"].sum(axis=1) != 0).tolist() == [False, True, False, False, False]


def test_embedding_of_floats():
    params = nn.Embedding(5, 4).init(KEY, jnp.array([1]))
    for ids, text in ((jnp.ones((2, 3)), "float32[2,3]"), (jnp.array([True]), "bool[1]")):
        wanted = f"Embedding({text}) needs integer ids. Convert them with .astype(int)."
        assert message(pt.MismatchError, lambda ids=ids: nn.Embedding(5, 4).init(KEY, ids)) == wanted
        assert message(pt.MismatchError, lambda ids=ids: nn.Embedding(5, 4).apply(params, ids)) == wanted
    assert message(pt.MismatchError, lambda: nn.Embedding(5, 4).specs("batch, time")) == (
        "Embedding(float32[batch,time]) needs integer ids. Convert them with .astype(int)."
    )


def test_embedding_of_bad_sizes():
    assert message(pt.ParamTreeError, lambda: nn.Embedding(0, 4)) == (
        "Embedding needs vocabulary to be an integer of at least 1, and got 0."
    )
    assert message(pt.ParamTreeError, lambda: nn.Embedding(10, "4")) == (
        "Embedding needs features to be an integer of at least 1, and got '4'."
    )


# --- Dropout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1, -0.1, 1.5, "0.5", None, float("nan"), 1j])
def test_dropout_of_a_bad_rate(rate):
    assert message(pt.ParamTreeError, lambda: nn.Dropout(rate)) == (
        f"Dropout needs a rate in [0, 1), the share that is dropped, and got {rate!r}."
    )


def test_dropout_needs_a_key_in_training_only():
    x = jnp.ones(4)
    assert message(pt.ParamTreeError, lambda: nn.Dropout(0.5).apply({}, x, train=True)) == (
        "Dropout needs randomness: pass key= to apply."
    )
    net = nn.Sequential(nn.Sequential(nn.Dropout(0.5), name="block"))
    assert message(pt.ParamTreeError, lambda: net.apply({}, x, train=True)) == (
        "block/dropout0 needs randomness: pass key= to apply."
    )
    np.testing.assert_array_equal(nn.Dropout(0.5).apply({}, x), x)
    np.testing.assert_array_equal(nn.Dropout(0.5).apply({}, x, key=KEY), x)
    np.testing.assert_array_equal(nn.Dropout(0).apply({}, x, train=True), x)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_rate_and_keeps_the_mean(rate):
    x = jnp.full((200, 500), 3.0)
    out = np.asarray(nn.Dropout(rate).apply({}, x, train=True, key=KEY))
    deviation = np.sqrt(rate * (1 - rate) / out.size)
    assert abs((out == 0).mean() - rate) < 5 * deviation
    np.testing.assert_allclose(out[out != 0], 3 / (1 - rate), rtol=1e-6)
    assert abs(out.mean() / 3 - 1) < 5 * deviation / (1 - rate)


def test_dropout_draws_anew_by_key_and_by_place():
    x = jnp.ones(1000)
    layer = nn.Dropout(0.5)
    first = layer.apply({}, x, train=True, key=jax.random.key(0))
    np.testing.assert_array_equal(first, layer.apply({}, x, train=True, key=jax.random.key(0)))
    assert (first != layer.apply({}, x, train=True, key=jax.random.key(1))).any()
    for net in (nn.Sequential(layer, layer), nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))):
        kept = (net.apply({}, x, train=True, key=KEY) != 0).mean()
        assert abs(kept - 0.25) < 0.07  # one mask twice would keep half


def test_dropout_does_not_mind_a_numpy_rate_or_change_a_dtype():
    x = jnp.ones(8, jnp.bfloat16)
    assert nn.Dropout(np.float64(0.5)).apply({}, x, train=True, key=KEY).dtype == jnp.bfloat16
    assert repr(nn.Dropout(np.float32(0.5))) == "Dropout(0.5)"


# --- Flatten, Lambda, Sequential ----------------------------------------------------------------------------


def test_flatten():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(nn.Flatten().apply({}, x), x.reshape(2, 12))
    assert nn.Flatten().apply({}, jnp.ones(5)).shape == (5, 1)
    assert nn.Flatten().apply({}, jnp.ones((0, 3, 4))).shape == (0, 12)
    assert message(pt.MismatchError, lambda: nn.Flatten().apply({}, jnp.float32(1))) == (
        "Flatten(float32[]) needs an input with at least one axis, the batch."
    )


def test_lambda():
    assert nn.Lambda(lambda *xs: sum(xs)).apply({}, 1, 2, 3) == 6
    assert repr(nn.Lambda(jnp.tanh)) == "Lambda(tanh)"
    assert message(pt.ParamTreeError, lambda: nn.Lambda("tanh")) == (
        "Lambda takes a function of the inputs, and not 'tanh'."
    )
    assert message(pt.ParamTreeError, lambda: nn.Lambda(None)) == (
        "Lambda takes a function of the inputs, and not None."
    )


@pytest.mark.parametrize("layer", ["relu", None, jax.nn.relu, [nn.Dense(1)], nn.Dense])
def test_sequential_of_what_is_no_module(layer):
    assert message(pt.ParamTreeError, lambda: nn.Sequential(nn.Dense(3), layer)) == (
        f"Sequential takes modules, and layer 1 is {layer!r}. "
        "Make one with nn.Lambda(function), pt.wrap(init, apply) or pt.module(function)."
    )


def test_sequential_is_indexed():
    first, second = nn.Dense(3), nn.Dense(2)
    net = nn.Sequential(first, nn.Flatten(), second)
    assert len(net) == 3
    assert net[0] is first
    assert net[-1] is second
    for index in (3, -4):
        assert message(pt.ParamTreeError, lambda index=index: net[index]) == (
            f"Sequential has no layer {index}: it has 3 layers, 0 to 2."
        )
    assert message(pt.ParamTreeError, lambda: first[0]) == "Dense has no layers to index."
    assert message(pt.ParamTreeError, lambda: nn.Sequential()[0]) == "Sequential has no layers to index."


def test_a_slice_takes_the_parameters_of_the_whole():
    x = jnp.ones((2, 4))
    net = nn.Sequential(nn.Dense(3), nn.Dense(2), nn.Dense(1))
    params = net.init(KEY, x)
    np.testing.assert_array_equal(net[1:].apply(params, net[:1].apply(params, x)), net.apply(params, x))
    assert set(net[1:].specs("b, 3")) == {"dense1", "dense2"}
    np.testing.assert_array_equal(net[:0].apply(params, x), x)


def test_two_layers_of_one_name():
    assert message(pt.BadNameError, lambda: nn.Sequential(nn.Dense(3, name="a"), nn.Dense(2, name="a"))) == (
        "two layers are named 'a': Dense(3, linear) and Dense(2, linear). "
        "Give each a name of its own; or, to share parameters, use one layer twice."
    )
    layer = nn.Dense(4, name="a")
    params = nn.Sequential(layer, layer).init(KEY, jnp.ones((1, 4)))
    assert shapes(params) == {"a/weight": (4, 4), "a/bias": (4,)}


def test_an_automatic_key_that_is_taken():
    with pytest.raises(pt.BadNameError) as caught:
        nn.Sequential(nn.Dense(3, name="dense0"), nn.Dense(2))
    assert str(caught.value).startswith("two layers are named 'dense0': ")
