"""Against MXNet Gluon 1.9.1: the same values give the same outputs, gradients and training runs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_nets import (
    CASES,
    FOLDER,
    NOT_COMPARED,
    Record,
    arrays,
    build,
    by_gluon_name,
    close,
    grouped,
    our_name,
)

import paramtree as pt
from paramtree import init, nn
from paramtree.checkpoint.mxnet import read_arrays

try:
    import optax
except ImportError:
    optax = None  # the training runs skip themselves


def eager(function):
    return function


def jitted(name):
    """Give jit where it can be: FancyMLP, which has the one constant, branches on values in Python."""
    entries = CASES[name]["params"].values()
    return eager if any(entry["kind"] == "Constant" for entry in entries) else jax.jit


def is_fixed(name, leaf):
    return not pt.trainable(name, leaf)


def check_gradients(record, kind, grads):
    """Compare the gradients of what is trained; of what is not, they are zero."""
    record.compare(kind, by_gluon_name(record.case, grads))
    fixed = pt.collect_params(grads, is_fixed, allow_empty=True)
    assert not any(np.any(grad) for grad in fixed.values())


# one check for each kind of case


def forward_backward(record, transform):
    case, net, params = record.case, build(record.case), record.params()
    inputs, cotangents = record.given("input"), record.given("cotangent")

    def apply(params, inputs):
        return jax.tree.leaves(net.apply(params, *grouped(inputs), train=case["mode"] == "train"))

    @transform
    def run(params, inputs, cotangents):
        outputs, pull = jax.vjp(apply, params, inputs)
        grads, input_grads = pull(cotangents)
        real = [None if grad.dtype == jax.dtypes.float0 else grad for grad in input_grads]  # None for ids
        return outputs, grads, real

    outputs, grads, input_grads = run(params, [*inputs.values()], [*cotangents.values()])
    named = zip(inputs, input_grads, strict=True)
    record.compare("output", dict(zip(cotangents, outputs, strict=True)))
    record.compare("grad_input", {name: grad for name, grad in named if grad is not None})
    check_gradients(record, "grad", grads)
    if record.named("untied_grad"):
        _, grads, _ = run(pt.untie(params), [*inputs.values()], [*cotangents.values()])
        check_gradients(record, "untied_grad", grads)


def batchnorm_run(record, transform):
    case, net, params = record.case, build(record.case), record.params()
    inputs, cotangents = record.given("input"), record.given("cotangent")
    outputs, input_grads = {}, {}

    @transform
    def step(params, x, cotangent):
        y, pull, after = jax.vjp(net.apply_and_update, params, x, has_aux=True)
        return y, *pull(cotangent), after

    for i in range(case["steps"]):
        x, y = f"x{i}", f"y{i}"
        outputs[y], grads, input_grads[x], params = step(params, inputs[x], cotangents[y])
        check_gradients(record, f"train_grad{i}", grads)
        record.compare(f"stat_after_step{i + 1}", by_gluon_name(case, params, is_fixed))
    record.compare("train_output", outputs)
    record.compare("train_grad_input", input_grads)
    record.compare("predict_output", {"yp": transform(net.apply)(params, inputs["xp"])})


def grad_accumulate(record, transform):
    net, params = build(record.case), record.params()
    total = jax.tree.map(jnp.zeros_like, params)

    @transform
    def step(params, x):
        return jax.value_and_grad(lambda params: (net.apply(params, x) ** 2).sum())(params)

    for i, x in enumerate(record.given("input").values()):
        loss, grads = step(params, x)
        total = jax.tree.map(jnp.add, total, grads)
        record.compare_one(f"loss{i}", loss)
        check_gradients(record, f"grad_after{i + 1}", total)


def training(record, transform):
    pytest.importorskip("optax")
    case, net = record.case, build(record.case)
    frozen = [our_name(case, name) for name, own in case["multipliers"].items() if own["grad_req"] == "null"]
    params = pt.freeze(record.params("param@0"), frozen, allow_empty=True)
    optimizer = gluon_optimizer(case)
    data = record.given("input")

    def loss(params):
        y, after = net.apply_and_update(params, data["x"])
        losses = LOSSES[case["loss"]](y, data["y"])
        return losses.sum(), (losses, after)

    @transform
    def step(params, state):
        grads, (losses, after) = jax.grad(loss, has_aux=True)(params)
        with lenient():
            updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(after, updates), state, losses, grads

    with lenient():
        state, means = transform(optimizer.init)(params), []
    for i in range(case["steps"]):
        params, state, losses, grads = step(params, state)
        means.append(np.asarray(losses).mean(dtype=float))
        if i == 0:
            record.compare_one("first_loss_vector", losses)
            check_gradients(record, "first_grad", grads)
        if i + 1 in case["params_recorded_at"]:
            record.compare(f"param@{i + 1}", by_gluon_name(case, params, None))
    record.compare_one("losses", means)
    record.compare_one("final_output", transform(net.apply)(params, data["x"]))


CHECKS = {
    "forward_backward": forward_backward,
    "batchnorm_run": batchnorm_run,
    "grad_accumulate": grad_accumulate,
    "training": training,
}


# losses and optimisers, as Gluon defines them

LOSSES = {
    "softmax_ce": lambda y, label: -jnp.take_along_axis(jax.nn.log_softmax(y), label[:, None], 1)[:, 0],
    "l2": lambda y, wanted: (0.5 * (y - wanted) ** 2).mean(1),
}


def gluon_optimizer(case):
    """Make Gluon's optimiser of optax's parts, its multipliers by rules; it leaves what is fixed alone."""
    options = case["optimizer_params"]
    rules = {which: multipliers(case, which) for which in ("lr_mult", "wd_mult")}
    kind = {"sgd": lambda: optax.trace(options.get("momentum", 0.0)), "adam": gluon_adam}
    optimizer = optax.chain(
        optax.scale(1 / case["batch_size"]),
        optax.add_decayed_weights(options.get("wd", 0.0)),
        kind[case["optimizer"]](),
        optax.scale(-options["learning_rate"]),
    )
    return pt.group_optimizers({".*": optimizer}, **{key: value for key, value in rules.items() if value})


def lenient():
    """Allow what optax's Adam does: to raise a float to an integer power."""
    return jax.numpy_dtype_promotion("standard")


def multipliers(case, which):
    """Make rules of the multipliers other than 1 of what is trained."""
    entries = {re.escape(our_name(case, name)): own for name, own in case["multipliers"].items()}
    return {
        name: own[which] for name, own in entries.items() if own[which] != 1 and own["grad_req"] != "null"
    }


def gluon_adam():
    """Make Adam with epsilon outside of the bias correction, where optax has it inside."""
    adam = optax.inject_hyperparams(optax.scale_by_adam)
    return adam(b1=0.9, b2=0.999, eps=lambda count: 1e-8 / jnp.sqrt(1 - 0.999 ** jnp.float32(count + 1)))


# every case, by the check of its kind

# of a whole training run, op by op, nothing more would be learnt
WITHOUT_JIT = [name for name in CASES if jitted(name) is jax.jit and CASES[name]["kind"] != "training"]
IN_FLOAT64 = [name for name in CASES if any("64:" in key for key in arrays(name))]


def check(name, transform, bits=""):
    record = Record(CASES[name], bits)
    CHECKS[CASES[name]["kind"]](record, transform)
    assert record.unread == set(NOT_COMPARED.get(name, ()))


@pytest.mark.parametrize("name", CASES)
def test_a_case(name):
    check(name, jitted(name))


@pytest.mark.parametrize("name", WITHOUT_JIT)
def test_a_case_without_jit(name):
    check(name, eager)


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_a_case_in_float64(name):
    with jax.enable_x64(True):
        check(name, jitted(name), "64")


@pytest.mark.parametrize("name", CASES)
def test_specs_are_the_same_tree(name):
    case, record = CASES[name], Record(CASES[name])
    wanted = record.params("param@0" if case["kind"] == "training" else "param")
    inputs = [value for key, value in record.named("input").items() if key in case.get("inputs", ["x", "x0"])]
    found = build(case).specs(*grouped(inputs))
    assert [spec.shape for spec in jax.tree.leaves(found)] == [leaf.shape for leaf in jax.tree.leaves(wanted)]
    assert jax.tree.structure(found) == jax.tree.structure(wanted)


# that nothing of the data is left out


@pytest.mark.parametrize("name", CASES)
def test_its_params_file_fits_by_position_and_goes_back(name, tmp_path):
    case, record = CASES[name], Record(CASES[name])
    net, wanted = build(case), record.params("param@0" if CASES[name]["kind"] == "training" else "param")
    names = pt.bind(net, wanted).positional_names()
    if case["arch"]["type"].endswith("Cell"):  # one of ours is a step of a layer
        names = {theirs: our_name(case, theirs) for theirs in case["params"]}
    if name in NOT_COMPARED:
        with pytest.raises(pt.MismatchError, match=r"\n  unexpected  0\.gamma "):
            pt.load(FOLDER / case["params_file"], like=wanted, rename=names)
        return
    assert set(names) == set(case["params"])
    found = pt.load(FOLDER / case["params_file"], like=wanted, rename=names)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    pt.save({theirs: pt.get(found, ours) for theirs, ours in names.items()}, tmp_path / "back.params")
    files = (FOLDER / case["params_file"], tmp_path / "back.params")
    before, after = (dict(zip(*read_arrays(file), strict=True)) for file in files)
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)


def test_a_deduplicated_file_which_keeps_the_last_name_of_a_tie_fits():
    case = CASES["tied_chapter"]
    net, wanted = build(case), Record(case).params()
    names = pt.bind(net, wanted).positional_names()
    for name in ("tied_chapter", "tied_chapter_dedup"):
        found = pt.load(FOLDER / f"{name}.params", like=wanted, rename=names)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
        assert found["2"] == pt.Alias("1")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "params_file_after" in case])
def test_the_file_after_a_run_holds_what_the_run_left(name):
    case, record = CASES[name], Record(CASES[name])
    held = dict(zip(*read_arrays(FOLDER / case["params_file_after"]), strict=True))
    kind = "param@" if case["kind"] == "training" else "stat_after_step"
    found = record.named(f"{kind}{case['steps']}")
    assert found
    for key, value in found.items():
        np.testing.assert_array_equal(held[key], value)


def test_every_case_of_the_index_is_checked():
    (cases,) = test_a_case.pytestmark
    assert set(cases.args[1]) == set(CASES)
    assert {case["kind"] for case in CASES.values()} == set(CHECKS)


@pytest.mark.parametrize("name", ["act_relu", "train_sgd_ce"])
@pytest.mark.parametrize("key", ["output:more", "more"])
def test_an_array_that_no_check_reads_fails(monkeypatch, name, key):
    more = arrays(name) | {key: np.zeros(1, np.float32)}
    monkeypatch.setattr("golden_nets.arrays", lambda name: more)
    with pytest.raises(AssertionError):
        check(name, jax.jit)


# ties


@pytest.mark.parametrize("transform", [eager, jax.jit])
def test_the_gradient_of_a_tie_is_the_sum_of_the_untied_ones(transform):
    record = Record(CASES["tied_chapter"])
    net, tied = build(record.case), record.params()
    untied = pt.untie(tied)
    x, cotangent = record.read("input:x"), record.read("cotangent:y")

    def loss(params):
        return (net.apply(params, x) * cotangent).sum()

    grads, apart = transform(jax.grad(loss))(tied), transform(jax.grad(loss))(untied)
    assert grads["2"] == pt.Alias("1")
    assert pt.names(apart) == [*(f"{layer}/{key}" for layer in range(4) for key in ("weight", "bias"))]
    for key in ("weight", "bias"):
        close(grads["1"][key], apart["1"][key] + apart["2"][key], record.tolerance)
    found = pt.find_tied(pt.untie(tied, copy=False))
    assert jax.tree.structure(pt.tie(untied, found)) == jax.tree.structure(tied)


# Adam's epsilon


def adam_of_gluon(grads, rate=0.01, b1=0.9, b2=0.999, eps=1e-8):
    """Give the value that a parameter has after each gradient, as MXNet writes it."""
    value = mean = square = 0.0
    for step, grad in enumerate(grads, 1):
        mean, square = b1 * mean + (1 - b1) * grad, b2 * square + (1 - b2) * grad**2
        rate_now = rate * np.sqrt(1 - b2**step) / (1 - b1**step)
        value -= rate_now * mean / (np.sqrt(square) + eps)
        yield value


def adam_of_optax(transform, grads, rate=0.01):
    value, state = jnp.zeros(()), transform.init(jnp.zeros(()))
    for grad in grads:
        with lenient():
            update, state = transform.update(jnp.float32(grad), state)
        value = value - rate * update
        yield float(value)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-8])
def test_adam_is_gluons_at_gradients_of_any_size(size):
    pytest.importorskip("optax")
    grads = size * np.random.default_rng(0).normal(size=6)
    wanted = [*adam_of_gluon(grads)]
    np.testing.assert_allclose([*adam_of_optax(gluon_adam(), grads)], wanted, rtol=1e-4)
    same = np.allclose([*adam_of_optax(optax.scale_by_adam(), grads)], wanted, rtol=1e-4)
    assert same == (size == 1.0)  # optax's own differs at gradients about as small as epsilon


# the chapter


def test_the_chapter_prints():
    """The chapter's own weights give the chapter's printed outputs, to the last printed digit."""
    values = arrays("chapter_values")
    net = nn.Sequential(nn.Dense(256, activation="relu"), nn.Dense(10))
    zeros = {"dense0": jnp.zeros(256), "dense1": jnp.zeros(10)}
    params = {name: {"weight": values[f"{name}_weight"], "bias": bias} for name, bias in zeros.items()}
    y = np.asarray(net.apply(params, values["x"]))
    # processors add up in their own order
    np.testing.assert_allclose(y, values["net_out"], rtol=0, atol=1e-7)
    with np.printoptions(precision=6, suppress=True, linewidth=100):
        assert str(y[0]) == (
            "[ 0.062403 -0.032686  0.025827  0.022542 -0.037288 -0.042538  0.005406 -0.013642 -0.099155\n"
            " -0.022727]"
        )


def test_the_chapter_nests():
    values, record = arrays("chapter_values"), Record(CASES["rgnet_chapter"])
    y = build(record.case).apply(record.params(), values["x"])
    close(y, values["rgnet_out"], record.tolerance)


def test_the_chapter_initialises_anew():
    values = arrays("chapter_values")
    net, key = nn.Sequential(nn.Dense(256, activation="relu"), nn.Dense(10)), jax.random.key(0)
    params = net.init(key, values["x"], init=init.Constant(1))
    assert np.array_equal(params["dense0"]["bias"], values["constant1:dense0_bias"])
    assert np.array_equal(params["dense0"]["weight"][0], values["constant1:dense0_weight_row0"])
    params = pt.reinit(key, params, {"dense0/weight": init.Xavier(), "dense1/.*": init.Constant(42)})
    assert params["dense1"]["weight"][0, 0] == values["constant42:dense1_weight_00"]


def test_the_chapter_edits():
    values = arrays("chapter_values")
    params = {"dense0": {"weight": jnp.asarray(values["myinit:dense0_weight"])}}
    edited = pt.update(params, {"dense0/weight": lambda old: (old + 1).at[0, 0].set(42)})
    assert np.array_equal(edited["dense0"]["weight"][0], values["edited:dense0_weight_row0"])
