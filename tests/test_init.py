"""The initialisers against MXNet's numbers, JAX's own, their papers' formulas, and their own promises."""

import functools
import json
import math
import pickle
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paramtree import init
from paramtree.errors import ParamTreeError

GOLDENS = Path(__file__).parent / "goldens"
ROWS = json.loads((GOLDENS / "initializers.json").read_text())
FIXED = dict(np.load(GOLDENS / "initializers_deterministic.npz"))
NAMES = {"uniform": init.Uniform, "normal": init.Normal, "xavier": init.Xavier, "msraprelu": init.MSRAPrelu}
KEY = jax.random.key(20)

# Each initialiser with shapes it takes; the invariants below run over all of them.
TABLE = [
    (init.Zeros(), [(), (3,), (2, 3)]),
    (init.Ones(), [(), (3,), (2, 3)]),
    (init.Constant(42), [(), (3,), (2, 3)]),
    (init.Constant(np.arange(3.0)), [(3,), (2, 3)]),
    (init.Identity(2.0), [(3, 3), (2, 5), (5, 2)]),
    (init.Bilinear(), [(1, 2, 4, 4), (2, 2, 3, 3)]),
    (init.LSTMBias(1.5), [(4,), (16,)]),
    (init.Uniform(), [(33, 5)]),
    (init.Normal(0.013), [(7,), (33, 5)]),
    (init.TruncatedNormal(0.3, -1.0, 2.5), [(33, 5)]),
    (init.Xavier(), [(4, 3, 2, 2), (33, 5)]),
    (init.Xavier("gaussian", "in", 2.34), [(33, 5)]),
    (init.He(), [(5, 33)]),
    (init.MSRAPrelu(), [(33, 5)]),
    (init.LecunNormal(), [(33, 5)]),
    (init.Orthogonal(), [(4, 3, 2, 2), (33, 5)]),
]
CASES = [(i, s) for i, shapes in TABLE for s in shapes]
FIRST = [(i, shapes[-1]) for i, shapes in TABLE]
RANDOM = FIRST[7:]


def bits(array):
    return np.asarray(array).tobytes()


def message(call):
    with pytest.raises(ParamTreeError) as caught:
        call()
    assert type(caught.value) is ParamTreeError
    return str(caught.value)


# --- against MXNet -----------------------------------------------------------------------------------------


def law_asked(row):
    return NAMES[row["config"][0]](**row["config"][1])


@functools.cache
def drawn_in_one_program(shape):
    """Every law of the reference for this shape, and the standard ones: one compilation instead of 24."""
    rows = [row for row in ROWS if row["config"][0] in NAMES and tuple(row["shape"]) == shape]
    laws = [init.Uniform(1.0), init.Normal(1.0), *(law_asked(row) for row in rows)]
    keys = jax.random.split(KEY, rows[0]["measured"]["n"] // math.prod(shape))
    return dict(
        zip(laws, jax.jit(jax.vmap(lambda key: [law(key, shape) for law in laws]))(keys), strict=True)
    )


def law_of(row):
    """Kurtosis, standardised quantile and density, mean absolute value over the deviation."""
    if row["formula"]["distribution"].startswith("U"):
        half = math.sqrt(3)
        return 1.8, lambda p: half * (2 * p - 1), lambda q: 1 / (2 * half), half / 2
    unit = NormalDist()
    return 3.0, unit.inv_cdf, unit.pdf, math.sqrt(2 / math.pi)


@pytest.mark.parametrize(
    "row",
    [pytest.param(r, id=f"{r['initializer']}-{r['shape']}") for r in ROWS if r["config"][0] in NAMES],
)
def test_draws_as_mxnet(row):
    law = law_asked(row)
    shape, measured, std = tuple(row["shape"]), row["measured"], row["formula"]["std"]
    x = np.asarray(drawn_in_one_program(shape)[law]).astype(np.float64)
    n, (kurtosis, quantile, density, mean_abs) = x.size, law_of(row)
    assert n == measured["n"]

    # The formula, to the last bits: the same draw with scale 1, scaled by MXNet's number.
    unit = drawn_in_one_program(shape)[init.Uniform(1.0) if kurtosis < 2 else init.Normal(1.0)]
    np.testing.assert_allclose(x, row["formula"]["scale"] * np.asarray(unit).astype(float), rtol=1e-6)

    # The distribution, within five standard errors of the formula, and of MXNet's own sample.
    def close(ours, theirs, exact, error):
        assert abs(ours - exact) < 5 * error
        assert abs(ours - theirs) < 5 * math.sqrt(2) * error

    close(x.mean(), measured["mean"], 0, std / math.sqrt(n))
    close(x.std(), measured["std"], std, std * math.sqrt((kurtosis - 1) / (4 * n)))
    close(abs(x).mean(), measured["mean_abs"], mean_abs * std, std * math.sqrt((1 - mean_abs**2) / n))
    close((x**4).mean() / x.var() ** 2, measured["kurtosis"], kurtosis, math.sqrt(24 / n))
    for text, found in measured["quantiles"].items():
        p = float(text)
        error = std * math.sqrt(p * (1 - p) / n) / density(quantile(p))
        close(np.quantile(x, p), found, std * quantile(p), error)
    for ours, theirs in ((x.max(), measured["max"]), (-x.min(), -measured["min"])):
        if kurtosis < 2:
            bound = row["formula"]["scale"]
            assert bound * (1 - 40 / n) < ours <= bound * (1 + 1e-6)
        else:  # the largest of n: beyond these with probability 1e-5
            assert std * 4 < ours < std * 6.6
        assert ours == pytest.approx(theirs, rel=1e-4 if kurtosis < 2 else 0.3)


@pytest.mark.parametrize("row", [r for r in ROWS if r["config"][0] == "orthogonal"], ids=str)
def test_orthogonal_as_mxnet(row):
    scale, shape = row["config"][1]["scale"], tuple(row["shape"])
    w = np.asarray(init.Orthogonal(scale)(KEY, shape)).reshape(shape[0], -1).astype(np.float64)
    gram = w.T @ w if row["measured"]["gram"] == "W^T W" else w @ w.T
    assert len(gram) == row["measured"]["gram_size"]
    np.testing.assert_allclose(gram, scale**2 * np.eye(len(gram)), atol=3e-6)
    assert w.std() == pytest.approx(row["measured"]["std"], rel=1e-3)


def test_all_rows_of_the_reference_are_used():
    skipped = [row["initializer"] for row in ROWS if row["config"][0] not in {*NAMES, "orthogonal"}]
    assert skipped == ["MyInit (chapter)"] * 2  # a user's own


@pytest.mark.parametrize(
    ("name", "law"),
    [
        *((f"bilinear:{s}", init.Bilinear()) for s in ("2x2x3x3", "1x1x4x4", "1x2x4x6")),
        ("lstmbias:16:1.0", init.LSTMBias()),
        ("lstmbias:8:2.5", init.LSTMBias(2.5)),
        ("zero:3x2", init.Zeros()),
        ("one:3x2", init.Ones()),
        ("constant42:2x3", init.Constant(42)),
        ("constant_array:3x4", init.Constant(FIXED["constant_array_value"])),
    ],
)
def test_fixed_values_as_mxnet(name, law):
    found = law(KEY, FIXED[name].shape)
    assert found.dtype == jnp.float32
    assert bits(found) == bits(FIXED[name])


def test_the_fixed_reference_is_used_up():
    assert len(FIXED) == 10  # the nine above, and the value of constant_array


# --- against JAX and the formulas --------------------------------------------------------------------------


PAIRS = [
    (init.Xavier(), jax.nn.initializers.glorot_uniform(1, 0)),
    (init.LecunNormal(), jax.nn.initializers.lecun_normal(1, 0)),
    (init.He(), jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal", 1, 0)),
    (init.He("out"), jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal", 1, 0)),
    (init.Normal(0.3), jax.nn.initializers.normal(0.3)),
    (init.TruncatedNormal(0.3), jax.nn.initializers.truncated_normal(0.3)),
    (init.Orthogonal(1.414), jax.nn.initializers.orthogonal(1.414, 0)),
    (init.MSRAPrelu("in", 0.0), init.He()),
    (init.Xavier("gaussian", "out", 2.0), init.He("out")),
]


def test_same_bits_as_jax():
    shape = (4, 3, 2, 2)
    draw = jax.jit(lambda key: [(a(key, shape), b(key, shape, jnp.float32)) for a, b in PAIRS])
    for (law, _), (ours, theirs) in zip(PAIRS, draw(KEY), strict=True):
        assert bits(ours) == bits(theirs), law


def test_truncated_normal_scales_then_cuts():
    x = np.asarray(init.TruncatedNormal(0.5, -1.0, 1.5)(KEY, (400, 500))).astype(np.float64)
    unit = NormalDist()
    low, high = unit.cdf(-1), unit.cdf(1.5)
    mean = 0.5 * (unit.pdf(-1) - unit.pdf(1.5)) / (high - low)
    median = 0.5 * unit.inv_cdf((low + high) / 2)
    assert -0.5 < x.min() < -0.499
    assert 0.749 < x.max() < 0.75
    assert abs(x.mean() - mean) < 5 * x.std() / math.sqrt(x.size)
    assert abs(np.median(x) - median) < 5 * 0.5 * (high - low) / (2 * unit.pdf(median * 2)) / math.sqrt(
        x.size
    )


def test_lecun_normal_has_its_variance_after_the_cut():
    x = np.asarray(init.LecunNormal()(KEY, (4000, 25))).astype(np.float64)
    assert x.std() == pytest.approx(0.2, rel=5 / math.sqrt(2 * x.size))
    assert abs(x).max() <= 0.2 * 2 / 0.8796


@pytest.mark.parametrize("shape", [(3, 7), (40, 2, 3, 3)], ids=str)
def test_orthogonal_gram(shape):
    w = np.asarray(init.Orthogonal(2.0)(KEY, shape)).reshape(shape[0], -1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2)], ids=str)
def test_identity(shape):
    assert bits(init.Identity()(KEY, shape)) == bits(np.eye(*shape, dtype=np.float32))
    assert bits(init.Identity(0.5)(KEY, shape)) == bits(0.5 * np.eye(*shape, dtype=np.float32))


def test_defaults_are_gluons():
    assert [init.Uniform(), init.Normal(), init.Xavier()] == [
        init.Uniform(scale=0.07),
        init.Normal(sigma=0.01),
        init.Xavier(rnd_type="uniform", factor_type="avg", magnitude=3.0),
    ]
    assert [init.MSRAPrelu(), init.Orthogonal(), init.LSTMBias(), init.He(), init.Identity()] == [
        init.MSRAPrelu(factor_type="avg", slope=0.25),
        init.Orthogonal(scale=1.414),
        init.LSTMBias(forget_bias=1.0),
        init.He(factor_type="in"),
        init.Identity(gain=1.0),
    ]
    assert init.TruncatedNormal() == init.TruncatedNormal(sigma=0.01, lower=-2.0, upper=2.0)


# --- invariants of every initialiser -----------------------------------------------------------------------


def test_bits_are_the_same_eager_jitted_and_mapped():
    # All in one program, which costs one compilation and gives XLA the most to merge.
    def everything(key):
        return [law(key, shape) for law, shape in CASES]

    keys = jax.random.split(KEY, 2)
    eager = [[bits(value) for value in everything(key)] for key in keys]
    jitted, mapped = jax.jit(everything), jax.jit(jax.vmap(everything))(keys)
    for n, key in enumerate(keys):
        for (law, shape), once, inside, row in zip(CASES, eager[n], jitted(key), mapped, strict=True):
            assert bits(inside) == once, (law, shape)
            assert bits(row[n]) == once, (law, shape)


@pytest.mark.parametrize(("law", "shape"), [*FIRST[:7], RANDOM[1], RANDOM[-1]], ids=str)
def test_bits_are_the_same_mapped_eagerly(law, shape):
    keys = jax.random.split(KEY, 2)
    mapped = jax.vmap(lambda key: law(key, shape))(keys)
    assert [bits(row) for row in mapped] == [bits(law(key, shape)) for key in keys]


@pytest.mark.parametrize("law", [init.Normal(0.013), init.Orthogonal()], ids=str)
def test_bits_are_the_same_with_a_literal_key(law):
    # As in `jit(lambda: net.init(jax.random.key(0), x))`: XLA then knows every number, and may fold them.
    literal = jax.jit(lambda: law(jax.random.key(5), (33, 5)))()
    assert bits(literal) == bits(law(jax.random.key(5), (33, 5)))


DTYPES = [jnp.dtype(name) for name in ("float32", "float16", "bfloat16", "float8_e4m3fn")]


@functools.cache
def in_every_dtype():
    """All draws of all dtypes in one program, for the sake of time."""
    return jax.jit(lambda key: [[law(key, shape, kind) for kind in DTYPES] for law, shape in FIRST])(KEY)


@pytest.mark.parametrize("row", range(len(FIRST)), ids=[repr(law) for law, _ in FIRST])
def test_dtype(row):
    (law, shape), values = FIRST[row], in_every_dtype()[row]
    for kind, found in zip(DTYPES, values, strict=True):
        assert (found.shape, found.dtype) == (shape, kind)
        assert jax.eval_shape(lambda kind=kind: law(KEY, shape, kind)) == jax.ShapeDtypeStruct(shape, kind)
        # One draw, rounded once: a narrow parameter is the float32 one rounded.
        assert bits(found) == bits(np.asarray(values[0]).astype(kind))


def test_float64():
    with jax.enable_x64(True):
        draw = jax.jit(lambda key: [(law(key, shape, jnp.float64), law(key, shape)) for law, shape in FIRST])
        for (law, shape), (wide, default) in zip(FIRST, draw(KEY), strict=True):
            assert (wide.shape, wide.dtype, default.dtype) == (shape, jnp.float64, jnp.float32)
            if (law, shape) in RANDOM:  # drawn in full precision, not widened
                assert not np.array_equal(wide, np.asarray(wide).astype(np.float32))


@pytest.mark.parametrize("law", [law for law, _ in TABLE[:4]] + [init.Identity(2.0)], ids=repr)
@pytest.mark.parametrize("dtype", ["int32", "uint8", "complex64"])
def test_fixed_values_take_other_dtypes(law, dtype):
    found = law(KEY, (3, 3), dtype)
    assert found.dtype == jnp.dtype(dtype)
    assert np.array_equal(found, np.asarray(law(KEY, (3, 3))))


@pytest.mark.parametrize(("law", "shape"), RANDOM, ids=str)
def test_another_key_another_value(law, shape):
    assert bits(law(KEY, shape)) != bits(law(jax.random.key(21), shape))


def test_a_raw_key_serves_as_well():
    raw = jax.random.key_data(KEY)
    assert bits(init.Normal()(raw, (33, 5))) == bits(init.Normal()(KEY, (33, 5)))


@pytest.mark.parametrize(
    ("law", "shape"),
    [(i, shape) for i, _ in TABLE[:3] for shape in [(0,), (0, 3), (3, 0)]]
    + [(TABLE[3][0], (0, 3)), (init.LSTMBias(), (0,))]
    + [(init.Identity(), shape) for shape in [(0, 0), (0, 3), (3, 0)]]
    + [(init.Bilinear(), shape) for shape in [(0, 1, 2, 2), (1, 1, 0, 2), (1, 1, 2, 0)]]
    + [(i, shape) for i, _ in RANDOM for shape in [(0, 3), (3, 0), (0, 0), (2, 0, 3, 3), (2, 2, 0, 3)]]
    + [(init.Uniform(), (0,)), (init.Normal(), (0,)), (init.TruncatedNormal(), (0,))],
    ids=str,
)
def test_zero_size(law, shape):
    found = law(KEY, shape, jnp.bfloat16)
    assert (found.shape, found.dtype) == (shape, jnp.bfloat16)


def test_narrow_draws_are_not_coarse():
    for law in (init.Uniform(1.0), init.Normal(1.0)):
        x = np.asarray(law(KEY, (300, 300), jnp.bfloat16)).astype(np.float64)
        assert len(np.unique(x)) > 1000
        assert abs(x.mean()) < 5 * x.std() / 300


def test_scale_zero_gives_zeros():
    laws = [init.Uniform(0), init.Normal(0), init.Xavier(magnitude=0), init.Orthogonal(0)]
    assert not np.any(jax.jit(lambda key: [law(key, (3, 4)) for law in laws])(KEY))


# --- values ------------------------------------------------------------------------------------------------


def test_values_compare_hash_and_pickle():
    laws = [law for law, _ in TABLE]
    for i, law in enumerate(laws):
        copy = pickle.loads(pickle.dumps(law))
        assert copy == law
        assert hash(copy) == hash(law)
        assert [law == other for other in laws] == [i == j for j in range(len(laws))]
    assert len({*laws, *laws}) == len(laws)
    assert init.Uniform(0.1) != init.Uniform(0.2)
    assert init.Uniform(0.1) != 0.1


def test_values_are_frozen():
    with pytest.raises(FrozenInstanceError):
        init.Uniform().scale = 1.0
    with pytest.raises(FrozenInstanceError):
        init.Constant(1).value = 2


def test_repr_is_the_call():
    assert repr(init.Zeros()) == "Zeros()"
    assert repr(init.Xavier("gaussian")) == "Xavier(rnd_type='gaussian', factor_type='avg', magnitude=3.0)"
    assert repr(init.Constant([1, 2])) == "Constant(value=array([1, 2]))"
    for law, _ in TABLE[4:]:
        assert eval(repr(law), vars(init)) == law


def test_constant_keeps_its_own_copy():
    array = np.array([1.0, 2.0])
    law, before = init.Constant(array), hash(init.Constant(array))
    array[0] = 9
    assert hash(law) == before
    assert law(KEY, (2,)).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        law.value[0] = 9


def test_constant_compares_bits():
    assert init.Constant([1.0, 2.0]) == init.Constant(np.array([1.0, 2.0]))
    assert init.Constant(np.ones(2)) != init.Constant(np.ones((1, 2)))
    assert init.Constant(np.ones(2, np.float32)) != init.Constant(np.ones(2))
    ones = np.ones(2, np.int32)
    assert init.Constant(ones) != init.Constant(ones.view(np.float32))
    assert init.Constant(0.0) != init.Constant(-0.0)
    assert init.Constant(math.nan) == init.Constant(float("nan"))
    assert init.Constant(jnp.ones(2, jnp.bfloat16)) == init.Constant(jnp.ones(2, jnp.bfloat16))
    assert init.Constant(jnp.ones(2, jnp.bfloat16)) != init.Constant(jnp.ones(2, jnp.float16))


def test_constant_takes_what_the_dtype_holds():
    assert init.Constant(True)(KEY, (2,), bool).tolist() == [True, True]
    assert init.Constant(3.0)(KEY, (2,), jnp.int32).tolist() == [3, 3]
    assert init.Constant([[1], [2]])(KEY, (2, 2)).tolist() == [[1, 1], [2, 2]]
    assert np.isposinf(init.Constant(math.inf)(KEY, (1,), jnp.float16))
    assert np.isnan(init.Constant(math.nan)(KEY, (1,)))


def test_a_subclass_of_ones_own():
    @dataclass(frozen=True)
    class Halves(init.Initializer):
        pass

    assert Halves() == Halves()
    assert Halves() != init.Zeros()
    with pytest.raises(NotImplementedError) as caught:
        Halves()(KEY, (2,))
    assert str(caught.value) == "Halves must define __call__(self, key, shape, dtype)"


# --- errors: the full text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: init.Xavier(rnd_type="gausian"),
            "Xavier: rnd_type must be one of uniform, gaussian, found 'gausian'. Did you mean gaussian?",
        ),
        (
            lambda: init.Xavier(factor_type="inn"),
            "Xavier: factor_type must be one of avg, in, out, found 'inn'. Did you mean in?",
        ),
        (lambda: init.He("fan"), "He: factor_type must be one of avg, in, out, found 'fan'."),
        (lambda: init.MSRAPrelu(3), "MSRAPrelu: factor_type must be one of avg, in, out, found 3."),
        (
            lambda: init.Uniform(-0.5),
            "Uniform: scale must be a finite number of at least 0, found -0.5. Give one such as 0.07.",
        ),
        (
            lambda: init.Normal(math.nan),
            "Normal: sigma must be a finite number of at least 0, found nan. Give one such as 0.01.",
        ),
        (
            lambda: init.TruncatedNormal(-1),
            "TruncatedNormal: sigma must be a finite number of at least 0, found -1. Give one such as 0.01.",
        ),
        (
            lambda: init.TruncatedNormal(1, -math.inf),
            "TruncatedNormal: lower must be a finite number, found -inf. Give one such as -2.0.",
        ),
        (
            lambda: init.TruncatedNormal(1, 0, math.inf),
            "TruncatedNormal: upper must be a finite number, found inf. Give one such as 2.0.",
        ),
        (
            lambda: init.TruncatedNormal(1, 2, 2),
            "TruncatedNormal: lower must be below upper, found lower=2 and upper=2. Both count in sigmas, "
            "e.g. lower=-2.0, upper=2.0.",
        ),
        (
            lambda: init.Xavier(magnitude="3"),
            "Xavier: magnitude must be a finite number of at least 0, found '3'. Give one such as 3.0.",
        ),
        (
            lambda: init.MSRAPrelu(slope=None),
            "MSRAPrelu: slope must be a finite number, found None. Give one such as 0.25.",
        ),
        (
            lambda: init.Orthogonal(-1),
            "Orthogonal: scale must be a finite number of at least 0, found -1. Give one such as 1.414.",
        ),
        (
            lambda: init.Identity(math.inf),
            "Identity: gain must be a finite number, found inf. Give one such as 1.0.",
        ),
        (
            lambda: init.LSTMBias("1"),
            "LSTMBias: forget_bias must be a finite number, found '1'. Give one such as 1.0.",
        ),
        (
            lambda: init.Constant("ones"),
            "Constant: the value must be a real number or an array of them, found 'ones'. "
            "For anything else write a function (key, shape, dtype) -> array.",
        ),
        (
            lambda: init.Constant([[1], [2, 3]]),
            "Constant: the value must be a real number or an array of them, found [[1], [2, 3]]. "
            "For anything else write a function (key, shape, dtype) -> array.",
        ),
        (
            lambda: init.Constant(1j),
            "Constant: the value must be a real number or an array of them, found 1j. "
            "For anything else write a function (key, shape, dtype) -> array.",
        ),
        (
            lambda: init.Constant([1, 2, 3])(KEY, (2,)),
            "Constant: a value of shape (3,) does not broadcast to the parameter's shape (2,). "
            "Give a scalar, or an array of shape (2,).",
        ),
        (
            lambda: init.Constant([[1, 2]])(KEY, (2,)),
            "Constant: a value of shape (1, 2) does not broadcast to the parameter's shape (2,). "
            "Give a scalar, or an array of shape (2,).",
        ),
        (
            lambda: init.Constant([1, 0.5])(KEY, (2,), jnp.int32),
            "Constant: dtype int32 cannot hold the value 0.5. "
            "Ask for another dtype, or give a value that int32 holds.",
        ),
        (
            lambda: init.Constant(10**6)(KEY, (2,), jnp.float16),
            "Constant: dtype float16 cannot hold the value 1000000. "
            "Ask for another dtype, or give a value that float16 holds.",
        ),
        (
            lambda: init.Identity(300)(KEY, (2, 2), jnp.int8),
            "Identity: dtype int8 cannot hold the value 300. "
            "Ask for another dtype, or give a value that int8 holds.",
        ),
        (
            lambda: init.LSTMBias(0.5)(KEY, (4,), jnp.int32),
            "LSTMBias: dtype int32 cannot hold the value 0.5. "
            "Ask for another dtype, or give a value that int32 holds.",
        ),
        (
            lambda: init.Bilinear()(KEY, (1, 1, 4, 4), jnp.int32),
            "Bilinear: dtype int32 cannot hold the value 0.0625. "
            "Ask for another dtype, or give a value that int32 holds.",
        ),
        (
            lambda: init.Identity()(KEY, (2, 2, 2)),
            "Identity needs a matrix shape (rows, columns), found (2, 2, 2). "
            "For another number of dimensions use e.g. Orthogonal or Xavier.",
        ),
        (
            lambda: init.Bilinear()(KEY, (4, 4)),
            "Bilinear needs a shape (out, in, height, width), found (4, 4). "
            "Use it for the weight of a transposed 2-d convolution, and e.g. Xavier elsewhere.",
        ),
        (
            lambda: init.LSTMBias()(KEY, (6,)),
            "LSTMBias needs a vector shape (4 * hidden,), found (6,). "
            "Use it for the bias of an LSTM, and e.g. Zeros elsewhere.",
        ),
        (
            lambda: init.LSTMBias()(KEY, (4, 4)),
            "LSTMBias needs a vector shape (4 * hidden,), found (4, 4). "
            "Use it for the bias of an LSTM, and e.g. Zeros elsewhere.",
        ),
    ],
)
def test_error_text(call, text):
    assert message(call) == text


@pytest.mark.parametrize(
    "law", [init.Xavier(), init.He(), init.MSRAPrelu(), init.LecunNormal(), init.Orthogonal()], ids=str
)
@pytest.mark.parametrize("shape", [(), (10,), (0,)], ids=str)
def test_a_vector_has_no_fans(law, shape):
    assert message(lambda: law(KEY, shape)) == (
        f"{type(law).__name__} needs a shape of at least 2 dimensions, (out, in, ...), found {shape}. "
        "For a vector or a scalar use e.g. Normal or Zeros."
    )


@pytest.mark.parametrize(("law", "shape"), RANDOM, ids=str)
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_only_floating_dtypes_are_drawn(law, shape, dtype):
    assert message(lambda: law(KEY, shape, dtype)) == (
        f"{type(law).__name__} draws real numbers, found dtype {dtype}. "
        "Ask for a floating dtype such as float32, or use e.g. Zeros or Constant."
    )
