"""Statistics recorded in a jitted loop: equal to NumPy's, at the right steps, without calls to the host."""

import json
import math
import pickle
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import paramtree as pt
from paramtree.report.track import Record, track
from paramtree.report.track_frame import Frame

PARAMS = {
    "dense0": {"weight": jnp.arange(-3.0, 3.0).reshape(2, 3), "bias": jnp.array([0.5, 0.0])},
    "dense1": {"weight": jnp.full((4,), 2.5, "bfloat16")},
}
EVERYTHING = ("rms", "mean", "std", "absmax", "min", "max", "norm", "zeros", "nonfinite")


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def run(tracker, steps, params=PARAMS, record=None):
    """Record the parameters times (1 + step) at each step, jitted and donated."""

    @partial(jax.jit, donate_argnums=0)
    def train_step(record, step):
        scaled = jax.tree.map(lambda leaf: leaf * (1 + step).astype(leaf.dtype), params)
        return tracker.update(record, scaled, step)

    record = tracker.init(params) if record is None else record
    for step in steps:
        record = train_step(record, step)
    return record


# --- what is recorded ---------------------------------------------------------------------------------------


def test_statistics_are_those_of_numpy():
    tracker = track(statistics=EVERYTHING)
    values = np.array([[1.0, -2.0, 0.0], [4.0, 0.25, 0.0]], "float32")
    record = tracker.update(tracker.init({"w": values}), {"w": values}, 0)
    found = {statistic: column[0] for statistic, column in tracker.frame(record)["w"].items()}
    expected = {
        "rms": np.sqrt(np.mean(values**2)),
        "mean": values.mean(),
        "std": values.std(),
        "absmax": np.abs(values).max(),
        "min": values.min(),
        "max": values.max(),
        "norm": np.linalg.norm(values),
        "zeros": 2 / 6,
        "nonfinite": 0.0,
    }
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-6)


@pytest.mark.parametrize(
    ("leaf", "mean", "absmax"),
    [
        (jnp.array([1.0, -3.0], "bfloat16"), -1.0, 3.0),
        (jnp.array([1.0, -3.0], "float8_e4m3fn"), -1.0, 3.0),
        (jnp.array([1, -3]), -1.0, 3.0),
        (jnp.array([True, False]), 0.5, 1.0),
        (jnp.array([3 + 4j, 0]), 2.5, 5.0),
        (np.float16(-2.0), -2.0, 2.0),
        (2.5, 2.5, 2.5),
    ],
)
def test_every_dtype_of_numbers(leaf, mean, absmax):
    tracker = track(statistics=["mean", "absmax"])
    record = tracker.update(tracker.init({"w": leaf}), {"w": leaf}, 0)
    assert record.values["mean"].dtype == jnp.float32
    found = tracker.frame(record)["w"]
    assert (found["mean"].tolist(), found["absmax"].tolist()) == ([mean], [absmax])


def test_a_bfloat16_mean_is_not_rounded_on_the_way():
    leaf = jnp.full(3000, 1.0, "bfloat16")
    tracker = track(statistics=["norm", "mean"])
    found = tracker.frame(tracker.update(tracker.init({"w": leaf}), {"w": leaf}, 0))["w"]
    np.testing.assert_allclose(found["norm"], [math.sqrt(3000)], rtol=1e-6)
    assert found["mean"].tolist() == [1.0]


@pytest.mark.parametrize("size", [1e-37, 1e-25, 1e25, 1e38])
def test_squares_neither_overflow_nor_vanish(size):
    leaf = jnp.array([3.0, -1.0, 0.0, 0.0], "float32") * size
    tracker = track(statistics=["rms", "mean", "std", "norm"])
    frame = tracker.frame(tracker.update(tracker.init({"w": leaf}), {"w": leaf}, 0))
    wide = np.asarray(leaf, np.float64)
    expected = np.sqrt((wide**2).mean()), wide.mean(), wide.std(), np.sqrt((wide**2).sum())
    np.testing.assert_allclose([column[0] for column in frame["w"].values()], expected, 1e-6)


def test_what_jax_would_narrow_is_refused():
    tracker, tree = track(), {"a": np.ones(2), "b": np.ones(2, "int64"), "c": np.ones(2, "float32"), "d": 0.5}
    assert message(pt.MismatchError, lambda: tracker.update(tracker.init(tree), tree, 0)) == (
        "track: these cannot be recorded:\n"
        "  a is float64 in NumPy, which JAX would narrow; pt.cast it, or set jax_enable_x64\n"
        "  b is int64 in NumPy, which JAX would narrow; pt.cast it, or set jax_enable_x64"
    )
    with jax.enable_x64(True):
        frame = tracker.frame(tracker.update(tracker.init(tree), tree, 0))
    assert frame["a"]["rms"].tolist() == [1.0]


def test_nan_shows():
    leaf = jnp.array([1.0, jnp.nan, jnp.inf])
    tracker = track(statistics=["mean", "nonfinite"])
    frame = tracker.frame(tracker.update(tracker.init({"w": leaf}), {"w": leaf}, 0))
    assert frame["w"]["nonfinite"].tolist() == [2.0]
    assert frame.to_dict() == {"steps": [0], "values": {"w": {"mean": ["nan"], "nonfinite": [2.0]}}}
    assert json.loads(json.dumps(frame.to_dict(), allow_nan=False)) == frame.to_dict()


def test_steps_between_are_not_recorded():
    tracker = track(".*bias", statistics="absmax", every=3, length=10)
    frame = tracker.frame(run(tracker, range(8)))
    assert frame.names == ("dense0/bias",)
    assert frame.steps.tolist() == [0, 3, 6]
    assert frame["dense0/bias"]["absmax"].tolist() == [0.5, 2.0, 3.5]
    assert (len(frame), list(frame)) == (3, ["dense0/bias"])


def test_names_stand_in_natural_order_and_keep_their_values():
    params = {f"layer{n}": {"w": jnp.full(2, float(n))} for n in (10, 2, 1)}
    tracker = track(statistics=["mean"])
    frame = tracker.frame(tracker.update(tracker.init(params), params, 0))
    assert frame.names == ("layer1/w", "layer2/w", "layer10/w")
    assert frame.values["mean"].tolist() == [[1.0, 2.0, 10.0]]
    assert {name: frame[name]["mean"].tolist() for name in frame} == {
        "layer1/w": [1.0],
        "layer2/w": [2.0],
        "layer10/w": [10.0],
    }


def test_a_tied_parameter_is_recorded_once():
    params = {"embed": {"weight": jnp.ones((3, 2))}, "head": pt.Alias("embed"), "mean": pt.Fixed(jnp.ones(2))}
    assert track().init(params).names == ("embed/weight", "mean")
    assert message(pt.NoMatchError, lambda: track("head/.*").init(params)) == (
        "select 'head/.*' hits none of 2 parameters; it must match the whole name. It names only tied "
        "places: head/weight is embed/weight. Select a tied parameter where it lives."
    )


def test_what_holds_no_numbers_is_left_out():
    params = {"w": jnp.ones(2), "key": jax.random.key(0), "label": "decay", "none": jnp.ones((0, 3))}
    assert track().init(params).names == ("w",)
    del params["w"]
    assert message(pt.MismatchError, lambda: track().init(params)) == (
        "track: there is nothing to record; the parameters hold no numbers: key, label, none."
    )
    assert message(pt.MismatchError, lambda: track().init({})) == (
        "track: there is nothing to record; the parameters are none."
    )


def test_init_from_specs_and_in_jit():
    net = pt.nn.Dense(3)
    tracker = track(every=2)
    assert tracker.init(net.specs(jax.ShapeDtypeStruct((2, 4), "float32"))).names == ("weight", "bias")
    record = jax.jit(tracker.init)(PARAMS)
    assert record.names == ("dense0/weight", "dense0/bias", "dense1/weight")
    assert record.every == 2


# --- a full record ------------------------------------------------------------------------------------------


def kept(every, length, steps):
    """What must be held: the steps that the least doubling of `every` leaves, of all that came by."""
    seen = [step for step in steps if step % every == 0]
    while len(seen) > length:
        every *= 2
        seen = [step for step in seen if step % every == 0]
    return seen, every


@pytest.mark.parametrize("length", [2, 3, 8])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("count", [7, 101])
def test_a_full_record_halves_its_resolution_and_covers_the_whole_run(length, every, count):
    tracker = track("dense0/bias", statistics=["absmax"], every=every, length=length)
    record = run(tracker, range(count))
    frame = tracker.frame(record)
    steps, left = kept(every, length, range(count))
    assert (frame.steps.tolist(), int(record.every)) == (steps, left)
    np.testing.assert_allclose(frame["dense0/bias"]["absmax"], [0.5 * (1 + step) for step in steps])


def test_steps_that_jump_are_kept_too():
    steps = [0, 100, 200, 300, 400, 500, 600]
    tracker = track("dense0/bias", statistics=["absmax"], every=10, length=3)
    frame = tracker.frame(run(tracker, steps))
    assert frame.steps.tolist() == kept(10, 3, steps)[0] == [0, 400]


def test_a_step_recorded_again_replaces_its_row():
    tracker = track("dense0/bias", statistics=["absmax"], length=4)
    record = run(tracker, [0, 1, 2])
    record = run(tracker, [1, 2, 3], {**PARAMS, "dense0": {"bias": jnp.array([7.0])}}, record)
    frame = tracker.frame(record)
    assert frame.steps.tolist() == [0, 1, 2, 3]
    assert frame["dense0/bias"]["absmax"].tolist() == [0.5, 14.0, 21.0, 28.0]
    record = run(tracker, [3, 3, 0, 0], PARAMS, record)  # a full record too, without doubling
    assert tracker.frame(record).steps.tolist() == [0, 1, 2, 3]
    assert record.every == 1


def test_a_step_below_zero_is_not_recorded():
    tracker = track(length=2)
    assert len(tracker.frame(run(tracker, [-2, -1]))) == 0
    record = run(tracker, [0, 1, -2])
    assert tracker.frame(record).steps.tolist() == [0, 1]


# --- under jax ----------------------------------------------------------------------------------------------


def test_eager_jit_and_scan_agree():
    tracker = track(every=2, length=5)
    stepped = run(tracker, range(12))

    def body(record, step):
        scaled = jax.tree.map(lambda leaf: leaf * (1 + step).astype(leaf.dtype), PARAMS)
        return tracker.update(record, scaled, step), None

    scanned, _ = jax.jit(lambda record: jax.lax.scan(body, record, jnp.arange(12)))(tracker.init(PARAMS))
    eager = tracker.init(PARAMS)
    for step in range(12):
        eager = body(eager, jnp.int32(step))[0]
    for other in (scanned, eager):
        assert tracker.to_dict(other) == tracker.to_dict(stepped)
    assert tracker.frame(stepped).steps.tolist() == [0, 4, 8]


def test_the_record_is_donated_and_written_in_place():
    tracker = track(length=64)
    record = tracker.init(PARAMS)
    step = jax.jit(lambda record, params, step: tracker.update(record, params, step), donate_argnums=0)
    text = step.lower(record, PARAMS, 0).compile().as_text()
    rows = "f32[64,3]"
    assert not [line for line in text.splitlines() if " copy(" in line and rows in line.split(" copy(")[0]]
    step(record, PARAMS, 0)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(record))


def inner(equation):
    """The jaxprs that an equation calls."""
    held = [
        part for value in equation.params.values() for part in (value if type(value) is tuple else (value,))
    ]
    return [getattr(part, "jaxpr", part) for part in held if hasattr(part, "eqns") or hasattr(part, "jaxpr")]


def primitives(jaxpr, into=lambda equation: True):
    """The names of all primitives, down into those equations that `into` is true of."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for below in inner(equation) if into(equation) else ():
            yield from primitives(below, into)


def test_nothing_calls_the_host_and_statistics_are_computed_in_a_branch():
    tracker = track(every=10)
    jaxpr = jax.make_jaxpr(tracker.update)(tracker.init(PARAMS), PARAMS, 0).jaxpr
    everywhere = set(primitives(jaxpr))
    assert {"cond", "reduce_sum", "reduce_max", "dynamic_update_slice"} <= everywhere
    assert not [name for name in everywhere if "callback" in name or "feed" in name or "device_put" in name]
    always = set(primitives(jaxpr, lambda equation: equation.primitive.name != "cond"))
    assert "dynamic_update_slice" in always
    assert not [name for name in always if name.startswith("reduce")]


def test_the_loop_is_compiled_once():
    tracker = track(length=2)
    step = jax.jit(tracker.update, donate_argnums=0)
    record = tracker.init(PARAMS)
    for number in range(5):
        record = step(record, PARAMS, number)
    assert step._cache_size() == 1


def test_the_record_is_a_pytree_of_a_few_arrays():
    record = track().init(PARAMS)
    assert len(jax.tree.leaves(record)) == 4 + 2
    assert {name: rows.shape for name, rows in record.values.items()} == dict.fromkeys(
        ("rms", "mean", "std", "absmax"), (1000, 3)
    )
    again = pickle.loads(pickle.dumps(run(track(), range(3), record=record)))
    assert isinstance(again, Record)
    assert track().frame(again).steps.tolist() == [0, 1, 2]
    assert repr(again) == "Record(absmax, mean, rms, std of 3 parameters; Tracker.frame reads it)"
    assert repr(jax.tree.map(lambda leaf: None, again)).startswith("Record(")


def test_parameters_and_gradients_in_one_record():
    tracker = track([".*weight"], statistics=["norm"])
    tree = {"params": PARAMS, "grads": PARAMS}
    frame = tracker.frame(tracker.update(tracker.init(tree), tree, 0))
    assert frame.names == (
        "grads/dense0/weight",
        "grads/dense1/weight",
        "params/dense0/weight",
        "params/dense1/weight",
    )


def test_sharded_parameters():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = {"w": jax.device_put(jnp.arange(16.0), sharding)}
    tracker = track(statistics=["mean"])
    record = jax.jit(tracker.update)(tracker.init(params), params, 0)
    assert tracker.frame(record)["w"]["mean"].tolist() == [7.5]


def test_a_predicate_selects():
    assert track(lambda name, leaf: leaf.ndim > 1).init(PARAMS).names == ("dense0/weight",)


# --- wrong input --------------------------------------------------------------------------------------------


def test_another_tree_later():
    tracker = track()
    record = tracker.init(PARAMS)
    other = {"dense0": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "dense1": {"weights": jnp.ones(2)}}
    assert message(pt.UnknownNameError, lambda: tracker.update(record, other, 0)) == (
        "track: the record is of another tree; make one with init. Of what it records:\n"
        "  'dense0/weight' is not in the tree. Did you mean dense1/weights or dense0/bias or dense0/kernel?\n"
        "  'dense1/weight' is not in the tree. Did you mean dense1/weights?"
    )


def test_leaves_that_lost_their_numbers():
    tracker = track(".*weight")
    record = tracker.init(PARAMS)
    other = {"dense0": {"weight": jnp.ones((0, 3))}, "dense1": {"weight": jax.random.key(0)}}
    assert message(pt.MismatchError, lambda: tracker.update(record, other, 0)) == (
        "track: these cannot be recorded:\n"
        "  dense0/weight is empty\n"
        "  dense1/weight holds no numbers: shape=(), dtype=key<fry>"
    )


def test_what_is_no_record_or_step():
    tracker = track()
    record = tracker.init(PARAMS)
    assert message(pt.MismatchError, lambda: tracker.update(PARAMS, record, 0)) == (
        "track: update takes a Record first, and got a dict."
    )
    assert message(pt.MismatchError, lambda: tracker.update(record, PARAMS, 0.5)) == (
        "track: a step is one integer below 2**31, and not 0.5."
    )
    assert message(pt.MismatchError, lambda: tracker.update(record, PARAMS, np.array([1]))) == (
        "track: a step is one integer below 2**31, and not array([1])."
    )
    assert "below 2**31" in message(pt.MismatchError, lambda: tracker.update(record, PARAMS, np.int64(2**40)))
    assert message(pt.MismatchError, lambda: tracker.update(record, PARAMS, 2**31)) == (
        "track: a step is one integer below 2**31, and not 2147483648."
    )


def test_reading_what_cannot_be_read():
    tracker = track()
    record = tracker.init(PARAMS)
    assert message(pt.MismatchError, lambda: jax.jit(tracker.to_dict)(record)) == (
        "track: the record is traced; read it outside of jit."
    )
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), record)
    assert message(pt.MismatchError, lambda: tracker.frame(stacked)) == (
        "track: this is a stack of records, (2,); read one of them: "
        "jax.tree.map(lambda leaf: leaf[0], record)."
    )


def test_wrong_arguments_are_all_listed():
    assert message(pt.ParamTreeError, lambda: track(statistics=["rsm", "mean"], every=0, length=1.5)) == (
        "track: these arguments do not fit:\n"
        "  'rsm' is not a statistic. Did you mean rms? There are rms, mean, std, absmax, min, max, norm, "
        "zeros, nonfinite\n"
        "  every= is an integer from 1 up, and not 0\n"
        "  length= is an integer from 2 up, and not 1.5"
    )
    assert message(pt.ParamTreeError, lambda: track(statistics=())) == (
        "track: these arguments do not fit:\n  statistics= is empty; name one"
    )
    assert message(pt.SelectError, lambda: track("*weight")) == (
        "'*weight' is not a regular expression: nothing to repeat at position 0. Did you mean '.*weight'?"
    )


# --- looking at it ------------------------------------------------------------------------------------------


def test_the_frame_as_text_and_html():
    tracker = track(statistics=["mean", "absmax"], every=2)
    assert repr(tracker.frame(tracker.init(PARAMS))) == (
        "no steps of 3 parameters recorded\nname\ndense0/weight\ndense0/bias\ndense1/weight"
    )
    frame = tracker.frame(run(tracker, range(4)))
    assert frame.to_text(80) == (
        "2 steps of 3 parameters, from step 0 to 2; at the last:\n"
        "name           mean  absmax\n"
        "dense0/weight  -1.5       9\n"
        "dense0/bias    0.75     1.5\n"
        "dense1/weight   7.5     7.5"
    )
    evil = {"<script>alert(1)</script>".replace("/", ""): jnp.ones(2)}
    page = tracker.frame(tracker.init(evil))._repr_html_()
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert message(pt.UnknownNameError, lambda: frame["dense0/wieght"]) == (
        "'dense0/wieght' is not recorded. Did you mean dense0/weight or dense1/weight or dense0/bias?"
    )
    assert message(pt.UnknownNameError, lambda: frame["x"]) == (
        "'x' is not recorded. There are dense0/weight, dense0/bias, dense1/weight."
    )


@pytest.mark.parametrize("count", [1, 8, 9, 250])
@pytest.mark.parametrize("steps", [1, 12])
def test_plots_of_few_and_of_many(count, steps):
    pytest.importorskip("matplotlib")
    values = np.linspace(-1, 3, count)[None] * (1 + np.arange(steps)[:, None])
    found = {"mean": values, "rms": np.exp(4 * values), "zeros": np.zeros_like(values)}
    names = tuple(f"layer{n}/weight" for n in range(count))
    figure = Frame(names, np.arange(steps), found).plot()
    figure.canvas.draw()
    number = "1 parameter" if count == 1 else f"{count} parameters"
    assert figure.texts[0].get_text() == f"{number} over {steps} recorded step{'s' if steps > 1 else ''}"
    texts = {text.get_text() for text in figure.texts}
    panels = {axes.get_title("left") for axes in figure.axes} if count <= 8 else texts
    assert {"mean", "rms", "zeros"} <= panels
    if count == 250:
        assert "50 of 250 are not shown, from the middle: select fewer" in texts


def test_a_plot_shows_the_recorded_values_and_says_what_is_not_finite():
    pytest.importorskip("matplotlib")
    params = {"w": jnp.array([1.0, 2.0])}
    tracker = track(statistics=["absmax"])
    record = run(tracker, range(3), params)
    record = tracker.update(record, {"w": jnp.array([jnp.inf])}, 3)
    figure = tracker.plot(record)
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(line.get_ydata(), [2.0, 4.0, 6.0, np.nan])
    assert figure.texts[1].get_text() == "not finite, and not shown: 1 Inf"


@pytest.mark.parametrize("count", [2, 12])
def test_steps_are_whole_numbers_on_their_axis(count):
    pytest.importorskip("matplotlib")
    frame = Frame(tuple(f"p{at}" for at in range(count)), np.arange(4), {"rms": np.ones((4, count))})
    figure = frame.plot()
    figure.canvas.draw()
    labels = [
        label.get_text()
        for axes in figure.axes
        if axes.get_xlabel() == "step"
        for label in axes.get_xticklabels()
    ]
    assert labels
    assert all(label.lstrip("\N{MINUS SIGN}").isdecimal() for label in labels)


def test_an_empty_record_is_not_drawn():
    pytest.importorskip("matplotlib")
    tracker = track()
    assert message(pt.ParamTreeError, lambda: tracker.plot(tracker.init(PARAMS))) == (
        "track: there is nothing to plot; no step is recorded yet."
    )


def test_without_matplotlib_everything_but_the_plot_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    tracker = track()
    record = run(tracker, range(2))
    assert len(tracker.frame(record)) == 2
    assert message(pt.ParamTreeError, lambda: tracker.plot(record)) == (
        "plot needs matplotlib. Install it with: pip install 'paramtree-jax[plot]'"
    )


def test_nan_is_in_every_statistic_of_what_is_spread():
    mesh = Mesh(np.array(jax.devices()), ("x",))
    values = jnp.arange(16.0).at[0].set(jnp.nan).at[1].set(jnp.inf)
    spread = jax.device_put(values, NamedSharding(mesh, PartitionSpec("x")))
    tracker = pt.track(statistics=["absmax", "min", "max"])
    record = tracker.update(tracker.init({"w": spread}), {"w": spread}, 0)
    assert [np.isnan(rows).all() for rows in tracker.frame(record).values.values()] == [True] * 3


def test_specs_cannot_be_recorded():
    tracker, spec = pt.track(), {"w": jax.ShapeDtypeStruct((2,), "float32")}
    with pytest.raises(pt.MismatchError, match="w is a spec, without values"):
        tracker.update(tracker.init({"w": jnp.ones(2)}), spec, 0)


def test_all_panels_have_the_same_steps():
    pytest.importorskip("matplotlib")
    tracker = pt.track(statistics=["rms", "nonfinite"])
    record = tracker.init({"w": jnp.ones(2)})
    for step in range(10):
        record = tracker.update(record, {"w": jnp.ones(2) * (1.0 if step < 5 else jnp.nan)}, step)
    rms, nonfinite = tracker.plot(record).axes[:2]
    assert rms.get_xlim() == nonfinite.get_xlim() == pytest.approx((-0.45, 9.45))
