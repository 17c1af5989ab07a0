"""PReLU, and the names of activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree import init, nn

KEY = jax.random.key(0)


def test_prelu_is_its_formula():
    x = np.array([[-2.0, -0.5, 0.0], [0.5, 3.0, -1.0]], np.float32)
    out = nn.PReLU().apply({"alpha": np.array([0.1], np.float32)}, x)
    np.testing.assert_allclose(out, np.where(x > 0, x, np.float32(0.1) * x), rtol=1e-6)


def test_prelu_starts_as_in_gluon():
    for rule in (None, init.Normal(1.0)):  # its own initialiser comes before the net's
        params = nn.PReLU().init(KEY, jnp.ones((2, 3)), init=rule)
        assert list(params) == ["alpha"]
        np.testing.assert_array_equal(params["alpha"], np.array([0.25], np.float32))


def test_prelu_gradients():
    x = jnp.array([-2.0, -0.5, 0.0, 3.0])
    params = {"alpha": jnp.array([0.25])}
    grads, grad_x = jax.grad(lambda p, x: nn.PReLU().apply(p, x).sum(), (0, 1))(params, x)
    np.testing.assert_allclose(grads["alpha"], [-2.5], rtol=1e-6)
    np.testing.assert_allclose(grad_x, [0.25, 0.25, 0.25, 1.0], rtol=1e-6)  # at 0 the slope of below


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 1, 3, 2)])
def test_prelu_of_any_rank(shape):
    params = nn.PReLU().init(KEY, jnp.ones(shape))
    assert params["alpha"].shape == (1,)
    assert nn.PReLU().apply(params, jnp.ones(shape)).shape == shape


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("kept", ["float16", "bfloat16", "float32"])
def test_prelu_gives_the_dtype_of_its_input(dtype, kept):
    params = {"alpha": jnp.full(1, 0.25, kept)}
    out = nn.PReLU().apply(params, jnp.array([-2.0, 3.0], dtype))
    assert out.dtype == dtype
    np.testing.assert_array_equal(out.astype(float), [-0.5, 3.0])


def test_prelu_of_integers():
    out = nn.PReLU().apply({"alpha": jnp.array([0.25])}, jnp.array([-2, 3]))
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, [-0.5, 3.0])


def test_prelu_of_complex_numbers():
    with pytest.raises(pt.MismatchError) as caught:
        nn.Sequential(nn.PReLU()).init(KEY, jnp.ones(3, jnp.complex64))
    assert str(caught.value) == "prelu0(complex64[3]) needs real numbers."


def test_prelu_in_a_net():
    net = nn.Sequential(nn.Dense(3), nn.PReLU(), nn.Dense(2), nn.PReLU(name="last"))
    params = net.init(KEY, jnp.ones((1, 4)))
    assert set(pt.collect_params(params, ".*alpha")) == {"prelu0/alpha", "last/alpha"}


@pytest.mark.parametrize(
    "name", ["relu", "sigmoid", "tanh", "softrelu", "softsign", "elu", "selu", "gelu", "swish", "leaky_relu"]
)
def test_the_activations_of_gluon_are_there(name):
    assert nn.Activation(name).apply({}, jnp.array([-1.0, 1.0])).shape == (2,)
    assert nn.Dense(3, name).specs("2, 4").keys() == {"weight", "bias"}
