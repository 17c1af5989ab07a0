"""What a training run carries from step to step, and how it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from paramtree.errors import MismatchError, NoMatchError, raise_faults
from paramtree.names import Structure
from paramtree.nodes import Fixed
from paramtree.select import Rule, Rules, apply_rules, check_rules, parse_rules
from paramtree.ties import find_tied
from paramtree.train.foreign import promoting
from paramtree.train.fused import check_shared, fuse, is_fused, unfuse
from paramtree.train.parts import part_of, structure_below
from paramtree.train.probes import is_elementwise
from paramtree.tree import fixed_names, flat_leaves, is_array, update


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "opt_state", "key", "step", "ema", "stopped"),
    meta_fields=(),
)
@dataclass(frozen=True, eq=False, repr=False)
class TrainState:
    """What a training run carries from step to step: a pytree, made by `TrainStep.init`.

    Attributes:
        params: the parameters, as a tree or packed by `fuse`.
        opt_state: the optimiser's state, of the parameters that are trained.
        key: a random key, folded with `step` for each step; None where the loss takes none.
        step: the number of steps done, an int32 scalar.
        ema: moving averages, by name, of the parameters that rules name; None where no rules are given.
        stopped: whether a loss or gradient was not finite: then this is the last good state.
    """

    params: Any
    opt_state: Any
    key: Any = None
    step: Any = 0
    ema: Any = None
    stopped: Any = False

    def __repr__(self) -> str:
        count = len(structure_below(self.params).names)
        packed = ", packed" if is_fused(self.params) else ""
        return f"TrainState(step={self.step}, {count} parameter{'' if count == 1 else 's'}{packed})"


def trainable_names(structure: Structure) -> list[str]:
    """List the names that are not fixed."""
    fixed = fixed_names(structure)
    return [name for name in structure.names if name not in fixed]


def new_state(params: Any, optimizer: Any, key: Any, ema: Rules | None, copy: bool) -> TrainState:
    """Make the state of a run from its parameters; see `TrainStep.init`.

    Raises:
        MismatchError: where packed parameters meet an optimiser that looks at whole ones; and what
            `TrainStep.init` lists beside it.
    """
    plain = flat_leaves(unfuse(params))
    names = trainable_names(structure_below(params))
    _check_trained(plain, names)
    _check_narrow(plain)
    check_shared(params, "train_step")
    params = jax.tree.map(jnp.array if copy else jnp.asarray, params)
    part = part_of(params, names)
    if is_fused(params) and not is_elementwise(optimizer, part):
        raise MismatchError(
            "train_step: this optimiser does not treat every element alike (it looks at the norm or shape of "
            "whole parameters, or at random numbers), so it gives other results when they are packed. "
            "Train them unpacked, with pt.unfuse, or with another optimiser."
        )
    averages = None if ema is None else _first_averages(params, ema)
    with promoting():
        heavy = (params, optimizer.init(part), averages)
    # an optimiser may keep the parameters themselves, and no buffer can be donated twice
    params, opt_state, averages = update(heavy, dict.fromkeys(find_tied(heavy), jnp.copy))
    light = (key, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    (params, opt_state, averages), (key, step, stopped) = _on_one_mesh(((params, opt_state, averages), light))
    return TrainState(params, opt_state, key, step, averages, stopped)


def _on_one_mesh(state: Any) -> Any:
    """Put what lies on no particular device, as counters do, on all devices of the mesh that others lie on.

    The first step would do it, and the second be compiled again for where it lies then.
    """
    leaves, structure = jax.tree.flatten(state)
    placed = [
        leaf.sharding for leaf in leaves if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)
    ]
    mesh = next(
        (each.mesh for each in placed if isinstance(each, NamedSharding) and each.num_devices > 1), None
    )
    if mesh is None:
        return state
    whole = NamedSharding(mesh, PartitionSpec())
    loose = {at: leaf for at, leaf in enumerate(leaves) if not getattr(leaf, "committed", True)}
    # not by device_put, which knows this process's devices alone
    moved = jax.jit(_same, out_shardings=whole)(loose)
    return jax.tree.unflatten(structure, [moved.get(at, leaf) for at, leaf in enumerate(leaves)])


def _same(leaves: Any) -> Any:
    return leaves


def _check_trained(plain: Mapping[str, Any], names: list[str]) -> None:
    if not names:
        count = len(plain)
        raise NoMatchError(
            f"train_step: nothing is left to train: all {count} parameters are fixed. pt.unfreeze some."
            if count
            else "train_step: nothing is left to train: the tree has no parameters."
        )
    faults = [
        f"{name} is {getattr(plain[name], 'dtype', repr(plain[name]))}"
        for name in names
        if not is_array(plain[name]) or not jnp.issubdtype(plain[name].dtype, jnp.inexact)
    ]
    headline = "train_step: only arrays of floats can be trained; pt.freeze what is not:"
    raise_faults(MismatchError, headline, faults)


def _check_narrow(plain: Mapping[str, Any]) -> None:
    faults = [
        f"{name} is {leaf.dtype}"
        for name, leaf in plain.items()
        if isinstance(leaf, np.ndarray) and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype
    ]
    headline = "train_step: JAX would narrow these; pt.cast them, or set jax_enable_x64:"
    raise_faults(MismatchError, headline, faults)


# moving averages


def check_decays(rules: Rules | None) -> None:
    """Check that rules for moving averages are select -> a decay from 0 up to 1, or a schedule of it.

    Raises:
        RuleError: listing all that are not.
    """

    def fits(rule: Rule) -> bool:
        return callable(rule.value) or (isinstance(rule.value, int | float) and 0 <= rule.value <= 1)

    headline = (
        "train_step: ema takes select -> a decay from 0 to 1, or a function of the step; these are not:"
    )
    check_rules(parse_rules(rules or {}), fits, headline)


def decays_by_name(params: Any, rules: Rules) -> dict[str, Any]:
    """Map names to the decays of their moving averages; fixed leaves only where a rule spells them out.

    Raises:
        RuleError: listing every rule that hits nothing or is shadowed.
        MismatchError: listing all that cannot be averaged, as integers.
    """
    plain = unfuse(params)
    leaves, structure, decays = apply_rules(plain, rules, default=None, spelled_out=_is_fixed)
    named = zip(structure.names, structure.indices, decays, strict=True)
    chosen = {name: (leaves[index], decay) for name, index, decay in named if decay is not None}
    faults = [
        f"{name} is {leaf.dtype}"
        for name, (leaf, _) in chosen.items()
        if not jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    raise_faults(MismatchError, "train_step: ema cannot average these:", faults)
    return {name: decay for name, (_, decay) in chosen.items()}


def _is_fixed(name: str, leaf: Any) -> bool:
    del name
    return isinstance(leaf, Fixed)


def _first_averages(params: Any, rules: Rules) -> Any:
    plain = flat_leaves(unfuse(params))
    first = {name: jnp.array(plain[name], _wide(plain[name].dtype)) for name in decays_by_name(params, rules)}
    return fuse(first) if is_fused(params) else first


def _wide(dtype: Any) -> Any:
    # one part in a thousand of a bfloat16 value is rounded away
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
