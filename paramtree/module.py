"""Modules: one function of a scope, run two ways.

A `Module` wraps `call(scope, *inputs)`. To *init* is to run it while it says which parameters it wants; to
*apply* is to run it with parameters given. Layers of `paramtree.nn` and of a user are made alike.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any, cast

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from paramtree import display
from paramtree.draw import (
    NEEDS_VALUES,
    Joint,
    ParamSpec,
    Part,
    check_random_key,
    choose,
    draw,
    fold_name,
    materialize,
)
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
from paramtree.names import SEPARATOR, check_key, flatten_named, join, nest, structure_of
from paramtree.nodes import Alias, Fixed, resolve, tied_names
from paramtree.tree import flat_leaves, update, value_faults

Call = Callable[..., Any]

_jax = cast(Any, jax)  # its annotations mention types that checkers cannot see


@dataclass(frozen=True, eq=False)
class Module:
    """Wrap one function `call(scope, *inputs)` as a pair of pure functions, `init` and `apply`.

    A module is a value: it holds no parameters, and is itself wherever it is used, so the same object at
    two places of a net is one set of parameters. `init, apply = module` unpacks the pair.

    Args:
        call: the function; it asks its scope for parameters.
        title: how it prints; in lower case, numbered, it is the automatic key of the module.
        name: its key, in place of the automatic one.
        params: a module whose parameters this one shares.
        layers: the (key, module) pairs of a container, for `[i]`, `len` and printing.
        describe: gives the printed form from the module's own parameters, or from None.

    Attributes:
        init: `init(key, *inputs, init=None) -> params`.
        apply: `apply(params, *inputs, train=False, key=None) -> outputs`.
        apply_and_update: `apply_and_update(params, *inputs, key=None) -> (outputs, params)`.
        specs: `specs(*inputs) -> tree of ParamSpec`.

    >>> from paramtree import nn
    >>> init, apply = nn.Dense(3)
    >>> params = init(jax.random.key(0), jnp.ones((2, 4)))
    >>> apply(params, jnp.ones((2, 4))).shape
    (2, 3)
    """

    call: Call
    title: str
    name: str | None = None
    params: "Module | None" = None
    layers: tuple[tuple[str, "Module"], ...] = ()
    describe: Callable[[Any], str] | None = None
    # made once per module, not bound methods made at each access: `jax.jit(net.apply)` finds its own cache
    init: Callable[..., Any] = field(init=False, repr=False)
    apply: Callable[..., Any] = field(init=False, repr=False)
    apply_and_update: Callable[..., Any] = field(init=False, repr=False)
    specs: Callable[..., Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.call):
            raise ParamTreeError(f"a module wraps a function call(scope, *inputs), and not {self.call!r}.")
        if self.name is not None:
            check_key(self.name, self.title)
        if self.params is not None and not _is_module(self.params):
            raise TieError(
                f"{self.title}(params=...) takes the layer whose parameters are shared, "
                f"and not {type(self.params).__name__}."
            )
        for make in (_init, _apply, _apply_and_update, _specs):
            object.__setattr__(self, make.__name__[1:], make(self))

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.apply))

    def __len__(self) -> int:
        return len(self.layers)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int | slice) -> "Module":
        if not self.layers:
            raise ParamTreeError(f"{self.title} has no layers to index.")
        if isinstance(index, slice):
            return chain(self.layers[index], self.title)
        try:
            return self.layers[index][1]
        except IndexError:
            held = f"{len(self)} layers, 0 to {len(self) - 1}"
            raise ParamTreeError(f"{self.title} has no layer {index}: it has {held}.") from None

    def __repr__(self) -> str:
        return outline(self)

    def _repr_html_(self) -> str:
        return display.text_html(repr(self))


def _is_module(value: object) -> bool:
    return isinstance(value, Module)


def module(call: Call) -> Module:
    """Make a module of a function `call(scope, *inputs)`: a decorator.

    A function that makes and returns a module gives separate parameters at each call of it.

    >>> @module
    ... def Scale(scope, x):
    ...     return x * scope.param("scale", (1, x.shape[-1]))
    >>> Scale.specs("batch, features")
    {'scale': ParamSpec((1, features), float32)}
    """
    return Module(call, getattr(call, "__name__", type(call).__name__).strip("<>"))


def chain(layers: Sequence[tuple[str, Module]], title: str = "Sequential", name: str | None = None) -> Module:
    """Make the module that calls (key, module) pairs one after the other."""

    def call(scope: "Scope", *inputs: Any) -> Any:
        for key, layer in layers:
            inputs = (scope.call(layer, *inputs, name=key),)
        return inputs[0] if len(inputs) == 1 else inputs

    return Module(call, title, name, layers=tuple(layers))


def outline(
    net: Module,
    path: str = "",
    text: Callable[[Module, str], str] = lambda net, _: describe(net),
    label: Callable[[str, str], str] = lambda key, _: key,
) -> str:
    """Print a module with the layers in it, one a line.

    Args:
        net: the module.
        path: where it stands.
        text: gives the text of a module without layers, at a path.
        label: gives the label of a layer from its key and its path.
    """
    if not net.layers:
        return text(net, path)
    lines = [f"{net.title}("]
    for number, (key, layer) in enumerate(net.layers):
        below = join(path, key)
        inner = outline(layer, below, text, label).replace("\n", "\n  ")
        lines.append(f"  ({number}) {label(key, below)}: {inner}")
    return "\n".join([*lines, ")"])


def describe(net: Module, own: Any = None) -> str:
    """Print a module without layers, from its own parameters where they are given."""
    return net.describe(own) if net.describe else f"{net.title}()"


def assign_keys(layers: Sequence[Module]) -> list[tuple[str, Module]]:
    """Give every layer of a container its key.

    Raises:
        BadNameError: where two different layers have one explicit name.
    """
    keys = _Keys()
    return [(keys.key(layer), layer) for layer in layers]


@dataclass
class _Keys:
    """The keys given out within one parent."""

    where: str = ""
    given: dict[int, str] = field(default_factory=dict[int, str])
    holders: dict[str, Module] = field(default_factory=dict[str, Module])
    counts: Counter[str] = field(default_factory=Counter[str])

    def key(self, layer: Module, name: str | None = None) -> str:
        name = layer.name if name is None else name
        if name is None and id(layer) in self.given:
            return self.given[id(layer)]
        key = check_key(self._automatic(layer) if name is None else name, self.where)
        holder = self.holders.setdefault(key, layer)
        if holder is not layer:
            raise BadNameError(
                f"two layers{f' in {self.where!r}' if self.where else ''} are named {key!r}: {holder!r} and "
                f"{layer!r}. Give each a name of its own; or, to share parameters, use one layer twice."
            )
        self.given.setdefault(id(layer), key)
        return key

    def _automatic(self, layer: Module) -> str:
        kind = layer.title.lower()
        number = self.counts[kind]
        self.counts[kind] += 1
        return f"{kind}{'_' if kind[-1:].isdigit() else ''}{number}"


# what one run of a module's function has to know


@dataclass
class _Run:
    """One run of a net: declaring which parameters it wants, or with parameters given."""

    params: Any = None
    declaring: bool = False
    train: bool = False
    key: Any = None
    value: Callable[[str, ParamSpec, bool], Any] | None = None
    sources: dict[str, str] = field(default_factory=dict[str, str])
    declared: dict[str, Any] = field(default_factory=dict[str, Any])
    blocks: set[str] = field(default_factory=set[str])
    homes: dict[int, str] = field(default_factory=dict[int, str])
    owners: dict[str, str] = field(default_factory=dict[str, str])
    moved: dict[str, str] = field(default_factory=dict[str, str])
    met: list[Module] = field(default_factory=list[Module])  # keeps ids in `homes` from being used again
    updates: dict[str, Any] = field(default_factory=dict[str, Any])
    draws: Counter[str] = field(default_factory=Counter[str])

    def home(self, layer: Module, place: str) -> str:
        """Give the place that holds a layer's parameters: the first at which it is called.

        A layer tied to one that is not called itself, or not yet, holds the parameters of both; in the
        latter case they are `moved` in a second run.
        """
        self.met.append(layer)
        owner = layer
        while owner.params is not None:
            owner = owner.params
        home = self.homes.setdefault(id(owner), place)
        if owner is layer:
            self.owners.setdefault(home, place)
        return self.moved.get(home, home)

    def declare(self, name: str, spec: ParamSpec, fixed: bool, place: str) -> Any:
        """Note that a parameter is wanted, and give a stand-in for it."""
        known = self.declared.get(name)
        if known is None:
            keys = name.split(SEPARATOR)
            self.blocks |= {SEPARATOR.join(keys[:end]) for end in range(1, len(keys))}
        else:
            if isinstance(known, Fixed) != fixed:
                raise TieError(f"{place} is asked for as a parameter and as a constant; name them apart.")
            spec = _same(name, known.value if fixed else known, spec, place)
        self.declared[name] = Fixed(spec) if fixed else spec
        return _zeros(spec) if self.value is None else self.value(name, spec, fixed)

    def alias(self, place: str, home: str) -> None:
        """Note that a place shares the parameters of another, if that has any."""
        if home in self.blocks:
            self.declared[place] = Alias(home)

    def read(self, name: str, spec: ParamSpec, scope: "Scope") -> Any:
        """Give a parameter's value, checked against what its layer asks for."""
        value = self.updates.get(self.source(name))
        if value is None:
            value = self._find(name, scope)
        if not _is_array(value):
            kind = type(value).__name__
            raise MismatchError(f"{name} is of type {kind}, not an array, and {scope.called()} asks for it.")
        if tuple(value.shape) != spec.shape:
            raise MismatchError(
                f"{name} has shape {display.shape_text(value.shape)}, and {scope.called()} needs "
                f"{display.shape_text(spec.shape)}. Pass an input that fits, or init new parameters."
            )
        return _as_jax(name, value)

    def _find(self, name: str, scope: "Scope") -> Any:
        node = self.params
        for key in name.split(SEPARATOR):
            if not isinstance(node, dict) or key not in node:
                raise UnknownNameError(_missing_text(self.params, name, scope))
            node = node[key]
        return node

    def source(self, name: str) -> str:
        """Give the name where a parameter lives, for a name that may be tied."""
        return self.sources.get(name, name)


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
    # a function made anew at each call of a layer never equals itself: go by what it is called
    return init if isinstance(init, Initializer | Part) else getattr(init, "__qualname__", type(init))


def _missing_text(params: Any, name: str, scope: "Scope") -> str:
    held = list(flat_leaves(params))
    if name in held:
        return f"{name} is one key of the params, which are nested dicts; pt.unflatten them first."
    near = did_you_mean(name, held) or f" The params hold {listing(held, 6) if held else 'nothing'}."
    return f"{name} is missing: {scope.called()} asks for it.{near}"


def _is_array(value: object) -> bool:
    return isinstance(value, jax.Array | np.ndarray) or hasattr(value, "__jax_array__")


def _as_jax(name: str, value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    dtype = np.dtype(value.dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise MismatchError(f"{name} is {dtype}, which JAX would narrow; pt.cast it, or set jax_enable_x64.")
    return _jax.numpy.asarray(value)


class Scope:
    """What a module's function asks for parameters, calls other modules through, and draws randomness from.

    Attributes:
        path: the place of the module in the net: its name as a block, empty for the net itself.
        train: whether this is a training pass.
    """

    def __init__(self, run: _Run, title: str, path: str, home: str, inputs: tuple[Any, ...]) -> None:
        self.path = path
        self.train = run.train
        self._run = run
        self._title = title
        self._home = home
        self._inputs = inputs
        self._keys = _Keys(path)
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
            ParamTreeError: outside of training, or for what is no state of this module.
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
        self._run.updates[self._run.source(place)] = jax.lax.convert_element_type(value, old.dtype)

    def call(self, module: Module, *inputs: Any, name: str | None = None) -> Any:
        """Call another module, under an automatic key, its own name, or the name given here.

        Raises:
            BadNameError: two different modules would have one key.
        """
        if not _is_module(module):
            raise ParamTreeError(
                f"{self.path or self._title}: scope.call takes a Module, and got {module!r}. Make one with "
                "pt.module(function), pt.wrap(init, apply) or nn.Lambda(function)."
            )
        key = self._keys.key(module, name)
        place, here = join(self.path, key), join(self._home, key)
        home = self._run.home(module, here) if self._run.declaring else here
        outputs = module.call(Scope(self._run, module.title, place, home, inputs), *inputs)
        if home != here:
            self._run.alias(here, home)
        return outputs

    def key(self) -> jax.Array:
        """Give a new random key, folded with the module's path, and with a count within it.

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
        if self._run.declaring:
            return self._run.declare(join(self._home, name), spec, fixed, join(self.path, name))
        return self._run.read(join(self.path, name), spec, self)


def _input_text(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return type(value).__name__


def _as_shape(shape: Any) -> tuple[Any, ...]:
    sizes: tuple[Any, ...] = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    return tuple(int(size) if _is_number(size) else size for size in sizes)


def _is_number(size: object) -> bool:
    return isinstance(size, int | np.integer)


# the four functions of a module


def _init(net: Module) -> Callable[..., Any]:
    def init(key: jax.Array, /, *inputs: Any, init: Any = None) -> Any:
        """Make parameters: find what the net wants for these inputs, then draw each value by its name.

        Args:
            key: a random key.
            *inputs: arrays, `jax.ShapeDtypeStruct`s, or strings of shapes such as "batch, 20".
            init: an initialiser for every parameter whose layer names none; or rules, which come first.

        Raises:
            RuleError: listing every rule that hits nothing or is shadowed.
            MismatchError: where a size is unknown, or an initialiser gives another shape or dtype.
            ParamTreeError: where the key is none, or something is no initialiser.
        """
        check_random_key(key)
        return materialize(key, _find_specs(net, inputs, key, init), init)

    return init


def _specs(net: Module) -> Callable[..., Any]:
    def specs(*inputs: Any) -> Any:
        """Find what parameters the net wants for these inputs, without computing or allocating anything.

        Args:
            *inputs: arrays, `jax.ShapeDtypeStruct`s, or strings of shapes with symbols for unknown sizes:
                "batch, features", or "int32[batch, time]" where the dtype is not float32.
        """
        return _find_specs(net, inputs, None, None)

    return specs


def _apply(net: Module) -> Callable[..., Any]:
    def apply(params: Any, /, *inputs: Any, train: bool = False, key: Any = None) -> Any:
        """Compute the net's outputs.

        Args:
            params: the nested dict of `init`; ties and constants are resolved here.
            *inputs: the net's inputs.
            train: whether layers behave as in training. Running statistics are not returned; see
                `apply_and_update`.
            key: a random key, for layers that need one.

        Raises:
            UnknownNameError: a parameter is missing.
            MismatchError: a parameter has another shape than the inputs ask for.
        """
        return _run(net, params, inputs, train, key)[0]

    return apply


def _apply_and_update(net: Module) -> Callable[..., Any]:
    def apply_and_update(params: Any, /, *inputs: Any, key: Any = None) -> tuple[Any, Any]:
        """Compute the net's outputs in training, and the params with new running statistics.

        Raises:
            UnknownNameError: a parameter is missing.
            MismatchError: a parameter has another shape than the inputs ask for.
        """
        outputs, updates = _run(net, params, inputs, True, key)
        return outputs, update(params, updates)

    return apply_and_update


def _run(
    net: Module, params: Any, inputs: Sequence[Any], train: bool, key: Any
) -> tuple[Any, dict[str, Any]]:
    if isinstance(train, Tracer):
        raise ParamTreeError("train= is a traced value; write jax.jit(net.apply, static_argnames='train').")
    if not isinstance(params, dict):
        raise MismatchError(
            f"{net.title}: params are of type {type(params).__name__}; pass the nested dict that init "
            "returned, then the inputs."
        )
    if key is not None:
        check_random_key(key, "key=")
    given: Any = params
    run = _Run(resolve(given), train=train, key=key, sources=tied_names(structure_of(given)))
    return net.call(Scope(run, net.title, "", "", tuple(inputs)), *inputs), run.updates


def _find_specs(net: Module, inputs: tuple[Any, ...], key: Any, init: Any) -> Any:
    shapes = _parse_inputs(inputs)
    found: dict[str, Any] = {}

    def trace(*inputs: Any) -> None:
        found.update(_declare(net, inputs, None))

    try:
        _jax.eval_shape(trace, *shapes)
    except NEEDS_VALUES as error:
        if not all(map(_is_concrete, jax.tree.leaves((shapes, key)))):
            raise ParamTreeError(
                f"{net.title} decides by values in Python, so its parameters cannot be found from shapes "
                "alone. Pass arrays, outside of jit and vmap; or use jax.lax.cond or jax.lax.while_loop."
            ) from error
        value = partial(_draw_one, jax.random.key(0) if key is None else key, init)
        found = _declare(net, shapes, value)
    return nest(found)


def _declare(net: Module, inputs: tuple[Any, ...], value: Any) -> dict[str, Any]:
    run = _declare_once(net, inputs, value, {})
    moved = {home: place for home, place in run.owners.items() if home != place}
    return (_declare_once(net, inputs, value, moved) if moved else run).declared


def _declare_once(net: Module, inputs: tuple[Any, ...], value: Any, moved: dict[str, str]) -> _Run:
    run = _Run(declaring=True, value=value, key=jax.random.key(0), moved=moved)
    net.call(Scope(run, net.title, "", run.home(net, ""), inputs), *inputs)
    return run


def _draw_one(key: jax.Array, init: Any, name: str, spec: ParamSpec, fixed: bool) -> Any:
    return draw(key, {name: ParamSpec(spec.shape, spec.dtype, choose(init, name, spec, fixed))})[name]


def _is_concrete(value: object) -> bool:
    return not isinstance(value, Tracer | jax.ShapeDtypeStruct)


def _parse_inputs(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    scope = jax.export.SymbolicScope()
    return jax.tree.map(lambda each: _parse_shape(each, scope) if isinstance(each, str) else each, inputs)


_SHAPE = re.compile(r"\s*(?:(\w*)\s*\[([^\[\]]*)\]|([^\[\]]+))\s*")


def _parse_shape(text: str, scope: jax.export.SymbolicScope) -> jax.ShapeDtypeStruct:
    found = _SHAPE.fullmatch(text)
    try:
        if found is None:
            raise ValueError("it is neither sizes nor dtype[sizes]")
        dtype, inside, bare = found.groups()
        shape = jax.export.symbolic_shape(inside if bare is None else bare, scope=scope)
        if any(isinstance(size, int) and size < 0 for size in shape):
            raise ValueError("a size is negative")
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype or "float32"))
    except (ValueError, TypeError) as error:
        raise ParamTreeError(
            f"{text!r} is no shape. Write sizes and symbols, such as 'batch, 20' or 'int32[batch, time]'."
        ) from error


# modules made elsewhere


def wrap(init: Call, apply: Call, /, *, title: str = "Wrapped", name: str | None = None) -> Module:
    """Make a module of a foreign pair `init(key, *inputs) -> params`, `apply(params, *inputs) -> outputs`.

    The foreign parameters, whatever their containers, become a block of the nested dict, by their names. Two
    conventions are known by their argument names: stax's `init(rng, input_shape)`, which also returns the
    output's shape, and Haiku's `apply(params, rng, ...)`. At init the inputs are zeros of the right shape.

    >>> net = wrap(lambda key, x: {"w": jnp.ones(x.shape[-1])}, lambda params, x: x @ params["w"])
    >>> net.specs("batch, 5")
    {'w': ParamSpec((5,), float32)}
    """
    takes_shape = "input_shape" in signature(init).parameters
    takes_rng = list(signature(apply).parameters)[1:2] == ["rng"]

    def make(key: jax.Array, shapes: Sequence[Any]) -> Any:
        if takes_shape:
            return init(key, shapes[0].shape if len(shapes) == 1 else [each.shape for each in shapes])[1]
        return init(key, *jax.tree.map(_zeros, shapes))

    def abstract(shapes: Sequence[Any]) -> Any:
        return _jax.eval_shape(partial(make, shapes=shapes), jax.random.key(0))

    def call(scope: Scope, *inputs: Any) -> Any:
        shapes = jax.tree.map(partial(_known_shape, 1), inputs)
        like, structure = flatten_named(abstract(shapes))
        if jax.tree.leaves(abstract(jax.tree.map(partial(_known_shape, 2), inputs))) != like:
            raise MismatchError(f"{scope.called()} needs the sizes that its parameters depend on as numbers.")
        joint = Joint(scope.home, lambda key: jax.tree.map(jnp.asarray, jax.tree.leaves(make(key, shapes))))
        values = list(like)
        for name, index in zip(structure.names, structure.indices, strict=True):
            values[index] = scope.foreign(name, like[index], Part(joint, index))
        params = jax.tree.unflatten(structure.treedef, values)
        if takes_rng:
            return apply(params, scope.key() if scope.has_key else None, *inputs)
        keyed = {"rng": scope.key()} if takes_shape and scope.has_key else {}
        return apply(params, *inputs, **keyed)

    return Module(call, title, name)


def _zeros(like: Any) -> jax.Array:
    return _jax.numpy.zeros(like.shape, like.dtype)


def _known_shape(stand_in: int, value: Any) -> jax.ShapeDtypeStruct:
    """Give an input's shape, with a stand-in for every size that is only a symbol."""
    value = value if hasattr(value, "dtype") else _jax.numpy.asarray(value)
    sizes = [size if isinstance(size, int) else stand_in for size in value.shape]
    return jax.ShapeDtypeStruct(sizes, value.dtype)
