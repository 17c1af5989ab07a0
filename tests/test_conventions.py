"""Ready rule sets: nets of other libraries, their arrays in our nets, equal outputs, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree import nn
from paramtree.renaming import find_moves, haiku, invert, linen, nnx, torch

KEY = jax.random.key(0)
IMAGES = jax.random.normal(KEY, (2, 8, 8, 3))
STEPS = jax.random.normal(KEY, (2, 5, 6))
IDS = jnp.array([[1, 2, 3, 0], [4, 4, 0, 2]])


def specs_of(arrays):
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}


def moved(arrays, rename):
    """Do what the moves say, and check that the shapes were told before."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    specs = specs_of(arrays)
    moves, faults = find_moves(specs, rename)
    assert faults == []
    assert sorted(source for move in moves for source in move.sources) == sorted(arrays)
    found = {}
    for move in moves:
        values = move.apply([arrays[source] for source in move.sources])
        if not move.targets:
            continue
        for value, told in zip(values, move.specs(specs), strict=True):
            assert (value.shape, value.dtype) == (told.shape, told.dtype)
        for target, value in zip(move.targets, values, strict=True):
            assert target not in found
            found[target] = value
    return found


def named(tree):
    return {name: np.asarray(leaf) for name, leaf in pt.collect_params(tree).items()}


def randomized(tree, seed=0):
    """Give every array values that tell it from all others; variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if not jnp.issubdtype(leaf.dtype, np.floating):
            return leaf
        return jnp.asarray(rng.uniform(0.1, 0.6, leaf.shape) * rng.choice([1, 1, -1], leaf.shape), leaf.dtype)

    def positive(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        keep = "var" in name and jnp.issubdtype(leaf.dtype, np.floating)
        return jnp.abs(draw(leaf)) if keep else draw(leaf)

    return jax.tree_util.tree_map_with_path(positive, tree)


def filled(net, inputs, arrays):
    """Put arrays into our net: each of its parameters, and nothing else."""
    params = net.init(KEY, *inputs)
    assert sorted(arrays) == sorted(pt.names(params))
    return pt.update(params, {name: jnp.asarray(array) for name, array in arrays.items()})


def assert_same(theirs, net, arrays, *inputs, atol=1e-5):
    """The outputs of another library's net are those of ours with these arrays."""
    ours = jax.jit(net.apply)(filled(net, inputs, arrays), *inputs)
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=atol, rtol=1e-5)


def assert_back(arrays, rename, left_out=(), new=None):
    """The inverse gives their names and arrays, bit for bit."""
    back = moved(moved(arrays, rename) if new is None else new, invert(rename))
    assert sorted(back) == sorted(set(arrays) - set(left_out))
    for name, array in back.items():
        theirs = np.asarray(arrays[name])
        assert array.dtype == theirs.dtype
        assert array.shape == theirs.shape
        assert np.ascontiguousarray(array).tobytes() == np.ascontiguousarray(theirs).tobytes()


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


# our nets


@pt.module
def CNN(scope, x):
    x = scope.call(nn.Conv(4, 3, padding="same"), x, name="conv0")
    x = jax.nn.relu(scope.call(nn.BatchNorm(), x, name="batchnorm0"))
    x = scope.call(nn.Conv(6, (3, 2), stride=2, padding="same", use_bias=False), x, name="conv1")
    x = jax.nn.relu(scope.call(nn.GroupNorm(2), x, name="groupnorm0"))
    x = scope.call(nn.ConvTranspose(6, (3, 2), stride=2, padding="same"), x, name="convtranspose0")
    return scope.call(nn.Dense(3), x.mean((1, 2)), name="dense0")


def mlp(width=4):
    return nn.Sequential(nn.Dense(width, "relu"), nn.Dense(3))


@pt.module
def Block(scope, x):
    x = x + scope.call(nn.MultiHeadAttention(2), scope.call(nn.LayerNorm(eps=1e-6), x))
    y = scope.call(nn.LayerNorm(eps=1e-6), x)
    y = scope.call(nn.Dense(6), scope.call(nn.Dense(12, "relu"), y))
    return x + y


@pt.module
def Transformer(scope, ids):
    x = scope.call(nn.Embedding(5, 6), ids)
    x = scope.call(Block, x, name="block0")
    x = scope.call(nn.RMSNorm(eps=1e-6), x)
    return scope.call(nn.Dense(5, use_bias=False), x)


# linen


def linen_nets():
    flax = pytest.importorskip("flax.linen")

    class LinenCNN(flax.Module):
        @flax.compact
        def __call__(self, x):
            x = flax.Conv(4, (3, 3))(x)
            x = flax.relu(flax.BatchNorm(use_running_average=True)(x))
            x = flax.Conv(6, (3, 2), strides=2, use_bias=False)(x)
            x = flax.relu(flax.GroupNorm(2, epsilon=1e-5)(x))
            x = flax.ConvTranspose(6, (3, 2), strides=(2, 2))(x)
            return flax.Dense(3)(x.mean((1, 2)))

    class LinenBlock(flax.Module):
        @flax.compact
        def __call__(self, x):
            y = flax.LayerNorm()(x)
            x = x + flax.MultiHeadDotProductAttention(2)(y, y)
            y = flax.LayerNorm()(x)
            y = flax.relu(flax.Dense(12)(y))
            return x + flax.Dense(6)(y)

    class LinenTransformer(flax.Module):
        @flax.compact
        def __call__(self, ids):
            x = LinenBlock(name="Block_0")(flax.Embed(5, 6)(ids))
            x = flax.RMSNorm()(x)
            return flax.Dense(5, use_bias=False)(x)

    class LinenMLP(flax.Module):
        @flax.compact
        def __call__(self, x):
            return flax.Dense(3, name="out")(flax.relu(flax.Dense(4)(x)))

    return LinenCNN(), LinenTransformer(), LinenMLP()


def test_linen_cnn():
    theirs = linen_nets()[0]
    variables = randomized(theirs.init(KEY, IMAGES))
    arrays = named(variables)
    new = moved(arrays, linen())
    assert_same(theirs.apply(variables, IMAGES), CNN, new, IMAGES)
    assert_back(arrays, linen())
    assert_back(arrays, linen(like=variables))


def test_linen_transformer():
    theirs = linen_nets()[1]
    variables = randomized(theirs.init(KEY, IDS))
    arrays = named(variables)
    new = moved(arrays, linen())
    assert_same(theirs.apply(variables, IDS), Transformer, new, IDS)
    assert_back(arrays, linen(like=variables))
    back = moved(new, invert(linen(heads=2)))
    assert back["params/block0/MultiHeadDotProductAttention_0/out/kernel"].shape == (2, 3, 6)
    assert "block0/multiheadattention0/query/weight" in new


def test_linen_names_of_attributes_and_files_without_collections():
    theirs = linen_nets()[2]
    variables = randomized(theirs.init(KEY, STEPS))
    rename = linen(blocks={"Dense_0": "dense0", "out": "dense1"}, collections=False)
    arrays = named(variables["params"])
    assert_same(theirs.apply(variables, STEPS), mlp(), moved(arrays, rename), STEPS)
    back = moved(moved(arrays, rename), invert(linen(blocks={"Dense_0": "dense0", "out": "dense1"})))
    assert sorted(back) == sorted(f"params/{name}" for name in arrays)
    assert_back(arrays, rename)
    assert sorted(moved(arrays, linen())) == ["dense0/bias", "dense0/weight", "out/bias", "out/weight"]


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 3, 2)])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_linen_transposed_convolutions(shape, flipped, padding):
    flax = pytest.importorskip("flax.linen")
    theirs = flax.ConvTranspose(
        4, shape, strides=(2,) * len(shape), padding=padding, transpose_kernel=flipped
    )
    x = jax.random.normal(KEY, (2, *(4,) * len(shape), 3))
    variables = randomized(theirs.init(KEY, x))
    arrays = {name.replace("params/", "params/up/"): array for name, array in named(variables).items()}
    new = moved(arrays, linen(transposed="up"))
    net = nn.Sequential(nn.ConvTranspose(4, shape, stride=2, padding=padding.lower(), name="up"))
    assert_same(theirs.apply(variables, x), net, new, x)
    assert_back(arrays, linen(transposed="up", like=arrays))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 3, 2)])
def test_linen_convolutions(shape, groups):
    flax = pytest.importorskip("flax.linen")
    theirs = flax.Conv(4, shape, strides=2, padding="VALID", feature_group_count=groups)
    x = jax.random.normal(KEY, (2, *(6,) * len(shape), 2))
    variables = randomized(theirs.init(KEY, x))
    net = nn.Conv(4, shape, stride=2, groups=groups)
    assert_same(theirs.apply(variables, x), net, moved(named(variables), linen()), x)
    assert_back(named(variables), linen(like=variables))


def test_linen_files_are_loaded_and_saved(tmp_path):
    serialization = pytest.importorskip("flax.serialization")
    theirs = linen_nets()[0]
    variables = randomized(theirs.init(KEY, IMAGES))
    (tmp_path / "net.msgpack").write_bytes(serialization.to_bytes(variables))
    arrays = named(serialization.msgpack_restore((tmp_path / "net.msgpack").read_bytes()))
    assert_same(theirs.apply(variables, IMAGES), CNN, moved(arrays, linen()), IMAGES)
    safetensors = pytest.importorskip("safetensors.flax")
    safetensors.save_file(arrays, tmp_path / "net.safetensors")
    params = pt.load(tmp_path / "net.safetensors", CNN.specs(IMAGES), rename=linen())
    np.testing.assert_allclose(CNN.apply(params, IMAGES), theirs.apply(variables, IMAGES), atol=1e-5)
    pt.save(params, tmp_path / "back.safetensors", rename=invert(linen()))
    back = safetensors.load_file(tmp_path / "back.safetensors")
    assert {name: array.tobytes() for name, array in back.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


def test_linen_messages():
    pytest.importorskip("flax.linen")
    theirs = linen_nets()[1]
    variables = theirs.init(KEY, IDS)
    new = moved(named(variables), linen())
    assert message(pt.RuleError, lambda: moved(new, invert(linen()))) == (
        "linen: these have no names there:\n"
        "  block0/multiheadattention0: how many heads it has is not known. Pass heads=."
    )
    tokens = {"tokens/weight": np.ones((3, 2)), "rnn/l0_h2h_bias": np.ones(4), "act/alpha": np.ones(2)}
    assert message(pt.RuleError, lambda: moved(tokens, invert(linen()))) == (
        "linen: these have no names there:\n"
        "  tokens/weight is of an Embedding, or of a Dense without bias. Pass like=.\n"
        "  rnn/l0_h2h_bias\n"
        "  act/alpha"
    )
    assert message(pt.RuleError, lambda: moved(tokens, invert(linen(like=variables)))).startswith(
        "linen: like= and the parameters do not fit:\n"
        "  params/Block_0/Dense_0/kernel: there is no block0/dense0/weight\n"
    )
    arrays = {"Dense_0/kernel": np.ones((3, 2))}
    assert message(pt.RuleError, lambda: moved(arrays, linen(blocks={"Dens_0": "a"}))) == (
        "linen: blocks= does not fit the blocks:\n  rule 0 'Dens_0' hits nothing. Nearest: Dense_0."
    )
    assert message(pt.RuleError, lambda: moved(arrays, linen(blocks={"Dense_0": None}))) == (
        "blocks=: 'Dense_0': None is not pattern -> template."
    )
    assert message(pt.NoMatchError, lambda: moved(arrays, linen(transposed="up"))) == (
        "select 'up' hits nothing; it must match the whole name. The names are Dense_0."
    )


def test_what_linen_has_and_we_do_not_keeps_its_keys():
    flax = pytest.importorskip("flax.linen")

    class Odd(flax.Module):
        @flax.compact
        def __call__(self, x):
            x = flax.RNN(flax.MGUCell(4))(x)
            x = flax.DenseGeneral((2, 3))(x).reshape(2, 5, 6)
            x = x * self.param("factor", lambda _: jnp.ones((1, 1, 6)))
            x = flax.WeightNorm(flax.Dense(2))(x)
            return flax.LayerNorm(use_scale=False)(x)

    new = moved(named(Odd().init(KEY, STEPS)), linen())
    assert {name for name in new if name.startswith("mgucell0/")} == {
        *(f"mgucell0/{gate}/weight" for gate in ("if", "in", "hf", "hn")),
        *(f"mgucell0/{gate}/bias" for gate in ("if", "in", "hn")),
    }
    assert {"densegeneral0/kernel", "densegeneral0/bias", "factor"} <= new.keys()
    assert "dense0/kernel/gamma" not in new
    assert new["layernorm0/bias"].shape == (2,)


def test_linen_leaves_other_collections_alone():
    arrays = {"params/Dense_0/bias": np.ones(2), "cache/Dense_0/bias": np.ones(2)}
    assert list(moved(arrays, linen())) == ["dense0/bias", "cache/Dense_0/bias"]


# NNX


def nnx_cnn(flax):
    rngs = flax.Rngs(0)

    class Net(flax.Module):
        def __init__(self):
            self.conv = flax.Conv(3, 4, (3, 3), rngs=rngs)
            self.norm = flax.BatchNorm(4, use_running_average=True, rngs=rngs)
            self.down = flax.Conv(4, 6, (3, 2), strides=2, use_bias=False, rngs=rngs)
            self.group = flax.GroupNorm(6, 2, epsilon=1e-5, rngs=rngs)
            self.up = flax.ConvTranspose(6, 6, (3, 2), strides=(2, 2), rngs=rngs)
            self.drop = flax.Dropout(0.5, deterministic=True, rngs=rngs)
            self.out = flax.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            x = jax.nn.relu(self.norm(self.conv(x)))
            x = jax.nn.relu(self.group(self.down(x)))
            return self.out(self.drop(self.up(x).mean((1, 2))))

    return Net()


NNX_BLOCKS = {
    "conv": "conv0",
    "norm": "batchnorm0",
    "down": "conv1",
    "group": "groupnorm0",
    "up": "convtranspose0",
    "out": "dense0",
}


@pytest.mark.parametrize("pure", [True, False])
def test_nnx_cnn(pure):
    flax = pytest.importorskip("flax.nnx")
    net = nnx_cnn(flax)
    graph, weights, rest = flax.split(net, (flax.Param, flax.BatchStat), ...)
    weights = randomized(weights)
    theirs = flax.merge(graph, weights, rest)(IMAGES)
    tree = flax.to_pure_dict(weights) if pure else weights
    arrays = named(tree)
    rename = nnx(blocks=NNX_BLOCKS, transposed="up", like=tree)
    assert all(name.endswith("/value") is not pure for name in arrays)
    assert_same(theirs, CNN, moved(arrays, rename), IMAGES)
    assert_back(arrays, rename)
    if pure:
        assert_back(arrays, nnx(blocks=NNX_BLOCKS, transposed="up"))


def test_nnx_keys_and_counts_are_left_out():
    arrays = {"drop/rngs/count/value": np.ones((), np.uint32), "drop/rngs/key/value": np.ones(2, np.uint32)}
    assert moved(arrays, nnx()) == {}


def test_nnx_transformer():
    flax = pytest.importorskip("flax.nnx")
    rngs = flax.Rngs(0)

    class NnxBlock(flax.Module):
        def __init__(self):
            self.norms = flax.List([flax.LayerNorm(6, rngs=rngs) for _ in range(2)])
            self.attention = flax.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
            self.layers = flax.List([flax.Linear(6, 12, rngs=rngs), flax.Linear(12, 6, rngs=rngs)])

        def __call__(self, x):
            x = x + self.attention(self.norms[0](x))
            return x + self.layers[1](jax.nn.relu(self.layers[0](self.norms[1](x))))

    class Net(flax.Module):
        def __init__(self):
            self.embed = flax.Embed(5, 6, rngs=rngs)
            self.block = NnxBlock()
            self.norm = flax.RMSNorm(6, rngs=rngs)
            self.out = flax.Linear(6, 5, use_bias=False, rngs=rngs)

        def __call__(self, ids):
            return self.out(self.norm(self.block(self.embed(ids))))

    graph, weights, rest = flax.split(Net(), flax.Param, ...)
    weights = randomized(weights)
    theirs = flax.merge(graph, weights, rest)(IDS)
    blocks = {
        "embed": "embedding0",
        r"block/norms/(\d)": r"block0/layernorm\1",
        "block/attention": "block0/multiheadattention0",
        r"block/layers/(\d)": r"block0/dense\1",
        "norm": "rmsnorm0",
        "out": "dense0",
    }
    arrays = named(flax.to_pure_dict(weights))
    rename = nnx(blocks=blocks, like=flax.to_pure_dict(weights))
    assert_same(theirs, Transformer, moved(arrays, rename), IDS)
    assert_back(arrays, rename)
    assert_back(arrays, nnx(blocks=blocks, heads=2))


# Haiku


def haiku_run(hk, function, *inputs):
    """Make a Haiku net, with random parameters and state: its outputs, and both as one tree."""
    net = hk.transform_with_state(function)
    params, state = net.init(KEY, *inputs)
    params, state = randomized(params), randomized(state, 1)
    return net.apply(params, state, None, *inputs)[0], {"params": params, "state": state}


def test_haiku_cnn():
    hk = pytest.importorskip("haiku")

    def cnn(x):
        x = hk.Conv2D(4, 3)(x)
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training=hk.running_init()))
        x = hk.Conv2D(6, (3, 2), stride=2, with_bias=False)(x)
        x = jax.nn.relu(hk.GroupNorm(2)(x))
        x = hk.Conv2DTranspose(6, (3, 2), stride=2)(x)
        return hk.Linear(3)(x.mean((1, 2)))

    theirs, tree = haiku_run(hk, cnn, IMAGES)
    arrays = named(tree)
    new = moved(arrays, haiku())
    assert_same(theirs, CNN, new, IMAGES)
    left_out = [name for name in arrays if name.endswith(("hidden", "counter"))]
    assert len(left_out) == 4
    assert_back(arrays, haiku(like=tree), left_out)
    bare = named(tree["params"])
    assert sorted(moved(bare, haiku())) == sorted(name for name in new if "running" not in name)
    assert_back(bare, haiku(like=tree["params"]))


def test_haiku_transformer():
    hk = pytest.importorskip("haiku")

    class TheirBlock(hk.Module):
        def __call__(self, x):
            y = hk.LayerNorm(-1, True, True, eps=1e-6)(x)
            x = x + hk.MultiHeadAttention(2, 3, w_init=hk.initializers.VarianceScaling())(y, y, y)
            y = hk.LayerNorm(-1, True, True, eps=1e-6)(x)
            y = jax.nn.relu(hk.Linear(12)(y))
            return x + hk.Linear(6)(y)

    def transformer(ids):
        x = hk.RMSNorm(-1, eps=1e-6)(TheirBlock(name="block0")(hk.Embed(5, 6)(ids)))
        return hk.Linear(5, with_bias=False)(x)

    theirs, tree = haiku_run(hk, transformer, IDS)
    arrays = named(tree["params"])
    assert_same(theirs, Transformer, moved(arrays, haiku()), IDS)
    assert_back(arrays, haiku(like=tree["params"]))


def test_haiku_mlp():
    hk = pytest.importorskip("haiku")
    theirs, tree = haiku_run(hk, lambda x: hk.nets.MLP([4, 3])(x), STEPS)
    arrays = named(tree["params"])
    assert sorted(arrays) == [f"mlp/~/linear_{at}/{key}" for at in (0, 1) for key in "bw"]
    rename = haiku(blocks={r"mlp/~/linear_(\d)": r"dense\1"}, like=tree["params"])
    assert_same(theirs, mlp(), moved(arrays, rename), STEPS)
    assert_back(arrays, rename)


@pytest.mark.parametrize("first", [True, False])
def test_haiku_channels_first(first):
    hk = pytest.importorskip("haiku")
    form, ours = ("NCHW", 1) if first else ("NHWC", -1)

    def net(x):
        norm = hk.BatchNorm(True, True, 0.9, data_format=form, name="norm")
        return norm(
            hk.Conv2D(4, 3, data_format=form, padding="VALID", name="conv")(x), is_training=hk.running_init()
        )

    theirs, tree = haiku_run(hk, net, jnp.ones((2, 5, 5, 5)))
    arrays = named(tree)
    net = nn.Sequential(nn.Conv(4, 3, layout=form, name="conv"), nn.BatchNorm(axis=ours, name="norm"))
    assert_same(theirs, net, moved(arrays, haiku()), jnp.ones((2, 5, 5, 5)))
    assert_back(arrays, haiku(like=tree), [name for name in arrays if name.endswith(("hidden", "counter"))])


def test_what_haiku_has_and_we_do_not_keeps_its_keys():
    hk = pytest.importorskip("haiku")

    def odd(x):
        hk.dynamic_unroll(hk.GRU(4), x, hk.GRU(4, name="other").initial_state(5))
        return hk.Bias()(x)

    arrays = named(haiku_run(hk, odd, STEPS)[1]["params"])
    assert sorted(moved(arrays, haiku())) == [
        "bias/b", "gru/b", "gru/w_h", "gru/w_i",
    ]  # fmt: skip
    assert message(pt.RuleError, lambda: moved(arrays, invert(haiku()))) == (
        "haiku: our names do not tell Haiku's. Pass like=, its parameters or their shapes."
    )


# recurrent layers


RECURRENT = {"LSTM": nn.LSTM, "OptimizedLSTM": nn.LSTM, "GRU": nn.GRU, "Simple": nn.RNN}


def assert_trained_back(net, arrays, rename):
    """What both biases hold after training goes back as their sum, and comes in again with equal outputs."""
    new = {name: array + np.float32(0.25) for name, array in moved(arrays, rename).items()}
    again = moved(moved(new, invert(rename)), rename)
    assert any(not np.array_equal(new[name], again[name]) for name in new)
    assert_same(jax.jit(net.apply)(filled(net, [STEPS], new), STEPS), net, again, STEPS)


@pytest.mark.parametrize("kind", RECURRENT)
def test_linen_recurrent_cells(kind):
    flax = pytest.importorskip("flax.linen")

    class Net(flax.Module):
        @flax.compact
        def __call__(self, x):
            return flax.RNN(getattr(flax, f"{kind}Cell")(4))(x)

    variables = randomized(jax.jit(Net().init)(KEY, STEPS))
    arrays = named(variables)
    net = nn.Sequential(RECURRENT[kind](4))
    assert_same(jax.jit(Net().apply)(variables, STEPS), net, moved(arrays, linen()), STEPS)
    assert_back(arrays, linen(like=variables))
    if kind != "OptimizedLSTM":  # which the names do not tell from LSTM
        assert_back(arrays, linen())
    assert_trained_back(net, arrays, linen(like=variables))


def test_files_of_recurrent_cells_are_loaded_and_saved(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = {
        f"params/LSTMCell_1/i{gate}/kernel": np.full((6, 4), at, "float32") for at, gate in enumerate("ifgo")
    }
    arrays |= {
        f"params/LSTMCell_1/h{gate}/kernel": np.full((4, 4), at, "float32") for at, gate in enumerate("ifgo")
    }
    arrays |= {f"params/LSTMCell_1/h{gate}/bias": np.full(4, at, "float32") for at, gate in enumerate("ifgo")}
    safetensors.save_file(arrays, tmp_path / "net.safetensors")
    like = nn.Sequential(nn.LSTM(4, name="lstm1")).specs(STEPS)
    params = pt.load(tmp_path / "net.safetensors", like, rename=linen())
    pt.save(params, tmp_path / "back.safetensors", rename=invert(linen()))
    back = safetensors.load_file(tmp_path / "back.safetensors")
    assert {name: array.tobytes() for name, array in back.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


@pytest.mark.parametrize("kind", RECURRENT)
def test_nnx_recurrent_cells(kind):
    flax = pytest.importorskip("flax.nnx")
    rngs = flax.Rngs(0)

    class Net(flax.Module):
        def __init__(self):
            self.rnn = flax.RNN(getattr(flax, f"{kind}Cell")(6, 4, rngs=rngs), rngs=rngs)
            self.act = flax.PReLU()
            self.out = flax.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.out(self.act(self.rnn(x)))

    graph, weights, rest = flax.split(Net(), flax.Param, ...)
    weights = randomized(weights)
    theirs = flax.merge(graph, weights, rest)(STEPS)
    tree = flax.to_pure_dict(weights)
    arrays = named(tree)
    options = {"blocks": {"rnn/cell": "rnn", "act": "act", "out": "dense0"}}
    net = nn.Sequential(RECURRENT[kind](4, name="rnn"), nn.PReLU(name="act"), nn.Dense(2))
    new = moved(arrays, nnx(**options))
    assert_same(theirs, net, new, STEPS)
    assert_back(arrays, nnx(**options, like=tree))
    if "LSTM" in kind:
        assert message(pt.RuleError, lambda: moved(new, invert(nnx(**options)))) == (
            "nnx: these have no names there:\n"
            "  rnn is an LSTM, of which there are two layouts there. Pass like=."
        )
    else:
        assert_back(arrays, nnx(**options))
    if kind == "GRU":
        new["rnn/l0_h2h_bias"] = new["rnn/l0_h2h_bias"] + np.float32(1)
        assert message(pt.MismatchError, lambda: moved(new, invert(nnx(**options)))) == (
            "rnn: the last gate of the other library's GRU has one bias, and here both are not zero. Make "
            "the one of the state zeros."
        )
        new["rnn/l0_h2h_bias"][8:] = 0
        again = moved(moved(new, invert(nnx(**options))), nnx(**options))
        assert_same(jax.jit(net.apply)(filled(net, [STEPS], new), STEPS), net, again, STEPS)
    else:
        assert_trained_back(net, arrays, nnx(**options, like=tree))


@pytest.mark.parametrize("kind", ["LSTM", "one bias", "two biases"])
def test_haiku_recurrent_layers(kind):
    hk = pytest.importorskip("haiku")

    def run(x):
        layer = hk.LSTM(4) if kind == "LSTM" else hk.VanillaRNN(4, double_bias=kind == "two biases")
        return hk.dynamic_unroll(layer, x, layer.initial_state(2), time_major=False)[0]

    theirs, tree = haiku_run(hk, run, STEPS)
    tree = tree["params"]
    arrays = named(tree)
    net = nn.Sequential(nn.LSTM(4) if kind == "LSTM" else nn.RNN(4, activation="relu"))
    new = moved(arrays, haiku())
    assert_same(theirs, net, new, STEPS)
    if kind == "LSTM":
        assert new["lstm0/l0_i2h_bias"].tolist() == [0] * 4 + [1] * 4 + [0] * 8
    assert_back(arrays, haiku(like=tree))
    if kind != "two biases":
        assert_trained_back(net, arrays, haiku(like=tree))


def test_cells_are_told_by_all_of_their_arrays():
    cell = {f"i{gate}/kernel": np.ones((2, 3)) for gate in "ifgo"}
    cell |= {f"h{gate}/kernel": np.ones((3, 3)) for gate in "ifgo"}
    whole = cell | {f"h{gate}/bias": np.ones(3) for gate in "ifgo"}
    assert len(moved(whole, nnx())) == 4
    assert len(moved({f"a/b/{name}": array for name, array in whole.items()}, nnx())) == 4
    for other in (
        cell,
        whole | {"ii/bias": np.ones(3)},
        whole | {"ii/kernel": np.ones((4, 3))},
        whole | {"hi/kernel": np.ones((2, 3))},
        {name: array for name, array in whole.items() if name != "if/kernel"},
        whole | {"ho/kernel": np.ones((3, 3, 3))},
    ):
        assert len(moved(other, nnx())) == len(other)
    mlp = {"core/linear/w": np.ones((2, 3)), "core/linear/b": np.ones(3), "core/linear_1/w": np.ones((3, 3))}
    assert sorted(moved(mlp, haiku())) == ["core/dense0/bias", "core/dense0/weight", "core/dense1/weight"]


def test_recurrent_layers_in_one_block_have_no_names_in_flax():
    params = named(nn.LSTM(3, layers=2).init(KEY, STEPS))
    assert message(pt.RuleError, lambda: moved(params, invert(linen()))) == (
        "linen: these have no names there:\n  " + "\n  ".join(params)
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_cells_of_small_dtypes_go_there_and_back(dtype):
    tree = nn.GRU(3).init(KEY, STEPS)
    arrays = {name: array.astype(jnp.dtype(dtype)) for name, array in named(randomized(tree)).items()}
    theirs = moved({f"gru0/{name}": array for name, array in arrays.items()}, invert(linen()))
    assert {array.dtype for array in theirs.values()} == {jnp.dtype(dtype)}
    assert_back(theirs, linen())


# PyTorch


def torch_state(net, seed=0):
    """Give a net random parameters, and return its state dict as NumPy's arrays."""
    lib = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    with lib.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                values = rng.uniform(0.1, 0.6, tuple(value.shape)) * rng.choice(
                    [1, 1, -1], tuple(value.shape)
                )
                value.copy_(lib.from_numpy(np.abs(values) if "var" in name else values))
    return {name: value.numpy() for name, value in net.eval().state_dict().items()}


def torch_output(net, *inputs):
    lib = pytest.importorskip("torch")
    with lib.no_grad():
        return net(*(lib.from_numpy(np.array(each)) for each in inputs))


def torch_cnn():
    lib = pytest.importorskip("torch").nn

    class Net(lib.Module):
        def __init__(self):
            super().__init__()
            self.stem = lib.Sequential(lib.Conv2d(3, 4, 3, padding=1), lib.BatchNorm2d(4), lib.PReLU())
            self.down = lib.Conv2d(4, 6, 2, stride=2, bias=False)
            self.group = lib.GroupNorm(2, 6)
            self.up = lib.ConvTranspose2d(6, 6, (3, 2), stride=2)
            self.out = lib.Linear(6, 3)

        def forward(self, x):
            x = self.group(self.down(self.stem(x))).relu()
            return self.out(self.up(x).mean((2, 3)))

    return Net()


@pt.module
def TorchCNN(scope, x):
    @pt.module
    def stem(scope, x):
        x = scope.call(nn.Conv(4, 3, padding=1, layout="NCHW"), x, name="0")
        return scope.call(nn.PReLU(), scope.call(nn.BatchNorm(axis=1), x, name="1"), name="2")

    x = scope.call(
        nn.Conv(6, 2, stride=2, use_bias=False, layout="NCHW"), scope.call(stem, x, name="stem"), name="down"
    )
    x = jax.nn.relu(scope.call(nn.GroupNorm(2, layout="NCHW"), x, name="group"))
    x = scope.call(nn.ConvTranspose(6, (3, 2), stride=2, layout="NCHW"), x, name="up")
    return scope.call(nn.Dense(3), x.mean((2, 3)), name="out")


def test_torch_cnn(tmp_path):
    theirs = torch_cnn()
    arrays = torch_state(theirs)
    images = jnp.moveaxis(IMAGES, -1, 1)
    assert_same(torch_output(theirs, images), TorchCNN, moved(arrays, torch()), images)
    assert_back(arrays, torch(), ["stem.1.num_batches_tracked"])
    assert_back(arrays, torch(like=theirs.state_dict()), ["stem.1.num_batches_tracked"])
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_model(theirs, tmp_path / "net.safetensors")
    params = pt.load(tmp_path / "net.safetensors", TorchCNN.specs(images), rename=torch())
    np.testing.assert_allclose(TorchCNN.apply(params, images), torch_output(theirs, images), atol=1e-5)


TORCH_BLOCKS = {
    r"layers/(\d+)/self_attn": r"block\1/multiheadattention0",
    r"layers/(\d+)/linear1": r"block\1/dense0",
    r"layers/(\d+)/linear2": r"block\1/dense1",
    r"layers/(\d+)/norm1": r"block\1/layernorm0",
    r"layers/(\d+)/norm2": r"block\1/layernorm1",
}


def test_torch_transformer():
    lib = pytest.importorskip("torch")
    layer = lib.nn.TransformerEncoderLayer(6, 2, 12, norm_first=True, batch_first=True, layer_norm_eps=1e-6)
    theirs = lib.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    arrays = torch_state(theirs)
    net = nn.Sequential(*(pt.Module(Block.call, "Block") for _ in range(2)))
    new = moved(arrays, torch(blocks=TORCH_BLOCKS))
    assert_same(torch_output(theirs, STEPS), net, new, STEPS)
    assert_back(arrays, torch(blocks=TORCH_BLOCKS))
    assert_back(arrays, torch(blocks=TORCH_BLOCKS, like=arrays))
    assert "layers/0/self_attn/query/weight" in moved(arrays, torch())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory", [6, 4])
def test_torch_attention(bias, memory):
    lib = pytest.importorskip("torch")
    theirs = lib.nn.MultiheadAttention(6, 2, bias=bias, kdim=memory, vdim=memory, batch_first=True)
    arrays = torch_state(theirs)
    assert ("q_proj_weight" in arrays) == (memory == 4)
    seen = jax.random.normal(jax.random.key(1), (2, 3, memory))
    net = nn.MultiHeadAttention(2, use_bias=bias)
    output = torch_output(theirs, STEPS, seen, seen)[0]
    assert_same(output, net, moved(arrays, torch()), STEPS, seen)
    assert_back(arrays, torch())
    assert_back(arrays, torch(like=arrays))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("both", [True, False])
def test_torch_recurrent_layers(kind, both):
    lib = pytest.importorskip("torch").nn
    theirs = getattr(lib, kind)(6, 4, 2, batch_first=True, bidirectional=both)
    arrays = torch_state(theirs)
    net = getattr(nn, kind)(4, layers=2, bidirectional=both)
    assert_same(torch_output(theirs, STEPS)[0], net, moved(arrays, torch()), STEPS)
    assert_back(arrays, torch())


def test_torch_kinds_are_told_by_shapes_and_siblings():
    arrays = {
        "rms.weight": np.ones(4),
        "prelu.weight": np.ones(1),
        "one.weight": np.ones(1),
        "one.bias": np.ones(1),
        "flat.weight": np.ones((2, 3)),
        "flat.bias": np.ones((2, 3)),
        "up.weight": np.ones((3, 1)),
        "up.bias": np.ones(3),
        "bn.weight": np.ones(1),
        "bn.running_mean": np.ones(1),
        "own.factor": np.ones(2),
        "lstm.weight_hr_l0": np.ones((2, 4)),
        "attn.in_proj_weight": np.ones((9, 3)),
        "attn.bias_k": np.ones((1, 1, 3)),
    }
    assert list(moved(arrays, torch())) == [
        "rms/gamma", "prelu/alpha", "one/gamma", "one/beta", "flat/gamma", "flat/beta", "up/weight",
        "up/bias", "bn/gamma", "bn/running_mean", "own/factor", "lstm/weight_hr_l0",
        "attn/query/weight", "attn/key/weight", "attn/value/weight", "attn/bias_k",
    ]  # fmt: skip


def test_torch_layers_that_do_not_fuse_are_written_one_by_one():
    net = nn.MultiHeadAttention(2, kv_heads=1)
    params = named(net.init(KEY, STEPS))
    assert sorted(moved(params, invert(torch()))) == sorted(name.replace("/", ".") for name in params)


def test_names_by_position_are_rules_as_they_are():
    lib = pytest.importorskip("torch").nn
    theirs = lib.Sequential(lib.Linear(6, 4), lib.ReLU(), lib.LayerNorm(4), lib.Linear(4, 3))
    arrays = torch_state(theirs)
    net = nn.Sequential(nn.Dense(4), nn.Activation("relu"), nn.LayerNorm(), nn.Dense(3))
    rename = pt.bind(net, net.specs(STEPS)).positional_names(style="torch")
    assert_same(torch_output(theirs, STEPS), net, moved(arrays, rename), STEPS)
    assert_back(arrays, rename)


def test_one_layer_alone():
    lib = pytest.importorskip("torch").nn
    arrays = torch_state(lib.Linear(6, 4))
    assert_back(arrays, torch())
    assert_back({"kernel": np.ones((6, 4)), "bias": np.ones(4)}, linen(collections=False))


def test_names_of_sets_and_their_inverses():
    assert [each.title for each in (linen(), nnx(), haiku(), torch(), invert(torch()))] == [
        "linen", "nnx", "haiku", "torch", "inverse of torch",
    ]  # fmt: skip


def test_blocks_need_a_way_back_only_on_the_way_back():
    arrays = {"a.b.weight": np.ones((2, 3))}
    rename = torch(blocks={"a/.*": "dense0"})
    assert list(moved(arrays, rename)) == ["dense0/weight"]
    assert message(pt.RuleError, lambda: moved({"dense0/weight": np.ones((2, 3))}, invert(rename))) == (
        "invert: these rules have no way back:\n"
        "  rule 0 'a/.*': '.*' at position 2 is in no group; put it into one"
    )


def test_rules_for_blocks_are_unused_where_there_are_none(tmp_path):
    file = tmp_path / "x.safetensors"
    pt.save({"kernel": np.ones((2, 3), np.float32)}, file)
    with pytest.raises(pt.RuleError) as caught:
        pt.load(file, rename=linen(blocks={"encoder.*": "x"}))
    assert str(caught.value) == (
        "linen: blocks= does not fit the blocks:\n"
        "  rule 0 'encoder.*' hits nothing. The tree has no parameters."
    )
