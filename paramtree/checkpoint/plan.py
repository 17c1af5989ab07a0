"""Plan a load before a value is read: every parameter on either side is accounted for, in one table."""

import os
import re
import reprlib
from collections import Counter
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paramtree import display
from paramtree.checkpoint.contents import Contents, contents_of, find_offers, skeleton
from paramtree.checkpoint.fill import Fill, fill_leaves
from paramtree.checkpoint.formats import open_stored
from paramtree.checkpoint.matching import Matching, wanted_spec
from paramtree.checkpoint.rawfile import FileChangedError
from paramtree.checkpoint.rows import UNRESOLVED, Row, count_text, ordered, propose, table_lines
from paramtree.checkpoint.stored import Stored
from paramtree.errors import MismatchError, ParamTreeError
from paramtree.names import flatten_named
from paramtree.nodes import follow, tied_names
from paramtree.renaming import Naming
from paramtree.select import (
    Rule,
    Rules,
    Select,
    apply_select,
    freeze_select,
    matches,
    parse_rules,
)
from paramtree.tree import partition


class LoadPlan:
    """What a load would do, parameter by parameter: it prints as a table, and `params` does it.

    Attributes:
        file: the file.
        rows: one `Row` (status, name, sources, spec, note) for every parameter of the tree, for every array
            of the file that has no place there, and for every rule that does nothing.
    """

    def __init__(self, file: Path, rows: Sequence[Row], fill: Fill) -> None:
        self.file = file
        self.rows = tuple(rows)
        self._fill = fill

    @property
    def unresolved(self) -> tuple[Row, ...]:
        """The rows that keep the plan from being done: `strict=` of `params` says which of them may."""
        return tuple(row for row in self.rows if not row.resolved)

    def params(self, *, strict: bool | Collection[str] = True) -> Any:
        """Read the values, and build the tree.

        Args:
            strict: True raises where any row is unresolved. False leaves such parameters as `like` has them,
                and such arrays in the file. A list of statuses, as `["shape", "dtype"]`, raises for these.
                A collision always raises.

        Raises:
            MismatchError: with the whole table, where a row is unresolved; listing every parameter that would
                have no value, and every one of which the file has two values.
            ParamTreeError: where the file was replaced since the plan was made, or its values are damaged.
        """
        wrong = self._strict_statuses(strict)
        if any(row.status in wrong for row in self.rows):
            raise MismatchError(f"load: {self}\n{_HELP}")
        return fill_leaves(self._fill)

    def to_dict(self) -> dict[str, Any]:
        """Give the plan as plain values: what JSON can hold."""
        return {
            "file": str(self.file),
            "rows": [
                {
                    "status": row.status,
                    "name": row.name,
                    "sources": list(row.sources),
                    "shape": None if row.spec is None else list(row.spec.shape),
                    "dtype": None if row.spec is None else str(row.spec.dtype),
                    "note": row.note,
                }
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        """Write the table, what is unresolved first."""
        return "\n".join([self._headline(), *(f"  {line}" for line in table_lines(self.rows))])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = ("status", "parameter", "shape and dtype", "note")
        rows = [row.cells() for row in ordered(self.rows)]
        return display.table_html(self._headline(), head, rows, strong=len(self.unresolved))

    def _headline(self) -> str:
        return f"{str(self.file)!r}: {count_text(self.rows) or 'no parameters'}"

    def _strict_statuses(self, strict: bool | Collection[str]) -> Collection[str]:
        if isinstance(strict, bool):
            return UNRESOLVED if strict else ("collision",)
        if isinstance(strict, str) or not isinstance(strict, Collection) or set(strict) - {*UNRESOLVED}:
            raise ParamTreeError(
                f"strict={strict!r}: pass True, False, or a list of {', '.join(map(repr, UNRESOLVED))}."
            )
        return {*strict, "collision"}


_REGEX = re.compile(r"[\\^$*+?{}\[\]|()]")  # what tells a pattern from a name
_HELP = (
    "Say what is meant with rename=, cast= or select=, or pass strict=False: then what is unresolved is left "
    "as `like` has it."
)


def plan_load(
    file: str | os.PathLike[str],
    /,
    like: Any = None,
    select: Select | None = None,
    rename: Any = None,
    cast: Rules | None = None,
) -> LoadPlan:
    """Plan what `load` with these arguments would do: read the file's headers, and account for every name.

    >>> import tempfile, jax.numpy as jnp
    >>> from paramtree.checkpoint import save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"0.w": jnp.ones(2), "1.w": jnp.ones(3)}, f"{folder}/net.npz")
    ...     plan = plan_load(f"{folder}/net.npz", {"a": {"w": jnp.zeros(2)}}, rename={"0.w": "a/w"})
    >>> [(row.status, row.name, row.sources) for row in plan.rows]
    [('renamed', 'a/w', ('0.w',)), ('unexpected', '', ('1.w',))]

    Args:
        file: its path, of any format that `load` reads.
        like: params or specs to fill; without it the tree is the file's own.
        select: the parameters of the tree that are loaded; the others are left as they are in `like`.
        rename: rules from names in the file to names in the tree, as in `pt.renaming`: pattern -> template,
            `Convert` with steps, or None for what is left out; or one of its ready sets.
        cast: rules from names in the tree to the dtypes that their values are cast to.

    Raises:
        ParamTreeError: where the file is of no known format, or damaged.
        NoMatchError: where the select hits nothing.
        RuleError: where `rename` or `cast` are not rules.
        BadNameError: without `like`, where the file's names, or those selected, cannot be nested.
        TieError: where a tie of `like` leads nowhere.
        FileNotFoundError: where there is no such file.
    """
    path = _path_of(file)
    select, rename, cast = settled(select, rename, cast)
    with _naming(path):
        stored = open_stored(path)
        contents = contents_of(stored.specs, stored.notes)
    if stored.by_position:
        rename = _by_position(path, stored, like, rename)
    rename = rename if like is None else _without_spare(rename, contents, like)
    offers, rows = find_offers(stored, contents, rename, select)
    with _naming(path):
        model = skeleton(stored, contents, offers, rename is not None, select) if like is None else like
    tree, chosen = _tree_and_chosen(model, select, like is None)
    matching = Matching(tree, chosen, contents, like is not None)
    rows = matching.rows(offers, select, cast) + rows
    return LoadPlan(path, propose(rows), matching.fill(stored, model))


def settled(select: Any, rename: Any, cast: Any) -> tuple[Any, Any, Any]:
    """Read select and rules that may be iterators, which give what they hold but once.

    Raises:
        SelectError: where the select is not valid.
        RuleError: where the rules are not valid.
    """
    return (
        None if select is None else freeze_select(select),
        rename if rename is None or isinstance(rename, Naming) else parse_rules(rename),
        None if cast is None else parse_rules(cast),
    )


def _path_of(file: Any) -> Path:
    if not isinstance(file, str | os.PathLike) or "\0" in str(file):
        raise ParamTreeError(f"load takes the path of a file, and not {reprlib.repr(file)}.")
    return Path(file)


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Name the file in an error about its names and notes."""
    try:
        yield
    except ParamTreeError as error:
        if repr(str(path)) in str(error) or isinstance(error, FileChangedError):
            raise
        raise type(error)(f"{str(path)!r}: {str(error).removeprefix('load: ')}") from error


def _by_position(path: Path, stored: Stored, like: Any, rename: Any) -> dict[str, str]:
    """Give the rules that name the arrays of a file without names, in the order of JAX's leaves."""
    if like is None or rename is not None:
        raise ParamTreeError(
            f"{str(path)!r} holds {len(stored.specs)} arrays without names: pass like=, a tree that has "
            "them in the same order, and no rename=."
        )
    leaves, structure = flatten_named(like)
    names = dict(zip(structure.indices, structure.names, strict=True))
    inside = [
        names[index].replace("\\", r"\\")
        for index, leaf in enumerate(leaves)
        if wanted_spec(leaf) is not None
    ]
    return dict(zip(stored.specs, inside, strict=False))


def _without_spare(rename: Any, contents: Contents, like: Any) -> Any:
    """Drop the rules for further names of one parameter that the file does not have: it needs only one."""
    if rename is None or isinstance(rename, Naming):
        return rename
    _, structure = flatten_named(like)
    rules = parse_rules(rename)
    tied = tied_names(structure)
    targets = [follow(structure, rule.value)[0] if isinstance(rule.value, str) else "" for rule in rules]
    twice = {name for name, count in Counter(targets).items() if count > 1}
    several = twice.union(tied.values()).intersection(structure.position)

    def is_spare(rule: Rule, target: str) -> bool:
        if target not in several or rule.select in contents.specs:
            return False
        is_name = isinstance(rule.select, str) and not _REGEX.search(rule.select)
        return is_name or not any(matches(rule.select, name) for name in contents.specs)

    return [rule for rule, target in zip(rules, targets, strict=True) if not is_spare(rule, target)]


def _tree_and_chosen(model: Any, select: Select | None, pruned: bool) -> tuple[Any, set[str]]:
    """Give the tree to fill, only its selected part if `pruned`, and the names that are to be loaded."""
    if pruned and select is not None:
        model, _ = partition(model, select)
        select = None
    found = apply_select(model, select)
    return model, {found.structure.names[place] for place in found.places}
