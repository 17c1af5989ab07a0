"""The names and layouts of Flax, linen and NNX."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from paramtree.names import join
from paramtree.renaming.cells import Cell, gates_of, read_cells, write_cell
from paramtree.renaming.conventions import (
    GATED,
    PARTS,
    Flip,
    Layers,
    Turn,
    Vector,
    Way,
    collected,
    cut,
    is_transposed,
    our_attentions,
    places,
    write_like,
)
from paramtree.renaming.convert import Flatten, Step, Transpose
from paramtree.renaming.moves import Naming

_NORM = {"scale": "gamma", "bias": "beta", "mean": "running_mean", "var": "running_var"}
_TITLES = {  # linen's classes, by our stems; the first is the one that is written
    "dense": ("Dense",),
    "conv": ("Conv",),
    "convtranspose": ("ConvTranspose",),
    "embedding": ("Embed",),
    "batchnorm": ("BatchNorm",),
    "layernorm": ("LayerNorm",),
    "groupnorm": ("GroupNorm",),
    "instancenorm": ("InstanceNorm",),
    "rmsnorm": ("RMSNorm",),
    "lstm": ("LSTMCell", "OptimizedLSTMCell"),
    "gru": ("GRUCell",),
    "rnn": ("SimpleCell",),
    "prelu": ("PReLU",),
    "multiheadattention": ("MultiHeadDotProductAttention", "MultiHeadAttention", "SelfAttention"),
}

_LSTM_STATES = ("hi", "hf", "hg", "ho")
_LINEN_CELLS = {
    4: Cell(4, ("ii", "if", "ig", "io"), _LSTM_STATES, _LSTM_STATES),
    3: Cell(3, ("ir", "iz", "in"), ("hr", "hz", "hn"), ("ir", "iz", "in", "hn")),
    1: Cell(1, ("i",), ("h",), ("i",)),
}
_JOINED = ("dense_i",), ("dense_h",)  # of all gates
_NNX_CELLS = {3: Cell(3, *_JOINED, ("dense_i",)), 1: Cell(1, *_JOINED, ("dense_i",))}
_CELLS = (
    *_LINEN_CELLS.values(),
    *_NNX_CELLS.values(),
    Cell(4, ("ii", "if_", "ig", "io"), _LSTM_STATES, _LSTM_STATES),  # NNX has two LSTMs
    Cell(4, *_JOINED, ("dense_h",)),
)


def linen(
    *,
    blocks: Any = None,
    transposed: Any = None,
    heads: int | None = None,
    collections: bool = True,
    like: Any = None,
) -> Naming:
    """Give the rules for the names of Flax linen.

    A file may hold the collections "params" and "batch_stats", or the parameters alone. `Dense_0/kernel`
    becomes `dense0/weight`, `scale` and `bias` of a norm `gamma` and `beta`, and so on; names that are not
    automatic stay. A recurrent cell becomes a layer of its own: `LSTMCell_0` becomes `lstm0`, `GRUCell_0`
    `gru0`, `SimpleCell_0` `rnn0`. Where a gate has one bias there, the second one here is zeros; on the way
    back the two are added.

    Left as they are, and so unexpected: `MGUCell`, `ConvLSTMCell`, `DenseGeneral` with a bias of several
    axes, and the variables of `WeightNorm`, `SpectralNorm` and the like.

    Args:
        blocks: rules that rename blocks, which are names without their last key and without the collection;
            what none hits gets the name of above.
        transposed: a select of the blocks, by linen's names, that are `ConvTranspose`, where they are not
            called so: kernels do not tell.
        heads: for the way back, how many heads attention has.
        collections: for the way back, whether names start with the collection.
        like: for the way back, the variables as linen makes them, or their shapes. They tell what names and
            shapes of ours cannot, and then the two options before need not be given.

    >>> import jax
    >>> linen().read({"params/Dense_0/kernel": jax.ShapeDtypeStruct((3, 4), "float32")})
    [Move(sources=('params/Dense_0/kernel',), targets=('dense0/weight',),
          steps=(Transpose(),))]
    """
    read = Way("linen", _linen_places, _read_flax, _linen_path, rules=blocks, transposed=transposed)

    def name(block: str, key: str) -> str:
        collection = "batch_stats" if key in ("mean", "var") else "params"
        return join(collection if collections else "", block, key)

    write = Way(
        "linen", places, _writing_flax(heads, _LINEN_CELLS), _linen_title, name, blocks, transposed, True
    )
    return Naming(read.title, read.moves, write.moves if like is None else write_like(read, like))


def nnx(*, blocks: Any = None, transposed: Any = None, heads: int | None = None, like: Any = None) -> Naming:
    """Give the rules for the names of Flax NNX: those of `linen`, without collections.

    A `value` at the end of names, as states have it, is dropped; so are the keys and counts of `rngs`. Names
    of blocks are those of attributes, and stay: `layers/0/kernel` becomes `layers/0/weight`. On the way back
    an LSTM needs `like`, as NNX has two layouts of it.

    Args:
        blocks: rules that rename blocks, which are names without their last key.
        transposed: a select of the blocks, by NNX's names, that are `ConvTranspose`.
        heads: for the way back, how many heads attention has.
        like: for the way back, the state as NNX makes it, or its shapes, in place of heads.

    >>> import jax
    >>> nnx().read({"layers/0/bias": jax.ShapeDtypeStruct((4,), "float32")})
    [Move(sources=('layers/0/bias',), targets=('layers/0/bias',), steps=())]
    """
    read = Way("nnx", _nnx_places, _read_flax, str, rules=blocks, transposed=transposed)
    write = Way(
        "nnx", places, _writing_flax(heads, _NNX_CELLS), str, rules=blocks, transposed=transposed, back=True
    )
    return Naming(read.title, read.moves, write.moves if like is None else write_like(read, like))


def _linen_places(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    return collected(names, ("params", "batch_stats"))


def _nnx_places(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    return {name: cut(name.removesuffix("/value")) for name in names}


def _linen_path(block: str) -> str:
    stems = {title: stem for stem, titles in _TITLES.items() for title in titles}

    def ours(key: str) -> str:
        found = re.fullmatch(r"([A-Z]\w*?)_(\d+)", key)
        if found is None:
            return key
        stem = stems.get(found[1], found[1].lower())
        return f"{stem}{'_' if stem[-1].isdigit() else ''}{found[2]}"

    return "/".join(map(ours, block.split("/")))


def _linen_title(block: str) -> str:
    def theirs(key: str) -> str:
        found = re.fullmatch(r"([a-z]+)(\d+)", key)
        return f"{_TITLES[found[1]][0]}_{found[2]}" if found and found[1] in _TITLES else key

    return "/".join(map(theirs, block.split("/")))


def _read_flax(layers: Layers) -> Iterator[Turn]:
    heads = {end: layers.shape(join(end, "query"), "kernel") for end in layers.holding(PARTS, "kernel")}
    cells = list(read_cells(layers, _CELLS))
    yield from cells
    gates = {source for turn in cells for source in turn.sources}
    for block, keys in layers.blocks.items():
        outer, part = cut(block)
        shape = heads.get(outer)
        if gates.intersection(keys.values()):
            continue
        if part in PARTS and shape and _is_attention(layers, outer):
            for key, name in keys.items():
                if key in ("kernel", "bias"):
                    ours = f"{part}/{'weight' if key == 'kernel' else key}"
                    yield Turn((name,), outer, (ours,), _attention_steps(part, key, shape[1]))
        elif "kernel" in keys:
            yield from _read_kernel(layers, block, keys)
        elif "scale" in keys or {"mean", "var"} <= keys.keys():
            yield from (Turn((name,), block, (_NORM[key],)) for key, name in keys.items() if key in _NORM)
        elif layers.shape(block, "negative_slope") == ():
            yield Turn((keys["negative_slope"],), block, ("alpha",), (Vector(),))
        elif "embedding" in keys:
            yield Turn((keys["embedding"],), block, ("weight",))
        elif part == "rngs":
            yield from (Turn((name,), block, ()) for key, name in keys.items() if key in ("key", "count"))


def _is_attention(layers: Layers, block: str) -> bool:
    """Tell whether the kernels have an axis for the heads: (in, heads, size), and (heads, size, out)."""
    kernels = [layers.shape(join(block, part), "kernel") for part in PARTS]
    shapes = [shape for shape in kernels if shape and len(shape) == 3]
    return len(shapes) == 4 and {shape[1:] for shape in shapes[:3]} == {shapes[3][:2]}


def _attention_steps(part: str, key: str, heads: int) -> tuple[Step, ...]:
    if key == "bias":
        return () if part == "out" else (Flatten(0, (heads, -1)),)
    return Flatten(0 if part == "out" else 1, (heads, -1)), Transpose()


def _read_kernel(layers: Layers, block: str, keys: Mapping[str, str]) -> Iterator[Turn]:
    kernel, bias = layers.shape(block, "kernel") or (), layers.shape(block, "bias")
    if len(kernel) < 2 or (bias is not None and len(bias) != 1):
        return  # DenseGeneral, which has no counterpart here
    steps: tuple[Step, ...] = (Transpose(),)
    if len(kernel) > 2 and (is_transposed(block) or block in layers.transposed):
        turned = (
            bias is not None and kernel[-2] == bias[0] != kernel[-1]
        )  # (*window, out, in) and flipped there
        steps = steps if turned else _unturned(len(kernel))
    yield Turn((keys["kernel"],), block, ("weight",), steps)
    if bias is not None:
        yield Turn((keys["bias"],), block, ("bias",))


def _unturned(rank: int) -> tuple[Step, ...]:
    """Make the weight of a ConvTranspose of a kernel (*window, in, out) that is not flipped."""
    return Transpose((rank - 2, rank - 1, *range(rank - 2))), Flip()


def _undone(steps: Sequence[Step]) -> tuple[Step, ...]:
    return tuple(step.inverse() for step in reversed(steps))


def _writing_flax(heads: int | None, cells: Mapping[int, Cell]) -> Callable[[Layers], Iterator[Turn]]:
    back = {ours: theirs for theirs, ours in _NORM.items()}

    def write(layers: Layers) -> Iterator[Turn]:
        attentions = our_attentions(layers)
        if heads is None:
            layers.faults += [
                f"{each}: how many heads it has is not known. Pass heads=." for each in attentions
            ]
        for block, keys in layers.blocks.items():
            outer, part = cut(block)
            if part in PARTS and outer in attentions:
                for ours, key in (("weight", "kernel"), ("bias", "bias")):
                    steps = _undone(_attention_steps(part, key, heads or 1))
                    if ours in keys:
                        yield Turn((keys[ours],), outer, (f"{part}/{key}",), steps)
            elif {"gamma", "beta", "running_mean"} & keys.keys():
                yield from (Turn((name,), block, (back.get(key, key),)) for key, name in keys.items())
            elif "weight" in keys:
                yield from _write_kernel(layers, block, keys)
            elif gates_of(layers, block) in cells:
                yield from write_cell(cells[gates_of(layers, block)], block, keys)
            elif gates_of(layers, block) == 4:
                layers.faults.append(f"{block} is an LSTM, of which there are two layouts there. Pass like=.")
            elif layers.shape(block, "alpha") == (1,):
                yield Turn((keys["alpha"],), block, ("negative_slope",), (Vector(back=True),))
            else:
                layers.faults += [
                    name for key, name in keys.items() if key == "alpha" or GATED.fullmatch(key)
                ]

    return write


def _write_kernel(layers: Layers, block: str, keys: Mapping[str, str]) -> Iterator[Turn]:
    rank = len(layers.shape(block, "weight") or ())
    stem = cut(block)[1].rstrip("0123456789")
    if rank == 2 and stem == "embedding" and "bias" not in keys:
        yield Turn((keys["weight"],), block, ("embedding",))
    elif rank == 2 and stem != "dense" and "bias" not in keys:
        layers.faults.append(f"{keys['weight']} is of an Embedding, or of a Dense without bias. Pass like=.")
    elif rank >= 2:
        turned = rank > 2 and (is_transposed(block) or block in layers.transposed)
        steps = _unturned(rank) if turned else (Transpose(),)
        yield Turn((keys["weight"],), block, ("kernel",), _undone(steps))
