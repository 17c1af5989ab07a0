"""Selects and rules: the one engine that says which parameters are meant.

A *select* is a regular expression that must match the **whole** name (`re.fullmatch`), a compiled pattern, a
predicate `(name, leaf) -> bool`, or a sequence of selects (any of them). *Rules* are an ordered mapping, or a
sequence of pairs, select -> value; the first that matches wins. Neither is ever silent: a select that hits
nothing raises, and so do rules that are unused, shadowed, or leave a parameter uncovered.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import jax

from paramtree.errors import NoMatchError, RuleError, SelectError, listing, nearest, raise_faults
from paramtree.names import Structure, flatten_named
from paramtree.nodes import is_transparent, tied_names

Predicate = Callable[[str, Any], bool]
Select = str | re.Pattern[str] | Predicate | Sequence["Select"]
Rules = Mapping[Any, Any] | Sequence[tuple[Any, Any]]

_SEARCHED = 10_000  # names tried for a proposal, so that an error never takes seconds
REQUIRED: Any = object()  # the default of `default=`: every parameter must be covered


class Selection(NamedTuple):
    """A flattened tree, and the places in `structure.names` that a select hits, in natural order."""

    leaves: list[Any]
    structure: Structure
    places: tuple[int, ...]


def apply_select(tree: Any, select: Select | None, allow_empty: bool = False) -> Selection:
    """Flatten a tree and find what a select hits; None selects all.

    Raises:
        NoMatchError: where the select hits nothing, unless `allow_empty`.
        SelectError: where it is no select.
    """
    leaves, structure = flatten_named(tree)
    if select is None:
        return Selection(leaves, structure, tuple(range(len(leaves))))
    select = freeze_select(select)
    if depends_on_leaves(select):
        places = _places(structure, select, _held(tree))
    else:
        places = _cached_places(structure, select)
    if not places and not allow_empty:
        raise NoMatchError(_no_match_text(structure, select))
    return Selection(leaves, structure, places)


def freeze_select(select: Any) -> Any:
    """Return a select with its sequences as tuples, so that it can be the key of a cache.

    Raises:
        SelectError: where it is no select, or its regular expression is not one.
    """
    if isinstance(select, str):
        return compile_pattern(select).pattern
    if isinstance(select, re.Pattern) or callable(select):
        return select
    if isinstance(select, Iterable):
        return tuple(map(freeze_select, select))
    raise SelectError(
        f"{select!r} of type {type(select).__name__} is not a select. Pass a regular expression, a compiled "
        "pattern, a predicate (name, leaf) -> bool, or a list of these."
    )


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile a regular expression (the `re` module keeps the compiled ones).

    Raises:
        SelectError: with the position of the fault, and the pattern that was probably meant.
    """
    try:
        return re.compile(text)
    except re.error as error:
        where = f" at position {error.pos}" if error.pos is not None else ""
        fixed = re.sub(r"(?<!\.)\*", ".*", text)
        hint = f" Did you mean {fixed!r}?" if fixed != text and _compiles(fixed) else ""
        raise SelectError(f"{text!r} is not a regular expression: {error.msg}{where}.{hint}") from error


def _compiles(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def depends_on_leaves(select: Any) -> bool:
    """Tell whether a select asks for values, not names alone, so that its answer must not be cached."""
    if isinstance(select, tuple):
        return any(map(depends_on_leaves, select))
    return callable(select)


def matches(select: Any, name: str, leaf: Any = None) -> bool:
    """Tell whether a select hits one parameter.

    >>> matches(("embed/.*", ".*bias"), "dense0/bias")
    True
    """
    if isinstance(select, str):
        return re.fullmatch(select, name) is not None
    if isinstance(select, re.Pattern):
        return select.fullmatch(name) is not None
    if callable(select):
        return bool(select(name, leaf))
    return any(matches(each, name, leaf) for each in select)


def _held(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=is_transparent)


def _places(structure: Structure, select: Any, held: Sequence[Any] | None = None) -> tuple[int, ...]:
    if held is not None:
        named = zip(structure.names, structure.indices, strict=True)
        return tuple(place for place, (name, index) in enumerate(named) if matches(select, name, held[index]))
    if isinstance(select, tuple):
        return tuple(sorted({place for each in select for place in _places(structure, each)}))
    fullmatch = re.compile(select).fullmatch
    return tuple(place for place, name in enumerate(structure.names) if fullmatch(name))


@lru_cache(maxsize=1024)
def _cached_places(structure: Structure, select: Any) -> tuple[int, ...]:
    return _places(structure, select)


# what a pattern that hits nothing was probably meant to be


def describe_select(select: Any) -> str:
    """Name a select in a message.

    >>> describe_select((".*bias", re.compile("w.*")))
    "['.*bias', 'w.*']"
    """
    if isinstance(select, tuple):
        return f"[{', '.join(map(describe_select, select))}]"
    if isinstance(select, re.Pattern):
        return repr(select.pattern)
    return repr(select) if isinstance(select, str) else getattr(select, "__name__", repr(select))


def _no_match_text(structure: Structure, select: Any) -> str:
    names = structure.names
    if not names:
        return f"select {describe_select(select)} hits nothing: the tree has no parameters."
    return (
        f"select {describe_select(select)} hits none of {len(names)} parameters{_whole_name(select)}."
        f"{hints(structure, select)} Pass allow_empty=True where nothing is a good answer."
    )


def _whole_name(select: Any) -> str:
    return "; it must match the whole name" if isinstance(select, str | re.Pattern) else ""


def hints(structure: Structure, select: Any) -> str:
    """Say what a select that hits nothing was probably meant to be, from the names there are."""
    if isinstance(select, re.Pattern):
        select = select.pattern
    if not isinstance(select, str):
        return f" The names are {listing(structure.names, 6)}."
    tied = {name: source for name, source in tied_names(structure).items() if re.fullmatch(select, name)}
    if tied:
        lives = listing([f"{name} is {source}" for name, source in tied.items()], 6)
        return f" It names only tied places: {lives}. Select a tied parameter where it lives."
    names = structure.names
    meant = meant_pattern(select, names)
    near = nearest(_as_name(select), names)
    asked = f" Did you mean {meant!r}?" if meant else ""
    if near:
        return f"{asked} Nearest: {', '.join(near)}."
    return asked or f" The names are {listing(names, 6)}."


def _as_name(pattern: str) -> str:
    return re.sub(r"\.[*+]|[\^$?\\()]", "", pattern).strip("/")


_SLIPS: tuple[Callable[[str], str], ...] = (
    lambda text: text.lstrip("/"),  # names have no leading slash
    lambda text: text.rstrip("/") + "/.*",  # a block, for all that is in it
    lambda text: ".*" + text,  # a part of the name, from its middle
    lambda text: text.lower(),
    lambda text: text.replace("_", "/"),  # Gluon joins with an underscore
    lambda text: text.replace(r"\.", "/"),  # torch joins with a dot
    lambda text: re.sub(r"(?<![.\])])\*", ".*", text),  # a shell's star
)


def meant_pattern(pattern: str, names: Sequence[str]) -> str | None:
    """Give the nearest pattern that does hit something, if one or two common slips explain it.

    >>> meant_pattern("/dense0/.*", ["dense0/weight"]), meant_pattern("Dense0", ["dense0/weight"])
    ('dense0/.*', 'dense0/.*')
    """
    slips = [(slip,) for slip in _SLIPS] + list(combinations(_SLIPS, 2))
    for steps in slips:
        meant = pattern
        for step in steps:
            meant = step(meant)
        if meant and _compiles(meant) and any(map(re.compile(meant).fullmatch, names[:_SEARCHED])):
            return meant
    return None


# rules


class Rule(NamedTuple):
    """One rule: a frozen select and its value."""

    select: Any
    value: Any


def parse_rules(rules: Any) -> list[Rule]:
    """Read rules from an ordered mapping or a sequence of pairs.

    Raises:
        RuleError: where they are neither.
        SelectError: where a select is none.
    """
    pairs = rules.items() if isinstance(rules, Mapping) else rules
    if not isinstance(pairs, Iterable) or isinstance(pairs, str):
        raise RuleError(f"{rules!r} are no rules. Pass a dict {{select: value}}, or a list of such pairs.")
    pairs = list(pairs)
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise RuleError(f"{pair!r} is no rule. A rule is a pair (select, value).")
    return [Rule(freeze_select(select), value) for select, value in pairs]


def apply_rules(
    tree: Any,
    rules: Any,
    *,
    default: Any = REQUIRED,
    spelled_out: Callable[[str, Any], bool] | None = None,
) -> tuple[list[Any], Structure, list[Any]]:
    """Flatten a tree and give each name, in natural order, the value of the first rule that hits it.

    Args:
        tree: the tree.
        rules: select -> value; the first that matches wins.
        default: the value where no rule hits; without it every parameter must be covered.
        spelled_out: a predicate of parameters that only a rule equal to their whole name may hit.

    Returns:
        The leaves in JAX's order, the structure, and the values in the order of the names.

    Raises:
        RuleError: listing all rules that hit nothing, all that are shadowed, and what no rule covers.
    """
    parsed = parse_rules(rules)
    leaves, structure = flatten_named(tree)
    selects = tuple(rule.select for rule in parsed)
    if spelled_out is None and not depends_on_leaves(selects):
        hits = _cached_hits(structure, selects)
    else:
        hits = _hits(structure, selects, _held(tree), spelled_out)
    winners = _winners(hits, len(structure.names))
    _check_rules(structure, parsed, hits, winners, default is REQUIRED)
    values = [default if winner is None else parsed[winner].value for winner in winners]
    return leaves, structure, values


@lru_cache(maxsize=256)
def _cached_hits(structure: Structure, selects: Any) -> list[tuple[int, ...]]:
    return [_places(structure, select) for select in selects]


def _hits(
    structure: Structure, selects: Any, held: Sequence[Any], spelled_out: Predicate | None
) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for select in selects:
        places = _places(structure, select, held)
        if spelled_out is not None:
            places = tuple(
                place
                for place in places
                if structure.names[place] == select
                or not spelled_out(structure.names[place], held[structure.indices[place]])
            )
        found.append(places)
    return found


def _winners(hits: Sequence[Sequence[int]], count: int) -> list[int | None]:
    winners: list[int | None] = [None] * count
    for rule, places in reversed(list(enumerate(hits))):
        for place in places:
            winners[place] = rule
    return winners


def _check_rules(
    structure: Structure,
    rules: Sequence[Rule],
    hits: Sequence[Sequence[int]],
    winners: Sequence[int | None],
    required: bool,
) -> None:
    used = set(winners)
    faults: list[str] = []
    for number, rule in enumerate(rules):
        label = f"rule {number} {describe_select(rule.select)}"
        if not hits[number]:
            faults.append(f"{label} hits nothing.{hints(structure, rule.select)}")
        elif number not in used:
            earlier = sorted({winner for place in hits[number] if (winner := winners[place]) is not None})
            by = listing([f"rule {each} {describe_select(rules[each].select)}" for each in earlier], 4)
            faults.append(f"{label} is shadowed: all it hits goes to {by}. Put it first, or remove it.")
    names = structure.names
    bare = [name for name, winner in zip(names, winners, strict=True) if winner is None]
    if required and bare:
        faults.append(f"no rule covers {listing(bare, 6)}. Add a rule, or pass default=.")
    raise_faults(RuleError, f"rules do not fit the tree of {len(names)} parameters:", faults)
