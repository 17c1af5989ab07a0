"""Pictures of parameters, with matplotlib: histograms, images, singular values, gradient norms."""

from typing import TYPE_CHECKING, Any

from paramtree.errors import ParamTreeError, did_you_mean
from paramtree.report.plot_canvas import check_matplotlib
from paramtree.report.plot_data import read_items
from paramtree.report.plot_grads import draw_grads, read_norms
from paramtree.report.plot_hist import draw_hist
from paramtree.report.plot_image import draw_image
from paramtree.report.plot_spectrum import draw_spectrum
from paramtree.select import Select

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

KINDS = ("hist", "image", "spectrum", "grads")


def plot(
    params: Any,
    /,
    select: Select | None = None,
    kind: str = "hist",
    *,
    grads: Any = None,
    figure: "Figure | SubFigure | None" = None,
) -> "Figure | SubFigure":
    """Draw parameters; needs matplotlib.

    The figure shows by itself as the last line of a notebook's cell; `figure.savefig("net.png")` writes it.
    pyplot is not used: no figure stays open. A tied parameter is drawn once. What holds no numbers, as the
    keys of `jax.random`, is left out; the picture says so, as it does of NaN and infinite values.

    Args:
        params: any tree of parameters.
        select: which ones; all, if left out.
        kind: "hist", the histogram of each, on one scale; "image", each as an image, on one scale of colours,
            with the kernels of a convolution as tiles (named "kernel" or "w", its axes are taken as
            (*kernel, in, out), else as (out, in, *kernel)); "spectrum", the singular values of each matrix
            as they are, of a convolution those of its (out, in * kernel) matrix; "grads", the L2 norms of the
            gradients, next to those of the parameters, and their ratio.
        grads: for "grads", the gradients: a tree with the same names, or some of them.
        figure: a figure or subfigure to draw on; a new one, if left out, as large as what it shows needs.

    >>> import jax.numpy as jnp
    >>> figure = plot({"dense0": {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)}}, ".*weight")
    >>> figure.texts[0].get_text()
    'Histogram'

    Raises:
        NoMatchError: where the select hits nothing.
        MismatchError: listing every leaf without values, and all gradients that do not fit.
        UnknownNameError: listing every gradient whose parameter is not in the tree.
        ParamTreeError: for another kind, one without what it needs, and where matplotlib is not installed.
    """
    if kind not in KINDS:
        raise ParamTreeError(
            f"plot: {kind!r} is not a kind of picture.{did_you_mean(str(kind), KINDS)} "
            f"The kinds are {', '.join(KINDS)}."
        )
    if (kind == "grads") != (grads is not None):
        raise ParamTreeError(
            "plot: kind 'grads' needs the gradients: plot(params, kind='grads', grads=grads)."
            if grads is None
            else f"plot: gradients are drawn by kind 'grads', and not by {kind!r}. Pass kind='grads'."
        )
    check_matplotlib(figure)
    drawn = read_items(params, select)
    if kind == "grads":
        return draw_grads(*read_norms(params, drawn, grads), figure)
    draw = {"hist": draw_hist, "image": draw_image, "spectrum": draw_spectrum}[kind]
    return draw(drawn, figure)
