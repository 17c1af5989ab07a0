"""Modules: one function of a scope, run two ways.

A `Module` wraps `call(scope, *inputs)`. To *init* is to run it while it says which parameters it wants; to
*apply* is to run it with parameters given. Layers of `paramtree.nn` and of a user are made alike.
"""

import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import jax
import jax.export
import jax.numpy as jnp
from jax.core import Tracer

from paramtree import display
from paramtree.draw import (
    NEEDS_VALUES,
    ParamSpec,
    are_rules,
    check_random_key,
    choose,
    draw,
    materialize,
    parse_init,
)
from paramtree.errors import MismatchError, ParamTreeError, TieError
from paramtree.names import check_key, join, nest, untyped_jax
from paramtree.run import Applying, Declaring
from paramtree.scope import Keys, Scope, call_layer
from paramtree.select import spells_out
from paramtree.tree import update

Call = Callable[..., Any]


@dataclass(frozen=True, eq=False, repr=False)
class Module:
    """Wrap one function `call(scope, *inputs)` as a pair of pure functions, `init` and `apply`.

    A module is a value: it holds no parameters, and is itself wherever it is used, so the same object at
    two places of a net is one set of parameters. `init, apply = module` unpacks the pair.

    Args:
        call: the function; it asks its scope for parameters.
        title: how it prints; in lower case, numbered, it is the automatic key of the module.
        name: its key, in place of the automatic one.
        shares: a module whose parameters this one shares.
        layers: the (key, module) pairs of a container, for `[i]`, `len` and printing.
        repeats: how often a container repeats its one layer, with stacked parameters; 0 for other modules.
        chained: whether the layers are called one after the other, so that a slice of them is a net.
        describe: gives the printed form, without layers, from the module's own parameters, or from None.

    Attributes:
        init: `init(key, *inputs, init=None, shardings=None) -> params`.
        apply: `apply(params, *inputs, train=False, key=None) -> outputs`.
        apply_and_update: `apply_and_update(params, *inputs, key=None) -> (outputs, params)`.
        specs: `specs(*inputs) -> tree of ParamSpec`.
        params: the module itself, as `params=` of another layer takes it.

    >>> from paramtree import nn
    >>> init, apply = nn.Dense(3)
    >>> params = init(jax.random.key(0), jnp.ones((2, 4)))
    >>> apply(params, jnp.ones((2, 4))).shape
    (2, 3)
    """

    call: Call
    title: str
    name: str | None = None
    shares: "Module | None" = None
    layers: tuple[tuple[str, "Module"], ...] = ()
    repeats: int = 0
    chained: bool = False
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
        if self.shares is not None and not _is_module(self.shares):
            raise TieError(
                f"{self.title}(params=...) takes the layer whose parameters are shared, "
                f"and not {type(self.shares).__name__}."
            )
        for make in (_init, _apply, _apply_and_update, _specs):
            function: Any = make(self)
            function.__qualname__ = f"{self.title}.{function.__name__}"  # for errors of Python
            object.__setattr__(self, function.__name__, function)

    @property
    def params(self) -> "Module":
        """The module itself, so that `params=shared.params` shares as `params=shared` does."""
        return self

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__") or key in type(self).__dataclass_fields__:  # `copy` asks before there are any
            raise AttributeError(key)
        raise AttributeError(
            f"{self.title} has no {key!r}. A module holds no parameters: init makes them, apply uses them, "
            "and pt.bind(net, params) shows them by layer."
        )

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.apply))

    def __len__(self) -> int:
        return len(self.layers)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int | slice) -> "Module":
        if not self.layers:
            raise ParamTreeError(f"{self.title} has no layers to index.")
        if not isinstance(index, slice) and not hasattr(index, "__index__"):
            raise ParamTreeError(
                f"{self.title}[{index!r}]: layers are counted, 0 to {len(self) - 1}. "
                "By the name of its parameters a layer is found in pt.bind(net, params)."
            )
        if isinstance(index, slice):
            if not self.chained:
                raise ParamTreeError(f"{self.title} is no chain of layers, so a part of it is no net.")
            return chain(self.layers[index], self.title)
        try:
            return self.layers[index][1]
        except IndexError:
            held = "1 layer, 0" if len(self) == 1 else f"{len(self)} layers, 0 to {len(self) - 1}"
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

    def call(scope: Scope, *inputs: Any) -> Any:
        for key, layer in layers:
            inputs = (scope.call(layer, *inputs, name=key),)
        return inputs[0] if len(inputs) == 1 else inputs

    return Module(call, title, name, layers=tuple(layers), chained=True)


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
    lines = [f"{describe(net).removesuffix('()')}("]
    for number, (key, layer) in enumerate(net.layers):
        below = join(path, key)
        inner = outline(layer, below, text, label).replace("\n", "\n  ")
        lines.append(f"  ({number}) {label(key, below)}: {inner}")
    return "\n".join([*lines, ")"])


def describe(net: Module, own: Any = None) -> str:
    """Print a module, without the layers in it, from its own parameters where they are given."""
    return net.describe(own) if net.describe else f"{net.title}()"


def assign_keys(layers: Sequence[Module]) -> list[tuple[str, Module]]:
    """Give every layer of a container its key.

    Raises:
        BadNameError: where two different layers have one explicit name.
    """
    keys = Keys()
    return [(keys.key(layer), layer) for layer in layers]


# the four functions of a module


def _init(net: Module) -> Callable[..., Any]:
    def init(key: jax.Array, /, *inputs: Any, init: Any = None, shardings: Any = None) -> Any:
        """Make parameters: find what the net wants for these inputs, then draw each value by its name.

        Args:
            key: a random key.
            *inputs: arrays, `jax.ShapeDtypeStruct`s, or strings of shapes such as "batch, 20".
            init: an initialiser for every parameter whose layer names none; or rules, which come first.
            shardings: where the values shall lie: a tree such as `pt.shardings` gives, or one for all. Each
                is drawn in place, bit for bit as without, and one after the other.

        Raises:
            RuleError: listing every rule that hits nothing or is shadowed.
            MismatchError: where a size is unknown, an initialiser gives another shape or dtype, or the
                shardings do not fit.
            ParamTreeError: where the key is not one of `jax.random`, or something is not an initialiser.
        """
        check_random_key(key)
        init = parse_init(init)  # once: rules may come from an iterator
        return materialize(key, _find_specs(net, inputs, key, init), init, shardings)

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


def layers_of(net: Module, *inputs: Any) -> dict[str, Module]:
    """Find the modules that a net calls for these inputs, by their places."""
    found: dict[str, Module] = {}

    def trace(*inputs: Any) -> None:
        found.update(_declare_once(net, inputs, None, {}).layers)

    untyped_jax.eval_shape(trace, *_parse_inputs(inputs))
    return found


def outputs_of(net: Module, *inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Find the shapes of what a net gives, and each module that it calls, without computing anything.

    Returns:
        The inputs, texts of shapes read; and the shapes and dtypes by place, in the order of the calls, the
        net's own at "".

    Raises:
        ParamTreeError: where the net decides by values in Python.
    """
    found: dict[str, Any] = {}
    shapes = _parse_inputs(inputs)

    def trace(*inputs: Any) -> Any:
        run = Declaring(None, {})
        outputs = call_layer(net, Scope(run, net.title, "", run.home(net, ""), inputs), inputs)
        run.gave("", outputs)
        found.update((place, run.outputs[place]) for place in ("", *run.layers))

    try:
        untyped_jax.eval_shape(trace, *shapes)
    except NEEDS_VALUES as error:
        raise ParamTreeError(
            f"{net.title} decides by values in Python, so the shapes of what it gives cannot be found."
        ) from error
    return shapes, found


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
        return _run_given(net, params, inputs, train, key)[0]

    return apply


def _apply_and_update(net: Module) -> Callable[..., Any]:
    def apply_and_update(params: Any, /, *inputs: Any, key: Any = None) -> tuple[Any, Any]:
        """Compute the net's outputs in training, and the params with new running statistics.

        Raises:
            UnknownNameError: a parameter is missing.
            MismatchError: a parameter has another shape than the inputs ask for.
        """
        outputs, updates = _run_given(net, params, inputs, True, key)
        return outputs, update(params, {name: _kept(name, value) for name, value in updates.items()})

    return apply_and_update


def _run_given(
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
    run = Applying(given, train, key)
    return call_layer(net, Scope(run, net.title, "", "", tuple(inputs)), tuple(inputs)), run.updates


def _kept(name: str, value: Any) -> Any:
    try:
        return jax.lax.stop_gradient(value)
    except jax.errors.UnexpectedTracerError as error:
        raise ParamTreeError(
            f"{name} was updated inside a jax.lax loop, vmap or checkpoint of the module's own, from which "
            "its value cannot be taken. Carry it out of there, and update it outside."
        ) from error


def _find_specs(net: Module, inputs: tuple[Any, ...], key: Any, init: Any) -> Any:
    shapes = _parse_inputs(inputs)
    found: dict[str, Any] = {}

    def trace(*inputs: Any) -> None:
        found.update(_declare(net, inputs, None))

    try:
        untyped_jax.eval_shape(trace, *shapes)
    except NEEDS_VALUES as error:
        if not all(map(_is_concrete, jax.tree.leaves((shapes, key)))):
            raise ParamTreeError(
                f"{net.title} decides by values in Python, so its parameters cannot be found from shapes "
                "alone. Pass arrays, outside of jit and vmap; or use jax.lax.cond or jax.lax.while_loop."
            ) from error
        found = _declare_by_values(net, shapes, jax.random.key(0) if key is None else key, init)
    return nest(found)


def _declare_by_values(net: Module, inputs: tuple[Any, ...], key: jax.Array, init: Any) -> dict[str, Any]:
    """Find what a net wants that decides by values: it sees each parameter as it will be drawn."""
    found = _declare(net, inputs, partial(_draw_one, key, init, ()))
    dotted = [name for name in found if re.escape(name) != name]
    if not are_rules(init) or not any(spells_out(rule.select, name) for rule in init for name in dotted):
        return found
    # such a rule means that one name alone, and was taken for a pattern while the names were not known
    return _declare(net, inputs, partial(_draw_one, key, init, found))


def _declare(net: Module, inputs: tuple[Any, ...], value: Any) -> dict[str, Any]:
    run = _declare_once(net, inputs, value, {})
    return (_declare_once(net, inputs, value, run.moves()) if run.moves() else run).declared


def _declare_once(net: Module, inputs: tuple[Any, ...], value: Any, moved: dict[str, str]) -> Declaring:
    run = Declaring(value, moved)
    call_layer(net, Scope(run, net.title, "", run.home(net, ""), inputs), inputs)
    return run


def _draw_one(
    key: jax.Array, init: Any, names: Container[str], name: str, spec: ParamSpec, fixed: bool
) -> Any:
    return draw(key, {name: replace(spec, init=choose(init, name, spec, fixed, names))})[name]


def _is_concrete(value: object) -> bool:
    return not isinstance(value, Tracer | jax.ShapeDtypeStruct)


def _parse_inputs(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    scope = jax.export.SymbolicScope()
    for each in inputs:
        if isinstance(each, tuple | list) and each and all(isinstance(size, int) for size in cast(Any, each)):
            text = ", ".join(map(str, cast(Any, each)))
            raise ParamTreeError(
                f"the input {each!r} is a shape. Write it as a text, {text!r}, or pass an array."
            )
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
            f"{text!r} is not a shape. Write sizes and symbols, such as 'batch, 20' or 'int32[batch, time]'."
        ) from error
