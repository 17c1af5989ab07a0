"""A tree of parameters to look at: an indented text, and in a notebook a tree that folds and is searched."""

from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import jax

from paramtree import display
from paramtree.report.cells import bytes_text, count_text, elements_text
from paramtree.report.foldable import tree_html
from paramtree.report.moments import Moments
from paramtree.report.outline import (
    Block,
    Line,
    blocks_of,
    entries,
    faults_text,
    holds_text,
    key_text,
    parameters_text,
    read_outline,
    with_values,
)
from paramtree.report.page import identity_of, resource
from paramtree.report.stats import stats
from paramtree.report.values import is_traced
from paramtree.select import Select, apply_select


@dataclass(frozen=True, repr=False)
class View:
    """A tree to look at: a text where it is printed, a page in a notebook.

    Attributes:
        rows: one for each parameter and each tied place, in natural order.
    """

    rows: tuple[Line, ...]

    @cached_property
    def blocks(self) -> dict[str, Block]:
        """What lies in each block, by name; the whole tree is the block ""."""
        return blocks_of(self.rows)

    def headline(self) -> str:
        """Count the parameters in one line."""
        whole = self.blocks[""]
        said = [parameters_text(whole.parameters)]
        if whole.parameters:
            said += [elements_text(whole.size), bytes_text(whole.nbytes)]
        said += [
            f"{whole.tied:,} tied" if whole.tied else "",
            f"{whole.fixed:,} fixed" if whole.fixed else "",
        ]
        return ", ".join(filter(None, [*said, faults_text(whole.nan, whole.infinite)]))

    def to_text(self, width: int | None = None) -> str:
        """Write the tree as an indented text, as wide as the terminal if no width is given."""
        if not self.rows:
            return self.headline()
        cells: list[tuple[str, str, str]] = []
        for depth, name, entry in entries(self.rows, self.blocks):
            cells.append((f"{'  ' * depth}{key_text(name)}", *_text_cells(entry)))
        table = display.table_text(
            ("name", "shape, dtype", "count"), cells, width or display.terminal_width()
        )
        return f"{self.headline()}\n{table}"

    def __repr__(self) -> str:
        return self.to_text()

    def to_html(self) -> str:
        """Write the tree as a page that needs nothing else: folds, a search, links and small histograms."""
        identity = identity_of(repr(self.rows))
        script = f'<script>({resource("view.js")})("{identity}")</script>' if self.rows else ""
        return (
            f"<style>{resource('view.css')}</style>"
            f'<div class="paramtree-view" data-paramtree="{identity}">'
            f"<header>{escape(self.headline())}</header>{tree_html(self.rows, self.blocks, identity)}</div>"
            f"{script}"
        )

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it; a size that is a symbol is a text."""
        blocks = {name: _json_numbers(block._asdict()) for name, block in self.blocks.items()}
        return {"parameters": [_row_dict(row) for row in self.rows], "blocks": blocks}


def show(params: Any, /, select: Select | None = None, *, values: bool = True) -> View:
    """Show a tree: what it holds, block by block, as a text or, in a notebook, a page to fold and to search.

    Places that are tied are shown where they stand, with the name of where their parameter lives. With a
    select they are shown where that parameter is.

    Args:
        params: any tree of parameters; its leaves may be specs.
        select: which ones; all, if left out.
        values: whether to look into the arrays, for histograms, and NaN and infinite elements.

    >>> import jax.numpy as jnp
    >>> from paramtree.nodes import Alias
    >>> show({"embed": {"weight": jnp.ones((5, 3))}, "head": Alias("embed")})
    1 parameter, 15 elements, 60 B, 1 tied
    name      shape, dtype    count
    embed     1 parameter        15
      weight  (5, 3) float32     15
    head      -> embed

    Raises:
        NoMatchError: where the select hits nothing.
        BadNameError: for what is not a tree.
        TieError: where a tie leads nowhere.
    """
    lines = read_outline(params, select)
    return View(with_values(lines, _moments_of(params, select)) if values else lines)


def _moments_of(params: Any, select: Select | None) -> dict[str, Moments]:
    """Look into all that can be looked into: not what is traced, nor what a step has taken over."""
    leaves, structure, places = apply_select(params, select)
    chosen = {structure.names[at]: leaves[structure.indices[at]] for at in places}
    seen = {name: leaf for name, leaf in chosen.items() if not (is_traced(leaf) or _is_deleted(leaf))}
    return {row.name: row.values for row in stats(seen) if not row.said}


def _is_deleted(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and leaf.is_deleted()


def _text_cells(entry: Line | Block) -> tuple[str, str]:
    if isinstance(entry, Block):
        said = [holds_text(entry), faults_text(entry.nan, entry.infinite)]
        return ", ".join(filter(None, said)), count_text(entry.size) if entry.parameters else ""
    if entry.tied:
        return f"-> {entry.tied}{', transposed' if entry.transposed else ''}", ""
    what = entry.dtype if entry.shape is None else f"{display.shape_text(entry.shape)} {entry.dtype}"
    faults = faults_text(entry.values.nan, entry.values.infinite) if entry.values else ""
    said = ", ".join(filter(None, [what, entry.said, entry.mark, faults]))
    return said, "" if entry.shape is None else count_text(entry.size)


def _json_numbers(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, int) else str(value) for key, value in found.items()}


def _row_dict(row: Line) -> dict[str, Any]:
    shape = None if row.shape is None else [n if isinstance(n, int) else str(n) for n in row.shape]
    numbers = _json_numbers({"size": row.size, "nbytes": row.nbytes})
    values = row.values and {**row.values._asdict(), "bins": list(row.values.bins)}
    told = {key: getattr(row, key) for key in ("name", "dtype", "mark", "said", "tied", "transposed")}
    return {**told, "shape": shape, **numbers, "inside": list(row.inside), "values": values}
