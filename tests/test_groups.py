"""Optimisers by rules: what each trains, what is frozen, multipliers, and every way to get it wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree import nn

optax = pytest.importorskip("optax")


def tree():
    return {
        "embed": {"weight": jnp.full((4, 3), -0.0)},
        "block": {"weight": jnp.ones((3, 3)), "bias": jnp.ones(3), "norm": {"gamma": jnp.ones(3)}},
        "bn": {"running_mean": pt.Fixed(jnp.ones(3))},
        "head": {"weight": pt.Alias("embed/weight")},
    }


RULES = {".*bias|.*norm.*": optax.sgd(1e-2), "embed/.*": None, ".*": optax.adamw(1e-3, weight_decay=0.1)}


def grads_of(params):
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.5), params)


def stepped(optimizer, params, steps=1, transform=lambda function: function):
    with jax.numpy_dtype_promotion("standard"):
        state = transform(optimizer.init)(params)
        for _ in range(steps):
            updates, state = transform(optimizer.update)(grads_of(params), state, params)
            params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("transform", [lambda function: function, jax.jit], ids=["eager", "jit"])
def test_each_group_does_what_its_optimiser_does_alone(transform):
    params, state = stepped(pt.group_optimizers(RULES), tree(), 3, transform)
    part = {"block": {"weight": tree()["block"]["weight"]}}
    alone, _ = stepped(optax.adamw(1e-3, weight_decay=0.1), part, 3, transform)
    np.testing.assert_allclose(params["block"]["weight"], alone["block"]["weight"], rtol=1e-6)
    np.testing.assert_allclose(params["block"]["bias"], 1 - 3 * 0.5e-2, rtol=1e-6)
    np.testing.assert_allclose(params["block"]["norm"]["gamma"], 1 - 3 * 0.5e-2, rtol=1e-6)
    assert state.groups == (("block/bias", "block/norm/gamma"), ("block/weight",))
    assert state.frozen == ("embed/weight",)


def test_what_is_frozen_or_fixed_stays_bit_for_bit_and_has_no_state():
    params, state = stepped(pt.group_optimizers(RULES), tree(), 100)
    for name in ("embed/weight", "bn/running_mean"):
        before, after = (np.asarray(pt.get(each, name)) for each in (tree(), params))
        assert before.tobytes() == after.tobytes()  # -0.0 too
    held = pt.names({"state": state})
    assert not [name for name in held if "embed" in name or "bn" in name]
    assert [name for name in held if name.endswith("block/weight")]


def test_the_same_rules_work_on_stacked_and_unstacked_trees():
    block = nn.Residual(nn.RMSNorm(), nn.Dense(4, activation="tanh"))
    net = nn.Repeat(block, 3, name="deep")
    params = net.init(jax.random.key(0), "2, 4")
    place = next(iter(params))
    rules = {r".*bias|.*norm.*": optax.sgd(1e-1), ".*": optax.adamw(1e-2)}
    options = {"lr_mult": {rf"{place}\d*/.*gamma": 0.5}, "wd_mult": {".*dense.*weight": 2.0}}
    stacked, _ = stepped(pt.group_optimizers(rules, **options), params, 2)
    apart, _ = stepped(pt.group_optimizers(rules, **options), pt.unstack(params, place), 2)
    assert not pt.diff(pt.unstack(stacked, place), apart, rtol=1e-5)


def test_multipliers_are_gluons():
    params = {"w": jnp.full(3, 2.0), "v": jnp.full(3, 2.0), "b": jnp.full(3, 2.0)}
    sgd = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.01))
    optimizer = pt.group_optimizers({".*": sgd}, lr_mult={"w": 10}, wd_mult={"b": 0, "w": 3.0})
    after, _ = stepped(optimizer, params)
    np.testing.assert_allclose(after["w"], 2 - 0.1 * (0.5 + 0.3 * 2), rtol=1e-6)
    np.testing.assert_allclose(after["v"], 2 - 0.01 * (0.5 + 0.1 * 2), rtol=1e-6)
    np.testing.assert_allclose(after["b"], 2 - 0.01 * 0.5, rtol=1e-6)


@pytest.mark.parametrize("wait", [1, 5])
def test_weight_decay_is_multiplied_though_the_rate_begins_at_zero(wait):
    rate = optax.schedules.join_schedules([optax.schedules.constant_schedule(v) for v in (0.0, 0.1)], [wait])
    params = {"w": jnp.full(3, 2.0), "v": jnp.full(3, 2.0)}
    optimizer = pt.group_optimizers({".*": optax.adamw(rate, weight_decay=0.1)}, wd_mult={"w": 0.0})
    after, _ = stepped(optimizer, params, wait + 1)
    np.testing.assert_allclose(after["v"] - after["w"], -0.1 * 0.1 * 2, rtol=1e-4)


def test_predicates_and_trees_of_other_kinds_are_grouped():
    rules = [(lambda name, leaf: leaf.ndim > 1, optax.sgd(1.0)), (".*", optax.sgd(2.0))]
    params = [jnp.zeros((2, 2)), jnp.zeros(2)]
    after, _ = stepped(pt.group_optimizers(rules), params)
    assert float(after[0][0, 0]) == -0.5
    assert float(after[1][0]) == -1.0


def test_all_faults_of_the_rules_are_told_at_once():
    rules = {
        "embd/.*": None,
        "bn/.*": optax.sgd(1.0),
        "block/.*": optax.sgd(1.0),
        "block/bias": optax.sgd(2.0),
    }
    with pytest.raises(pt.RuleError) as caught:
        pt.group_optimizers(rules).init(tree())
    assert str(caught.value) == (
        "group_optimizers: rules do not fit the tree of 5 parameters:\n"
        "  rule 0 'embd/.*' hits nothing. The names are block/weight, block/bias, block/norm/gamma, "
        "bn/running_mean, embed/weight.\n"
        "  rule 3 'block/bias' is shadowed: all it hits goes to rule 2 'block/.*'. Put it first, "
        "or remove it.\n"
        "  rule 1 'bn/.*' hits only what is not trained: bn/running_mean\n"
        "  no rule covers embed/weight. Add a rule; None as its value freezes"
    )


def test_a_rule_with_none_may_name_what_is_fixed():
    pt.group_optimizers({"bn/.*": None, ".*": optax.sgd(1.0)}).init(tree())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pt.group_optimizers({".*": 1e-3}),
            "group_optimizers: takes select -> an optax optimiser, or None to freeze; these rules are not:\n"
            "  rule 0 '.*': 0.001",
        ),
        (
            lambda: pt.group_optimizers({".*": optax.sgd(1.0)}, lr_mult={"a": -1, "b": True, "c": "x"}),
            "group_optimizers: lr_mult takes select -> a number from 0 up; these rules are not:\n"
            "  rule 0 'a': -1\n  rule 1 'b': True\n  rule 2 'c': 'x'",
        ),
        (
            lambda: pt.group_optimizers({".*": None}).init(tree()),
            "group_optimizers: nothing is left to train: of 5 parameters rules freeze 4, and 1 are fixed. "
            "pt.unfreeze some.",
        ),
        (
            lambda: pt.group_optimizers(RULES, lr_mult={"embed/.*": 2.0}).init(tree()),
            "group_optimizers: lr_mult do not fit the tree of 5 parameters:\n"
            "  rule 0 'embed/.*' hits only what is not trained: embed/weight",
        ),
        (
            lambda: pt.group_optimizers({".*": optax.lamb(1.0)}, wd_mult={".*bias": 0}).init(tree()),
            "group_optimizers: wd_mult does not fit the optimisers:\n"
            "  the optimiser of rule 0 uses parameters for more than weight decay, so that it cannot be "
            "multiplied; give these parameters optimisers of their own",
        ),
        (
            lambda: pt.group_optimizers({".*": optax.sgd(1.0)}, wd_mult={".*bias": 0}).init(tree()),
            "group_optimizers: wd_mult does not fit the optimisers:\n"
            "  no optimiser of what its rules hit decays weights; chain it with optax.add_decayed_weights",
        ),
    ],
)
def test_bad_rules_are_told(make, message):
    with pytest.raises(pt.ParamTreeError) as caught:
        make()
    assert str(caught.value) == message


def fails(*given, **options):
    optimizer = pt.group_optimizers({".*": optax.sgd(1.0, momentum=0.9)}, **options)
    state = optimizer.init({"a": jnp.ones(2), "b": jnp.ones(3)})
    with pytest.raises(pt.MismatchError) as caught:
        optimizer.update(*(state if each is state_here else each for each in given))
    return str(caught.value)


state_here = object()


def test_gradients_of_other_parameters_are_told():
    assert fails({"a": jnp.ones(3), "c": jnp.ones(1)}, state_here, {"a": jnp.ones(2), "b": jnp.ones(3)}) == (
        "group_optimizers: these gradients are not of these parameters:\n"
        "  b has no gradient\n  c is no parameter, and has a gradient\n"
        "  a has shape (2,), and its gradient (3,)"
    )


def test_a_state_of_another_tree_is_told():
    assert fails({"a": jnp.ones(2), "c": jnp.ones(1)}, state_here) == (
        "group_optimizers: the state is that of another tree, or other rules; make it anew by init:\n"
        "  b is not there, and was in group 0\n  c is in group 0, and was not there"
    )
    assert fails({"a": jnp.ones(2), "b": jnp.ones(3)}, (), None) == (
        "group_optimizers: the state is of type tuple; pass what its init returned."
    )


@pytest.mark.parametrize(
    ("params", "found"),
    [
        (
            {"a": jnp.ones(2), "b": jnp.ones(4)},
            "shape=(3,), dtype=float32, and would be of shape=(4,), dtype=f",
        ),
        (
            {"a": jnp.ones(2), "b": jnp.ones(3, "bfloat16")},
            "shape=(3,), dtype=float32, and would be of shape=(3,), dtype=bf",
        ),
    ],
    ids=["shape", "dtype"],
)
@pytest.mark.parametrize("transform", [lambda function: function, jax.jit], ids=["eager", "jit"])
def test_a_state_of_other_shapes_and_dtypes_is_told(params, found, transform):
    optimizer = pt.group_optimizers({"a": optax.sgd(1.0), ".*": optax.sgd(1.0, momentum=0.9)})
    state = optimizer.init({"a": jnp.ones(2), "b": jnp.ones(3)})
    with pytest.raises(pt.MismatchError) as caught:
        transform(optimizer.update)(params, state, params)
    assert str(caught.value).startswith(
        "group_optimizers: the state is that of parameters of other shapes or dtypes; make it anew by init:\n"
        f"  inner/1/0/trace/b is of {found}"
    )


def test_without_parameters_weight_decay_cannot_be_multiplied():
    decayed = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1.0))
    optimizer = pt.group_optimizers({".*": decayed}, wd_mult={"a": 0})
    params = {"a": jnp.ones(2)}
    with pytest.raises(
        pt.MismatchError, match="wd_mult needs the parameters: update\\(grads, state, params\\)"
    ):
        optimizer.update(params, optimizer.init(params))


def test_it_chains_saves_and_loads_like_any_optimiser(tmp_path):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), pt.group_optimizers(RULES))
    _, state = stepped(optimizer, tree(), 2)
    pt.save(state, tmp_path / "state.safetensors")
    loaded = pt.load(tmp_path / "state.safetensors", like=state)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    assert not pt.diff(loaded, state)


def test_all_that_no_rule_covers_is_listed():
    params = {f"layer{at}": {"weight": jnp.ones(1), "bias": jnp.ones(1)} for at in range(20)}
    with pytest.raises(pt.RuleError) as caught:
        pt.group_optimizers({".*weight": optax.sgd(1.0)}).init(params)
    bare = ", ".join(f"layer{at}/bias" for at in range(20))
    assert f"no rule covers {bare}. Add a rule; None as its value freezes" in str(caught.value)


@pytest.mark.parametrize("waiting", ["a schedule", "MultiSteps"])
def test_decay_is_found_in_an_optimiser_that_begins_late(waiting):
    schedule = optax.join_schedules([optax.constant_schedule(0.0), optax.constant_schedule(1e-1)], [100])
    late = optax.adamw(schedule) if waiting == "a schedule" else optax.MultiSteps(optax.adamw(1e-3), 100)
    pt.group_optimizers({".*": late}, wd_mult={".*": 0.5}).init({"w": jnp.ones(2)})
