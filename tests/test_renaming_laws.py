"""Laws of renaming, on random steps, names and rules."""

import re

import jax
import numpy as np
import pytest

from paramtree.errors import RuleError
from paramtree.renaming import Convert, Flatten, Join, Split, Transpose, Unflatten, find_moves, invert

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = st.integers(0, 4)


def factors(size):
    """Two sizes that make this one, of which one may be left open."""
    pairs = [(each, size // each) for each in range(1, size + 1) if size % each == 0] or [(1, 0)]
    return st.sampled_from(pairs).flatmap(
        lambda pair: st.sampled_from([pair, (pair[0], -1), (-1, pair[1])] if pair[1] else [pair])
    )


@st.composite
def step_and_shape(draw):
    shape = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    kind = draw(st.sampled_from(["transpose", "axes", "split", "sizes", "unflatten", "flatten"]))
    if kind == "transpose":
        return Transpose(), shape
    if kind == "axes":
        return Transpose(tuple(draw(st.permutations(range(len(shape))))), draw(st.booleans())), shape
    if kind == "split":
        parts = draw(st.sampled_from([each for each in range(1, 5) if size % each == 0]))
        return Split(parts, axis), shape
    if kind == "sizes":
        first = draw(st.integers(0, size))
        return Split((first, size - first), axis), shape
    if kind == "unflatten":
        return Unflatten(axis, draw(factors(size))), shape
    start = axis % len(shape)
    count = draw(st.integers(1, len(shape) - start))
    return Flatten(start, shape[start : start + count]), shape


@given(step_and_shape())
def test_a_step_tells_its_shapes_and_is_undone_by_its_inverse(drawn):
    step, shape = drawn
    array = np.arange(int(np.prod(shape))).reshape(shape)
    made = step.apply([array])
    assert step.shapes([shape]) == [each.shape for each in made]
    assert step.inverse().shapes(step.shapes([shape])) == [shape]
    (back,) = step.inverse().apply(made)
    np.testing.assert_array_equal(back, array)
    for each, again in zip(made, step.inverse().inverse().apply([array]), strict=True):
        np.testing.assert_array_equal(each, again)


# names as torch has them, and rules that cut them in groups and put these together in another order
WORDS = st.sampled_from(
    ["encoder", "layer", "w(1)", "a+b", "norm", "é", "x", "b[0]", "a|b", "^", "$", "{2}", "a\\d"]
)
GROUPS = st.sampled_from(
    [(r"(\d+)", "0 7 12"), (r"([^./]+)", "q out é"), (r"(a|bc?)", "a b bc"), (r"(\w+)", "k v_1")]
)


@st.composite
def rules_and_names(draw):
    rules, names = {}, []
    for number in range(draw(st.integers(1, 4))):
        groups = draw(st.lists(GROUPS, min_size=0, max_size=3))
        words = draw(st.lists(WORDS, min_size=len(groups), max_size=len(groups)))
        pattern = rf"r{number}" + "".join(
            rf"\.{re.escape(word)}\.{inside}" for word, (inside, _) in zip(words, groups, strict=True)
        )
        order = draw(st.permutations(range(1, len(groups) + 1)))
        literal = draw(WORDS).replace("\\", "\\\\")
        template = f"t{number}/{literal}" + "".join(rf"/\{group}" for group in order)
        steps = draw(st.sampled_from([(), (Transpose(),), (Unflatten(0, (2, -1)), Transpose((2, 0, 1)))]))
        rules[pattern] = Convert(template, *steps) if steps or draw(st.booleans()) else template
        for at in range(draw(st.integers(1, 2))):
            texts = [values.split()[at] for _, values in groups]
            names.append(f"r{number}" + "".join(f".{w}.{t}" for w, t in zip(words, texts, strict=True)))
    return rules, list(dict.fromkeys(names))


def moves_of(names, rules, shapes=None):
    specs = {name: jax.ShapeDtypeStruct((4, 3), "float32") for name in names} if shapes is None else shapes
    moves, faults = find_moves(specs, rules)
    assert faults == []
    made = {move.targets[0]: move.specs(specs)[0] for move in moves}
    return {move.sources[0]: move for move in moves}, made


@given(rules_and_names())
def test_the_inverse_sends_every_target_back_to_its_source(drawn):
    rules, names = drawn
    moves, made = moves_of(names, rules)
    back, shapes = moves_of(None, invert(rules), made)
    assert {move.targets[0]: name for name, move in back.items()} == {
        name: move.targets[0] for name, move in moves.items()
    }
    assert {spec.shape for spec in shapes.values()} == {(4, 3)}
    array = np.arange(12).reshape(4, 3)
    for move in moves.values():
        (value,) = back[move.targets[0]].apply(move.apply([array]))
        np.testing.assert_array_equal(value, array)


# rules whose templates put groups side by side, in any order, with or without something between them

TEXTS = {
    r"(\d+)": "7 12 123",
    r"(\d)": "0 9",
    r"(\d*)": "1 12",
    "([a-z]+)": "q ab x",
    r"(\w+)": "k v_1 w12 x",
    "(a|bc?|ab)": "a b bc ab",
    "(.*)": "é x_1 12 a-b ab12",
    "(.*?)": "é x_1 12 a-b ab12",
    "([^/._]+)": "é x 12",
    "((?:x-)*[à-ö]+)": "x-é èà",
}


@st.composite
def rule_and_names(draw):
    groups = draw(st.lists(st.sampled_from(list(TEXTS)), min_size=1, max_size=3))
    between = st.lists(st.sampled_from(["", "a", "b", "_", "x_", "1", "-"]), min_size=4, max_size=4)
    first, *rest = draw(between)
    separators = [draw(st.sampled_from([".", "_", "-", "b", "/"])) + each for each in rest]
    pattern = first + "".join(f"{inside}{each}" for inside, each in zip(groups, separators, strict=False))
    order = draw(st.permutations(range(1, len(groups) + 1)))
    order += draw(st.lists(st.sampled_from(order), max_size=1))
    slash = draw(st.sampled_from(["", "", "/", ".", "x/"]))
    last = draw(st.sampled_from(["", "/", "1", "a"]))
    begin, *texts = draw(between)
    template = begin + "".join(
        rf"\g<{each}>{text}{slash}" for each, text in zip(order, texts * 2, strict=False)
    )
    names = []
    for _ in range(4):
        held = [draw(st.sampled_from(TEXTS[inside].split())) for inside in groups]
        names.append(first + "".join(f"{text}{each}" for text, each in zip(held, separators, strict=False)))
    return re.sub(r"\.(?![*+])", r"\.", pattern), template + last, list(dict.fromkeys(names))


@settings(max_examples=500)
@given(rule_and_names())
def test_a_rule_leads_back_to_every_name_or_is_refused(drawn):
    pattern, template, names = drawn
    there, _ = moves_of(names, {pattern: template})
    try:
        back = invert({pattern: template})
    except RuleError:
        return
    for name, move in there.items():
        moves, _ = moves_of(move.targets, back)
        assert moves[move.targets[0]].targets == (name,)


@given(rules_and_names())
def test_the_inverse_of_the_inverse_maps_names_like_the_rules(drawn):
    rules, names = drawn
    there, _ = moves_of(names, rules)
    again, _ = moves_of(names, invert(invert(rules)))
    assert {name: move.targets for name, move in there.items()} == {
        name: move.targets for name, move in again.items()
    }


@given(st.integers(1, 4), st.integers(0, 2), st.data())
def test_joined_parts_are_split_again(parts, axis, data):
    shape = data.draw(st.lists(SIZES, min_size=3, max_size=3))
    sizes = data.draw(st.lists(SIZES, min_size=parts, max_size=parts))
    arrays = [np.full((*shape[:axis], size, *shape[axis + 1 :]), at) for at, size in enumerate(sizes)]
    step = Join(axis, tuple(sizes))
    joined = step.apply(arrays)
    assert step.shapes([array.shape for array in arrays]) == [joined[0].shape]
    for array, back in zip(arrays, step.inverse().apply(joined), strict=True):
        np.testing.assert_array_equal(array, back)
