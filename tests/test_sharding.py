"""Spreading over devices: the plan, its faults, placement, initialisation in place, training by placement."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import paramtree as pt
from paramtree import init, nn
from paramtree.sharding.spec import spec_faults
from paramtree.train.step import _placed_step

MESH = AbstractMesh((4, 2), ("data", "model"))


def mesh_of(*sizes, names=("data", "model")):
    count = int(np.prod(sizes))
    return Mesh(np.array(jax.devices()[:count]).reshape(sizes), names[: len(sizes)])


def spec(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


PARAMS = {
    "embed": {"weight": spec(64, 16)},
    "dense0": {"weight": spec(32, 16), "bias": spec(32)},
    "head": {"weight": pt.Alias("embed/weight"), "bias": spec(64)},
    "stat": {"mean": pt.Fixed(spec(6))},
}
RULES = {"embed/weight": P("model"), ".*weight": P("data", "model"), ".*": None}


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# --- the plan -----------------------------------------------------------------------------------------------


def test_the_plan_is_one_table():
    plan = pt.plan_sharding(PARAMS, MESH, RULES)
    assert plan.to_text(100) == (
        "5 parameters on data=4, model=2: 6.40 KiB, 2.65 KiB per device, "
        "of which 1.85 KiB are held more than once\n"
        "name           what            spread over  copies     bytes  per device\n"
        "dense0/weight  float32[32,16]  data, model       1  2.00 KiB       256 B\n"
        "dense0/bias    float32[32]     replicated        8     128 B       128 B\n"
        "embed/weight   float32[64,16]  model             4  4.00 KiB    2.00 KiB\n"
        "head/bias      float32[64]     replicated        8     256 B       256 B\n"
        "stat/mean      float32[6]      replicated        8      24 B        24 B"
    )
    assert (plan.devices, plan.nbytes, plan.device_bytes, plan.waste) == (8, 6552, 2712, 1893)
    assert plan.faults == ()
    found = plan.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["axes"] == {"data": 4, "model": 2}
    assert found["parameters"][0] == {
        "name": "dense0/weight", "shape": [32, 16], "dtype": "float32", "spec": ["data", "model"],
        "nbytes": 2048, "device_bytes": 256, "copies": 1, "faults": [],
    }  # fmt: skip
    assert "<table" in plan._repr_html_()
    assert repr(plan) == plan.to_text()


def test_a_narrow_terminal_keeps_names_and_specs():
    text = pt.plan_sharding(PARAMS, MESH, RULES).to_text(40).splitlines()
    assert max(map(len, text[1:])) <= 40
    assert text[1] == "name           spread over  per device"


def test_its_shardings_are_a_tree_of_the_same_structure():
    found = pt.shardings(PARAMS, MESH, RULES)
    assert found["head"]["weight"] == pt.Alias("embed/weight")
    assert found["dense0"]["weight"] == NamedSharding(MESH, P("data", "model"))
    assert isinstance(found["stat"]["mean"], pt.Fixed)
    assert found["stat"]["mean"].value == NamedSharding(MESH, P())
    assert pt.names(found) == pt.names(PARAMS)


def test_what_the_plan_says_is_what_a_device_holds():
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), PARAMS)
    plan = pt.plan_sharding(params, mesh_of(4, 2), RULES)
    placed = pt.shard(params, mesh_of(4, 2), RULES)
    held = {name: leaf.addressable_shards[0].data.nbytes for name, leaf in pt.collect_params(placed).items()}
    assert held == {row.name: row.device_bytes for row in plan.rows}
    assert pt.summary(placed).totals.device_bytes == plan.device_bytes
    assert not pt.diff(params, placed)


def test_an_even_spread_wastes_nothing_and_a_rule_may_be_a_function():
    def largest(name, leaf):
        return P(*("data" if at == int(np.argmax(leaf.shape)) else None for at in range(len(leaf.shape))))

    plan = pt.plan_sharding(
        {"a": spec(8, 3), "b": spec(2, 12)}, AbstractMesh((4,), ("data",)), {".*": largest}
    )
    assert [row.spec for row in plan.rows] == [P("data", None), P(None, "data")]
    assert plan.headline() == "2 parameters on data=4: 192 B, 48 B per device, even"


def test_a_tree_of_405_billion_parameters_is_planned_without_memory():
    layer = {
        "attention": {
            "query": spec(16384, 16384), "key": spec(1024, 16384), "value": spec(1024, 16384),
            "out": spec(16384, 16384),
        },
        "mlp": {"gate": spec(53248, 16384), "up": spec(53248, 16384), "down": spec(16384, 53248)},
        "norm0": {"gamma": spec(16384)}, "norm1": {"gamma": spec(16384)},
    }  # fmt: skip
    tree = {f"layer{number}": layer for number in range(126)}
    tree |= {"embed": {"weight": spec(128256, 16384)}, "head": {"weight": spec(128256, 16384)}}
    mesh = AbstractMesh((64, 8), ("data", "model"))
    plan = pt.plan_sharding(
        tree, mesh, {".*(out|down)": P("data", "model"), ".*gamma": None, ".*": P("model", "data")}
    )
    assert plan.nbytes == 4 * 405_849_112_576 + 4 * 128256 * 16384 * 0 + 4 * (
        plan.nbytes // 4 - 405_849_112_576
    )
    assert 405e9 < plan.nbytes / 4 < 407e9
    assert plan.faults == ()
    assert plan.waste < 20 << 20


def test_the_state_of_an_optimiser_is_planned_too():
    optax = pytest.importorskip("optax")
    state = jax.eval_shape(optax.adam(1e-3).init, {"weight": spec(8, 2)})
    plan = pt.plan_sharding(state, MESH, {".*weight": P("data"), ".*": None})
    assert [(row.name, row.device_bytes) for row in plan.rows] == [
        ("0/count", 4), ("0/mu/weight", 16), ("0/nu/weight", 16),
    ]  # fmt: skip


# --- what is wrong with it ----------------------------------------------------------------------------------


def test_all_faults_are_told_at_once_below_the_table():
    rules = {
        "embed/weight": P("modle"),
        "dense0/weight": P(None, "data", "model"),
        "dense0/bias": ("data",),
        "denes0/.*": P("data"),
        "stat/mean": P("data"),
        "head/weight": P(None, "model"),
    }
    plan = pt.plan_sharding(PARAMS, MESH, rules)
    faults = (
        "rule 3 'denes0/.*' hits nothing. The names are dense0/weight, dense0/bias, embed/weight, head/bias, "
        "stat/mean.",
        "rule 5 'head/weight' hits nothing. It names only tied places: head/weight is embed/weight. "
        "Select a tied parameter where it lives.",
        "no rule covers head/bias. End with '.*': None for what is held whole.",
        "head/weight is tied to embed/weight: rule 5 'head/weight' gives -, model for the one, and "
        "rule 0 'embed/weight' gives modle for the other; a tied parameter lies once, at embed/weight",
        "dense0/weight: P(None, 'data', 'model') has 3 entries, and the shape (32, 16) takes at most 2",
        "dense0/bias: rule 2 'dense0/bias' gives ('data',), which is no PartitionSpec; "
        "say PartitionSpec(*('data',))",
        "embed/weight: the mesh has no axis 'modle'. Did you mean model?",
        "stat/mean: its size 6 at 0 does not divide by the 4 of data; "
        "no other size does, None keeps it whole",
    )
    assert plan.faults == faults
    assert plan.headline() == "5 parameters on data=4, model=2: 6.40 KiB, 8 faults"
    assert message(pt.RuleError, plan.shardings) == "\n".join(
        ["sharding rules do not fit 5 parameters:", *(f"  {fault}" for fault in faults)]
    )
    assert message(pt.RuleError, lambda: pt.shard(PARAMS, mesh_of(4, 2), rules)).count("\n") == 8
    assert plan.to_text(120).endswith(f"  {faults[-1]}")
    assert "modle" in plan.to_html()


@pytest.mark.parametrize(
    ("given", "shape", "fault"),
    [
        (
            P("data", "data"),
            (8, 8),
            "P('data', 'data') uses data more than once; an axis can spread one size",
        ),
        (
            P(("data", "model"), "model"),
            (8, 8),
            "P(('data', 'model'), 'model') uses model more than once; an axis can spread one size",
        ),
        (P("data"), (), "P('data',) has 1 entry, and the shape () takes none"),
        (
            P("data"),
            (6, 8),
            "its size 6 at 0 does not divide by the 4 of data; P(None, 'data') would fit",
        ),
        (
            P(None, ("data", "model")),
            (16, 12),
            "its size 12 at 1 does not divide by the 8 of data+model; P(('data', 'model'),) would fit",
        ),
        (
            P(P.UNCONSTRAINED),
            (8,),
            "UNCONSTRAINED is for constraints inside of jit; say None, or an axis",
        ),
        (P("stage"), (8,), "the mesh has no axis 'stage'. There are data, model."),
    ],
)  # fmt: skip
def test_each_fault_says_what_would_fit(given, shape, fault):
    assert spec_faults(given, shape, dict(MESH.shape)) == [fault]


def test_a_catch_all_does_not_conflict_at_a_tie_and_neither_does_an_equal_spec():
    tied = {"a": spec(8, 4), "b": {"w": pt.Alias("a"), "v": spec(8)}}
    assert pt.plan_sharding(tied, MESH, {"a": P("data"), ".*": None}).faults == ()
    assert pt.plan_sharding(tied, MESH, {"a": P("data", None), "b/.*": P("data")}).faults == ()
    turned = {"a": spec(8, 4), "b": {"w": pt.Alias("a", transpose=True), "v": spec(4, 8)}}
    assert pt.plan_sharding(turned, MESH, {"a": P("data"), "b/.*": P(None, "data")}).faults == ()
    assert len(pt.plan_sharding(turned, MESH, {"a": P("data"), "b/.*": P("data")}).faults) == 1


def test_sizes_that_are_not_known_and_leaves_that_are_no_arrays():
    specs = nn.Dense(8).specs("batch, features")
    plan = pt.plan_sharding({**specs, "label": "decay"}, MESH, {".*": None})
    assert plan.faults == (
        "weight: its shape is (8, features), and features is not known; give the sizes as numbers",
        "label: it is no array, and cannot be spread",
    )


def test_a_mesh_is_asked_for():
    assert message(pt.ParamTreeError, lambda: pt.plan_sharding(PARAMS, ("data",), RULES)) == (
        "plan_sharding: takes a mesh, as jax.make_mesh and jax.sharding.AbstractMesh give, and not tuple."
    )
    assert message(pt.ParamTreeError, lambda: pt.shard(PARAMS, MESH, RULES)) == (
        "shard: an AbstractMesh has no devices; jax.make_mesh gives one that has."
    )


def test_an_empty_tree_is_planned_and_placed():
    assert pt.plan_sharding({}, MESH, {}).headline() == "0 parameters on data=4, model=2: 0 B"
    assert pt.shard({}, mesh_of(4, 2), {}) == {}


# --- placement ----------------------------------------------------------------------------------------------


def test_specs_are_placed_as_specs_for_a_file_to_fill(tmp_path):
    mesh = mesh_of(4, 2)
    params = {"a": jnp.arange(32.0).reshape(8, 4), "b": {"c": jnp.arange(6)}}
    pt.save(params, tmp_path / "x.safetensors")
    specs = jax.tree.map(lambda leaf: spec(*leaf.shape, dtype=leaf.dtype), params)
    like = pt.shard(specs, mesh, {"a": P("data", "model"), ".*": None})
    assert like["a"].sharding == NamedSharding(mesh, P("data", "model"))
    loaded = pt.load(tmp_path / "x.safetensors", like=like)
    assert loaded["a"].sharding == NamedSharding(mesh, P("data", "model"))
    assert not pt.diff(params, loaded)


def test_what_jax_would_narrow_is_refused_whole():
    params = {"a": np.zeros(8), "b": np.zeros(8, np.int64), "c": np.zeros(8, np.float32)}
    assert message(pt.MismatchError, lambda: pt.shard(params, mesh_of(8), {".*": P("data")})) == (
        "shard: JAX would narrow these; pt.cast them, or set jax_enable_x64:\n  a is float64\n  b is int64"
    )


# --- initialisation in place --------------------------------------------------------------------------------

NET = nn.Sequential(
    nn.Embedding(32, 16), nn.Repeat(nn.Residual(nn.Dense(16, activation="relu")), 4), nn.Dense(64),
    nn.BatchNorm(), nn.Dense(8, name="head"),
)  # fmt: skip
TOKENS = jnp.zeros((2, 3), jnp.int32)
ALONG = {".*weight": P(None, "model"), ".*bias": None, ".*": None}


def bits(params):
    return {name: np.asarray(leaf).tobytes() for name, leaf in pt.collect_params(params).items()}


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2), (1, 8)])
@pytest.mark.parametrize(
    "initialiser", [init.Xavier(), init.Normal(1.0), init.Orthogonal(), init.Constant(2.0)]
)
def test_the_bits_are_the_same_on_any_number_of_devices(sizes, initialiser):
    key = jax.random.key(3)
    plain = NET.init(key, TOKENS, init=initialiser)
    where = pt.shardings(NET.specs(TOKENS), mesh_of(*sizes), ALONG)
    placed = NET.init(key, TOKENS, init=initialiser, shardings=where)
    assert bits(placed) == bits(plain)
    assert jax.tree.structure(placed) == jax.tree.structure(plain)
    wanted = pt.collect_params(where)
    assert {name: leaf.sharding for name, leaf in pt.collect_params(placed).items()} == wanted


def test_one_sharding_serves_all_and_a_committed_key_is_taken():
    whole = NamedSharding(mesh_of(8), P())
    key = jax.device_put(jax.random.key(0), jax.devices()[3])
    placed = nn.Dense(4).init(key, jnp.ones((1, 2)), shardings=whole)
    assert {leaf.sharding for leaf in jax.tree.leaves(placed)} == {whole}
    assert bits(placed) == bits(nn.Dense(4).init(jax.random.key(0), jnp.ones((1, 2))))
    old = nn.Dense(4).init(jax.random.PRNGKey(0), jnp.ones((1, 2)), shardings=whole)
    assert bits(old) == bits(placed)


def test_functions_of_a_user_and_loaded_values_are_placed_whole():
    def counted(key, shape, dtype):
        return jnp.asarray(np.arange(np.prod(shape)).reshape(shape), dtype)

    mesh = mesh_of(2, names=("data",))
    where = NamedSharding(mesh, P("data"))
    for initialiser in (
        counted,
        init.Load({"weight": np.ones((4, 2), np.float32), "bias": np.ones(4, np.float32)}),
    ):
        plain = nn.Dense(4).init(jax.random.key(0), jnp.ones((1, 2)), init=initialiser)
        placed = nn.Dense(4).init(jax.random.key(0), jnp.ones((1, 2)), init=initialiser, shardings=where)
        assert bits(placed) == bits(plain)
        assert placed["weight"].sharding == where


def test_under_jit_the_shardings_hold_too():
    where = pt.shardings(NET.specs(TOKENS), mesh_of(1, 8), ALONG)
    placed = jax.jit(lambda key: NET.init(key, TOKENS, shardings=where))(jax.random.key(3))
    assert bits(placed) == bits(NET.init(jax.random.key(3), TOKENS))
    assert placed["head"]["weight"].sharding.is_equivalent_to(where["head"]["weight"], 2)


def test_shardings_that_do_not_fit_are_told_at_once():
    mesh = mesh_of(8)
    where = {"weight": NamedSharding(mesh, P(None, "data")), "biass": NamedSharding(mesh, P()), "label": 3}
    found = message(
        pt.MismatchError, lambda: nn.Dense(4).init(jax.random.key(0), jnp.ones((1, 2)), shardings=where)
    )
    assert found.splitlines()[:4] == [
        "init: these shardings do not fit; pt.shardings makes them by rules:",
        "  biass is not a parameter of the net. Did you mean bias?",
        "  label is not a parameter of the net.",
        "  bias has none",
    ]
    assert found.splitlines()[4].startswith("  weight of shape (4, 2): ")
    assert message(
        pt.MismatchError,
        lambda: nn.Dense(4).init(jax.random.key(0), jnp.ones((1, 2)), shardings={"weight": P(), "bias": P()}),
    ).splitlines()[1:] == ["  weight: P() is not a sharding", "  bias: P() is not a sharding"]


# --- training by placement ----------------------------------------------------------------------------------

LEARNER = nn.Sequential(
    nn.Dense(32, activation="relu"), nn.Dropout(0.1), nn.Dense(16, activation="relu"), nn.Dense(8)
)
X = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 8, 16)
PLACES = {
    "one device": ((1,), {".*": None}, P()),
    "data-parallel": ((8,), {".*": None}, P("data")),
    "tensor-parallel": (
        (2, 4), {"dense(0|2)/weight": P("model"), "dense1/weight": P(None, "model"), ".*": None}, P("data"),
    ),
    "fully sharded": ((8,), {".*": P("data")}, P("data")),
}  # fmt: skip


def losses_of(sizes, rules, batch_spec, steps=8):
    optax = pytest.importorskip("optax")
    mesh = mesh_of(*sizes)

    def loss_fn(params, batch, key):
        logits = LEARNER.apply(params, batch[0], train=True, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    where = pt.shardings(LEARNER.specs(X), mesh, rules)
    params = LEARNER.init(jax.random.key(0), X, shardings=where, init=init.Xavier())
    step = pt.train_step(loss_fn, optax.adamw(1e-2))
    state = step.init(params, jax.random.key(1))
    batch = jax.device_put((X, Y), NamedSharding(mesh, batch_spec))
    losses = []
    for _ in range(steps):
        state, loss = step(state, batch)
        losses.append(float(loss))
    return losses, state, step, where


@pytest.mark.parametrize("way", [way for way in PLACES if way != "one device"])
def test_losses_are_those_of_one_device(way):
    expected = losses_of(*PLACES["one device"])[0]
    before = _placed_step.cache_info().misses
    losses, state, step, where = losses_of(*PLACES[way])
    assert losses[-1] < 0.7 * losses[0]
    np.testing.assert_allclose(losses, expected, rtol=2e-4)
    held = pt.collect_params(state.params)
    assert all(
        held[name].sharding.is_equivalent_to(each, held[name].ndim)
        for name, each in pt.collect_params(where).items()
    )
    moments = pt.collect_params(state.opt_state, ".*/(mu|nu)/.*")
    assert len(moments) == 2 * len(held)
    for name, moment in moments.items():
        own = held[name.split("/", 2)[2]]
        assert moment.sharding.is_equivalent_to(own.sharding, own.ndim), name
    assert _placed_step.cache_info().misses == before + 1
    assert step.jitted._cache_size() == 0


def test_an_optimisers_state_alone_is_sharded_by_rules():
    optax = pytest.importorskip("optax")
    mesh = mesh_of(8)
    step = pt.train_step(lambda params, batch: ((params["w"] @ batch) ** 2).mean(), optax.adam(0.1))
    state = step.init(pt.shard({"w": jnp.ones((16, 4))}, mesh, {".*": None}))
    spread = jax.tree.map(jnp.copy, pt.shard(state, mesh, {"opt_state/.*/w": P("data"), ".*": None}))
    for _ in range(3):
        state, loss = step(state, jnp.ones(4))
        spread, same = step(spread, jnp.ones(4))
        np.testing.assert_allclose(float(loss), float(same), rtol=1e-6)
    moments = pt.collect_params(spread.opt_state, ".*/w")
    assert {leaf.addressable_shards[0].data.shape for leaf in moments.values()} == {(2, 4)}
