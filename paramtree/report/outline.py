"""A tree of parameters as lines in natural order: what a page, or an indented text, is made of."""

import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from paramtree.letters import printable
from paramtree.names import SEPARATOR, Structure, blocks_above, natural_name_key
from paramtree.nodes import Alias, follow, tied_names
from paramtree.report.moments import Moments
from paramtree.report.values import is_number
from paramtree.select import Select, apply_select
from paramtree.tree import fixed_names, is_array_like

_SHORT = reprlib.Repr()
_SHORT.maxother = 100  # or an address, which is left out, is cut in its middle


@dataclass(frozen=True)
class Line:
    """One parameter, or one tied place.

    Attributes:
        name: its name.
        shape: of the array, sizes that are symbols included; None for a tied place and a leaf without one.
        dtype: the array's, or the type of what else it is.
        size: the number of elements; symbolic where the shape is.
        nbytes: the bytes they take.
        mark: "fixed", "frozen" or the like, of a leaf that gets no gradient.
        said: a leaf that is no array, as Python writes it in short.
        counts: whether it is a parameter; a function, which some libraries keep in trees, is not.
        tied: where the parameter, or block, lives that a tied place shares.
        transposed: whether it is seen transposed from here.
        inside: the names of all that a tied place stands for.
        values: what it holds; None where that is not known.
    """

    name: str
    shape: tuple[Any, ...] | None = None
    dtype: str = ""
    size: Any = 0
    nbytes: Any = 0
    mark: str = ""
    said: str = ""
    counts: bool = True
    tied: str = ""
    transposed: bool = False
    inside: tuple[str, ...] = ()
    values: Moments | None = None


class Block(NamedTuple):
    """What lies in a block, its blocks included; tied places are counted where their parameters live.

    Attributes:
        parameters: their number.
        size: the number of elements.
        nbytes: the bytes they take.
        nan: the number of elements that are NaN.
        infinite: the number of elements that are infinite.
        tied: the number of tied places.
        fixed: the number of parameters that get no gradient.
    """

    parameters: int = 0
    size: Any = 0
    nbytes: Any = 0
    nan: int = 0
    infinite: int = 0
    tied: int = 0
    fixed: int = 0


def read_outline(params: Any, select: Select | None) -> tuple[Line, ...]:
    """List the parameters that a select hits, and the places tied to them, in natural order.

    Raises:
        NoMatchError: where the select hits nothing.
        TieError: where a tie leads nowhere.
    """
    found = apply_select(params, select)
    structure, marks = found.structure, fixed_names(found.structure)
    lines: list[Line] = []
    for at in found.places:
        name = structure.names[at]
        mark = marks[name].__name__.lower() if name in marks else ""
        lines.append(_line(name, found.leaves[structure.indices[at]], mark))
    chosen = None if select is None else {line.name for line in lines}
    lines += _tied_lines(structure, chosen)
    return tuple(sorted(lines, key=lambda line: natural_name_key(line.name)))


def _line(name: str, leaf: Any, mark: str) -> Line:
    if is_array_like(leaf):
        shape, dtype = tuple(leaf.shape), leaf.dtype
        dtype = jnp.dtype(dtype) if isinstance(dtype, str | type) else dtype  # as a spec may be given it
        word = getattr(dtype, "name", str(dtype)).removeprefix("torch.")
        size = math.prod(shape)
        return Line(name, shape, word, size, size * getattr(dtype, "itemsize", 0), mark)
    if is_number(leaf):
        return Line(name, (), type(leaf).__name__, 1, np.asarray(leaf).nbytes, mark, repr(leaf))
    said = getattr(leaf, "__qualname__", "") or re.sub(r" at 0x[0-9a-f]+", "", _SHORT.repr(leaf))
    return Line(name, dtype=type(leaf).__name__, mark=mark, said=said, counts=not callable(leaf))


def _tied_lines(structure: Structure, chosen: set[str] | None) -> list[Line]:
    """List the tied places; of a block that is tied in part to what is chosen, each place by itself."""
    sources = tied_names(structure)
    inside = {name: [] for name, node in structure.leafless.items() if isinstance(node, Alias)}
    for name in sources:
        place = next((each for each in (*blocks_above(name), name) if each in inside), "")
        if place:
            inside[place].append(name)
    places: list[tuple[str, list[str]]] = []
    for place, names in inside.items():
        kept = [name for name in names if chosen is None or sources[name] in chosen]
        places += [(place, names)] if kept == names else [(name, [name]) for name in kept]
    return [
        Line(place, tied=source, transposed=transposed, inside=tuple(names))
        for place, names in places
        if chosen is None or names
        for source, transposed in [follow(structure, place)]
    ]


def with_values(lines: Iterable[Line], values: Mapping[str, Moments]) -> tuple[Line, ...]:
    """Give the lines with what their parameters hold."""
    return tuple(replace(line, values=values.get(line.name)) for line in lines)


def blocks_of(lines: Sequence[Line]) -> dict[str, Block]:
    """Count what lies in each block; the whole tree is the block "".

    >>> blocks_of([Line("a/w", (2,), "float32", 2, 8), Line("b", tied="a")])["a"].nbytes
    8
    """
    blocks: dict[str, Block] = {"": Block()}
    for line in lines:
        one = _counted(line)
        for block in ("", *blocks_above(line.name)):
            counts = zip(blocks.get(block, Block()), one, strict=True)
            blocks[block] = Block(*(held + more for held, more in counts))
    return blocks


def _counted(line: Line) -> Block:
    if line.tied:
        return Block(tied=1)
    if not line.counts:
        return Block()
    nan, infinite = (line.values.nan, line.values.infinite) if line.values else (0, 0)
    return Block(1, line.size, line.nbytes, nan, infinite, 0, int(bool(line.mark)))


def entries(rows: Sequence[Line], blocks: Mapping[str, Block]) -> Iterator[tuple[int, str, Line | Block]]:
    """Yield (depth, name, what it is), each block before what lies in it."""
    above: list[str] = []
    for row in rows:
        outer = blocks_above(row.name)
        for depth, block in enumerate(outer):
            if above[depth : depth + 1] != [block]:
                yield depth, block, blocks[block]
        yield len(outer), row.name, row
        above = outer


def parameters_text(count: int) -> str:
    """Count parameters in words.

    >>> parameters_text(1), parameters_text(2)
    ('1 parameter', '2 parameters')
    """
    return f"{count:,} parameter{'' if count == 1 else 's'}"


def holds_text(block: Block) -> str:
    """Say what a block holds; one of nothing but ties, or functions, has no parameters."""
    if block.tied and not block.parameters:
        return f"{block.tied:,} tied"
    return parameters_text(block.parameters)


def faults_text(nan: int, infinite: int) -> str:
    """Say how many elements are no finite numbers; nothing where all are.

    >>> faults_text(3, 0)
    '3 NaN'
    """
    return ", ".join(f"{count:,} {kind}" for count, kind in ((nan, "NaN"), (infinite, "Inf")) if count)


def key_text(name: str) -> str:
    """Give the last key of a name, as it is shown.

    >>> key_text("encoder/weight")
    'weight'
    """
    return printable(name.rpartition(SEPARATOR)[2])
