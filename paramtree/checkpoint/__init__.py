"""Save a tree to a file, and load it back bit for bit: planned, reported, renamed, never half."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from paramtree.checkpoint.export import rename_leaves
from paramtree.checkpoint.formats import save_file
from paramtree.checkpoint.layout import split_parts
from paramtree.checkpoint.plan import LoadPlan, plan_load, settled
from paramtree.checkpoint.rawfile import FileChangedError
from paramtree.checkpoint.rows import Row
from paramtree.errors import ParamTreeError
from paramtree.select import Rules, Select

__all__ = ["LoadPlan", "Row", "load", "plan_load", "save"]

_TRIES = 10  # times that a file is read which is replaced while it is read


def save(params: Any, file: str | os.PathLike[str], /, *, rename: Any = None) -> None:
    """Save a tree to a file of the format that its suffix names.

    `.safetensors` (and `.safetensors.index.json`, in shards of 5 GB), `.npz`, `.params` for MXNet, `.msgpack`
    as flax writes it, and `.orbax`, a directory, into which each device's part is written alone. Every array
    is written once, under the name where it lives; ties and fixed marks go into the file's metadata (MXNet's
    format has none: `checkpoint.mxnet.write` says what becomes of them there). The file is written beside its
    place, flushed to the disk and moved there in one step, so that a crash leaves either the old file or the
    new one. Besides the tree itself it takes the memory of one leaf.

    Of several JAX processes all save an `.orbax` directory together, each its parts, and return when it is
    whole. Any other file is written by the process that saves; arrays spread over several are refused.

    >>> import tempfile, jax.numpy as jnp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"dense0": {"bias": jnp.ones(2)}}, f"{folder}/net.safetensors")
    ...     load(f"{folder}/net.safetensors")
    {'dense0': {'bias': Array([1., 1.], dtype=float32)}}

    Args:
        params: the tree: nested dicts, or a tree of another library, whose functions are left out.
        file: its path.
        rename: rules from names in the tree to names in the file, as in `pt.renaming`; of rules that are for
            loading, `pt.renaming.invert` makes those for saving.

    Raises:
        ParamTreeError: for a suffix that is no known format.
        MismatchError: listing every leaf that is not an array, or of a dtype that the format does not have.
        RuleError: listing every rule of `rename` that hits nothing.
        BadNameError: listing names that the file cannot hold, or that two parameters would share there.
        TieError: for a tie that leads nowhere, or out of this tree.
        FileNotFoundError: where the directory does not exist.
    """
    if not isinstance(file, str | os.PathLike):
        raise ParamTreeError(f"save takes the params, then the file; and got a {type(file).__name__} there.")
    leaves, notes = split_parts(params)
    if rename is not None:
        leaves, notes = rename_leaves(leaves, notes, rename)
    save_file(Path(file), leaves, notes)


def load(
    file: str | os.PathLike[str],
    /,
    like: Any = None,
    select: Select | None = None,
    rename: Any = None,
    cast: Rules | None = None,
    *,
    strict: bool | Collection[str] = True,
) -> Any:
    """Load a tree from a file: `plan_load` and its `params` in one.

    The format is told by the file's content: all that `save` writes, PyTorch's `.pt`, Keras' `.h5`, Equinox'
    `.eqx`. Arrays come back as JAX arrays, but for the 64-bit ones that JAX would narrow: these stay NumPy
    arrays. Nothing is cast, dropped, broadcast or left as it was unless an argument says so.

    Args:
        file: its path.
        like: params or specs to fill: the tree that comes back is like this one, of its types, with its ties
            and fixed marks, and on its devices. A tied parameter may have any of its names in the file, or
            several with one value. Without it the tree is the file's own.
        select: the parameters that are loaded; only their bytes are read, where the format allows it.
        rename: rules from names in the file to names in the tree: see `plan_load` and `pt.renaming`.
        cast: rules from names in the tree to dtypes.
        strict: see `LoadPlan.params`.

    Raises:
        ParamTreeError: for a file of no known format, or a damaged one, and as `plan_load` does.
        MismatchError: with the whole table, where anything is unresolved.
        FileNotFoundError: where there is no such file.
    """
    select, rename, cast = settled(select, rename, cast)
    for _ in range(_TRIES):
        with suppress(FileChangedError):  # another program has saved it meanwhile
            return plan_load(file, like, select, rename, cast).params(strict=strict)
    return plan_load(file, like, select, rename, cast).params(strict=strict)
