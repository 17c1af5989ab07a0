"""Which parameters are not finite: looked up after the fact, or checked inside of `jit`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from paramtree import display
from paramtree.errors import MismatchError, raise_faults
from paramtree.names import flatten_named
from paramtree.report.cells import count_text
from paramtree.report.page import sortable_table
from paramtree.report.search import is_inexact, search
from paramtree.report.values import Item, check_not_traced, is_traced, read_items
from paramtree.select import Select

_HEAD = ("name", "what", "NaN", "Inf", "of", "first at")
_WIDE = 2  # columns of texts
_TWO_WAYS = (
    " Inside of jit, return nonfinite_mask(tree) with the results; or call check_finite(tree), and the whole "
    "function through jax.experimental.checkify.checkify."
)


class Fault(NamedTuple):
    """One parameter that is not finite.

    Attributes:
        name: its name.
        shape: its shape.
        dtype: the name of its dtype.
        size: the number of its elements.
        nan: how many of them are NaN.
        infinite: how many are infinite.
        first: the index of the first of either, in C order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    nan: int
    infinite: int
    first: tuple[int, ...]

    def text(self) -> str:
        """Say in words what is wrong."""
        counts = ((self.nan, "NaN"), (self.infinite, "Inf"))
        held = " and ".join(f"{count:,} {kind}" for count, kind in counts if count)
        where = f", first at {self.first}" if self.shape else ""
        return f"{self.name} {self._what()} holds {held}{where}"

    def cells(self) -> tuple[str, ...]:
        """Give the row of a table."""
        counts = [count_text(count) if count else "" for count in (self.nan, self.infinite)]
        return self.name, self._what(), *counts, count_text(self.size), str(self.first)

    def _what(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it."""
        return {**self._asdict(), "shape": list(self.shape), "first": list(self.first)}


@dataclass(frozen=True, repr=False)
class Nonfinite:
    """Which parameters are not finite: false where all are, and a table where it is printed.

    Attributes:
        rows: one for each parameter that is not, in natural order.
        searched: the number of parameters that were looked at.
    """

    rows: tuple[Fault, ...]
    searched: int

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.rows)

    def headline(self) -> str:
        """Count the parameters in one line."""
        number = f"{self.searched:,} parameter{'' if self.searched == 1 else 's'}"
        if not self.rows:
            return f"no NaN or Inf in {number}"
        return f"{len(self.rows):,} of {number} {'is' if len(self.rows) == 1 else 'are'} not finite"

    def to_text(self, width: int | None = None) -> str:
        """Write the table, as wide as the terminal if no width is given."""
        if not self.rows:
            return self.headline()
        cells = [row.cells() for row in self.rows]
        table = display.table_text(_HEAD, cells, width or display.terminal_width(), _WIDE)
        return f"{self.headline()}\n{table}"

    def __repr__(self) -> str:
        return self.to_text()

    def to_html(self) -> str:
        """Write the table in HTML, as a notebook shows it: a click on a head sorts it."""
        keys = [
            (row.name, row.dtype, row.nan, row.infinite, row.size, ",".join(map(str, row.first)))
            for row in self.rows
        ]
        head = _HEAD if self.rows else ()
        return sortable_table(self.headline(), head, [row.cells() for row in self.rows], keys)

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it."""
        return {"searched": self.searched, "nonfinite": [row.to_dict() for row in self.rows]}


def find_nonfinite(tree: Any, /, select: Select | None = None) -> Nonfinite:
    """Find which parameters hold NaN or infinite numbers, how many, and the first index.

    One compiled pass over all arrays, one transfer to the host. What cannot hold such numbers, as integers,
    labels and random keys, is not looked at.

    Args:
        tree: any tree: params, gradients, the state of an optimiser.
        select: which ones; all, if left out.

    >>> find_nonfinite({"dense0": {"weight": np.float32([[1, 2], [np.inf, np.nan]]), "bias": np.zeros(2)}})
    1 of 2 parameters is not finite
    name           what          NaN  Inf  of  first at
    dense0/weight  float32[2,2]    1    1   4    (1, 0)

    Raises:
        NoMatchError: where the select hits nothing.
        MismatchError: listing every leaf that is traced, and every one without values, as specs are.
    """
    items = read_items(tree, select)
    check_not_traced("find_nonfinite: values", items, _TWO_WAYS)
    _check_values("find_nonfinite", items)
    return _find(items)


def _check_values(verb: str, items: list[Item]) -> None:
    empty = [f"{item.name} {item.dtype}" for item in items if item.said == "no values"]
    raise_faults(MismatchError, f"{verb}: these are specs, and have no values:", empty)


def _find(items: list[Item]) -> Nonfinite:
    held = [item for item in items if item.array is not None and is_inexact(item.array)]
    rows: list[Fault] = []
    for item, found in zip(held, search([item.array for item in held]), strict=True):
        if found.first >= 0:
            shape = tuple(item.array.shape)
            first = tuple(int(at) for at in np.unravel_index(found.first, shape))
            rows.append(
                Fault(item.name, shape, item.dtype, item.array.size, found.nan, found.infinite, first)
            )
    return Nonfinite(tuple(rows), len(held))


def check_finite(tree: Any, /) -> Any:
    """Return the tree, or raise with the list of all parameters that hold NaN or infinite numbers.

    Inside of `jit` the check is one of `checkify`, and names the first parameter that fails it; `tree` is to
    be used as it is returned.

    >>> import jax
    >>> @jax.jit
    ... def step(params):
    ...     return check_finite(jax.tree.map(jnp.log, params))
    >>> error, _ = checkify.checkify(step)({"scale": jnp.zeros(2)})
    >>> error.get()
    'scale float32[2] is not finite: 0 NaN and 2 Inf (`check` failed)'

    Raises:
        MismatchError: listing every parameter that is not finite, or every leaf that is a spec.
    """
    items = read_items(tree)
    _check_values("check_finite", items)
    traced, known = _split_traced(items)
    found = _find(known)
    raise_faults(MismatchError, f"check_finite: {found.headline()}:", [row.text() for row in found])
    for item in traced:
        _check_traced(item)
    return tree


def _split_traced(items: list[Item]) -> tuple[list[Item], list[Item]]:
    """Give those that are traced and can hold NaN, and those that are not traced."""
    traced = [item for item in items if is_traced(item.array)]
    known = [item for item in items if not is_traced(item.array)]
    return [item for item in traced if is_inexact(item.array)], known


def _check_traced(item: Item) -> None:
    what = f"{item.name} {item.dtype}[{','.join(map(str, item.array.shape))}]"
    text = what.replace("{", "{{").replace("}", "}}")
    nan = jnp.isnan(item.array)
    infinite = jnp.isinf(item.array) & ~nan  # a complex number may be both
    checkify.check(
        ~(nan | infinite).any(),
        f"{text} is not finite: {{nan}} NaN and {{infinite}} Inf",
        nan=nan.sum(),
        infinite=infinite.sum(),
    )


def nonfinite_mask(tree: Any, /) -> Any:
    """Return a tree of the same structure: for each leaf whether it holds NaN or infinite numbers.

    It may be called inside of `jit`: return it with the results, and look at it outside.

    >>> nonfinite_mask({"w": np.float32([1.0, np.nan]), "label": "decay"})
    {'label': False, 'w': True}

    Raises:
        MismatchError: listing every leaf that is a spec.
    """
    leaves, structure = flatten_named(tree)
    items = read_items(tree)
    _check_values("nonfinite_mask", items)
    traced, known = _split_traced(items)
    bad: dict[str, Any] = {row.name: True for row in _find(known)}
    bad |= {item.name: ~jnp.isfinite(item.array).all() for item in traced}
    mask: list[Any] = [False] * len(leaves)
    for name, found in bad.items():
        mask[structure.indices[structure.position[name]]] = found
    return structure.treedef.unflatten(mask)
