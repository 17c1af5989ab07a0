"""The verbs: what they give, and the full text of what they refuse."""

import copy
import pickle
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paramtree.errors import (
    BadNameError,
    MismatchError,
    NoMatchError,
    RuleError,
    SelectError,
    TieError,
    UnknownNameError,
)
from paramtree.nodes import Alias, Fixed, resolve
from paramtree.tree import (
    ParamDict,
    by_rules,
    cast,
    collect_params,
    flat_leaves,
    flatten,
    get,
    is_array_like,
    label_params,
    map_params,
    mask,
    merge,
    names,
    partition,
    rename,
    unflatten,
    update,
    value_faults,
)


class Pair(NamedTuple):
    left: object
    right: object


def net():
    return {
        "dense0": {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)},
        "dense1": {"weight": jnp.ones((4, 2)), "bias": jnp.ones(4)},
    }


def tied():
    return {**net(), "dense2": Alias("dense1"), "out": {"weight": Alias("dense0/weight", transpose=True)}}


def abstract(params):
    return jax.eval_shape(lambda: params)


def message(kind, call, *args, **kwargs):
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is kind
    return str(caught.value)


# collect_params and ParamDict


def test_collected_parameters_are_the_leaves_themselves():
    params = net()
    found = collect_params(params, ".*bias")
    assert list(found) == ["dense0/bias", "dense1/bias"]
    assert found["dense0/bias"] is params["dense0"]["bias"]
    assert isinstance(found, dict)
    assert type(found) is ParamDict
    assert params == params
    assert collect_params({}) == {}


def test_a_collection_prints_as_in_the_chapter():
    params = {**tied(), "norm0": {"running_mean": Fixed(jnp.zeros(3))}}
    assert (
        repr(collect_params(params))
        == """\
params (
  Parameter dense0/weight (shape=(2, 3), dtype=float32)
  Parameter dense0/bias (shape=(2,), dtype=float32)
  Parameter dense1/weight (shape=(4, 2), dtype=float32)
  Parameter dense1/bias (shape=(4,), dtype=float32)
  dense2 -> dense1
  Constant norm0/running_mean (shape=(3,), dtype=float32)
  out/weight -> dense0/weight, transposed
)"""
    )
    assert (
        str(collect_params(params, ".*0/bias"))
        == """\
dense0 (
  Parameter dense0/bias (shape=(2,), dtype=float32)
)"""
    )
    assert repr(collect_params({"w": 1.0})) == "params (\n  Parameter w (1.0)\n)"
    titled = collect_params({"w": 1.0})
    titled.title = "net"
    assert repr(titled) == "net (\n  Parameter w (1.0)\n)"


def test_a_collection_shows_itself_as_html():
    html = collect_params({"<b>": jnp.ones(2), "c": Alias("<b>"), "d": Fixed("x")})._repr_html_()
    assert "<td>&lt;b&gt;</td><td>(2,)</td><td>float32</td><td></td>" in html
    assert "<td>c</td><td></td><td></td><td>tied to &lt;b&gt;</td>" in html
    assert "<td>d</td><td></td><td>&#x27;x&#x27;</td><td>constant</td>" in html


def test_a_very_long_collection_is_elided():
    text = repr(collect_params({f"w{i}": i for i in range(1000)}))
    assert text.count("\n") < 500
    assert "... 600 more ..." in text


def test_a_collection_is_pickled_and_copied_with_its_notes():
    found = collect_params(tied())
    for other in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert repr(other) == repr(found)
        assert list(other) == list(found)
    assert jax.tree.map(lambda leaf: leaf, found).tied == {}


# get


def test_get():
    params = {**tied(), "c": Fixed(5.0)}
    assert get(params, "dense0/bias") is params["dense0"]["bias"]
    assert get(params, "dense2/bias") is params["dense1"]["bias"]
    assert get(params, "out/weight").shape == (3, 2)
    assert get(params, "c") == 5.0
    assert get([1.0, {"a": 2.0}], "1/a") == 2.0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dense0", "'dense0' is a block, not a parameter. It holds dense0/weight, dense0/bias."),
        ("dense2", "'dense2' is a tied block, not a parameter. What it holds is dense1/weight, dense1/bias."),
        (
            "dense0/wieght",
            "'dense0/wieght' is not in the tree. Did you mean dense0/weight or dense1/weight or dense0/bias?",
        ),
        (
            "q",
            "'q' is not in the tree. The names are dense0/weight, dense0/bias, dense1/weight, dense1/bias.",
        ),
    ],
)
def test_get_of_what_is_no_parameter(name, text):
    assert message(UnknownNameError, get, tied(), name) == text


def test_get_in_trees_that_have_little():
    assert message(UnknownNameError, get, {}, "a") == "'a' is not in the tree, which has no parameters."
    assert message(UnknownNameError, get, {"h": Alias("gone"), "w": 1.0}, "h") == (
        "'h' is not in the tree. The names are w."
    )


# update


def test_update_takes_arrays_and_functions_and_leaves_the_rest():
    params = net()
    updated = update(params, {"dense0/bias": jnp.zeros(2), "dense1/bias": lambda old: 3 * old})
    assert updated["dense0"]["bias"].tolist() == [0.0, 0.0]
    assert updated["dense1"]["bias"].tolist() == [3.0] * 4
    assert updated["dense0"]["weight"] is params["dense0"]["weight"]
    assert params["dense0"]["bias"].tolist() == [1.0, 1.0]
    assert update(params, {})["dense0"]["bias"] is params["dense0"]["bias"]


def test_update_keeps_nodes_and_foreign_containers():
    params = {**tied(), "c": Fixed(jnp.ones(2))}
    updated = update(params, {"c": jnp.zeros(2), "dense1/bias": jnp.zeros(4)})
    assert updated["c"].value.tolist() == [0.0, 0.0]
    assert updated["dense2"] == Alias("dense1")
    assert update(Pair(1.0, [2.0]), {"right/0": 5.0}) == Pair(1.0, [5.0])
    mixed = update({"a": jnp.ones(2), "b": np.ones(2, np.float32)}, {"a": np.zeros(2, np.float32)})
    assert isinstance(mixed["a"], np.ndarray)


def test_update_of_stand_ins():
    stand_in = jax.ShapeDtypeStruct((2,), jnp.float32)
    assert update(abstract(net()), {"dense0/bias": jnp.ones(2)})["dense0"]["bias"].tolist() == [1.0, 1.0]
    assert update(abstract(net()), {"dense0/bias": stand_in})["dense0"]["bias"] is stand_in
    assert "needs an array of shape=(2,), dtype=float32, and got ShapeDtypeStr" in message(
        MismatchError, update, net(), {"dense0/bias": stand_in}
    )
    assert "needs shape (2,), and got (3,)" in message(
        MismatchError, update, abstract(net()), {"dense0/bias": jnp.ones(3)}
    )


def test_update_of_labels_checks_nothing():
    assert update({"a": "decay", "b": True}, {"a": 3, "b": "x"}) == {"a": 3, "b": "x"}


def test_update_gathers_every_name_it_cannot_replace():
    values = dict.fromkeys(["dense0", "dense2/weight", "dense2", "out/weight", "dens0/weight", "q", "z"], 0)
    assert (
        message(UnknownNameError, update, tied(), values)
        == """\
update: these names cannot be replaced:
  'dense0' is a block, not a parameter. It holds dense0/weight, dense0/bias.
  'dense2/weight' is tied to 'dense1/weight'. Change the parameter where it lives.
  'dense2' is a tied block, not a parameter. What it holds is dense1/weight, dense1/bias.
  'out/weight' is tied to 'dense0/weight'. Change the parameter where it lives.
  'dens0/weight' is not in the tree. Did you mean dense0/weight or dense1/weight or dense0/bias?
  'q' is not in the tree. The names are dense0/weight, dense0/bias, dense1/weight, dense1/bias.
  'z' is not in the tree. The names are dense0/weight, dense0/bias, dense1/weight, dense1/bias."""
    )


def test_update_gathers_every_value_that_does_not_fit():
    values = {
        "dense0/weight": jnp.ones((3, 2), jnp.int32),
        "dense0/bias": lambda old: old.astype(jnp.bfloat16),
        "dense1/bias": 0.0,
        "dense1/weight": Fixed(jnp.ones((4, 2))),
    }
    assert (
        message(MismatchError, update, net(), values)
        == """\
update: these values do not fit:
  dense0/weight needs shape (2, 3), and got (3, 2)
  dense0/weight needs dtype float32, and got int32; convert it, or pt.cast the tree first
  dense0/bias needs dtype float32, and got bfloat16; convert it, or pt.cast the tree first
  dense1/bias needs an array of shape=(4,), dtype=float32, and got 0.0 of type float
  dense1/weight needs an array of shape=(4, 2), dtype=float32, and got Fixed(value=A...type=float32)) \
of type Fixed"""
    )


def test_a_long_wrong_value_is_shown_short():
    assert len(message(MismatchError, update, net(), {"dense0/bias": [1.0] * 10_000})) < 300
    assert value_faults("a", 1.0, "anything") == []
    assert value_faults("a", np.zeros(2), None) == [
        "a needs an array of shape=(2,), dtype=float64, and got None of type NoneType"
    ]
    assert is_array_like(jax.ShapeDtypeStruct((), jnp.int32))
    assert not is_array_like(1.0)


# map_params, by_rules, mask, label_params


def test_map_params_calls_with_name_and_leaf():
    {**net(), "c": Fixed(1.0)}
    mapped = map_params(lambda name, leaf: (name, leaf), {"a": 1, "b": Fixed(2)})
    assert mapped["a"] == ("a", 1)
    assert mapped["b"].value == ("b", 2)
    assert map_params(lambda name, leaf: -leaf, Pair(1, 2), "left") == Pair(-1, 2)
    assert map_params(lambda name, leaf: -leaf, {"a": 1}, "x", allow_empty=True) == {"a": 1}
    assert "select 'x' hits nothing" in message(NoMatchError, map_params, len, {"a": 1}, "x")


def test_by_rules_leaves_what_no_rule_hits():
    changed = by_rules({"a": 1, "b": 2}, {"a": 10}, lambda name, leaf, value: (name, leaf, value))
    assert changed == {"a": ("a", 1, 10), "b": 2}


def test_mask_and_label_params():
    params = {"a": {"w": 1.0, "b": 2.0}, "t": Alias("a")}
    assert mask(params, ".*w") == {"a": {"w": True, "b": False}, "t": Alias("a")}
    assert label_params(params, {".*b": "no"}, default="yes") == {
        "a": {"w": "yes", "b": "no"},
        "t": Alias("a"),
    }
    assert mask([1, (2, 3)], "1/.*") == [False, (True, True)]
    assert label_params(Pair(1, 2), {"left": 0}, default=1) == Pair(0, 1)
    assert mask(abstract(net()), ".*bias") == mask(net(), ".*bias")


# cast


def test_cast_changes_what_its_rules_hit():
    params = {
        "a": jnp.ones(2),
        "b": np.ones(2, np.float32),
        "n": jnp.ones(2, jnp.int32),
        "c": Fixed(jnp.ones(2)),
    }
    new = cast(params, {"[ac]": "bfloat16", "b": jnp.float16})
    kinds = {name: str(leaf.dtype) for name, leaf in collect_params(new).items()}
    assert kinds == {"a": "bfloat16", "b": "float16", "c": "bfloat16", "n": "int32"}
    assert isinstance(new["b"], np.ndarray)
    assert isinstance(new["c"], Fixed)
    assert cast(params, {"n": "int8"})["n"].dtype == jnp.int8
    assert cast(params, {"b": np.float64})["b"].dtype == np.float64  # NumPy's own arrays are never narrowed
    assert cast(params, {"a": "complex64"})["a"].dtype == jnp.complex64


def test_cast_of_stand_ins():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaf = jax.ShapeDtypeStruct((2,), jnp.float32, sharding=sharding)
    new = cast({"a": leaf}, {"a": "bfloat16"})["a"]
    assert (new.shape, new.dtype, new.sharding) == ((2,), jnp.bfloat16, sharding)


def test_cast_gathers_all_it_refuses():
    params = {
        "c": jnp.ones(2, jnp.complex64),
        "f": jnp.ones(2),
        "g": jnp.ones(2),
        "h": jax.ShapeDtypeStruct((2,), jnp.float32),
        "i": jnp.ones(2, jnp.int32),
        "s": "text",
    }
    assert (
        message(MismatchError, cast, params, {"[cis]": "float32", "[fh]": "float64", "g": "int32"})
        == """\
cast: these parameters cannot be cast:
  c is complex64, and float32 is of another kind; select the others only, or map_params it
  f would not become float64 but float32; set jax_enable_x64 first
  g is float32, and int32 is of another kind; select the others only, or map_params it
  h would not become float64 but float32; set jax_enable_x64 first
  i is int32, and float32 is of another kind; select the others only, or map_params it
  s is 'text' of type str, not an array"""
    )
    assert (
        message(RuleError, cast, net(), {".*bias": "bfloat", ".*": None})
        == """\
cast: the values of these rules are not dtypes:
  rule 0 '.*bias': 'bfloat'
  rule 1 '.*': None"""
    )
    assert "rule 0 'x' hits nothing" in message(RuleError, cast, net(), {"x": "float32"})


# flatten, unflatten, partition, merge


def test_flatten_keeps_nodes_whole():
    params = {"b10": {"w": 1.0}, "b2": Alias("b10"), "c": Fixed(2.0), "e": {"f": {}}}
    assert flatten(params) == {"b2": Alias("b10"), "b10/w": 1.0, "c": params["c"], "e/f": {}}
    assert list(flatten(params)) == ["b2", "b10/w", "c", "e/f"]
    assert unflatten(flatten(params)) == params
    assert flatten({}) == unflatten({}) == {}
    assert flat_leaves(params) == {"b10/w": 1.0, "c": 2.0}


def test_flatten_gathers_all_that_has_no_place():
    params = {"a/b": {"c": 1}, "": 2, "d": [1, 2], "e": {"f": None, "g": Pair(1, 2)}}
    assert (
        message(BadNameError, flatten, params)
        == """\
only nested dicts with keys that can be names can be taken apart:
  the key '' is empty; give it a name
  the key 'a/b' holds a '/', which separates keys; nest dicts instead, or write 'a_b'
  d is of type list, not a dict
  e/f is of type NoneType, not a dict
  e/g is of type Pair, not a dict"""
    )
    head = "only nested dicts with keys that can be names can be taken apart:\n  "
    assert message(BadNameError, flatten, {"a": {1: 2}}) == (
        f"{head}the key 1 in 'a' is of type int; keys are strings, such as '1'"
    )
    assert message(BadNameError, flatten, 1.0) == f"{head}the tree is of type float, not a dict"
    assert message(BadNameError, flatten, Alias("a")) == f"{head}the tree is of type Alias, not a dict"
    assert message(BadNameError, partition, [1.0], ".*") == f"{head}the tree is of type list, not a dict"


def test_unflatten_refuses_names_that_cannot_be_nested():
    assert message(BadNameError, unflatten, {"a": 1, "a/b": 2}) == (
        "these names cannot be nested:\n  'a' is a parameter, and a block that holds 'a/b'"
    )


def test_partition_prunes():
    assert partition(net(), "dense1/.*")[0].keys() == {"dense1"}
    selected, rest = partition({"a": {"b": {"w": 1.0}, "c": 2.0}, "e": {}}, "a/b/w")
    assert (selected, rest) == ({"a": {"b": {"w": 1.0}}}, {"a": {"c": 2.0}, "e": {}})
    assert partition({"a": 1.0}, "x", allow_empty=True) == ({}, {"a": 1.0})
    assert "select 'x' hits nothing" in message(NoMatchError, partition, {"a": 1.0}, "x")


def test_an_alias_goes_with_all_it_shares():
    params = {"a": {"w": 1.0, "b": 2.0}, "t": Alias("a"), "u": Alias("a/w"), "v": Alias("t")}
    assert partition(params, "a/.*") == (params, {})
    assert partition(params, "a/w") == (
        {"a": {"w": 1.0}, "u": Alias("a/w")},
        {"a": {"b": 2.0}, "t": Alias("a"), "v": Alias("t")},
    )


def test_an_alias_that_shares_nothing_stays_with_the_rest():
    assert partition({"e": {}, "t": Alias("e"), "w": 1.0}, "w") == ({"w": 1.0}, {"e": {}, "t": Alias("e")})


def test_rename_refuses_dangling_ties():
    text = message(TieError, rename, {"h": Alias("e"), "w": 1.0}, {"w": "v"})
    assert text.startswith("'h' is tied to 'e', which is not in this tree.")


def test_partition_refuses_dangling_ties():
    assert message(TieError, partition, {"h": Alias("e"), "w": 1.0}, "w") == (
        "'h' is tied to 'e', which is not in this tree. Aliases are named from the root: pass the whole "
        "tree, or pt.untie it before taking a part."
    )


def test_partition_refuses_to_split_a_node():
    params = {"a": Fixed({"x": 1.0, "y": 2.0}), "b": 3.0}
    assert message(MismatchError, partition, params, "a/x") == (
        "partition: a node cannot be split:\n  a is one Fixed; select all of it, or none"
    )
    assert names(partition(params, "a/.*")[0]) == ["a/x", "a/y"]


def test_merge_refuses_overlap():
    assert merge() == {}
    assert merge({"a": {"w": 1}}, {"a": {"b": 2}}, {"c": 3}) == {
        "a": {"w": 1, "b": 2},
        "c": 3,
    }
    left = {"a": {"w": 1, "b": 2}, "c": 1, "d": {"x": 1}}
    assert (
        message(BadNameError, merge, left, {"a": {"w": 3}, "c": 1}, {"c": {"d": 1}, "d": 1})
        == """\
merge: these names are in two trees; take them out of one, or pt.update instead:
  a/w
  c
  c
  d"""
    )
    assert message(BadNameError, merge, {}, [1]) == "merge: takes nested dicts, and got one of type list."
    assert left == {"a": {"w": 1, "b": 2}, "c": 1, "d": {"x": 1}}


# rename


def test_rename():
    assert rename({"a": {"w": 1.0}, "b": {"w": 2.0}}, {"a/(.*)": r"c/\1"}) == {
        "c": {"w": 1.0},
        "b": {"w": 2.0},
    }
    assert rename({"a": 1.0}, {re.compile("A", re.IGNORECASE): "b/c"}) == {"b": {"c": 1.0}}
    assert rename({"a1": 1.0}, {r"a(?P<n>\d)": r"b\g<n>0"}) == {"b10": 1.0}
    assert rename({"a": 1.0, "b": 2.0}, {"a": "b", "b": "a"}) == {"b": 1.0, "a": 2.0}
    assert names(rename(abstract(net()), {r"(.*)": r"net/\1"}))[0] == "net/dense0/weight"
    assert rename({"a": {"e": {}, "w": 1.0}}, {"a/(.*)": r"b/\1"}) == {"b": {"e": {}, "w": 1.0}}


def test_rename_moves_ties():
    params = {"a": {"w": 1.0, "b": 2.0}, "t": Alias("a"), "u": {"x": Alias("t/w")}}
    moved = rename(params, {"a/(.*)": r"enc/a/\1"})
    assert moved == {"enc": {"a": {"w": 1.0, "b": 2.0}}, "t": Alias("enc/a"), "u": {"x": Alias("t/w")}}
    split = rename(params, {"a/w": "c/w"})
    assert split == {
        "c": {"w": 1.0},
        "a": {"b": 2.0},
        "t": {"w": Alias("c/w"), "b": Alias("a/b")},
        "u": {"x": Alias("t/w")},
    }
    assert rename(params, {"t/(.*)": r"z/\1"})["z"] == Alias("a")
    # a dict of one alias is not made an alias itself
    lone = {"a": {"w": 1.0}, "s": {"w": Alias("a/w")}, "t": Alias("s")}
    assert rename(lone, {"a/w": "b/w"}) == {"b": {"w": 1.0}, "s": {"w": Alias("b/w")}, "t": Alias("s")}
    matrix = np.arange(6.0).reshape(2, 3)
    turned = {"a": {"w": matrix}, "b": Alias("a"), "c": Alias("b/w", transpose=True)}
    assert resolve(rename(turned, {"a/w": "a/v"}))["c"].shape == (3, 2)


def test_rename_refuses_collisions_and_bad_names():
    assert (
        message(BadNameError, rename, net(), {r"dense\d/(.*)": r"d/\1"})
        == """\
rename: two parameters would have one name:
  'd/weight' would be dense0/weight and dense1/weight
  'd/bias' would be dense0/bias and dense1/bias"""
    )
    assert "'dense1/bias' would be dense0/bias and dense1/bias" in message(
        BadNameError, rename, net(), {"dense0/bias": "dense1/bias"}
    )
    assert (
        message(BadNameError, rename, net(), {"dense0/weight": "dense1", "dense0/bias": "a//b"})
        == """\
these names cannot be nested:
  'a//b' has an empty key; write 'block/weight'
  'dense1' is a parameter, and a block that holds 'dense1/weight'
  'dense1' is a parameter, and a block that holds 'dense1/bias'"""
    )


def test_rename_refuses_bad_rules():
    assert message(RuleError, rename, net(), {"dense0/(.*)": r"d/\2"}) == (
        r"rename: the template 'd/\\2' of 'dense0/(.*)' does not fit: invalid group reference 2 at "
        "position 3. The pattern has 1 group."
    )
    assert message(RuleError, rename, net(), {"dense0/bias": r"d/\g<x>"}) == (
        r"rename: the template 'd/\\g<x>' of 'dense0/bias' does not fit: unknown group name 'x'. "
        "The pattern has no groups."
    )
    assert (
        message(RuleError, rename, net(), {trues: "x", "dense0/.*": [1], ("a", "b"): "c", ".*": trues})
        == f"""\
rename: takes pattern -> template, both texts; these rules are not:
  rule 0 trues: 'x'
  rule 1 'dense0/.*': [1]
  rule 2 ['a', 'b']: 'c'
  rule 3 '.*': {trues!r}"""
    )
    assert (
        message(RuleError, rename, net(), {"dense0": "x", ".*": r"\g<0>", "dense1/bias": "y"})
        == """\
rules do not fit the tree of 4 parameters:
  rule 0 'dense0' hits nothing. Did you mean 'dense0/.*'? Nearest: dense0/bias, dense0/weight.
  rule 2 'dense1/bias' is shadowed: all it hits goes to rule 1 '.*'. Put it first, or remove it."""
    )
    assert message(SelectError, rename, net(), {"*": "x"}).startswith("'*' is not a regular expression")


def trues(name, leaf):
    return True
