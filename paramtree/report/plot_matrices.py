"""What array of matrices, or of a convolution's kernels, a parameter stands for in a picture."""

import math
from typing import Any, NamedTuple

import numpy as np

from paramtree.names import SEPARATOR
from paramtree.report.plot_data import Array

_KERNEL = 16  # the longest side of a kernel: what is longer is the side of a matrix
_LAST = ("kernel", "w")  # keys under which libraries keep a convolution's kernels as (*kernel, in, out)


class Tiles(NamedTuple):
    """A parameter as a table of images.

    Attributes:
        images: (down, across, height, width).
        kernels: whether these are a convolution's kernels, (out, in, height, width); else they are matrices.
        text: the sizes in words.
    """

    images: Array
    kernels: bool
    text: str


def as_tiles(name: str, values: Array) -> Tiles:
    """See a parameter of two or more axes as images.

    >>> as_tiles("conv/weight", np.ones((8, 4, 3, 3))).text
    '8x4 of 3x3'
    >>> as_tiles("layers/weight", np.ones((12, 64, 32))).text
    '12 of 64x32'
    """
    if values.ndim == 2:
        return Tiles(values[None, None], False, _sizes(values.shape))
    if name.rpartition(SEPARATOR)[2] in _LAST and _are_kernels(values.shape[:-2]):
        values = np.moveaxis(values, (-1, -2), (0, 1))
    if _are_kernels(values.shape[2:]):
        out, into, *kernel = values.shape
        text = f"{out}x{into} of {_sizes(kernel)}"
        return Tiles(values.reshape(out, into, math.prod(kernel[:-1]), kernel[-1]), True, text)
    *several, rows, columns = values.shape
    text = f"{_sizes(several)} of {_sizes((rows, columns))}"
    return Tiles(values.reshape(1, math.prod(several), rows, columns), False, text)


def _are_kernels(sizes: Any) -> bool:
    return all(size <= _KERNEL for size in sizes)


def _sizes(shape: Any) -> str:
    return "x".join(map(str, shape))


def as_matrices(tiles: Tiles) -> Array:
    """Give the matrices that a parameter multiplies with: (several, rows, columns).

    >>> as_matrices(as_tiles("conv/weight", np.ones((8, 4, 3, 3)))).shape
    (1, 8, 36)
    """
    down, across, height, width = tiles.images.shape
    if tiles.kernels:
        return tiles.images.reshape(1, down, across * height * width)
    return tiles.images.reshape(down * across, height, width)


class Sheet(NamedTuple):
    """One image of tiles, with gaps between them.

    Attributes:
        values: of the image.
        gaps: true between the tiles.
        note: what part of the parameter is shown; empty where all of it is.
    """

    values: Array
    gaps: Array
    note: str = ""


def mosaic(tiles: Tiles, most: int) -> Sheet:
    """Put tiles beside and below each other, in an image of up to `most` pixels a side.

    Many rows of few kernels, as of a first layer, go on in a second column. Of what is larger, every second
    row and column of a matrix is shown, or every third and so on; of kernels, and of matrices, the first.

    >>> mosaic(as_tiles("conv/weight", np.ones((64, 64, 3, 3))), 100).note
    'first 25x25'
    """
    down, across, height, width = tiles.images.shape
    if not tiles.kernels:
        several = down * across
        side = most if several == 1 else most // 2
        steps = -(-height // side), -(-width // side)
        images = tiles.images.reshape(several, 1, height, width)[..., :: steps[0], :: steps[1]]
        note = ", ".join(filter(None, (_every(steps[0], "row"), _every(steps[1], "column"))))
    else:
        images = tiles.images[:, : max(1, (most + 1) // (width + 1))]
        note = ""
    across, height, width = images.shape[1:]
    wide = across * (width + 1) + (across > 1)  # between bands the gap is wider
    bands = max(1, min(round(math.sqrt(len(images) * (height + 1) / wide)), most // wide, len(images)))
    images = images[: bands * max(1, (most + 1) // (height + 1))]
    if images.shape[0] * images.shape[1] < down * tiles.images.shape[1]:
        first = f"first {_sizes(images.shape[:2]) if tiles.kernels else len(images)}"
        note = ", ".join(filter(None, (first, note)))
    return _assemble(images, bands, note)


def _assemble(images: Array, bands: int, note: str) -> Sheet:
    """Lay (down, across) tiles out in bands beside each other; between bands the gap is wider."""
    down, across, height, width = images.shape
    rows = -(-down // bands)
    extra = 1 if across > 1 and bands > 1 else 0
    wide = across * (width + 1) + extra
    values = np.zeros((rows * (height + 1), bands * wide), images.dtype)
    gaps = np.ones(values.shape, bool)
    for number, column in np.ndindex(down, across):
        band, row = divmod(number, rows)
        top, left = row * (height + 1), band * wide + column * (width + 1)
        place = (slice(top, top + height), slice(left, left + width))
        values[place], gaps[place] = images[number, column], False
    inside = (slice(0, -1), slice(0, -1 - extra))
    return Sheet(values[inside], gaps[inside], note)


def _every(step: int, of: str) -> str:
    return f"every {ordinal(step)} {of}" if step > 1 else ""


def ordinal(number: int) -> str:
    """Write a number as in "every 2nd".

    >>> ordinal(2), ordinal(12), ordinal(21)
    ('2nd', '12th', '21st')
    """
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ends.get(number % 10, 'th')}"
