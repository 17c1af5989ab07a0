"""One side of a comparison: a tree, or a file of which only headers are read until values are asked for."""

import os
import reprlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.checkpoint.formats import open_stored
from paramtree.checkpoint.layout import host_array, join_parts, key_specs
from paramtree.checkpoint.matching import wanted_spec
from paramtree.checkpoint.tensors import array_of, is_tensor
from paramtree.compare.renames import Candidate
from paramtree.errors import MismatchError, raise_faults
from paramtree.names import flatten_named, untyped_jax
from paramtree.nodes import follow, tied_names
from paramtree.select import held_leaves
from paramtree.tree import fixed_names, is_array_like

Array = np.ndarray[Any, Any]

_NUMBERS = (bool, int, float, complex)


class Place(NamedTuple):
    """What one side holds under a name.

    Attributes:
        shape: of the array, symbols as texts; None for a leaf that is not an array.
        dtype: its name; of a leaf that is no array, the leaf as Python writes it.
        tied: where the parameter lives, if this is another name of it.
        transposed: whether it is seen transposed from here.
        mark: "fixed", "frozen" or the like, of a leaf that gets no gradient.
    """

    shape: tuple[int | str, ...] | None
    dtype: str
    tied: str = ""
    transposed: bool = False
    mark: str = ""

    def __str__(self) -> str:
        """Write the place in short: `float32[2,3]`."""
        array = self.dtype if self.shape is None else f"{self.dtype}[{','.join(map(str, self.shape))}]"
        return f"{array}, {self.tie_text()}" if self.tied else array

    def tie_text(self) -> str:
        """Say what the place is tied to."""
        if not self.tied:
            return "not tied"
        return f"tied to {self.tied}{', transposed' if self.transposed else ''}"


@dataclass(frozen=True)
class Side:
    """The parameters of one side, by name.

    Attributes:
        leaves: name -> the leaf, of all that live here; those read from a file are their specs.
        held: the same, as selects see them: in the transparent node that holds one.
        ties: name -> where the parameter lives and whether it is seen transposed, of all tied names.
        marks: name -> how a leaf is held fixed.
        read: gives the values of what is named; None where a leaf has none.
    """

    leaves: dict[str, Any]
    held: dict[str, Any]
    ties: dict[str, tuple[str, bool]]
    marks: dict[str, str]
    read: Callable[[str], Any]

    def names(self) -> list[str]:
        """List all names, those of tied places last."""
        return [*self.leaves, *self.ties]

    def has(self, name: str) -> bool:
        """Tell whether something stands under a name."""
        return name in self.leaves or name in self.ties

    def leaf(self, name: str) -> Any:
        """Give the leaf under a name, wherever it lives."""
        return self.leaves[self.ties.get(name, (name, False))[0]]

    def place(self, name: str) -> Place:
        """Describe what stands under a name."""
        source, transposed = self.ties.get(name, (name, False))
        leaf = self.leaves[source]
        tied, mark = (source if name in self.ties else ""), self.marks.get(source, "")
        if not is_array_like(leaf):
            return Place(None, reprlib.repr(leaf), tied, transposed, mark)
        shape = tuple(size if isinstance(size, int) else str(size) for size in leaf.shape)  # or a symbol
        shape = (*shape[:-2], *shape[:-3:-1]) if transposed else shape
        return Place(shape, _dtype_name(leaf.dtype), tied, transposed, mark)

    def values(self, name: str) -> Array | None:
        """Give the values under a name; None where there are none, as in specs."""
        source, transposed = self.ties.get(name, (name, False))
        found = self.read(source)
        return found.swapaxes(-1, -2) if transposed and found is not None else found

    def candidate(self, name: str) -> Candidate:
        """Give what a rename of a name would keep."""
        place = self.place(name)
        kind = (place.shape, place.dtype, bool(place.tied))
        found = None if place.tied else self.values(name)
        if found is None or found.dtype.hasobject:
            return Candidate(kind)
        bits = np.ascontiguousarray(found).reshape(-1).view(np.uint8)
        parts = bits.reshape(-1, max(found.dtype.itemsize, 1))
        telling = len(parts) > 1 and bool((parts[1:] != parts[:1]).any())
        return Candidate(kind, blake2b(bits.data, digest_size=16).digest(), telling)


def open_side(source: Any, label: str, stack: ExitStack, other: Any = None) -> Side:
    """Open one side of a comparison.

    Args:
        source: a tree, or the path of a file.
        label: what messages call it.
        stack: closes the file.
        other: the other side, a tree that gives its names to the arrays of a file without names.

    Raises:
        FileNotFoundError: where there is no such file.
        ParamTreeError: for a file of no known format, or a damaged one.
        BadNameError: for what is not a tree.
        TieError: for a tie that leads nowhere.
        MismatchError: listing every leaf that is traced.
    """
    if not _is_path(source):
        return _side_of(source, label)
    stored = open_stored(Path(source))
    keys = set(stored.notes.get("keys", ()))
    specs = stored.specs | key_specs(stored.specs, stored.notes)
    opened = stack.enter_context(stored.reading())
    named = dict(zip(specs, specs, strict=True))
    if stored.by_position and not _is_path(other):
        named |= zip(specs, _array_names(other), strict=False)
    stored_name = {name: position for position, name in named.items()}

    def read(name: str) -> Array:
        values = opened(stored_name[name])
        return _per_key(values, specs[name].shape) if name in keys else values

    found = {named[name]: spec for name, spec in specs.items()}
    return _side_of(join_parts(found, stored.notes), label, read)


def _is_path(source: Any) -> bool:
    return isinstance(source, str | os.PathLike)


def _array_names(tree: Any) -> list[str]:
    """List the names of all arrays and numbers of a tree, in the order of JAX's leaves."""
    leaves, structure = flatten_named(tree)
    names = dict(zip(structure.indices, structure.names, strict=True))
    return [names[index] for index, leaf in enumerate(leaves) if wanted_spec(leaf) is not None]


def _side_of(tree: Any, label: str, read: Callable[[str], Any] | None = None) -> Side:
    leaves, structure = flatten_named(tree)
    held = held_leaves(tree)
    placed = {
        name: index
        for name, index in zip(structure.names, structure.indices, strict=True)
        if is_array_like(leaves[index]) or not callable(leaves[index])
    }
    traced = [
        f"{name} of {label} is traced"
        for name in placed
        if isinstance(leaves[placed[name]], untyped_jax.core.Tracer)
    ]
    raise_faults(MismatchError, "diff: values are compared outside of jit:", traced)
    found = {name: _as_array(leaves[index]) for name, index in placed.items()}
    return Side(
        leaves=found,
        held={name: held[index] for name, index in placed.items()},
        ties={
            place: follow(structure, place)
            for place, source in tied_names(structure).items()
            if source in found
        },
        marks={name: kind.__name__.lower() for name, kind in fixed_names(structure).items()},
        read=read or (lambda name: _values_of(found[name])),
    )


def _dtype_name(dtype: Any) -> str:
    return getattr(dtype, "name", str(dtype)).removeprefix("torch.")


def _as_array(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, _NUMBERS) else leaf


def _values_of(leaf: Any) -> Array | None:
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return _per_key(host_array(jax.random.key_data(leaf)), leaf.shape)
        return host_array(leaf)
    if isinstance(leaf, np.ndarray | np.generic):
        return host_array(np.asarray(leaf))
    return array_of(leaf) if is_tensor(leaf) else None


def _per_key(data: Array, shape: tuple[int, ...]) -> Array:
    """View the words of each key of `jax.random` as one value, which is equal to another or is not."""
    return data.view(f"V{data.itemsize * data.shape[-1]}").reshape(shape)
