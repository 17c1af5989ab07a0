"""The names and layouts of Haiku."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from paramtree.errors import RuleError
from paramtree.renaming.cells import BIASES, WEIGHTS, Cell, Reorder, TwoBiases, read_cells
from paramtree.renaming.conventions import (
    PARTS,
    Flip,
    Layers,
    Turn,
    Way,
    collected,
    cut,
    is_transposed,
    write_like,
)
from paramtree.renaming.convert import Flatten, Join, Split, Step, Transpose
from paramtree.renaming.moves import Move, Naming, Specs

_HAIKU = {
    "linear": "dense",
    "embed": "embedding",
    "depthwise_conv2_d": "conv",
    **{f"conv{rank}_d": "conv" for rank in (1, 2, 3)},
    **{f"conv{rank}_d_transpose": "convtranspose" for rank in (1, 2, 3)},
    **{f"{kind}_norm": f"{kind}norm" for kind in ("batch", "layer", "group", "instance", "rms")},
    "multi_head_attention": "multiheadattention",
    "lstm": "lstm",
    "vanilla_rnn": "rnn",
}
_STATISTICS = {"~/mean_ema": "running_mean", "~/var_ema": "running_var"}
_RNN = ("linear",), ("linear_1",)  # the layers in a vanilla_rnn
_CELLS = [Cell(1, *_RNN, biased, "w", "b") for biased in (("linear", "linear_1"), ("linear",))]


def haiku(*, blocks: Any = None, transposed: Any = None, like: Any = None) -> Naming:
    """Give the rules for the names of Haiku.

    A file may hold `{"params": params, "state": state}`, or the parameters alone. `linear_1/w` becomes
    `dense1/weight`, `scale` and `offset` of a norm `gamma` and `beta`, and so on; the first layer of a kind,
    which has no number there, gets 0. The keys `~` are dropped; names that are not automatic stay. Of running
    means `average` is loaded, which is what Haiku's BatchNorm uses; `hidden` and `counter` are left out. An
    `LSTM` adds 1 to its forget gate, which is in `l0_i2h_bias` here; a `VanillaRNN` is `nn.RNN` with
    `activation="relu"`. Both are told by their automatic names.

    Left as they are, and so unexpected: layers with no counterpart here, among them `GRU`, whose reset gate
    acts before the product.

    Args:
        blocks: rules that rename blocks, which are names without their last key, as Haiku has them, and
            without "params" or "state"; what none hits gets the name of above.
        transposed: a select of the blocks that are transposed convolutions, where they are not called so.
        like: for the way back, `{"params": params, "state": state}` or the parameters as Haiku makes them, or
            their shapes: names and shapes of ours do not tell them.

    >>> import jax
    >>> haiku().read({"mlp/~/linear_1/b": jax.ShapeDtypeStruct((4,), "float32")})
    [Move(sources=('mlp/~/linear_1/b',), targets=('mlp/dense1/b',), steps=())]
    """
    read = Way("haiku", _haiku_places, _read_haiku, _haiku_path, rules=blocks, transposed=transposed)
    return Naming(read.title, read.moves, _needs_like if like is None else write_like(read, like))


def _needs_like(specs: Specs) -> list[Move]:
    del specs
    raise RuleError("haiku: our names do not tell Haiku's. Pass like=, its parameters or their shapes.")


def _haiku_places(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    return collected(names, ("params", "state"))


def _haiku_path(block: str) -> str:
    def ours(key: str) -> str:
        found = re.fullmatch(r"(.*?)(?:_(\d+))?", key)
        return f"{_HAIKU[found[1]]}{found[2] or 0}" if found and found[1] in _HAIKU else key

    return "/".join(ours(key) for key in block.split("/") if key != "~")


def _read_haiku(layers: Layers) -> Iterator[Turn]:
    attentions = set(layers.holding((*PARTS[:3], "linear"), "w"))
    cells = [*read_cells(layers, _CELLS, r"vanilla_rnn(_\d+)?"), *_read_lstms(layers)]
    yield from cells
    gates = {source for turn in cells for source in turn.sources}
    for block, keys in layers.blocks.items():
        outer, part = cut(block)
        if gates.intersection(keys.values()):
            continue
        ema = next((end for end in _STATISTICS if block.endswith(f"/{end}")), None)
        if part in (*PARTS[:3], "linear") and outer in attentions:
            yield from _read_w(layers, block, keys, outer, f"{'out' if part == 'linear' else part}/")
        elif ema and "average" in keys:
            norm = block.removesuffix(f"/{ema}")
            for key, name in keys.items():
                ours = (_STATISTICS[ema],) if key == "average" else ()
                if ours or key in ("hidden", "counter"):
                    yield Turn((name,), norm, ours, _squeezed(layers, block, key) if ours else ())
        elif "w" in keys:
            yield from _read_w(layers, block, keys, block, "")
        elif "scale" in keys:
            for theirs, ours in (("scale", "gamma"), ("offset", "beta")):
                if theirs in keys:
                    yield Turn((keys[theirs],), block, (ours,), _squeezed(layers, block, theirs))
        elif "embeddings" in keys:
            yield Turn((keys["embeddings"],), block, ("weight",))


def _read_lstms(layers: Layers) -> Iterator[Turn]:
    """Read the LSTMs: one matrix (in + hidden, 4 * hidden), gates i, g, f, o, of which f gets 1 more."""
    order = Reorder((0, 2, 1, 3))
    for block, keys in layers.blocks.items():
        outer, part = cut(block)
        shape = layers.shape(block, "w") or ()
        called = part == "linear" and re.fullmatch(r"lstm(_\d+)?", cut(outer)[1])
        if called and len(shape) == 2 and keys.keys() == {"w", "b"}:
            hidden = shape[1] // 4
            parts = Split((shape[0] - hidden, hidden), 0)
            yield Turn((keys["w"],), outer, WEIGHTS, (Split(4, 1), order, Join(1, 4), parts, Transpose()))
            biases = TwoBiases((0.0, 1.0, 0.0, 0.0, *[None] * 4), outer)
            yield Turn((keys["b"],), outer, BIASES, (Split(4), order, biases, Join(0, 8), Split(2)))


def _read_w(layers: Layers, block: str, keys: Mapping[str, str], new: str, start: str) -> Iterator[Turn]:
    rank = len(layers.shape(block, "w") or ())
    turned = rank > 2 and (is_transposed(block) or block in layers.transposed)
    if rank >= 2:
        yield Turn(
            (keys["w"],), new, (f"{start}weight",), (Transpose(), Flip()) if turned else (Transpose(),)
        )
        if "b" in keys:
            yield Turn((keys["b"],), new, (f"{start}bias",), _squeezed(layers, block, "b"))


def _squeezed(layers: Layers, block: str, key: str) -> tuple[Step, ...]:
    """Make a vector of (1, 1, 1, channels)."""
    shape = layers.shape(block, key) or ()
    return (Flatten(0, shape),) if len(shape) > 1 and sum(size != 1 for size in shape) < 2 else ()
