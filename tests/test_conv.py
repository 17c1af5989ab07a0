"""Convolutions, against their definition written as loops, and every message."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree import init, nn

KEY = jax.random.key(0)


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def pairs(padding, rank):
    each = padding if isinstance(padding, tuple) else (padding,) * rank
    return [pads if isinstance(pads, tuple) else (pads, pads) for pads in each]


def each_axis(value, rank):
    return value if isinstance(value, tuple) else (value,) * rank


def patch(start, kernel, dilation):
    """The slices that a window at `start` covers."""
    axes = zip(start, kernel, dilation, strict=True)
    return tuple(slice(at, at + step * (size - 1) + 1, step) for at, size, step in axes)


def convolved(x, weight, bias, stride, padding, dilation, groups):
    """Convolve by the definition, channels first."""
    kernel = weight.shape[2:]
    rank = len(kernel)
    stride, dilation = each_axis(stride, rank), each_axis(dilation, rank)
    x = np.pad(x, [(0, 0), (0, 0), *pairs(padding, rank)])
    reach = [step * (size - 1) + 1 for step, size in zip(dilation, kernel, strict=True)]
    sizes = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, stride, strict=True)]
    y = np.zeros((x.shape[0], weight.shape[0], *sizes))
    ins, outs = weight.shape[1], weight.shape[0] // groups
    for at in np.ndindex(*sizes):
        covered = x[(..., *patch([i * s for i, s in zip(at, stride, strict=True)], kernel, dilation))]
        for out in range(weight.shape[0]):
            group = out // outs
            part = covered[:, group * ins : (group + 1) * ins]
            y[(slice(None), out, *at)] = (part * weight[out]).reshape(len(x), -1).sum(1) + bias[out]
    return y


def transposed(x, weight, bias, stride, padding, output_padding, dilation, groups):
    """Put the window, scaled by each element, where it belongs, and cut the padding off; channels first."""
    kernel = weight.shape[2:]
    rank = len(kernel)
    stride, dilation = each_axis(stride, rank), each_axis(dilation, rank)
    extra = each_axis(output_padding, rank)
    axes = zip(x.shape[2:], stride, dilation, kernel, extra, strict=True)
    sizes = [(n - 1) * s + d * (k - 1) + 1 + more for n, s, d, k, more in axes]
    ins, outs = x.shape[1] // groups, weight.shape[1]
    y = np.zeros((x.shape[0], outs * groups, *sizes))
    for at in np.ndindex(*x.shape[2:]):
        place = patch([i * s for i, s in zip(at, stride, strict=True)], kernel, dilation)
        for channel in range(x.shape[1]):
            group = channel // ins
            scaled = np.multiply.outer(x[(slice(None), channel, *at)], weight[channel])
            y[(slice(None), slice(group * outs, (group + 1) * outs), *place)] += scaled
    cut = [slice(lo, size - hi) for (lo, hi), size in zip(pairs(padding, rank), sizes, strict=True)]
    return y[(..., *cut)] + bias.reshape(-1, *[1] * rank)


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def check(layer, formula, x, weight, layout, **options):
    """Compare a layer with its formula, in float64, so that nothing hides in rounding."""
    bias = np.random.default_rng(7).normal(size=layer.specs(jnp.asarray(x))["bias"].shape)
    with jax.enable_x64(True):
        out = layer.apply({"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)}, x)
    first = x if layout == "NCHW" else np.moveaxis(x, -1, 1)
    wanted = formula(first, weight, bias, **options)
    np.testing.assert_allclose(
        out, wanted if layout == "NCHW" else channels_last(wanted), rtol=1e-12, atol=1e-12
    )


def sample(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


KERNELS = [
    pytest.param((3,), (9,), id="1d"),
    pytest.param((2, 3), (7, 8), id="2d"),
    pytest.param((2, 1, 3), (5, 4, 6), id="3d"),
]


# --- against the definition ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(("kernel", "sizes"), KERNELS)
def test_conv_is_its_definition(kernel, sizes, layout):
    rank = len(kernel)
    uneven = tuple((axis, 2 - axis % 2) for axis in range(rank))
    for stride, padding, dilation, groups in [
        (1, 0, 1, 1),
        (2, 1, 2, 2),
        (3, uneven, 1, 4),
        (tuple(range(1, rank + 1)), uneven, tuple(range(rank, 0, -1)), 2),
        (1, tuple(range(rank)), 2, 1),
    ]:
        x = sample(2, 4, *sizes) if layout == "NCHW" else sample(2, *sizes, 4)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        layer = nn.Conv(8, kernel, layout=layout, **options)
        check(layer, convolved, x, sample(8, 4 // groups, *kernel, seed=1), layout, **options)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(("kernel", "sizes"), KERNELS)
def test_conv_transpose_is_its_definition(kernel, sizes, layout):
    rank = len(kernel)
    uneven = tuple((axis, 2 - axis % 2) for axis in range(rank))
    sizes = [size // 2 + 1 for size in sizes]
    for stride, padding, output_padding, dilation, groups in [
        (1, 0, 0, 1, 1),
        (2, 1, 0, 2, 2),
        (3, uneven, 2, 1, 4),
        (2, 1, 1, 1, 2),
        (tuple(range(1, rank + 1)), uneven, tuple(range(rank)), tuple(range(rank, 0, -1)), 2),
        (1, 0, 1, 2, 1),
    ]:
        x = sample(2, 4, *sizes) if layout == "NCHW" else sample(2, *sizes, 4)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        options["output_padding"] = output_padding
        layer = nn.ConvTranspose(8, kernel, layout=layout, **options)
        check(layer, transposed, x, sample(4, 8 // groups, *kernel, seed=1), layout, **options)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_conv_transpose_is_the_gradient_of_conv(layout, groups):
    for stride, padding, dilation in [(1, 0, 1), (2, 1, 2), ((2, 3), ((0, 1), (2, 1)), 1), (3, 2, 2)]:
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        options |= {"layout": layout, "use_bias": False}
        params = {"weight": jnp.asarray(sample(4, 6 // groups, 3, 2), "float32")}
        x = jnp.asarray(sample(2, 6, 12, 12) if layout == "NCHW" else sample(2, 12, 12, 6), "float32")
        conv = nn.Conv(4, (3, 2), **options)
        y, vjp = jax.vjp(lambda x, conv=conv, params=params: conv.apply(params, x), x)
        steps = each_axis(stride, 2)
        short = [
            (12 + sum(pads) - dilation * (size - 1) - 1) % step
            for pads, size, step in zip(pairs(padding, 2), (3, 2), steps, strict=True)
        ]
        back = nn.ConvTranspose(6, (3, 2), output_padding=tuple(short), **options)
        np.testing.assert_allclose(back.apply(params, y), vjp(y)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stride", "kernel"), [*product((1, 2, 3), ((2, 3), (4, 1), (5, 2)))])
def test_same_is_as_xla_pads(stride, kernel):
    x, weight = jnp.asarray(sample(2, 7, 8, 3), "float32"), jnp.asarray(sample(4, 3, *kernel), "float32")
    for text in ("same", "SAME", "Valid"):
        out = nn.Conv(4, kernel, stride=stride, padding=text, use_bias=False).apply({"weight": weight}, x)
        wanted = jax.lax.conv_general_dilated(
            x, weight, (stride, stride), text.upper(), dimension_numbers=("NHWC", "OIHW", "NHWC")
        )
        np.testing.assert_array_equal(out, wanted)
    assert nn.Conv(4, kernel, stride=stride, padding="same").specs(x)["weight"].shape == (4, 3, *kernel)


@pytest.mark.parametrize(("stride", "kernel"), [*product((1, 2, 3, 5), ((2, 3), (4, 1), (5, 2)))])
def test_same_of_a_transposed_convolution_is_as_xla_pads(stride, kernel):
    x, weight = jnp.asarray(sample(2, 4, 5, 3), "float32"), jnp.asarray(sample(3, 4, *kernel), "float32")
    out = nn.ConvTranspose(4, kernel, stride=stride, padding="same", use_bias=False).apply(
        {"weight": weight}, x
    )
    assert out.shape == (2, 4 * stride, 5 * stride, 4)
    wanted = jax.lax.conv_transpose(
        x, weight, (stride, stride), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC"), transpose_kernel=True
    )
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)
    plain = nn.ConvTranspose(4, kernel, stride=stride, padding="valid").specs(x)
    assert plain["weight"].shape == (3, 4, *kernel)


def test_valid_of_a_transposed_convolution_cuts_nothing():
    out = nn.ConvTranspose(1, (2,), stride=3, padding="valid", use_bias=False).apply(
        {"weight": jnp.array([[[1.0, 2.0]]])}, jnp.array([[[1.0], [10.0]]])
    )
    np.testing.assert_array_equal(out.ravel(), [1, 2, 0, 10, 20])


def test_a_kernel_is_not_flipped_but_spread_when_transposed():
    weight = {"weight": jnp.array([[[1.0, 2.0, 3.0]]])}
    x = jnp.array([0.0, 0, 1, 0, 0]).reshape(1, 5, 1)
    np.testing.assert_array_equal(nn.Conv(1, (3,), use_bias=False).apply(weight, x).ravel(), [3, 2, 1])
    back = nn.ConvTranspose(1, (3,), use_bias=False).apply(weight, x[:, 2:3])
    np.testing.assert_array_equal(back.ravel(), [1, 2, 3])


def test_a_symmetric_padding_is_the_same_in_all_its_forms():
    x, layers = jnp.ones((1, 6, 6, 2)), []
    for padding in (2, (2, 2), [2, 2], ((2, 2), (2, 2)), [[2, 2], 2], np.int64(2)):
        layers.append(nn.Conv(3, 3, padding=padding))
    outs = [layer.apply(layers[0].init(KEY, x), x) for layer in layers]
    for layer, out in zip(layers, outs, strict=True):
        assert repr(layer) == "Conv(3, 3x3, pad 2)"
        np.testing.assert_array_equal(out, outs[0])


def test_an_integer_kernel_has_two_axes():
    x = jnp.ones((1, 5, 5, 2))
    assert nn.Conv(3, 2).init(KEY, x)["weight"].shape == (3, 2, 2, 2)
    assert nn.ConvTranspose(3, np.int64(2)).init(KEY, x)["weight"].shape == (2, 3, 2, 2)


def test_the_bias_is_added_to_the_channels_and_the_activation_comes_last():
    params = {"weight": jnp.zeros((2, 3, 1, 1)), "bias": jnp.array([-1.0, 2.0])}
    out = nn.Conv(2, 1, "relu", layout="NCHW").apply(params, jnp.ones((1, 3, 2, 2)))
    np.testing.assert_array_equal(out[0], [[[0, 0], [0, 0]], [[2, 2], [2, 2]]])
    params["weight"] = jnp.zeros((3, 2, 1, 1))
    out = nn.ConvTranspose(2, 1, jax.nn.relu).apply(params, jnp.ones((1, 1, 2, 3)))
    np.testing.assert_array_equal(out[0], [[[0, 2], [0, 2]]])


def test_layouts_of_a_rank_by_their_own_name():
    for rank, last, first in ((1, "NWC", "NCW"), (2, "NHWC", "NCHW"), (3, "NDHWC", "NCDHW")):
        x = jnp.ones((1, *[4] * rank, 3))
        assert nn.Conv(2, (2,) * rank, layout=last).specs(x)["weight"].shape == (2, 3, *[2] * rank)
        assert nn.Conv(2, (2,) * rank, layout=first).specs(x)["weight"].shape == (2, 4, *[2] * rank)
        assert nn.ConvTranspose(2, (2,) * rank, layout=first).specs(x)["weight"].shape[:2] == (4, 2)


def test_initialisers():
    for make in (nn.Conv, nn.ConvTranspose):
        layer = make(2, 3, weight_init=init.Constant(2.0), bias_init=init.Constant(5.0))
        params = layer.init(KEY, jnp.ones((1, 4, 4, 3)), init=init.Normal(1.0))
        assert (params["weight"] == 2).all()
        assert (params["bias"] == 5).all()
        plain = make(20, 3).init(KEY, jnp.ones((1, 4, 4, 20)))
        assert not plain["bias"].any()
        assert 0.069 < abs(plain["weight"]).max() <= 0.07


def test_images_of_bytes_are_promoted_where_jax_promotes():
    x = np.arange(25, dtype="uint8").reshape(1, 5, 5, 1)
    for layer in (nn.Conv(1, 2), nn.ConvTranspose(1, 2)):
        params = layer.init(KEY, x.astype("float32"))
        with jax.numpy_dtype_promotion("standard"):
            out = layer.apply(params, x)
        assert out.dtype == jnp.float32
        np.testing.assert_array_equal(out, layer.apply(params, x.astype("float32")))


# --- symbols ------------------------------------------------------------------------------------------------


def test_symbolic_sizes_go_through():
    net = nn.Sequential(
        nn.Conv(4, 5, padding=2), nn.Conv(6, 3, stride=2, padding="same", groups=2),
        nn.ConvTranspose(8, 3, stride=2, groups=2), nn.Conv(2, 1, layout="NCHW"),
    )  # fmt: skip
    shapes = {name: spec.shape for name, spec in pt.collect_params(net.specs("b, h, w, c")).items()}
    assert str(shapes["conv0/weight"]) == "(4, c, 5, 5)"
    assert shapes["conv1/weight"] == (6, 2, 3, 3)
    assert shapes["convtranspose0/weight"] == (6, 4, 3, 3)
    assert str(shapes["conv2/weight"]) == "(2, - 2*floordiv(- h, 2) + 1, 1, 1)"


def test_groups_of_a_symbol():
    assert str(nn.Conv(4, 3, groups=2).specs("b, h, w, 2*c")["weight"]) == "ParamSpec((4, c, 3, 3), float32)"
    transposed = nn.ConvTranspose(4, 3, groups=2).specs("b, h, w, 2*c")["weight"]
    assert str(transposed) == "ParamSpec((2*c, 2, 3, 3), float32)"
    for make in (nn.Conv, nn.ConvTranspose):
        assert message(pt.MismatchError, lambda make=make: make(4, 3, groups=2).specs("b, h, w, c")) == (
            f"{make.__name__}(float32[b,h,w,c]) needs input channels that its 2 groups divide, and got c. "
            "Write a symbol as a multiple, 2*c."
        )


# --- messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [nn.Conv, nn.ConvTranspose])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"channels": 0}, "channels to be an integer of at least 1, and got 0."),
        ({"channels": "8"}, "channels to be an integer of at least 1, and got '8'."),
        ({"groups": 0}, "groups to be an integer of at least 1, and got 0."),
        ({"groups": 3}, "channels that its 3 groups divide, and got 8."),
        ({"kernel": 0}, "kernel to be an integer of at least 1, or 2 of them, and got 0."),
        ({"kernel": (3, 0, 3)}, "kernel to be an integer of at least 1, or 3 of them, and got (3, 0, 3)."),
        ({"kernel": 2.0}, "kernel to be an integer of at least 1, or 2 of them, and got 2.0."),
        ({"kernel": ()}, "kernel to be an integer, or one for each of 1 to 3 axes, and got ()."),
        (
            {"kernel": (1,) * 4},
            "kernel to be an integer, or one for each of 1 to 3 axes, and got (1, 1, 1, 1).",
        ),
        ({"stride": 0}, "stride to be an integer of at least 1, or 2 of them, and got 0."),
        ({"stride": (1, 2, 3)}, "stride to be an integer of at least 1, or 2 of them, and got (1, 2, 3)."),
        ({"stride": None}, "stride to be an integer of at least 1, or 2 of them, and got None."),
        ({"dilation": 0}, "dilation to be an integer of at least 1, or 2 of them, and got 0."),
        ({"padding": -1}, "the padding of an axis to be an integer of at least 0, or 2 of them, and got -1."),
        (
            {"padding": (1, (1, 2, 3))},
            "the padding of an axis to be an integer of at least 0, or 2 of them, and got (1, 2, 3).",
        ),
        (
            {"padding": "full"},
            "padding to be an integer, one or a pair (before, after) for each axis, here 2, 'same' or "
            "'valid', and got 'full'.",
        ),
        (
            {"padding": (1, 2, 3)},
            "padding to be an integer, one or a pair (before, after) for each axis, here 2, 'same' or "
            "'valid', and got (1, 2, 3).",
        ),
        ({"layout": "NWC"}, "layout to be 'NHWC' or 'NCHW', and got 'NWC'."),
        ({"kernel": (3,), "layout": "nhwc"}, "layout to be 'NWC' or 'NCW', and got 'nhwc'."),
    ],
)
def test_a_bad_setting(make, options, text):
    settings = {"channels": 8, "kernel": 3} | options
    assert message(pt.ParamTreeError, lambda: make(**settings)) == f"{make.__name__} needs {text}"


def test_a_bad_output_padding():
    for more, text in ((2, "2"), ((0, 5), "(0, 5)")):
        assert message(
            pt.ParamTreeError, lambda more=more: nn.ConvTranspose(1, 3, stride=2, output_padding=more)
        ) == (
            "ConvTranspose needs output_padding smaller than its stride, 2, or its dilation, 1, "
            f"and got {text}."
        )
    assert message(pt.ParamTreeError, lambda: nn.ConvTranspose(1, 3, output_padding=-1)) == (
        "ConvTranspose needs output_padding to be an integer of at least 0, or 2 of them, and got -1."
    )


@pytest.mark.parametrize("make", [nn.Conv, nn.ConvTranspose])
def test_an_input_of_another_rank(make):
    name = make.__name__
    assert message(pt.MismatchError, lambda: make(1, 3).init(KEY, jnp.ones((5, 5, 3)))) == (
        f"{name}(float32[5,5,3]) needs an input of 4 axes, (batch, height, width, channels), and got 3."
    )
    assert message(pt.MismatchError, lambda: make(1, (3,), layout="NCW").specs("b, 3, 4, c")) == (
        f"{name}(float32[b,3,4,c]) needs an input of 3 axes, (batch, channels, width), and got 4."
    )
    assert message(pt.MismatchError, lambda: make(1, (3, 3, 3)).init(KEY, jnp.float32(1))) == (
        f"{name}(float32[]) needs an input of 5 axes, (batch, depth, height, width, channels), and got 0."
    )


@pytest.mark.parametrize("make", [nn.Conv, nn.ConvTranspose])
def test_input_channels_that_do_not_fit(make):
    name = make.__name__
    assert message(pt.MismatchError, lambda: make(4, 3, groups=2).init(KEY, jnp.ones((1, 5, 5, 3)))) == (
        f"{name}(float32[1,5,5,3]) needs input channels that its 2 groups divide, and got 3."
    )
    params = make(4, 3).init(KEY, jnp.ones((1, 5, 5, 3)))
    had, needed = ("(4, 3, 3, 3)", "(4, 2, 3, 3)") if name == "Conv" else ("(3, 4, 3, 3)", "(2, 4, 3, 3)")
    assert message(pt.MismatchError, lambda: make(4, 3).apply(params, jnp.ones((1, 5, 5, 2)))) == (
        f"weight has shape {had}, and {name}(float32[1,5,5,2]) needs {needed}. "
        "Pass an input that fits, or init new parameters."
    )


def test_an_input_smaller_than_the_kernel():
    assert message(pt.MismatchError, lambda: nn.Conv(1, (3, 5)).init(KEY, jnp.ones((1, 4, 4, 3)))) == (
        "Conv(float32[1,4,4,3]) needs spatial axes of at least (3, 5) with padding, and got (4, 4)."
    )
    layer = nn.Conv(1, 3, dilation=2, padding=(1, (0, 1)), layout="NCHW")
    assert message(pt.MismatchError, lambda: layer.specs("b, c, 2, w")) == (
        "Conv(float32[b,c,2,w]) needs spatial axes of at least (5, 5) with padding, and got (4, w + 1)."
    )
    assert layer.specs("b, c, 3, w")["weight"].shape[2:] == (3, 3)
    nn.Conv(1, 9, padding="same").init(KEY, jnp.ones((1, 1, 1, 3)))
    net = nn.Sequential(nn.Conv(1, 3), nn.Conv(1, 3, padding="valid"))
    assert message(pt.MismatchError, lambda: net.init(KEY, jnp.ones((1, 4, 4, 3)))) == (
        "conv1(float32[1,2,2,1]) needs spatial axes of at least (3, 3) with padding, and got (2, 2)."
    )


def test_a_padding_that_leaves_no_output():
    layer = nn.ConvTranspose(1, (3,), padding=2)
    assert message(pt.MismatchError, lambda: layer.init(KEY, jnp.ones((1, 2, 3)))) == (
        "ConvTranspose(float32[1,2,3]) needs a larger input or less padding: its output would have the "
        "spatial axes (0,)."
    )
    assert layer.init(KEY, jnp.ones((1, 3, 3)))["weight"].shape == (3, 1, 3)
    layer = nn.ConvTranspose(1, 2, padding=((0, 3), 1))
    assert message(pt.MismatchError, lambda: layer.specs("b, 1, w, 3")) == (
        "ConvTranspose(float32[b,1,w,3]) needs a larger input or less padding: its output would have the "
        "spatial axes (-1, w - 1)."
    )


@pytest.mark.parametrize("make", [nn.Conv, nn.ConvTranspose])
def test_an_empty_axis(make):
    for padding in (0, 3, "same"):
        assert (
            message(
                pt.MismatchError, lambda p=padding: make(1, 3, padding=p).init(KEY, jnp.ones((1, 0, 5, 3)))
            )
            == f"{make.__name__}(float32[1,0,5,3]) needs an input whose spatial axes are not empty."
        )


# --- how they print -----------------------------------------------------------------------------------------


def test_how_options_print():
    assert repr(nn.Conv(8, 3)) == "Conv(8, 3x3)"
    layer = nn.Conv(8, 3, "relu", stride=(2, 1), padding=((1, 2), 0), groups=4, layout="NCHW", use_bias=False)
    assert repr(layer) == "Conv(8, 3x3, stride 2x1, pad 1+2x0, NCHW, groups 4, relu)"
    params = layer.init(KEY, jnp.ones((1, 4, 5, 5)))
    assert repr(pt.bind(layer, params)) == ("Conv(4 -> 8, 3x3, stride 2x1, pad 1+2x0, NCHW, groups 4, relu)")
    layer = nn.ConvTranspose(8, (3,), jax.nn.gelu, stride=2, output_padding=1, dilation=3, groups=2)
    assert repr(layer) == "ConvTranspose(8, 3, stride 2, dilation 3, output pad 1, groups 2, gelu)"
    params = layer.init(KEY, jnp.ones((1, 5, 6)))
    assert repr(pt.bind(layer, params)).startswith("ConvTranspose(6 -> 8, 3, stride 2")
    assert repr(nn.Conv(8, 3, padding="Same")) == "Conv(8, 3x3, same)"
    assert repr(nn.Conv(8, 3, padding="valid")) == "Conv(8, 3x3)"
