"""A summary: what each parameter is, what all of them take, and with inputs what each block gives."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax

from paramtree import display
from paramtree.bind import Bound
from paramtree.errors import MismatchError, ParamTreeError, first_of, raise_faults
from paramtree.module import outputs_of
from paramtree.names import blocks_above, is_under, join
from paramtree.nodes import resolve
from paramtree.report.cells import (
    bytes_text,
    count_text,
    elements_text,
    json_number,
    number_text,
)
from paramtree.report.columns import Column, columns_html, columns_text, text_column
from paramtree.report.flops import count_flops
from paramtree.report.moments import measure
from paramtree.report.summary_rows import (
    Row,
    by_block,
    in_order,
    output_text,
    parameter_row,
    tied_rows,
    total,
    with_outputs,
)
from paramtree.report.values import check_gradients, check_not_traced, is_number, read_items
from paramtree.select import Select, apply_select
from paramtree.tree import fixed_names, flat_leaves, is_array_like


class Totals(NamedTuple):
    """What all parameters are together; a tied one is counted once.

    Attributes:
        parameters: their number.
        count: the number of elements; a symbolic expression where a size is not known yet.
        trainable: of these, the elements that get a gradient.
        fixed: and those that get none.
        nbytes: the bytes they take.
        device_bytes: the bytes on each device, where all lie on the same.
        tied: the number of tied places.
    """

    parameters: int
    count: Any
    trainable: Any
    fixed: Any
    nbytes: Any
    device_bytes: Any
    tied: int


@dataclass(frozen=True, repr=False)
class Summary:
    """What the parameters of a tree are: a table where it is printed.

    Attributes:
        rows: one for each parameter, tied place, and block whose output is known; or for each block.
        totals: what all are together.
        output: the shape of what the net gives; empty where that is not known.
        flops: the floating-point operations of one call; None where they are not known.
    """

    rows: tuple[Row, ...]
    totals: Totals
    output: str = ""
    flops: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def headline(self) -> str:
        """Say in one line what all are together."""
        all_of, fixed = self.totals, self.totals.fixed
        said = [f"{all_of.parameters:,} parameter{'' if all_of.parameters == 1 else 's'}"]
        if all_of.parameters:
            said += [elements_text(all_of.count), bytes_text(all_of.nbytes)]
        if any(row.sharding for row in self.rows):
            said.append(f"{bytes_text(all_of.device_bytes)} per device")
        if not isinstance(fixed, int) or fixed:
            said.append(f"{count_text(all_of.trainable)} trainable and {count_text(fixed)} fixed")
        if all_of.tied:
            said.append(f"{all_of.tied:,} tied place{'' if all_of.tied == 1 else 's'}")
        said += [f"output {self.output}"] if self.output else []
        said += [f"{self.flops:,} FLOPs"] if self.flops is not None else []
        return ", ".join(said)

    def to_text(self, width: int | None = None) -> str:
        """Write the table, as wide as the terminal if no width is given; what has no room is left out."""
        if not self.rows:
            return self.headline()
        return f"{self.headline()}\n{columns_text(_columns(self.rows), width)}"

    def __repr__(self) -> str:
        return self.to_text()

    def to_html(self) -> str:
        """Write the table in HTML, as a notebook shows it: a click on a head sorts it."""
        return columns_html(self.headline(), _columns(self.rows))

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it; a count that is not known yet is a text."""
        totals = {key: _known(value) for key, value in self.totals._asdict().items()}
        rows = [_row_dict(row) for row in self.rows]
        return {"totals": totals, "output": self.output, "flops": self.flops, "rows": rows}


def _known(count: Any) -> int | str:
    return count if isinstance(count, int) else str(count)


def _row_dict(row: Row) -> dict[str, Any]:
    counts = {key: _known(getattr(row, key)) for key in ("count", "nbytes", "device_bytes")}
    shape = None if row.shape is None else [_known(size) for size in row.shape]
    return {**row._asdict(), **counts, "shape": shape, "norm": json_number(row.norm)}


def _columns(rows: Sequence[Row]) -> list[Column]:
    def counts(head: str, values: Sequence[Any], write: Any, spare: int = 0) -> Column:
        shown = [row.parameters and (row.kind == "block" or row.shape is not None) for row in rows]
        cells = [write(value) if show else "" for value, show in zip(values, shown, strict=True)]
        return Column(head, cells, [value if isinstance(value, int) else "" for value in values], spare)

    spread = any(row.sharding for row in rows)
    norms = [row.norm for row in rows]
    return [
        text_column("name", [row.name for row in rows]),
        text_column("shape", ["" if row.shape is None else display.shape_text(row.shape) for row in rows]),
        text_column("dtype", [row.dtype for row in rows]),
        text_column("output", [row.output for row in rows], 1),
        text_column("initialiser", [row.init for row in rows], 4),
        text_column("tied to", [row.tied for row in rows]),
        text_column("fixed", [row.fixed for row in rows]),
        text_column("sharding", [row.sharding for row in rows], 2),
        counts("count", [row.count for row in rows], count_text),
        counts("bytes", [row.nbytes for row in rows], bytes_text, 3),
        counts("per device", [row.device_bytes for row in rows], bytes_text if spread else lambda _: "", 5),
        Column("gradient", list(map(number_text, norms)), ["" if norm is None else norm for norm in norms]),
    ]


def summary(
    params: Any,
    /,
    *inputs: Any,
    grads: Any = None,
    depth: int | None = None,
    select: Select | None = None,
) -> Summary:
    """Say what each parameter is: shape, dtype, size, initialiser, ties, fixed marks, sharding.

    Values are not looked at: it works on specs, and inside of `jit`. Columns that are empty are left out.
    Names stand in natural order; blocks of a net in the order in which it calls them, where that is known:
    with inputs, and of containers such as `nn.Sequential`.

    Args:
        params: any tree of parameters or specs; or a net and its parameters, as `bind` gives them.
        *inputs: inputs of the net, or their shapes, such as "batch, 20": to see what each block gives, in
            which order, and how many floating-point operations one call takes, as XLA counts them.
        grads: gradients by the same names, or some of them: to see their L2 norms.
        depth: show a row for each block this many keys down, with all that is in it.
        select: which parameters; all, if left out.

    >>> from paramtree import nn
    >>> from paramtree.bind import bind
    >>> net = nn.Sequential(nn.Dense(256, activation="relu"), nn.Dense(10))
    >>> print(summary(bind(net, net.specs("2, 20")), "2, 20", depth=1).to_text(80))
    4 parameters, 7,946 elements, 31.0 KiB, output (2, 10), 31,764 FLOPs
    name    dtype    output    count     bytes
    dense0  float32  (2, 256)  5,376  21.0 KiB
    dense1  float32  (2, 10)   2,570  10.0 KiB

    Raises:
        NoMatchError: where the select hits nothing.
        ParamTreeError: for inputs without a net, and a depth that is not a number from 1 up.
        MismatchError: listing all gradients that do not fit, or are traced; or all parameters that the net
            would have in another shape with these inputs.
    """
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 1):
        raise ParamTreeError(f"summary: depth is a number of keys from 1 up, and not {depth!r}.")
    part = _open(params, inputs, select)
    rows = _parameter_rows(part, part.grads if grads is None else grads, select)
    totals, calls = _totals(rows), _places_of_layers(part.net, part.path)
    outputs: dict[str, Any] = {}
    flops: int | None = None
    if inputs:
        shapes, given = outputs_of(part.net, *inputs)
        _check_fits(part, shapes)
        outputs = {join(part.path, place): each for place, each in given.items()}
        flops = _flops(part.net, shapes)
        rows, calls = with_outputs(rows, _shown(outputs, part.path, rows, select)), list(outputs)
    if calls or totals.tied:
        rows = in_order(rows, calls)
    if depth is not None:
        rows = by_block(rows, depth)
    return Summary(tuple(rows), totals, output_text(outputs.get(part.path, ())), flops)


class _Part(NamedTuple):
    """What is summed up: a tree, or a part of one that a net is bound to.

    Attributes:
        params: the whole tree.
        names: of the parameters in the part; None for all.
        path: where the part is.
        net: the module of the part, if it is known.
        grads: the gradients the net was bound with.
    """

    params: Any
    names: Collection[str] | None = None
    path: str = ""
    net: Any = None
    grads: Any = None


def _open(params: Any, inputs: Sequence[Any], select: Select | None) -> _Part:
    if not isinstance(params, Bound):
        if inputs:
            raise ParamTreeError(
                f"summary: inputs are for a net, and got a {type(params).__name__} without one. "
                "Pass summary(pt.bind(net, params), *inputs)."
            )
        return _Part(params)
    bound: Any = params
    views = bound._views
    if inputs and bound._net is None:
        raise ParamTreeError(
            f"summary: {bound._path} is a block of parameters, and no module is known for it. "
            "Pass the net that holds it, or no inputs."
        )
    names = frozenset(params.collect_params(select))
    return _Part(views.params, names, bound._path, bound._net, views.grads)


def _parameter_rows(part: _Part, grads: Any, select: Select | None) -> list[Row]:
    leaves, structure, places = apply_select(part.params, select if part.names is None else None)
    held = [(structure.names[at], leaves[structure.indices[at]]) for at in places]
    if part.names is not None:
        held = [(name, leaf) for name, leaf in held if name in part.names]
    held = [(name, leaf) for name, leaf in held if is_array_like(leaf) or not callable(leaf)]
    norms = {} if grads is None else _norms(dict(held), grads, part.names is None and select is None)
    marks = {name: kind.__name__.lower() for name, kind in fixed_names(structure).items()}
    rows = [parameter_row(name, leaf, marks.get(name, ""), norms.get(name)) for name, leaf in held]
    ties = [row for row in tied_rows(structure, leaves, select) if is_under(row.name, part.path)]
    return [*rows, *ties]


def _places_of_layers(net: Any, path: str) -> list[str]:
    """List the layers of containers, in the order of the calls."""
    places: list[str] = []
    for key, layer in () if net is None else net.layers:
        place = join(path, key)
        places += [place, *_places_of_layers(layer, place)]
    return places


def _norms(held: Mapping[str, Any], grads: Any, whole: bool) -> dict[str, float]:
    items = read_items(grads)
    check_not_traced("summary: gradients", items)
    shapes = {name: getattr(leaf, "shape", () if is_number(leaf) else None) for name, leaf in held.items()}
    check_gradients("summary", shapes, items, whole)
    there = [item for item in items if item.array is not None and item.name in held]
    return {
        item.name: each.norm
        for item, each in zip(there, measure([item.array for item in there]), strict=True)
    }


def _totals(rows: Sequence[Row]) -> Totals:
    held = [row for row in rows if row.kind == "parameter"]
    return Totals(
        parameters=len(held),
        count=total(row.count for row in held),
        trainable=total(row.count for row in held if not row.fixed),
        fixed=total(row.count for row in held if row.fixed),
        nbytes=total(row.nbytes for row in held),
        device_bytes=total(row.device_bytes for row in held),
        tied=sum(row.kind == "tie" for row in rows),
    )


def _shown(
    outputs: Mapping[str, Any], path: str, rows: Sequence[Row], select: Select | None
) -> dict[str, Any]:
    """Give the outputs of the blocks below a path; of those that hold what is selected."""
    shown = {place: given for place, given in outputs.items() if place != path}
    if select is None:
        return shown
    above = {block for row in rows for block in blocks_above(row.name)}
    return {place: given for place, given in shown.items() if place in above}


def _check_fits(part: _Part, shapes: Sequence[Any]) -> None:
    """Raise where the parameters are not those that the net has with these inputs."""
    held = flat_leaves(resolve(part.params))
    faults: list[str] = []
    for name, spec in flat_leaves(part.net.specs(*shapes)).items():
        place = join(part.path, name)
        needs, found = spec.shape, getattr(held.get(place), "shape", spec.shape)
        known = all(isinstance(size, int) for size in (*needs, *found))
        if len(needs) != len(found) or (known and needs != found):
            shapes_text = f"{display.shape_text(found)}, and the net needs {display.shape_text(needs)}"
            faults.append(f"{place} is of shape {shapes_text}")
    raise_faults(MismatchError, "summary: net, params and inputs do not fit:", first_of(faults))


def _flops(net: Any, shapes: Sequence[Any]) -> int | None:
    arrays = [each for each in jax.tree.leaves(shapes) if is_array_like(each)]
    if not all(isinstance(size, int) for each in arrays for size in each.shape):
        return None
    specs = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype), net.specs(*shapes))
    return count_flops(partial(net.apply, key=jax.random.key(0)), specs, *shapes)
