"""Directories of Orbax, for trees that are spread over devices: for each its part is read and written alone.

A directory may hold one tree, as `StandardCheckpointer` and `PyTreeCheckpointer` write it, or be a step of a
`CheckpointManager` with one tree in it. Our notes stand in Orbax's own custom metadata. There are no
checksums of the values: a byte that a disk flips among these goes unnoticed.
"""

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from paramtree.checkpoint.atomic import whole_folder
from paramtree.checkpoint.layout import Leaves, Notes, dtype_fault, host_array, is_narrowed, read_notes
from paramtree.checkpoint.processes import agree, replace_folder_together
from paramtree.checkpoint.rawfile import FileChangedError
from paramtree.checkpoint.safetensors import leaf_bytes
from paramtree.checkpoint.stored import Array, ReadOne, Stored, new_array
from paramtree.errors import BadNameError, MismatchError, ParamTreeError, did_you_mean, listing, raise_faults
from paramtree.names import nest

SUFFIXES = (".orbax",)

_TREE = "_METADATA"  # stands where a tree's arrays do
_ROOT = "_CHECKPOINT_METADATA"  # stands around one tree, or several
_MANIFEST = "manifest.ocdbt"
_NOTES = "paramtree"  # the key of our notes in Orbax's custom metadata
_IN_FLIGHT = 16 << 20  # bytes that are copied to be written at a time
_SIZELESS = "sizeless"  # in the notes: name -> shape and dtype, of arrays without values, which Orbax refuses


def recognises(path: Path, head: bytes) -> bool:
    """Tell whether a directory is Orbax's, or holds some that are."""
    del head
    path = whole_folder(path)
    if not path.is_dir():
        return False
    return any((path / mark).is_file() for mark in (_TREE, _ROOT, _MANIFEST)) or bool(_below(path))


def open_file(path: Path) -> Stored:
    """Read what a directory says of its arrays.

    Raises:
        ParamTreeError: where it is damaged, holds several trees, or Orbax is not installed.
    """
    folder, specs, refused, notes = _open(path)

    @contextmanager
    def reading() -> Generator[ReadOne]:
        yield lambda name: folder.read(name, specs[name])

    return Stored(
        specs, reading, notes, refused, restore=lambda wanted: _restored(path, folder, specs, wanted)
    )


def read_sharded(path: Path, specs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Read arrays onto devices: for each device its part alone.

    Args:
        path: the directory.
        specs: name -> shape, dtype and sharding. Shape and dtype are those of the directory.

    Raises:
        ParamTreeError: where the directory is damaged, holds several trees, or Orbax is not installed.
        MismatchError: listing all that is missing, without a sharding, or of another shape or dtype.
    """
    folder, stored, _, _ = _open(path)
    return _restored(path, folder, stored, specs)


def _restored(
    path: Path,
    folder: Any,
    stored: Mapping[str, jax.ShapeDtypeStruct],
    specs: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
    faults = [fault for name, spec in specs.items() for fault in _spec_faults(name, spec, stored)]
    raise_faults(MismatchError, f"load: {str(path)!r} does not hold what is asked:", faults)
    return {
        name: jax.make_array_from_callback(
            spec.shape,
            spec.sharding,
            lambda part, name=name: folder.read(name, stored[name], part),
            spec.dtype,
        )
        for name, spec in specs.items()
    }


def write(path: Path, leaves: Leaves, notes: Notes) -> None:
    """Write arrays and notes to a directory; one that is there is replaced when the new one is whole.

    Orbax writes arrays that are spread over devices part by part, and nothing is gathered. Of several JAX
    processes all must call this: each writes its parts; what each holds alone, the first one writes.

    Raises:
        ParamTreeError: where no array has a value, Orbax is not installed, or it fails, as on a full disk.
        MismatchError: listing every array of a dtype that Orbax does not write.
        BadNameError: listing the names that Orbax would mix up.
        FileExistsError: where something else than such a directory stands in its place.
        FileNotFoundError: where the directory around it does not exist.
    """
    ocp, tensorstore = _import_orbax(path)
    sizeless = {name: [leaf.shape, leaf.dtype.name] for name, leaf in leaves.items() if not leaf.size}
    leaves = {name: leaf for name, leaf in leaves.items() if leaf.size}
    agree(lambda: _check_save(path, leaves, tensorstore))
    tree = nest({name: leaf if _is_spread(leaf) else host_array(leaf) for name, leaf in leaves.items()})
    custom = {_NOTES: json.dumps({**notes, _SIZELESS: sizeless})}

    # left alone, Orbax copies the whole tree before it writes; it refuses a leaf that is as large as its room
    room = max(_IN_FLIGHT, 1 + max(map(leaf_bytes, leaves.values())))

    def save(place: Path) -> None:
        handler = ocp.BasePyTreeCheckpointHandler(save_concurrent_bytes=room)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(handler_impl=handler)) as checkpointer:
            checkpointer.save(place, args=ocp.args.PyTreeSave(tree), custom_metadata=custom)

    try:
        replace_folder_together(path, save)
    except ValueError as error:  # TensorStore's, for a full disk too
        if isinstance(error, ParamTreeError):
            raise
        raise ParamTreeError(f"save: Orbax cannot write {str(path)!r}: {error}.") from error


def _is_spread(leaf: Any) -> bool:
    """Tell whether Orbax writes a leaf part by part; it takes none that one process of several holds."""
    return isinstance(leaf, jax.Array) and (jax.process_count() == 1 or not leaf.is_fully_addressable)


def _check_save(path: Path, leaves: Leaves, tensorstore: Any) -> None:
    _check_leaves(leaves, tensorstore)
    if not leaves:
        raise ParamTreeError("save: Orbax writes no tree without values. Save to a .safetensors file.")
    if path.exists() and not (path.is_dir() and ((path / _TREE).is_file() or not os.listdir(path))):
        raise FileExistsError(
            f"{str(path)!r} is no Orbax directory that can be replaced. Name another place."
        )


def _check_leaves(leaves: Leaves, tensorstore: Any) -> None:
    unknown = {
        dtype for dtype in {leaf.dtype for leaf in leaves.values()} if not _is_stored(dtype, tensorstore)
    }
    faults = [f"{name} is {leaf.dtype}; pt.cast it" for name, leaf in leaves.items() if leaf.dtype in unknown]
    raise_faults(MismatchError, "save: Orbax has no type for these:", faults)
    owners: dict[str, list[str]] = {}
    for name in leaves:
        owners.setdefault(name.replace("/", "."), []).append(name)
    clashes = [" and ".join(names) for names in owners.values() if len(names) > 1]
    raise_faults(BadNameError, "save: Orbax writes these as one; rename them:", clashes)


def _is_stored(dtype: Any, tensorstore: Any) -> bool:
    spec = {"driver": "zarr", "kvstore": "memory://", "metadata": {"shape": [1]}, "dtype": dtype.name}
    try:
        tensorstore.open(spec, create=True).result()
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Folder:
    """A directory with the arrays of one tree.

    Attributes:
        shown: the path that was asked for.
        path: where the tree is.
        stores: name -> TensorStore's view of the array; the arrays without values have none.
        mark: of the file that is another one when the directory is replaced.
    """

    shown: Path
    path: Path
    stores: dict[str, Any]
    mark: tuple[int, int]

    def read(self, name: str, spec: jax.ShapeDtypeStruct, part: Any = ...) -> Array:
        """Read an array, or a part of it, into memory of its own."""
        tensorstore = _import_orbax(self.shown)[1]
        if name not in self.stores:
            return new_array(spec.shape, spec.dtype)[part]
        try:
            wanted = self.stores[name][part]
            values = new_array(wanted.shape, spec.dtype)
            tensorstore.array(values).write(wanted[tensorstore.d[:].translate_to[0]]).result()
        except Exception as error:  # damaged files make TensorStore raise whatever comes
            self._check_same()
            raise _damage(self.shown, f"{name}: {error}") from error
        self._check_same()
        return values

    def _check_same(self) -> None:
        try:
            same = _mark(self.path) == self.mark
        except FileNotFoundError:
            same = False
        if not same:
            raise FileChangedError(self.shown)


def _open(path: Path) -> tuple[_Folder, dict[str, jax.ShapeDtypeStruct], dict[str, str], Notes]:
    """Read the headers: where the arrays are, what they are, what is none, and our notes."""
    tensorstore = _import_orbax(path)[1]
    place = _place(path)
    try:
        mark = _mark(place)
        known = json.loads((place / _TREE).read_text())
        keys, refused = _read_keys(known["tree_metadata"])
        specs = _array_specs(place, keys, known)
        shared = tensorstore.Context({"cache_pool#ocdbt": {"total_bytes_limit": 100_000_000}})
        opened = {
            name: tensorstore.open(spec, open=True, read=True, context=shared) for name, spec in specs.items()
        }
        stores = {name: each.result() for name, each in opened.items()}
        held = {
            name: jax.ShapeDtypeStruct(each.shape, each.dtype.numpy_dtype) for name, each in stores.items()
        }
    except Exception as error:  # damaged files make TensorStore raise whatever comes
        raise _damage(path, _told(error)) from error
    refused |= {name: fault for name, spec in held.items() if (fault := dtype_fault(spec.dtype))}
    held = {name: spec for name, spec in held.items() if name not in refused}
    notes = _read_notes(path, place)
    held |= _sizeless(path, notes.pop(_SIZELESS, {}), stores)
    return _Folder(path, place, stores, mark), held, refused, notes


def _read_keys(tree: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Read the names: name -> what Orbax calls the array, and what cannot be one of a tree."""
    keys: dict[str, str] = {}
    refused: dict[str, str] = {}
    for entry in tree.values():
        words = [str(key["key"]) for key in entry["key_metadata"]]
        name, kind = "/".join(words), entry["value_metadata"]
        if kind["skip_deserialize"]:  # None, or an empty container
            continue
        if name in keys or name in refused:
            raise ValueError(f"{name} is there twice")
        if kind["value_type"] == "string":
            refused[name] = "of type str"
        else:
            keys[name] = ".".join(words)
    return keys, refused


def _array_specs(place: Path, keys: dict[str, str], known: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Tell TensorStore where each array is: in one database of them all, or in a directory of its own."""
    driver = "zarr3" if known.get("use_zarr3") else "zarr"
    # parts that are not there are zeros in what old versions wrote, and damage otherwise
    fills = not known.get("store_array_data_equal_to_fill_value", False)
    files = {"driver": "file", "path": f"{place}/"}
    if (place / _MANIFEST).is_file():
        database = {"driver": "ocdbt", "base": files, "cache_pool": "cache_pool#ocdbt"}
        stores = {name: database | {"path": f"{key}/"} for name, key in keys.items()}
    else:
        outside = [key for key in keys.values() if ".." in key.split("/")]
        if outside:
            raise ValueError(f"{outside[0]!r} leads out of it")
        stores = {name: files | {"path": f"{place}/{key}/"} for name, key in keys.items()}
    return {
        name: {"driver": driver, "kvstore": store, "fill_missing_data_reads": fills}
        for name, store in stores.items()
    }


def _told(error: Exception) -> str:
    return f"the key {error} is missing" if isinstance(error, KeyError) else str(error)


def _read_notes(path: Path, place: Path) -> Notes:
    if not (place / _ROOT).is_file():
        return {}
    try:
        text = (json.loads((place / _ROOT).read_text()).get("custom_metadata") or {}).get(_NOTES, "{}")
    except (AttributeError, ValueError, RecursionError) as error:
        raise _damage(path, f"{_ROOT}: {error}") from error
    return read_notes(str(text))


def _sizeless(path: Path, noted: Any, stores: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    try:
        specs = {
            name: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
            for name, (shape, dtype) in noted.items()
        }
        wrong = [name for name, each in specs.items() if each.size or min(each.shape) < 0 or name in stores]
    except (AttributeError, TypeError, ValueError) as error:
        raise _damage(path, f"the notes: {error}") from error
    if wrong:
        raise _damage(path, f"the notes: {wrong[0]} is not without values")
    return specs


def _place(path: Path) -> Path:
    """Find the one tree in a directory."""
    place = whole_folder(path).resolve()
    while not (place / _TREE).is_file():
        below = _below(place)
        if not below:
            raise _damage(path, f"it has no file {_TREE!r}")
        if len(below) > 1:
            raise ParamTreeError(
                f"{str(path)!r} holds several trees: {listing(below)}. Name one of them, such as "
                f"{str(path / below[0])!r}."
            )
        place /= below[0]
    return place


def _below(path: Path) -> list[str]:
    return sorted({each.parent.name for mark in (_TREE, _ROOT) for each in path.glob(f"*/{mark}")})


def _mark(place: Path) -> tuple[int, int]:
    status = (place / _TREE).stat()
    return status.st_ino, status.st_mtime_ns


def _spec_faults(
    name: str, spec: jax.ShapeDtypeStruct, stored: Mapping[str, jax.ShapeDtypeStruct]
) -> list[str]:
    if name not in stored:
        return [f"{name} is missing.{did_you_mean(name, stored)}"]
    there = stored[name]
    if (there.shape, there.dtype) != (spec.shape, spec.dtype):
        return [f"{name} is {there.dtype}{list(there.shape)}, and {spec.dtype}{list(spec.shape)} is asked"]
    if spec.sharding is None:
        return [f"{name} is asked without a sharding"]
    return [f"{name} is {there.dtype}, which JAX would narrow"] if is_narrowed(there.dtype) else []


def _damage(path: Path, what: object) -> ParamTreeError:
    return ParamTreeError(f"{str(path)!r} is not a whole Orbax directory: {what}.")


def _import_orbax(path: Path) -> tuple[Any, Any]:
    try:
        import orbax.checkpoint as ocp
        import tensorstore
    except ImportError as error:
        raise ParamTreeError(
            f"{str(path)!r} is an Orbax directory, and orbax-checkpoint is not installed. "
            "Install it with: pip install 'paramtree-jax[orbax]'."
        ) from error
    return ocp, tensorstore
