"""One jitted training step, for loops of the user's own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.draw import check_random_key
from paramtree.errors import MismatchError, ParamTreeError, first_of, listing, raise_faults
from paramtree.names import untyped_jax
from paramtree.select import Rules, parse_rules
from paramtree.ties import is_concrete
from paramtree.train.foreign import import_optax, promoting, state_faults, updates_of
from paramtree.train.fused import MOST_PACKED
from paramtree.train.gradients import Places, Results, Task, find_places
from paramtree.train.groups import frozen_names
from paramtree.train.parts import filled, leaves_below, named_below, overlaid, part_of, structure_below
from paramtree.train.spread import is_split, spread_like
from paramtree.train.state import TrainState, check_decays, decays_by_name, new_state, trainable_names
from paramtree.tree import check_cast_rules

_Heavy = tuple[Any, Any, Any]  # params, optimiser state, averages: donated
_Light = tuple[Any, Any, Any]  # key, step, stopped: the caller may read them again, so they are not


@dataclass(frozen=True, eq=False, repr=False)
class TrainStep:
    """A compiled training step, made by `train_step`: `state, loss = step(state, batch)`.

    Attributes:
        task: the loss function, and how it is called.
        optimizer: of optax.
        ema: rules for moving averages.
        donate: whether the memory of the state is used for the new one.
        check_finite: whether it looks for what is not finite.
        jitted: the compiled function: `step.jitted.lower(*step.arguments(state, batch))` shows what it does.
        jitted_scan: the same, for several batches.
    """

    task: Task
    optimizer: Any
    ema: Rules | None
    donate: bool
    check_finite: bool
    jitted: Any = field(init=False)
    jitted_scan: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "jitted", self.compile(many=False))
        object.__setattr__(self, "jitted_scan", self.compile(many=True))

    def init(self, params: Any, key: Any = None, *, copy: bool = True) -> TrainState:
        """Make the state of a run: the optimiser is given what is trained, and nothing that is fixed.

        Args:
            params: the parameters, as a tree or packed by `fuse`.
            key: a random key, where the loss takes one.
            copy: whether to copy the parameters. Without it the step, which donates its state, takes
                their memory over, and `params` cannot be used any more.

        Raises:
            NoMatchError: where nothing is left to train.
            RuleError: listing all faults of the rules for groups and averages.
            TieError: listing every array that stands under two names.
            MismatchError: listing all that is trained and no array of floats, all that JAX would narrow;
                and where packed parameters meet an optimiser that looks at whole ones.
            ParamTreeError: where the key is not one of `jax.random`.
        """
        if key is not None:
            check_random_key(key)
        return new_state(params, self.optimizer, key, self.ema, copy)

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        """Do one step; return the new state, and the loss, or (loss, aux) with `has_aux`.

        Raises:
            ParamTreeError: where an earlier loss, gradient or statistic was not finite; the state is the last
                good one; and where the optimiser asks for more than gradients, parameters and the loss.
            MismatchError: where the loss function returns something else than it should, the optimiser's
                state is of other parameters, or the batch does not split into `accumulate` parts.
        """
        return _run(self, state, batch, many=False)

    def scan(self, state: TrainState, batches: Any) -> tuple[TrainState, Any]:
        """Do one step for each of several batches, stacked along a leading axis, in one call.

        Return the new state, and the losses (and aux) of all steps. After one that is not finite the state
        does not change any more.

        Raises:
            ParamTreeError: as a call does.
            MismatchError: as a call does, and where the leading axes differ.
        """
        return _run(self, state, batches, many=True)

    def arguments(self, state: TrainState, batch: Any) -> tuple[_Heavy, _Light, Any]:
        """Give what `jitted` takes for a state and a batch."""
        return _arguments(state, batch)

    def compile(self, many: bool, out_shardings: Any = None) -> Any:
        """Give the step, or the scan over many, as a function that JAX compiles at its first call."""
        placed = {} if out_shardings is None else {"out_shardings": out_shardings}
        donated = (0,) if self.donate else ()
        return jax.jit(self._advance_through if many else self._advance, donate_argnums=donated, **placed)

    def _advance_through(self, heavy: _Heavy, light: _Light, batches: Any) -> Any:
        def body(carry: tuple[_Heavy, _Light], batch: Any) -> Any:
            heavy, light, out = self._advance(*carry, batch)
            return (heavy, light), out

        _check_leading(batches)
        carry, out = jax.lax.scan(body, (heavy, light), batches)
        return *carry, out

    def _advance(self, heavy: _Heavy, light: _Light, batch: Any) -> tuple[_Heavy, _Light, Any]:
        params, opt_state, ema = heavy
        key, step, stopped = light
        places = find_places(structure_below(params), frozen_names(opt_state))
        found = self.task.solve(
            leaves_below(params), places, batch, None if key is None else jax.random.fold_in(key, step)
        )
        part = part_of(params, _names(places, places.trained))
        gradients = _packed_gradients(part, places, found)

        def changed() -> _Heavy:
            new, new_opt_state = self._optimized(params, part, places, opt_state, gradients, found.loss)
            if self.task.has_state and places.statistics:
                fixed = part_of(params, _names(places, places.statistics))
                new = overlaid(new, [filled(fixed, found.statistics)])
            # an optimiser may make its state whole, and spread it where it is first updated
            new_opt_state = jax.tree.map(spread_like, new_opt_state, opt_state)
            return new, new_opt_state, self._averaged(ema, new, step)

        out = (found.loss, found.aux) if self.task.has_aux else found.loss
        if not self.check_finite:
            return changed(), (key, step + 1, stopped), out
        statistics = _fresh(params, places, found) if self.task.has_state else []
        good = ~stopped & _all_finite([found.loss, *jax.tree.leaves(gradients), *statistics])
        # a branch: XLA would fuse a choice between results with the gradients, and compile it for minutes
        kept = jax.lax.cond(good, changed, lambda: heavy)
        return kept, (key, step + good.astype(step.dtype), jnp.logical_not(good)), out

    def _optimized(
        self, params: Any, part: Any, places: Places, opt_state: Any, gradients: Any, loss: Any
    ) -> tuple[Any, Any]:
        optax = import_optax("train_step")
        faults = state_faults(self.optimizer, part, opt_state)
        headline = (
            "train_step: the optimiser's state is not that of what is trained here; make it with step.init:"
        )
        raise_faults(MismatchError, headline, first_of(faults))
        updates, new_opt_state = updates_of(self.optimizer, gradients, opt_state, part, loss)
        if places.learned != places.trained:  # what follows the groups in a chain may move what they freeze
            learned = _names(places, places.learned)
            part, updates = part_of(part, learned), part_of(updates, learned)
        with promoting():
            return overlaid(params, [optax.apply_updates(part, updates)]), new_opt_state

    def _averaged(self, ema: Any, params: Any, step: Any) -> Any:
        if self.ema is None:
            return None
        new, decays = named_below(params), decays_by_name(params, self.ema)
        rates: dict[str, Any] = {
            name: decay(step) if callable(decay) else decay for name, decay in decays.items()
        }
        averages = [
            (rates[name] * old + (1 - rates[name]) * new[name].astype(old.dtype)).astype(old.dtype)
            for name, old in named_below(ema).items()
        ]
        return filled(ema, averages)


def _run(step: TrainStep, state: TrainState, batch: Any, many: bool) -> tuple[TrainState, Any]:
    given: Any = state
    if not isinstance(given, TrainState):
        raise ParamTreeError(
            f"train_step: takes the state that step.init(params) makes, and got a {type(given).__name__}."
        )
    stopped: Any = state.stopped
    if step.check_finite and is_concrete(stopped) and _is_known(stopped) and _read(stopped):
        raise ParamTreeError(_stopping(state))
    heavy, light, batch = _arguments(state, batch)
    jitted = _keeping_place(step, heavy, light, many) or (step.jitted_scan if many else step.jitted)
    (params, opt_state, ema), (key, count, stopped), out = jitted(heavy, light, batch)
    return TrainState(params, opt_state, key, count, ema, stopped), out


def _is_known(stopped: Any) -> bool:
    # where the last step has not ended, waiting for it would leave the device without work. Several processes
    # wait, as all of them must take the next step, or none
    return stopped.is_ready() or not stopped.is_fully_addressable


def _read(stopped: Any) -> bool:
    return bool(np.asarray(stopped))  # by way of NumPy in a sixth of the time that JAX's own bool takes


def _stopping(state: TrainState) -> str:
    leaves = named_below(state.params)
    trained = trainable_names(structure_below(state.params))
    bad = [name for name in trained if not jnp.isfinite(leaves[name]).all()]
    advice = (
        f"Neither are these parameters of the state: {listing(bad, 6)}. The optimiser made them so, as an "
        "eps of 0 or a schedule may, or they came so: go back to a state that was saved."
        if bad
        else "This state is the last good one: save it, look at it, or go on with other batches from "
        "dataclasses.replace(state, stopped=False)."
    )
    stopped = f"train_step: after step {int(state.step)} a loss, gradient or statistic was not finite."
    return f"{stopped} {advice}"


def _keeping_place(step: TrainStep, heavy: _Heavy, light: _Light, many: bool) -> Any:
    """Give the step whose new state lies where the old one does; None where that is one device.

    Left alone, XLA chooses where outputs lie, and what rules have spread comes back otherwise.
    """
    count = light[1]
    if not is_concrete(count) or count.sharding.num_devices == 1:
        return None
    leaves, structure = jax.tree.flatten((heavy, light))
    return _placed_step(step, many, structure, tuple(leaf.sharding for leaf in leaves))


@lru_cache(maxsize=64)
def _placed_step(step: TrainStep, many: bool, structure: Any, shardings: tuple[Any, ...]) -> Any:
    return step.compile(many, (*jax.tree.unflatten(structure, shardings), None))


def _arguments(state: TrainState, batch: Any) -> tuple[_Heavy, _Light, Any]:
    light = (state.key, state.step, state.stopped)
    if not isinstance(state.step, jax.Array) or not isinstance(state.stopped, jax.Array):  # made by hand
        light = (state.key, jnp.asarray(state.step, jnp.int32), jnp.asarray(state.stopped, bool))
    return (state.params, state.opt_state, state.ema), light, batch


def _names(places: Places, indices: tuple[int, ...]) -> list[str]:
    by_index = dict(zip(places.structure.indices, places.structure.names, strict=True))
    return [by_index[index] for index in indices]


def _packed_gradients(part: Any, places: Places, found: Results) -> Any:
    """Build the gradients as the optimiser is given its part: zeros for what a group freezes."""
    by_index = dict(zip(places.learned, found.gradients, strict=True))
    named = zip(places.trained, leaves_below(part), strict=True)
    return filled(part, [by_index.get(index, jnp.zeros_like(leaf)) for index, leaf in named])


def _fresh(params: Any, places: Places, found: Results) -> list[Any]:
    """List the new statistics, with 0 where the old was infinite already, as a mask or a minimum begins."""
    leaves = leaves_below(params)
    pairs = [(leaves[at], new) for at, new in zip(places.statistics, found.statistics, strict=True)]
    return [
        jnp.where(jnp.isfinite(old), new, jnp.zeros_like(new))
        for old, new in pairs
        if jnp.issubdtype(new.dtype, jnp.inexact)
    ]


def _all_finite(values: list[Any]) -> Any:
    # small ones of one shape are added up first: a kernel for each would take as long as the optimiser
    groups: dict[Any, list[Any]] = {}
    for number, value in enumerate(values):
        alone = value.size > MOST_PACKED or is_split(value)
        groups.setdefault(number if alone else (value.shape, value.dtype), []).append(value)
    # 0 times a finite number is 0, and times any other it is NaN; XLA adds up faster than it looks for these
    sums = [reduce(jnp.add, [each * 0 for each in group]).sum() for group in groups.values()]
    return jnp.stack([each == 0 for each in sums]).all()


def _check_leading(batches: Any) -> None:
    with_paths = untyped_jax.tree_util.tree_leaves_with_path(batches)
    sizes = {untyped_jax.tree_util.keystr(path): jnp.shape(leaf)[:1] for path, leaf in with_paths}
    faults = [f"batches{path} has {'no axis' if not size else size[0]}" for path, size in sizes.items()]
    bad = len(set(sizes.values())) > 1 or () in sizes.values()
    headline = "train_step: scan takes batches stacked along one leading axis; these have:"
    raise_faults(MismatchError, headline, faults if bad or not sizes else [])


def train_step(
    loss_fn: Callable[..., Any],
    optimizer: Any,
    *,
    has_state: bool = False,
    has_aux: bool = False,
    accumulate: int = 1,
    ema: Rules | None = None,
    precision: Rules | None = None,
    donate: bool = True,
    check_finite: bool = True,
) -> TrainStep:
    """Make one jitted step of training, for loops of the user's own.

    Gradients are computed for what is trained alone: not for fixed leaves of the tree, nor for what
    `group_optimizers` freezes. The optimiser is given no fixed leaf, so they have no state, no decay and no
    share in a global norm. Where the loss, a gradient, or a new running statistic is not finite the step
    changes nothing: the state returned is the last good one, no later step changes it, and the next call that
    knows of it raises. What the optimiser makes of finite gradients is not looked at, as that takes another
    pass over its whole state: where it is NaN, the next loss is, and the error names the parameters.

    Where parameters are spread over devices the new state lies where the old one does. On mesh axes of type
    Explicit, which `jax.make_mesh` makes by itself, JAX asks the loss for the `out_sharding` of every product
    that it finds ambiguous, as of a layer whose inputs are split; on those of type Auto it finds one.

    Args:
        loss_fn: `loss_fn(params, batch) -> loss`, a scalar; or `loss_fn(params, batch, key)` where the state
            has a key: a new one for each step.
        optimizer: an optax optimiser, such as `group_optimizers` makes, or a chain.
        has_state: whether `loss_fn` returns (loss, params) with new running statistics, as
            `apply_and_update` gives them. Of these params, only constants and statistics are used.
        has_aux: whether it returns something more, last: (loss, aux), or (loss, params, aux).
        accumulate: into how many parts a batch is split, along its leading axes; their gradients are
            averaged, for the memory of one part. Statistics move with each, and aux has a leading axis.
        ema: rules select -> decay, or a function of the step, of moving averages of parameters, in at least
            float32: `pt.update(state.params, state.ema)` has them in place.
        precision: rules select -> dtype, as of `pt.cast`: what the loss is given. Parameters are kept and
            updated in their own dtype; constants and running statistics stay unless spelled out.
        donate: whether the memory of a state is used for the next one, so that it cannot be used again.
        check_finite: whether what is not finite stops the run, as above. Without it every step counts: for an
            optimiser that looks itself, as `optax.apply_if_finite` does to skip a bad step and go on, or for
            the time it takes where parameters are many and small.

    >>> import optax
    >>> from paramtree import nn
    >>> net = nn.Sequential(nn.Dense(8, activation="relu"), nn.Dense(1))
    >>> def loss_fn(params, batch):
    ...     x, y = batch
    ...     return ((net.apply(params, x) - y) ** 2).mean()
    >>> step = train_step(loss_fn, optax.adam(1e-2))
    >>> x = jnp.linspace(-1, 1, 32).reshape(32, 1)
    >>> state = step.init(net.init(jax.random.key(0), x))
    >>> state, first = step(state, (x, x**2))
    >>> for _ in range(99):
    ...     state, loss = step(state, (x, x**2))
    >>> state, bool(loss < first / 2)
    (TrainState(step=100, 4 parameters), True)

    Several steps in one call, from batches stacked along a leading axis:

    >>> many = jax.tree.map(lambda leaf: jnp.stack([leaf] * 10), (x, x**2))
    >>> state, losses = step.scan(state, many)
    >>> losses.shape
    (10,)

    Raises:
        RuleError: where a value of `ema` is no decay, or one of `precision` no dtype.
        MismatchError: where `accumulate` is not a number from 1 up.
        ParamTreeError: where the optimiser is not one of optax.
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ParamTreeError(f"train_step: takes an optax optimiser, and got {optimizer!r}.")
    if not isinstance(accumulate, int) or isinstance(accumulate, bool) or accumulate < 1:
        raise MismatchError(f"train_step: accumulate is a number of parts from 1 up, and not {accumulate!r}.")
    check_decays(ema)
    dtypes = check_cast_rules(parse_rules(precision or {}))
    task = Task(loss_fn, has_state, has_aux, accumulate, dtypes)
    return TrainStep(task, optimizer, ema, donate, check_finite)
