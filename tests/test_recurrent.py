"""RNN, LSTM and GRU: against plain loops in NumPy, their states, their messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import paramtree as pt
from paramtree import init, nn

KEY = jax.random.key(7)
KINDS = {"RNN": (nn.RNN, 1), "LSTM": (nn.LSTM, 4), "GRU": (nn.GRU, 3)}
every_kind = pytest.mark.parametrize("kind", KINDS)


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def one_step(kind, w, u, b, c, x, state):
    """Compute one step for one sample, gate by gate; the matrices are cut by hand."""
    hidden = u.shape[1]
    ins = [w[k : k + hidden] @ x + b[k : k + hidden] for k in range(0, len(w), hidden)]
    ups = [u[k : k + hidden] @ state[0] + c[k : k + hidden] for k in range(0, len(u), hidden)]
    if kind == "RNN":
        return (np.tanh(ins[0] + ups[0]),)
    if kind == "LSTM":
        i, f, g, o = (one + other for one, other in zip(ins, ups, strict=True))
        cell = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(cell), cell
    reset, keep = sigmoid(ins[0] + ups[0]), sigmoid(ins[1] + ups[1])
    return ((1 - keep) * np.tanh(ins[2] + reset * ups[2]) + keep * state[0],)


def looped(kind, params, x, state, layers, both):
    """Compute the layer by loops over layers, directions, samples and steps; x is (time, batch, features)."""
    params = {name: np.asarray(value, "float64") for name, value in params.items()}
    steps, batch, _ = x.shape
    ends = np.zeros_like(state, "float64")
    row = 0
    for layer in range(layers):
        sides = []
        for way in ("l", "r") if both else ("l",):
            parts = ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")
            own = [params[f"{way}{layer}_{part}"] for part in parts]
            side = np.zeros((steps, batch, own[1].shape[1]))
            for n in range(batch):
                now = tuple(part[row, n] for part in state)
                for t in range(steps) if way == "l" else reversed(range(steps)):
                    now = one_step(kind, *own, x[t, n], now)
                    side[t, n] = now[0]
                ends[:, row, n] = now
            sides.append(side)
            row += 1
        x = np.concatenate(sides, axis=-1)
    return x, ends


def made(kind, *, steps=4, batch=2, layers=1, both=False, **options):
    """Give a layer of 5 -> 3, its parameters, and an input (time, batch, features) with a state."""
    layer = KINDS[kind][0](3, layers=layers, bidirectional=both, layout="TNC", **options)
    x = numbers(1, steps, batch, 5)
    everywhere = {".*": init.Normal(0.7)}
    state = numbers(2, 2 if kind == "LSTM" else 1, layers * (1 + both), batch, 3)
    return layer, layer.init(KEY, x, init=everywhere), x, state


def given(kind, state):
    return tuple(state) if kind == "LSTM" else state[0]


# --- values -------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, True)])
def test_against_loops(kind, layers, both):
    layer, params, x, state = made(kind, layers=layers, both=both)
    wanted, ends = looped(kind, params, x, state, layers, both)
    y, final = jax.jit(layer.apply)(params, x, given(kind, state))
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(final if kind == "LSTM" else (final,), ends, rtol=1e-4, atol=1e-5)
    assert isinstance(final, tuple) == (kind == "LSTM")
    without = layer.apply(params, x)
    np.testing.assert_allclose(without, looped(kind, params, x, 0 * state, layers, both)[0], 1e-4, 1e-5)
    batch_first = KINDS[kind][0](3, layers=layers, bidirectional=both)
    y, other = batch_first.apply(params, x.swapaxes(0, 1), given(kind, state))  # a state has one layout
    np.testing.assert_allclose(y.swapaxes(0, 1), wanted, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), other, final)


@every_kind
def test_the_final_state_goes_on(kind):
    layer, params, x, state = made(kind, layers=2)
    whole, end = layer.apply(params, x, given(kind, state))
    first, middle = layer.apply(params, x[:3], given(kind, state))
    second, last = layer.apply(params, x[3:], middle)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=1e-6, atol=1e-7)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), last, end)


@every_kind
def test_gradients_of_everything(kind):
    layer, params, x, state = made(kind, both=True)
    run = jax.jit(layer.apply)
    check_grads(run, (params, x, given(kind, state)), 1, ["rev", "fwd"], atol=2e-2, rtol=2e-2)


def test_three_layers_one_way():
    layer, params, x, state = made("GRU", layers=3)
    y, final = jax.jit(layer.apply)(params, x, state[0])
    wanted, ends = looped("GRU", params, x, state, 3, False)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(final, ends[0], rtol=1e-4, atol=1e-5)


def test_under_vmap_and_checkpoint():
    layer, params, x, state = made("LSTM", both=True)
    state = given("LSTM", state)
    y, final = layer.apply(params, x, state)
    mapped, ends = jax.jit(jax.vmap(layer.apply, (None, 0, None)))(params, x[None], state)
    np.testing.assert_allclose(mapped[0], y, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-6), ends, final)
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    several = jax.jit(jax.vmap(layer.apply, (0, None, None)))(stacked, x, state)
    np.testing.assert_allclose(several[0][0], y, rtol=1e-5, atol=1e-6)

    def loss(run):
        return jax.jit(jax.grad(lambda p: (run(p, x, state)[0] ** 2).sum()))

    plain, again = loss(layer.apply)(params), loss(jax.checkpoint(layer.apply))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), again, plain)


@every_kind
@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (4, 0), (0, 0)])
def test_of_no_steps_or_samples(kind, steps, batch):
    layer, params, x, state = made(kind, steps=steps, batch=batch, layers=2, both=True)
    y, final = layer.apply(params, x, given(kind, state))
    assert y.shape == (steps, batch, 6)
    assert layer.apply(params, x).shape == (steps, batch, 6)
    jax.tree.map(np.testing.assert_array_equal, final, given(kind, state))
    grads = jax.jit(jax.grad(lambda p: layer.apply(p, x, given(kind, state))[0].sum()))(params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


def primitives(jaxpr):
    """Yield the equations of a jaxpr, those of jitted functions in it included, but not those of loops."""
    for each in jaxpr.eqns:
        inner = each.params.get("jaxpr") if each.primitive.name != "scan" else None
        yield from primitives(inner.jaxpr) if hasattr(inner, "jaxpr") else [each]


@every_kind
def test_one_scan_and_one_product_for_each_layer_and_direction(kind):
    layer, params, x, _ = made(kind, layers=2, both=True)
    found = list(primitives(jax.make_jaxpr(layer.apply)(params, x).jaxpr))
    scans = [each for each in found if each.primitive.name == "scan"]
    assert len(scans) == sum(each.primitive.name == "dot_general" for each in found) == 4
    for scan in scans:
        inside = list(primitives(scan.params["jaxpr"].jaxpr))
        assert sum(each.primitive.name == "dot_general" for each in inside) == 1


# --- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", lambda x: np.maximum(x, 0)), (None, lambda x: x), (jnp.sin, np.sin)],
)
def test_rnn_of_other_activations(activation, function):
    layer, params, x, state = made("RNN", activation=activation)
    y, final = layer.apply(params, x, state[0])
    w, u, b, c = (params[f"l0_{part}"] for part in ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias"))
    h = state[0, 0]
    for t in range(4):
        h = function(x[t] @ w.T + b[None] + h @ u.T + c[None])
        np.testing.assert_allclose(y[t], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(final[0], h, rtol=1e-4, atol=1e-5)


def test_initialisers():
    x = jnp.ones((1, 1, 5))
    plain = nn.LSTM(3, layers=2).init(KEY, x, init=init.Constant(4.0))
    for name, value in plain.items():
        assert (value == (4 if name.endswith("weight") else 0)).all()
    own = {"i2h_weight": 1.0, "h2h_weight": 2.0, "i2h_bias": 3.0, "h2h_bias": 4.0}
    options = {f"{part}_init": init.Constant(value) for part, value in own.items()}
    for make, gates in KINDS.values():
        params = make(3, layers=2, bidirectional=True, **options).init(KEY, x)
        assert len(params) == 16
        for name, value in params.items():
            assert (value == own[name[3:]]).all()
            assert value.shape[0] == 3 * gates
    forget = nn.LSTM(2, i2h_bias_init=init.LSTMBias()).init(KEY, x)
    assert forget["l0_i2h_bias"].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert not forget["l0_h2h_bias"].any()


@every_kind
def test_how_they_print(kind):
    make = KINDS[kind][0]
    note = ", tanh" if kind == "RNN" else ""
    assert repr(make(4)) == f"{kind}(4{note})"
    assert repr(make(4, layers=2, layout="TNC")) == f"{kind}(4{note}, 2 layers, TNC)"
    net = nn.Sequential(make(4, layers=2, bidirectional=True), nn.Dense(1))
    params = net.init(KEY, "8, 5, 3")
    assert repr(pt.bind(net, params)) == (
        f"Sequential(\n  (0) {kind.lower()}0: {kind}(3 -> 4{note}, 2 layers, both ways)\n"
        "  (1) dense0: Dense(8 -> 1, linear)\n)"
    )


@every_kind
def test_bad_options(kind):
    make = KINDS[kind][0]
    for what in ("hidden", "layers"):
        for size in (0, -1, 2.0, True, None, "3"):
            assert message(
                pt.ParamTreeError, lambda what=what, size=size: make(**{"hidden": 3, what: size})
            ) == (f"{kind} needs {what} to be an integer of at least 1, and got {size!r}.")
    for layout in ("NCT", "ntc", None, ["NTC"]):
        assert message(pt.ParamTreeError, lambda layout=layout: make(3, layout=layout)) == (
            f"{kind} needs layout to be 'NTC' or 'TNC', and got {layout!r}."
        )


def test_rnn_of_an_unknown_activation():
    assert message(pt.ParamTreeError, lambda: nn.RNN(3, activation="tahn")).startswith(
        "no activation is 'tahn'. Did you mean tanh? Pass a function, or one of elu, "
    )


def test_numpy_sizes():
    layer = nn.GRU(np.int64(3), layers=np.int32(2))
    assert layer.init(KEY, "8, 5, 2")["l1_i2h_weight"].shape == (9, 3)
    assert repr(layer) == "GRU(3, 2 layers)"


# --- states and inputs --------------------------------------------------------------------------------------


def test_states_of_another_form():
    x, h = jnp.ones((2, 5, 4)), jnp.zeros((2, 2, 3))
    lstm, gru = nn.LSTM(3, layers=2), nn.GRU(3, bidirectional=True)
    long, flat = "float32[2,5,4]", "float32[2,2,3]"
    form = "of shape (2, 2, 3), (layers * directions, batch, hidden), and got"
    pair = f"needs its state to be a tuple (h, c) of two arrays {form}"
    one = f"needs its state to be an array {form}"
    cases = [
        (lstm, h, f"LSTM({long}, {flat}) {pair} (2, 2, 3)."),
        (lstm, (h,), f"LSTM({long}, {flat}) {pair} a tuple of (2, 2, 3)."),
        (lstm, (h, h[:1]), f"LSTM({long}, {flat}, float32[1,2,3]) {pair} a tuple of (2, 2, 3), (1, 2, 3)."),
        (lstm, (h, 0.0), f"LSTM({long}, {flat}, float) {pair} a tuple of (2, 2, 3), float."),
        (lstm, (), f"LSTM({long}) {pair} a tuple of nothing."),
        (
            gru,
            (h, h),
            f"GRU({long}, {flat}, {flat}) {one} a tuple of (2, 2, 3), (2, 2, 3).",
        ),
        (gru, [h], f"GRU({long}, {flat}) {one} a list of (2, 2, 3)."),
        (gru, h[0], f"GRU({long}, float32[2,3]) {one} (2, 3)."),
        (gru, h[:, :1], f"GRU({long}, float32[2,1,3]) {one} (2, 1, 3)."),
    ]
    for layer, state, wanted in cases:
        params = layer.init(KEY, x)
        assert message(pt.MismatchError, lambda layer=layer, params=params, state=state: (
            layer.apply(params, x, state)
        )) == wanted  # fmt: skip
    net = pt.module(lambda scope, x, state: scope.call(nn.RNN(3, name="past"), x, state))
    assert message(pt.MismatchError, lambda: net.specs("2, 5, 4", "2, 3")) == (
        "past(float32[2,5,4], float32[2,3]) needs its state to be an array of shape (1, 2, 3), "
        "(layers * directions, batch, hidden), and got (2, 3)."
    )


def test_a_list_is_a_state_too():
    layer, params, x, state = made("LSTM")
    first, second = layer.apply(params, x, list(state)), layer.apply(params, x, tuple(state))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_inputs_of_another_form():
    layer = nn.LSTM(3)
    params = layer.init(KEY, "2, 5, 4")
    assert message(pt.MismatchError, lambda: layer.apply(params, jnp.ones((2, 4)))) == (
        "LSTM(float32[2,4]) needs an input of 3 axes, (batch, time, features), and got 2."
    )
    assert message(pt.MismatchError, lambda: nn.GRU(3, layout="TNC").specs("4")) == (
        "GRU(float32[4]) needs an input of 3 axes, (time, batch, features), and got 1."
    )
    assert message(pt.MismatchError, lambda: layer.apply(params, jnp.ones((2, 5, 6)))) == (
        "l0_i2h_weight has shape (12, 4), and LSTM(float32[2,5,6]) needs (12, 6). "
        "Pass an input that fits, or init new parameters."
    )


@every_kind
def test_a_state_is_carried_in_the_dtype_of_the_outputs(kind):
    layer, params, x, state = made(kind)
    wanted = layer.apply(params, x, given(kind, np.ones_like(state)))[0]
    for ones in (np.ones(state.shape), jnp.ones(state.shape, "bfloat16"), np.ones(state.shape, int)):
        y, final = layer.apply(params, x, given(kind, ones))
        np.testing.assert_array_equal(y, wanted)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(final)} == {"float32"}
    half = pt.cast(params, {".*": "bfloat16"})
    y, final = jax.jit(layer.apply)(half, x.astype("bfloat16"), given(kind, state))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((y, final))} == {"bfloat16"}
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), params)
        y, final = jax.jit(layer.apply)(wide, x.astype("float64"), given(kind, state))
        assert {leaf.dtype.name for leaf in jax.tree.leaves((y, final))} == {"float64"}
        np.testing.assert_allclose(y, looped(kind, params, x, state, 1, False)[0], rtol=1e-10)


def test_a_float32_net_on_narrower_inputs():
    layer, params, x, _ = made("LSTM")
    with jax.numpy_dtype_promotion("standard"):
        assert layer.apply(params, x.astype("bfloat16")).dtype == jnp.float32


def test_symbols_with_a_state():
    layer = nn.LSTM(3, layers=2, layout="TNC")
    found = layer.specs("time, batch, features", ("2, batch, 3", "2, batch, 3"))
    assert str(found["l0_i2h_weight"]) == "ParamSpec((12, features), float32)"
    assert message(pt.MismatchError, lambda: layer.specs("t, n, c", ("2, t, 3", "2, t, 3"))) == (
        "LSTM(float32[t,n,c], float32[2,t,3], float32[2,t,3]) needs its state to be a tuple (h, c) of two "
        "arrays of shape (2, n, 3), (layers * directions, batch, hidden), and got a tuple of (2, t, 3), "
        "(2, t, 3)."
    )
