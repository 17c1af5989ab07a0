"""Record statistics of parameters, or gradients, during a jitted loop, and look at them over the steps.

What is recorded is a pytree of a few arrays that goes in and out of each step, as an optimiser's state does:
nothing is sent to the host until it is looked at. Statistics are computed at recorded steps alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree import display
from paramtree.errors import (
    HINTED,
    MismatchError,
    ParamTreeError,
    UnknownNameError,
    did_you_mean,
    listing,
    raise_faults,
)
from paramtree.names import flatten_named, untyped_jax
from paramtree.report.plot_data import holds_numbers
from paramtree.report.track_frame import Frame
from paramtree.report.track_values import STATISTICS, measure_all
from paramtree.report.values import is_on_host
from paramtree.select import Select, apply_select, freeze_select
from paramtree.tree import is_array_like

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

_EMPTY = -1  # the step of a row that nothing is written in


@partial(jax.tree_util.register_dataclass, data_fields=("values", "steps", "every"), meta_fields=("names",))
@dataclass(frozen=True, eq=False)
class Record:
    """What a tracker has recorded: a pytree of one array for each statistic, and two more.

    Rows stand in no order, and some may be out of use: `Tracker.frame` reads them.

    Attributes:
        values: statistic -> float32 (length, parameters).
        steps: the step of each row, int32 (length,); -1 where nothing is written.
        every: how many steps lie between two recorded ones, by now; int32.
        names: of the parameters.
    """

    values: dict[str, Any]
    steps: Any
    every: Any
    names: tuple[str, ...]

    def __repr__(self) -> str:
        count = f"{len(self.names):,} parameter{'' if len(self.names) == 1 else 's'}"
        return f"Record({', '.join(self.values)} of {count}; Tracker.frame reads it)"


@dataclass(frozen=True)
class Tracker:
    """What to record, and how often; made by `track`.

    Attributes:
        select: which parameters, frozen.
        statistics: of each of them.
        every: steps divisible by it are recorded.
        length: the most rows a record has.
    """

    select: Any
    statistics: tuple[str, ...]
    every: int
    length: int

    def init(self, params: Any, /) -> Record:
        """Make an empty record for a tree, or for specs of it.

        Parameters that hold no numbers, as the keys of `jax.random`, and those of no elements are left out.

        Raises:
            NoMatchError: where the select hits nothing.
            MismatchError: where nothing that it hits holds numbers.
        """
        leaves, structure, places = apply_select(params, self.select)
        named = [(structure.names[at], leaves[structure.indices[at]]) for at in places]
        names = tuple(name for name, leaf in named if not _fault(leaf))
        if not names:
            held = f"hold no numbers: {listing([name for name, _ in named], 6)}" if named else "are none"
            raise MismatchError(f"track: there is nothing to record; the parameters {held}.")
        shape = (self.length, len(names))
        return Record(
            values={statistic: jnp.zeros(shape, jnp.float32) for statistic in self.statistics},
            steps=jnp.full((self.length,), _EMPTY, jnp.int32),
            every=jnp.array(self.every, jnp.int32),
            names=names,
        )

    def update(self, record: Record, params: Any, step: Any, /) -> Record:
        """Return the record with a row for this step, if it is one to record; works in `jit` and `scan`.

        Steps divisible by `record.every` are recorded. When no row is left, `every` doubles, and the rows of
        steps that it does not divide are written anew: a record always covers the whole run, evenly. A step
        that is recorded again, as after going back to an older checkpoint, replaces its row.

        Call it in the jitted step, and donate the record with the rest of the state: then the arrays are
        written in place.

        Args:
            record: from `init` or the last `update`.
            params: a tree that holds the recorded names: parameters, gradients or both in one dict.
            step: the number of the step, from 0; an integer or a traced one.

        Raises:
            UnknownNameError: listing every recorded name that the tree does not hold.
            MismatchError: listing every one that holds no numbers, or of 64 bits, which JAX would narrow; or
                for a step or record that is not valid.
        """
        if not isinstance(record, Record):
            raise MismatchError(f"track: update takes a Record first, and got a {type(record).__name__}.")
        if not _is_step(step):
            raise MismatchError(f"track: a step is one integer below 2**31, and not {step!r}.")
        leaves = [jnp.asarray(leaf) for leaf in _recorded(record, params)]
        return _update(record, leaves, jnp.asarray(step).astype(jnp.int32))

    def frame(self, record: Record, /) -> Frame:
        """Read what is recorded, in the order of the steps.

        Raises:
            MismatchError: for a record that is traced, or many in one as `vmap` makes them.
        """
        if isinstance(record.steps, untyped_jax.core.Tracer):
            raise MismatchError("track: the record is traced; read it outside of jit.")
        if np.ndim(record.steps) != 1:
            raise MismatchError(
                f"track: this is a stack of records, {np.shape(record.steps)[:-1]}; read one of them: "
                "jax.tree.map(lambda leaf: leaf[0], record)."
            )
        host: Record = jax.device_get(record)
        kept = np.flatnonzero((host.steps >= 0) & (host.steps % host.every == 0))
        kept = kept[np.argsort(host.steps[kept])]
        return Frame(
            names=record.names,
            steps=host.steps[kept],
            # a dict that has been through jit has its keys sorted
            values={name: host.values[name][kept] for name in STATISTICS if name in host.values},
        )

    def to_dict(self, record: Record, /) -> dict[str, Any]:
        """Give what is recorded as JSON can hold it; see `Frame.to_dict`."""
        return self.frame(record).to_dict()

    def plot(self, record: Record, /, *, figure: "Figure | SubFigure | None" = None) -> "Figure | SubFigure":
        """Draw what is recorded over the steps; needs matplotlib. See `Frame.plot`."""
        return self.frame(record).plot(figure=figure)


def track(
    select: Select | None = None,
    /,
    *,
    statistics: Sequence[str] = ("rms", "mean", "std", "absmax"),
    every: int = 1,
    length: int = 1000,
) -> Tracker:
    """Choose statistics to record during training: `init`, `update` in the jitted step, then look at them.

    Args:
        select: which parameters; all, if left out. A tied parameter is recorded once, where it lives.
        statistics: of "rms", "mean", "std", "absmax", "min", "max", "norm", "zeros" (the share of elements
            that are zero) and "nonfinite" (how many are NaN or infinite).
        every: the steps between two recorded ones, at first.
        length: the most rows; when they are full, `every` doubles. One row takes 4 bytes for each statistic
            of each parameter.

    >>> tracker = track(".*weight", statistics=["rms", "absmax"], every=2)
    >>> params = {"dense0": {"weight": jnp.array([3.0, -4.0]), "bias": jnp.zeros(1)}}
    >>> record = tracker.init(params)
    >>> @partial(jax.jit, donate_argnums=(0, 1))
    ... def train_step(params, record, step):
    ...     params = jax.tree.map(lambda leaf: 0.5 * leaf, params)
    ...     return params, tracker.update(record, params, step)
    >>> for step in range(4):
    ...     params, record = train_step(params, record, step)
    >>> tracker.frame(record)["dense0/weight"]["absmax"]
    array([2. , 0.5], dtype=float32)

    Raises:
        SelectError: for what is no select.
        ParamTreeError: listing all that is wrong with the other arguments.
    """
    chosen = (statistics,) if isinstance(statistics, str) else tuple(statistics)
    faults = [
        f"{name!r} is not a statistic.{did_you_mean(str(name), STATISTICS)} There are {', '.join(STATISTICS)}"
        for name in chosen
        if name not in STATISTICS
    ]
    faults += ["statistics= is empty; name one"] if not chosen else []
    faults += [
        f"{word}= is an integer from {least} up, and not {value!r}"
        for word, value, least in (("every", every, 1), ("length", length, 2))
        if isinstance(value, bool) or not isinstance(value, int) or value < least
    ]
    raise_faults(ParamTreeError, "track: these arguments do not fit:", faults)
    frozen = None if select is None else freeze_select(select)
    return Tracker(frozen, tuple(dict.fromkeys(chosen)), every, length)


def _is_step(step: Any) -> bool:
    if isinstance(step, int | np.integer):  # which may be of 64 bits or more
        return not isinstance(step, bool) and abs(int(step)) < 2**31
    return is_array_like(step) and not step.shape and jnp.issubdtype(step.dtype, np.integer)


def _fault(leaf: Any) -> str:
    """Say why a leaf has no statistics; an empty text where it has."""
    if not holds_numbers(leaf):
        return f"holds no numbers: {display.shape_dtype(leaf)}"
    return "is empty" if is_array_like(leaf) and 0 in leaf.shape else ""


def _narrowing(leaf: Any) -> str:
    if not is_on_host(leaf):
        return ""
    return f"is {leaf.dtype} in NumPy, which JAX would narrow; pt.cast it, or set jax_enable_x64"


def _absence(leaf: Any) -> str:
    return "is a spec, without values" if isinstance(leaf, jax.ShapeDtypeStruct) else ""


def _recorded(record: Record, params: Any) -> list[Any]:
    leaves, structure = flatten_named(params)
    missing = [name for name in record.names if name not in structure.position]
    unknown = [
        f"{name!r} is not in the tree.{did_you_mean(name, structure.names) if at < HINTED else ''}"
        for at, name in enumerate(missing)
    ]
    raise_faults(
        UnknownNameError,
        "track: the record is of another tree; make one with init. Of what it records:",
        unknown,
    )
    found = [leaves[structure.indices[structure.position[name]]] for name in record.names]
    faults = [
        f"{name} {fault}"
        for name, leaf in zip(record.names, found, strict=True)
        if (fault := _fault(leaf) or _narrowing(leaf) or _absence(leaf))
    ]
    raise_faults(MismatchError, "track: these cannot be recorded:", faults)
    return found


@jax.jit
def _update(record: Record, leaves: list[Any], step: Any) -> Record:
    # what the branches give is small: the rows, and where to write them; the arrays are written outside of
    # the branches, in place, as an array that passes through a branch would be copied at every step
    due = (step >= 0) & (step % record.every == 0)
    slot, every = jax.lax.cond(due, _find_slot, _no_slot, record.steps, record.every, step)
    due = slot < record.steps.shape[0]
    old = {name: _read(rows, slot) for name, rows in record.values.items()}
    rows = jax.lax.cond(due, partial(measure_all, tuple(record.values)), lambda _: old, leaves)
    stepped = jnp.where(due, step, _read(record.steps, slot))
    return replace(
        record,
        values={name: _write(record.values[name], rows[name], slot) for name in record.values},
        steps=_write(record.steps, stepped, slot),
        every=every,
    )


def _read(rows: Any, slot: Any) -> Any:
    return jax.lax.dynamic_index_in_dim(rows, slot, keepdims=False)


def _write(rows: Any, row: Any, slot: Any) -> Any:
    return jax.lax.dynamic_update_index_in_dim(rows, row, slot, 0)


def _no_slot(steps: Any, every: Any, step: Any) -> Any:
    del step
    return jnp.array(steps.shape[0], jnp.int32), every


def _find_slot(steps: Any, every: Any, step: Any) -> Any:
    """Give the row to write: that of the same step, or else a free one; none where `every` grows past it."""

    def is_full(every: Any) -> Any:
        return ~jnp.any(_is_free(steps, every) | (steps == step))

    every = jax.lax.while_loop(is_full, lambda every: every * 2, every)
    again = steps == step
    slot = jnp.where(again.any(), again.argmax(), _is_free(steps, every).argmax()).astype(jnp.int32)
    return jnp.where(step % every == 0, slot, steps.shape[0]), every


def _is_free(steps: Any, every: Any) -> Any:
    return (steps < 0) | (steps % every != 0)
