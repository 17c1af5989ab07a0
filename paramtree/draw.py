"""Values by name: every parameter is drawn from the key folded with a hash of its own name.

So adding, removing or reordering other parameters changes no value, and neither does `jit`. Parameters of
one initialiser, shape and dtype are drawn together, in one compiled program.
"""

import os
import reprlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import accumulate, chain
from math import prod
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from paramtree import display
from paramtree.bits import fold_words, fused, is_threefry
from paramtree.errors import (
    HINTED,
    MismatchError,
    ParamTreeError,
    UnknownNameError,
    did_you_mean,
    first_of,
    listing,
    raise_faults,
)
from paramtree.init import Initializer, Load, Mixed, Ones, Uniform, Zeros, takes_name
from paramtree.names import flatten_named, join, untyped_jax
from paramtree.nodes import Fixed
from paramtree.select import Rules, apply_rules, matches, parse_rules, spells_out
from paramtree.tree import is_array, is_array_like

DEFAULT = Uniform(0.07)  # as in Gluon

NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)

_JAX_INITIALISERS = {jax.nn.initializers.zeros.__module__, jax.nn.initializers.normal().__module__}
_KNOWN = {*_JAX_INITIALISERS, Initializer.__module__}
_FEW = 8  # parameters drawn together, for which it takes longer to compile the loop of JAX's own bits
_FILLS: dict[Any, int] = {Zeros(): 0, Ones(): 1}  # what needs no program
_LEVEL = "xla_backend_optimization_level"
_UNSET: Any = object()
_NOT_AS_ASKED = "these initialisers did not give what was asked:"


@dataclass(frozen=True, repr=False)
class ParamSpec:
    """Say what a parameter will be.

    Attributes:
        shape: its sizes; a size not known yet is a symbol of `jax.export.symbolic_shape`.
        dtype: its dtype.
        init: the initialiser its layer names, or None for the default.
        repeats: the blocks it is repeated in, outermost first, each with its count: the leading sizes.
    """

    shape: tuple[Any, ...]
    dtype: Any
    init: Any = None
    repeats: tuple[tuple[str, int], ...] = ()

    def astype(self, dtype: Any) -> "ParamSpec":
        """Give the same spec with another dtype, as `pt.cast` asks for."""
        return replace(self, dtype=jnp.dtype(dtype))

    @property
    def one(self) -> "ParamSpec":
        """The spec of one repetition; the spec itself where there are none."""
        return replace(self, shape=self.shape[len(self.repeats) :], repeats=()) if self.repeats else self

    def repetition(self, number: int) -> "ParamSpec":
        """Give the spec of one of the outermost repetitions, which has the name of a separate block."""
        (place, _), *inner = self.repeats or [("", 0)]
        repeats = tuple((f"{place}{number}{each[len(place) :]}", count) for each, count in inner)
        return replace(self, shape=self.shape[1:], repeats=repeats)

    def __repr__(self) -> str:
        named = f", {self.init!r}" if not (self.init is None or isinstance(self.init, Part)) else ""
        return f"ParamSpec({display.shape_text(self.shape)}, {self.dtype}{named})"


def repetition_names(name: str, repeats: Iterable[tuple[str, int]]) -> list[str]:
    """Name each repetition of what is stacked, as separate blocks beside each other are named.

    >>> repetition_names("net/block/weight", [("net/block", 2)])
    ['net/block0/weight', 'net/block1/weight']
    """
    names = [name]
    for place, count in reversed(list(repeats)):
        names = [f"{place}{number}{each[len(place) :]}" for number in range(count) for each in names]
    return names


class Joint:
    """Initialise several parameters by one function of a key, as a foreign `init` does; compared by `path`.

    Attributes:
        path: the block they lie in, whose name the key is folded with.
        draw: key -> the values of all of them.
    """

    def __init__(self, path: str, draw: Callable[[jax.Array], Sequence[Any]]) -> None:
        self.path = path
        self.draw = draw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Joint) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)


@dataclass(frozen=True, repr=False)
class Part:
    """Be the initialiser of one of the parameters that a `Joint` makes: the one at `index`."""

    joint: Joint
    index: int

    def __repr__(self) -> str:
        return f"init of {self.joint.path or 'the wrapped pair'}"


def fold_name(key: jax.Array, name: str) -> jax.Array:
    """Derive the key of one name.

    >>> bool(fold_name(jax.random.key(0), "a") == fold_name(jax.random.key(0), "b"))
    False
    """
    return fold_names(key, [name], 0)


def fold_names(key: jax.Array, names: Sequence[str], index: Any) -> jax.Array:
    """Derive the key of one of several names, whose index may be traced."""
    hashes = _hashes(tuple(names))
    one = hashes[index] if isinstance(index, int) else untyped_jax.numpy.asarray(hashes)[index]
    return _fold_all(key, one[None])[0]


@lru_cache(maxsize=64)
def _hashes(names: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """Hash names to 64 bits each, so that even a million parameters hardly ever share a key."""
    digests = b"".join(blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, "<u4").reshape(-1, 2)


def _keys_by_name(key: jax.Array, names: tuple[str, ...]) -> Any:
    """Give the data of the keys of names; on the host, where they are not traced."""
    words = jax.random.key_data(key)
    if is_threefry(key) and not isinstance(words, Tracer):
        return np.stack(fold_words(np.asarray(words), _hashes(names).T), -1)
    keys = jax.random.key_data(_fold_all(key, _hashes(names)))
    # keys that are committed to one device would be refused by a mesh of others
    return keys if isinstance(keys, Tracer) else np.asarray(keys)


@untyped_jax.jit
def _fold_all(key: jax.Array, hashes: Any) -> jax.Array:
    def fold(pair: Any) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, pair[0]), pair[1])

    return _for_each(fold, hashes, key)


def _for_each(function: Callable[[Any], jax.Array], items: Any, key: jax.Array) -> jax.Array:
    """Map a function over the first axis, so that each result is the same whatever stands beside it."""
    if len(items) == 1:
        return function(items[0])[None]  # which is traced in two thirds of the time
    # the hardware generators give a batch of keys the bits of its first: these go one by one
    return untyped_jax.vmap(function)(items) if is_threefry(key) else untyped_jax.lax.map(function, items)


def draw(
    key: jax.Array, specs: Mapping[str, ParamSpec], shardings: Mapping[str, Any] | None = None
) -> dict[str, jax.Array]:
    """Draw values for parameters by name; each spec must name its initialiser.

    With shardings, by name, each is drawn by itself and where it will lie: no device holds more than its
    share, and the values are the same.

    Raises:
        MismatchError: listing every initialiser that gives another shape or dtype than asked, and every
            shape that holds an unknown size.
        ParamTreeError: where the key is not one of `jax.random`, or something is not an initialiser.
    """
    check_random_key(key)
    _check_known(specs)
    specs = {name: _unmixed(name, spec, specs) for name, spec in specs.items()}
    _check_initialisers(specs)
    if shardings is None and isinstance(key, Tracer):
        return _draw_together(key, specs)
    return _draw_each(key, specs, shardings)


def _draw_together(key: jax.Array, specs: Mapping[str, ParamSpec]) -> dict[str, jax.Array]:
    """Draw parameters in groups of those alike."""
    drawn: dict[str, jax.Array] = {}
    faults: list[str] = []
    for group, members in _groups(specs).items():
        values = _draw_group(group, key, members)  # for each name an array, or the list of its repetitions
        faults += _faults_of(members, values)
        if not faults:
            drawn |= {name: _joined(spec, values[name]) for name, spec in members.items()}
    raise_faults(MismatchError, _NOT_AS_ASKED, faults)
    return {name: drawn[name] for name in specs}


def _faults_of(specs: Mapping[str, ParamSpec], drawn: Mapping[str, Any]) -> list[str]:
    return [fault for name, spec in specs.items() for fault in _draw_faults(name, spec, drawn[name])]


def _groups(specs: Mapping[str, ParamSpec]) -> dict[Any, dict[str, ParamSpec]]:
    groups: dict[Any, dict[str, ParamSpec]] = {}
    for name, spec in specs.items():
        groups.setdefault(_group_of(name, spec), {})[name] = spec
    return groups


def _draw_each(
    key: jax.Array, specs: Mapping[str, ParamSpec], shardings: Mapping[str, Any] | None
) -> dict[str, jax.Array]:
    """Draw each parameter by a program that those alike share, with shardings onto its devices.

    To compile it takes less time than a program for all of a group and one that takes each out. Under `jit`
    it is the other way round: there every call is compiled anew.
    """
    if shardings is None and getattr(key, "committed", False):
        shardings = dict.fromkeys(specs, key.sharding)
    placed = shardings or dict.fromkeys(specs)
    groups = {name: _group_of(name, spec) for name, spec in specs.items()}
    names = {
        name: repetition_names(name, specs[name].repeats)
        for name, group in groups.items()
        if isinstance(group, tuple)
    }
    keys = _keys_by_name(key, tuple(chain.from_iterable(names.values())))
    traced = isinstance(keys, Tracer)
    # without shardings a program puts what it makes on the mesh that is set
    follows = not shardings and not untyped_jax.sharding.get_abstract_mesh().empty
    fills = {} if traced or follows else _FILLS
    drawn: dict[str, jax.Array] = {}
    start = 0
    for name, each in names.items():
        spec, initialiser = specs[name], groups[name][0]
        own, start = keys[start : start + len(each)], start + len(each)
        if initialiser in fills and not jnp.issubdtype(spec.dtype, jax.dtypes.extended):
            drawn[name] = _full(spec, fills[initialiser], placed[name])
        else:
            program = _program(placed[name], quick=not traced and _is_known(initialiser))
            given = *groups[name], spec.shape[: len(spec.repeats)], jax.random.key_impl(key), own
            drawn[name] = _named_errors([name], partial(program, *given))
        if shardings:  # the memory that drawing takes is that of one, and not of all in flight
            jax.block_until_ready(drawn[name])
    # a user's function, a value from a file, a foreign pair: each is made whole, and spread before the next
    faults = _faults_of({name: _as_drawn(specs[name], value) for name, value in drawn.items()}, drawn)
    for group, members in _groups({name: spec for name, spec in specs.items() if name not in names}).items():
        values = _draw_group(group, key, members)
        faults += _faults_of(members, values)
        for name, spec in members.items() if not faults else ():
            value = _joined(spec, values[name])
            drawn[name] = put(value, placed[name]) if shardings else value
    raise_faults(MismatchError, _NOT_AS_ASKED, faults)
    return drawn


def put(array: Any, sharding: Any) -> jax.Array:
    """Put an array where a sharding says; where other processes have some of its devices, each puts its part.

    >>> put(np.ones(2), jax.devices()[0]).shape
    (2,)
    """
    near = not isinstance(sharding, jax.sharding.Sharding) or sharding.is_fully_addressable
    if near or isinstance(array, Tracer) or not getattr(array, "is_fully_addressable", True):
        return jax.device_put(array, sharding)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = put(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _full(spec: ParamSpec, fill: int, sharding: Any) -> jax.Array:
    values = np.broadcast_to(np.array(fill, spec.dtype), spec.shape)  # which takes no memory itself
    return jax.device_put(values, may_alias=False) if sharding is None else put(values, sharding)


@lru_cache(maxsize=256)
def _program(sharding: Any, quick: bool) -> Callable[..., jax.Array]:
    """Make the program that draws where a sharding says.

    One that compiles quickly does not unroll small loops, as over a kernel of 3 x 3, which takes three times
    as long. It may be no part of another program, and make no sums: these would be added up in another order.
    """
    options: dict[str, Any] = {} if sharding is None else {"out_shardings": sharding}
    device = jax.devices()[0] if sharding is None else next(iter(sharding.device_set))
    if quick and device.platform == "cpu" and _LEVEL not in os.environ.get("XLA_FLAGS", ""):
        options["compiler_options"] = {_LEVEL: 2}
    return untyped_jax.jit(_draw_stack, static_argnums=(0, 1, 2, 3, 4), **options)


def _draw_stack(
    initialiser: Any, shape: tuple[int, ...], dtype: Any, lead: tuple[int, ...], impl: Any, keys: Any
) -> jax.Array:
    """Draw one parameter, all of its repetitions, from the data of their keys."""
    wrapped = jax.random.wrap_key_data(keys, impl=impl)
    values = _draw_many(initialiser, shape, dtype, _fused_for(initialiser, wrapped))
    if values.shape[1:] != shape or values.dtype != dtype:
        return values[0]  # as it is: who asked for it says what is wrong
    return jax.lax.convert_element_type(values.reshape(*lead, *shape), dtype)


def _as_drawn(spec: ParamSpec, value: Any) -> ParamSpec:
    """Give the spec to hold a value against: that of one repetition where only one was kept."""
    return spec if value.shape == spec.shape else spec.one


def _joined(spec: ParamSpec, drawn: Any) -> jax.Array:
    if spec.repeats and _is_list(drawn):
        drawn = untyped_jax.numpy.stack(drawn).reshape(spec.shape)
    # a strong type: after one step of training a weak one would make `jit` compile again
    return jax.lax.convert_element_type(untyped_jax.numpy.asarray(drawn), spec.dtype)


def _unmixed(name: str, spec: ParamSpec, names: Container[str]) -> ParamSpec:
    """Put the initialiser that a mixture chooses in its place; where none fits, the mixture complains.

    In a stack it stays, and chooses for each repetition by the name that this has as a separate block.
    """
    while isinstance(spec.init, Mixed) and not spec.repeats:
        fitting = (rule.value for rule in spec.init.rules if matches(rule.select, name, spec, names))
        chosen = next(fitting, _UNSET)
        if chosen is _UNSET:
            return spec
        spec = replace(spec, init=chosen)
    return spec


def _is_list(drawn: object) -> bool:
    return isinstance(drawn, list)


def _group_of(name: str, spec: ParamSpec) -> Any:
    """Say with which others a parameter is drawn; some are drawn alone."""
    if isinstance(spec.init, Part):
        return spec.init.joint
    if _draws_in_groups(spec.init):
        return _law(spec.init), spec.one.shape, spec.dtype
    return name


def _draws_in_groups(initialiser: Any) -> bool:
    """Tell whether an initialiser is known to be pure, so that it may be compiled; a user's may not be."""
    if getattr(initialiser, "__module__", None) in _JAX_INITIALISERS:
        return True
    return isinstance(initialiser, Initializer) and not takes_name(initialiser)


def _fused_for(initialiser: Any, keys: jax.Array) -> jax.Array:
    """Fuse the bits of keys for what is ours or JAX's: a user's initialiser may round otherwise with them."""
    return fused(keys) if _is_known(initialiser) else keys


def _is_known(initialiser: Any) -> bool:
    """Tell whether an initialiser is ours or JAX's."""
    return isinstance(initialiser, _Law) or getattr(initialiser, "__module__", "") in _KNOWN


class _Law:
    """An initialiser of JAX, which is a closure made anew at each call, compared by its code and settings."""

    def __init__(self, identity: Any, function: Any) -> None:
        self._identity = identity
        self._function = function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Law) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


def _law(initialiser: Any) -> Any:
    code = getattr(initialiser, "__code__", None)
    if code is None:
        return initialiser
    settings = tuple(cell.cell_contents for cell in initialiser.__closure__ or ())
    law = _Law((code, settings, initialiser.__defaults__), initialiser)
    try:
        hash(law)
    except TypeError:  # a setting is an array
        return initialiser
    return law


def _draw_group(group: Any, key: jax.Array, members: Mapping[str, ParamSpec]) -> dict[str, Any]:
    if isinstance(group, Joint):
        return _draw_joint(group, key, members)
    if isinstance(group, tuple):
        return _draw_alike(group, key, members)
    return {name: _call(spec, name, key) for name, spec in members.items()}


def _draw_alike(
    group: tuple[Any, ...], key: jax.Array, members: Mapping[str, ParamSpec]
) -> dict[str, jax.Array]:
    names = {name: repetition_names(name, spec.repeats) for name, spec in members.items()}
    keys = _fold_all(key, _hashes(tuple(chain.from_iterable(names.values()))))
    # XLA compiles fused bits anew for each value that is taken out of the group
    keys = _fused_for(group[0], keys) if len(members) <= _FEW else keys
    values = _named_errors(list(members), lambda: _draw_many(*group, keys))
    ends = accumulate(map(len, names.values()))
    return {
        name: _take(values, end - len(names[name]), spec.shape[: len(spec.repeats)])
        for (name, spec), end in zip(members.items(), ends, strict=True)
    }


@partial(untyped_jax.jit, static_argnums=(0, 1, 2))
def _draw_many(initialiser: Initializer, shape: tuple[int, ...], dtype: Any, keys: jax.Array) -> jax.Array:
    return _for_each(lambda key: initialiser(key, shape, dtype), keys, keys)


@partial(untyped_jax.jit, static_argnums=2)
def _take(values: jax.Array, start: int, lead: tuple[int, ...]) -> jax.Array:
    # one compiled slice for each shape: slicing a large group inside one program compiles for seconds
    taken = jax.lax.dynamic_slice_in_dim(values, start, prod(lead))
    return taken.reshape(*lead, *values.shape[1:])


def _draw_joint(joint: Joint, key: jax.Array, members: Mapping[str, ParamSpec]) -> dict[str, Any]:
    def draw_at(path: str) -> Sequence[Any]:
        folded = fold_name(key, path)
        try:
            return untyped_jax.jit(joint.draw)(folded)  # for the same bits as under the caller's `jit`
        except (TypeError, *NEEDS_VALUES):
            return joint.draw(folded)

    repeats = next(iter(members.values())).repeats
    drawn = [draw_at(path) for path in repetition_names(joint.path, repeats)]
    indices = {name: spec.init.index for name, spec in members.items()}
    if not repeats:
        return {name: drawn[0][index] for name, index in indices.items()}
    return {name: [values[index] for values in drawn] for name, index in indices.items()}


def _call(spec: ParamSpec, name: str, key: jax.Array) -> Any:
    if spec.repeats and not isinstance(spec.init, Load):  # which holds the value as it is stacked
        return [_call(spec.one, each, key) for each in repetition_names(name, spec.repeats)]
    named = {"name": name} if takes_name(spec.init) else {}
    value = _named_errors([name], lambda: spec.init(fold_name(key, name), spec.shape, spec.dtype, **named))
    # the initialiser may keep what it gave, and a parameter's buffer may be donated
    return value.copy() if is_array(value) else value


def _named_errors(names: Sequence[str], make: Callable[[], Any]) -> Any:
    """Say for which parameters an initialiser complains."""
    try:
        return make()
    except ParamTreeError as error:
        raise type(error)(f"{listing(names, 4)}: {error}") from error


def check_random_key(key: Any, what: str = "the first argument") -> None:
    """Check that a value is one random key, of the new style or the old.

    Raises:
        ParamTreeError: where it is none.
    """
    typed = is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not (key.ndim == 0 if typed else is_array(key) and key.dtype == np.uint32 and key.ndim == 1):
        found = display.shape_dtype(key) if is_array_like(key) else reprlib.repr(key)  # not a whole tree
        raise ParamTreeError(f"{what} must be one random key, such as jax.random.key(0); found {found}.")


def _check_known(specs: Mapping[str, ParamSpec]) -> None:
    faults: list[str] = []
    for name, spec in specs.items():
        unknown = [str(size) for size in spec.shape if not isinstance(size, int)]
        if unknown:
            shape = display.shape_text(spec.shape)
            faults.append(f"{name} has shape {shape}, and {', '.join(unknown)} is not known")
    raise_faults(MismatchError, "init: pass an input with these sizes as numbers:", faults)


def _check_initialisers(specs: Mapping[str, ParamSpec]) -> None:
    faults = [
        f"{name}: {spec.init!r} of type {type(spec.init).__name__} is not one; pass a callable "
        "(key, shape, dtype) -> array, such as paramtree.init.Constant(0.5)"
        for name, spec in specs.items()
        if not (callable(spec.init) or isinstance(spec.init, Part)) or isinstance(spec.init, type)
    ]
    raise_faults(ParamTreeError, "these are not initialisers:", faults)


def _draw_faults(name: str, spec: ParamSpec, value: Any) -> list[str]:
    if spec.repeats and _is_list(value):
        each = zip(repetition_names(name, spec.repeats), value, strict=True)
        return [fault for one, part in each for fault in _draw_faults(one, spec.one, part)]
    label = display.function_name(spec.init)
    if not is_array(value):
        return [f"{name}: {label} gave {value!r} of type {type(value).__name__}, not an array"]
    faults: list[str] = []
    if value.shape != spec.shape:
        asked, given = display.shape_text(spec.shape), display.shape_text(value.shape)
        faults.append(f"{name}: {label} was asked for shape {asked}, and gave {given}")
    if value.dtype != spec.dtype:
        faults.append(f"{name}: {label} was asked for dtype {spec.dtype}, and gave {value.dtype}")
    return faults


# from a tree of specs to a tree of values


def are_rules(init: Any) -> bool:
    """Tell whether an `init=` argument is rules, rather than one initialiser."""
    return isinstance(init, Mapping) or (isinstance(init, Iterable) and not isinstance(init, str))


def parse_init(init: Any) -> Any:
    """Read an `init=` argument once: rules, also those of a mixture, as a list; all else as it is.

    Raises:
        RuleError: where a rule is not a pair.
        SelectError: where a select is not valid.
    """
    init = init.rules if isinstance(init, Mixed) else init
    return parse_rules(init) if are_rules(init) else init


def choose(init: Any, name: str, spec: ParamSpec, fixed: bool, names: Container[str] = ()) -> Any:
    """Give the initialiser of one parameter: an explicit rule, else its layer's own, else the default.

    `init` has been through `parse_init`; `names` are those of the tree, as far as they are known.
    """
    if isinstance(init, Load):
        return init
    if are_rules(init):
        for rule in init:
            if spells_out(rule.select, name) or (not fixed and matches(rule.select, name, spec, names)):
                return rule.value
    return _unless_ruled(init, spec)


def _unless_ruled(init: Any, spec: ParamSpec) -> Any:
    if spec.init is not None:
        return spec.init
    return DEFAULT if init is None or are_rules(init) else init


def materialize(key: jax.Array, specs: Any, init: Any = None, shardings: Any = None) -> Any:
    """Turn a tree of specs into a tree of values.

    Args:
        key: the random key; each parameter draws from it folded with its own name.
        specs: the tree.
        init: an initialiser for every parameter whose layer names none; or rules, which come first. It has
            been through `parse_init`.
        shardings: where the values shall lie: one sharding, or a tree of them.

    Raises:
        RuleError: listing every rule that hits nothing or is shadowed.
        MismatchError: where an initialiser does not give what was asked, a size is unknown, or the
            shardings do not fit.
    """
    leaves, structure = flatten_named(specs)
    if are_rules(init):
        explicit = apply_rules(specs, init, default=_UNSET, spelled_out=_is_fixed)[2]
    elif isinstance(init, Load):
        explicit = [init] * len(leaves)
        _check_all_used(init, structure.names)
    else:
        explicit = [_UNSET] * len(leaves)
    chosen: dict[str, ParamSpec] = {}
    for name, index, given in zip(structure.names, structure.indices, explicit, strict=True):
        spec = leaves[index]
        chosen[name] = replace(spec, init=_unless_ruled(init, spec) if given is _UNSET else given)
    _check_known(chosen)
    return _filled(specs, draw(key, chosen, _read_shardings(shardings, chosen)))


def _read_shardings(shardings: Any, specs: Mapping[str, ParamSpec]) -> dict[str, Any] | None:
    """Give each parameter its sharding; none at all where none are asked for."""
    if shardings is None:
        return None
    if isinstance(shardings, jax.sharding.Sharding):
        given = dict.fromkeys(specs, shardings)
    else:
        leaves, structure = flatten_named(shardings)
        given = {name: leaves[index] for name, index in zip(structure.names, structure.indices, strict=True)}
    faults = [
        f"{name} is not a parameter of the net.{did_you_mean(name, specs)}"
        for name in given
        if name not in specs
    ]
    faults += [f"{name} has none" for name in specs if name not in given]
    faults += [
        fault
        for name, spec in specs.items()
        if name in given
        for fault in _sharding_faults(name, spec, given[name])
    ]
    raise_faults(MismatchError, "init: these shardings do not fit; pt.shardings makes them by rules:", faults)
    return given


def _sharding_faults(name: str, spec: ParamSpec, sharding: Any) -> list[str]:
    if not isinstance(sharding, jax.sharding.Sharding):
        return [f"{name}: {sharding!r} is not a sharding"]
    if isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh):
        return [f"{name}: its mesh is an AbstractMesh, which has no devices"]
    axes: Any = getattr(sharding, "spec", ())
    if len(axes) > len(spec.shape):
        return [f"{name} of shape {display.shape_text(spec.shape)}: {axes} is for more axes"]
    try:
        sharding.shard_shape(spec.shape)
    except ValueError as error:
        return [f"{name} of shape {display.shape_text(spec.shape)}: {str(error).splitlines()[0]}"]
    return []


def _filled(node: Any, drawn: Mapping[str, jax.Array], name: str = "") -> Any:
    """Put values in the place of specs; the dicts keep the order in which the net was called."""
    if isinstance(node, dict):
        return {key: _filled(child, drawn, join(name, key)) for key, child in cast(Any, node).items()}
    if isinstance(node, Fixed):
        return Fixed(drawn[name])
    return drawn[name] if isinstance(node, ParamSpec) else node


def _is_fixed(name: str, leaf: Any) -> bool:
    del name
    return isinstance(leaf, Fixed)


def _check_all_used(init: Load, names: Sequence[str]) -> None:
    known = set(names)
    unused = [name for name in init.values if name not in known]
    faults = [
        f"{name} is not a parameter of the net.{did_you_mean(name, names) if place < HINTED else ''}"
        for place, name in enumerate(unused)
    ]
    raise_faults(UnknownNameError, "Load: the tree holds what the net has no place for:", first_of(faults))


def reinit(key: jax.Array, params: Any, rules: Rules, /) -> Any:
    """Return the tree with some parameters drawn anew by rules, select -> initialiser; the rest stays.

    What is fixed, a constant, a running statistic or a frozen parameter, is drawn anew only by a rule that
    spells out its whole name. Parameters stacked by `nn.Repeat` are arrays like any others here: `unstack`
    them first, for fans of one repetition.

    >>> params = {"dense0": {"weight": jnp.zeros((2, 3)), "bias": jnp.zeros(2)}}
    >>> from paramtree.init import Constant
    >>> reinit(jax.random.key(0), params, {".*bias": Constant(1.0)})["dense0"]["bias"]
    Array([1., 1.], dtype=float32)

    Raises:
        RuleError: listing every rule that hits nothing or is shadowed.
        MismatchError: where an initialiser does not give what was asked.
        ParamTreeError: where the key is not one of `jax.random`, or something is not an initialiser.
    """
    check_random_key(key)
    leaves, structure, values = apply_rules(params, rules, default=_UNSET, spelled_out=_is_fixed)
    ruled = zip(structure.names, structure.indices, values, strict=True)
    chosen = {name: (index, value) for name, index, value in ruled if value is not _UNSET}
    faults = [
        f"{name} is {display.shape_dtype(leaves[at])}"
        for name, (at, _) in chosen.items()
        if not is_array_like(leaves[at]) or jnp.issubdtype(leaves[at].dtype, jax.dtypes.extended)
    ]
    raise_faults(MismatchError, "reinit: these are not arrays of numbers:", faults)
    specs = {
        name: ParamSpec(tuple(leaves[at].shape), leaves[at].dtype, value)
        for name, (at, value) in chosen.items()
    }
    for name, value in draw(key, specs).items():
        leaves[chosen[name][0]] = value
    return jax.tree.unflatten(structure.treedef, leaves)
