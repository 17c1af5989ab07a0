"""One parameter and its PartitionSpec: what is wrong, and what would fit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import PartitionSpec

from paramtree import display
from paramtree.errors import did_you_mean, listing

Axes = Mapping[str, int]


def is_spec(value: object) -> bool:
    """Tell whether a value is a PartitionSpec."""
    return isinstance(value, PartitionSpec)


def axes_of(entry: Any) -> tuple[Any, ...]:
    """Give the mesh axes that one size is spread over."""
    return () if entry is None else tuple(entry) if isinstance(entry, tuple) else (entry,)


def used_axes(spec: Any) -> list[Any]:
    """List the mesh axes of a spec, in its order."""
    return [axis for entry in spec for axis in axes_of(entry)]


def shard_count(axes: Sequence[Any], mesh: Axes) -> int:
    """Count the pieces that these axes cut a size into."""
    return math.prod(mesh[axis] for axis in axes)


def share_of(shape: Sequence[int], spec: Any, mesh: Axes) -> tuple[int, ...]:
    """Give the shape of what one device holds.

    >>> share_of((8, 6), PartitionSpec(("x", "y"), None), {"x": 2, "y": 4})
    (1, 6)
    """
    entries = [*spec, *[None] * (len(shape) - len(spec))]
    return tuple(
        size // shard_count(axes_of(entry), mesh) for size, entry in zip(shape, entries, strict=True)
    )


def spec_faults(spec: Any, shape: Sequence[Any], mesh: Axes) -> list[str]:
    """List what is wrong with a spec for a shape on a mesh, each with what would fit.

    >>> spec_faults(PartitionSpec("dat"), (8,), {"data": 4})
    ["the mesh has no axis 'dat'. Did you mean data?"]
    """
    used = used_axes(spec)
    faults = [_unknown(axis, mesh) for axis in dict.fromkeys(used) if axis not in mesh]
    twice = [str(axis) for axis in dict.fromkeys(used) if used.count(axis) > 1]
    faults += [f"{spec} uses {', '.join(twice)} more than once; an axis can spread one size"] if twice else []
    if len(spec) > len(shape):
        most = f"at most {len(shape)}" if shape else "none"
        entries = f"{len(spec)} entr{'y' if len(spec) == 1 else 'ies'}"
        faults.append(f"{spec} has {entries}, and the shape {display.shape_text(shape)} takes {most}")
    return faults or _division_faults(spec, shape, mesh)


def _unknown(axis: Any, mesh: Axes) -> str:
    if axis is PartitionSpec.UNCONSTRAINED:
        return "UNCONSTRAINED is for constraints inside of jit; say None, or an axis"
    near = did_you_mean(str(axis), mesh) or f" There are {listing(list(mesh), 8)}."
    return f"the mesh has no axis {axis!r}.{near}"


def _division_faults(spec: Any, shape: Sequence[Any], mesh: Axes) -> list[str]:
    faults: list[str] = []
    for place, entry in enumerate(spec):
        axes, size = axes_of(entry), shape[place]
        pieces = shard_count(axes, mesh)
        if size % pieces:
            named = "+".join(map(str, axes))
            fitting = _moved(spec, place, shape, mesh)
            advice = f"{fitting} would fit" if fitting else "no other size does, None keeps it whole"
            faults.append(f"its size {size} at {place} does not divide by the {pieces} of {named}; {advice}")
    return faults


def _moved(spec: Any, place: int, shape: Sequence[Any], mesh: Axes) -> Any:
    """Propose the spec with an entry moved to the largest free size that it divides, if there is one."""
    entries = [*spec, *[None] * (len(shape) - len(spec))]
    pieces = shard_count(axes_of(entries[place]), mesh)
    free = [at for at, entry in enumerate(entries) if entry is None and shape[at] and shape[at] % pieces == 0]
    if not free:
        return None
    target = max(free, key=lambda at: shape[at])
    entries[target], entries[place] = entries[place], None
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)
