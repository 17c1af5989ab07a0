"""Pools, against their definition written as loops, and every message."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import paramtree as pt
from paramtree import nn


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def each_axis(value, rank):
    return value if isinstance(value, tuple) else (value,) * rank


def windows(size, window, stride, pads, ceil):
    """List each window's (start, end, places in the padded input), counted from the input's first element."""
    before, after = pads
    found, start = [], -before
    while start + window <= size + after or (
        ceil and start < size and (not found or found[-1][0] + window < size + after)
    ):
        found.append((start, start + window, min(start + window, size + after) - start))
        start += stride
    return found


def pooled(x, cotangent, largest, window, stride, padding, ceil=False, count_include_pad=True):
    """Pool by the definition, channels first; give the output, and the gradient by the input."""
    rank = len(window)
    each = each_axis(padding, rank)
    pads = [pad if isinstance(pad, tuple) else (pad, pad) for pad in each]
    along = [
        windows(*axis, ceil) for axis in zip(x.shape[2:], window, each_axis(stride, rank), pads, strict=True)
    ]
    y, grad = np.zeros((*x.shape[:2], *map(len, along))), np.zeros(x.shape)
    for at in np.ndindex(*y.shape[2:]):
        spans = [axis[i] for axis, i in zip(along, at, strict=True)]
        place = tuple(slice(max(start, 0), end) for start, end, _ in spans)
        places = np.prod([counted for *_, counted in spans])
        for sample in np.ndindex(*x.shape[:2]):
            part, given = x[(*sample, *place)], 0 if cotangent is None else cotangent[(*sample, *at)]
            if largest:
                y[(*sample, *at)] = part.max()
                grad[(*sample, *place)][np.unravel_index(part.argmax(), part.shape)] += given
            else:
                count = places if count_include_pad else part.size
                y[(*sample, *at)] = part.sum() / count
                grad[(*sample, *place)] += given / count
    return y, grad


def check(layer, largest, x, layout, **options):
    """Compare a layer and its gradient with its definition, in float64."""
    first = x if layout == "NCHW" else np.moveaxis(x, -1, 1)
    shape = pooled(first, None, largest, **options)[0].shape
    cotangent = np.random.default_rng(2).normal(size=shape)
    wanted, gradient = pooled(first, cotangent, largest, **options)
    if layout == "NHWC":
        wanted, gradient, cotangent = (np.moveaxis(each, 1, -1) for each in (wanted, gradient, cotangent))
    with jax.enable_x64(True):
        out, vjp = jax.vjp(jax.jit(lambda x: layer.apply({}, x)), jnp.asarray(x))
        found = vjp(jnp.asarray(cotangent))[0]
    np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found, gradient, rtol=1e-12, atol=1e-12)


# --- against the definition ---------------------------------------------------------------------------------

CASES = [  # sizes, window, stride, padding
    ((7,), (3,), 2, 0),
    ((6,), (3,), 2, 1),
    ((8,), (2,), 5, 0),  # a window between the strides
    ((9,), (2,), 4, 1),  # rounded up, a window would start in the padding
    ((3,), (4,), 3, ((3, 2),)),
    ((1,), (3,), 1, 1),
    ((5, 6), (2, 3), (2, 1), 1),
    ((6, 8), (3, 3), 2, (0, (2, 1))),
    ((6, 4), (3, 4), 4, (2, 0)),
    ((4, 5, 6), (2, 3, 2), (2, 2, 3), (1, 0, (0, 1))),
    ((4, 3, 5), (3, 1, 2), (3, 2, 2), 0),
]


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("sizes", "window", "stride", "padding"), CASES)
def test_pools_are_their_definition(sizes, window, stride, padding, ceil):
    layout = "NHWC" if ceil == (len(sizes) == 2) else "NCHW"
    shape = (2, 3, *sizes) if layout == "NCHW" else (2, *sizes, 3)
    x = np.random.default_rng(1).normal(size=shape) - 1  # below the zeros of a wrong padding
    options = {"stride": stride, "padding": padding, "ceil": ceil}
    check(nn.MaxPool(window, layout=layout, **options), True, x, layout, window=window, **options)
    for counted in (True, False):
        layer = nn.AvgPool(window, layout=layout, count_include_pad=counted, **options)
        check(layer, False, x, layout, window=window, count_include_pad=counted, **options)


def test_what_is_outside_of_the_padded_input_never_counts():
    x = jnp.arange(1.0, 7).reshape(1, 6, 1)
    pool = lambda **kw: nn.AvgPool((3,), stride=2, padding=1, **kw).apply({}, x).ravel()
    np.testing.assert_allclose(pool(), [1, 3, 5], rtol=1e-6)
    np.testing.assert_allclose(pool(ceil=True), [1, 3, 5, 3], rtol=1e-6)  # (6 + 0) / 2
    np.testing.assert_allclose(pool(count_include_pad=False), [1.5, 3, 5], rtol=1e-6)
    np.testing.assert_allclose(pool(ceil=True, count_include_pad=False), [1.5, 3, 5, 6], rtol=1e-6)


def test_a_window_that_would_start_after_the_input_is_left_out():
    x = jnp.arange(1.0, 4).reshape(1, 3, 1)
    for make in (nn.MaxPool, nn.AvgPool):
        assert make((2,), padding=1, ceil=True).apply({}, x).shape == (1, 2, 1)  # the third: padding alone
        assert make((1,), stride=4, ceil=True).apply({}, x).shape == (1, 1, 1)
        assert make((1,), stride=2, ceil=True).apply({}, x).shape == (1, 2, 1)


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_same_is_as_xla_pads(stride):
    x = np.random.default_rng(0).normal(size=(2, 7, 8, 3)).astype("float32") - 1
    window, strides = (1, 2, 3, 1), (1, stride, stride, 1)
    largest = jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, strides, "SAME")
    total = jax.lax.reduce_window(x, np.float32(0), jax.lax.add, window, strides, "SAME")
    count = jax.lax.reduce_window(np.ones_like(x), np.float32(0), jax.lax.add, window, strides, "SAME")
    for ceil in (False, True):
        options = {"stride": stride, "padding": "same", "ceil": ceil}
        np.testing.assert_array_equal(nn.MaxPool((2, 3), **options).apply({}, x), largest)
        np.testing.assert_allclose(nn.AvgPool((2, 3), **options).apply({}, x), total / 6, rtol=1e-6)
        mean = nn.AvgPool((2, 3), count_include_pad=False, **options).apply({}, x)
        np.testing.assert_allclose(mean, total / count, rtol=1e-6)
    assert nn.MaxPool(2, padding="valid").apply({}, x).shape == (2, 3, 4, 3)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_pools(rank):
    x = np.random.default_rng(0).normal(size=(2, *(3, 4, 5)[:rank], 6)).astype("float32")
    axes = tuple(range(1, rank + 1))
    first = np.moveaxis(x, -1, 1)
    for make, reduce in ((nn.GlobalAvgPool, np.mean), (nn.GlobalMaxPool, np.max)):
        wanted = reduce(x, axis=axes, keepdims=True)
        np.testing.assert_allclose(make().apply({}, x), wanted, rtol=1e-5, atol=1e-6)
        out = make(layout="NCHW").apply({}, first)
        np.testing.assert_allclose(out, np.moveaxis(wanted, -1, 1), rtol=1e-5, atol=1e-6)


# --- gradients, dtypes, special values ----------------------------------------------------------------------


def test_of_equal_elements_the_first_gets_the_gradient():
    grad = jax.grad(lambda x: nn.MaxPool((2,)).apply({}, x).sum())(jnp.ones((1, 4, 1)))
    np.testing.assert_array_equal(grad.ravel(), [1, 0, 1, 0])


def test_second_and_forward_derivatives():
    x = jnp.asarray(np.random.default_rng(0).permutation(16).reshape(1, 4, 4, 1), "float32") / 4
    for layer in (nn.MaxPool(3, stride=1, padding=1), nn.AvgPool(3, stride=2, ceil=True)):
        squared = jax.jit(lambda x, layer=layer: (layer.apply({}, x) ** 2).sum())
        check_grads(squared, (x,), 1, ["fwd"], atol=2e-2, rtol=2e-2)
        check_grads(jax.jit(jax.grad(squared)), (x,), 1, ["rev"], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_floats_are_added_up_in_float32(dtype):
    x = jnp.asarray(np.random.default_rng(0).uniform(50, 100, (1, 64, 64, 1)), dtype)
    exact = np.asarray(x, "float64").mean()
    uncounted = nn.AvgPool(65, padding=((1, 0), (0, 1)), count_include_pad=False)
    for layer in (nn.AvgPool(64), uncounted, nn.GlobalAvgPool()):
        out = layer.apply({}, x)
        assert (out.shape, out.dtype) == ((1, 1, 1, 1), dtype)
        assert out == jnp.asarray(exact, dtype)


def test_integers():
    x = jnp.array([-5, -3, -128, -7, 1, 2], "int8").reshape(1, 6, 1)
    out = nn.MaxPool((2,), padding=1).apply({}, x)
    assert out.dtype == jnp.int8
    np.testing.assert_array_equal(out.ravel(), [-5, -3, 1, 2])
    assert nn.MaxPool((2,)).apply({}, x.astype("uint8")).dtype == jnp.uint8
    assert nn.GlobalMaxPool().apply({}, x).dtype == jnp.int8
    for layer in (nn.AvgPool((6,)), nn.GlobalAvgPool(), nn.AvgPool((8,), padding=1, count_include_pad=False)):
        out = layer.apply({}, x)
        assert out.dtype == jnp.float32
        np.testing.assert_allclose(out.ravel(), [-140 / 6], rtol=1e-6)


def test_infinities_and_nan_go_through():
    x = jnp.array([-jnp.inf, -jnp.inf, jnp.nan, 1, jnp.inf, 2]).reshape(1, 6, 1)
    np.testing.assert_array_equal(nn.MaxPool((2,)).apply({}, x).ravel(), [-np.inf, np.nan, np.inf])


def test_symbolic_sizes_go_through():
    layers = [
        nn.MaxPool(3, stride=2, padding=1, ceil=True), nn.AvgPool(2, ceil=True),
        nn.MaxPool(2, padding="same"),
        nn.AvgPool(3, padding="same", count_include_pad=False),
        nn.AvgPool(2, padding=1, count_include_pad=False),
    ]  # fmt: skip
    for layer in layers:
        net = nn.Sequential(layer, nn.GlobalMaxPool(), nn.Flatten(), nn.Dense(2))
        assert str(net.specs("b, h, w, c")["dense0"]["weight"]) == "ParamSpec((2, c), float32)"
        assert net.specs("b, 20, 20, 3")["dense0"]["weight"].shape == (2, 3)
    whole = nn.Sequential(nn.MaxPool(2, padding="same"), nn.Flatten(), nn.Dense(2))
    assert str(whole.specs("b, 2*h, 4, 3")["dense0"]["weight"]) == "ParamSpec((2, 6*h), float32)"


# --- messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [nn.MaxPool, nn.AvgPool])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"window": 0}, "window to be an integer of at least 1, or 2 of them, and got 0."),
        (
            {"window": (2,) * 4},
            "window to be an integer, or one for each of 1 to 3 axes, and got (2, 2, 2, 2).",
        ),
        ({"stride": 0}, "stride to be an integer of at least 1, or 2 of them, and got 0."),
        ({"stride": (1,)}, "stride to be an integer of at least 1, or 2 of them, and got (1,)."),
        ({"padding": -1}, "the padding of an axis to be an integer of at least 0, or 2 of them, and got -1."),
        (
            {"padding": "some"},
            "padding to be an integer, one or a pair (before, after) for each axis, here 2, 'same' or "
            "'valid', and got 'some'.",
        ),
        (
            {"padding": 2},
            "padding smaller than its window, 2x2, and got 2: a window in the padding alone holds nothing.",
        ),
        (
            {"window": (2, 3), "padding": (0, (0, 3))},
            "padding smaller than its window, 2x3, and got (0, (0, 3)): a window in the padding alone holds "
            "nothing.",
        ),
        ({"layout": "NCW"}, "layout to be 'NHWC' or 'NCHW', and got 'NCW'."),
    ],
)
def test_a_bad_setting(make, options, text):
    assert message(pt.ParamTreeError, lambda: make(**({"window": 2} | options))) == (
        f"{make.__name__} needs {text}"
    )


def test_padding_of_more_than_half_the_window():
    x = jnp.arange(1.0, 4).reshape(1, 3, 1)
    np.testing.assert_array_equal(nn.MaxPool((3,), stride=1, padding=2).apply({}, x).ravel(), [1, 2, 3, 3, 3])


@pytest.mark.parametrize("make", [nn.MaxPool, nn.AvgPool])
def test_an_input_that_does_not_fit(make):
    name = make.__name__
    assert message(pt.MismatchError, lambda: make(3).apply({}, jnp.ones((4, 4, 1)))) == (
        f"{name}(float32[4,4,1]) needs an input of 4 axes, (batch, height, width, channels), and got 3."
    )
    for ceil in (False, True):
        layer = make((5, 3), stride=3, padding=(1, 0), ceil=ceil, layout="NCHW")
        assert message(pt.MismatchError, lambda layer=layer: layer.apply({}, jnp.ones((1, 1, 2, 4)))) == (
            f"{name}(float32[1,1,2,4]) needs spatial axes of at least (5, 3) with padding, and got (4, 4)."
        )
    for padding in (1, "same"):
        layer = make(2, padding=padding)
        assert message(pt.MismatchError, lambda layer=layer: layer.apply({}, jnp.ones((1, 0, 4, 1)))) == (
            f"{name}(float32[1,0,4,1]) needs an input whose spatial axes are not empty."
        )


@pytest.mark.parametrize("make", [nn.GlobalAvgPool, nn.GlobalMaxPool])
def test_an_input_of_a_global_pool_that_does_not_fit(make):
    name = make.__name__
    for shape, text in (((2, 3), "2,3"), ((1,) * 6, "1,1,1,1,1,1")):
        assert message(pt.MismatchError, lambda shape=shape: make().apply({}, jnp.ones(shape))) == (
            f"{name}(float32[{text}]) needs an input of 3 to 5 axes, a batch, 1 to 3 spatial axes and "
            f"channels, and got {len(shape)}."
        )
    assert message(pt.MismatchError, lambda: make(layout="NCHW").apply({}, jnp.ones((2, 3, 0)))) == (
        f"{name}(float32[2,3,0]) needs an input whose spatial axes are not empty."
    )
    assert make().apply({}, jnp.ones((2, 3, 0))).shape == (2, 1, 0)
    assert message(pt.ParamTreeError, lambda: make(layout="NCW")) == (
        f"{name} needs layout to be 'NHWC' or 'NCHW', and got 'NCW'."
    )


def test_what_is_no_real_number():
    for layer in (nn.MaxPool(1), nn.AvgPool(1), nn.GlobalAvgPool(), nn.GlobalMaxPool()):
        for dtype in ("bool", "complex64"):
            x = jnp.ones((1, 1, 1, 1), dtype)
            assert message(pt.MismatchError, lambda layer=layer, x=x: layer.apply({}, x)) == (
                f"{layer.title}({dtype}[1,1,1,1]) needs real numbers. Convert them with .astype(float)."
            )


def test_how_options_print():
    assert repr(nn.MaxPool(2)) == "MaxPool(2x2)"
    assert repr(nn.MaxPool(2, stride=2, padding="valid")) == "MaxPool(2x2)"
    assert repr(nn.MaxPool((3,), stride=1, padding="same", ceil=True)) == "MaxPool(3, stride 1, same, ceil)"
    layer = nn.AvgPool((2, 3), padding=((0, 1), 2), layout="NCHW", count_include_pad=False)
    assert repr(layer) == "AvgPool(2x3, pad 0+1x2, NCHW, pad not counted)"
    assert repr(nn.GlobalAvgPool(layout="NCHW")) == "GlobalAvgPool(NCHW)"
    assert repr(nn.GlobalMaxPool()) == "GlobalMaxPool()"
