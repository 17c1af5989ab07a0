"""Plans of loads: every name on either side accounted for, in one table, before a value is read."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from sameness import same_tree

import paramtree as pt
from paramtree import nn
from paramtree.checkpoint.rawfile import FileChangedError
from paramtree.renaming import Convert, Flatten, Join, Split, Transpose, Unflatten, invert

X = jnp.ones((2, 3))
NET = nn.Sequential(nn.Dense(4), nn.BatchNorm(), nn.Dense(2))
FORMS = ["npz", "safetensors", "params"]


def message(call, kind=pt.MismatchError):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def saved(tmp_path):
    def save(tree, form="npz", **options):
        file = tmp_path / f"net.{form}"
        pt.save(tree, file, **options)
        return file

    return save


def statuses(plan):
    return {row.name or " + ".join(row.sources) or row.note: row.status for row in plan.rows}


HELP = (
    "\nSay what is meant with rename=, cast= or select=, or pass strict=False: then what is unresolved is "
    "left as `like` has it."
)


# --- every status -------------------------------------------------------------------------------------------


def test_every_status_in_one_table(saved):
    file = saved({
        "dense0": {"weigth": jnp.ones((4, 3)), "bias": jnp.ones(5)},
        "extra": np.ones(2, "float16"), "shift": np.ones(2, "float16"), "half": np.ones(3, "float16"),
        "old.w": jnp.ones(1), "junk": jnp.ones(1), "one": jnp.ones(7), "two": jnp.ones(7),
        "tower": {"w": jnp.ones(2)}, "kept": jnp.ones(1),
    })  # fmt: skip
    like = {
        "dense0": {"weight": jnp.ones((4, 3)), "bias": jnp.ones(4)}, "shift": jnp.ones(2),
        "half": jnp.ones(3), "new": {"w": jnp.ones(1)}, "both": jnp.ones(7), "tower": {"w": jnp.ones(2)},
        "again": pt.Alias("tower"), "kept": jnp.ones(1),
    }  # fmt: skip
    plan = pt.plan_load(
        file, like, select="(?!kept).*", cast={"half": "float32", "shft": "int8"},
        rename={"old.w": "new/w", "junk": None, "one|two": "both", "tvo": "x"},
    )  # fmt: skip
    assert str(plan) == (
        f"'{file}': 1 missing, 2 unexpected, 1 shape, 1 dtype, 1 collision, 2 rule, "
        + """1 loaded, 2 renamed, 1 cast, 1 tied, 1 left out, 1 not selected
  collision     both           float32[7]    from two; one is to be both too
  missing       dense0/weight  float32[4,3]  did you mean dense0/weigth?
  shape         dense0/bias    float32[4]    the file has float32[5]
  dtype         shift          float32[2]    the file has float16; cast={'shift': 'float32'} converts it
  unexpected    dense0/weigth  float32[4,3]  did you mean dense0/weight?
  unexpected    extra          float16[2]
  rule                                       cast: rule 1 'shft' hits nothing. Nearest: shift.
  rule                                       rename: rule 3 'tvo' hits nothing. Nearest: two.
  renamed       both           float32[7]    from one
  cast          half           float32[3]    from float16
  not selected  kept           float32[1]
  renamed       new/w          float32[1]    from old.w
  loaded        tower/w        float32[2]
  tied          again/w        float32[2]    to tower/w
  left out      junk           float32[1]"""
    )
    assert message(plan.params) == f"load: {plan}{HELP}"
    assert repr(plan) == str(plan)
    assert len(plan.unresolved) == 8


def test_a_plan_is_plain_values_too(saved):
    plan = pt.plan_load(saved({"a": jnp.ones((2, 3))}), {"b": np.ones(1, "int8")}, rename={"x": "y"})
    assert json.loads(json.dumps(plan.to_dict()))["rows"][:2] == [
        {"status": "missing", "name": "b", "sources": [], "shape": [1], "dtype": "int8", "note": ""},
        {
            "status": "unexpected",
            "name": "",
            "sources": ["a"],
            "shape": [2, 3],
            "dtype": "float32",
            "note": "",
        },
    ]
    html = plan._repr_html_()
    assert html.count("<tr>") == 4
    assert "<td><b>unexpected</b></td><td>a</td><td>float32[2,3]</td><td></td>" in html


def test_proposals(saved):
    file = saved({"enc.l0.kernel": jnp.ones((2, 3)), "zz": jnp.ones((9, 9)), "w10": jnp.ones(1)})
    like = {"enc": {"l0": {"kernels": jnp.ones((2, 3))}}, "abc": jnp.ones((9, 9)), "q": jnp.ones(4)}
    notes = {row.name or row.sources[0]: row.note for row in pt.plan_load(file, like).rows}
    assert notes == {
        "enc/l0/kernels": "did you mean enc.l0.kernel?",
        "abc": "of the same shape: zz",
        "q": "",
        "enc.l0.kernel": "did you mean enc/l0/kernels?",
        "zz": "of the same shape: abc",
        "w10": "",
    }


def test_proposals_go_by_shape_first(saved):
    file = saved({"fc1.bias": jnp.ones(120), "conv2.bias": jnp.ones(7)})
    like = {"conv1": {"bias": jnp.ones(16)}, "dense0": {"bias": jnp.ones(120)}}
    notes = {row.name or row.sources[0]: row.note for row in pt.plan_load(file, like).rows}
    assert notes == {
        "conv1/bias": "of another shape: conv2.bias or fc1.bias",
        "dense0/bias": "of the same shape: fc1.bias",
        "conv2.bias": "of another shape: conv1/bias",
        "fc1.bias": "of the same shape: dense0/bias",
    }


def test_a_very_long_table_is_cut(saved):
    file = saved({"other": jnp.ones(1)})
    text = message(lambda: pt.load(file, like={f"w{n}": jnp.ones(1) for n in range(2000)}))
    assert text.count("\n") == 402
    assert "\n... 1,601 more ...\n" in text.replace("\n  ...", "\n...")


# --- strict -------------------------------------------------------------------------------------------------


def test_what_strict_excuses(saved):
    file = saved({"a": jnp.ones(2), "b": jnp.ones(3), "c": np.ones(1, "int8")})
    like = {"a": jnp.zeros(2), "b": jnp.zeros(4), "c": jnp.zeros(1), "d": jnp.zeros(1)}
    plan = pt.plan_load(file, like)
    assert same_tree(plan.params(strict=False), like | {"a": jnp.ones(2)})
    assert same_tree(pt.load(file, like, strict=["unexpected"]), like | {"a": jnp.ones(2)})
    for status in ("missing", "shape", "dtype"):
        assert message(partial(plan.params, strict=[status])) == f"load: {plan}{HELP}"
    wanted = (
        "strict={!r}: pass True, False, or a list of 'missing', 'unexpected', 'shape', 'dtype', 'collision', "
        "'refused', 'rule'."
    )
    for bad in (["mising"], "missing"):
        assert message(partial(plan.params, strict=bad), pt.ParamTreeError) == wanted.format(bad)


def test_a_collision_is_never_excused(saved):
    file = saved({"a": jnp.ones(2), "b": jnp.ones(2)})
    plan = pt.plan_load(file, {"c": jnp.ones(2)}, rename={"a|b": "c"})
    for strict in (True, False, ["missing"]):
        assert "from b; a is to be c too" in message(partial(plan.params, strict=strict))
    assert "from b; a is to be c too" in message(lambda: pt.load(file, rename={"a|b": "c"}))


def test_what_has_no_value_is_not_invented(saved):
    file = saved({"a": jnp.ones(2)})
    specs = {"a": jax.ShapeDtypeStruct((2,), "float32"), "b": jax.ShapeDtypeStruct((3,), "float32")}
    assert message(lambda: pt.load(file, specs, strict=False)) == (
        "load: these parameters are not in the file:\n  b has no value: `like` has only its shape and dtype"
    )
    assert pt.load(file, specs, select="a")["b"] is specs["b"]


def test_a_file_that_has_changed(saved):
    file = saved({"a": jnp.ones(2)})
    plan = pt.plan_load(file)
    saved({"a": jnp.zeros(2)})
    assert message(plan.params, FileChangedError) == (
        f"'{file}' has changed, or is gone, since its headers were read. Load it again."
    )


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(saved, monkeypatch):
    file = saved({"a": jnp.ones(2)})
    params = pt.LoadPlan.params

    def once_more(plan, **options):
        monkeypatch.undo()
        saved({"a": jnp.zeros(3)})
        return params(plan, **options)

    monkeypatch.setattr(pt.LoadPlan, "params", once_more)
    assert pt.load(file)["a"].shape == (3,)


# --- like ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("of", [lambda net, params: params, lambda net, params: net.specs(X)])
def test_there_and_back_by_position(saved, form, of, key):
    params = NET.init(key, X)
    names = pt.bind(NET, params).positional_names()
    file = saved(params, form, rename=invert(names))
    assert sorted(row.sources[0] for row in pt.plan_load(file).rows) == sorted(names)
    found = pt.load(file, of(NET, params), rename=names)
    assert same_tree(found, params)
    assert isinstance(found["batchnorm0"]["running_mean"], pt.Fixed)


def tied():
    return {"a": {"w": jnp.arange(4.0).reshape(2, 2)}, "b": pt.Alias("a"), "c": {"w": pt.Alias("a/w", True)}}


def test_a_tied_parameter_has_any_of_its_names(saved):
    value = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    for flat in (
        {"a/w": value},
        {"b/w": value},
        {"c/w": value.T},
        {"a/w": value, "b/w": value, "c/w": value.T},
    ):
        found = pt.load(saved(pt.unflatten(flat)), like=tied())
        assert found["b"] == pt.Alias("a")
        np.testing.assert_array_equal(found["a"]["w"], value)
    found = pt.load(saved(tied()), like=pt.untie(tied()))
    assert sorted(found) == ["a", "b", "c"]
    np.testing.assert_array_equal(found["c"]["w"], tied()["a"]["w"].T)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(found)}
    assert len(pointers) == 3  # so that each can be donated


def test_two_values_for_one_parameter(saved):
    file = saved({"a": {"w": jnp.ones((2, 2))}, "b": {"w": jnp.zeros((2, 2))}})
    like = {"a": {"w": jnp.ones((2, 2))}, "b": pt.Alias("a")}
    assert str(pt.plan_load(file, like)) == (
        f"'{file}': 1 loaded, 2 tied\n"
        "  loaded  a/w  float32[2,2]\n"
        "  tied    a/w  float32[2,2]  from b/w; the same parameter; both must have one value\n"
        "  tied    b/w  float32[2,2]  to a/w"
    )
    for strict in (True, False):
        assert message(partial(pt.load, file, like, strict=strict)) == (
            "load: the file has two values for one parameter:\n"
            "  a/w: the values of a/w and of b/w differ; leave one out by rename={'b/w': None}"
        )
    nan = {"a": {"w": jnp.full(2, jnp.nan)}, "b": {"w": jnp.full(2, jnp.nan)}}
    assert pt.load(saved(nan), {"a": {"w": jnp.ones(2)}, "b": pt.Alias("a")})["b"] == pt.Alias("a")


def test_a_tie_of_like_that_leads_nowhere(saved):
    file = saved({"w": jnp.ones(1)})
    message(lambda: pt.load(file, like={"w": jnp.ones(1), "v": pt.Alias("u")}), pt.TieError)
    message(lambda: pt.load(file, like={"w": pt.Alias("v"), "v": pt.Alias("w")}), pt.TieError)


def test_wide_numbers_are_not_narrowed(saved):
    file = saved({"w": np.arange(3.0)})
    assert pt.load(file, like={"w": np.zeros(3)})["w"].dtype == np.float64
    assert "the file has float64; cast={'w': 'float32'} converts it" in message(
        lambda: pt.load(file, like={"w": jnp.zeros(3)})
    )
    found = pt.load(file, {"w": jnp.zeros(3)}, cast={"w": "float32"})
    np.testing.assert_array_equal(found["w"], np.arange(3, dtype="float32"))


def test_leaves_are_of_the_kind_of_like(saved):
    file = saved({"w": np.arange(3, dtype="float32")})
    assert type(pt.load(file, {"w": np.zeros(3, "float32")})["w"]) is np.ndarray
    device = jax.devices()[3]
    placed = jax.device_put(jnp.zeros(3), device)
    assert pt.load(file, {"w": placed})["w"].devices() == {device}
    assert not pt.load(file, {"w": jnp.zeros(3)})["w"].committed
    mesh = jax.make_mesh((3,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:3])
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    found = pt.load(file, {"w": jax.ShapeDtypeStruct((3,), "float32", sharding=sharding)})["w"]
    assert found.sharding == sharding
    np.testing.assert_array_equal(found, np.arange(3))


def test_loaded_arrays_can_be_donated(saved):
    loaded = pt.load(saved({"w": np.arange(100_000, dtype="float32")}, "safetensors"))
    doubled = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2, tree), donate_argnums=0)(loaded)
    assert loaded["w"].is_deleted()
    np.testing.assert_array_equal(doubled["w"], 2 * np.arange(100_000, dtype="float32"))


# --- select -------------------------------------------------------------------------------------------------


def test_a_part_of_a_file(saved):
    tree = {
        "enc": {"l2": {"w": jnp.ones(2)}, "l3": {"w": jnp.zeros(3)}},
        "head": jnp.ones(1),
        "b": pt.Alias("enc/l3"),
    }
    file = saved(tree)
    assert same_tree(
        pt.load(file, select="enc/l3/.*"), {"enc": {"l3": tree["enc"]["l3"]}, "b": pt.Alias("enc/l3")}
    )
    assert same_tree(pt.load(file, select="enc/l2/.*"), {"enc": {"l2": tree["enc"]["l2"]}})
    like = jax.tree.map(lambda leaf: leaf + 5, tree)
    found = pt.load(file, like, select="enc/l3/.*")
    assert same_tree(found, like | {"enc": {"l2": like["enc"]["l2"], "l3": tree["enc"]["l3"]}})
    assert found["head"] is like["head"]
    assert "select 'enc/l4/.*' hits none of 3 parameters" in message(
        lambda: pt.load(file, select="enc/l4/.*"), pt.NoMatchError
    )


def test_select_excuses_only_what_it_leaves_out(saved):
    file = saved(
        {"enc": {"w": jnp.ones(2), "old": jnp.ones(1)}, "head": {"w": jnp.ones(7)}, "more": jnp.ones(1)}
    )
    like = {"enc": {"w": jnp.zeros(2)}, "head": {"w": jnp.zeros(10)}}
    plan = pt.plan_load(file, like, select="enc/.*")
    assert statuses(plan) == {
        "enc/w": "loaded", "enc/old": "unexpected", "head/w": "not selected", "more": "not selected",
    }  # fmt: skip
    found = pt.plan_load(file, like, select="enc/.*", rename={"enc/old": None}).params()
    assert same_tree(found, {"enc": {"w": jnp.ones(2)}, "head": like["head"]})


def test_a_predicate_and_a_list_select(saved):
    file = saved({"a": jnp.ones((2, 2)), "b": jnp.ones(2), "c": jnp.ones(1)})
    assert list(pt.load(file, select=lambda name, leaf: len(leaf.shape) == 1)) == ["b", "c"]
    assert list(pt.load(file, select=["a", "b"])) == ["a", "b"]


# --- rename -------------------------------------------------------------------------------------------------


def test_names_of_a_transformer(saved):
    flat = {
        f"encoder.layer.{n}.attn.{kind}": jnp.full(2, n) for n in range(12) for kind in ("weight", "bias")
    }
    rules = {r"encoder\.layer\.(\d+)\.(\w+)\.(.*)": r"encoder/layer\1/\2/\3"}
    found = pt.load(saved(flat), rename=rules)
    assert pt.names(found)[2] == "encoder/layer1/attn/weight"
    np.testing.assert_array_equal(found["encoder"]["layer11"]["attn"]["bias"], [11, 11])
    file = saved(found, rename=invert(rules))
    assert sorted(row.name for row in pt.plan_load(file).rows) == sorted(flat)


def test_fused_queries_keys_and_values(saved):
    fused = jnp.arange(24.0).reshape(4, 6)  # (in, 3 * out), as GPT-2 keeps it
    parts = [rf"h\1/{part}/weight" for part in ("query", "key", "value")]
    rules = {r"h\.(\d+)\.c_attn\.weight": Convert(parts, Split(3, axis=1), Transpose())}
    found = pt.load(saved({"h.0.c_attn.weight": fused}), rename=rules)
    assert pt.names(found) == ["h0/key/weight", "h0/query/weight", "h0/value/weight"]
    np.testing.assert_array_equal(found["h0"]["key"]["weight"], fused[:, 2:4].T)
    back = pt.load(saved(found, rename=invert(rules)))
    np.testing.assert_array_equal(back["h.0.c_attn.weight"], fused)
    joined = pt.load(
        saved(found),
        rename={("(.*)/query/weight", "(.*)/key/weight", "(.*)/value/weight"): Convert(r"\1/qkv", Join())},
    )
    np.testing.assert_array_equal(joined["h0"]["qkv"], fused.T)


def test_a_step_that_does_not_fit_is_a_row(saved):
    file = saved({"qkv": jnp.ones((7, 2))})
    plan = pt.plan_load(file, {"q": jnp.ones((2, 2))}, rename={"qkv": Convert(["q", "k"], Split(2))})
    assert str(plan).splitlines()[1:] == [
        "  missing  q    float32[2,2]",
        "  shape    qkv  float32[7,2]  Split(parts=2) does not go into the shape (7, 2).",
    ]


def test_rules_that_cannot_be_undone_for_saving(saved):
    assert message(lambda: saved({"a": jnp.ones(1)}, rename={"b": "c"}), pt.RuleError) == (
        "save: the rules of rename= do not fit the tree:\n  rule 0 'b' hits nothing. The names are a."
    )
    assert message(
        lambda: saved({"a": jnp.ones(1), "b": jnp.ones(1)}, rename={"b": "a"}), pt.BadNameError
    ) == ("save: two arrays would have one name in the file:\n  a is made of b, and of another before")


def test_ties_and_marks_move_with_their_names(saved):
    tree = tied() | {"d": pt.Fixed(jnp.ones(1)), "e": pt.Frozen(jnp.ones(2)), "key": jax.random.key(7)}
    rules = {r"(\w)/w": r"net.\1.weight", r"d|e|key": r"net.\g<0>"}
    file = saved(tree, "safetensors", rename=rules)
    loaded = pt.load(file)
    assert loaded["net.b.weight"] == pt.Alias("net.a.weight")
    assert loaded["net.c.weight"] == pt.Alias("net.a.weight", True)
    assert isinstance(loaded["net.d"], pt.Fixed)
    assert isinstance(loaded["net.e"], pt.Frozen)
    back = pt.load(file, tree, rename={r"net\.(\w)\.weight": r"\1/w", r"net\.(\w+)": r"\1"})
    assert same_tree(back, tree)


def test_a_tie_that_a_step_breaks_is_written_out(saved):
    file = saved(tied(), "safetensors", rename={"a/w": Convert("kernel", Transpose()), "(b|c)/w": r"\1"})
    np.testing.assert_array_equal(pt.load(file, select="kernel")["kernel"], tied()["a"]["w"].T)
    np.testing.assert_array_equal(pt.load(file, select="b")["b"], tied()["a"]["w"])
    np.testing.assert_array_equal(pt.load(file, select="c")["c"], tied()["a"]["w"].T)


@pytest.mark.parametrize("rules", [3, "a", {"a": 3}, {lambda name, leaf: True: "b"}])
def test_rename_that_is_no_rules(saved, rules):
    message(lambda: pt.load(saved({"a": jnp.ones(1)}), rename=rules), pt.RuleError)


# --- cast ---------------------------------------------------------------------------------------------------


def test_a_predicate_of_a_cast_sees_what_is_fixed(tmp_path):
    tree = {"mean": pt.Fixed(jnp.ones(1)), "w": jnp.ones(1)}
    pt.save(tree, tmp_path / "x.npz")
    for like in (None, tree):
        loaded = pt.load(tmp_path / "x.npz", like, cast=[(pt.trainable, "float16")])
        assert [leaf.dtype.name for leaf in jax.tree.leaves(loaded)] == ["float32", "float16"]


def test_a_select_that_is_a_name_leaves_out_what_its_dots_match(tmp_path):
    pt.save({"w.1": jnp.ones(1), "wx1": jnp.ones(1)}, tmp_path / "x.npz")
    plan = pt.plan_load(tmp_path / "x.npz", {"w.1": jnp.zeros(1)}, "w.1")
    assert [(row.status, row.sources) for row in plan.rows] == [
        ("loaded", ("w.1",)),
        ("not selected", ("wx1",)),
    ]


def test_casts_are_those_of_pt_cast(saved):
    rng = np.random.default_rng(0)
    tree = {"w": rng.normal(size=50).astype("float32"), "norm": jnp.ones(3), "n": jnp.arange(3)}
    rules = {"norm": "float32", "w": "bfloat16"}
    loaded = pt.load(saved(tree), cast=rules)
    assert same_tree(
        loaded, pt.cast({"w": jnp.asarray(tree["w"]), "norm": tree["norm"], "n": tree["n"]}, rules)
    )
    plan = pt.plan_load(saved(tree), cast={"n": "float32"})
    assert [row.note for row in plan.unresolved] == [
        "n is int32, and float32 is of another kind; select the others only, or map_params it"
    ]
    assert "0: 'w': 'nothing'" in message(
        lambda: pt.load(saved(tree), cast={"w": "nothing"}), pt.RuleError
    ).replace("rule 0 'w'", "0: 'w'")


def test_raw_bits_take_the_type_of_like(saved, tmp_path):
    bits = np.arange(6, dtype="uint16").view(jnp.bfloat16)
    np.savez(tmp_path / "raw.npz", w=bits)  # NumPy keeps the bits, and forgets the type
    found = pt.load(tmp_path / "raw.npz", {"w": jnp.zeros(6, "bfloat16")})
    assert np.asarray(found["w"]).tobytes() == bits.tobytes()
    assert found["w"].dtype == jnp.bfloat16
    assert "the file has |V2, bits without a type; pass like=" in message(
        lambda: pt.load(tmp_path / "raw.npz")
    )
    assert "the file has |V2" in message(
        lambda: pt.load(tmp_path / "raw.npz", {"w": jnp.zeros(6, "float16")})
    )


# --- keys, empty trees, big plans ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["npz", "safetensors"])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_random_keys(saved, form, impl):
    key = jax.random.key(5, impl=impl)
    tree = {"one": key, "many": {"keys": jax.random.split(key, 3)}, "fixed": pt.Fixed(key)}
    loaded = pt.load(saved(tree, form))
    assert loaded["one"].dtype == key.dtype
    np.testing.assert_array_equal(
        jax.random.key_data(loaded["many"]["keys"]), jax.random.key_data(tree["many"]["keys"])
    )
    again = pt.load(saved(tree, form), tree)
    assert jax.random.normal(again["fixed"].value) == jax.random.normal(key)
    assert re.search(r"loaded +one +key<\w+>\[\]", str(pt.plan_load(saved(tree, form))))
    wrong = pt.plan_load(saved(tree, form), tree | {"one": jnp.zeros(2, "uint32")})
    assert [row.status for row in wrong.unresolved] == ["shape"]


def test_nothing_at_all(saved):
    assert pt.load(saved({})) == {}
    assert str(pt.plan_load(saved({}))).endswith("net.npz': no parameters")
    assert same_tree(pt.load(saved({}), {}), {})
    assert [row.status for row in pt.plan_load(saved({}), {}, rename={"a": "b"}).rows] == ["rule"]


def test_ten_thousand_names_and_as_many_exact_rules(saved):
    flat = {f"l.{n}.w": np.ones(1, "float32") for n in range(10_000)}
    rules = {f"l.{n}.w": f"layer{n}/weight" for n in range(10_000)}
    plan = pt.plan_load(saved(flat, "safetensors"), rename=rules)
    assert {row.status for row in plan.rows} == {"renamed"}


# --- what a hostile reading found ---------------------------------------------------------------------------

W = np.arange(64.0, dtype="float32").reshape(8, 8)


def test_saving_under_the_name_of_a_tied_place(saved):
    tree = {"a": W, "b": pt.Alias("a"), "z": W + 9}
    for rules in ({"z": "b"}, {"b": "a"}, {"a|b": "x"}):
        assert "save: two arrays would have one name in the file:" in message(
            partial(saved, tree, rename=rules), pt.BadNameError
        )


def test_an_alias_renamed_onto_its_source_is_no_tie(saved):
    found = pt.load(saved({"a": W, "b": pt.Alias("a")}), {"x": W}, rename={"a": "x", "b": "x"})
    assert same_tree(found, {"x": W})


@pytest.mark.parametrize("mark", [pt.Fixed, pt.Frozen])
def test_marks_go_through_steps_and_other_names(saved, mark):
    step = {"a": Convert("x", Transpose())}
    assert type(pt.load(saved({"a": mark(W)}, rename=step))["x"]) is mark
    assert type(pt.load(saved({"a": mark(W)}), rename=step)["x"]) is mark
    parts = {"a": Convert(["x", "y"], Split(2))}
    assert type(pt.load(saved({"a": mark(W)}), rename=parts)["y"]) is mark
    assert type(pt.load(saved({"k": mark(W), "m": pt.Alias("k")}, rename={"k": None}))["m"]) is mark


def test_keys_are_renamed_and_never_converted(saved):
    keys = jax.random.split(jax.random.key(0), (2, 3))
    like = {"k": keys, "m": jax.random.split(jax.random.key(0), (3, 2))}
    found = pt.load(saved({"k": keys, "m": pt.Alias("k", True)}), like)
    np.testing.assert_array_equal(jax.random.key_data(found["m"]), jax.random.key_data(keys.T))
    single = pt.load(saved({"k": keys, "m": pt.Alias("k")}, rename={"k": None}))["m"]
    assert single.dtype == keys.dtype
    text = "keys of jax.random can be renamed, and not converted"
    step = {"k": Convert("x", Transpose())}
    assert text in message(partial(saved, {"k": keys}, rename=step))
    assert text in message(partial(pt.load, saved({"k": keys}), rename=step))
    assert text in message(partial(saved, {"k": keys, "m": pt.Alias("k", True)}, rename={"k": None}))


def test_keys_go_where_like_has_them(saved):
    device = jax.devices()[2]
    like = {"k": jax.device_put(jax.random.key(1), device)}
    assert pt.load(saved({"k": jax.random.key(0)}), like)["k"].devices() == {device}


def test_a_tree_that_changes_after_the_plan(saved):
    like = {"b": W * 0, "c": W * 0}
    plan = pt.plan_load(saved({"b": W + 1, "c": W + 2}), like)
    like["a"] = W * 0
    del like["c"]
    assert same_tree(plan.params(), {"b": W + 1, "c": W + 2})


@pytest.mark.parametrize("value", [None, Convert("q", Transpose()), "q"])
def test_two_rules_that_hit_nothing(saved, value):
    plan = pt.plan_load(saved({"a": W}), {"a": W}, rename={"typo1": value, "typo2": value})
    assert [row.status for row in plan.rows] == ["loaded", "rule", "rule"]


def test_ties_that_differ_by_a_transpose(saved):
    file = saved({"a": W, "c": pt.Alias("a", True)})
    for like, rules in (({"a": W, "c": pt.Alias("a")}, None), ({"a": W}, {"c": "a"})):
        with pytest.raises(pt.MismatchError):
            pt.load(file, like, rename=rules)


def test_a_tie_in_the_file_excuses_only_what_is_loaded(saved):
    file = saved({"a": W, "b": pt.Alias("a"), "x": W + 1})
    plan = pt.plan_load(file, {"a": W}, rename={("b", "x"): Convert("nope", Join())})
    assert [row.sources for row in plan.unresolved] == [("b", "x")]
    plan = pt.plan_load(file, {"x": W}, rename={"a": None, "b": "typo"})
    assert [row.sources for row in plan.unresolved] == [("b",)]


def test_a_place_of_like_that_is_no_array(saved):
    plan = pt.plan_load(saved({"a": W, "act": W}), {"a": W, "act": "relu"})
    assert [(row.status, row.note) for row in plan.unresolved] == [
        ("unexpected", "act is no array in `like`")
    ]


@pytest.mark.parametrize(("number", "dtype"), [(1, "float32"), (True, "float32"), (1.0, "complex64")])
def test_numbers_are_not_cut(saved, number, dtype):
    plan = pt.plan_load(saved({"a": np.asarray(0.5, dtype)}), {"a": number}, cast={"a": dtype})
    kind = type(number).__name__
    assert [row.note for row in plan.unresolved] == [f"`like` has a {kind} there, which cannot hold {dtype}"]


def test_numbers_that_are_tied(saved):
    third = np.asarray(0.1, "float32")
    found = pt.load(saved({"a": third, "b": third}), {"a": 1.0, "b": pt.Alias("a")}, cast={"a": "float32"})
    assert found["a"] == float(third)
    assert type(pt.load(saved({"a": third}), {"a": np.float32(1)})["a"]) is np.float32


def test_iterators_are_read_once(saved):
    file = saved({"a": W, "a2": W})
    assert pt.load(file, cast=iter([("a.*", "bfloat16")]))["a"].dtype == jnp.bfloat16
    assert statuses(pt.plan_load(file, {"a": W, "k": W}, select=iter(["a.*"])))["a2"] == "unexpected"
    assert "b" in pt.load(file, rename=iter([("a2", "b")]))
    for strict in (iter(["missing"]), None, 1, 3.5):
        message(partial(pt.plan_load(file).params, strict=strict), pt.ParamTreeError)


def test_empty_blocks_keep_their_names(saved):
    tree = {"a": W, "e": {}}
    assert pt.load(saved(tree), rename={})["e"] == {}
    assert pt.load(saved(tree, rename={"a": "z"}))["e"] == {}
    assert same_tree(pt.load(saved(tree), rename={"a": "e/w"}), {"e": {"w": jnp.asarray(W)}})


def test_circles_and_chains_in_like(saved):
    file = saved({"a": W})
    circle = {"a": pt.Alias("b"), "b": pt.Alias("a")}
    message(partial(pt.load, file, circle, rename={"x": "a"}), pt.TieError)
    chain = {f"b{n}": pt.Alias(f"b{n + 1}" if n < 2999 else "a") for n in range(3000)}
    assert message(partial(pt.plan_load, file, {"a": W, **chain}), pt.TieError) == (
        "the ties of this tree are nested too deeply for Python."
    )


def test_ties_that_multiply(saved):
    file = saved({"a": W, "b": W}, "safetensors")
    ties = {
        f"b{n}/{half}": {"target": f"b{n - 1}" if n else "a", "transpose": False}
        for n in range(40)
        for half in "xy"
    }
    save_file({"a": W, "b": W}, file, metadata={"paramtree": json.dumps({"ties": ties})})
    start = f"'{file}': the ties of this tree multiply: after 100,000 of them there are more."
    assert message(partial(pt.plan_load, file, {"a": W, "b": W}), pt.TieError).startswith(start)


def test_names_forge_no_rows(saved):
    name = "b\n  loaded  secret \x1b[31m"
    lines = str(pt.plan_load(saved({name: W, "x" * 1000: W, "short": W}))).splitlines()
    assert len(lines) == 4
    assert "\x1b" not in "".join(lines)
    assert max(map(len, lines[1:])) < 200


def test_a_predicate_and_something_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(2, "f4"), s=np.array(["x"]))
    plan = pt.plan_load(tmp_path / "x.npz", select=lambda name, leaf: len(leaf.shape) == 1)
    assert [row.status for row in plan.rows] == ["loaded", "refused"]


def test_what_is_refused_outside_of_a_name_is_left_out(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, **{"w.1": np.ones(2, np.float32), "wx1": np.array(["text"])})
    assert list(pt.load(file, select="w.1")) == ["w.1"]


def test_a_step_that_does_not_fit_outside_of_the_select(saved):
    rules = {"w": Convert(["q", "k"], Split(2))}
    plan = pt.plan_load(saved({"a": W, "w": W[:7]}), {"a": W, "q": W, "k": W}, select="a", rename=rules)
    assert plan.unresolved == ()


@pytest.mark.parametrize(
    "notes", [{"fixed": 3}, {"fixed": [[1]]}, {"fixed": ["zz"]}, {"frozen": None, "empty": 3}]
)
@pytest.mark.parametrize("options", [{}, {"rename": {"a": "q"}}, {"like": {"a": W}}])
def test_damaged_notes(tmp_path, notes, options):
    save_file({"a": W}, tmp_path / "x.safetensors", metadata={"paramtree": json.dumps(notes)})
    assert "the notes are damaged" in message(
        partial(pt.load, tmp_path / "x.safetensors", **options), pt.ParamTreeError
    )


@pytest.mark.parametrize("file", [3, None, b"x", "a\0b"])
def test_what_is_no_path(file):
    assert message(partial(pt.load, file), pt.ParamTreeError) == (
        f"load takes the path of a file, and not {file!r}."
    )


def test_one_value_for_two_rules_is_tied(saved):
    plan = pt.plan_load(saved({"a": W, "b": W}), {"c": W}, rename={"a": "c", "b": "c"})
    assert [row.status for row in plan.rows] == ["renamed", "tied"]
    plan = pt.plan_load(saved({"a": W[:2], "b": W}), {"a": W, "b": pt.Alias("a")})
    assert [row.status for row in plan.rows] == ["shape", "loaded", "tied"]


def test_a_proposal_leaves_the_place_that_a_rule_gave(saved):
    plan = pt.plan_load(saved({"x.w": W}), {"enc": {"weight": W}}, rename={"x.w": "enc/weihgt"})
    assert "as enc/weihgt" in plan.unresolved[1].note


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Split(2.0), "Split takes whole numbers as parts, and not 2.0."),
        (lambda: Transpose(1.5), "Transpose takes whole numbers as axes, and not 1.5."),
        (lambda: Transpose(("a", 1)), "Transpose takes whole numbers as axes, and not ('a', 1)."),
        (lambda: Join("0"), "Join takes whole numbers as axis, and not '0'."),
        (lambda: Unflatten(0, (-2, -4)), "Unflatten takes sizes of which one may be -1, and not (-2, -4)."),
        (lambda: Flatten(0, [-1, -1]), "Flatten takes sizes of which one may be -1, and not [-1, -1]."),
    ],
)
def test_steps_of_other_things(make, text):
    assert message(make, pt.RuleError) == text


def test_steps_take_lists(saved):
    file = saved({"a": W})
    found = pt.load(file, rename={"a": Convert(["x", "y"], Split([3, 5]), Transpose([1, 0]))})
    np.testing.assert_array_equal(found["y"], W[3:].T)
