"""Nodes: what they resolve to, where they lead nowhere, and a user's own kinds."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paramtree.errors import TieError
from paramtree.names import structure_of
from paramtree.nodes import (
    Alias,
    Fixed,
    Node,
    gather_aliases,
    has_nodes,
    is_node,
    is_transparent,
    resolve,
    spread_aliases,
    tied_names,
    whole_ties,
)
from paramtree.ties import freeze, tie, trainable, unfreeze
from paramtree.tree import collect_params, get, names, partition, rename


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank(Node):
    left: object
    right: object

    def resolve(self, lookup):
        return self.left @ self.right


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exp(Node):
    """One leaf, under the key's own name; positive whatever the leaf is."""

    transparent = True
    log: object

    def resolve(self, lookup):
        return jnp.exp(self.log)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Half(Node):
    """Looks another name up."""

    unused: object

    def resolve(self, lookup):
        return lookup("w") / 2


def low_rank():
    return {"a": {"w": LowRank(jnp.ones((2, 1)), jnp.ones((1, 3)))}, "b": Alias("a"), "c": Alias("a/w/left")}


def message(call, *args):
    with pytest.raises(TieError) as caught:
        call(*args)
    return str(caught.value)


def test_a_tree_without_nodes_is_returned_as_it_is():
    params = {"a": {"w": 1.0}}
    assert resolve(params) is params
    assert resolve({}) == {}


def test_aliases_of_parameters_blocks_and_aliases():
    params = {
        "a": {"w": 1.0, "b": {"c": 2.0}},
        "leaf": Alias("a/w"),
        "block": Alias("a"),
        "again": Alias("block"),
        "through": Alias("again/b/c"),
    }
    inner = {"w": 1.0, "b": {"c": 2.0}}
    assert resolve(params) == {"a": inner, "leaf": 1.0, "block": inner, "again": inner, "through": 2.0}
    assert tied_names(structure_of(params)) == {
        "leaf": "a/w",
        "block/w": "a/w",
        "block/b/c": "a/b/c",
        "again/w": "a/w",
        "again/b/c": "a/b/c",
        "through": "a/b/c",
    }


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_a_transposed_alias_keeps_the_kind_of_array(make):
    matrix = make(np.arange(6, dtype=np.float32).reshape(2, 3))
    params = {"a": matrix, "b": Alias("a", transpose=True), "c": Alias("b", transpose=True)}
    plain = resolve(params)
    assert isinstance(plain["b"], np.ndarray) == isinstance(matrix, np.ndarray)
    np.testing.assert_array_equal(plain["b"], np.asarray(matrix).T)
    np.testing.assert_array_equal(plain["c"], matrix)


def test_a_transposed_alias_of_a_stand_in():
    leaf = jax.ShapeDtypeStruct((4, 2, 3), jnp.bfloat16)
    found = resolve({"a": leaf, "b": Alias("a", transpose=True)})["b"]
    assert (found.shape, found.dtype) == ((4, 3, 2), jnp.bfloat16)


def test_labels_and_masks_resolve_too():
    assert resolve({"a": True, "b": Alias("a", transpose=True)}) == {"a": True, "b": True}
    assert resolve({"a": "decay", "b": Alias("a", transpose=True)}) == {"a": "decay", "b": "decay"}


@pytest.mark.parametrize("value", [jnp.ones(3), {"w": jnp.ones((2, 2))}, 1.0])
def test_only_a_matrix_is_transposed(value):
    text = "'a' is tied transposed, but is not a matrix. Tie it without transpose=True."
    assert message(resolve, {"a": value, "b": Alias("a", transpose=True)}) == text


def test_aliases_work_in_trees_of_other_containers():
    params = {"layers": [{"w": 1.0}, Alias("layers/0")], "pair": (2.0, Alias("pair/0"))}
    assert resolve(params) == {"layers": [{"w": 1.0}, {"w": 1.0}], "pair": (2.0, 2.0)}
    assert tied_names(structure_of(params)) == {"layers/1/w": "layers/0/w", "pair/1": "pair/0"}
    assert resolve({10: 1.0, 11: Alias("10")}) == {10: 1.0, 11: 1.0}


@pytest.mark.parametrize("find", [resolve, lambda params: tied_names(structure_of(params))])
def test_ties_that_lead_nowhere(find):
    tail = "Aliases are named from the root: pass the whole tree, or pt.untie it before taking a part."
    dangling = {"a": {"w": 1.0}, "b": {"c": Alias("a/x")}}
    assert (
        message(find, dangling)
        == f"'b/c' is tied to 'a/x', which is not in this tree. Did you mean a/w? {tail}"
    )
    assert (
        message(find, {"h": Alias("embed/w")})
        == f"'h' is tied to 'embed/w', which is not in this tree. {tail}"
    )
    assert (
        message(find, {"a": 1.0, "b": Alias("")}) == f"'b' is tied to '', which is not in this tree. {tail}"
    )
    below = {"a": 1.0, "b": Alias("a/w")}
    assert message(find, below).startswith("'b' is tied to 'a/w', which is not in this tree.")
    end = "Let one of these be an array."
    assert message(find, {"a": Alias("a")}) == f"the tie of 'a' is a circle: a -> a. {end}"
    circle = {"a": Alias("b"), "b": Alias("c"), "c": Alias("a")}
    assert message(find, circle) == f"the tie of 'a' is a circle: a -> b -> c -> a. {end}"
    blocks = {"a": {"x": Alias("b")}, "b": {"y": Alias("a")}}
    assert message(find, blocks) == f"the tie of 'a/x' is a circle: a/x -> b/y -> a/x. {end}"
    inside = {"a": {"w": 1.0, "c": {"d": Alias("a")}}}
    assert message(find, inside) == (
        "'a/c/d' is tied to 'a', which contains it. Tie it to a parameter or block beside it."
    )


def test_broken_ties_do_not_hide_another_error():
    structure = structure_of({"h": Alias("e"), "w": 1.0})
    assert whole_ties(structure) == {}
    assert whole_ties(structure_of({"a": 1.0, "b": Alias("a")})) == {"b": "a"}


def test_fixed_has_no_gradient_and_says_what_it_holds():
    def loss(params):
        plain = resolve(params)
        return (plain["a"] * plain["b"]).sum()

    params = {"a": jnp.ones(2), "b": Fixed(3 * jnp.ones(2))}
    grads = jax.grad(loss)(params)
    np.testing.assert_array_equal(grads["a"], [3.0, 3.0])
    np.testing.assert_array_equal(grads["b"].value, [0.0, 0.0])
    assert (params["b"].shape, params["b"].dtype, params["b"].ndim, params["b"].size) == (
        (2,),
        jnp.float32,
        1,
        2,
    )
    assert not hasattr(Fixed(1.0), "shape")


def test_fixed_blocks_and_holes():
    block = {"a": Fixed({"x": jnp.ones(2), "y": 2.0}), "b": 1.0}
    assert names(block) == ["a/x", "a/y", "b"]
    assert collect_params(block).fixed == {"a/x", "a/y"}
    assert resolve({**block, "c": Alias("a/y")})["c"] == 2.0
    assert tied_names(structure_of({**block, "c": Alias("a/y")})) == {"c": "a/y"}
    assert list(collect_params(block, trainable)) == ["b"]
    stopped = {"a": Fixed({"x": jnp.ones(2)}), "b": 1.0}
    grads = jax.grad(lambda params: resolve(params)["a"]["x"].sum() * params["b"])(stopped)
    assert not grads["a"].value["x"].any()
    assert grads["b"] == 2.0
    # a mask leaves holes in nodes, which must not shift the leaves after them
    holes = {"a": Fixed(None), "b": 1.0, "c": Fixed(2.0)}
    assert list(collect_params(holes, lambda name, leaf: leaf == 1.0)) == ["b"]
    assert unfreeze(holes, "c")["c"] == 2.0
    assert freeze(holes, "b")["b"].value == 1.0


def test_nodes_of_a_user():
    params = low_rank()
    assert names(params) == ["a/w/left", "a/w/right"]
    assert jax.tree.map(jnp.shape, resolve(params)) == {"a": {"w": (2, 3)}, "b": {"w": (2, 3)}, "c": (2, 1)}
    assert tied_names(structure_of(params)) == {
        "b/w/left": "a/w/left",
        "b/w/right": "a/w/right",
        "c": "a/w/left",
    }
    assert get(params, "b/w/left").shape == (2, 1)
    moved = rename(params, {"a/(.*)": r"z/\1"})
    assert moved["b"] == Alias("z")
    assert moved["c"] == Alias("z/w/left")
    assert jax.tree.map(jnp.shape, resolve(moved))["c"] == (2, 1)
    selected, rest = partition(params, "a/.*")
    assert names(selected) == ["a/w/left", "a/w/right"]
    assert rest == {}


def test_nodes_in_nodes():
    params = freeze(low_rank(), "a/w/left")
    assert isinstance(params["a"]["w"].left, Fixed)
    assert resolve(params)["a"]["w"].shape == (2, 3)
    grads = jax.grad(lambda p: resolve(p)["a"]["w"].sum())(params)["a"]["w"]
    assert not grads.left.value.any()
    assert grads.right.all()
    inner = {"x": jnp.ones((1, 3)), "w": LowRank(jnp.ones((2, 1)), Alias("x"))}
    assert names(inner) == ["w/left", "x"]
    assert tied_names(structure_of(inner)) == {"w/right": "x"}
    assert resolve(rename(inner, {"x": "y"}))["w"].shape == (2, 3)
    assert "circle" in message(resolve, {"a": Fixed(Alias("a"))})
    stopped = {"a": jnp.ones(2), "b": Fixed(Alias("a"))}
    assert jax.grad(lambda p: (resolve(p)["a"] * resolve(p)["b"]).sum())(stopped)["a"].tolist() == [1.0, 1.0]


def test_transparent_nodes_of_a_user():
    params = {"a": Exp(jnp.zeros(2)), "b": Alias("a")}
    assert names(params) == ["a"]
    assert resolve(params)["b"].tolist() == [1.0, 1.0]
    assert resolve(freeze(params, "a"))["a"].tolist() == [1.0, 1.0]
    assert is_transparent(params["a"])
    assert not is_transparent(params["b"])


def test_nodes_that_look_other_names_up():
    params = {"w": jnp.ones(2), "h": Half(0.0)}
    assert resolve(params)["h"].tolist() == [0.5, 0.5]
    assert "circle: w -> h -> w" in message(resolve, {"w": Alias("h"), "h": Half(0.0)})


def test_a_node_without_resolve():
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class Bare(Node):
        x: object

    with pytest.raises(NotImplementedError) as caught:
        resolve({"a": Bare(1.0)})
    assert str(caught.value) == "Bare has no method resolve(lookup)"


def test_what_is_a_node():
    assert is_node(Alias("a"))
    assert is_node(Fixed(1))
    assert not is_node({})
    assert not is_node(1.0)
    assert has_nodes(structure_of({"a": [Fixed(1)]}))
    assert not has_nodes(structure_of({"a": [1]}))


def test_an_alias_is_a_value():
    assert Alias("a") == Alias("a") != Alias("a", transpose=True)
    assert len({Alias("a"), Alias("a"), Alias("b")}) == 2
    assert str(Alias("a")) == "a"
    assert str(Alias("a", transpose=True)) == "a, transposed"
    assert jax.tree.leaves(Alias("a")) == []


def test_spread_aliases_keeps_transposes_and_what_lies_in_nodes():
    flat = {"a/w": 1, "b": Alias("a"), "c": Alias("b/w", transpose=True), "d": Alias("a/w/left")}
    assert spread_aliases(flat) == {
        "a/w": 1,
        "b/w": Alias("a/w"),
        "c": Alias("b/w", transpose=True),
        "d": Alias("a/w/left"),
    }
    assert spread_aliases({"0": Alias("a"), "a/b": Alias("s"), "s/w": 1}) == {
        "s/w": 1,
        "a/b/w": Alias("s/w"),
        "0/b/w": Alias("a/b/w"),
    }


def test_gather_aliases():
    whole = {"a": {"b": {"w": 1}}, "c": {"b": {"w": Alias("a/b/w")}}}
    assert gather_aliases(whole, {"c/b/w"}) == {"a": {"b": {"w": 1}}, "c": Alias("a")}
    assert gather_aliases(whole, {"c/b/w"}, {"c/b"}) == {"a": {"b": {"w": 1}}, "c": {"b": Alias("a/b")}}
    for kept in (
        {"a": {"w": 1, "x": 2}, "c": {"w": Alias("a/w")}},
        {"a": {"w": 1}, "c": {"w": Alias("a/w", transpose=True)}},
        {"a": {"w": 1}, "c": {"v": Alias("a/w")}},
        {"a": {"w": 1}, "b": {"x": 1}, "c": {"w": Alias("a/w"), "x": Alias("b/x")}},
    ):
        assert gather_aliases(kept, {"c/w", "c/v", "c/x"}) == kept
    assert gather_aliases({"a": {"w": 1}, "c": {"w": Alias("a/w")}}, set())["c"] == {"w": Alias("a/w")}


def test_a_tie_beside_a_tied_block():
    params = tie(
        {"a": {"w": 1.0, "b": 2.0}, "c": Alias("a"), "d": {"w": 1.0}, "e": Alias("a")}, {"c/w": "d/w"}
    )
    assert params["c"] == {"w": Alias("d/w"), "b": Alias("a/b")}
    assert params["e"] == Alias("a")
