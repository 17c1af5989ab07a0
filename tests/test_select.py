"""Selects and rules: what they hit, and every way to miss."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from paramtree.errors import NoMatchError, RuleError, SelectError
from paramtree.names import structure_of
from paramtree.nodes import Alias, Fixed
from paramtree.select import (
    apply_rules,
    apply_select,
    depends_on_leaves,
    describe_select,
    freeze_select,
    held_leaves,
    literal_of,
    matches,
    meant_pattern,
    parse_rules,
)
from paramtree.tree import collect_params, label_params, mask, rename

FLAT = {
    "dense0": {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)},
    "dense1": {"weight": jnp.ones((4, 2)), "bias": jnp.ones(4)},
}
NESTED = {"net": FLAT}
ALL = ["dense0/weight", "dense0/bias", "dense1/weight", "dense1/bias"]
TIED = {**FLAT, "dense2": Alias("dense1"), "out": {"weight": Alias("dense0/weight", transpose=True)}}

TAIL = "Pass allow_empty=True where nothing is a good answer."
MISS = "select {} hits none of 4 parameters; it must match the whole name.{} " + TAIL
NAMES = f" The names are {', '.join(ALL)}."
BLOCK = " Did you mean 'dense0/.*'? Nearest: dense0/bias, dense0/weight."
WEIGHT = " Did you mean 'dense0/weight'? Nearest: dense0/weight, dense1/weight."


def message(kind, call, *args, **kwargs):
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is kind
    return str(caught.value)


@pytest.mark.parametrize(
    ("select", "hit"),
    [
        (None, ALL),
        (".*", ALL),
        (".*weight", ["dense0/weight", "dense1/weight"]),
        ("dense0.*", ["dense0/weight", "dense0/bias"]),
        ("dense0.weight$", ["dense0/weight"]),  # the dot hits the slash
        ("dense0/weight|dense1/bias", ["dense0/weight", "dense1/bias"]),
        (re.compile("DENSE1/.*", re.IGNORECASE), ["dense1/weight", "dense1/bias"]),
        (["dense1/bias", re.compile(".*0/bias")], ["dense0/bias", "dense1/bias"]),
        ([["dense1/bias"], ("nothing", ".*0/bias")], ["dense0/bias", "dense1/bias"]),
        ({"dense1/bias"}, ["dense1/bias"]),
        (iter(["dense1/bias"]), ["dense1/bias"]),
        (lambda name, leaf: leaf.ndim == 2, ["dense0/weight", "dense1/weight"]),
        ([lambda name, leaf: leaf.shape == (4,), "dense0/bias"], ["dense0/bias", "dense1/bias"]),
        (lambda name, leaf: "yes" if "bias" in name else "", ["dense0/bias", "dense1/bias"]),
    ],
)
def test_what_selects_hit(select, hit):
    assert list(collect_params(FLAT, select)) == hit


def test_a_predicate_is_asked_again_when_values_change():
    def positive(name, leaf):
        return bool((leaf > 0).all())

    assert list(collect_params({"a": np.ones(2), "b": -np.ones(2)}, positive)) == ["a"]
    assert list(collect_params({"a": -np.ones(2), "b": np.ones(2)}, positive)) == ["b"]


def test_a_predicate_sees_the_node_that_holds_a_leaf():
    params = {"a": jnp.ones(2), "b": Fixed(jnp.ones((2, 2)))}
    assert list(collect_params(params, lambda name, leaf: isinstance(leaf, Fixed))) == ["b"]
    assert list(collect_params(params, lambda name, leaf: leaf.ndim == 2)) == ["b"]
    assert held_leaves(params)[1] is params["b"]
    assert label_params(params, [(lambda name, leaf: isinstance(leaf, Fixed), 1), (".*", 2)])["b"].value == 1


@pytest.mark.parametrize(
    ("select", "hint"),
    [
        ("dense0", BLOCK),
        ("dense0/", BLOCK),
        ("^dense0$", BLOCK),
        ("/dense0/.*", BLOCK),
        ("Dense0/.*", BLOCK),
        ("Dense0", BLOCK),
        ("dense0_weight", WEIGHT),
        (r"dense0\.weight", WEIGHT),
        ("DENSE0_weight", WEIGHT),
        ("dense0/*", " Did you mean 'dense0/.*'? Nearest: dense0/bias, dense0/weight, dense1/bias."),
        ("weight", " Did you mean '.*weight'? Nearest: dense1/weight, dense0/weight."),
        ("dense0/wieght", " Nearest: dense0/weight, dense1/weight, dense0/bias."),
        ("zzz", NAMES),
    ],
)
def test_near_misses(select, hint):
    assert message(NoMatchError, collect_params, FLAT, select) == MISS.format(repr(select), hint)
    assert message(NoMatchError, collect_params, FLAT, re.compile(select)) == MISS.format(repr(select), hint)
    assert dict(collect_params(FLAT, select, allow_empty=True)) == {}


@pytest.mark.parametrize(
    ("select", "meant", "near"),
    [
        ("dense0.weight$", ".*dense0.weight$", " Nearest: net/dense0/weight, net/dense1/weight."),
        ("dense0/weight", ".*dense0/weight", " Nearest: net/dense0/weight, net/dense1/weight."),
        ("dense0.*", ".*dense0.*", ""),
    ],
)
def test_near_misses_in_a_nested_net(select, meant, near):
    hint = f" Did you mean {meant!r}?{near}"
    assert message(NoMatchError, collect_params, NESTED, select) == MISS.format(repr(select), hint)


def test_other_selects_that_hit_nothing():
    tail = f"hits none of 4 parameters.{NAMES} {TAIL}"

    def never(name, leaf):
        return False

    assert message(NoMatchError, collect_params, FLAT, never) == f"select never {tail}"
    assert message(NoMatchError, collect_params, FLAT, []) == f"select [] {tail}"
    whole = tail.replace(".", "; it must match the whole name.", 1)
    assert message(NoMatchError, collect_params, FLAT, ["x", re.compile("y")]) == (
        f"select 'x' {whole}\nselect 'y' {whole}"
    )


def test_each_of_several_selects_must_hit():
    text = (
        "select 'densse1/.*' hits none of 4 parameters; it must match the whole name. "
        "Nearest: dense1/bias, dense1/weight. Pass allow_empty=True where nothing is a good answer."
    )
    assert message(NoMatchError, collect_params, FLAT, ["dense0/.*", "densse1/.*"]) == text
    assert len(collect_params(FLAT, ["dense0/.*", "densse1/.*"], allow_empty=True)) == 2
    assert len(collect_params(FLAT, ["dense0/.*", lambda name, leaf: "1" in name])) == 4
    with pytest.raises(RuleError) as e:
        label_params(FLAT, [(["dense0/.*", "q"], 1), (".*", 2)])
    assert str(e.value).startswith(
        "rules do not fit the tree of 4 parameters:\n  rule 0 ['dense0/.*', 'q']: 'q' hits nothing."
    )


def test_small_trees():
    head = "hits nothing; it must match the whole name."
    assert message(NoMatchError, mask, {}, ".*") == f"select '.*' {head} The tree has no parameters. {TAIL}"
    assert message(NoMatchError, mask, {"w": 1.0}, "x") == f"select 'x' {head} The names are w. {TAIL}"
    assert mask({}, ".*", allow_empty=True) == {}


@pytest.mark.parametrize(
    ("select", "text"),
    [
        (
            "*weight",
            "'*weight' is not a regular expression: nothing to repeat at position 0. "
            "Did you mean '.*weight'?",
        ),
        ("dense[", "'dense[' is not a regular expression: unterminated character set at position 5."),
        (".*(", "'.*(' is not a regular expression: missing ), unterminated subpattern at position 2."),
        (re.compile(b"x"), "b'x' is a pattern of bytes, and names are text. Drop the b."),
    ]
    + [
        (
            wrong,
            f"{wrong!r} of type {type(wrong).__name__} is not a select. Pass a regular expression, a "
            "compiled pattern, a predicate (name, leaf) -> bool, or a list of these.",
        )
        for wrong in (3, b"x", {"a": 1})
    ],
)
def test_what_is_no_select(select, text):
    assert message(SelectError, collect_params, FLAT, select) == text
    assert message(SelectError, collect_params, FLAT, [".*", [select]]) == text
    assert message(SelectError, collect_params, FLAT, [select], allow_empty=True) == text
    if not isinstance(select, dict):
        assert message(SelectError, label_params, FLAT, {select: 1}) == text


def test_none_in_a_list_is_no_select():
    assert "None of type NoneType is not a select." in message(SelectError, collect_params, FLAT, [None])


def test_a_select_that_names_only_tied_places():
    places = "dense2/weight is dense1/weight, dense2/bias is dense1/bias"
    lives = f" It names only tied places: {places}. Select a tied parameter where it lives."
    assert message(NoMatchError, collect_params, TIED, "dense2/.*") == MISS.format("'dense2/.*'", lives)
    upper = re.compile("DENSE2/.*", re.IGNORECASE)
    assert lives in message(NoMatchError, collect_params, TIED, upper)
    assert lives in message(NoMatchError, collect_params, TIED, "dense2")  # the block
    assert "out/weight is dense0/weight" in message(NoMatchError, collect_params, TIED, ["x", "out/.*"])
    assert list(collect_params(TIED, ".*weight")) == ["dense0/weight", "dense1/weight"]
    # what is left of a tree that was taken apart is still a tree to select from
    assert "The names are w." in message(NoMatchError, collect_params, {"h": Alias("gone"), "w": 1.0}, "zzz")


def test_rules_give_the_value_of_the_first_that_hits():
    rules = {"dense0/bias": 1, re.compile(".*bias"): 2, ".*": 3}
    values = dict(zip(ALL, apply_rules(FLAT, rules)[2], strict=True))
    assert values == {"dense0/weight": 3, "dense0/bias": 1, "dense1/weight": 3, "dense1/bias": 2}
    assert (
        apply_rules(FLAT, list(rules.items()))[2] == apply_rules(FLAT, iter(rules.items()))[2] == [3, 1, 3, 2]
    )
    assert apply_rules(FLAT, {".*bias": 1}, default=None)[2] == [None, 1, None, 1]
    assert apply_rules(FLAT, {}, default=0)[2] == [0, 0, 0, 0]
    assert apply_rules(FLAT, [(["dense0/.*", ".*1/bias"], 1)], default=0)[2] == [1, 1, 0, 1]


def test_rules_keep_some_parameters_for_their_whole_name():
    def is_bias(name, leaf):
        return name.endswith("bias")

    rules = {"dense0/bias": 1, ".*": 2}
    assert apply_rules(FLAT, rules, default=0, spelled_out=is_bias)[2] == [2, 1, 2, 0]


def test_all_faults_of_rules_are_gathered():
    rules = {"dense0/.*": 1, "dense0/bias": 2, "zzz": 3, "dense0": 4}
    assert (
        message(RuleError, label_params, FLAT, rules)
        == """\
rules do not fit the tree of 4 parameters:
  rule 1 'dense0/bias' is shadowed: all it hits goes to rule 0 'dense0/.*'. Put it first, or remove it.
  rule 2 'zzz' hits nothing. The names are dense0/weight, dense0/bias, dense1/weight, dense1/bias.
  rule 3 'dense0' hits nothing. Did you mean 'dense0/.*'? Nearest: dense0/bias, dense0/weight.
  no rule covers dense1/weight, dense1/bias. Add a rule, or pass default=."""
    )
    assert (
        message(RuleError, label_params, TIED, {"dense2/.*": 1, ".*": 2})
        == """\
rules do not fit the tree of 4 parameters:
  rule 0 'dense2/.*' hits nothing. It names only tied places: dense2/weight is dense1/weight, \
dense2/bias is dense1/bias. Select a tied parameter where it lives."""
    )


def test_rules_shadowed_by_several_and_by_predicates():
    rules = [("dense0/.*", 1), (lambda name, leaf: name.startswith("dense1"), 2), (".*bias", 3)]
    assert (
        message(RuleError, label_params, FLAT, rules)
        == """\
rules do not fit the tree of 4 parameters:
  rule 2 '.*bias' is shadowed: all it hits goes to rule 0 'dense0/.*', \
rule 1 <lambda>. Put it first, or remove it."""
    )


def test_rules_on_small_trees():
    assert message(RuleError, label_params, {}, {".*": 1}) == (
        "rules do not fit the tree of 0 parameters:\n  rule 0 '.*' hits nothing. The tree has no parameters."
    )
    assert message(RuleError, label_params, {"w": 1}, {}) == (
        "rules do not fit the tree of 1 parameter:\n  no rule covers w. Add a rule, or pass default=."
    )
    assert label_params({}, {}) == {}


def test_a_great_many_faults_are_told_quickly_and_all():
    params = {f"layer{i}": {"weight": 0.0} for i in range(3000)}
    text = message(RuleError, label_params, params, {f"layr{i}/weight": i for i in range(300)}, default=0)
    assert text.count("hits nothing.") == 300
    assert 0 < text.count("Nearest") < 10


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        (None, "None are not rules. Pass a dict {select: value}, or a list of such pairs."),
        ("abc", "'abc' are not rules. Pass a dict {select: value}, or a list of such pairs."),
        (["ab"], "'ab' is not a rule. A rule is a pair (select, value)."),
        ([("a", 1, 2)], "('a', 1, 2) is not a rule. A rule is a pair (select, value)."),
        (("a", 1), "'a' is not a rule. A rule is a pair (select, value)."),
    ],
)
def test_what_are_no_rules(rules, text):
    assert message(RuleError, parse_rules, rules) == text


def test_frozen_selects():
    pattern = re.compile("b")
    assert freeze_select(["a", [pattern, "c"]]) == ("a", (pattern, "c"))
    assert hash(freeze_select([["a"]]))
    assert depends_on_leaves(("a", (len,)))
    assert not depends_on_leaves(("a", pattern))
    assert matches(("a", ("b.*",)), "b/c")
    assert not matches(("a",), "b/c")
    assert matches(lambda n, x: x, "b", 1)
    assert not matches("dense", "dense0/bias")
    assert describe_select(("a", pattern, len)) == "['a', 'b', len]"


def test_selections_name_places_in_natural_order():
    found = apply_select({"b10": 10.0, "b2": 2.0}, [".*10", "b2"])
    assert found.places == (0, 1)
    assert [found.structure.names[place] for place in found.places] == ["b2", "b10"]
    assert found.structure is structure_of({"b2": 1, "b10": 1})


def test_meant_pattern_promises_only_what_hits():
    assert meant_pattern("dense9", ALL) is None
    assert meant_pattern("", ["a/b"]) is None or re.fullmatch(meant_pattern("", ["a/b"]), "a/b")
    assert meant_pattern("Dense0", ["net/dense0/weight"]) == ".*dense0/.*"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"0\.weight", "0.weight"),
        (r"a\-b\ c\#", "a-b c#"),
        (r"w\(1\)\[\]\{\}\\n", r"w(1)[]{}\n"),
        ("plain/näme_1", "plain/näme_1"),
        ("", ""),
        ("a\\\n", "a\n"),
        ("0.weight", None), (r"\d", None), (r"a\b", None), (r"\1", None), ("a$", None), ("a|b", None),
        ("a?", None), ("(a)", None), ("[a]", None), ("a{2}", None), ("a\\", None),
    ],
)  # fmt: skip
def test_patterns_of_one_text(pattern, text):
    assert literal_of(pattern) == text
    if text is not None:
        assert re.fullmatch(pattern, text)


def test_escaped_names_are_looked_up_and_not_searched_for(monkeypatch):
    names = [f"w.{number}" for number in range(50)]
    tree = dict.fromkeys([*names, "wx1"], 1.0)
    rules = {re.escape(name): number for number, name in enumerate(names)}
    searched = []
    compiled = re.compile
    monkeypatch.setattr(re, "compile", lambda text, *rest: searched.append(text) or compiled(text, *rest))
    monkeypatch.setattr("paramtree.select.freeze_select", lambda select: select)
    found = apply_rules(tree, rules, default=None)[2]
    assert found == [*range(50), None]
    assert searched == []


def test_a_dot_stands_for_a_new_line_in_a_name():
    tree = {"a\nb": {"weight": jnp.ones(1)}, "block\n0": jnp.ones(1)}
    assert list(collect_params(tree, ".*")) == ["a\nb/weight", "block\n0"]
    assert list(collect_params(tree, "a.b/.*")) == ["a\nb/weight"]
    assert label_params(tree, {".*weight": 1, ".*": 2}) == {"a\nb": {"weight": 1}, "block\n0": 2}
    assert list(rename(tree, {"(.*)/weight": r"\1/kernel"})["a\nb"]) == ["kernel"]
    assert matches(".*", "a\nb")
    with pytest.raises(NoMatchError):
        collect_params(tree, re.compile("a.b/.*"))  # a compiled pattern has its own flags
