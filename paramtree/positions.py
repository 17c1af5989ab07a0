"""The names that other libraries give: by position in a `Sequential`, keys joined with dots."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from paramtree.errors import ParamTreeError
from paramtree.module import Module
from paramtree.names import is_dict, join
from paramtree.nodes import resolve

_BY_POSITION = ("Sequential", "Parallel")  # whose layers have no names there
_GATED = re.compile(r"([lr])(\d+)_(i2h|h2h)_(weight|bias)")  # what recurrent layers hold
_TORCH = {"gamma": "weight", "beta": "bias", "alpha": "weight"}


def _gluon_key(key: str, block: Mapping[str, Any]) -> str:
    """Give Gluon's name of a parameter; it wraps a recurrent layer's cells in `_unfused`."""
    found = _GATED.fullmatch(key)
    if found is None:
        return key
    way, layer, product, kind = found.groups()
    cell = f"{way}_cell." if "r0_i2h_weight" in block else ""
    return f"_unfused.{layer}.{cell}{product}_{kind}"


def _torch_key(key: str, block: Mapping[str, Any]) -> str:
    """Give PyTorch's name of a parameter."""
    del block
    found = _GATED.fullmatch(key)
    if found is None:
        return _TORCH.get(key, key)
    way, layer, product, kind = found.groups()
    return f"{kind}_{'ih' if product == 'i2h' else 'hh'}_l{layer}{'_reverse' if way == 'r' else ''}"


_KEYS: dict[str, Callable[[str, Mapping[str, Any]], str]] = {"gluon": _gluon_key, "torch": _torch_key}


def positional_names(
    net: Module, params: Any, layers: Mapping[str, Module], style: str = "gluon"
) -> dict[str, str]:
    """Map the names that Gluon or PyTorch would give to the names where the parameters live.

    Args:
        net: the module.
        params: its parameters.
        layers: the modules that are known besides those in containers, by their places.
        style: "gluon" or "torch".

    Raises:
        ParamTreeError: for another style, or where two parameters would get one name.
    """
    if style not in _KEYS:
        raise ParamTreeError(f"positional names are of style 'gluon' or 'torch', and not {style!r}.")
    found: dict[str, str] = {}
    for theirs, ours in _walk(net, resolve(params), "", "", layers, _KEYS[style]):
        if found.setdefault(theirs, ours) != ours:
            raise ParamTreeError(f"{found[theirs]} and {ours} would both be {theirs!r}; rename a layer.")
    return found


def _walk(
    net: Module | None,
    block: Mapping[str, Any],
    ours: str,
    theirs: str,
    layers: Mapping[str, Module],
    key_of: Callable[[str, Mapping[str, Any]], str],
) -> Iterator[tuple[str, str]]:
    known = list(net.layers) if net is not None else []
    by_position = net is not None and net.title in _BY_POSITION
    for number, (key, layer) in enumerate(known):
        if is_dict(block.get(key)):  # a layer without parameters has a position, and no block
            below = _dotted(theirs, str(number) if by_position else key)
            yield from _walk(layer, block[key], join(ours, key), below, layers, key_of)
    for key, child in block.items():
        place = join(ours, key)
        if is_dict(child):
            if key not in dict(known):
                yield from _walk(layers.get(place), child, place, _dotted(theirs, key), layers, key_of)
        else:
            yield _dotted(theirs, key_of(key, block)), place


def _dotted(*keys: str) -> str:
    return ".".join(filter(None, keys))
