"""Stacking numbered blocks, and taking stacks apart."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from sameness import same_tree

import paramtree as pt
from paramtree import nn
from paramtree.nodes import Node

KEY = jax.random.key(0)
ONE = np.arange(6, dtype=np.float32).reshape(2, 3)


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


@partial(jax.tree_util.register_dataclass, data_fields=("left", "right"), meta_fields=())
@dataclass(frozen=True)
class LowRank(Node):
    left: object
    right: object

    def resolve(self, lookup):
        return self.left @ self.right


def blocks(count, make, stem="block", **rest):
    return {**{f"{stem}{number}": make(number) for number in range(count)}, **rest}


TREES = {
    "jax": blocks(3, lambda i: {"weight": jnp.full((2, 2), i), "deep": {"bias": jnp.zeros(2) + i}}),
    "numpy": blocks(2, lambda i: {"w": np.full(3, i, "int64"), "v": np.full((2, 1), i, "float64")}),
    "scalars": blocks(2, lambda i: {"w": np.asarray(i, "float64"), "v": jnp.asarray(i)}),
    "bfloat16": blocks(
        2, lambda i: {"w": jnp.full(3, i, "bfloat16"), "v": np.full(3, i).astype(jnp.bfloat16)}
    ),
    "more than ten": blocks(12, lambda i: {"w": np.full(2, i)}),
    "one": blocks(1, lambda i: {"w": ONE}),
    "fixed": blocks(2, lambda i: {"w": pt.Fixed(ONE + i), "v": ONE}),
    "ties within": blocks(2, lambda i: {
        "w": ONE + i, "v": pt.Alias(f"block{i}/w", transpose=True),
        "deep": {"in": pt.Alias(f"block{i}/deep2")},
        "deep2": {"u": ONE},
    }),
    "ties to outside": blocks(
        2, lambda i: {"w": ONE, "v": pt.Alias("outside/v"), "u": pt.Alias("outside/v", True)},
        outside={"v": ONE},
    ),
    "ties from outside to what is around": {
        "net": blocks(2, lambda i: {"w": ONE + i}, "block"), "again": pt.Alias("net")
    },
    "nodes": blocks(2, lambda i: {"w": LowRank(ONE + i, pt.Fixed(ONE.T))}),
    "abstract": blocks(2, lambda i: {"w": jax.ShapeDtypeStruct((2,), "bfloat16")}),
    "empty inside": blocks(2, lambda i: {"w": ONE, "nothing": {}, "none": None}),
    "lists": blocks(2, lambda i: {"w": [ONE + i, (ONE, {"a": ONE})]}),
    "digits before": blocks(2, lambda i: {"w": ONE + i}, "conv2_"),
    "beside others": blocks(2, lambda i: {"w": ONE}, blocks={"w": ONE}, block_0={"w": ONE}),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_unstack_undoes_stack(name):
    tree = TREES[name]
    stem = "conv2_" if name == "digits before" else "net/block" if "net" in tree else "block"
    stacked = pt.stack(tree, stem + r"\d+")
    assert same_tree(pt.unstack(stacked, stem), tree)
    assert str(pt.unstack(stacked, stem)) == str(tree)  # the order of the keys too
    assert same_tree(pt.stack(pt.unstack(stacked, stem), stem + r"\d+"), stacked)


def test_what_a_stack_holds():
    stacked = pt.stack({"z": 1, **TREES["more than ten"], "a": 2}, r"block\d+")
    assert list(stacked) == ["z", "block", "a"]
    np.testing.assert_array_equal(stacked["block"]["w"][:, 0], np.arange(12))
    found = pt.stack(TREES["numpy"], r"block\d+")["block"]
    assert {name: (type(leaf), leaf.dtype) for name, leaf in found.items()} == {
        "w": (np.ndarray, np.int64), "v": (np.ndarray, np.float64)
    }  # fmt: skip
    mixed = {"block0": {"w": ONE}, "block1": {"w": jnp.asarray(ONE)}}
    assert isinstance(pt.stack(mixed, r"block\d")["block"]["w"], jax.Array)
    assert pt.stack(TREES["ties within"], r"block\d+")["block"]["v"] == pt.Alias("block/w", transpose=True)
    abstract = pt.stack(TREES["abstract"], r"block\d+")["block"]["w"]
    assert (abstract.shape, abstract.dtype) == ((2, 2), jnp.bfloat16)


def test_random_keys_are_stacked():
    tree = blocks(2, lambda i: {"key": jax.random.fold_in(KEY, i)})
    again = pt.unstack(pt.stack(tree, r"block\d"), "block")
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert all(map(jnp.array_equal, jax.tree.leaves(again), jax.tree.leaves(tree)))


def test_the_callers_trees_stay_as_they_are():
    before = {"block": {"w": ONE, "deep": {"v": ONE}}}
    pt.unstack(before, "block")
    assert list(before) == ["block"]
    assert list(before["block"]) == ["w", "deep"]
    tree = {"block0": {"w": ONE}, "block1": {"w": ONE}}
    pt.stack(tree, r"block\d")
    assert list(tree) == ["block0", "block1"]


def test_several_groups_at_once_and_stacks_in_stacks():
    tree = {
        "net": blocks(
            2, lambda i: blocks(3, lambda j: {"w": ONE + 10 * i + j}, "layer", head={"w": ONE}), "block"
        ),
        "other": blocks(2, lambda i: {"w": ONE}, "block"),
    }
    inner = pt.stack(tree, r"net/block\d/layer\d")
    assert inner["net"]["block1"]["layer"]["w"].shape == (3, 2, 3)
    both = pt.stack(inner, [r"net/block\d", r"other/block\d"])
    assert both["net"]["block"]["layer"]["w"].shape == (2, 3, 2, 3)
    assert both["net"]["block"]["layer"]["w"][1, 2, 0, 0] == 12
    again = pt.unstack(both, ".*/block")
    assert same_tree(again, inner)
    assert same_tree(pt.unstack(again, r"net/block\d/layer"), tree)


@pytest.mark.parametrize("select", [r"block\d", ["block0", "block1"], lambda name, block: "w" in block])
def test_every_kind_of_select(select):
    tree = blocks(2, lambda i: {"w": ONE}, head={"v": ONE})
    assert list(pt.stack(tree, select)) == ["block", "head"]


def test_under_jit_grad_and_eval_shape():
    tree = TREES["jax"]
    there = lambda p: pt.stack(p, r"block\d+")
    back = lambda p: pt.unstack(p, "block")
    assert same_tree(jax.jit(there)(tree), there(tree))
    assert same_tree(jax.jit(lambda p: back(there(p)))(tree), tree)
    abstract = jax.eval_shape(there, tree)
    assert same_tree(back(abstract), jax.eval_shape(lambda: tree))
    floats = blocks(2, lambda i: {"w": jnp.asarray(ONE)})
    grads = jax.grad(lambda p: (there(p)["block"]["w"][1] ** 2).sum())(floats)
    np.testing.assert_array_equal(grads["block1"]["w"], 2 * ONE)
    assert not grads["block0"]["w"].any()


def test_specs_are_unstacked():
    block = lambda **kw: nn.Sequential(nn.Repeat(nn.Dense(4), 2), nn.Dense(4), **kw)
    specs = nn.Sequential(nn.Repeat(block(name="block"), 3, name="net")).specs("batch, 4")
    one = pt.unstack(specs, "net/block")
    assert one["net"]["block2"]["repeat0"]["dense"]["weight"] == pt.ParamSpec(
        (2, 4, 4), jnp.dtype("float32"), repeats=(("net/block2/repeat0/dense", 2),)
    )
    separate = nn.Sequential(*[block(name=f"block{number}") for number in range(3)], name="net")
    assert same_tree_of_specs(one, nn.Sequential(separate).specs("batch, 4"))
    plain = {"block": {"w": pt.ParamSpec((2, 3), jnp.dtype("float32"))}}
    assert pt.unstack(plain, "block")["block1"]["w"].shape == (3,)


def same_tree_of_specs(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.leaves(a) == jax.tree.leaves(b)


FITS_NOT = "these blocks do not hold the same arrays:"
SIZES = "unstack: 'block' needs one leading size for all that it holds:"
TIES = "these ties would lead nowhere; pt.untie them first:"


@pytest.mark.parametrize(
    ("kind", "text", "tree", "select"),
    [
        (pt.NoMatchError, "'blok0' hits no block; it must match its whole name. Did you mean block0?",
         {"block0": {"w": ONE}}, "blok0"),
        (pt.NoMatchError, "'x' hits no block; it must match its whole name. The blocks are net, net/block0.",
         {"net": {"block0": {"w": ONE}}}, "x"),
        (pt.NoMatchError, r"'block\\d' hits no block; it must match its whole name. There are no blocks.",
         {"block0": ONE}, r"block\d"),
        (pt.NoMatchError, r"'block\\d' hits no block; it must match its whole name. There are no blocks.",
         {"block0/w": ONE}, r"block\d"),
        (pt.BadNameError, "'block' does not end in a number. Select blocks such as 'block0'.",
         {"block": {"w": ONE}}, "block"),
        (pt.BadNameError, "'net/0' has no name before its number. pt.rename it to 'block0'.",
         {"net": {"0": {"w": ONE}}}, r"net/\d"),
        (pt.BadNameError, "'0' has no name before its number. pt.rename it to 'block0'.",
         {"0": {"w": ONE}}, r"\d"),
        (pt.BadNameError, "b0, b1, b3 are not numbered from 0 on; b2 is missing.",
         blocks(2, lambda i: {"w": ONE}, "b", b3={"w": ONE}), r"b\d"),
        (pt.BadNameError, "b00 are not numbered from 0 on; b0 is missing.", {"b00": {"w": ONE}}, r"b\d+"),
        (pt.BadNameError, "b is there already, and b0 would become it too.",
         {"b": {"w": ONE}, "b0": {"w": ONE}}, "b0"),
        (pt.BadNameError, "'b0/b0' lies in 'b0'; stack one of them after the other.",
         {"b0": {"w": ONE, "b0": {"w": ONE}}}, ".*b0"),
        (pt.MismatchError, f"{FITS_NOT}\n"
         "  b0/w has shape=(2, 3), dtype=float32, and b1/w shape=(3,), dtype=float32\n"
         "  b0/w has shape=(2, 3), dtype=float32, and b2/w shape=(2, 3), dtype=float64\n"
         "  b0/x has no b1/x\n  b1/y has no b0/y",
         {"b0": {"w": ONE, "x": ONE}, "b1": {"w": ONE[0], "y": ONE},
          "b2": {"w": ONE.astype("float64"), "x": ONE}}, r"b\d"),
        (pt.MismatchError, f"{FITS_NOT}\n  b0 and b1 are tied or fixed in different ways",
         {"b0": {"w": pt.Fixed(ONE)}, "b1": {"w": ONE}}, r"b\d"),
        (pt.MismatchError, f"{FITS_NOT}\n  b0 and b1 are tied or fixed in different ways",
         {"b0": {"w": ONE, "x": pt.Alias("c")}, "b1": {"w": ONE, "x": pt.Alias("d")}, "c": ONE, "d": ONE},
         r"b\d"),
        (pt.MismatchError, f"{FITS_NOT}\n  b0/w is 'decay', not an array\n  b1/w is 'decay', not an array",
         blocks(2, lambda i: {"w": "decay"}, "b"), r"b\d"),
        (pt.MismatchError, f"{FITS_NOT}\n  b0/w is ParamSpec((3,), float32), not an array",
         {"b0": {"w": pt.ParamSpec((3,), jnp.dtype("float32"))}}, r"b\d"),
        (pt.TieError, f"{TIES}\n  b1 is tied to b0", {"b0": {"w": ONE}, "b1": pt.Alias("b0")}, r"b\d"),
        (pt.TieError, f"{TIES}\n  b1/x is tied to b0/w, transposed",
         {"b0": {"w": ONE}, "b1": {"w": ONE, "x": pt.Alias("b0/w", True)}}, r"b\d"),
        (pt.TieError, f"{TIES}\n  c is tied to n/b0/w",
         {"m": {"b0": {"w": ONE}}, "n": pt.Alias("m"), "c": pt.Alias("n/b0/w")}, r"m/b\d"),
    ],
)  # fmt: skip
def test_what_cannot_be_stacked(kind, text, tree, select):
    assert message(kind, lambda: pt.stack(tree, select)).removeprefix("stack: ") == text


@pytest.mark.parametrize(
    ("kind", "text", "tree", "select"),
    [
        (pt.NoMatchError, "unstack: 'blok' hits no block; it must match its whole name. Did you mean block?",
         {"block": {"w": ONE}}, "blok"),
        (pt.BadNameError, "unstack: a number behind 'conv2' would not be told from it; pt.rename it.",
         {"conv2": {"w": ONE}}, "conv2"),
        (pt.BadNameError, "block1 is there already, and block would become it too.",
         {"block": {"w": ONE}, "block1": ONE}, "block"),
        (pt.BadNameError, "unstack: 'block/in' lies in 'block'; unstack one of them after the other.",
         {"block": {"w": ONE, "in": {"w": ONE}}}, ".*"),
        (pt.MismatchError, f"{SIZES}\n  block/v has shape=(3, 2), dtype=float32\n"
         "  block/w has shape=(2, 3), dtype=float32", {"block": {"w": ONE, "v": ONE.T}}, "block"),
        (pt.MismatchError, f"{SIZES}\n  block/v has shape=(), dtype=float32\n"
         "  block/w has shape=(2, 3), dtype=float32", {"block": {"w": ONE, "v": np.float32(1)}}, "block"),
        (pt.MismatchError, f"{SIZES}\n  block/w has shape=(0, 3), dtype=float32",
         {"block": {"w": ONE[:0]}}, "block"),
        (pt.MismatchError, f"{SIZES}\n  block/w has True", {"block": {"w": True}}, "block"),
        (pt.MismatchError, f"{SIZES}\n  block/w has shape=(n, 3), dtype=float32",
         {"block": {"w": jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), 3), "float32")}}, "block"),
        (pt.MismatchError, f"{SIZES}\n  it holds no arrays",
         {"block": {"w": pt.Alias("a")}, "a": ONE}, "block"),
        (pt.TieError, f"unstack: {TIES}\n  a is tied to block/w\n  b/c is tied to block",
         {"block": {"w": ONE}, "a": pt.Alias("block/w"), "b": {"c": pt.Alias("block")}}, "block"),
        (pt.TieError, f"unstack: {TIES}\n  c is tied to n/block/w",
         {"m": {"block": {"w": ONE}}, "n": pt.Alias("m"), "c": pt.Alias("n/block/w")}, "m/block"),
        (pt.TieError, f"unstack: {TIES}\n  c is tied to block/v",
         {"block": {"w": ONE, "v": pt.Alias("d")}, "c": pt.Alias("block/v"), "d": ONE}, "block"),
        (pt.TieError, "'block/v' is tied to 'd', which is not in this tree. Aliases are "
         "named from the root: pass the whole tree, or pt.untie it before taking a part.",
         {"block": {"w": ONE, "v": pt.Alias("d")}}, "block"),
    ],
)  # fmt: skip
def test_what_cannot_be_unstacked(kind, text, tree, select):
    assert message(kind, lambda: pt.unstack(tree, select)) == text


def test_what_is_no_nested_dict():
    for verb in (pt.stack, pt.unstack):
        assert message(pt.NoMatchError, lambda verb=verb: verb([{"w": ONE}], "0")).endswith(
            "There are no blocks."
        )
        assert message(pt.BadNameError, lambda verb=verb: verb(None, "0")) == (
            "NoneType is not a tree of parameters. Pass the nested dict that init returned."
        )
        assert message(pt.SelectError, lambda verb=verb: verb({"b0": {"w": ONE}}, 3))
