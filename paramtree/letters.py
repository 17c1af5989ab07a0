"""Texts as a terminal shows them: some letters take two columns of it, and some none."""

from collections.abc import Iterable


def printable(text: str) -> str:
    r"""Write what would move the cursor, as in a name from a file, the way Python does.

    >>> printable("dense0/weight"), printable("\x1b[31m")
    ('dense0/weight', '\\x1b[31m')
    """
    return text if text.isprintable() else repr(text)[1:-1]


def text_width(text: str) -> int:
    """Count the columns that a text takes (Unicode Standard Annex 11).

    >>> text_width("weight"), text_width("重み"), text_width("e\u0301")
    (6, 4, 1)
    """
    return len(text) if text.isascii() else sum(map(_width, text))


def pad(text: str, width: int, *, left: bool = False) -> str:
    """Fill a text up with blanks, before it or behind it.

    >>> pad("重み", 6), pad("12", 4, left=True)
    ('重み  ', '  12')
    """
    blanks = " " * (width - text_width(text))
    return blanks + text if left else text + blanks


def cut_middle(text: str, before: int, behind: int) -> str:
    """Keep what has room in the first and in the last columns, with a mark between them.

    >>> cut_middle("encoder/weight", 3, 4), cut_middle("重み/重み", 3, 4)
    ('enc…ight', '重…重み')
    """
    if text.isascii():
        return f"{text[:before]}…{text[len(text) - behind :]}"
    return f"{_fitting(text, before)}…{_fitting(reversed(text), behind)[::-1]}"


def _fitting(letters: Iterable[str], room: int) -> str:
    kept = ""
    for letter in letters:
        room -= _width(letter)
        if room < 0:
            break
        kept += letter
    return kept


def _width(letter: str) -> int:
    import unicodedata  # few texts need it, and all would wait for it

    part_of_syllable = "\u1160" <= letter <= "\u11ff"  # of Hangul, as file systems take it apart
    if part_of_syllable or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
