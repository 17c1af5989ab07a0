"""How parameters look, as text and as HTML: one place, so that everything that prints them agrees."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import fields
from html import escape
from typing import Any

from paramtree.letters import cut_middle, pad, printable, text_width

_SHOWN = 400  # lines; a longer listing is elided in its middle
_WIDTH = 110  # columns, where there is no terminal
_LEAST = 12  # columns that a cut cell keeps
_GAP = "  "

# colours are the notebook's own, light or dark; the selectors are as specific as Jupyter's
_STYLE = (
    "<style>"
    "table.paramtree{border-collapse:collapse;margin:.4em 0;font:90% monospace;color:inherit}"
    "table.paramtree caption{text-align:left;font-weight:bold;padding:.2em .5em;color:inherit}"
    "table.paramtree th,table.paramtree td"
    "{text-align:left!important;vertical-align:top;padding:.2em 1.6em .2em .5em}"
    "table.paramtree th,table.paramtree td{border:0;border-bottom:1px solid #8884}"
    "table.paramtree th{font-weight:normal;opacity:.65}"
    "table.paramtree td:nth-child(2),table.paramtree td:nth-child(3){white-space:nowrap}"
    "pre.paramtree{margin:.4em 0;padding:.2em .5em;font:90%/1.4 monospace;overflow-x:auto}"
    "pre.paramtree{color:inherit;background:none}"
    "</style>"
)


def shape_dtype(leaf: Any) -> str:
    """Describe a leaf as the chapter does: its shape and dtype, or itself where it has none.

    >>> import numpy as np
    >>> shape_dtype(np.zeros((2, 3), np.float32)), shape_dtype("decay")
    ('shape=(2, 3), dtype=float32', "'decay'")
    """
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return f"shape={shape_text(leaf.shape)}, dtype={leaf.dtype}"
    return repr(leaf)


def shape_text(shape: Sequence[Any]) -> str:
    """Write a shape as Python does; symbolic sizes show their names, without quotes.

    >>> shape_text((256, 20)), shape_text((10,))
    ('(256, 20)', '(10,)')
    """
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def call_text(value: Any, /) -> str:
    """Write a dataclass as the call that makes it, without what is as it is by default.

    >>> from paramtree.nodes import Alias
    >>> call_text(Alias("embed")), call_text(Alias("embed", transpose=True))
    ("Alias(target='embed')", "Alias(target='embed', transpose=True)")
    """
    held = [(field.name, getattr(value, field.name), field.default) for field in fields(value)]
    said = ", ".join(f"{name}={setting!r}" for name, setting, default in held if setting != default)
    return f"{type(value).__name__}({said})"


def function_name(function: Any) -> str:
    """Name a function, and one that another function made by its maker where it is just called `init`.

    >>> import jax
    >>> function_name(jax.nn.initializers.glorot_normal()), function_name(jax.nn.initializers.zeros)
    ('variance_scaling', 'zeros')
    >>> from paramtree.init import Constant
    >>> function_name(Constant(2.0))
    'Constant(value=2.0)'
    """
    # JAX's own initialisers are all called so
    made_by, _, name = getattr(function, "__qualname__", "").rpartition(".<locals>.")
    return (made_by.rpartition(".")[2] if name == "init" else name) or repr(function)


def parameter_line(name: str, leaf: Any, kind: str = "Parameter") -> str:
    """Write one parameter on one line; its kind is "Parameter", "Constant" or "Frozen".

    >>> import numpy as np
    >>> parameter_line("dense0/bias", np.zeros(10, np.float32))
    'Parameter dense0/bias (shape=(10,), dtype=float32)'
    """
    return f"{kind} {name} ({shape_dtype(leaf)})"


def elide(lines: Sequence[str]) -> list[str]:
    """Cut the middle out of a very long listing, and say how much was cut."""
    if len(lines) <= _SHOWN:
        return list(lines)
    half = _SHOWN // 2
    return [*lines[:half], _more(len(lines) - 2 * half), *lines[-half:]]


def _more(count: int) -> str:
    return f"... {count:,} more ..."


def block_text(title: str, lines: Iterable[str]) -> str:
    """Write lines between a title and a closing parenthesis, as the chapter prints a block.

    >>> print(block_text("dense0", ["Parameter dense0/bias (shape=(10,), dtype=float32)"]))
    dense0 (
      Parameter dense0/bias (shape=(10,), dtype=float32)
    )
    """
    shown = [f"  {printable(line)}" for line in elide(list(lines))]
    return "\n".join([f"{printable(title)} (", *shown, ")"])


def terminal_width() -> int:
    """Give the width to print in."""
    return shutil.get_terminal_size((_WIDTH, 24)).columns


def table_text(head: Sequence[str], rows: Sequence[Sequence[str]], width: int, wide: int = 2) -> str:
    """Write rows in columns; the first `wide` columns are cut in the middle of their cells to fit the width.

    The other columns hold numbers: they stand at the right, and are never cut.

    >>> print(table_text(("name", "count"), [("a/weight", "12"), ("b", "3")], 40, wide=1))
    name      count
    a/weight     12
    b             3
    """
    lines, half = (head, *rows), _SHOWN // 2
    shown = lines if len(lines) <= _SHOWN else (*lines[:half], *lines[-half:])
    cells = [[printable(cell) for cell in line] for line in shown]
    columns: list[Sequence[str]] = list(zip(*cells, strict=True))
    widths = [max(map(text_width, column)) for column in columns]
    room = width - sum(widths[wide:]) - len(_GAP) * (len(widths) - 1)
    widths[:wide] = _shared(widths[:wide], room)
    columns[:wide] = map(cut_apart, columns[:wide], widths[:wide])
    text = [
        _GAP.join(
            pad(cell, size, left=column >= wide)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]
    if len(shown) < len(lines):
        text.insert(half, _more(len(lines) - len(shown)))
    return "\n".join(text)


def _shared(widths: Sequence[int], room: int) -> list[int]:
    """Share room among columns: the widest give way first."""
    given = list(widths)
    while sum(given) > room and max(given) > _LEAST:
        widest = max(given)
        next_widest = max([size for size in given if size < widest], default=_LEAST)
        several = given.count(widest)
        over = -(-(sum(given) - room) // several)
        given = [max(size - over, next_widest, _LEAST) if size == widest else size for size in given]
    return given


def cut_apart(texts: Sequence[str], size: int) -> Sequence[str]:
    """Cut texts to a size: in their middle, or as near to it as keeps most of them apart, or at both ends.

    >>> cut_apart(["decoder/layer1/query/weight", "decoder/layer2/query/weight"], 16)
    ['decoder/layer1…t', 'decoder/layer2…t']
    >>> cut_apart(["decoder/layer1/query/weight", "decoder/layer2/query/weight"], 12)
    ['…der/layer1…', '…der/layer2…']
    """
    if max(map(text_width, texts)) <= size:
        return texts

    def cut(left: int) -> list[str]:
        return [
            text if text_width(text) <= size else cut_middle(text, left, size - 1 - left) for text in texts
        ]

    def apart(found: Sequence[str]) -> int:
        return len(set(found))

    best = max(map(cut, sorted(range(size), key=lambda left: abs(left - size // 2))), key=apart)
    if apart(best) == apart(texts) or size < _LEAST:
        return best
    starts = range(min(len(text) for text in texts if text_width(text) > size) - size + 3)
    inside = [[_inside(text, start, size) for text in texts] for start in starts]
    return max(best, *(found for found in inside if max(map(text_width, found)) <= size), key=apart)


def _inside(text: str, start: int, size: int) -> str:
    """Cut a text at both of its ends, where it is longer."""
    return text if text_width(text) <= size else f"…{text[start : start + size - 2]}…"


def table_html(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], strong: int = 0) -> str:
    """Build an HTML table whose every cell is escaped; a very long one is elided in its middle.

    Args:
        caption: its title.
        head: the titles of the columns.
        rows: the cells.
        strong: how many rows, of the first ones, have their first cell in bold.
    """
    body = [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    body[:strong] = [
        row.replace("<td>", "<td><b>", 1).replace("</td>", "</b></td>", 1) for row in body[:strong]
    ]
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    if len(body) > _SHOWN:
        half = _SHOWN // 2
        cut = f'<tr><td colspan="{len(head)}">{_more(len(body) - 2 * half)}</td></tr>'
        body = [*body[:half], cut, *body[-half:]]
    return (
        f'{_STYLE}<table class="paramtree"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )


def text_html(text: str) -> str:
    """Show text as it is, in HTML."""
    return f'{_STYLE}<pre class="paramtree">{escape(text)}</pre>'
