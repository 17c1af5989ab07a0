"""MultiHeadAttention: against plain NumPy, its masks, its dtypes, its messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import paramtree as pt
from paramtree import init, nn

KEY = jax.random.key(5)
N, T, S, WIDTH, HEADS = 2, 3, 5, 8, 4


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def made(**options):
    """Give a layer with parameters of all kinds, for x (2, 3, 8), and memory (2, 5, 6) where it is wanted."""
    memory = numbers(1, N, S, 6) if options.pop("memory", False) else None
    layer = nn.MultiHeadAttention(HEADS, **options)
    x = numbers(0, N, T, WIDTH)
    return layer, layer.init(KEY, x, memory, init={".*": init.Normal(0.5)}), x, memory


def looped(params, x, memory=None, mask=None, causal=False, kv_heads=HEADS):
    """Compute attention by loops over samples, heads and steps; who may look at nothing sees zeros."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), params)

    def dense(key, x):
        return x @ params[key]["weight"].T + params[key].get("bias", 0)

    memory = x if memory is None else memory
    query, key, value = dense("query", x), dense("key", memory), dense("value", memory)
    width = query.shape[-1]
    size, group = width // HEADS, HEADS // kv_heads
    seen = np.zeros((*x.shape[:-1], width))
    may = np.ones((x.shape[0], HEADS, x.shape[1], memory.shape[1]), bool)
    if mask is not None:
        may &= mask[{2: (None, None), 3: (slice(None), None), 4: ()}[mask.ndim]]
    for n, h, t in np.ndindex(may.shape[:3]):
        own, shared = slice(h * size, (h + 1) * size), slice(h // group * size, (h // group + 1) * size)
        where = [s for s in range(memory.shape[1]) if may[n, h, t, s] and not (causal and s > t)]
        if where:
            scores = np.array([query[n, t, own] @ key[n, s, shared] for s in where]) / np.sqrt(size)
            weights = np.exp(scores - scores.max())
            seen[n, t, own] = weights / weights.sum() @ value[n, where, shared]
    return dense("out", seen)


def a_mask(rank, many):
    shape = {2: (T, many), 3: (N, T, many), 4: (N, HEADS, T, many)}[rank]
    mask = np.random.default_rng(rank).random(shape) < 0.6
    mask[..., 1, :] = False  # nothing at all
    mask[..., 0, 0] = False  # nothing, if causal
    return mask


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [None, 2, 3, 4])
@pytest.mark.parametrize("memory", [False, True], ids=["self", "memory"])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_against_loops(rank, memory, causal, kv_heads):
    layer, params, x, memory = made(causal=causal, kv_heads=kv_heads, memory=memory)
    mask = None if rank is None else a_mask(rank, T if memory is None else S)
    out = layer.apply(params, x, memory, mask)
    wanted = looped(params, x, memory, mask, causal, kv_heads)
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)


def test_names_and_shapes():
    layer = nn.MultiHeadAttention(4, features=12, kv_heads=2)
    found = pt.collect_params(layer.specs("batch, 3, 8", "batch, 5, 6"))
    assert {name: leaf.shape for name, leaf in found.items()} == {
        "query/weight": (12, 8), "query/bias": (12,), "key/weight": (6, 6), "key/bias": (6,),
        "value/weight": (6, 6), "value/bias": (6,), "out/weight": (12, 12), "out/bias": (12,),
    }  # fmt: skip
    bare = pt.names(nn.MultiHeadAttention(2, use_bias=False).specs("2, 3, 4"))
    assert set(bare) == {"query/weight", "key/weight", "value/weight", "out/weight"}
    params = layer.init(KEY, "2, 3, 8", init=init.Constant(3.0))
    assert all((params[key]["weight"] == 3).all() for key in params)
    assert not any(params[key]["bias"].any() for key in params)


def test_another_width():
    layer, params, x, _ = made(features=12, use_bias=False)
    assert layer.apply(params, x).shape == (N, T, 12)
    np.testing.assert_allclose(layer.apply(params, x), looped(params, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, S), (T, 1), (1, T, S), (N, 1, S), (N, 1, 1, S), (1, HEADS, T, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_a_size_of_a_mask_may_be_1(shape, causal):
    layer, params, x, memory = made(memory=True, causal=causal)
    mask = np.random.default_rng(0).random(shape) < 0.5
    full = np.broadcast_to(mask, {2: (T, S), 3: (N, T, S), 4: (N, HEADS, T, S)}[len(shape)])
    out = layer.apply(params, x, memory, mask)
    np.testing.assert_allclose(out, looped(params, x, memory, full, causal), rtol=1e-4, atol=1e-5)


def test_causal_does_not_look_ahead():
    layer, params, x, _ = made(causal=True)
    out = layer.apply(params, x)
    later = x.copy()
    later[:, 2:] += 1
    changed = layer.apply(params, later)
    np.testing.assert_array_equal(changed[:, :2], out[:, :2])
    assert (changed[:, 2:] != out[:, 2:]).any()
    reach = jax.jacobian(lambda x: layer.apply(params, x[None])[0].sum(-1))(x[0])
    assert (np.asarray(abs(reach).sum(-1)) > 0).tolist() == np.tri(T, dtype=bool).tolist()


def test_what_is_masked_does_not_count():
    layer, params, x, memory = made(memory=True)
    mask = np.array([True, True, False, True, False])
    out = layer.apply(params, x, memory, mask[None])
    other = np.where(mask[None, :, None], memory, np.float32(100))
    np.testing.assert_array_equal(layer.apply(params, x, other, mask[None]), out)
    grads = jax.grad(lambda memory: layer.apply(params, x, memory, mask[None]).sum())(memory)
    assert np.asarray(grads).any(axis=(0, 2)).tolist() == mask.tolist()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_that_may_look_at_nothing_sees_zeros(causal, dtype):
    layer, params, x, memory = made(memory=True, causal=causal)
    params = pt.cast(params, {".*": dtype})
    x, memory = x.astype(dtype), memory.astype(dtype)
    mask = np.ones((T, S), bool)
    mask[1] = False
    mask[0, 0] = False  # of causal, all that step 0 had
    dead = [causal, True, False]

    def run(params, x, memory):
        return layer.apply(params, x, memory, mask)

    out = jax.jit(run)(params, x, memory)
    assert (out == params["out"]["bias"][None, None]).all(axis=(0, 2)).tolist() == dead

    def loss(*inputs):
        return (jnp.cos(run(*inputs)) ** 2).sum()

    with jax.numpy_dtype_promotion("standard"):  # which JAX's own gradient of bfloat16 needs
        grads, of_x, of_memory = jax.jit(jax.grad(loss, (0, 1, 2)))(params, x, memory)
    assert all(np.isfinite(np.asarray(leaf, "float32")).all() for leaf in jax.tree.leaves((grads, of_x)))
    assert np.isfinite(np.asarray(of_memory, "float32")).all()
    assert (of_x == 0).all(axis=(0, 2)).tolist() == dead
    mask[:] = False
    with jax.numpy_dtype_promotion("standard"):
        nothing = jax.jit(jax.grad(lambda memory: run(params, x, memory).sum()))(memory)
    assert not nothing.any()


def test_an_empty_memory_and_no_steps():
    layer, params, x, memory = made(memory=True)
    bias = np.broadcast_to(params["out"]["bias"], x.shape)
    np.testing.assert_array_equal(layer.apply(params, x, memory[:, :0]), bias)
    np.testing.assert_array_equal(layer.apply(params, x, memory[:, :0], np.ones((T, 0), bool)), bias)
    assert layer.apply(params, x[:, :0], memory).shape == (N, 0, WIDTH)
    assert layer.apply(params, x[:0], memory[:0], np.ones((0, T, S), bool)).shape == (0, T, WIDTH)
    layer, params, x, _ = made(causal=True)
    assert layer.apply(params, x[:, :0]).shape == (N, 0, WIDTH)


def test_gradients_with_a_mask():
    layer, params, x, memory = made(memory=True, kv_heads=2, causal=True)
    run = jax.jit(lambda *inputs: layer.apply(*inputs, a_mask(4, S)))
    check_grads(run, (params, x, memory), 1, ["rev", "fwd"], atol=2e-2, rtol=2e-2)


def test_under_vmap_jit_and_checkpoint():
    layer, params, x, memory = made(memory=True)
    mask = a_mask(3, S)
    out = layer.apply(params, x, memory, mask)
    np.testing.assert_allclose(jax.jit(layer.apply)(params, x, memory, mask), out, rtol=1e-5, atol=1e-6)
    one = lambda *inputs: layer.apply(params, *[each[None] for each in inputs])[0]
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(x, memory, mask), out, rtol=1e-5, atol=1e-6)

    def loss(run):
        return jax.jit(jax.grad(lambda p: (run(p, x, memory, mask) ** 2).sum()))

    plain, again = loss(layer.apply)(params), loss(jax.checkpoint(layer.apply))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), again, plain)


# --- dtypes -------------------------------------------------------------------------------------------------


def dtypes_of(jaxpr, primitive):
    found = {each.outvars[0].aval.dtype.name for each in jaxpr.eqns if each.primitive.name == primitive}
    for each in jaxpr.eqns:
        inner = each.params.get("jaxpr", each.params.get("call_jaxpr"))
        found |= dtypes_of(getattr(inner, "jaxpr", inner), primitive) if inner is not None else set()
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("rank", [None, 3])
def test_narrow_dtypes(dtype, rank):
    layer, params, x, memory = made(memory=True, causal=True)
    mask = None if rank is None else a_mask(rank, S)
    half = pt.cast(params, {".*": dtype})
    inputs = (half, x.astype(dtype), memory.astype(dtype), mask)
    out = jax.jit(layer.apply)(*inputs)
    assert out.dtype == dtype
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf, "float32"), inputs[:3])
    wanted = looped(*rounded, mask, causal=True)
    np.testing.assert_allclose(np.asarray(out, "float32"), wanted, rtol=0.05, atol=0.05)
    assert dtypes_of(jax.make_jaxpr(layer.apply)(*inputs).jaxpr, "exp") == {"float32"}
    with jax.numpy_dtype_promotion("standard"):  # which JAX's own gradient of bfloat16 needs
        grads = jax.jit(jax.grad(lambda p: layer.apply(p, *inputs[1:]).sum()))(half)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(grads)} == {dtype}
    assert all(np.isfinite(np.asarray(leaf, "float32")).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("rank", [None, 4])
def test_float64(rank):
    layer, params, x, memory = made(memory=True)
    mask = None if rank is None else a_mask(rank, S)
    with jax.enable_x64(True):
        wide, *inputs = jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), (params, x, memory))
        out = jax.jit(layer.apply)(wide, *inputs, mask)
        assert out.dtype == jnp.float64
        assert np.isfinite(out).all()
    np.testing.assert_allclose(out, looped(params, x, memory, mask), rtol=1e-5, atol=1e-6)


# --- messages, printing -------------------------------------------------------------------------------------


def test_bad_options():
    for what in ("heads", "features", "kv_heads"):
        for size in (0, -2, 2.0, True, "4"):
            options = {"heads": 4, what: size}
            assert message(pt.ParamTreeError, lambda options=options: nn.MultiHeadAttention(**options)) == (
                f"MultiHeadAttention needs {what} to be an integer of at least 1, and got {size!r}."
            )
    assert message(pt.ParamTreeError, lambda: nn.MultiHeadAttention(4, features=6)) == (
        "MultiHeadAttention needs features to be a multiple of its 4 heads, and got 6."
    )
    for kv_heads in (3, 8):
        options = {"kv_heads": kv_heads}
        assert message(pt.ParamTreeError, lambda options=options: nn.MultiHeadAttention(4, **options)) == (
            f"MultiHeadAttention needs kv_heads to divide its 4 heads, and got {kv_heads}."
        )


def test_inputs_that_do_not_fit():
    net = nn.Sequential(nn.MultiHeadAttention(4, name="look"))
    assert message(pt.MismatchError, lambda: net.specs("2, 3, 6")) == (
        "look(float32[2,3,6]) needs a last axis that divides among 4 heads, and got 6. "
        "Give features= to the layer, a multiple of its heads."
    )
    assert message(pt.MismatchError, lambda: net.specs("2, 3, 0")) == (
        "look(float32[2,3,0]) needs a last axis that divides among 4 heads, and got 0. "
        "Give features= to the layer, a multiple of its heads."
    )
    assert message(pt.MismatchError, lambda: net.specs("batch, time, width")) == (
        "look(float32[batch,time,width]) needs to know the size of the last axis, which its 4 heads divide. "
        "Give that size, or features= to the layer."
    )
    assert message(pt.MismatchError, lambda: net.specs("3, 8")) == (
        "look(float32[3,8]) needs an input of 3 axes, (batch, time, features), and got 2."
    )


def test_memory_that_does_not_fit():
    layer, params, x, memory = made(memory=True)
    cases = [
        (memory[0], "float32[5,6]", "float32 of (5, 6)"),
        (memory[:1], "float32[1,5,6]", "float32 of (1, 5, 6)"),
        (memory.astype("float16"), "float16[2,5,6]", "float16 of (2, 5, 6)"),
    ]
    for other, text, got in cases:
        assert message(pt.MismatchError, lambda other=other: layer.apply(params, x, other)) == (
            f"MultiHeadAttention(float32[2,3,8], {text}) needs memory of float32 and shape "
            f"(2, time, features), and got {got}."
        )
    assert message(pt.MismatchError, lambda: layer.apply(params, x)) == (
        "key/weight has shape (8, 6), and key(float32[2,3,8]) needs (8, 8). "
        "Pass an input that fits, or init new parameters."
    )


def test_masks_that_do_not_fit():
    layer, params, x, memory = made(memory=True)
    called = "MultiHeadAttention(float32[2,3,8], float32[2,5,6], "
    for shape in [(5, 3), (5,), (), (3, 3, 5), (2, 2, 3, 5), (2, 5), (1, 2, 4, 3, 5), (2, 4, 3, 0)]:
        mask = np.ones(shape, bool)
        text = ",".join(map(str, shape))
        assert message(pt.MismatchError, lambda mask=mask: layer.apply(params, x, memory, mask)) == (
            f"{called}bool[{text}]) needs a mask of shape (3, 5), (2, 3, 5) or (2, 4, 3, 5), in which any "
            f"size may be 1, and got {shape}."
        )
    for dtype in ("float32", "int32"):
        mask = np.ones((T, S), dtype)
        assert message(pt.MismatchError, lambda mask=mask: layer.apply(params, x, memory, mask)) == (
            f"{called}{dtype}[3,5]) needs a boolean mask, True where a step may look, and got {dtype}. "
            "Convert it with .astype(bool)."
        )


def test_symbols():
    layer = nn.MultiHeadAttention(4)
    for mask in ("bool[time, time]", "bool[batch, 1, time]", "bool[batch, 4, time, time]"):
        found = layer.specs("batch, time, 8", None, mask)
        assert str(found["query"]["weight"]) == "ParamSpec((8, 8), float32)"
    assert message(pt.MismatchError, lambda: layer.specs("b, t, 8", "b, s, 8", "bool[t, t]")) == (
        "MultiHeadAttention(float32[b,t,8], float32[b,s,8], bool[t,t]) needs a mask of shape (t, s), "
        "(b, t, s) or (b, 4, t, s), in which any size may be 1, and got (t, t)."
    )


def test_how_it_prints():
    layer = nn.MultiHeadAttention(4)
    assert repr(layer) == "MultiHeadAttention(4 heads)"
    assert repr(nn.MultiHeadAttention(np.int64(4), kv_heads=1)) == "MultiHeadAttention(4 heads, 1 kv_heads)"
    net = nn.Sequential(nn.MultiHeadAttention(2, features=6, causal=True), nn.Dense(1))
    bound = pt.bind(net, net.init(KEY, "2, 3, 8"))
    assert repr(bound) == (
        "Sequential(\n  (0) multiheadattention0: MultiHeadAttention(8 -> 6, 2 heads, causal)\n"
        "  (1) dense0: Dense(6 -> 1, linear)\n)"
    )
    assert bound[0].query.weight.shape == (6, 8)
    assert message(pt.ParamTreeError, lambda: layer[0]) == "MultiHeadAttention has no layers to index."


def test_initialisers_of_its_weights():
    x = numbers(0, N, T, WIDTH)
    params = nn.MultiHeadAttention(HEADS, weight_init=init.Ones(), out_init=init.Zeros()).init(KEY, x)
    assert [float(params[key]["weight"].mean()) for key in ("query", "key", "value", "out")] == [1, 1, 1, 0]
    params = nn.MultiHeadAttention(HEADS, weight_init=init.Ones()).init(KEY, x)
    assert (params["out"]["weight"] == 1).all()
    assert not params["out"]["bias"].any()
