"""Fuzz every reader with mutated files: each is loaded, or refused with an error that names it.

No other exception, no crash, no hang, no allocation far beyond the file's size, and no pickle that runs. The
files are loaded in processes of their own, so that a crash is seen, and said with the number of the file:
each number makes one file. The long run is left out of the ordinary one: `pytest -m long` does it.
"""

import faulthandler
import importlib.util
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import threading
import traceback
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import paramtree as pt
from paramtree.errors import ParamTreeError

FILES = 2000, pytest.param(100_000, marks=pytest.mark.long)
WORKERS = 2
BATCH = 5000  # files of one process: libraries keep something of each file
LONGEST = 30  # seconds that a file may take
SPARE = 1 << 30  # bytes of address space that a process may take besides what it has when it begins
GROWTH = 64 << 20  # bytes of memory that one file may take: the largest file has a few kB
MOST_CRASHES = 10
NAMELESS = re.compile("^load: (these parameters are not|the file has two values)")  # by name, of whole files
OUT_OF_MEMORY = re.compile(
    "allocation failed|allocate memory|bad_alloc|out of memory|RESOURCE_EXHAUSTED", re.IGNORECASE
)

BOMBED = "bombed"  # the directory that a pickle makes where it runs
SOURCE = str(Path(pt.__file__).parent.parent)
GOLDENS = Path(__file__).parent / "goldens"
SHARE = {"orbax": 1, "index": 6, "hdf5": 10}  # how often a kind comes: the slow ones less often
USUAL_SHARE = 16
# kinds of several files, and what is loaded
SETS = {"index": "own.safetensors.index.json", "orbax": "own.orbax"}


# --- the files that are mutated ---------------------------------------------------------------------------


def tree():
    """A tree with all that our own files can note."""
    return {
        "dense": {"weight": np.arange(6, dtype="float32").reshape(3, 2), "bias": np.ones(2, "float16")},
        "norm": {"scale": pt.Fixed(np.ones(2, jax.numpy.bfloat16)), "count": np.array(2**40)},
        "flag": np.array([True, False]),
        "sizeless": np.zeros((0, 3), "float64"),
        "tied": pt.Alias("dense/weight"),
        "turned": pt.Alias("dense/weight", transpose=True),
        "key": jax.random.key(0),
        "nothing": {},
    }


def arrays():
    """Arrays that every library writes."""
    return {
        "0.weight": np.arange(6, dtype="float32").reshape(3, 2),
        "0.bias": np.ones(2, "float16"),
        "count": np.array(2**40, "int64"),
        "sizeless": np.zeros((0, 3), "float64"),
    }


def likes(kind):
    """What a file of this kind is loaded into."""
    if kind == "equinox":
        return [np.zeros((3, 2), "float32"), np.zeros(2, "float16"), np.zeros((), "int64"), np.zeros((0, 3))]
    return tree()


class Bomb:
    """An object whose pickle makes a directory when it is read."""

    def __reduce__(self):
        return os.mkdir, (BOMBED,)


def npy(array):
    made = io.BytesIO()
    np.save(made, array, allow_pickle=True)
    return made.getvalue()


def make_own(place):
    for kind, name in (("safetensors", "own.safetensors"), ("npz", "own.npz"), ("msgpack", "own.msgpack")):
        pt.save(tree(), place(kind) / name)
    plain = {"dense": tree()["dense"], "sizeless": np.zeros((0, 3), "float64")}
    pt.save(plain, place("mxnet") / "own.params")


def make_set(place):
    """Two shards as transformers writes them, with our notes on ties in their index."""
    from safetensors.numpy import save_file

    parts = {
        "own-1.safetensors": {"a/w": np.ones((3, 2))},
        "own-2.safetensors": {"b": np.ones(2, "float16"), "c": np.ones(1)},
    }
    for shard, held in parts.items():
        save_file(held, place("index") / shard, {"format": "pt"})
    notes = {
        "version": 1,
        "ties": {"t": {"target": "a/w", "transpose": True}},
        "fixed": ["b"],
        "frozen": ["c"],
        "empty": ["e"],
    }
    places = {name: shard for shard, held in parts.items() for name in held}
    index = {"metadata": {"total_size": 60, "paramtree": json.dumps(notes)}, "weight_map": places}
    (place("index") / SETS["index"]).write_text(json.dumps(index))


def make_numpy(place):
    from safetensors.numpy import save_file

    save_file(arrays(), place("safetensors") / "library.safetensors", {"format": "pt"})
    np.savez(place("npz") / "stored.npz", **arrays())
    np.savez_compressed(place("npz") / "deflated.npz", fortran=np.ones((4, 5), order="F"), **arrays())
    np.savez(place("npz") / "hostile.npz", a=np.array([Bomb()], dtype=object), b=np.array(["text"]))
    # as Equinox writes them, but for the numbers of Python
    (place("equinox") / "numpy.eqx").write_bytes(b"".join(map(npy, arrays().values())))
    (place("equinox") / "hostile.eqx").write_bytes(npy(np.array([Bomb()], dtype=object)))
    for golden in (
        *GOLDENS.glob("fmt_*.params"),
        *GOLDENS.glob("odd_*.params"),
        *GOLDENS.glob("bad_*.params"),
    ):
        shutil.copy(golden, place("mxnet"))


def make_torch(place):
    import torch

    folder = place("torch")
    held = {name: torch.from_numpy(array) for name, array in arrays().items()}
    layer = torch.nn.Linear(3, 2, dtype=torch.bfloat16)
    more = {
        "net": layer.state_dict(), "tied": layer.weight, "turned": layer.weight.T, "list": [torch.ones(2),
    1],
        "step": 3, "sparse": torch.eye(2).to_sparse(), "phase": torch.ones(2, dtype=torch.complex64).conj(),
    }  # fmt: skip
    torch.save(held, folder / "plain.pt")
    torch.save(more, folder / "more.pth")
    torch.save(held, folder / "old.bin", _use_new_zipfile_serialization=False)
    torch.save({"w": torch.ones(2), "bomb": Bomb()}, folder / "hostile.pt")
    (folder / "hostile_old.pt").write_bytes(pickle.dumps({"bomb": Bomb()}, 2))


def make_hdf5(place):
    import h5py

    folder = place("hdf5")
    for version in ("earliest", "latest"):
        with h5py.File(folder / f"{version}.h5", "w", libver=version) as file:
            for name, array in arrays().items():
                file[f"layer/{name}"] = array
    with h5py.File(folder / "filters.h5", "w") as file:
        values = np.arange(40, dtype="float32").reshape(8, 5)
        file.create_dataset(
            "zip", data=values, chunks=(4, 5), compression="gzip", shuffle=True, fletcher32=True
        )
        file.create_dataset("lzf", data=values, chunks=(8, 5), compression="lzf")
        file["text"] = "text"
        file["again"] = file["zip"]
        file["group/loop"] = file["/"]
        file["soft"] = h5py.SoftLink("/zip")


def make_flax(place):
    from flax import serialization

    nested = {"dense": {"kernel": np.ones((2, 3), "float32"), "bias": jax.numpy.ones(3, "bfloat16")}}
    nested |= {"step": 3, "rate": 0.1, "phase": 1j, "count": np.int32(4), "list": [np.zeros(2)], "none": None}
    (place("msgpack") / "flax.msgpack").write_bytes(serialization.to_bytes(nested))


def make_equinox(place):
    import equinox

    saved = [jax.numpy.ones((3, 2)), 1.5, True, jax.numpy.ones(2, "bfloat16"), np.zeros((0, 3))]
    equinox.tree_serialise_leaves(place("equinox") / "library.eqx", saved)


def make_orbax(place):
    pt.save(tree(), place("orbax") / "own.orbax")


MAKERS = {
    "paramtree": make_own, "safetensors": make_set, "numpy": make_numpy, "torch": make_torch,
    "h5py": make_hdf5, "flax": make_flax, "equinox": make_equinox, "orbax": make_orbax,
}  # fmt: skip


def make_seeds(folder):
    """Make files of each kind whose library is here, in a directory for each kind."""

    def place(kind):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        return folder / kind

    for library, make in MAKERS.items():
        if importlib.util.find_spec(library):
            make(place)


def read_seeds(folder):
    """Give all seeds by kind: the name of what is loaded, and the bytes of each of its files."""
    seeds = {}
    for kind in sorted(path.name for path in folder.iterdir()):
        held = folder / kind
        files = {
            str(each.relative_to(held)): each.read_bytes()
            for each in sorted(held.rglob("*"))
            if each.is_file()
        }
        if kind in SETS:
            seeds[kind] = [(SETS[kind], files)]
        else:
            seeds[kind] = [(name, {name: data}) for name, data in files.items()]
    return seeds


# --- how they are mutated ---------------------------------------------------------------------------------

INTEGERS = [
    0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63,
    2**64 - 1,
]  # fmt: skip
NAMES = [
    "", "/", "..", "../x", "/etc/hostname", "C:\\x", "a\0b", "a//b", "a/", "x" * 70_000, "a/" * 3000 + "a",
    "dense", "dense/weight", "dense/weight/x", "тест/é", "\ud800", "__metadata__", "paramtree.json",
    "paramtree", "key", "__msgpack_chunked_array__", "a\nb", "own.safetensors.index.json", "data.pkl",
]  # fmt: skip
VALUES = [
    None, True, False, -1, 0, 1, 7, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 1.5, 1e308, float("nan"),
    "", [], {}, [[]], [0], [-1], [2**62, 0], [2**31, 2**31], [2**62, 4], [1] * 40, [0] * 70, [1, 0],
    [0, 2**63], [None], ["0"], {"a": {}}, "F32", "F64", "BF16", "BOOL", "F4", "F6_E2M3", "I64", "C64",
    "float32", "bfloat16", "object", "O", "float128", "fry", "rbg", "threefry2x32", "{}", "[]",
    "{\"version\": 2}", "x.safetensors", "../x.safetensors",
]  # fmt: skip
TEXTS = ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "-0", "1e999", '"\\ud800"', "nul", '"\\u0000"']
DESCRS = [
    "'|O'", "'<f4'", "'>f4'", "'<f8'", "'<f16'", "'<c32'", "'<U5'", "'|S3'", "'<M8[s]'", "'|V2'", "'|V3'",
    "'|V0'", "'|S0'", "'<i3'", "''", "'|b1'", "None", "1", "'<f1'", "'<f4,<f4'", "[('a', '<f4')]",
    "[('', '|O')]", "('<f4', (2,))", "('<f4', (1000000, 1000000))",
]  # fmt: skip
SHAPES = [
    "()", "(2,)", "(0,)", "(-1,)", "(3, -2)", "(4611686018427387904, 0)", "(9223372036854775808,)", "[2]",
    "(2147483648, 4294967296)", "(1000000000,)", "(1.0,)", "2", "None", "(True,)", "(1,) * 9", "('2',)",
    "(6L,)", f"({'1, ' * 40})", f"({'0, ' * 70})", "(" * 90 + ")" * 90, "-" * 3000 + "1", "(3, 2)",
]  # fmt: skip


def somewhere(rng, data):
    """Choose a byte, most often near the beginning or the end, where headers are."""
    size = len(data)
    near = min(size, rng.choice([16, 64, 256, 1024, size or 1]))
    at = rng.randrange(near + 1)
    return at if rng.random() < 0.7 else size - at


def flip(rng, data, other):
    at = somewhere(rng, data)
    return data[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]


def scribble(rng, data, other):
    at, size = somewhere(rng, data), rng.choice([1, 1, 2, 4, 16])
    return data[:at] + rng.randbytes(size) + data[at + size :]


def truncate(rng, data, other):
    return data[: somewhere(rng, data)]


def insert(rng, data, other):
    at = somewhere(rng, data)
    return (
        data[:at]
        + rng.choice([rng.randbytes(rng.randrange(1, 20)), bytes(rng.randrange(1, 300))])
        + data[at:]
    )


def delete(rng, data, other):
    at = somewhere(rng, data)
    return data[:at] + data[at + rng.choice([1, 2, 4, 8, 100]) :]


def repeat(rng, data, other):
    at, size = somewhere(rng, data), rng.choice([1, 4, 8, 50, 1000])
    to = rng.choice([at, somewhere(rng, data)])
    return data[:to] + data[at : at + size] * rng.choice([1, 1, 2, 50]) + data[to:]


def splice(rng, data, other):
    return data[: somewhere(rng, data)] + other[somewhere(rng, other) :]


def graft(rng, data, other):
    at, source, size = somewhere(rng, data), somewhere(rng, other), rng.choice([4, 8, 32, 200])
    return data[:at] + other[source : source + size] + data[at + size :]


def integer(rng, data, other):
    size = rng.choice([1, 2, 4, 8])
    at = somewhere(rng, data) // rng.choice([1, size]) * 1
    value = rng.choice([*INTEGERS, len(data), len(data) + 1, rng.randrange(300)])
    number = (value % 256**size).to_bytes(size, rng.choice(["little", "little", "big"]))
    return data[:at] + number + data[at + size :]


PLAIN = [
    flip,
    flip,
    scribble,
    scribble,
    truncate,
    insert,
    delete,
    repeat,
    splice,
    graft,
    integer,
    integer,
    integer,
]


def random_value(rng):
    return rng.choice(
        [
            rng.choice(VALUES),
            rng.choice(NAMES),
            rng.choice(INTEGERS),
            [rng.choice(INTEGERS) for _ in range(2)],
        ]
    )


def edit_value(rng, value):
    """Change something somewhere in what JSON holds; texts that are JSON themselves are looked into."""
    if isinstance(value, str) and value[:1] == "{" and rng.random() < 0.9:
        return json.dumps(edit_value(rng, json.loads(value)))
    if not value or not isinstance(value, dict | list) or rng.random() < 0.1:
        return random_value(rng)
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    place = rng.choice(places)
    action = rng.choice(["deeper", "deeper", "deeper", "remove", "rename", "swap"])
    changed = dict(value) if isinstance(value, dict) else list(value)
    if action == "remove":
        del changed[place]
    elif action == "rename" and isinstance(changed, dict):
        new = rng.choice([*NAMES, *places, *VALUES[-12:]])
        changed = {new if key == place else key: each for key, each in changed.items()}
    elif action == "swap":
        changed[place] = value[rng.choice(places)]
    else:
        changed[place] = edit_value(rng, value[place])
    return changed


def edit_json(rng, data, other):
    """Change the value that a JSON text holds, or put something in it that is hard to parse."""
    try:
        value = json.loads(data)
        text = json.dumps(edit_value(rng, value), ensure_ascii=rng.random() < 0.5)
    except (ValueError, RecursionError):
        return rng.choice(PLAIN)(rng, data, other)
    found = [*re.finditer(r'\d+|"[^"\\]*"|\[|\{', text)]
    if found and rng.random() < 0.1:
        match = rng.choice(found)
        text = text[: match.start()] + rng.choice([*TEXTS, match[0] * 2]) + text[match.end() :]
    if rng.random() < 0.05 and '", "' not in text:
        text = text.replace("}", f",{text[1:-1]}}}", 1)  # a key twice
    return text.encode(errors="surrogatepass")


def edit_header(rng, data, other):
    """Change the JSON of a .safetensors file, and say its new length."""
    if len(data) < 8:
        return data
    size = struct.unpack("<Q", data[:8])[0]
    header = edit_json(rng, data[8 : 8 + size], other)
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def edit_npy(rng, data, other):
    """Change the header of an .npy file, and say its new length."""
    starts = [match.start() for match in re.finditer(rb"\x93NUMPY[\1\2]\0(?=..)", data, re.DOTALL)]
    if not starts:
        return data
    at = rng.choice(starts)
    size = struct.unpack("<H", data[at + 8 : at + 10])[0]
    text = data[at + 10 : at + 10 + size].decode("latin1")
    field, values = rng.choice(
        [("descr", DESCRS), ("shape", SHAPES), ("fortran_order", ["True", "1", "None"])]
    )
    value = rng.choice(values)
    pattern = {
        "descr": r"(?<='descr': )('[^']*'|\[.*?\])",
        "shape": r"\([^)]*\)",
        "fortran_order": "False|True",
    }[field]
    text = re.sub(pattern, lambda _: value, text, count=1).rstrip()
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return (
        data[: at + 8] + struct.pack("<H", len(text) % 2**16) + text.encode("latin1") + data[at + 10 + size :]
    )


def edit_zip(rng, data, other):
    """Change an entry of a zip file, and write the file anew, with checksums that fit."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info, archive.read(info)) for info in archive.infolist()]
    except Exception:  # it was damaged by an earlier change, and zipfile raises whatever comes
        return rng.choice(PLAIN)(rng, data, other)
    if not entries:
        return data
    place = rng.randrange(len(entries))
    info, held = entries[place]
    name, method = info.filename, info.compress_type
    action = rng.choice(["hold", "hold", "hold", "hold", "name", "twice", "remove", "method"])
    if action == "hold":
        edit = edit_json if name.endswith(".json") else rng.choice([edit_npy, *PLAIN])
        held = edit(rng, held, other)
    elif action == "name":
        name = rng.choice([*NAMES[1:9], f"{rng.choice(NAMES)}.npy".replace("\ud800", "?"), "a/data.pkl"])[
            -60_000:
        ]
    elif action == "method":
        method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    new = SimpleNamespace(name=name, held=held, method=method)
    parts = [
        SimpleNamespace(name=each.filename, held=body, method=each.compress_type) for each, body in entries
    ]
    parts[place : place + 1] = {"twice": [new, new], "remove": []}.get(action, [new])
    return zipped(parts)


def zipped(parts):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for part in parts:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = part.name, part.method  # which ZipInfo would cut at a NUL
            if part.name not in archive.NameToInfo:
                archive.writestr(info, part.held)
            else:
                archive.NameToInfo.pop(part.name)  # zipfile warns of names that are there twice
                archive.writestr(info, part.held)
    return made.getvalue()


EDITS = {
    "safetensors": edit_header,
    "npz": edit_zip,
    "torch": edit_zip,
    "equinox": edit_npy,
    "index": edit_json,
    "orbax": edit_json,
}


def mutated(seeds, number):
    """Make the file of a number: its kind, the name of what is loaded, and all files by name."""
    rng = random.Random(number)
    kinds = sorted(seeds)
    kind = rng.choices(kinds, [SHARE.get(kind, USUAL_SHARE) for kind in kinds])[0]
    main, files = rng.choice(seeds[kind])
    files = dict(files)
    name = rng.choice([main, *files]) if kind == "index" else rng.choice(sorted(files))
    other = rng.choice([data for each in seeds.values() for _, held in each for data in held.values()])
    data = files[name]
    edit = EDITS.get(kind, flip)
    if name.endswith(".safetensors"):
        edit = edit_header
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        change = edit if kind in EDITS and rng.random() < 0.5 else rng.choice(PLAIN)
        data = change(rng, data, other)
    files[name] = data
    if len(files) == 1 and rng.random() < 0.1:  # content tells the format
        main = f"net{rng.choice(['.npz', '.bin', '.h5', '.eqx', '.dat', '.params', '.keras', ''])}"
        files = {main: data}
    return kind, main, files


# --- what is checked --------------------------------------------------------------------------------------


def write_files(folder, files):
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def chain(error):
    """Yield an error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def refusal_fault(error, files):
    """Say what is wrong with how a file was refused; an empty text for nothing."""
    text = str(error)
    if not any(Path(name).parts[0] in text for name in files) and not NAMELESS.search(text):
        return f"the message does not name the file: {text[:300]}"
    if any(isinstance(each, MemoryError) or OUT_OF_MEMORY.search(str(each)) for each in chain(error)):
        return f"memory was asked for, and not there: {text[:300]}"
    return ""


def load_fault(path, like, files):
    """Load a file as users do; give whether it was loaded, and what went wrong."""
    loaded, fault = refusal(path, like, files)
    if os.path.exists(BOMBED):
        os.rmdir(BOMBED)
        fault += "\na pickle ran"
    return loaded, fault


def refusal(path, like, files):
    try:
        plan = pt.plan_load(path, like)
        str(plan)
        loaded = plan.params(strict=False)
        for leaf in jax.tree.leaves(loaded):
            if not isinstance(leaf, jax.Array) or not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                np.asarray(leaf).tobytes()
    except ParamTreeError as error:
        return False, refusal_fault(error, files)
    except BaseException as error:
        return False, "".join(traceback.format_exception(error))[-3000:]
    return True, ""


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def number_fault(seeds, number, folder):
    """Load the file of a number; give its kind, whether it was loaded, and what went wrong."""
    kind, main, files = mutated(seeds, number)
    write_files(folder, files)
    like = likes(kind) if random.Random(~number).random() < (0.9 if kind == "equinox" else 0.3) else None
    before = memory()
    loaded, fault = load_fault(folder / main, like, files)
    if memory() - before > GROWTH:
        fault += f"\nit took {memory() - before} B of memory"
    return kind, loaded, fault


def work(seed_folder, folder, first, last, step):
    """Load the files of some numbers; write a line of JSON for each fault, and one for the counts."""
    faulthandler.enable()
    faulthandler.dump_traceback_later(4 * LONGEST, exit=True)
    seeds = read_seeds(seed_folder)
    for kind, held in seeds.items():  # imports what they need
        for main, files in held:
            write_files(folder / "file", files)
            loaded, fault = load_fault(
                folder / "file" / main, likes(kind) if kind == "equinox" else None, files
            )
            whole = not main.startswith(("hostile", "bad", "old", "fmt_v2_names"))
            if fault or (whole and not loaded):
                print(json.dumps([-1, kind, f"{main}, as it is, is not loaded. {fault}"]), flush=True)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + SPARE, resource.RLIM_INFINITY))
    counts = Counter()
    with open(folder / "at", "wb", buffering=0) as at:
        for number in range(first, last, step):
            os.pwrite(at.fileno(), struct.pack("<q", number), 0)
            faulthandler.dump_traceback_later(LONGEST, exit=True)
            kind, loaded, fault = number_fault(seeds, number, folder / "file")
            faulthandler.cancel_dump_traceback_later()
            counts[f"{kind} {'loaded' if loaded else 'refused'}"] += 1
            if fault:
                print(json.dumps([number, kind, fault]), flush=True)
                shutil.copytree(folder / "file", folder / f"fault{number}", dirs_exist_ok=True)
    print(json.dumps(counts), flush=True)


def run_worker(seed_folder, folder, first, last, step, faults, counts):
    """Run processes until all numbers are done; a crash is a fault of its number."""
    folder.mkdir()
    crashes = 0
    ends = range(first, last, step)
    while ends and crashes < MOST_CRASHES:
        batch = ends[:BATCH]
        command = [sys.executable, __file__, seed_folder, folder, batch[0], batch[-1] + 1, step]
        environment = {
            **os.environ,
            "PYTHONPATH": SOURCE,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            "MALLOC_ARENA_MAX": "2",
        }
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        faults += [line for line in lines if isinstance(line, list)]
        if lines and isinstance(lines[-1], dict):
            counts.update(lines[-1])
            ends = ends[BATCH:]
            continue
        crashes += 1
        at = folder / "at"
        number = struct.unpack("<q", at.read_bytes())[0] if at.exists() else batch[0]
        faults.append([number, "", f"the process ended with {done.returncode}: {done.stderr[:3000]}"])
        shutil.copytree(folder / "file", folder / f"fault{number}", dirs_exist_ok=True)
        ends = range(number + step, last, step)


@pytest.mark.parametrize("files", FILES)
def test_mutated_files_are_loaded_or_refused(tmp_path, files):
    make_seeds(tmp_path / "seeds")
    faults, counts = [], Counter()
    threads = [
        threading.Thread(
            target=run_worker,
            args=(
                tmp_path / "seeds",
                tmp_path / f"w{each}",
                each,
                files,
                WORKERS,
                faults,
                counts,
            ),
        )
        for each in range(WORKERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = "\n".join(f"number {number} {kind}: {fault}" for number, kind, fault in sorted(faults)[:20])
    assert not faults, f"{len(faults)} faults; their files are in {tmp_path}/w*/fault*\n{said}"
    assert sum(counts.values()) == files
    assert {each.split()[0] for each in counts if each.endswith(" loaded")} == set(
        os.listdir(tmp_path / "seeds")
    )


def test_no_pickle_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_seeds(tmp_path / "seeds")
    hostile = sorted(tmp_path.glob("seeds/*/hostile*"))
    assert len(hostile) >= 2
    for file in hostile:
        with pytest.raises(ParamTreeError, match=file.name):
            pt.load(file, [np.zeros(1)] if file.suffix == ".eqx" else None)
        assert not Path(BOMBED).exists(), file
    pickle.loads(pickle.dumps(Bomb()))
    assert Path(BOMBED).exists()  # so the files are what they are said to be


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
