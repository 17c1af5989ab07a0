"""Mixed precision by rules: the loss sees parameters in other dtypes than they are kept and trained in."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from paramtree.errors import MismatchError, RuleError, listing, raise_faults
from paramtree.nodes import Fixed
from paramtree.select import Rule, apply_rules, describe_select, numbered, spells_out
from paramtree.tree import cast_fault, fixed_names


def as_seen(params: Any, rules: Sequence[Rule]) -> Any:
    """Cast a tree as `pt.cast` does, but for constants and running statistics that no rule spells out.

    >>> from paramtree.select import parse_rules
    >>> tree = {"w": jnp.ones(2), "running_mean": Fixed(jnp.ones(2))}
    >>> as_seen(tree, parse_rules({".*": "bfloat16"}))["w"].dtype
    dtype(bfloat16)

    Raises:
        RuleError: listing every rule that hits nothing, is shadowed, or would cast only constants.
        MismatchError: listing all that cannot be cast.
    """
    selects, dtypes = [rule.select for rule in rules], [jnp.dtype(rule.value) for rule in rules]
    leaves, structure, numbers = apply_rules(params, numbered(rules), default=None)
    kinds = fixed_names(structure)
    faults: list[str] = []
    kept: dict[int, list[str]] = {}
    done: set[int] = set()
    for name, index, number in zip(structure.names, structure.indices, numbers, strict=True):
        if number is None:
            continue
        select, dtype = selects[number], dtypes[number]
        if kinds.get(name) is Fixed and leaves[index].dtype != dtype and not spells_out(select, name):
            kept.setdefault(number, []).append(name)
            continue
        done.add(number)
        fault = cast_fault(name, leaves[index], dtype)
        faults += [fault] if fault else []
        leaves[index] = leaves[index] if fault else leaves[index].astype(dtype)
    idle = [
        f"rule {number} {describe_select(selects[number])} hits only {listing(names, 6)}"
        for number, names in kept.items()
        if number not in done
    ]
    headline = "train_step: precision leaves constants as they are, unless a rule spells out the whole name:"
    raise_faults(RuleError, headline, idle)
    raise_faults(MismatchError, "train_step: precision: these parameters cannot be cast:", faults)
    return structure.treedef.unflatten(leaves)
