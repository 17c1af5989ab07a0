"""Runs: one call of a net's function, and what all its scopes share.

The same function runs in two ways: *declaring* which parameters it wants, or with parameters given. A run
also knows how to go into `jax.checkpoint` and `jax.lax.scan`, and how to carry updates out of there.
"""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from paramtree import display
from paramtree.draw import NEEDS_VALUES, ParamSpec, Part, fold_names, repetition_names
from paramtree.errors import (
    MismatchError,
    ParamTreeError,
    TieError,
    UnknownNameError,
    did_you_mean,
    listing,
    raise_faults,
)
from paramtree.init import Initializer
from paramtree.names import SEPARATOR, blocks_above, is_under, join, nest, structure_of, untyped_jax
from paramtree.nodes import Alias, Fixed, block_at, follow, resolve, tied_names
from paramtree.tree import flat_leaves, is_array

Layer = Any  # a Module, which stands above this file


class Asking(Protocol):
    """What a run has to know of the scope that asks for a parameter."""

    path: str

    @property
    def home(self) -> str:
        """The place that holds the module's parameters."""
        ...

    def called(self) -> str:
        """Say which module this is, and what it was called with."""
        ...


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
        self.layers: dict[str, Layer] = {}  # that were called, by their places
        self.steps: tuple[Step, ...] = ()  # the repetitions that this run is in, outermost first

    def leaf(self, scope: Asking, name: str, spec: ParamSpec, fixed: bool) -> Any:
        """Give the value of a parameter that a scope asks for.

        Raises:
            NotImplementedError: a subclass does not define it.
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

    def gave(self, place: str, outputs: Any) -> None:
        """Note what the module called at a place gave."""

    def repeat(self, block: "Block", count: int, x: Any) -> Any:
        """Call a block several times, each time on what it gave before.

        Raises:
            NotImplementedError: a subclass does not define it.
        """
        raise NotImplementedError

    def remat(self, call: Callable[["Run"], Any], title: str, policy: Any) -> Any:
        """Make a call, in a run such as this, whose intermediate values are not kept."""
        del title, policy
        return call(self)

    def random_key(self, path: str) -> jax.Array:
        """Give a new random key for a module, of the name that it has as a separate one."""
        count = self.draws[path]
        self.draws[path] += 1
        names = repetition_names(path, [(step.place, step.times) for step in self.steps])
        index: Any = 0
        for step in self.steps:
            index = index * step.times + step.index
        return jax.random.fold_in(fold_names(self.key, names, index), count)


class Step(NamedTuple):
    """A repetition that is under way: of which block, of how many, and which; that may be traced."""

    place: str
    times: int
    index: Any


class Block(NamedTuple):
    """A module at its place in a net.

    Attributes:
        call: (run, x) -> outputs.
        place: where it is called.
        home: the place that holds its parameters.
        title: how messages name it.
    """

    call: Callable[[Run, Any], Any]
    place: str
    home: str
    title: str

    def step(self, run: Run, x: Any) -> Any:
        """Call it, and check that it gives what it takes, so that it can take it again.

        Raises:
            MismatchError: where it does not.
        """
        found = jax.tree.map(jnp.asarray, self.call(run, x))
        faults = [] if jax.tree.structure(x) == jax.tree.structure(found) else ["another structure"]
        if not faults:
            pairs = zip(jax.tree.leaves(x), jax.tree.leaves(found), strict=True)
            faults = [
                f"{display.shape_dtype(new)} for {display.shape_dtype(old)}"
                for old, new in pairs
                if (old.shape, old.dtype) != (new.shape, new.dtype)
            ]
        if faults:
            raise MismatchError(
                f"{self.title} is repeated, and must give what it takes; it gave {listing(faults)}."
            )
        return found


class Declaring(Run):
    """A run that finds which parameters a net wants.

    Args:
        value: gives a parameter's value by its name, spec and whether it is fixed; zeros, if left out.
        moved: the places whose parameters another place holds, as an earlier run has found.

    Attributes:
        declared: name to spec, `Fixed` spec or `Alias`, in the order of the calls.
        outputs: the shapes and dtypes of what each module gave, by its place.
    """

    def __init__(self, value: Callable[..., Any] | None, moved: dict[str, str]) -> None:
        super().__init__(train=False, key=jax.random.key(0))
        self.declared: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self._value = value
        self._moved = moved
        self._blocks: set[str] = set()
        self._homes: dict[int, str] = {}
        self._owners: dict[str, str] = {}
        self._met: list[Layer] = []  # keeps ids in `_homes` from being used again

    def leaf(self, scope: Asking, name: str, spec: ParamSpec, fixed: bool) -> Any:
        """Note that a parameter is wanted, and give a stand-in for it.

        Raises:
            TieError: where another use of it wants another shape, dtype, initialiser or kind.
        """
        name, place = join(scope.home, name), join(scope.path, name)
        one, inside = spec, [step for step in self.steps if is_under(name, step.place)]
        if inside:
            sizes = [step.times for step in inside]
            spec = replace(spec, shape=(*sizes, *spec.shape), repeats=tuple(step[:2] for step in inside))
        known = self.declared.get(name)
        if known is not None:
            if isinstance(known, Fixed) != fixed:
                raise TieError(f"{place} is asked for as a parameter and as a constant; name them apart.")
            spec = _same(name, known.value if fixed else known, spec, place)
        self._declare(name, Fixed(spec) if fixed else spec)
        if self._value is None:
            return untyped_jax.numpy.zeros(one.shape, one.dtype)
        value = self._value(name, spec, fixed)
        return value[(0,) * len(inside)]

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

    def repeat(self, block: Block, count: int, x: Any) -> Any:
        """Call the block once: what it asks for is wanted `count` times, stacked.

        Raises:
            MismatchError: where the block does not give what it takes.
        """
        before, self.steps = self.steps, (*self.steps, Step(block.home, count, 0))
        try:
            return block.step(self, jax.tree.map(jnp.asarray, x))
        finally:
            self.steps = before

    def gave(self, place: str, outputs: Any) -> None:
        """Note the shapes of what the module called at a place gave."""
        self.outputs[place] = jax.tree.map(_shape_of, outputs)

    def alias(self, place: str, home: str) -> None:
        """Note that a place shares the parameters of another, if that has any."""
        if home in self._blocks:
            self._declare(place, Alias(home))

    def _declare(self, name: str, value: Any) -> None:
        self.declared[name] = value
        self._blocks.update(blocks_above(name))


def _shape_of(value: Any) -> Any:
    return jax.ShapeDtypeStruct(value.shape, value.dtype) if is_array(value) else value


class Applying(Run):
    """A run with parameters given.

    Attributes:
        updates: the new values of running statistics, by the names where they live.
    """

    def __init__(self, params: dict[str, Any], train: bool, key: Any) -> None:
        super().__init__(train, key)
        self.updates: dict[str, Any] = {}
        self._before: dict[str, Any] = {}  # the updates of the runs around this one
        self._structure = structure_of(params)
        self._params = resolve(params)
        self._sources = tied_names(self._structure)

    def leaf(self, scope: Asking, name: str, spec: ParamSpec, fixed: bool) -> Any:
        """Give a parameter's value, checked against what its layer asks for.

        Raises:
            UnknownNameError: where it is missing.
            MismatchError: where it is not an array, or has another shape.
        """
        del fixed  # the tree says what is: a constant that was unfrozen is trained
        name = join(scope.path, name)
        source = self._sources.get(name, name)
        value = self.updates.get(source, self._before.get(source))
        if value is None:
            value = self._find(name, scope)
        if not is_array(value):
            kind = type(value).__name__
            raise MismatchError(f"{name} is of type {kind}, not an array, and {scope.called()} asks for it.")
        if tuple(value.shape) != spec.shape:
            raise MismatchError(
                f"{name} has shape {display.shape_text(value.shape)}, and {scope.called()} needs "
                f"{display.shape_text(spec.shape)}. {self._advice(name, source, value, spec)}"
            )
        return _as_jax(name, value)

    def _advice(self, name: str, source: str, value: Any, spec: ParamSpec) -> str:
        times = tuple(step.times for step in self.steps if is_under(name, step.place))
        if source == name or not times or tuple(value.shape) != times + spec.shape:
            return "Pass an input that fits, or init new parameters."
        return (
            f"It is tied to {source}, and what a repeated block shares with others is one for all of its "
            "repetitions: tie the whole block, or pt.untie it."
        )

    def write(self, name: str, value: Any) -> None:
        """Note a new value of a running statistic, where it lives.

        Raises:
            TieError: where the place sees it transposed.
        """
        source, transposed = follow(self._structure, name)
        if transposed:
            raise TieError(f"{name} is tied transposed to {source!r}, and cannot be updated from here.")
        self.updates[source] = value

    def remat(self, call: Callable[[Run], Any], title: str, policy: Any) -> Any:
        """Make a call under `jax.checkpoint`; what it updates is carried out of there."""
        draws: list[Counter[str]] = []  # of each trace; the runs hold tracers, and end with their trace

        def body() -> tuple[Any, dict[str, Any]]:
            inner = self._inner(self._params, self._all_updates(), self.steps)
            draws.append(inner.draws)
            return call(inner), inner.updates

        # a scan keeps the compiler from undoing this by itself, and goes faster without a second barrier
        with _values_unknown(f"{title} is computed again in the backward pass"):
            outputs, updates = jax.checkpoint(body, prevent_cse=not self.steps, policy=policy)()
        self._take_back(updates, draws[-1])
        return outputs

    def repeat(self, block: Block, count: int, x: Any) -> Any:
        """Call the block in a `jax.lax.scan` over its stacked parameters.

        Raises:
            MismatchError: where they are not stacked that often, or the block does not give what it takes.
            TieError: where a repetition updates what all of them share.
        """
        home = follow(self._structure, block.place)[0]
        stacked, shared = self._stacked(block, home, count)
        before = {name: new for name, new in self._all_updates().items() if not is_under(name, home)}
        draws: list[Counter[str]] = []

        def body(x: Any, step: tuple[Any, dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
            index, own = step
            params = _with_block(self._params, block.place, nest(shared | own))
            steps = (*self.steps, Step(block.place, count, index))
            inner = self._inner(params, before, steps)
            draws.append(inner.draws)
            return block.step(inner, x), inner.updates

        with _values_unknown(f"{block.title} is repeated"):
            x, updates = jax.lax.scan(body, jax.tree.map(jnp.asarray, x), (jnp.arange(count), stacked))
        common = [name for name in updates if not is_under(name, home)]
        if common:
            raise TieError(
                f"{listing(common)} is shared by all repetitions of {block.title}, and cannot be updated in "
                "one of them. Give the block a statistic of its own."
            )
        self._take_back(updates, draws[-1])
        return x

    def _stacked(self, block: Block, home: str, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split what a repeated block holds into what is stacked, and what all repetitions share."""
        stacked: dict[str, Any] = {}
        shared: dict[str, Any] = {}
        faults: list[str] = []
        found = block_at(self._params, block.place)
        for name, leaf in flat_leaves(found).items() if found else ():
            place = join(block.place, name)
            source = follow(self._structure, place)[0]
            if not is_under(source, home) or not is_array(leaf):
                shared[name] = leaf
                continue
            stacked[name] = leaf = _as_jax(place, self._all_updates().get(source, leaf))
            if leaf.shape[:1] != (count,):
                faults.append(f"{place} has shape {display.shape_text(leaf.shape)}")
        headline = f"{block.title} is repeated {count} times, and needs stacks of {count}:"
        raise_faults(MismatchError, headline, faults)
        return stacked, shared

    def _all_updates(self) -> dict[str, Any]:
        return self._before | self.updates

    def _inner(self, params: Any, before: dict[str, Any], steps: tuple[Step, ...]) -> "Applying":
        """Make a run for the inside of a transformation: what it updates has to be carried out of there."""
        inner = copy(self)
        inner._params, inner._before, inner.steps = params, before, steps
        inner.updates, inner.draws = {}, Counter(self.draws)
        return inner

    def _take_back(self, updates: dict[str, Any], draws: Counter[str]) -> None:
        self.updates |= updates
        self.draws = draws

    def _find(self, name: str, scope: Asking) -> Any:
        node = self._params
        for key in name.split(SEPARATOR):
            if not isinstance(node, dict) or key not in node:
                raise UnknownNameError(_missing_text(self._params, name, scope))
            node = node[key]
        return node


def _with_block(params: Any, place: str, block: dict[str, Any]) -> dict[str, Any]:
    key, _, rest = place.partition(SEPARATOR)
    held = params if isinstance(params, dict) else {}  # what is missing, the layer that asks for it says
    return held | {key: _with_block(held.get(key), rest, block) if rest else block}


@contextmanager
def _values_unknown(why: str) -> Generator[None]:
    try:
        yield
    except NEEDS_VALUES as error:
        raise ParamTreeError(
            f"{why}, so it cannot decide by values in Python. Use jax.lax.cond or jax.lax.while_loop."
        ) from error


def _same(name: str, known: ParamSpec, spec: ParamSpec, place: str) -> ParamSpec:
    """Check that two uses of a parameter agree, and give what both of them say."""
    if known.repeats != spec.repeats:
        raise TieError(_repeats_text(name, known, spec, place))
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


def _repeats_text(name: str, known: ParamSpec, spec: ParamSpec, place: str) -> str:
    times = [" x ".join(str(count) for _, count in each.repeats) for each in (known, spec)]
    first, here = (f"repeated {each} times" if each else "not repeated" for each in times)
    tied = f"{place} is tied to {name}, which" if place != name else place
    hint = "To share a layer with all repetitions, call it outside, before them."
    if spec.repeats:
        hint = "Repeat both as often." if known.repeats else "Repeat a block that calls the layer instead."
    return f"{tied} is {first}; here it is {here}. {hint}"


def _identity(init: Any) -> Any:
    # a function made anew at each call of a layer never equals itself: go by its code and plain settings
    code = getattr(init, "__code__", None)
    if code is None:
        return init if isinstance(init, Initializer | Part) else type(init)
    cells = (cell.cell_contents for cell in init.__closure__ or ())
    return code, *(value for value in cells if isinstance(value, bool | int | float | str | tuple))


def _missing_text(params: Any, name: str, scope: Asking) -> str:
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
