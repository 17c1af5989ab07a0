"""Optimisers by rules: each parameter is under exactly one, and nothing about that is silent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from paramtree import display
from paramtree.errors import MismatchError, NoMatchError, RuleError, first_of, listing, raise_faults
from paramtree.names import natural_name_key, structure_of
from paramtree.nodes import Fixed
from paramtree.select import Rule, Rules, check_rules, describe_select, match_rules, numbered, parse_rules
from paramtree.train.foreign import import_optax, promoting, state_faults
from paramtree.train.parts import abstract, filled, leaves_below, overlaid, structure_below, taken
from paramtree.train.probes import decay_kind
from paramtree.tree import fixed_names, flat_leaves

if TYPE_CHECKING:
    import optax


@partial(jax.tree_util.register_dataclass, data_fields=("inner",), meta_fields=("groups", "frozen"))
@dataclass(frozen=True)
class GroupState:
    """The state of `group_optimizers`.

    Attributes:
        inner: the state of each rule's optimiser, in the order of the rules; those with None have none.
        groups: the names of the parameters of each.
        frozen: the names of the parameters that a rule with None freezes.
    """

    inner: tuple[Any, ...]
    groups: tuple[tuple[str, ...], ...]
    frozen: tuple[str, ...]


class _Group(NamedTuple):
    """What one rule trains."""

    number: int
    names: tuple[str, ...]


def group_optimizers(
    rules: Rules, /, *, lr_mult: Rules | None = None, wd_mult: Rules | None = None
) -> "optax.GradientTransformationExtraArgs":
    """Make one optimiser of several, by rules: select -> an optax optimiser, or None to freeze.

    Every parameter is under exactly one rule. Each optimiser sees its own as a flat dict by name, and holds
    state for these alone; frozen parameters, and fixed leaves of the tree, have none, and stay bit for bit.
    The state belongs to one structure of the tree. `train_step` computes no gradient for what is frozen.

    Args:
        rules: select -> optimiser or None; the first that hits a parameter wins.
        lr_mult: select -> a number that the updates are multiplied by; 1 where no rule hits.
        wd_mult: select -> a number that weight decay is multiplied by; 1 where no rule hits. It is passed on
            by showing the optimiser the parameter times this number, so the optimiser must use parameters
            for weight decay alone, as SGD with `optax.add_decayed_weights`, AdamW and Lion do: this is
            checked, by trying it out.

    >>> import optax
    >>> params = {"embed": {"weight": jnp.ones(3)}, "head": {"weight": jnp.ones(2), "bias": jnp.ones(2)}}
    >>> optimizer = group_optimizers(
    ...     {"embed/.*": None, ".*bias": optax.sgd(1e-2), ".*": optax.adamw(1e-3)}, lr_mult={"head/bias": 2.0}
    ... )
    >>> state = optimizer.init(params)
    >>> state.groups, state.frozen
    ((('head/bias',), ('head/weight',)), ('embed/weight',))
    >>> updates, state = optimizer.update(params, state, params)
    >>> updates["head"]["bias"]
    Array([-0.02, -0.02], dtype=float32)

    Raises:
        RuleError: where a value is neither an optimiser nor None, or no number; and, when it is given
            parameters, listing all rules that hit nothing, are shadowed or train nothing, and all parameters
            that no rule covers.
        NoMatchError: where nothing is left to train.
        MismatchError: for gradients that do not match the parameters, and a state of another tree.
        ParamTreeError: where optax is not installed.
    """
    optax = import_optax("group_optimizers")
    parsed = parse_rules(rules)
    _check_optimizers(parsed)
    inner = [rule.value and optax.with_extra_args_support(rule.value) for rule in parsed]
    multipliers = {"lr_mult": _numbers("lr_mult", lr_mult), "wd_mult": _numbers("wd_mult", wd_mult)}

    def init(params: Any) -> GroupState:
        groups, frozen = _assigned(params, parsed)
        _, decay = (_multiplied(params, given, what, groups) for what, given in multipliers.items())
        _check_decays(params, decay, groups, inner)
        with promoting():
            states = tuple(inner[group.number].init(taken(params, group.names)) for group in groups)
        return GroupState(states, tuple(group.names for group in groups), frozen)

    def update(updates: Any, state: GroupState, params: Any = None, **extra: Any) -> tuple[Any, GroupState]:
        tree = updates if params is None else params
        groups, frozen = _assigned(tree, parsed)
        _check_state(state, groups, frozen)
        _check_gradients(updates, params)
        if params is not None:  # gradients alone may be narrower than what their state was made of
            _check_inner(params, state, groups, inner)
        rates, decay = (_multiplied(tree, given, what, groups) for what, given in multipliers.items())
        if decay and params is None:
            raise MismatchError(
                "group_optimizers: wd_mult needs the parameters: update(grads, state, params)."
            )
        parts: list[Any] = []
        states: list[Any] = []
        for group, old in zip(groups, state.inner, strict=True):
            shown = None if params is None else _scaled(taken(params, group.names), decay)
            with promoting():
                new, kept = inner[group.number].update(taken(updates, group.names), old, shown, **extra)
            parts.append(_scaled(new, rates))
            states.append(kept)
        return overlaid(_still(updates), parts), GroupState(tuple(states), state.groups, frozen)

    return optax.GradientTransformationExtraArgs(init, update)


def frozen_names(opt_state: Any) -> frozenset[str]:
    """Name the parameters that a state of `group_optimizers`, anywhere in a state of optax, says are frozen.

    >>> frozen_names((GroupState((), (), ("embed/weight",)),))
    frozenset({'embed/weight'})
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_group_state)
    return frozenset(name for node in nodes if _is_group_state(node) for name in node.frozen)


def _is_group_state(node: object) -> bool:
    return isinstance(node, GroupState)


# rules


def _check_optimizers(rules: Sequence[Rule]) -> None:
    def fits(rule: Rule) -> bool:
        return rule.value is None or (hasattr(rule.value, "init") and hasattr(rule.value, "update"))

    headline = "group_optimizers: takes select -> an optax optimiser, or None to freeze; these rules are not:"
    check_rules(rules, fits, headline)


def _numbers(what: str, rules: Rules | None) -> list[Rule]:
    def fits(rule: Rule) -> bool:
        number = isinstance(rule.value, int | float) and not isinstance(rule.value, bool)
        return number and 0 <= rule.value < math.inf

    parsed = parse_rules(rules or {})
    headline = f"group_optimizers: {what} takes select -> a number from 0 up; these rules are not:"
    check_rules(parsed, fits, headline)
    return parsed


def _whole(tree: Any) -> Any:
    """Put stand-ins where fixed leaves were cut out of a part, so that rules that name them hit something."""
    plain = abstract(tree)
    return jax.tree.map(lambda node: type(node)(0.0) if _is_hole(node) else node, plain, is_leaf=_is_hole)


def _is_hole(node: object) -> bool:
    return isinstance(node, Fixed) and node.value is None


def _assigned(tree: Any, rules: Sequence[Rule]) -> tuple[list[_Group], tuple[str, ...]]:
    """Find the groups of a tree, and the names that rules with None freeze.

    Raises:
        RuleError: listing all faults of the rules.
        NoMatchError: where nothing is left to train.
    """
    whole = _whole(tree)
    structure = structure_of(whole)
    trainable = [name for name in structure.names if name not in fixed_names(structure)]
    freezing = [number for number, rule in enumerate(rules) if rule.value is None]
    winners = _winners(whole, rules, "rules", trainable, freezing, required=True)
    frozen = tuple(name for name in trainable if winners[name] in freezing)
    if len(frozen) == len(trainable):
        raise NoMatchError(
            f"group_optimizers: nothing is left to train: of {len(structure.names)} parameters rules freeze "
            f"{len(frozen)}, and {len(structure.names) - len(trainable)} are fixed. pt.unfreeze some."
        )
    groups = [
        _Group(number, tuple(name for name in trainable if winners[name] == number))
        for number in sorted({*winners.values()}.difference(freezing))
    ]
    return groups, frozen


def _winners(
    whole: Any,
    rules: Sequence[Rule],
    what: str,
    trained: Sequence[str],
    idle: Sequence[int] = (),
    required: bool = False,
) -> dict[str, int]:
    """Map trained parameters to the numbers of their rules.

    Args:
        whole: the tree.
        rules: the rules.
        what: they are, in messages.
        trained: the names that they are for.
        idle: the rules that may hit other names alone.
        required: whether each of these names needs a rule.
    """
    _, structure, numbers, faults = match_rules(whole, numbered(rules), default=None)
    named = zip(structure.names, numbers, strict=True)
    hit: dict[str, int] = {name: number for name, number in named if number is not None}
    winners = {name: hit[name] for name in trained if name in hit}
    for number in sorted({*hit.values()}.difference(winners.values(), idle)):
        mine = listing([name for name in hit if hit[name] == number], 6)
        faults.append(
            f"rule {number} {describe_select(rules[number].select)} hits only what is not trained: {mine}"
        )
    bare = [name for name in trained if name not in hit]
    if required and bare:
        faults.append(f"no rule covers {', '.join(bare)}. Add a rule; None as its value freezes")
    count = len(structure.names)
    headline = (
        f"group_optimizers: {what} do not fit the tree of {count} parameter{'' if count == 1 else 's'}:"
    )
    raise_faults(RuleError, headline, faults)
    return winners


def _multiplied(tree: Any, rules: Sequence[Rule], what: str, groups: Sequence[_Group]) -> dict[str, float]:
    """Map names to the multipliers that rules give them."""
    trained = [name for group in groups for name in group.names]
    winners = _winners(_whole(tree), rules, what, trained) if rules else {}
    return {name: rules[number].value for name, number in winners.items()}


def _scaled(part: Any, factors: Mapping[str, float]) -> Any:
    """Multiply the leaves of a flat dict, packed or not, by the numbers given for their names."""
    structure, leaves = structure_below(part), leaves_below(abstract(part))
    if factors.keys().isdisjoint(structure.names):
        return part
    by_index = {
        index: factors.get(name, 1.0) for name, index in zip(structure.names, structure.indices, strict=True)
    }
    full = [np.full(leaf.shape, by_index[index], leaf.dtype) for index, leaf in enumerate(leaves)]
    return jax.tree.map(lambda leaf, factor: leaf * factor, part, filled(part, full))


def _still(updates: Any) -> Any:
    """Give updates that change nothing: adding 0.0 would turn -0.0 into 0.0, and adding -0.0 does not."""
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, -0.0), updates)


# what is met after init


def _check_state(state: Any, groups: Sequence[_Group], frozen: Sequence[str]) -> None:
    if not _is_group_state(state):
        raise MismatchError(
            f"group_optimizers: the state is of type {type(state).__name__}; pass what its init returned."
        )
    now = dict.fromkeys(frozen, "frozen") | {
        name: f"in group {number}" for number, group in enumerate(groups) for name in group.names
    }
    then = dict.fromkeys(state.frozen, "frozen") | {
        name: f"in group {number}" for number, names in enumerate(state.groups) for name in names
    }
    faults = [
        f"{name} is {now.get(name, 'not there')}, and was {then.get(name, 'not there')}"
        for name in sorted(now.keys() | then.keys(), key=natural_name_key)
        if now.get(name) != then.get(name)
    ]
    headline = "group_optimizers: the state is that of another tree, or other rules; make it anew by init:"
    raise_faults(MismatchError, headline, first_of(faults))


def _check_inner(params: Any, state: GroupState, groups: Sequence[_Group], inner: Sequence[Any]) -> None:
    faults = [
        f"inner/{place}/{fault}"
        for place, (group, old) in enumerate(zip(groups, state.inner, strict=True))
        for fault in state_faults(inner[group.number], taken(params, group.names), old)
    ]
    headline = (
        "group_optimizers: the state is that of parameters of other shapes or dtypes; make it anew by init:"
    )
    raise_faults(MismatchError, headline, first_of(faults))


def _check_gradients(updates: Any, params: Any) -> None:
    if params is None:
        return
    wanted, found = _shapes(params), _shapes(updates)
    faults = [f"{name} has no gradient" for name in wanted if name not in found]
    faults += [f"{name} is no parameter, and has a gradient" for name in found if name not in wanted]
    faults += [
        f"{name} has shape {display.shape_text(shape)}, and its gradient {display.shape_text(found[name])}"
        for name, shape in wanted.items()
        if found.get(name, shape) != shape
    ]
    headline = "group_optimizers: these gradients are not of these parameters:"
    raise_faults(MismatchError, headline, first_of(faults))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(jnp.shape(leaf)) for name, leaf in flat_leaves(abstract(tree)).items()}


def _check_decays(
    params: Any, factors: Mapping[str, float], groups: Sequence[_Group], inner: Sequence[Any]
) -> None:
    """Check that the optimisers use parameters for weight decay alone, where it is to be multiplied."""
    if not factors:
        return
    plain = flat_leaves(abstract(params))
    kinds = {
        group.number: decay_kind(inner[group.number], {name: plain[name] for name in group.names})
        for group in groups
        if not factors.keys().isdisjoint(group.names)
    }
    faults = [
        f"the optimiser of rule {number} uses parameters for more than weight decay, so that it cannot be "
        "multiplied; give these parameters optimisers of their own"
        for number, kind in kinds.items()
        if kind == "other"
    ]
    if set(kinds.values()) == {"none"}:
        faults.append(
            "no optimiser of what its rules hit decays weights; chain it with optax.add_decayed_weights"
        )
    raise_faults(RuleError, "group_optimizers: wd_mult does not fit the optimisers:", faults)
