"""The networks in Equinox, whose layers take one sample, channels first, and are vmapped."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import nn
from shapes import (
    BLOCKS,
    CLASSES,
    DEPTH,
    HEADS,
    IMAGES,
    TOKENS,
    VOCABULARY,
    WIDTH,
    WIDTHS,
    Training,
    images,
    loss_of,
    resnet_optimiser,
    size_of,
    tokens,
    transformer_optimiser,
)


class ConvNorm(eqx.Module):
    conv: nn.Conv2d
    norm: nn.BatchNorm

    def __init__(self, inputs, channels, key, kernel=3, stride=1):
        padding = kernel // 2
        self.conv = nn.Conv2d(inputs, channels, kernel, stride, padding, use_bias=False, key=key)
        self.norm = nn.BatchNorm(channels, axis_name="batch", momentum=0.9, mode="batch")

    def __call__(self, x, state):
        return self.norm(self.conv(x), state)


class ResidualBlock(eqx.Module):
    first: ConvNorm
    second: ConvNorm
    shortcut: ConvNorm | None

    def __init__(self, inputs, channels, stride, key):
        keys = jax.random.split(key, 3)
        self.first = ConvNorm(inputs, channels, keys[0], stride=stride)
        self.second = ConvNorm(channels, channels, keys[1])
        self.shortcut = ConvNorm(inputs, channels, keys[2], 1, stride) if inputs != channels else None

    def __call__(self, x, state):
        y, state = self.first(x, state)
        y, state = self.second(jax.nn.relu(y), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class ResNet(eqx.Module):
    stem: ConvNorm
    blocks: list[ResidualBlock]
    head: nn.Linear

    def __init__(self, key):
        keys = iter(jax.random.split(key, 2 + len(WIDTHS) * BLOCKS))
        self.stem = ConvNorm(IMAGES[-1], WIDTHS[0], next(keys))
        self.blocks, inputs = [], WIDTHS[0]
        for channels in WIDTHS:
            for _ in range(BLOCKS):
                stride = 2 if inputs != channels else 1
                self.blocks.append(ResidualBlock(inputs, channels, stride, next(keys)))
                inputs = channels
        self.head = nn.Linear(inputs, CLASSES, key=next(keys))

    def __call__(self, x, state):
        x, state = self.stem(x, state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(x.mean((1, 2))), state


class TransformerBlock(eqx.Module):
    norm1: nn.LayerNorm
    attention: nn.MultiheadAttention
    norm2: nn.LayerNorm
    wide: nn.Linear
    narrow: nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        biases = {f"use_{each}_bias": True for each in ("query", "key", "value", "output")}
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(HEADS, WIDTH, **biases, key=keys[0])
        self.wide = nn.Linear(WIDTH, 4 * WIDTH, key=keys[1])
        self.narrow = nn.Linear(4 * WIDTH, WIDTH, key=keys[2])

    def __call__(self, x, mask):
        y = jax.vmap(self.norm1)(x)
        x = x + self.attention(y, y, y, mask=mask)
        y = jax.vmap(self.wide)(jax.vmap(self.norm2)(x))
        return x + jax.vmap(self.narrow)(jax.nn.gelu(y))


class Transformer(eqx.Module):
    embed: nn.Embedding
    position: jax.Array
    blocks: list[TransformerBlock]
    norm: nn.LayerNorm
    head: nn.Linear

    def __init__(self, key):
        first, second, third, *keys = jax.random.split(key, 3 + DEPTH)
        self.embed = nn.Embedding(VOCABULARY, WIDTH, key=first)
        self.position = 0.02 * jax.random.normal(second, (TOKENS[1], WIDTH))
        self.blocks = [TransformerBlock(key) for key in keys]
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, key=third)

    def __call__(self, ids, state):
        x = jax.vmap(self.embed)(ids) + self.position
        mask = jnp.tril(jnp.ones((len(ids), len(ids)), bool))
        for block in self.blocks:
            x = block(x, mask)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x)), state


def training(make, batch, optimiser):
    net, stats = eqx.filter_jit(nn.make_with_state(make))(jax.random.key(0))
    params = eqx.filter(net, eqx.is_inexact_array)

    def loss(net, stats, x, labels):
        axes = {"axis_name": "batch", "in_axes": (0, None), "out_axes": (0, None)}
        logits, stats = jax.vmap(net, **axes)(x, stats)
        return loss_of(logits, labels), stats

    @partial(eqx.filter_jit, donate="all-except-first")
    def step(batch, state):
        net, stats, moments = state
        (value, stats), grads = eqx.filter_value_and_grad(loss, has_aux=True)(net, stats, *batch)
        updates, moments = optimiser.update(grads, moments, eqx.filter(net, eqx.is_inexact_array))
        return (eqx.apply_updates(net, updates), stats, moments), value

    return Training(step, (net, stats, optimiser.init(params)), batch, size_of(params))


def resnet():
    x, labels = images()
    return training(ResNet, (x.transpose(0, 3, 1, 2), labels), resnet_optimiser())


def transformer():
    return training(Transformer, tokens(), transformer_optimiser())
