"""Pictures of parameters: what they show, what they say they leave out, and every refusal."""

import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree.report import plot_canvas, plot_data, plot_matrices
from paramtree.report.plot import plot

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(8, 5)).astype("float32")
PARAMS = {
    "dense0": {"weight": WEIGHT, "bias": np.zeros(8, "float32")},
    "dense1": {"weight": WEIGHT[:3] * 0.5, "bias": np.array([0.1, -0.1, 0.2], "float32")},
}
ODD = {
    "a $x$ <b>": {
        "bf16": jnp.ones((3, 3), "bfloat16"),
        "bool": np.array([True, False]),
        "complex": np.array([[3 + 4j, 0], [0, 1j]]),
        "empty": np.zeros((0, 3), "float32"),
        "float8": jnp.linspace(-1, 1, 64).astype("float8_e4m3fn").reshape(8, 8),
        "huge": np.array([1e30, -1e30, np.inf, 1], "float32"),
        "int": np.arange(10),
        "nan": np.full(5, np.nan, "float32"),
        "scalar": 3.5,
    },
    "key": jax.random.key(0),
    "label": "decay",
    "norm": jax.nn.relu,
    "conv": {"kernel": RANDOM.normal(size=(3, 3, 4, 6))},
    "first": {"weight": RANDOM.normal(size=(16, 3, 7, 7))},
    "a_very_long_name_of_a_block_that_goes_on": {"and_on_and_on_to_the_very_end_of_the_line": WEIGHT},
    "stack": {"weight": RANDOM.normal(size=(5, 20, 30))},
    "again": pt.Alias("conv"),
}


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def texts(figure):
    return [text.get_text() for text in figure.texts]


def rows(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def notes(axes):
    """What is written at the right of the rows: row -> text."""
    found = [(round(text.xy[1]), text.get_text()) for text in axes.texts if text.xy[0] == 1]
    return {row: text for row, text in found if text and "\N{BLACK SQUARE}" not in text}


def drawn(figure):
    figure.canvas.draw()
    return figure


# --- every kind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hist", "image", "spectrum", "grads"])
@pytest.mark.parametrize("layers", [1, 10, 100, 230])
def test_every_kind_is_drawn_for_few_and_many_layers(kind, layers):
    params = {f"layer{n}": {"weight": WEIGHT} for n in range(layers)}
    figure = drawn(plot(params, kind=kind, grads=params if kind == "grads" else None))
    words = {"hist": "Histogram", "image": "Image", "spectrum": "Singular value", "grads": "Gradient norm"}
    assert texts(figure)[0].startswith(words[kind])
    cut = [text for text in texts(figure) if "not shown" in text]
    many = ["30 of 230 are not shown, from the middle: select fewer"]
    assert cut == (many if layers == 230 else [])
    width, height = figure.get_size_inches()
    assert 4 < width < 12
    assert 1.5 < height < 40


@pytest.mark.parametrize("kind", ["hist", "image", "spectrum"])
def test_leaves_of_every_sort(kind):
    figure = drawn(plot(ODD, kind=kind))
    assert "left out, as they are no numbers: key, label, norm" in texts(figure)
    absolute = "absolute values of complex numbers: a $x$ <b>/complex"
    assert (absolute in texts(figure)) == (kind != "spectrum")


def test_tied_parameters_are_drawn_once():
    params = {"a": {"w": WEIGHT}, "b": pt.Alias("a")}
    assert rows(plot(params)) == ["a/w"]
    assert texts(plot(params, kind="image"))[0] == "Image"


# --- histograms ---------------------------------------------------------------------------------------------


def test_histograms_stand_in_natural_order_on_one_scale():
    figure = plot(PARAMS)
    assert texts(figure) == ["Histograms of 4 parameters", "each to its own peak"]
    assert rows(figure) == ["dense0/weight", "dense0/bias", "dense1/weight", "dense1/bias"]
    (axes,) = figure.axes
    assert axes.get_xlabel() == "value"
    low, high = axes.get_xlim()
    assert low < WEIGHT.min() < WEIGHT.max() < high
    assert notes(axes) == {1: "constant 0"}
    weights, vectors = plot_canvas.BLUE, plot_canvas.ORANGE
    assert [patch.get_facecolor() for patch in axes.patches] == [
        to_rgba(colour) for colour in (weights, vectors, weights, vectors)
    ]


def test_a_histogram_counts_what_numpy_counts():
    figure = plot({"w": WEIGHT})
    assert texts(figure) == ["Histogram", "number of values: 40"]
    heights, edges, base = figure.axes[0].patches[0].get_data()
    counts, _ = np.histogram(WEIGHT, edges)
    np.testing.assert_allclose((base - heights) / 0.84 * counts.max(), counts, atol=1e-9)


def test_what_is_not_finite_is_left_out_and_counted():
    params = {
        "a": np.array([1.0, np.nan, np.nan, np.inf, 2.0]),
        "b": np.full(3, np.nan),
        "c": np.zeros((0, 2)),
        "d": np.full(3, -0.0),
        "e": np.array([-1.0, 2.0]),
    }
    figure = drawn(plot(params))
    assert notes(figure.axes[0]) == {
        0: "2 NaN, 1 Inf left out",
        1: "all 3 NaN",
        2: "empty",
        3: "constant 0",
    }
    assert len(figure.axes[0].patches) == 3


def test_small_layers_beside_large_ones_stay_legible():
    params = {"conv": WEIGHT * 0.02, "norm": np.full(8, 30.0, "float32")}
    figure = drawn(plot(params))
    (axes,) = figure.axes
    assert axes.get_xlabel() == "value, logarithmic beyond ±0.05"
    heights, edges, base = axes.patches[0].get_data()
    assert np.count_nonzero(heights < base) > 10
    counts, _ = np.histogram(params["conv"], edges)
    np.testing.assert_allclose((base - heights) / 0.84 * counts.max(), counts, atol=1e-9)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [
        "\N{MINUS SIGN}0.05",
        "0",
        "0.05",
        "1",
        "10",
    ]


def test_an_axis_bends_only_where_small_layers_would_be_lost():
    def texts(scale):
        params = {"a": WEIGHT * 0.01, "b": WEIGHT * 0.01 * scale}
        figure = drawn(plot(params))
        return figure.axes[0].get_xlabel(), [text.get_text() for text in figure.texts]

    assert texts(10) == ("value", ["Histograms of 2 parameters", "each to its own peak"])
    note = "the axis bends: a bell much wider than ±0.02 shows as two"
    assert texts(100) == (
        "value, logarithmic beyond ±0.02",
        ["Histograms of 2 parameters", "each to its own peak", note],
    )


def test_values_of_bits_and_numbers():
    figure = plot({"bool": np.array([True, False, False, False])})
    heights, _, base = figure.axes[0].patches[0].get_data()
    shown = (base - heights[heights < base]) / 0.84
    np.testing.assert_allclose(shown, [1, 1 / 3])


# --- images -------------------------------------------------------------------------------------------------


def images(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def test_a_matrix_is_an_image_on_a_symmetric_scale():
    figure = plot({"w": np.array([[-2.0, 0.0, 2.0]])}, kind="image")
    (bar,) = [axes for axes in figure.axes if not axes.images]
    assert bar.get_xlim() == (-2.0, 2.0)
    assert texts(figure) == ["Image", "value", "w", "1x3"]
    (pixels,) = images(figure)
    least, zero, largest = pixels[0]
    neutral = [float(np.ptp(zero[:3])), float(np.ptp(least[:3])), float(np.ptp(largest[:3]))]
    assert neutral[0] < 0.05 < min(neutral[1:])
    grey = [pixel[:3] @ [0.299, 0.587, 0.114] for pixel in pixels[0]]
    assert grey[0] + 0.2 < grey[1] < grey[2] - 0.2


def test_nan_is_red_and_said_in_words():
    figure = plot({"w": np.array([[1.0, np.nan], [np.inf, -1.0]])}, kind="image")
    (pixels,) = images(figure)
    red = [tuple(pixel) == to_rgba(plot_canvas.RED) for pixel in pixels.reshape(-1, 4)]
    assert red == [False, True, True, False]
    assert texts(figure)[-1] == "1 NaN, 1 Inf, 2x2"


def test_a_block_shares_a_column_and_a_vector_is_a_strip():
    figure = plot(PARAMS, kind="image")
    assert texts(figure)[2:] == [
        *("dense0/weight", "8x5", "dense0/bias", "8"),
        *("dense1/weight", "3x5", "dense1/bias", "3"),
    ]
    assert [pixels.shape[:2] for pixels in images(figure)] == [(8, 5), (1, 8), (3, 5), (1, 3)]
    left = [axes.get_position().x0 for axes in figure.axes if axes.images]
    assert left[0] == left[1] < left[2] == left[3]


def test_values_are_drawn_in_whole_pixels():
    figure = plot({"w": WEIGHT, "conv": {"weight": RANDOM.normal(size=(40, 40, 3, 3))}}, kind="image")
    for axes in figure.axes:
        if axes.images:
            box = axes.get_window_extent()
            across, down = axes.images[0].get_array().shape[1::-1]
            assert box.width / across == pytest.approx(round(box.width / across))
            assert box.height / down == pytest.approx(round(box.height / down))
            assert box.x0 == pytest.approx(round(box.x0))


def test_large_matrices_say_what_is_shown():
    figure = plot({"w": np.ones((2000, 30)), "v": np.ones(5000)}, kind="image")
    assert texts(figure)[3] == "5000, every 13th"
    assert texts(figure)[5] == "2000x30, every 5th row"


def test_kernels_are_tiles():
    values = np.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    sheet = plot_matrices.mosaic(plot_matrices.as_tiles("conv/weight", values), 100)
    assert sheet.values.shape == sheet.gaps.shape == (5, 8)
    assert sheet.note == ""
    for out in range(2):
        for into in range(3):
            place = slice(3 * out, 3 * out + 2), slice(3 * into, 3 * into + 2)
            np.testing.assert_array_equal(sheet.values[place], values[out, into])
            assert not sheet.gaps[place].any()
    assert sheet.gaps[2].all()
    assert sheet.gaps[:, 2].all()


def test_many_rows_of_few_kernels_go_on_beside():
    values = np.arange(64 * 4.0).reshape(64, 1, 2, 2)
    sheet = plot_matrices.mosaic(plot_matrices.as_tiles("conv/weight", values), 100)
    assert sheet.values.shape == (23, 23)
    np.testing.assert_array_equal(sheet.values[3:5, :2], values[1, 0])
    np.testing.assert_array_equal(sheet.values[:2, 3:5], values[8, 0])


def test_a_convolution_in_the_layout_of_other_libraries():
    values = RANDOM.normal(size=(3, 3, 4, 6))
    tiles = plot_matrices.as_tiles("conv/kernel", values)
    assert (tiles.text, tiles.kernels, tiles.images.shape) == ("6x4 of 3x3", True, (6, 4, 3, 3))
    np.testing.assert_array_equal(tiles.images[5, 2], values[:, :, 2, 5])
    assert plot_matrices.as_tiles("conv/weight", values).images.shape == (3, 3, 4, 6)
    one = plot_matrices.as_tiles("conv/weight", np.ones((8, 4, 5)))
    assert (one.text, one.images.shape) == ("8x4 of 5", (8, 4, 1, 5))
    solid = plot_matrices.as_tiles("conv/weight", np.ones((8, 4, 2, 3, 5)))
    assert (solid.text, solid.images.shape) == ("8x4 of 2x3x5", (8, 4, 6, 5))
    stack = plot_matrices.as_tiles("layers/weight", np.ones((12, 64, 32)))
    assert (stack.text, stack.images.shape) == ("12 of 64x32", (1, 12, 64, 32))


# --- spectra ------------------------------------------------------------------------------------------------


def test_singular_values_are_those_of_numpy():
    figure = drawn(plot(PARAMS, kind="spectrum"))
    assert texts(figure) == [
        "Singular values of 2 matrices",
        "not shown: 2 of fewer than two axes",
        *("dense0/weight", "8x5", "dense1/weight", "3x5"),
        "place among the singular values, from the largest to the least",
        "singular value (not normalised)",
    ]
    for axes, name in zip(figure.axes, ("dense0", "dense1"), strict=True):
        found = axes.lines[0].get_ydata()
        np.testing.assert_allclose(found, np.linalg.svd(PARAMS[name]["weight"])[1], rtol=1e-5)
        assert axes.get_yscale() == "log"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_a_convolution_and_a_stack_have_the_spectra_of_their_matrices():
    kernels, stack = RANDOM.normal(size=(3, 3, 4, 6)), RANDOM.normal(size=(5, 20, 30))
    figure = plot({"conv": {"kernel": kernels}, "stack": {"weight": stack}}, kind="spectrum")
    first, second = figure.axes
    matrix = np.moveaxis(kernels, (3, 2), (0, 1)).reshape(6, -1)
    np.testing.assert_allclose(first.lines[0].get_ydata(), np.linalg.svd(matrix)[1])
    assert len(second.lines) == 5
    np.testing.assert_allclose(second.lines[3].get_ydata(), np.linalg.svd(stack[3])[1])


def test_spectra_that_are_not_there_or_not_full():
    params = {
        "a": np.diag([3.0, 2.0, 0.0]),
        "b": np.array([[1.0, np.nan]]),
        "c": np.zeros((0, 4)),
        "d": np.zeros((2, 2)),
        "e": np.array([[1, 1j], [1j, 1]]),
        "f": WEIGHT[:, :1] * WEIGHT[:1],
    }
    figure = drawn(plot(params, kind="spectrum"))
    words = texts(figure)[1:-2]
    assert dict(zip(words[::2], words[1::2], strict=True)) == {
        "a": "rank 2 of 3, 3x3",
        "b": "1 NaN: none, 1x2",
        "c": "empty, 0x4",
        "d": "rank 0 of 2, 2x2",
        "e": "2x2",
        "f": "rank 1 of 5, 8x5",
    }
    np.testing.assert_allclose(figure.axes[4].lines[0].get_ydata(), [2**0.5, 2**0.5])
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [3.0, 2.0, np.nan])


def test_a_spectrum_needs_a_matrix():
    assert message(pt.MismatchError, lambda: plot(PARAMS, ".*bias", "spectrum")) == (
        "plot: kind 'spectrum' needs matrices, and these have fewer than two axes: dense0/bias, dense1/bias."
    )


# --- gradients ----------------------------------------------------------------------------------------------


def gradients(params):
    return jax.tree.map(lambda leaf: 0.01 * leaf, params)


def test_norms_of_gradients_and_their_ratio():
    figure = drawn(plot(PARAMS, kind="grads", grads=gradients(PARAMS)))
    assert texts(figure) == ["Gradient norms of 4 parameters", "x at the left edge: a norm of 0"]
    both, ratio = figure.axes
    assert rows(figure) == ["dense0/weight", "dense0/bias", "dense1/weight", "dense1/bias"]
    lines = {line.get_label(): line.get_xdata() for line in both.lines}
    norms = [np.linalg.norm(leaf) or np.nan for leaf in pt.collect_params(PARAMS).values()]
    np.testing.assert_allclose(lines["parameter"], norms, rtol=1e-6)
    np.testing.assert_allclose(lines["gradient"], 0.01 * np.array(norms), rtol=1e-6)
    np.testing.assert_allclose(ratio.lines[0].get_xdata(), [0.01, np.nan, 0.01, 0.01], rtol=1e-6)
    assert (both.get_xlabel(), ratio.get_xlabel()) == ("L2 norm", "gradient / parameter")
    assert notes(ratio) == {1: "gradient 0"}


def test_gradients_of_a_part_of_fixed_ones_and_of_whole_numbers():
    params = {**PARAMS, "mean": pt.Fixed(jnp.ones(2)), "step": jnp.array(3)}
    part = pt.collect_params(gradients(PARAMS), "dense0/.*")
    grads = {**part, "mean": pt.Fixed(jnp.zeros(2)), "step": np.zeros((), jax.dtypes.float0)}
    figure = drawn(plot(params, kind="grads", grads=grads))
    assert rows(figure) == ["dense0/weight", "dense0/bias"]
    assert texts(figure)[1:3] == [
        "left out, as they are fixed: mean",
        "left out, as they have no gradient: dense1/weight, dense1/bias, step",
    ]


def test_gradients_that_are_not_finite_are_counted():
    grads = {"w": WEIGHT.copy(), "v": np.array([np.nan])}
    grads["w"][0, :2] = np.nan, np.inf
    figure = drawn(plot({"w": WEIGHT, "v": np.ones(1)}, kind="grads", grads=grads))
    assert notes(figure.axes[1]) == {0: "gradient 1 NaN", 1: "gradient 1 NaN, 1 Inf"}
    (found,) = [line.get_xdata() for line in figure.axes[0].lines if line.get_label() == "gradient"]
    np.testing.assert_allclose(found[1], np.linalg.norm(WEIGHT.reshape(-1)[2:]), rtol=1e-6)


def test_norms_of_very_large_and_very_small_numbers():
    params = {"a": np.full(4, 1e30, "float32"), "b": np.full(4, 1e-30, "float32")}
    figure = plot(params, kind="grads", grads=params)
    (found,) = [line.get_xdata() for line in figure.axes[0].lines if line.get_label() == "gradient"]
    np.testing.assert_allclose(found, [2e30, 2e-30], rtol=1e-6)


def test_gradients_that_do_not_fit():
    grads = {"dense0": {"weight": WEIGHT.T, "bias": np.zeros(3)}}
    assert message(pt.MismatchError, lambda: plot(PARAMS, kind="grads", grads=grads)) == (
        "plot: these gradients do not fit:\n"
        "  dense0/weight has shape (8, 5), and its gradient (5, 8)\n"
        "  dense0/bias has shape (8,), and its gradient (3,)"
    )
    grads = {"dense0": {"wieght": WEIGHT}, "q": WEIGHT}
    assert message(pt.UnknownNameError, lambda: plot(PARAMS, kind="grads", grads=grads)) == (
        "plot: these gradients have no parameter:\n"
        "  'dense0/wieght' is not in the tree. Did you mean dense0/weight or dense1/weight or dense0/bias?\n"
        "  'q' is not in the tree."
    )
    for grads in ({}, pt.collect_params(PARAMS, "dense1/bias")):
        assert message(pt.MismatchError, lambda g=grads: plot(PARAMS, "dense0/.*", "grads", grads=g)) == (
            "plot: none of these parameters has a gradient: dense0/weight, dense0/bias."
        )


# --- the figure ---------------------------------------------------------------------------------------------


def test_the_figure_shows_in_a_notebook_and_can_be_pickled():
    figure = plot(PARAMS)
    assert type(figure) is Figure
    assert figure._repr_png_().startswith(b"\x89PNG")
    again = pickle.loads(pickle.dumps(figure))
    assert texts(again) == texts(figure)


def test_pyplot_is_not_touched():
    code = (
        "import sys, numpy as np; from paramtree.report.plot import plot; p = {'w': np.ones((2, 2))}; "
        "[plot(p, kind=k, grads=p if k == 'grads' else None)._repr_png_() "
        "for k in ('hist', 'image', 'spectrum', 'grads')]; print('matplotlib.pyplot' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


@pytest.mark.parametrize("kind", ["hist", "image", "spectrum", "grads"])
def test_a_figure_or_a_part_of_one_can_be_given(kind):
    mine = Figure(figsize=(12, 6))
    left, right = mine.subfigures(1, 2)
    grads = PARAMS if kind == "grads" else None
    assert plot(PARAMS, kind=kind, grads=grads, figure=left) is left
    assert left.axes
    assert not right.axes
    for axes in left.axes:
        box = axes.get_position()
        assert 0 <= box.x0 < box.x1 <= 1.001
        assert 0 <= box.y0 < box.y1 <= 1.001
    assert plot(PARAMS, kind=kind, grads=grads, figure=mine) is mine
    drawn(mine)


def test_long_names_are_cut_in_the_middle_and_no_name_is_a_formula():
    figure = drawn(plot({"x" * 30 + "$\n": {"y" * 40: WEIGHT}}))
    (label,) = figure.axes[0].get_yticklabels()
    assert label.get_text() == "x" * 20 + "…" + "y" * 19
    assert not label.get_parse_math()
    box = label.get_window_extent()
    assert box.x0 > 0
    figure = plot({"$a$": WEIGHT}, kind="image")
    assert not any(text.get_parse_math() for text in figure.texts)
    assert plot_canvas.elided("a\nb", 10) == "a\\nb"


def test_a_scale_reads_back_what_it_draws():
    scale = plot_canvas.shared_scale([0.01, 0.02, 1.0], 3.0)
    assert scale == plot_canvas.Scale(0.02) or scale == plot_canvas.Scale(0.05)
    values = np.array([-3.0, 0.0, 1e-3])
    np.testing.assert_allclose(scale.backward(scale.forward(values)), values)
    assert plot_canvas.shared_scale([], 0.0) == plot_canvas.shared_scale([1.0], 3.0) == plot_canvas.Scale()


# --- wrong input --------------------------------------------------------------------------------------------


def test_an_unknown_kind():
    assert message(pt.ParamTreeError, lambda: plot(PARAMS, kind="hits")) == (
        "plot: 'hits' is not a kind of picture. Did you mean hist? "
        "The kinds are hist, image, spectrum, grads."
    )
    assert message(pt.ParamTreeError, lambda: plot(PARAMS, kind=3)) == (
        "plot: 3 is not a kind of picture. The kinds are hist, image, spectrum, grads."
    )


def test_gradients_and_their_kind_belong_together():
    assert message(pt.ParamTreeError, lambda: plot(PARAMS, kind="grads")) == (
        "plot: kind 'grads' needs the gradients: plot(params, kind='grads', grads=grads)."
    )
    assert message(pt.ParamTreeError, lambda: plot(PARAMS, grads=PARAMS)) == (
        "plot: gradients are drawn by kind 'grads', and not by 'hist'. Pass kind='grads'."
    )


def test_leaves_without_values_are_all_listed():
    gone = jnp.ones(2)
    gone.delete()
    params = {"a": jax.ShapeDtypeStruct((2,), "float32"), "b": gone, "c": WEIGHT}
    params |= {"d": pt.ParamSpec((2,), jnp.float32)}
    assert message(pt.MismatchError, lambda: plot(params)) == (
        "plot: these have no values to show:\n"
        "  a is a ShapeDtypeStruct; initialise it, or load it\n"
        "  b was donated or deleted; plot what the step returned\n"
        "  d is a ParamSpec; initialise it, or load it"
    )
    assert message(pt.MismatchError, lambda: jax.jit(plot)({"w": WEIGHT})) == (
        "plot: these have no values to show:\n  w is traced; plot outside of jit"
    )
    assert rows(plot(params, "c")) == ["c"]


def test_nothing_to_show():
    assert message(pt.MismatchError, lambda: plot({"key": jax.random.key(0), "label": "x"})) == (
        "plot: there is nothing to show; the parameters hold no numbers: key, label."
    )
    assert message(pt.MismatchError, lambda: plot({})) == (
        "plot: there is nothing to show; the parameters are none."
    )
    assert message(pt.NoMatchError, lambda: plot(PARAMS, "dense0")) == (
        "select 'dense0' hits none of 4 parameters; it must match the whole name. Did you mean 'dense0/.*'? "
        "Nearest: dense0/bias, dense0/weight."
    )


def test_what_is_no_figure():
    axes = Figure().add_subplot()
    assert message(pt.ParamTreeError, lambda: plot(PARAMS, figure=axes)) == (
        "plot: figure= takes a matplotlib Figure or SubFigure, and got Axes. "
        "Every kind draws axes of its own; give it a place with figure.subfigures(1, 2)[0]."
    )


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert message(pt.ParamTreeError, lambda: plot(PARAMS)) == (
        "plot needs matplotlib. Install it with: pip install 'paramtree-jax[plot]'"
    )


def test_numbers_are_read_without_loss():
    def kind(leaf):
        return plot_data.real_numbers(leaf).dtype

    assert kind(jnp.ones(1, "bfloat16")) == kind(np.int16(3)) == kind(jnp.ones(1, "float16")) == np.float32
    assert kind(np.int32(3)) == kind(np.float64(3)) == kind(3) == np.float64
    assert plot_data.real_numbers(np.array([2**24 + 1])).tolist() == [2**24 + 1]


def test_singular_values_larger_than_the_largest_number_of_their_dtype():
    figure = pt.plot({"large": jnp.full((2, 2), 3e38), "usual": jnp.eye(3)}, kind="spectrum")
    assert len(figure.axes) == 2


def test_one_huge_matrix_leaves_the_spectra_of_others_in_sight():
    figure = drawn(
        plot({"huge": 1e12 * np.eye(3), "usual": np.eye(3), "zero": np.zeros((2, 2))}, kind="spectrum")
    )
    for axes in figure.axes[:2]:
        low, high = axes.get_ylim()
        assert ((axes.lines[0].get_ydata() > low) & (axes.lines[0].get_ydata() < high)).all()


@pytest.mark.parametrize("kind", ["hist", "image", "spectrum", "grads"])
def test_numbers_that_an_axis_has_no_room_for(kind):
    def picture(params):
        return plot(params, kind=kind, grads=params if kind == "grads" else None)

    drawn(picture({"a": np.array([[1e300, 1.0], [-1e300, 2.0]]), "b": np.eye(2)}))
    params = {"a": np.array([[1e305, np.inf]]), "b": np.eye(2), "c": np.full((2, 2), -1e301 + 0j)}
    assert message(pt.MismatchError, lambda: picture(params)) == (
        "plot: an axis ends at 1e+300, and these hold larger numbers:\n  a: 1e+305\n  c: 1e+301"
    )


@pytest.mark.parametrize("kind", ["hist", "grads", "image", "spectrum"])
@pytest.mark.parametrize(
    "name",
    [
        "params/decoder/layer_{}/self_attention/query/kernel",
        "bert.encoder.layer.{}.attention.output.dense.weight",
        "model.layers.{}.self_attn.q_proj.weight",
    ],
)
def test_labels_of_a_hundred_layers_are_apart(kind, name):
    tree = {name.format(at): np.eye(4, dtype="float32") * (at + 1) for at in range(100)}
    figure = pt.plot(tree, kind=kind, **({"grads": tree} if kind == "grads" else {}))
    texts = [text.get_text() for text in figure.texts]
    texts += [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert len({text for text in texts if text.startswith((name[:3], "…"))}) == 100
