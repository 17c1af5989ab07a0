"""The formats read and written here: headers first, then each array alone; and whatever is wrong is said."""

import json
import os
import struct
import threading
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy as stock

import paramtree as pt
from paramtree.checkpoint import atomic, mxnet, npz, rawfile, safetensors, sharded
from paramtree.checkpoint.atomic import replace_set

FORMATS = {"safetensors": safetensors, "npz": npz, "params": mxnet}
every = pytest.mark.parametrize("form", FORMATS)
ALL_DTYPES = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16",
    "float32", "float64", "complex64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu",
]  # fmt: skip
LEAVES = {
    "z.wide": np.arange(6, dtype="float64").reshape(2, 3),
    "a/w": np.arange(6, dtype="int32"),
    "a/half": np.arange(4, dtype="float32").astype(ml_dtypes.bfloat16).reshape(4, 1),
    "flag": np.array([True, False, True]),
    "long": np.array([2**40, -1]),
    "scalar": np.array(3, "float32"),
    "none": np.zeros((0, 3), "float16"),
}
ODD_NAMES = ["..", "../../x", "\0", "a\0b", "x" * 10_000, "名前", "é", "e\u0301", "a\\b", ".npy", "C:x", "\n"]


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def read_all(stored):
    with stored.reading() as read:
        return {name: read(name) for name in stored.specs}


def same(found, wanted):
    assert list(found) == list(wanted)
    for name, array in found.items():
        value = np.asarray(wanted[name])
        assert (array.dtype, array.shape) == (value.dtype.newbyteorder("="), value.shape), name
        assert array.tobytes() == value.astype(array.dtype).tobytes(), name


def written(form, leaves, folder, notes=None):
    file = folder / f"x.{form}"
    FORMATS[form].write(file, leaves, notes or {})
    return file


def bytes_read():
    """The bytes that this process has read so far."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:
        pytest.skip("this system does not count what is read")
    return int(text.split("rchar: ")[1].split()[0])


def peak_of(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Made:
    """A leaf whose values are made when they are asked for."""

    def __init__(self, shape, dtype="float32"):
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __array__(self, dtype=None, copy=None):
        return np.ones(self.shape, self.dtype)


# --- what holds for every format ----------------------------------------------------------------------------


@every
def test_what_is_written_is_read(form, tmp_path):
    stored = FORMATS[form].open_file(written(form, LEAVES, tmp_path))
    wanted = {name.replace("/", ".") if form == "params" else name: leaf for name, leaf in LEAVES.items()}
    if form == "safetensors":  # wide dtypes first
        order = ["long", "z.wide", "a/w", "scalar", "a/half", "none", "flag"]
        wanted = {name: wanted[name] for name in order}
    assert (stored.refused, stored.by_position) == ({}, False)
    assert {name: (spec.shape, spec.dtype) for name, spec in stored.specs.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in wanted.items()
    }
    same(read_all(stored), wanted)


@every
def test_arrays_have_memory_of_their_own(form, tmp_path):
    file = written(form, LEAVES, tmp_path)
    stored = FORMATS[form].open_file(file)
    with stored.reading() as read:
        for name in [*reversed(stored.specs), *stored.specs]:  # in any order, and again
            first, second = read(name), read(name)
            assert first.tobytes() == second.tobytes()
            assert not np.may_share_memory(first, second)
            assert first.flags.writeable
            assert first.flags.c_contiguous
            assert first.ctypes.data % 64 == 0 or not first.size  # what JAX takes over without a copy
    file.unlink()
    same(read_all_again(form, stored, file), {})


def read_all_again(form, stored, file):
    text = f"{str(file)!r} has changed, or is gone, since its headers were read. Load it again."
    assert message(rawfile.FileChangedError, lambda: read_all(stored)) == text
    return {}


@every
def test_a_file_that_was_replaced_is_not_mixed_with_the_old_one(form, tmp_path):
    file = written(form, LEAVES, tmp_path)
    stored = FORMATS[form].open_file(file)
    (tmp_path / "new").mkdir()
    os.replace(
        written(form, {name: leaf for name, leaf in LEAVES.items() if leaf.size}, tmp_path / "new"), file
    )
    read_all_again(form, stored, file)


@every
def test_a_file_cut_while_it_is_read(form, tmp_path):
    file = written(form, {"w": np.ones(100_000, "float32")}, tmp_path)
    with FORMATS[form].open_file(file).reading() as read:
        os.truncate(file, 1000)
        kind = pt.ParamTreeError if form == "npz" else rawfile.FileChangedError
        assert message(kind, lambda: read("w")) == (
            f"'{file}' is not a whole .npz file: an entry ends too early."
            if form == "npz"
            else f"'{file}' has changed, or is gone, since its headers were read. Load it again."
        )


@every
@pytest.mark.parametrize("swapped", [False, True])
def test_leaves_of_any_layout(form, swapped, tmp_path):
    base = np.arange(24, dtype=">f4" if swapped else "<f4").reshape(4, 6)
    leaves = {
        "fortran": np.asfortranarray(base),
        "jax": jnp.ones(2),
        "strided": base[::2, ::-3],
        "turned": base.T,
    }
    same(read_all(FORMATS[form].open_file(written(form, leaves, tmp_path))), leaves)


@every
def test_writing_takes_the_memory_of_one_leaf(form, tmp_path):
    leaves = {f"{number:02}": Made((250_000,)) for number in range(20)}
    file = tmp_path / f"x.{form}"
    assert peak_of(lambda: FORMATS[form].write(file, leaves, {})) < 2_500_000
    stored = FORMATS[form].open_file(file)
    assert [spec.shape for spec in stored.specs.values()] == [(250_000,)] * 20
    with stored.reading() as read:
        assert peak_of(lambda: [read(name).sum() for name in stored.specs]) < 3_300_000


@every
def test_opening_reads_headers_and_reading_one_array_reads_that_one(form, tmp_path):
    file = written(form, {f"{number}": Made((1_000_000,)) for number in range(5)}, tmp_path)
    FORMATS[form].open_file(file)  # imports what it needs
    start = bytes_read()
    stored = FORMATS[form].open_file(file)
    opened = bytes_read()
    assert opened - start < 50_000
    with stored.reading() as read:
        assert read("3").sum() == 1_000_000
    assert 4_000_000 <= bytes_read() - opened < 4_050_000


def zip_of_zeros(file, size):
    """Make an .npz file of one array of bytes that take no place on the disk."""
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % size
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) + 1) + head + b"\n"
    size += len(head)
    common = struct.pack("<5H3L2H", 20, 0, 0, 0, 33, 0, size, size, 5, 0)
    with file.open("wb") as out:
        out.write(b"PK\3\4" + common + b"w.npy" + head)
        out.seek(35 + size)
        out.write(b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<3H2L", 0, 0, 0, 0, 0) + b"w.npy")
        out.write(b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, 51, 35 + size, 0))


@every
def test_a_huge_file_is_opened_by_its_headers(form, tmp_path):
    size = 3 * 2**30 if form == "npz" else 10 * 2**30  # a plain zip file ends at 4 GiB
    file = tmp_path / f"x.{form}"
    if form == "npz":
        zip_of_zeros(file, size)
    elif form == "safetensors":
        file.write_bytes(with_header({"w": entry("U8", [size], 0, size)}, b""))
        os.truncate(file, file.stat().st_size + size)
    else:
        head = struct.pack("<3Q", 0x112, 0, 1) + struct.pack("<Iiiq3i", 0xF993FAC9, 0, 1, size, 1, 0, 3)
        file.write_bytes(head)
        with file.open("r+b") as out:
            out.seek(len(head) + size)
            out.write(struct.pack("<QQ", 1, 1) + b"w")
    start = bytes_read()
    assert FORMATS[form].open_file(file).specs == {"w": jax.ShapeDtypeStruct((size,), np.uint8)}
    assert bytes_read() - start < 50_000


@every
def test_odd_names_are_keys_and_never_paths(form, tmp_path):
    arrays = {name: np.full(2, number, "float32") for number, name in enumerate([*ODD_NAMES, "/etc/x"])}
    if form == "params":
        del arrays["/etc/x"]  # has an empty key
    file = foreign(form, arrays, tmp_path)
    stored = FORMATS[form].open_file(file)
    assert set(stored.specs) == set(arrays)
    with stored.reading() as read:
        for name, array in arrays.items():
            np.testing.assert_array_equal(read(name), array)
    assert os.listdir(tmp_path) == [file.name]


def foreign(form, arrays, folder):
    """Write a file as other programs do; of .npz, with what NumPy's zip writer cannot say."""
    file = folder / f"x.{form}"
    if form == "safetensors":
        stock.save_file(arrays, file)
    elif form == "params":
        parts = [struct.pack("<3Q", 0x112, 0, len(arrays))]
        parts += [
            struct.pack("<Iiiq3i", 0xF993FAC9, 0, 1, 2, 1, 0, 0) + each.tobytes() for each in arrays.values()
        ]
        names = [name.encode() for name in arrays]
        parts += [struct.pack("<Q", len(names)), *(struct.pack("<Q", len(name)) + name for name in names)]
        file.write_bytes(b"".join(parts))
    else:
        marks = {name: name.replace("\0", "\1") for name in arrays}  # zipfile cuts names at a NUL
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(marks[name] + ".npy", "w") as out:
                    np.lib.format.write_array(out, array)
        file.write_bytes(file.read_bytes().replace(b"\1.npy", b"\0.npy").replace(b"a\1b", b"a\0b"))
    return file


@every
def test_no_file_begins_as_two_formats(form, tmp_path):
    file = written(form, LEAVES, tmp_path)
    head = file.read_bytes()[:64]
    assert [name for name, module in FORMATS.items() if module.recognises(file, head)] == [form]
    assert not any(module.recognises(file, b"") for module in FORMATS.values())
    assert list(FORMATS[form].SUFFIXES) == [f".{form}"]


@every
def test_what_is_no_regular_file(form, tmp_path):
    pipe = tmp_path / f"x.{form}"
    os.mkfifo(pipe)  # opening it would wait for ever
    assert message(pt.ParamTreeError, lambda: FORMATS[form].open_file(pipe)) == (
        f"'{pipe}' is not a whole .{form} file: it is no regular file."
    )
    with pytest.raises(FileNotFoundError):
        FORMATS[form].open_file(tmp_path / "none")


@every
def test_a_bool_that_is_neither(form, tmp_path):
    file = written(form, {"flag": np.array([0, 1, 1], bool)}, tmp_path)
    data = bytearray(file.read_bytes())
    at = data.index(b"\0\1\1", 100 if form != "params" else 50)
    data[at + 2] = 7
    file.write_bytes(fixed_checksum(bytes(data)) if form == "npz" else data)
    label = {"safetensors": "'flag'", "npz": "'flag'", "params": "entry 0 of 1"}[form]
    where = {"npz": 128 + 2}.get(form, at + 2)  # in an .npz file, counted within its entry
    assert message(pt.ParamTreeError, lambda: read_all(FORMATS[form].open_file(file))) == (
        f"'{file}' is not a whole .{form} file: {label}, at byte {where}: "
        "expected a bool, 0 or 1, and found 7."
    )


def fixed_checksum(data):
    """Give a zip file of stored entries with the checksum of its last entry made right."""
    at = data.rindex(b"\x93NUMPY")
    entry = data[at : data.index(b"PK\1\2")]
    center = data.rindex(b"PK\1\2")
    local = data.rindex(b"PK\3\4")
    crc = struct.pack("<L", zlib.crc32(entry))
    data = data[: center + 16] + crc + data[center + 20 :]
    return data[: local + 14] + crc + data[local + 18 :]


def test_what_lies_beyond_the_end_takes_no_memory(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"\0" * 100)
    with rawfile.open_raw(file, ".x") as opened:
        calls = {
            "w: it ends at byte 100, and the values at byte 4 do not": lambda: opened.array_at(
                4, (2**40,), "f4", "w"
            ),
            "it ends at byte 100, and 8 B at byte 93 are missing": lambda: opened.bytes_at(93, 8),
        }
        for fault, call in calls.items():
            text = f"'{file}' is not a whole .x file: {fault}."
            assert peak_of(lambda call=call, text=text: check(call, text)) < 100_000


def check(call, text):
    assert message(pt.ParamTreeError, call) == text


def test_reading_ahead(monkeypatch):
    started = []

    def read(name):
        started.append(name)
        if name == "bad":
            raise pt.ParamTreeError("bad")
        return np.full(10, float(name))

    sizes = {**{f"{number}": 80 for number in range(6)}, "bad": 80}
    monkeypatch.setattr(rawfile, "_AHEAD", 200)
    with rawfile.read_ahead(read, sizes) as ahead:
        assert ahead("0")[0] == 0
        time.sleep(0.05)
        assert set(started) <= {"0", "1", "2"}  # 200 B of them
        for name in (
            "2",
            "1",
            "1",
            "9",
            "3",
            "4",
            "5",
        ):  # in another order, again, and one that is not listed
            assert ahead(name)[0] == float(name)
        assert message(pt.ParamTreeError, lambda: ahead("bad")) == "bad"
    assert sorted(started) == ["0", "1", "1", "2", "3", "4", "5", "9", "bad"]


# --- safetensors --------------------------------------------------------------------------------------------


def with_header(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def raw(name, start=0, end=2):
    return b'"%s":{"dtype":"U8","shape":[%d],"data_offsets":[%d,%d]}' % (name, end - start, start, end)


def of_dtype(name):
    bits = np.random.default_rng(0).integers(0, 256, 48, np.uint8)
    return (bits % 2).astype(bool) if name == "bool" else bits.view(jnp.dtype(name))


def test_all_dtypes_of_safetensors_are_ours(tmp_path):
    leaves = {name: of_dtype(name).reshape(2, -1) for name in ALL_DTYPES}
    file = written("safetensors", leaves, tmp_path, {"version": 1})
    stored = safetensors.open_file(file)
    assert (set(stored.specs), stored.notes) == (set(leaves), {"version": 1})
    same(read_all(stored), {name: leaves[name] for name in stored.specs})
    wide = stock.save(leaves, metadata={"paramtree": '{"version": 1}'})
    header, theirs = (json.loads(data[8 : data.index(b"}}") + 2]) for data in (file.read_bytes(), wide))
    assert {name: each["dtype"] for name, each in header.items() if name in leaves} == {
        name: each["dtype"] for name, each in theirs.items() if name in leaves
    }


def test_every_array_begins_at_a_multiple_of_its_item_size(tmp_path):
    leaves = {f"{number}": np.ones(number % 3, ALL_DTYPES[number % 10]) for number in range(40)}
    data = written("safetensors", leaves, tmp_path).read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    assert start % 8 == 0
    header = json.loads(data[8:start])
    del header["__metadata__"]
    assert [header[name]["data_offsets"][0] % leaves[name].itemsize for name in header] == [0] * 40


def test_numpy_torch_and_flax_read_ours(tmp_path):
    leaves = {name: leaf for name, leaf in LEAVES.items() if leaf.dtype != ml_dtypes.bfloat16}
    file = written("safetensors", leaves, tmp_path)
    found = stock.load_file(file)
    same(found, {name: leaves[name] for name in found})
    flax = pytest.importorskip("safetensors.flax", reason="needs flax")
    file = written("safetensors", LEAVES, tmp_path)
    with jax.enable_x64(True):
        found = {name: np.asarray(leaf) for name, leaf in flax.load_file(file).items()}
    same(found, {name: LEAVES[name] for name in found})
    torch = pytest.importorskip("torch")
    found = pytest.importorskip("safetensors.torch").load_file(file)
    assert set(found) == set(LEAVES)
    for name, tensor in found.items():
        assert str(tensor.dtype) == f"torch.{LEAVES[name].dtype}"
        assert tensor.to(torch.float64).numpy().tolist() == LEAVES[name].astype("float64").tolist()


def test_we_read_what_numpy_torch_and_flax_write(tmp_path):
    stock.save_file(LEAVES, tmp_path / "x.safetensors")
    found = read_all(safetensors.open_file(tmp_path / "x.safetensors"))
    same(found, {name: LEAVES[name] for name in found})
    flax = pytest.importorskip("safetensors.flax", reason="needs flax")
    flax.save_file({"w": jnp.ones((2, 3), "bfloat16")}, tmp_path / "y.safetensors")
    same(
        read_all(safetensors.open_file(tmp_path / "y.safetensors")),
        {"w": np.ones((2, 3), ml_dtypes.bfloat16)},
    )
    torch = pytest.importorskip("torch")
    tensors = {
        "w": torch.arange(6).reshape(2, 3).to(torch.bfloat16),
        "e": torch.ones(2).to(torch.float8_e5m2),
    }
    pytest.importorskip("safetensors.torch").save_file(tensors, tmp_path / "z.safetensors")
    wanted = {
        "w": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
        "e": np.ones(2, ml_dtypes.float8_e5m2),
    }
    same(read_all(safetensors.open_file(tmp_path / "z.safetensors")), wanted)


def test_names_that_torch_drops_are_ties(tmp_path):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(4, 3)
            self.head = torch.nn.Linear(3, 4)
            self.last = torch.nn.Linear(3, 4, bias=False)
            self.head.weight = self.last.weight = self.embed.weight

    file = tmp_path / "x.safetensors"
    pytest.importorskip("safetensors.torch").save_model(Net(), file, metadata={"format": "pt", "by": "hand"})
    stored = safetensors.open_file(file)
    tie = {"target": "embed.weight", "transpose": False}
    assert set(stored.specs) == {"embed.weight", "head.bias"}
    assert stored.notes == {"ties": {"head.weight": tie, "last.weight": tie}}


def test_metadata_that_is_no_tie(tmp_path):
    file = tmp_path / "x.safetensors"
    arrays = {name: np.ones(1) for name in ("a", "b", "format")}
    stock.save_file(arrays, file, metadata={"a": "b", "by": "hand", "": "a", "x//y": "a"})
    assert safetensors.open_file(file).notes == {}
    stock.save_file({"pt": np.ones(1)}, file, metadata={"format": "pt"})
    assert safetensors.open_file(file).notes == {}
    stock.save_file(arrays, file, metadata={"format": "a"})
    assert safetensors.open_file(file).notes == {}
    stock.save_file(arrays, file, metadata={"tied": "a", "paramtree": '{"fixed": ["b"]}'})
    assert safetensors.open_file(file).notes == {"fixed": ["b"]}  # ours say all there is


def test_dtypes_that_numpy_lacks_are_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    shapes = {"f4": entry("F4", [4], 0, 2), "f6": entry("F6_E2M3", [4], 2, 5), "w": entry("U8", [1], 5, 6)}
    file.write_bytes(with_header(shapes, b"\0" * 6))
    stored = safetensors.open_file(file)
    assert list(stored.specs) == ["w"]
    assert stored.refused == {
        "f4": "of dtype F4, which NumPy does not have",
        "f6": "of dtype F6_E2M3, which NumPy does not have",
    }


def test_shapes_that_no_array_has_are_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(
        with_header({"a": entry("U8", [2**62, 0, 4], 0, 0), "b": entry("U8", [1] * 33, 0, 1)}, b"\0")
    )
    assert safetensors.open_file(file).refused == {
        "a": "of shape (4611686018427387904, 0, 4), larger than any array",
        "b": "of 33 axes, more than the 32 that NumPy has",
    }


BAD_HEADERS = {
    "one name twice": (b"{%s,%s}" % (raw(b"a"), raw(b"a")), "it names these twice: 'a'"),
    "metadata twice": (
        b'{"__metadata__":{"k":"1","k":"2","l":"1","l":"1"},%s}' % raw(b"a"),
        "it names these twice: 'k', 'l'",
    ),
    "an entry that is a list": (
        b'{"a":["U8",[2],[0,2]]}',
        "the entry of 'a' is ['U8', [2], [0, 2]], and not an object",
    ),
    "a number of 5000 digits": (
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"x":%s}}' % (b"1" * 5000),
        None,
    ),
    "overlapping": (
        b"{%s,%s}" % (raw(b"a"), raw(b"b", 1, 3)),
        "Error while deserializing header: invalid offset for tensor `b`",
    ),
    "a gap": (
        b"{%s,%s}" % (raw(b"a", 0, 1), raw(b"b", 2, 4)),
        "Error while deserializing header: invalid offset for tensor `b`",
    ),
    "beyond the end": (
        b"{%s}" % raw(b"a", 0, 3),
        "Error while deserializing header: incomplete metadata, file not fully covered",
    ),
    "not all of the file": (
        b"{%s}" % raw(b"a", 0, 1),
        "Error while deserializing header: incomplete metadata, file not fully covered",
    ),
    "another size than the shape's": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,2]}}', None),
    "no UTF-8": (b'{"\xff":1}', None),
    "deep": (b"[" * 100_000, None),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_bad_headers(case, tmp_path):
    header, wanted = BAD_HEADERS[case]
    file = tmp_path / "x.safetensors"
    file.write_bytes(with_header(header, b"\0\0"))
    text = message(pt.ParamTreeError, lambda: safetensors.open_file(file))
    start = f"'{file}' is not a whole .safetensors file: "
    assert text.startswith(start) if wanted is None else text == f"{start}{wanted}."


def test_a_header_that_claims_the_memory(tmp_path):
    file = tmp_path / "x.safetensors"
    for size in (2**63, 2**40, 99_000_000):
        file.write_bytes(struct.pack("<Q", size) + b"{}")
        assert peak_of(lambda: message(pt.ParamTreeError, lambda: safetensors.open_file(file))) < 100_000


def test_all_faults_of_a_save_at_once(tmp_path):
    leaves = {"a": np.ones(1, "complex128"), "b": np.ones(1, ml_dtypes.int4), "c": np.ones(1)}
    assert message(pt.MismatchError, lambda: written("safetensors", leaves, tmp_path)) == (
        "save: a .safetensors file has no type for these:\n"
        "  a is complex128; pt.cast it, or save to a .npz file\n"
        "  b is int4; pt.cast it, or save to a .npz file"
    )
    assert os.listdir(tmp_path) == []


def test_the_library_looks_at_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors, "leaf_bytes", lambda leaf: 3)
    text = message(pt.ParamTreeError, lambda: written("safetensors", {"a": np.ones(1)}, tmp_path))
    assert text.startswith(
        "save: the safetensors library does not read what was written: "
        f"'{tmp_path}/x.safetensors' is not a whole .safetensors file: "
    )


def test_what_is_written_is_flushed_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(rawfile, "_FLUSHED", 1000)
    flushed = []
    monkeypatch.setattr(rawfile.os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_size))
    file = written("safetensors", {f"{number}": np.ones(200) for number in range(9)}, tmp_path)
    assert flushed
    assert flushed[0] >= 1000
    assert max(flushed) <= file.stat().st_size


def test_a_disk_that_fails_while_it_is_flushed(tmp_path, monkeypatch):
    monkeypatch.setattr(rawfile, "_FLUSHED", 1000)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rawfile.os, "fsync", fail)
    for count in (1, 9):
        with pytest.raises(OSError, match="No space left"):
            written("safetensors", {f"{number}": np.ones(200) for number in range(count)}, tmp_path)


def test_a_disk_that_fails_once_while_it_is_flushed(tmp_path, monkeypatch):
    monkeypatch.setattr(rawfile, "_FLUSHED", 1000)
    faults = [OSError(5, "Input/output error")]
    failed = threading.Event()

    def fail_once(descriptor):
        if faults:
            failed.set()
            raise faults.pop()

    monkeypatch.setattr(rawfile.os, "fsync", fail_once)

    class Late(Made):
        def __array__(self, dtype=None, copy=None):
            failed.wait(10)
            time.sleep(0.05)
            return super().__array__(dtype, copy)

    leaves = {"0": np.ones(200), "1": Late((400,)), "2": Late((400,)), "3": np.ones(200)}
    with pytest.raises(OSError, match="Input/output error"):
        written("safetensors", leaves, tmp_path)


def test_a_file_that_is_replaced_while_it_is_opened(tmp_path, monkeypatch):
    file = written("safetensors", {"w": np.ones(2)}, tmp_path)
    (tmp_path / "new").mkdir()
    new = written("safetensors", {"w": np.ones(3)}, tmp_path / "new")
    monkeypatch.setattr(safetensors, "_check_header", lambda path: os.replace(new, path))
    text = f"'{file}' has changed, or is gone, since its headers were read. Load it again."
    assert message(rawfile.FileChangedError, lambda: safetensors.open_file(file)) == text
    monkeypatch.setattr(safetensors, "_check_header", lambda path: path.unlink())
    assert message(rawfile.FileChangedError, lambda: safetensors.open_file(file)) == text


# --- shards -------------------------------------------------------------------------------------------------

INDEX = "net.safetensors.index.json"


def write_shards(folder, leaves, notes=None, shard_bytes=40):
    """Save as the caller does: aside, then into place."""
    final = folder / INDEX
    replace_set(
        final,
        write=lambda place: sharded.write(place, leaves, notes or {}, shard_bytes=shard_bytes),
        look=sharded.text_of,
        tidy=sharded.remove_old,
    )
    return final


def index_of(folder, weight_map, **metadata):
    file = folder / INDEX
    file.write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))
    return file


def test_shards_come_back(tmp_path):
    notes = {"version": 1, "ties": {"t": {"target": "flag", "transpose": False}}}
    file = write_shards(tmp_path, LEAVES, notes)
    stored = sharded.open_file(file)
    assert (stored.notes, stored.refused) == (notes, {})
    same(read_all(stored), LEAVES)  # in the order of the tree
    assert sharded.recognises(file, file.read_bytes()[:64])
    assert sharded.SUFFIXES == (".safetensors.index.json",)


def test_numpy_reads_our_shards_as_transformers_lays_them_out(tmp_path):
    leaves = {name: leaf for name, leaf in LEAVES.items() if name != "a/half"}
    index = json.loads(write_shards(tmp_path, leaves).read_text())
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in leaves.values())
    places = index["weight_map"]
    assert list(places) == list(leaves)
    stems = {name[: len("net-00000000")] for name in places.values()}
    assert len(stems) == 1
    assert list(dict.fromkeys(places.values())) == [
        f"{next(iter(stems))}-0000{number}-of-00003.safetensors" for number in (1, 2, 3)
    ]
    assert set(os.listdir(tmp_path)) == {INDEX, *places.values()}
    for shard in set(places.values()):
        found = stock.load_file(tmp_path / shard)
        same(found, {name: leaves[name] for name in found})
        assert set(found) == {name for name, place in places.items() if place == shard}
        with safetensors_open(tmp_path / shard) as opened:
            assert opened.metadata() == {"format": "pt"}


def safetensors_open(file):
    from safetensors import safe_open

    return safe_open(file, "numpy")


@pytest.mark.parametrize(("shard_bytes", "count"), [(1, 7), (48, 3), (10**9, 1)])
def test_no_shard_is_larger_than_asked_for(shard_bytes, count, tmp_path):
    write_shards(tmp_path, LEAVES, shard_bytes=shard_bytes)
    sizes = [sum(each.nbytes for each in stock_arrays(file)) for file in tmp_path.glob("*.safetensors")]
    assert len(sizes) == count
    assert sum(sizes) == sum(leaf.nbytes for leaf in LEAVES.values())
    assert all(size <= max(shard_bytes, 48) for size in sizes)


def stock_arrays(file):
    return read_all(safetensors.open_file(file)).values()


def test_an_empty_tree_has_no_shard(tmp_path):
    assert sharded.open_file(write_shards(tmp_path, {}, {"empty": ["a"]})).notes == {"empty": ["a"]}
    assert os.listdir(tmp_path) == [INDEX]


def test_a_save_over_an_older_set_leaves_it_whole_until_the_index_is_moved(tmp_path, monkeypatch):
    final = write_shards(tmp_path, LEAVES)
    old = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    replace = os.replace

    def look(source, target):
        assert {name: (tmp_path / name).read_bytes() for name in old} == old
        same(read_all(sharded.open_file(final)), LEAVES)
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", look)
    write_shards(tmp_path, {"w": np.ones(3)})
    assert len(os.listdir(tmp_path)) == 2
    same(read_all(sharded.open_file(final)), {"w": np.ones(3)})


def test_what_a_killed_saver_left_is_removed(tmp_path):
    (tmp_path / "net-0123abcd-00001-of-00002.safetensors").write_bytes(b"half")
    (tmp_path / "net-0123abcd-00001-of-00002.safetensors.txt").write_bytes(b"mine")
    (tmp_path / "network-0123abcd-00001-of-00002.safetensors").write_bytes(b"of another")
    write_shards(tmp_path, {"w": np.ones(3)})
    assert len(os.listdir(tmp_path)) == 4
    assert not (tmp_path / "net-0123abcd-00001-of-00002.safetensors").exists()


def test_only_shards_of_the_old_index_are_removed(tmp_path):
    names = ["kept.safetensors", "other.safetensors", "gone.safetensors", "thesis.docx"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.safetensors").write_bytes(b"")
    (tmp_path / "other.safetensors.index.json").write_text('{"weight_map": {"a": "other.safetensors"}}')
    final = index_of(tmp_path, {"a": "kept.safetensors"})
    places = [*names, "sub/x.safetensors", str(tmp_path / "sub" / "x.safetensors"), "absent.safetensors", 3]
    sharded.remove_old(final, json.dumps({"weight_map": dict(enumerate(places))}))
    for text in ("", "[", "[]", '{"weight_map": 3}', "[" * 100_000):
        sharded.remove_old(final, text)
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {*names, "sub/x.safetensors", INDEX, "other.safetensors.index.json"} - {"gone.safetensors"}


@pytest.mark.parametrize("failing", ["second shard", "second move", "index"])
def test_a_save_that_fails_leaves_no_new_shard(failing, tmp_path, monkeypatch):
    write_shards(tmp_path, {"w": np.ones(3)})
    before = sorted(os.listdir(tmp_path))
    whole, replace = safetensors.write_arrays, os.replace
    moves = []

    def fail_to_write(path, leaves, metadata):
        whole(path, leaves, metadata)
        if failing == "second shard" and "00002" in path.name:
            raise KeyboardInterrupt

    def fail_to_move(source, target):
        moves.append(target)
        if (failing == "second move" and len(moves) == 2) or (failing == "index" and target.name == INDEX):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(safetensors, "write_arrays", fail_to_write)
    monkeypatch.setattr(atomic.os, "replace", fail_to_move)
    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path, LEAVES)
    assert sorted(os.listdir(tmp_path)) == before


def test_shards_are_flushed_before_any_is_moved(tmp_path, monkeypatch):
    events = []
    flush, replace = atomic._flush, os.replace
    monkeypatch.setattr(atomic, "_flush", lambda path: [events.append(path.name), flush(path)])
    monkeypatch.setattr(atomic.os, "replace", lambda *pair: [events.append("move"), replace(*pair)])
    write_shards(tmp_path, LEAVES, shard_bytes=10**9)
    (shard,) = (path.name for path in tmp_path.glob("*.safetensors"))
    assert events == [shard, INDEX, "move", tmp_path.name, "move", tmp_path.name]


def test_faults_of_leaves_are_found_before_any_shard_is_written(tmp_path):
    with pytest.raises(pt.MismatchError):
        write_shards(tmp_path, LEAVES | {"z": np.ones(1, "complex128")})
    with pytest.raises(pt.BadNameError):
        write_shards(tmp_path, LEAVES | {"__metadata__": np.ones(1)})
    assert os.listdir(tmp_path) == []


def test_an_index_that_leads_elsewhere(tmp_path):
    stock.save_file({"a": np.ones(1)}, tmp_path / "x.safetensors")
    bad = [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a\\x.safetensors",
        "c:x.safetensors",
        "..",
        "x.bin",
        "",
        3,
        None,
    ]
    file = index_of(
        tmp_path, {"w": "x.safetensors", **{str(number): each for number, each in enumerate(bad)}}
    )
    listed = "\n".join(f"  '{number}' is said to be in {each!r}" for number, each in enumerate(bad))
    assert message(pt.ParamTreeError, lambda: sharded.open_file(file)) == (
        f"'{file}' names what is no .safetensors file beside it:\n{listed}"
    )


def test_shards_that_are_not_there(tmp_path):
    long = "x" * 10_000 + ".safetensors"
    stock.save_file({"a": np.ones(1)}, tmp_path / "x.safetensors")
    places = {
        "a": "x.safetensors",
        "b": "y.safetensors",
        "c": "y.safetensors",
        "d": "z.safetensors",
        "e": long,
    }
    file = index_of(tmp_path, places)
    assert message(pt.ParamTreeError, lambda: sharded.open_file(file)) == (
        f"'{file}' names files that are not there:\n  y.safetensors\n  z.safetensors\n  {long}"
    )


def test_an_index_and_shards_of_two_sets(tmp_path):
    one, two = {"a": 1, "b": 1, "extra": 1, "moved": 1}, {"b": 1, "c": 1}
    for name, arrays in {"one": one, "two": two}.items():
        stock.save_file(dict.fromkeys(arrays, np.ones(1)), tmp_path / f"{name}.safetensors")
    places = {"a": "one", "b": "one", "c": "two", "dropped": "two", "moved": "two"}
    file = index_of(tmp_path, {name: f"{place}.safetensors" for name, place in places.items()})
    stored = sharded.open_file(file)
    assert list(stored.specs) == ["a", "c"]
    assert stored.refused == {
        "b": "in one.safetensors and two.safetensors, so one of these is not of this set",
        "dropped": "listed in the index, and not in two.safetensors",
        "moved": "listed in the index, and not in two.safetensors, but in one.safetensors",
        "extra": "in one.safetensors, and not listed in the index",
    }


def test_what_a_shard_refuses_and_ties(tmp_path):
    header = {"a": entry("F4", [2], 0, 1), "w": entry("U8", [1], 1, 2)}
    ties = {"__metadata__": {"format": "pt", "t": "w", "other": "w"}}
    (tmp_path / "x.safetensors").write_bytes(with_header(ties | header, b"\0\0"))
    stock.save_file({"other": np.ones(1)}, tmp_path / "y.safetensors")
    file = index_of(tmp_path, {"a": "x.safetensors", "w": "x.safetensors", "other": "y.safetensors"})
    stored = sharded.open_file(file)
    assert stored.refused == {"a": "of dtype F4, which NumPy does not have"}
    assert stored.notes == {"ties": {"t": {"target": "w", "transpose": False}}}


BAD_INDEXES = {
    b"": "its JSON cannot be read: Expecting value: line 1 column 1 (char 0)",
    b"[1]": "its JSON is no object, but b'[1]'",
    b"{}": "it has no 'weight_map', an object of names and files",
    b'{"weight_map": ["a"]}': "it has no 'weight_map', an object of names and files",
    b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}': "it names these twice: 'a'",
    b"\xff{}": None,
    b'{"a":' * 100_000: None,
}


@pytest.mark.parametrize("text", BAD_INDEXES, ids=lambda text: str(text[:20]))
def test_bad_indexes(text, tmp_path):
    file = tmp_path / INDEX
    file.write_bytes(text)
    start, wanted = f"'{file}' is not a whole .safetensors.index.json file: ", BAD_INDEXES[text]
    found = message(pt.ParamTreeError, lambda: sharded.open_file(file))
    assert found.startswith(start) if wanted is None else found == f"{start}{wanted}."
    assert sharded.recognises(file, text[:64]) is (b"weight_map" in text)


def test_a_damaged_shard_is_named(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"x" * 20)
    file = index_of(tmp_path, {"a": "x.safetensors"})
    text = message(pt.ParamTreeError, lambda: sharded.open_file(file))
    assert text.startswith(f"'{tmp_path}/x.safetensors' is not a whole .safetensors file: ")


def test_only_the_shards_that_are_needed_are_read(tmp_path):
    file = write_shards(tmp_path, {f"{number}": Made((1_000_000,)) for number in range(4)}, shard_bytes=1)
    stored = sharded.open_file(file)
    start = bytes_read()
    with stored.reading() as read:
        assert read("2").sum() == 1_000_000
    assert bytes_read() - start < 4_050_000


def test_indexes_and_shards_through_links(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    file = write_shards(tmp_path / "far", LEAVES)
    link = tmp_path / "near" / INDEX
    link.symlink_to(file)
    same(read_all(sharded.open_file(link)), LEAVES)  # the shards lie beside what the link leads to
    pt.save({"w": np.ones(2)}, link)
    assert os.listdir(tmp_path / "near") == [INDEX]
    same(read_all(sharded.open_file(link)), {"w": np.ones(2)})
    for shard in (tmp_path / "far").glob("*.safetensors"):
        (tmp_path / "near" / shard.name).symlink_to(shard)  # as in the cache of a hub
    same(read_all(sharded.open_file(link)), {"w": np.ones(2)})


# --- npz ----------------------------------------------------------------------------------------------------


def npy(array=None, header=None, version=b"\1\0", data=None):
    array = np.arange(6, dtype="float32").reshape(2, 3) if array is None else array
    text = header or repr(np.lib.format.header_data_from_array_1_0(array))
    text = text.encode() + b"\n"
    size = struct.pack("<H" if version == b"\1\0" else "<L", len(text))
    return b"\x93NUMPY" + version + size + text + (array.tobytes() if data is None else data)


def zipped(folder, entries, compression=zipfile.ZIP_STORED):
    file = folder / "x.npz"
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file


def refusal(file):
    text = message(pt.ParamTreeError, lambda: read_all(npz.open_file(file)))
    start = f"'{file}' is not a whole .npz file: "
    assert text.startswith(start)
    return text.removeprefix(start)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_files_of_numpy(save, tmp_path):
    base = np.arange(24).reshape(2, 3, 4)
    arrays = {
        "c": base, "fortran": np.asfortranarray(base), "big": base.astype(">i4"), "none": base[:0],
        "big.fortran": np.asfortranarray(base.astype(">c16")), "scalar": np.float64(3),
        "w.npy": base.astype(bool), "a/b": np.asfortranarray(base[0, 0]), "wide": np.arange(300_000.0),
    }  # fmt: skip
    save(tmp_path / "x.npz", **arrays)
    stored = npz.open_file(tmp_path / "x.npz")
    assert stored.specs["big"].dtype.isnative
    found = read_all(stored)
    same(found, arrays)
    assert all(array.flags.c_contiguous and array.dtype.isnative for array in found.values())


def test_numpy_reads_ours(tmp_path):
    with np.load(written("npz", LEAVES, tmp_path)) as found:
        arrays = {name: found[name] for name in found.files if name != "paramtree.json"}
    assert arrays["a/half"].dtype == np.uint16
    arrays["a/half"] = arrays["a/half"].view(ml_dtypes.bfloat16)
    same(arrays, LEAVES)


def test_bits_without_a_type_are_read_as_bits(tmp_path):
    half = np.ones(3, ml_dtypes.bfloat16)
    np.savez(tmp_path / "x.npz", w=half)
    stored = npz.open_file(tmp_path / "x.npz")
    assert stored.specs["w"].dtype == np.dtype("V2")
    assert read_all(stored)["w"].tobytes() == half.tobytes()


def test_what_is_no_array_of_numbers_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    arrays = {
        "w": np.ones(1), "words": np.array(["a"]), "when": np.zeros(1, "M8[s]"),
        "objects": np.array([Trap()], object), "fields": np.zeros(1, "f4,i4"),
        "long": np.zeros(1, np.longdouble), "bits": np.zeros(1, "V3"),
    }  # fmt: skip
    np.savez(tmp_path / "x.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("readme.txt", "hello")
        archive.writestr("names.npy", npy(version=b"\3\0"))
    stored = npz.open_file(tmp_path / "x.npz")
    assert list(read_all(stored)) == ["w"]
    assert stored.refused == {
        "words": "an array of <U1",
        "when": "an array of datetime64[s]",
        "objects": "an array of object",
        "fields": "an array of [('f0', '<f4'), ('f1', '<i4')]",
        "long": f"an array of {np.dtype(np.longdouble)}",
        "bits": "an array of |V3",
        "readme.txt": "no .npy file",
        "names": "an array of named fields",
    }
    assert not (tmp_path / "ran").exists()


def header_of(shape, dtype="'<f4'"):
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}"


BAD_ENTRIES = {
    "a shape that is larger": (
        npy(header=header_of((2, 2**40))),
        "'w.npy' has {size} B, and not the {more} B of shape (2, 1099511627776) and float32.",
    ),
    "a shape that is smaller": (
        npy(header=header_of((2, 2))),
        "'w.npy' has {size} B, and not the {less} B of shape (2, 2) and float32.",
    ),
    "a negative shape": (
        npy(header=header_of((-2, -3))),
        "'w.npy' has {size} B, and not the {size} B of shape (-2, -3) and float32.",
    ),
    "values that are cut": (
        npy(data=b"\0" * 23),
        "'w.npy' has {size} B, and not the {next} B of shape (2, 3) and float32.",
    ),
    "no header": (b"hello, world", None),
    "no bytes": (b"", None),
    "another version": (npy(version=b"\7\0"), "'w.npy' is a .npy file of version (7, 0)."),
    "code for a header": (npy(header="__import__('os').abort()"), None),
    "a deep header": (npy(header="(" * 9000), None),
    "a long header": (npy(header=header_of((2, 3)) + " " * 60_000), None),
    "no dtype": (npy(header=header_of((2, 3), "'nothing'")), None),
    "a shape of floats": (npy(header=header_of((2.0, 3))), None),
}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries(case, compression, tmp_path):
    content, wanted = BAD_ENTRIES[case]
    file = zipped(tmp_path, [("w.npy", content)], compression)
    found = []
    assert peak_of(lambda: found.append(refusal(file))) < 3_000_000
    size = len(content)
    sizes = {"size": size, "less": size - 8, "next": size + 1, "more": size - 24 + 2**43}
    assert wanted is None or found == [wanted.format(**sizes)]


def test_names_that_are_there_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        file = zipped(tmp_path, [(name, npy()) for name in ("a.npy", "b.npy", "a.npy", "b.npy", "a.npy")])
    assert refusal(file) == "'a.npy' is there 3 times; 'b.npy' is there 2 times."


def patched(file, offset, form, *values):
    """Change what the directory of a zip file says of its one entry."""
    data = bytearray(file.read_bytes())
    struct.pack_into(form, data, data.index(b"PK\1\2") + offset, *values)
    file.write_bytes(data)
    return file


def test_entries_that_claim_too_much(tmp_path):
    file = patched(zipped(tmp_path, [("w.npy", npy())], zipfile.ZIP_DEFLATED), 24, "<L", 2**32 - 2)
    packed = struct.unpack_from("<L", file.read_bytes(), file.read_bytes().index(b"PK\1\2") + 20)[0]
    assert refusal(file) == f"'w.npy' cannot hold 4294967294 B in {packed} B of the file."
    file = patched(zipped(tmp_path, [("w.npy", npy())]), 20, "<2L", 2**31, 2**31)
    assert refusal(file) == "'w.npy' ends at byte 2147483648, after the file."


def test_entries_that_share_bytes(tmp_path):
    file = zipped(tmp_path, [("a.npy", npy()), ("b.npy", npy())])
    data = bytearray(file.read_bytes())
    struct.pack_into("<L", data, data.rindex(b"PK\1\2") + 42, 30)
    file.write_bytes(data)
    assert refusal(file) == "'b.npy' begins at byte 30, inside of 'a.npy'."


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(method, tmp_path):
    file = zipped(tmp_path, [("w.npy", npy())], method)
    assert refusal(file).startswith("'w.npy' is encrypted, or compressed in a way that NumPy does not write")
    file = patched(zipped(tmp_path, [("w.npy", npy())]), 8, "<H", 1)
    assert refusal(file) == "'w.npy' is encrypted, or compressed in a way that NumPy does not write."


def test_a_checksum_that_is_wrong(tmp_path):
    file = zipped(tmp_path, [("w.npy", npy(np.ones(9)))])
    data = file.read_bytes()
    file.write_bytes(data.replace(np.ones(1).tobytes(), np.zeros(1).tobytes()))
    assert refusal(file) == "Bad CRC-32 for file 'w.npy'."


def test_a_zip_file_of_other_things(tmp_path):
    file = zipped(tmp_path, [("archive/data.pkl", b"x"), ("readme.txt", b"x")])
    assert not npz.recognises(file, file.read_bytes()[:64])
    assert refusal(file) == "'archive/data.pkl' is no .npy file."
    file.write_bytes(b"PK\3\4" + b"x" * 60)
    assert not npz.recognises(file, file.read_bytes()[:64])
    np.savez(file)  # of nothing
    assert npz.open_file(file).specs == {}


# --- MXNet --------------------------------------------------------------------------------------------------

SPARSE = Path(__file__).parent / "goldens" / "fmt_v2_sparse.params"


def test_sparse_arrays_are_refused_and_the_others_read():
    stored = mxnet.open_file(SPARSE)
    assert stored.refused == {
        "rsp": "row_sparse; in MXNet, save its tostype('default') instead",
        "csr": "csr; in MXNet, save its tostype('default') instead",
        "rsp_zero": "row_sparse; in MXNet, save its tostype('default') instead",
    }
    with np.load(SPARSE.parent / "format_expected.npz") as values:
        for name, array in read_all(stored).items():
            np.testing.assert_array_equal(array, values[f"{SPARSE.name}|{name}"])


def test_tied_leaves_are_written_one_at_a_time(tmp_path):
    leaves = {"w": Made((500, 500))}
    ties = {f"t{number}": {"target": "w", "transpose": True} for number in range(9)}
    file = tmp_path / "x.params"
    assert peak_of(lambda: mxnet.write(file, leaves, {"ties": ties})) < 2_500_000
    assert len(mxnet.open_file(file).specs) == 10
    wide = {"w": np.arange(6).reshape(2, 3)}  # int64, which JAX would narrow
    mxnet.write(file, wide, {"ties": {"t": {"target": "w", "transpose": True}}})
    same(read_all(mxnet.open_file(file)), {"t": np.ascontiguousarray(wide["w"].T), **wide})
