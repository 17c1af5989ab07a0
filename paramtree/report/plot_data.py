"""What is drawn: the leaves that hold numbers, as NumPy arrays, and notes on those that do not."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from paramtree.checkpoint.layout import dtype_fault, host_array
from paramtree.checkpoint.tensors import array_of, is_tensor
from paramtree.errors import MismatchError, listing, raise_faults
from paramtree.names import untyped_jax
from paramtree.select import Select, apply_select
from paramtree.tree import is_array_like

Array = np.ndarray[Any, Any]

_NAMED = 6  # names given in a note; a longer list is cut
LARGEST = 1e300  # above which an axis has no end


class Item(NamedTuple):
    """One parameter to draw: its name, and the leaf that holds its numbers."""

    name: str
    leaf: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The leaf's sizes."""
        return tuple(np.shape(self.leaf))

    def numbers(self) -> Array:
        """Give the values as real numbers of 32 or 64 bits; of complex ones their absolute values."""
        return real_numbers(self.leaf)


class Drawn(NamedTuple):
    """The parameters to draw, in natural order, and the names of those that hold no numbers."""

    items: list[Item]
    strange: list[str]

    def notes(self, parts: bool = False) -> list[str]:
        """Say what is left out, and what is not drawn as it is.

        Args:
            parts: whether complex numbers are drawn with both their parts.
        """
        absolute = [] if parts else [item.name for item in self.items if is_complex(item.leaf)]
        said = (
            ("left out, as they are no numbers", self.strange),
            ("absolute values of complex numbers", absolute),
        )
        return [f"{what}: {listing(names, _NAMED)}" for what, names in said if names]


def read_items(params: Any, select: Select | None) -> Drawn:
    """List the parameters that a select hits, each at the place where it lives.

    Raises:
        NoMatchError: where the select hits nothing.
        MismatchError: listing every leaf without values, or with larger ones than an axis can show; or all
            leaves where none holds numbers.
    """
    leaves, structure, places = apply_select(params, select)
    chosen = [Item(structure.names[at], leaves[structure.indices[at]]) for at in places]
    faults = [f"{item.name} {fault}" for item in chosen if (fault := _value_fault(item.leaf))]
    raise_faults(MismatchError, "plot: these have no values to show:", faults)
    strange = [item.name for item in chosen if not holds_numbers(item.leaf)]
    if len(strange) == len(chosen):
        held = f"hold no numbers: {listing(strange)}" if strange else "are none"
        raise MismatchError(f"plot: there is nothing to show; the parameters {held}.")
    left_out = set(strange)
    drawn = Drawn([item for item in chosen if item.name not in left_out], strange)
    faults = [f"{item.name}: {largest:.3g}" for item in drawn.items if (largest := _largest(item)) > LARGEST]
    raise_faults(MismatchError, f"plot: an axis ends at {LARGEST:g}, and these hold larger numbers:", faults)
    return drawn


def _largest(item: Item) -> float:
    """Give the largest absolute value where the dtype has any above the limit; else 0."""
    if str(getattr(item.leaf, "dtype", "float64")).endswith(("float64", "complex128")):
        return float(np.abs(finite(item.numbers())).max(initial=0.0))
    return 0.0


def _value_fault(leaf: Any) -> str:
    """Say why a leaf that stands for an array has no values here; an empty text where it has."""
    if isinstance(leaf, untyped_jax.core.Tracer):
        return "is traced; plot outside of jit"
    if isinstance(leaf, jax.Array):
        if leaf.is_deleted():
            return "was donated or deleted; plot what the step returned"
        return "" if leaf.is_fully_addressable else "is spread over several processes; gather it first"
    if is_array_like(leaf) and not isinstance(leaf, np.ndarray | np.generic) and not is_tensor(leaf):
        return f"is a {type(leaf).__name__}; initialise it, or load it"
    return ""


def holds_numbers(leaf: Any) -> bool:
    """Tell whether a leaf is a number, or an array of numbers.

    >>> holds_numbers(0.5), holds_numbers(np.ones(2, bool)), holds_numbers("decay")
    (True, True, False)
    """
    if is_array_like(leaf):
        return is_tensor(leaf) or not dtype_fault(leaf.dtype)
    return isinstance(leaf, bool | int | float | complex)


def is_complex(leaf: Any) -> bool:
    """Tell whether a leaf holds complex numbers.

    >>> is_complex(np.ones(2)), is_complex(1j)
    (False, True)
    """
    return "complex" in str(getattr(leaf, "dtype", type(leaf).__name__))


def real_numbers(leaf: Any) -> Array:
    """Give the values of a leaf as `Item.numbers` does.

    >>> real_numbers(np.array([3 + 4j])), real_numbers(True)
    (array([5.]), array(1., dtype=float32))
    """
    values = array_of(leaf) if is_tensor(leaf) else host_array(leaf)
    if values.dtype.kind == "c":
        return np.abs(values)
    if values.dtype in (np.float32, np.float64):
        return values
    exact = values.dtype.itemsize <= 2  # whole numbers of 16 bits, and all short floats, fit 32 bits
    return values.astype(np.float32 if exact else np.float64)


def count_nonfinite(values: Array) -> str:
    """Say how many values are NaN, and how many infinite; an empty text where none is.

    >>> count_nonfinite(np.array([1.0, np.nan, -np.inf]))
    '1 NaN, 1 Inf'
    """
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    return ", ".join(f"{count:,} {word}" for count, word in ((nan, "NaN"), (infinite, "Inf")) if count)


def finite(values: Array) -> Array:
    """Give all finite values, flat.

    >>> finite(np.array([[1.0, np.nan], [np.inf, 2.0]]))
    array([1., 2.])
    """
    flat = values.reshape(-1)
    kept = np.isfinite(flat)
    return flat if kept.all() else flat[kept]


def cut_middle(items: Sequence[Any], most: int) -> tuple[list[Any], str]:
    """Cut the middle out of a long list, and say so in a note.

    >>> cut_middle("abcdef", 4)
    (['a', 'b', 'e', 'f'], '2 of 6 are not shown, from the middle: select fewer')
    """
    if len(items) <= most:
        return list(items), ""
    half = most // 2
    gone = len(items) - 2 * half
    note = f"{gone:,} of {len(items):,} are not shown, from the middle: select fewer"
    return [*items[:half], *items[-half:]], note


def rms(values: Array) -> float:
    """Give the root of the mean square of finite values; 0 of none.

    >>> rms(np.array([3.0, -3.0]))
    3.0
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not largest:
        return 0.0
    scaled = values / largest  # squares of very large and very small numbers would leave their range
    return largest * float(np.sqrt(np.mean(np.square(scaled), dtype=np.float64)))
