"""From rules to moves: which array of one tree becomes which of another."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.errors import MismatchError, RuleError, listing
from paramtree.renaming.convert import Array, Convert, Step
from paramtree.select import (
    Rule,
    describe_select,
    expand_template,
    match_rules,
    matches,
    numbered,
    parse_rules,
)

Specs = Mapping[str, Any]  # name -> what has a shape and a dtype


@dataclass(frozen=True)
class Move:
    """One conversion: some arrays of one tree become some of another.

    Attributes:
        sources: names in the one tree.
        targets: names in the other; none where a rule says that the array is left out.
        steps: what happens on the way.
        exact: whether a rule spells out the whole name of the source.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    exact: bool = field(default=False, compare=False, repr=False)

    def specs(self, specs: Specs) -> list[jax.ShapeDtypeStruct]:
        """Give the shapes and dtypes of the targets.

        Raises:
            MismatchError: where the steps do not fit the sources.
        """
        if not self.steps and len(self.sources) == len(self.targets) == 1:
            return [specs[self.sources[0]]]
        if any(jnp.issubdtype(specs[name].dtype, jax.dtypes.extended) for name in self.sources):
            raise MismatchError("keys of jax.random can be renamed, and not converted.")
        dtypes = {np.dtype(specs[name].dtype) if self.steps else specs[name].dtype for name in self.sources}
        if len(dtypes) > 1:
            listed = " and ".join(sorted(map(str, dtypes)))
            raise MismatchError(
                f"{' and '.join(self.sources)} are of {listed}; convert them to one dtype first."
            )
        shapes = [tuple(specs[name].shape) for name in self.sources]
        for step in self.steps:
            shapes = step.shapes(shapes)
        if self.targets and len(shapes) != len(self.targets):
            made = f"{len(shapes)} array{'' if len(shapes) == 1 else 's'}"
            raise MismatchError(
                f"{' and '.join(self.sources)}: the steps give {made} for {len(self.targets)} names."
            )
        return [jax.ShapeDtypeStruct(shape, next(iter(dtypes))) for shape in shapes]

    def apply(self, arrays: Sequence[Array]) -> list[Array]:
        """Give the values of the targets from those of the sources."""
        arrays = list(arrays)
        for step in self.steps:
            arrays = step.apply(arrays)
        return list(arrays)


@dataclass(frozen=True)
class Naming:
    """A ready set of rules that looks at all names at once, both ways.

    Attributes:
        title: what it is called in messages.
        read: from specs by their names to the moves into our names.
        write: the same, back.
    """

    title: str
    read: Callable[[Specs], list[Move]]
    write: Callable[[Specs], list[Move]]

    def inverse(self) -> "Naming":
        """Give the naming that goes back."""
        return Naming(f"inverse of {self.title}", self.write, self.read)


def find_moves(specs: Specs, rename: Any) -> tuple[list[Move], list[str]]:
    r"""Find what becomes of every array by rules; what no rule hits keeps its name.

    >>> specs = {"a.kernel": jax.ShapeDtypeStruct((3, 4), "float32")}
    >>> find_moves(specs, {r"(.*)\.kernel": r"\1/weight"})
    ([Move(sources=('a.kernel',), targets=('a/weight',), steps=())], [])

    Args:
        specs: the arrays by name.
        rename: rules, a `Naming`, or None.

    Returns:
        The moves in the order of the names, and the faults of the rules.

    Raises:
        RuleError: where they are not rules, or a template does not fit its pattern.
    """
    if rename is None:
        return [Move((name,), (name,)) for name in specs], []
    if isinstance(rename, Naming):
        return rename.read(specs), []
    rules = [Rule(rule.select, _convert(rule)) for rule in parse_rules(rename)]
    if not specs:
        return [], [f"rule {at} {describe_select(rule.select)} hits nothing" for at, rule in enumerate(rules)]
    _, structure, winners, faults = match_rules(dict.fromkeys(specs, 0), numbered(rules), default=None)
    by_name = dict(zip(structure.names, winners, strict=True))
    return _collect(specs, rules, by_name, faults), faults


def _convert(rule: Rule) -> Convert | None:
    bad = callable(rule.select) or not isinstance(rule.value, str | Convert | None)
    if bad or (
        isinstance(rule.select, tuple) and not all(isinstance(each, str | re.Pattern) for each in rule.select)
    ):
        raise RuleError(
            f"rename: {describe_select(rule.select)}: {rule.value!r} is not a rule for names. Write pattern "
            "-> template, pattern -> Convert(template, steps...), or pattern -> None for what is left out."
        )
    return Convert(rule.value) if isinstance(rule.value, str) else rule.value


def _collect(
    specs: Specs, rules: Sequence[Rule], winners: Mapping[str, int | None], faults: list[str]
) -> list[Move]:
    """Make the moves; the parts of one `Join` find each other by their common new names."""
    moves: list[Move] = []
    parts: dict[tuple[int, tuple[str, ...]], dict[int, str]] = {}
    for name in specs:
        at = winners[name]
        if at is None:
            moves.append(Move((name,), (name,)))
            continue
        select, convert = rules[at]
        if convert is None:
            moves.append(Move((name,), ()))
            continue
        patterns = select if isinstance(select, tuple) else (select,)
        part, pattern = next((n, each) for n, each in enumerate(patterns) if matches(each, name, names=specs))
        targets = tuple(expand_template(pattern, name, template) for template in convert.to)
        group = parts.setdefault((at, targets), {})
        if part in group and len(patterns) > 1:
            label = f"rule {at} {describe_select(select)}"
            faults.append(f"{label} makes {listing(targets)} of both {group[part]} and {name}")
        group[part] = name
        if len(group) == len(patterns):
            sources = tuple(group[n] for n in range(len(patterns)))
            moves.append(Move(sources, targets, convert.steps, exact=patterns == sources))
    for (at, targets), group in parts.items():
        patterns = rules[at].select
        if isinstance(patterns, tuple) and len(group) < len(patterns):
            lacking = [describe_select(each) for n, each in enumerate(patterns) if n not in group]
            made = f"{listing(targets)} is made of {listing(list(group.values()))}"
            faults.append(f"rule {at}: {made} and of {listing(lacking)}, which the file lacks")
    return moves
