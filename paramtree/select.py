"""Selects and rules: the one engine that says which parameters are meant.

A *select* is a regular expression that must match the **whole** name (`re.fullmatch`; one that is itself a
name of the tree means this parameter alone), a compiled pattern, a predicate `(name, leaf) -> bool`, or a
sequence of selects (any of them; each must hit something). *Rules* are an ordered mapping, or a sequence of
pairs, select -> value; the first that matches wins. Neither is ever silent: a select that hits nothing
raises, and so do rules that are unused, shadowed, or leave a parameter uncovered.
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, combinations
from typing import Any, NamedTuple, TypeGuard, cast

import jax

from paramtree.errors import HINTED, NoMatchError, RuleError, SelectError, listing, nearest, raise_faults
from paramtree.names import Structure, blocks_above, flatten_named
from paramtree.nodes import is_transparent, whole_ties

Predicate = Callable[[str, Any], bool]
Select = str | re.Pattern[str] | Predicate | Sequence["Select"]
Rules = Mapping[Any, Any] | Sequence[tuple[Any, Any]]

_SEARCHED = 10_000  # names tried for a proposal, so that an error never takes seconds
_LITERAL = re.compile(r"(?:[^.^$*+?{}\[\]\\|()]|\\[^a-zA-Z0-9])*")  # no sign but escaped ones
_GROUP = re.compile(r"\\(g<\w+>|[1-9]\d?)")  # a reference to a group, in a template
REQUIRED: Any = object()  # the default of `default=`: every parameter must be covered


class Selection(NamedTuple):
    """A flattened tree, and the places in `structure.names` that a select hits, in natural order."""

    leaves: list[Any]
    structure: Structure
    places: tuple[int, ...]


def apply_select(tree: Any, select: Select | None, allow_empty: bool | None = None) -> Selection:
    """Flatten a tree and find what a select hits; None selects all.

    Args:
        tree: any pytree.
        select: which of its leaves.
        allow_empty: whether nothing is a good answer; None where the caller has no such option to offer.

    Raises:
        NoMatchError: where the select hits nothing, unless `allow_empty`.
        SelectError: where it is not a select.
    """
    leaves, structure = flatten_named(tree)
    if select is None:
        return Selection(leaves, structure, tuple(range(len(leaves))))
    select = freeze_select(select)
    if depends_on_leaves(select):
        held = held_leaves(tree)
        places, dead = _places(structure, select, held), _dead(structure, select, held)
    else:
        places, dead = _cached_places(structure, select)
    if dead and not allow_empty:
        offer = "" if allow_empty is None else " Pass allow_empty=True where nothing is a good answer."
        raise NoMatchError("\n".join(_no_match_text(structure, each) + offer for each in dead))
    return Selection(leaves, structure, places)


def freeze_select(select: Any) -> Any:
    """Return a select with its sequences as tuples, so that it can be the key of a cache.

    Raises:
        SelectError: where it is not a select, or its regular expression is not one.
    """
    if isinstance(select, str):
        return compile_pattern(select).pattern
    if _is_pattern(select):
        if type(select.pattern) is not str:
            raise SelectError(f"{select.pattern!r} is a pattern of bytes, and names are text. Drop the b.")
        return select
    if callable(select):
        return select
    if _is_iterable(select) and not isinstance(select, bytes) and not _is_mapping(select):
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
        return re.compile(text, re.DOTALL)  # a name may hold a new line, and .* means all
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


def _is_pattern(select: object) -> TypeGuard[re.Pattern[str]]:
    return isinstance(select, re.Pattern)


def _is_iterable(select: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(select, Iterable)


def _is_mapping(rules: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(rules, Mapping)


def _is_several(select: object) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(select, tuple)


def spells_out(select: Any, name: str) -> bool:
    """Tell whether a select gives this whole name, letter by letter.

    >>> spells_out(["a/mean", "a/var"], "a/mean"), spells_out("a/.*", "a/mean")
    (True, False)
    """
    if isinstance(select, tuple | list):
        return any(spells_out(each, name) for each in cast(Any, select))
    pattern = select.pattern if _is_pattern(select) else select
    return pattern == name or (isinstance(pattern, str) and literal_of(pattern) == name)


def literal_of(pattern: str) -> str | None:
    r"""Give the one text that a pattern matches, where it is that text with signs escaped.

    >>> literal_of(r"0\.weight"), literal_of("0.weight"), literal_of(r"\d")
    ('0.weight', None, None)
    """
    return re.sub(r"\\(.)", r"\1", pattern, flags=re.DOTALL) if _LITERAL.fullmatch(pattern) else None


def depends_on_leaves(select: Any) -> bool:
    """Tell whether a select asks for values, not names alone, so that its answer must not be cached."""
    if _is_several(select):
        return any(map(depends_on_leaves, select))
    return callable(select)


def matches(select: Any, name: str, leaf: Any = None, names: Container[str] = ()) -> bool:
    """Tell whether a select hits one parameter; one that is itself among the tree's names means that alone.

    >>> matches(("embed/.*", ".*bias"), "dense0/bias"), matches("w.1", "wx1", names=["w.1", "wx1"])
    (True, False)
    """
    if isinstance(select, str) and (select == name or select in names):
        return select == name
    if isinstance(select, str) or _is_pattern(select):
        return match_name(select, name) is not None
    if callable(select):
        return bool(select(name, leaf))
    return any(matches(each, name, leaf, names) for each in select)


def match_name(pattern: str | re.Pattern[str], name: str) -> re.Match[str] | None:
    """Match a pattern against a whole name.

    >>> match_name("(.*)/weight", "dense0/weight")[1]
    'dense0'
    """
    return (compile_pattern(pattern) if isinstance(pattern, str) else pattern).fullmatch(name)


def matching_names(select: Any, held: Mapping[str, Any]) -> list[str]:
    """List the names that a select hits; one that is itself among them means that name alone.

    >>> matching_names("w.1", {"w.1": 0, "wx1": 0}), matching_names("w.*", {"w.1": 0, "wx1": 0})
    (['w.1'], ['w.1', 'wx1'])
    """
    return [name for name, leaf in held.items() if matches(select, name, leaf, held)]


def idle_selects(select: Any, held: Mapping[str, Any]) -> list[Any]:
    """List what hits none of these names: the select, or those among several.

    >>> idle_selects(("a", "b"), {"a": 0})
    ['b']
    """
    return [one for one in _each(select) if not matching_names(one, held)]


def _each(select: Any) -> Sequence[Any]:
    return select if _is_several(select) and select else (select,)


def held_leaves(tree: Any) -> list[Any]:
    """List the leaves in JAX's order, each as the transparent node that holds it, where one does.

    >>> from paramtree.nodes import Fixed
    >>> held_leaves({"a": 1.0, "b": Fixed(2.0)})
    [1.0, Fixed(value=2.0)]
    """
    held = jax.tree.leaves(tree, is_leaf=is_transparent)
    return [node for node in held for _ in (jax.tree.leaves(node) if is_transparent(node) else (node,))]


def _places(structure: Structure, select: Any, held: Sequence[Any] = ()) -> tuple[int, ...]:
    """List the places in `names` that a select hits; `held` are the leaves, for one that depends on them."""
    if _is_several(select):
        return tuple(sorted({place for each in select for place in _places(structure, each, held)}))
    if isinstance(select, str) and select in structure.position:
        return (structure.position[select],)  # a name means itself, though its dots would match more
    if isinstance(select, str) and (literal := literal_of(select)) is not None:
        place = structure.position.get(literal)  # of thousands of them each would be held against every name
        return () if place is None else (place,)
    if callable(select):
        named = zip(structure.names, structure.indices, strict=True)
        return tuple(place for place, (name, index) in enumerate(named) if select(name, held[index]))
    fullmatch = (select if _is_pattern(select) else compile_pattern(select)).fullmatch
    return tuple(place for place, name in enumerate(structure.names) if fullmatch(name))


def _dead(structure: Structure, select: Any, held: Sequence[Any] = ()) -> list[Any]:
    """List what hits nothing: the select, or the ones among several selects."""
    return [one for one in _each(select) if not _places(structure, one, held)]


@lru_cache(maxsize=256)
def _cached_places(structure: Structure, select: Any) -> tuple[tuple[int, ...], list[Any]]:
    places = _places(structure, select)
    return places, [] if places and not _is_several(select) else _dead(structure, select)


# what a pattern that hits nothing was probably meant to be


def describe_select(select: Any) -> str:
    """Name a select in a message.

    >>> describe_select((".*bias", re.compile("w.*")))
    "['.*bias', 'w.*']"
    """
    if _is_several(select):
        return f"[{', '.join(map(describe_select, select))}]"
    if _is_pattern(select):
        return repr(select.pattern)
    return repr(select) if isinstance(select, str) else getattr(select, "__name__", repr(select))


def _no_match_text(structure: Structure, select: Any) -> str:
    count = len(structure.names)
    some = f"none of {count} parameters" if count > 1 else "nothing"
    return f"select {describe_select(select)} hits {some}{_whole_name(select)}.{hints(structure, select)}"


def _whole_name(select: Any) -> str:
    return "; it must match the whole name" if isinstance(select, str | re.Pattern) else ""


def hints(structure: Structure, select: Any) -> str:
    """Say what a select that hits nothing was probably meant to be, from the names there are.

    >>> from paramtree.names import structure_of
    >>> hints(structure_of({"dense0": {"weight": 1.0}}), "dense0")
    " Did you mean 'dense0/.*'? Nearest: dense0/weight."
    """
    tied: list[str] = []
    if not depends_on_leaves(select):
        ties = whole_ties(structure)
        tied = [
            f"{name} is {source}"
            for name, source in ties.items()
            if any(matches(select, each) for each in (name, *blocks_above(name)))
        ]
    if tied:
        return f" It names only tied places: {listing(tied, 6)}. Select a tied parameter where it lives."
    names = structure.names
    if not names:
        return " The tree has no parameters."
    if _is_several(select) or callable(select):
        return f" The names are {listing(names, 6)}."
    pattern = select.pattern if _is_pattern(select) else select
    meant = meant_pattern(pattern, names)
    near = nearest(_as_name(pattern), names)
    asked = f" Did you mean {meant!r}?" if meant else ""
    if near:
        return f"{asked} Nearest: {', '.join(near)}."
    return asked or f" The names are {listing(names, 6)}."


def _as_name(pattern: str) -> str:
    return re.sub(r"\.[*+]|[\^$?\\()]", "", pattern).strip("/")


_SLIPS: tuple[Callable[[str], str], ...] = (
    lambda text: text.lstrip("/"),  # names have no leading slash
    lambda text: text.strip("^$"),  # a pattern matches whole names as it is
    lambda text: re.sub(r"(?<![.\])])\*", ".*", text),  # a shell's star
    lambda text: text.rstrip("/") + "/.*",  # a block, for all that is in it
    lambda text: ".*" + text,  # a part of the name, from its middle
    lambda text: text.lower(),
    lambda text: text.replace("_", "/"),  # Gluon joins with an underscore
    lambda text: text.replace(r"\.", "/"),  # torch joins with a dot
)


def meant_pattern(pattern: str, names: Sequence[str]) -> str | None:
    """Give the nearest pattern that does hit something, if one to three common slips explain it.

    >>> meant_pattern("/dense0/.*", ["dense0/weight"]), meant_pattern("Dense0", ["dense0/weight"])
    ('dense0/.*', 'dense0/.*')
    """
    for steps in chain.from_iterable(combinations(_SLIPS, count) for count in (1, 2, 3)):
        meant = pattern
        for step in steps:
            meant = step(meant)
        if meant and _compiles(meant) and any(map(compile_pattern(meant).fullmatch, names[:_SEARCHED])):
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
        SelectError: where a select is not valid.
    """
    pairs = rules.items() if _is_mapping(rules) else rules
    if isinstance(pairs, str) or not _is_iterable(pairs):
        raise RuleError(f"{rules!r} are not rules. Pass a dict {{select: value}}, or a list of such pairs.")
    parsed: list[Rule] = []
    for pair in pairs:
        if not issubclass(type(pair), tuple | list) or len(pair) != 2:
            raise RuleError(f"{pair!r} is not a rule. A rule is a pair (select, value).")
        select, value = pair
        parsed.append(Rule(freeze_select(select), value))
    return parsed


def numbered(rules: Iterable[Rule]) -> list[Rule]:
    """Give the same rules with their numbers as their values, to learn which of them wins.

    >>> numbered(parse_rules({"embed/.*": "adam", ".*": "sgd"}))
    [Rule(select='embed/.*', value=0), Rule(select='.*', value=1)]
    """
    return [Rule(rule.select, number) for number, rule in enumerate(rules)]


def check_rules(rules: Iterable[Rule], fits: Callable[[Rule], bool], headline: str) -> None:
    """Check that every rule is one that a verb takes.

    Raises:
        RuleError: listing under the headline all that are not.
    """
    faults = [
        f"rule {number} {describe_select(rule.select)}: {rule.value!r}"
        for number, rule in enumerate(rules)
        if not fits(rule)
    ]
    raise_faults(RuleError, headline, faults)


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
    leaves, structure, values, faults = match_rules(tree, rules, default=default, spelled_out=spelled_out)
    count = f"{len(values)} parameter{'' if len(values) == 1 else 's'}"
    raise_faults(RuleError, f"rules do not fit the tree of {count}:", faults)
    return leaves, structure, values


def match_rules(
    tree: Any,
    rules: Any,
    *,
    default: Any = REQUIRED,
    spelled_out: Callable[[str, Any], bool] | None = None,
) -> tuple[list[Any], Structure, list[Any], list[str]]:
    """Do what `apply_rules` does, and return the faults of the rules instead of raising them.

    >>> match_rules({"a": 1.0}, {"b": "x"}, default=None)[2:]
    ([None], ["rule 0 'b' hits nothing. The names are a."])

    Raises:
        RuleError: where they are not rules.
    """
    parsed = parse_rules(rules)
    leaves, structure = flatten_named(tree)
    selects, required = tuple(rule.select for rule in parsed), default is REQUIRED
    if spelled_out is None and not depends_on_leaves(selects):
        winners, faults = _cached_contest(structure, selects, required)
    else:
        held = held_leaves(tree)
        everything = [_places(structure, select, held) for select in selects]
        hits = _spelled_out(structure, selects, everything, held, spelled_out) if spelled_out else everything
        winners, faults = _contest(structure, selects, everything, hits, required)
    values: dict[int | None, Any] = dict(enumerate(rule.value for rule in parsed))
    values[None] = default
    return leaves, structure, list(map(values.__getitem__, winners)), list(faults)


@lru_cache(maxsize=64)
def _cached_contest(
    structure: Structure, selects: tuple[Any, ...], required: bool
) -> tuple[list[int | None], list[str]]:
    hits = [_places(structure, select) for select in selects]
    return _contest(structure, selects, hits, hits, required)


def _contest(
    structure: Structure,
    selects: Sequence[Any],
    everything: Sequence[Sequence[int]],
    hits: Sequence[Sequence[int]],
    required: bool,
) -> tuple[list[int | None], list[str]]:
    """Give the rule that wins each parameter, and the faults; `hits` are those that count of `everything`."""
    winners: list[int | None] = [None] * len(structure.names)
    for rule, places in reversed(list(enumerate(hits))):
        for place in places:
            winners[place] = rule
    return winners, _rule_faults(structure, selects, everything, hits, winners, required)


def _spelled_out(
    structure: Structure,
    selects: Sequence[Any],
    hits: Sequence[Sequence[int]],
    held: Sequence[Any],
    spelled_out: Predicate,
) -> list[tuple[int, ...]]:
    names = structure.names
    kept = {at for at, index in enumerate(structure.indices) if spelled_out(names[at], held[index])}
    return [
        tuple(place for place in places if place not in kept or spells_out(select, names[place]))
        for select, places in zip(selects, hits, strict=True)
    ]


def _rule_faults(
    structure: Structure,
    selects: Sequence[Any],
    everything: Sequence[Sequence[int]],
    hits: Sequence[Sequence[int]],
    winners: Sequence[int | None],
    required: bool,
) -> list[str]:
    used = set(winners)
    faults: list[str] = []
    for number, select in enumerate(selects):
        label = f"rule {number} {describe_select(select)}"
        if everything[number] and not hits[number]:
            fixed = listing([structure.names[place] for place in everything[number]], 6)
            faults.append(f"{label} hits only what is fixed: {fixed}. Spell out the whole name to mean it.")
        elif not hits[number]:
            hint = hints(structure, select) if len(faults) < HINTED else ""
            faults.append(f"{label} hits nothing.{hint}")
        elif number not in used:
            earlier = sorted({winner for place in hits[number] if (winner := winners[place]) is not None})
            by = listing([f"rule {each} {describe_select(selects[each])}" for each in earlier], 4)
            faults.append(f"{label} is shadowed: all it hits goes to {by}. Put it first, or remove it.")
        elif not depends_on_leaves(select):
            for dead in _dead(structure, select):
                faults.append(f"{label}: {describe_select(dead)} hits nothing.{hints(structure, dead)}")
    names = structure.names
    bare = [name for name, winner in zip(names, winners, strict=True) if winner is None]
    if required and bare:
        faults.append(f"no rule covers {listing(bare, 6)}. Add a rule, or pass default=.")
    return faults


@lru_cache(maxsize=256)
def _cut_template(template: str, pattern: re.Pattern[str]) -> tuple[str, list[int | str]] | None:
    """Cut a template into a text to format and the groups to fill in, once for all names.

    It is not cut where it holds other escapes than groups, or groups that the pattern lacks: `re` fills these
    in itself, and slowly, or says what is wrong.
    """
    pieces = _GROUP.split(template)
    groups = [piece.removeprefix("g<").removesuffix(">") for piece in pieces[1::2]]
    numbered: list[int | str] = [int(group) if group.isdecimal() else group for group in groups]
    known = {*range(pattern.groups + 1), *pattern.groupindex}
    if any("\\" in text for text in pieces[::2]) or not known.issuperset(numbered):
        return None
    return "%s".join(text.replace("%", "%%") for text in pieces[::2]), numbered


def expand_template(select: Any, name: str, template: str) -> str:
    r"""Give the new name of a parameter: the template of a rule that hits it, filled in as in `re`.

    >>> expand_template(r"layer/(\d+)/w", "layer/0/w", r"layer\1/weight")
    'layer0/weight'

    Raises:
        RuleError: where the template does not fit the pattern.
    """
    if "\\" not in template:
        return template
    match = match_name(select, name)
    if match is None:  # the select spells out a name that it does not match as a pattern: "w(1)"
        match = re.fullmatch(re.escape(name), name)
    assert match is not None
    try:
        cut = _cut_template(template, match.re)
        if not cut:
            return match.expand(template)
        text, groups = cut
        return text % tuple([found or "" for found in match.group(0, *groups)[1:]])
    except (re.error, IndexError) as error:
        count = match.re.groups
        groups = f"{count} group{'' if count == 1 else 's'}" if count else "no groups"
        raise RuleError(
            f"rename: the template {template!r} of {describe_select(select)} does not fit: {error}. "
            f"The pattern has {groups}."
        ) from error
