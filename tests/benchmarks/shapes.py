"""The two networks that each library trains, as numbers, and what a library gives of them."""

from typing import Any, NamedTuple

import jax
import optax

# a ResNet for small images: a convolution, four stages of two blocks, the mean of all places, a linear layer
WIDTHS, BLOCKS, CLASSES, IMAGES = (16, 32, 64, 128), 2, 10, (32, 32, 32, 3)
# a causal Transformer that normalises first, and learns the positions
WIDTH, HEADS, DEPTH, VOCABULARY, TOKENS = 128, 4, 6, 256, (8, 128)


class Training(NamedTuple):
    """How a library trains a network.

    Attributes:
        step: jitted; (batch, state) -> (state, loss), with the state donated.
        state: of the network and of its optimiser.
        batch: inputs and labels, as the library wants them.
        size: how many numbers are trained.
    """

    step: Any
    state: Any
    batch: Any
    size: int


def images():
    """Give random images and their classes."""
    x = jax.random.normal(jax.random.key(1), IMAGES)
    return x, jax.random.randint(jax.random.key(2), IMAGES[:1], 0, CLASSES)


def tokens():
    """Give random tokens, and those that come next."""
    ids = jax.random.randint(jax.random.key(1), (TOKENS[0], TOKENS[1] + 1), 0, VOCABULARY)
    return ids[:, :-1], ids[:, 1:]


def loss_of(logits, labels):
    """Give the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def size_of(tree):
    """Count the numbers in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def resnet_optimiser():
    return optax.sgd(0.01, momentum=0.9)


def transformer_optimiser():
    return optax.adamw(3e-4)
