"""Trees of other libraries as they are: libraries by verbs, each tree coming back as what it was."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree.compare import diff
from paramtree.names import untyped_jax

# --- the trees: each factory takes a seed, and gives a tree of one structure with values of its own ---------


def _linen_model():
    linen = pytest.importorskip("flax.linen")

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Dense(3)(x)
            x = linen.BatchNorm(use_running_average=True)(x)
            return linen.Dense(2)(x)

    return Net()


def linen_dict(seed):
    return _linen_model().init(jax.random.key(seed), jnp.ones((1, 4)))


def linen_frozen(seed):
    return pytest.importorskip("flax.core").freeze(linen_dict(seed))


def linen_boxed(seed):
    linen = pytest.importorskip("flax.linen")
    layer = linen.Dense(3, kernel_init=linen.with_partitioning(linen.initializers.normal(), ("x", None)))
    return layer.init(jax.random.key(seed), jnp.ones((1, 4)))


def haiku(seed):
    hk = pytest.importorskip("haiku")
    return hk.transform(lambda x: hk.nets.MLP([3, 2])(x)).init(jax.random.key(seed), jnp.ones((1, 4)))


@cache
def _nnx_class():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(4, 3, rngs=rngs)
            self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=rngs)
            self.drop = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
            self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            x = self.drop(self.norm(self.dense(x)))
            for layer in self.layers:
                x = layer(x)
            return x

    return Net


def nnx_module(seed):
    return _nnx_class()(pytest.importorskip("flax.nnx").Rngs(seed))


def nnx_state(seed):
    return pytest.importorskip("flax.nnx").split(nnx_module(seed))[1]


def nnx_split(seed):
    return pytest.importorskip("flax.nnx").split(nnx_module(seed))


def nnx_pure(seed):
    return pytest.importorskip("flax.nnx").to_pure_dict(nnx_state(seed))


def equinox_mlp(seed):
    return pytest.importorskip("equinox").nn.MLP(4, 2, 3, 2, key=jax.random.key(seed))


def equinox_chain(seed):
    eqx = pytest.importorskip("equinox")
    dense = eqx.nn.Linear(4, 3, key=jax.random.key(seed))
    return eqx.nn.Sequential(
        [dense, eqx.nn.Dropout(0.5 + seed / 10), eqx.nn.Lambda(jax.nn.relu), eqx.nn.LayerNorm(3)]
    )


def _params(seed):
    return {"a": jax.random.normal(jax.random.key(seed), (2,)), "b": jnp.ones((2, 3)) * seed}


def _step(optimizer, state, seed):
    params = _params(seed)
    with jax.numpy_dtype_promotion("standard"):  # which optax is written for
        return optimizer.update(params, state, params)


def _stepped(optimizer, seed):
    return _step(optimizer, optimizer.init(_params(seed)), seed)[1]


def optax_chain(seed):
    optax = pytest.importorskip("optax")
    inner = optax.masked(optax.adamw(optax.cosine_decay_schedule(1e-3, 10)), {"a": True, "b": False})
    return _stepped(optax.chain(optax.clip(1.0), inner), seed)


def optax_injected(seed):
    optax = pytest.importorskip("optax")
    return _stepped(optax.inject_hyperparams(optax.adam)(learning_rate=1e-3 * (seed + 1)), seed)


def optax_groups(seed):
    optax = pytest.importorskip("optax")
    groups = {"a": optax.adam(1e-3), "b": optax.sgd(1e-3, momentum=0.9)}
    return _stepped(optax.multi_transform(groups, {"a": "a", "b": "b"}), seed)


def _penzai_bound(seed):
    pytest.importorskip("penzai")
    from penzai.models import simple_mlp

    return simple_mlp.MLP.from_config(name="mlp", init_base_rng=jax.random.key(seed), feature_sizes=[4, 3, 2])


def penzai_model(seed):
    bound = _penzai_bound(seed)
    from penzai import pz

    return pz.freeze_params(bound)


def penzai_values(seed):
    bound = _penzai_bound(seed)
    from penzai import pz

    return pz.unbind_params(bound, freeze=True)[1]


def torch_states(seed):
    torch = pytest.importorskip("torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2).bfloat16()
        )
        return net.state_dict()


@dataclass(frozen=True)
class Library:
    """One row of the table.

    Args:
        factory: makes the tree from a seed.
        names: the first names.
        chosen: a name of floats to change.
        dicts: whether the tree is made of dicts with keys that can be names, so that it can be taken apart.
        kind: what refuses to be taken apart.
    """

    factory: Any
    names: tuple[str, ...]
    chosen: str
    dicts: bool = False
    kind: str = ""


LINEN = ("batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var", "params/BatchNorm_0/scale")
TABLE = {
    "linen": Library(linen_dict, LINEN, "params/Dense_0/kernel", dicts=True),
    "linen frozen": Library(
        linen_frozen, LINEN, "params/Dense_0/kernel", kind="the tree is of type FrozenDict"
    ),
    "linen boxed": Library(
        linen_boxed,
        ("params/kernel/value", "params/bias"),
        "params/kernel/value",
        kind="params/kernel is of type Partitioned",
    ),
    "haiku": Library(
        haiku, ("mlp/~/linear_0/b", "mlp/~/linear_0/w"), "mlp/~/linear_0/w",
        kind="the key 'mlp/~/linear_0' holds a '/'"
    ),
    "nnx state": Library(
        nnx_state, ("dense/kernel/value", "dense/bias/value"), "layers/1/kernel/value",
        kind="the tree is of type State"
    ),
    "nnx split": Library(
        nnx_split, ("1/dense/kernel/value",), "1/layers/1/kernel/value", kind="the tree is of type tuple"
    ),
    "nnx pure": Library(
        nnx_pure, ("dense/kernel", "dense/bias"), "layers/1/kernel",
        kind="the key 0 in 'layers' is of type int"
    ),
    "nnx module": Library(
        nnx_module, ("dense/kernel/value",), "layers/1/kernel/value", kind="the tree is of type Net"
    ),
    "equinox": Library(
        equinox_mlp, ("activation", "final_activation", "layers/0/weight"), "layers/1/weight",
        kind="the tree is of type MLP",
    ),
    "equinox chain": Library(
        equinox_chain,
        ("layers/0/weight", "layers/0/bias", "layers/1/inference", "layers/1/p", "layers/2/fn"),
        "layers/0/weight", kind="the tree is of type Sequential",
    ),
    "optax": Library(
        optax_chain, ("1/inner_state/0/count", "1/inner_state/0/mu/a"), "1/inner_state/0/mu/a",
        kind="the tree is of type tuple",
    ),
    "optax injected": Library(
        optax_injected, ("count", "hyperparams/b1"), "inner_state/0/nu/b",
        kind="the tree is of type InjectStatefulHyperparamsState",
    ),
    "optax groups": Library(
        optax_groups, ("inner_states/a/inner_state/0/count",), "inner_states/b/inner_state/0/trace/b",
        kind="the tree is of type PartitionState",
    ),
    "penzai": Library(
        penzai_model, ("sublayers/0/sublayers/0/weights/value/data_array",),
        "sublayers/2/sublayers/0/weights/value/data_array", kind="the tree is of type MLP",
    ),
    "penzai values": Library(
        penzai_values, ("0/value/data_array",), "2/value/data_array", kind="the tree is of type tuple"
    ),
    "torch": Library(torch_states, ("0.bias", "0.weight"), "0.weight", dicts=True),
}  # fmt: skip

every = pytest.mark.parametrize("library", TABLE.values(), ids=TABLE)
both = pytest.mark.parametrize("form", ["safetensors", "npz"])


# --- how trees are compared: bit for bit, with the types of leaves and containers ---------------------------


def is_tensor(leaf):
    return hasattr(leaf, "detach")


def bits(leaf):
    """Give what a leaf is, for `==`."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf, kind = jax.random.key_data(leaf), str(leaf.dtype)
    else:
        kind = str(getattr(leaf, "dtype", ""))
    if is_tensor(leaf):
        return (
            type(leaf),
            kind,
            tuple(leaf.shape),
            leaf.contiguous().view(-1).numpy(force=True).tobytes()
            if (kind != "torch.bfloat16")
            else leaf.float().numpy().tobytes(),
        )
    if hasattr(leaf, "dtype"):
        array = np.asarray(leaf)
        return type(leaf), kind, array.shape, array.tobytes()
    return type(leaf), leaf


def assert_same(found, wanted):
    (some, one), (others, other) = jax.tree.flatten(found), jax.tree.flatten(wanted)
    assert type(found) is type(wanted)
    assert one == other
    assert list(map(bits, some)) == list(map(bits, others))


def is_float(name, leaf):
    if is_tensor(leaf):
        return leaf.dtype.is_floating_point
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, np.floating)


def untouched(tree, changed, name):
    """Say that all leaves but one are the very same objects."""
    old, new = pt.collect_params(tree), pt.collect_params(changed)
    assert list(old) == list(new)
    return all(new[each] is old[each] for each in old if each != name)


def message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


# --- the verbs ----------------------------------------------------------------------------------------------


@every
def test_names_and_collect_params(library):
    tree = library.factory(0)
    found = pt.names(tree)
    assert tuple(found[: len(library.names)]) == library.names
    assert len(found) == len(set(found)) == len(jax.tree.leaves(tree))
    collected = pt.collect_params(tree)
    assert list(collected) == found
    assert {id(leaf) for leaf in collected.values()} == {id(leaf) for leaf in jax.tree.leaves(tree)}
    assert list(pt.collect_params(tree, is_float)) == [
        name for name in found if is_float(name, collected[name])
    ]
    assert pt.get(tree, library.chosen) is collected[library.chosen]


@every
def test_update(library):
    tree = library.factory(0)
    old = pt.get(tree, library.chosen)
    changed = pt.update(tree, {library.chosen: old + 1})
    assert_same(changed, pt.update(tree, {library.chosen: lambda leaf: leaf + 1}))
    assert type(changed) is type(tree)
    assert jax.tree.structure(changed) == jax.tree.structure(tree)
    assert bits(pt.get(changed, library.chosen)) == bits(old + 1)
    assert bits(old + 1) != bits(old)
    assert untouched(tree, changed, library.chosen)
    assert_same(pt.update(tree, pt.collect_params(tree, is_float)), tree)
    assert "needs shape" in message(pt.MismatchError, lambda: pt.update(tree, {library.chosen: old[:1]}))
    assert "Did you mean" in message(
        pt.UnknownNameError, lambda: pt.update(tree, {library.chosen + "x": old})
    )


@every
def test_map_params(library):
    tree = library.factory(0)
    seen = []
    changed = pt.map_params(lambda name, leaf: seen.append(name) or leaf * 3, tree, is_float)
    assert seen == list(pt.collect_params(tree, is_float))
    assert type(changed) is type(tree)
    assert jax.tree.structure(changed) == jax.tree.structure(tree)
    wanted = pt.update(tree, {name: leaf * 3 for name, leaf in pt.collect_params(tree, is_float).items()})
    assert_same(changed, wanted)


@every
def test_cast(library):
    tree = library.factory(0)
    if library.factory is torch_states:
        assert message(pt.MismatchError, lambda: pt.cast(tree, {r"0\.bias": "bfloat16"})) == (
            "cast: these parameters cannot be cast:\n"
            "  0.bias is torch.float32, no dtype of NumPy; select the others only, or map_params it"
        )
        return
    changed = pt.cast(tree, {is_float: "bfloat16"})
    assert type(changed) is type(tree)
    for name, leaf in pt.collect_params(changed).items():
        old = pt.get(tree, name)
        assert bits(leaf) == bits(old.astype("bfloat16")) if is_float(name, old) else leaf is old
    assert jax.tree.structure(changed) == jax.tree.structure(tree)


@every
def test_mask_and_labels(library):
    tree = library.factory(0)
    hit = pt.mask(tree, is_float)
    assert type(hit) is type(tree)
    assert jax.tree.structure(hit) == jax.tree.structure(tree)
    assert jax.tree.leaves(hit) == [is_float("", leaf) for leaf in jax.tree.leaves(tree)]
    labels = pt.label_params(tree, {is_float: "train"}, default="rest")
    assert jax.tree.leaves(labels) == ["train" if each else "rest" for each in jax.tree.leaves(hit)]


@every
def test_partition_and_merge(library):
    tree = library.factory(0)
    if not library.dicts:
        assert library.kind in message(pt.BadNameError, lambda: pt.partition(tree, library.chosen))
        return
    selected, rest = pt.partition(tree, library.chosen)
    assert pt.names(selected) == [library.chosen]
    assert pt.get(selected, library.chosen) is pt.get(tree, library.chosen)
    assert sorted(pt.names(selected) + pt.names(rest)) == sorted(pt.names(tree))
    merged = pt.merge(selected, rest)
    assert merged == pt.unflatten(pt.collect_params(tree))
    assert untouched(tree, merged, "")


@every
def test_rename(library):
    tree = library.factory(0)
    rules = {r"(.*)/?\b(kernel|weight)": r"\1new_\2"}
    if not library.dicts:
        assert library.kind in message(pt.BadNameError, lambda: pt.rename(tree, {"(.*)": r"new_\1"}))
        return
    renamed = pt.rename(tree, rules)
    old = pt.names(tree)
    new = [name.replace("kernel", "new_kernel").replace("weight", "new_weight") for name in old]
    assert sorted(pt.names(renamed)) == sorted(new)
    assert all(pt.get(renamed, after) is pt.get(tree, before) for before, after in zip(old, new, strict=True))


@both
@every
def test_saved_and_loaded_it_is_the_same(library, form, tmp_path):
    tree, other = library.factory(0), library.factory(1)
    file = tmp_path / f"tree.{form}"
    pt.save(tree, file)
    assert_same(pt.load(file, like=tree), tree)
    # the values are the file's, and not those of `like`
    assert bits(pt.get(other, library.chosen)) != bits(pt.get(tree, library.chosen))
    back = pt.load(file, like=other)
    assert type(back) is type(tree)
    assert list(map(bits, pt.collect_params(back).values())) == list(
        map(bits, pt.collect_params(tree).values())
    )


@every
def test_a_file_holds_arrays_under_the_names_of_the_tree(library, tmp_path):
    tree = library.factory(0)
    pt.save(tree, tmp_path / "tree.npz")
    held = [
        name for name, leaf in pt.collect_params(tree).items() if not callable(leaf) or hasattr(leaf, "dtype")
    ]
    assert pt.names(pt.load(tmp_path / "tree.npz")) == held


@every
def test_a_part_is_loaded_and_the_rest_stays(library, tmp_path):
    tree, other = library.factory(0), library.factory(1)
    pt.save(tree, tmp_path / "tree.npz")
    part = pt.load(tmp_path / "tree.npz", like=other, select=lambda name, leaf: name == library.chosen)
    assert type(part) is type(tree)
    assert bits(pt.get(part, library.chosen)) == bits(pt.get(tree, library.chosen))
    assert untouched(other, part, library.chosen)


@every
def test_a_changed_tree_does_not_fit_and_the_message_has_the_name(library, tmp_path):
    tree = library.factory(0)
    pt.save(tree, tmp_path / "tree.npz")
    longer = pt.map_params(lambda name, leaf: leaf[:0], tree, lambda name, leaf: name == library.chosen)
    assert library.chosen in message(pt.MismatchError, lambda: pt.load(tmp_path / "tree.npz", like=longer))


@every
def test_diff(library, tmp_path):
    tree = library.factory(0)
    assert not diff(tree, tree)
    assert not diff(tree, library.factory(0))
    pt.save(tree, tmp_path / "tree.npz")
    assert not diff(tree, tmp_path / "tree.npz")
    changed = pt.update(tree, {library.chosen: lambda leaf: leaf + 1})
    for other in (tree, tmp_path / "tree.npz"):
        (row,) = diff(changed, other)
        leaf = pt.get(tree, library.chosen)
        assert (row.name, row.kinds, row.gap.changed) == (
            library.chosen,
            ("values",),
            int(np.prod(leaf.shape)),
        )
        assert 0.9 < row.gap.largest < 1.1


@every
def test_a_warm_call_builds_no_names(library, monkeypatch):
    tree = library.factory(0)
    values = {library.chosen: pt.get(tree, library.chosen)}
    pt.collect_params(tree, ".*")
    pt.update(tree, values)

    def refuse(*args, **kwargs):
        raise AssertionError("flattened with paths")

    monkeypatch.setattr(untyped_jax.tree_util, "tree_flatten_with_path", refuse)
    assert list(pt.collect_params(tree, ".*"))
    assert pt.names(pt.update(tree, values)) == pt.names(tree)
    assert pt.names(pt.map_params(lambda name, leaf: leaf, tree)) == pt.names(tree)


# --- what comes back still is a model -----------------------------------------------------------------------

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def there_and_back(tree, like, tmp_path):
    pt.save(tree, tmp_path / "model.safetensors")
    return pt.load(tmp_path / "model.safetensors", like=like)


def test_a_linen_model_runs_on_what_was_loaded(tmp_path):
    model = _linen_model()
    back = there_and_back(linen_frozen(0), linen_frozen(1), tmp_path)
    np.testing.assert_array_equal(model.apply(back, X), model.apply(linen_dict(0), X))


def test_an_nnx_module_runs_as_it_was_loaded(tmp_path):
    nnx = pytest.importorskip("flax.nnx")
    wanted = nnx_module(0)(X)
    np.testing.assert_array_equal(there_and_back(nnx_module(0), nnx_module(1), tmp_path)(X), wanted)
    graph, state = nnx.split(nnx_module(1))
    model = nnx.merge(graph, there_and_back(nnx_state(0), state, tmp_path))
    np.testing.assert_array_equal(model(X), wanted)


def test_an_equinox_module_runs_as_it_was_loaded(tmp_path):
    back = there_and_back(equinox_mlp(0), equinox_mlp(1), tmp_path)
    np.testing.assert_array_equal(jax.vmap(back)(X), jax.vmap(equinox_mlp(0))(X))


def test_an_optimizer_goes_on_from_a_loaded_state(tmp_path):
    optax = pytest.importorskip("optax")
    back = there_and_back(optax_injected(0), optax_injected(1), tmp_path)
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=1.0)
    one, other = (_step(optimizer, state, 0)[0] for state in (back, optax_injected(0)))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_penzai_model_runs_as_it_was_loaded(tmp_path):
    back = there_and_back(penzai_model(0), penzai_model(1), tmp_path)
    from penzai import pz

    x = pz.nx.wrap(jnp.asarray(X)).tag("batch", "features")
    one, other = (model(x).unwrap("batch", "features") for model in (back, penzai_model(0)))
    np.testing.assert_array_equal(one, other)


def test_a_torch_network_takes_what_was_loaded(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2).bfloat16()
    )
    net.load_state_dict(there_and_back(torch_states(0), net.state_dict(), tmp_path))
    assert not diff(net.state_dict(), torch_states(0))


def test_the_variables_of_a_penzai_model_are_named_in_a_message(tmp_path):
    found = message(pt.MismatchError, lambda: pt.save(_penzai_bound(0), tmp_path / "model.npz"))
    assert found.startswith(
        "save: only arrays of numbers can be saved:\n  sublayers/0/sublayers/0/weights is "
    )
    assert "of type Parameter" in found
