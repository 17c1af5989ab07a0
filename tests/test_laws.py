"""The laws that DESIGN.md states, on drawn trees."""

import re

import jax
import numpy as np
import pytest

pytest.importorskip("hypothesis")

import strategies as trees
from hypothesis import given
from hypothesis import strategies as st
from sameness import same_leaf, same_tree

from paramtree.names import natural_name_key
from paramtree.nodes import Alias, Fixed, resolve
from paramtree.stack import stack, unstack
from paramtree.ties import find_tied, freeze, tie, trainable, unfreeze, untie
from paramtree.tree import (
    collect_params,
    flatten,
    get,
    label_params,
    map_params,
    mask,
    merge,
    names,
    partition,
    rename,
    unflatten,
    update,
)


@given(trees.params())
def test_unflatten_undoes_flatten(params):
    assert same_tree(unflatten(flatten(params)), params)
    assert list(flatten(params)) == sorted(flatten(params), key=natural_name_key)


@given(st.data(), trees.params())
def test_merge_undoes_partition(data, params):
    select = data.draw(trees.selects(params))
    selected, rest = partition(params, select)
    assert same_tree(merge(selected, rest), params)
    assert same_tree(merge(rest, selected), params)
    assert names(selected) == list(collect_params(params, select))
    assert set(names(selected)).isdisjoint(names(rest))


@given(st.data(), trees.params())
def test_update_with_what_was_collected_changes_nothing(data, params):
    select = data.draw(trees.selects(params))
    assert same_tree(update(params, collect_params(params, select)), params)


@given(st.data(), trees.params())
def test_collect_gives_what_update_put_in(data, params):
    chosen = data.draw(st.lists(st.sampled_from(names(params)), min_size=1, unique=True))
    flat = collect_params(params)
    values = {name: np.full(flat[name].shape, 7).astype(flat[name].dtype) for name in chosen}
    updated = update(params, values)
    assert all(same_leaf(get(updated, name), values[name]) for name in chosen)
    back = collect_params(updated, [re.escape(name) for name in chosen])
    assert set(back) == set(chosen)
    assert all(same_leaf(back[name], values[name]) for name in chosen)
    others = [name for name in names(params) if name not in chosen]
    assert all(get(updated, name) is flat[name] for name in others)


@given(trees.params())
def test_resolve_is_done_once(params):
    plain = resolve(params)
    assert same_tree(resolve(plain), plain)
    assert not any(isinstance(node, Alias | Fixed) for node in flatten(plain).values())


@given(trees.params())
def test_get_is_what_resolve_shows(params):
    flat = collect_params(resolve(params))
    assert all(same_leaf(get(params, name), leaf) for name, leaf in flat.items())


def _without_transposes(params):
    return not any(isinstance(node, Alias) and node.transpose for node in flatten(params).values())


@given(trees.params())
def test_find_tied_and_tie_undo_untie(params):
    if not _without_transposes(params):
        params = {key: value for key, value in params.items() if "Alias" not in repr(value)}
    alone = untie(params, copy=False)
    assert not any(isinstance(node, Alias) for node in flatten(alone).values())
    again = tie(alone, find_tied(alone))
    assert same_tree(resolve(again), resolve(params))
    assert len(names(again)) == len(names(params))


@given(trees.plain_params())
def test_find_tied_restores_the_structure_where_the_source_comes_first(plain):
    params = {"a": plain, "b": {"c": Alias("a")}, "d": Alias("a")}
    alone = untie(params, copy=False)
    assert find_tied(alone) == {"b/c": "a", "d": "a"}
    assert same_tree(tie(alone, find_tied(alone)), params)


@given(trees.params())
def test_a_copy_is_no_tie(params):
    copied = jax.tree.map(lambda leaf: leaf.copy(), untie(params))
    assert find_tied(copied) == {}


@given(trees.params())
def test_rename_there_and_back(params):
    there = rename(params, {r"(.*)": r"net/\1"})
    assert names(there) == [f"net/{name}" for name in names(params)]
    assert same_tree(rename(there, {r"net/(.*)": r"\1"}), params)
    assert same_tree(resolve(there), {"net": resolve(params)})


@given(trees.params())
def test_rename_moves_ties_with_their_targets(params):
    expected = trees.renamed_keys(params, "_")
    # what rename's rules see are the names that exist once block ties are spread
    places = names(resolve(params))
    renamed = rename(params, {re.escape(name): name.replace("/", "_/") + "_" for name in places})
    assert same_tree(resolve(renamed), resolve(expected))
    assert len(names(renamed)) == len(names(params))


@given(trees.params())
def test_counts_are_the_same_eager_abstract_and_jitted(params):
    abstract = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, _no_float64(params)))
    seen = []
    jax.jit(lambda inner: seen.append((names(inner), names(resolve(inner)))))(_no_float64(params))
    assert names(params) == names(abstract) == seen[0][0]
    assert names(resolve(params)) == names(resolve(abstract)) == seen[0][1]


def _no_float64(params):
    return jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, params)


@given(st.data(), trees.params())
def test_the_order_of_insertion_never_matters(data, params):
    other = trees.reordered(params)
    select = data.draw(trees.selects(params))
    assert names(other) == names(params) == sorted(names(params), key=natural_name_key)
    assert list(collect_params(other, select)) == list(collect_params(params, select))
    assert repr(collect_params(other)) == repr(collect_params(params))
    assert list(flatten(other)) == list(flatten(params))
    assert same_tree(resolve(other), resolve(params))


@given(st.data(), trees.params())
def test_mask_label_and_map_keep_the_structure(data, params):
    select, rules = data.draw(trees.selects(params)), data.draw(trees.rules(params))
    masked, labels = mask(params, select), label_params(params, rules)
    mapped = map_params(lambda name, leaf: name, params)
    structure = jax.tree.structure(params)
    assert structure == jax.tree.structure(masked) == jax.tree.structure(labels) == jax.tree.structure(mapped)
    assert [name for name, hit in collect_params(masked).items() if hit] == list(
        collect_params(params, select)
    )
    assert all(name == leaf for name, leaf in collect_params(mapped).items())
    for name, label in collect_params(labels).items():
        assert label == rules.get(name.replace(".", r"\."), "rest")


@given(st.data(), trees.params())
def test_unfreeze_undoes_freeze(data, params):
    constants = collect_params(params).fixed
    select = data.draw(trees.selects(params))
    frozen = freeze(params, select)
    assert same_tree(unfreeze(frozen), params)
    if not constants & set(collect_params(params, select)):
        assert same_tree(unfreeze(frozen, select), params)
    assert same_tree(freeze(frozen, select), frozen)
    assert names(frozen) == names(params)
    assert collect_params(frozen).fixed == constants | set(collect_params(params, select))
    left = set(names(params)) - constants - set(collect_params(params, select))
    assert set(collect_params(frozen, trainable, allow_empty=True)) == left


def _moved_into(node, block):
    if isinstance(node, dict):
        return {key: _moved_into(child, block) for key, child in node.items()}
    return Alias(f"{block}/{node.target}", node.transpose) if isinstance(node, Alias) else node


@given(trees.params(), st.integers(1, 12), st.sampled_from(("", "net/")), st.booleans())
def test_unstack_undoes_stack(params, count, outer, tied_outside):
    inside = {**params, "out": Alias("outside")} if tied_outside else params
    made = {f"block{number}": _moved_into(inside, f"{outer}block{number}") for number in range(count)}
    if tied_outside:
        for block in made.values():
            block["out"] = Alias("outside")
    tree = {"first": np.ones(2), **({"net": made} if outer else made), "outside": np.ones(3)}
    stacked = stack(tree, rf"{outer}block\d+")
    assert all(leaf.shape[0] == count for leaf in jax.tree.leaves(get_block(stacked, outer)))
    again = unstack(stacked, f"{outer}block")
    assert same_tree(again, tree)
    assert str(again) == str(tree)  # the order of the keys too
    assert same_tree(stack(again, rf"{outer}block\d+"), stacked)


def get_block(tree, outer):
    return tree["net"]["block"] if outer else tree["block"]


@given(trees.params())
def test_a_flat_dict_is_listed_like_the_tree(params):
    flat = collect_params(params)
    assert names(flat) == names(params)
    assert list(collect_params(flat, ".*")) == names(params)
