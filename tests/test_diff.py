"""What differs between trees and files: every kind of difference, its numbers, and how it is shown."""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree.compare import Diff, diff
from paramtree.compare.renames import Candidate, pair_names
from paramtree.compare.values import Gap, measure
from paramtree.display import table_text

TREE = {
    "embed": {"weight": jnp.arange(6.0).reshape(3, 2)},
    "head": {"weight": pt.Alias("embed/weight", transpose=True)},
    "block": {"weight": jnp.ones((2, 2), "bfloat16"), "mean": pt.Fixed(jnp.ones(2))},
    "again": pt.Alias("block"),
    "step": np.array(3),
    "key": jax.random.key(1),
    "nothing": {},
}


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def texts(found):
    return {row.name: row.text() for row in found}


def only(found):
    assert len(found) == 1, found
    return next(iter(found))


# --- nothing differs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tree", [TREE, {}, {"a": {}}, {"a": jnp.full(3, jnp.nan)}, [1.0, "text", None], (2,)]
)
def test_a_tree_does_not_differ_from_itself_or_a_copy(tree):
    copy = jax.tree.map(lambda leaf: leaf + 0 if isinstance(leaf, np.ndarray) else leaf, tree)
    for found in (diff(tree, tree), diff(tree, copy)):
        assert not found
        assert list(found) == []
        assert found.renamed == {}


def test_no_differences_say_how_much_was_compared():
    assert repr(diff(TREE, TREE)) == "no differences in 8 parameters"
    assert repr(diff({"a": 1.0}, {"a": 1.0})) == "no differences in 1 parameter"
    assert repr(diff({}, {})) == "no differences in 0 parameters"


def test_kinds_of_containers_do_not_count():
    assert not diff(
        {"a": [jnp.ones(1), jnp.zeros(2)]}, {"a": {"0": np.ones(1, "f4"), "1": np.zeros(2, "f4")}}
    )


def test_zero_size_arrays():
    assert not diff({"a": jnp.ones((0, 3))}, {"a": np.zeros((0, 3), "float32")})


def test_numbers_are_arrays_without_axes():
    assert not diff(
        {"p": 0.5, "n": 3, "on": True}, {"p": np.array(0.5), "n": np.int64(3), "on": np.bool_(True)}
    )


def test_functions_are_no_parameters():
    assert not diff({"act": jax.nn.relu, "w": 1.0}, {"act": jax.nn.gelu, "w": 1.0, "other": len})


# --- every kind of difference -------------------------------------------------------------------------------


def test_every_kind_in_one_table():
    a = {
        "embed": {"weight": jnp.ones((5, 3))},
        "head": {"weight": pt.Alias("embed/weight")},
        "dense": {"weight": np.array([1.0, np.nan, 3.0]), "mean": pt.Fixed(jnp.zeros(2))},
        "count": np.array(3),
        "shift": jnp.zeros(3, "bfloat16"),
        "gone": jnp.ones(4),
    }
    b = {
        "embed": {"weight": jnp.ones((5, 3))},
        "head": {"weight": jnp.zeros((5, 3))},
        "dense": {"kernel": np.array([1.0, np.nan, 3.0]), "mean": pt.Frozen(jnp.ones(2))},
        "count": np.array([1, 2]),
        "shift": jnp.zeros(3),
        "extra": jnp.ones(1),
    }
    found = diff(a, b)
    assert found
    assert len(found) == 7
    assert found.to_text(width=110) == (
        "7 of 8 parameters differ: only in a 1, only in b 1, renamed 1, shape 1, dtype 1, tie 1, mark 1, "
        "values 2\n"
        "name          difference                                 changed  largest  relative\n"
        "count         shape () -> (2,)\n"
        "dense/weight  renamed to dense/kernel\n"
        "dense/mean    fixed -> frozen; values                     2 of 2        1         1\n"
        "extra         only in b: float32[1]\n"
        "gone          only in a: float32[4]\n"
        "head/weight   tied to embed/weight -> not tied; values  15 of 15        1         1\n"
        "shift         dtype bfloat16 -> float32"
    )
    assert found.renamed == {"dense/weight": "dense/kernel"}


def test_the_rows_name_their_kinds():
    row = only(diff({"a": pt.Fixed(jnp.zeros(2))}, {"a": jnp.ones(2, "bfloat16")}))
    assert row.kinds == ("dtype", "mark", "values")
    assert row.text() == "dtype float32 -> bfloat16; fixed -> not fixed; values"
    assert row.gap == Gap(2, 1.0, 1.0)
    row = only(diff({"a": jnp.zeros(2)}, {"a": jnp.zeros(3)}))
    assert (row.kinds, row.gap, row.size) == (("shape",), None, 0)


def test_counts_read_as_english():
    assert (
        diff({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 3.0}).headline() == "1 of 2 parameters differs: values 1"
    )


def test_nan_on_one_side_is_told_from_nan_on_both():
    nan = math.nan
    row = only(diff({"a": np.array([nan, nan, 1.0, 2.0, 4.0])}, {"a": np.array([nan, 1.0, nan, nan, 2.0])}))
    assert row.gap == Gap(4, 2.0, 0.5, 1, 2)
    assert row.text() == "values, 1 NaN only in a, 2 NaN only in b"


def test_leaves_that_are_no_arrays_are_compared_as_they_are():
    found = diff(
        {"a": "decay", "b": "decay", "c": "same", "d": 1.5}, {"a": "none", "b": 1.0, "c": "same", "d": "x"}
    )
    assert texts(found) == {
        "a": "'decay' -> 'none'",
        "b": "'decay' -> float64[]",
        "d": "float64[] -> 'x'",
    }
    assert {row.kinds for row in found} == {("values",)}
    assert texts(diff({"a": np.ones(3)}, {"a": "x"})) == {"a": "float64[3] -> 'x'"}


def test_random_keys_are_counted_whole():
    keys = jax.random.split(jax.random.key(0), (2, 3))
    other = keys.at[1, 2].set(jax.random.key(7))
    row = only(diff({"k": keys}, {"k": other}))
    assert row.gap == Gap(1, None, None)
    assert row.cells() == ("k", "values", "1 of 6", "", "")
    assert not diff({"k": keys}, {"k": keys + 0 if False else jax.random.clone(keys)})
    assert texts(diff({"k": jax.random.key(0)}, {"k": jax.random.key(0, impl="rbg")})) == {
        "k": "dtype key<fry> -> key<rbg>"
    }
    assert texts(diff({"k": jax.random.key(0)}, {"k": np.uint32(0)})) == {"k": "dtype key<fry> -> uint32"}
    assert not diff({"k": keys[:0]}, {"k": keys[:0]})


def test_texts_in_arrays():
    row = only(diff({"a": np.array(["x", "y"])}, {"a": np.array(["x", "z"])}))
    assert row.gap == Gap(1, None, None)
    assert texts(diff({"a": np.array(["x"])}, {"a": np.array([1.0])})) == {"a": "dtype str32 -> float64"}


def test_times_that_are_none_are_the_same():
    one = np.array(["NaT", "NaT", "2026-01-01"], "M8[D]")
    other = np.array(["NaT", "2026-01-01", "2026-01-02"], "M8[D]")
    assert not diff({"a": one}, {"a": one.copy()})
    assert only(diff({"a": one}, {"a": other})).gap == Gap(2, None, None)


def test_objects_in_arrays_may_be_arrays():
    def objects(*held):
        array = np.empty(len(held), object)
        array[:] = held
        return array

    one = objects(np.ones(2), "x", None, np.ones(2))
    other = objects(np.ones(2), "y", None, np.ones(3))
    assert only(diff({"a": one}, {"a": other})).gap == Gap(2, None, None)
    assert not diff({"a": one}, {"a": objects(np.ones(2), "x", None, np.ones(2))})
    nested = {"k": (np.ones(2), [1, [2]])}
    assert not diff({"a": objects(nested)}, {"a": objects({"k": (np.ones(2), [1, [2]])})})
    assert diff({"a": objects(nested)}, {"a": objects({"k": (np.ones(2), [1, [3]])})})
    assert diff({"a": objects([1, 2])}, {"a": objects(np.array([1, 2]))})


# --- ties and marks -----------------------------------------------------------------------------------------


def tied(**more):
    return {"embed": {"weight": jnp.arange(6.0).reshape(3, 2)}, "head": pt.Alias("embed"), **more}


def test_a_tie_against_an_array_of_its_own_compares_the_values():
    free = {
        "embed": {"weight": jnp.arange(6.0).reshape(3, 2)},
        "head": {"weight": jnp.arange(6.0).reshape(3, 2)},
    }
    row = only(diff(tied(), free))
    assert (row.name, row.kinds, row.text()) == ("head/weight", ("tie",), "tied to embed/weight -> not tied")
    assert only(diff(free, tied())).text() == "not tied -> tied to embed/weight"
    free["head"]["weight"] += 1
    assert only(diff(tied(), free)).gap == Gap(6, 1.0, 1.0)


def test_a_transposed_tie_is_seen_transposed():
    one = {"e": jnp.arange(6.0).reshape(3, 2), "h": pt.Alias("e", transpose=True)}
    free = {"e": jnp.arange(6.0).reshape(3, 2), "h": jnp.arange(6.0).reshape(3, 2).T}
    assert texts(diff(one, free)) == {"h": "tied to e, transposed -> not tied"}
    square = {"e": jnp.ones((2, 2)), "h": pt.Alias("e")}
    turned = {"e": jnp.ones((2, 2)), "h": pt.Alias("e", transpose=True)}
    assert texts(diff(square, turned)) == {"h": "tied to e -> tied to e, transposed"}


def test_a_tie_on_one_side_only():
    assert texts(diff(tied(), {"embed": tied()["embed"]})) == {
        "head/weight": "only in a: float32[3,2], tied to embed/weight"
    }


def test_a_tie_that_moved_with_a_rename_is_the_same_tie():
    new = {"tokens": {"weight": jnp.arange(6.0).reshape(3, 2)}, "head": pt.Alias("tokens")}
    assert texts(diff(tied(), new)) == {"embed/weight": "renamed to tokens/weight"}


def test_a_parameter_that_lives_at_the_other_name():
    a, b = {"e": jnp.ones(2), "h": pt.Alias("e")}, {"e": pt.Alias("h"), "h": jnp.ones(2)}
    assert texts(diff(a, b)) == {"e": "not tied -> tied to h", "h": "tied to e -> not tied"}


def test_a_changed_parameter_is_reported_once_whatever_is_tied_to_it():
    other = tied()
    other["embed"]["weight"] += 1
    assert [row.name for row in diff(tied(), other)] == ["embed/weight"]


def test_the_same_array_with_another_mark():
    array = jnp.ones(2)
    assert texts(diff({"a": array}, {"a": pt.Frozen(array)})) == {"a": "not fixed -> frozen"}


# --- renames ------------------------------------------------------------------------------------------------


def test_equal_values_beat_nearer_names():
    a = {"dense0": jnp.arange(3.0), "dense1": jnp.arange(3.0) + 5}
    b = {"dense0x": jnp.arange(3.0) + 5, "dense1x": jnp.arange(3.0)}
    assert diff(a, b).renamed == {"dense0": "dense1x", "dense1": "dense0x"}
    assert all(row.kinds == ("renamed",) for row in diff(a, b))


def test_equal_values_need_no_like_names_but_equal_zeros_do():
    assert diff({"abc": jnp.arange(3.0)}, {"xyz": jnp.arange(3.0)}).renamed == {"abc": "xyz"}
    assert diff({"abc": jnp.zeros(3)}, {"xyz": jnp.zeros(3)}).renamed == {}
    assert diff({"abc": jnp.ones(())}, {"xyz": jnp.ones(())}).renamed == {}
    assert diff({"dense/beta": jnp.zeros(3)}, {"dense/bias": jnp.zeros(3)}).renamed == {
        "dense/beta": "dense/bias"
    }


def test_other_values_are_paired_by_name_shape_and_dtype():
    a = {"layer1/w": jnp.ones(3), "layer2/w": jnp.ones(3), "layer10/w": jnp.ones(3)}
    b = {"layer10/weight": jnp.zeros(3), "layer1/weight": jnp.zeros(3), "layer2/weight": jnp.zeros(3)}
    assert diff(a, b).renamed == {name: f"{name}eight" for name in a}
    assert diff(a, jax.tree.map(lambda leaf: leaf.astype("bfloat16"), b)).renamed == {}
    assert diff(a, jax.tree.map(lambda leaf: leaf[:2], b)).renamed == {}


def test_a_renamed_parameter_with_other_values():
    row = only(diff({"layer1/w": jnp.ones(3)}, {"layer1/weight": jnp.zeros(3)}))
    assert row.text() == "renamed to layer1/weight; values"
    assert row.gap == Gap(3, 1.0, 1.0)


def test_specs_are_paired_by_name():
    a, b = ({name: jax.ShapeDtypeStruct((3,), "float32")} for name in ("dense/kernel", "dense/weight"))
    assert diff(a, b).renamed == {"dense/kernel": "dense/weight"}


def test_the_numbers_in_a_name_count_more_than_its_letters():
    a, b = dict.fromkeys(["b1/old", "b2/alt"], 0.0), dict.fromkeys(["b1/alto", "b2/older"], 1.0)
    assert diff(a, b).renamed == {"b1/old": "b1/alto", "b2/alt": "b2/older"}


def test_a_tied_place_is_no_renamed_array():
    array = jnp.arange(3.0)
    a, b = {"e": array, "h/w": pt.Alias("e")}, {"e": array, "h/weight": array}
    assert texts(diff(a, b)) == {
        "h/w": "only in a: float32[3], tied to e",
        "h/weight": "only in b: float32[3]",
    }
    assert diff(a, {"e": array, "h/weight": pt.Alias("e")}).renamed == {"h/w": "h/weight"}


def test_no_name_is_paired_twice():
    kind = Candidate((3,), b"same", True)
    a = {f"block{i}/w": kind for i in range(40)}
    b = {f"stage{i}/w": kind for i in range(30)}
    found = pair_names(a, b)
    assert found == {f"block{i}/w": f"stage{i}/w" for i in range(30)}


def test_very_many_names_are_paired_without_comparing_all_with_all():
    count = 20_000
    a = {f"old/layer{i}/w": Candidate((3,)) for i in range(count)}
    b = {f"new/layer{i}/w": Candidate((3,)) for i in range(count)}
    assert pair_names(a, b) == {f"old/layer{i}/w": f"new/layer{i}/w" for i in range(count)}
    # nothing tells these apart: in their order, where as many stand on both sides
    a = {f"{chr(97 + i % 26) * (i // 26 + 1)}/weight": Candidate(()) for i in range(600)}
    b = {name.upper(): kind for name, kind in a.items()}
    assert pair_names(a, b) == {name: name.upper() for name in a}
    assert pair_names(a, dict(list(b.items())[1:])) == {}
    # but for the block they lie in
    b = {f"{name}s": kind for name, kind in a.items()}
    assert pair_names(a, dict(list(b.items())[1:])) == {name: f"{name}s" for name in list(a)[1:]}


# --- select -------------------------------------------------------------------------------------------------


def test_select_names_of_either_side():
    a, b = {"x": {"w": 1.0, "b": 2.0}}, {"x": {"w": 2.0, "b": 3.0}, "y": {"w": 1.0}}
    assert [row.name for row in diff(a, b, select=".*w")] == ["x/w", "y/w"]
    assert [row.name for row in diff(b, a, select=[".*b", "y/.*"])] == ["x/b", "y/w"]
    assert [row.name for row in diff(a, b, select=lambda name, leaf: leaf == 2.0)] == ["x/b", "x/w"]


def test_a_tie_is_selected_by_its_name_or_by_its_source():
    free = {"embed": tied()["embed"], "head": {"weight": jnp.ones((3, 2))}}
    for select in ("embed/.*", "head/.*"):
        assert "head/weight" in texts(diff(tied(), free, select=select))
    assert not diff(tied(x=jnp.ones(1)), {**free, "x": jnp.ones(1)}, select="x")


def test_a_select_of_tied_places_alone_says_where_they_live():
    one, other = tied(x=jnp.ones(1)), tied(x=jnp.zeros(1))

    def said(select):
        return message(pt.NoMatchError, lambda: diff(one, other, select=select))

    def of_the_head(name, leaf):
        return name.startswith("head")

    told = "hits only tied places: head/weight is embed/weight. Select a tied parameter where it lives."
    for select in ("head/.*", ["x", "head/.*"], re.compile("head/.*")):
        assert said(select) == f"select 'head/.*' {told}"
    assert said(of_the_head) == f"select of_the_head {told}"


def test_a_select_that_hits_nothing_on_either_side():
    assert "'nope'" in message(pt.NoMatchError, lambda: diff({"a": 1.0}, {"a": 2.0}, select=["a", "nope"]))
    assert message(pt.NoMatchError, lambda: diff({"ab": 1.0}, {"ac": 1.0}, select="ax")) == (
        "select 'ax' hits none of 2 parameters; it must match the whole name. The names are ab, ac."
    )


# --- the numbers --------------------------------------------------------------------------------------------

FLOATS = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"]
WHOLE = ["bool", "int8", "uint8", "int32", "uint32", "int64", "uint64", "int4", "uint4"]


def drawn(dtype, seed, size=300):
    bits = np.random.default_rng(seed).integers(0, 256, 16 * size, np.uint8)
    if dtype in ("bool", "int4", "uint4"):
        return (bits[:size] % 2).astype(jnp.dtype(dtype))
    return bits.view(jnp.dtype(dtype))[:size]  # NaNs, infinities and subnormal numbers among them


def as_numbers(array):
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


@pytest.mark.parametrize("tolerances", [(0.0, 0.0), (0.1, 0.0), (0.0, 2.0), (0.3, 1.0)])
@pytest.mark.parametrize("dtype", [*FLOATS, "complex64", "complex128"])
def test_formulas_for_floats(dtype, tolerances):
    rtol, atol = tolerances
    a, b = drawn(dtype, 0), drawn(dtype, 1)
    b[::3] = a[::3]
    with np.errstate(all="ignore"):
        x, y = as_numbers(a), as_numbers(b)
        close = np.isclose(x, y, rtol, atol, equal_nan=True) | np.isclose(y, x, rtol, atol, equal_nan=True)
        # of infinite numbers NumPy says with a relative tolerance that they are near to all others
        both = ~(np.isnan(x) | np.isnan(y))
        close &= ~(both & (np.isinf(x) | np.isinf(y)) & (x != y))
        gap = np.where(both & (x != y), abs(x - y), 0)
        gap[both & (x != y) & ~np.isfinite(gap)] = np.inf
        size = np.where(both, np.maximum(abs(x), abs(y)), 1)
        close &= ~np.isinf(gap)
        relative = np.where(np.isinf(gap), np.inf, gap / np.where(size == 0, 1, size))
    expected = Gap(
        int((~close).sum()),
        gap.max(),
        relative.max(),
        int((np.isnan(x) & ~np.isnan(y)).sum()),
        int((np.isnan(y) & ~np.isnan(x)).sum()),
    )
    assert measure(a, b, rtol, atol) == expected
    assert 0 < expected.changed < a.size


@pytest.mark.parametrize("tolerances", [(0.0, 0.0), (0.1, 0.0), (0.0, 2.0)])
@pytest.mark.parametrize("dtype", WHOLE)
def test_formulas_for_whole_numbers(dtype, tolerances):
    rtol, atol = tolerances
    a, b = drawn(dtype, 0), drawn(dtype, 1)
    b[::3] = a[::3]
    x, y = ([int(each) for each in array] for array in (a, b))
    gaps = [abs(i - j) for i, j in zip(x, y, strict=True)]
    sizes = [max(abs(i), abs(j)) for i, j in zip(x, y, strict=True)]
    found = measure(a, b, rtol, atol)
    assert found.changed == sum(
        gap > atol + rtol * size for gap, size in zip(gaps, sizes, strict=True) if gap
    )
    assert found.largest == max(gaps)
    assert type(found.largest) is int
    np.testing.assert_allclose(
        found.relative, max(gap / max(size, 1) for gap, size in zip(gaps, sizes, strict=True))
    )


def test_64_bit_numbers_are_exact():
    big = 2**63
    assert measure(np.array([big - 1]), np.array([-big])).largest == 2**64 - 1
    assert measure(np.array([2**53 + 1]), np.array([2**53])) == Gap(1, 1, 2**-53)
    assert measure(np.array([2**64 - 1], "u8"), np.array([-big])).largest == 2**64 - 1 + big
    assert measure(np.array([2**64 - 1], "u8"), np.array([0], "u8")).largest == 2**64 - 1
    assert measure(np.array([1], "u8"), np.array([1], "i8")) == Gap(0, 0, 0.0)


def test_other_dtypes_are_compared_as_numbers():
    assert measure(np.array([1.0, 2.5]), np.array([1, 2])) == Gap(1, 0.5, 0.2)
    assert measure(np.ones(2, "f4"), np.ones(2, "bool")) == Gap(0, 0.0, 0.0)
    assert measure(np.ones(2, "f4"), np.ones(2, "f4").view("i4")).changed == 2  # the same bits


def test_signed_zeros_and_overflow():
    assert measure(np.array([0.0]), np.array([-0.0])) == Gap(0, 0.0, 0.0)
    assert measure(np.array([1e308]), np.array([-1e308])) == Gap(1, math.inf, math.inf)
    assert measure(np.array([complex(math.inf, 1)]), np.array([complex(math.inf, 2)])).largest == math.inf


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_many_pieces_give_what_one_gives(dtype, monkeypatch):
    a, b = drawn(dtype, 0, 1000), drawn(dtype, 1, 1000)
    b[100:200] = a[100:200]
    whole = measure(a, b)
    monkeypatch.setattr("paramtree.compare.values._CHUNK", 7)
    assert measure(a, b) == whole


def test_tolerances_leave_out_what_is_near_enough():
    a, b = {"w": jnp.ones(3), "v": jnp.ones(3)}, {"w": jnp.ones(3) + 1e-3, "v": jnp.ones(3) + 1}
    assert [row.name for row in diff(a, b, atol=0.01)] == ["v"]
    assert [row.name for row in diff(a, b, rtol=0.01)] == ["v"]
    assert not diff(a, b, rtol=0.6)
    for word, value in (("rtol", -1), ("atol", math.nan), ("atol", "1")):
        assert message(pt.ParamTreeError, lambda word=word, value=value: diff(a, b, **{word: value})) == (
            f"diff: {word} is a number from 0 up, and not {value!r}."
        )


def test_counts_are_symmetric():
    pytest.importorskip("hypothesis")
    from hypothesis import given
    from hypothesis import strategies as st
    from strategies import params

    @given(params(), params(), st.sampled_from([0.0, 0.5]))
    def check(a, b, rtol):
        assert not diff(a, a)
        one, two = diff(a, b, rtol=rtol), diff(b, a, rtol=rtol)
        assert (one.compared, len(one)) == (two.compared, len(two))
        swapped = {"only in a": "only in b", "only in b": "only in a"}
        # a pair that was renamed is listed under its name in the first tree
        mine = {(row.other or row.name): row for row in one}
        theirs = {row.name: row for row in two}
        if not one.renamed and not two.renamed:
            assert mine.keys() == theirs.keys()
            for name, row in mine.items():
                assert sorted(swapped.get(kind, kind) for kind in row.kinds) == sorted(theirs[name].kinds)
                assert (row.a, row.b) == (theirs[name].b, theirs[name].a)
                if row.gap is not None:
                    other = theirs[name].gap
                    assert row.gap == Gap(
                        other.changed, other.largest, other.relative, other.nan_b, other.nan_a
                    )

    check()


def test_an_update_is_what_diff_finds():
    pytest.importorskip("hypothesis")
    from hypothesis import given
    from hypothesis import strategies as st
    from strategies import params

    @given(params(), st.data())
    def check(tree, data):
        flat = {
            name: leaf
            for name, leaf in pt.collect_params(tree).items()
            if leaf.size and leaf.dtype != np.bool_
        }
        chosen = data.draw(st.lists(st.sampled_from(sorted(flat)), unique=True)) if flat else []
        changed = pt.update(tree, {name: (flat[name] + 1).astype(flat[name].dtype) for name in chosen})
        found = diff(tree, changed)
        assert {row.name: row.gap.changed for row in found} == {name: flat[name].size for name in chosen}

    check()


# --- abstract trees, other leaves ---------------------------------------------------------------------------


def test_specs_have_names_shapes_and_dtypes_only():
    specs = jax.eval_shape(lambda: pt.resolve({"a": jnp.ones(2), "b": jnp.ones(3)}))
    values = {"a": jnp.zeros(2), "b": jnp.zeros(3, "bfloat16")}
    assert texts(diff(specs, values)) == {"b": "dtype float32 -> bfloat16"}
    assert only(diff(specs, values)).gap is None


def test_symbolic_shapes():
    net = pt.nn.Dense(4)
    specs = net.specs("batch, features")
    assert not diff(specs, net.specs("batch, features"))
    found = diff(specs, net.init(jax.random.key(0), jnp.ones((2, 3))))
    assert texts(found) == {"weight": "shape (4, features) -> (4, 3)"}
    assert json.loads(json.dumps(found.to_dict()))["differences"][0]["a"]["shape"] == [4, "features"]


def test_traced_leaves_are_refused():
    def step(tree):
        return message(pt.MismatchError, lambda: diff(tree, {"a": 1.0, "b": 1.0})) and tree

    with pytest.raises(pt.MismatchError) as caught:
        jax.jit(lambda tree: diff(tree, tree))({"a": 1.0, "b": 1.0})
    assert str(caught.value) == (
        "diff: values are compared outside of jit:\n  a of a is traced\n  b of a is traced"
    )


def test_what_is_no_tree():
    assert message(pt.BadNameError, lambda: diff(3, {})) == (
        "int is not a tree of parameters. Pass the nested dict that init returned."
    )
    assert "'c' is tied to 'nowhere'" in message(pt.TieError, lambda: diff({"c": pt.Alias("nowhere")}, {}))


def test_arrays_of_many_devices():
    mesh = jax.make_mesh((8,), ("x",))
    spread = jax.device_put(jnp.arange(16.0), jax.NamedSharding(mesh, jax.P("x")))
    assert not diff({"a": spread}, {"a": jnp.arange(16.0)})
    assert only(diff({"a": spread}, {"a": jnp.arange(16.0).at[9].set(0.0)})).gap == Gap(1, 9.0, 1.0)


def test_other_byte_orders_and_layouts():
    array = np.arange(6.0).reshape(2, 3)
    assert not diff({"a": array}, {"a": array.astype(">f8")})
    assert not diff({"a": array}, {"a": np.asfortranarray(array)})


def test_tensors_of_torch():
    torch = pytest.importorskip("torch")
    tensors = {
        "f": torch.arange(3.0, requires_grad=True),
        "h": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        "e": torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn),
        "i": torch.tensor([2**40]),
        "b": torch.tensor([True]),
    }
    arrays = {
        "f": jnp.arange(3.0),
        "h": jnp.array([1.5, jnp.nan], "bfloat16"),
        "e": jnp.array([1.5, -2.0], "float8_e4m3fn"),
        "i": np.array([2**40]),
        "b": np.array([True]),
    }
    assert not diff(tensors, arrays)
    arrays["h"] = jnp.array([1.5, 2.0], "bfloat16")
    assert texts(diff(tensors, arrays)) == {"h": "values, 1 NaN only in a"}


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["safetensors", "npz"])
def test_a_file_against_its_tree_and_another_file(form, tmp_path):
    file, other = tmp_path / f"one.{form}", str(tmp_path / f"two.{form}")
    pt.save(TREE, file)
    assert not diff(TREE, file)
    assert not diff(file, TREE)
    changed = pt.update(TREE, {"step": np.array(4), "embed/weight": lambda old: old * 2})
    changed["key"] = jax.random.key(2)
    pt.save(pt.untie(changed), other)
    assert texts(diff(file, other)) == {
        "again/mean": "tied to block/mean -> not tied",
        "again/weight": "tied to block/weight -> not tied",
        "embed/weight": "values",
        "head/weight": "tied to embed/weight, transposed -> not tied; values",
        "key": "values",
        "step": "values",
    }
    assert [row.name for row in diff(file, changed, select="step")] == ["step"]
    assert only(diff(file, changed, select="key")).gap == Gap(1, None, None)


def test_a_file_is_read_one_array_at_a_time_and_only_what_is_compared(tmp_path, monkeypatch):
    file = tmp_path / "net.npz"
    pt.save({f"w{i}": jnp.full(2, i) for i in range(4)}, file)
    from paramtree.compare import sides

    opened, asked = sides.open_stored, []

    def watched(path):
        from contextlib import contextmanager
        from dataclasses import replace

        stored = opened(path)

        @contextmanager
        def reading():
            with stored.reading() as read:
                yield lambda name: asked.append(name) or read(name)

        return replace(stored, reading=reading)

    monkeypatch.setattr(sides, "open_stored", watched)
    specs = {f"w{i}": jax.ShapeDtypeStruct((2,), "int32") for i in range(4)}
    assert not diff(file, specs, select="w[12]")
    assert set(asked) <= {"w1", "w2"}
    assert only(diff(file, {"w3": jnp.full(2, 4)}, select="w3")).gap == Gap(2, 1, 0.25)
    assert set(asked) <= {"w1", "w2", "w3"}


def test_a_file_without_names_takes_those_of_the_tree(tmp_path):
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.Sequential([eqx.nn.Linear(4, 3, key=jax.random.key(0)), eqx.nn.Dropout(0.25)])
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", model)
    assert not diff(model, tmp_path / "model.eqx")
    changed = pt.update(model, {"layers/0/bias": lambda old: old + 1})
    assert texts(diff(tmp_path / "model.eqx", changed)) == {"layers/0/bias": "values"}
    assert texts(diff(tmp_path / "model.eqx", {"layers": []}))["0"] == "only in a: float32[3,4]"


def test_a_file_that_is_not_there(tmp_path):
    path = str(tmp_path / "none.npz")
    assert message(FileNotFoundError, lambda: diff(path, {})) == f"there is no file {path!r} to load."


# --- how it looks -------------------------------------------------------------------------------------------


def test_a_table_fits_the_terminal(monkeypatch):
    a = {f"encoder/layer{i}/self_attention/query_projection/weight": jnp.ones(2) for i in range(3)}
    b = {name.replace("weight", "kernel"): leaf for name, leaf in a.items()}
    for width in (60, 80, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = repr(diff(a, b)).splitlines()[1:]
        assert max(map(len, lines)) <= width
        assert len(lines) == 4
    assert lines[1].startswith("encoder/layer0/self_attention/query_projection/weight  renamed to encoder/")
    monkeypatch.setenv("COLUMNS", "60")
    assert repr(diff(a, b)).splitlines()[2].count("…") == 2


def test_columns_of_numbers_stand_only_where_values_differ():
    found = diff({"a": jnp.ones(2)}, {"a": jnp.ones(3)})
    assert found.to_text(80).splitlines()[1:] == ["name  difference", "a     shape (2,) -> (3,)"]
    assert "relative" not in found.to_html()
    assert "relative" in diff({"a": jnp.ones(2)}, {"a": jnp.zeros(2)}).to_html()


def test_cutting_columns():
    rows = [("a" * 30, "b" * 14, "1"), ("c", "d", "22")]
    assert table_text(("x", "y", "n"), rows, 40).splitlines() == [
        "x                     y                n",
        "aaaaaaaaaa…aaaaaaaaa  bbbbbbbbbbbbbb   1",
        "c                     d               22",
    ]
    assert max(map(len, table_text(("x", "y", "n"), rows, 10).splitlines())) == 12 + 2 + 12 + 2 + 2
    assert table_text(("x",), [], 10, 1) == "x"
    wide = table_text(("x", "y"), [("a" * 40, "b" * 20)], 32).splitlines()[1]
    assert wide == "aaaaaaa…aaaaaaa  bbbbbbb…bbbbbbb"  # the widest gives way first


def test_cut_names_stay_apart_where_they_can():
    rows = [(f"encoder/layer{at}/attention/weight",) for at in (9, 10, 11)]
    assert table_text(("name",), rows, 22, 1).splitlines()[1:] == [
        "encoder/layer9/…weight",
        "encoder/layer10…weight",
        "encoder/layer11…weight",
    ]
    assert table_text(("name",), [("a" * 30,), ("a" * 31,)], 20, 1).splitlines()[1] == "aaaaaaaaaa…aaaaaaaaa"


def test_a_very_long_table_is_as_wide_as_what_is_shown_of_it():
    lines = table_text(
        ("n",), [("a" * 50 if at == 500 else str(at),) for at in range(1000)], 80, 1
    ).splitlines()
    assert (len(lines), lines[199:202], max(map(len, lines))) == (401, ["198", "... 601 more ...", "800"], 16)


def test_names_cannot_write_to_the_terminal_or_the_page():
    found = diff({"\x1b[31m\n<script>": jnp.ones(2)}, {})
    assert repr(found).splitlines()[2] == "\\x1b[31m\\n<script>  only in a: float32[2]"
    assert "&lt;script&gt;" in found._repr_html_()
    assert "<script>" not in found._repr_html_()


def test_html():
    page = diff({"a": jnp.ones(2)}, {"a": jnp.ones(2) + 0.5})._repr_html_()
    assert "<caption>1 of 1 parameter differs: values 1</caption>" in page
    assert "<td>a</td><td>values</td><td>2 of 2</td><td>0.5</td><td>0.333</td>" in page


def test_a_long_table_is_cut_in_its_middle():
    found = diff({f"w{i}": 1.0 for i in range(1000)}, {f"w{i}": 2.0 for i in range(1000)})
    assert "... 601 more ..." in repr(found)
    assert len(found.to_dict()["differences"]) == 1000


def test_plain_values_for_programs():
    found = diff(
        {"a": jnp.ones(2), "b": np.array([np.inf])}, {"a": pt.Fixed(jnp.ones(3)), "b": np.array([1.0])}
    )
    text = json.dumps(found.to_dict(), allow_nan=False)
    place = {"dtype": "float32", "tied": "", "transposed": False}
    assert json.loads(text) == {
        "compared": 2,
        "differences": [
            {
                "name": "a",
                "kinds": ["shape", "mark"],
                "other": "",
                "a": {"shape": [2], "mark": "", **place},
                "b": {"shape": [3], "mark": "fixed", **place},
                "values": None,
            },
            {
                "name": "b",
                "kinds": ["values"],
                "other": "",
                "a": {"shape": [1], "mark": "", **place, "dtype": "float64"},
                "b": {"shape": [1], "mark": "", **place, "dtype": "float64"},
                "values": {
                    "changed": 1, "largest": "inf", "relative": "inf", "nan_a": 0, "nan_b": 0, "size": 1,
                },
            },
        ],
    }  # fmt: skip
    alone = diff({"a": "label", "b": {}}, {}).to_dict()["differences"]
    assert alone == [
        {
            "name": "a",
            "kinds": ["only in a"],
            "other": "",
            "a": {"shape": None, "dtype": "'label'", "tied": "", "transposed": False, "mark": ""},
            "b": None,
            "values": None,
        }
    ]
    assert isinstance(found, Diff)


def test_one_name_of_a_block_that_became_another():
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    bias = np.ones(4, np.float32)
    found = diff({"enc": {"weight": values, "bias": bias}}, {"enc": {"kernel": values + 1, "bias": bias}})
    assert found.renamed == {"enc/weight": "enc/kernel"}
