"""What is saved comes back bit for bit, or a message says why not; and no crash leaves half a file."""

import json
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy as stock

import paramtree as pt
from paramtree.checkpoint import atomic, npz, safetensors

FORMATS = ["safetensors", "npz"]
both = pytest.mark.parametrize("form", FORMATS)
COMMON = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16",
    "float32", "float64", "complex64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu",
]  # fmt: skip
NPZ_ONLY = ["int4", "uint4", "int2", "float4_e2m1fn", "float8_e3m4", "float8_e4m3", "complex128"]
TREE = {
    "embed": {"weight": jnp.arange(6.0).reshape(3, 2)},
    "block": {
        "dense": {"weight": jnp.ones((2, 2), "bfloat16"), "bias": jnp.zeros(2)},
        "mean": pt.Fixed(jnp.ones(2)),
        "table": pt.Frozen(jnp.ones(3)),
    },
    "again": pt.Alias("block"),
    "head": {"weight": pt.Alias("embed/weight", transpose=True)},
    "last": pt.Alias("again/dense"),
    "nothing": {},
}


def there_and_back(params, form):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"net.{form}")
        pt.save(params, file)
        return pt.load(file)


def parts(tree):
    """Give what a tree is, for `==`: its nodes, its dtypes and its bits."""

    def part(node):
        if isinstance(node, pt.Fixed):
            return (type(node).__name__, part(node.value))
        if isinstance(node, jax.Array | np.ndarray):
            array = np.asarray(node)
            return (array.dtype.name, array.shape, array.tobytes())
        return node

    return {name: part(node) for name, node in pt.flatten(tree).items()}


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


# --- the law ------------------------------------------------------------------------------------------------


@both
def test_a_tree_of_everything(form):
    loaded = there_and_back(TREE, form)
    assert parts(loaded) == parts(TREE)
    assert jax.tree.structure(loaded) == jax.tree.structure(TREE)
    jax.tree.map(np.testing.assert_array_equal, pt.resolve(loaded), pt.resolve(TREE))


@both
@pytest.mark.parametrize("tree", [{}, {"a": {}}, {"a": {"b": {}}, "c": jnp.ones(1)}])
def test_empty_dicts(form, tree):
    assert parts(there_and_back(tree, form)) == parts(tree)


def of_dtype(name):
    bits = np.random.default_rng(0).integers(0, 256, 48, np.uint8)
    if name in ("bool", "int4", "uint4", "int2", "float4_e2m1fn"):
        return (bits % 2).astype(name)
    return bits.view(jnp.dtype(name))  # among them NaNs with payloads, and subnormal numbers


@both
@pytest.mark.parametrize("dtype", COMMON)
def test_every_dtype(form, dtype):
    array = of_dtype(dtype)
    tree = {"all": array, "none": array[:0], "one": array[:1].reshape(()), "cube": array[:4].reshape(2, 1, 2)}
    assert parts(there_and_back(tree, form)) == parts(tree)


@pytest.mark.parametrize("dtype", NPZ_ONLY)
def test_dtypes_that_safetensors_lacks(dtype, tmp_path):
    tree = {"a": {"w": of_dtype(dtype)}, "b": jnp.ones(1), "c": of_dtype(dtype)}
    assert parts(there_and_back(tree, "npz")) == parts(tree)
    assert message(pt.MismatchError, lambda: pt.save(tree, tmp_path / "x.safetensors")) == (
        "save: a .safetensors file has no type for these:\n"
        f"  a/w is {dtype}; pt.cast it, or save to a .npz file\n"
        f"  c is {dtype}; pt.cast it, or save to a .npz file"
    )
    assert list(tmp_path.iterdir()) == []


@both
def test_wide_arrays_stay_numpy_and_the_others_become_jax(form):
    wide = {dtype: np.array([1, 2], dtype) for dtype in ("uint64", "int64", "float64")}
    loaded = there_and_back(wide | {"x": np.ones(2, "float32")}, form)
    for dtype in wide:
        assert type(loaded[dtype]) is np.ndarray
        assert loaded[dtype].dtype == dtype
        loaded[dtype][0] = 7  # and not read-only
    assert isinstance(loaded["x"], jax.Array)
    with jax.enable_x64(True):
        loaded = there_and_back(wide, form)
        assert all(isinstance(each, jax.Array) for each in loaded.values())
        assert parts(loaded) == parts(wide)


@both
def test_arrays_that_are_not_contiguous(form):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    tree = {
        "transposed": base.T, "strided": base[::2, ::-3], "fortran": np.asfortranarray(base),
        "broadcast": np.broadcast_to(np.float32(3), (2, 3)), "swapped": base.astype(">f4"),
        "half": base.astype(ml_dtypes.bfloat16).T,
    }  # fmt: skip
    loaded = there_and_back(tree, form)
    for name, array in tree.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype.newbyteorder("=")


@both
def test_sharded_arrays(form):
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.arange(32.0).reshape(16, 2)
    tree = {
        spec: jax.device_put(x, jax.NamedSharding(mesh, jax.P(*axes)))
        for spec, axes in {"rows": ("data", None), "whole": ()}.items()
    }
    assert parts(there_and_back(tree, form)) == parts({"rows": x, "whole": x})


NAMES = [
    "a.b.c", "a b", " ", "file", "__paramtree__", "paramtree", "paramtree.json", "w.npy", "w", "arr_0",
    "naïve/Größe",
    "名前", "😀", "\n\t", "..", ".", "a\\b", "~", "'\"", "allow_pickle", "CON", "e\u0301", "é",
]  # fmt: skip


@both
def test_odd_names(form):
    tree = pt.unflatten({name: np.full(2, number, np.float32) for number, name in enumerate(NAMES)})
    assert parts(there_and_back(tree, form)) == parts(tree)
    tied = tree | {"tie\u2028": pt.Alias("名前"), "fix.ed": pt.Fixed(np.ones(1, "float32")), "{}": {}}
    assert parts(there_and_back(tied, form)) == parts(tied)


def test_the_one_name_safetensors_keeps(tmp_path):
    tree = {"__metadata__": np.ones(2, "float32")}
    assert parts(there_and_back(tree, "npz")) == parts(tree)
    assert parts(there_and_back({"a": tree}, "safetensors")) == parts({"a": tree})
    assert message(pt.BadNameError, lambda: pt.save(tree, tmp_path / "x.safetensors")) == (
        "save: a .safetensors file keeps its notes as '__metadata__'; rename it, or save to a .npz file."
    )


@both
def test_names_that_no_file_can_hold(form, tmp_path):
    tree = {"a\0b": jnp.ones(1), "block": {"\ud800": jnp.ones(1)}, "fine": jnp.ones(1)}
    assert message(pt.BadNameError, lambda: pt.save(tree, tmp_path / f"x.{form}")) == (
        "save: these names cannot be written:\n"
        "  'a\\x00b' holds a NUL or half a surrogate pair; rename it\n"
        "  'block/\\ud800' holds a NUL or half a surrogate pair; rename it"
    )


# --- the law, for any tree ----------------------------------------------------------------------------------


try:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
except ImportError:
    given = None


@pytest.mark.skipif(given is None, reason="needs hypothesis")
@both
def test_any_tree(form):
    keys = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6)

    @st.composite
    def arrays(draw):
        name = draw(st.sampled_from(COMMON))
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        dtype = jnp.dtype(name)
        size = int(np.prod(shape)) * dtype.itemsize
        bits = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
        array = (bits % 2).astype(bool) if name == "bool" else bits.view(dtype)
        array = array.reshape(shape)
        if draw(st.booleans()) and len(shape) > 1:
            array = array.swapaxes(0, 1)
        return pt.Fixed(array) if draw(st.booleans()) else array

    @st.composite
    def trees(draw):
        block = st.dictionaries(keys, arrays(), max_size=3)
        deeper = st.dictionaries(keys, block, max_size=2)
        tree = draw(st.dictionaries(keys, arrays() | block | deeper, max_size=4))
        tree.pop("__metadata__", None)  # the one name that a format keeps
        places = list(pt.flatten(tree))
        places += sorted({name.rpartition("/")[0] for name in places} - {""})
        for number in range(draw(st.integers(0, 3)) if places else 0):
            target = draw(st.sampled_from(places))  # a parameter, a block, an empty dict, or another tie
            tree[f"tie {number}"] = pt.Alias(target, transpose=draw(st.booleans()))
            places.append(f"tie {number}")
        return tree

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"net.{form}")

        @settings(suppress_health_check=list(HealthCheck))
        @given(trees())
        def check(tree):
            pt.save(tree, file)
            loaded = pt.load(file)
            assert parts(loaded) == parts(tree)
            pt.save(loaded, file)
            assert parts(pt.load(file)) == parts(tree)

        check()
        assert os.listdir(folder) == [file.name]


# --- what is in the file ------------------------------------------------------------------------------------


@both
def test_a_tie_is_stored_once(form, tmp_path):
    big = jnp.zeros((250, 1000))
    tree = {"a": {"w": big}, "b": pt.Alias("a"), "c": pt.Alias("a/w", transpose=True)}
    pt.save(tree, tmp_path / f"x.{form}")
    assert 1_000_000 < os.path.getsize(tmp_path / f"x.{form}") < 1_005_000


def test_stock_safetensors_reads_ours(tmp_path):
    file = tmp_path / "x.safetensors"
    pt.save({"a": {"w": jnp.arange(3.0)}, "b": pt.Alias("a"), "c": pt.Fixed(jnp.ones((2, 2), "int32"))}, file)
    loaded = stock.load_file(file)
    assert sorted(loaded) == ["a/w", "c"]
    np.testing.assert_array_equal(loaded["a/w"], np.arange(3, dtype="float32"))
    assert loaded["c"].dtype == np.int32


def test_numpy_reads_ours(tmp_path):
    file = tmp_path / "x.npz"
    pt.save({"a": {"w": jnp.arange(3.0)}, "b": pt.Alias("a")}, file)
    with np.load(file) as loaded:
        np.testing.assert_array_equal(loaded["a/w"], np.arange(3, dtype="float32"))


def test_we_read_stock_files(tmp_path):
    arrays = {"layer.0.weight": np.ones((2, 3), "float32"), "layer.0.bias": np.zeros(2, "float16")}
    stock.save_file(arrays, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **arrays)
    np.savez_compressed(tmp_path / "y.npz", **arrays)
    stock.save_file(arrays, tmp_path / "z.safetensors", metadata={"format": "pt"})
    for file in tmp_path.iterdir():
        assert parts(pt.load(file)) == parts(arrays)
    stock.save_file({"a/w": np.ones(1, "float32")}, tmp_path / "x.safetensors")
    assert parts(pt.load(tmp_path / "x.safetensors")) == parts({"a": {"w": np.ones(1, "float32")}})


def test_a_part_is_loaded_where_other_names_cannot_be_nested(tmp_path):
    file = tmp_path / "x.safetensors"
    arrays = {name: np.full(2, at, np.float32) for at, name in enumerate(["a", "a/b", "c/x", "c/y", "d//e"])}
    stock.save_file(arrays, file)
    for select, rename, names in (
        ("c/.*", None, ["c/x", "c/y"]),
        (["a", "c/x"], None, ["a", "c/x"]),
        (lambda name, leaf: name == "a/b" and leaf.shape == (2,), None, ["a/b"]),
        ("c/.*", {"c/x": "c/z"}, ["c/y", "c/z"]),
    ):
        plan = pt.plan_load(file, select=select, rename=rename)
        assert plan.unresolved == ()
        assert sorted(pt.names(plan.params())) == names
    np.testing.assert_array_equal(pt.load(file, select="a/.*")["a"]["b"], [1, 1])
    start = f"'{file}': these names cannot be nested:\n  'a' is a parameter, and a block that holds 'a/b'"
    assert message(pt.BadNameError, lambda: pt.load(file, select="a.*")) == start
    assert message(pt.BadNameError, lambda: pt.load(file, select=".*")).startswith(start)
    assert message(pt.BadNameError, lambda: pt.load(file)).startswith(start)
    assert message(pt.NoMatchError, lambda: pt.load(file, select="b")) == (
        f"'{file}': select 'b' hits none of 5 parameters; it must match the whole name. Did you mean '.*b'?"
    )


def test_ties_and_marks_of_such_a_part_are_kept(tmp_path):
    part = {"c": {"x": pt.Fixed(np.zeros(1, np.float32)), "y": pt.Alias("c/x")}}
    tied = {"d": pt.Alias("a"), "e": {}}
    whole = {"a": np.ones(2, np.float32), "b": pt.Fixed(np.ones(1, np.float32))} | part | tied
    pt.save(whole, tmp_path / "x.npz")
    assert parts(pt.load(tmp_path / "x.npz", select="c/.*", rename={"b": "a/b"})) == parts(part)


def test_names_of_a_stock_file_that_cannot_be_nested(tmp_path):
    file = tmp_path / "x.safetensors"
    stock.save_file({"a": np.ones(1), "a/w": np.ones(1), "b//c": np.ones(1)}, file)
    start = f"'{file}': these names cannot be nested:\n"
    assert message(pt.BadNameError, lambda: pt.load(file)).startswith(start)


# --- what cannot be saved -----------------------------------------------------------------------------------


@both
def test_leaves_that_are_no_arrays_are_listed_at_once(form, tmp_path):
    tree = {
        "fine": jnp.ones(2), "rate": 0.5, "name": "net", "spec": jax.ShapeDtypeStruct((2,), "float32"),
        "words": np.array(["a"]), "fixed": pt.Fixed(3),
        "time": np.zeros(2, "M8[s]"), "long": np.zeros(2, np.longdouble),
    }  # fmt: skip
    assert message(pt.MismatchError, lambda: pt.save(tree, tmp_path / f"x.{form}")) == (
        "save: only arrays of numbers can be saved:\n"
        "  fixed is 3 of type int\n"
        f"  long is an array of {np.dtype(np.longdouble)}\n"
        "  name is 'net' of type str\n"
        "  rate is 0.5 of type float\n"
        "  spec is ShapeDtypeStr...dtype=float32) of type ShapeDtypeStruct\n"
        "  time is an array of datetime64[s]\n"
        "  words is an array of <U1"
    )
    assert list(tmp_path.iterdir()) == []


@both
def test_a_node_of_the_user(form, tmp_path):
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class LowRank(pt.Node):
        left: jax.Array
        right: jax.Array

        def resolve(self, lookup):
            return self.left @ self.right

    tree = {"dense0": {"weight": LowRank(jnp.ones((3, 1)), jnp.ones((1, 2)))}}
    assert message(pt.MismatchError, lambda: pt.save(tree, tmp_path / f"x.{form}")) == (
        "save: only arrays of numbers can be saved:\n"
        "  dense0/weight is a LowRank, a node that files do not know; pt.resolve the tree first"
    )
    assert there_and_back(pt.resolve(tree), form)["dense0"]["weight"].shape == (3, 2)


@both
def test_saving_within_jit(form, tmp_path):
    def step(x):
        pt.save({"x": x}, tmp_path / f"x.{form}")

    assert message(pt.MismatchError, lambda: jax.jit(step)(jnp.ones(1))) == (
        "save: only arrays of numbers can be saved:\n  x is traced; save outside of jit"
    )


@both
def test_a_tie_that_leads_out_of_the_tree(form, tmp_path):
    for tree in ({"b": pt.Alias("a")}, {"a": pt.Alias("b"), "b": pt.Alias("a")}):
        with pytest.raises(pt.TieError):
            pt.save(tree, tmp_path / f"x.{form}")
    assert list(tmp_path.iterdir()) == []


@both
@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ([np.ones(1)], ["0"]),
        ({"a": [np.ones(1)]}, ["a/0"]),
        ({"a": None}, []),
        ({"a/b": (1, 2.5)}, ["a/b/0", "a/b/1"]),
    ],
)
def test_trees_that_are_not_of_dicts(form, tree, names, tmp_path):
    file = tmp_path / f"x.{form}"
    pt.save(tree, file)
    assert pt.names(pt.load(file)) == names
    loaded = pt.load(file, tree)
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    assert jax.tree.leaves(loaded) == jax.tree.leaves(tree)


@both
@pytest.mark.parametrize("tree", [3, None, np.ones(1), {"": np.ones(1)}])
def test_what_is_no_tree(form, tree, tmp_path):
    with pytest.raises(pt.BadNameError):
        pt.save(tree, tmp_path / f"x.{form}")
    assert list(tmp_path.iterdir()) == []


# --- files that are not there, or not right -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.pt", "x", "x.safetensors.bak", ".npz"])
def test_an_unknown_suffix(name, tmp_path):
    assert message(pt.ParamTreeError, lambda: pt.save({}, tmp_path / name)) == (
        f"'{tmp_path / name}' is of no format that is written. End its name in .safetensors, "
        ".safetensors.index.json, .npz, .params, .msgpack or .orbax; torch, flax and others read "
        ".safetensors."
    )
    (tmp_path / name).write_bytes(b"0123456789abcdefgh")
    if name != "x.pt":
        assert message(pt.ParamTreeError, lambda: pt.load(tmp_path / name)) == (
            f"'{tmp_path / name}' is a file of no known format. It begins with b'0123456789abcdef'. Files "
            "that are read: .orbax, .safetensors, .safetensors.index.json, .pt, .pth, .bin, .npz, .params, "
            ".h5, .hdf5, .keras, .msgpack or .eqx."
        )


@both
def test_a_format_is_known_by_its_content(form, tmp_path):
    pt.save(TREE, tmp_path / f"x.{form}")
    for name in ("y", "y.bak", "y.pt", "y.params"):
        os.replace(next(tmp_path.iterdir()), tmp_path / name)
        assert parts(pt.load(tmp_path / name)) == parts(TREE)


@both
def test_files_and_directories_that_are_not_there(form, tmp_path):
    assert message(FileNotFoundError, lambda: pt.load(tmp_path / f"x.{form}")) == (
        f"there is no file '{tmp_path}/x.{form}' to load."
    )
    assert message(FileNotFoundError, lambda: pt.save(TREE, tmp_path / f"no/x.{form}")) == (
        f"there is no directory '{tmp_path}/no' to save in. Make it first."
    )
    place = tmp_path / f"folder.{form}"
    place.mkdir()
    text = f"'{place}' is a directory. Name a file."
    assert message(IsADirectoryError, lambda: pt.save(TREE, place)) == text
    start = f"'{place}' is a directory of no known format. Files that are read: "
    assert message(pt.ParamTreeError, lambda: pt.load(place)).startswith(start)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0" * 64, b"\xff" * 64, b"PK\3\4" + b"x" * 60, b"{}"])
@both
def test_garbage(form, content, tmp_path):
    file = tmp_path / f"x.{form}"
    file.write_bytes(content)
    start = f"'{file}' is not a whole .{form} file"
    assert message(pt.ParamTreeError, lambda: pt.load(file)).startswith(start)


def test_the_whole_message_of_an_empty_file(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"")
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert message(pt.ParamTreeError, lambda: pt.load(tmp_path / "x.npz")) == (
        f"'{tmp_path}/x.npz' is not a whole .npz file: File is not a zip file."
    )
    assert message(pt.ParamTreeError, lambda: pt.load(tmp_path / "x.safetensors")) == (
        f"'{tmp_path}/x.safetensors' is not a whole .safetensors file: "
        "Error while deserializing header: header too small."
    )


@both
def test_every_truncation_is_an_error(form, tmp_path):
    file = tmp_path / f"x.{form}"
    pt.save(TREE, file)
    whole = file.read_bytes()
    for length in range(0, len(whole), 1 if form == "safetensors" else 7):
        file.write_bytes(whole[:length])
        with pytest.raises(pt.ParamTreeError):
            pt.load(file)


@both
def test_no_damage_raises_an_error_of_another_kind(form, tmp_path):
    file = tmp_path / f"x.{form}"
    pt.save(TREE, file)
    whole = file.read_bytes()
    dice = random.Random(0)
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(dice.choice([1, 1, 3])):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        file.write_bytes(damaged)
        try:
            pt.load(file)
            outcomes.add("read")
        except pt.ParamTreeError:
            outcomes.add("refused")
    assert "refused" in outcomes


def write_notes(file, text):
    """Write a file of two arrays with these notes."""
    arrays = {"a": np.ones((2, 3), "float32"), "b": np.ones(4, "uint16")}
    if file.suffix == ".safetensors":
        stock.save_file(arrays, file, metadata={"paramtree": text})
    else:
        np.savez(file, **arrays)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("paramtree.json", text)


@pytest.mark.parametrize(
    ("notes", "wanted"),
    [
        ("hello", "the notes are not JSON: Expecting value: line 1 column 1 (char 0)."),
        ("[1]", "the notes are damaged: '[1]' is not an object."),
        ("null", "the notes are damaged: 'null' is not an object."),
        ('{"version": 2}', "the notes are of version 2; this paramtree reads 1."),
        ('{"fixed": ["gone"]}', "the notes are damaged: KeyError: 'gone'."),
        ('{"fixed": 3}', "the notes are damaged: TypeError: 'int' object is not iterable."),
        ('{"fixed": [["a"]]}', "the notes are damaged: TypeError: unhashable type: 'list'."),
        ('{"ties": ["c"]}',
         "the notes are damaged: AttributeError: 'list' object has no attribute 'items'."),
        ('{"ties": {"c": {"target": "a"}}}', "the notes are damaged: KeyError: 'transpose'."),
        ('{"ties": {"c": "a"}}', None),
        ('{"ties": {"c": {"target": "gone", "transpose": false}}}', None),
        ('{"ties": {"c": {"target": "c", "transpose": false}}}', None),
        ('{"ties": {"c": {"target": ["a"], "transpose": false}}}', None),
        ('{"ties": {"a": {"target": "b", "transpose": false}}}',
         "the notes are damaged: KeyError: 'a is there twice'."),
        ('{"ties": {"a/w": {"target": "b", "transpose": false}}}', None),
        ('{"ties": {"": {"target": "b", "transpose": false}}}', None),
        ('{"empty": ["a"]}', "the notes are damaged: KeyError: 'a is there twice'."),
        ('{"empty": ["a/b"]}', None),
        ('{"empty": [3]}', None),
        ('{"empty": 3}', "the notes are damaged: TypeError: 'int' object is not iterable."),
        ("[" * 100_000, None),
        (json.dumps({"ties": {f"t{i}": {"target": f"t{i + 1}", "transpose": False} for i in range(3000)}}),
         "the ties of this tree are nested too deeply for Python."),
        (json.dumps({"empty": ["/".join("x" * 5000)]}),
         "this tree is nested too deeply for JAX; put its blocks side by side."),
    ],
)  # fmt: skip
@both
def test_hostile_notes(form, notes, wanted, tmp_path):
    file = tmp_path / f"x.{form}"
    write_notes(file, notes)
    with pytest.raises(pt.ParamTreeError) as caught:
        pt.load(file)
    assert str(caught.value) == f"'{file}': {wanted}" if wanted else str(file) in str(caught.value)


@pytest.mark.parametrize(
    "dtypes", [{"gone": "int8"}, {"a": "nothing"}, {"a": 3.5}, {"a": "complex128"}, 3, {"a": "O"}]
)
def test_hostile_dtypes(dtypes, tmp_path):
    write_notes(tmp_path / "x.npz", json.dumps({"dtypes": dtypes}))
    start = f"'{tmp_path / 'x.npz'}': the notes on dtypes are damaged: "
    assert message(pt.ParamTreeError, lambda: pt.load(tmp_path / "x.npz")).startswith(start)


def test_arrays_of_other_things(tmp_path):
    file = tmp_path / "x.npz"
    np.savez(file, words=np.array(["a"]), ok=np.ones(1), dates=np.zeros(1, "M8[s]"))
    text = message(pt.MismatchError, lambda: pt.load(file))
    assert text.splitlines()[:4] == [
        f"load: '{file}': 2 refused, 1 loaded",
        "  refused  words              it is an array of <U1",
        "  refused  dates              it is an array of datetime64[s]",
        "  loaded   ok     float64[1]",
    ]
    assert list(pt.load(file, rename={"words|dates": None})) == ["ok"]
    np.savez(file, objects=np.array([{}], object))
    assert "refused  objects    it is an array of object" in message(pt.MismatchError, lambda: pt.load(file))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert message(pt.ParamTreeError, lambda: pt.load(file)) == (
        f"'{file}' is not a whole .npz file: 'readme.txt' is no .npy file."
    )


def test_a_dtype_that_numpy_lacks(tmp_path):
    header = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    assert "refused  a    it is of dtype F4, which NumPy does not have" in message(
        pt.MismatchError, lambda: pt.load(file)
    )


# --- one step -----------------------------------------------------------------------------------------------


@both
def test_a_writer_that_fails_leaves_the_old_file(form, tmp_path, monkeypatch):
    file = tmp_path / f"x.{form}"
    pt.save({"a": jnp.ones(1)}, file)
    old = file.read_bytes()

    def fail(path, arrays, notes):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    module = {"npz": npz, "safetensors": safetensors}[form]
    monkeypatch.setattr(module, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        pt.save(TREE, file)
    assert file.read_bytes() == old
    assert os.listdir(tmp_path) == [file.name]


@both
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file(form, failing, tmp_path, monkeypatch):
    file = tmp_path / f"x.{form}"
    pt.save({"a": jnp.ones(1)}, file)
    old = file.read_bytes()

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        pt.save(TREE, file)
    assert file.read_bytes() == old
    assert os.listdir(tmp_path) == [file.name]


def test_the_file_is_flushed_before_it_is_moved(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        events.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(source, target):
        events.append("move")
        assert os.path.dirname(os.path.dirname(source)) == os.path.dirname(target)
        replace(source, target)

    monkeypatch.setattr(atomic.os, "fsync", note_fsync)
    monkeypatch.setattr(atomic.os, "replace", note_replace)
    pt.save(TREE, tmp_path / "x.npz")
    assert events == ["file", "move", "directory"]


SAVER = """
import sys, numpy as np, paramtree as pt
for number in range(1, 10**9):
    array = np.full(400_000, number, np.float32)
    pt.save({"a": {"w": array}, "b": array}, sys.argv[1])
    print(number, flush=True)
"""


def test_a_killed_process_leaves_a_whole_file(tmp_path):
    dice = random.Random(1)
    root = str(Path(pt.__file__).parents[1])
    files = [tmp_path / f"x.{form}" for form in FORMATS]
    environment = os.environ | {"PYTHONPATH": root, "XLA_FLAGS": ""}
    savers = [
        subprocess.Popen([sys.executable, "-c", SAVER, str(file)], stdout=subprocess.PIPE, env=environment)
        for file in files
    ]
    try:
        for saver in savers:
            assert saver.stdout.readline()
        for _ in range(6):  # stopped anywhere, as by a power cut
            time.sleep(dice.uniform(0.005, 0.05))
            for saver, file in zip(savers, files, strict=True):
                os.kill(saver.pid, signal.SIGSTOP)
                check_whole(file)
                os.kill(saver.pid, signal.SIGCONT)
    finally:
        for saver in savers:
            saver.kill()
            saver.wait()
            saver.stdout.close()
    for file in files:
        check_whole(file)


def check_whole(file):
    loaded = pt.load(file)
    values = set(np.unique(np.asarray(loaded["a"]["w"]))) | set(np.unique(np.asarray(loaded["b"])))
    assert len(values) == 1
    assert loaded["a"]["w"].shape == (400_000,)


@both
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(form, mask, tmp_path):
    old = os.umask(mask)
    try:
        pt.save(TREE, tmp_path / f"x.{form}")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / f"x.{form}").st_mode) == 0o666 & ~mask


@both
def test_saving_through_a_link(form, tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / f"x.{form}", tmp_path / f"link.{form}"
    link.symlink_to(target)
    for tree in ({"a": jnp.ones(1)}, TREE):  # first where the link leads to nothing yet
        pt.save(tree, link)
        assert link.is_symlink()
        assert parts(pt.load(target)) == parts(tree)
    assert sorted(os.listdir(tmp_path)) == ["far", link.name]
    assert os.listdir(tmp_path / "far") == [target.name]


@both
def test_paths_of_every_kind(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long = "x" * (254 - len(form)) + f".{form}"
    for file in (f"x.{form}", Path(f"y.{form}"), f"{tmp_path}/ü 名.{form}", long):
        pt.save({"a": jnp.ones(1)}, file)
        assert parts(pt.load(file)) == parts({"a": jnp.ones(1)})
    assert len(os.listdir(tmp_path)) == 4


@both
def test_a_file_can_be_saved_over_while_its_arrays_are_held(form, tmp_path):
    file = tmp_path / f"x.{form}"
    pt.save({"a": np.arange(1000.0), "b": jnp.arange(1000.0)}, file)
    loaded = pt.load(file)
    pt.save({"a": np.zeros(1000), "b": jnp.zeros(1000)}, file)
    np.testing.assert_array_equal(loaded["a"], np.arange(1000.0))
    np.testing.assert_array_equal(loaded["b"], np.arange(1000.0))
