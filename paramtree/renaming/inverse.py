r"""The way back: from the rules that read another program's names, those that write them.

A pattern can be inverted where all it does not spell out is in groups, and its template names every group,
so that where one ends can be told from the new name (see `cuts`):
`encoder\.layer\.(\d+)\.(.*)` -> `encoder/layer\1/\2` goes back by `encoder/layer(\d+)/(.*)` ->
`encoder.layer.\1.\2`.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

from paramtree.errors import RuleError, raise_faults
from paramtree.renaming.convert import Convert, Join, Step
from paramtree.renaming.cuts import Group, Piece, unclear_groups
from paramtree.renaming.moves import Naming
from paramtree.select import Rule, describe_select, parse_rules

_REFERENCE = re.compile(r"\\(\d+)|\\g<(\w+)>|\\(.)", re.DOTALL)
_SPECIAL = set("*+?{}[]|^$")


def invert(rename: Any) -> Any:
    r"""Give the rules that undo these rules: what reads another program's names then writes them.

    >>> invert({r"layer\.(\d+)\.w": r"layer\1/weight"})
    {'layer(\\d+)/weight': 'layer.\\g<1>.w'}

    Args:
        rename: rules pattern -> template or `Convert`, or a `Naming`.

    Returns:
        Rules of the same kind. What a rule leaves out (pattern -> None) stays out.

    Raises:
        RuleError: listing every rule that cannot be inverted, and why.
    """
    if isinstance(rename, Naming):
        return rename.inverse()
    inverted: dict[Any, Any] = {}
    faults: list[str] = []
    for number, rule in enumerate(parse_rules(rename)):
        if rule.value is None:
            continue
        try:
            select, value = _invert_rule(rule)
            if select in inverted:
                raise RuleError("it and an earlier rule write one name")
            inverted[select] = value
        except RuleError as error:
            faults.append(f"rule {number} {describe_select(rule.select)}: {error}")
    raise_faults(RuleError, "invert: these rules have no way back:", faults)
    return inverted


def _invert_rule(rule: Rule) -> tuple[Any, Any]:
    convert = Convert(rule.value) if isinstance(rule.value, str) else rule.value
    patterns = rule.select if isinstance(rule.select, tuple) else (rule.select,)
    if not isinstance(convert, Convert) or not all(isinstance(each, str | re.Pattern) for each in patterns):
        raise RuleError("it is not pattern -> template or Convert")
    if any(isinstance(each, re.Pattern) and each.flags & ~re.UNICODE for each in patterns):
        raise RuleError("its pattern has flags; write it without them")
    sources = [_read_pattern(each if isinstance(each, str) else each.pattern) for each in patterns]
    targets = [_read_template(each, sources[0]) for each in convert.to]
    _check_groups(sources, targets)
    for template, target in zip(convert.to, targets, strict=True):
        if unclear := unclear_groups([*chain(*sources)], target):
            raise RuleError(
                f"the template {template!r} does not tell group {unclear[0]} from group {unclear[1]}; write "
                "something between them that neither matches"
            )
    selects = [_write_pattern(target) for target in targets]
    templates = [_write_template(source, targets[0]) for source in sources]
    steps = _invert_steps(convert.steps, len(patterns))
    select = selects[0] if len(selects) == 1 else tuple(selects)
    if not steps and len(templates) == 1:
        return select, templates[0]
    return select, Convert(templates, *steps)


def _check_groups(sources: Sequence[Sequence[Piece]], targets: Sequence[Sequence[Piece]]) -> None:
    """Check that a group has one number in all patterns of a rule, on either side.

    Raises:
        RuleError: where it has not.
    """
    if len({tuple(sorted(_keys(source))) for source in sources}) > 1:
        raise RuleError("its patterns do not have the same groups")
    if len({_keys(target) for target in targets}) > 1:
        raise RuleError("its templates do not name the groups in one order")


def _keys(pieces: Sequence[Piece]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(piece.key for piece in pieces if isinstance(piece, Group)))


def _invert_steps(steps: Sequence[Step], count: int) -> list[Step]:
    counted = [
        Join(step.axis, count) if isinstance(step, Join) and step.parts is None else step for step in steps
    ]
    return [step.inverse() for step in reversed(counted)]


def _read_pattern(pattern: str) -> list[Piece]:
    """Cut a pattern into plain text and groups."""
    pieces: list[Piece] = []
    at = groups = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "(":
            end = _closing(pattern, at)
            groups += 1
            pieces.append(_group(pattern[at + 1 : end], groups))
            at = end + 1
            if pattern[at : at + 1] in ("*", "+", "?", "{"):
                raise RuleError(
                    f"the group {pattern[: at + 1][-20:]!r} is repeated; put all of it into a group"
                )
            continue
        if char == "\\":
            at += 1
            char = pattern[at]
            if char.isascii() and char.isalnum():  # a class, an anchor, a control character, a reference
                raise RuleError(f"\\{char} is in no group; write (\\{char})")
        elif char in _SPECIAL or (char == "." and pattern[at + 1 : at + 2] in ("*", "+", "?", "{")):
            raise RuleError(f"{pattern[at : at + 2]!r} at position {at} is in no group; put it into one")
        pieces.append(char)
        at += 1
    return pieces


def _closing(pattern: str, start: int) -> int:
    """Find the parenthesis that closes the one at `start`."""
    depth, at, in_class = 0, start, False
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
            at += pattern[at + 1 : at + 2] == "^"
            at += pattern[at + 1 : at + 2] == "]"
        elif char in "()":
            depth += 1 if char == "(" else -1
            if not depth:
                return at
        at += 1
    raise RuleError("its parentheses do not close")


def _group(inside: str, number: int) -> Group:
    named = re.match(r"\?P<(\w+)>", inside)
    body = inside[named.end() :] if named else inside
    if body.startswith("?"):
        fix = f"; write ({body[2:]})" if body.startswith("?:") else ""
        raise RuleError(f"the group ({inside}) does not capture{fix}")
    try:
        inner = re.compile(body).groups
    except re.error as error:
        raise RuleError(f"the group ({inside}) does not stand alone: {error}") from error
    if inner:
        raise RuleError(f"the group ({inside}) holds another; write the inner one as (?:...)")
    return Group(named.group(1) if named else str(number), body)


def _read_template(template: str, source: Sequence[Piece]) -> list[Piece]:
    """Cut a template into plain text and references to the groups of a pattern."""
    groups = [piece for piece in source if isinstance(piece, Group)]
    by_key = {str(number + 1): group for number, group in enumerate(groups)} | {
        each.key: each for each in groups
    }
    pieces: list[Piece] = []
    at = 0
    for found in _REFERENCE.finditer(template):
        pieces.append(template[at : found.start()])
        number, name, other = found.groups()
        key = number or name
        if key and key not in by_key:
            raise RuleError(f"the template {template!r} names group {key}, and the pattern has {len(groups)}")
        pieces.append(by_key[key] if key else other if other == "\\" else found.group())
        at = found.end()
    pieces.append(template[at:])
    lost = [group.key for group in groups if group not in pieces]
    if lost:
        raise RuleError(f"the template {template!r} does not name group {' or '.join(lost)}")
    return pieces


def _write_pattern(pieces: Sequence[Piece]) -> str:
    seen: list[Group] = []
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", piece)
        elif piece in seen:
            text += f"(?:\\{seen.index(piece) + 1})"
        else:
            seen.append(piece)
            text += f"({piece.inside})"
    return text


def _write_template(source: Sequence[Piece], target: Sequence[Piece]) -> str:
    order = _keys(target)
    text = ""
    for piece in source:
        if isinstance(piece, str):
            text += piece.replace("\\", "\\\\")
        else:
            text += f"\\g<{order.index(piece.key) + 1}>"
    return text
