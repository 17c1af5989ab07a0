"""Names: order, one bad key at a time, and the plans made of index trees."""

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paramtree.errors import HINTED, BadNameError, did_you_mean, listing, nearest, raise_faults
from paramtree.names import (
    Plan,
    check_key,
    children,
    flatten_named,
    index_tree,
    is_under,
    join,
    key_fault,
    map_children,
    natural_key,
    nest,
    picker,
    structure_of,
)
from paramtree.nodes import Alias, Fixed
from paramtree.tree import collect_params, names


class Pair(NamedTuple):
    nu: object
    mu: object


def message(kind, call, *args, **kwargs):
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is kind
    return str(caught.value)


@pytest.mark.parametrize(
    "ordered",
    [
        ["layer2", "layer10"],
        ["a", "a1", "a2", "a10", "b"],
        ["weight", "bias", "dense0"],
        ["kernel", "a"],
        ["gamma", "beta"],
        ["scale", "bias"],
        ["0", "2", "10", "a"],
        ["layer02", "layer2", "layer10"],
        ["v1.2", "v1.10"],
        ["A", "a"],
        ["z", "é", "层"],
        ["٢", "10"],  # digits of other scripts count as numbers too
        ["²", "³"],  # superscripts are no decimals, and must not break the sort
    ],
)
def test_keys_are_listed_in_natural_order(ordered):
    params = dict.fromkeys(reversed(ordered), 0.0)
    assert names(params) == ordered
    assert sorted(sorted(ordered), key=natural_key) == ordered


def test_names_are_listed_by_their_outermost_key_first():
    params = {"layer10": {"weight": 0, "bias": 1}, "layer2": {"sub": {"bias": 2}, "bias": 3, "weight": 4}}
    assert names(params) == [
        "layer2/weight",
        "layer2/bias",
        "layer2/sub/bias",
        "layer10/weight",
        "layer10/bias",
    ]


def test_foreign_trees_are_named_by_their_key_paths_in_natural_order():
    assert names([0, 1, {"w": 2}]) == ["0", "1", "2/w"]
    assert names(list(range(12))) == [str(place) for place in range(12)]
    assert names(Pair(0, 1)) == ["mu", "nu"]
    assert names((1, [2, (3,)])) == ["0", "1/0", "1/1/0"]
    assert names({10: 0, 2: 1}) == ["2", "10"]
    assert names({"mlp/~/linear_10": {"w": 0}, "mlp/~/linear_2": {"w": 1}}) == [
        "mlp/~/linear_2/w",
        "mlp/~/linear_10/w",
    ]


def test_dict_kinds_give_the_same_names():
    plain = {"layer10": 0, "layer2": 1}
    assert (
        names(OrderedDict(plain)) == names(defaultdict(int, plain)) == names(plain) == ["layer2", "layer10"]
    )
    assert names(collect_params({"a": {"weight": 0, "bias": 1}})) == ["a/weight", "a/bias"]


def test_values_follow_their_names_whatever_order_jax_keeps():
    params = {"layer10": 10.0, "layer2": 2.0, "weight": 0.0}
    leaves, structure = flatten_named(params)
    assert structure.names == ("weight", "layer2", "layer10")
    assert [leaves[index] for index in structure.indices] == [0.0, 2.0, 10.0]
    assert [structure.position[name] for name in structure.names] == [0, 1, 2]
    ordered = OrderedDict(params)
    leaves, structure = flatten_named(ordered)
    assert [leaves[index] for index in structure.indices] == [0.0, 2.0, 10.0]


def test_what_holds_no_leaf_has_a_place_and_no_name():
    params = {"a": 0.0, "b": Alias("a"), "c": {}, "d": None, "e": Fixed(1.0), "f": []}
    structure = structure_of(params)
    assert structure.names == ("a", "e")
    assert structure.leafless == {"b": Alias("a"), "c": {}, "d": None, "f": []}


def test_the_empty_tree_has_no_names():
    assert names({}) == names([]) == []
    for nothing in (None, object(), "weight", 1.0):
        assert message(BadNameError, names, nothing) == (
            f"{type(nothing).__name__} is not a tree of parameters. Pass the nested dict that init returned."
        )


def test_one_structure_is_read_once():
    first = structure_of({"a": np.zeros(2), "b": {"c": 0.0}})
    assert structure_of({"b": {"c": jnp.ones(3)}, "a": "text"}) is first
    assert structure_of({"b": {"c": 0.0}, "a": {}}) is not first


@partial(jax.tree_util.register_dataclass, data_fields=("value",), meta_fields=("note",))
@dataclass
class Noted:
    value: object
    note: object


def test_static_data_that_jax_cannot_compare_is_no_hindrance():
    def tree():
        return {"h": Noted(1.0, np.ones(2))}

    with pytest.raises(ValueError, match="equality"):
        assert jax.tree.structure(tree()) == jax.tree.structure(tree())
    assert names(tree()) == names(tree()) == ["h/value"]
    assert names({"h": Noted(1.0, ["a list, without a hash"])}) == ["h/value"]
    assert list(collect_params(tree(), "h/.*")) == ["h/value"]


def test_empty_key():
    assert message(BadNameError, names, {"a": {"": 1}}) == "the key '' in 'a' is empty; give it a name."
    assert message(BadNameError, names, {"": 1}) == "the key '' in 'the root' is empty; give it a name."


def test_bare_leaf():
    text = "the tree is one bare leaf, without a name; put it in a dict: {'weight': leaf}."
    assert message(BadNameError, names, np.ones(1)) == message(BadNameError, names, Fixed(1.0)) == text


def test_keys_that_cannot_be_sorted():
    assert message(BadNameError, names, {1: 1, "a": 2}) == (
        "JAX cannot flatten this tree: Comparator raised exception while sorting pytree dictionary keys. "
        "Make all keys strings."
    )


def test_two_leaves_with_one_name_are_all_shown_with_both_paths():
    tree = {"a/b": 1, "a": {"b": 2}, "c": [3], "c/0": 4, "d": 5}
    assert (
        message(BadNameError, names, tree)
        == """\
two leaves have one name:
  'a/b' is ['a']['b'] and ['a/b']; rename one of the keys
  'c/0' is ['c'][0] and ['c/0']; rename one of the keys"""
    )


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("dense0", ""),
        ("é 层.", ""),
        ("", "is empty; give it a name"),
        (3, "is of type int; keys are strings, such as '3'"),
        ("a/b/c", "holds a '/', which separates keys; nest dicts instead, or write 'a_b_c'"),
    ],
)
def test_key_fault(key, fault):
    assert key_fault(key) == fault


def test_check_key():
    assert check_key("dense0") == "dense0"
    assert message(BadNameError, check_key, "") == "the key '' is empty; give it a name."
    assert message(BadNameError, check_key, 3, "net") == (
        "the key 3 in 'net' is of type int; keys are strings, such as '3'."
    )


def test_nest_gathers_all_faults():
    flat = {"a": 1, "a/b": 2, "": 3, "/x": 4, 5: 6, "c/d": 7, "c": 8, "e//f": 9}
    assert (
        message(BadNameError, nest, flat)
        == """\
these names cannot be nested:
  'a' is a parameter, and a block that holds 'a/b'
  '' has an empty key; write 'block/weight'
  '/x' has an empty key; write 'block/weight'
  5 is of type int; names are strings
  'c' is a parameter, and a block that holds 'c/d'
  'e//f' has an empty key; write 'block/weight'"""
    )


def test_nest_keeps_a_dict_that_is_a_value():
    assert nest({"a/b": {}, "c": {"d": 1}}) == {"a": {"b": {}}, "c": {"d": 1}}
    assert "'c' is a parameter" in message(BadNameError, nest, {"c": {"d": 1}, "c/e": 2})


def test_join_and_is_under():
    assert join() == join("", "") == ""
    assert join("a", "", "b/c") == "a/b/c"
    assert is_under("a/b", "")
    assert is_under("a/b", "a")
    assert is_under("a", "a")
    assert not is_under("ab", "a")
    assert not is_under("a", "a/b")


def test_children_and_map_children():
    pair = Pair({"x": 1}, None)
    assert children(pair) == [("nu", {"x": 1}), ("mu", None)]
    assert children({}) == children(None) == children(3.0) == []
    assert map_children(lambda key, child: key, pair) == Pair("nu", "mu")
    assert map_children(lambda key, child: key, 3.0) == 3.0
    assert map_children(lambda key, child: key, None) is None


def test_a_plan_builds_a_part_of_another_tree():
    leaves, structure = flatten_named({"a": 1.0, "b": {"c": 2.0, "d": 3.0}})
    index = index_tree(structure.treedef)
    assert index == {"a": 0, "b": {"c": 1, "d": 2}}
    for part, built in [
        ({"x": index["b"]}, {"x": {"c": 2.0, "d": 3.0}}),
        ({"y": index["b"]["d"]}, {"y": 3.0}),
        ({}, {}),
    ]:
        assert Plan.of(part).build(leaves) == built


@pytest.mark.parametrize(("indices", "picked"), [([], ()), ([1], ("b",)), ([2, 0], ("c", "a"))])
def test_picker(indices, picked):
    assert picker(indices)("abc") == picked


def test_nearest_is_quick_and_right_among_very_many():
    many = [
        f"decoder/block{i}/layer{j}/{leaf}"
        for i in range(100)
        for j in range(100)
        for leaf in ("weight", "bias")
    ]
    assert nearest("decoder/block77/layer3/wieght", many)[0] == "decoder/block77/layer3/weight"
    assert nearest("Dense0/Weight", ["dense0/weight"]) == ["dense0/weight"]
    assert nearest("zzz", many) == []


def test_error_helpers():
    assert did_you_mean("zzz", ["a"]) == ""
    assert listing([]) == ""
    assert listing(["a", "b"], 2) == "a, b"
    assert listing(["a", "b", "c"], 2) == "a, ... (3 in all)"
    raise_faults(BadNameError, "none:", [])
    assert message(BadNameError, raise_faults, BadNameError, "two:", ["a", "b"]) == "two:\n  a\n  b"
    assert HINTED > 0
