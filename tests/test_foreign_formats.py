"""Files of PyTorch, Keras, HDF5, flax and Equinox: what they write is read, what is broken is refused."""

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import paramtree as pt
from paramtree.checkpoint import equinox as eqx_format
from paramtree.checkpoint import hdf5, msgpack
from paramtree.checkpoint import torch as torch_format
from paramtree.checkpoint.layout import split_parts

NUMPY = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32",
    "float64", "complex64", "complex128",
]  # fmt: skip
SMALL = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def contents(form, path):
    """Open a file and read all of it: name -> array, and what was opened."""
    stored = form.open_file(path)
    with stored.reading() as read:
        arrays = {name: read(name) for name in reversed(stored.specs)}
        again = {name: read(name) for name in stored.specs}
    for name, array in arrays.items():
        assert (array.shape, array.dtype) == (stored.specs[name].shape, stored.specs[name].dtype), name
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.dtype.isnative
        assert array.tobytes() == again[name].tobytes()
        assert not np.shares_memory(array, again[name])
    return again, stored


def same(found, wanted):
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert found.tobytes() == np.ascontiguousarray(wanted).tobytes()


def of_dtype(name, count=6):
    bits = np.random.default_rng(0).integers(0, 256, count * 16, np.uint8)
    if name in ("bool", "int4", "uint4"):
        return (bits[:count] % 2).astype(name)
    return bits.view(jnp.dtype(name))[:count].copy()  # among them NaNs with payloads, and subnormal numbers


def recognised(path):
    """Tell which formats take a file for theirs, by its content."""
    head = path.read_bytes()[:64]
    forms = {"torch": torch_format, "hdf5": hdf5, "msgpack": msgpack, "equinox": eqx_format}
    return [name for name, form in forms.items() if form.recognises(path, head)]


def damage_of(form, path, data):
    """Give the text of the error that a file of these bytes is refused with, without the file's name."""
    path.write_bytes(data)
    text = message(pt.ParamTreeError, lambda: contents(form, path))
    start = f"{str(path)!r} is not a whole {FORMAT[path.suffix]} file: "
    assert text.startswith(start)
    return text.removeprefix(start)


FORMAT = {".pt": "PyTorch", ".h5": "HDF5", ".msgpack": ".msgpack", ".eqx": ".eqx"}


def mutate(form, path, count, seed=0):
    """Damage a file in many ways: each time it is read, or refused, and takes no more memory than it has."""
    whole = path.read_bytes()
    dice = random.Random(seed)
    outcomes = {"read": 0, "refused": 0}
    texts = set()
    for _ in range(count):
        damaged = bytearray(whole)
        for _ in range(dice.choice([1, 1, 2, 8])):
            at = dice.randrange(len(damaged))
            damaged[at] = dice.choice([0, 255, dice.randrange(256), damaged[at] ^ (1 << dice.randrange(8))])
        if dice.random() < 0.15:
            del damaged[dice.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        tracemalloc.start()
        try:
            stored = form.open_file(path)
            with stored.reading() as read:
                for name in stored.specs:
                    read(name)
            outcomes["read"] += 1
        except pt.ParamTreeError as error:
            texts.add(str(error).partition(repr(str(path)))[0])
            outcomes["refused"] += 1
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 16 * 2**20 + 40 * len(whole)
    assert outcomes["refused"] > count // 20
    assert all(
        text == "" or text.startswith("load: the notes") for text in texts
    )  # all else names the file first
    path.write_bytes(whole)
    return outcomes


# --- PyTorch ------------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def to_torch(torch, array):
    bits = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64, 16: np.complex128}[array.itemsize]
    return torch.from_numpy(array.view(bits)).view(getattr(torch, array.dtype.name))


@pytest.mark.parametrize("dtype", NUMPY + SMALL)
def test_torch_every_dtype(dtype, torch, tmp_path):
    array = of_dtype(dtype)
    tensor = to_torch(torch, array)
    parts = {
        "all": tensor,
        "none": tensor[:0].clone(),
        "one": tensor[1].clone(),
        "grid": tensor.clone().reshape(2, 3),
    }
    torch.save(parts, tmp_path / "x.pt")
    arrays, stored = contents(torch_format, tmp_path / "x.pt")
    assert list(stored.specs) == list(parts)
    assert (stored.refused, stored.notes, stored.by_position) == ({}, {}, False)
    for name, wanted in {
        "all": array,
        "none": array[:0],
        "one": array[1].reshape(()),
        "grid": array.reshape(2, 3),
    }.items():
        same(arrays[name], wanted)


@pytest.mark.parametrize("suffix", torch_format.SUFFIXES)
def test_torch_a_network_and_its_optimizer(suffix, torch, tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(5, 3)).sum().backward()
    optimizer.step()
    file = tmp_path / f"x{suffix}"
    held = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "best": None,
        "name": "x",
    }
    torch.save(held, file)
    assert recognised(file) == ["torch"]
    arrays, stored = contents(torch_format, file)
    for name, tensor in net.state_dict().items():
        same(arrays[f"model/{name}"], tensor.numpy())
    same(arrays["optimizer/state/0/exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"].numpy())
    assert {name: stored.refused[name] for name in ("epoch", "best", "name")} == {
        "epoch": "of type int",
        "best": "of type NoneType",
        "name": "of type str",
    }
    assert stored.refused["optimizer/param_groups/0/betas/1"] == "of type float"
    torch.save(net.state_dict(), file)
    loaded = pt.load(file)
    assert list(loaded) == list(net.state_dict())
    np.testing.assert_array_equal(loaded["2.weight"], net[2].weight.detach().numpy())


def test_torch_containers(torch, tmp_path):
    one, two = torch.ones(2), torch.zeros(3)
    torch.save(
        OrderedDict(a=[one, (two, {"b": one + 1})], c={}, d={"e": []}, f={7: two + 1}), tmp_path / "x.pt"
    )
    assert list(torch_format.open_file(tmp_path / "x.pt").specs) == ["a/0", "a/1/0", "a/1/1/b", "f/7"]
    torch.save([one, two], tmp_path / "x.pt")
    assert list(torch_format.open_file(tmp_path / "x.pt").specs) == ["0", "1"]
    torch.save({}, tmp_path / "x.pt")
    assert torch_format.open_file(tmp_path / "x.pt").specs == {}


def test_torch_ties(torch, tmp_path):
    weight, bias = torch.arange(6.0).reshape(2, 3), torch.nn.Parameter(torch.ones(3))
    held = {
        "embed": weight, "head": weight, "turned": weight.t(), "turned_again": weight.t(), "bias": bias,
        "bias_too": bias.data, "row": weight[1], "column": weight[:, 1], "flat": weight.reshape(-1),
        "other": weight.clone(), "first": weight[:1],
    }  # fmt: skip
    torch.save({"net": held, "copy": held}, tmp_path / "x.pt")
    arrays, stored = contents(torch_format, tmp_path / "x.pt")
    names = ["embed", "bias", "row", "column", "flat", "other", "first"]
    assert list(stored.specs) == [f"net/{name}" for name in names]
    for name in names:
        same(arrays[f"net/{name}"], held[name].detach().numpy())
    ties = stored.notes["ties"]
    assert stored.notes == {"ties": ties}
    assert ties.pop("net/head") == {"target": "net/embed", "transpose": False}
    assert ties.pop("net/turned") == {"target": "net/embed", "transpose": True}
    assert ties.pop("net/turned_again") == {"target": "net/embed", "transpose": True}
    assert ties.pop("net/bias_too") == {"target": "net/bias", "transpose": False}
    assert ties.pop("copy/flat") == {"target": "net/flat", "transpose": False}
    assert ties.pop("copy/turned") == {"target": "net/embed", "transpose": True}
    assert len(ties) == 9
    torch.save({"embed": weight, "head": weight, "turned": weight.t()}, tmp_path / "x.pt")
    loaded = pt.load(tmp_path / "x.pt")
    assert jax.tree.structure(loaded).num_leaves == 1
    assert loaded["head"] == pt.Alias("embed")
    assert loaded["turned"] == pt.Alias("embed", transpose=True)


def test_torch_what_shares_memory_and_is_no_tie(torch, tmp_path):
    number = torch.tensor([1 + 2j, 3j])
    held = {"plain": number, "conj": number.conj(), "none": torch.zeros(0, 3), "nothing": torch.zeros(0, 3)}
    torch.save(held, tmp_path / "x.pt")
    arrays, stored = contents(torch_format, tmp_path / "x.pt")
    assert stored.notes == {}
    for name, tensor in held.items():
        same(arrays[name], tensor.resolve_conj().numpy())


def test_torch_files_are_mapped_anew_after_some_bytes(torch, tmp_path, monkeypatch):
    held = {str(place): torch.full((4,), float(place)) for place in range(5)}
    torch.save(held, tmp_path / "x.pt")
    mapped = []
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *args, **options: mapped.append(options) or load(*args, **options)
    )
    monkeypatch.setattr(torch_format, "_MAPPED", 40)
    stored = torch_format.open_file(tmp_path / "x.pt")
    with stored.reading() as read:
        for name, tensor in held.items():
            same(read(name), tensor.numpy())
    assert mapped == [{"weights_only": True, "map_location": "cpu", "mmap": True}] * 3


def test_torch_arrays_that_are_not_contiguous(torch, tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    held = {
        "turned": base.t(), "strided": base[::2, 1::3], "scalar": base[1, 2],
        "expanded": torch.ones(1).expand(3, 2),
        "conj": torch.tensor([1 + 2j, 3j]).conj(), "negative": torch.tensor([1 + 2j, 3j]).conj().imag,
    }  # fmt: skip
    torch.save(held, tmp_path / "x.pt")
    arrays, _ = contents(torch_format, tmp_path / "x.pt")
    for name, tensor in held.items():
        same(arrays[name], tensor.resolve_conj().resolve_neg().numpy())


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_torch_what_no_tree_holds(torch, tmp_path):
    eye = torch.eye(3)
    held = {
        "ok": eye, "coo": eye.to_sparse(), "meta": torch.ones(2, device="meta"),
        "half": torch.ones(2).to(torch.complex32), "wide": torch.ones(1).expand(10**6), "set": {1},
        "flag": True, "size": torch.Size([]), "dtype": torch.int8,
    }  # fmt: skip
    torch.save(held, tmp_path / "x.pt")
    arrays, stored = contents(torch_format, tmp_path / "x.pt")
    assert list(arrays) == ["ok"]
    assert stored.refused == {
        "coo": "a sparse array",
        "meta": "an array without values, of the device meta",
        "half": "of dtype complex32, which NumPy does not have",
        "wide": "an expanded array, larger than the whole file; in PyTorch, save its contiguous()",
        "set": "of type set",
        "flag": "of type bool",
        "dtype": "of type dtype",
    }


def test_torch_quantised_arrays_are_refused(torch, tmp_path):
    make = """
import sys, warnings, torch
warnings.simplefilter("ignore")
torch.save({"q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, sys.argv[1])
"""
    subprocess.run([sys.executable, "-c", make, str(tmp_path / "x.pt")], check=True)
    stored = torch_format.open_file(tmp_path / "x.pt")
    assert (stored.specs, stored.refused) == ({}, {"q": "a quantised array"})


def test_torch_a_name_twice_and_none(torch, tmp_path):
    file = tmp_path / "x.pt"
    torch.save({"a/b": torch.ones(1), "a": {"b": torch.ones(1)}, 1: torch.ones(1), "1": 2}, file)
    assert message(pt.BadNameError, lambda: torch_format.open_file(file)) == (
        f"'{file}' has names that no tree can have:\n  'a/b' names two values\n  '1' names two values"
    )
    torch.save(torch.ones(2), file)
    assert message(pt.ParamTreeError, lambda: torch_format.open_file(file)) == (
        f"'{file}' holds one Tensor without a name. In PyTorch, save a dict of tensors."
    )


def test_torch_a_whole_module_and_a_program(torch, tmp_path):
    file = tmp_path / "x.pt"
    torch.save(torch.nn.Linear(2, 2), file)
    assert message(pt.ParamTreeError, lambda: torch_format.open_file(file)) == (
        f"'{file}' holds objects besides plain tensors, and they are not read: "
        "torch.nn.modules.linear.Linear. In PyTorch, save model.state_dict() alone."
    )
    with zipfile.ZipFile(file, "w") as archive:  # torch.jit.save warns that it is deprecated
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        archive.writestr("x/constants.pkl", b"\x80\x02).")
    assert message(pt.ParamTreeError, lambda: torch_format.open_file(file)) == (
        f"'{file}' is a TorchScript program. In PyTorch, save torch.jit.load(file).state_dict() instead."
    )


def test_torch_an_old_file(torch, tmp_path):
    file = tmp_path / "x.pt"
    text = (
        f"'{file}' is a pickle, as PyTorch wrote it before version 1.6. Load it in PyTorch and save it "
        "again with torch.save, or as .safetensors."
    )
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    assert recognised(file) == ["torch"]
    assert message(pt.ParamTreeError, lambda: torch_format.open_file(file)) == text
    file.write_bytes(pickle.dumps({"a": 1}))
    assert message(pt.ParamTreeError, lambda: torch_format.open_file(file)) == text


def with_pickle(torch, file, change):
    """Write a file of PyTorch's with another pickle in it."""
    made = io.BytesIO()
    torch.save({"w": torch.ones(4)}, made)
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(file, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            target.writestr(info.filename, change(data) if info.filename.endswith("data.pkl") else data)


class Hostile:
    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("echo > {0}",), "posix.system"),
        (open, ("{0}", "w"), "io.open"),
        (exec, ("open({0!r}, 'w').close()",), "__builtin__.exec"),
        (bytearray, (10**13,), "__builtin__.bytearray"),
        (getattr, ("x", "join"), "__builtin__.getattr"),
    ],
)  # fmt: skip
def test_torch_no_pickle_runs(function, arguments, name, torch, tmp_path):
    file, mark = tmp_path / "x.pt", tmp_path / "ran"
    filled = [each.format(str(mark)) if isinstance(each, str) else each for each in arguments]
    with_pickle(torch, file, lambda _: pickle.dumps({"w": Hostile(function, *filled)}, protocol=2))
    text = (
        f"'{file}' holds objects besides plain tensors, and they are not read: {name}. "
        "In PyTorch, save model.state_dict() alone."
    )
    assert message(pt.ParamTreeError, lambda: torch_format.open_file(file)) == text
    with_pickle(torch, file, lambda _: pickle.dumps({"w": Hostile(function, *filled)}, protocol=4))
    assert message(pt.ParamTreeError, lambda: torch_format.open_file(file)) == (
        f"'{file}' is not a whole PyTorch file: Unsupported operand 149."
    )
    assert not mark.exists()


def test_torch_user_classes_do_not_open_the_door(torch, tmp_path):
    file, mark = tmp_path / "x.pt", tmp_path / "ran"
    with_pickle(torch, file, lambda _: pickle.dumps({"w": Hostile(open, str(mark), "w")}, protocol=2))
    with torch.serialization.safe_globals([open]):
        assert "holds objects besides plain tensors" in message(
            pt.ParamTreeError, lambda: torch_format.open_file(file)
        )
    assert not mark.exists()


def test_torch_containers_that_hold_themselves(torch, tmp_path):
    loop = {}
    loop["again"] = loop
    with_pickle(torch, tmp_path / "x.pt", lambda _: pickle.dumps(loop, protocol=2))
    end = " is not a whole PyTorch file: its containers hold themselves."
    assert message(pt.ParamTreeError, lambda: torch_format.open_file(tmp_path / "x.pt")).endswith(end)
    laughs = [1]
    for _ in range(60):
        laughs = [laughs, laughs]
    with_pickle(torch, tmp_path / "x.pt", lambda _: pickle.dumps(laughs, protocol=2))
    assert message(pt.ParamTreeError, lambda: torch_format.open_file(tmp_path / "x.pt")).endswith(end)


def test_torch_damage(torch, tmp_path):
    file = tmp_path / "x.pt"
    torch.save({"w": torch.arange(1000.0)}, file)
    whole = file.read_bytes()
    assert damage_of(torch_format, file, whole[:-1]) == "File is not a zip file."
    assert damage_of(torch_format, file, b"") == "File is not a zip file."
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/other", b"")
    assert damage_of(torch_format, file, file.read_bytes()) == "it has no entry */data.pkl."
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**6))
    assert damage_of(torch_format, file, file.read_bytes()) == "its entry 'x/data.pkl' is compressed."
    torch.save({"w": torch.ones(4)}, file)
    far = bytearray(file.read_bytes())
    entry = far.rindex(b"data/0") - 46 - len("x/")  # its record in the directory, and there the size
    far[entry + 24 : entry + 28] = struct.pack("<I", 10**6)
    assert damage_of(torch_format, file, bytes(far)) == "its entry 'x/data/0' ends after the file."
    with_pickle(torch, file, lambda data: data.replace(b"K\x04", b"K\x05"))  # one number more than there is
    assert damage_of(torch_format, file, file.read_bytes()) == "w has more values than are stored."
    with_pickle(torch, file, lambda data: data[:-1])
    assert damage_of(torch_format, file, file.read_bytes()) == "pickle exhausted before seeing STOP."


def test_torch_mutations(torch, tmp_path):
    weight = torch.arange(60.0).reshape(3, 20)
    held = {
        "a": weight,
        "b": {"c": weight.t(), "d": torch.ones(3, dtype=torch.bfloat16)},
        "e": [torch.ones(2), 3],
    }
    torch.save(held, tmp_path / "x.pt")
    mutate(torch_format, tmp_path / "x.pt", 400)


# --- HDF5 and Keras -----------------------------------------------------------------------------------------


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py")


@pytest.fixture
def h5(h5py, tmp_path):
    """Make a file with h5py: a function of what fills it."""

    def make(fill, **options):
        with h5py.File(tmp_path / "x.h5", "w", **options) as file:
            fill(file)
        return tmp_path / "x.h5"

    return make


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_hdf5_every_dtype(dtype, libver, h5):
    array = of_dtype(dtype)

    def fill(file):
        file["b/all"] = array
        file["b/none"] = array[:0]
        file["a/one"] = array[1]
        file.create_dataset(
            "a/c/grid", data=array.reshape(2, 3), chunks=(1, 2), compression="gzip", shuffle=True
        )
        file.create_dataset("a/c/lzf", data=array, compression="lzf", fletcher32=True)
        if dtype != "bool":
            file["swapped"] = array.astype(array.dtype.newbyteorder(">"))

    file = h5(fill, libver=libver, track_order=True)
    assert recognised(file) == ["hdf5"]
    arrays, stored = contents(hdf5, file)
    assert list(stored.specs)[:5] == ["b/all", "b/none", "a/one", "a/c/grid", "a/c/lzf"]
    assert (stored.refused, stored.notes) == ({}, {})
    same(arrays["b/none"], array[:0])
    same(arrays["a/one"], array[1].reshape(()))
    same(arrays["a/c/grid"], array.reshape(2, 3))
    for name in ("b/all", "a/c/lzf", *(["swapped"] if dtype != "bool" else [])):
        same(arrays[name], array)


def test_hdf5_types_that_numpy_lacks(h5):
    def fill(file):
        file["marked"] = np.ones(3, ml_dtypes.bfloat16)
        file["marked"].attrs["dtype"] = "bfloat16"
        file["raw"] = np.ones(3, ml_dtypes.bfloat16)
        file["eight"] = np.ones(2, ml_dtypes.float8_e4m3fn)

    arrays, stored = contents(hdf5, h5(fill))
    same(arrays["marked"], np.ones(3, ml_dtypes.bfloat16))
    assert [stored.specs[name].dtype for name in ("raw", "eight")] == ["V2", "V1"]
    same(arrays["raw"].view(ml_dtypes.bfloat16), np.ones(3, ml_dtypes.bfloat16))
    like = {
        "marked": jnp.zeros(3, "bfloat16"),
        "raw": jnp.zeros(3, "bfloat16"),
        "eight": jnp.zeros(2, "float8_e4m3fn"),
    }
    loaded = pt.load(h5(fill), like=like)
    assert all(np.all(leaf == jnp.ones((), leaf.dtype)) for leaf in loaded.values())


@pytest.fixture(scope="session")
def keras():
    pytest.importorskip("h5py")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_hdf5_a_network_of_keras(dtype, keras, tmp_path):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(3, name="one"), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    net = keras.Sequential([keras.Input((4,)), *layers])
    for layer in layers:
        for variable in layer.weights:
            variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    if dtype == "bfloat16":
        net = keras.Sequential(
            [keras.Input((4,), dtype=dtype), keras.layers.Dense(3, name="one", dtype=dtype)]
        )
    file = tmp_path / "x.weights.h5"
    net.save_weights(file)
    assert recognised(file) == ["hdf5"]
    arrays, stored = contents(hdf5, file)
    assert stored.refused == {}
    wanted = [np.asarray(variable.value) for variable in net.weights]
    assert sorted(map(str, (array.shape for array in arrays.values()))) == sorted(
        str(each.shape) for each in wanted
    )
    kernel = np.asarray(net.layers[0].kernel.value)
    same(arrays["layers/one/vars/0" if "layers/one/vars/0" in arrays else "layers/dense/vars/0"], kernel)
    assert kernel.dtype == jnp.dtype(dtype)
    assert "layers" in pt.load(file)
    net.save(tmp_path / "x.keras")
    assert recognised(tmp_path / "x.keras") == []
    assert message(pt.ParamTreeError, lambda: hdf5.open_file(tmp_path / "x.keras")) == (
        f"'{tmp_path / 'x.keras'}' is a zip file, as Keras writes a whole model. Unpack model.weights.h5 "
        "from it, and load that."
    )


def test_hdf5_what_no_tree_holds(h5, h5py, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.ones(3)
    (tmp_path / "raw.bin").write_bytes(bytes(24))

    def fill(file):
        file["ok"] = np.ones(3)
        file["text"] = "hello"
        file["bytes"] = np.array([b"ab"])
        file["records"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
        file["null"] = h5py.Empty("f4")
        file["lists"] = np.array([np.ones(2), np.ones(3)], h5py.vlen_dtype("f8"))
        file["soft"] = h5py.SoftLink("/ok")
        file["dangling"] = h5py.SoftLink("/gone")
        file["far"] = h5py.ExternalLink("other.h5", "/x")
        file["reference"] = file["ok"].ref
        file.create_dataset("outside", (3,), "f8", external=[(str(tmp_path / "raw.bin"), 0, 24)])
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", (3,))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("huge", (10**12,), "f8", chunks=(1000,), compression="gzip")
        file.create_dataset("unwritten", (10**9,), "f8")
        file.create_dataset("scaled", data=np.arange(100), scaleoffset=0)
        file["type"] = np.dtype("f8")
        file.create_group("none")

    arrays, stored = contents(hdf5, h5(fill))
    assert list(arrays) == ["ok"]
    empty = ", of which the file holds no values"
    assert stored.refused == {
        "text": "an array of object",
        "bytes": "an array of |S2",
        "records": "an array of [('a', '<f4'), ('b', '<i4')]",
        "null": "a dataset without a shape",
        "lists": "an array of object",
        "soft": "a soft link to '/ok', which is not followed",
        "dangling": "a soft link to '/gone', which is not followed",
        "far": "a link out of the file, which is not followed",
        "reference": "an array of object",
        "outside": "kept in another file, which is not opened",
        "virtual": "a virtual dataset, of values in other datasets",
        "huge": f"an array of shape (1000000000000,){empty}",
        "unwritten": f"an array of shape (1000000000,){empty}",
        "scaled": "compressed by the HDF5 filter 6, which is not run",
    }


def test_hdf5_second_links(h5):
    def fill(file):
        file["a/w"] = np.ones(3)
        file["a/text"] = "hello"
        file["b/v"] = file["a/w"]
        file["b/text"] = file["a/text"]
        file["a/loop"] = file["a"]
        file["c"] = file["a"]
        file["top"] = file["/"]

    arrays, stored = contents(hdf5, h5(fill))
    assert list(arrays) == ["a/w"]
    assert stored.notes == {"ties": {"b/v": {"target": "a/w", "transpose": False}}}
    second = "a second link to the group a, which is not followed"
    assert stored.refused == {
        "a/loop": second,
        "a/text": "an array of object",
        "b/text": "an array of object",
        "c": second,
        "top": "a second link to the group /, which is not followed",
    }


def test_hdf5_zeros_that_gzip_made_small(h5):
    zeros = np.zeros((500, 1000), "f4")
    file = h5(lambda file: file.create_dataset("z", data=zeros, compression="gzip", compression_opts=9))
    assert file.stat().st_size < zeros.nbytes // 50
    same(contents(hdf5, file)[0]["z"], zeros)


def test_hdf5_damage(h5, h5py):
    file = h5(lambda file: file.create_dataset("a/w", data=np.arange(1000.0), chunks=(100,), fletcher32=True))
    whole = file.read_bytes()
    assert damage_of(hdf5, file, b"hello") == "it begins with b'hello'."
    assert damage_of(hdf5, file, b"") == "it begins with b''."
    assert "truncated file" in damage_of(hdf5, file, whole[:-8])
    at = whole.index(np.arange(500.0, 520).tobytes())
    text = damage_of(hdf5, file, whole[:at] + b"\1" + whole[at + 1 :])
    assert text.startswith("a/w: ")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_hdf5_mutations(libver, h5):
    def fill(file):
        file["a/w"] = np.arange(12.0).reshape(3, 4)
        file.create_dataset(
            "z/c", data=np.arange(1000, dtype="i4"), chunks=(100,), compression="gzip", shuffle=True
        )
        file.create_dataset(
            "z/l", data=np.arange(300, dtype="i2"), chunks=(100,), compression="lzf", fletcher32=True
        )
        file["text"] = "hello"
        for place in range(4):
            file[f"many/{place}"] = np.ones(2, "u1")

    mutate(hdf5, h5(fill, libver=libver), 200)


# --- flax ---------------------------------------------------------------------------------------------------


@pytest.fixture
def flax():
    return pytest.importorskip("flax.serialization")


FLAX_TREE = {
    "batch_stats": {"mean": np.arange(3.0, dtype="float32")},
    "params": {
        "Dense_0": {"bias": np.zeros(0, "int16"), "kernel": np.arange(600, dtype="float32").reshape(20, 30)},
        **{f"layer_{place:02}": {"w": np.full(2, place, "int32")} for place in range(20)},
        "naïve": {
            "名": np.array(2, "float32"),
            "x" * 40: np.ones(6, "int8"),
            "y" * 300: np.ones(70_000, "bool"),
        },
    },
    "z_empty": {},
}


def write(tree, file):
    msgpack.write(file, *split_parts(tree))


@pytest.mark.parametrize("dtype", [*NUMPY, *SMALL, "int4", "uint4"])
def test_flax_every_dtype_both_ways(dtype, flax, tmp_path):
    array = of_dtype(dtype)
    tree = {"all": array, "grid": array.reshape(2, 3), "none": array[:0], "one": array[:1].reshape(())}
    file = tmp_path / "x.msgpack"
    file.write_bytes(flax.msgpack_serialize(tree))
    assert recognised(file) == ["msgpack"]
    arrays, stored = contents(msgpack, file)
    assert (stored.refused, stored.notes) == ({}, {})
    for name, wanted in tree.items():
        same(arrays[name], wanted)
    write(tree, tmp_path / "y.msgpack")
    assert (tmp_path / "y.msgpack").read_bytes() == file.read_bytes()


def test_flax_files_are_the_same_bytes(flax, tmp_path):
    file = tmp_path / "x.msgpack"
    ordered = {"/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(FLAX_TREE)}
    msgpack.write(file, ordered, {"empty": ["z_empty"]})
    assert file.read_bytes() == flax.msgpack_serialize(FLAX_TREE)
    arrays, stored = contents(msgpack, file)
    assert stored.notes == {"empty": ["z_empty"]}
    assert list(arrays) == list(ordered)
    for name, wanted in ordered.items():
        same(arrays[name], wanted)
    write({}, file)
    assert file.read_bytes() == flax.msgpack_serialize({})
    assert recognised(file) == ["msgpack"]
    assert msgpack.open_file(file).specs == {}


@pytest.mark.parametrize("size", range(20))
def test_flax_extensions_of_every_size(size, flax, tmp_path):
    tree = {"w": np.arange(size, dtype="int8")}
    write(tree, tmp_path / "x.msgpack")
    assert (tmp_path / "x.msgpack").read_bytes() == flax.msgpack_serialize(tree)
    same(contents(msgpack, tmp_path / "x.msgpack")[0]["w"], tree["w"])


def test_flax_big_arrays_in_parts(flax, tmp_path, monkeypatch):
    monkeypatch.setattr(flax, "MAX_CHUNK_SIZE", 100)
    monkeypatch.setattr(msgpack, "_MOST_OF_A_PART", 100)
    tree = {
        "a": {"b": np.arange(60.0).reshape(3, 4, 5), "c": np.ones(3)},
        "d": np.arange(1000, dtype="int16"),
    }
    file = tmp_path / "x.msgpack"
    file.write_bytes(flax.msgpack_serialize(tree))
    arrays, stored = contents(msgpack, file)
    assert list(stored.specs) == ["a/b", "a/c", "d"]
    for name, wanted in pt.flatten(tree).items():
        same(arrays[name], wanted)
    write(tree, tmp_path / "y.msgpack")
    assert (tmp_path / "y.msgpack").read_bytes() == file.read_bytes()
    place = file.read_bytes().index(b"\xa5shape\x83") + 9
    start = f"'{file}' is not a whole .msgpack file: at byte 0: a/b is an array "
    for value, end in {
        4: "of shape (4, 4, 5), and its parts have 60 values.",
        0xC0: "in parts, which are not all there.",
    }.items():
        damaged = bytearray(file.read_bytes())
        damaged[place] = value
        (tmp_path / "x.msgpack").write_bytes(damaged)
        assert message(pt.ParamTreeError, lambda: msgpack.open_file(file)) == start + end
        damaged[place] = 3
        file.write_bytes(damaged)


def test_flax_what_is_no_array(flax, tmp_path):
    held = {
        "scalar": np.float32(3), "flag": True, "step": 7, "minus": -70_000, "wide": 2**63,
        "rate": 0.5, "point": 1 + 2j,
        "none": None, "text": "hello", "bytes": b"ab", "list": [np.ones(2), 5], "nothing": [],
        "dates": np.zeros(2, "M8[s]"), "texts": np.array(["ab"]), "3": np.ones(1),
    }  # fmt: skip
    (tmp_path / "x.msgpack").write_bytes(flax.msgpack_serialize(held))
    arrays, stored = contents(msgpack, tmp_path / "x.msgpack")
    numbers = {
        "scalar": np.array(3, "f4"), "flag": np.array(True), "step": np.array(7), "minus": np.array(-70_000),
        "wide": np.array(2**63, "u8"), "rate": np.array(0.5), "point": np.array(1 + 2j),
        "list/1": np.array(5), "list/0": np.ones(2), "3": np.ones(1),
    }  # fmt: skip
    assert set(arrays) == set(numbers)
    for name, wanted in numbers.items():
        same(arrays[name], wanted)
    assert stored.refused == {
        "none": "of type NoneType",
        "text": "of type str",
        "bytes": "of type bytes",
        "nothing": "an empty list",
        "dates": "of dtype 'datetime64[s]', which NumPy does not have",
        "texts": "of dtype 'str64', which NumPy does not have",
    }


def test_flax_a_train_state(flax, tmp_path):
    optax = pytest.importorskip("optax")
    linen = pytest.importorskip("flax.linen")
    net = linen.Dense(3)
    params = net.init(jax.random.key(0), jnp.ones((1, 2)))
    state = {"params": params, "opt": optax.adam(0.1).init(params), "step": 3}
    (tmp_path / "x.msgpack").write_bytes(flax.to_bytes(state))
    arrays, stored = contents(msgpack, tmp_path / "x.msgpack")
    same(arrays["params/params/kernel"], np.asarray(params["params"]["kernel"]))
    same(arrays["opt/0/mu/params/bias"], np.zeros(3, "float32"))
    assert arrays["step"] == 3
    assert stored.refused == {}
    assert stored.notes == {"empty": ["opt/1"]}
    (tmp_path / "y.msgpack").write_bytes(flax.to_bytes(params))
    loaded = pt.load(tmp_path / "y.msgpack")
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    pt.save(loaded, tmp_path / "z.msgpack")
    assert flax.from_bytes(params, (tmp_path / "z.msgpack").read_bytes()).keys() == params.keys()


def test_flax_ties_and_fixed_marks(flax, tmp_path):
    tree = {
        "embed": {"weight": jnp.arange(6.0).reshape(3, 2)}, "mean": pt.Fixed(jnp.ones(2)),
        "head": {"weight": pt.Alias("embed/weight", transpose=True)}, "table": pt.Frozen(jnp.ones(3)),
        "nothing": {}, "key": jax.random.key(3),
    }  # fmt: skip
    file = tmp_path / "x.msgpack"
    pt.save(tree, file)
    loaded = pt.load(file)
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    assert loaded["head"] == tree["head"]
    assert isinstance(loaded["table"], pt.Frozen)
    assert jnp.array_equal(jax.random.key_data(loaded["key"]), jax.random.key_data(tree["key"]))
    restored = flax.msgpack_restore(file.read_bytes())
    assert set(restored) == {*tree, "__paramtree__"} - {"head"}
    assert json.loads(restored["__paramtree__"])["fixed"] == ["mean"]
    target = {"embed": {"weight": np.zeros((3, 2), "float32")}}
    np.testing.assert_array_equal(
        flax.from_bytes(target, file.read_bytes())["embed"]["weight"], tree["embed"]["weight"]
    )


def test_flax_the_one_name_that_is_kept(tmp_path):
    assert message(pt.BadNameError, lambda: write({"__paramtree__": np.ones(1)}, tmp_path / "x.msgpack")) == (
        "save: a .msgpack file keeps its notes as '__paramtree__'; rename it, or save to a .npz file."
    )
    write({"a": {"__paramtree__": np.ones(1)}}, tmp_path / "x.msgpack")
    assert list(msgpack.open_file(tmp_path / "x.msgpack").specs) == ["a/__paramtree__"]


def ext(payload, code=1):
    return b"\xc9" + struct.pack(">Ib", len(payload), code) + payload


F4 = b"\xa7float32"
BROKEN = {
    "nothing": (b"", "at byte 0: expected 1 B, and found the end of the file after 0 B."),
    "an end in a key": (b"\x81\xa5ab", "at byte 2: expected 5 B, and found the end of the file after 2 B."),
    "no mark": (b"\x81\xa1w\xc1", "at byte 3: the mark 0xc1, which MessagePack does not have."),
    "a tail": (b"\x81\xa1w\x05xyz", "at byte 4: 3 B after the end of the tree."),
    "no UTF-8": (b"\x81\xa2w\xff\x05", "at byte 3: a text that is not UTF-8."),
    "a key of a list": (b"\x81\x90\x05", "at byte 1: a key that is neither a text nor an integer."),
    "an empty key": (b"\x81\xa0\x05", "at byte 1: a key that is neither a text nor an integer."),
    "a key of a bool": (b"\x81\xc3\x05", "at byte 1: a key that is neither a text nor an integer."),
    "no name": (b"\xa5hello", "at byte 0: a value without a name, and not a dict of them."),
    "too many": (
        b"\xdf\xff\xff\xff\xff\xa1w\x05",
        "at byte 8: expected 1 B, and found the end of the file after 0 B.",
    ),
    "too long": (
        b"\x81\xa1w\xc6\xff\xff\xff\xff",
        "at byte 8: expected 4294967295 B, and found the end of the file after 0 B.",
    ),
    "too deep": (b"\x91" * 600, "at byte 500: containers within each other, more than 500 deep."),
    "values too few": (
        b"\x81\xa1w" + ext(b"\x93\x91\x02" + F4 + b"\xc4\x04" + bytes(4)),
        "at byte 9: an array of shape (2,) and type float32 in 4 B.",
    ),
    "values out of it": (
        b"\x81\xa1w" + ext(b"\x93\x91\x01" + F4 + b"\xc4\x04") + bytes(4),
        "at byte 22: 4 B after the end of the tree.",
    ),
    "a longer extension": (
        b"\x81\xa1w" + ext(b"\x93\x91\x01" + F4 + b"\xc4\x04" + bytes(6)),
        "at byte 9: an extension of 19 B, whose content has 17 B.",
    ),
    "a negative axis": (
        b"\x81\xa1w" + ext(b"\x93\x91\xff" + F4 + b"\xc4\x04" + bytes(4)),
        "at byte 9: an array that is not a shape, a dtype and values.",
    ),
    "no shape": (
        b"\x81\xa1w" + ext(b"\x05"),
        "at byte 10: expected 1 B, and found the end of the file after 0 B.",
    ),
    "half a number": (
        b"\x81\xa1w" + ext(b"\x92\x05\x06", 2),
        "at byte 9: a complex number that is not two numbers.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_flax_damage(case, tmp_path):
    data, text = BROKEN[case]
    assert damage_of(msgpack, tmp_path / "x.msgpack", data) == text


def test_flax_odd_arrays_and_names(tmp_path):
    file = tmp_path / "x.msgpack"
    huge = b"\xcf" + struct.pack(">Q", 2**63)
    axes = b"\xdc" + struct.pack(">H", 40) + b"\x01" * 40
    entries = [
        ext(b"\x93\x92\x00" + huge + F4 + b"\xc4\x00"), ext(b"\x93" + axes + F4 + b"\xc4\x04" + bytes(4)),
        ext(b"\x93\x91\x01\xa6object\xc4\x08" + bytes(8)), ext(b"\x93\x91\x01\xa5f4,i4\xc4\x08" + bytes(8)),
        ext(b"x", 9),
    ]  # fmt: skip
    file.write_bytes(
        b"\x85" + b"".join(b"\xa1" + bytes([97 + place]) + each for place, each in enumerate(entries))
    )
    assert msgpack.open_file(file).refused == {
        "a": "of shape (0, 9223372036854775808), larger than any array",
        "b": "of 40 axes, more than the 32 that NumPy has",
        "c": "an array of object",
        "d": "of dtype 'f4,i4', which NumPy does not have",
        "e": "of MessagePack's extension type 9",
    }
    file.write_bytes(b"\x83\xa3a/b\x05\xa1a\x81\xa1b\x06\xa1c\x05")
    assert message(pt.BadNameError, lambda: msgpack.open_file(file)) == (
        f"'{file}' has names that no tree can have:\n  'a/b' names two values"
    )
    file.write_bytes(b"\x81\xad__paramtree__\xa2[]")
    assert message(pt.ParamTreeError, lambda: msgpack.open_file(file)) == (
        "load: the notes are damaged: '[]' is not an object."
    )


def test_flax_every_truncation(tmp_path):
    file = tmp_path / "x.msgpack"
    write({"a": {"w": np.ones((2, 3))}, "b": np.arange(5), "c": pt.Fixed(np.ones(1))}, file)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(pt.ParamTreeError):
            contents(msgpack, file)


def test_flax_mutations(tmp_path):
    tree = {
        "a": {"w": np.ones((2, 3)), "h": np.ones(3, ml_dtypes.bfloat16)},
        "b": pt.Fixed(np.arange(5)),
        "t": pt.Alias("a"),
    }
    write(tree, tmp_path / "x.msgpack")
    mutate(msgpack, tmp_path / "x.msgpack", 1000)


def test_flax_headers_alone_are_read(tmp_path):
    file = tmp_path / "x.msgpack"
    write({f"layer{place}": {"w": np.ones(100_000, "float32")} for place in range(20)}, file)
    tracemalloc.start()
    try:
        stored = msgpack.open_file(file)
        opened = tracemalloc.get_traced_memory()[1]
        with stored.reading() as read:
            for name in stored.specs:
                read(name)
        assert opened < 100_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# --- Equinox ------------------------------------------------------------------------------------------------


@pytest.fixture
def eqx():
    return pytest.importorskip("equinox")


@pytest.mark.parametrize("dtype", NUMPY)
def test_equinox_every_dtype(dtype, eqx, tmp_path):
    array = of_dtype(dtype)
    file = tmp_path / "x.eqx"
    grid = array.reshape(2, 3)
    tree = [array, array[:0], array[1].reshape(()), grid, np.asfortranarray(grid), grid.T,
            array.astype(array.dtype.newbyteorder(">"))]  # fmt: skip
    eqx.tree_serialise_leaves(file, tree)
    assert recognised(file) == ["equinox"]
    arrays, stored = contents(eqx_format, file)
    assert stored.by_position
    assert (list(stored.specs), stored.refused, stored.notes) == ([*"0123456"], {}, {})
    for place, wanted in enumerate(tree):
        same(arrays[str(place)], wanted.astype(wanted.dtype.newbyteorder("=")))


@pytest.mark.parametrize("dtype", [*SMALL, "int4"])
def test_equinox_types_that_numpy_lacks_are_raw_until_filled(dtype, eqx, tmp_path):
    array = of_dtype(dtype).reshape(2, 3)
    file = tmp_path / "x.eqx"
    tree = {"a": jnp.asarray(array), "b": jnp.ones(2)}
    eqx.tree_serialise_leaves(file, tree)
    arrays, stored = contents(eqx_format, file)
    known = dtype == "float8_e5m2"  # the one that NumPy writes by a name
    assert stored.specs["0"].dtype == (array.dtype if known else f"V{array.itemsize}")
    assert arrays["0"].tobytes() == array.tobytes()
    same(arrays["0"].view(array.dtype), array)
    loaded = pt.load(file, like=jax.tree.map(jnp.zeros_like, tree))
    same(np.asarray(loaded["a"]), array)


def test_equinox_a_module(eqx, tmp_path):
    net = eqx.nn.MLP(2, 3, 4, 2, key=jax.random.key(0))
    file = tmp_path / "x.eqx"
    eqx.tree_serialise_leaves(file, net)
    arrays, _ = contents(eqx_format, file)
    leaves = [leaf for leaf in jax.tree.leaves(net) if eqx.is_array_like(leaf)]
    assert len(arrays) == len(leaves)
    for array, leaf in zip(arrays.values(), leaves, strict=True):
        same(array, np.asarray(leaf))
    loaded = pt.load(file, like=eqx.nn.MLP(2, 3, 4, 2, key=jax.random.key(1)))
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: bool(np.all(a == b)), *(eqx.filter(each, eqx.is_array) for each in (net, loaded))
        )
    )


def test_equinox_numbers_of_python(eqx, tmp_path):
    file = tmp_path / "x.eqx"
    eqx.tree_serialise_leaves(file, [3, 2.5, True, 1j, np.float32(2), jnp.ones(1), "text", None])
    arrays, stored = contents(eqx_format, file)
    dtypes = ["int64", "float64", "bool", "complex128", "float32", "float32"]
    assert [spec.dtype.name for spec in stored.specs.values()] == dtypes
    assert [array.item() for array in arrays.values()] == [3, 2.5, True, 1j, 2.0, 1.0]
    eqx.tree_serialise_leaves(file, [])
    assert eqx_format.open_file(file).specs == {}


def block(array=None, header=None, values=b"", version=b"\1\0"):
    if array is not None:
        made = io.BytesIO()
        np.save(made, array)
        return made.getvalue()
    width = "<H" if version[0] == 1 else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, len(header)) + header + values


def header(descr, shape, fortran=False):
    return repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()


ONE = block(np.ones(2, "float32"))
DAMAGED = {
    "a tail": (ONE + b"x", "entry 1, at byte 136, is no header of an array."),
    "an end": (ONE[:-1], "entry 0, at byte 0, is an array of 8 B, and the file ends after 7 B of it."),
    "no array": (b"hello world", "entry 0, at byte 0, is no header of an array."),
    "a version": (
        block(header=header("<f4", ()), version=b"\7\0"),
        "entry 0, at byte 0, is no header of an array.",
    ),
    "a huge shape": (
        ONE + block(header=header("<f4", (10**15,))),
        "entry 1, at byte 136, is an array of 4000000000000000 B, and the file ends after 0 B of it.",
    ),
    "a negative axis": (
        block(header=header("<f4", (-1,)), values=bytes(4)),
        "entry 0, at byte 0, is an array of shape (-1,).",
    ),
    "objects": (
        block(header=header("|O", (1,)), values=pickle.dumps([1])),
        "entry 0, at byte 0, is an array of Python objects, which are pickled, and are not read.",
    ),
    "a long header": (block(header=b"(" * 60_000), "entry 0, at byte 0, is no header of an array."),
    "a bool": (block(header=header("|b1", (2,)), values=b"\1\7"), None),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_equinox_damage(case, tmp_path):
    data, text = DAMAGED[case]
    found = damage_of(eqx_format, tmp_path / "x.eqx", data)
    assert found == text or (text is None and found.endswith("expected a bool, 0 or 1, and found 7."))


def test_one_array_of_numpy_is_called_what_it_is(tmp_path):
    file = tmp_path / "x.npy"
    file.write_bytes(ONE)
    like = [np.zeros(2, "float32")]
    assert pt.load(file, like)[0].tolist() == [1, 1]
    file.write_bytes(ONE[:-1])
    with pytest.raises(pt.ParamTreeError) as caught:
        pt.load(file)
    assert str(caught.value) == (
        f"{str(file)!r} is not a whole .npy file: entry 0, at byte 0, is an array of 8 B, and the file ends "
        "after 7 B of it."
    )


def test_equinox_arrays_of_other_things(tmp_path):
    file = tmp_path / "x.eqx"
    file.write_bytes(b"".join([
        block(np.array(["ab"])), ONE, block(np.zeros(2, "V8")), block(np.zeros(1, [("a", "f4")])),
        block(header=header("<f4", (0, 2**63))), block(header=header("<f4", (1,) * 40), values=bytes(4)),
    ]))  # fmt: skip
    arrays, stored = contents(eqx_format, file)
    assert list(arrays) == ["1"]
    assert stored.refused == {
        "0": "an array of <U2",
        "2": "an array of |V8",
        "3": "an array of [('a', '<f4')]",
        "4": "of shape (0, 9223372036854775808), larger than any array",
        "5": "of 40 axes, more than the 32 that NumPy has",
    }


def test_equinox_mutations(tmp_path):
    file = tmp_path / "x.eqx"
    arrays = [np.ones((2, 3)), np.ones(3, "V2"), np.asfortranarray(np.ones((2, 2), ">i4")), np.array([True])]
    file.write_bytes(b"".join(map(block, arrays)))
    mutate(eqx_format, file, 1000)


# --- all ----------------------------------------------------------------------------------------------------


MISSING = [
    (torch_format, "torch", "x.pt", "a PyTorch file", b"PK"),
    (hdf5, "h5py", "x.h5", "an HDF5 file", b"\x89HDF\r\n\x1a\n"),
]


@pytest.mark.parametrize(("form", "package", "name", "what", "data"), MISSING)
def test_a_missing_package_is_named(form, package, name, what, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    file = tmp_path / name
    file.write_bytes(data)
    assert message(pt.ParamTreeError, lambda: form.open_file(file)) == (
        f"'{file}' is {what}, and {package} is not installed. "
        f"Install it with: pip install 'paramtree-jax[{package}]'."
    )


def test_flax_and_equinox_are_not_needed(tmp_path, monkeypatch):
    for package in ("flax", "flax.serialization", "msgpack", "equinox"):
        monkeypatch.setitem(sys.modules, package, None)
    write(FLAX_TREE, tmp_path / "x.msgpack")
    contents(msgpack, tmp_path / "x.msgpack")
    (tmp_path / "x.eqx").write_bytes(ONE)
    contents(eqx_format, tmp_path / "x.eqx")


def test_files_of_others_are_recognised_by_nobody_here(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(2))
    pt.save({"a": np.ones(2, "float32")}, tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text('{"a": 1}')
    (tmp_path / "x.txt").write_text("höchst")
    (tmp_path / "x.empty").write_bytes(b"")
    (tmp_path / "x.pickle").write_bytes(pickle.dumps({"a": 1}))
    for file in tmp_path.iterdir():
        assert recognised(file) == [], file


@pytest.mark.parametrize("kind", ["torch", "hdf5", "msgpack", "equinox"])
def test_a_file_that_changed_since_it_was_opened(kind, tmp_path):
    file = tmp_path / "x"
    form = {"torch": torch_format, "hdf5": hdf5, "msgpack": msgpack, "equinox": eqx_format}[kind]
    if kind == "torch":
        torch = pytest.importorskip("torch")
        torch.save({"w": torch.ones(2)}, file)
    elif kind == "hdf5":
        with pytest.importorskip("h5py").File(file, "w") as opened:
            opened["w"] = np.ones(2)
    elif kind == "msgpack":
        write({"w": np.ones(2)}, file)
    else:
        file.write_bytes(ONE)
    stored = form.open_file(file)
    file.write_bytes(file.read_bytes() + b"\0")

    def read_all():
        with stored.reading() as read:
            for name in stored.specs:
                read(name)

    text = f"'{file}' has changed, or is gone, since its headers were read. Load it again."
    with pytest.raises(pt.ParamTreeError) as caught:
        read_all()
    assert str(caught.value) == text
    file.unlink()
    with pytest.raises(pt.ParamTreeError) as caught:
        read_all()
    assert str(caught.value) == text
