"""The networks in flax.linen, with a `TrainState` as its documentation has it."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
from flax.training.train_state import TrainState
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


class ConvNorm(nn.Module):
    channels: int
    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        size, strides = (self.kernel, self.kernel), (self.stride, self.stride)
        x = nn.Conv(self.channels, size, strides, padding=self.kernel // 2, use_bias=False)(x)
        return nn.BatchNorm(use_running_average=False, momentum=0.9)(x)


class ResidualBlock(nn.Module):
    channels: int
    stride: int
    shortcut: bool

    @nn.compact
    def __call__(self, x):
        y = nn.relu(ConvNorm(self.channels, stride=self.stride)(x))
        y = ConvNorm(self.channels)(y)
        if self.shortcut:
            x = ConvNorm(self.channels, 1, self.stride)(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(ConvNorm(WIDTHS[0])(x))
        for stage, channels in enumerate(WIDTHS):
            for block in range(BLOCKS):
                first = stage > 0 and block == 0
                x = ResidualBlock(channels, 2 if first else 1, first)(x)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class TransformerBlock(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        y = nn.LayerNorm(epsilon=1e-5)(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS)(y, mask=mask)
        y = nn.LayerNorm(epsilon=1e-5)(x)
        return x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(y)))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(VOCABULARY, WIDTH)(ids)
        x = x + self.param("position", nn.initializers.normal(0.02), x.shape[1:])
        mask = nn.make_causal_mask(ids, dtype=bool)
        for _ in range(DEPTH):
            x = TransformerBlock()(x, mask)
        return nn.Dense(VOCABULARY)(nn.LayerNorm(epsilon=1e-5)(x))


class State(TrainState):
    batch_stats: Any


def training(net, batch, optimiser):
    variables = jax.jit(net.init)(jax.random.key(0), batch[0])
    params, stats = variables["params"], variables.get("batch_stats", {})
    state = State.create(apply_fn=net.apply, params=params, tx=optimiser, batch_stats=stats)

    @partial(jax.jit, donate_argnums=1)
    def step(batch, state):
        def loss(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, new = state.apply_fn(variables, batch[0], mutable=["batch_stats"])
            return loss_of(logits, batch[1]), new

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads, batch_stats=new.get("batch_stats", {})), value

    return Training(step, state, batch, size_of(params))


def resnet():
    return training(ResNet(), images(), resnet_optimiser())


def transformer():
    return training(Transformer(), tokens(), transformer_optimiser())
