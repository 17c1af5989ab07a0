"""The training step: equal to loops by hand, only on what is trained, and stopped with a good state."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree import nn

optax = pytest.importorskip("optax")

NET = nn.Sequential(nn.Dense(16, activation="tanh"), nn.Dense(16, activation="tanh"), nn.Dense(1))
X = jax.random.normal(jax.random.key(1), (12, 5))
BATCH = (X, X.sum(1, keepdims=True))


def params_of(net=NET):
    return net.init(jax.random.key(0), X)


def loss_fn(params, batch):
    x, y = batch
    return ((NET.apply(params, x) - y) ** 2).mean()


def by_hand(loss, params, optimizer, steps):
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(params)
        for _ in range(steps):
            grads = jax.grad(loss)(params, BATCH)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
    return params


def ran(step, state, steps, batch=BATCH):
    for _ in range(steps):
        state, out = step(state, batch)
    return state, out


def test_it_does_what_a_loop_written_by_hand_does():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    state, loss = ran(step := pt.train_step(loss_fn, optimizer), step.init(params_of()), 10)
    wanted = by_hand(loss_fn, params_of(), optimizer, 10)
    assert not pt.diff(state.params, wanted, rtol=1e-4, atol=1e-6)
    assert loss.shape == ()
    assert int(state.step) == 10
    assert repr(state) == "TrainState(step=10, 6 parameters)"


def test_a_scan_does_what_as_many_calls_do():
    step = pt.train_step(loss_fn, optax.adam(1e-2), has_aux=False)
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 0.5, leaf + 1]), BATCH)
    one = step.init(params_of())
    losses = []
    for number in range(3):
        one, loss = step(one, jax.tree.map(lambda leaf, at=number: leaf[at], batches))
        losses.append(loss)
    many, found = step.scan(step.init(params_of()), batches)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    assert not pt.diff(one.params, many.params, rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    whole, one = ran(step := pt.train_step(loss_fn, optax.sgd(0.1)), step.init(params_of()), 3)
    parts, two = ran(step := pt.train_step(loss_fn, optax.sgd(0.1), accumulate=4), step.init(params_of()), 3)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert not pt.diff(whole.params, parts.params, rtol=1e-4, atol=1e-6)


def with_statistics(params, batch, key):
    x, y = batch
    out, params = BN_NET.apply_and_update(params, x, key=key)
    return ((out - y) ** 2).mean(), params, {"mean": out.mean()}


BN_NET = nn.Sequential(nn.Dense(8), nn.BatchNorm(), nn.Dropout(0.5), nn.Dense(1))


def test_statistics_dropout_and_aux():
    step = pt.train_step(with_statistics, optax.sgd(0.0), has_state=True, has_aux=True)
    start = params_of(BN_NET)
    state, (loss, aux) = step(step.init(start, jax.random.key(3)), BATCH)
    key = jax.random.fold_in(jax.random.key(3), 0)
    wanted, after, _ = with_statistics(start, BATCH, key)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert not pt.diff(state.params, after, rtol=1e-5, atol=1e-7)
    assert pt.diff(state.params, start, select=".*running_.*")
    assert aux["mean"].shape == ()
    _, (second, _) = step(state, BATCH)
    assert float(second) != float(loss)  # another key


def test_statistics_move_with_each_part_and_aux_has_a_leading_axis():
    step = pt.train_step(with_statistics, optax.sgd(0.0), has_state=True, has_aux=True, accumulate=3)
    state, (_, aux) = step(step.init(params_of(BN_NET), jax.random.key(3)), BATCH)
    params = params_of(BN_NET)
    key = jax.random.fold_in(jax.random.key(3), 0)
    for number in range(3):
        part = jax.tree.map(lambda leaf, at=number: leaf[4 * at : 4 * at + 4], BATCH)
        _, params, found = with_statistics(params, part, jax.random.fold_in(key, number))
        np.testing.assert_allclose(aux["mean"][number], found["mean"], rtol=1e-5)  # each its own dropout
    assert not pt.diff(state.params, params, rtol=1e-5, atol=1e-7)
    assert aux["mean"].shape == (3,)


# what is frozen


@pytest.mark.parametrize("how", ["freeze", "none"])
def test_what_is_frozen_stays_bit_for_bit_after_100_steps_of_adamw(how):
    start, optimizer = params_of(), optax.adamw(1e-2, weight_decay=0.1)
    if how == "freeze":
        start = pt.freeze(start, "dense[01]/.*")
    else:
        optimizer = pt.group_optimizers({"dense[01]/.*": None, ".*": optimizer})
    clipped = optax.chain(optax.clip_by_global_norm(1e-3), optimizer)
    state, _ = ran(step := pt.train_step(loss_fn, clipped), step.init(start), 100)
    assert not pt.diff(state.params, start, select="dense[01]/.*")
    assert pt.diff(state.params, start, select="dense2/.*")
    assert not [name for name in pt.names({"state": state.opt_state}) if "dense0" in name]


@pytest.mark.parametrize("how", ["freeze", "none"])
def test_what_is_frozen_has_no_share_in_the_global_norm(how):
    norms = []

    def seen(updates, state, params=None):
        del params
        norms.append(optax.tree.norm(updates))
        return updates, state

    watch = optax.GradientTransformation(lambda params: optax.EmptyState(), seen)
    start, optimizer = params_of(), optax.sgd(0.0)
    if how == "freeze":
        start = pt.freeze(start, "dense[01]/.*")
    else:
        optimizer = pt.group_optimizers({"dense[01]/.*": None, ".*": optimizer})
    step = pt.train_step(loss_fn, optax.chain(watch, optimizer))
    with jax.disable_jit():
        step(step.init(start), BATCH)
    grads = jax.grad(loss_fn)(params_of(), BATCH)
    np.testing.assert_allclose(norms[-1], optax.tree.norm(grads["dense2"]), rtol=1e-5)


def flops(step, params):
    lowered = step.jitted.lower(*step.arguments(step.init(params), BATCH))
    return lowered.compile().cost_analysis()["flops"]


def test_no_gradient_is_computed_for_what_is_frozen():
    everything = flops(pt.train_step(loss_fn, optax.adamw(1e-2)), params_of())
    ours = flops(pt.train_step(loss_fn, optax.adamw(1e-2)), pt.freeze(params_of(), "dense[01]/.*"))
    grouped = pt.group_optimizers({"dense[01]/.*": None, ".*": optax.adamw(1e-2)})
    groups = flops(pt.train_step(loss_fn, grouped), params_of())
    mask = {"dense0": True, "dense1": True, "dense2": False}
    freezing = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2), optax.freeze(mask))
    theirs = flops(pt.train_step(loss_fn, freezing), params_of())
    assert max(ours, groups) < 0.7 * min(everything, theirs)


# averages and precision


def test_moving_averages_by_rules():
    step = pt.train_step(loss_fn, optax.sgd(0.1), ema={".*bias": lambda step: 0.5, "dense0/weight": 0.9})
    state, wanted = step.init(params_of()), pt.collect_params(params_of(), [".*bias", "dense0/weight"])
    for _ in range(3):
        state, _ = step(state, BATCH)
        rates = {name: 0.5 if name.endswith("bias") else 0.9 for name in wanted}
        now = pt.collect_params(state.params)
        wanted = {name: rates[name] * old + (1 - rates[name]) * now[name] for name, old in wanted.items()}
    assert sorted(state.ema) == sorted(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(state.ema[name], value, rtol=1e-5)
    pt.update(state.params, state.ema)
    packed, _ = ran(step, step.init(pt.fuse(params_of())), 3)
    assert not pt.diff(pt.unfuse(packed.ema), state.ema, rtol=1e-4, atol=1e-6)


def test_averages_of_narrow_parameters_are_wide():
    params = pt.cast(params_of(), {".*": "bfloat16"})
    step = pt.train_step(lambda params, _: params["dense0"]["weight"].sum(), optax.sgd(0.1), ema={".*": 0.99})
    assert {leaf.dtype for leaf in step.init(params).ema.values()} == {jnp.dtype("float32")}


def test_mixed_precision_by_rules():
    seen = {}

    def loss(params, batch):
        seen.update({name: leaf.dtype.name for name, leaf in pt.collect_params(params).items()})
        y, params = BN_NET.apply_and_update(params, batch[0].astype("bfloat16"), key=jax.random.key(0))
        return ((y.astype("float32") - batch[1]) ** 2).mean(), params

    rules = {"batchnorm0/(gamma|beta)": "float32", ".*": "bfloat16"}
    step = pt.train_step(loss, optax.adam(1e-2), has_state=True, precision=rules)
    state, _ = ran(step, step.init(params_of(BN_NET)), 2)
    assert seen["dense0/weight"] == "bfloat16"
    assert seen["batchnorm0/gamma"] == seen["batchnorm0/running_mean"] == "float32"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}


# where it stops


def stopping(bad):
    def loss(params, batch):
        return (params["w"] ** 2).sum() * 0.5 + (
            jnp.sqrt(params["w"] * batch).sum() if bad == "gradient" else batch
        )

    return loss


@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_loss_or_gradient_that_is_not_finite_stops_with_the_last_good_state(bad, packed):
    good, poison = (1.0, 0.0) if bad == "gradient" else (0.0, np.nan)
    step = pt.train_step(stopping(bad), optax.adam(0.1), ema={"w": 0.9})
    params = {"w": jnp.ones(3), "v": jnp.ones(2)}
    state = step.init(pt.fuse(params) if packed else params)
    state, _ = ran(step, state, 2, jnp.float32(good))
    kept = jax.device_get(jax.tree.leaves(pt.unfuse(state)))
    state, _ = jax.block_until_ready(step(state, jnp.float32(poison)))
    after = jax.device_get(jax.tree.leaves(dataclasses.replace(pt.unfuse(state), stopped=kept[-1])))
    assert all(np.array_equal(one, two) for one, two in zip(kept, after, strict=True))
    with pytest.raises(pt.ParamTreeError) as caught:
        step(state, jnp.float32(good))
    assert str(caught.value) == (
        "train_step: after step 2 a loss, gradient or statistic was not finite. This state is the last good "
        "one: save it, look at it, or go on with other batches from dataclasses.replace(state, "
        "stopped=False)."
    )
    state, _ = step(dataclasses.replace(state, stopped=False), jnp.float32(good))
    assert int(state.step) == 3


@pytest.mark.parametrize("packed", [False, True])
def test_a_statistic_that_is_not_finite_stops_it_too_and_a_constant_may_be_infinite(packed):
    def loss(params, batch):
        new = params | {"seen": pt.Fixed(params["seen"].value + batch)}
        return (params["w"] ** 2).sum() + params["mask"].value[0], new

    params = {
        "w": jnp.ones(3),
        "seen": pt.Fixed(jnp.array([0.0, -np.inf])),
        "mask": pt.Fixed(jnp.array([0.0, -np.inf])),
        "count": pt.Fixed(jnp.zeros(2, jnp.int32)),
    }
    step = pt.train_step(loss, optax.sgd(0.1), has_state=True)
    state, _ = step(step.init(pt.fuse(params) if packed else params), jnp.float32(1))
    kept = jax.device_get(pt.unfuse(state.params))
    state, found = step(state, jnp.float32(np.nan))
    assert np.isfinite(found)
    assert not pt.diff(kept, pt.unfuse(state.params))
    assert kept["seen"].value.tolist() == [1.0, -np.inf]
    assert (int(state.step), bool(state.stopped)) == (1, True)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_without_the_check_every_step_counts_and_an_optimiser_may_skip_a_bad_one_itself(packed, together):
    def trained(batches, **options):
        optimizer = optax.apply_if_finite(optax.adam(0.1), 5)
        loss = lambda params, batch: (params["w"] ** 2).sum() * batch + params["v"].sum()
        step = pt.train_step(loss, optimizer, ema={"w": 0.9}, **options)
        params = {"w": jnp.ones(3), "v": jnp.ones(2)}
        state = step.init(pt.fuse(params) if packed else params)
        if together:
            return pt.unfuse(step.scan(state, jnp.array(batches, jnp.float32))[0])
        for batch in batches:
            state, _ = jax.block_until_ready(step(state, jnp.float32(batch)))
        return pt.unfuse(state)

    skipping, without_it = trained([1, np.inf, 1], check_finite=False), trained([1, 1])
    assert (int(skipping.step), bool(skipping.stopped)) == (3, False)
    assert not pt.diff(skipping.params, without_it.params)
    assert skipping.opt_state.total_notfinite == 1


def test_without_the_check_a_state_that_had_stopped_goes_on_and_what_is_not_finite_goes_through():
    loss = lambda params, batch: params["w"].sum() * batch
    checked, free = (pt.train_step(loss, optax.sgd(0.1), check_finite=check) for check in (True, False))
    state, _ = jax.block_until_ready(checked(checked.init({"w": jnp.ones(3)}), jnp.float32(np.nan)))
    state, _ = free(state, jnp.float32(1))
    np.testing.assert_allclose(state.params["w"], 0.9)
    state, _ = free(state, jnp.float32(np.nan))
    assert (int(state.step), np.isnan(state.params["w"]).tolist()) == (2, [True] * 3)


def test_parameters_that_the_optimiser_made_not_finite_are_told_when_it_stops():
    bad = optax.stateless(lambda updates, params: jax.tree.map(lambda leaf: leaf / 0.0, updates))
    optimizer = pt.group_optimizers({"[ab]": bad, "w": optax.sgd(0.1)})

    def loss(params, batch):
        return ((params["w"] - batch) ** 2).sum() + params["a"].sum() + params["b"]

    step = pt.train_step(loss, optimizer)
    state = step.init({"w": jnp.ones(3), "a": jnp.ones(2), "b": jnp.float32(1)})
    state, _ = jax.block_until_ready(ran(step, state, 2, jnp.float32(2)))
    with pytest.raises(pt.ParamTreeError) as caught:
        step(state, jnp.float32(2))
    assert str(caught.value) == (
        "train_step: after step 1 a loss, gradient or statistic was not finite. Neither are these parameters "
        "of the state: a, b. The optimiser made them so, as an eps of 0 or a schedule may, or they came so: "
        "go back to a state that was saved."
    )


@jax.custom_vjp
def no_loss(params, gradients):
    """Give 0, and as the gradients those given."""
    return jnp.float32(0)


no_loss.defvjp(lambda params, gradients: (jnp.float32(0), gradients), lambda gradients, _: (gradients, None))

OF_ALL_KINDS = {
    **{name: jnp.zeros((2, 2)) for name in "abc"},
    "half": jnp.zeros(3, jnp.float16),
    "brain": jnp.zeros(3, jnp.bfloat16),
    "large": jnp.zeros(70_000),
    "scalar": jnp.zeros(()),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_found_in_any_gradient_and_none_where_their_sum_is_not(bad, packed):
    step = pt.train_step(no_loss, optax.sgd(0.0), donate=False)
    state = step.init(pt.fuse(OF_ALL_KINDS) if packed else OF_ALL_KINDS)
    largest = {name: jnp.full_like(leaf, jnp.finfo(leaf.dtype).max) for name, leaf in OF_ALL_KINDS.items()}
    assert not step(state, largest)[0].stopped
    for name, leaf in largest.items():
        one_bad = largest | {name: leaf.reshape(-1).at[-1].set(bad).reshape(leaf.shape)}
        assert step(state, one_bad)[0].stopped, name


def test_a_scan_stays_at_the_last_good_state():
    step = pt.train_step(stopping("loss"), optax.sgd(0.1))
    state, losses = step.scan(step.init({"w": jnp.ones(3)}), jnp.array([0.0, np.nan, 0.0]))
    assert np.isnan(losses).tolist() == [False, True, False]
    assert int(state.step) == 1
    assert bool(state.stopped)


# memory


def test_the_state_is_donated_and_the_parameters_given_are_not():
    params = params_of()
    step = pt.train_step(loss_fn, optax.adam(1e-2))
    state = step.init(params)
    after, _ = step(state, BATCH)
    assert state.params["dense0"]["weight"].is_deleted()
    assert not params["dense0"]["weight"].is_deleted()
    ran(step, after, 2)
    kept = pt.train_step(loss_fn, optax.adam(1e-2), donate=False)
    state = kept.init(params, copy=False)
    kept(state, BATCH)
    assert not state.params["dense0"]["weight"].is_deleted()


def test_an_optimiser_that_keeps_the_parameters_can_be_donated():
    def update(updates, state, params):
        return jax.tree.map(lambda old, first: 0.1 * (first - old), params, state), state

    optimizer = optax.GradientTransformation(lambda params: params, update)
    ran(step := pt.train_step(loss_fn, optimizer), step.init(params_of()), 3)


def test_it_compiles_once():
    step = pt.train_step(loss_fn, optax.adam(1e-2))
    ran(step, step.init(params_of()), 3)
    assert step.jitted._cache_size() == 1


def test_a_state_made_by_hand_runs():
    optimizer = optax.adam(1e-2)
    state = pt.TrainState(params_of(), optimizer.init(params_of()), None, 0)
    state, _ = ran(pt.train_step(loss_fn, optimizer), state, 2)
    assert int(state.step) == 2


AXES = {kind: getattr(jax.sharding.AxisType, kind) for kind in ("Auto", "Explicit")}


@pytest.mark.parametrize("kind", AXES)
@pytest.mark.parametrize("split", ["batch", "params"])
def test_it_runs_on_several_devices_by_placement_alone(kind, split):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AXES[kind],), devices=jax.devices()[:4])
    whole, parted = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)) for spec in ((), ("d",))
    )
    params, batch = {"w": jnp.arange(8.0)}, jnp.arange(1.0, 9.0)

    def loss(params, batch):
        return ((params["w"] - batch) ** 2).mean()

    step = pt.train_step(loss, optax.adam(0.1))
    there = jax.device_put(params, parted if split == "params" else whole)
    state, found = ran(step, step.init(there), 3, jax.device_put(batch, parted))
    alone, wanted = ran(step, step.init(params), 3, batch)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(state.params["w"], alone.params["w"], rtol=1e-5)


@pytest.mark.parametrize("kind", AXES)
@pytest.mark.parametrize(("accumulate", "packed"), [(1, False), (1, True), (2, False), (4, True)])
def test_statistics_of_tensor_parallel_layers_stay_where_they_lie(kind, accumulate, packed):
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AXES[kind],) * 2, devices=jax.devices()[:4])
    spec = jax.sharding.PartitionSpec
    net = nn.Sequential(nn.Dense(4), nn.BatchNorm())

    def loss(params, batch):
        y, params = net.apply_and_update(params, batch)
        return ((y - 1) ** 2).mean(), params

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
    step = pt.train_step(loss, optimizer, has_state=True, accumulate=accumulate, ema={"dense0/.*": 0.9})
    x = jax.random.normal(jax.random.key(1), (12, 6))  # a quarter does not divide by two devices
    params = net.init(jax.random.key(0), x)
    placed = pt.shard(params, mesh, {"dense0/.*": spec("model"), ".*": None})
    [batch] = pt.shard([x], mesh, {".*": spec("data")})
    state = step.init(pt.fuse(placed) if packed else placed)
    state, found = ran(step, state, 2, batch)
    alone, wanted = ran(step, step.init(params), 2, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    held = pt.collect_params(pt.unfuse(state.params))
    assert not pt.diff(held, pt.collect_params(alone.params), rtol=1e-4, atol=1e-5)
    for name, leaf in pt.collect_params(placed).items():
        assert held[name].sharding.is_equivalent_to(leaf.sharding, leaf.ndim), name


def test_an_optimiser_may_spread_its_state_otherwise_on_explicit_axes():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AXES["Explicit"],), devices=jax.devices()[:2])
    params, rules = {"w": jnp.arange(32.0).reshape(4, 8)}, {".*": jax.sharding.PartitionSpec("d")}

    def loss(params, batch):
        return ((params["w"] - batch) ** 2).mean()

    # its state is a norm for each row, made whole, and found where the rows lie
    rows = optax.GradientTransformation(
        lambda params: jnp.zeros(4), lambda updates, state, params=None: (updates, (updates["w"] ** 2).sum(1))
    )
    step = pt.train_step(loss, optax.chain(rows, optax.sgd(0.1)))
    state, _ = ran(step, step.init(pt.shard(params, mesh, rules)), 2, jnp.float32(1))
    alone, _ = ran(step, step.init(params), 2, jnp.float32(1))
    np.testing.assert_allclose(state.opt_state[0], alone.opt_state[0], rtol=1e-5)


# what cannot be


def one(w=2.0):
    return {"w": jnp.full(2, w)}


def total(params, batch):
    return params["w"].sum() * batch


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pt.train_step(total, 1e-3),
            "train_step: takes an optax optimiser, and got 0.001.",
        ),
        (
            lambda: pt.train_step(total, optax.sgd(1.0), accumulate=0),
            "train_step: accumulate is a number of parts from 1 up, and not 0.",
        ),
        (
            lambda: pt.train_step(total, optax.sgd(1.0), ema={".*": 2.0}),
            "train_step: ema takes select -> a decay from 0 to 1, or a function of the step; these are not:\n"
            "  rule 0 '.*': 2.0",
        ),
        (
            lambda: pt.train_step(total, optax.sgd(1.0)).init(pt.freeze(one(), ".*")),
            "train_step: nothing is left to train: all 1 parameters are fixed. pt.unfreeze some.",
        ),
        (
            lambda: pt.train_step(total, optax.sgd(1.0)).init({"w": jnp.ones(2, int), "v": "x"}),
            "train_step: only arrays of floats can be trained; pt.freeze what is not:\n"
            "  v is 'x'\n  w is int32",
        ),
        (
            lambda: pt.train_step(total, optax.sgd(1.0)).init({"w": np.ones(2)}),
            "train_step: JAX would narrow these; pt.cast them, or set jax_enable_x64:\n  w is float64",
        ),
        (
            lambda: pt.train_step(total, optax.sgd(1.0)).init(dict.fromkeys("wv", jnp.ones(2))),
            "train_step: these are one array under two names, and would become two. Tie them with "
            "pt.tie(params, pt.find_tied(params)), or copy them with jax.tree.map(jnp.copy, params):\n"
            "  w is v",
        ),
        (
            lambda: (step := pt.train_step(lambda p, b: p["w"], optax.sgd(1.0)))(step.init(one()), 1.0),
            "train_step: the loss is to be one float, and is an array of shape=(2,), dtype=float32; "
            "take its mean.",
        ),
        (
            lambda: (step := pt.train_step(lambda p, b: (0.0, p), optax.sgd(1.0)))(step.init(one()), 1.0),
            "train_step: the loss is to be one float, and is (a float, a dict); pass has_state=True for "
            "(loss, params), has_aux=True for (loss, aux).",
        ),
        (
            lambda: (step := pt.train_step(total, optax.sgd(1.0), has_state=True))(step.init(one()), 1.0),
            "train_step: the loss function is to return (loss, params), and returned an array of shape=(), "
            "dtype=float32.",
        ),
        (
            lambda: (
                step := pt.train_step(
                    lambda p, b: (total(p, b), {"v": p["w"]}), optax.sgd(1.0), has_state=True
                )
            )(step.init(one()), 1.0),
            "train_step: the params that the loss function returns have another structure than those it "
            "got:\n  w is not there\n  v is new",
        ),
        (
            lambda: (step := pt.train_step(total, optax.sgd(1.0), accumulate=2))(
                step.init(one()), {"x": jnp.ones(3), "y": jnp.ones(4)}
            ),
            "train_step: the leading axes of a batch are to split into accumulate=2 equal parts:\n"
            "  batch['x'] has shape (3,)",
        ),
        (
            lambda: (step := pt.train_step(total, optax.sgd(1.0))).scan(
                step.init(one()), (jnp.ones(3), jnp.ones(4))
            ),
            "train_step: scan takes batches stacked along one leading axis; these have:\n"
            "  batches[0] has 3\n  batches[1] has 4",
        ),
        (
            lambda: pt.train_step(total, optax.adam(1.0))(
                pt.TrainState(one(), optax.adam(1.0).init({"w": jnp.ones(3)})), 1.0
            ),
            "train_step: the optimiser's state is not that of what is trained here; make it with step.init:\n"
            "  0/mu/w is of shape=(3,), dtype=float32, and would be of shape=(2,), dtype=float32\n"
            "  0/nu/w is of shape=(3,), dtype=float32, and would be of shape=(2,), dtype=float32",
        ),
        (
            lambda: pt.train_step(total, optax.sgd(1.0, momentum=0.9))(
                pt.TrainState(one(), pt.cast(optax.sgd(1.0, momentum=0.9).init(one()), {".*": "float16"})),
                1.0,
            ),
            "train_step: the optimiser's state is not that of what is trained here; make it with step.init:\n"
            "  0/trace/w is of shape=(2,), dtype=float16, and would be of shape=(2,), dtype=float32",
        ),
        (
            lambda: (
                step := pt.train_step(total, optax.sgd(1.0), precision={"c": "float16", "w|d": "bfloat16"})
            )(step.init({**one(), "cc": pt.Fixed(jnp.ones(1)), "d": pt.Fixed(jnp.ones(1))}), 1.0),
            "rules do not fit the tree of 3 parameters:\n  rule 0 'c' hits nothing. Did you mean '.*c'? "
            "Nearest: cc.",
        ),
        (
            lambda: (step := pt.train_step(total, optax.sgd(1.0), precision={"c.*": "float16"}))(
                step.init({**one(), "cc": pt.Fixed(jnp.ones(1))}), 1.0
            ),
            "train_step: precision leaves constants as they are, unless a rule spells out the whole name:\n"
            "  rule 0 'c.*' hits only cc",
        ),
    ],
)
def test_what_cannot_be_is_told(make, message):
    with pytest.raises(pt.ParamTreeError) as caught:
        make()
    assert str(caught.value) == message


def test_without_optax_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optax", None)
    with pytest.raises(pt.ParamTreeError) as caught:
        pt.group_optimizers({})
    assert str(caught.value) == (
        "group_optimizers needs optax. Install it with: pip install 'paramtree-jax[train]'."
    )


@pytest.mark.parametrize("packed", [False, True])
def test_what_none_freezes_stays_whatever_follows_the_groups_in_a_chain(packed):
    rules = {"f/.*": None, ".*": optax.scale_by_adam()}
    chained = optax.chain(pt.group_optimizers(rules), optax.add_decayed_weights(0.1), optax.scale(-0.1))
    params = {"a": {"w": jnp.ones(2), "b": jnp.ones(1)}, "f": {"w": jnp.array([-0.0, 1.0]), "b": jnp.ones(3)}}
    loss_fn = lambda params, batch: sum((leaf * batch).sum() for leaf in jax.tree.leaves(params))
    step = pt.train_step(loss_fn, chained)
    state = step.init(pt.fuse(params, rules) if packed else params)
    for _ in range(3):
        state, _ = step(state, 1.0)
    after = pt.unfuse(state.params)
    assert jax.tree.map(lambda leaf: leaf.tobytes(), after["f"]) == jax.tree.map(
        lambda leaf: leaf.tobytes(), params["f"]
    )
    assert pt.diff(after, params, select="a/.*")


def test_a_loss_that_takes_a_key_or_none_and_what_is_no_state_are_told():
    keyed = pt.train_step(lambda params, batch, key: params["w"].sum(), optax.sgd(0.1))
    with pytest.raises(pt.ParamTreeError) as caught:
        keyed(keyed.init({"w": jnp.ones(2)}), 0.0)
    assert str(caught.value) == (
        "train_step: calls the loss function with (params, batch), as the state has no key, which it does "
        "not take: missing a required argument: 'key'. Change it, or give step.init(params, key) a key."
    )
    plain = pt.train_step(lambda params, batch: params["w"].sum(), optax.sgd(0.1))
    with pytest.raises(pt.ParamTreeError) as caught:
        plain(plain.init({"w": jnp.ones(2)}, jax.random.key(0)), 0.0)
    assert str(caught.value) == (
        "train_step: calls the loss function with (params, batch, key), as the state has a key, which it "
        "does not take: too many positional arguments. Change it, or leave the key out of step.init."
    )
    with pytest.raises(pt.ParamTreeError, match=r"the state that step\.init\(params\) makes, and got a dict"):
        plain({"w": jnp.ones(2)}, 0.0)
