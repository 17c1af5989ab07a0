"""Scopes: what a module's function asks for parameters, and calls other modules through."""

from collections import Counter
from collections.abc import Callable, Iterable
from copy import copy
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree.draw import ParamSpec
from paramtree.errors import BadNameError, MismatchError, ParamTreeError, raise_faults
from paramtree.names import check_key, join
from paramtree.run import Block, Layer, Run
from paramtree.tree import is_array_like, value_faults


class Keys:
    """The keys given out within one parent, whose path is `where`."""

    def __init__(self, where: str = "") -> None:
        self._where = where
        self._given: dict[int, str] = {}
        self._holders: dict[str, Layer] = {}
        self._counts: Counter[str] = Counter()
        self._repeated: set[str] = set()

    def key(self, layer: Layer, name: str | None = None) -> str:
        """Give a layer's key: the name given here, or its own, or the next automatic one of its kind.

        Raises:
            BadNameError: where another layer has the key.
        """
        name = layer.name if name is None else name
        if name is None and id(layer) in self._given:
            return self._given[id(layer)]
        key = check_key(self._automatic(layer) if name is None else name, self._where)
        holder = self._holders.setdefault(key, layer)
        if holder is not layer:
            raise BadNameError(
                f"two layers{f' in {self._where!r}' if self._where else ''} are named {key!r}: {holder!r} "
                f"and {layer!r}. Give each a name of its own; or, to share parameters, use one layer twice."
            )
        self._given.setdefault(id(layer), key)
        if _unnumbered(key) in self._repeated:
            self._raise_repeated(_unnumbered(key), key)
        return key

    def repeated(self, layer: Layer, name: str | None = None) -> str:
        """Give the key of a layer that is repeated: with a number, it names one of the repetitions.

        Raises:
            BadNameError: where another layer has the key, or has the name of a repetition.
        """
        stem = self.key(layer, key_stem(layer) if name is None else spaced(name))
        for key in self._holders:
            if _unnumbered(key) == stem:
                self._raise_repeated(stem, key)
        self._repeated.add(stem)
        return stem

    def _raise_repeated(self, stem: str, key: str) -> None:
        place = join(self._where, key)
        raise BadNameError(
            f"{place!r} is the name of a layer, and of a repetition of {stem!r}, so that both would draw the "
            "same values. Give one of them a name of its own."
        )

    def _automatic(self, layer: Layer) -> str:
        stem = spaced(layer.title.lower())
        number = self._counts[stem]
        self._counts[stem] += 1
        return f"{stem}{number}"


def _unnumbered(key: str) -> str:
    """Give a key without the number at its end; nothing, where there is none."""
    stem = key.rstrip("0123456789")
    return stem if stem != key else ""


def key_stem(layer: Layer) -> str:
    """Give the automatic key of a layer without its number, or its own name so that a number can follow."""
    return spaced(layer.name or layer.title.lower())


def spaced(key: str) -> str:
    """Give a key so that a number behind it can be told from it.

    >>> spaced("block"), spaced("conv2")
    ('block', 'conv2_')
    """
    return f"{key}_" if key[-1:].isdigit() else key


class Scope:
    """What a module's function asks for parameters, calls other modules through, and draws randomness from.

    Attributes:
        path: the place of the module in the net: its name as a block, empty for the net itself.
        train: whether this is a training pass.

    >>> from paramtree import init, module
    >>> @module
    ... def Center(scope, x):
    ...     mean = scope.state("running_mean", (x.shape[-1],), init.Zeros())
    ...     if scope.train:
    ...         scope.update("running_mean", 0.9 * mean + 0.1 * x.mean(0))
    ...     return x - mean[None]
    >>> params = Center.init(jax.random.key(0), "8, 2")
    >>> outputs, params = Center.apply_and_update(params, jnp.ones((8, 2)))
    >>> params
    {'running_mean': Fixed(value=Array([0.1, 0.1], dtype=float32))}
    """

    def __init__(self, run: Run, title: str, path: str, home: str, inputs: tuple[Any, ...]) -> None:
        self.path = path
        self.train = run.train
        self._run = run
        self._title = title
        self._home = home
        self._inputs = inputs
        self._keys = Keys(path)
        self._states: dict[str, Any] = {}

    def param(self, name: str, shape: Any, init: Any = None, dtype: Any = None) -> jax.Array:
        """Ask for a parameter.

        Args:
            name: its key in this module.
            shape: its sizes.
            init: its initialiser; with none it gets the one given to `net.init`, or the default.
            dtype: its dtype, float32 if left out; a tree that was cast is used as it is.

        Raises:
            UnknownNameError: the params given do not hold it.
            MismatchError: they hold it with another shape.
            ParamTreeError: for what is no dtype.
        """
        return self._leaf(check_key(name, self.path), shape, init, dtype, fixed=False)

    def constant(self, name: str, shape: Any, init: Any = None, dtype: Any = None) -> jax.Array:
        """Ask for a constant: saved and loaded with the parameters; without a gradient unless `unfreeze`d.

        Raises:
            UnknownNameError: the params given do not hold it.
            MismatchError: they hold it with another shape.
        """
        return self._leaf(check_key(name, self.path), shape, init, dtype, fixed=True)

    def state(self, name: str, shape: Any, init: Any = None, dtype: Any = None) -> jax.Array:
        """Ask for a running statistic: a constant that `update` may change in training.

        `jax.grad` of a whole tree refuses integers in it: keep a count as a float, or take the gradient by
        `pt.collect_params(params, pt.trainable)`.

        Raises:
            UnknownNameError: the params given do not hold it.
            MismatchError: they hold it with another shape.
        """
        value = self._leaf(check_key(name, self.path), shape, init, dtype, fixed=True)
        self._states[name] = value
        return value

    def update(self, name: str, value: Any) -> None:
        """Change a running statistic; `apply_and_update` returns it with the parameters.

        A value made inside a `jax.lax` loop, `vmap` or `jax.checkpoint` of the module's own cannot be taken
        from there: carry it out, and call this outside. `repeat` and `remat` do so by themselves.

        Raises:
            ParamTreeError: outside of training, or for what is not a state of this module.
            MismatchError: for a value of another shape or dtype.
        """
        place = join(self.path, name)
        if name not in self._states:
            raise ParamTreeError(f"{place} cannot be updated: ask for it with scope.state first.")
        if not self.train:
            raise ParamTreeError(f"{place} cannot be updated outside of training; ask scope.train first.")
        old = self._states[name]
        raise_faults(MismatchError, "scope.update: this value does not fit:", value_faults(place, old, value))
        # as strong as what it replaces, so that a scan may carry it
        self._run.write(place, jax.lax.stop_gradient(jax.lax.convert_element_type(value, old.dtype)))

    def call(self, module: Layer, *inputs: Any, name: str | None = None) -> Any:
        """Call another module, under an automatic key, its own name, or the name given here.

        Raises:
            BadNameError: two different modules would have one key.
            ParamTreeError: for what is not a module.
        """
        self._check_module(module)
        key = self._keys.key(module, name)
        place, here = join(self.path, key), join(self._home, key)
        home = self._run.home(module, here)
        self._run.layers[place] = module
        outputs = call_layer(module, Scope(self._run, module.title, place, home, inputs), inputs)
        self._run.gave(place, outputs)
        if home != here:
            self._run.alias(here, home)
        return outputs

    def repeat(self, module: Layer, count: int, x: Any, *inputs: Any, name: str | None = None) -> Any:
        """Call a module `count` times, each time on what it gave before, with other parameters each time.

        The parameters are stacked: they have a leading axis of `count`, and one `jax.lax.scan` goes over it,
        so that tracing and compiling take the time of one call. The values are those of `count` separate
        modules beside each other, whose keys are this one's with a number; `pt.unstack` makes these of it.
        What the module shares with a layer called before it is not stacked, and is one for all repetitions.

        Args:
            module: the module; it must give what it takes.
            count: how many times.
            x: what the first repetition is given.
            *inputs: more inputs, the same for each repetition.
            name: its key; without one its own name, or its kind.

        Raises:
            BadNameError: two different modules would have one key, or one that of a repetition.
            ParamTreeError: for what is not a module.
            MismatchError: where it does not give what it takes.
        """
        self._check_module(module)
        key = self._keys.repeated(module, name)

        def call(run: Run, x: Any) -> Any:
            return call_layer(module, Scope(run, module.title, place, home, (x, *inputs)), (x, *inputs))

        place, here = join(self.path, key), join(self._home, key)
        home = self._run.home(module, here)
        self._run.layers[place] = module
        outputs = self._run.repeat(Block(call, place, home, place), count, x)
        self._run.gave(place, outputs)
        if home != here:
            self._run.alias(here, home)
        return outputs

    def remat(self, function: Callable[..., Any], *inputs: Any, policy: Any = None) -> Any:
        """Call `function(scope, *inputs)` so that the backward pass computes its inside again.

        Args:
            function: a function of this scope, which asks it for parameters and calls layers through it. To
                call one layer so, there is `scope.call(nn.remat(layer), ...)`.
            *inputs: its inputs.
            policy: what is kept nevertheless, one of `jax.checkpoint_policies`.
        """

        def call(run: Run) -> Any:
            inner = copy(self)
            inner._run = run
            return function(inner, *inputs)

        return self._run.remat(call, self.path or self._title, policy)

    def key(self) -> jax.Array:
        """Give a new random key, folded with the module's path, and with a count within it.

        Inside a `jax.lax` loop or `vmap` of the module's own it is one key for all steps, also in the layers
        called there: fold the step into it. In `repeat` each repetition has keys of its own.

        Raises:
            ParamTreeError: no key was passed.
        """
        if self._run.key is None:
            raise ParamTreeError(f"{self.path or self._title} needs randomness: pass key= to apply.")
        return self._run.random_key(self.path)

    def called(self) -> str:
        """Say which module this is, and what it was called with, for a message."""
        shapes = ", ".join(_input_text(each) for each in jax.tree.leaves(self._inputs))
        return f"{self.path or self._title}({shapes})"

    @property
    def has_key(self) -> bool:
        """Whether `key` can give randomness in this pass."""
        return self._run.key is not None

    @property
    def home(self) -> str:
        """The place that holds the module's parameters: `path`, unless it is tied to another."""
        return self._home

    def foreign(self, name: str, like: Any, init: Any) -> jax.Array:
        """Ask for a parameter of a foreign module, by a name of several keys."""
        return self._leaf(name, like.shape, init, like.dtype, fixed=False)

    def _check_module(self, module: Any) -> None:
        if not hasattr(module, "apply_and_update"):
            raise ParamTreeError(
                f"{self.path or self._title}: scope.call takes a Module, and got {module!r}. Make one with "
                "pt.module(function), pt.wrap(init, apply) or nn.Lambda(function)."
            )

    def _leaf(self, name: str, shape: Any, init: Any, dtype: Any, fixed: bool) -> Any:
        try:
            kind = jnp.dtype(dtype or jnp.float32)
        except TypeError as error:
            raise ParamTreeError(f"{join(self.path, name)}: dtype {dtype!r} is none of NumPy's.") from error
        return self._run.leaf(self, name, ParamSpec(_as_shape(shape), kind, init), fixed)


def call_layer(layer: Layer, scope: Scope, inputs: tuple[Any, ...]) -> Any:
    """Call a layer's function.

    Raises:
        ParamTreeError: where the number of inputs is not the one that the function takes.
    """
    try:
        return layer.call(scope, *inputs)
    except TypeError:
        try:
            signature(layer.call).bind(scope, *inputs)
        except TypeError as error:
            raise ParamTreeError(
                f"{scope.called()}: {error}. Pass its inputs by position, key= and train= by keyword."
            ) from None
        raise


def _input_text(value: Any) -> str:
    if is_array_like(value):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return type(value).__name__


def _as_shape(shape: Any) -> tuple[Any, ...]:
    sizes: tuple[Any, ...] = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    return tuple(int(size) if _is_number(size) else size for size in sizes)


def _is_number(size: object) -> bool:
    return isinstance(size, int | np.integer)
