"""Statistics: numbers against NumPy in float64, every dtype and odd leaf, the table, and what is refused."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import paramtree as pt
from paramtree.report import rows as rows_module
from paramtree.report.cells import bars_text, bytes_text, number_text, share_text
from paramtree.report.measure import BINS
from paramtree.report.moments import Moments, measure
from paramtree.report.stats import stats
from paramtree.report.values import sixteens

FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3b11fnuz")
REALS = ("float32", "bfloat16", "float16", *FLOAT8)
WHOLES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32")


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def one(array):
    return stats({"a": array})["a"].values


def near(found, wanted, scale):
    return abs(found - wanted) <= 1e-5 * scale + 1e-37


def check(array, found):
    """Compare with NumPy in float64, to the tolerances that `stats` states."""
    values = np.asarray(array)
    wide = np.abs(values.astype(np.complex128)) if values.dtype.kind == "c" else values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    counts = (finite.size, np.isnan(wide).sum(), np.isinf(wide).sum(), (wide == 0).sum())
    assert found[:4] == tuple(map(int, counts))
    assert sum(found.bins) == finite.size
    if not finite.size:
        assert found[5:10] == (None,) * 5
        return
    size = math.sqrt(np.square(finite).mean())
    assert near(found.mean, finite.mean(), size)
    assert near(found.std, finite.std(), size)
    assert near(found.rms, size, size)
    ends = (finite.min(), finite.max())
    exact = values.dtype.kind != "c"
    assert (found.least, found.most) == (ends if exact else pytest.approx(ends, rel=1e-6))
    assert found.largest == max(abs(found.least), abs(found.most))
    low, high = ends
    if low == high:
        assert found.bins == (finite.size, *[0] * (BINS - 1))
        return
    for at in range(1, BINS):  # a value within rounding of an edge may count on either side
        edge, slack = low + (high - low) * at / BINS, 1e-6 * (high - low) + 1e-37
        below = sum(found.bins[:at])
        assert (finite < edge - slack).sum() <= below <= (finite <= edge + slack).sum()


# --- the numbers --------------------------------------------------------------------------------------------


def test_the_numbers_of_one_parameter():
    found = one(jnp.array([[1.0, -3.0, 0.0], [jnp.nan, jnp.inf, 2.0]]))
    assert found[:5] == (4, 1, 1, 1, 0)
    assert found.mean == 0.0
    assert found.std == pytest.approx(math.sqrt(3.5))
    assert found.rms == pytest.approx(math.sqrt(3.5))
    assert (found.least, found.most, found.largest) == (-3.0, 2.0, 3.0)
    assert found.bins == (1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1)


@pytest.mark.parametrize("dtype", [*REALS, *WHOLES, "complex64", "int4", "uint4"])
def test_every_dtype_agrees_with_numpy(dtype):
    rng = np.random.default_rng(0)
    tree = {}
    for at, shape in enumerate([(), (1,), (7,), (128,), (129,), (5, 60), (0, 3)]):
        values = rng.normal(size=shape) * 3
        values = values + 1j * rng.normal(size=shape) if dtype == "complex64" else values
        values = np.abs(values) if dtype.startswith("uint") else values
        tree[f"a{at}"] = jnp.asarray(np.asarray(values).astype(jnp.dtype(dtype)))
    for row in stats(tree):
        assert row.dtype == dtype
        check(tree[row.name], row.values)


@pytest.mark.parametrize("dtype", REALS[1:])
def test_every_bit_pattern_of_a_small_dtype_is_classed(dtype):
    dtype = jnp.dtype(dtype)
    patterns = np.arange(1 << 8 * dtype.itemsize).astype(f"uint{8 * dtype.itemsize}").view(dtype)
    found = one(jnp.asarray(patterns))
    with np.errstate(invalid="ignore"):
        wide = patterns.astype(np.float64)
    tiny = float(jnp.finfo(dtype).smallest_normal)
    assert found.subnormal == ((np.abs(wide) > 0) & (np.abs(wide) < tiny)).sum()
    assert found[:4] == (
        np.isfinite(wide).sum(),
        np.isnan(wide).sum(),
        np.isinf(wide).sum(),
        (wide == 0).sum(),
    )
    finite = wide[np.isfinite(wide)]
    assert (found.least, found.most) == (finite.min(), finite.max())


def test_subnormal_numbers_are_counted_though_the_device_flushes_them():
    tiny = np.float32([1e-40, -1e-45, 1.1754944e-38, 0.0, -0.0, 1.0])
    found = one(jnp.asarray(tiny))
    assert (found.subnormal, found.zero, found.finite) == (2, 2, 6)
    alone = one(jnp.asarray(tiny[:2]))
    assert (alone.subnormal, alone.zero) == (2, 0)
    assert (alone.least, alone.most) == (float(tiny[1]), float(tiny[0]))
    parts = np.zeros(3, np.complex64)
    parts[0], parts[1] = 1e-40, 1j
    assert one(jnp.asarray(parts))[:5] == (3, 0, 0, 1, 1)


def test_arrays_that_numpy_keeps_wide_are_not_narrowed():
    exact = 1.0 + 2.0**-40
    tree = {
        "f": np.array([exact, exact, 1e300]),
        "n": np.array([2**62 + 1, 5]),
        "c": np.array([3e200 + 4e200j]),
    }
    found = {row.name: row.values for row in stats(tree)}
    assert (found["f"].least, found["f"].most) == (exact, 1e300)
    assert found["f"].rms == pytest.approx(1e300 / math.sqrt(3))
    assert found["n"].most == 2**62 + 1
    assert found["c"].most == pytest.approx(5e200)
    check(np.linspace(-1, 1, 333), one(np.linspace(-1, 1, 333)))
    assert one(np.array([5e-324, 0.0, np.nan, np.inf]))[:5] == (2, 1, 1, 1, 1)
    assert one(np.full(3, np.nan))[:2] == (0, 3)


def test_x64_measures_in_64_bits():
    values = np.array([1.0 + 2.0**-40, 1.0, 1e-310, 1e300, np.nan])
    with jax.enable_x64(True):
        found = one(jnp.asarray(values))
        whole = one(jnp.asarray(np.array([2**62 + 1, -3])))
        sizes = one(jnp.asarray(np.array([2**64 - 1, 1], np.uint64)))
        twin = one(jnp.asarray(np.array([3e200 + 4e200j, 0])))
    assert found[:5] == (4, 1, 0, 0, 1)
    assert (found.least, found.most) == (1e-310, 1e300)
    assert found.rms == pytest.approx(5e299, rel=1e-12)
    assert (whole.least, whole.most, whole.mean) == (-3, 2**62 + 1, pytest.approx(2**61))
    assert (sizes.least, sizes.most) == (1, 2**64 - 1)
    assert twin.most == pytest.approx(5e200)


def test_the_variance_survives_what_would_cancel():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=50_000).astype(np.float32)
    for values in (noise + 1000, noise * 1e-3 + 100, np.where(np.arange(50_000) == 7, 1e6, noise)):
        values = values.astype(np.float32)
        wide = values.astype(np.float64)
        found = one(jnp.asarray(values))
        assert found.std == pytest.approx(wide.std(), rel=1e-4)
        assert found.mean == pytest.approx(wide.mean(), rel=1e-5)


def test_large_and_tiny_values_neither_overflow_nor_vanish():
    for scale in (3e38, 1e30, 1e-30, 1e-37):
        values = np.float32([scale, -scale, scale / 2])
        check(values, one(jnp.asarray(values)))


def test_what_is_constant_is_constant():
    for value in (0.1, -7e37, 123456792.0):
        found = one(jnp.full((3, 200), value, jnp.float32))
        exact = float(np.float32(value))
        assert (found.mean, found.std, found.rms) == (exact, 0.0, abs(exact))
    found = one(jnp.asarray(123456789))
    assert (found.mean, found.least, found.most) == (123456789.0, 123456789, 123456789)


def test_complex_numbers_are_measured_by_their_magnitude():
    nan, inf = math.nan, math.inf
    found = one(jnp.array([3 + 4j, 0, complex(nan, 1), complex(inf, 1), complex(nan, inf)], jnp.complex64))
    assert found[:4] == (2, 2, 1, 1)
    assert (found.least, found.most, found.mean) == (0.0, 5.0, 2.5)
    for dtype in ("complex64", "complex128"):
        largest = np.finfo(dtype).max
        found = one(np.array([complex(largest, largest), 0], dtype))
        assert (found.finite, found.infinite, found.most) == (2, 0, largest)


# --- laws ---------------------------------------------------------------------------------------------------


def test_numbers_agree_with_numpy_for_drawn_arrays():
    hypothesis = pytest.importorskip("hypothesis")
    extra = pytest.importorskip("hypothesis.extra.numpy")
    st = hypothesis.strategies
    width = st.floats(width=32, allow_subnormal=False)
    drawn = st.sampled_from(["float32", "int32", "bool", "float64"]).flatmap(
        lambda dtype: extra.arrays(
            dtype, st.sampled_from([(3,), (2, 5), (130,), ()]), elements=width if dtype == "float32" else None
        )
    )

    @hypothesis.settings(max_examples=40)
    @hypothesis.given(st.lists(drawn, min_size=1, max_size=3))
    def law(arrays):
        for array, found in zip(arrays, measure(arrays), strict=True):
            if array.dtype == np.float64 and np.abs(array[np.isfinite(array)]).max(initial=0) > 1e150:
                continue  # the reference itself overflows
            check(array, found)

    law()


def test_it_does_not_matter_how_arrays_are_laid_out(monkeypatch):
    rng = np.random.default_rng(1)
    arrays = [jnp.asarray(rng.normal(size=shape), "float32") for shape in ((40, 33), (1320,), (7,), (256, 4))]
    together = measure(arrays)
    monkeypatch.setattr(rows_module, "_BATCH", 100)
    for each, other, alone in zip(together, measure(arrays), arrays, strict=True):
        for found in (other, measure([alone])[0]):
            assert (found[:5], found.bins) == (each[:5], each.bins)
            assert found[5:10] == pytest.approx(each[5:10], rel=1e-6)


def test_a_large_array_is_measured_where_it_lies():
    values = np.random.default_rng(0).normal(size=(1 << 20) + 5).astype(np.float32)
    values[[3, -1]] = np.nan, np.inf
    found = one(jnp.asarray(values))
    check(values, found)
    assert found[:3] == (values.size - 2, 1, 1)


def test_arrays_on_several_devices():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("x", "y"))
    spec = jax.sharding.PartitionSpec
    values = np.random.default_rng(0).normal(size=(8, 12, 3)).astype(np.float32)
    values[1, 2, 0] = np.nan
    tree = {
        "both": jax.device_put(values, jax.sharding.NamedSharding(mesh, spec("x", "y"))),
        "last": jax.device_put(values[0, 0, 0], jax.sharding.NamedSharding(mesh, spec())),
        "third": jax.device_put(values, jax.devices()[3]),
        "first": jax.device_put(values, jax.devices()[0]),
        "host": values,
    }
    found = {row.name: row.values for row in stats(tree)}
    for name in ("both", "third", "first", "host"):
        check(values, found[name])
    assert found["last"].mean == float(values[0, 0, 0])


@pytest.mark.parametrize("how", [(), ("x",), (None, "x")])
def test_one_large_number_among_many_on_several_devices(how):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("x",))
    values = np.random.default_rng(0).random((1 << 15, 16)).astype(np.float32)
    values[7, 3] = 1000.0
    placed = jax.device_put(values, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*how)))
    found, wanted = stats({"w": placed})["w"].values, values.astype(np.float64)
    assert abs(found.mean - wanted.mean()) < 1e-5 * wanted.std()
    assert abs(found.std - wanted.std()) < 1e-5 * wanted.std()


def test_one_program_and_one_transfer(monkeypatch):
    tree = {
        f"block{at}": {"weight": jnp.ones((at, 3)), "bias": jnp.ones(3, "bfloat16")} for at in range(1, 40)
    }
    calls = []
    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda found: calls.append(len(found)) or get(found))
    assert len(stats(tree)) == 78
    assert calls == [2]  # one program, which gives a part for each dtype


def test_counts_go_beyond_32_bits():
    assert sixteens((np.int32([2**31 - 1]), np.int32([15]))).tolist() == [(2**31 - 1) * 16 + 15]


# --- leaves that hold no numbers, and updates ---------------------------------------------------------------


def test_leaves_without_numbers_say_what_they_are():
    tree = {
        "act": jax.nn.relu,
        "key": jax.random.split(jax.random.key(0)),
        "label": "decay",
        "spec": jax.ShapeDtypeStruct((2,), "float32"),
        "symbolic": pt.nn.Dense(2).specs("b, n")["weight"],
        "text": np.array(["x"]),
        "n": 3,
        "p": 0.5,
        "none": jnp.zeros((0, 2)),
    }
    found = stats(tree)
    assert {row.name: row.said for row in found} == {
        "key": "random keys",
        "label": "'decay'",
        "spec": "no values",
        "symbolic": "no values",
        "text": "an array of <U1",
        "n": "",
        "p": "",
        "none": "",
    }
    assert found["none"].values == Moments()
    assert found["none"].zeros is None
    assert (found["n"].dtype, found["n"].values.mean, found["p"].values.mean) == ("int64", 3.0, 0.5)
    json.dumps(found.to_dict(), allow_nan=False)
    found.to_text(80)
    found.to_html()


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    found = stats({"w": torch.tensor([1.0, 3.0], requires_grad=True), "h": torch.tensor([1.0]).bfloat16()})
    assert (found["w"].values.mean, found["h"].dtype) == (2.0, "bfloat16")


def test_a_tied_parameter_is_measured_once_and_a_select_chooses():
    tree = {"embed": {"weight": jnp.ones((2, 2))}, "head": pt.Alias("embed"), "mean": pt.Fixed(jnp.zeros(2))}
    assert [row.name for row in stats(tree)] == ["embed/weight", "mean"]
    assert [row.name for row in stats(tree, select="embed/.*")] == ["embed/weight"]
    assert stats(tree)["mean"].zeros == 1.0


def test_trees_of_any_kind():
    assert [row.name for row in stats([jnp.ones(1), (jnp.ones(2), {"a": jnp.ones(3)})])] == [
        "0",
        "1/0",
        "1/1/a",
    ]
    assert len(stats({})) == 0
    assert repr(stats({})) == "0 parameters, 0 elements"


def test_updates_are_told_against_the_parameters():
    tree = {
        "a": jnp.full(4, 2.0),
        "b": jnp.zeros(2),
        "c": jnp.zeros(2),
        "d": jnp.ones(1),
        "e": jnp.ones((0,)),
    }
    grads = {"a": jnp.full(4, 0.5), "b": jnp.ones(2), "c": jnp.zeros(2), "e": jnp.ones((0,))}
    found = stats(tree, grads)
    assert [row.ratio for row in found] == [0.25, math.inf, None, None, None]
    assert found["a"].update.rms == 0.5
    assert [row.get("ratio", "") for row in found.to_dict()["parameters"]] == [
        0.25, "inf", None, "", None,
    ]  # fmt: skip
    assert stats(tree, grads, select="a")["a"].ratio == 0.25


# --- what is refused ----------------------------------------------------------------------------------------


def test_traced_values_are_refused():
    tree = {f"a{at}": jnp.ones(2) for at in range(12)}
    assert message(pt.MismatchError, lambda: jax.jit(stats)(tree)) == (
        "stats: values are looked at outside of jit, and these are traced: "
        "a0, a1, a2, a3, a4, a5, a6, a7, a8, ... (12 in all)."
    )


def test_gradients_of_other_parameters_are_refused():
    tree = {"a": jnp.ones(2), "b": jnp.ones((2, 3)), "label": "x"}
    grads = {"a": jnp.ones(3), "b": jnp.ones((2, 3)), "c": jnp.ones(1), "label": jnp.ones(1)}
    assert message(pt.MismatchError, lambda: stats(tree, grads)) == (
        "stats: these gradients are not of these params:\n"
        "  a has shape (2,), and its gradient shape (3,)\n"
        "  c is not a parameter\n"
        "  label has no shape, and its gradient shape (1,)"
    )


def test_selects_and_trees_are_checked():
    assert message(pt.NoMatchError, lambda: stats({"a": jnp.ones(1)}, select="b")).startswith(
        "select 'b' hits nothing"
    )
    assert message(pt.BadNameError, lambda: stats(3.0)) == (
        "float is not a tree of parameters. Pass the nested dict that init returned."
    )
    with pytest.raises(pt.UnknownNameError, match="'c' is not among the 2 parameters looked at"):
        stats({"a": jnp.ones(1), "b": jnp.ones(1)})["c"]


# --- how it is shown ----------------------------------------------------------------------------------------

TREE = {
    "dense0": {"weight": np.float32([[1, -1], [np.nan, 0]]), "bias": np.zeros(2, np.float32)},
    "norm": {"scale": np.float32([1e-40, np.inf, 3])},
    "label": "decay",
}


def test_the_table():
    assert stats(TREE).to_text(140) == (
        "4 parameters, 9 elements, 1 NaN, 1 Inf\n"
        "name           what          mean    std    min  max    RMS  largest  zero  NaN  Inf  subnormal"
        "         histogram\n"
        "dense0/weight  float32[2,2]     0  0.816     -1    1  0.816        1   25%    1"
        "                  █       █      █\n"
        "dense0/bias    float32[2]       0      0      0    0      0        0  100%"
        "                       █\n"
        "label          'decay'\n"
        "norm/scale     float32[3]     1.5    1.5  1e-40    3   2.12        3               1          1  "
        "█              █"
    )


def test_shares_of_zeros_give_way_where_there_is_little_room():
    heads = [stats(TREE).to_text(width).splitlines()[1].split() for width in (70, 40)]
    assert ["zero" in head for head in heads] == [True, False]
    assert all("NaN" in head and "Inf" in head for head in heads)


def test_what_has_no_room_is_left_out():
    narrow = stats(TREE).to_text(70)
    assert narrow.splitlines()[1].split() == [
        "name",
        "what",
        "mean",
        "std",
        "zero",
        "NaN",
        "Inf",
        "subnormal",
    ]
    narrower = stats(TREE).to_text(60).splitlines()[1]
    assert narrower.split() == ["name", "mean", "std", "zero", "NaN", "Inf", "subnormal"]
    assert all(len(line) <= 70 for line in narrow.splitlines())


def test_the_page_escapes_and_sorts_by_numbers():
    page = stats(
        {"<script>alert(1)</script>": jnp.ones(2)}, {"<script>alert(1)</script>": jnp.ones(2)}
    ).to_html()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert stats({})._repr_html_()


def test_to_dict_gives_all_of_it():
    found = stats(TREE).to_dict()["parameters"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found[2] == {"name": "label", "shape": None, "dtype": "str", "said": "'decay'", "size": 0}
    assert found[1] == {
        "name": "dense0/bias", "shape": [2], "dtype": "float32", "said": "", "size": 2, "zeros": 1.0,
        "finite": 2, "nan": 0, "infinite": 0, "zero": 2, "subnormal": 0, "mean": 0.0, "std": 0.0, "rms": 0.0,
        "least": 0.0, "most": 0.0, "bins": [2, *[0] * 15], "largest": 0.0,
    }  # fmt: skip


def test_cells():
    assert [number_text(each) for each in (0.0, 123456, 99999, math.inf, -0.00012345)] == [
        "0", "1.23e+05", "99999", "inf", "-0.000123",
    ]  # fmt: skip
    assert [bytes_text(each) for each in (0, 1023, 1024, 10_240, 102_400, 1 << 40)] == [
        "0 B", "1023 B", "1.00 KiB", "10.0 KiB", "100 KiB", "1.00 TiB",
    ]  # fmt: skip
    assert bytes_text("4*n") == "4*n B"
    assert (share_text(1, 2), share_text(999_999, 1_000_000)) == ("50%", ">99%")
    assert (bars_text([]), bars_text([0, 0]), bars_text([1, 1000])) == ("", "", "▁█")


def test_reports_work_where_a_mesh_is_set():
    mesh = jax.make_mesh((8,), ("x",))  # of Explicit axes, as JAX makes them by itself
    with jax.set_mesh(mesh):
        spread = jax.device_put(jnp.arange(16.0).at[3].set(jnp.nan), NamedSharding(mesh, P("x")))
        tree = {"plain": jnp.ones((8, 4)), "spread": spread}
        assert pt.stats(tree)["plain"].values.mean == 1
        assert [(fault.name, fault.first) for fault in pt.find_nonfinite(tree)] == [("spread", (3,))]
        assert pt.show(tree).to_html()
        assert pt.summary(tree, grads=tree)
        with pytest.raises(pt.MismatchError):
            pt.check_finite(tree)
