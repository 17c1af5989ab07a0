"""Which name became which: pairs of names that stand on one side only, the surest first."""

import re
from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

_COMPARED = 250_000  # pairs of names compared letter by letter in one call, so that it never takes seconds
_ALIKE = 0.4  # what two names have in common, from 0 to 1, from which one may be the other renamed


class Candidate(NamedTuple):
    """What a name stands for, as far as a rename keeps it.

    Attributes:
        kind: only names of one kind are paired: a shape and dtype.
        mark: a hash of the values; None where there are none.
        telling: whether equal values say much: those of zeros do not.
    """

    kind: Hashable
    mark: bytes | None = None
    telling: bool = False


Key = Callable[[Candidate], Hashable]
Trait = Callable[[str], Hashable]


def _numbers(name: str) -> Hashable:
    return tuple(re.findall(r"\d+", name))


def _last_key(name: str) -> str:
    return re.split(r"[/.]", name)[-1]


def _block(name: str) -> str:
    return name[: len(name) - len(_last_key(name))] or name  # what lies in no block shares none


_TRAITS: tuple[Trait, ...] = (
    lambda name: (_numbers(name), _last_key(name)),
    _numbers,
    _last_key,
    bool,  # any name may be paired with any other
)
# what both must share, how alike their names must be then, and what the names must have in common
_STAGES: tuple[tuple[Key, float, tuple[Trait, ...]], ...] = (
    (lambda each: each if each.telling else None, 0.0, _TRAITS),
    (lambda each: each if each.mark is not None else None, _ALIKE, _TRAITS),
    (lambda each: each.kind, _ALIKE, _TRAITS),
    (lambda each: each.kind, 0.0, (_block,)),  # of one block: `weight` may have become `kernel`
)


def pair_names(a: Mapping[str, Candidate], b: Mapping[str, Candidate]) -> dict[str, str]:
    """Pair names of `a` with names of `b`: those of equal values first, then those of one kind.

    Among several the nearest name wins: one with the same numbers and the same last key, and then the one
    with most letters in common. The time is in proportion to the names, but for a bounded number of pairs;
    where there are more, as many on each side are paired in their order.

    >>> a = {"dense0/weight": Candidate((2, 3)), "dense0/bias": Candidate((3,))}
    >>> pair_names(a, {"dense0/kernel": Candidate((2, 3)), "step": Candidate(())})
    {'dense0/weight': 'dense0/kernel'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    budget = _COMPARED
    for key, least, traits in _STAGES:
        for trait in traits:
            left, right = _grouped(a, found, key, trait), _grouped(b, taken, key, trait)
            for shared, some in left.items():
                others = right.get(shared, [])
                size = len(some) * len(others)
                pair = _nearest_pairs if size <= budget else _in_order
                budget -= size if size <= budget else 0
                pairs = list(pair(some, others, least))
                found.update(pairs)
                taken.update(other for _, other in pairs)
    return found


def _grouped(
    candidates: Mapping[str, Candidate], done: Container[str], key: Key, trait: Trait
) -> dict[Hashable, list[str]]:
    """Group the names that are left by what both of a pair must share."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for name, candidate in candidates.items():
        if name not in done and (shared := key(candidate)) is not None:
            groups[shared, trait(name)].append(name)
    return groups


def _nearest_pairs(some: Sequence[str], others: Sequence[str], least: float) -> Iterator[tuple[str, str]]:
    """Pair the two nearest names, and so on with those that are left."""
    if len(some) == len(others) == 1 and not least:
        yield some[0], others[0]
        return
    pieces = [_pieces(name) for name in others]
    scored = [
        (-likeness, i, j)
        for i, mine in enumerate(map(_pieces, some))
        for j, theirs in enumerate(pieces)
        if (likeness := _likeness(mine, theirs)) >= least
    ]
    used: tuple[set[int], set[int]] = (set(), set())
    for _, i, j in sorted(scored):
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            yield some[i], others[j]


def _in_order(some: Sequence[str], others: Sequence[str], least: float) -> Iterable[tuple[str, str]]:
    if len(some) != len(others):
        return []
    return [pair for pair in zip(some, others, strict=True) if _likeness(*map(_pieces, pair)) >= least]


def _pieces(name: str) -> frozenset[str]:
    """Give all pairs of neighbouring letters of a name."""
    text = f" {name.lower().replace('.', '/')} "
    return frozenset(text[at : at + 2] for at in range(len(text) - 1))


def _likeness(mine: frozenset[str], theirs: frozenset[str]) -> float:
    return 2 * len(mine & theirs) / (len(mine) + len(theirs))
