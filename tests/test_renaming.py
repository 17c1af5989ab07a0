"""Rules that rename arrays and turn them, and their inverses."""

import re

import jax
import numpy as np
import pytest

import paramtree as pt
from paramtree.renaming import (
    Convert,
    Flatten,
    Join,
    Move,
    Naming,
    Split,
    Transpose,
    Unflatten,
    find_moves,
    invert,
)


def specs(*names, shape=(2, 3), dtype="float32"):
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name in names}


def targets(names, rename):
    """Source -> target, of rules that have one each, and the faults."""
    moves, faults = find_moves(specs(*names), rename)
    return {move.sources[0]: (move.targets[0] if move.targets else None) for move in moves}, faults


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def filled(shape):
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


# steps


STEPS = [
    (Transpose(), [(3, 4)], [(4, 3)]),
    (Transpose(), [(3,)], [(3,)]),
    (Transpose(), [()], [()]),
    (Transpose(), [(5, 6, 3, 4), (3, 4)], [(4, 3, 5, 6), (4, 3)]),
    (Transpose((2, 0, 1)), [(2, 3, 4)], [(4, 2, 3)]),
    (Split(2), [(4, 3)], [(2, 3), (2, 3)]),
    (Split(3, axis=-1), [(4, 3)], [(4, 1)] * 3),
    (Split((3, 0, 1)), [(4, 3)], [(3, 3), (0, 3), (1, 3)]),
    (Split(2), [(0, 3)], [(0, 3), (0, 3)]),
    (Join(1, 2), [(4, 3), (4, 3)], [(4, 6)]),
    (Join(-1, (3, 2)), [(4, 3), (4, 2)], [(4, 5)]),
    (Flatten(1, (2, 3)), [(4, 2, 3, 5)], [(4, 6, 5)]),
    (Flatten(-2, (2, -1)), [(4, 2, 3)], [(4, 6)]),
    (Flatten(0, (1, 1, -1)), [(1, 1, 3)], [(3,)]),
    (Unflatten(0, (2, -1)), [(6, 5)], [(2, 3, 5)]),
    (Unflatten(-1, (1, 5)), [(6, 5)], [(6, 1, 5)]),
    (Unflatten(0, (-1, 3)), [(0, 5)], [(0, 3, 5)]),
]


@pytest.mark.parametrize(("step", "before", "after"), STEPS, ids=[str(step) for step, *_ in STEPS])
def test_every_step_tells_its_shapes_and_its_inverse_undoes_it(step, before, after):
    arrays = [filled(shape) for shape in before]
    assert step.shapes(before) == after
    made = step.apply(arrays)
    assert [each.shape for each in made] == after
    assert step.inverse().shapes(after) == before
    for array, back in zip(arrays, step.inverse().apply(made), strict=True):
        np.testing.assert_array_equal(array, back)
    again = step.inverse().inverse().apply(arrays)
    assert all(np.array_equal(each, other) for each, other in zip(made, again, strict=True))


def test_what_steps_compute():
    kernel = filled((2, 3, 4, 5))
    np.testing.assert_array_equal(Transpose().apply([kernel])[0], np.einsum("hwio->oihw", kernel))
    back = Transpose((2, 0, 1)).inverse().apply([filled((4, 2, 3))])[0]
    np.testing.assert_array_equal(back, filled((4, 2, 3)).transpose(1, 2, 0))
    first, second = Split((1, 3), axis=1).apply([filled((2, 4))])
    assert first.tolist() == [[0], [4]]
    assert second.tolist() == [[1, 2, 3], [5, 6, 7]]
    assert Join(1).apply([first, second])[0].tolist() == filled((2, 4)).tolist()


def test_steps_make_views_where_they_can():
    array = filled((4, 6))
    for step in (Transpose(), Split(2), Unflatten(1, (2, 3))):
        assert all(np.shares_memory(array, each) for each in step.apply([array]))


FAULTS = [
    (Transpose((1, 0)), [(2, 3, 4)], "Transpose((1, 0)) does not fit the shape (2, 3, 4)."),
    (Transpose((-1, 0)), [(2, 3)], "Transpose((-1, 0)) does not fit the shape (2, 3)."),
    (Split(3), [(4, 3)], "Split(parts=3) does not go into the shape (4, 3)."),
    (Split(0), [(4, 3)], "Split(parts=0) does not go into the shape (4, 3)."),
    (Split((3, 2)), [(4, 3)], "Split(parts=(3, 2)) does not go into the shape (4, 3)."),
    (Split((5, -1)), [(4, 3)], "Split(parts=(5, -1)) does not go into the shape (4, 3)."),
    (Split(2), [(4, 3)] * 2, "Split(parts=2) takes one array, and gets 2."),
    (Split(2, axis=2), [(4, 3)], "Split(parts=2, axis=2): the shape (4, 3) has no axis 2."),
    (Join(), [(4, 3), (4, 2)], "Join() cannot join the shapes (4, 3) and (4, 2)."),
    (Join(), [(4, 3), (4,)], "Join() cannot join the shapes (4, 3) and (4,)."),
    (Join(1), [(4,), (4,)], "Join(axis=1): the shape (4,) has no axis 1."),
    (Flatten(0, (2, 3)), [(2, 4)], "Flatten(axis=0, sizes=(2, 3)) does not fit the shape (2, 4)."),
    (Flatten(1, (4, -1)), [(2, 4)], "Flatten(axis=1, sizes=(4, -1)) does not fit the shape (2, 4)."),
    (Flatten(2, (4,)), [(2, 4)], "Flatten(axis=2, sizes=(4,)): the shape (2, 4) has no axis 2."),
    (Unflatten(0, (2, 3)), [(5,)], "Unflatten(axis=0, sizes=(2, 3)) does not go into the shape (5,)."),
    (Unflatten(0, (2, -1)), [(5,)], "Unflatten(axis=0, sizes=(2, -1)) does not go into the shape (5,)."),
    (Unflatten(-3, (1,)), [(5,)], "Unflatten(axis=-3, sizes=(1,)): the shape (5,) has no axis -3."),
]


@pytest.mark.parametrize(("step", "shapes", "text"), FAULTS, ids=[text[:30] for *_, text in FAULTS])
def test_shapes_that_do_not_fit(step, shapes, text):
    assert message(pt.MismatchError, lambda: step.shapes(shapes)) == text


def test_a_join_of_unknown_parts_has_no_inverse():
    assert message(pt.RuleError, Join().inverse) == (
        "Join() cannot be undone: its parts are not known. Pass parts=."
    )


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: Convert("a", Transpose), "<class 'paramtree.renaming.convert.Transpose'>"),
        (lambda: Convert("a", "b"), "'b'"),
        (lambda: Convert(("a", 3), None), "3, None"),
        (lambda: Convert(None), "None"),
        (lambda: Convert(()), "no template"),
    ],
)
def test_what_is_no_conversion(make, found):
    assert message(pt.RuleError, make) == (
        f"Convert takes templates, which are texts, then steps, and not {found}."
    )


def test_a_conversion_prints_as_it_is_made():
    assert repr(Convert(["a", "b"], Split(2))) == "Convert(('a', 'b'), Split(parts=2))"


# moves


def test_what_no_rule_hits_keeps_its_name():
    assert targets(["a.w", "b"], None) == ({"a.w": "a.w", "b": "b"}, [])
    found, faults = targets(["a.w", "b", "c"], {r"(.*)\.w": r"\1/weight", "c": None})
    assert (found, faults) == ({"a.w": "a/weight", "b": "b", "c": None}, [])


def test_moves_stand_in_the_order_of_the_names():
    moves, _ = find_moves(specs("z", "b10", "b2", "a"), {"(b.*)": r"x/\1"})
    assert [move.sources[0] for move in moves] == ["z", "b10", "b2", "a"]


def test_a_name_means_itself_whatever_is_in_it():
    assert targets(["a.b", "axb", "w(1)"], {"a.b": "dot", "w(1)": "one"}) == (
        {"a.b": "dot", "axb": "axb", "w(1)": "one"},
        [],
    )
    moves, faults = find_moves(specs("axb", "a.b"), [(("a.b", "axb"), Convert("both", Join()))])
    assert (moves, faults) == ([Move(("a.b", "axb"), ("both",), (Join(),))], [])


def test_rules_that_hit_nothing_are_faults_with_hints():
    assert targets(["encoder.w", "b"], {"encodr.w": "x", r"/b": "c"})[1] == [
        "rule 0 'encodr.w' hits nothing. Nearest: encoder.w.",
        "rule 1 '/b' hits nothing. Did you mean 'b'? Nearest: b.",
    ]
    assert targets(["a", "b"], [(".*", "x"), ("a", "y")])[1] == [
        "rule 1 'a' is shadowed: all it hits goes to rule 0 '.*'. Put it first, or remove it."
    ]
    assert targets([], {"a": "b"}) == ({}, ["rule 0 'a' hits nothing"])


def test_templates_that_do_not_fit():
    assert message(pt.RuleError, lambda: targets(["a.w"], {r"(.)\.w": r"\2"})) == (
        r"rename: the template '\\2' of '(.)\\.w' does not fit: invalid group reference 2 at position 1. "
        "The pattern has 1 group."
    )
    assert message(pt.RuleError, lambda: targets(["a.w"], {r".\.w": r"\g<n>"})) == (
        r"rename: the template '\\g<n>' of '.\\.w' does not fit: unknown group name 'n'. "
        "The pattern has no groups."
    )


@pytest.mark.parametrize(
    ("select", "value", "text"),
    [
        ("a", 3, "'a': 3"),
        (("a", "b"), Transpose(), "['a', 'b']: Transpose()"),
    ],
)
def test_what_is_no_rule_for_names(select, value, text):
    assert message(pt.RuleError, lambda: targets(["a", "b"], [(select, value)])) == (
        f"rename: {text} is not a rule for names. Write pattern -> template, pattern -> "
        "Convert(template, steps...), or pattern -> None for what is left out."
    )


def test_a_predicate_is_no_rule_for_names():
    def kernels(name, leaf):
        return True

    assert message(pt.RuleError, lambda: targets(["a"], [(kernels, "b")])).startswith(
        "rename: kernels: 'b' is not a rule for names."
    )
    assert message(pt.SelectError, lambda: targets(["a"], {"a(": "b"})).startswith("'a(' is not a regular")
    assert message(pt.RuleError, lambda: targets(["a"], "b")) == (
        "'b' are not rules. Pass a dict {select: value}, or a list of such pairs."
    )


QKV = ((r"(.*)\.q", r"(.*)\.k", r"(.*)\.v"), Convert(r"\1/qkv", Join()))


def test_the_parts_of_a_join_find_each_other():
    moves, faults = find_moves(specs("b.v", "a.q", "a.k", "b.q", "b.k", "a.v"), [QKV])
    assert faults == []
    assert {move.targets: move.sources for move in moves} == {
        ("a/qkv",): ("a.q", "a.k", "a.v"),
        ("b/qkv",): ("b.q", "b.k", "b.v"),
    }


def test_parts_of_a_join_that_are_missing():
    _, faults = find_moves(specs("a.q", "a.k", "a.v", "b.q"), [QKV])
    assert faults == [
        r"rule 0: b/qkv is made of b.q and of '(.*)\\.k', '(.*)\\.v', which the file lacks",
    ]


def test_two_arrays_for_one_part_of_a_join():
    rules = [((r"\w\.q", r"\w\.k"), Convert("qk", Join()))]
    _, faults = find_moves(specs("a.q", "b.q", "a.k"), rules)
    assert faults == [r"rule 0 ['\\w\\.q', '\\w\\.k'] makes qk of both a.q and b.q"]


def test_two_arrays_with_one_new_name_are_both_there_to_be_seen():
    moves, _ = find_moves(specs("a.w", "b.w"), {r".\.w": "w"})
    assert [move.targets for move in moves] == [("w",), ("w",)]


def test_moves_tell_the_shapes_of_what_they_make():
    move = Move(("a",), ("q", "k"), (Split(2), Transpose()))
    (first, second) = move.specs(specs("a", shape=(4, 3), dtype="int8"))
    assert (first.shape, second.shape, str(first.dtype)) == ((3, 2), (3, 2), "int8")
    assert message(pt.MismatchError, lambda: Move(("a",), ("q",), (Split(2),)).specs(specs("a"))) == (
        "a: the steps give 2 arrays for 1 names."
    )
    mixed = specs("a") | specs("b", dtype="int8")
    assert message(pt.MismatchError, lambda: Move(("a", "b"), ("c",), (Join(),)).specs(mixed)) == (
        "a and b are of float32 and int8; convert them to one dtype first."
    )


# inverses


@pytest.mark.parametrize(
    ("rules", "inverted"),
    [
        ({r"encoder\.layer\.(\d+)\.(.*)": r"encoder/layer\1/\2"},
         {r"encoder/layer(\d+)/(.*)": r"encoder.layer.\g<1>.\g<2>"}),
        ({"0.weight": "dense0/weight"}, {"dense0/weight": "0.weight"}),  # unescaped dots are dots
        ({r"(\w+)\.(\d+)": r"\2/\1"}, {r"(\d+)/(\w+)": r"\g<2>.\g<1>"}),
        ({r"(?P<part>\w+)\.(\d)": r"\g<part>_\2"}, {r"(\w+)_(\d)": r"\g<1>.\g<2>"}),
        ({r"(\d)\.w": r"\1/\1"}, {r"(\d)/(?:\1)": r"\g<1>.w"}),
        ({r"(a|b(?:c|d))\.w": r"\1"}, {"(a|b(?:c|d))": r"\g<1>.w"}),
        ({r"a\(1\)\.w": "a(1)"}, {r"a\(1\)": "a(1).w"}),
        ({r"a([^])]+)": r"\1"}, {"([^])]+)": r"a\g<1>"}),
        ({r"a([]x(]+)": r"\1"}, {"([]x(]+)": r"a\g<1>"}),
        ({r"(a)\\b": r"\1"}, {"(a)": r"\g<1>\\b"}),
        ({"a(.)": r"b\.\1"}, {r"b\\\.(.)": r"a\g<1>"}),  # an escaped dot in a template keeps its backslash
        ({"a": None, "b": "c"}, {"c": "b"}),
        ({re.compile("a(.)"): r"b\1"}, {"b(.)": r"a\g<1>"}),
    ],
)  # fmt: skip
def test_rules_and_their_inverses(rules, inverted):
    assert invert(rules) == inverted


@pytest.mark.parametrize(
    ("select", "value", "fault"),
    [
        (r"a\.\d+", "b", r"'a\\.\\d+': \d is in no group; write (\d)"),
        (r"a\.\x41", "b", r"'a\\.\\x41': \x is in no group; write (\x)"),
        (".*", "b", "'.*': '.*' at position 0 is in no group; put it into one"),
        ("a|b", "c", "'a|b': '|b' at position 1 is in no group; put it into one"),
        ("a[bc]", "c", "'a[bc]': '[b' at position 1 is in no group; put it into one"),
        ("(a)+", r"\1", "'(a)+': the group '(a)+' is repeated; put all of it into a group"),
        ("((a)b)", r"\1", "'((a)b)': the group ((a)b) holds another; write the inner one as (?:...)"),
        ("(?:a)", "b", "'(?:a)': the group (?:a) does not capture; write (a)"),
        ("a(?=b)b", "b", "'a(?=b)b': the group (?=b) does not capture"),
        ("(a)(b)", r"\1", r"'(a)(b)': the template '\\1' does not name group 2"),
        ("(a)(b)", "c", "'(a)(b)': the template 'c' does not name group 1 or 2"),
        (r"(a)(\1)", r"\1\2", r"'(a)(\\1)': the group (\1) does not stand alone: invalid group reference 1 "
         "at position 1"),
        ("(a)", r"\1\2", r"'(a)': the template '\\1\\2' names group 2, and the pattern has 1"),
        (("(a)q", "(a)(b)k"), Convert(r"\1", Join()),
         "['(a)q', '(a)(b)k']: its patterns do not have the same groups"),
        ("(a)(b)", Convert((r"\1/\2", r"\2/\1"), Split(2)),
         "'(a)(b)': its templates do not name the groups in one order"),
        ("a", 3, "'a': it is not pattern -> template or Convert"),
    ],
)  # fmt: skip
def test_rules_that_have_no_way_back(select, value, fault):
    assert message(pt.RuleError, lambda: invert([("x", "y"), (select, value)])) == (
        f"invert: these rules have no way back:\n  rule 1 {fault}"
    )


@pytest.mark.parametrize(
    ("pattern", "template", "groups"),
    [
        (r"a(\d+)b(\d+)", r"x\1\2", "12"),
        (r"a(\d+)b(\d+)", r"x\2\1", "21"),
        (r"(\w+)_(\d+)", r"\1\2", "12"),
        (r"(\w+)\.(\w+)", r"\1_\2", "12"),
        (r"(.*)/(.*)", r"\1/x/\2", "12"),
        (r"(.*)\.(.*)\.(\d+)", r"\1\3/\2", "13"),
        (r"(\d*)a(x*)b(\d*)", r"\1\2\3", "12"),
        (r"(\w+?)_(\d?)", r"\1\2", "12"),
        ("([^/]+)_(.*)", r"\2/\1/\2/w", "21"),
        ("(.*)-([^/]+)", r"\1/\2", None),
        ("(.*)-(?P<part>.*)", r"\1.x/\g<part>", None),  # names with neither dots nor slashes
        (r"([a-z]+)_(\d+)", r"\1\2", None),
        ("([A-Z]+)_([a-z]+)", r"\1\2", None),
        ("((?i:[A-Z]+))_([a-z]+)", r"\1\2", "12"),
        (r"(\w+)_(\d)", r"\1\2", None),
        (r"(\w+)_(\d{3})_(a|b)", r"\3\1\2", None),
        (r"([\x41-\x43]+)_([AC]+)", r"\1\2", "12"),
        (r"(\d+)\.(\w+)", r"\1\2/\1", None),  # the last tells the first
        (r"(.*)\.layers\.(\d+)\.(.*)", r"\1/layer\2/\3", None),  # names with dots have no slashes
        (r"(.*)/layer(\d+)/(.*)", r"\1.layers.\2.\3", None),  # nor such with slashes dots
        (r"(.*)/layer(\d+)/(.*\.w)", r"\1.layers.\2.\3", "12"),
        (r"()a(\d+)", r"\1\2", None),
    ],
)
def test_names_that_can_be_cut_in_two_ways_have_no_way_back(pattern, template, groups):
    if groups is None:
        assert len(invert({pattern: template})) == 1
    else:
        assert message(pt.RuleError, lambda: invert({pattern: template})) == (
            f"invert: these rules have no way back:\n  rule 0 {pattern!r}: the template {template!r} does "
            f"not tell group {groups[0]} from group {groups[1]}; write something between them that neither "
            "matches"
        )


def test_all_rules_without_a_way_back_are_listed():
    rules = {"a.*": "b", "c": "d", "e": "d"}
    assert message(pt.RuleError, lambda: invert(rules)) == (
        "invert: these rules have no way back:\n"
        "  rule 0 'a.*': '.*' at position 1 is in no group; put it into one\n"
        "  rule 2 'e': it and an earlier rule write one name"
    )


def test_a_naming_goes_back_by_its_other_half():
    naming = Naming("theirs", lambda specs: ["read"], lambda specs: ["write"])
    assert find_moves({}, naming) == (["read"], [])
    assert find_moves({}, invert(naming)) == (["write"], [])
    assert invert(naming).title == "inverse of theirs"


def there_and_back(arrays, rename):
    """Do the moves, then those of the inverse."""
    made = done(arrays, rename)
    back = done(made, invert(rename))
    assert sorted(back) == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
    return made


def done(arrays, rename):
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
    moves, faults = find_moves(shapes, rename)
    assert faults == []
    made = {}
    for move in moves:
        values = move.apply([arrays[source] for source in move.sources])
        assert [each.shape for each in move.specs(shapes)] == [each.shape for each in values]
        made |= dict(zip(move.targets, values, strict=True))
    return made


PARTS = [rf"block\1/{part}/weight" for part in ("query", "key", "value")]


def test_fused_query_key_and_value_as_in_gpt_2():
    arrays = {"h.0.attn.c_attn.weight": filled((4, 12)), "h.1.attn.c_attn.weight": filled((4, 12)) + 1}
    rename = {r"h\.(\d+)\.attn\.c_attn\.weight": Convert(PARTS, Split(3, axis=1), Transpose())}
    made = there_and_back(arrays, rename)
    assert len(made) == 6
    np.testing.assert_array_equal(made["block1/key/weight"], (filled((4, 12)) + 1)[:, 4:8].T)


def test_heads_interleaved_as_in_neox():
    fused = filled((2 * 3 * 5, 4))  # (heads, [q, k, v], size) rows
    steps = Unflatten(0, (2, 3, 5)), Split(3, axis=1), Flatten(0, (2, 1, 5))
    made = there_and_back({"0.qkv": fused}, {r"(\d+)\.qkv": Convert(PARTS, *steps)})
    np.testing.assert_array_equal(made["block0/value/weight"], fused.reshape(2, 3, 5, 4)[:, 2].reshape(10, 4))


def test_three_layers_joined():
    arrays = {f"l.{part}": filled((2, 4)) + at for at, part in enumerate("qkv")}
    made = there_and_back(arrays, [QKV])
    assert list(made) == ["l/qkv"]
    assert made["l/qkv"].shape == (6, 4)


def test_a_join_of_unequal_parts():
    arrays = {"a.q": filled((4, 2)), "a.k": filled((2, 2))}
    there_and_back(arrays, [((r"(.)\.q", r"(.)\.k"), Convert(r"\1/qk", Join(0, (4, 2))))])
