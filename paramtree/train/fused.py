"""Pack the small leaves of a tree into one buffer per dtype and group.

A step over very many small parameters spends its time on their number, not on arithmetic: every leaf is an
argument, a result, and a handful of kernels of the optimiser. Packed, they are a few long vectors. What the
net computes with are views of these; their gradients are taken with respect to the views and concatenated
once, as differentiating through the slices would add up one whole buffer per leaf.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any, NamedTuple, TypeGuard

import jax
import numpy as np
from jax.core import Tracer

from paramtree import display
from paramtree.errors import MismatchError, TieError, listing, raise_faults
from paramtree.names import (
    SEPARATOR,
    Structure,
    TreeDef,
    flatten_named,
    flatten_tree,
    picker,
    structure_of,
    untyped_jax,
)
from paramtree.nodes import Fixed
from paramtree.select import Rules, apply_rules, numbered, parse_rules
from paramtree.ties import find_tied
from paramtree.tree import fixed_names, is_array, is_array_like

MOST_PACKED = 65_536  # elements: copying larger leaves costs more than a leaf does


class Slot(NamedTuple):
    """Where a leaf is kept.

    Attributes:
        key: of its buffer, or of itself among the loose leaves: its name.
        shape: its shape.
        start: where it begins in the buffer, in elements; None for a loose leaf.
    """

    key: str
    shape: tuple[int, ...]
    start: int | None

    @property
    def size(self) -> int:
        """Its number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """How a tree is packed: its structure, and the slot of each leaf in JAX's order."""

    treedef: TreeDef
    slots: tuple[Slot, ...]

    def __hash__(self) -> int:
        return hash((self.treedef, len(self.slots)))


@partial(jax.tree_util.register_dataclass, data_fields=("buffers", "loose"), meta_fields=("layout",))
@dataclass(frozen=True, eq=False, repr=False)
class Fused:
    """A packed tree; made by `fuse`, taken apart by `unfuse`.

    Attributes:
        buffers: vectors of many leaves, by group, dtype and a digest of what they hold.
        loose: the leaves that are not packed, by name.
        layout: where each leaf lies.
    """

    buffers: dict[str, Any]
    loose: dict[str, Any]
    layout: Layout

    def leaves(self) -> list[Any]:
        """List the leaves of the tree in JAX's order, those in buffers as views.

        Raises:
            MismatchError: where buffers were frozen.
        """
        frozen = [_title(key) for key, held in sorted(self.buffers.items()) if isinstance(held, Fixed)]
        frozen += [name for name, held in sorted(self.loose.items()) if isinstance(held, Fixed)]
        headline = (
            "whole buffers of this packed tree are frozen, which nothing can train; freeze parameters by "
            "name before they are packed, with pt.fuse(pt.freeze(params, select)):"
        )
        raise_faults(MismatchError, headline, frozen)
        views = {
            (key, start): view
            for key, starts in _starts(self.layout).items()
            for start, view in zip(starts, _views(self.buffers[key], starts), strict=True)
        }
        return [
            self.loose[slot.key] if slot.start is None else views[slot.key, slot.start].reshape(slot.shape)
            for slot in self.layout.slots
        ]

    def tree(self) -> Any:
        """Give the tree, unpacked."""
        return self.layout.treedef.unflatten(self.leaves())

    def restricted(self, indices: Sequence[int], treedef: TreeDef) -> "Fused":
        """Give a part of it: the leaves at these positions, as the leaves of another structure.

        Raises:
            MismatchError: where a buffer holds some of these leaves, and others.
        """
        layout = _restricted(self.layout, tuple(indices), treedef)
        keys = {slot.key for slot in layout.slots}
        buffers = {key: buffer for key, buffer in self.buffers.items() if key in keys}
        return Fused(buffers, {key: leaf for key, leaf in self.loose.items() if key in keys}, layout)

    def overlaid(self, part: "Fused") -> "Fused":
        """Return it with the buffers and loose leaves of a part of it in place of its own."""
        return Fused(self.buffers | part.buffers, self.loose | part.loose, self.layout)

    def __repr__(self) -> str:
        packed = sum(slot.start is not None for slot in self.layout.slots)
        buffers = sorted(self.buffers.items())
        lines = [f"{_title(key)} ({display.shape_dtype(buffer)})" for key, buffer in buffers]
        return display.block_text(f"Fused: {packed} of {len(self.layout.slots)} leaves packed", lines)


def is_fused(value: object) -> TypeGuard[Fused]:
    """Tell whether something in a tree is a packed one."""
    return isinstance(value, Fused)


def pack(layout: Layout, leaves: Sequence[Any]) -> Fused:
    """Pack leaves, given in JAX's order, as a layout says."""
    rows: dict[str, list[tuple[int, Any]]] = {key: [] for key in _starts(layout)}
    loose: dict[str, Any] = {}
    for slot, leaf in zip(layout.slots, leaves, strict=True):
        if slot.start is None:
            loose[slot.key] = leaf
        else:
            rows[slot.key].append((slot.start, leaf))
    ordered = {key: [leaf for _, leaf in sorted(row, key=lambda pair: pair[0])] for key, row in rows.items()}
    return Fused({key: _concatenated(row) for key, row in ordered.items()}, loose, layout)


def _concatenated(leaves: Sequence[Any]) -> Any:
    numpy: Any = np if all(isinstance(leaf, np.ndarray) for leaf in leaves) else untyped_jax.numpy
    return numpy.concatenate([leaf.reshape(-1) for leaf in leaves])


def _views(buffer: Any, starts: Sequence[int]) -> Sequence[Any]:
    """Take a buffer apart, at where each of its leaves begins."""
    if isinstance(buffer, np.ndarray):
        return np.split(buffer, starts[1:])
    if isinstance(buffer, Tracer):
        return untyped_jax.numpy.split(buffer, starts[1:])
    ends = (*starts[1:], buffer.size)
    # put there by its name: where implicit transfers are forbidden, a number in a call is one
    return [
        _view(buffer, jax.device_put(start), end - start) for start, end in zip(starts, ends, strict=True)
    ]


@partial(untyped_jax.jit, static_argnums=2)
def _view(buffer: Any, start: jax.Array, size: int) -> Any:
    # compiled once for each size: one program that gives all of many leaves compiles for seconds
    return jax.lax.dynamic_slice_in_dim(buffer, start, size)


@lru_cache(maxsize=64)
def _starts(layout: Layout) -> dict[str, tuple[int, ...]]:
    starts: dict[str, list[int]] = {}
    for slot in layout.slots:
        if slot.start is not None:
            starts.setdefault(slot.key, []).append(slot.start)
    return {key: tuple(sorted(found)) for key, found in starts.items()}


@lru_cache(maxsize=256)
def _restricted(layout: Layout, indices: tuple[int, ...], treedef: TreeDef) -> Layout:
    slots = picker(indices)(layout.slots)
    mine = {slot.key for slot in slots if slot.start is not None}
    inside = set(indices)
    names = structure_of(layout.treedef.unflatten(range(len(layout.slots))))
    named = dict(zip(names.indices, names.names, strict=True))
    strangers = {
        slot.key: named[at] for at, slot in enumerate(layout.slots) if slot.key in mine and at not in inside
    }
    faults = [
        f"{_title(key)} holds "
        f"{listing([named[at] for at in sorted(inside) if layout.slots[at].key == key], 3)}, "
        f"and {other}, which is of another group"
        for key, other in sorted(strangers.items())
    ]
    headline = "these buffers hold parameters of several groups; pass the rules to fuse too:"
    raise_faults(MismatchError, headline, faults)
    return Layout(treedef, slots)


@lru_cache(maxsize=64)
def _interned(layout: Layout) -> Layout:
    return layout  # equal layouts are one object: trees that hold them are compared quickly


def fuse(params: Any, rules: Rules | None = None, /, *, like: Any = None) -> Any:
    """Pack the small leaves of a tree into one buffer per dtype and group, for `train_step`.

    Leaves of more than 65,536 elements, and those that are sharded, stay as they are: copying them would cost
    more than it saves. Fixed leaves have buffers of their own. An optimiser works on whole buffers, so it
    must treat every element alike, as SGD, Adam and clipping by the global norm do: `train_step` checks. A
    checkpoint of a packed tree fits that tree alone; one of `unfuse(params)` fits any of the same names.

    Args:
        params: any tree of arrays. Ties stay ties.
        rules: those of `group_optimizers`, where it is the optimiser: each group has its own buffers.
        like: in place of rules, something that holds packed trees, such as the state of a training run:
            what lies at their places is packed as they are. The inverse of `unfuse` for a whole state.

    >>> import jax.numpy as jnp
    >>> fuse({"a": {"weight": jnp.ones((3, 2)), "bias": jnp.zeros(3)}, "b": {"bias": jnp.ones(4)}})
    Fused: 3 of 3 leaves packed (
      trained/float32 (shape=(13,), dtype=float32)
    )

    Raises:
        RuleError: listing every rule that hits nothing or is shadowed, and what no rule covers.
        MismatchError: listing all that is not an array; or where the tree is packed, or does not fit `like`.
        TieError: listing every array that stands under two names.
    """
    if like is not None:
        return _fused_like(params, like)
    leaves, structure = flatten_named(params)
    if any(map(is_fused, jax.tree.leaves(params, is_leaf=is_fused))):
        raise MismatchError("fuse: this is packed already; pt.unfuse it first.")
    check_shared(params, "fuse")
    labels = _labels(params, structure, rules)
    named = zip(structure.names, structure.indices, strict=True)
    faults = [f"{name} is {leaves[index]!r}" for name, index in named if not is_array(leaves[index])]
    raise_faults(MismatchError, "fuse: these leaves are not arrays:", faults)
    keys = [f"{label}/{leaf.dtype}" for label, leaf in zip(labels, leaves, strict=True)]
    packed = [key if _is_small(leaf) else "" for key, leaf in zip(keys, leaves, strict=True)]
    names = dict(zip(structure.indices, structure.names, strict=True))
    many, ends = Counter(packed), Counter[str]()
    slots: list[Slot] = []
    for at, (key, leaf) in enumerate(zip(packed, leaves, strict=True)):
        if not key or many[key] == 1:  # a buffer of one leaf would only be a copy
            slots.append(Slot(names[at], tuple(leaf.shape), None))
            continue
        slots.append(Slot(key, tuple(leaf.shape), ends[key]))
        ends[key] += slots[-1].size
    slots = _with_digests(slots, names)
    return pack(_interned(Layout(structure.treedef, tuple(slots))), leaves)


def _with_digests(slots: Sequence[Slot], names: Mapping[int, str]) -> list[Slot]:
    """End the key of each buffer with a digest of what lies where in it.

    A checkpoint of a packed tree holds its buffers by key, so it fits no other tree that is as large.
    """
    held: dict[str, list[Any]] = {}
    for at, slot in enumerate(slots):
        held.setdefault(slot.key, []).append((names[at], slot.shape, slot.start))
    digests = {key: blake2b(repr(held[key]).encode(), digest_size=4).hexdigest() for key in held}
    return [
        slot if slot.start is None else slot._replace(key=f"{slot.key}{SEPARATOR}{digests[slot.key]}")
        for slot in slots
    ]


def _title(key: str) -> str:
    """Give the key of a buffer without its digest."""
    return key.rpartition(SEPARATOR)[0]


def check_shared(params: Any, asked: str) -> None:
    """Check that no array stands under two names: each copy would go its own way.

    Raises:
        TieError: listing all that do.
    """
    faults = [f"{place} is {source}" for place, source in find_tied(params).items()]
    headline = (
        f"{asked}: these are one array under two names, and would become two. Tie them with pt.tie(params, "
        "pt.find_tied(params)), or copy them with jax.tree.map(jnp.copy, params):"
    )
    raise_faults(TieError, headline, faults)


def _labels(params: Any, structure: Structure, rules: Rules | None) -> list[str]:
    """Name the group of each leaf, in JAX's order."""
    fixed = fixed_names(structure)
    groups: list[Any] = [None] * len(structure.names)
    if rules is not None:
        # what is fixed needs no rule: it is checked when the optimiser is given its parameters
        groups = apply_rules(params, numbered(parse_rules(rules)), default=None)[2]
    labels = [""] * len(structure.names)
    for name, index, group in zip(structure.names, structure.indices, groups, strict=True):
        trained = "trained" if group is None else f"rule{group}"
        labels[index] = "fixed" if name in fixed else trained
    return labels


def _is_small(leaf: Any) -> bool:
    sharding = getattr(leaf, "sharding", None)
    whole = sharding is None or isinstance(leaf, Tracer) or sharding.is_fully_replicated
    return 0 < leaf.size <= MOST_PACKED and whole


def _named(tree: Any) -> list[tuple[str, int]]:
    structure = structure_of(tree)
    return list(zip(structure.names, structure.indices, strict=True))


def _fused_like(tree: Any, like: Any) -> Any:
    def packed(old: Any, new: Any) -> Any:
        if not is_fused(old):
            return new
        leaves, treedef = flatten_tree(new)
        shapes = [tuple(leaf.shape) if is_array_like(leaf) else None for leaf in leaves]
        if treedef != old.layout.treedef or shapes != [slot.shape for slot in old.layout.slots]:
            raise MismatchError(
                "fuse: this tree has not the structure and shapes of what is packed in like=."
            )
        held = old.buffers | old.loose
        dtypes = {name: (leaves[at].dtype, held[old.layout.slots[at].key].dtype) for name, at in _named(new)}
        faults = [f"{name} is {now}, and was {was}" for name, (now, was) in dtypes.items() if now != was]
        headline = "fuse: these have other dtypes than what is packed in like=; pt.cast them:"
        raise_faults(MismatchError, headline, faults)
        return pack(old.layout, leaves)

    try:
        return jax.tree.map(packed, like, tree, is_leaf=is_fused)
    except ValueError as error:
        if isinstance(error, MismatchError):
            raise
        raise MismatchError(f"fuse: the tree has not the structure of like=: {error}") from error


def unfuse(tree: Any, /) -> Any:
    """Unpack all that is packed in a tree: parameters, an optimiser's state, or a whole `TrainState`.

    >>> import jax.numpy as jnp
    >>> unfuse(fuse({"a": {"weight": jnp.ones(2), "bias": jnp.zeros(1)}}))
    {'a': {'bias': Array([0.], dtype=float32), 'weight': Array([1., 1.], dtype=float32)}}
    """
    return jax.tree.map(lambda node: node.tree() if is_fused(node) else node, tree, is_leaf=is_fused)
