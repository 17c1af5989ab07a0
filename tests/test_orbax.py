"""Orbax directories: written and read part by part, whole after a crash, exchanged with Orbax itself."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree.checkpoint import orbax
from paramtree.checkpoint.atomic import whole_folder
from paramtree.checkpoint.layout import join_parts, split_parts
from paramtree.checkpoint.rawfile import FileChangedError

ocp = pytest.importorskip("orbax.checkpoint")

TREE = {
    "embed": {"weight": jnp.arange(6.0).reshape(3, 2)},
    "block": {
        "dense": {"weight": jnp.ones((2, 2), "bfloat16"), "bias": np.arange(3)},
        "mean": pt.Fixed(jnp.ones(2)),
        "table": pt.Frozen(jnp.float32(3)),
    },
    "again": pt.Alias("block"),
    "head": {"weight": pt.Alias("embed/weight", transpose=True)},
    "none": np.zeros((2, 0), "int8"),
    "nothing": {},
}


def save(params, path):
    orbax.write(Path(path), *split_parts(params))


def read(path):
    """Give all arrays of a directory by name, read one by one, and what is stored."""
    stored = orbax.open_file(Path(path))
    with stored.reading() as read_one:
        leaves = {name: read_one(name) for name in stored.specs}
    for name, spec in stored.specs.items():
        assert (leaves[name].shape, leaves[name].dtype) == (spec.shape, spec.dtype)
        assert leaves[name].flags.c_contiguous
        assert leaves[name].flags.writeable
    return leaves, stored


def load(path):
    leaves, stored = read(path)
    return join_parts(leaves, stored.notes)


def bits(tree):
    """Give what a tree is, for `==`."""

    def of(node):
        if isinstance(node, pt.Fixed):
            return type(node).__name__, of(node.value)
        if isinstance(node, jax.Array | np.ndarray):
            return np.asarray(node).dtype.name, node.shape, np.asarray(node).tobytes()
        return node

    return {name: of(node) for name, node in pt.flatten(tree).items()}


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def sharding(count, *axes):
    mesh = jax.make_mesh(
        (count,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count]
    )
    return jax.NamedSharding(mesh, jax.P(*axes))


def spec(shape, dtype, where=None):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=where)


def by_plain_orbax(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


# --- the law ------------------------------------------------------------------------------------------------


def test_a_tree_of_everything(tmp_path):
    save(TREE, tmp_path / "x.orbax")
    loaded = load(tmp_path / "x.orbax")
    assert bits(loaded) == bits(TREE)
    assert jax.tree.structure(loaded) == jax.tree.structure(TREE)
    assert os.listdir(tmp_path) == ["x.orbax"]


def test_save_and_load_of_the_package(tmp_path):
    pt.save(TREE, tmp_path / "x.orbax")
    assert bits(pt.load(tmp_path / "x.orbax")) == bits(TREE)


NAMES = [
    "a.b.c", "a b", " ", "file", "w.npy", "w", "naïve", "名前", "😀", "\n\t", "..", ".", "a\\b", "~", "'\"",
    "#", "CON", "e\u0301", "é", "\x01", "?x=1", "%41", "[0]", "('a',)", "_METADATA", "manifest.ocdbt", "0",
    "x" * 300, "d", "$", "*", "|",
]  # fmt: skip


def test_odd_names(tmp_path):
    tree = {name: np.full(2, number, np.float32) for number, name in enumerate(NAMES)}
    tree = {"flat": tree, **tree}
    save(tree, tmp_path / "x")
    assert bits(load(tmp_path / "x")) == bits(tree)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16",
     "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
     "float8_e5m2fnuz", "int4"],
)  # fmt: skip
def test_every_dtype(dtype, tmp_path):
    dice = np.random.default_rng(0).integers(0, 256, 64, np.uint8)
    array = (dice % 2).astype(dtype) if dtype in ("bool", "int4") else dice.view(jnp.dtype(dtype))
    tree = {
        "many": array,
        "scalar": array[:1].reshape(()),
        "cube": array[:4].reshape(2, 1, 2),
        "none": array[:0],
    }
    save(tree, tmp_path / "x")
    assert bits(load(tmp_path / "x")) == bits(tree)


def test_arrays_of_numpy_that_are_not_contiguous(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    tree = {"transposed": base.T, "strided": base[::2, ::-3], "swapped": base.astype(">f4")}
    save(tree, tmp_path / "x")
    loaded = load(tmp_path / "x")
    for name, array in tree.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == np.float32


def test_what_orbax_cannot_write(tmp_path):
    path = tmp_path / "x"
    tree = {"a": {"w": jnp.ones(2, "uint4")}, "b": jnp.ones(1), "c": jnp.ones(2, "float8_e4m3")}
    assert message(pt.MismatchError, lambda: save(tree, path)) == (
        "save: Orbax has no type for these:\n  a/w is uint4; pt.cast it\n  c is float8_e4m3; pt.cast it"
    )
    tree = {"a.b": jnp.ones(1), "a": {"b": jnp.zeros(1)}, "c": jnp.ones(1)}
    assert message(pt.BadNameError, lambda: save(tree, path)) == (
        "save: Orbax writes these as one; rename them:\n  a/b and a.b"
    )
    for tree in ({}, {"a": {}}, {"a": np.zeros(0)}):
        assert message(pt.ParamTreeError, lambda tree=tree: save(tree, path)) == (
            "save: Orbax writes no tree without values. Save to a .safetensors file."
        )
    assert os.listdir(tmp_path) == []


# --- devices ------------------------------------------------------------------------------------------------


def sharded_tree():
    x = jnp.arange(64.0).reshape(16, 4)
    return {
        "rows": jax.device_put(x, sharding(8, "d", None)),
        "columns": jax.device_put(x.astype("bfloat16"), sharding(4, None, "d")),
        "copies": jax.device_put(x, sharding(8)),
        "one": x[0, 0],
        "none": jnp.zeros((8, 0)),
    }


@pytest.mark.parametrize("count", [8, 4, 2, 1])
def test_saved_from_eight_devices_and_restored_on_fewer(count, tmp_path):
    tree = sharded_tree()
    save(tree, tmp_path / "x")
    assert bits(load(tmp_path / "x")) == bits(tree)
    where = {
        "rows": sharding(count, None, "d" if count < 8 else None),
        "columns": sharding(count, "d", None),
        "one": sharding(count),
        "none": sharding(count, "d"),
    }
    specs = {name: spec(tree[name].shape, tree[name].dtype, each) for name, each in where.items()}
    loaded = orbax.read_sharded(tmp_path / "x", specs)
    assert list(loaded) == list(where)
    for name, each in where.items():
        assert loaded[name].sharding == each
        assert bits({name: loaded[name]}) == bits({name: tree[name]})
    again = orbax.open_file(tmp_path / "x").restore(specs)
    assert bits(again) == bits(loaded)


def test_each_part_is_written_and_read_alone(tmp_path, monkeypatch):
    tree = {"rows": sharded_tree()["rows"]}
    monkeypatch.setattr(orbax, "host_array", None)
    save(tree, tmp_path / "x")
    parts = []
    new_array = orbax.new_array

    def noting(shape, dtype):
        parts.append(shape)
        return new_array(shape, dtype)

    monkeypatch.setattr(orbax, "new_array", noting)
    orbax.read_sharded(tmp_path / "x", {"rows": spec((16, 4), "float32", sharding(4, "d"))})
    assert parts == [(4, 4)] * 4


def test_parts_that_do_not_fit(tmp_path):
    save({"w": jnp.ones((4, 2)), "wide": np.ones(2), "b": jnp.ones(2)}, tmp_path / "x")
    here = sharding(2)
    specs = {
        "v": spec((4, 2), "float32", here), "w": spec((2, 4), "float32", here), "b": spec((2,), "float32"),
        "wide": spec((2,), "float64", here),
    }  # fmt: skip
    assert message(pt.MismatchError, lambda: orbax.read_sharded(tmp_path / "x", specs)) == (
        f"load: '{tmp_path}/x' does not hold what is asked:\n"
        "  v is missing.\n"
        "  w is float32[4, 2], and float32[2, 4] is asked\n"
        "  b is asked without a sharding\n"
        "  wide is float64, which JAX would narrow"
    )


# --- Orbax's own --------------------------------------------------------------------------------------------


STATE = {
    "step": 3,
    "params": {"layers": [{"kernel": jnp.ones((2, 3))}, {"kernel": jnp.zeros((3, 2), "bfloat16")}]},
    "opt_state": ({"count": np.int64(7)}, None, {}),
    "label": "a text",
    "rng": jax.random.key_data(jax.random.key(5)),
}
STATE_NAMES = {
    "opt_state/0/count": ((), "int64"), "params/layers/0/kernel": ((2, 3), "float32"),
    "params/layers/1/kernel": ((3, 2), "bfloat16"), "rng": ((2,), "uint32"), "step": ((), "int64"),
}  # fmt: skip


def check_state(path):
    assert orbax.recognises(path, b"")
    leaves, stored = read(path)
    assert {name: (each.shape, each.dtype.name) for name, each in leaves.items()} == STATE_NAMES
    assert leaves["step"] == 3
    assert leaves["opt_state/0/count"] == 7
    np.testing.assert_array_equal(leaves["rng"], STATE["rng"])
    np.testing.assert_array_equal(leaves["params/layers/0/kernel"], np.ones((2, 3)))
    assert stored.refused == {"label": "of type str"}
    assert stored.notes == {}


@pytest.mark.parametrize("options", [{}, {"use_ocdbt": False}, {"use_zarr3": True}])
def test_we_read_a_state_that_plain_orbax_wrote(options, tmp_path):
    with ocp.PyTreeCheckpointer(**options) as checkpointer:
        checkpointer.save(tmp_path / "x", STATE)
    check_state(tmp_path / "x")


def test_we_read_steps_and_items_of_a_manager(tmp_path):
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step in (3, 12):
            manager.save(step, args=ocp.args.PyTreeSave(STATE))
            manager.wait_until_finished()
    for path in ("run/3", "run/12/default"):
        check_state(tmp_path / path)
    assert orbax.recognises(tmp_path / "run", b"")
    assert message(pt.ParamTreeError, lambda: orbax.open_file(tmp_path / "run")) == (
        f"'{tmp_path}/run' holds several trees: 12, 3. Name one of them, such as '{tmp_path}/run/12'."
    )
    shutil.rmtree(tmp_path / "run" / "12")
    check_state(tmp_path / "run")


def test_we_read_one_of_several_items(tmp_path):
    items = {"params": ocp.args.StandardSave({"w": jnp.ones(2)}), "state": ocp.args.PyTreeSave(STATE)}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        args = ocp.args.Composite(**items, notes=ocp.args.JsonSave({"a": 1}))
        checkpointer.save(tmp_path / "x", args=args)
    assert orbax.recognises(tmp_path / "x", b"")
    assert message(pt.ParamTreeError, lambda: orbax.open_file(tmp_path / "x")) == (
        f"'{tmp_path}/x' holds several trees: params, state. Name one of them, such as '{tmp_path}/x/params'."
    )
    check_state(tmp_path / "x" / "state")
    np.testing.assert_array_equal(read(tmp_path / "x" / "params")[0]["w"], np.ones(2))


def test_a_state_of_flax_and_optax(tmp_path):
    linen = pytest.importorskip("flax.linen")
    train_state = pytest.importorskip("flax.training.train_state")
    optax = pytest.importorskip("optax")
    net = linen.Dense(3)
    params = net.init(jax.random.key(0), jnp.ones((1, 2)))["params"]
    state = train_state.TrainState.create(apply_fn=net.apply, params=params, tx=optax.adam(1e-3))
    by_plain_orbax(tmp_path / "x", state)
    leaves, _ = read(tmp_path / "x")
    assert sorted(leaves) == [
        "opt_state/0/count", "opt_state/0/mu/bias", "opt_state/0/mu/kernel", "opt_state/0/nu/bias",
        "opt_state/0/nu/kernel", "params/bias", "params/kernel", "step",
    ]  # fmt: skip
    np.testing.assert_array_equal(leaves["params/kernel"], params["kernel"])


def test_plain_orbax_reads_ours(tmp_path):
    tree = sharded_tree()
    save({"net": tree, "tie": pt.Alias("net/rows"), "fixed": pt.Fixed(jnp.ones(2))}, tmp_path / "x")
    where = {name: spec(each.shape, each.dtype, each.sharding) for name, each in tree.items() if each.size}
    target = {"net": where, "fixed": spec((2,), "float32", sharding(1))}
    with ocp.StandardCheckpointer() as checkpointer:
        loaded = checkpointer.restore(tmp_path / "x", target)
    assert list(loaded) == ["fixed", "net"]
    for name, each in loaded["net"].items():
        np.testing.assert_array_equal(each, tree[name])
        assert each.sharding == tree[name].sharding
    with ocp.PyTreeCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(tmp_path / "x")
    assert json.loads(metadata.custom_metadata["paramtree"])["fixed"] == ["fixed"]


# --- what is no such directory, or damaged ------------------------------------------------------------------


def test_what_is_not_recognised(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    (tmp_path / "file").write_bytes(b"x")
    assert [orbax.recognises(tmp_path / name, b"") for name in ("empty", "other", "file", "gone")] == [
        False
    ] * 4


def test_only_such_a_directory_is_replaced(tmp_path):
    for name in ("other", "run/3/default"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "_METADATA").touch()
    (tmp_path / "other" / "_METADATA").rename(tmp_path / "other" / "thesis.tex")
    (tmp_path / "file").write_bytes(b"x")
    for name in ("other", "file", "run"):
        path = tmp_path / name
        assert message(FileExistsError, lambda path=path: save(TREE, path)) == (
            f"'{path}' is no Orbax directory that can be replaced. Name another place."
        )
    assert (tmp_path / "other" / "thesis.tex").exists()
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        save(TREE, tmp_path / "empty")
    assert bits(load(tmp_path / "empty")) == bits(TREE)


def damaged(tmp_path, damage):
    path = tmp_path / "x"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(tmp_path / "whole", path)
    damage(path)
    return path


def files_in(path):
    return sorted(each.relative_to(path) for each in path.rglob("*") if each.is_file())


def test_missing_files(tmp_path):
    save({"w": jnp.arange(1000.0), "b": np.ones(3)}, tmp_path / "whole")
    whole = bits(read(tmp_path / "whole")[0])
    refused = {}
    for file in files_in(tmp_path / "whole"):
        path = damaged(tmp_path, lambda path, file=file: (path / file).unlink())
        try:
            loaded = bits(read(path)[0])
        except pt.ParamTreeError as error:
            refused[file.name] = str(error)
        else:
            assert loaded == whole
    assert {"_METADATA", "manifest.ocdbt"} < set(refused)  # and the files of the values
    assert all(text.startswith(f"'{path}' is not a whole Orbax directory: ") for text in refused.values())
    path = damaged(tmp_path, lambda path: (path / "_METADATA").unlink())
    assert orbax.recognises(path, b"")
    assert message(pt.ParamTreeError, lambda: orbax.open_file(path)) == (
        f"'{path}' is not a whole Orbax directory: it has no file '_METADATA'."
    )


def test_a_missing_part_of_an_array_is_not_zeros(tmp_path):
    with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
        checkpointer.save(tmp_path / "x", {"w": jnp.ones((8, 2))})
    (tmp_path / "x" / "w" / "0.0").unlink()
    start = f"'{tmp_path}/x' is not a whole Orbax directory: w: NOT_FOUND: "
    assert message(pt.ParamTreeError, lambda: read(tmp_path / "x")).startswith(start)


def test_names_that_lead_out_of_the_directory_or_are_there_twice(tmp_path):
    with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
        checkpointer.save(tmp_path / "y", {"w": jnp.ones(2)})
        checkpointer.save(tmp_path / "x", {"w": jnp.ones(2)})
    known = (tmp_path / "x" / "_METADATA").read_text()
    (tmp_path / "x" / "_METADATA").write_text(known.replace('"key": "w"', '"key": "../y/w"'))
    assert message(pt.ParamTreeError, lambda: orbax.open_file(tmp_path / "x")) == (
        f"'{tmp_path}/x' is not a whole Orbax directory: '../y/w' leads out of it."
    )
    by_plain_orbax(tmp_path / "z", {"a/b": jnp.ones(1), "a": {"b": jnp.zeros(1)}})
    assert message(pt.ParamTreeError, lambda: orbax.open_file(tmp_path / "z")) == (
        f"'{tmp_path}/z' is not a whole Orbax directory: a/b is there twice."
    )


def test_no_damage_raises_an_error_of_another_kind(tmp_path):
    save({"w": jnp.arange(1000.0), "b": np.ones(3)}, tmp_path / "whole")
    files = files_in(tmp_path / "whole")
    dice = random.Random(0)
    outcomes = []
    for _ in range(300):
        file = dice.choice(files)

        def damage(path, file=file):
            content = bytearray((path / file).read_bytes())
            kind = dice.choice(["byte", "byte", "cut", "garbage"])
            if kind == "byte":
                for _ in range(dice.choice([1, 3])):
                    content[dice.randrange(len(content))] = dice.randrange(256)
            elif kind == "cut":
                del content[dice.randrange(len(content)) :]
            else:
                content = dice.randbytes(len(content))
            (path / file).write_bytes(content)

        path = damaged(tmp_path, damage)
        try:
            read(path)
            orbax.read_sharded(path, {"w": spec((1000,), "float32", sharding(2, "d"))})
            outcomes.append("read")
        except pt.ParamTreeError:
            outcomes.append("refused")
    assert outcomes.count("refused") > 50


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[1]", "_CHECKPOINT_METADATA: 'list' object has no attribute 'get'."),
        ("nothing", "_CHECKPOINT_METADATA: Expecting value: line 1 column 1 (char 0)."),
        ('{"custom_metadata": 3}', "_CHECKPOINT_METADATA: 'int' object has no attribute 'get'."),
        (json.dumps({"custom_metadata": {"paramtree": json.dumps({"sizeless": 3})}}),
         "the notes: 'int' object has no attribute 'items'."),
        (json.dumps({"custom_metadata": {"paramtree": json.dumps({"sizeless": {"a": [[2], "int8"]}})}}),
         "the notes: a is not without values."),
        (json.dumps({"custom_metadata": {"paramtree": json.dumps({"sizeless": {"a": [[0], "nothing"]}})}}),
         "the notes: data type 'nothing' not understood."),
        (json.dumps({"custom_metadata": {"paramtree": json.dumps({"sizeless": {"a": [[-1, 0], "int8"]}})}}),
         "the notes: a is not without values."),
        (json.dumps({"custom_metadata": {"paramtree": json.dumps({"sizeless": {"w": [[0], "int8"]}})}}),
         "the notes: w is not without values."),
    ],
)  # fmt: skip
def test_hostile_notes(text, wanted, tmp_path):
    path = tmp_path / "x"
    save({"w": jnp.ones(1)}, path)
    (path / "_CHECKPOINT_METADATA").write_text(text)
    with pytest.raises(pt.ParamTreeError) as caught:
        orbax.open_file(path)
    assert str(caught.value) == f"'{path}' is not a whole Orbax directory: {wanted}"


def test_a_directory_that_is_replaced_while_it_is_read(tmp_path):
    save({"w": jnp.ones(2)}, tmp_path / "x")
    with orbax.open_file(tmp_path / "x").reading() as read_one:
        np.testing.assert_array_equal(read_one("w"), np.ones(2))
        save({"w": jnp.zeros(2)}, tmp_path / "x")
        for _ in range(2):  # another directory in its place, and then none
            assert message(FileChangedError, lambda: read_one("w")) == (
                f"'{tmp_path}/x' has changed, or is gone, since its headers were read. Load it again."
            )
            shutil.rmtree(tmp_path / "x", ignore_errors=True)


def test_orbax_is_not_installed(tmp_path, monkeypatch):
    save({"w": jnp.ones(2)}, tmp_path / "x")
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    for call in (lambda: save({"w": jnp.ones(2)}, tmp_path / "x"), lambda: orbax.open_file(tmp_path / "x")):
        assert message(pt.ParamTreeError, call) == (
            f"'{tmp_path}/x' is an Orbax directory, and orbax-checkpoint is not installed. "
            "Install it with: pip install 'paramtree-jax[orbax]'."
        )


def test_a_save_that_fails_leaves_the_old_directory(tmp_path, monkeypatch):
    save({"w": jnp.ones(2)}, tmp_path / "x")

    def fail(checkpointer, place, **arguments):
        place.mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(ocp.Checkpointer, "save", fail)
    assert message(pt.ParamTreeError, lambda: save({"w": jnp.zeros(2)}, tmp_path / "x")) == (
        f"save: Orbax cannot write '{tmp_path}/x': RESOURCE_EXHAUSTED: No space left on device."
    )
    np.testing.assert_array_equal(load(tmp_path / "x")["w"], np.ones(2))
    assert os.listdir(tmp_path) == ["x"]


# --- killed -------------------------------------------------------------------------------------------------


SAVER = """
import sys
from pathlib import Path
import numpy as np
from paramtree.checkpoint import orbax
for number in range(1, 10**9):
    array = np.full(10_000, number, np.float32)
    orbax.write(Path(sys.argv[1]), {"a/w": array, "b": array}, {"version": 1})
    print(number, flush=True)
"""


def number_in(path):
    leaves, _ = read(whole_folder(path))
    numbers = set(np.unique(leaves["a/w"])) | set(np.unique(leaves["b"]))
    assert len(numbers) == 1
    return int(numbers.pop())


def test_a_killed_saver_leaves_the_old_directory_or_the_new_one(tmp_path):
    dice = random.Random(2)
    path = tmp_path / "x"
    environment = os.environ | {"PYTHONPATH": str(Path(pt.__file__).parents[1]), "XLA_FLAGS": ""}
    for _ in range(3):
        command = [sys.executable, "-c", SAVER, str(path)]
        saver = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        try:
            for _ in range(4):  # stopped anywhere, and at last killed there
                done = int(saver.stdout.readline())
                time.sleep(dice.uniform(0, 0.05))
                os.kill(saver.pid, signal.SIGSTOP)
                assert number_in(path) >= done
                os.kill(saver.pid, signal.SIGCONT)
        finally:
            saver.kill()
            saver.wait()
            saver.stdout.close()
        assert number_in(path) >= done
    save({"w": jnp.ones(1)}, path)
    assert os.listdir(tmp_path) == ["x"]


def test_a_directory_that_a_crash_left_moved_aside(tmp_path):
    save({"w": jnp.ones(2)}, tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / ".x.old")
    assert orbax.recognises(tmp_path / "x", b"")
    np.testing.assert_array_equal(load(tmp_path / "x")["w"], np.ones(2))
    save({"w": jnp.zeros(2)}, tmp_path / "x")
    np.testing.assert_array_equal(load(tmp_path / "x")["w"], np.zeros(2))
    assert os.listdir(tmp_path) == ["x"]


def test_a_leaf_larger_than_what_is_copied_at_a_time_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("paramtree.checkpoint.orbax._IN_FLIGHT", 8)
    tree = {"large": jnp.arange(64.0), "small": jnp.ones(1)}
    pt.save(tree, tmp_path / "x.orbax")
    loaded = pt.load(tmp_path / "x.orbax")
    assert all((loaded[name] == tree[name]).all() for name in tree)
