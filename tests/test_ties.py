"""Tie, untie, find_tied, freeze, unfreeze: what they give, and the full text of what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paramtree.errors import NoMatchError, TieError
from paramtree.nodes import Alias, Fixed, resolve
from paramtree.ties import find_tied, freeze, is_concrete, is_proposed, tie, trainable, unfreeze, untie
from paramtree.tree import collect_params, names


def net():
    return {
        "a": {"weight": jnp.ones((3, 3)), "bias": jnp.ones(3)},
        "b": {"weight": jnp.zeros((3, 3)), "bias": jnp.zeros(3)},
        "c": {"weight": jnp.ones((4, 3)), "bias": jnp.ones(4, jnp.bfloat16)},
    }


def message(kind, call, *args, **kwargs):
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is kind
    return str(caught.value)


def faults(ties, params=None):
    text = message(TieError, tie, params or net(), ties)
    head, _, rest = text.partition("\n")
    assert head == "tie: these cannot be tied:"
    return [line.removeprefix("  ") for line in rest.split("\n")]


def test_tie():
    params = net()
    assert tie(params, {"b/weight": "a/weight"})["b"]["weight"] == Alias("a/weight")
    assert tie(params, {"b": "a"})["b"] == Alias("a")
    assert tie(params, {"b": Alias("a")})["b"] == Alias("a")
    assert names(tie(params, {"b": "a"})) == ["a/weight", "a/bias", "c/weight", "c/bias"]
    assert params["b"]["bias"].tolist() == [0.0] * 3
    assert set(tie(params, {})) == set(params)
    turned = {"embed": jnp.ones((5, 3)), "head": jnp.zeros((3, 5))}
    assert tie(turned, {"head": Alias("embed", transpose=True)})["head"] == Alias("embed", transpose=True)


def test_tie_on_stand_ins():
    params = jax.eval_shape(net)
    assert tie(params, {"b": "a"})["b"] == Alias("a")
    turned = tie(
        jax.eval_shape(lambda: {"e": jnp.ones((5, 3)), "h": jnp.ones((3, 5))}), {"h": Alias("e", True)}
    )
    assert resolve(turned)["h"].shape == (3, 5)


def test_ties_of_ties():
    params = {**net(), "d": Alias("a"), "e": Alias("a")}
    chained = tie(params, {"a": "b"})
    assert (chained["a"], chained["d"]) == (Alias("b"), Alias("a"))
    assert resolve(chained)["d"]["bias"].tolist() == [0.0] * 3
    assert tie(params, {"d": "b"})["d"] == Alias("b")
    part = tie(params, {"d/weight": "b/weight"})
    assert part["d"] == {"weight": Alias("b/weight"), "bias": Alias("a/bias")}
    assert part["e"] == Alias("a")


def test_tie_refuses_what_makes_no_sense():
    assert faults({"out": "a", "a/weight": "nope/weight"}) == [
        "'out' is not in the tree. The names are a/weight, a/bias, b/weight, b/bias, c/weight, c/bias.",
        "'nope/weight' is not in the tree. Did you mean c/weight or b/weight or a/weight?",
    ]
    beside = "tie it to a parameter or block beside it"
    assert faults({"a": "a"}) == [f"'a' would be tied to itself; {beside}"]
    assert faults({"a/weight": "a"}) == [f"'a/weight' would be tied to what contains it; {beside}"]
    assert faults({"a": "a/weight"}) == [f"'a' would be tied to a part of itself; {beside}"]
    assert faults({"b": "a", "b/weight": "a/weight"}) == [
        "'b/weight' lies in 'b', which is to be tied as a whole; name only one of them"
    ]
    assert faults({"b": 3, "c": None}) == [
        "'b' to 3 of type int; give the name where it lives, or an Alias",
        "'c' to None of type NoneType; give the name where it lives, or an Alias",
    ]


def test_tie_refuses_other_shapes_and_dtypes():
    assert faults({"c/weight": "a/weight"}) == [
        "'c/weight' ((4, 3) float32) and 'a/weight' ((3, 3) float32) differ"
    ]
    assert faults({"c": "a"}) == [
        "'c/bias' ((4,) bfloat16) and 'a/bias' ((3,) float32) differ",
        "'c/weight' ((4, 3) float32) and 'a/weight' ((3, 3) float32) differ",
    ]
    assert faults({"a": "c/weight"}) == [
        "'a' (missing) and 'c/weight' ((4, 3) float32) differ",
        "'a/bias' ((3,) float32) and 'c/weight/bias' (missing) differ",
        "'a/weight' ((3, 3) float32) and 'c/weight/weight' (missing) differ",
    ]
    same = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.int32)}
    assert faults({"b": "a"}, same) == ["'b' ((2,) int32) and 'a' ((2,) float32) differ"]


def test_tie_refuses_transposes_of_what_is_no_matrix():
    assert faults({"c/weight": Alias("a/weight", transpose=True)}) == [
        "'c/weight' ((4, 3) float32) and 'a/weight' ((3, 3) float32) differ"
    ]
    for place, target in (("b/bias", "a/bias"), ("b", "a")):
        assert faults({place: Alias(target, transpose=True)}) == [
            f"{target!r} is not a matrix, so that {place!r} cannot be tied to it transposed"
        ]


def test_tie_refuses_circles():
    end = "Let one of these be an array."
    assert (
        message(TieError, tie, net(), {"a": "b", "b": "a"})
        == f"the tie of 'a' is a circle: a -> b -> a. {end}"
    )
    params = {**net(), "d": Alias("a")}
    assert message(TieError, tie, params, {"a": "d"}) == f"the tie of 'a' is a circle: a -> d -> a. {end}"


def test_untie_copies():
    params = tie(net(), {"b": "a"})
    alone = untie(params)
    assert alone["b"]["weight"] is not params["a"]["weight"]
    assert find_tied(alone) == {}
    np.testing.assert_array_equal(alone["b"]["weight"], params["a"]["weight"])
    assert untie(net()).keys() == net().keys()


def test_untie_a_part():
    params = {"a": {"w": 1.0, "b": 2.0}, "t": Alias("a"), "u": Alias("a"), "v": {"x": Alias("t/w")}}
    assert untie(params, "t/w") == {**params, "t": {"w": 1.0, "b": Alias("a/b")}}
    assert untie(params, "[tu]/.*") == {
        "a": {"w": 1.0, "b": 2.0},
        "t": {"w": 1.0, "b": 2.0},
        "u": {"w": 1.0, "b": 2.0},
        "v": {"x": Alias("t/w")},
    }
    assert message(NoMatchError, untie, params, "a/w") == (
        "untie: 'a/w' hits no tied place. The tied places are: t/b, t/w, u/b, u/w, v/x."
    )
    assert (
        message(NoMatchError, untie, net(), ".*")
        == "untie: '.*' hits no tied place. The tied places are: none."
    )


def test_untie_without_copying_is_what_find_tied_finds():
    params = tie(net(), {"b": "a"})
    alone = untie(params, copy=False)
    assert alone["b"]["weight"] is params["a"]["weight"]
    assert find_tied(alone) == {"b": "a"}


def test_find_tied():
    w, b = jnp.ones((2, 2)), jnp.ones(2)
    assert find_tied({"x10": {"w": w}, "x2": {"w": w, "b": b}}) == {"x10/w": "x2/w"}
    assert find_tied({"x10": {"s": {"w": w, "b": b}}, "x2": {"s": {"w": w, "b": b}}}) == {"x10": "x2"}
    assert find_tied([w, (w, b)]) == {"1/0": "0"}
    assert find_tied({"l": [{"w": w}, {"w": w}]}) == {"l/1": "l/0"}
    assert find_tied({"a": w, "b": w.copy(), "c": w + 0}) == {}
    # a block that holds more than what is shared is not proposed whole
    assert find_tied({"a": {"w": w}, "b": {"w": w, "x": Alias("a/w")}}) == {"b/w": "a/w"}
    assert find_tied({"a": w, "b": Fixed(w), "c": Alias("a")}) == {"b": "a"}
    assert find_tied({"a/b": w, "a": {"b": {"c": w}}}) == {"a/b": "a/b/c"}
    assert find_tied({}) == {}
    assert is_proposed("b", {"b/w": "a/w"})
    assert not is_proposed("bb", {"b/w": "a/w"})


def test_find_tied_looks_at_buffers():
    base = np.arange(6.0)
    assert find_tied({"a": base, "b": base[:], "c": base[::2], "d": base.reshape(2, 3)}) == {"b": "a"}
    assert find_tied({"a": base[:2], "b": base[::2][:2]}) == {}
    empty = jnp.ones((0,))
    assert find_tied({"a": empty, "b": empty, "c": jnp.ones((0,))}) == {"b": "a"}
    keys = jax.random.key(0)
    assert find_tied({"a": keys, "b": keys, "c": jax.random.key(0)}) == {"b": "a"}
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "d")
    spread = jax.device_put(
        jnp.arange(8.0), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    )
    assert find_tied({"a": spread, "b": spread, "c": spread + 1}) == {"b": "a"}
    # equal texts and numbers are one object in Python, and no shared parameter
    assert find_tied({"a": 0.5, "b": 0.5, "c": "decay", "d": "decay", "e": True, "f": True}) == {}


def test_find_tied_under_jit():
    seen = []

    @jax.jit
    def look(w):
        seen.append(find_tied({"a": w, "b": w, "c": w + 1}))
        assert not is_concrete(w)
        return w

    look(jnp.ones(2))
    assert seen == [{"b": "a"}]


def test_freeze_and_unfreeze():
    params = net()
    frozen = freeze(params, ["a/.*", ".*bias"])
    assert collect_params(frozen).fixed == {"a/weight", "a/bias", "b/bias", "c/bias"}
    assert frozen["a"]["weight"].value is params["a"]["weight"]
    assert isinstance(freeze(frozen, "a/.*")["a"]["weight"].value, jax.Array)
    assert collect_params(unfreeze(frozen, "a/.*")).fixed == {"b/bias", "c/bias"}
    assert collect_params(unfreeze(frozen)).fixed == frozenset()
    assert list(collect_params(frozen, trainable)) == ["b/weight", "c/weight"]
    assert unfreeze(freeze([1.0, (2.0,)], "1/.*")) == [1.0, (2.0,)]
    assert freeze({"a": 1.0}, "x", allow_empty=True) == {"a": 1.0}
    assert isinstance(freeze(jax.eval_shape(net), "a/bias")["a"]["bias"].value, jax.ShapeDtypeStruct)


def test_a_constant_is_unfrozen_only_by_its_whole_name():
    params = freeze({"a": {"mean": Fixed(1.0), "weight": 2.0}}, ".*")
    assert isinstance(params["a"]["mean"], Fixed)
    assert collect_params(unfreeze(params)).fixed == {"a/mean"}
    assert collect_params(unfreeze(params, ".*")).fixed == {"a/mean"}
    assert collect_params(unfreeze(params, "a/mean")).fixed == {"a/weight"}
    assert collect_params(unfreeze(params, ["a/mean", ".*weight"])).fixed == frozenset()
    assert message(NoMatchError, unfreeze, params, ".*mean") == (
        "unfreeze: select '.*mean' hits only constants, which were never frozen: a/mean. "
        "Spell out the whole name to mean it."
    )
    assert collect_params(unfreeze(params, ".*mean", allow_empty=True)).fixed == {"a/mean", "a/weight"}


def test_what_is_frozen_is_so_at_each_of_its_places_when_it_is_untied():
    params = untie(freeze({"a": jnp.ones(2), "c": Fixed(jnp.ones(1)), "b": Alias("a"), "d": Alias("c")}, "a"))
    assert collect_params(params).fixed == {"a", "b", "c", "d"}
    assert collect_params(unfreeze(params)).fixed == {"c", "d"}


def test_freezing_a_tied_place_says_where_it_lives():
    params = tie(net(), {"b/bias": "a/bias"})
    assert message(NoMatchError, freeze, params, "b/bias") == (
        "select 'b/bias' hits none of 5 parameters; it must match the whole name. It names only tied places: "
        "b/bias is a/bias. Select a tied parameter where it lives. "
        "Pass allow_empty=True where nothing is a good answer."
    )
    assert "select 'x' hits none of 6 parameters" in message(NoMatchError, unfreeze, net(), "x")
