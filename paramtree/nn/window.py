"""Windows that slide over the spatial axes of an input, as those of convolutions and pools do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from paramtree import display
from paramtree.errors import MismatchError, ParamTreeError
from paramtree.nn.checks import channel_axis, check_rank, check_sizes
from paramtree.scope import Scope

Pads = tuple[tuple[Any, Any], ...]  # before and after, an entry an axis; of symbolic inputs also symbols

_AXES = {"N": "batch", "D": "depth", "H": "height", "W": "width", "C": "channels"}


@dataclass(frozen=True)
class Window:
    """A window that slides over the spatial axes of an input; its settings have an entry for each axis.

    Attributes:
        sizes: the sizes of the window.
        strides: how far it moves.
        padding: (before, after) pairs, or "SAME", which XLA turns into pairs when it knows the input's size.
        dilation: how far its elements lie apart.
        channel_axis: the axis of the channels, 1 or -1.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    channel_axis: int

    @property
    def reach(self) -> tuple[int, ...]:
        """How much of an input the window covers."""
        return tuple(step * (size - 1) + 1 for step, size in zip(self.dilation, self.sizes, strict=True))

    @property
    def layout(self) -> str:
        """The letters of an input's axes."""
        axes = "DHW"[-len(self.sizes) :]
        return f"NC{axes}" if self.channel_axis == 1 else f"N{axes}C"

    @property
    def dimension_numbers(self) -> tuple[str, str, str]:
        """What `jax.lax` calls the axes of a convolution's input, weight and output."""
        return self.layout, "OI" + "DHW"[-len(self.sizes) :], self.layout

    def spread(self, entries: Sequence[Any], fill: Any) -> tuple[Any, ...]:
        """Place the entries of the spatial axes among those of the batch and the channels."""
        return (fill, fill, *entries) if self.channel_axis == 1 else (fill, *entries, fill)

    def spatial(self, x: jax.Array) -> tuple[Any, ...]:
        """Give the sizes of the spatial axes of an input.

        Raises:
            MismatchError: of an input of another rank; the caller asks `check` first.
        """
        return x.shape[2:] if self.channel_axis == 1 else x.shape[1:-1]

    def check_rank(self, scope: Scope, x: jax.Array) -> None:
        """Check that an input has as many axes as the window needs, and something to slide over.

        Raises:
            MismatchError: where it has not.
        """
        check_rank(scope, x, len(self.layout), f"({', '.join(_AXES[axis] for axis in self.layout)})")
        check_not_empty(scope, self.spatial(x))

    def check(self, scope: Scope, x: jax.Array) -> None:
        """Check that the window fits into a padded input.

        Raises:
            MismatchError: where it does not, or the input has another rank.
        """
        self.check_rank(scope, x)
        if isinstance(self.padding, str):
            return  # "SAME" pads as much as the window needs
        sizes = zip(self.spatial(x), self.padding, strict=True)
        padded = [size + before + after for size, (before, after) in sizes]
        if any(
            isinstance(size, int) and size < least for size, least in zip(padded, self.reach, strict=True)
        ):
            raise MismatchError(
                f"{scope.called()} needs spatial axes of at least {display.shape_text(self.reach)} with "
                f"padding, and got {display.shape_text(padded)}."
            )

    def texts(self, usual_strides: Sequence[int]) -> list[str]:
        """Name the sizes, and of the other settings those that are not the usual ones."""
        before_after = [] if isinstance(self.padding, str) else self.padding
        pads = [f"{before}" if before == after else f"{before}+{after}" for before, after in before_after]
        said = {
            times(self.sizes): True,
            f"stride {per_axis(self.strides)}": self.strides != usual_strides,
            f"pad {per_axis(pads)}" if pads else "same": set(pads) != {"0"},
            f"dilation {per_axis(self.dilation)}": set(self.dilation) != {1},
            self.layout: self.channel_axis == 1,
        }
        return [text for text, unusual in said.items() if unusual]


def make_window(
    layer: str, what: str, sizes: Any, strides: Any, padding: Any, layout: Any, dilation: Any = 1
) -> Window:
    """Check a layer's settings, and make a window of them.

    Args:
        layer: how messages name the layer.
        what: how the layer calls `sizes`.
        sizes: an integer for two axes, or one for each of one to three axes.
        strides: an integer, or one for each axis.
        padding: an integer; one, or a pair, for each axis; "same" or "valid".
        layout: where the channels are.
        dilation: an integer, or one for each axis.

    >>> make_window("Conv", "kernel", 3, 1, "same", "NHWC").layout
    'NHWC'

    Raises:
        ParamTreeError: for a setting that is not valid.
    """
    rank = len(sizes) if isinstance(sizes, Sequence) else 2
    if not 1 <= rank <= 3:
        raise ParamTreeError(
            f"{layer} needs {what} to be an integer, or one for each of 1 to 3 axes, and got {sizes!r}."
        )
    sizes = check_sizes(layer, what, sizes, rank)
    return Window(
        sizes,
        check_sizes(layer, "stride", strides, rank),
        _padding(layer, padding, rank),
        check_sizes(layer, "dilation", dilation, rank),
        channel_axis(layer, layout, rank),
    )


def _padding(layer: str, padding: Any, rank: int) -> str | tuple[tuple[int, int], ...]:
    if isinstance(padding, str) and padding.upper() == "SAME":
        return "SAME"
    if isinstance(padding, str) and padding.upper() == "VALID":
        padding = 0
    each = padding if isinstance(padding, Sequence) else (padding,) * rank
    if isinstance(padding, str) or len(each) != rank:
        raise ParamTreeError(
            f"{layer} needs padding to be an integer, one or a pair (before, after) for each axis, here "
            f"{rank}, 'same' or 'valid', and got {padding!r}."
        )
    pairs = [check_sizes(layer, "the padding of an axis", pads, 2, least=0) for pads in each]
    return tuple((before, after) for before, after in pairs)


def check_not_empty(scope: Scope, sizes: Iterable[Any]) -> None:
    """Check that no spatial axis of an input is empty; the batch may be.

    Raises:
        MismatchError: where one is.
    """
    if any(isinstance(size, int) and size == 0 for size in sizes):
        raise MismatchError(f"{scope.called()} needs an input whose spatial axes are not empty.")


def times(sizes: Iterable[Any]) -> str:
    """Write sizes as people do.

    >>> times((3, 5))
    '3x5'
    """
    return "x".join(map(str, sizes))


def per_axis(entries: Sequence[Any]) -> str:
    """Write a setting of each axis, once where all are the same.

    >>> per_axis((2, 2)), per_axis((2, 1))
    ('2', '2x1')
    """
    return times(entries) if len(set(entries)) > 1 else str(entries[0])
