"""Every error of the package, and the two helpers that give their texts one form.

A message says what was asked, where (the name), what was found and what to do. All faults of one call
are gathered and raised once.
"""

import difflib
import heapq
from collections.abc import Iterable, Sequence

_COMPARED = 500  # candidates compared letter by letter, so that an error never takes seconds
HINTED = 5  # faults of one call that are given a hint, for the same reason


class ParamTreeError(ValueError):
    """Tell what was asked of a parameter tree, where, what was found and what to do."""


class SelectError(ParamTreeError):
    """Report a select that is not one: a bad regular expression, or a value of another type."""


class NoMatchError(SelectError):
    """Report a select that hits no parameter."""


class RuleError(SelectError):
    """Report every fault of a set of rules: unused, shadowed, and parameters left uncovered."""


class BadNameError(ParamTreeError):
    """Report keys that cannot be names, and names that stand for two things."""


class UnknownNameError(ParamTreeError):
    """Report names that the tree does not hold."""


class MismatchError(ParamTreeError):
    """Report values whose shape, dtype or kind is not the one needed."""


class TieError(ParamTreeError):
    """Report ties that lead nowhere, in a circle, or to something of another shape."""


def nearest(word: str, candidates: Iterable[str]) -> list[str]:
    """List the candidates most like `word`, best first, whatever their case.

    Of very many candidates, those that share most keys with `word` are compared.

    >>> nearest("rleu", ["relu", "tanh", "gelu"])
    ['relu']
    """
    by_lower: dict[str, str] = {}
    for candidate in candidates:
        by_lower.setdefault(candidate.lower(), candidate)
    word, pool = word.lower(), list(by_lower)
    if len(pool) > _COMPARED:
        keys = set(word.split("/"))
        pool = heapq.nlargest(_COMPARED, pool, key=lambda each: len(keys.intersection(each.split("/"))))
    return [by_lower[found] for found in difflib.get_close_matches(word, pool, 3, 0.6)]


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Phrase the nearest candidates as a question, or as nothing where none is near.

    >>> did_you_mean("rleu", ["tanh", "relu"])
    ' Did you mean relu?'
    """
    found = nearest(word, candidates)
    return f" Did you mean {' or '.join(found)}?" if found else ""


def listing(items: Sequence[str], limit: int = 10) -> str:
    """Join items with commas, eliding the end of a long list.

    >>> listing(["a", "b", "c", "d"], limit=3)
    'a, b, ... (4 in all)'
    """
    if len(items) <= limit:
        return ", ".join(items)
    return f"{', '.join(items[: limit - 1])}, ... ({len(items)} in all)"


def first_of(faults: Sequence[str], limit: int = 10) -> list[str]:
    """Give the first of many faults of one kind, and the number of the rest.

    >>> first_of(["a has none", "b has none", "c has none"], 2)
    ['a has none', 'b has none', 'and 1 more']
    """
    rest = len(faults) - limit
    return [*faults[:limit], f"and {rest:,} more"] if rest > 0 else list(faults)


def raise_faults(kind: type[ParamTreeError], headline: str, faults: Sequence[str]) -> None:
    """Raise one error that lists every fault; with no fault, do nothing.

    Raises:
        ParamTreeError: of the given kind, when there is a fault.
    """
    if faults:
        raise kind("\n".join([headline, *(f"  {fault}" for fault in faults)]))
