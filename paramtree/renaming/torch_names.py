"""The names of PyTorch, and its attention's joined layout."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from paramtree.names import join
from paramtree.renaming.conventions import (
    GATED,
    PARTS,
    Layers,
    Turn,
    Way,
    cut,
    our_attentions,
    places,
    write_like,
)
from paramtree.renaming.convert import Join, Split
from paramtree.renaming.moves import Naming

_THEIR_GATED = re.compile(r"(weight|bias)_(ih|hh)_l(\d+)(_reverse)?")
_NORMAL = {"weight": "gamma", "bias": "beta"}
_APART = {"query": "q_proj_weight", "key": "k_proj_weight", "value": "v_proj_weight"}


def torch(*, blocks: Any = None, like: Any = None) -> Naming:
    """Give the rules for the names of PyTorch: keys joined with dots.

    `encoder.norm.weight` becomes `encoder/norm/gamma`, where the weight has the shape of the bias, or is a
    vector; a single number alone becomes `alpha`, as of a PReLU. `nn.MultiheadAttention` becomes `query`,
    `key`, `value` and `out`; `weight_ih_l0` and its like `l0_i2h_weight`. `num_batches_tracked` is left out.
    Numbers stay: for names by position, `pt.bind(net, params).positional_names(style="torch")` are the rules.

    Args:
        blocks: rules that rename blocks, which are names without their last key, with slashes for dots: of
            attention, the whole layer.
        like: for the way back, the state dict, or its shapes. Without it four layers `query`, `key`, `value`
            and `out` become a `nn.MultiheadAttention`, where their shapes allow it.

    >>> import jax
    >>> torch().read({"layers.0.bias": jax.ShapeDtypeStruct((4,), "float32")})
    [Move(sources=('layers.0.bias',), targets=('layers/0/bias',), steps=())]
    """
    read = Way("torch", _torch_places, _read_torch, str, rules=blocks)
    write = Way("torch", places, _write_torch, str, _dotted, blocks, back=True)
    return Naming(read.title, read.moves, write.moves if like is None else write_like(read, like))


def _torch_places(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    return {name: cut(name.replace(".", "/")) for name in names}


def _dotted(block: str, key: str) -> str:
    return join(block, key).replace("/", ".")


def _read_torch(layers: Layers) -> Iterator[Turn]:
    for block, keys in layers.blocks.items():
        outer, part = cut(block)
        if part == "out_proj" and _is_fused(layers, outer):
            yield from (Turn((name,), outer, (f"out/{key}",)) for key, name in keys.items())
        elif _is_fused(layers, block):
            yield from _read_fused(block, keys)
        else:
            norm = _NORMAL if _is_norm(layers, block) else {}
            if not norm and layers.shape(block, "weight") == (1,):
                norm = {"weight": "alpha"}
            for key, name in keys.items():
                ours = norm.get(key) or _gated(key)
                if ours or key == "num_batches_tracked":
                    yield Turn((name,), block, (ours,) if ours else ())


def _is_fused(layers: Layers, block: str) -> bool:
    return any(layers.shape(block, key) for key in ("in_proj_weight", "q_proj_weight"))


def _is_norm(layers: Layers, block: str) -> bool:
    weight, bias = layers.shape(block, "weight"), layers.shape(block, "bias")
    if weight is None or bias is not None:
        return weight == bias and bool(weight)
    return len(weight) == 1 and (weight != (1,) or layers.shape(block, "running_mean") is not None)


def _read_fused(block: str, keys: Mapping[str, str]) -> Iterator[Turn]:
    for kind in ("weight", "bias"):
        if f"in_proj_{kind}" in keys:
            ours = tuple(f"{part}/{kind}" for part in PARTS[:3])
            yield Turn((keys[f"in_proj_{kind}"],), block, ours, (Split(3),))
    for part, theirs in _APART.items():
        if theirs in keys:
            yield Turn((keys[theirs],), block, (f"{part}/weight",))


def _gated(key: str) -> str:
    found = _THEIR_GATED.fullmatch(key)
    if found is None:
        return ""
    kind, product, layer, reverse = found.groups()
    return f"{'r' if reverse else 'l'}{layer}_{product[0]}2h_{kind}"


def _write_torch(layers: Layers) -> Iterator[Turn]:
    fused = {each for each in our_attentions(layers) if _can_fuse(layers, each)}
    for block, keys in layers.blocks.items():
        outer, part = cut(block)
        if part == "out" and outer in fused:
            yield from (Turn((name,), outer, (f"out_proj/{key}",)) for key, name in keys.items())
        elif part == "query" and outer in fused:
            yield from _write_fused(layers, outer)
        elif not (part in PARTS and outer in fused):
            for key, name in keys.items():
                yield Turn((name,), block, (_theirs(key),))


def _theirs(key: str) -> str:
    found = GATED.fullmatch(key)
    if found is None:
        return {"gamma": "weight", "beta": "bias", "alpha": "weight"}.get(key, key)
    way, layer, product, kind = found.groups()
    return f"{kind}_{product[0]}h_l{layer}{'_reverse' if way == 'r' else ''}"


def _can_fuse(layers: Layers, block: str) -> bool:
    weights = [layers.shape(join(block, part), "weight") or () for part in PARTS]
    biases = {layers.shape(join(block, part), "bias") for part in PARTS}
    width = weights[0][-1:]
    return {weight[:1] for weight in weights} == {width} and biases in ({None}, {width})


def _write_fused(layers: Layers, block: str) -> Iterator[Turn]:
    parts = {part: layers.blocks[join(block, part)] for part in PARTS[:3]}
    shapes = {layers.shape(join(block, part), "weight") for part in parts}
    if len(shapes) > 1:
        yield from (Turn((parts[part]["weight"],), block, (theirs,)) for part, theirs in _APART.items())
    for kind in ("weight", "bias"):
        names = tuple(keys[kind] for keys in parts.values() if kind in keys)
        if names and not (kind == "weight" and len(shapes) > 1):
            yield Turn(names, block, (f"in_proj_{kind}",), (Join(0, 3),))
