"""A plan of how parameters are spread over devices: one table, before anything is allocated."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from paramtree import display
from paramtree.errors import ParamTreeError, RuleError, listing, raise_faults
from paramtree.names import Structure
from paramtree.nodes import follow, tied_names
from paramtree.report.cells import bytes_text, spec_text
from paramtree.report.columns import Column, columns_html, columns_text, text_column
from paramtree.select import Rule, Rules, describe_select, match_rules, matches, parse_rules
from paramtree.sharding.spec import is_spec, shard_count, share_of, spec_faults, used_axes
from paramtree.tree import is_array_like

_UNCOVERED: Any = object()
_NO_RULE = "no rule covers it"


class Placement(NamedTuple):
    """How one parameter is spread.

    Attributes:
        name: its name.
        shape: its shape; None for what is no array.
        dtype: the name of its dtype, or of its type.
        spec: its PartitionSpec; None where no rule gives one.
        nbytes: the bytes it takes once.
        device_bytes: the bytes on each device.
        copies: the number of devices that hold the same.
        faults: what is wrong.
    """

    name: str
    shape: tuple[Any, ...] | None
    dtype: str
    spec: Any = None
    nbytes: int = 0
    device_bytes: int = 0
    copies: int = 0
    faults: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it."""
        shape = None if self.shape is None else [n if isinstance(n, int) else str(n) for n in self.shape]
        spec = None
        if self.spec is not None:
            spec = [list(axes) if isinstance(axes, tuple) else axes for axes in self.spec]
        return {**self._asdict(), "shape": shape, "spec": spec, "faults": list(self.faults)}


@dataclass(frozen=True, repr=False)
class ShardingPlan:
    """How parameters would be spread over a mesh: a table where it is printed.

    Attributes:
        rows: one for each parameter, in natural order; a tied one once.
        axes: the axes of the mesh, and their sizes.
        faults: all that is wrong, of the rules and of each parameter.
    """

    rows: tuple[Placement, ...]
    axes: dict[str, int]
    faults: tuple[str, ...]
    _mesh: Any
    _treedef: Any
    _specs: tuple[Any, ...]

    @property
    def devices(self) -> int:
        """The number of devices."""
        return math.prod(self.axes.values())

    @property
    def nbytes(self) -> int:
        """The bytes of all parameters, each once."""
        return sum(row.nbytes for row in self.rows)

    @property
    def device_bytes(self) -> int:
        """The bytes on each device."""
        return sum(row.device_bytes for row in self.rows)

    @property
    def waste(self) -> int:
        """The bytes on each device beyond an even share: what is held more than once."""
        return self.device_bytes - self.nbytes // self.devices

    def headline(self) -> str:
        """Say in one line what a device holds, and how many faults there are."""
        count = len(self.rows)
        axes = ", ".join(f"{axis}={size}" for axis, size in self.axes.items())
        parts = [f"{count:,} parameter{'' if count == 1 else 's'} on {axes}: {bytes_text(self.nbytes)}"]
        if self.faults:
            parts.append(f"{len(self.faults):,} fault{'' if len(self.faults) == 1 else 's'}")
        elif self.nbytes:
            parts.append(f"{bytes_text(self.device_bytes)} per device")
            parts.append(
                f"of which {bytes_text(self.waste)} are held more than once" if self.waste else "even"
            )
        return ", ".join(parts)

    def to_text(self, width: int | None = None) -> str:
        """Write the table and the faults, as wide as the terminal if no width is given."""
        lines = [self.headline()]
        if self.rows:
            lines.append(columns_text(_columns(self.rows), width))
        return "\n".join([*lines, *(f"  {fault}" for fault in self.faults)])

    def __repr__(self) -> str:
        return self.to_text()

    def to_html(self) -> str:
        """Write it in HTML, as a notebook shows it: a click on a head sorts the table."""
        table = columns_html(self.headline(), _columns(self.rows))
        return table + (display.text_html("\n".join(self.faults)) if self.faults else "")

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it."""
        totals = {"nbytes": self.nbytes, "device_bytes": self.device_bytes, "waste": self.waste}
        rows = [row.to_dict() for row in self.rows]
        return {"axes": self.axes, **totals, "faults": list(self.faults), "parameters": rows}

    def shardings(self) -> Any:
        """Give the tree of `NamedSharding`s, as `net.init(shardings=)` and `jax.device_put` take it.

        Raises:
            RuleError: listing all faults of the plan.
        """
        count = len(self.rows)
        headline = f"sharding rules do not fit {count:,} parameter{'' if count == 1 else 's'}:"
        raise_faults(RuleError, headline, self.faults)
        return jax.tree.unflatten(self._treedef, [NamedSharding(self._mesh, spec) for spec in self._specs])


def plan_sharding(params: Any, /, mesh: Mesh | AbstractMesh, rules: Rules) -> ShardingPlan:
    """Plan how parameters are spread over a mesh, and see all that is wrong, before anything is allocated.

    Args:
        params: any tree of parameters or specs, the state of an optimiser too.
        mesh: the devices; a `jax.sharding.AbstractMesh` where there are none yet.
        rules: select -> `PartitionSpec`, or None for what every device holds whole; or a function of
            (name, leaf) that gives one of these. The first that matches wins, and all must be covered.

    >>> from jax.sharding import PartitionSpec as P
    >>> params = {"dense0": {"weight": jax.ShapeDtypeStruct((256, 20), "float32"),
    ...                      "bias": jax.ShapeDtypeStruct((256,), "float32")}}
    >>> plan_sharding(params, AbstractMesh((4,), ("data",)), {".*weight": P("data"), ".*": None})
    2 parameters on data=4: 21.0 KiB, 6.00 KiB per device, of which 768 B are held more than once
    name           what             spread over  copies     bytes  per device
    dense0/weight  float32[256,20]  data              1  20.0 KiB    5.00 KiB
    dense0/bias    float32[256]     replicated        4  1.00 KiB    1.00 KiB

    Raises:
        ParamTreeError: where it is not a mesh.
        RuleError: where the rules are no pairs.
    """
    if not isinstance(mesh, Mesh | AbstractMesh):
        raise ParamTreeError(
            f"plan_sharding: takes a mesh, as jax.make_mesh and jax.sharding.AbstractMesh give, "
            f"and not {type(mesh).__name__}."
        )
    parsed = [rule._replace(value=_Numbered(number, rule)) for number, rule in enumerate(parse_rules(rules))]
    # what no rule covers is a row of the table, and the other faults of rules stand below it
    leaves, structure, chosen, faults = match_rules(params, parsed, default=_UNCOVERED)
    axes: dict[str, int] = dict(mesh.shape)
    rows: list[Placement] = []
    specs: list[Any] = [None] * len(leaves)
    for name, index, rule in zip(structure.names, structure.indices, chosen, strict=True):
        spec, wrong = _spec_of(name, leaves[index], rule)
        rows.append(_placement(name, leaves[index], spec, wrong, axes))
        specs[index] = spec
    bare = [name for name, rule in zip(structure.names, chosen, strict=True) if rule is _UNCOVERED]
    if bare:
        faults.append(f"no rule covers {listing(bare, 6)}. End with '.*': None for what is held whole.")
    named = [f"{row.name}: {fault}" for row in rows for fault in row.faults if fault != _NO_RULE]
    ties = _tie_faults(structure, dict(zip(structure.names, chosen, strict=True)), leaves, parsed)
    every = (*faults, *ties, *named)
    return ShardingPlan(tuple(rows), axes, every, mesh, structure.treedef, tuple(specs))


class _Numbered(NamedTuple):
    """The value of a rule, and which rule it is of."""

    number: int
    rule: Rule

    def __str__(self) -> str:
        return f"rule {self.number} {describe_select(self.rule.select)}"


def _spec_of(name: str, leaf: Any, given: Any) -> tuple[Any, list[str]]:
    """Give the PartitionSpec that a rule gives a parameter, and what is wrong with it."""
    if given is _UNCOVERED:
        return None, [_NO_RULE]
    value = given.rule.value
    if callable(value) and not is_spec(value):
        value = value(name, leaf)
    if value is None:
        return PartitionSpec(), []
    if is_spec(value):
        return value, []
    shown = f"PartitionSpec(*{value!r})" if isinstance(value, tuple) else f"PartitionSpec({value!r})"
    return None, [f"{given} gives {value!r}, which is no PartitionSpec; say {shown}"]


def _placement(name: str, leaf: Any, spec: Any, wrong: Sequence[str], axes: dict[str, int]) -> Placement:
    if not is_array_like(leaf):
        return Placement(name, None, repr(leaf), faults=("it is no array, and cannot be spread",))
    shape, dtype = tuple(leaf.shape), str(leaf.dtype)
    unknown = [str(size) for size in shape if not isinstance(size, int)]
    if unknown:
        text = f"its shape is {display.shape_text(shape)}, and {', '.join(unknown)} is not known"
        return Placement(name, shape, dtype, spec, faults=(*wrong, f"{text}; give the sizes as numbers"))
    item = getattr(leaf.dtype, "itemsize", 0)
    nbytes = math.prod(shape) * item
    faults = (*wrong, *(spec_faults(spec, shape, axes) if spec is not None else ()))
    if spec is None or faults:
        return Placement(name, shape, dtype, spec, nbytes, faults=faults)
    copies = math.prod(axes.values()) // shard_count(used_axes(spec), axes)
    return Placement(name, shape, dtype, spec, nbytes, math.prod(share_of(shape, spec, axes)) * item, copies)


def _tie_faults(
    structure: Structure, chosen: dict[str, Any], leaves: Sequence[Any], rules: Sequence[Rule]
) -> list[str]:
    """List the tied places that a rule of their own spreads otherwise than where the parameter lives."""
    at = dict(zip(structure.names, structure.indices, strict=True))
    faults: list[str] = []
    for place, source in tied_names(structure).items():
        own, leaf = chosen[source], leaves[at[source]]
        meant = next((rule for rule in rules if matches(rule.select, place, leaf)), None)
        # one that hits the source too, as '.*' does, says nothing of this place
        if meant is None or own is _UNCOVERED or matches(meant.select, source, leaf):
            continue
        here, there = _spec_of(place, leaf, meant.value)[0], _spec_of(source, leaf, own)[0]
        if follow(structure, place)[1] and there is not None:
            there = PartitionSpec(*reversed([*there, *[None] * (len(leaf.shape) - len(there))]))
        if _canonical(here) != _canonical(there):
            faults.append(
                f"{place} is tied to {source}: {meant.value} gives {_shown(here)} for the one, and "
                f"{own} gives {_shown(there)} for the other; "
                f"a tied parameter lies once, at {source}"
            )
    return faults


def _shown(spec: Any) -> str:
    return "nothing" if spec is None else spec_text(spec)


def _canonical(spec: Any) -> Any:
    if spec is None:
        return None
    entries = [each if isinstance(each, tuple) else (each,) if each else () for each in spec]
    while entries and not entries[-1]:
        entries.pop()
    return entries


def _columns(rows: Sequence[Placement]) -> list[Column]:
    def numbers(
        head: str, number: Callable[[Placement], int], text: Callable[[int], str], spare: int
    ) -> Column:
        values = [number(row) for row in rows]
        return Column(head, [text(value) if value else "" for value in values], values, spare)

    return [
        text_column("name", [row.name for row in rows]),
        text_column("what", [_what(row) for row in rows], 3),
        text_column("spread over", ["" if row.spec is None else spec_text(row.spec) for row in rows]),
        text_column("faults", [str(len(row.faults)) if row.faults else "" for row in rows]),
        numbers("copies", lambda row: row.copies, str, 1),
        numbers("bytes", lambda row: row.nbytes, bytes_text, 2),
        numbers("per device", lambda row: row.device_bytes, bytes_text, 0),
    ]


def _what(row: Placement) -> str:
    return row.dtype if row.shape is None else f"{row.dtype}[{','.join(map(str, row.shape))}]"
