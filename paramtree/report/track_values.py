"""The statistics that can be recorded: each of one array, as one float32."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from paramtree.report.numbers import power_of_two

Statistic = Callable[[Any], Any]


def _rms(values: Any) -> Any:
    return jnp.sqrt(jnp.mean(jnp.square(values)))


def _norm(values: Any) -> Any:
    return jnp.sqrt(jnp.sum(jnp.square(values)))


def _scaled(measure: Statistic) -> Statistic:
    """Measure values scaled to near 1, so that neither squares nor sums overflow or vanish."""

    def measured(values: Any) -> Any:
        scale = power_of_two(_absmax(values))
        return measure(values * scale) / scale

    return measured


def _known(measure: Statistic) -> Statistic:
    """Measure values of which one may be NaN: where devices put their largest together, XLA loses it."""
    return lambda values: jnp.where(jnp.isnan(values).any(), jnp.nan, measure(values))


def _absmax(values: Any) -> Any:
    return _max(jnp.abs(values))


_min, _max = _known(jnp.min), _known(jnp.max)


def _zeros(values: Any) -> Any:
    return jnp.mean(values == 0, dtype=jnp.float32)


def _nonfinite(values: Any) -> Any:
    return jnp.sum(~jnp.isfinite(values), dtype=jnp.int32)


STATISTICS: dict[str, Statistic] = {
    "rms": _scaled(_rms),
    "mean": _scaled(jnp.mean),
    "std": _scaled(jnp.std),
    "absmax": _absmax,
    "min": _min,
    "max": _max,
    "norm": _scaled(_norm),
    "zeros": _zeros,
    "nonfinite": _nonfinite,
}


def measure_all(statistics: Sequence[str], leaves: Sequence[Any]) -> dict[str, Any]:
    """Compute statistics of arrays: statistic -> float32 (arrays,).

    They are computed in float32, or float64 for arrays of it; of complex numbers, of their absolute values.

    >>> measure_all(["mean", "absmax"], [jnp.array([1.0, -3.0])])
    {'mean': Array([-1.], dtype=float32), 'absmax': Array([3.], dtype=float32)}
    """
    real = [_real(leaf) for leaf in leaves]
    return {
        name: jnp.stack([STATISTICS[name](values).astype(jnp.float32) for values in real])
        for name in statistics
    }


def _real(leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return jnp.abs(leaf)
    return leaf if leaf.dtype == jnp.float64 else leaf.astype(jnp.float32)
