"""Scopes: what a module's function asks for parameters, and what one run of a net has to know.

The same function runs in two ways: *declaring* which parameters it wants, or with parameters given.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree import display
from paramtree.draw import ParamSpec, Part, fold_name
from paramtree.errors import (
    BadNameError,
    MismatchError,
    ParamTreeError,
    TieError,
    UnknownNameError,
    did_you_mean,
    listing,
    raise_faults,
)
from paramtree.init import Initializer
from paramtree.names import SEPARATOR, check_key, join, structure_of, untyped_jax
from paramtree.nodes import Alias, Fixed, resolve, tied_names
from paramtree.tree import flat_leaves, is_array, is_array_like, value_faults

Layer = Any  # a Module, which stands above this file


class Keys:
    """The keys given out within one parent, whose path is `where`."""

    def __init__(self, where: str = "") -> None:
        self._where = where
        self._given: dict[int, str] = {}
        self._holders: dict[str, Layer] = {}
        self._counts: Counter[str] = Counter()

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
        return key

    def _automatic(self, layer: Layer) -> str:
        kind = layer.title.lower()
        number = self._counts[kind]
        self._counts[kind] += 1
        return f"{kind}{'_' if kind[-1:].isdigit() else ''}{number}"


class Run:
    """One run of a net's function: what all its scopes share.

    Attributes:
        train: whether this is a training pass.
        key: the random key, or None.
    """

    def __init__(self, train: bool, key: Any) -> None:
        self.train = train
        self.key = key
        self.draws: Counter[str] = Counter()  # of random keys, by path

    def leaf(self, scope: "Scope", name: str, spec: ParamSpec, fixed: bool) -> Any:
        """Give the value of a parameter that a scope asks for.

        Raises:
            NotImplementedError: each kind of run says how.
        """
        raise NotImplementedError

    def home(self, layer: Layer, place: str) -> str:
        """Give the place that holds the parameters of a layer called at `place`."""
        del layer
        return place

    def alias(self, place: str, home: str) -> None:
        """Note that a place shares the parameters of another."""

    def write(self, name: str, value: Any) -> None:
        """Note a new value of a running statistic."""


class Declaring(Run):
    """A run that finds which parameters a net wants.

    Args:
        value: gives a parameter's value by its name, spec and whether it is fixed; zeros, if left out.
        moved: the places whose parameters another place holds, as an earlier run has found.

    Attributes:
        declared: name to spec, `Fixed` spec or `Alias`, in the order of the calls.
    """

    def __init__(self, value: Callable[..., Any] | None, moved: dict[str, str]) -> None:
        super().__init__(train=False, key=jax.random.key(0))
        self.declared: dict[str, Any] = {}
        self._value = value
        self._moved = moved
        self._blocks: set[str] = set()
        self._homes: dict[int, str] = {}
        self._owners: dict[str, str] = {}
        self._met: list[Layer] = []  # keeps ids in `_homes` from being used again

    def leaf(self, scope: "Scope", name: str, spec: ParamSpec, fixed: bool) -> Any:
        """Note that a parameter is wanted, and give a stand-in for it.

        Raises:
            TieError: where another use of it wants another shape, dtype, initialiser or kind.
        """
        name, place = join(scope.home, name), join(scope.path, name)
        known = self.declared.get(name)
        if known is not None:
            if isinstance(known, Fixed) != fixed:
                raise TieError(f"{place} is asked for as a parameter and as a constant; name them apart.")
            spec = _same(name, known.value if fixed else known, spec, place)
        self._declare(name, Fixed(spec) if fixed else spec)
        if self._value is None:
            return untyped_jax.numpy.zeros(spec.shape, spec.dtype)
        return self._value(name, spec, fixed)

    def home(self, layer: Layer, place: str) -> str:
        """Give the place that holds a layer's parameters: the first at which it is called.

        A layer tied to one that is not called itself, or not yet, holds the parameters of both; in the
        latter case they are `moved` in a second run.
        """
        self._met.append(layer)
        owner = layer
        while owner.shares is not None:
            owner = owner.shares
        home = self._homes.setdefault(id(owner), place)
        if owner is layer:
            self._owners.setdefault(home, place)
        return self._moved.get(home, home)

    def moves(self) -> dict[str, str]:
        """Map each place that holds the parameters of a layer called later to the place of that layer."""
        moved = {home: place for home, place in self._owners.items() if home != place}

        def follow(place: str) -> str:  # a place in a block that moves goes with the block
            for end in (at for at in range(len(place) - 1, 0, -1) if place[at] == SEPARATOR):
                if place[:end] in moved:
                    return follow(moved[place[:end]] + place[end:])
            return place

        return {home: follow(place) for home, place in moved.items()}

    def alias(self, place: str, home: str) -> None:
        """Note that a place shares the parameters of another, if that has any."""
        if home in self._blocks:
            self._declare(place, Alias(home))

    def _declare(self, name: str, value: Any) -> None:
        self.declared[name] = value
        self._blocks |= {name[:end] for end, char in enumerate(name) if char == SEPARATOR}


class Applying(Run):
    """A run with parameters given.

    Attributes:
        updates: the new values of running statistics, by the names where they live.
    """

    def __init__(self, params: dict[str, Any], train: bool, key: Any) -> None:
        super().__init__(train, key)
        self.updates: dict[str, Any] = {}
        structure = structure_of(params)
        self._params = resolve(params)
        self._sources = tied_names(structure)
        self._leafless = structure.leafless

    def leaf(self, scope: "Scope", name: str, spec: ParamSpec, fixed: bool) -> Any:
        """Give a parameter's value, checked against what its layer asks for.

        Raises:
            UnknownNameError: where it is missing.
            MismatchError: where it is not an array, or has another shape.
        """
        del fixed  # the tree says what is: a constant that was unfrozen is trained
        name = join(scope.path, name)
        value = self.updates.get(self._sources.get(name, name))
        if value is None:
            value = self._find(name, scope)
        if not is_array(value):
            kind = type(value).__name__
            raise MismatchError(f"{name} is of type {kind}, not an array, and {scope.called()} asks for it.")
        if tuple(value.shape) != spec.shape:
            raise MismatchError(
                f"{name} has shape {display.shape_text(value.shape)}, and {scope.called()} needs "
                f"{display.shape_text(spec.shape)}. Pass an input that fits, or init new parameters."
            )
        return _as_jax(name, value)

    def write(self, name: str, value: Any) -> None:
        """Note a new value of a running statistic, where it lives.

        Raises:
            TieError: where the place sees it transposed.
        """
        node = self._leafless.get(name)
        while isinstance(node, Alias):
            if node.transpose:
                raise TieError(
                    f"{name} is tied transposed to {node.target!r}, and cannot be updated from here."
                )
            node = self._leafless.get(node.target)
        self.updates[self._sources.get(name, name)] = value

    def _find(self, name: str, scope: "Scope") -> Any:
        node = self._params
        for key in name.split(SEPARATOR):
            if not isinstance(node, dict) or key not in node:
                raise UnknownNameError(_missing_text(self._params, name, scope))
            node = node[key]
        return node


def _same(name: str, known: ParamSpec, spec: ParamSpec, place: str) -> ParamSpec:
    """Check that two uses of a parameter agree, and give what both of them say."""
    if known.shape != spec.shape or known.dtype != spec.dtype:
        tied = f"{place} is tied to {name}" if place != name else f"{name} is used twice"
        raise TieError(
            f"{tied}, once as {display.shape_dtype(known)} and once as {display.shape_dtype(spec)}. "
            "Shared parameters need one shape and dtype."
        )
    if known.init is None or spec.init is None:
        return spec if known.init is None else known
    if _identity(known.init) != _identity(spec.init):
        raise TieError(
            f"{place} shares {name}, and names another initialiser: {known.init!r} and {spec.init!r}. "
            "Name it in one place."
        )
    return known


def _identity(init: Any) -> Any:
    # a function made anew at each call of a layer never equals itself: go by its code and plain settings
    code = getattr(init, "__code__", None)
    if code is None:
        return init if isinstance(init, Initializer | Part) else type(init)
    cells = (cell.cell_contents for cell in init.__closure__ or ())
    return code, *(value for value in cells if isinstance(value, bool | int | float | str | tuple))


def _missing_text(params: Any, name: str, scope: "Scope") -> str:
    held = list(flat_leaves(params))
    if name in held:
        return f"{name} is one key of the params, which are nested dicts; pt.unflatten them first."
    near = did_you_mean(name, held) or f" The params hold {listing(held, 6) if held else 'nothing'}."
    return f"{name} is missing: {scope.called()} asks for it.{near}"


def _as_jax(name: str, value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    dtype = np.dtype(value.dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise MismatchError(f"{name} is {dtype}, which JAX would narrow; pt.cast it, or set jax_enable_x64.")
    return untyped_jax.numpy.asarray(value)


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

        Raises:
            UnknownNameError: the params given do not hold it.
            MismatchError: they hold it with another shape.
        """
        value = self._leaf(check_key(name, self.path), shape, init, dtype, fixed=True)
        self._states[name] = value
        return value

    def update(self, name: str, value: Any) -> None:
        """Change a running statistic; `apply_and_update` returns it with the parameters.

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
        self._run.write(place, jax.lax.convert_element_type(value, old.dtype))

    def call(self, module: Layer, *inputs: Any, name: str | None = None) -> Any:
        """Call another module, under an automatic key, its own name, or the name given here.

        Raises:
            BadNameError: two different modules would have one key.
            ParamTreeError: for what is not a module.
        """
        if not hasattr(module, "apply_and_update"):
            raise ParamTreeError(
                f"{self.path or self._title}: scope.call takes a Module, and got {module!r}. Make one with "
                "pt.module(function), pt.wrap(init, apply) or nn.Lambda(function)."
            )
        key = self._keys.key(module, name)
        place, here = join(self.path, key), join(self._home, key)
        home = self._run.home(module, here)
        outputs = call_layer(module, Scope(self._run, module.title, place, home, inputs), inputs)
        if home != here:
            self._run.alias(here, home)
        return outputs

    def key(self) -> jax.Array:
        """Give a new random key, folded with the module's path, and with a count within it.

        Inside a `jax.lax.scan` of the module's own it is one key for all steps: fold the step into it.

        Raises:
            ParamTreeError: no key was passed.
        """
        if self._run.key is None:
            raise ParamTreeError(f"{self.path or self._title} needs randomness: pass key= to apply.")
        count = self._run.draws[self.path]
        self._run.draws[self.path] += 1
        return jax.random.fold_in(fold_name(self._run.key, self.path), count)

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

    def _leaf(self, name: str, shape: Any, init: Any, dtype: Any, fixed: bool) -> Any:
        spec = ParamSpec(_as_shape(shape), jnp.dtype(dtype or jnp.float32), init)
        return self._run.leaf(self, name, spec, fixed)


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
