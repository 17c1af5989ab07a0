"""What is not finite: found, checked and masked, outside of `jit` and inside."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import paramtree as pt
from paramtree.report import rows as rows_module
from paramtree.report.finite import Fault, Nonfinite, check_finite, find_nonfinite, nonfinite_mask
from paramtree.report.search import Faults, search

NAN, INF = float("nan"), float("inf")
TREE = {
    "dense0": {"weight": np.float32([[1, 2, NAN], [INF, NAN, -INF]]), "bias": np.zeros(2, np.float32)},
    "temp": np.float32(NAN),
    "step": np.array(3),
    "label": "decay",
    "key": jax.random.key(0),
    "empty": np.zeros((0, 2), np.float32),
}
CLEAN = {"a": np.ones((2, 3), np.float32), "b": {"c": np.zeros(4)}}


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


# --- found --------------------------------------------------------------------------------------------------


def test_which_how_many_and_where():
    found = find_nonfinite(TREE)
    assert found
    assert list(found) == [
        Fault("dense0/weight", (2, 3), "float32", 6, 2, 2, (0, 2)),
        Fault("temp", (), "float32", 1, 1, 0, ()),
    ]
    assert (len(found), found.searched) == (2, 4)


def test_nothing_is_false():
    found = find_nonfinite(CLEAN)
    assert not found
    assert (len(found), repr(found)) == (0, "no NaN or Inf in 2 parameters")
    assert repr(find_nonfinite({"a": 1.0})) == "no NaN or Inf in 1 parameter"
    assert repr(find_nonfinite({})) == "no NaN or Inf in 0 parameters"


def test_the_table():
    assert repr(find_nonfinite(TREE)) == (
        "2 of 4 parameters are not finite\n"
        "name           what          NaN  Inf  of  first at\n"
        "dense0/weight  float32[2,3]    2    2   6    (0, 2)\n"
        "temp           float32[]       1        1        ()"
    )
    assert find_nonfinite({"a": NAN, "b": 1.0}).headline() == "1 of 2 parameters is not finite"


def test_the_page_and_the_dict():
    name = "<script>alert(1)</script>"
    found = find_nonfinite({name: jnp.array([0.0, NAN])})
    assert "<script>alert" not in found._repr_html_()
    assert json.loads(json.dumps(found.to_dict())) == {
        "searched": 1,
        "nonfinite": [
            {"name": name, "shape": [2], "dtype": "float32", "size": 2, "nan": 1, "infinite": 0, "first": [1]}
        ],
    }
    assert isinstance(find_nonfinite({})._repr_html_(), str)


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "bfloat16", "float16", "complex64", "complex128", "float8_e5m2"]
)
def test_every_dtype_that_can_hold_them(dtype):
    for shape, at in (((3, 50), (1, 7)), ((200,), (199,)), ((4, 1, 33), (3, 0, 32)), ((), ())):
        values = np.ones(shape).astype(jnp.dtype(dtype))
        values[at] = INF
        for array in (values, jnp.asarray(values)) if not dtype.endswith(("64", "128")) else (values,):
            found = find_nonfinite({"a": array})
            assert [(row.infinite, row.nan, row.first) for row in found] == [(1, 0, at)]
        values[...] = NAN
        assert [(row.nan, row.infinite) for row in find_nonfinite({"a": values})] == [(values.size, 0)]


def test_complex_parts_and_numbers_too_large_for_float32():
    parts = np.array([1, complex(1, NAN), complex(INF, 0), complex(NAN, INF)])
    for array in (parts, jnp.asarray(parts.astype(np.complex64))):
        assert search([array]) == [Faults(2, 1, 1)]
    assert not find_nonfinite({"a": np.array(1e300), "b": 1e300, "c": np.array([1e200 + 1e200j])})
    # the magnitude of this one is infinite, and the number is not
    assert not find_nonfinite({"a": np.full(2, 3e38 + 3e38j, np.complex64)})


def test_padding_is_no_fault_in_a_dtype_without_zero():
    dtype = jnp.dtype("float8_e8m0fnu")
    assert not find_nonfinite({"a": jnp.asarray(np.ones(5).astype(dtype))})


def test_the_first_is_found_wherever_an_array_is_laid_out(monkeypatch):
    rng = np.random.default_rng(0)
    arrays, wanted = [], []
    for size in (1, 5, 128, 129, 300, 1000, 1000, 77):
        values = rng.normal(size=size).astype(np.float32)
        bad = sorted(rng.choice(size, min(size, 3), replace=False).tolist())
        values[bad] = NAN
        arrays.append(jnp.asarray(values))
        wanted.append(Faults(len(bad), 0, bad[0]))
    assert search(arrays) == wanted
    monkeypatch.setattr(rows_module, "_BATCH", 200)
    assert search(arrays) == wanted


def test_a_large_array_and_arrays_on_several_devices():
    values = np.ones((1 << 20) + 3, np.float32)
    values[-2:] = INF
    assert search([jnp.asarray(values)]) == [Faults(0, 2, values.size - 2)]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("x", "y"))
    spec = jax.sharding.PartitionSpec
    values = np.ones((8, 4, 3), np.float32)
    values[5, 2, 1] = values[7, 0, 0] = NAN
    for axes in (("x", "y"), (), (None, None), (("x", "y"),)):
        placed = jax.device_put(values, jax.sharding.NamedSharding(mesh, spec(*axes)))
        assert [row.first for row in find_nonfinite({"a": placed})] == [(5, 2, 1)]
    scalar = jax.device_put(np.float32(NAN), jax.sharding.NamedSharding(mesh, spec()))
    assert search([scalar]) == [Faults(1, 0, 0)]
    placed = {str(at): jax.device_put(values, jax.devices()[at]) for at in range(3)}
    assert len(find_nonfinite(placed)) == 3


def test_a_select_chooses_and_ties_are_seen_once():
    tree = {"a": np.array([NAN]), "b": pt.Alias("a"), "c": pt.Fixed(np.array([INF]))}
    assert [row.name for row in find_nonfinite(tree)] == ["a", "c"]
    assert [row.name for row in find_nonfinite(tree, "c")] == ["c"]
    assert message(pt.NoMatchError, lambda: find_nonfinite(tree, "x")).startswith("select 'x' hits none of 2")


def test_specs_have_no_values():
    tree = pt.nn.Dense(2).specs("3, 4")
    for verb in (find_nonfinite, check_finite, nonfinite_mask):
        assert message(pt.MismatchError, lambda verb=verb: verb(tree)) == (
            f"{verb.__name__}: these are specs, and have no values:\n  weight float32\n  bias float32"
        )


def test_inside_of_jit_it_names_the_two_ways():
    assert message(
        pt.MismatchError, lambda: jax.jit(find_nonfinite)({"a": jnp.ones(2), "b": jnp.ones(2)})
    ) == (
        "find_nonfinite: values are looked at outside of jit, and these are traced: a, b. "
        "Inside of jit, return nonfinite_mask(tree) with the results; or call check_finite(tree), and the "
        "whole function through jax.experimental.checkify.checkify."
    )


# --- checked ------------------------------------------------------------------------------------------------


def test_a_finite_tree_is_returned_as_it_is():
    assert check_finite(CLEAN) is CLEAN
    assert check_finite({}) == {}


def test_all_that_is_not_finite_is_listed():
    assert message(pt.MismatchError, lambda: check_finite(TREE)) == (
        "check_finite: 2 of 4 parameters are not finite:\n"
        "  dense0/weight float32[2,3] holds 2 NaN and 2 Inf, first at (0, 2)\n"
        "  temp float32[] holds 1 NaN"
    )


def test_inside_of_jit_it_is_a_check_of_checkify():
    def step(tree):
        return check_finite({"w{0}": jnp.log(tree["w"]), "n": tree["n"], "b": jnp.sqrt(tree["w"])})

    good, bad = {"w": jnp.ones(3), "n": 1}, {"w": jnp.array([[1.0, 0.0, -1.0]]), "n": 1}
    for checked in (checkify.checkify(jax.jit(step)), jax.jit(checkify.checkify(step))):
        error, _ = checked(good)
        assert error.get() is None
        error, out = checked(bad)
        assert error.get() == "b float32[1,3] is not finite: 1 NaN and 0 Inf (`check` failed)"
        assert out["n"] == 1
    error, _ = checkify.checkify(jax.jit(lambda x: check_finite({"w{0}": jnp.log(x)})))(jnp.zeros(2))
    assert error.get() == "w{0} float32[2] is not finite: 0 NaN and 2 Inf (`check` failed)"


def test_what_is_known_while_tracing_is_checked_at_once():
    def step(x):
        return check_finite({"x": x, "table": np.array([1e300, NAN])})["x"]

    assert message(pt.MismatchError, lambda: jax.jit(step)(1.0)) == (
        "check_finite: 1 of 1 parameter is not finite:\n  table float64[2] holds 1 NaN, first at (1,)"
    )


def test_without_checkify_jax_says_what_to_do():
    with pytest.raises(ValueError, match="checkify"):
        jax.jit(check_finite)({"a": jnp.ones(2)})


# --- masked -------------------------------------------------------------------------------------------------


def test_the_mask_has_the_structure_of_the_tree():
    tree = {"a": pt.Fixed(np.array([NAN])), "b": [np.ones(2), "x", jax.nn.relu], "c": pt.Alias("a")}
    mask = nonfinite_mask(tree)
    assert jax.tree.structure(mask) == jax.tree.structure(tree)
    assert mask["a"].value is True
    assert mask["b"] == [False, False, False]
    assert nonfinite_mask({}) == {}


def test_the_mask_inside_of_jit():
    @jax.jit
    def step(params):
        return nonfinite_mask(
            {"log": jnp.log(params), "n": jnp.int32(3), "root": jnp.sqrt(params), "t": 1e300}
        )

    found = step(jnp.array([0.0, 1.0]))
    assert {key: bool(value) for key, value in found.items()} == {
        "log": True,
        "n": False,
        "root": False,
        "t": False,
    }
    low = jax.jit(nonfinite_mask)({"h": jnp.array([NAN], "bfloat16"), "q": jnp.array([1.0], "float8_e4m3fn")})
    assert (bool(low["h"]), bool(low["q"])) == (True, False)


def test_reports_are_values():
    assert find_nonfinite(CLEAN) == Nonfinite((), 2)
