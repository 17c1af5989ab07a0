"""The reading glass: a net and its parameters seen together, by layer, as in Gluon."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paramtree import display
from paramtree.errors import (
    MismatchError,
    ParamTreeError,
    UnknownNameError,
    did_you_mean,
    first_of,
    listing,
    raise_faults,
)
from paramtree.module import Module, describe, layers_of, outline
from paramtree.names import SEPARATOR, is_under, join, natural_key, nest, structure_of
from paramtree.nodes import Alias, Fixed, follow, resolve
from paramtree.positions import positional_names
from paramtree.select import Select
from paramtree.tree import ParamDict, collect_params, fixed_names, flat_leaves, frozen_names, update


class _Views:
    """What all parts of one bound net share: the tree, and all that is looked up in it, read once."""

    def __init__(self, net: Module, params: Any, grads: Any) -> None:
        self.params = params
        self._repeated = list(_repeated_places(net, ""))
        self.structure = structure_of(params)
        self.plain = resolve(params)
        self.leaves = flat_leaves(self.plain)
        self.grads = None if grads is None else flat_leaves(grads)
        self.fixed, self.frozen = frozenset(fixed_names(self.structure)), frozen_names(self.structure)
        _check_grads(flat_leaves(params), self.grads or {})

    def aliases(self) -> dict[str, Alias]:
        return {name: node for name, node in self.structure.leafless.items() if isinstance(node, Alias)}

    def repeated(self, path: str) -> list[str]:
        """List the places at a path and above it that are repeated: their parameters are stacked."""
        return [place for place in self._repeated if is_under(path, place)]

    def alias_at(self, name: str) -> Alias | None:
        node = self.structure.leafless.get(name)
        return node if isinstance(node, Alias) else None


def _repeated_places(net: Module, path: str) -> Iterator[str]:
    for key, layer in net.layers:
        if net.repeats:
            yield join(path, key)
        yield from _repeated_places(layer, join(path, key))


def _check_grads(leaves: dict[str, Any], grads: dict[str, Any]) -> None:
    faults = [f"{name} is not a parameter of the params" for name in grads if name not in leaves]
    for name in grads.keys() & leaves.keys():
        wanted, found = getattr(leaves[name], "shape", None), getattr(grads[name], "shape", None)
        if wanted != found:
            faults.append(f"{name} has shape {wanted}, and its gradient {found}")
    raise_faults(MismatchError, "bind: these gradients are not of these params:", first_of(sorted(faults)))


@dataclass(frozen=True, eq=False, repr=False)
class Parameter:
    """One parameter of a bound net.

    Attributes:
        name: where it lives; for a tied place, the name it shares.
        trainable: whether it has a gradient: False for a constant, a running statistic and what is frozen.
        transposed: whether it was reached through a tie that sees it transposed: all of it is shown so.
    """

    name: str
    trainable: bool
    _views: _Views
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.data().shape

    @property
    def dtype(self) -> Any:
        """Its dtype."""
        return self.data().dtype

    def data(self) -> Any:
        """Give its value."""
        return self._seen(self._views.leaves[self.name])

    def grad(self) -> Any:
        """Give its gradient: zeros where the net was bound without gradients.

        Raises:
            ParamTreeError: for a constant or what is frozen, which have none.
            UnknownNameError: where the gradients do not hold it.
        """
        if not self.trainable:
            kind = "frozen" if self._kind() == "Frozen" else "a constant"
            raise ParamTreeError(f"{self.name} is {kind}, and has no gradient; pt.unfreeze it.")
        grads = self._views.grads
        if grads is None:
            # a NumPy array may be of 64 bits, which JAX would narrow
            zeros = np.zeros if isinstance(self.data(), np.ndarray) else jnp.zeros
            return zeros(self.shape, self.dtype)
        if self.name not in grads:
            held = listing(list(grads), 6) if grads else "nothing"
            raise UnknownNameError(f"the gradients do not hold {self.name}; they hold {held}.")
        return self._seen(grads[self.name])

    def set_data(self, value: Any) -> Any:
        """Return the whole params tree with this parameter replaced by an array, or a function of the old.

        Raises:
            MismatchError: for another shape or dtype.
        """
        stored = (lambda old: self._seen(value(self._seen(old)))) if callable(value) else self._seen(value)
        return update(self._views.params, {self.name: stored})

    def _kind(self) -> str:
        if self.trainable:
            return "Parameter"
        return "Frozen" if self.name in self._views.frozen else "Constant"

    def _seen(self, value: Any) -> Any:
        return value.swapaxes(-1, -2) if self.transposed and hasattr(value, "swapaxes") else value

    def __repr__(self) -> str:
        line = display.parameter_line(self.name, self.data(), self._kind())
        return f"{line}, transposed" if self.transposed else line


@dataclass(frozen=True, eq=False, repr=False)
class Bound:
    """A net, or a part of one, with its parameters; made by `bind`.

    `[i]` and `[:n]` give layers, attributes and `["key"]` give what stands under a key: a part, or a
    `Parameter`. A key that is also a method, such as `params`, is reached as `["params"]`. Calling it
    applies it.
    """

    _net: Module | None
    _path: str
    _views: _Views
    _cut: frozenset[str] = frozenset()  # the keys of the layers that a slice leaves out

    def __getitem__(self, index: int | slice | str) -> Any:
        if isinstance(index, str):
            return self._under(index)
        if self._net is None or not self._net.layers:
            raise ParamTreeError(f"{self._label()} has no layers to index. {self._keys_text()}")
        if isinstance(index, slice):
            part = self._net[index]
            cut = dict(self._net.layers).keys() - dict(part.layers).keys()
            return Bound(part, self._path, self._views, self._cut | cut)
        layer = self._net[index]
        return Bound(layer, join(self._path, self._net.layers[index][0]), self._views)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):  # protocols look for these, and no parameter is meant
            raise AttributeError(key)
        try:
            return self._under(key)
        except UnknownNameError as error:
            raise AttributeError(str(error)) from error

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._keys()]

    def __len__(self) -> int:
        return len(self._net) if self._net is not None else 0

    def __iter__(self) -> Iterator["Bound"]:
        return (self[index] for index in range(len(self)))

    def __contains__(self, key: object) -> bool:
        return key in self._keys()

    def __bool__(self) -> bool:
        return True

    def __call__(self, *inputs: Any, train: bool = False, key: Any = None) -> Any:
        """Apply this part to inputs.

        Raises:
            ParamTreeError: for a part that was reached by key within a function module, or is repeated.
        """
        if self._net is None:
            raise ParamTreeError(f"{self._label()} is a block of parameters, and no module is known for it.")
        stacked = self._views.repeated(self._path)
        if stacked:
            raise ParamTreeError(
                f"{self._label()} is repeated, and its parameters are stacked. "
                f"pt.unstack(params, {stacked[0]!r}) gives those of each repetition."
            )
        return self._net.apply(self._own(), *inputs, train=train, key=key)

    @property
    def params(self) -> ParamDict:
        """The parameters of this part itself, without those of the layers in it."""
        own = [join(self._path, key) for key, node in self._own().items() if not isinstance(node, dict)]
        return self._collected(own, None, False)

    def collect_params(self, select: Select | None = None, *, allow_empty: bool = False) -> ParamDict:
        """Collect the `Parameter`s of this part by name; a select is matched against their whole names.

        Raises:
            NoMatchError: where the select hits nothing in this part.
        """
        names = [join(self._path, name) for name in flat_leaves(self._own())]
        return self._collected(names, select, allow_empty)

    def positional_names(self, *inputs: Any, style: str = "gluon") -> dict[str, str]:
        """Map the names of Gluon's or PyTorch's files to the names where the parameters live.

        There a layer in a `Sequential` has its position for a name, and any other the attribute that holds
        it: here its key. What `pt.load(file, like=params, rename=...)` takes.

        Args:
            *inputs: inputs, or their shapes: to find the layers that modules made of functions call, where a
                `Sequential` is among them.
            style: "gluon", whose names are "0.weight" and "1.gamma"; or "torch", where the latter is
                "1.weight".

        >>> from paramtree import nn
        >>> net = nn.Sequential(nn.Dense(4), nn.Activation("relu"), nn.Dense(2))
        >>> bind(net, net.specs("batch, 3")).positional_names()["2.weight"]
        'dense1/weight'

        Raises:
            ParamTreeError: for a part of a net, another style, or where two parameters would get one name.
        """
        if self._net is None or self._path or self._cut:
            raise ParamTreeError(f"{self._label()} is a part; bind the net that its file is of.")
        layers = layers_of(self._net, *inputs) if inputs else {}
        return positional_names(self._net, self._views.params, layers, style)

    def _collected(self, names: list[str], select: Select | None, allow_empty: bool) -> ParamDict:
        views = self._views
        sources = {name: follow(views.structure, name)[0] for name in names}
        flat: dict[str, Any] = {name: Alias(source) for name, source in sources.items() if name != source}
        for name in sources.values():  # where they live: a select and its messages know ties and constants
            flat[name] = Fixed(views.leaves[name]) if name in views.fixed else views.leaves[name]
        found = collect_params(nest(flat), select, allow_empty=allow_empty)
        collected = ParamDict({name: self._parameter(name) for name in found})
        collected.fixed, collected.frozen = views.fixed, views.frozen
        if select is None:
            collected.title = self._title()
            collected.tied = {
                place: str(alias)
                for place, alias in views.aliases().items()
                if place != self._path and any(is_under(name, place) for name in names)
            }
        return collected

    def _parameter(self, name: str, transposed: bool = False) -> Parameter:
        return Parameter(name, name not in self._views.fixed, self._views, transposed)

    def _own(self) -> dict[str, Any]:
        """Give the arrays of this part, ties resolved, as its module is applied to them."""
        node = self._views.plain
        for key in filter(None, self._path.split(SEPARATOR)):
            node = node.get(key) if isinstance(node, dict) else None
        own: dict[str, Any] = node if isinstance(node, dict) else {}
        return {key: child for key, child in own.items() if key not in self._cut}

    def _keys(self) -> list[str]:
        return sorted(self._own(), key=natural_key)

    def _under(self, key: str) -> Any:
        layers = dict(self._net.layers) if self._net is not None else {}
        own, path = self._own(), join(self._path, key)
        if key not in own and key not in layers:
            near = did_you_mean(key, own) or f" {self._keys_text()}"
            raise UnknownNameError(f"{self._label()} has no {key!r}.{near}")
        if key in layers or isinstance(own[key], dict):
            return Bound(layers.get(key), path, self._views)
        return self._parameter(*follow(self._views.structure, path))

    def _keys_text(self) -> str:
        return f"Its keys are {listing(self._keys(), 8)}." if self._own() else "It has no parameters."

    def _title(self) -> str:
        home = self._views.alias_at(self._path)
        return f"{self._path} -> {home}" if home else self._label()

    def _label(self) -> str:
        return self._path or (self._net.title if self._net is not None else "params")

    def __repr__(self) -> str:
        def text(net: Module, path: str) -> str:
            part = Bound(net, path, self._views)
            own = part._own()
            if own and not net.describe:
                return part._block_text(net.title)
            return describe(net, _without_axes(own, len(self._views.repeated(path))))

        def label(key: str, path: str) -> str:
            home = self._views.alias_at(path)
            return f"{key} -> {home}" if home else key

        if self._net is None:
            return self._block_text(self._title())
        return outline(self._net, self._path, text, label)

    def _block_text(self, title: str) -> str:
        """Print a part of which no layers are known, key by key."""
        lines: list[str] = []
        for key in self._keys():
            lines += repr(self._under(key)).split("\n")
        return display.block_text(title, lines)

    def _repr_html_(self) -> str:
        return display.text_html(repr(self)) + self.collect_params().to_html()


def _without_axes(own: Any, count: int) -> Any:
    """Give stand-ins for stacked parameters as one repetition has them."""
    if not count:
        return own
    if isinstance(own, dict):
        return {key: _without_axes(child, count) for key, child in own.items()}
    return jax.ShapeDtypeStruct(own.shape[count:], own.dtype)


def bind(net: Module, params: Any, /, grads: Any = None) -> Bound:
    """See a net and its parameters together, by layer.

    Args:
        net: the module.
        params: its parameters.
        grads: their gradients, as `jax.grad` gives them; zeros where left out.

    >>> from paramtree import nn
    >>> import jax
    >>> net = nn.Sequential(nn.Dense(4, activation="relu"), nn.Dense(2))
    >>> bound = bind(net, net.init(jax.random.key(0), jnp.ones((1, 3))))
    >>> bound
    Sequential(
      (0) dense0: Dense(3 -> 4, relu)
      (1) dense1: Dense(4 -> 2, linear)
    )
    >>> bound[1].bias
    Parameter dense1/bias (shape=(2,), dtype=float32)
    >>> bound[1].bias.data()
    Array([0., 0.], dtype=float32)

    Raises:
        ParamTreeError: where the net is not a module, or the params are no nested dict.
        TieError: for a tie that leads nowhere.
        MismatchError: for gradients of other params.
    """
    if not isinstance(net, Module) or not isinstance(params, dict):
        got = f"{type(net).__name__} and {type(params).__name__}"
        raise ParamTreeError(f"bind takes a module, then the nested dict of its params; and got {got}.")
    return Bound(net, "", _Views(net, params, grads))
