"""Initialisers: how a parameter gets its first value.

An initialiser is any callable `(key, shape, dtype) -> array`, so those of `jax.nn.initializers` and plain
functions serve as they are. One that has a parameter called `name` is also given the parameter's name.

Those here are small frozen values, equal when their settings are. Weights are `(out, in)` and convolution
weights `(out, in/groups, *kernel)`, hence `fan_in = shape[1] * prod(shape[2:])` and
`fan_out = shape[0] * prod(shape[2:])`. JAX's own assume `(in, out)`: give them `in_axis=1, out_axis=0`.

Random values are drawn in float32 (float64 where asked) and rounded once to a narrower dtype, so a bfloat16
parameter is the float32 one rounded. The bits are the same eager, under `jit` and under `vmap` over keys of
JAX's default kind; with those of "rbg" JAX itself draws other ones under `vmap`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import FrozenInstanceError, dataclass
from inspect import signature
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import initializers

from paramtree.errors import ParamTreeError, did_you_mean, listing, raise_faults
from paramtree.names import untyped_jax
from paramtree.nodes import resolve
from paramtree.select import describe_select, matches, parse_rules
from paramtree.tree import flat_leaves, value_faults

if TYPE_CHECKING:
    from collections.abc import Hashable

    from jax.nn.initializers import Initializer as JaxInitializer
    from jax.typing import DTypeLike
    from numpy.typing import ArrayLike, NDArray

    from paramtree.select import Rules


# The dataclasses below take `==`, `hash`, `repr` and being frozen from this base, not from the decorator:
# generating them anew for each class is half of what importing this module costs.
class Initializer:
    """Base of the initialisers whose value depends on `(key, shape, dtype)` and their settings alone.

    Being one is a promise: frozen, hashable, equal by value, traceable by `jit` and `vmap`, and therefore
    free to be drawn in groups. `(key, shape) -> shape`, in exactly the dtype asked for.

    >>> Uniform(0.1) == Uniform(scale=0.1), Uniform(0.1) == Normal(0.1), Uniform()
    (True, False, Uniform(scale=0.07))
    """

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return the first value of a parameter of this shape and dtype.

        Raises:
            NotImplementedError: a subclass does not say how.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, key, shape, dtype)")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute once, as `__init__` does; a value does not change.

        Raises:
            FrozenInstanceError: it is set already.
        """
        if name in vars(self):
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        """Refuse: a value does not change.

        Raises:
            FrozenInstanceError: always.
        """
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        """Tell whether `other` is of the same class, with the same settings."""
        return isinstance(other, Initializer) and self._identity() == other._identity()

    def __hash__(self) -> int:
        """Hash by class and settings."""
        return hash(self._identity())

    def __repr__(self) -> str:
        """Write the call that makes this value."""
        settings = ", ".join(f"{setting}={value!r}" for setting, value in vars(self).items())
        return f"{type(self).__name__}({settings})"

    def _identity(self) -> Hashable:
        return type(self), *sorted(vars(self).items())


class Zeros(Initializer):
    """Fill with 0.

    >>> Zeros()(jax.random.key(0), (2,))
    Array([0., 0.], dtype=float32)
    """

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return zeros; `key` is not used."""
        del key
        return lax.full(shape, 0, dtype)


class Ones(Initializer):
    """Fill with 1.

    >>> Ones()(jax.random.key(0), (2,))
    Array([1., 1.], dtype=float32)
    """

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return ones; `key` is not used."""
        del key
        return lax.full(shape, 1, dtype)


@dataclass(eq=False, repr=False)
class Constant(Initializer):
    """Fill with one number, or with an array that broadcasts to the parameter's shape.

    An array is copied, and compares by dtype, shape and bits.

    >>> Constant([1, 2])(jax.random.key(0), (2, 2))
    Array([[1., 2.],
           [1., 2.]], dtype=float32)

    Raises:
        ParamTreeError: the value is not made of real numbers; when called, it does not broadcast to the
            shape, or the dtype cannot hold it (0.5 as an integer, 1e6 as float16).
    """

    value: ArrayLike

    def __post_init__(self) -> None:
        """Keep an array as a read-only copy, so that the hash cannot change."""
        if isinstance(self.value, (bool, int, float)):
            return
        array = _numbers(self.value)
        array.flags.writeable = False
        object.__setattr__(self, "value", array)

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return the value, broadcast to `shape`; `key` is not used.

        Raises:
            ParamTreeError: the value does not broadcast to `shape`, or `dtype` cannot hold it.
        """
        del key
        array = np.asarray(self.value)
        if not _broadcasts(array.shape, tuple(shape)):
            raise ParamTreeError(
                f"Constant: a value of shape {array.shape} does not broadcast to the parameter's shape "
                f"{tuple(shape)}. Give a scalar, or an array of shape {tuple(shape)}."
            )
        return jnp.broadcast_to(_exactly("Constant", array, dtype), shape)

    def _identity(self) -> Hashable:
        # Bits, not numbers: 0.0 and -0.0 fill differently, and nan must equal itself.
        array = np.asarray(self.value)
        return type(self), array.dtype.name, array.shape, array.tobytes()


@dataclass(eq=False, repr=False)
class Identity(Initializer):
    """Make a matrix with `gain` on its main diagonal and 0 elsewhere, square or not.

    >>> Identity(gain=2.0)(jax.random.key(0), (2, 3))
    Array([[2., 0., 0.],
           [0., 2., 0.]], dtype=float32)

    Raises:
        ParamTreeError: the gain is not a finite number; when called, the shape is not 2-dimensional, or the
            dtype cannot hold the gain.

    Source: for recurrent weights, Le, Jaitly and Hinton, 2015, "A simple way to initialize recurrent
    networks of rectified linear units".
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        """Check the setting."""
        _check_number(self, "gain")

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return the `(rows, columns)` matrix; `key` is not used.

        Raises:
            ParamTreeError: `shape` is not 2-dimensional, or `dtype` cannot hold the gain.
        """
        del key
        if len(shape) != 2:
            raise ParamTreeError(
                f"Identity needs a matrix shape (rows, columns), found {tuple(shape)}. "
                "For another number of dimensions use e.g. Orthogonal or Xavier."
            )
        gain = _exactly("Identity", np.asarray(self.gain), dtype)
        return jnp.fill_diagonal(lax.full(shape, 0, dtype), gain, inplace=False)


class Bilinear(Initializer):
    """Make the kernel with which a transposed convolution upsamples by bilinear interpolation.

    Every channel pair of `(out, in, height, width)` gets the same kernel. As in MXNet the width sets the
    slope along both axes, so give it square kernels.

    >>> Bilinear()(jax.random.key(0), (1, 1, 4, 4))[0, 0, 1]
    Array([0.1875, 0.5625, 0.5625, 0.1875], dtype=float32)

    Raises:
        ParamTreeError: when called, the shape is not 4-dimensional, or the dtype cannot hold fractions.

    Source: Long, Shelhamer and Darrell, 2015, "Fully convolutional networks for semantic segmentation".
    """

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return the kernel for every channel pair; `key` is not used.

        Raises:
            ParamTreeError: `shape` is not 4-dimensional, or `dtype` cannot hold fractions.
        """
        del key
        if len(shape) != 4:
            raise ParamTreeError(
                f"Bilinear needs a shape (out, in, height, width), found {tuple(shape)}. "
                "Use it for the weight of a transposed 2-d convolution, and e.g. Xavier elsewhere."
            )
        height, width = shape[2:]
        factor = max(1, math.ceil(width / 2))
        centre = (2 * factor - 1 - factor % 2) / (2 * factor)
        rows, columns = (1 - np.abs(np.arange(size) / factor - centre) for size in (height, width))
        return jnp.broadcast_to(_exactly("Bilinear", np.outer(rows, columns), dtype), shape)


@dataclass(eq=False, repr=False)
class LSTMBias(Initializer):
    """Make an LSTM bias `(4 * hidden,)`: `forget_bias` for the forget gate, 0 for the others.

    The gates lie in the order input, forget, cell, output. An LSTM with two biases adds them up: give this
    to one of them only.

    >>> LSTMBias()(jax.random.key(0), (8,))
    Array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32)

    Raises:
        ParamTreeError: `forget_bias` is not a finite number; when called, the shape is not that of a vector
            whose length divides by 4, or the dtype cannot hold the value.

    Source: Jozefowicz, Zaremba and Sutskever, 2015, "An empirical exploration of recurrent network
    architectures".
    """

    forget_bias: float = 1.0

    def __post_init__(self) -> None:
        """Check the setting."""
        _check_number(self, "forget_bias")

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return the bias vector; `key` is not used.

        Raises:
            ParamTreeError: `shape` is not `(4 * hidden,)`, or `dtype` cannot hold the value.
        """
        del key
        if len(shape) != 1 or shape[0] % 4:
            raise ParamTreeError(
                f"LSTMBias needs a vector shape (4 * hidden,), found {tuple(shape)}. "
                "Use it for the bias of an LSTM, and e.g. Zeros elsewhere."
            )
        gates = _exactly("LSTMBias", np.array([0.0, self.forget_bias, 0.0, 0.0]), dtype)
        return jnp.repeat(gates, shape[0] // 4)


class _Drawn(Initializer):
    """Base of the initialisers that draw: checks the request, then hands it to one compiled function."""

    least_dims: ClassVar[int] = 0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Draw a value of this shape, rounded to `dtype`.

        Raises:
            ParamTreeError: the shape has too few dimensions, or the dtype is not a real floating one.
        """
        shape, kind, name = tuple(shape), jnp.dtype(dtype), type(self).__name__
        if len(shape) < self.least_dims:
            raise ParamTreeError(
                f"{name} needs a shape of at least {self.least_dims} dimensions, (out, in, ...), "
                f"found {shape}. For a vector or a scalar use e.g. Normal or Zeros."
            )
        if not jnp.issubdtype(kind, jnp.floating):
            raise ParamTreeError(
                f"{name} draws real numbers, found dtype {kind.name}. "
                "Ask for a floating dtype such as float32, or use e.g. Zeros or Constant."
            )
        # Nothing to draw, and a fan of 0 would be divided by.
        return lax.full(shape, 0, kind) if 0 in shape else _draw(self, key, shape, kind)

    def sample(self, key: jax.Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> jax.Array:
        """Draw in float32 or wider; `__call__` checks before and rounds after."""
        raise NotImplementedError(f"{type(self).__name__} must define sample(self, key, shape, dtype)")


# One compiled function draws for every caller. Left to run operation by operation, the eager result differs
# from the jitted one in the last bit, because XLA merges the two constant factors of a scaled normal draw.
# And a draw made directly in bfloat16 has seven random bits: 128 different values, none past 2.9 sigma.
# (The type of `jax.jit` mentions one that type checkers cannot see, hence the cast.)
@functools.partial(untyped_jax.jit, static_argnums=(0, 2, 3))
def _draw(law: _Drawn, key: jax.Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> jax.Array:
    wide = dtype if dtype.itemsize >= 4 else np.dtype(np.float32)
    return law.sample(key, shape, wide).astype(dtype)


@dataclass(eq=False, repr=False)
class Uniform(_Drawn):
    """Draw from U(-scale, scale), for a parameter of any shape; the default for weights, as in Gluon.

    >>> w = Uniform(0.5)(jax.random.key(0), (256, 20))
    >>> w.shape, bool(abs(w).max() <= 0.5), round(float(w.std() * 12**0.5), 1)
    ((256, 20), True, 1.0)

    Raises:
        ParamTreeError: the scale is not a finite number of at least 0; when called, the dtype is not a
            floating one.
    """

    scale: float = 0.07

    def __post_init__(self) -> None:
        """Check the setting."""
        _check_number(self, "scale", least=0)

    def sample(self, key: jax.Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> jax.Array:
        """Draw from U(-1, 1), which is exact, and round once when scaling."""
        return jax.random.uniform(key, shape, dtype, -1) * float(self.scale)


@dataclass(eq=False, repr=False)
class Normal(_Drawn):
    """Draw from N(0, sigma**2), for a parameter of any shape.

    >>> w = Normal(0.5)(jax.random.key(0), (256, 20))
    >>> w.shape, round(float(w.std()), 1)
    ((256, 20), 0.5)

    Raises:
        ParamTreeError: sigma is not a finite number of at least 0; when called, the dtype is not floating.
    """

    sigma: float = 0.01

    def __post_init__(self) -> None:
        """Check the setting."""
        _check_number(self, "sigma", least=0)

    def sample(self, key: jax.Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> jax.Array:
        """Draw from N(0, sigma**2)."""
        return initializers.normal(self.sigma)(key, shape, dtype)


@dataclass(eq=False, repr=False)
class TruncatedNormal(_Drawn):
    """Draw from N(0, sigma**2) cut to `(lower * sigma, upper * sigma)`, for a parameter of any shape.

    As in `jax.nn.initializers.truncated_normal`, sigma is the deviation before the cut; what remains of it
    with the default bounds is 0.88 sigma.

    >>> w = TruncatedNormal(0.5)(jax.random.key(0), (256, 20))
    >>> w.shape, bool(abs(w).max() <= 1), round(float(w.std()), 1)
    ((256, 20), True, 0.4)

    Raises:
        ParamTreeError: sigma is not a finite number of at least 0, or the bounds are not finite numbers with
            lower < upper; when called, the dtype is not floating.
    """

    sigma: float = 0.01
    lower: float = -2.0
    upper: float = 2.0

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_number(self, "sigma", least=0)
        _check_number(self, "lower")
        _check_number(self, "upper")
        if self.lower >= self.upper:
            raise ParamTreeError(
                f"TruncatedNormal: lower must be below upper, found lower={self.lower!r} and "
                f"upper={self.upper!r}. Both count in sigmas, e.g. lower=-2.0, upper=2.0."
            )

    def sample(self, key: jax.Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> jax.Array:
        """Draw from the standard normal between the bounds, then scale."""
        law = initializers.truncated_normal(self.sigma, lower=self.lower, upper=self.upper)
        return law(key, shape, dtype)


@dataclass(eq=False, repr=False)
class Xavier(_Drawn):
    """Draw with a variance that keeps activations and gradients at one size through the layers.

    With `s = sqrt(magnitude / fan)`, uniform draws from U(-s, s) and gaussian from N(0, s**2). The fan is
    fan_in, fan_out or, for avg, their mean. The default is `jax.nn.initializers.glorot_uniform`.

    >>> w = Xavier()(jax.random.key(0), (2, 4))  # s = sqrt(3 / ((4 + 2) / 2)) = 1
    >>> w.shape, bool(abs(w).max() <= 1)
    ((2, 4), True)

    Raises:
        ParamTreeError: rnd_type or factor_type is unknown, or the magnitude is not a finite number of at
            least 0; when called, the shape has fewer than 2 dimensions, or the dtype is not floating.

    Source: Glorot and Bengio, 2010, "Understanding the difficulty of training deep feedforward neural
    networks".
    """

    rnd_type: Literal["uniform", "gaussian"] = "uniform"
    factor_type: Literal["avg", "in", "out"] = "avg"
    magnitude: float = 3.0
    least_dims: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_word(self, "rnd_type", ("uniform", "gaussian"))
        _check_word(self, "factor_type", ("avg", "in", "out"))
        _check_number(self, "magnitude", least=0)

    def sample(self, key: jax.Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> jax.Array:
        """Draw with the deviation that the shape asks for."""
        # JAX counts in variances: that of U(-s, s) is s**2 / 3.
        if self.rnd_type == "uniform":
            return _scaled(self.magnitude / 3, self.factor_type, "uniform")(key, shape, dtype)
        return _scaled(self.magnitude, self.factor_type, "normal")(key, shape, dtype)


@dataclass(eq=False, repr=False)
class He(_Drawn):
    """Draw from N(0, 2 / fan), which keeps the size of activations through layers with relu.

    Not truncated, unlike `jax.nn.initializers.he_normal`.

    >>> w = He()(jax.random.key(0), (256, 50))  # sigma = sqrt(2 / 50) = 0.2
    >>> w.shape, round(float(w.std()), 2)
    ((256, 50), 0.2)

    Raises:
        ParamTreeError: factor_type is unknown; when called, the shape has fewer than 2 dimensions, or the
            dtype is not floating.

    Source: He, Zhang, Ren and Sun, 2015, "Delving deep into rectifiers", equation 10; with
    `factor_type="out"` equation 14.
    """

    factor_type: Literal["avg", "in", "out"] = "in"
    least_dims: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Check the setting."""
        _check_word(self, "factor_type", ("avg", "in", "out"))

    def sample(self, key: jax.Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> jax.Array:
        """Draw with the deviation that the shape asks for."""
        return _scaled(2.0, self.factor_type, "normal")(key, shape, dtype)


@dataclass(eq=False, repr=False)
class MSRAPrelu(_Drawn):
    """Draw from N(0, 2 / ((1 + slope**2) * fan)), for layers with PReLU of that slope.

    The defaults are Gluon's: the mean of both fans and slope 0.25. `MSRAPrelu("in", 0.0)` is `He()`.

    >>> w = MSRAPrelu("in", slope=1.0)(jax.random.key(0), (256, 25))  # sigma = sqrt(1 / 25) = 0.2
    >>> w.shape, round(float(w.std()), 2)
    ((256, 25), 0.2)

    Raises:
        ParamTreeError: factor_type is unknown, or the slope is not a finite number; when called, the shape
            has fewer than 2 dimensions, or the dtype is not floating.

    Source: He, Zhang, Ren and Sun, 2015, "Delving deep into rectifiers", equation 15.
    """

    factor_type: Literal["avg", "in", "out"] = "avg"
    slope: float = 0.25
    least_dims: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_word(self, "factor_type", ("avg", "in", "out"))
        _check_number(self, "slope")

    def sample(self, key: jax.Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> jax.Array:
        """Draw with the deviation that the shape asks for."""
        return _scaled(2 / (1 + self.slope**2), self.factor_type, "normal")(key, shape, dtype)


class LecunNormal(_Drawn):
    """Draw from a normal distribution of variance 1 / fan_in, cut at 2 deviations.

    This is `jax.nn.initializers.lecun_normal`: the variance is that after the cut.

    >>> w = LecunNormal()(jax.random.key(0), (256, 25))  # deviation = sqrt(1 / 25) = 0.2
    >>> w.shape, round(float(w.std()), 2)
    ((256, 25), 0.2)

    Raises:
        ParamTreeError: when called, the shape has fewer than 2 dimensions, or the dtype is not floating.

    Source: LeCun, Bottou, Orr and Müller, 1998, "Efficient BackProp".
    """

    least_dims: ClassVar[int] = 2

    def sample(self, key: jax.Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> jax.Array:
        """Draw with the deviation that the shape asks for."""
        return _scaled(1.0, "in", "truncated_normal")(key, shape, dtype)


@dataclass(eq=False, repr=False)
class Orthogonal(_Drawn):
    """Draw a uniformly distributed orthogonal matrix times `scale`.

    Of the parameter seen as a matrix `(shape[0], prod(shape[1:]))`, the rows are orthogonal where there are
    no more of them than columns, else the columns: `W @ W.T` or `W.T @ W` is `scale**2` times the identity.

    >>> w = Orthogonal(scale=2.0)(jax.random.key(0), (2, 5))
    >>> abs((w @ w.T).round(3))
    Array([[4., 0.],
           [0., 4.]], dtype=float32)

    Raises:
        ParamTreeError: the scale is not a finite number of at least 0; when called, the shape has fewer than
            2 dimensions, or the dtype is not floating.

    Source: Saxe, McClelland and Ganguli, 2013, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks".
    """

    scale: float = 1.414
    least_dims: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Check the setting."""
        _check_number(self, "scale", least=0)

    def sample(self, key: jax.Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> jax.Array:
        """Draw the orthogonal matrix, then scale."""
        return initializers.orthogonal(self.scale, column_axis=0)(key, shape, dtype)


_MODES: dict[str, Literal["fan_avg", "fan_in", "fan_out"]] = {
    "avg": "fan_avg",
    "in": "fan_in",
    "out": "fan_out",
}


def _scaled(
    magnitude: float,
    factor_type: Literal["avg", "in", "out"],
    distribution: Literal["uniform", "normal", "truncated_normal"],
) -> JaxInitializer:
    mode = _MODES[factor_type]
    return initializers.variance_scaling(magnitude, mode, distribution, in_axis=1, out_axis=0)


def _check_number(owner: Initializer, setting: str, least: float = -math.inf) -> None:
    value = getattr(owner, setting)
    number = float(value) if isinstance(value, Real) else math.nan
    if math.isfinite(number) and number >= least:
        return
    wanted = "a finite number" + (f" of at least {least}" if math.isfinite(least) else "")
    raise ParamTreeError(
        f"{type(owner).__name__}: {setting} must be {wanted}, found {value!r}. "
        f"Give one such as {getattr(type(owner), setting)}."
    )


def _check_word(owner: Initializer, setting: str, known: tuple[str, ...]) -> None:
    value = getattr(owner, setting)
    if value not in known:
        raise ParamTreeError(
            f"{type(owner).__name__}: {setting} must be one of {', '.join(known)}, found {value!r}."
            f"{did_you_mean(str(value), known)}"
        )


def _numbers(value: ArrayLike) -> NDArray[Any]:
    """Copy to a NumPy array of real numbers."""
    try:
        array = np.array(value)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise ParamTreeError(
            f"Constant: the value must be a real number or an array of them, found {value!r}. "
            "For anything else write a function (key, shape, dtype) -> array."
        )
    return array


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def _exactly(owner: str, array: NDArray[Any], dtype: DTypeLike) -> jax.Array:
    """Convert fixed numbers, refusing what no rounding excuses: a fraction cut off, an overflow."""
    kind = jnp.dtype(dtype)
    with np.errstate(all="ignore"):
        fixed = array.astype(kind)
        inexact = jnp.issubdtype(kind, jnp.inexact)
        kept = np.isfinite(fixed) == np.isfinite(array) if inexact else fixed.astype(array.dtype) == array
    if not kept.all():
        lost = array[~kept].flat[0]
        raise ParamTreeError(
            f"{owner}: dtype {kind.name} cannot hold the value {lost}. "
            f"Ask for another dtype, or give a value that {kind.name} holds."
        )
    return lax.convert_element_type(fixed, kind)


# initialisers that go by name


class Mixed:
    """Choose by the parameter's name: rules, select -> initialiser; the first that matches wins.

    Given to `net.init` it is the same as its rules given there.

    >>> mixed = Mixed({".*gate/.*": Ones(), ".*": Uniform(0.1)})
    >>> mixed(jax.random.key(0), (2,), jnp.float32, name="lstm0/gate/weight")
    Array([1., 1.], dtype=float32)

    Raises:
        SelectError: a select is not valid.
        ParamTreeError: at the call, no rule hits the name.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = parse_rules(rules)

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, name: str) -> Any:
        """Return what the initialiser that the name chooses returns."""
        for rule in self.rules:
            if matches(rule.select, name, jax.ShapeDtypeStruct(shape, dtype)):
                return rule.value(key, shape, dtype, **({"name": name} if takes_name(rule.value) else {}))
        selects = ", ".join(describe_select(rule.select) for rule in self.rules)
        raise ParamTreeError(f"Mixed: no rule hits {name}; the rules are {selects}. End them with '.*'.")

    def __repr__(self) -> str:
        """Write the rules."""
        rules = ", ".join(f"{describe_select(rule.select)}: {rule.value!r}" for rule in self.rules)
        return f"Mixed({{{rules}}})"


class Load:
    """Take the value from another tree, by name.

    Given to `net.init` it is used for every parameter, whatever its layer names, and every value of the tree
    must find its place.

    Args:
        tree: the tree to take values from.
        default: the initialiser of parameters that the tree does not hold; without one they are an error.

    >>> load = Load({"dense0": {"bias": jnp.ones(2)}})
    >>> load(jax.random.key(0), (2,), jnp.float32, name="dense0/bias")
    Array([1., 1.], dtype=float32)

    Raises:
        ParamTreeError: at the call, the tree does not hold the name, or holds it with another shape or dtype.
    """

    def __init__(self, tree: Any, default: Any = None) -> None:
        self.values = flat_leaves(resolve(tree))
        self.default = default

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, name: str) -> Any:
        """Return the tree's value of the name."""
        if name in self.values:
            faults = value_faults(name, jax.ShapeDtypeStruct(shape, dtype), self.values[name])
            raise_faults(ParamTreeError, "Load: the tree's values do not fit:", faults)
            return self.values[name]
        if self.default is not None:
            return self.default(key, shape, dtype, **({"name": name} if takes_name(self.default) else {}))
        near = did_you_mean(name, self.values) or f" It holds {listing(list(self.values), 6)}."
        raise ParamTreeError(f"Load: the tree does not hold {name}.{near} Rename it, or pass default=.")

    def __repr__(self) -> str:
        """Write how many values there are."""
        return f"Load({len(self.values)} parameters)"


def takes_name(initialiser: Any) -> bool:
    """Tell whether an initialiser is to be given the parameter's name.

    >>> takes_name(Ones()), takes_name(lambda key, shape, dtype, name: ...)
    (False, True)
    """
    try:
        return "name" in signature(initialiser).parameters
    except ValueError:  # some built-in callables have no signature to read
        return False
