"""The loss of one step and its gradients, with respect to what is trained and to nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from paramtree import display
from paramtree.errors import MismatchError, ParamTreeError, first_of, raise_faults
from paramtree.names import Structure, structure_of, untyped_jax
from paramtree.nodes import Fixed
from paramtree.select import Rule
from paramtree.train.precision import as_seen
from paramtree.train.spread import split_leading, spread_like
from paramtree.tree import fixed_names


class Places(NamedTuple):
    """Where in a tree's leaves, in JAX's order, the step finds what it works on.

    Attributes:
        structure: of the tree.
        trained: what the optimiser is given.
        learned: what gradients are computed for: the trained leaves, without those that a group freezes.
        statistics: constants and running statistics.
    """

    structure: Structure
    trained: tuple[int, ...]
    learned: tuple[int, ...]
    statistics: tuple[int, ...]


class Results(NamedTuple):
    """What one step computes: the loss, the new statistics, aux, and the gradients of the learned leaves."""

    loss: Any
    statistics: list[Any]
    aux: Any
    gradients: list[Any]


def find_places(structure: Structure, frozen: frozenset[str]) -> Places:
    """Find the places of what is trained, learned and kept in a tree whose groups freeze some names."""
    fixed = fixed_names(structure)
    named = sorted(zip(structure.indices, structure.names, strict=True))
    trained = tuple(index for index, name in named if name not in fixed)
    learned = tuple(index for index, name in named if name not in fixed and name not in frozen)
    return Places(
        structure, trained, learned, tuple(index for index, name in named if fixed.get(name) is Fixed)
    )


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """A loss function, and how it is called; see `train_step`."""

    loss_fn: Callable[..., Any]
    has_state: bool
    has_aux: bool
    accumulate: int
    precision: Sequence[Rule]

    def solve(self, leaves: Sequence[Any], places: Places, batch: Any, key: Any) -> Results:
        """Compute loss and gradients, of a batch or as the mean over its parts, one after the other.

        Raises:
            MismatchError: where the loss function returns something else than it should, or the batch does
                not split.
        """

        def loss_of(learned: list[Any], statistics: list[Any], batch: Any, key: Any) -> Any:
            return self._loss(_replaced(leaves, places, learned, statistics), places, batch, key)

        function = jax.value_and_grad(loss_of, has_aux=True)
        learned = [leaves[index] for index in places.learned]
        first = [leaves[index] for index in places.statistics]
        if self.accumulate == 1:
            (loss, (statistics, aux)), gradients = function(learned, first, batch, key)
            return Results(loss, statistics, aux, gradients)

        def body(carry: Any, given: Any) -> Any:
            statistics, *sums = carry
            part, number = given
            key_now = None if key is None else jax.random.fold_in(key, number)
            (loss, (statistics, aux)), gradients = function(learned, statistics, part, key_now)
            return (statistics, *jax.tree.map(_added, sums, [loss, gradients])), aux

        parts = _split(batch, self.accumulate)
        one = jax.tree.map(lambda each: each[0], parts)
        loss = untyped_jax.eval_shape(loss_of, learned, first, one, key)[0]
        zeros = (first, _wide_zeros(loss), [_wide_zeros(each) for each in learned])
        (statistics, *sums), aux = jax.lax.scan(body, zeros, (parts, jnp.arange(self.accumulate)))
        means = jax.tree.map(
            lambda total, like: (total / self.accumulate).astype(like.dtype), sums, [loss, learned]
        )
        return Results(means[0], statistics, aux, means[1])

    def _loss(self, leaves: list[Any], places: Places, batch: Any, key: Any) -> Any:
        params = places.structure.treedef.unflatten(leaves)
        seen = as_seen(params, self.precision) if self.precision else params
        given = (seen, batch) if key is None else (seen, batch, key)
        _check_call(self.loss_fn, given)
        loss, after, aux = self._outputs(self.loss_fn(*given))
        _check_loss(loss)
        old = [leaves[index] for index in places.statistics]
        return jnp.asarray(loss), (_new_statistics(after, places, old) if self.has_state else old, aux)

    def _outputs(self, out: Any) -> tuple[Any, Any, Any]:
        """Read what the loss function returns: the loss, new params and aux."""
        wanted = ["loss", *["params"] * self.has_state, *["aux"] * self.has_aux]
        if len(wanted) == 1:
            return out, None, None
        if not isinstance(out, tuple) or len(out) != len(wanted):
            returns = ", ".join(wanted)
            raise MismatchError(
                f"train_step: the loss function is to return ({returns}), and returned {_kind(out)}."
            )
        return out[0], out[1] if self.has_state else None, out[-1] if self.has_aux else None


def _wide_zeros(like: Any) -> Any:
    # in 8 bits of precision a sum of 256 equal parts does not grow any more
    return jnp.zeros(like.shape, jnp.float32 if jnp.finfo(like.dtype).bits < 32 else like.dtype)


def _added(total: Any, new: Any) -> Any:
    return total + new.astype(total.dtype)


def _replaced(
    leaves: Sequence[Any], places: Places, learned: Sequence[Any], statistics: Sequence[Any]
) -> list[Any]:
    replaced = list(leaves)
    for index, leaf in zip((*places.learned, *places.statistics), (*learned, *statistics), strict=True):
        replaced[index] = leaf
    return replaced


def _kind(out: Any) -> str:
    if isinstance(out, tuple):
        return f"({', '.join(map(_kind, out))})"
    return f"an array of {display.shape_dtype(out)}" if hasattr(out, "shape") else f"a {type(out).__name__}"


def _check_call(loss_fn: Callable[..., Any], given: Sequence[Any]) -> None:
    try:
        signature(loss_fn).bind(*given)
    except ValueError:  # a function of C, which tells nothing of its arguments
        return
    except TypeError as error:
        with_key = len(given) == 3
        advice = "leave the key out of step.init" if with_key else "give step.init(params, key) a key"
        called = (
            "(params, batch, key), as the state has a key"
            if with_key
            else "(params, batch), as the state has no key"
        )
        raise ParamTreeError(
            f"train_step: calls the loss function with {called}, which it does not take: {error}. "
            f"Change it, or {advice}."
        ) from error


def _check_loss(loss: Any) -> None:
    shape = getattr(loss, "shape", () if isinstance(loss, float) else None)
    if shape == () and jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        return
    hint = "take its mean" if shape else "return a float"
    if isinstance(loss, tuple):
        hint = "pass has_state=True for (loss, params), has_aux=True for (loss, aux)"
    raise MismatchError(f"train_step: the loss is to be one float, and is {_kind(loss)}; {hint}.")


def _new_statistics(after: Any, places: Places, old: Sequence[Any]) -> list[Any]:
    """Take the running statistics out of the params that a loss function returns, in the dtypes they had."""
    leaves, treedef = jax.tree.flatten(after)
    if treedef != places.structure.treedef:
        names, mine = structure_of(after).names if leaves else (), places.structure.names
        faults = [f"{name} is not there" for name in mine if name not in names]
        faults += [f"{name} is new" for name in names if name not in mine]
        headline = (
            "train_step: the params that the loss function returns have another structure than those it got:"
        )
        raise_faults(MismatchError, headline, first_of(faults) or ["their ties or fixed marks differ"])
    new = [jnp.asarray(leaves[index]) for index in places.statistics]
    name_of = dict(zip(places.structure.indices, places.structure.names, strict=True))
    faults = [
        f"{name_of[index]} has shape {display.shape_text(was.shape)}, and comes back with "
        f"{display.shape_text(now.shape)}"
        for index, was, now in zip(places.statistics, old, new, strict=True)
        if was.shape != now.shape
    ]
    raise_faults(MismatchError, "train_step: these running statistics change their shape:", first_of(faults))
    return [spread_like(now.astype(was.dtype), was) for was, now in zip(old, new, strict=True)]


def _split(batch: Any, count: int) -> Any:
    """Split the leading axis of every array of a batch into (count, size / count)."""
    with_paths = untyped_jax.tree_util.tree_leaves_with_path(batch)
    faults = [
        f"batch{untyped_jax.tree_util.keystr(path)} has shape {display.shape_text(jnp.shape(leaf))}"
        for path, leaf in with_paths
        if not jnp.ndim(leaf) or jnp.shape(leaf)[0] % count or not jnp.shape(leaf)[0]
    ]
    headline = f"train_step: the leading axes of a batch are to split into accumulate={count} equal parts:"
    raise_faults(MismatchError, headline, faults)
    return jax.tree.map(lambda leaf: split_leading(leaf, count), batch)
