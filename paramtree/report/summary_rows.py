"""The rows of a summary: what each parameter is, without looking at its values."""

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from paramtree.display import function_name, shape_text
from paramtree.draw import ParamSpec
from paramtree.errors import listing
from paramtree.names import SEPARATOR, Structure, blocks_above, natural_key
from paramtree.nodes import Alias, follow
from paramtree.report.cells import spec_text
from paramtree.report.values import dtype_name, is_number, is_traced
from paramtree.select import depends_on_leaves, freeze_select, matches
from paramtree.tree import is_array_like


class Row(NamedTuple):
    """One parameter, one tied place, or one block.

    Attributes:
        name: its name.
        kind: "parameter", "tie" or "block".
        shape: its shape, sizes not known yet as symbols; None for what has none.
        dtype: its dtype, or type; of a block all that are in it.
        count: the number of elements; a symbolic expression where a size is not known yet.
        nbytes: the bytes they take, alike.
        init: the initialiser of a spec.
        tied: where the parameter lives that this place shares.
        fixed: "fixed", "frozen" or the like, of what gets no gradient; of a block how many are.
        sharding: how it is spread over devices; empty for what lies on one.
        device_bytes: the bytes on each of its devices.
        norm: the L2 norm of the gradient; None where there is none.
        output: the shape of what a block gives.
        parameters: the number of parameters.
    """

    name: str
    kind: str
    shape: tuple[Any, ...] | None = None
    dtype: str = ""
    count: Any = 0
    nbytes: Any = 0
    init: str = ""
    tied: str = ""
    fixed: str = ""
    sharding: str = ""
    device_bytes: Any = 0
    norm: float | None = None
    output: str = ""
    parameters: int = 0


def parameter_row(name: str, leaf: Any, fixed: str = "", norm: float | None = None) -> Row:
    """Describe one leaf."""
    if is_number(leaf):
        leaf = np.asarray(leaf)
    if not is_array_like(leaf):
        return Row(name, "parameter", dtype=reprlib.repr(leaf), fixed=fixed, norm=norm, parameters=1)
    shape = tuple(leaf.shape)
    count = math.prod(shape)
    item = getattr(leaf.dtype, "itemsize", 0)
    sharding, share = _spread(leaf, shape)
    return Row(
        name=name,
        kind="parameter",
        shape=shape,
        dtype=dtype_name(leaf.dtype),
        count=count,
        nbytes=count * item,
        init=_init_text(leaf.init) if isinstance(leaf, ParamSpec) else "",
        fixed=fixed,
        sharding=sharding,
        device_bytes=count * item if share is None else math.prod(share) * item,
        norm=norm,
        parameters=1,
    )


def _init_text(init: Any) -> str:
    return "default" if init is None else function_name(init)


def _spread(leaf: Any, shape: tuple[Any, ...]) -> tuple[str, tuple[int, ...] | None]:
    """Say how a leaf is spread over devices, and the shape of what one of them holds."""
    if (
        isinstance(leaf, ParamSpec)
        or is_traced(leaf)
        or not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    ):
        return "", None
    return ("", None) if leaf.sharding is None else _read_sharding(leaf.sharding, shape)


@lru_cache(maxsize=1024)
def _read_sharding(sharding: Any, shape: tuple[Any, ...]) -> tuple[str, tuple[int, ...] | None]:
    mesh = getattr(sharding, "mesh", None)
    if (len(sharding.device_set) if mesh is None else mesh.size) == 1:
        return "", None
    text = type(sharding).__name__ if mesh is None else spec_text(sharding.spec)
    try:
        share = sharding.shard_shape(shape)
    except ValueError:  # a spec may ask for what no array can have
        return f"{text}: does not divide", None
    return ("replicated" if share == shape else text), share


def tied_rows(structure: Structure, leaves: Sequence[Any], select: Any = None) -> list[Row]:
    """Describe the tied places, or those that a select hits by their own names; a tie may lead nowhere."""
    frozen = None if select is None else freeze_select(select)
    rows: list[Row] = []
    for place, node in structure.leafless.items():
        if not isinstance(node, Alias):
            continue
        if frozen is not None and (depends_on_leaves(frozen) or not matches(frozen, place)):
            continue
        source, transposed = follow(structure, place)
        at = structure.position.get(source)
        leaf: Any = None if at is None else leaves[structure.indices[at]]
        shape = tuple(leaf.shape) if is_array_like(leaf) else None
        if shape is not None and transposed:
            shape = (*shape[:-2], *shape[:-3:-1])
        rows.append(Row(place, "tie", shape, tied=f"{source}, transposed" if transposed else source))
    return rows


def in_order(rows: Iterable[Row], calls: Iterable[str] = ()) -> list[Row]:
    """Put rows in the order in which a net calls their blocks, a block before what is in it.

    What is not called, as the parameters that a block holds itself, comes first, in natural order.

    >>> rows = [Row(name, "parameter") for name in ("b/w", "a/w", "scale")]
    >>> [row.name for row in in_order(rows, ["b", "a"])]
    ['scale', 'b/w', 'a/w']
    """
    ranks = {place: rank for rank, place in enumerate(calls)}

    def key(row: Row) -> list[tuple[int, tuple[Any, ...]]]:
        places = (*blocks_above(row.name), row.name)
        return [(ranks.get(place, -1), natural_key(place.rpartition(SEPARATOR)[2])) for place in places]

    return sorted(rows, key=key)


def by_block(rows: Iterable[Row], depth: int) -> list[Row]:
    """Gather rows into one for each block that lies `depth` keys down."""
    gathered: dict[str, list[Row]] = {}
    for row in rows:
        gathered.setdefault(SEPARATOR.join(row.name.split(SEPARATOR)[:depth]), []).append(row)
    return [
        members[0] if len(members) == 1 and members[0].name == name else _block(name, members)
        for name, members in gathered.items()
    ]


def _block(name: str, rows: Sequence[Row]) -> Row:
    held = [row for row in rows if row.kind == "parameter"]
    fixed = sum(bool(row.fixed) for row in held)
    norms = [row.norm for row in held if row.norm is not None]
    return Row(
        name=name,
        kind="block",
        dtype=listing(sorted({row.dtype for row in held if row.shape is not None}), 3),
        count=total(row.count for row in held),
        nbytes=total(row.nbytes for row in held),
        tied=listing(sorted({row.tied for row in rows if row.tied}), 2),
        fixed="all" if fixed and fixed == len(held) else f"{fixed} of {len(held)}" if fixed else "",
        sharding=listing(sorted({row.sharding for row in held if row.sharding}), 2),
        device_bytes=total(row.device_bytes for row in held),
        norm=math.hypot(*norms) if norms else None,
        output=next((row.output for row in rows if row.name == name), ""),
        parameters=len(held),
    )


def with_outputs(rows: Sequence[Row], outputs: Mapping[str, Any]) -> list[Row]:
    """Add what blocks give: to the row of a tied place, or as a row of its own."""
    texts = {place: output_text(given) for place, given in outputs.items()}
    found = [row._replace(output=texts.pop(row.name, "")) for row in rows]
    return [*found, *(Row(place, "block", output=text) for place, text in texts.items())]


def output_text(outputs: Any) -> str:
    """Write the shapes of what a block gives.

    >>> output_text((jax.ShapeDtypeStruct((2, 3), "float32"), jax.ShapeDtypeStruct((), "float32")))
    '(2, 3), ()'
    """
    return listing([shape_text(each.shape) for each in jax.tree.leaves(outputs) if is_array_like(each)], 4)


def total(numbers: Iterable[Any]) -> Any:
    """Add counts up, symbols among them; "?" where the symbols do not belong together."""
    whole, symbols = 0, []
    for number in numbers:
        if isinstance(number, int):
            whole += number
        else:
            symbols.append(number)
    try:
        return sum(symbols, whole) if symbols else whole
    except ValueError:
        return "?"
