"""Packing: it is undone bit for bit, trains to the same values, and refuses what it would change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree import nn

optax = pytest.importorskip("optax")

NET = nn.Sequential(nn.BatchNorm(), *(nn.Dense(6, activation="tanh") for _ in range(4)), nn.Dense(1))
X = jax.random.normal(jax.random.key(1), (16, 5))
RULES = {"dense0/.*": None, ".*bias": optax.sgd(1e-2), ".*": optax.adamw(1e-2)}


def params_of():
    return NET.init(jax.random.key(0), X)


def loss_fn(params, batch):
    y, params = NET.apply_and_update(params, batch)
    return ((y - batch.sum(1, keepdims=True)) ** 2).mean(), params


def trained(params, optimizer, steps=20, **options):
    step = pt.train_step(loss_fn, optimizer, has_state=True, **options)
    state = step.init(params)
    for _ in range(steps):
        state, loss = step(state, X)
    return state, loss


def mixed():
    return {
        "a": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(2, jnp.bfloat16), "c": jnp.zeros((0, 3))},
        "b": {"w": jnp.ones((2, 2)), "n": jnp.ones(2, jnp.bfloat16), "s": jnp.float32(3)},
        "big": jnp.ones((257, 256)),
        "stats": {
            "mean": pt.Fixed(jnp.ones(3)),
            "var": pt.Fixed(jnp.ones(3)),
            "frozen": pt.Frozen(jnp.ones(2)),
        },
        "tied": pt.Alias("a"),
    }


def test_unfuse_undoes_fuse_bit_for_bit():
    packed = pt.fuse(mixed())
    kinds = [key.rpartition("/")[0] for key in sorted(packed.buffers)]
    assert kinds == ["fixed/float32", "trained/bfloat16", "trained/float32"]
    assert sorted(packed.loose) == ["a/c", "big"]
    assert not pt.diff(pt.unfuse(packed), mixed())
    assert jax.tree.structure(pt.unfuse(packed)) == jax.tree.structure(mixed())
    assert not pt.diff(jax.jit(pt.unfuse)(packed), mixed())
    again = pt.fuse(pt.unfuse(packed), like=packed)
    assert jax.tree.structure(again) == jax.tree.structure(packed)


def test_equal_trees_have_one_layout_and_numpy_stays_numpy():
    host = jax.tree.map(np.asarray, mixed())
    assert pt.fuse(host).layout is pt.fuse(mixed()).layout
    assert {type(buffer) for buffer in pt.fuse(host).buffers.values()} == {np.ndarray}
    assert isinstance(pt.unfuse(pt.fuse(host))["a"]["w"], np.ndarray)


def test_it_prints_its_buffers():
    assert repr(pt.fuse(mixed())) == (
        "Fused: 8 of 10 leaves packed (\n"
        "  fixed/float32 (shape=(8,), dtype=float32)\n"
        "  trained/bfloat16 (shape=(4,), dtype=bfloat16)\n"
        "  trained/float32 (shape=(11,), dtype=float32)\n"
        ")"
    )


@pytest.mark.parametrize(
    ("optimizer", "rules"),
    [
        (optax.adamw(1e-2), None),
        (optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1e-2, momentum=0.9)), None),
        (optax.contrib.sam(optax.sgd(1e-2), optax.sgd(1e-3), sync_period=2), None),
        (optax.chain(optax.sgd(1e-2), optax.contrib.reduce_on_plateau()), None),
        (optax.polyak_sgd(1e-2), None),
        (
            optax.chain(
                optax.clip_by_global_norm(0.5),
                pt.group_optimizers(RULES, lr_mult={"dense1/.*": 0.1}, wd_mult={"dense2/weight": 0.0}),
            ),
            RULES,
        ),
    ],
    ids=["adamw", "clipped", "sam", "plateau", "polyak", "groups"],
)
def test_packed_training_gives_the_same_values(optimizer, rules):
    plain, loss = trained(params_of(), optimizer)
    packed, other = trained(pt.fuse(params_of(), rules), optimizer)
    np.testing.assert_allclose(loss, other, rtol=1e-4)
    assert not pt.diff(plain.params, pt.unfuse(packed.params), rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(pt.unfuse(packed)) == jax.tree.structure(plain)


def test_a_run_goes_on_unpacked_and_packed_again(tmp_path):
    packed, _ = trained(pt.fuse(params_of()), optax.adamw(1e-2), 5)
    apart = pt.unfuse(packed)
    pt.save({"params": apart.params, "opt_state": apart.opt_state}, tmp_path / "run.safetensors")
    like = {"params": apart.params, "opt_state": apart.opt_state}
    loaded = pt.load(tmp_path / "run.safetensors", like=like)
    state = pt.TrainState(loaded["params"], loaded["opt_state"], None, apart.step)
    step = pt.train_step(loss_fn, optax.adamw(1e-2), has_state=True, donate=False)
    repacked = pt.fuse(state, like=packed)
    plain, one = step(state, X)
    fused, two = step(repacked, X)
    assert float(one) == float(two)
    assert not pt.diff(plain.params, pt.unfuse(fused.params), rtol=1e-6, atol=1e-7)
    assert int(plain.step) == int(fused.step) == 6


MASK = pt.mask(params_of(), ".*weight")
WHOLE = {
    "lamb": optax.lamb(1e-2),
    "lars": optax.lars(1e-2),
    "adafactor": optax.adafactor(1e-2),
    "mask": optax.adamw(1e-2, mask=MASK),
    "freeze": optax.chain(optax.sgd(1e-2), optax.freeze(MASK)),
}


@pytest.mark.parametrize("optimizer", WHOLE.values(), ids=WHOLE)
def test_an_optimiser_that_looks_at_whole_parameters_is_refused(optimizer):
    step = pt.train_step(loss_fn, optimizer, has_state=True)
    with pytest.raises(pt.MismatchError) as caught:
        step.init(pt.fuse(params_of()))
    assert str(caught.value) == (
        "train_step: this optimiser does not treat every element alike (it looks at the norm or shape of "
        "whole parameters, at a tree with their structure, as of masks or labels, or at random numbers), so "
        "it gives other results when they are packed, or none. Train them unpacked, with pt.unfuse, or with "
        "another optimiser; pt.group_optimizers does by rules what masks do."
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [optax.lbfgs(), optax.contrib.sam(optax.sgd(1e-2), optax.sgd(1e-2), opaque_mode=True)],
    ids=["lbfgs", "sam"],
)
def test_an_optimiser_that_asks_for_a_function_is_refused(optimizer, packed):
    step = pt.train_step(loss_fn, optimizer, has_state=True)
    params = pt.fuse(params_of()) if packed else params_of()
    with pytest.raises(pt.ParamTreeError) as caught:
        step(step.init(params), X)
    assert str(caught.value).startswith(
        "train_step: gives an optimiser the gradients, its state, the parameters, and the loss as value=, "
        "and this one asks for more, such as a function to search along. Take one that does not, as "
        "optax.lbfgs(linesearch=None) and optax.contrib.sam(opaque_mode=False), or call it by hand. It said: "
    )


def test_a_mask_is_a_matter_of_rules():
    rules = {".*weight": optax.adamw(1e-2), ".*": optax.adamw(1e-2, weight_decay=0.0)}
    masked = optax.adamw(1e-2, mask=lambda part: jax.tree.map(lambda leaf: leaf.ndim > 1, part))
    plain, _ = trained(params_of(), masked)
    packed, _ = trained(pt.fuse(params_of(), rules), pt.group_optimizers(rules))
    assert not pt.diff(plain.params, pt.unfuse(packed.params), rtol=1e-4, atol=1e-5)


def test_a_buffer_of_several_groups_is_told():
    step = pt.train_step(loss_fn, pt.group_optimizers(RULES), has_state=True)
    with pytest.raises(pt.MismatchError) as caught:
        step.init(pt.fuse(params_of()))
    assert str(caught.value).startswith(
        "these buffers hold parameters of several groups; pass the rules to fuse too:\n"
        "  trained/float32 holds "
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pt.fuse({"a": "x", "b": jnp.ones(1)}), "fuse: these leaves are not arrays:\n  a is 'x'"),
        (lambda: pt.fuse(pt.fuse(mixed())), "fuse: this is packed already; pt.unfuse it first."),
        (
            lambda: pt.fuse({"a": jnp.ones(2)}, like=pt.fuse(mixed())),
            "fuse: this tree has not the structure and shapes of what is packed in like=.",
        ),
        (
            lambda: pt.fuse(pt.cast(mixed(), {"big|a/w": "float16"}), like=pt.fuse(mixed())),
            "fuse: these have other dtypes than what is packed in like=; pt.cast them:\n"
            "  a/w is float16, and was float32\n  big is float16, and was float32",
        ),
        (
            lambda: pt.unfuse(pt.freeze(pt.fuse(mixed()), "buffers/trained/.*")),
            "whole buffers of this packed tree are frozen, which nothing can train; freeze parameters by "
            "name before they are packed, with pt.fuse(pt.freeze(params, select)):\n"
            "  trained/bfloat16\n  trained/float32",
        ),
        (
            lambda: pt.train_step(loss_fn, optax.sgd(0.1)).init({"net": pt.fuse(params_of())}),
            "train_step: a part of this tree is packed; pack all of it, with pt.fuse(pt.unfuse(params)).",
        ),
        (
            lambda: pt.fuse(dict.fromkeys("ab", jnp.ones(2))),
            "fuse: these are one array under two names, and would become two. Tie them with pt.tie(params, "
            "pt.find_tied(params)), or copy them with jax.tree.map(jnp.copy, params):\n  b is a",
        ),
    ],
)
def test_what_cannot_be_packed_is_told(make, message):
    with pytest.raises(pt.ParamTreeError) as caught:
        make()
    assert str(caught.value) == message


def test_sharded_leaves_stay_loose():
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = {"a": jax.device_put(jnp.ones(8), sharding), "b": jnp.ones(8), "c": jnp.ones(8)}
    assert list(pt.fuse(params).loose) == ["a"]


def test_a_packed_checkpoint_fits_no_other_tree_of_the_same_size(tmp_path):
    file = tmp_path / "packed.safetensors"
    saved = {"conv": {"w": jnp.ones((2, 3))}, "dense": {"w": jnp.full(4, 2.0)}}
    pt.save(pt.fuse(saved), file)
    back = pt.load(file, like=pt.fuse(jax.tree.map(jnp.zeros_like, saved)))
    assert not pt.diff(pt.unfuse(back), saved)
    others = [
        {"attn": {"w": jnp.zeros(4)}, "conv": {"w": jnp.zeros((2, 3))}},
        {"conv": {"w": jnp.zeros((3, 2))}, "dense": {"w": jnp.zeros(4)}},
        {"conv": {"w": jnp.zeros(4)}, "dense": {"w": jnp.zeros((2, 3))}},
    ]
    for other in others:
        with pytest.raises(pt.MismatchError, match="1 missing, 1 unexpected"):
            pt.load(file, like=pt.fuse(other))


def test_unfuse_makes_no_transfer_that_jax_would_forbid():
    packed = pt.fuse({"a": jnp.arange(2.0), "b": jnp.arange(3.0)})
    with jax.transfer_guard("disallow"):
        tree = pt.unfuse(packed)
    assert [leaf.tolist() for leaf in jax.tree.leaves(tree)] == [[0, 1], [0, 1, 2]]


@pytest.mark.parametrize("waiting", ["a schedule", "MultiSteps"])
def test_an_optimiser_of_whole_leaves_that_begins_late_is_refused_packed(waiting):
    def late(make):
        if waiting == "MultiSteps":
            return optax.MultiSteps(make(1e-1), 70)
        schedules = [optax.constant_schedule(0.0), optax.constant_schedule(1e-1)]
        return make(optax.join_schedules(schedules, [70]))

    packed = pt.fuse({"a": jnp.ones((2, 2)), "b": jnp.full(2, 9.0)})
    loss_fn = lambda params, batch: sum((leaf**2).sum() for leaf in jax.tree.leaves(params))
    with pytest.raises(pt.MismatchError, match="does not treat every element alike"):
        pt.train_step(loss_fn, late(optax.lamb)).init(packed)
    pt.train_step(loss_fn, late(optax.adamw)).init(packed)
