"""Random bits that XLA fuses: the same as JAX's own, wherever they are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sameness import same_leaf, same_tree

from paramtree import init, nn
from paramtree.bits import fold_words, fused, is_threefry
from paramtree.draw import _program

SHAPES = [(), (1,), (7,), (0, 3), (3, 0), (2, 3, 5), (129, 4), (1, 1, 300)]
LAWS = {
    "normal": jax.random.normal,
    "uniform": jax.random.uniform,
    "truncated": lambda key, shape: jax.random.truncated_normal(key, -2.0, 2.0, shape),
    "half": lambda key, shape: jax.random.uniform(key, shape, jnp.float16),
    "bernoulli": lambda key, shape: jax.random.bernoulli(key, 0.3, shape),
    "randint": lambda key, shape: jax.random.randint(key, shape, -5, 500),
    "gamma": lambda key, shape: jax.random.gamma(key, 2.0, shape),
    "permutation": lambda key, shape: jax.random.permutation(key, jnp.zeros(shape) if len(shape) else 9),
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bits_are_those_of_jax(shape, dtype):
    for seed in (0, 1, 2**31 - 1):
        key = jax.random.key(seed)
        assert same_leaf(jax.random.bits(fused(key), shape, dtype), jax.random.bits(key, shape, dtype))


def test_the_bits_of_64_are_those_of_jax():
    key = jax.random.key(5)
    with jax.enable_x64():
        assert same_leaf(
            jax.random.bits(fused(key), (3, 5), "uint64"), jax.random.bits(key, (3, 5), "uint64")
        )
        assert same_leaf(
            jax.random.normal(fused(key), (9,), "float64"), jax.random.normal(key, (9,), "float64")
        )


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_made_of_them_is_what_jax_makes(law, shape):
    key = jax.random.key(3)
    assert same_leaf(law(fused(key), shape), law(key, shape))
    assert same_leaf(jax.jit(law, static_argnums=1)(fused(key), shape), law(key, shape))


@pytest.mark.filterwarnings("error")  # of NumPy, should a number overflow where it is no array
def test_keys_folded_on_the_host_are_those_of_jax():
    words = np.array([0, 1, 2**31, 2**32 - 1], np.uint32)
    for pair in ((0, 0), (1, 2**32 - 1), (2**31, 77)):
        key = jax.random.wrap_key_data(np.array(pair, np.uint32))
        folded = np.stack(fold_words(np.array(pair, np.uint32), np.stack([words, words[::-1]])), -1)
        for mine, first, second in zip(folded, words, words[::-1], strict=True):
            theirs = jax.random.fold_in(jax.random.fold_in(key, first), second)
            assert np.array_equal(mine, jax.random.key_data(theirs))


def test_keys_derived_from_them_are_those_of_jax():
    key = jax.random.key(7)
    data = jax.random.key_data
    assert same_leaf(data(jax.random.split(fused(key), 3)), data(jax.random.split(key, 3)))
    assert same_leaf(data(jax.random.fold_in(fused(key), 12)), data(jax.random.fold_in(key, 12)))


def test_several_keys_at_once():
    keys = jax.random.split(jax.random.key(1), 4)
    draw = jax.vmap(lambda key: jax.random.normal(key, (5, 3)))
    assert same_leaf(draw(fused(keys)), draw(keys))
    one_by_one = jax.lax.map(lambda key: jax.random.normal(key, (5, 3)), fused(keys))
    assert same_leaf(one_by_one, draw(keys))


def test_what_lies_on_several_devices():
    key = jax.random.key(2)
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("a", "b"))
    draw = jax.jit(
        lambda key: jax.random.normal(key, (8, 6)),
        out_shardings=NamedSharding(mesh, PartitionSpec("a", "b")),
    )
    assert same_leaf(draw(fused(key)), draw(key))


def test_a_key_of_the_old_style():
    key = jax.random.PRNGKey(4)
    assert same_leaf(jax.random.bits(fused(key), (3,)), jax.random.bits(key, (3,)))


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_keys_of_other_generators_stay_as_they_are(kind):
    key = jax.random.key(0, impl=kind)
    assert fused(key) is key


def test_keys_stay_as_they_are_where_bits_depend_on_the_shape():
    key = jax.random.key(0)
    with jax.threefry_partitionable(False):
        assert fused(key) is key
    assert fused(key) is not key


def test_more_elements_than_a_word_can_number():
    key = fused(jax.random.key(0))
    last = jax.eval_shape(lambda key: jax.random.bits(key, (2**16, 2**17), "uint8"), key)
    assert (last.shape, last.dtype) == ((2**16, 2**17), "uint8")


def test_drawing_takes_no_memory_but_the_result():
    shape = (512, 512)
    program = jax.jit(lambda key: jax.random.normal(key, shape)).lower(fused(jax.random.key(0))).compile()
    assert program.memory_analysis().temp_size_in_bytes < 1024


@pytest.mark.parametrize("initialiser", [init.Normal(), init.Xavier(), jax.nn.initializers.he_normal()])
def test_a_parameter_is_drawn_in_no_memory_but_its_own(initialiser):
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 1))
    asked = initialiser, (512, 512), jnp.dtype("float32"), (), "threefry2x32"
    program = _program(None, quick=True).lower(*asked, keys).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4096


def test_dropping_out_takes_no_memory_but_the_result():
    drop = jax.jit(lambda x, key: nn.Dropout(0.5).apply({}, x, train=True, key=key))
    program = drop.lower(jnp.ones((512, 512)), jax.random.key(0)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4096


def test_a_batch_of_keys_is_drawn_side_by_side():
    assert is_threefry(jax.random.key(0))
    assert is_threefry(fused(jax.random.key(0)))
    assert not is_threefry(jax.random.key(0, impl="rbg"))
    net = nn.Sequential(nn.Dense(8), nn.Dense(8), nn.Dense(8))
    assert "scan" not in str(jax.make_jaxpr(lambda key: net.init(key, "1, 8"))(jax.random.key(0)))


class Beta(init.Initializer):
    """One whose numbers XLA rounds otherwise where it fuses the bits."""

    def __call__(self, key, shape, dtype="float32"):
        return jax.random.beta(key, 2.0, 3.0, shape, dtype)


@pytest.mark.parametrize("count", [1, 11])
def test_a_users_initialiser_is_given_jaxs_own_bits(count):
    net = nn.Sequential(*(nn.Dense(16, weight_init=Beta()) for _ in range(count)))
    eager, jitted = (make(jax.random.key(3), jnp.ones((1, 16))) for make in (net.init, jax.jit(net.init)))
    assert same_tree(eager, jitted)


def test_a_net_is_drawn_with_them(monkeypatch):
    net = nn.Sequential(nn.Dense(16), nn.Dense(3, weight_init=jax.nn.initializers.he_normal(1, 0)))
    params = net.init(jax.random.key(0), "1, 8")
    monkeypatch.setattr("paramtree.draw.fused", lambda keys: keys)
    jax.clear_caches()
    plain = net.init(jax.random.key(0), "1, 8")
    jax.clear_caches()
    assert same_tree(params, plain)
