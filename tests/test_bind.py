"""The reading glass: what it finds, what it prints, what it says when there is nothing there."""

import copy
import pickle
from dataclasses import dataclass
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree import init, nn

KEY = jax.random.key(0)


@pt.module
def FancyMLP(scope, x):
    dense = nn.Dense(20, activation="relu")
    x = scope.call(dense, x, name="dense")
    w = scope.constant("rand_weight", (20, 20), init.Uniform(1.0))
    x = jax.nn.relu(x @ w + 1)
    return scope.call(dense, x, name="dense").sum()


NET = nn.Sequential(nn.Dense(256, activation="relu"), nn.Dense(10))
X = jnp.linspace(0, 1, 40, dtype=jnp.float32).reshape(2, 20)
PARAMS = NET.init(KEY, X)
BOUND = pt.bind(NET, PARAMS)

SHARED = nn.Dense(8, activation="relu", name="shared")
TIED_NET = nn.Sequential(
    nn.Dense(8, activation="relu"), SHARED, nn.Dense(8, activation="relu", params=SHARED), nn.Dense(10)
)
TIED = TIED_NET.init(KEY, X)

NESTED = nn.Sequential(
    nn.Sequential(nn.Dense(20), nn.Dropout(0.5), name="block"), nn.Flatten(), nn.Sequential(FancyMLP)
)


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


# --- look-up -----------------------------------------------------------------------------------------------


def test_an_index_an_attribute_and_a_key_give_the_same_part():
    whole, last = BOUND[:2], BOUND[1:]
    for part in (BOUND[1], BOUND[-1], BOUND.dense1, BOUND["dense1"], whole[1], last[0], last.dense1):
        assert part.bias.name == "dense1/bias"
        assert part["weight"].data() is PARAMS["dense1"]["weight"]


def test_a_parameter_says_what_it_is():
    bias = BOUND[1].bias
    assert repr(bias) == "Parameter dense1/bias (shape=(10,), dtype=float32)"
    assert (bias.name, bias.shape, bias.dtype, bias.trainable) == ("dense1/bias", (10,), jnp.float32, True)
    assert bias.data() is PARAMS["dense1"]["bias"]


def test_nested_parts():
    params = NESTED.init(KEY, jnp.ones((2, 3)))
    bound = pt.bind(NESTED, params)
    assert bound[0][0].weight.name == bound.block.dense0.weight.name == "block/dense0/weight"
    assert bound[2][0].rand_weight.name == bound[-1].fancymlp0["rand_weight"].name
    assert len(bound) == 3
    assert [repr(layer) for layer in bound[0]] == ["Dense(3 -> 20, linear)", "Dropout(0.5)"]
    assert "block" in bound
    assert "flatten0" not in bound  # it has no parameters
    assert repr(bound.flatten0) == "Flatten()"
    assert bool(bound.flatten0)
    assert bound.flatten0.params == {}
    assert {"block", "sequential0"} <= set(dir(bound))


def test_params_are_its_own_and_collect_params_all():
    assert list(BOUND.params) == []
    assert list(BOUND[0].params) == ["dense0/weight", "dense0/bias"]
    assert list(BOUND.collect_params()) == ["dense0/weight", "dense0/bias", "dense1/weight", "dense1/bias"]
    assert list(BOUND.collect_params(".*bias")) == ["dense0/bias", "dense1/bias"]
    assert list(BOUND[1].collect_params(".*bias")) == ["dense1/bias"]
    assert list(BOUND[1].collect_params("nothing", allow_empty=True)) == []
    assert all(isinstance(each, pt.Parameter) for each in BOUND.collect_params().values())


def test_names_are_in_natural_order():
    net = nn.Sequential(*[nn.Dense(2) for _ in range(11)])
    bound = pt.bind(net, net.init(KEY, jnp.ones((1, 2))))
    wanted = [f"dense{i}/{kind}" for i in range(11) for kind in ("weight", "bias")]
    assert list(bound.collect_params()) == list(bound.collect_params(".*")) == wanted


def test_a_slice_holds_its_own_layers_only():
    assert list(BOUND[:1].collect_params()) == ["dense0/weight", "dense0/bias"]
    assert list(BOUND[1:].collect_params(".*")) == ["dense1/weight", "dense1/bias"]
    assert list(BOUND[:2][1:].collect_params()) == ["dense1/weight", "dense1/bias"]
    assert list(BOUND[:0].collect_params()) == []
    assert repr(BOUND[:1]) == "Sequential(\n  (0) dense0: Dense(20 -> 256, relu)\n)"
    assert message(pt.UnknownNameError, lambda: BOUND[:1]["dense1"]) == (
        "Sequential has no 'dense1'. Did you mean dense0?"
    )


def test_selects_see_constants_as_trees_do():
    bound = pt.bind(FancyMLP, FancyMLP.init(KEY, X))
    assert list(bound.collect_params(pt.trainable)) == ["dense/weight", "dense/bias"]
    assert list(bound.collect_params(lambda name, leaf: leaf.ndim == 2)) == ["dense/weight", "rand_weight"]
    assert list(bound.collect_params()) == ["dense/weight", "dense/bias", "rand_weight"]


# --- calling ------------------------------------------------------------------------------------------------


def test_calling_a_net_a_layer_and_a_slice():
    hidden = NET[0].apply(PARAMS["dense0"], X)
    np.testing.assert_array_equal(BOUND(X), NET.apply(PARAMS, X))
    np.testing.assert_array_equal(BOUND[0](X), hidden)
    np.testing.assert_array_equal(BOUND.dense1(hidden), BOUND(X))
    np.testing.assert_array_equal(BOUND[:1](X), hidden)
    np.testing.assert_array_equal(BOUND[1:](hidden), BOUND(X))


def test_calling_in_training():
    net = nn.Sequential(nn.Dense(50), nn.Dropout(0.5))
    bound = pt.bind(net, net.init(KEY, X))
    assert (bound(X, train=True, key=KEY) == 0).any()
    assert not (bound[0](X) == 0).any()


def test_a_tied_layer_is_called_with_what_it_shares():
    bound = pt.bind(TIED_NET, TIED)
    h = jnp.ones((2, 8))
    np.testing.assert_array_equal(bound[2](h), bound[1](h))
    np.testing.assert_array_equal(bound[2:](h), bound[3](bound[2](h)))


def test_gradients_pass_through_the_glass():
    grads = jax.grad(lambda p: pt.bind(NET, p)(X).sum())(PARAMS)
    wanted = jax.grad(lambda p: NET.apply(p, X).sum())(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, grads, wanted)
    jitted = jax.jit(lambda p: pt.bind(NET, p)(X))
    np.testing.assert_allclose(jitted(PARAMS), BOUND(X), rtol=1e-5, atol=1e-6)


# --- gradients and new values -------------------------------------------------------------------------------


def test_gradients_are_zeros_before_any_backward_pass():
    grad = BOUND[0].weight.grad()
    assert (grad.shape, grad.dtype) == ((256, 20), jnp.float32)
    assert not grad.any()


def test_zeros_of_64_bits_stay_of_64_bits():
    assert pt.bind(nn.Dense(3), {"weight": np.ones((3, 2))}).weight.grad().dtype == np.float64


def test_gradients_given():
    grads = jax.grad(lambda p: NET.apply(p, X).sum())(PARAMS)
    bound = pt.bind(NET, PARAMS, grads)
    assert bound[1].bias.grad() is grads["dense1"]["bias"]
    np.testing.assert_array_equal(bound[1].bias.grad(), np.full(10, 2.0, np.float32))


def test_gradients_of_a_part():
    part = pt.collect_params(PARAMS, "dense1/.*")
    grads = jax.grad(lambda part: NET.apply(pt.update(PARAMS, part), X).sum())(part)
    bound = pt.bind(NET, PARAMS, grads)
    assert bound[1].bias.grad() is grads["dense1/bias"]
    with pytest.raises(pt.UnknownNameError) as caught:
        bound[0].bias.grad()
    assert str(caught.value).startswith("the gradients do not hold dense0/bias; they hold dense1/")
    assert message(pt.UnknownNameError, pt.bind(NET, PARAMS, {})[0].bias.grad) == (
        "the gradients do not hold dense0/bias; they hold nothing."
    )


def test_a_constant_has_no_gradient():
    constant = pt.bind(FancyMLP, FancyMLP.init(KEY, X)).rand_weight
    assert not constant.trainable
    assert repr(constant) == "Constant rand_weight (shape=(20, 20), dtype=float32)"
    assert message(pt.ParamTreeError, constant.grad) == (
        "rand_weight is a constant, and has no gradient; pt.unfreeze it."
    )
    frozen = pt.bind(NET, pt.freeze(PARAMS, "dense0/.*"))
    assert not frozen[0].bias.trainable
    assert frozen[1].bias.trainable


def test_set_data_returns_a_new_tree():
    new = BOUND[1].bias.set_data(jnp.ones(10))
    assert (new["dense1"]["bias"] == 1).all()
    assert (PARAMS["dense1"]["bias"] == 0).all()
    assert new["dense0"]["weight"] is PARAMS["dense0"]["weight"]
    new = BOUND[1].bias.set_data(lambda old: old + 3)
    assert (new["dense1"]["bias"] == 3).all()


def test_set_data_of_another_shape():
    for value in (jnp.ones(9), lambda old: old[:9]):
        assert message(pt.MismatchError, lambda value=value: BOUND[1].bias.set_data(value)) == (
            "update: these values do not fit:\n  dense1/bias needs shape (10,), and got (9,)"
        )


def test_set_data_of_a_constant_and_of_a_tied_place():
    params = FancyMLP.init(KEY, X)
    new = pt.bind(FancyMLP, params).rand_weight.set_data(jnp.zeros((20, 20)))
    assert isinstance(new["rand_weight"], pt.Fixed)
    assert not new["rand_weight"].value.any()
    new = pt.bind(TIED_NET, TIED)[2].bias.set_data(jnp.ones(8))
    assert new["dense1"] == pt.Alias("shared")
    assert (new["shared"]["bias"] == 1).all()


# --- ties ---------------------------------------------------------------------------------------------------


def test_a_tied_place_gives_the_shared_parameter():
    bound = pt.bind(TIED_NET, TIED)
    assert bound[2].weight.name == bound.dense1.weight.name == "shared/weight"
    assert bound[2].weight.data() is TIED["shared"]["weight"]
    assert list(bound[2].params) == ["shared/weight", "shared/bias"]
    assert list(bound.collect_params()).count("shared/weight") == 1
    assert repr(bound) == (
        "Sequential(\n"
        "  (0) dense0: Dense(20 -> 8, relu)\n"
        "  (1) shared: Dense(8 -> 8, relu)\n"
        "  (2) dense1 -> shared: Dense(8 -> 8, relu)\n"
        "  (3) dense2: Dense(8 -> 10, linear)\n"
        ")"
    )
    assert "\n  dense1 -> shared\n" in repr(bound.collect_params())
    assert repr(bound[2].params) == (
        "dense1 -> shared (\n"
        "  Parameter shared/weight (shape=(8, 8), dtype=float32)\n"
        "  Parameter shared/bias (shape=(8,), dtype=float32)\n"
        ")"
    )


def test_a_select_of_a_tied_place_says_where_it_lives():
    with pytest.raises(pt.NoMatchError) as caught:
        pt.bind(TIED_NET, TIED).collect_params("dense1/.*")
    assert "dense1/weight is shared/weight" in str(caught.value)


def test_a_transposed_and_a_chained_tie():
    net = nn.Sequential(nn.Dense(3, use_bias=False, name="a"), nn.Dense(2, use_bias=False, name="b"))
    params = {
        "a": {"weight": jnp.ones((3, 2))},
        "b": {"weight": pt.Alias("a/weight", transpose=True)},
        "c": pt.Alias("b"),
    }
    bound = pt.bind(net, params)
    assert bound.b.weight.name == bound.c.weight.name == "a/weight"
    assert (
        bound.b.weight.shape == bound.c.weight.shape == (2, 3)
    )  # as the place sees it, and as pt.get gives it
    assert bound[1](jnp.ones((1, 3))).shape == (1, 2)
    assert repr(bound.b.params) == (
        "b (\n  Parameter a/weight (shape=(3, 2), dtype=float32)\n  b/weight -> a/weight, transposed\n)"
    )
    assert list(bound["c"].collect_params(".*")) == ["a/weight"]


def test_a_node_of_the_user_is_seen_as_its_array():
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class LowRank(pt.Node):
        left: jax.Array
        right: jax.Array

        def resolve(self, lookup):
            return self.left @ self.right

    params = {"weight": LowRank(jnp.ones((3, 1)), jnp.ones((1, 2))), "bias": jnp.zeros(3)}
    bound = pt.bind(nn.Dense(3), params)
    assert repr(bound.weight) == "Parameter weight (shape=(3, 2), dtype=float32)"
    assert list(bound.collect_params()) == ["weight", "bias"]
    assert bound(jnp.ones((1, 2))).shape == (1, 3)


# --- printing -----------------------------------------------------------------------------------------------


def test_parameters_print_as_in_the_chapter():
    text = (
        "dense0 (\n"
        "  Parameter dense0/weight (shape=(256, 20), dtype=float32)\n"
        "  Parameter dense0/bias (shape=(256,), dtype=float32)\n"
        ")"
    )
    assert repr(BOUND[0].params) == repr(BOUND[0].collect_params()) == text
    assert repr(BOUND.collect_params("dense0/.*")) == repr(pt.collect_params(PARAMS, "dense0/.*")) == text


def test_a_net_prints_with_sizes():
    assert (
        repr(BOUND)
        == str(BOUND)
        == ("Sequential(\n  (0) dense0: Dense(20 -> 256, relu)\n  (1) dense1: Dense(256 -> 10, linear)\n)")
    )
    assert repr(BOUND[0]) == "Dense(20 -> 256, relu)"


FANCY_TEXT = (
    "FancyMLP (\n"
    "  dense (\n"
    "    Parameter dense/weight (shape=(20, 20), dtype=float32)\n"
    "    Parameter dense/bias (shape=(20,), dtype=float32)\n"
    "  )\n"
    "  Constant rand_weight (shape=(20, 20), dtype=float32)\n"
    ")"
)


def test_a_function_module_prints_its_parameters():
    bound = pt.bind(FancyMLP, FancyMLP.init(KEY, X))
    assert repr(bound) == FANCY_TEXT
    assert repr(bound.dense) == FANCY_TEXT[11:-57].replace("\n  ", "\n").strip()
    assert repr(bound.params) == "FancyMLP (\n  Constant rand_weight (shape=(20, 20), dtype=float32)\n)"
    assert message(pt.ParamTreeError, lambda: bound.dense(X)) == (
        "dense is a block of parameters, and no module is known for it."
    )
    assert message(pt.ParamTreeError, lambda: bound[0]) == (
        "FancyMLP has no layers to index. Its keys are dense, rand_weight."
    )
    assert len(bound) == len(bound.dense) == 0


def test_a_function_module_within_a_net():
    net = nn.Sequential(FancyMLP)
    lines = repr(pt.bind(net, net.init(KEY, X))).split("\n")
    assert lines[1] == "  (0) fancymlp0: FancyMLP ("
    assert lines[2] == "    fancymlp0/dense ("
    assert lines[3] == "      Parameter fancymlp0/dense/weight (shape=(20, 20), dtype=float32)"


def test_specs_and_abstract_trees_print():
    assert repr(pt.bind(NET, NET.specs("batch, features"))) == (
        "Sequential(\n  (0) dense0: Dense(features -> 256, relu)\n  (1) dense1: Dense(256 -> 10, linear)\n)"
    )
    assert repr(pt.bind(NET, NET.specs("batch, features"))[0].weight) == (
        "Parameter dense0/weight (shape=(256, features), dtype=float32)"
    )
    assert repr(pt.bind(NET, jax.eval_shape(lambda: PARAMS))) == repr(BOUND)
    assert repr(pt.bind(FancyMLP, FancyMLP.specs("batch, 20"))) == FANCY_TEXT
    assert repr(pt.bind(FancyMLP, jax.eval_shape(lambda: FancyMLP.init(KEY, X)))) == FANCY_TEXT
    abstract = jax.eval_shape(lambda: TIED)
    assert repr(pt.bind(TIED_NET, abstract)) == repr(pt.bind(TIED_NET, TIED))
    assert repr(pt.bind(TIED_NET, TIED_NET.specs("b, 20"))) == repr(pt.bind(TIED_NET, TIED))


def test_a_very_long_listing_is_elided():
    params = {f"layer{i}": {"weight": np.zeros(1, np.float32)} for i in range(1000)}
    net = pt.Module(lambda scope: None, "Long")
    found = pt.bind(net, params).collect_params()
    lines = repr(found).split("\n")
    assert len(lines) == 403
    assert lines[201] == "  ... 600 more ..."
    assert lines[200] == "  Parameter layer199/weight (shape=(1,), dtype=float32)"
    assert lines[202] == "  Parameter layer800/weight (shape=(1,), dtype=float32)"
    html = pt.collect_params(params)._repr_html_()
    assert html.count("<tr>") == 402
    assert '<tr><td colspan="4">... 600 more ...</td></tr>' in html


# --- what is not there --------------------------------------------------------------------------------------


def test_an_unknown_name_with_the_nearest():
    for call in (lambda: BOUND.dense2, lambda: BOUND.__getattr__("dense2")):
        assert message(AttributeError, call) == "Sequential has no 'dense2'. Did you mean dense1 or dense0?"
    assert message(pt.UnknownNameError, lambda: BOUND["dense2"]) == (
        "Sequential has no 'dense2'. Did you mean dense1 or dense0?"
    )
    assert message(AttributeError, lambda: BOUND[0].wieght) == "dense0 has no 'wieght'. Did you mean weight?"
    assert message(AttributeError, lambda: BOUND[0].x) == "dense0 has no 'x'. Its keys are weight, bias."
    bare = pt.bind(nn.Flatten(), {})
    assert message(AttributeError, lambda: bare.x) == "Flatten has no 'x'. It has no parameters."
    assert not hasattr(BOUND, "dense2")


def test_an_index_out_of_range():
    for index in (2, -3):
        assert message(pt.ParamTreeError, lambda index=index: BOUND[index]) == (
            f"Sequential has no layer {index}: it has 2 layers, 0 to 1."
        )
    assert message(pt.ParamTreeError, lambda: BOUND[0][0]) == (
        "dense0 has no layers to index. Its keys are weight, bias."
    )


def test_a_select_that_hits_nothing_in_the_part():
    with pytest.raises(pt.NoMatchError) as caught:
        BOUND[1].collect_params("dense0/.*")
    assert str(caught.value).startswith("select 'dense0/.*' hits none of 2 parameters")


def test_bind_takes_a_module_and_a_dict():
    assert message(pt.ParamTreeError, lambda: pt.bind(PARAMS, NET)) == (
        "bind takes a module, then the nested dict of its params; and got dict and Module."
    )
    assert message(pt.ParamTreeError, lambda: pt.bind(NET, [jnp.ones(1)])) == (
        "bind takes a module, then the nested dict of its params; and got Module and list."
    )
    with pytest.raises(pt.TieError):
        pt.bind(NET, {"dense0": pt.Alias("gone")})


@pytest.mark.parametrize(
    "params",
    [{}, {"dense0": jnp.ones(3)}, {"dense0": {"w": jnp.ones(3)}}, {"dense0": {"weight": jnp.ones(())}}],
    ids=["empty", "no block", "another name", "another rank"],
)
def test_params_that_do_not_fit_still_print(params):
    net = nn.Sequential(nn.Dense(3), FancyMLP)
    bound = pt.bind(net, params)
    assert repr(bound).startswith("Sequential(\n  (0) dense0: Dense(")
    assert "FancyMLP()" in repr(bound)
    assert bound._repr_html_()
    with pytest.raises(pt.ParamTreeError):
        bound(jnp.ones((1, 2)))


def test_keys_that_are_also_attributes():
    net = pt.Module(lambda scope: scope.param("params", (2,)) + scope.param("data", (2,)), "Odd")
    inner = {"_x": jnp.zeros(1)}
    params = {"params": jnp.ones(2), "collect_params": inner, "data": jnp.ones(2), "_net": jnp.ones(4)}
    bound = pt.bind(net, params)
    assert isinstance(bound.params, pt.ParamDict)
    assert bound["params"].name == "params"
    assert bound["_net"].shape == (4,)
    assert bound["collect_params"]["_x"].name == "collect_params/_x"
    assert bound.data.name == "data"
    assert isinstance(bound.data, pt.Parameter)
    assert list(bound.params) == ["_net", "data", "params"]


def test_protocols_do_not_recurse():
    for part in (BOUND, BOUND[0], BOUND[0].weight):
        assert repr(copy.copy(part)) == repr(part)
        for name in ("_ipython_display_", "_repr_mimebundle_", "__setstate__", "__array__", "__jax_array__"):
            assert not hasattr(part, name)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(BOUND)  # it holds a net, which holds functions
    assert repr(pickle.loads(pickle.dumps(BOUND[0].weight))) == repr(BOUND[0].weight)
    bare = object.__new__(pt.Bound)
    assert message(AttributeError, lambda: bare._views) == "_views"


# --- HTML ---------------------------------------------------------------------------------------------------


class Checker(HTMLParser):
    """Collect the tags and the text of a page whose every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


HOSTILE = '<script>alert("1")</script>&amp;'.replace("/", "|")


def hostile():
    net = nn.Sequential(nn.Dense(2, name=HOSTILE), nn.Lambda(lambda x: x))
    params = net.init(KEY, jnp.ones((1, 2)))
    params["'\"<b>"] = pt.Alias(HOSTILE)
    return net, params


@pytest.mark.parametrize("kind", ["ParamDict", "Module", "Bound", "part", "leafs"])
def test_html_is_whole_and_escaped(kind):
    net, params = hostile()
    bound = pt.bind(net, params)
    shown = {
        "ParamDict": pt.collect_params(params),
        "Module": net,
        "Bound": bound,
        "part": bound[0].params,
        "leafs": pt.collect_params({"a": "<i>text</i>"}),
    }[kind]
    html = shown._repr_html_()
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    assert checker.tags <= {"style", "table", "caption", "thead", "tbody", "tr", "th", "td", "pre"}
    assert checker.attributes <= {"class", "colspan", "style"}  # no scripts, no links
    assert "url(" not in html
    assert "http" not in html
    texts = "".join(checker.texts)
    assert ("<i>text</i>" if kind == "leafs" else HOSTILE) in texts


def test_html_rows():
    params = hostile()[1]
    checker = Checker()
    checker.feed(pt.collect_params(pt.freeze(params, ".*bias"))._repr_html_())
    texts = checker.texts
    assert texts[1] == HOSTILE  # the one block that holds parameters
    assert texts[2:5] == ["name", "shape", "dtype"]
    row = texts.index(f"{HOSTILE}/bias")
    assert texts[row : row + 4] == [f"{HOSTILE}/bias", "(2,)", "float32", "frozen"]
    assert f"tied to {HOSTILE}" in texts


# --- repeated layers ----------------------------------------------------------------------------------------


def test_repeated_layers_print_as_one_of_them_and_say_that_they_are_stacked():
    block = nn.Sequential(nn.LayerNorm(), nn.MultiHeadAttention(2), nn.Repeat(nn.Dense(8), 2))
    net = nn.Sequential(nn.Repeat(block, 3), nn.LayerNorm())
    x = jnp.ones((2, 5, 8))
    bound = pt.bind(net, net.init(jax.random.key(0), x))
    text = (
        "Sequential(\n"
        "  (0) repeat0: Repeat 3 times(\n"
        "    (0) sequential: Sequential(\n"
        "      (0) layernorm0: LayerNorm(8)\n"
        "      (1) multiheadattention0: MultiHeadAttention(8 -> 8, 2 heads)\n"
        "      (2) repeat0: Repeat 2 times(\n"
        "        (0) dense: Dense(8 -> 8, linear)\n"
        "      )\n"
        "    )\n"
        "  )\n"
        "  (1) layernorm0: LayerNorm(8)\n"
        ")"
    )
    assert repr(bound) == repr(pt.bind(net, net.specs(x))) == text
    assert bound[0](x).shape == x.shape
    assert bound[1](x).shape == x.shape
    assert bound[0][0][0].gamma.shape == (3, 8)
    for part, label in ((bound[0][0], ""), (bound[0][0][2][0], "/repeat0/dense")):
        with pytest.raises(pt.ParamTreeError) as caught:
            part(x)
        assert str(caught.value) == (
            f"repeat0/sequential{label} is repeated, and its parameters are stacked. "
            "pt.unstack(params, 'repeat0/sequential') gives those of each repetition."
        )


def test_what_is_frozen_prints_as_such():
    net = nn.Sequential(nn.Dense(2), nn.BatchNorm(scale=False, center=False))
    params = pt.freeze(net.init(KEY, "4, 3"), "dense0/weight")
    text = (
        "params (\n"
        "  Constant batchnorm0/running_mean (shape=(2,), dtype=float32)\n"
        "  Constant batchnorm0/running_var (shape=(2,), dtype=float32)\n"
        "  Frozen dense0/weight (shape=(2, 3), dtype=float32)\n"
        "  Parameter dense0/bias (shape=(2,), dtype=float32)\n"
        ")"
    )
    assert repr(pt.collect_params(params)) == text
    assert "<td>frozen</td>" in pt.collect_params(params).to_html()
    bound = pt.bind(net, params)
    assert repr(bound.collect_params()) == text.replace("params", "Sequential")
    assert repr(bound[0].weight) == "Frozen dense0/weight (shape=(2, 3), dtype=float32)"
    with pytest.raises(pt.ParamTreeError) as caught:
        bound[0].weight.grad()
    assert str(caught.value) == "dense0/weight is frozen, and has no gradient; pt.unfreeze it."
