"""What the tables of reports have in common: how numbers are written."""

import math
from collections.abc import Sequence
from typing import Any

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_BARS = " ▁▂▃▄▅▆▇█"


def bytes_text(count: Any) -> str:
    """Write a number of bytes in the unit that fits; a symbol stays one.

    >>> bytes_text(12), bytes_text(4_900), bytes_text(3 << 20), bytes_text(1_048_575)
    ('12 B', '4.79 KiB', '3.00 MiB', '1.00 MiB')
    """
    if not isinstance(count, int):
        return f"{count} B"
    size, unit = float(count), 0
    # 1,048,575 bytes are 1.00 MiB, and not 1,024 KiB
    while float(f"{size:.3g}" if size < 1000 else f"{size:.0f}") >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    if not unit:
        return f"{count} B"
    digits = 2 if size < 10 else 1 if size < 100 else 0
    return f"{size:,.{digits}f} {_UNITS[unit]}"


def count_text(count: Any) -> str:
    """Write a whole number with its thousands apart; a symbol stays one.

    >>> count_text(12_000), count_text("256*features")
    ('12,000', '256*features')
    """
    return f"{count:,}" if isinstance(count, int) else str(count)


def elements_text(count: Any) -> str:
    """Count elements in words.

    >>> elements_text(1), elements_text(12_000)
    ('1 element', '12,000 elements')
    """
    return f"{count_text(count)} element{'' if count == 1 else 's'}"


def number_text(number: float | int | None) -> str:
    """Write a number to three digits, and none as nothing; small whole numbers are whole.

    >>> number_text(0.012345), number_text(1234567.0), number_text(None), number_text(12_345)
    ('0.0123', '1.23e+06', '', '12345')
    """
    if number is None:
        return ""
    return str(number) if isinstance(number, int) and abs(number) < 100_000 else f"{float(number):.3g}"


def share_text(part: int, whole: int) -> str:
    """Write a share in per cent: nothing for none, and 100% for nothing but all.

    >>> share_text(1, 3), share_text(0, 3), share_text(3, 3), share_text(1, 10**6)
    ('33%', '', '100%', '<1%')
    """
    if not part:
        return ""
    percent = round(100 * part / whole)
    if part < whole and percent in (0, 100):
        return ">99%" if percent else "<1%"
    return f"{percent}%"


def bars_text(bins: Sequence[int]) -> str:
    """Draw a histogram with blocks of text; what holds anything is seen.

    >>> bars_text([0, 1, 4, 8])
    ' ▁▄█'
    """
    most = max(bins, default=0)
    if not most:
        return ""
    steps = len(_BARS) - 1
    return "".join(_BARS[math.ceil(steps * count / most)] for count in bins)


def spec_text(spec: Any) -> str:
    """Write a PartitionSpec in short: for each size the mesh axes that it is spread over.

    >>> from jax.sharding import PartitionSpec
    >>> [spec_text(PartitionSpec(*entries)) for entries in (["data", None], [("x", "y")], [])]
    ['data, -', 'x+y', 'replicated']
    """
    axes = ["+".join(map(str, each)) if isinstance(each, tuple) else str(each or "") for each in spec]
    return ", ".join(each or "-" for each in axes) if any(axes) else "replicated"


def json_number(number: float | int | None) -> float | int | str | None:
    """Give a number as JSON can hold it: one that is not finite as a text.

    >>> json_number(0.5), json_number(float("inf")), json_number(None)
    (0.5, 'inf', None)
    """
    return str(number) if isinstance(number, float) and not math.isfinite(number) else number
