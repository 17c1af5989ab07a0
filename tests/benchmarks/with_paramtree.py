"""The networks in paramtree."""

from functools import partial

import jax
import optax
from shapes import (
    BLOCKS,
    CLASSES,
    DEPTH,
    HEADS,
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

import paramtree as pt
from paramtree import init, nn


def conv(channels, kernel=3, stride=1):
    padding = kernel // 2
    return nn.Conv(channels, kernel, stride=stride, padding=padding, use_bias=False), nn.BatchNorm()


def residual_block(channels, stride, shortcut):
    relu = nn.Activation("relu")
    body = *conv(channels, stride=stride), relu, *conv(channels)
    shortcut = nn.Sequential(*conv(channels, 1, stride)) if shortcut else None
    return nn.Residual(*body, shortcut=shortcut), relu


def resnet(make=None):
    layers = [*conv(WIDTHS[0]), nn.Activation("relu")]
    for stage, channels in enumerate(WIDTHS):
        for block in range(BLOCKS):
            first = stage > 0 and block == 0
            layers += residual_block(channels, 2 if first else 1, first)
    net = nn.Sequential(*layers, nn.GlobalAvgPool(), nn.Flatten(), nn.Dense(CLASSES))
    return (make or training)(net, images(), resnet_optimiser())


@pt.module
def Embed(scope, ids):
    x = scope.call(nn.Embedding(VOCABULARY, WIDTH, weight_init=init.Normal(0.02)), ids)
    return x + scope.param("position", x.shape[1:], init.Normal(0.02))[None]


def transformer_block():
    attention = nn.Residual(nn.LayerNorm(), nn.MultiHeadAttention(HEADS, causal=True))
    mlp = nn.Residual(nn.LayerNorm(), nn.Dense(4 * WIDTH, "gelu"), nn.Dense(WIDTH))
    return nn.Sequential(attention, mlp)


def transformer(depth=DEPTH, repeat=False, make=None):
    if repeat:
        blocks = [nn.Repeat(transformer_block(), depth)]
    else:
        blocks = [transformer_block() for _ in range(depth)]
    net = nn.Sequential(Embed, *blocks, nn.LayerNorm(), nn.Dense(VOCABULARY))
    return (make or training)(net, tokens(), transformer_optimiser())


def training(net, batch, optimiser):
    params = net.init(jax.random.key(0), batch[0])

    @partial(jax.jit, donate_argnums=1)
    def step(batch, state):
        old, moments = state

        def loss(trained):
            logits, new = net.apply_and_update(pt.update(old, trained), batch[0])
            return loss_of(logits, batch[1]), new

        trained = pt.collect_params(old, pt.trainable)
        (value, params), grads = jax.value_and_grad(loss, has_aux=True)(trained)
        updates, moments = optimiser.update(grads, moments, trained)
        return (pt.update(params, optax.apply_updates(trained, updates)), moments), value

    trained = pt.collect_params(params, pt.trainable)
    return Training(step, (params, optimiser.init(trained)), batch, size_of(trained))


def by_train_step(net, batch, optimiser, **options):
    """Train by `pt.train_step`, where `training` writes the step by hand."""
    params = net.init(jax.random.key(0), batch[0])

    def loss(params, batch):
        logits, new = net.apply_and_update(params, batch[0])
        return loss_of(logits, batch[1]), new

    step = pt.train_step(loss, optimiser, has_state=True, **options)
    size = size_of(pt.collect_params(params, pt.trainable))
    return Training(lambda batch, state: step(state, batch), step.init(params), batch, size)
