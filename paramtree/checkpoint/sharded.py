"""Several `.safetensors` files and the index that lists them, as transformers writes large models.

The index, `NAME.safetensors.index.json`, says which file of its directory holds which array. New shards never
have the name of old ones, so that until the index is moved into its place the old set is whole.
"""

import json
import os
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax

from paramtree.checkpoint import safetensors
from paramtree.checkpoint.layout import Leaves, Notes, read_notes
from paramtree.checkpoint.rawfile import RawFile, open_raw
from paramtree.checkpoint.stored import Array, ReadOne, Stored
from paramtree.errors import ParamTreeError, raise_faults

SUFFIXES = (".safetensors.index.json",)

_SHARD = ".safetensors"
_MAP = "weight_map"
_METADATA = {"format": "pt"}  # transformers opens no shard without it
_LONGEST_INDEX = 100_000_000  # bytes, as the safetensors library bounds its headers


def recognises(path: Path, head: bytes) -> bool:
    """Tell whether a file is a JSON object that maps names to files."""
    if not head.lstrip().startswith(b"{") or path.stat().st_size > _LONGEST_INDEX:
        return False
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and _MAP in found


def open_file(path: Path) -> Stored:
    """Read an index, and the headers of all its shards.

    Refused are a name that its shard does not hold, one that the index does not list, and one that several
    shards hold: the index and its shards are then not of one set.

    Raises:
        ParamTreeError: where the index is damaged, names no plain files or files that are not there, or where
            a shard is damaged.
        FileChangedError: where another save replaced the index meanwhile.
    """
    with open_raw(path, SUFFIXES[0]) as file:
        index, places = _read_index(file)
        try:
            home = _home(path, places.values())
            shards = {shard: safetensors.open_file(home / shard) for shard in dict.fromkeys(places.values())}
        except (FileNotFoundError, ParamTreeError):
            file.check_in_place()  # another save may have replaced the index, and removed these shards
            raise
    holders: dict[str, list[str]] = {}
    for shard, stored in shards.items():
        for name in (*stored.specs, *stored.refused):
            holders.setdefault(name, []).append(shard)
    specs: dict[str, jax.ShapeDtypeStruct] = {}
    refused: dict[str, str] = {}
    for name in {**places, **holders}:
        held, listed = holders.get(name, []), places.get(name)
        if listed is None:
            refused[name] = f"in {' and '.join(held)}, and not listed in the index"
        elif listed not in held:
            also = f", but in {' and '.join(held)}" if held else ""
            refused[name] = f"listed in the index, and not in {listed}{also}"
        elif len(held) > 1:
            refused[name] = f"in {' and '.join(held)}, so one of these is not of this set"
        elif name in shards[listed].refused:
            refused[name] = shards[listed].refused[name]
        else:
            specs[name] = shards[listed].specs[name]
    notes = _notes_of(index.get("metadata"), shards)
    return Stored(specs, lambda: _reading(shards, places), notes, refused, parallel=True)


def _notes_of(metadata: Any, shards: Mapping[str, Stored]) -> Notes:
    """Read our notes, or the ties that other writers note in shards."""
    if isinstance(metadata, dict) and safetensors.NOTES in metadata:
        return read_notes(str(metadata[safetensors.NOTES]))
    ties = {place: tie for stored in shards.values() for place, tie in stored.notes.get("ties", {}).items()}
    listed = {name for stored in shards.values() for name in stored.specs}
    ties = {place: tie for place, tie in ties.items() if place not in listed}
    return {"ties": ties} if ties else {}


def _read_index(file: RawFile) -> tuple[dict[str, Any], dict[str, str]]:
    """Read an index; give it, and name -> shard."""
    if file.size > _LONGEST_INDEX:
        raise file.damage(f"it has {file.size} B, more than any index")
    index = safetensors.read_json(file, file.bytes_at(0, file.size))
    places = index.get(_MAP)
    if not isinstance(places, dict):
        raise file.damage(f"it has no {_MAP!r}, an object of names and files")
    bad = [f"{name!r} is said to be in {shard!r}" for name, shard in places.items() if not _is_plain(shard)]
    headline = f"{str(file.path)!r} names what is no {_SHARD} file beside it:"
    raise_faults(ParamTreeError, headline, bad)
    return index, places


def _home(path: Path, shards: Iterable[str]) -> Path:
    """Give the directory of the shards: that of the index, or of the file that it is a link to."""
    homes = [path.parent, path.resolve().parent]
    shards = list(dict.fromkeys(shards))
    # not Path.is_file, which raises for a name that is too long
    gone = [[shard for shard in shards if not os.path.isfile(home / shard)] for home in homes]
    raise_faults(
        ParamTreeError, f"{str(path)!r} names files that are not there:", gone[0] and gone[1] and gone[0]
    )
    return homes[bool(gone[0])]


def _is_plain(shard: object) -> bool:
    """Tell whether a value is the name of a shard, and leads to no other directory."""
    return (
        isinstance(shard, str) and shard.endswith(_SHARD) and not re.search(r"[/\\:\0\ud800-\udfff]", shard)
    )


@contextmanager
def _reading(shards: Mapping[str, Stored], places: Mapping[str, str]) -> Generator[ReadOne]:
    with ExitStack() as stack:
        opened = {shard: stack.enter_context(stored.reading()) for shard, stored in shards.items()}

        def read(name: str) -> Array:
            return opened[places[name]](name)

        yield read


def write(path: Path, leaves: Leaves, notes: Notes, *, shard_bytes: int = 5_000_000_000) -> None:
    """Write shards, and beside them their index.

    Args:
        path: where the index is written to; the shards' names have a part of their own in each save, so that
            they never stand for those of another.
        leaves: the arrays.
        notes: our notes, which go into the index.
        shard_bytes: no shard has more bytes of values than this, unless it holds one array alone.

    Raises:
        MismatchError: listing every array of a dtype that the format does not have.
        BadNameError: for the one name that the format keeps to itself.
        ParamTreeError: where the library does not read what is written.
    """
    safetensors.check_leaves(leaves)
    parts = _parts(leaves, shard_bytes)
    stem = f"{_stem(path)}-{uuid4().hex[:8]}"
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        shard = path.with_name(f"{stem}-{number:05}-of-{len(parts):05}{_SHARD}")
        safetensors.write_arrays(shard, {name: leaves[name] for name in part}, _METADATA)
        places |= dict.fromkeys(part, shard.name)
    total = sum(map(safetensors.leaf_bytes, leaves.values()))
    metadata = {"total_size": total, safetensors.NOTES: json.dumps(notes)}
    path.write_text(json.dumps({"metadata": metadata, _MAP: places}, indent=2))


def _stem(path: Path) -> str:
    return path.name.removesuffix(SUFFIXES[0])


def _parts(leaves: Leaves, shard_bytes: int) -> list[list[str]]:
    """Split the names, in their order, into those of each shard."""
    parts: list[list[str]] = []
    filled = 0
    for name, leaf in leaves.items():
        size = safetensors.leaf_bytes(leaf)
        if not parts or filled + size > shard_bytes:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts


def remove_old(path: Path, old: str) -> None:
    """Remove the shards of older saves, once the new index is in its place.

    These are the ones that the old index named, and those that a killed saver left. What an index of the
    directory names is kept.

    Args:
        path: the index.
        old: the text of the one before; empty where there was none.
    """
    ours = re.compile(rf"{re.escape(_stem(path))}-[0-9a-f]{{8}}-\d{{5}}-of-\d{{5}}{re.escape(_SHARD)}")
    named = {shard for each in path.parent.glob(f"*{SUFFIXES[0]}") for shard in _shards_in(text_of(each))}
    left = set(filter(ours.fullmatch, os.listdir(path.parent)))
    for shard in left.union(_shards_in(old)) - named:
        path.with_name(shard).unlink(missing_ok=True)


def text_of(path: Path) -> str:
    """Read an index; a file that is no index, or is not there, has no text."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _shards_in(index_text: str) -> Iterable[str]:
    """List the shards that an index names; a text that is no index names nothing."""
    try:
        places = json.loads(index_text)[_MAP]
        return {shard for shard in places.values() if _is_plain(shard)}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return ()
