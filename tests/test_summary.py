"""Summaries: rows, totals, blocks, outputs and operations, how they are shown, and what is refused."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree import init, nn
from paramtree.report.flops import count_flops
from paramtree.report.summary import summary
from paramtree.report.summary_rows import output_text, total

P, NamedSharding = jax.sharding.PartitionSpec, jax.sharding.NamedSharding


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def shared_net():
    shared = nn.Dense(8, activation="relu", name="shared")
    return nn.Sequential(
        nn.Dense(8, activation="relu"), shared, nn.BatchNorm(), nn.Dense(8, params=shared), nn.Dense(10)
    )


NET = shared_net()
PARAMS = NET.init(jax.random.key(0), "2, 20")


def by_name(found):
    return {row.name: row for row in found.rows}


# --- rows and totals ----------------------------------------------------------------------------------------


def test_every_parameter_and_tied_place_has_a_row():
    assert summary(PARAMS).to_text(100) == (
        "10 parameters, 362 elements, 1.41 KiB, 346 trainable and 16 fixed, 1 tied place\n"
        "name                     shape    dtype    tied to  fixed  count  bytes\n"
        "batchnorm0/gamma         (8,)     float32                      8   32 B\n"
        "batchnorm0/beta          (8,)     float32                      8   32 B\n"
        "batchnorm0/running_mean  (8,)     float32           fixed      8   32 B\n"
        "batchnorm0/running_var   (8,)     float32           fixed      8   32 B\n"
        "dense0/weight            (8, 20)  float32                    160  640 B\n"
        "dense0/bias              (8,)     float32                      8   32 B\n"
        "dense1                                     shared\n"
        "dense2/weight            (10, 8)  float32                     80  320 B\n"
        "dense2/bias              (10,)    float32                     10   40 B\n"
        "shared/weight            (8, 8)   float32                     64  256 B\n"
        "shared/bias              (8,)     float32                      8   32 B"
    )


def test_totals_count_what_is_tied_once():
    totals = summary(PARAMS).totals
    leaves = jax.tree.leaves(PARAMS)
    assert totals.parameters == len(leaves) == 10
    assert totals.count == sum(leaf.size for leaf in leaves)
    assert totals.nbytes == totals.device_bytes == sum(leaf.nbytes for leaf in leaves)
    assert (totals.trainable, totals.fixed, totals.tied) == (346, 16, 1)


def test_totals_are_the_same_eager_abstract_jitted_and_by_block():
    traced = []
    jax.jit(lambda params: traced.append(summary(params)))(PARAMS)
    abstract = jax.eval_shape(lambda: PARAMS)
    seen = [summary(tree).totals for tree in (PARAMS, abstract, NET.specs("2, 20"), pt.bind(NET, PARAMS))]
    assert {*seen, traced[0].totals, summary(PARAMS, depth=1).totals} == {seen[0]}


def test_specs_tell_their_initialisers_and_symbols():
    tree = {"a": {"w": pt.ParamSpec((3,), jnp.dtype("int8"), lambda key, shape, dtype: 0)}, **nn.Dense(
        4, weight_init=init.Normal(0.5)
    ).specs("batch, features")}  # fmt: skip
    found = by_name(summary(tree))
    assert [found[name].init for name in ("weight", "bias", "a/w")] == [
        "Normal(sigma=0.5)",
        "Zeros()",
        "<lambda>",
    ]
    assert (str(found["weight"].count), str(found["weight"].nbytes)) == ("4*features", "16*features")
    assert summary(nn.Dense(4).specs("2, 3")).rows[0].init == "default"
    assert summary(tree).headline() == "3 parameters, 4*features + 7 elements, 16*features + 19 B"
    json.dumps(summary(tree).to_dict())
    assert "4*features" in summary(tree).to_html()


def test_symbols_of_two_scopes_cannot_be_added():
    tree = {"a": nn.Dense(4).specs("b, n"), "b": nn.Dense(4).specs("b, m")}
    assert summary(tree).totals.count == "?"
    assert summary(tree).to_dict()["totals"]["nbytes"] == "?"
    assert total([1, 2]) == 3


def test_ties_marks_and_transposes():
    tree = {
        "embed": {"weight": jnp.ones((5, 3))},
        "head": {"weight": pt.Alias("embed/weight", transpose=True)},
        "twin": pt.Alias("embed"),
        "lost": pt.Alias("nowhere"),
        "mean": pt.Fixed(jnp.ones(2)),
        "ice": pt.Frozen(jnp.ones(2)),
    }
    found = by_name(summary(tree))
    assert (found["head/weight"].shape, found["head/weight"].tied) == ((3, 5), "embed/weight, transposed")
    assert (found["twin"].shape, found["twin"].tied, found["lost"].tied) == (None, "embed", "nowhere")
    assert (found["mean"].fixed, found["ice"].fixed) == ("fixed", "frozen")
    assert summary(tree).totals[:4] == (3, 19, 15, 4)


def test_leaves_of_every_kind():
    tree = {
        "act": jax.nn.relu,
        "bool": np.zeros(3, bool),
        "complex": jnp.ones(2, "complex64"),
        "empty": jnp.ones((0, 4)),
        "f8": jnp.ones(3, "float8_e4m3fn"),
        "half": jnp.ones((2, 2), "bfloat16"),
        "key": jax.random.split(jax.random.key(0)),
        "label": "decay",
        "n": 3,
        "scalar": jnp.ones(()),
        "sharding": NamedSharding(jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,)), P()),
    }
    found = by_name(summary(tree))
    assert {name: (row.shape, row.dtype, row.count, row.nbytes) for name, row in found.items()} == {
        "bool": ((3,), "bool", 3, 3),
        "complex": ((2,), "complex64", 2, 16),
        "empty": ((0, 4), "float32", 0, 0),
        "f8": ((3,), "float8_e4m3fn", 3, 3),
        "half": ((2, 2), "bfloat16", 4, 8),
        "key": ((2,), "key<fry>", 2, 16),
        "label": (None, "'decay'", 0, 0),
        "n": ((), "int64", 1, 8),
        "scalar": ((), "float32", 1, 4),
        "sharding": (None, found["sharding"].dtype, 0, 0),
    }
    assert found["sharding"].dtype.startswith("NamedSh")
    assert summary(tree).to_text(200).splitlines()[8].split() == ["label", "'decay'"]


def test_empty_trees_and_other_kinds():
    assert repr(summary({})) == "0 parameters"
    assert summary({})._repr_html_()
    assert [row.name for row in summary([jnp.ones(1), {"b": jnp.ones(2)}]).rows] == ["0", "1/b"]
    assert message(pt.BadNameError, lambda: summary(None)).startswith("NoneType is not a tree of parameters.")


def test_a_select_chooses_parameters_and_places():
    tree = {"a": {"w": jnp.ones(2)}, "b": pt.Alias("a"), "c": {"w": pt.Alias("a/w")}, "d": jnp.ones(1)}
    assert [row.name for row in summary(tree, select="a/.*").rows] == ["a/w"]
    assert [row.name for row in summary(tree, select=".*w").rows] == ["a/w", "c/w"]
    assert [row.name for row in summary(tree, select=lambda name, leaf: name == "d").rows] == ["d"]
    assert message(pt.NoMatchError, lambda: summary(tree, select="x")).startswith("select 'x' hits none of 2")


# --- sharding -----------------------------------------------------------------------------------------------


def sharded():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "model"))
    put = lambda shape, *axes: jax.device_put(np.ones(shape, np.float32), NamedSharding(mesh, P(*axes)))
    return {
        "a": put((8, 16), "data", "model"),
        "b": put((16,), ("data", "model")),
        "c": put((3, 4), None, "model"),
        "d": put((3,)),
        "e": jnp.ones(2),
    }


def test_how_parameters_are_spread_and_what_a_device_holds():
    tree = sharded()
    found = summary(tree)
    assert {row.name: (row.sharding, row.device_bytes) for row in found.rows} == {
        "a": ("data, model", 64),
        "b": ("data+model", 8),
        "c": ("-, model", 12),
        "d": ("replicated", 12),
        "e": ("", 8),
    }
    assert found.headline() == "5 parameters, 161 elements, 644 B, 104 B per device"
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )
    assert summary(abstract) == found
    mesh = jax.sharding.AbstractMesh((2, 4), ("x", "y"))
    far = jax.ShapeDtypeStruct((8, 4), "float32", sharding=NamedSharding(mesh, P("x")))
    assert summary({"a": far}).rows[0][9:11] == ("x", 64)
    odd = jax.ShapeDtypeStruct((3, 4), "float32", sharding=NamedSharding(mesh, P("x")))
    assert summary({"a": odd}).rows[0][9:11] == ("x: does not divide", 48)
    assert summary(tree, depth=1).rows == found.rows
    assert "per device" in found.to_text(100)
    assert "sharding" not in summary({"e": tree["e"]}).to_text(100)


# --- blocks -------------------------------------------------------------------------------------------------


def test_a_row_for_each_block():
    tree = {
        "enc": {"l1": {"w": jnp.ones((2, 2)), "b": pt.Fixed(jnp.ones(2, "bfloat16"))}, "s": jnp.ones(1)},
        "dec": {"w": pt.Alias("enc/l1/w"), "v": jnp.ones(3)},
        "fix": {"w": pt.Frozen(jnp.ones(3))},
        "t": jnp.ones(()),
    }
    assert summary(tree, depth=1).to_text(100) == (
        "6 parameters, 14 elements, 52 B, 9 trainable and 5 fixed, 1 tied place\n"
        "name  shape  dtype              tied to   fixed   count  bytes\n"
        "dec          float32            enc/l1/w              3   12 B\n"
        "enc          bfloat16, float32            1 of 3      7   24 B\n"
        "fix          float32                      all         3   12 B\n"
        "t     ()     float32                                  1    4 B"
    )
    assert [row.name for row in summary(tree, depth=2).rows] == [
        "dec/v",
        "dec/w",
        "enc/l1",
        "enc/s",
        "fix/w",
        "t",
    ]
    assert summary(tree, depth=9).rows == summary(tree).rows
    assert by_name(summary(tree, depth=1))["enc"].parameters == 3


@pytest.mark.parametrize("depth", [0, -1, 1.5, True, "2"])
def test_a_depth_is_a_number_of_keys(depth):
    assert message(pt.ParamTreeError, lambda: summary(PARAMS, depth=depth)) == (
        f"summary: depth is a number of keys from 1 up, and not {depth!r}."
    )


# --- gradients ----------------------------------------------------------------------------------------------


def test_gradients_are_shown_by_their_norms():
    tree = {"a": {"w": jnp.ones(2), "b": jnp.ones(1)}, "c": jnp.ones(2), "d": jnp.ones(2), "e": jnp.ones(1)}
    grads = {
        "a": {"w": jnp.array([3.0, 4.0]), "b": jnp.array([12.0])},
        "c": jnp.array([1, jnp.nan]),
        "d": jnp.array([1, -jnp.inf]),
    }
    found = by_name(summary(tree, grads=grads))
    assert [found[name].norm for name in ("a/w", "a/b", "d", "e")] == [pytest.approx(5), 12.0, math.inf, None]
    assert math.isnan(found["c"].norm)
    assert by_name(summary(tree, grads=grads, depth=1))["a"].norm == pytest.approx(13)
    assert [row["norm"] for row in summary(tree, grads=grads).to_dict()["rows"]][2:] == ["nan", "inf", None]
    assert summary(tree, grads=grads).to_text(80).splitlines()[1].endswith("gradient")


def test_a_net_bound_with_gradients_shows_them():
    x = jnp.ones((2, 20))
    grads = jax.grad(lambda params: NET.apply(params, x).sum())(PARAMS)
    found = by_name(summary(pt.bind(NET, PARAMS, grads)))
    assert found["dense2/bias"].norm == pytest.approx(2 * math.sqrt(10))
    assert found["dense1"].norm is None


def test_gradients_of_other_parameters_are_refused():
    tree = {"a": jnp.ones(2), "b": jnp.ones(1)}
    assert message(pt.MismatchError, lambda: summary(tree, grads={"a": jnp.ones(3), "z": jnp.ones(1)})) == (
        "summary: these gradients are not of these params:\n"
        "  a has shape (2,), and its gradient shape (3,)\n"
        "  z is not a parameter"
    )
    assert summary(tree, grads={"a": jnp.ones(2), "b": jnp.ones(1)}, select="a").rows[0].norm is not None
    assert message(pt.MismatchError, lambda: jax.jit(lambda t: summary(t, grads=t))(tree)) == (
        "summary: gradients are looked at outside of jit, and these are traced: a, b."
    )


# --- nets: outputs and operations ---------------------------------------------------------------------------


def test_a_net_and_an_input_tell_what_each_block_gives():
    found = summary(pt.bind(NET, PARAMS), jnp.ones((2, 20)))
    rows = by_name(found)
    outputs = {row.name: row.output for row in found.rows if row.output}
    assert outputs == {
        "batchnorm0": "(2, 8)", "dense0": "(2, 8)", "dense1": "(2, 8)", "shared": "(2, 8)",
        "dense2": "(2, 10)",
    }  # fmt: skip
    assert (rows["dense1"].kind, rows["dense1"].tied, found.output) == ("tie", "shared", "(2, 10)")
    assert found.totals == summary(PARAMS).totals
    assert found.flops == 2 * 2 * (20 * 8 + 8 * 8 * 2 + 8 * 10) + found.flops - 1472
    assert found.to_text(100).splitlines()[0] == (
        "10 parameters, 362 elements, 1.41 KiB, 346 trainable and 16 fixed, 1 tied place, output (2, 10), "
        f"{found.flops:,} FLOPs"
    )
    assert summary(pt.bind(NET, PARAMS), "2, 20") == found


def test_blocks_without_parameters_have_a_row_where_inputs_are_given():
    net = nn.Sequential(nn.Dense(4), nn.Activation("relu"), nn.Sequential(nn.Dense(3), nn.Dropout(0.5)))
    bound = pt.bind(net, net.specs("batch, n"))
    assert summary(bound, "batch, n", depth=1).to_text(100) == (
        "4 parameters, 4*n + 19 elements, 16*n + 76 B, output (batch, 3)\n"
        "name         dtype    output        count        bytes\n"
        "dense0       float32  (batch, 4)  4*n + 4  16*n + 16 B\n"
        "activation0           (batch, 4)\n"
        "sequential0  float32  (batch, 3)       15         60 B"
    )
    assert [row.name for row in summary(bound, "batch, n").rows if row.kind == "block"] == [
        "dense0", "activation0", "sequential0", "sequential0/dense0", "sequential0/dropout0",
    ]  # fmt: skip
    assert [row.name for row in summary(bound, "batch, n", select="dense0/bias").rows] == [
        "dense0",
        "dense0/bias",
    ]


def names_of(found):
    return [row.name for row in found.rows]


def test_blocks_stand_in_the_order_in_which_a_net_calls_them():
    @pt.module
    def Net(scope, x):
        x = scope.call(nn.Conv(4, 3), x)
        x = scope.call(nn.BatchNorm(), x) + scope.param("shift", ())
        return scope.call(nn.Dense(2), scope.call(nn.Flatten(), x))

    found = summary(pt.bind(Net, Net.specs("2, 8, 8, 1")), "2, 8, 8, 1")
    called = [
        "shift", "conv0", "conv0/weight", "conv0/bias", "batchnorm0", "batchnorm0/gamma", "batchnorm0/beta",
        "batchnorm0/running_mean", "batchnorm0/running_var", "flatten0", "dense0", "dense0/weight",
        "dense0/bias",
    ]  # fmt: skip
    assert names_of(found) == called
    assert [row["name"] for row in found.to_dict()["rows"]] == called
    page = found.to_html()
    assert page.index("<td>conv0<") < page.index("<td>batchnorm0<") < page.index("<td>dense0<")
    sizes = summary(pt.bind(Net, Net.specs("2, 8, 8, 1")), "2, 8, 8, 1", depth=1)
    assert names_of(sizes) == ["shift", "conv0", "batchnorm0", "flatten0", "dense0"]
    assert names_of(summary(pt.bind(Net, Net.specs("2, 8, 8, 1")))) == pt.names(Net.specs("2, 8, 8, 1"))


def test_without_inputs_the_layers_of_a_container_stand_in_their_order():
    layers = [nn.Dense(2) for _ in range(11)]
    net = nn.Sequential(nn.Sequential(nn.Dense(2), nn.BatchNorm(), name="stem"), *layers, nn.BatchNorm())
    params = jax.tree.map(lambda leaf: leaf, net.init(jax.random.key(0), "3, 2"))  # JAX sorts the keys
    order = ["stem/dense0", "stem/batchnorm0", *(f"dense{at}" for at in range(11)), "batchnorm0"]
    for inputs in ((), ("3, 2",)):
        found = names_of(summary(pt.bind(net, params), *inputs))
        assert (
            list(dict.fromkeys(name.rpartition("/")[0] for name in found if name[-2:] in ("ht", "ta")))
            == order
        )
    assert names_of(summary(pt.bind(net, params)[0]))[:2] == ["stem/dense0/weight", "stem/dense0/bias"]
    assert names_of(summary(params)) == pt.names(params)


def test_tied_places_stand_where_they_are_called():
    for inputs in ((), ("2, 20",)):
        found = summary(pt.bind(NET, PARAMS), *inputs, depth=1)
        assert names_of(found) == ["dense0", "shared", "batchnorm0", "dense1", "dense2"]
    late = nn.Dense(8, name="late")  # it holds the parameters of a layer called before it
    net = nn.Sequential(nn.Dense(8, params=late), nn.BatchNorm(), late)
    bound = pt.bind(net, net.specs("2, 8"))
    assert names_of(summary(bound, "2, 8", depth=1)) == ["dense0", "batchnorm0", "late"]
    assert summary(bound, "2, 8").rows[0].tied == "late"


def test_a_part_of_a_net():
    bound = pt.bind(NET, PARAMS)
    assert [row.name for row in summary(bound[0]).rows] == ["dense0/weight", "dense0/bias"]
    assert [row.name for row in summary(bound["dense1"]).rows] == ["dense1", "shared/weight", "shared/bias"]
    found = summary(bound[-1], "2, 8")
    assert ([row.name for row in found.rows], found.output) == (["dense2/weight", "dense2/bias"], "(2, 10)")
    assert found.flops == 2 * 2 * 8 * 10 + 20
    assert [row.name for row in summary(bound[:1], select=".*bias").rows] == ["dense0/bias"]
    assert message(pt.NoMatchError, lambda: summary(bound[0], select="dense2/.*")).startswith(
        "select 'dense2/.*'"
    )


def test_repeated_blocks_count_each_time():
    net = nn.Repeat(nn.Dense(8), 5)
    bound = pt.bind(net, net.init(jax.random.key(0), "2, 8"))
    found = summary(bound, "2, 8")
    once = 2 * 2 * 8 * 8 + 16
    assert 5 * once <= found.flops <= 5 * once + 5 * 10
    assert {row.name: row.output for row in found.rows if row.output} == {"dense": "(2, 8)"}


def test_operations_of_loops_in_loops():
    matrices, x = jnp.ones((10, 8, 8)), jnp.ones((4, 8))

    def once(x):
        return jax.lax.scan(lambda x, each: (x @ each, None), x, matrices)[0]

    def often(x):
        return jax.checkpoint(
            jax.jit(lambda x: jax.lax.scan(lambda x, _: (once(x), None), x, None, length=3)[0])
        )(x)

    product = 2 * 4 * 8 * 8
    assert 10 * product <= count_flops(once, x) <= 10 * product + 20
    assert 30 * product <= count_flops(often, x) <= 30 * product + 100


def test_a_net_that_gives_several_outputs_and_draws_random_numbers():
    @pt.module
    def Two(scope, x):
        noise = jax.random.normal(scope.key(), x.shape)
        return {"a": x + noise * scope.param("w", (), init.Ones()), "b": (x.sum(),)}

    found = summary(pt.bind(Two, Two.specs("2, 3")), "2, 3")
    assert found.output == "(2, 3), ()"
    assert output_text(3) == ""


def test_wrong_inputs_are_refused():
    assert message(pt.ParamTreeError, lambda: summary(PARAMS, jnp.ones((2, 20)))) == (
        "summary: inputs are for a net, and got a dict without one. "
        "Pass summary(pt.bind(net, params), *inputs)."
    )

    @pt.module
    def Outer(scope, x):
        return scope.call(nn.Dense(2), x, name="inner")

    @pt.module
    def Decides(scope, x):
        return x if x.sum() > 0 else -x

    bound = pt.bind(Outer, Outer.init(jax.random.key(0), "2, 3"))
    assert message(pt.ParamTreeError, lambda: summary(bound["inner"], "2, 3")) == (
        "summary: inner is a block of parameters, and no module is known for it. "
        "Pass the net that holds it, or no inputs."
    )
    assert message(pt.ParamTreeError, lambda: summary(pt.bind(Decides, {}), jnp.ones(2))) == (
        "Decides decides by values in Python, so the shapes of what it gives cannot be found."
    )
    assert message(pt.ParamTreeError, lambda: summary(pt.bind(NET, PARAMS), "2, ,")).startswith(
        "'2, ,' is not a shape."
    )


# --- how it is shown ----------------------------------------------------------------------------------------


def test_it_fits_the_terminal_and_drops_what_can_be_spared():
    tree = {f"a_long_name_of_a_block_{at}": sharded() for at in range(2)}
    for width in (60, 80, 100):
        assert max(map(len, summary(tree).to_text(width).splitlines()[1:])) <= width
    assert summary(NET.specs("2, 20")).to_text(100).splitlines()[1].split()[3] == "initialiser"
    assert "initialiser" not in summary(NET.specs("2, 20")).to_text(60)
    named = {f"encoder/layer{at}/attention/weight": jnp.ones((4, 4)) for at in (10, 11)}
    assert summary(named).to_text(60) == (
        "2 parameters, 32 elements, 128 B\n"
        "name                              shape   dtype    count\n"
        "encoder/layer10/attention/weight  (4, 4)  float32     16\n"
        "encoder/layer11/attention/weight  (4, 4)  float32     16"
    )


def test_the_page_escapes_names():
    page = summary({"<script>alert(1)</script>": jnp.ones(2), "b": "<b>"}).to_html()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>" not in page.split("</style>")[1].split("<script>")[0]


def test_the_dict_holds_all_of_it():
    found = summary(pt.bind(NET, PARAMS), "2, 20").to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["totals"] == {
        "parameters": 10, "count": 362, "trainable": 346, "fixed": 16, "nbytes": 1448,
        "device_bytes": 1448, "tied": 1,
    }  # fmt: skip
    assert found["rows"][2] == {
        "name": "dense0/bias", "kind": "parameter", "shape": [8], "dtype": "float32", "count": 8,
        "nbytes": 32, "init": "", "tied": "", "fixed": "", "sharding": "", "device_bytes": 32, "norm": None,
        "output": "", "parameters": 1,
    }  # fmt: skip
    assert len(summary(PARAMS)) == 11


def test_initialisers_of_jax_are_called_by_what_made_them():
    def make():
        def my_init(key, shape, dtype):
            return jnp.zeros(shape, dtype)

        return my_init

    initialisers = {"he": jax.nn.initializers.he_normal(), "zeros": jax.nn.initializers.zeros, "own": make()}
    tree = {name: pt.ParamSpec((2, 3), jnp.dtype("float32"), each) for name, each in initialisers.items()}
    found = {row.name: row.init for row in summary(tree).rows}
    assert found == {"he": "variance_scaling", "zeros": "zeros", "own": "my_init"}


def test_gradients_of_numbers_of_python():
    params = {"scale": 2.0, "w": jnp.ones(2)}
    grads = jax.grad(lambda params: params["scale"] ** 2 * params["w"].sum())(params)
    norms = [row["norm"] for row in pt.summary(params, grads=grads).to_dict()["rows"]]
    assert norms == pytest.approx([8.0, 4.0 * 2**0.5])


def test_one_element_is_one():
    assert pt.summary({"w": jnp.ones(1)}).headline().startswith("1 parameter, 1 element, 4 B")
