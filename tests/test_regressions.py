"""What once went wrong, found by reviewers and by random nets: each a few lines that failed."""

import copy
import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import paramtree as pt
from paramtree import init, nn

KEY = jax.random.key(0)
X = jnp.ones((2, 3))


def test_a_block_of_nothing_but_aliases_can_be_used_again():
    layer = nn.Dense(3)
    block = nn.Sequential(layer, name="m")
    net = nn.Sequential(layer, block, nn.Sequential(block))
    params = net.init(KEY, X)
    assert net.apply(params, X).shape == (2, 3)
    assert pt.names(params) == ["dense0/weight", "dense0/bias"]


def test_what_is_tied_to_a_layer_in_a_block_that_moves_goes_with_it():
    layer = nn.Dense(3, name="a")
    encoder = nn.Sequential(layer, nn.Dense(3), name="enc")
    decoder = pt.Module(encoder.call, "Dec", None, encoder)
    net = nn.Sequential(nn.Dense(3, params=layer), decoder, encoder)
    params = net.init(KEY, X)
    assert net.apply(params, X).shape == (2, 3)
    assert params["dense0"] == pt.Alias("enc/a")
    assert params["dec0"] == pt.Alias("enc")


def test_untie_leaves_fixed_what_was_fixed():
    params = {"a": pt.Fixed(jnp.ones(2)), "b": pt.Alias("a"), "c": jnp.ones((2, 2)), "d": pt.Alias("c")}
    apart = pt.untie(params)
    assert isinstance(apart["b"], pt.Fixed)
    assert not isinstance(apart["d"], pt.Fixed)
    part = pt.untie(params, lambda name, leaf: leaf.ndim == 2)
    assert (part["b"], part["d"].shape) == (pt.Alias("a"), (2, 2))


def test_a_container_that_changes_its_children_is_refused():
    @partial(jax.tree_util.register_dataclass, data_fields=("left",), meta_fields=())
    @dataclass
    class Converts:
        left: jax.Array

        def __post_init__(self):
            self.left = jnp.asarray(self.left)

    with pytest.raises(pt.BadNameError) as e:
        pt.names({"z": Converts(jnp.ones(2)), "a": jnp.ones(1)})
    assert str(e.value) == (
        "a container of this tree changes its children when JAX rebuilds it, as with jnp.asarray in a "
        "__post_init__, so its leaves cannot be named. Let it keep its children as they are."
    )


def test_rename_keeps_a_tied_block_whole_when_all_its_keys_change():
    params = {"a": {"w": 1.0, "b": 2.0}, "c": pt.Alias("a")}
    renamed = pt.rename(params, {r"(.*)/w": r"\1/kernel", r"(.*)/b": r"\1/offset"})
    assert renamed == {"a": {"kernel": 1.0, "offset": 2.0}, "c": pt.Alias("a")}


def test_tied_layers_with_other_settings_of_one_initialiser_are_refused():
    constant = jax.nn.initializers.constant
    shared = nn.Dense(3, name="s", weight_init=constant(1.0))
    with pytest.raises(pt.TieError, match="names another initialiser"):
        nn.Sequential(shared, nn.Dense(3, params=shared, weight_init=constant(2.0))).init(KEY, X)
    nn.Sequential(shared, nn.Dense(3, params=shared, weight_init=constant(1.0))).init(KEY, X)


def test_equal_initialisers_of_jax_are_drawn_together():
    traces = []
    normal = jax.nn.initializers.normal

    def counted(scale):
        made = normal(scale)

        def law(key, shape, dtype):
            traces.append(scale)
            return made(key, shape, dtype)

        law.__module__ = made.__module__
        return law

    nn.Sequential(*(nn.Dense(3, weight_init=normal(0.5)) for _ in range(3))).init(KEY, X)
    shared = counted(0.5)
    nn.Sequential(*(nn.Dense(3, weight_init=shared) for _ in range(3))).init(KEY, X)
    assert traces == [0.5]


@pytest.mark.parametrize("select", [["bn/mean", "bn/var"], re.compile("bn/mean"), re.escape("bn/mean")])
def test_a_constant_can_be_spelled_out_in_every_form_of_select(select):
    params = {"bn": {"mean": pt.Fixed(jnp.ones(2)), "var": pt.Fixed(jnp.ones(2))}}
    assert not pt.reinit(KEY, params, [(select, init.Zeros())])["bn"]["mean"].value.any()


def test_rules_from_an_iterator_serve_an_eager_net_too():
    @pt.module
    def Branching(scope, x):
        return x if x.sum() < 0 else x @ scope.param("w", (3, 3))

    params = Branching.init(KEY, X, init=iter([(".*", init.Ones())]))
    assert (params["w"] == 1).all()


def test_a_rule_that_is_a_name_means_that_one_alone_in_an_eager_net_too():
    @pt.module
    def Branching(scope, x):
        first, second = scope.param("w.1", (1,)), scope.param("wx1", (1,))
        return x * first if second[0] > 0.5 else x * scope.param("other", (1,))

    rules = {"w.1": init.Ones(), ".*": init.Zeros()}
    params = Branching.init(KEY, jnp.ones(1), init=rules)
    assert pt.names(params) == ["other", "w.1", "wx1"]
    assert Branching.apply(params, jnp.ones(1)) == 0


def test_what_a_caller_does_to_a_result_stays_in_it():
    params = {"a": {"w": jnp.ones(1)}, "b": pt.Alias("a")}
    pt.collect_params(params).tied["evil"] = "x"
    assert "evil" not in repr(pt.collect_params(params))
    with pytest.raises(TypeError):
        pt.ParamDict().tied["evil"] = "x"
    left = {"a": {"w": 1.0}}
    merged = pt.merge(left, {"b": {"w": 2.0}})
    merged["a"]["w"] = 5.0
    assert left == {"a": {"w": 1.0}}


def test_a_statistic_tied_transposed_cannot_be_updated_from_there():
    @pt.module
    def Counts(scope, x):
        cov = scope.state("cov", (2, 2), init.Zeros())
        if scope.train:
            scope.update("cov", cov + 1)
        return x

    net = nn.Sequential(pt.Module(Counts.call, "Counts", "s0"), pt.Module(Counts.call, "Counts", "s1"))
    params = net.init(KEY, X) | {"s1": {"cov": pt.Alias("s0/cov", transpose=True)}}
    with pytest.raises(pt.TieError) as e:
        net.apply_and_update(params, X)
    assert str(e.value) == "s1/cov is tied transposed to 's0/cov', and cannot be updated from here."


def test_the_gluon_way_to_share_shares():
    shared = nn.Dense(3, name="shared")
    params = nn.Sequential(shared, nn.Dense(3, params=shared.params)).init(KEY, X)
    assert params["dense0"] == pt.Alias("shared")


def test_a_module_says_where_its_parameters_are():
    with pytest.raises(AttributeError) as e:
        nn.Dense(3).weight
    assert str(e.value) == (
        "Dense has no 'weight'. A module holds no parameters: init makes them, apply uses them, "
        "and pt.bind(net, params) shows them by layer."
    )


def test_gradients_of_another_net_are_refused():
    net = nn.Sequential(nn.Dense(3), nn.Dense(2))
    params, other = net.init(KEY, X), nn.Sequential(nn.Dense(4), nn.Dense(2)).init(KEY, X)
    with pytest.raises(pt.MismatchError) as e:
        pt.bind(net, params, other | {"out": {"w": X}})
    assert str(e.value) == (
        "bind: these gradients are not of these params:\n"
        "  dense0/bias has shape (3,), and its gradient (4,)\n"
        "  dense0/weight has shape (3, 3), and its gradient (4, 3)\n"
        "  dense1/weight has shape (2, 3), and its gradient (2, 4)\n"
        "  out/w is not a parameter of the params"
    )


def test_a_place_tied_transposed_shows_what_it_sees():
    @pt.module
    def Head(scope, x):
        return x @ scope.param("kernel", (3, 5))

    net = nn.Sequential(nn.Embedding(5, 3), Head)
    params = pt.tie(
        net.init(KEY, "int32[2]"), {"head0/kernel": pt.Alias("embedding0/weight", transpose=True)}
    )
    grads = jax.grad(lambda params: net.apply(params, jnp.array([1, 2])).sum())(params)
    kernel = pt.bind(net, params, grads)[1].kernel
    assert repr(kernel) == "Parameter embedding0/weight (shape=(3, 5), dtype=float32), transposed"
    np.testing.assert_array_equal(kernel.data(), pt.get(params, "head0/kernel"))
    np.testing.assert_array_equal(kernel.grad(), grads["embedding0"]["weight"].T)
    ramp = jnp.arange(15.0).reshape(3, 5)
    for value in (ramp, lambda old: ramp + 0 * old):
        new = kernel.set_data(value)
        np.testing.assert_array_equal(pt.get(new, "head0/kernel"), ramp)
        np.testing.assert_array_equal(new["embedding0"]["weight"], ramp.T)


def test_a_shape_as_input_is_refused():
    with pytest.raises(pt.ParamTreeError) as e:
        nn.Dense(3).init(KEY, (2, 20))
    assert str(e.value) == "the input (2, 20) is a shape. Write it as a text, '2, 20', or pass an array."


def test_a_state_updated_inside_a_scan_of_the_module_is_refused():
    @pt.module
    def Scans(scope, x):
        seen = scope.state("seen", (), init.Zeros())

        def step(carry, _):
            scope.update("seen", seen + carry.sum())
            return carry, None

        return jax.lax.scan(step, x, None, length=2)[0] if scope.train else x

    params = Scans.init(KEY, X)
    with pytest.raises(pt.ParamTreeError) as e:
        Scans.apply_and_update(params, X)
    assert str(e.value) == (
        "seen was updated inside a jax.lax loop, vmap or checkpoint of the module's own, from which "
        "its value cannot be taken. Carry it out of there, and update it outside."
    )
    with pytest.raises(jax.errors.UnexpectedTracerError):  # under jit JAX itself sees it
        jax.jit(Scans.apply_and_update)(params, X)


def test_weight_decay_is_kept_from_what_is_fixed_as_the_docstring_says():
    optax = pytest.importorskip("optax")
    params = pt.freeze({"w": jnp.ones(2), "c": jnp.ones(2)}, "c")
    optimizer = optax.masked(optax.adamw(0.1, weight_decay=0.5), pt.mask(params, pt.trainable))
    state = optimizer.init(params)
    grads = jax.grad(lambda p: (pt.resolve(p)["w"] * pt.resolve(p)["c"]).sum())(params)
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic mixes dtypes
        updates, _ = optimizer.update(grads, state, params)
        new = optax.apply_updates(params, updates)
    assert (new["c"].value == 1).all()
    assert not (new["w"] == 1).any()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: pt.update({"w": X}, [("w", X)]), "update takes a dict {name: value}, and got a list."),
        (lambda: pt.tie({"w": X}, [("w", "v")]), "tie takes a dict {place: where it lives}, and got a list."),
        (lambda: pt.get({"w": X}, ["w"]), "get takes one name, and got ['w']; collect_params takes selects."),
        (
            lambda: nn.Dense(3).init(KEY),
            "Dense(): missing a required argument: 'x'. "
            "Pass its inputs by position, key= and train= by keyword.",
        ),
        (
            lambda: nn.Sequential(nn.Dense(3)).apply({}, X, True),
            "dense0(float32[2,3], bool): too many positional arguments. "
            "Pass its inputs by position, key= and train= by keyword.",
        ),
        (lambda: pt.Alias(3), "an Alias holds the name where a parameter lives, and not 3."),
        (
            lambda: pt.flatten(pt.collect_params({"w": X})),
            "a ParamDict is flat already; pt.unflatten it first.",
        ),
        (
            lambda: pt.reinit({"a": [0] * 99}, KEY, {"a": init.Zeros()}),
            "the first argument must be one random key, such as jax.random.key(0); "
            "found {'a': [0, 0, 0, 0, 0, 0, ...]}.",
        ),
        (
            lambda: pt.reinit(KEY, {"a": 1.0}, {"a": init.Zeros()}),
            "reinit: these are not arrays of numbers:\n  a is 1.0",
        ),
        (
            lambda: pt.save("net.npz", {"w": X}),
            "save takes the params, then the file; and got a dict there.",
        ),
        (
            lambda: pt.Alias("embed/weight")["weight"],
            "this place is tied to embed/weight: look there, or use pt.get, pt.bind or pt.resolve.",
        ),
    ],
)
def test_slips_of_a_newcomer_are_answered(call, text):
    with pytest.raises(pt.ParamTreeError) as e:
        call()
    assert str(e.value) == text


def random_net(seed):
    """A net of layers shared in all ways: by object, by `params=` chains, in containers and functions."""
    rng = np.random.default_rng(seed)

    def named(stem):
        return f"{stem}{rng.integers(9)}" if rng.random() < 0.3 else None

    def leaf(shares):
        return pt.Module(lambda scope, x: x + scope.param("w", (1, 3)), "Leaf", None, shares)

    leaves = []
    for _ in range(rng.integers(1, 5)):
        leaves.append(leaf(leaves[rng.integers(len(leaves))] if leaves and rng.random() < 0.4 else None))
    modules = list(leaves)
    for number in range(rng.integers(1, 5)):
        parts = [modules[at] for at in rng.integers(len(modules), size=rng.integers(1, 4))]
        if rng.random() < 0.5:
            made = nn.Sequential(*parts, name=f"s{number}" if rng.random() < 0.4 else None)
            modules.append(made)
            if rng.random() < 0.5:
                modules.append(pt.Module(made.call, "Dec", None, made))
        else:

            def call(scope, x, parts=tuple(parts)):
                for part in parts:
                    x = scope.call(part, x)
                return x

            modules.append(pt.Module(call, "Function"))
    return modules[-1]


@pytest.mark.parametrize("seed", range(120))
def test_random_nets_survive_all_that_is_done_to_ties(seed):
    net = random_net(seed)
    params = net.init(KEY, X)
    out = net.apply(params, X)
    apart = pt.untie(params, copy=False)
    np.testing.assert_array_equal(net.apply(apart, X), out)
    again = pt.tie(apart, pt.find_tied(apart))
    assert len(pt.names(again)) == len(pt.names(params))
    np.testing.assert_array_equal(net.apply(again, X), out)
    there = pt.rename(params, {"(.*)w": r"\1v"})
    back = pt.rename(there, {"(.*)v": r"\1w"})
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert repr(pt.bind(net, params))


# --- found by a review of the layers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net", [nn.Parallel(nn.Dense(4), nn.Dense(4)), nn.Residual(nn.Dense(4)), nn.Repeat(nn.Dense(4), 3)]
)
def test_only_a_chain_of_layers_can_be_sliced(net):
    with pytest.raises(pt.ParamTreeError) as e:
        net[:]
    assert str(e.value) == f"{net.title} is no chain of layers, so a part of it is no net."


def test_a_slice_has_no_positional_names():
    net = nn.Sequential(nn.Dense(4), nn.Dense(4), nn.Dense(4))
    with pytest.raises(pt.ParamTreeError, match="is a part; bind the net"):
        pt.bind(net, net.specs("b, 4"))[1:].positional_names()


def test_a_layer_and_its_remat_are_one_set_of_parameters():
    layer = nn.Dense(4)
    for others in ([layer], [nn.Dense(4, params=layer)], [nn.remat(layer)]):
        net = nn.Sequential(nn.remat(layer), *others)
        params = net.init(jax.random.key(0), jnp.ones((2, 4)))
        assert len(pt.names(params)) == 2
        assert net.apply(params, jnp.ones((2, 4))).shape == (2, 4)


def test_loading_puts_no_buffer_into_two_leaves(tmp_path):
    pt.save({"a": {"w": jnp.ones(3)}, "b": pt.Alias("a")}, tmp_path / "t.npz")
    found = pt.load(tmp_path / "t.npz", like={"a": {"w": jnp.zeros(3)}, "b": {"w": jnp.zeros(3)}})
    assert pt.find_tied(found) == {}
    jax.jit(lambda tree: jax.tree.map(jnp.sin, tree), donate_argnums=0)(found)


def test_an_updated_statistic_has_no_gradient_in_its_second_use():
    @pt.module
    def Center(scope, x):
        mean = scope.state("mean", (x.shape[-1],), init.Zeros())
        if scope.train:
            scope.update("mean", 0.9 * mean + 0.1 * x.mean(0))
        return x - mean[None]

    net, x = nn.Sequential(Center, Center), jnp.arange(12.0).reshape(6, 2)
    params = net.init(jax.random.key(0), x)
    grad = jax.grad(lambda x: net.apply(params, x, train=True)[0, 0])(x)
    assert (np.asarray(grad) == np.eye(6, 2) * np.eye(6, 2)[0]).all()


def test_nets_can_be_copied():
    net = nn.Sequential(nn.Dense(4), nn.Dense(2))
    params = net.init(KEY, X)
    for other in (copy.copy(net), copy.deepcopy(net)):
        assert (other.apply(params, X) == net.apply(params, X)).all()


def test_layers_are_counted_and_a_net_of_one_says_so():
    with pytest.raises(pt.ParamTreeError, match="it has 1 layer, 0"):
        nn.Sequential(nn.Dense(4))[3]
    with pytest.raises(pt.ParamTreeError, match="By the name of its parameters a layer is found in"):
        nn.Sequential(nn.Dense(4))["dense0"]


def test_only_functions_with_the_option_advise_it():
    params = {"a": jnp.ones(2)}
    for verb in (pt.stats, pt.show, pt.find_nonfinite, pt.summary):
        with pytest.raises(pt.NoMatchError) as caught:
            verb(params, select="zz")
        assert "allow_empty" not in str(caught.value)
    with pytest.raises(pt.NoMatchError, match="allow_empty"):
        pt.collect_params(params, "zz")


@pytest.mark.parametrize("target", ["b", "a/x"])
def test_a_circle_of_ties_is_told_of_everywhere(target):
    params = {"a": pt.Alias(target), "b": pt.Alias("a"), "c": jnp.ones(2)}
    for verb in (pt.summary, pt.stats, pt.find_nonfinite, pt.check_finite, pt.show):
        with pytest.raises(pt.TieError):
            verb(params)


def test_merge_refuses_what_is_flat():
    params = {"a": {"w": jnp.ones(2), "b": jnp.ones(2)}}
    flat = pt.collect_params(params, ".*w"), pt.collect_params(params, ".*b")
    with pytest.raises(pt.BadNameError, match=r"one is flat: 'a/w'\. pt\.unflatten it first\."):
        pt.merge(*flat)
    assert pt.names(pt.merge(*map(pt.unflatten, flat))) == ["a/b", "a/w"]


def test_a_name_means_itself_in_every_verb():
    params = {"w.1": jnp.ones(2), "wx1": jnp.ones(2)}
    other = jax.tree.map(jnp.zeros_like, params)
    assert list(pt.collect_params(params, "w.1")) == ["w.1"]
    assert [row.name for row in pt.diff(params, other, select="w.1")] == ["w.1"]
    tied = {**params, "c.1": pt.Alias("w.1"), "cx1": pt.Alias("wx1")}
    assert pt.names(pt.untie(tied, "c.1")) == ["c.1", "w.1", "wx1"]


def test_an_updated_value_is_as_strongly_typed_as_the_old_one():
    params = pt.update({"b": jnp.zeros(2)}, {"b": lambda old: jnp.full(old.shape, 1.0)})
    assert not params["b"].weak_type


def test_a_trained_parameter_is_not_tied_to_a_fixed_one():
    params = {"a": pt.Fixed(jnp.ones(2)), "b": jnp.ones(2)}
    with pytest.raises(pt.TieError) as caught:
        pt.tie(params, {"b": "a"})
    assert str(caught.value) == (
        "tie: these cannot be tied:\n"
        "  'b' is trained and 'a' is fixed; pt.freeze or pt.unfreeze one of them first"
    )


def test_long_lists_of_faults_say_how_many_are_left_out():
    tree = {f"stray{at}": jnp.ones(2) for at in range(15)}
    with pytest.raises(pt.UnknownNameError, match="and 5 more"):
        nn.Dense(2).init(KEY, X, init=init.Load(tree))


def test_sums_of_micro_batches_are_not_rounded_to_the_parameters_dtype():
    optax = pytest.importorskip("optax")
    grads = optax.stateless(lambda updates, params: updates)
    step = pt.train_step(
        lambda params, batch: (params["w"].astype("float32") * batch).mean(), grads, accumulate=1024
    )
    state, loss = step(step.init({"w": jnp.zeros((), "bfloat16")}), jnp.ones(1024))
    assert state.params["w"] == 1
    assert loss == 0


def test_a_statistic_that_changes_its_shape_is_named():
    optax = pytest.importorskip("optax")
    params = {"w": jnp.ones(2), "s": pt.Fixed(jnp.zeros(3))}

    def loss_fn(params, batch):
        return (params["w"] ** 2).sum() * batch, {"w": params["w"], "s": pt.Fixed(jnp.zeros(4))}

    step = pt.train_step(loss_fn, optax.sgd(0.1), has_state=True)
    with pytest.raises(pt.MismatchError, match=re.escape("s has shape (3,), and comes back with (4,)")):
        step(step.init(params), 1.0)


@pytest.mark.parametrize("waits", [False, True])
def test_an_optimizer_that_tells_leaves_apart_is_not_packed(waits):
    optax = pytest.importorskip("optax")
    masked = optax.adamw(0.1, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params))
    optimizer = optax.MultiSteps(masked, 4) if waits else masked
    params = pt.fuse({"w": jnp.full((4, 3), 2.0), "b": jnp.ones(4)})
    step = pt.train_step(lambda params, batch: params["w"].sum() * batch, optimizer)
    with pytest.raises(pt.ParamTreeError):
        step.init(params)


def test_shardings_of_too_many_axes_or_without_devices_are_named():
    from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.asarray(jax.devices()[:1]), ("x",))
    with pytest.raises(pt.MismatchError, match=re.escape("bias of shape (2,): ")):
        nn.Dense(2).init(KEY, X, shardings=NamedSharding(mesh, PartitionSpec(None, "x")))
    abstract = NamedSharding(AbstractMesh((1,), ("x",)), PartitionSpec())
    with pytest.raises(pt.MismatchError, match="its mesh is an AbstractMesh, which has no devices"):
        nn.Dense(2).init(KEY, X, shardings=abstract)


def test_a_plan_is_json():
    from jax.sharding import AbstractMesh, PartitionSpec

    mesh = AbstractMesh((2, 2), ("d", "e"))
    plan = pt.plan_sharding({"w": jnp.ones((4, 4))}, mesh, {".*": PartitionSpec(("d", "e"))})
    assert plan.rows[0].to_dict()["spec"] == [["d", "e"]]


def test_what_was_donated_is_named():
    gone = jnp.ones(3)
    gone.delete()
    for verb in (pt.stats, pt.find_nonfinite, pt.check_finite):
        with pytest.raises(pt.MismatchError, match="the values of these are gone, donated or deleted"):
            verb({"a": gone})


def test_a_summary_of_params_that_are_not_the_nets():
    params = nn.Dense(4).init(KEY, X)
    for net, x in ((nn.Dense(4), jnp.ones((2, 99))), (nn.Dense(9), X)):
        with pytest.raises(pt.MismatchError, match="summary: net, params and inputs do not fit"):
            pt.summary(pt.bind(net, params), x)


def test_arrays_on_explicit_axes_are_looked_at_where_they_lie():
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh((2, 2), ("x", "y"), devices=jax.devices()[:4])
    values = jnp.arange(256.0).reshape(4, 8, 8).at[1, 2, 3].set(jnp.nan)
    wanted = pt.find_nonfinite({"w": values})
    for spec in (PartitionSpec("x", "y"), PartitionSpec(None, ("x", "y")), PartitionSpec()):
        params = {"w": jax.device_put(values, NamedSharding(mesh, spec))}
        assert pt.find_nonfinite(params).to_dict() == wanted.to_dict()
        assert pt.stats(params)["w"].values.nan == 1


def test_stand_ins_are_never_one_buffer():
    spec = jax.ShapeDtypeStruct((2,), "float32")
    assert pt.find_tied({"a": spec, "b": spec}) == {}


def test_every_text_can_be_a_name():
    long = f"w{'1' * 5000}"  # more digits than Python makes a number of
    assert pt.names({long: 0.0, "w2": 0.0}) == ["w2", long]
    assert str(pt.collect_params({"a\nb": 0.0})) == "params (\n  Parameter a\\nb (0.0)\n)"


def test_keys_of_several_types_are_named_where_jax_takes_them():
    assert pt.names(OrderedDict([("a", 1.0), (0, 2.0)])) == ["0", "a"]


def test_a_field_called_transparent_is_a_field():
    class Glass(NamedTuple):
        transparent: float
        colour: float

    assert pt.names({"glass": Glass(1.0, 2.0)}) == ["glass/colour", "glass/transparent"]


def test_a_tree_too_deep_for_jax_is_refused():
    tree = {"w": 1.0}
    for _ in range(3000):
        tree = {"a": tree}
    with pytest.raises(pt.BadNameError) as caught:
        pt.names(tree)
    assert str(caught.value) == "this tree is nested too deeply for JAX; put its blocks side by side."


def test_a_traced_value_is_as_strongly_typed_as_the_array_it_replaces():
    params = {"b": jnp.ones(())}
    assert not jax.jit(lambda value: pt.update(params, {"b": 1.0 * value}))(2.0)["b"].weak_type
    weak = jnp.full((), 1.0)
    assert pt.update({"label": "decay"}, {"label": weak})["label"] == 1
    stand_in = jax.eval_shape(lambda: weak)
    assert pt.update({"b": stand_in.update(weak_type=False)}, {"b": stand_in})["b"] == stand_in


def test_what_is_no_number_is_not_drawn_anew():
    with pytest.raises(pt.MismatchError) as caught:
        pt.reinit(KEY, {"key": KEY, "w": jnp.ones(2)}, {".*": init.Ones()})
    assert str(caught.value) == "reinit: these are not arrays of numbers:\n  key is shape=(), dtype=key<fry>"


def test_a_tie_of_one_stack_to_another_is_named():
    net = nn.Sequential(nn.Repeat(nn.Dense(3), 2, name="r1"), nn.Repeat(nn.Dense(3), 2, name="r2"))
    params = net.init(KEY, X)
    whole = pt.tie(params, {"r2/dense": "r1/dense"})
    assert (net.apply(whole, X) == net.apply(pt.untie(whole), X)).all()
    with pytest.raises(pt.MismatchError) as caught:
        net.apply(pt.tie(params, {"r2/dense/weight": "r1/dense/weight"}), X)
    assert str(caught.value) == (
        "r2/dense/weight has shape (2, 3, 3), and r2/dense(float32[2,3]) needs (3, 3). It is tied to "
        "r1/dense/weight, and what a repeated block shares with others is one for all of its repetitions: "
        "tie the whole block, or pt.untie it."
    )


@pytest.mark.parametrize("layer", [nn.RNN(2), nn.LSTM(2, bidirectional=True), nn.GRU(2)], ids=repr)
def test_recurrent_layers_run_on_a_part_of_the_batch_for_each_device(layer):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x = jax.random.normal(KEY, (8, 3, 2))
    params = layer.init(KEY, x)
    spread = jax.shard_map(layer.apply, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    assert jnp.allclose(jax.jit(spread)(params, x), layer.apply(params, x))


def test_a_mixture_in_a_repeated_layer_chooses_for_each_repetition():
    mixed = init.Mixed({"dense0/.*": init.Ones(), ".*": init.Uniform()})

    def layer():
        return nn.Dense(3, weight_init=mixed)

    params = nn.Repeat(layer(), 2).init(KEY, X)
    apart = nn.Sequential(layer(), layer()).init(KEY, X)
    assert (params["dense"]["weight"] == pt.stack(apart, r"dense\d")["dense"]["weight"]).all()


def test_each_of_several_selects_must_hit_in_every_verb():
    params = {"a": {"w": jnp.ones(2)}, "b": pt.Alias("a"), "c0": {"w": jnp.ones(2)}}
    with pytest.raises(pt.NoMatchError) as caught:
        pt.untie(params, ["b/w", "d/w"])
    assert str(caught.value) == "untie: 'd/w' hits no tied place. The tied places are: b/w."
    with pytest.raises(pt.NoMatchError) as caught:
        pt.stack(params, ["c0", "d0"])
    assert (
        str(caught.value) == "stack: 'd0' hits no block; it must match its whole name. The blocks are a, c0."
    )
