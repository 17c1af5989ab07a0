"""MessagePack's encoding: values are read without what they hold, and encoded as short as can be."""

import struct
from typing import Any, NamedTuple

from paramtree.checkpoint.rawfile import RawFile
from paramtree.errors import ParamTreeError

_PLAIN = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q", 0xD0: "b", 0xD1: "h", 0xD2: "i",
    0xD3: "q",
}  # fmt: skip
_FIXED = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_FIXED_MARKS = {size: mark for mark, size in _FIXED.items()}
_SIZED = {  # an extension's kind is its code, which follows
    0xC4: ("bytes", "B"), 0xC5: ("bytes", "H"), 0xC6: ("bytes", "I"), 0xC7: ("", "B"), 0xC8: ("", "H"),
    0xC9: ("", "I"), 0xD9: ("text", "B"), 0xDA: ("text", "H"), 0xDB: ("text", "I"), 0xDC: ("list", "H"),
    0xDD: ("list", "I"), 0xDE: ("map", "H"), 0xDF: ("map", "I"),
}  # fmt: skip
_SHORT = {"map": (0x80, 16), "list": (0x90, 16), "text": (0xA0, 32)}  # one byte with the count
_LONG = {  # a mark for each width of the count
    "map": {"H": 0xDE, "I": 0xDF}, "list": {"H": 0xDC, "I": 0xDD}, "text": {"B": 0xD9, "H": 0xDA, "I": 0xDB},
    "bytes": {"B": 0xC4, "H": 0xC5, "I": 0xC6}, "extension": {"B": 0xC7, "H": 0xC8, "I": 0xC9},
    "integer": {"B": 0xCC, "H": 0xCD, "I": 0xCE, "Q": 0xCF},
}  # fmt: skip
_WINDOW = 256  # bytes read at a time, as most of a file is stepped over


class Packed(NamedTuple):
    """Something that takes up bytes, which were stepped over, or items, which come next.

    Attributes:
        kind: "map" or "list", "text" or "bytes", or the code of an extension.
        size: of a map or list its items; else its bytes.
        start: where its bytes begin.
    """

    kind: str | int
    size: int
    start: int


class Source:
    """A file of MessagePack's, read from front to back.

    Attributes:
        at: the byte where the next value begins.
    """

    def __init__(self, file: RawFile) -> None:
        self.file = file
        self.at = 0
        self._window = b""
        self._begin = 0

    def damage(self, at: int, found: str) -> ParamTreeError:
        """Make the error that tells what is wrong, and at which byte."""
        return self.file.damage(f"at byte {at}: {found}")

    def value(self) -> Any:
        """Read what comes next: None, a number, or something packed.

        Raises:
            ParamTreeError: where the file is damaged.
        """
        at = self.at
        mark = self._take(1)[0]
        if mark < 0x80 or mark >= 0xE0:
            return mark if mark < 0x80 else mark - 0x100
        if mark < 0xC0:
            kind, mask = ("map", 15) if mark < 0x90 else ("list", 15) if mark < 0xA0 else ("text", 31)
            return self._packed(kind, mark & mask)
        if mark in _PLAIN:
            return _PLAIN[mark]
        if mark in _NUMBERS:
            return self._number(_NUMBERS[mark])
        if mark in _FIXED:
            return self._packed(self._number("b"), _FIXED[mark])
        if mark in _SIZED:
            kind, form = _SIZED[mark]
            size = self._number(form)
            return self._packed(kind or self._number("b"), size)
        raise self.damage(at, f"the mark {mark:#x}, which MessagePack does not have")

    def text(self, packed: Packed) -> str:
        """Read a text that was stepped over.

        Raises:
            ParamTreeError: where it is not UTF-8.
        """
        back, self.at = self.at, packed.start
        try:
            return self._take(packed.size).decode()
        except UnicodeDecodeError as error:
            raise self.damage(packed.start + error.start, "a text that is not UTF-8") from error
        finally:
            self.at = back

    def _packed(self, kind: str | int, size: int) -> Packed:
        return Packed(kind, size, self.at if kind in ("map", "list") else self._skip(size))

    def _skip(self, size: int) -> int:
        left = self.file.size - self.at
        if size > left:
            raise self.damage(self.at, f"expected {size} B, and found the end of the file after {left} B")
        self.at += size
        return self.at - size

    def _take(self, size: int) -> bytes:
        start = self._skip(size)
        if not self._begin <= start <= self.at <= self._begin + len(self._window):
            self._window = self.file.bytes_at(start, min(max(size, _WINDOW), self.file.size - start))
            self._begin = start
        return self._window[start - self._begin : self.at - self._begin]

    def _number(self, form: str) -> Any:
        return struct.unpack(f">{form}", self._take(struct.calcsize(form)))[0]


def head(kind: str, count: int) -> bytes:
    r"""Encode the kind of what follows, and how much of it there is.

    >>> head("map", 3), head("text", 40), head("bytes", 1000)
    (b'\x83', b'\xd9(', b'\xc5\x03\xe8')
    """
    base, limit = _SHORT.get(kind, (0, 0))
    if count < limit:
        return bytes([base + count])
    if kind == "extension" and count in _FIXED_MARKS:
        return bytes([_FIXED_MARKS[count]])
    return _marked(kind, count)


def text(value: str) -> bytes:
    r"""Encode a text.

    >>> text("abc")
    b'\xa3abc'
    """
    encoded = value.encode()
    return head("text", len(encoded)) + encoded


def integer(value: int) -> bytes:
    r"""Encode an integer that is not negative.

    >>> integer(5), integer(300)
    (b'\x05', b'\xcd\x01,')
    """
    return bytes([value]) if value < 0x80 else _marked("integer", value)


def _marked(kind: str, count: int) -> bytes:
    marks = _LONG[kind].items()
    form, mark = next((form, mark) for form, mark in marks if count < 256 ** struct.calcsize(f">{form}"))
    return struct.pack(f">B{form}", mark, count)
