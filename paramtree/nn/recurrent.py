"""Layers that go through time step by step, and carry a state along.

All of them hold, for each layer `l0`, `l1`, ... and, in the other direction, `r0`, `r1`, ...:
`l0_i2h_weight` (gates * hidden, in), `l0_h2h_weight` (gates * hidden, hidden), and the biases `l0_i2h_bias`
and `l0_h2h_bias` (gates * hidden,). The layers after the first get what the one before has given, both
directions side by side.

A state is (layers * directions, batch, hidden), in the order `l0`, `r0`, `l1`, `r1`, ..., whatever the
layout; it is carried in the dtype of the outputs. Without one given it is zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from paramtree.display import shape_text
from paramtree.errors import MismatchError, ParamTreeError
from paramtree.init import Zeros
from paramtree.module import Module
from paramtree.nn.activation import Function, activation_function, activation_text
from paramtree.nn.checks import check_rank, check_size
from paramtree.scope import Scope
from paramtree.tree import is_array_like

_ZEROS = Zeros()
_AXES = {"NTC": "(batch, time, features)", "TNC": "(time, batch, features)"}

_State = tuple[jax.Array, ...]


def RNN(
    hidden: int,
    *,
    activation: str | Function | None = "tanh",
    layers: int = 1,
    bidirectional: bool = False,
    layout: str = "NTC",
    i2h_weight_init: Any = None,
    h2h_weight_init: Any = None,
    i2h_bias_init: Any = _ZEROS,
    h2h_bias_init: Any = _ZEROS,
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Carry `h = activation(i2h(x) + h2h(h))` through time: (batch, time, in) -> (batch, time, hidden).

    Called with a state too, it gives (outputs, state after the last step). In both directions the outputs
    are (batch, time, 2 * hidden), forward first.

    Parameters: for each layer and direction `l0_i2h_weight` (hidden, in), `l0_h2h_weight` (hidden, hidden),
    `l0_i2h_bias` (hidden,), `l0_h2h_bias` (hidden,); backwards they start with `r0`.

    Args:
        hidden: the size of the state.
        activation: a name, a function, or None for a linear layer.
        layers: how many of them are stacked.
        bidirectional: whether each layer goes both ways.
        layout: "NTC" for the batch first, "TNC" for the time first.
        i2h_weight_init: the initialiser of the weights for the input.
        h2h_weight_init: the initialiser of the weights for the state.
        i2h_bias_init: the initialiser of the biases that go with the input.
        h2h_bias_init: the initialiser of the biases that go with the state.
        name: its key in the parent.
        params: a layer whose parameters this one shares.

    >>> net = RNN(3)
    >>> params = net.init(jax.random.key(0), "8, 5, 2")
    >>> net.apply(params, jnp.ones((8, 5, 2))).shape
    (8, 5, 3)

    Source: Elman 1990, Finding structure in time.

    Raises:
        ParamTreeError: at construction, for sizes below 1, another layout or an unknown activation.
        MismatchError: at the call, for an input or a state of another shape.
    """
    function = activation_function(activation)

    def step(i2h: jax.Array, h2h: jax.Array, state: _State) -> _State:
        del state
        return (function(i2h + h2h),)

    inits = (i2h_weight_init, h2h_weight_init, i2h_bias_init, h2h_bias_init)
    note = activation_text(activation)
    net = _Net("RNN", ("h",), 1, step, hidden, layers, bidirectional, layout, inits, note)
    return _module(net, name, params)


def LSTM(
    hidden: int,
    *,
    layers: int = 1,
    bidirectional: bool = False,
    layout: str = "NTC",
    i2h_weight_init: Any = None,
    h2h_weight_init: Any = None,
    i2h_bias_init: Any = _ZEROS,
    h2h_bias_init: Any = _ZEROS,
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Carry a state and a gated cell through time: (batch, time, in) -> (batch, time, hidden).

    With the gates `i, f, g, o` of `i2h(x) + h2h(h)`: `c = sigmoid(f) * c + sigmoid(i) * tanh(g)` and
    `h = sigmoid(o) * tanh(c)`. Called with a state (h, c) too, it gives (outputs, (h, c) after the last
    step). In both directions the outputs are (batch, time, 2 * hidden), forward first.

    Parameters: for each layer and direction `l0_i2h_weight` (4 * hidden, in), `l0_h2h_weight` (4 * hidden,
    hidden), `l0_i2h_bias` (4 * hidden,), `l0_h2h_bias` (4 * hidden,); backwards they start with `r0`.

    Args: those of `RNN`, without the activation. `i2h_bias_init=init.LSTMBias()` opens the forget gates.

    >>> from paramtree.init import LSTMBias
    >>> net = LSTM(3, layers=2, bidirectional=True, i2h_bias_init=LSTMBias())
    >>> params = net.init(jax.random.key(0), "8, 5, 2")
    >>> zeros = jnp.zeros((4, 8, 3))
    >>> y, (h, c) = net.apply(params, jnp.ones((8, 5, 2)), (zeros, zeros))
    >>> y.shape, h.shape, c.shape
    ((8, 5, 6), (4, 8, 3), (4, 8, 3))

    Source: Hochreiter and Schmidhuber 1997, Long short-term memory; with the forget gate of Gers,
    Schmidhuber and Cummins 2000, Learning to forget.

    Raises:
        ParamTreeError: at construction, for sizes below 1 or another layout.
        MismatchError: at the call, for an input or a state of another shape.
    """
    inits = (i2h_weight_init, h2h_weight_init, i2h_bias_init, h2h_bias_init)
    net = _Net("LSTM", ("h", "c"), 4, _lstm_step, hidden, layers, bidirectional, layout, inits)
    return _module(net, name, params)


def GRU(
    hidden: int,
    *,
    layers: int = 1,
    bidirectional: bool = False,
    layout: str = "NTC",
    i2h_weight_init: Any = None,
    h2h_weight_init: Any = None,
    i2h_bias_init: Any = _ZEROS,
    h2h_bias_init: Any = _ZEROS,
    name: str | None = None,
    params: Module | None = None,
) -> Module:
    """Carry a gated state through time: (batch, time, in) -> (batch, time, hidden).

    With the gates `r, z, n` of both `i2h(x)` and `h2h(h)`: `r` and `z` are the sigmoids of the two sums,
    `n = tanh(i2h_n + r * h2h_n)`, and `h = (1 - z) * n + z * h`. Called with a state too, it gives (outputs,
    state after the last step). In both directions the outputs are (batch, time, 2 * hidden), forward first.

    Parameters: for each layer and direction `l0_i2h_weight` (3 * hidden, in), `l0_h2h_weight` (3 * hidden,
    hidden), `l0_i2h_bias` (3 * hidden,), `l0_h2h_bias` (3 * hidden,); backwards they start with `r0`.

    Args: those of `RNN`, without the activation.

    >>> net = GRU(3, layout="TNC")
    >>> params = net.init(jax.random.key(0), "5, 8, 2")
    >>> y, state = net.apply(params, jnp.ones((5, 8, 2)), jnp.zeros((1, 8, 3)))
    >>> y.shape, bool((y[-1] == state[0]).all())
    ((5, 8, 3), True)

    Source: Cho et al. 2014, Learning phrase representations using RNN encoder-decoder; with the reset gate
    after the product, as cuDNN computes it.

    Raises:
        ParamTreeError: at construction, for sizes below 1 or another layout.
        MismatchError: at the call, for an input or a state of another shape.
    """
    inits = (i2h_weight_init, h2h_weight_init, i2h_bias_init, h2h_bias_init)
    net = _Net("GRU", ("h",), 3, _gru_step, hidden, layers, bidirectional, layout, inits)
    return _module(net, name, params)


@dataclass(frozen=True)
class _Net:
    """What one of these layers is.

    Attributes:
        title: how it prints.
        states: the names of the arrays carried from step to step, of which the first is the output.
        gates: how many rows of weights there are for each of the hidden.
        step: gives the new state from the product of the input, that of the state, and the old state.
        hidden: the size of the state.
        layers: how many are stacked.
        bidirectional: whether each goes both ways.
        layout: "NTC" or "TNC".
        inits: the initialisers of the two weights, then of the two biases.
        note: what it prints besides its sizes.
    """

    title: str
    states: tuple[str, ...]
    gates: int
    step: Callable[[jax.Array, jax.Array, _State], _State]
    hidden: int
    layers: int
    bidirectional: bool
    layout: str
    inits: tuple[Any, Any, Any, Any]
    note: str = ""

    @property
    def ways(self) -> str:
        return "lr" if self.bidirectional else "l"


def _lstm_step(i2h: jax.Array, h2h: jax.Array, state: _State) -> _State:
    i, f, g, o = jnp.split(i2h + h2h, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru_step(i2h: jax.Array, h2h: jax.Array, state: _State) -> _State:
    i2h_r, i2h_z, i2h_n = jnp.split(i2h, 3, axis=-1)
    h2h_r, h2h_z, h2h_n = jnp.split(h2h, 3, axis=-1)
    z = jax.nn.sigmoid(i2h_z + h2h_z)
    n = jnp.tanh(i2h_n + jax.nn.sigmoid(i2h_r + h2h_r) * h2h_n)
    return ((1 - z) * n + z * state[0],)


def _module(net: _Net, name: str | None, params: Module | None) -> Module:
    check_size(net.title, "hidden", net.hidden)
    check_size(net.title, "layers", net.layers)
    if net.layout not in ("NTC", "TNC"):
        raise ParamTreeError(f"{net.title} needs layout to be 'NTC' or 'TNC', and got {net.layout!r}.")

    def call(scope: Scope, x: jax.Array, state: Any = None) -> Any:
        x = jnp.asarray(x)
        check_rank(scope, x, 3, _AXES[net.layout])
        x = _swapped(net, x)
        start = None
        if state is not None:
            start = _given(scope, net, state, (net.layers * len(net.ways), x.shape[1], net.hidden))
        y, end = _stack(scope, net, x, start)
        y = _swapped(net, y)
        return y if state is None else (y, end if len(net.states) > 1 else end[0])

    def describe(own: Any) -> str:
        inputs = f"{own['l0_i2h_weight'].shape[-1]} -> " if own and "l0_i2h_weight" in own else ""
        layers = f"{net.layers} layers" if net.layers > 1 else ""
        notes = [net.note, layers, "both ways" if net.bidirectional else ""]
        notes.append(net.layout if net.layout == "TNC" else "")
        return f"{net.title}({', '.join([f'{inputs}{net.hidden}', *filter(None, notes)])})"

    return Module(call, net.title, name, params, describe=describe)


def _swapped(net: _Net, x: jax.Array) -> jax.Array:
    return x if net.layout == "TNC" else x.swapaxes(0, 1)


def _given(scope: Scope, net: _Net, state: Any, shape: tuple[Any, ...]) -> _State:
    """Give the arrays of a state.

    Raises:
        MismatchError: where they are not those that are needed.
    """
    several = len(net.states) > 1
    parts: Any = state if several else (state,)
    shapes = [getattr(part, "shape", None) for part in parts] if isinstance(parts, tuple | list) else []
    if shapes == [shape] * len(net.states):
        return tuple(map(jnp.asarray, parts))
    kind = f"a tuple ({', '.join(net.states)}) of two arrays" if several else "an array"
    raise MismatchError(
        f"{scope.called()} needs its state to be {kind} of shape {shape_text(shape)}, "
        f"(layers * directions, batch, hidden), and got {_state_text(state)}."
    )


def _state_text(state: Any) -> str:
    if isinstance(state, tuple | list):
        return f"a {type(state).__name__} of {', '.join(map(_state_text, state)) or 'nothing'}"
    return shape_text(state.shape) if is_array_like(state) else type(state).__name__


def _stack(scope: Scope, net: _Net, x: jax.Array, start: _State | None) -> tuple[jax.Array, _State]:
    """Run all layers, of (time, batch, features), and give the outputs of the last and all final states."""
    ends: list[_State] = []
    for layer in range(net.layers):
        outputs: list[jax.Array] = []
        for way in net.ways:
            own = None if start is None else tuple(part[len(ends)] for part in start)
            y, end = _one_way(scope, net, f"{way}{layer}", x, own)
            outputs.append(y)
            ends.append(end)
        x = jnp.concatenate(outputs, axis=-1)
    return x, tuple(jnp.stack(parts) for parts in zip(*ends, strict=True))


def _one_way(
    scope: Scope, net: _Net, key: str, x: jax.Array, start: _State | None
) -> tuple[jax.Array, _State]:
    rows, (i2h_weight_init, h2h_weight_init, i2h_bias_init, h2h_bias_init) = net.gates * net.hidden, net.inits
    i2h_weight = scope.param(f"{key}_i2h_weight", (rows, x.shape[-1]), i2h_weight_init)
    h2h_weight = scope.param(f"{key}_h2h_weight", (rows, net.hidden), h2h_weight_init)
    i2h_bias = scope.param(f"{key}_i2h_bias", (rows,), i2h_bias_init)
    h2h_bias = scope.param(f"{key}_h2h_bias", (rows,), h2h_bias_init)
    products = x @ i2h_weight.T + jnp.expand_dims(i2h_bias, (0, 1))  # of all steps at once
    zeros = jnp.zeros_like(products, shape=(x.shape[1], net.hidden))  # and spread over devices as they are
    start = start or (zeros,) * len(net.states)
    # a scan must give back the dtype that it was given, and the steps compute in that of the products
    start = tuple(part.astype(products.dtype) for part in start)

    def step(state: _State, i2h: jax.Array) -> tuple[_State, jax.Array]:
        h2h = state[0] @ h2h_weight.T + jnp.expand_dims(h2h_bias, 0)
        state = net.step(i2h, h2h, state)
        return state, state[0]

    end, y = jax.lax.scan(step, start, products, reverse=key.startswith("r"))
    return y, end
