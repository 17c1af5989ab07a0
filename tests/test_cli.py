"""The command line: every command on several formats, whole messages, exit codes, pipes and terminals."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sameness import same_tree

import paramtree as pt
from paramtree import cli
from paramtree.commands import stats as stats_command
from paramtree.commands import terminal
from paramtree.report.stats import stats as pt_stats

ROOT = Path(__file__).parent.parent
COMMAND = ["-m", "paramtree"]
FORMS = ["safetensors", "npz", "msgpack", "safetensors.index.json"]
TREE = {
    "embed": {"weight": jnp.arange(12.0).reshape(4, 3)},
    "head": {"weight": pt.Alias("embed/weight", transpose=True)},
    "dense0": {"weight": jnp.ones((8, 3), "bfloat16"), "bias": jnp.zeros(8)},
    "norm": {"gamma": jnp.ones(8), "mean": pt.Fixed(jnp.zeros(8))},
    "step": np.array(3),
    "key": jax.random.key(1),
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Work in an empty directory, with a terminal's variables unset."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def paramtree(capsys):
    """Run one command in this process; give its exit code, what it wrote, and its messages."""

    def run(*arguments):
        capsys.readouterr()
        code = cli.main(list(arguments))
        return code, *capsys.readouterr()

    return run


def saved(tree, file):
    pt.save(tree, file)
    return file


# --- show ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_show_lists_what_a_file_holds(paramtree, form):
    assert paramtree("show", saved(TREE, f"a.{form}")) == (
        0,
        "7 parameters, 62 elements, 208 B, 54 trainable and 8 fixed, 1 tied place\n"
        "name           shape   dtype     tied to                   fixed  count  bytes\n"
        "dense0/weight  (8, 3)  bfloat16                                      24   48 B\n"
        "dense0/bias    (8,)    float32                                        8   32 B\n"
        "embed/weight   (4, 3)  float32                                       12   48 B\n"
        "head/weight    (3, 4)            embed/weight, transposed\n"
        "key            ()      key<fry>                                       1    8 B\n"
        "norm/gamma     (8,)    float32                                        8   32 B\n"
        "norm/mean      (8,)    float32                             fixed      8   32 B\n"
        "step           ()      int64                                          1    8 B\n",
        "",
    )


@pytest.mark.parametrize("form", FORMS)
def test_show_of_a_part_keeps_the_names_of_the_file(paramtree, form):
    file = saved({"encoder.0.weight": np.ones((2, 3), "f4"), "encoder.0.bias": np.ones(2, "f4")}, f"a.{form}")
    assert paramtree("show", file, r".*\.weight") == (
        0,
        "1 parameter, 6 elements, 24 B\n"
        "name              shape   dtype    count  bytes\n"
        "encoder.0.weight  (2, 3)  float32      6   24 B\n",
        "",
    )


def test_show_in_json(paramtree):
    code, out, err = paramtree("show", saved(TREE, "a.npz"), "--json")
    known = json.loads(out, parse_constant=pytest.fail)
    assert (code, err, known["file"]) == (0, "", "a.npz")
    assert known["totals"]["parameters"] == len(pt.names(TREE))
    assert {row["name"]: row["shape"] for row in known["rows"]}["head/weight"] == [3, 4]


@pytest.mark.parametrize("command", ["show", "stats"])
def test_a_select_that_hits_nothing_is_1(paramtree, command):
    file = saved({"dense0": {"weight": np.ones(1)}, "b": np.ones(1)}, "a.npz")
    assert paramtree(command, file, "dense0") == (
        1,
        "",
        "paramtree: select 'dense0' hits none of 2 parameters; it must match the whole name. "
        "Did you mean 'dense0/.*'? Nearest: dense0/weight.\n",
    )
    assert paramtree(command, file, "(")[0] == 2


@pytest.mark.parametrize("command", ["show", "stats"])
def test_what_cannot_be_read_is_told(paramtree, command):
    np.savez("a.npz", words=np.array(["x"]), w=np.ones(1))
    code, out, err = paramtree(command, "a.npz")
    assert (code, err) == (0, "paramtree: 'a.npz': 'words' cannot be read: it is an array of <U1.\n")
    assert out.splitlines()[-1].startswith("w ")
    assert paramtree(command, "a.npz", "w")[2] == ""


@pytest.mark.parametrize("command", ["show", "stats"])
def test_a_file_without_arrays(paramtree, command):
    code, out, err = paramtree(command, saved({}, "a.npz"))
    assert (code, out.splitlines()[0][:12], err) == (0, "0 parameters", "")
    assert json.loads(paramtree(command, "a.npz", "--json")[1])["file"] == "a.npz"


@pytest.mark.parametrize("command", ["show", "stats"])
def test_a_file_without_names(paramtree, command):
    with open("a.eqx", "wb") as file:
        for array in (np.ones(2, "f4"), np.zeros((3, 2), "V2")):
            np.save(file, array)
    code, out, err = paramtree(command, "a.eqx")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["0", "1"]


def test_show_reads_no_values(paramtree):
    size = 10_000_000_000
    header = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    with open("a.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)  # no byte of the disk is taken
    assert paramtree("show", "a.safetensors")[:2] == (
        0,
        "1 parameter, 10,000,000,000 elements, 9.31 GiB\n"
        "name  shape           dtype           count     bytes\n"
        "w     (10000000000,)  uint8  10,000,000,000  9.31 GiB\n",
    )


def test_very_many_rows_are_all_shown(paramtree):
    file = saved({f"layer{number}": np.ones(1) for number in range(1000)}, "a.npz")
    lines = paramtree("show", file)[1].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("layer")] == [
        f"layer{n}" for n in range(1000)
    ]
    assert not any("more" in line for line in lines)


# --- stats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_stats_tell_what_the_values_are(paramtree, form):
    tree = {
        "w": np.array([[1, -1], [np.nan, 0]], "f4"),
        "h": jnp.array([1, 3], "bfloat16"),
        "n": np.array([1, 2, 3]),
        "again": pt.Alias("w"),
        "key": jax.random.key(0),
    }
    code, out, err = paramtree("stats", saved(tree, f"a.{form}"))
    assert (code, err) == (0, "")
    assert out == f"{pt_stats(tree).to_text(1000)}\n"
    assert out.startswith("4 parameters, 9 elements, 1 NaN\n")
    code, out, err = paramtree("stats", f"a.{form}", "w|n", "--json")
    known = json.loads(out, parse_constant=pytest.fail)
    assert known == {"file": f"a.{form}", **pt_stats(tree, select="w|n").to_dict()}


@pytest.mark.parametrize("at_once", [1, 50, 10**9])
def test_stats_are_the_same_in_parts(paramtree, monkeypatch, at_once):
    monkeypatch.setattr(stats_command, "_AT_ONCE", at_once)
    tree = {f"layer{n}": {"weight": np.full((12 - n, 3), n, "f4"), "bias": np.zeros(3)} for n in range(11)}
    out = paramtree("stats", saved(tree, "a.npz"))[1]
    assert out == f"{pt_stats(tree).to_text(1000)}\n"


def test_stats_read_a_part_at_a_time(paramtree, monkeypatch):
    seen = []
    monkeypatch.setattr(stats_command, "_AT_ONCE", 100)
    monkeypatch.setattr(stats_command, "stats", lambda tree: seen.append(list(tree)) or pt_stats(tree))
    tree = {
        "big": np.ones(1000, "i1"),
        "a": np.ones(60, "i1"),
        "b": np.ones(40, "i1"),
        "c": np.ones(99, "i1"),
    }
    assert paramtree("stats", saved(tree, "a.npz"))[0] == 0
    assert seen == [["b", "a"], ["c"], ["big"]]


# --- diff ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_diff_of_the_same_is_0(paramtree, form):
    a, b = saved(TREE, "a.npz"), saved(TREE, f"b.{form}")
    assert paramtree("diff", a, b) == (0, "no differences in 8 parameters\n", "")


@pytest.mark.parametrize("form", FORMS)
def test_diff_of_others_is_1(paramtree, form):
    a = saved({"x": np.ones(2, "f4"), "y": np.ones(3, "f4"), "z": np.ones(1, "f4")}, f"a.{form}")
    b = saved({"x": np.array([1, 2], "f4"), "w": np.ones((3, 1), "f4"), "zz": np.ones(1, "f4")}, f"b.{form}")
    assert paramtree("diff", a, b) == (
        1,
        f"a: a.{form}\n"
        f"b: b.{form}\n"
        "4 of 4 parameters differ: only in a 1, only in b 1, renamed 1, values 1\n"
        "name  difference               changed  largest  relative\n"
        "w     only in b: float32[3,1]\n"
        "x     values                    1 of 2        1       0.5\n"
        "y     only in a: float32[3]\n"
        "z     renamed to zz\n",
        "",
    )


def test_diff_has_no_columns_of_numbers_where_no_values_differ(paramtree):
    a, b = saved({"x": np.ones(2, "f4")}, "a.npz"), saved({"x": np.ones(2, "f2")}, "b.npz")
    assert paramtree("diff", a, b)[1].splitlines()[3:] == [
        "name  difference",
        "x     dtype float32 -> float16",
    ]


def test_diff_takes_tolerances_and_a_select(paramtree):
    a, b = (
        saved({"x": np.ones(1), "y": np.ones(1)}, "a.npz"),
        saved({"x": np.full(1, 1.5), "y": np.zeros(1)}, "b.npz"),
    )
    assert paramtree("diff", a, b, "x", "--atol", "0.5")[0] == 0
    assert paramtree("diff", a, b, "x", "--rtol", "0.34")[0] == 0
    assert paramtree("diff", a, b, "x", "--rtol", "0.33")[0] == 1
    assert paramtree("diff", a, b, "--rtol", "0.34")[0] == 1


def test_diff_in_json(paramtree):
    a, b = saved({"x": np.ones(2)}, "a.npz"), saved({"x": np.array([1.0, np.inf])}, "b.npz")
    code, out, err = paramtree("diff", a, b, "--json")
    known = json.loads(out, parse_constant=pytest.fail)
    assert (code, err) == (1, "")
    assert known == {"a": "a.npz", "b": "b.npz", **pt.diff(a, b).to_dict()}
    assert known["differences"][0]["values"]["largest"] == "inf"
    assert json.loads(paramtree("diff", a, a, "--json")[1])["differences"] == []


def test_diff_with_a_select_that_hits_nothing_is_trouble(paramtree):
    file = saved({"dense0": {"weight": np.ones(1)}}, "a.npz")
    assert paramtree("diff", file, file, "dense0") == (
        2,
        "",
        "paramtree: select 'dense0' hits nothing; it must match the whole name. Did you mean 'dense0/.*'? "
        "Nearest: dense0/weight.\n",
    )


def test_what_cannot_be_compared_is_trouble(paramtree):
    np.savez("a.npz", words=np.array(["x"]), w=np.ones(1))
    np.savez("b.npz", w=np.ones(1))
    assert paramtree("diff", "a.npz", "b.npz") == (
        2,
        "no differences in 1 parameter\n",
        "paramtree: 'a.npz': 'words' cannot be read: it is an array of <U1.\n",
    )
    assert paramtree("diff", "a.npz", "b.npz", "w")[0] == 0
    assert paramtree("diff", "b.npz", "a.npz", "w.*")[0] == 2


# --- plan ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_plan_of_what_fits_is_0(paramtree, form):
    file, like = (
        saved({"a.w": np.ones((2, 3), "f4"), "s": np.ones(1)}, f"a.{form}"),
        saved({"a": {"w": np.zeros((2, 3), "f2")}}, f"b.{form}"),
    )
    assert paramtree(
        "plan", file, like, "--rename", r"(.*)\.w=\1/w", "--rename", "s=", "--cast", "float16"
    ) == (
        0,
        f"'a.{form}': 1 cast, 1 left out\n"
        "status    parameter  shape and dtype  note\n"
        "cast      a/w        float16[2,3]     from a.w; from float32\n"
        "left out  s          float64[1]\n",
        "",
    )


def test_plan_of_what_does_not_fit_is_1(paramtree):
    file, like = (
        saved({"w": np.ones(2), "u": np.ones(5)}, "a.npz"),
        saved({"w": np.ones(3), "v": np.ones(4)}, "b.npz"),
    )
    assert paramtree("plan", file, like) == (
        1,
        "'a.npz': 1 missing, 1 unexpected, 1 shape\n"
        "status      parameter  shape and dtype  note\n"
        "missing     v          float64[4]\n"
        "shape       w          float64[3]       the file has float64[2]\n"
        "unexpected  u          float64[5]\n",
        "",
    )
    assert paramtree("plan", file, like, "--select", "w")[0] == 1
    code, out, _ = paramtree("plan", file, like, "--json")
    known = json.loads(out)
    assert code == 1
    assert (known["file"], known["like"], known["resolved"]) == ("a.npz", "b.npz", False)
    assert [row["status"] for row in known["rows"]] == ["missing", "shape", "unexpected"]


def test_plan_knows_the_ready_sets(paramtree):
    saved(
        {"1.weight": np.ones(3, "f4"), "1.bias": np.ones(3, "f4"), "1.num_batches_tracked": np.array(2)},
        "torch.npz",
    )
    saved({"1": {"gamma": np.ones(3, "f4"), "beta": np.ones(3, "f4")}}, "ours.npz")
    saved({"norm": {"gamma": np.ones(3, "f4"), "beta": np.ones(3, "f4")}}, "named.npz")
    assert paramtree("plan", "torch.npz", "ours.npz", "--rename", "torch")[0] == 0
    assert paramtree("plan", "torch.npz", "named.npz", "--rename", "torch", "--rename", "1=norm")[0] == 0
    assert paramtree("plan", "torch.npz", "named.npz", "--rename", "torch")[0] == 1
    assert (
        paramtree("plan", "ours.npz", "torch.npz", "--rename", "torch", "--invert")[0] == 1
    )  # lacks the count
    assert (
        paramtree(
            "plan", "ours.npz", "torch.npz", "--rename", "torch", "--invert", "--select", r"1\.(weight|bias)"
        )[0]
        == 0
    )


def test_a_note_that_does_not_fit_has_lines_of_its_own(paramtree, monkeypatch):
    monkeypatch.setenv("COLUMNS", "55")
    file, like = (
        saved({"encoder.layer.0.weight": np.ones(2)}, "a.npz"),
        saved({"encoder": {"layer": {"0": {"weight": np.ones(2)}}}}, "b.npz"),
    )
    assert paramtree("plan", file, like)[1] == (
        "'a.npz': 1 missing, 1 unexpected\n"
        "status      parameter               shape and dtype\n"
        "missing     encoder/layer/0/weight  float64[2]\n"
        "    did you mean encoder.layer.0.weight?\n"
        "unexpected  encoder.layer.0.weight  float64[2]\n"
        "    did you mean encoder/layer/0/weight?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--rename", "torhc"],
            "--rename 'torhc' is neither PATTERN=TEMPLATE nor a ready set. Did you mean torch? "
            "The ready sets are haiku, linen, nnx, torch.",
        ),
        (["--rename", "torch", "--rename", "nnx"], "--rename takes one ready set, and not torch and nnx."),
        (
            ["--rename", "=x"],
            "--rename '=x' is neither PATTERN=TEMPLATE nor a ready set. The ready sets are "
            "haiku, linen, nnx, torch.",
        ),
        (["--invert"], "--invert is for the rules of --rename, and there are none."),
        (
            ["--cast", "w=floot32"],
            "--cast 'w=floot32': 'floot32' is no dtype. Did you mean float32? Write a DTYPE such as "
            "bfloat16, or PATTERN=DTYPE.",
        ),
        (
            ["--rename", "(=x"],
            "'(' is not a regular expression: missing ), unterminated subpattern at position 0.",
        ),
        (
            ["--rename", "a.*=x", "--invert"],
            "invert: these rules have no way back:\n"
            "  rule 0 'a.*': '.*' at position 1 is in no group; put it into one",
        ),
        (
            ["--select", "nothing"],
            "select 'nothing' hits nothing; it must match the whole name. The names are w.",
        ),
    ],
)
def test_bad_rules_are_trouble(paramtree, arguments, said):
    file = saved({"w": np.ones(1)}, "a.npz")
    assert paramtree("plan", file, file, *arguments) == (2, "", f"paramtree: {said}\n")


def test_advice_is_in_the_terms_of_the_command_line(paramtree):
    wide = saved({"w": np.ones(3), "n": np.ones(2, "i4")}, "a.npz")
    narrow = saved({"w": np.ones(3, "f4"), "n": np.ones(2, "i4")}, "b.npz")
    code, out, _ = paramtree("plan", wide, narrow)
    assert (code, out) == (
        1,
        "'a.npz': 1 dtype, 1 loaded\n"
        "status  parameter  shape and dtype  note\n"
        "dtype   w          float32[3]       the file has float64; --cast 'w=float32' converts it\n"
        "loaded  n          int32[2]\n",
    )
    notes = [row["note"] for row in json.loads(paramtree("plan", wide, narrow, "--json")[1])["rows"]]
    assert "the file has float64; --cast 'w=float32' converts it" in notes
    assert paramtree("plan", wide, narrow, "--cast", "w=float32")[0] == 0
    assert paramtree("convert", narrow, "c.npz", "--cast", "float64")[2].splitlines()[-1] == (
        "dtype   w          float32[3]       w would not become float64 but float32; set JAX_ENABLE_X64=1 in "
        "the environment"
    )
    eights = saved({"w": jnp.ones(3, "float8_e4m3fn")}, "c.npz")
    assert paramtree("convert", eights, "c.params")[2] == (
        "paramtree: save: a .params file has no type for these:\n"
        "  w is float8_e4m3fn; --cast it, or save to a .npz file\n"
    )
    assert paramtree("convert", narrow, "d.npz", "--rename", "haiku", "--invert")[2] == (
        "paramtree: haiku: our names do not tell Haiku's. In Python, pt.renaming takes `like`.\n"
    )
    block = saved({"dense": {"weight": np.ones((2, 3))}}, "e.npz")
    assert paramtree("convert", block, "d.npz", "--rename", "torch", "--rename", "x=y")[2] == (
        "paramtree: torch: --rename does not fit the blocks:\n"
        "  rule 0 'x' hits nothing. The names are dense.\n"
    )


# --- convert ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", FORMS)
def test_convert_keeps_every_bit(paramtree, form, other):
    file = saved(TREE, f"a.{form}")
    assert paramtree("convert", file, f"b.{other}") == (
        0,
        f"wrote 'b.{other}': 7 parameters, 208 B (7 loaded, 1 tied)\n",
        "",
    )
    same_tree(pt.load(f"b.{other}"), pt.load(file))


CASES = [
    (["--rename", r"(.*)\.w=\1/weight"], {r"(.*)\.w": r"\1/weight"}, None),
    (["--rename", r"a\.(.*)=", "--rename", "b.w=a/w"], {r"a\.(.*)": None, "b.w": "a/w"}, None),
    (["--cast", "bfloat16"], None, {"[ab].*": "bfloat16"}),
    (["--cast", "a.w=float16", "--cast", "int8"], None, {"a.w": "float16", "n": "int8"}),
    (["--rename", "torch"], pt.renaming.torch(), None),
    (
        ["--rename", "torch", "--rename", "a=enc/x", "--cast", "enc/.*=float16"],
        pt.renaming.torch(blocks={"a": "enc/x"}),
        {"enc/.*": "float16"},
    ),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("typed", "rename", "cast"), CASES)
def test_convert_is_load_and_save(paramtree, form, typed, rename, cast):
    tree = {"a.w": np.ones((2, 2), "f4"), "a.b": np.ones(2, "f4"), "b.w": np.zeros(3, "f4"), "n": np.array(3)}
    file = saved(tree, f"a.{form}")
    code, _, err = paramtree("convert", file, "b.npz", *typed)
    assert (code, err) == (0, "")
    pt.save(pt.load(file, rename=rename, cast=cast), "c.npz")
    assert not pt.diff("b.npz", "c.npz")
    assert pt.names(pt.load("b.npz")) == pt.names(pt.load("c.npz"))


def test_convert_there_and_back(paramtree):
    tree = {
        "enc": {
            "query": {},
            "layer1": {"weight": np.ones((2, 3), "f4"), "bias": np.zeros(2, "f4")},
            "norm": {"gamma": np.ones(2, "f4")},
        }
    }
    del tree["enc"]["query"]
    file = saved(tree, "ours.npz")
    assert paramtree("convert", file, "linen.npz", "--rename", "linen", "--invert")[0] == 0
    assert pt.names(pt.load("linen.npz")) == [
        "params/enc/layer1/kernel",
        "params/enc/layer1/bias",
        "params/enc/norm/scale",
    ]
    assert paramtree("convert", "linen.npz", "back.npz", "--rename", "linen")[0] == 0
    assert not pt.diff("back.npz", file)


def test_convert_keeps_ties_and_marks_under_new_names(paramtree):
    file = saved(TREE, "a.npz")
    assert (
        paramtree(
            "convert", file, "b.safetensors", "--rename", r"(.*)/weight=\1/w", "--rename", r"norm/(.*)=bn/\1"
        )[0]
        == 0
    )
    same_tree(
        pt.load("b.safetensors"), pt.load(file, rename={r"(.*)/weight": r"\1/w", r"norm/(.*)": r"bn/\1"})
    )


def test_convert_writes_nothing_where_anything_is_unresolved(paramtree):
    np.savez("a.npz", words=np.array(["x"]), n=np.ones(2, "i4"), w=np.ones(1, "f4"))
    assert paramtree("convert", "a.npz", "b.npz", "--cast", "n=float16", "--rename", "v=u") == (
        2,
        "",
        "paramtree: nothing is written, as not everything is resolved:\n"
        "'a.npz': 1 dtype, 1 refused, 1 rule, 1 loaded\n"
        "status   parameter  shape and dtype  note\n"
        "dtype    n          int32[2]         n is int32, and float16 is of another kind; select the others "
        "only\n"
        "rule                                 rename: rule 0 'v' hits nothing. The names are n, w, words.\n"
        "refused  words                       it is an array of <U1\n",
    )
    assert not os.path.exists("b.npz")
    assert paramtree("convert", "a.npz", "b.npz", "--rename", "words=")[0] == 0


def test_names_that_cannot_be_nested_are_mended_by_convert(paramtree):
    np.savez("a.npz", **{"a": np.ones(1), "a/b": np.ones(2)})
    said = (
        "paramtree: 'a.npz': these names cannot be nested:\n"
        "  'a' is a parameter, and a block that holds 'a/b'\n"
        "paramtree convert --rename writes a file with others.\n"
    )
    for arguments in (["show", "a.npz"], ["stats", "a.npz"], ["diff", "a.npz", "a.npz"]):
        assert paramtree(*arguments) == (2, "", said)
    assert paramtree("convert", "a.npz", "b.npz") == (2, "", said)
    assert paramtree("convert", "a.npz", "b.npz", "--rename", "a=c")[0] == 0
    assert pt.names(pt.load("b.npz")) == ["a/b", "c"]


def test_convert_replaces_only_by_force(paramtree):
    file, other = saved({"w": np.ones(1)}, "a.npz"), saved({"v": np.ones(2)}, "b.npz")
    assert paramtree("convert", file, other) == (
        2,
        "",
        "paramtree: 'b.npz' exists. Pass --force to replace it.\n",
    )
    assert pt.names(pt.load(other)) == ["v"]
    assert paramtree("convert", file, other, "--force")[0] == 0
    assert pt.names(pt.load(other)) == ["w"]


@pytest.mark.parametrize("form", FORMS)
def test_convert_in_place(paramtree, form):
    file = saved({"w": jnp.arange(4.0), "v": jnp.ones(2)}, f"a.{form}")
    assert paramtree("convert", file, file, "--force", "--cast", "float16")[0] == 0
    same_tree(pt.load(file), {"w": jnp.arange(4, dtype="float16"), "v": jnp.ones(2, "float16")})


def test_convert_says_what_is_no_format_to_write(paramtree):
    file = saved({"w": np.ones(1)}, "a.npz")
    assert paramtree("convert", file, "b.pt") == (
        2,
        "",
        "paramtree: 'b.pt' is of no format that is written. End its name in .safetensors, "
        ".safetensors.index.json, .npz, .params, .msgpack or .orbax; torch, flax and others read "
        ".safetensors.\n",
    )
    said = f"paramtree: there is no directory '{os.getcwd()}/gone' to save in. Make it first.\n"
    assert paramtree("convert", file, "gone/b.npz") == (2, "", said)


def test_convert_names_what_has_no_names(paramtree):
    with open("a.eqx", "wb") as file:
        for array in (np.ones(2, "f4"), np.zeros((3, 2), "f4")):
            np.save(file, array)
    assert paramtree("convert", "a.eqx", "b.npz") == (
        2,
        "",
        "paramtree: 'a.eqx' holds 2 arrays without names: pass --like, a tree that has them in the same "
        "order, and no --rename.\n",
    )
    like = saved(
        {"b": np.ones((3, 2), "f4"), "a": pt.Fixed(np.ones(2, "f4")), "c": pt.Alias("a")}, "like.safetensors"
    )
    assert paramtree("convert", "a.eqx", "b.npz", "--like", like)[0] == 0
    same_tree(pt.load("b.npz"), {"a": pt.Fixed(jnp.ones(2)), "b": jnp.zeros((3, 2)), "c": pt.Alias("a")})


def test_convert_to_orbax(paramtree):
    pytest.importorskip("orbax.checkpoint")
    file = saved(TREE, "a.npz")
    assert paramtree("convert", file, "b.orbax", "--rename", "norm/(.*)=bn/\\1")[0] == 0
    assert paramtree("diff", file, "b.orbax", "(?!norm|bn).*")[0] == 0
    assert paramtree("convert", "b.orbax", "c.safetensors")[0] == 0
    same_tree(pt.load("c.safetensors"), pt.load("b.orbax"))


# --- what all commands share --------------------------------------------------------------------------------


def test_a_missing_file_a_directory_and_what_is_no_checkpoint_are_one_line(paramtree):
    os.mkdir("folder")
    Path("notes.txt").write_text("not a checkpoint at all")
    Path("empty.npz").touch()
    ends = "Files that are read: "
    for command in (
        ["show", "{}"],
        ["stats", "{}"],
        ["diff", "{}", "{}"],
        ["plan", "{}", "{}"],
        ["convert", "{}", "o.npz"],
    ):
        for file, said in (
            ("gone.npz", "there is no file 'gone.npz' to load."),
            ("folder", "'folder' is a directory of no known format."),
            ("notes.txt", "'notes.txt' is a file of no known format. It begins with b'not a checkpoint'."),
            ("empty.npz", "'empty.npz' is not a whole .npz file: "),
        ):
            code, out, err = paramtree(*(word.format(file) for word in command))
            assert (code, out) == (2, "")
            assert err.startswith(f"paramtree: {said}")
            assert err.count("\n") == 1
            assert (ends in err) is (file in ("folder", "notes.txt"))


def test_an_error_of_the_system_is_one_line(paramtree, monkeypatch):
    def fail(options):
        raise PermissionError(13, "Permission denied", "a.npz")

    with_command(monkeypatch, fail)
    assert paramtree("diff", "a", "b") == (2, "", "paramtree: 'a.npz': Permission denied.\n")


def with_command(monkeypatch, run):
    monkeypatch.setitem(cli._COMMANDS, "diff", cli._COMMANDS["diff"]._replace(run=run))


def test_too_little_memory_is_one_line(paramtree, monkeypatch):
    def fail(options):
        raise MemoryError("Unable to allocate 7 TiB")

    with_command(monkeypatch, fail)
    assert paramtree("diff", "a", "b") == (
        2,
        "",
        "paramtree: there is not enough memory. Unable to allocate 7 TiB\n",
    )


def test_an_interrupt_is_130_and_quiet(paramtree, monkeypatch):
    def stop(options):
        raise KeyboardInterrupt

    with_command(monkeypatch, stop)
    assert paramtree("diff", "a", "b") == (130, "", "")


def test_reports_have_colours_too(tty):
    saved({"a": np.array([np.nan]), "b": np.ones(1), "c": pt.Alias("b")}, "a.npz")
    written = tty()
    assert cli.main(["show", "a.npz"]) == 0
    lines = written().splitlines()
    assert [line.startswith("\x1b[1m") for line in lines] == [True, True, False, False, False]
    assert lines[-1].startswith("\x1b[2mc ")
    assert cli.main(["stats", "a.npz"]) == 0
    lines = written().splitlines()
    assert lines[0] == "\x1b[1m2 parameters, 2 elements, 1 NaN\x1b[0m"
    assert lines[2].startswith("\x1b[31ma ")
    assert lines[3].startswith("b ")


def test_names_cannot_move_the_cursor(paramtree):
    file = saved({"\x1b[2J": np.ones(1), "a\nb": np.ones(2)}, "a.npz")
    other = saved({"c": np.ones(3)}, "b.npz")
    for arguments in (
        ["show", file],
        ["stats", file],
        ["diff", file, other],
        ["plan", file, other],
        ["diff", file, file, "nothing"],
    ):
        code, out, err = paramtree(*arguments)
        assert "\x1b" not in out + err
        assert "\\x1b[2J" in out + err
        assert code == (0 if len(arguments) == 2 else 2 if err else 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["dance"],
        ["diff", "a"],
        ["diff", "a", "b", "--rtol", "-1"],
        ["plan", "a", "b", "--js"],
        ["convert", "a"],
    ],
)
def test_bad_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: paramtree")


def test_a_misspelt_option_is_told_with_the_usage_of_its_command(capsys):
    for arguments, said in (
        (["show", "a", "--jsn"], "unrecognized arguments: --jsn. Did you mean --json?"),
        (
            ["diff", "a", "b", "--rtl=1", "x", "y"],
            "unrecognized arguments: --rtl=1 y. Did you mean --rtol or --atol?",
        ),
        (["plan", "a", "b", "c"], "unrecognized arguments: c."),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 2
        usage, error = capsys.readouterr().err.split("paramtree " + arguments[0] + ": error: ")
        assert usage.startswith(f"usage: paramtree {arguments[0]} [-h] ")
        assert error == f"{said}\n"


def test_a_select_may_stand_behind_options(paramtree):
    a, b = (
        saved({"x": np.ones(1), "y": np.ones(1)}, "a.npz"),
        saved({"x": np.ones(1), "y": np.zeros(1)}, "b.npz"),
    )
    assert paramtree("diff", a, b, "--json", "x")[0] == 0
    assert paramtree("diff", a, b, "--atol", "0.5", "y")[0] == 1
    assert paramtree("show", "--json", a, "--json", "y")[0] == 0


def test_a_bad_tolerance_is_told(capsys):
    for text in ("-1", "nan", "x"):
        with pytest.raises(SystemExit):
            cli.main(["diff", "a", "b", f"--atol={text}"])
        assert capsys.readouterr().err.endswith(
            f"paramtree diff: error: argument --atol: {text!r} is no number from 0 up\n"
        )


@pytest.mark.parametrize("command", [[], *([name] for name in cli._COMMANDS)])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: {' '.join(['paramtree', *command])} [-h]")
    assert (
        all(name in out for name in cli._COMMANDS)
        if not command
        else f"example: paramtree {command[0]}" in out
    )


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"paramtree {pt.__version__}\n"


# --- other processes: pipes, signals, terminals -------------------------------------------------------------


def started(arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *arguments], env=environment, **options)


def test_exit_codes_of_the_process():
    a, b = saved({"x": np.ones(1)}, "a.npz"), saved({"x": np.zeros(1)}, "b.npz")
    for arguments, code in (([a, a], 0), ([a, b], 1), ([a, "gone"], 2)):
        with started(
            [*COMMAND, "diff", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            _, err = process.communicate()
        assert process.returncode == code
        assert "Traceback" not in err


@pytest.mark.parametrize(("command", "code"), [(["show", "a.npz"], 0), (["diff", "a.npz", "b.npz"], 1)])
def test_a_closed_pipe_is_quiet_and_keeps_the_exit_code(command, code):
    saved({f"layer{number}": np.ones(1) for number in range(3000)}, "a.npz")  # more than a pipe holds
    saved({f"layer{number}": np.zeros(1) for number in range(3000)}, "b.npz")
    with started([*COMMAND, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == code


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_an_output_that_is_closed_is_told():
    saved({"x": np.ones(1)}, "a.npz")
    line = f"{shlex.join([sys.executable, *COMMAND, 'show', 'a.npz'])} >&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, shell=True, stderr=subprocess.PIPE, text=True, env=environment)
    assert (done.returncode, done.stderr) == (2, "paramtree: the standard output is closed.\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_an_output_that_cannot_be_written_is_told():
    file = saved({"x": np.ones(1)}, "a.npz")
    with (
        open("/dev/full", "w") as full,
        started([*COMMAND, "diff", file, file], stdout=full, stderr=subprocess.PIPE, text=True) as process,
    ):
        _, err = process.communicate()
    assert (process.returncode, err) == (
        2,
        "paramtree: the output cannot be written: No space left on device.\n",
    )


def opened_once_read(pipe, process):
    """Open a named pipe for writing, as soon as a process reads from it."""
    while process.poll() is None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            time.sleep(0.01)
    return pytest.fail(process.stderr.read())


@pytest.mark.skipif(sys.platform == "win32", reason="pipes with names are not on Windows")
def test_control_c_ends_a_process_with_130():
    os.mkfifo("waiting")
    code = (  # whatever the shell has set for the signal
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from paramtree.cli import main; raise SystemExit(main(['diff', 'waiting', 'waiting']))"
    )
    with started(["-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        pipe = opened_once_read("waiting", process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        os.close(pipe)
    assert (process.returncode, out, err) == (130, "", "")


def test_many_rows_are_all_there(paramtree):
    a = saved({f"layer{number}": np.ones(1) for number in range(1000)}, "a.npz")
    b = saved({f"layer{number}": np.zeros(1) for number in range(1000)}, "b.npz")
    lines = paramtree("diff", a, b)[1].splitlines()[4:]
    assert [line.split()[0] for line in lines] == [f"layer{number}" for number in range(1000)]
    assert len({line.index("values") for line in lines}) == 1


# --- terminals ----------------------------------------------------------------------------------------------


@pytest.fixture
def tty(monkeypatch):
    """Make the standard streams a terminal of some columns; give the function that tells what it got."""
    pty = pytest.importorskip("pty")
    opened = []

    def make(columns=80):
        ours, theirs = pty.openpty()
        resize(theirs, columns)
        stream = os.fdopen(theirs, "w")
        opened.append((ours, stream))
        for name in ("stdout", "__stdout__", "stderr"):
            monkeypatch.setattr(sys, name, stream)
        return lambda: read_all(ours, stream)

    yield make
    for ours, stream in opened:
        os.close(ours)
        stream.close()


def resize(terminal_file, columns):
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal_file, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))


def read_all(ours, stream):
    """Read what a terminal got, which keeps a few thousand bytes at most."""
    stream.flush()
    os.set_blocking(ours, False)
    found = b""
    try:
        while data := os.read(ours, 1 << 16):
            found += data
    except BlockingIOError:
        pass
    return found.decode().replace("\r\n", "\n")


def plain(text):
    return re.sub(r"\x1b\[\d*m", "", text)


def two_files():
    a = {"gone": np.ones(1), "weight_with_a_long_name_of_many_letters": np.ones(2), "moved": np.ones((3, 3))}
    b = {"new": np.ones(2), "weight_with_a_long_name_of_many_letters": np.zeros(2), "moved2": np.ones((3, 3))}
    return saved(a, "a.npz"), saved(b, "b.npz")


def test_colours_on_a_terminal(tty):
    written = tty(100)
    assert cli.main(["diff", *two_files()]) == 1
    assert written() == (
        "\x1b[31ma: a.npz\x1b[0m\n"
        "\x1b[32mb: b.npz\x1b[0m\n"
        "\x1b[1m4 of 4 parameters differ: only in a 1, only in b 1, renamed 1, values 1\x1b[0m\n"
        "\x1b[1mname                                     difference             changed  largest  relative"
        "\x1b[0m\n"
        "\x1b[31mgone                                     only in a: float64[1]\x1b[0m\n"
        "\x1b[36mmoved                                    renamed to moved2\x1b[0m\n"
        "\x1b[32mnew                                      only in b: float64[2]\x1b[0m\n"
        "\x1b[33mweight_with_a_long_name_of_many_letters  values                  2 of 2        1         1"
        "\x1b[0m\n"
    )


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colours_where_they_are_not_wanted(name, value, tty, monkeypatch):
    monkeypatch.setenv(name, value)
    written = tty()
    assert cli.main(["diff", *two_files()]) == 1
    assert "\x1b" not in written()


def test_an_empty_no_color_says_nothing(tty, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")
    written = tty()
    assert cli.main(["diff", *two_files()]) == 1
    assert "\x1b[1m" in written()


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_tables_are_as_wide_as_the_terminal(columns, tty):
    written = tty(columns)
    assert cli.main(["diff", *two_files()]) == 1
    lines = plain(written()).splitlines()[3:]
    assert max(map(len, lines)) <= columns
    assert ("    renamed to moved2" in lines) is (columns < 90)
    assert lines[-1].startswith("weight_with_a_")


def test_columns_says_how_wide_it_is(tty, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    written = tty(160)
    assert cli.main(["diff", *two_files()]) == 1
    assert max(map(len, plain(written()).splitlines()[3:])) <= 60


def test_a_pipe_gets_whole_names(paramtree):
    out = paramtree("diff", *two_files())[1]
    assert "weight_with_a_long_name_of_many_letters" in out
    assert "\x1b" not in out


def test_a_process_in_a_terminal():
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    resize(theirs, 60)
    with started([*COMMAND, "diff", *two_files()], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        found = b""
        try:
            while data := os.read(ours, 1 << 16):
                found += data
        except OSError:  # how Linux says that nobody writes any more
            pass
    os.close(ours)
    lines = plain(found.decode()).splitlines()
    assert process.returncode == 1
    assert b"\x1b[1m" in found
    assert max(map(len, lines[3:])) <= 60


def test_a_bar_on_long_work(tty, monkeypatch):
    monkeypatch.setattr(terminal, "_PATIENCE", 0.0)
    written = tty(70)
    with terminal.progress("reading", 4_000_000) as bar:
        bar.add(1_000_000)
        shown = ""
        while " 25% of 3.81 MiB" not in shown:
            shown += written()
        bar.add(3_000_000)
    shown += written()
    assert re.search(r"\rreading \[#+\.+\]  25% of 3.81 MiB, \d+:\d\d left\x1b\[K", shown)
    assert re.search(
        r"\rreading \[#+\] 100% of 3.81 MiB, 0:00 left\x1b\[K\r\x1b\[K$", shown
    )  # and is removed
    assert max(map(len, re.split(r"\r|\x1b\[K", shown))) < 70


def test_a_bar_without_an_end_shows_the_time(tty, monkeypatch):
    monkeypatch.setattr(terminal, "_PATIENCE", 0.0)
    written = tty(20)
    shown = ""
    with terminal.progress("comparing"):
        while "comparing" not in shown:
            shown += written()
    assert re.fullmatch(r"(\rcomparing 0:0\d\x1b\[K)+\r\x1b\[K", shown + written())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["diff", "a.npz", "b.npz"], r"comparing 0:\d\d"),
        (["convert", "a.npz", "c.npz"], r"converting \[#+\] 100% of 96 B, 0:00 left"),
        (["stats", "a.npz"], r"reading \[#+\] 100% of 96 B, 0:00 left"),
    ],
)
def test_commands_show_a_bar(command, said, tty, monkeypatch):
    monkeypatch.setattr(terminal, "_PATIENCE", 0.0)
    shown = []

    def draw(bar, done, out):
        shown.append(bar)
        done.wait()

    monkeypatch.setattr(terminal.Bar, "draw_until", draw)
    two_files()
    tty()
    cli.main(command)
    (bar,) = shown
    assert re.fullmatch(said, bar.text(60))


def test_no_bar_on_short_work_or_without_a_terminal(tty, capsys, monkeypatch):
    written = tty()
    with terminal.progress("reading", 10) as bar:
        bar.add(10)
    assert written() == ""
    monkeypatch.undo()
    monkeypatch.setattr(terminal, "_PATIENCE", 0.0)
    with terminal.progress("reading", 10) as bar:
        bar.add(10)
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("columns", "done", "text"),
    [
        (80, 5, "reading [####################....................]  50% of 10 B, 0:01 left"),
        (50, 5, "reading [########........]  50% of 10 B, 0:01 left"),
        (34, 5, "reading  50% of 10 B, 0:01 left"),
        (10, 5, "reading  5"),
        (80, 0, "reading [........................................]   0% of 10 B"),
        (80, 99, "reading [########################################] 100% of 10 B, 0:00 left"),
    ],
)
def test_a_bar_fits_its_line(columns, done, text, monkeypatch):
    times = iter([0.0, 1.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(times))
    bar = terminal.Bar("reading", 10)
    bar.add(done)
    assert bar.text(columns) == text


def test_an_empty_path_is_told(capsys):
    assert cli.main(["show", ""]) == 2
    assert "the path of the file is empty" in capsys.readouterr().err


def test_convert_tells_programs_what_it_wrote(paramtree):
    np.savez("a.npz", w=np.ones((2, 3), np.float32), b=np.ones(2, np.float32))
    code, out, err = paramtree("convert", "a.npz", "b.safetensors", "--json")
    done = {"in": "a.npz", "out": "b.safetensors", "parameters": 2, "bytes": 32}
    assert (code, json.loads(out), err) == (0, done, "")
    assert pt.load("b.safetensors")["w"].shape == (2, 3)
