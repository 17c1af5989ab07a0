"""MXNet's `.params` files: what MXNet 1.9.1 wrote is read, and written again; what is broken is refused."""

import json
import os
import struct
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import paramtree as pt
from paramtree import nn
from paramtree.checkpoint.mxnet import open_file, read_arrays, write

GOLDENS = Path(__file__).parent / "goldens"
FILES = {entry["file"]: entry for entry in json.loads((GOLDENS / "formats.json").read_text())}
BAD = {entry["file"]: entry for entry in json.loads((GOLDENS / "format_bad_files.json").read_text())}
SPARSE = "fmt_v2_sparse.params"
NAMES = "fmt_v2_names.params"
DENSE = [file for file in FILES if file != SPARSE]
V1, V2, V3 = (struct.pack("<I", 0xF993FAC8 + place) for place in range(3))


def expected(file):
    """Map the arrays of a golden file, by name or position, to what MXNet read."""
    with np.load(GOLDENS / "format_expected.npz") as values:
        return {key.partition("|")[2]: values[key] for key in values.files if key.startswith(f"{file}|")}


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def same(found, wanted, dtype=None):
    found = np.asarray(found)
    assert found.dtype == (dtype or wanted.dtype)
    assert found.shape == wanted.shape
    assert found.astype(wanted.dtype).tobytes() == wanted.tobytes()


# --- files made by hand, of the format's description alone --------------------------------------------------

FLAGS = {
    "float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6, "bool": 7,
    "bfloat16": 12,
}  # fmt: skip
ONE = np.array([[1, 2]], "float32")


def shape_of(*sizes):
    return struct.pack(f"<i{len(sizes)}q", len(sizes), *sizes)


def tail(array, flag=None, device=(1, 0)):
    return struct.pack("<3i", *device, FLAGS[array.dtype.name] if flag is None else flag) + array.tobytes()


def entry(array, version=2, flag=None):
    if version == 0:
        return struct.pack(f"<{array.ndim + 1}I", array.ndim, *array.shape) + tail(array, flag)
    mark = {1: V1, 2: V2 + b"\0" * 4, 3: V3 + b"\0" * 4}[version]
    return mark + shape_of(*array.shape) + tail(array, flag)


def row_sparse(values=ONE):
    rows = np.zeros(len(values), "int64")
    head = V2 + struct.pack("<i", 1) + shape_of(*values.shape) + shape_of(7, values.shape[1])
    return head + struct.pack("<4i", 1, 0, 0, 6) + shape_of(*rows.shape) + values.tobytes() + rows.tobytes()


def none():
    return V2 + b"\0" * 4 + shape_of()


def named(*names):
    return struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(name)) + name for name in names)


def content(*entries, names=None, count=None):
    names = [str(place).encode() for place in range(len(entries))] if names is None else names
    head = struct.pack("<3Q", 0x112, 0, len(entries) if count is None else count)
    return head + b"".join(entries) + named(*names)


@pytest.fixture
def make(tmp_path):
    def make_file(data):
        file = tmp_path / "x.params"
        file.write_bytes(data)
        return file

    return make_file


def refusal(file):
    """Give the text of the error that a file is refused with, without the file's name."""
    text = message(pt.ParamTreeError, lambda: pt.load(file))
    start = f"'{file}' is not a whole .params file: "
    assert text.startswith(start)
    return text.removeprefix(start)


# --- what MXNet wrote ---------------------------------------------------------------------------------------


def test_the_golden_files_are_all_there():
    there = {file.name for file in GOLDENS.glob("*.params")}
    assert {file for file in there if file.startswith("fmt_")} == set(FILES)
    assert {file for file in there if file.startswith(("bad_", "odd_"))} == set(BAD)
    assert (len(FILES), len(BAD)) == (26, 9)


@pytest.mark.parametrize("file", DENSE)
def test_every_array_of_every_file(file):
    names, arrays = read_arrays(GOLDENS / file)
    wanted = expected(file)
    assert names == FILES[file]["names"]
    assert (names or [str(place) for place in range(len(arrays))]) == list(wanted)
    assert [array.dtype.name for array in arrays] == [
        "bfloat16" if "bfloat16" in file else each["dtype"] for each in FILES[file]["arrays"]
    ]
    for array, value in zip(arrays, wanted.values(), strict=True):
        same(array, value, array.dtype)


@pytest.mark.parametrize("file", [file for file in DENSE if file != NAMES])
def test_a_loaded_file_is_a_flat_dict_in_the_order_of_the_file(file):
    loaded = pt.load(GOLDENS / file)
    wanted = expected(file)
    assert list(loaded) == list(wanted)
    for name, leaf in loaded.items():
        same(leaf, wanted[name], leaf.dtype)
        assert type(leaf) is np.ndarray if leaf.dtype.itemsize == 8 else isinstance(leaf, jax.Array)


def test_gluons_names_are_keys():
    loaded = pt.load(GOLDENS / "fmt_structural.params")
    assert list(loaded)[:3] == ["0.weight", "0.bias", "1.gamma"]
    assert pt.get(loaded, "0.weight").shape == (4, 2, 3, 3)
    assert list(pt.load(GOLDENS / "fmt_export.params"))[3:5] == [
        "arg:model_batchnorm0_beta",
        "aux:model_batchnorm0_running_mean",
    ]


def test_a_list_has_positions_for_names():
    assert read_arrays(GOLDENS / "fmt_v2_list.params")[0] == []
    assert list(pt.load(GOLDENS / "fmt_v2_list.params")) == ["0", "1"]
    assert pt.load(GOLDENS / "fmt_empty.params") == {}


def test_bfloat16_is_read_as_it_is_stored():
    leaf = pt.load(GOLDENS / "fmt_v2_bfloat16.params")["w"]
    assert leaf.dtype == jnp.bfloat16
    same(leaf, expected("fmt_v2_bfloat16.params")["w"], ml_dtypes.bfloat16)


def test_wide_arrays_become_jax_arrays_with_x64():
    with jax.enable_x64(True):
        loaded = pt.load(GOLDENS / "fmt_v2_dtypes.params")
        assert all(isinstance(leaf, jax.Array) for leaf in loaded.values())
        assert loaded["layer.float64"].dtype == np.float64


def test_sparse_arrays_are_refused_by_name():
    file = GOLDENS / SPARSE
    faults = {
        "rsp": "row_sparse; in MXNet, save its tostype('default') instead",
        "csr": "csr; in MXNet, save its tostype('default') instead",
        "rsp_zero": "row_sparse; in MXNet, save its tostype('default') instead",
    }
    assert message(pt.MismatchError, lambda: read_arrays(file)) == (
        f"'{file}' holds what is not a dense array:\n"
        + "\n".join(f"  {name!r} is {fault}" for name, fault in faults.items())
    )
    plan = pt.plan_load(file)
    assert {row.sources[0]: row.note for row in plan.unresolved} == {
        name: f"it is {fault}" for name, fault in faults.items()
    }
    assert list(pt.load(file, rename={"rsp.*|csr": None})) == ["dense"]


@pytest.mark.parametrize("file", [file for file in BAD if file.startswith("odd_")])
def test_odd_files_load_as_in_mxnet(file):
    assert BAD[file]["mxnet"] == "loads"
    assert {name: leaf.shape for name, leaf in pt.load(GOLDENS / file).items()} == {"w": (2, 3)}


REFUSALS = {
    "bad_empty_file.params":
        "the header, at byte 0: expected the mark 0x112 of an MXNet file (8 B), and found the end of the "
        "file after 0 B.",
    "bad_magic.params": "the header, at byte 0: expected the mark 0x112 of an MXNet file, and found 0x113.",
    "bad_truncated_data.params":
        "entry 0 of 1, at byte 64: expected the values of shape (2, 3) and type float32 (24 B), and found "
        "the end of the file after 9 B.",
    "bad_truncated_names.params":
        "name 0 of 1, at byte 104: expected the name (1 B), and found the end of the file after 0 B.",
    "bad_no_names_section.params":
        "the names, at byte 88: expected the number of names (8 B), and found the end of the file after 0 B.",
    "bad_name_count.params":
        "the names, at byte 152: expected as many names as arrays (2), or none, and found 1.",
    "bad_dtype_flag.params":
        "entry 0 of 1, at byte 60: expected a type flag from 0 to 7, or 12, and found 8 (int16), which MXNet "
        "1.9.1 does not know.",
}  # fmt: skip


@pytest.mark.parametrize("file", [file for file in BAD if file.startswith("bad_")])
def test_bad_files_are_refused_as_in_mxnet(file):
    assert refusal(GOLDENS / file) == REFUSALS[file]


# --- names --------------------------------------------------------------------------------------------------


def test_names_that_no_tree_can_have(make):
    file = GOLDENS / NAMES
    assert message(pt.BadNameError, lambda: pt.load(file)) == (
        f"'{file}' has names that no tree can have; read it with checkpoint.mxnet.read_arrays:\n"
        "  '' has an empty key"
    )
    file = make(content(*[entry(ONE)] * 7, names=[b"w", b"a//b", b"v", b"w", b"/", b"w", b"v"]))
    assert message(pt.BadNameError, lambda: pt.load(file)) == (
        f"'{file}' has names that no tree can have; read it with checkpoint.mxnet.read_arrays:\n"
        "  'w' names entries 0 and 3 and 5\n"
        "  'v' names entries 2 and 6\n"
        "  'a//b' has an empty key\n"
        "  '/' has an empty key"
    )
    assert read_arrays(file)[0] == ["w", "a//b", "v", "w", "/", "w", "v"]


def test_a_slash_nests_as_everywhere(make):
    loaded = pt.load(make(content(entry(ONE), entry(ONE), names=[b"x/y:z", b"x/w.b"])))
    assert {key: list(block) for key, block in loaded.items()} == {"x": ["y:z", "w.b"]}
    file = make(content(entry(ONE), entry(ONE), names=[b"x", b"x/y"]))
    assert message(pt.BadNameError, lambda: pt.load(file)) == (
        f"'{file}': these names cannot be nested:\n  'x' is a parameter, and a block that holds 'x/y'"
    )


def test_names_of_any_script(make):
    names = ["tầng.trọng_số", "a b", "arg:w", "UPPER.Case", "名前", "😀", "\n", "0"]
    file = make(content(*[entry(ONE)] * len(names), names=[name.encode() for name in names]))
    assert list(pt.load(file)) == names


# --- entries ------------------------------------------------------------------------------------------------


def test_versions_are_mixed_within_a_file(make):
    arrays = [np.arange(6, dtype="float64").reshape(3, 2) + version for version in range(4)]
    file = make(content(*[entry(array, version) for version, array in enumerate(arrays)]))
    for found, wanted in zip(read_arrays(file)[1], arrays, strict=True):
        same(found, wanted)


@pytest.mark.parametrize("version", range(4))
@pytest.mark.parametrize("dtype", FLAGS)
def test_every_dtype_in_every_version(make, version, dtype):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(jnp.dtype(dtype))
    same(pt.load(make(content(entry(array, version))))["0"], array)


def test_scalars_and_empty_arrays(make):
    arrays = [np.float32(3.5).reshape(()), np.zeros((0, 3), "int32"), np.zeros((2, 0), bool)]
    for found, wanted in zip(
        pt.load(make(content(*[entry(array, 3) for array in arrays]))).values(), arrays, strict=True
    ):
        same(found, wanted)
    for version in (0, 1, 2):
        same(read_arrays(make(content(entry(arrays[1], version))))[1][0], arrays[1])


def test_an_array_that_is_none_is_refused_by_name(make):
    file = make(content(entry(ONE), none(), row_sparse(), none(), names=[b"w", b"a", b"b", b"c"]))
    assert message(pt.MismatchError, lambda: read_arrays(file)) == (
        f"'{file}' holds what is not a dense array:\n"
        "  'a' is none: it has no shape and no values\n"
        "  'b' is row_sparse; in MXNet, save its tostype('default') instead\n"
        "  'c' is none: it has no shape and no values"
    )
    file = make(content(entry(ONE), none(), names=[]))
    assert [row.status for row in pt.plan_load(file).rows] == ["loaded", "refused"]
    assert message(pt.MismatchError, lambda: read_arrays(file)) == (
        f"'{file}' holds what is not a dense array:\n  entry 1 is none: it has no shape and no values"
    )


# --- hostile files ------------------------------------------------------------------------------------------

HUGE = 2**60
HEAD2 = V2 + b"\0" * 4
DEVICE = struct.pack("<3i", 1, 0, 0)


VERSION = "the mark of a version, or a number of axes from 1 to 32"
FLAG = "a type flag from 0 to 7, or 12"


def claims(*sizes, mark=HEAD2):
    return content(mark + shape_of(*sizes) + DEVICE + b"\0" * 24)


def fault(part, at, expected, found):
    return f"{part}, at byte {at}: expected {expected}, and found {found}."


def cut(part, at, expected, size, left=0):
    return fault(part, at, f"{expected} ({size} B)", f"the end of the file after {left} B")


def entry_fault(at, expected, found):
    return fault("entry 0 of 1", at, expected, found)


HOSTILE = {
    "many arrays": (
        struct.pack("<3Q", 0x112, 0, HUGE) + entry(ONE),
        cut(f"entry 1 of {HUGE}", 72, "the mark of a version", 4),
    ),
    "many values": (
        claims(HUGE),
        cut("entry 0 of 1", 56, f"the values of shape ({HUGE},) and type float32", 4 * HUGE, 41),
    ),
    "a product beyond 64 bits": (
        claims(2**32, 2**32),
        entry_fault(64, "the values of an array", f"the shape ({2**32}, {2**32}), larger than any array's"),
    ),
    "a product that wraps to nothing": (
        claims(2**32, 2**32, 4),
        entry_fault(
            72, "the values of an array", f"the shape ({2**32}, {2**32}, 4), larger than any array's"
        ),
    ),
    "an empty array that is too large": (
        claims(0, 2**62, mark=V3 + b"\0" * 4),
        entry_fault(64, "the values of an array", f"the shape (0, {2**62}), larger than any array's"),
    ),
    "a negative size": (claims(2, -3), entry_fault(36, "a shape", "(2, -3)")),
    "two negative sizes": (claims(-2, -3), entry_fault(36, "a shape", "(-2, -3)")),
    "many axes": (
        content(HEAD2 + struct.pack("<i", 33) + b"\1" * 400),
        entry_fault(32, "a number of axes from 0 to 32", 33),
    ),
    "no shape": (
        content(V3 + b"\0" * 4 + struct.pack("<i", -1) + DEVICE),
        entry_fault(32, "a number of axes from 0 to 32", -1),
    ),
    "more axes than bytes": (
        struct.pack("<3Q", 0x112, 0, 1) + HEAD2 + struct.pack("<i", 32),
        cut("entry 0 of 1", 36, "the shape", 256),
    ),
    "version 1 without axes": (
        content(V1 + shape_of() + DEVICE),
        entry_fault(28, "a number of axes from 1 to 32", 0),
    ),
    "no mark, and no axes": (content(b"\0" * 16), entry_fault(24, VERSION, "0x0")),
    "a later mark": (content(struct.pack("<I", 0xF993FACB)), entry_fault(24, VERSION, "0xf993facb")),
    "an unknown storage type": (
        content(V2 + struct.pack("<i", -1) + shape_of(2)),
        entry_fault(28, "a storage type from 0 to 2", -1),
    ),
    "an unknown type flag": (
        content(entry(ONE, flag=99)),
        entry_fault(60, FLAG, "99, which MXNet 1.9.1 does not know"),
    ),
    "a type flag of MXNet's headers": (
        content(entry(ONE, version=0, flag=11)),
        entry_fault(44, FLAG, "11 (uint64), which MXNet 1.9.1 does not know"),
    ),
    "a bool that is 2": (
        content(entry(np.array([0, 1, 2], "uint8"), flag=7)),
        entry_fault(58, "a bool, 0 or 1", 2),
    ),
    "many rows in a sparse array": (
        content(row_sparse().replace(shape_of(1, 2), shape_of(HUGE // 2, 2), 1)),
        cut("entry 0 of 1", 100, f"the values of shape ({HUGE // 2}, 2) and type float32", 4 * HUGE, 33),
    ),
    "many indices in a sparse array": (
        content(row_sparse().replace(shape_of(1) + ONE.tobytes(), shape_of(HUGE - 1) + ONE.tobytes())),
        cut("entry 0 of 1", 108, f"the indices of shape ({HUGE - 1},) and type int64", 8 * HUGE - 8, 25),
    ),
    "too many names": (
        content(entry(ONE), names=[b"a", b"b"]),
        fault("the names", 72, "as many names as arrays (1), or none", 2),
    ),
    "names without arrays": (
        content(names=[b"a"]),
        fault("the names", 24, "as many names as arrays (0), or none", 1),
    ),
    "a long name": (
        content(entry(ONE), names=[b"a"]).replace(b"\1" + b"\0" * 7 + b"a", struct.pack("<Q", HUGE) + b"a"),
        cut("name 0 of 1", 88, "the name", HUGE, 1),
    ),
    "a name that is not UTF-8": (
        content(entry(ONE), entry(ONE), names=[b"a", b"ab\xffc"]),
        fault("name 1 of 2", 147, "UTF-8", "the byte 0xff"),
    ),
    "half a character": (
        content(entry(ONE), names=["é".encode()[:1]]),
        fault("name 0 of 1", 88, "UTF-8", "the byte 0xc3"),
    ),
    "big-endian": (
        struct.pack(">3Q", 0x112, 0, 0) + b"\0" * 8,
        fault("the header", 0, "the mark 0x112 of an MXNet file", "0x1201000000000000"),
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(make, case):
    data, wanted = HOSTILE[case]
    file = make(data)
    tracemalloc.start()
    try:
        assert refusal(file) == wanted
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_reading_takes_no_more_memory_than_the_file(make):
    file = make(content(entry(np.zeros(500_000, "float64")), entry(np.ones((1000, 250), "float32"))))
    tracemalloc.start()
    try:
        names, arrays = read_arrays(file)
        assert tracemalloc.get_traced_memory()[1] < os.path.getsize(file) + 100_000
    finally:
        tracemalloc.stop()
    assert (names, arrays[0].nbytes) == (["0", "1"], 4_000_000)


def outcome(file):
    try:
        pt.load(file)
    except pt.ParamTreeError:
        return "refused"
    return "read"


@pytest.mark.parametrize("refused", [False, True])
def test_any_damage_is_read_or_refused(make, refused):
    arrays = [np.ones((2, 1), "float32"), np.ones(2, "float16"), np.ones(1, bool), np.zeros((), "int32")]
    entries = [entry(array, version) for version, array in enumerate(arrays)]
    entries += [row_sparse(), none()] if refused else []
    whole = content(*entries, names=[b"a/b", b"a/c", b"d", b"e", b"f", b"g"][: len(entries)])
    assert outcome(make(whole)) == ("refused" if refused else "read")
    outcomes = set()
    for place, byte in enumerate(whole):
        assert outcome(make(whole[:place])) == "refused"
        for changed in (0, 127, 255, byte ^ 1, byte ^ 2, byte ^ 4, byte ^ 128):
            outcomes.add(outcome(make(whole[:place] + bytes([changed]) + whole[place + 1 :])))
        outcome(make(whole[:place] + b"\1" + whole[place:]))
        outcome(make(whole[:place] + whole[place + 1 :]))
    assert outcomes == {"read", "refused"}  # one damaged byte can make a sparse array, too, into a dense one


@pytest.mark.parametrize("file", FILES)
def test_a_cut_file_of_mxnet_is_refused(make, file):
    whole = (GOLDENS / file).read_bytes()
    for length in range(0, len(whole), 5):
        assert outcome(make(whole[:length])) == "refused"


# --- what is written ----------------------------------------------------------------------------------------

BY_MXNET = [  # not by hand; dense, and named
    file for file in DENSE if "by hand" not in FILES[file]["origin"] and FILES[file]["names"]
]


@pytest.mark.parametrize("file", BY_MXNET)
def test_mxnets_files_are_written_again_byte_for_byte(file, tmp_path):
    whole = (GOLDENS / file).read_bytes()
    names, arrays = read_arrays(GOLDENS / file)
    write(tmp_path / "x.params", dict(zip(names, arrays, strict=True)), {})
    if file.startswith("fmt_v3") and file != "fmt_v3_np.params":
        whole = whole.replace(V3, V2)  # without a scalar or an empty array, ours is of the older version
    assert (tmp_path / "x.params").read_bytes() == whole.replace(b"x/y:z", b"x.y:z")


def test_the_bytes_of_a_small_file(tmp_path):
    pt.save({}, tmp_path / "x.params")
    assert (tmp_path / "x.params").read_bytes() == (GOLDENS / "fmt_empty.params").read_bytes()
    pt.save({"x": jnp.asarray(ONE)}, tmp_path / "x.params")
    assert (tmp_path / "x.params").read_bytes() == bytes.fromhex(
        "1201000000000000 0000000000000000 0100000000000000"
        "c9fa93f9 00000000 02000000 0100000000000000 0200000000000000"
        "01000000 00000000 00000000 0000803f 00000040"
        "0100000000000000 0100000000000000 78"
    )


def test_a_net_is_saved_under_gluons_names(tmp_path):
    file = tmp_path / "x.params"
    for tree in ({}, {"a": {}}, {"a": {"b": {}}}):
        pt.save(tree, file)
        assert pt.load(file) == {}
    net = nn.Sequential(nn.Dense(8, activation="relu"), nn.Dense(10))
    params = net.init(jax.random.key(0), jnp.ones((2, 20)))
    pt.save(params, file)
    loaded = pt.load(file)
    assert list(loaded) == ["dense0.weight", "dense0.bias", "dense1.weight", "dense1.bias"]
    for name, leaf in pt.collect_params(params).items():
        same(loaded[name.replace("/", ".")], np.asarray(leaf))
    again = pt.unflatten({name.replace(".", "/"): leaf for name, leaf in loaded.items()})
    np.testing.assert_array_equal(net.apply(again, jnp.ones((2, 20))), net.apply(params, jnp.ones((2, 20))))


def test_all_dtypes_are_written(tmp_path):
    tree = {dtype: np.array([[0, 1, 1], [1, 0, 1]]).astype(jnp.dtype(dtype)) for dtype in FLAGS}
    pt.save(tree, tmp_path / "x.params")
    for dtype, leaf in pt.load(tmp_path / "x.params").items():
        same(leaf, tree[dtype])


def test_dtypes_that_mxnet_lacks(tmp_path):
    tree = {
        "a": {"w": np.ones(2, "int16")},
        "b": jnp.ones(1),
        "c": np.ones(2, "complex64"),
        "d": pt.Alias("a"),
    }
    assert message(pt.MismatchError, lambda: pt.save(tree, tmp_path / "x.params")) == (
        "save: a .params file has no type for these:\n"
        "  a/w is int16; pt.cast it, or save to a .npz file\n"
        "  c is complex64; pt.cast it, or save to a .npz file\n"
        "  d/w is int16; pt.cast it, or save to a .npz file"
    )
    assert list(tmp_path.iterdir()) == []


def test_names_that_differ_only_in_their_dots(tmp_path):
    tree = pt.unflatten(dict.fromkeys(["a.b/c", "a/b.c", "a/b/c", "a.d", "e/f", "e.f"], jnp.ones(1)))
    assert message(pt.BadNameError, lambda: pt.save(tree, tmp_path / "x.params")) == (
        "save: a .params file joins keys with '.', so these names clash:\n"
        "  'a/b/c' and 'a/b.c' and 'a.b/c' would be 'a.b.c'; leave one under this name\n"
        "  'e/f' and 'e.f' would be 'e.f'; leave one under this name"
    )
    assert list(tmp_path.iterdir()) == []
    pt.save({"a.b": {"c": jnp.ones(1)}, "a": {"b.d": jnp.ones(1)}}, tmp_path / "x.params")
    assert sorted(pt.load(tmp_path / "x.params")) == ["a.b.c", "a.b.d"]


def test_a_scalar_or_an_empty_array_makes_all_entries_of_version_3(tmp_path):
    file = tmp_path / "x.params"
    for extra, version in ((jnp.float32(3), 3), (jnp.ones((0, 2)), 3), (jnp.ones((1, 1)), 2)):
        pt.save({"w": jnp.ones(2), "extra": extra}, file)
        data = file.read_bytes()
        assert [data.count(mark) for mark in (V1, V2, V3)] == [0, 2 * (version == 2), 2 * (version == 3)]
        same(pt.load(file)["extra"], np.asarray(extra))


def test_ties_are_written_under_both_names_and_constants_as_arrays(tmp_path):
    file = tmp_path / "x.params"
    weight, wide = (
        np.arange(6, dtype="float32").reshape(3, 2),
        np.arange(6, dtype="float64").reshape(3, 2) / 7,
    )
    tree = {
        "embed": {"weight": weight, "wide": wide},
        "head": {name: pt.Alias(f"embed/{name}", transpose=True) for name in ("weight", "wide")},
        "again": pt.Alias("embed"),
        "last": {"weight": pt.Alias("again/weight")},
        "mean": pt.Fixed(np.ones(2, "float32")),
        "nothing": {},
        "less": pt.Alias("nothing"),
    }  # fmt: skip
    pt.save(tree, file)
    loaded = pt.load(file)
    wanted = {name.replace("/", "."): leaf for name, leaf in pt.collect_params(pt.resolve(tree)).items()}
    assert list(loaded) == list(wanted)
    assert list(loaded) == [
        "again.weight", "again.wide", "embed.weight", "embed.wide", "head.weight", "head.wide", "last.weight",
        "mean",
    ]  # fmt: skip
    for name, leaf in loaded.items():
        same(leaf, np.ascontiguousarray(wanted[name]))
    np.testing.assert_array_equal(loaded["head.wide"], wide.T)  # all 64 bits of it
    vector = {"a": jnp.ones(2), "b": pt.Alias("a", transpose=True)}
    assert message(pt.TieError, lambda: pt.save(vector, file)) == (
        "'a' is tied transposed, but is not a matrix. Tie it without transpose=True."
    )


def test_a_tied_net_is_written_as_gluon_writes_it(tmp_path):
    with np.load(GOLDENS / "tied_chapter.npz") as values:
        gluon = {key[6:]: values[key] for key in values.files if key.startswith("param:")}
    tree = pt.unflatten({name.replace(".", "/"): value for name, value in gluon.items()})
    pt.save(pt.tie(tree, {"2": "1"}), tmp_path / "x.params")
    loaded = pt.load(tmp_path / "x.params")
    assert list(loaded) == list(gluon)
    for name, value in gluon.items():
        same(loaded[name], value)


def test_arrays_that_are_not_contiguous(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    tree = {
        "transposed": base.T, "strided": base[::2, ::-3], "fortran": np.asfortranarray(base),
        "broadcast": np.broadcast_to(np.float32(3), (2, 3)), "swapped": base.astype(">f4"),
        "half": base.astype(ml_dtypes.bfloat16).T,
    }  # fmt: skip
    pt.save(tree, tmp_path / "x.params")
    for name, leaf in pt.load(tmp_path / "x.params").items():
        np.testing.assert_array_equal(leaf, tree[name])
        assert leaf.dtype == tree[name].dtype.newbyteorder("=")


def test_a_loaded_file_saves_to_the_same_names(tmp_path):
    loaded = pt.load(GOLDENS / "fmt_export.params")
    pt.save(loaded, tmp_path / "x.params")
    again = pt.load(tmp_path / "x.params")
    assert sorted(again) == sorted(loaded)
    for name, leaf in again.items():
        same(leaf, np.asarray(loaded[name]))


def test_any_path_will_do(tmp_path):
    file = tmp_path / "x.params"
    pt.save({"w": jnp.ones(2)}, str(file))
    for path in (file, str(file)):
        assert read_arrays(path)[0] == ["w"]
    assert open_file(file).notes == {}
    assert message(FileNotFoundError, lambda: pt.load(tmp_path / "no.params")) == (
        f"there is no file '{tmp_path}/no.params' to load."
    )
