"""The reading glass: a net and its parameters seen together, by layer, as in Gluon."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from paramtree import display
from paramtree.errors import ParamTreeError, UnknownNameError, did_you_mean, listing
from paramtree.module import Module, describe, outline
from paramtree.names import Structure, flatten_named, is_under, join, natural_key, structure_of
from paramtree.nodes import Alias, resolve, tied_names
from paramtree.select import Select
from paramtree.tree import ParamDict, collect_params, fixed_names, flat_leaves, update


@dataclass(frozen=True, eq=False)
class _Views:
    """What all parts of one bound net share: the tree, its gradients, and both with ties resolved."""

    params: Any
    grads: Any
    structure: Structure
    plain: Any

    @classmethod
    def of(cls, params: Any, grads: Any) -> "_Views":
        return cls(params, grads, structure_of(params), resolve(params))

    def source(self, name: str) -> str:
        return tied_names(self.structure).get(name, name)


@dataclass(frozen=True, eq=False)
class Parameter:
    """One parameter of a bound net.

    Attributes:
        name: where it lives; for a tied place, the name it shares.
        trainable: whether it has a gradient: False for a constant or running statistic.
    """

    name: str
    trainable: bool
    _views: _Views

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
        return flat_leaves(self._views.params)[self.name]

    def grad(self) -> Any:
        """Give its gradient: zeros where the net was bound without gradients.

        Raises:
            ParamTreeError: for a constant, which has none.
            UnknownNameError: where the gradients do not hold it.
        """
        if not self.trainable:
            raise ParamTreeError(f"{self.name} is a constant and has no gradient. pt.unfreeze it to train it.")
        if self._views.grads is None:
            return jnp.zeros(self.shape, self.dtype)
        grads = flat_leaves(self._views.grads)
        if self.name not in grads:
            held = listing(list(grads), 6) if grads else "nothing"
            raise UnknownNameError(f"the gradients do not hold {self.name}; they hold {held}.")
        return grads[self.name]

    def set_data(self, value: Any) -> Any:
        """Return the whole params tree with this parameter replaced by an array, or a function of the old one.

        Raises:
            MismatchError: for another shape or dtype.
        """
        return update(self._views.params, {self.name: value})

    def __repr__(self) -> str:
        return display.parameter_line(self.name, self.data(), fixed=not self.trainable)


@dataclass(frozen=True, eq=False)
class Bound:
    """A net, or a part of one, with its parameters; made by `bind`.

    `[i]` and `[:n]` give layers, attributes and `["key"]` give what stands under a key: a part, or a
    `Parameter`. Calling it applies it.
    """

    _net: Module | None
    _path: str
    _views: _Views

    def __getitem__(self, index: int | slice | str) -> Any:
        if isinstance(index, str):
            return self._under(index)
        if self._net is None or not self._net.layers:
            raise ParamTreeError(f"{self._label()} has no layers to index; its keys are {listing(self._keys(), 8)}.")
        if isinstance(index, slice):
            return Bound(self._net[index], self._path, self._views)
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

    def __bool__(self) -> bool:
        return True

    def __call__(self, *inputs: Any, train: bool = False, key: Any = None) -> Any:
        """Apply this part to inputs.

        Raises:
            ParamTreeError: for a part that was reached by key within a function module.
        """
        if self._net is None:
            raise ParamTreeError(f"{self._label()} is a block of parameters, and no module is known for it.")
        return self._net.apply(self._own() or {}, *inputs, train=train, key=key)

    @property
    def params(self) -> ParamDict:
        """The parameters of this part itself, without those of the layers in it."""
        return self._parameters(lambda name: "/" not in name)

    def collect_params(self, select: Select | None = None, *, allow_empty: bool = False) -> ParamDict:
        """Collect the `Parameter`s of this part by name; a select is matched against their whole names.

        Raises:
            NoMatchError: where the select hits nothing in this part.
        """
        everything = self._parameters(lambda name: True)
        if not self._path:
            everything.tied = collect_params(self._views.params).tied
        if select is None:
            return everything
        chosen = collect_params(dict(everything), select, allow_empty=allow_empty)
        chosen.fixed = everything.fixed
        return chosen

    def _parameters(self, wanted: Callable[[str], bool]) -> ParamDict:
        fixed = fixed_names(self._views.structure)
        own = self._own()
        inside = [name for name in (flat_leaves(own) if isinstance(own, dict) else ()) if wanted(name)]
        sources = dict.fromkeys(self._views.source(join(self._path, name)) for name in inside)
        found = ParamDict({name: self._parameter(name) for name in sources})
        found.title, found.fixed = self._title(), fixed
        return found

    def _parameter(self, name: str) -> Parameter:
        return Parameter(name, name not in fixed_names(self._views.structure), self._views)

    def _own(self) -> Any:
        node = self._views.plain
        for key in filter(None, self._path.split("/")):
            node = node.get(key) if isinstance(node, dict) else None
        return node

    def _keys(self) -> list[str]:
        own = self._own()
        return sorted(own, key=natural_key) if isinstance(own, dict) else []

    def _under(self, key: str) -> Any:
        layers = dict(self._net.layers) if self._net is not None else {}
        keys, path = self._keys(), join(self._path, key)
        if key not in keys and key not in layers:
            near = did_you_mean(key, keys) or f" Its keys are {listing(keys, 8) if keys else 'none'}."
            raise UnknownNameError(f"{self._label()} has no {key!r}.{near}")
        if key in layers or isinstance(self._own()[key], dict):
            return Bound(layers.get(key), path, self._views)
        return self._parameter(self._views.source(path))

    def _title(self) -> str:
        home = _alias_at(self._views.params, self._path)
        return f"{self._path} -> {home}" if home else self._label()

    def _label(self) -> str:
        return self._path or (self._net.title if self._net is not None else "params")

    def __repr__(self) -> str:
        def text(net: Module, path: str) -> str:
            part = Bound(net, path, self._views)
            own = part._own()
            return describe(net, own) if net.describe or not own else _block_text(net.title, path, part)

        def label(key: str, path: str) -> str:
            home = _alias_at(self._views.params, path)
            return f"{key} -> {home}" if home else key

        if self._net is None:
            return _block_text("", self._path, self)
        return outline(self._net, self._path, text, label)

    def _repr_html_(self) -> str:
        return display.text_html(repr(self)) + self.collect_params()._repr_html_()


def _alias_at(params: Any, path: str) -> Alias | None:
    node = structure_of(params).leafless.get(path)
    return node if isinstance(node, Alias) else None


def _block_text(title: str, path: str, part: Bound) -> str:
    """Print a part of which no layers are known, key by key."""
    lines: list[str] = []
    for key in part._keys():
        node = part._under(key)
        text = repr(node) if isinstance(node, Parameter) else f"{key}: {_block_text('', join(path, key), node)}"
        lines += text.split("\n")
    return display.block_text(title or path or "params", lines) if title else display.block_text("", lines).lstrip()


def bind(net: Module, params: Any, /, grads: Any = None) -> Bound:
    """See a net and its parameters together, by layer.

    Args:
        net: the module.
        params: its parameters.
        grads: their gradients, as `jax.grad` gives them; zeros where left out.

    >>> from paramtree import nn
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
        ParamTreeError: where the net is no module.
    """
    if not isinstance(net, Module):
        raise ParamTreeError(f"bind takes a module, then its params; and got {type(net).__name__}.")
    return Bound(net, "", _Views.of(params, grads))
