"""Norm layers: their formulas, statistics, precision and messages, and what JAX may do with them."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import paramtree as pt
from paramtree import init, nn
from paramtree.nn.moments import moments

KEY = jax.random.key(5)
X = np.random.default_rng(0).normal(3, 2, (4, 3, 2, 6)).astype(np.float32)


def normed(x, axes, eps):
    """Normalise in float64, the plain way."""
    x = np.asarray(x, np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def grouped(x, groups, eps):
    """Normalise channels that come last, by groups."""
    split = np.asarray(x).reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return normed(split, (*range(1, x.ndim - 1), x.ndim), eps).reshape(x.shape)


def vector(size, start=1.0, dtype="float32"):
    return np.linspace(start, start + 1, size).astype(dtype)


def batchnorm(size, dtype="float32"):
    keys = ("gamma", "beta", "running_mean", "running_var")
    values = {key: jnp.asarray(vector(size, start), dtype) for start, key in enumerate(keys)}
    return values | {key: pt.Fixed(values[key]) for key in keys[2:]}


def stats(params):
    return {name: np.asarray(leaf) for name, leaf in pt.collect_params(params, ".*running_.*").items()}


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


# --- formulas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "channel"), [(-1, 3), (1, 1), (0, 0), (-2, 2)])
def test_batchnorm_is_its_formula(axis, channel):
    layer = nn.BatchNorm(axis=axis, momentum=0.7, eps=0.01)
    size, others = X.shape[channel], tuple(other for other in range(4) if other != channel)
    params = batchnorm(size)
    shape = [size if other == channel else 1 for other in range(4)]
    gamma, beta, mean, variance = (vector(size, start).reshape(shape) for start in range(4))
    np.testing.assert_allclose(
        layer.apply(params, X), (X - mean) / np.sqrt(variance + 0.01) * gamma + beta, rtol=1e-5, atol=1e-5
    )
    out, new = layer.apply_and_update(params, X)
    np.testing.assert_allclose(out, normed(X, others, 0.01) * gamma + beta, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out, layer.apply(params, X, train=True))
    wide = X.astype(np.float64)
    np.testing.assert_allclose(
        new["running_mean"].value, 0.7 * mean.ravel() + 0.3 * wide.mean(others), rtol=1e-6
    )
    np.testing.assert_allclose(
        new["running_var"].value, 0.7 * variance.ravel() + 0.3 * wide.var(others), rtol=1e-6
    )
    for key in ("gamma", "beta"):
        assert new[key] is params[key]


@pytest.mark.parametrize("momentum", [0, 1])
def test_batchnorm_that_keeps_nothing_or_all(momentum):
    layer, params = nn.BatchNorm(momentum=momentum), batchnorm(6)
    new = stats(layer.apply_and_update(params, X)[1])
    wanted = (
        stats(params) if momentum else {"running_mean": X.mean((0, 1, 2)), "running_var": X.var((0, 1, 2))}
    )
    for name, value in new.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5)


@pytest.mark.parametrize(("axis", "axes"), [(-1, (3,)), (1, (1,)), ((-1, 1), (1, 3)), ([1, 2, 3], (1, 2, 3))])
def test_layernorm_and_rmsnorm_are_their_formulas(axis, axes):
    sizes = [X.shape[each] for each in axes]
    gamma = vector(np.prod(sizes)).reshape(sizes)
    along = np.expand_dims(gamma, [each for each in range(4) if each not in axes])
    layer = nn.LayerNorm(axis=axis, eps=0.01)
    out = layer.apply({"gamma": gamma, "beta": -2 * gamma}, X)
    np.testing.assert_allclose(out, normed(X, axes, 0.01) * along - 2 * along, rtol=1e-5, atol=1e-5)
    layer = nn.RMSNorm(axis=axis, eps=0.01)
    square = (X.astype(np.float64) ** 2).mean(axes, keepdims=True)
    out = layer.apply({"gamma": gamma}, X)
    np.testing.assert_allclose(out, X / np.sqrt(square + 0.01) * along, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("rank", [2, 3, 4, 5])
@pytest.mark.parametrize("per_group", [False, True])
def test_groupnorm_is_its_formula(groups, rank, per_group):
    x = np.random.default_rng(rank).normal(2, 3, (*(3, 4, 2, 3)[: rank - 1], 6)).astype(np.float32)
    gamma = vector(groups if per_group else 6)
    params = {"gamma": gamma, "beta": 1 - gamma}
    full = np.repeat(gamma, 6 // groups) if per_group else gamma
    wanted = grouped(x, groups, 0.01) * full + 1 - full
    layer = nn.GroupNorm(groups, eps=0.01, per_group=per_group)
    np.testing.assert_allclose(layer.apply(params, x), wanted, rtol=1e-5, atol=2e-6)
    first = nn.GroupNorm(groups, eps=0.01, per_group=per_group, layout="NCHW")
    out = first.apply(params, np.moveaxis(x, -1, 1))
    np.testing.assert_allclose(np.moveaxis(out, 1, -1), wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_instancenorm_is_its_formula(rank):
    x = np.random.default_rng(rank).normal(2, 3, (*(3, 4, 2, 3)[: rank - 1], 6)).astype(np.float32)
    params = {"gamma": vector(6), "beta": vector(6, 4.0)}
    wanted = normed(x, tuple(range(1, rank - 1)), 0.01) * params["gamma"] + params["beta"]
    out = nn.InstanceNorm(eps=0.01).apply(params, x)
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)
    out = nn.InstanceNorm(eps=0.01, layout="NCHW").apply(params, np.moveaxis(x, -1, 1))
    np.testing.assert_allclose(np.moveaxis(out, 1, -1), wanted, rtol=1e-5, atol=1e-5)


MAKERS = {
    "BatchNorm": nn.BatchNorm, "LayerNorm": nn.LayerNorm, "InstanceNorm": nn.InstanceNorm,
    "GroupNorm": lambda **kw: nn.GroupNorm(2, **kw),
}  # fmt: skip
ALL = MAKERS | {"RMSNorm": nn.RMSNorm}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
every_norm = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


@every_maker
@pytest.mark.parametrize("train", [False, True])
def test_without_scale_or_center(make, train):
    full = make()
    params = full.init(KEY, X)
    plain = full.apply(params, X, train=train)
    for scale, center in ((False, True), (True, False), (False, False)):
        layer = make(scale=scale, center=center)
        found = layer.init(KEY, X)
        wanted = {key for key, kept in (("gamma", scale), ("beta", center)) if kept}
        assert {name for name in found if "running" not in name} == wanted
        np.testing.assert_allclose(layer.apply(found, X, train=train), plain, rtol=1e-6, atol=1e-6)


def test_parameters_and_their_first_values():
    net = nn.Sequential(nn.Dense(4), nn.BatchNorm(), nn.LayerNorm(), nn.BatchNorm(axis=1))
    params = net.init(KEY, jnp.ones((2, 3)), init=init.Normal(1.0))  # which they do not take
    first = {"gamma": 1, "beta": 0, "running_mean": 0, "running_var": 1}
    names = [f"{block}/{key}" for block in ("batchnorm0", "batchnorm1") for key in first]
    assert [name for name in pt.names(params) if name.startswith("batchnorm")] == names
    for name in (*names, "layernorm0/gamma", "layernorm0/beta"):
        np.testing.assert_array_equal(pt.get(params, name), np.full(4, first[name.split("/")[1]], np.float32))
    assert list(pt.collect_params(params, lambda _, leaf: isinstance(leaf, pt.Fixed))) == [
        name for name in names if "running" in name
    ]


# --- precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_large_mean_costs_no_digits(make):
    x = np.random.default_rng(1).normal(1e4, 1, (16, 9, 8, 6)).astype(np.float32)
    wanted = {
        "batchnorm": lambda: normed(x, (0, 1, 2), 1e-5), "layernorm": lambda: normed(x, 3, 1e-5),
        "instancenorm": lambda: normed(x, (1, 2), 1e-5), "groupnorm": lambda: grouped(x, 2, 1e-5),
    }  # fmt: skip
    layer = make()
    params = layer.init(KEY, x)
    out = jax.jit(lambda p: layer.apply(p, x, train=True))(params)
    np.testing.assert_allclose(out, wanted[layer.title.lower()](), rtol=0, atol=3e-6)
    if layer.title == "BatchNorm":
        new = stats(nn.BatchNorm(momentum=0).apply_and_update(params, x)[1])
        wide = x.astype(np.float64)
        np.testing.assert_allclose(new["running_mean"], wide.mean((0, 1, 2)), rtol=1.2e-7)
        np.testing.assert_allclose(new["running_var"], wide.var((0, 1, 2)), rtol=1e-6)


def test_a_second_step_makes_up_for_a_poor_mean():
    x = jnp.linspace(1e4, 1e4 + 50, 64)
    poor = lambda x: x.mean(keepdims=True).astype("bfloat16").astype("float32")  # to the next multiple of 64
    assert abs(poor(x) - 10025) > 5
    centred, mean, variance = moments(x, poor)
    np.testing.assert_allclose(mean, [10025], atol=0.2)
    np.testing.assert_allclose(centred, x - 10025, atol=0.2)
    np.testing.assert_allclose(variance, [np.asarray(x).var()], rtol=0.01)


@every_norm
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kept", ["narrow", "float32"])
@pytest.mark.parametrize("train", [False, True])
def test_narrow_inputs_are_normalised_in_float32(make, dtype, kept, train):
    layer = make()
    x = (100 * X).astype(jnp.dtype(dtype))  # squares of which float16 cannot hold
    params = pt.cast(layer.init(KEY, X), {".*": dtype if kept == "narrow" else kept})
    out = layer.apply(params, x, train=train)
    assert out.dtype == dtype
    wanted = layer.apply(layer.init(KEY, X), x.astype(np.float32), train=train)
    np.testing.assert_array_equal(np.asarray(out), np.asarray(wanted.astype(dtype)))
    if train:
        new = layer.apply_and_update(params, x)[1]
        assert jax.tree.structure(new) == jax.tree.structure(params)
        assert jax.tree.all(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), new, params))


@every_norm
def test_float64_is_computed_in_float64(make):
    with jax.enable_x64(True):
        layer, x = make(), X.astype(np.float64)
        params = jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), layer.init(KEY, x))
        out, new = layer.apply_and_update(params, x)
        assert out.dtype == np.float64
        assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(new))
        axes = {"BatchNorm": (0, 1, 2), "LayerNorm": 3, "InstanceNorm": (1, 2)}
        if layer.title in axes:
            np.testing.assert_allclose(out, normed(x, axes[layer.title], 1e-5), rtol=1e-12, atol=1e-13)
        wide = layer.apply(layer.init(KEY, x), x)  # parameters of float32
        assert wide.dtype == np.float64


@every_norm
def test_integers_are_normalised_as_float32(make):
    layer = make()
    x = np.arange(24, dtype=np.int32).reshape(2, 2, 6)
    params = layer.init(KEY, x)
    out = layer.apply(params, x)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, layer.apply(params, x.astype(np.float32)))


@every_norm
@pytest.mark.parametrize("value", [0.0, 1.0, 1e6 / 3])
def test_constant_rows_are_finite(make, value):
    layer = make()
    x = jnp.full((4, 3, 6), value)
    params = layer.init(KEY, x)

    @jax.jit
    def both(params, x):
        loss = lambda p, x: (layer.apply(p, x, train=True) ** 2 + layer.apply(p, x, train=True)).sum()
        return layer.apply(params, x, train=True), jax.grad(loss, (0, 1))(params, x)

    out, grads = both(params, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((out, grads)))
    if layer.title != "RMSNorm":
        np.testing.assert_allclose(out, np.zeros_like(out), atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
@every_norm
def test_gradients_against_numerical_differences(make, train):
    with jax.enable_x64(True):
        layer, x = make(), X.astype(np.float64)
        params = layer.init(KEY, x, init={".*": init.Normal(1.0)})
        params = jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), params)
        part = pt.collect_params(params, pt.trainable)
        weights = np.random.default_rng(2).normal(size=X.shape)

        def loss(part, x):
            return (layer.apply(pt.update(params, part), x, train=train) * weights).sum()

        check_grads(jax.jit(loss), (part, x), 1, ["rev"], atol=1e-4, rtol=1e-4)


# --- running statistics -------------------------------------------------------------------------------------


def make_net():
    return nn.Sequential(nn.Dense(5, "relu"), nn.BatchNorm(momentum=0.5), nn.Dense(2))


XS = np.random.default_rng(3).normal(1, 2, (7, 8, 4)).astype(np.float32)


def trained(net, params):
    """Update eagerly by each batch in turn."""
    for x in XS:
        params = net.apply_and_update(params, x)[1]
    return params


def close(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, wanted)


def test_statistics_are_only_changed_by_apply_and_update():
    net = make_net()
    params = net.init(KEY, XS[0])
    before = jax.tree.map(np.array, params)
    net.apply(params, XS[0])
    net.apply(params, XS[0], train=True)
    net.apply_and_update(params, XS[0])
    jax.tree.map(np.testing.assert_array_equal, params, before)
    after = stats(net.apply_and_update(params, XS[0])[1])
    assert all((value != stats(params)[name]).all() for name, value in after.items())


def test_updates_in_a_scan_under_jit_and_with_donation():
    net = make_net()
    params = net.init(KEY, XS[0])
    wanted = trained(net, params)

    @jax.jit
    def scanned(params, xs):
        return jax.lax.scan(lambda params, x: net.apply_and_update(params, x)[::-1], params, xs)

    close(scanned(params, XS)[0], wanted)
    step = jax.jit(lambda params, x: net.apply_and_update(params, x)[1], donate_argnums=0)
    donated = jax.tree.map(jnp.copy, params)
    for x in XS:
        old, donated = donated, step(donated, x)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    close(donated, wanted)


def test_updates_of_independent_models_under_vmap():
    net = make_net()
    models = [net.init(jax.random.key(seed), XS[0]) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    outs, new = jax.jit(jax.vmap(net.apply_and_update))(stacked, XS[:3])
    for index, params in enumerate(models):
        out, wanted = net.apply_and_update(params, XS[index])
        np.testing.assert_allclose(outs[index], out, rtol=2e-5, atol=1e-6)
        close(jax.tree.map(lambda leaf, index=index: leaf[index], new), wanted)


def test_updates_beside_a_gradient():
    net = make_net()
    params = net.init(KEY, XS[0])

    def loss(params, x):
        y, new = net.apply_and_update(params, x)
        return (y**2).mean(), new

    grads, new = jax.jit(jax.grad(loss, has_aux=True))(params, XS[0])
    close(new, net.apply_and_update(params, XS[0])[1])
    assert not any(value.any() for value in stats(grads).values())
    for name in ("dense0/weight", "batchnorm0/gamma", "batchnorm0/beta"):
        assert np.asarray(pt.get(grads, name)).any()


def test_training_lowers_a_loss_and_predicts_alike():
    net = make_net()
    params = net.init(KEY, XS[0], init=init.Xavier())
    x = XS.reshape(-1, 4)
    target = np.stack([x[:, 0] - x[:, 1], x[:, 2] ** 2], 1)

    def loss(params):
        y, new = net.apply_and_update(params, x)
        return ((y - target) ** 2).mean(), new

    @jax.jit
    def step(params, _):
        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, new, grads), value

    params, losses = jax.lax.scan(step, params, length=200)
    assert losses[-1] < losses[0] / 3
    predicted = ((net.apply(params, x) - target) ** 2).mean()
    np.testing.assert_allclose(predicted, losses[-1], rtol=0.02)  # by now the statistics are the batch's


def test_one_batchnorm_used_twice_updates_twice():
    layer = nn.BatchNorm(momentum=0.5)
    tied = nn.BatchNorm(momentum=0.5, params=layer)
    for other, keys in ((layer, {"batchnorm0"}), (tied, {"batchnorm0", "batchnorm1"})):

        @pt.module
        def Twice(scope, x, other=other):
            return scope.call(other, 3 * scope.call(layer, x) + 1)

        params = Twice.init(KEY, XS[0])
        assert params.keys() == keys
        assert len(jax.tree.leaves(params)) == 4
        out, new = jax.jit(Twice.apply_and_update)(params, XS[0])
        first = normed(XS[0], 0, 1e-5)
        np.testing.assert_allclose(out, normed(3 * first + 1, 0, 1e-5), rtol=1e-4, atol=1e-5)
        mean = 0.5 * (0.5 * XS[0].mean(0)) + 0.5 * (3 * first + 1).mean(0)
        np.testing.assert_allclose(stats(new)["batchnorm0/running_mean"], mean, rtol=1e-5, atol=1e-6)
        assert new.get("batchnorm1") == params.get("batchnorm1")


def test_frozen_and_unfrozen_trees():
    net = make_net()
    params = net.init(KEY, XS[0])
    frozen = pt.freeze(params, ".*gamma|.*beta")
    assert list(pt.collect_params(frozen, pt.trainable)) == [
        "dense0/weight", "dense0/bias", "dense1/weight", "dense1/bias"
    ]  # fmt: skip
    out, new = net.apply_and_update(frozen, XS[0])
    np.testing.assert_array_equal(out, net.apply_and_update(params, XS[0])[0])
    close(pt.unfreeze(new, ".*gamma|.*beta"), net.apply_and_update(params, XS[0])[1])
    grads = jax.grad(lambda p: (net.apply(p, XS[0]) ** 2).sum())(frozen)
    assert not np.asarray(grads["batchnorm0"]["gamma"].value).any()


def test_statistics_that_were_unfrozen_get_no_gradient_and_are_still_updated():
    net = make_net()
    params = net.init(KEY, XS[0])
    assert jax.tree.structure(pt.unfreeze(params)) == jax.tree.structure(params)
    bare = pt.unfreeze(params, ["batchnorm0/running_mean", "batchnorm0/running_var"])
    for train in (False, True):
        grads = jax.grad(lambda p, train=train: (net.apply(p, XS[0], train=train) ** 3).sum())(bare)
        assert not any(value.any() for value in stats(grads).values())
    new = net.apply_and_update(bare, XS[0])[1]
    assert jax.tree.structure(new) == jax.tree.structure(bare)
    close(stats(new), stats(net.apply_and_update(params, XS[0])[1]))


def test_saved_and_loaded(tmp_path):
    net = make_net()
    params = trained(net, net.init(KEY, XS[0]))
    pt.save(params, tmp_path / "net.safetensors")
    loaded = pt.load(tmp_path / "net.safetensors")
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    np.testing.assert_array_equal(net.apply(loaded, XS[0]), net.apply(params, XS[0]))


def test_reinit_draws_statistics_anew_by_their_whole_name_only():
    net = make_net()
    params = trained(net, net.init(KEY, XS[0]))
    again = pt.reinit(KEY, params, {".*": init.Constant(7.0)})
    assert (again["batchnorm0"]["gamma"] == 7).all()
    jax.tree.map(np.testing.assert_array_equal, stats(again), stats(params))
    reset = pt.reinit(KEY, params, {"batchnorm0/running_mean": init.Zeros()})
    assert not stats(reset)["batchnorm0/running_mean"].any()


# --- symbolic sizes -----------------------------------------------------------------------------------------


@every_norm
def test_training_is_exported_with_a_symbolic_batch(make):
    layer = make()
    params = layer.init(KEY, X)
    batch = jax.export.symbolic_shape("batch")
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), pt.resolve(params))
    shape = jax.ShapeDtypeStruct((*batch, *X.shape[1:]), jnp.float32)
    fixed = jax.jit(lambda p, x: layer.apply(p, x, train=True))
    exported = jax.export.export(fixed)(abstract, shape)
    wanted = layer.apply(params, X, train=True)
    np.testing.assert_allclose(exported.call(pt.resolve(params), X), wanted, rtol=1e-5, atol=1e-5)
    rows = jax.ShapeDtypeStruct((*batch, 6), jnp.float32)
    if layer.title == "BatchNorm":  # as many values for each channel as the batch has: not known to be one
        out, new = jax.eval_shape(layer.apply_and_update, params, rows)
        assert out.shape == rows.shape
        assert new["running_mean"].shape == (6,)


# --- messages -----------------------------------------------------------------------------------------------


def test_training_batchnorm_on_one_value_or_none():
    net = nn.Sequential(nn.Dense(3), nn.Sequential(nn.BatchNorm(), name="block"))
    params = net.init(KEY, jnp.ones((2, 4)))
    text = (
        "block/batchnorm0(float32[{},3]) needs more than one value for each channel to train on, and got {}. "
        "Pass a larger batch, and check axis=, which is where the channels are."
    )
    for size, found in ((1, "one"), (0, "none")):
        x = jnp.ones((size, 4))
        for run in (net.apply_and_update, lambda p, x: net.apply(p, x, train=True)):
            for call in (run, jax.jit(run)):
                assert message(pt.MismatchError, lambda call=call, x=x: call(params, x)) == text.format(
                    size, found
                )
        assert net.apply(params, x).shape == (size, 3)
    assert net.apply(params, jnp.ones((2, 4)), train=True).shape == (2, 3)  # two are enough
    image = nn.BatchNorm().init(KEY, X)
    assert np.isfinite(nn.BatchNorm().apply(image, X[:1], train=True)).all()  # many values, of one sample
    alone = "BatchNorm(float32[6]) needs more than one value for each channel to train on, and got one. "
    assert message(
        pt.MismatchError, lambda: jax.vmap(lambda x: nn.BatchNorm().apply(image, x, train=True))(X[:, 0, 0])
    ).startswith(alone)


@pytest.mark.parametrize("axis", ["1", None, 1.0, True, (1,), [1, 2]])
def test_batchnorm_of_a_bad_axis(axis):
    assert message(pt.ParamTreeError, lambda: nn.BatchNorm(axis=axis)) == (
        f"BatchNorm needs axis to be an integer, and got {axis!r}."
    )


@pytest.mark.parametrize("axis", ["1", None, 1.0, True, (), (1, 1), (1, "2"), {1}])
@pytest.mark.parametrize("make", [nn.LayerNorm, nn.RMSNorm])
def test_layernorm_of_a_bad_axis(make, axis):
    assert message(pt.ParamTreeError, lambda: make(axis=axis)) == (
        f"{make.__name__} needs axis to be an integer, or different integers, and got {axis!r}."
    )


def test_axes_that_the_input_has_not():
    x = jnp.ones((2, 3))
    for layer in (nn.BatchNorm(axis=2), nn.LayerNorm(axis=(0, 2)), nn.RMSNorm(axis=2)):
        assert message(pt.MismatchError, lambda layer=layer: layer.init(KEY, x)) == (
            f"{layer.title}(float32[2,3]) needs an input with an axis 2, and got 2 axes."
        )
    assert message(pt.MismatchError, lambda: nn.BatchNorm().init(KEY, 1.0)) == (
        "BatchNorm(float32[]) needs an input with an axis -1, and got 0 axes."
    )
    net = nn.Sequential(nn.LayerNorm(axis=(1, -1), name="last"))
    assert message(pt.MismatchError, lambda: net.init(KEY, x)) == (
        "last(float32[2,3]) needs different axes, and of 2 axes (1, -1) are not."
    )


@pytest.mark.parametrize("eps", [0, -1e-5, "1e-5", None, float("nan"), float("inf"), True, 1j])
@every_norm
def test_a_bad_eps(make, eps):
    title = make().title
    assert message(pt.ParamTreeError, lambda: make(eps=eps)) == (
        f"{title} needs eps to be a number above 0, and got {eps!r}."
    )


@pytest.mark.parametrize("momentum", [-0.1, 1.5, "0.9", None, float("nan"), False])
def test_a_bad_momentum(momentum):
    assert message(pt.ParamTreeError, lambda: nn.BatchNorm(momentum=momentum)) == (
        f"BatchNorm needs momentum to be a number in [0, 1], and got {momentum!r}."
    )


@pytest.mark.parametrize("layout", ["NWC", "nhwc", None, -1, ["NHWC"]])
@pytest.mark.parametrize("make", [nn.InstanceNorm, lambda **kw: nn.GroupNorm(2, **kw)])
def test_a_bad_layout(make, layout):
    title = make().title
    assert message(pt.ParamTreeError, lambda: make(layout=layout)) == (
        f"{title} needs layout to be 'NHWC' or 'NCHW', for any number of axes, and got {layout!r}."
    )


def test_groups_that_do_not_divide_the_channels():
    net = nn.Sequential(nn.Dense(6), nn.GroupNorm(4))
    assert message(pt.MismatchError, lambda: net.init(KEY, jnp.ones((2, 5)))) == (
        "groupnorm0(float32[2,6]) needs channels that make 4 groups of one size, and got 6."
    )
    assert message(pt.MismatchError, lambda: net.specs("batch, 5")) == (
        "groupnorm0(float32[batch,6]) needs channels that make 4 groups of one size, and got 6."
    )
    assert message(pt.ParamTreeError, lambda: nn.GroupNorm(0)) == (
        "GroupNorm needs groups to be an integer of at least 1, and got 0."
    )


def test_inputs_of_too_few_axes():
    assert message(pt.MismatchError, lambda: nn.GroupNorm(2).init(KEY, jnp.ones(4))) == (
        "GroupNorm(float32[4]) needs an input of at least 2 axes, the batch and the channels, and got 1."
    )
    assert message(pt.MismatchError, lambda: nn.InstanceNorm().init(KEY, jnp.ones((3, 4)))) == (
        "InstanceNorm(float32[3,4]) needs an input of at least 3 axes, the batch, at least one spatial axis "
        "and the channels, and got 2."
    )


@every_norm
def test_complex_numbers(make):
    layer = make(name="norm")
    assert message(
        pt.MismatchError, lambda: nn.Sequential(layer).init(KEY, jnp.ones((2, 2, 2), jnp.complex64))
    ) == ("norm(complex64[2,2,2]) needs real numbers.")


def test_options_of_numpy_do_not_widen():
    layer = nn.BatchNorm(momentum=np.float64(0.5), eps=np.float64(0.1), axis=np.int64(-1))
    params = layer.init(KEY, XS[0])
    out, new = layer.apply_and_update(params, XS[0])
    assert {leaf.dtype for leaf in jax.tree.leaves((out, new))} == {np.dtype("float32")}
    assert repr(layer) == "BatchNorm(momentum 0.5, eps 0.1)"


def test_how_they_print_what_is_left_out():
    net = nn.Sequential(nn.BatchNorm(scale=False, center=False), nn.LayerNorm(scale=False, center=False))
    params = net.init(KEY, XS[0])
    assert repr(pt.bind(net, params)) == (
        "Sequential(\n  (0) batchnorm0: BatchNorm(4, no scale, no center)\n"
        "  (1) layernorm0: LayerNorm(no scale, no center)\n)"
    )
