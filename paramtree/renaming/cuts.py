r"""Where a name can be cut into the groups of a pattern in one way alone, so that rules have a way back.

`x(\d+)(\d+)` cuts `x123` in two ways. `x(\d+)/(.*)` cuts every name in one: no number runs over a slash.
"""

import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple


class Group(NamedTuple):
    """A group of a pattern, or a reference to it in a template: its key, and what it matches."""

    key: str
    inside: str


Piece = str | Group

# what matches one character, after what matches none: counts, parentheses, bars
_ONE = re.compile(
    r"\{[\d,]*\}|\(\?:?|[()|*+?]|(\\(?:x..|u.{4}|U.{8}|.)|\[\^?\]?(?:\\.|[^\]\\])*\]|.)", re.DOTALL
)
_ANY = "."
_SEPARATORS = "/."  # names that are joined with one of them do not hold the other


def unclear_groups(source: Sequence[Piece], target: Sequence[Piece]) -> list[str]:
    r"""List the groups whose bounds a name made by a template does not tell, in their order there.

    Cut from the left, a group is clear where it holds nothing that may follow it, and from the right where it
    holds nothing that may stand before it. One that is left over is all the rest, and clear too. What names
    hold is told by the pattern: one with dots, and no slash, is taken to be for names without slashes.

    >>> one, two = Group("1", r"\d+"), Group("2", r"\w+")
    >>> unclear_groups([one, "_", two], ["x", one, two]), unclear_groups([one, "_", two], [one, "/", two])
    (['1', '2'], [])

    Args:
        source: the pieces of the pattern, or of several patterns for one template.
        target: those of the template.
    """
    told = [each for piece in source for each in ((piece,) if isinstance(piece, str) else _ones(piece))]
    absent = "".join(sign for sign in _SEPARATORS if not any(sign in each for each in told if each != _ANY))
    ends = _unclear(target, absent)
    starts = _unclear([_mirrored(piece) for piece in reversed(target)], absent)
    open_keys = [key for key in ends if key in starts]
    return open_keys if len(open_keys) > 1 else []


def _mirrored(piece: Piece) -> Piece:
    return piece[::-1] if isinstance(piece, str) else piece


def _unclear(pieces: Sequence[Piece], absent: str) -> list[str]:
    """List the groups from the first whose end is not clear; those of one length are clear anywhere."""
    clear: set[str] = set()
    for at, piece in enumerate(pieces):
        if isinstance(piece, Group) and piece.key not in clear:
            if not _has_one_length(piece) and _runs_over(piece, pieces[at + 1 :], absent):
                rest = [each for each in pieces[at:] if isinstance(each, Group) and each.key not in clear]
                return [each.key for each in dict.fromkeys(rest) if not _has_one_length(each)]
            clear.add(piece.key)
    return []


def _runs_over(group: Group, after: Sequence[Piece], absent: str) -> bool:
    """Tell whether a group may hold the character that follows it."""
    for piece in after:
        if isinstance(piece, Group):
            if _share(group, piece, absent):
                return True
            if re.fullmatch(piece.inside, "") is None:
                return False
        elif piece:
            return piece[0] not in absent and _holds(group, re.escape(piece[0]), piece[0])
    return False


def _share(group: Group, other: Group, absent: str) -> bool:
    return _ones(other) != () and _holds(group, "|".join(_ones(other)), _every_character(absent))


@lru_cache(maxsize=256)
def _holds(group: Group, other: str, characters: str) -> bool:
    """Tell whether a group may hold one of these characters that the other matches too."""
    flags = re.DOTALL | (re.IGNORECASE if "(?" in group.inside.replace("(?:", "") else re.NOFLAG)
    ones = _ones(group)
    return bool(ones) and re.search(f"(?={'|'.join(ones)})(?:{other})", characters, flags) is not None


@lru_cache(maxsize=4)
def _every_character(absent: str) -> str:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    return re.sub(f"[{absent}]", "", every) if absent else every


def _ones(group: Group) -> tuple[str, ...]:
    """Give what the group's pattern says of single characters: `a|b[cd]*` of a, b, and c or d."""
    return tuple(one for one in _ONE.findall(group.inside) if one)


def _has_one_length(group: Group) -> bool:
    try:
        re.compile(f"(?<={group.inside})")  # which takes no others
    except re.error:
        return False
    return True
