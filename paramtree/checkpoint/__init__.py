"""Save a tree to a file, and load it back bit for bit, ties and constants included."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paramtree.checkpoint import mxnet, npz, safetensors
from paramtree.checkpoint.atomic import replace_file
from paramtree.checkpoint.fit import fit
from paramtree.checkpoint.layout import join_parts, split_parts
from paramtree.errors import ParamTreeError

_FORMATS: dict[str, Any] = {".safetensors": safetensors, ".npz": npz, ".params": mxnet}  # write and read


def save(params: dict[str, Any], file: str | os.PathLike[str], /) -> None:
    """Save a tree to a `.safetensors` or `.npz` file, or to a `.params` file for MXNet.

    Every array is written once, under the name where it lives; ties and fixed marks go into the file's
    metadata. MXNet's format has none: `checkpoint.mxnet.write` says what becomes of them there. The file is
    written beside its place, flushed to the disk and moved there in one step, so that a crash leaves either
    the old file or the new one.

    >>> import tempfile, jax.numpy as jnp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"dense0": {"bias": jnp.ones(2)}}, f"{folder}/net.safetensors")
    ...     load(f"{folder}/net.safetensors")
    {'dense0': {'bias': Array([1., 1.], dtype=float32)}}

    Raises:
        ParamTreeError: for a suffix that is no known format.
        MismatchError: listing every leaf that is not an array, or of a dtype that the format does not have.
        BadNameError: where the tree is not made of dicts with keys that can be names in the file.
        TieError: for a tie that leads nowhere, or out of this tree.
        FileNotFoundError: where the directory does not exist.
    """
    if not isinstance(file, str | os.PathLike):
        raise ParamTreeError(f"save takes the params, then the file; and got a {type(file).__name__} there.")
    path = Path(file)
    form = _format(path)
    arrays, notes = split_parts(params)
    replace_file(path, lambda place: form.write(place, arrays, notes))


def load(
    file: str | os.PathLike[str],
    /,
    *,
    like: Any = None,
    rename: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Load a tree from a `.safetensors` or `.npz` file, or from a `.params` file of MXNet.

    Arrays come back as JAX arrays, but for the 64-bit ones that JAX would narrow: these stay NumPy arrays.
    Of a `.params` file Gluon's names are the keys: `0.weight` is one, in a flat dict.

    Args:
        file: its path.
        like: params or specs to fill: the tree that comes back is like this one, ties and constants included,
            and the file must hold all of it and nothing else, but for names that it ties to others. A tied
            parameter may have any of its names in the file, or several with one value.
        rename: with `like`, names in the file -> names in the tree: `pt.bind(net, like).positional_names()`
            for a file of Gluon.

    Raises:
        ParamTreeError: for a suffix that is no known format, or a file that is not of its format.
        MismatchError: listing all that does not fit `like`.
        FileNotFoundError: where there is no such file.
    """
    path = Path(file)
    form = _format(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r} to load.")
    tree = join_parts(*form.read(path))
    if like is None and rename is not None:
        raise ParamTreeError("load: rename= goes with like=, the tree to fill. pt.rename changes any tree.")
    if not isinstance(rename or {}, Mapping):
        raise ParamTreeError(f"load: rename= is a dict {{name in the file: name}}, and not {rename!r}.")
    return tree if like is None else fit(tree, like, rename or {})


def _format(path: Path) -> Any:
    if path.suffix not in _FORMATS:
        raise ParamTreeError(f"{str(path)!r} is of no known format. End its name in {' or '.join(_FORMATS)}.")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory. Name a file.")
    return _FORMATS[path.suffix]
