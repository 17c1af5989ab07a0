"""The networks whose initialisation is timed, in each library: a deep MLP, a Transformer and a ResNet-50.

Libraries whose layers are made with their sizes (NNX, Equinox, penzai) only list them here: they compute
nothing of an input. Each function gives key -> parameters.
"""

import jax
import jax.numpy as jnp

WIDTH, HEADS = 64, 4
IMAGE = (1, 32, 32, 3)
_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


def bottlenecks():
    """List the blocks of a ResNet-50: (inputs, channels, stride, whether it has a shortcut)."""
    blocks, inputs = [], 64
    for stage, (channels, count) in enumerate(_STAGES):
        for block in range(count):
            blocks.append((inputs, channels, 2 if stage and not block else 1, not block))
            inputs = 4 * channels
    return blocks


def convolutions():
    """List the convolutions of a ResNet-50, each with a normalisation after it: (inputs, outputs, kernel)."""
    found = [(3, 64, 7)]
    for inputs, channels, _, shortcut in bottlenecks():
        found += [(inputs, channels, 1), (channels, channels, 3), (channels, 4 * channels, 1)]
        found += [(inputs, 4 * channels, 1)] if shortcut else []
    return found


def paramtree(network, depth):
    """Give key -> parameters; with `shardings=` too, as `net.init` takes it."""
    from paramtree import nn

    def conv(channels, kernel, stride=1):
        return nn.Conv(channels, kernel, stride=stride, padding=kernel // 2, use_bias=False), nn.BatchNorm()

    def bottleneck(channels, stride, shortcut):
        relu = nn.Activation("relu")
        body = *conv(channels, 1), relu, *conv(channels, 3, stride), relu, *conv(4 * channels, 1)
        shortcut = nn.Sequential(*conv(4 * channels, 1, stride)) if shortcut else None
        return nn.Residual(*body, shortcut=shortcut), relu

    def block():
        attention = nn.Residual(nn.LayerNorm(), nn.MultiHeadAttention(HEADS, causal=True))
        return attention, nn.Residual(nn.LayerNorm(), nn.Dense(4 * WIDTH, "gelu"), nn.Dense(WIDTH))

    if network == "MLP":
        net, x = nn.Sequential(*(nn.Dense(WIDTH) for _ in range(depth))), jnp.ones((1, WIDTH))
    elif network == "Transformer":
        net = nn.Sequential(*(layer for _ in range(depth) for layer in block()))
        x = jnp.ones((1, 16, WIDTH))
    else:
        blocks = [layer for _, *each in bottlenecks() for layer in bottleneck(*each)]
        net, x = nn.Sequential(*conv(64, 7, 2), *blocks, nn.GlobalAvgPool(), nn.Dense(1000)), jnp.ones(IMAGE)
    return lambda key, **where: net.init(key, x, **where)


def by_hand(network, depth):
    """Write dicts and draw them with `jax.nn.initializers`."""
    normal, ones, zeros = jax.nn.initializers.he_normal(), jnp.ones, jnp.zeros

    def dense(key, inputs, outputs):
        return {"kernel": normal(key, (inputs, outputs)), "bias": zeros(outputs)}

    def norm(width):
        return {"scale": ones(width), "bias": zeros(width)}

    def block(key):
        keys = jax.random.split(key, 6)
        sizes = dict.fromkeys(("query", "key", "value", "out"), (WIDTH, WIDTH))
        sizes |= {"wide": (WIDTH, 4 * WIDTH), "narrow": (4 * WIDTH, WIDTH)}
        layers = {name: dense(key, *size) for key, (name, size) in zip(keys, sizes.items(), strict=True)}
        return {**layers, "norm0": norm(WIDTH), "norm1": norm(WIDTH)}

    def conv(key, inputs, outputs, kernel):
        stats = {"mean": zeros(outputs), "var": ones(outputs)}
        return {"kernel": normal(key, (kernel, kernel, inputs, outputs)), **norm(outputs), **stats}

    def resnet(key):
        first, second = jax.random.split(key)
        every = convolutions()
        keys = jax.random.split(first, len(every))
        convs = {f"conv{at}": conv(keys[at], *sizes) for at, sizes in enumerate(every)}
        return {**convs, "head": dense(second, 2048, 1000)}

    make = (lambda key: dense(key, WIDTH, WIDTH)) if network == "MLP" else block
    if network == "ResNet":
        return resnet
    return lambda key: {f"block{at}": make(each) for at, each in enumerate(jax.random.split(key, depth))}


def linen(network, depth):
    """Compute the forward pass in `init`, as linen does."""
    from flax import linen

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = x + linen.MultiHeadDotProductAttention(HEADS)(linen.LayerNorm()(x))
            return x + linen.Dense(WIDTH)(linen.gelu(linen.Dense(4 * WIDTH)(linen.LayerNorm()(x))))

    class ResNet(linen.Module):
        @linen.compact
        def __call__(self, x):
            def conv(x, channels, kernel, stride=1):
                x = linen.Conv(channels, (kernel, kernel), stride, use_bias=False)(x)
                return linen.BatchNorm(use_running_average=False)(x)

            x = linen.relu(conv(x, 64, 7, 2))
            for _, channels, stride, shortcut in bottlenecks():
                y = linen.relu(conv(x, channels, 1))
                y = conv(linen.relu(conv(y, channels, 3, stride)), 4 * channels, 1)
                x = linen.relu(y + (conv(x, 4 * channels, 1, stride) if shortcut else x))
            return linen.Dense(1000)(x.mean((1, 2)))

    net, x = {
        "MLP": lambda: (linen.Sequential([linen.Dense(WIDTH) for _ in range(depth)]), jnp.ones((1, WIDTH))),
        "Transformer": lambda: (linen.Sequential([Block() for _ in range(depth)]), jnp.ones((1, 16, WIDTH))),
        "ResNet": lambda: (ResNet(), jnp.ones(IMAGE)),
    }[network]()
    return lambda key: net.init(key, x)


def haiku(network, depth):
    """Compute the forward pass in `init`, as Haiku does; its own ResNet-50."""
    import haiku

    def block(x):
        def norm():
            return haiku.LayerNorm(-1, True, True)

        y = norm()(x)
        start = haiku.initializers.VarianceScaling(1.0)
        x = x + haiku.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=start)(y, y, y)
        return x + haiku.Linear(WIDTH)(jax.nn.gelu(haiku.Linear(4 * WIDTH)(norm()(x))))

    def transformer(x):
        for _ in range(depth):
            x = block(x)
        return x

    function, x = {
        "MLP": (lambda x: haiku.Sequential([haiku.Linear(WIDTH) for _ in range(depth)])(x), (1, WIDTH)),
        "Transformer": (transformer, (1, 16, WIDTH)),
        "ResNet": (lambda x: haiku.nets.ResNet50(1000)(x, is_training=True), IMAGE),
    }[network]
    net, x = haiku.transform_with_state(function), jnp.ones(x)
    return lambda key: net.init(key, x)


def nnx(network, depth):
    """Make a list of layers."""
    from flax import nnx

    def block(rngs):
        attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        wide, narrow = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)
        norms = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        return nnx.List([norms[0], attention, norms[1], wide, narrow])

    def layers(rngs):
        if network == "MLP":
            return [nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(depth)]
        if network == "Transformer":
            return [block(rngs) for _ in range(depth)]
        found = [nnx.Linear(2048, 1000, rngs=rngs)]
        for inputs, outputs, kernel in convolutions():
            found.append(nnx.Conv(inputs, outputs, (kernel, kernel), use_bias=False, rngs=rngs))
            found.append(nnx.BatchNorm(outputs, rngs=rngs))
        return found

    return lambda key: nnx.state(nnx.List(layers(nnx.Rngs(params=key))))


def equinox(network, depth):
    """Make a list of layers."""
    import equinox

    nn = equinox.nn

    def block(key):
        keys = jax.random.split(key, 3)
        biases = {f"use_{each}_bias": True for each in ("query", "key", "value", "output")}
        attention = nn.MultiheadAttention(HEADS, WIDTH, **biases, key=keys[0])
        wide, narrow = nn.Linear(WIDTH, 4 * WIDTH, key=keys[1]), nn.Linear(4 * WIDTH, WIDTH, key=keys[2])
        return [nn.LayerNorm(WIDTH), attention, nn.LayerNorm(WIDTH), wide, narrow]

    def layers(key):
        if network == "MLP":
            return [nn.Linear(WIDTH, WIDTH, key=each) for each in jax.random.split(key, depth)]
        if network == "Transformer":
            return [block(each) for each in jax.random.split(key, depth)]
        every = convolutions()
        keys = jax.random.split(key, len(every) + 1)
        found = [nn.Linear(2048, 1000, key=keys[-1])]
        for (inputs, outputs, kernel), each in zip(every, keys[:-1], strict=True):
            found.append(nn.Conv2d(inputs, outputs, kernel, use_bias=False, key=each))
            found.append(nn.BatchNorm(outputs, axis_name="batch", mode="batch"))
        return found

    return lambda key: equinox.filter(layers(key), equinox.is_array)


def penzai(network, depth):
    """Make its own MLP; there are no other networks of these in it."""
    from penzai import pz
    from penzai.models import simple_mlp

    def make(key):
        net = simple_mlp.MLP.from_config(name="mlp", init_base_rng=key, feature_sizes=[WIDTH] * (depth + 1))
        return pz.unbind_params(net, freeze=True)[1]

    return make if network == "MLP" else None
