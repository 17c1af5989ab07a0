"""What an optimiser does with parameters, found out by trying it on tiny ones."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.errors import ParamTreeError
from paramtree.names import flatten_tree, untyped_jax
from paramtree.train.foreign import promoting, updates_of
from paramtree.train.fused import Fused, Layout, Slot, pack

_SIZE = 2  # of each axis of a tiny parameter
_SCALES = (1e-2, 1.0, 1e2)  # of gradients, leaf by leaf: what looks at whole leaves treats these differently
_SIZES = (1e-4, 1.0, 1e4)  # of parameters beside their gradients: small ones are clipped, large ones decay
_STEPS = 1024  # at most, until some have changed something: an optimiser may wait, and a rate begin at 0


def decay_kind(optimizer: Any, params: Mapping[str, Any]) -> Literal["none", "decay", "other"]:
    """Tell what an optimiser uses the parameters for: nothing, weight decay, or something else.

    Weight decay moves each element by itself, and by much less than its value.

    >>> import optax
    >>> [decay_kind(kind(1e-3), {"w": jnp.ones(3)}) for kind in (optax.sgd, optax.adamw, optax.lamb)]
    ['none', 'decay', 'other']
    """
    rng = np.random.default_rng(0)
    shapes = {name: _tiny(leaf.shape) for name, leaf in params.items()}

    def tiny(low: float, high: float) -> dict[str, Any]:
        return {name: jnp.asarray(rng.uniform(low, high, shape), "float32") for name, shape in shapes.items()}

    with jax.ensure_compile_time_eval(), promoting():
        here, (first, second) = tiny(50, 150), (tiny(-1, 1) for _ in "12")
        one = next(iter(here))
        beside = here | {one: here[one].at[(0,) * here[one].ndim].multiply(2.0)}
        state = optimizer.init(here)
        update = untyped_jax.jit(
            optimizer.update
        )  # called by itself it would compile its branches every time
        for _ in range(_STEPS):
            _, state = update(first, state, here)
            if _flat(update(second, state, here)[0]).any():
                break
        zero = jax.tree.map(jnp.zeros_like, here)
        at_zero, at_here, at_beside = (
            _flat(update(second, state, params)[0]) for params in (zero, here, beside)
        )
    effect = np.abs(at_here - at_zero)
    small = 1e-5 * max(np.abs(at_here).max(), np.abs(at_zero).max())
    if effect.max() <= small:
        return "none"
    alone = _flat(here) == _flat(beside)
    spreads = np.abs(at_here - at_beside)[alone].max(initial=0.0) > small
    return "other" if spreads or (effect > 0.5 * _flat(here)).any() else "decay"


def is_elementwise(optimizer: Any, part: Fused) -> bool:
    """Tell whether an optimiser does the same to packed parameters as to the leaves themselves.

    One that uses the norm or shape of each leaf, as LAMB and Adafactor do, does not; nor does one that holds
    a tree of masks. It is looked at for 1,024 steps, or until it has changed something in two.

    Raises:
        ParamTreeError: where it asks for more than gradients, parameters and the loss.
    """
    layout = _tiny_layout(part.layout)

    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return updates_of(optimizer, gradients, state, params, jnp.float32(1))

    jitted = untyped_jax.jit(update)
    return all(_agrees_packed(optimizer, jitted, layout, size) for size in _SIZES)


def _agrees_packed(optimizer: Any, update: Callable[..., Any], layout: Layout, size: float) -> bool:
    rng = np.random.default_rng(0)
    scales = [_SCALES[at % len(_SCALES)] for at in range(len(layout.slots))]
    with jax.ensure_compile_time_eval(), promoting():
        leaves = [
            [
                jnp.asarray(rng.normal(size=slot.shape) * by * each, "float32")
                for slot, by in zip(layout.slots, scales, strict=True)
            ]
            for each in (size, 1.0, 1.0)
        ]
        plain, packed = (
            _steps(optimizer, update, *map(build, leaves))
            for build in (layout.treedef.unflatten, lambda each: pack(layout, each))
        )
        changes = 0
        for one in itertools.islice(plain, _STEPS):
            found = _flat(one)
            try:
                other = next(packed)
            except ParamTreeError:
                raise
            except ValueError:  # a tree that it holds has not the structure of what is packed
                return False
            if not np.allclose(found, _flat(other.leaves()), rtol=1e-3, atol=1e-12):
                return False
            changes += bool(found.any())
            if changes == 2:
                break
    return True


def _steps(optimizer: Any, update: Callable[..., Any], params: Any, *gradients: Any) -> Iterator[Any]:
    state = optimizer.init(params)
    for each in itertools.cycle(gradients):
        updates, state = update(each, state, params)
        yield updates


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in flatten_tree(tree)[0]])


def _tiny(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (_SIZE,) * len(shape)


def _tiny_layout(layout: Layout) -> Layout:
    ends: dict[str, int] = {}
    slots: list[Slot] = []
    for slot in layout.slots:
        small = Slot(slot.key, _tiny(slot.shape), None if slot.start is None else ends.get(slot.key, 0))
        slots.append(small)
        ends[slot.key] = ends.get(slot.key, 0) + small.size
    return Layout(layout.treedef, tuple(slots))
