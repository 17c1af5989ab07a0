"""What the ready rule sets are made of: blocks and what stands in them, turned into moves.

What a layer is, is told from the keys and shapes of its block, so layers may have any name. What a set does
not know keeps its key, so that it is seen as unexpected, and is never taken for something else.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from paramtree.errors import RuleError, raise_faults
from paramtree.names import flatten_named, join
from paramtree.renaming.convert import Array, Shape, Step
from paramtree.renaming.inverse import invert
from paramtree.renaming.moves import Move, Specs
from paramtree.select import apply_select, expand_template, match_rules, numbered, parse_rules

PARTS = ("query", "key", "value", "out")  # the layers of attention, as we name them
GATED = re.compile(r"([lr])(\d+)_(i2h|h2h)_(weight|bias)")  # what our recurrent layers hold


@dataclass(frozen=True)
class Flip:
    """Turn the window of a weight (in, out, *window) around, as the gradient of a convolution does.

    >>> Flip().apply([np.arange(3).reshape(1, 1, 3)])[0].tolist()
    [[[2, 1, 0]]]
    """

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Give the shapes that come out: the same."""
        return list(shapes)

    def apply(self, arrays: Sequence[Array]) -> list[Array]:
        """Give the arrays that come out: views."""
        return [np.flip(array, tuple(range(2, array.ndim))) for array in arrays]

    def inverse(self) -> "Flip":
        """Give the step that undoes this one: itself."""
        return self


@dataclass(frozen=True)
class Vector:
    """Make a vector of a single number.

    >>> Vector().apply([np.float32(2)])[0].tolist()
    [2.0]
    """

    back: bool = False

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Give the shapes that come out."""
        return [() if self.back else (1,) for _ in shapes]

    def apply(self, arrays: Sequence[Array]) -> list[Array]:
        """Give the arrays that come out: views."""
        return [np.reshape(array, () if self.back else (1,)) for array in arrays]

    def inverse(self) -> "Vector":
        """Give the step that undoes this one."""
        return Vector(not self.back)


class Turn(NamedTuple):
    """One conversion, before the block has its new name; no keys for what is left out."""

    sources: tuple[str, ...]
    block: str
    keys: tuple[str, ...]
    steps: tuple[Step, ...] = ()


@dataclass
class Layers:
    """The blocks of a tree, and what stands in each: key -> whole name."""

    specs: Specs
    blocks: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    transposed: frozenset[str] = frozenset()
    faults: list[str] = field(default_factory=list)

    def shape(self, block: str, key: str) -> Shape | None:
        """Give the shape of what stands there, if anything does."""
        name = self.blocks.get(block, {}).get(key)
        return None if name is None else tuple(self.specs[name].shape)

    def holding(self, parts: Sequence[str], key: str) -> list[str]:
        """List the blocks that hold a block for each part, with such a key in it."""
        outer = (cut(block)[0] for block in self.blocks if cut(block)[1] == parts[0])
        return [each for each in outer if all(self.shape(join(each, part), key) for part in parts)]


Places = Callable[[Iterable[str]], dict[str, tuple[str, str]]]


@dataclass(frozen=True)
class Way:
    """How names of one library become those of another.

    Attributes:
        title: what it is called in messages.
        places: from whole names to (block, key), of those that it knows.
        turns: what becomes of the layers.
        path: the new name of a block that no rule names.
        name: the whole new name, from a block and a key.
        rules: those that rename blocks, from the library's names.
        transposed: a select of the blocks that are transposed convolutions, by the library's names.
        back: whether it leads from our names.
    """

    title: str
    places: Places
    turns: Callable[[Layers], Iterable[Turn]]
    path: Callable[[str], str]
    name: Callable[[str, str], str] = join
    rules: Any = None
    transposed: Any = None
    back: bool = False

    def moves(self, specs: Specs) -> list[Move]:
        """Find what becomes of every array; what stands in no layer keeps its key, in its block's new name.

        Raises:
            RuleError: for blocks= that do not fit, and on the way back for what has no name there.
        """
        layers = Layers(specs)
        places = self.places(specs)
        for name, (block, key) in places.items():
            layers.blocks[block][key] = name
        if self.transposed is not None:
            theirs = self._paths(layers.blocks)[0] if self.back else {block: block for block in layers.blocks}
            found = apply_select(dict.fromkeys(filter(None, theirs.values()), 0), self.transposed)
            hit = {found.structure.names[place] for place in found.places}
            layers.transposed = frozenset(block for block, name in theirs.items() if name in hit)
        turns = list(self.turns(layers))
        used = {source for turn in turns for source in turn.sources}
        turns += [Turn((name,), *_alone(place)) for name, place in places.items() if name not in used]
        raise_faults(RuleError, f"{self.title}: these have no names there:", layers.faults)
        paths, faults = self._paths([turn.block for turn in turns])
        raise_faults(RuleError, f"{self.title}: blocks= does not fit the blocks:", faults)
        moves = [
            Move(turn.sources, tuple(self.name(paths[turn.block], key) for key in turn.keys), turn.steps)
            for turn in turns
        ]
        return _with_rest(specs, moves)

    def _paths(self, blocks: Iterable[str]) -> tuple[dict[str, str], list[str]]:
        """Rename the blocks: by the rules, or else as the library's automatic names are; list the faults."""
        paths = {block: self.path(block) for block in blocks}
        rules = parse_rules(invert(self.rules) if self.back else self.rules) if self.rules else []
        known = dict.fromkeys(filter(None, paths), 0)
        if not rules:
            return paths, []
        _, structure, winners, faults = match_rules(known, numbered(rules), default=None)
        for block, at in zip(structure.names, winners, strict=True):
            if at is not None:
                paths[block] = expand_template(*_rule_for(rules[at], block))
        return paths, faults


def _rule_for(rule: Any, block: str) -> tuple[Any, str, str]:
    if not isinstance(rule.select, str | re.Pattern) or not isinstance(rule.value, str):
        raise RuleError(f"blocks=: {rule.select!r}: {rule.value!r} is not pattern -> template.")
    return rule.select, block, rule.value


def _alone(place: tuple[str, str]) -> tuple[str, tuple[str]]:
    block, key = place
    return block, (key,)


def _with_rest(specs: Specs, moves: Sequence[Move]) -> list[Move]:
    """Add the arrays that nothing happens to, in the order of the names."""
    order = {name: at for at, name in enumerate(specs)}
    used = {source for move in moves for source in move.sources}
    rest = [Move((name,), (name,)) for name in specs if name not in used]
    return sorted([*moves, *rest], key=lambda move: order[move.sources[0]])


def write_like(read: Way, like: Any) -> Callable[[Specs], list[Move]]:
    """Give what undoes the reading of a tree like that.

    Args:
        read: the way in.
        like: the tree, or its shapes.
    """
    leaves, structure = flatten_named(like)
    theirs = dict(zip(structure.names, (leaves[index] for index in structure.indices), strict=True))
    arrays = {name: leaf if hasattr(leaf, "shape") else np.asarray(leaf) for name, leaf in theirs.items()}

    def write(specs: Specs) -> list[Move]:
        moves = [
            Move(move.targets, move.sources, tuple(step.inverse() for step in reversed(move.steps)))
            for move in read.moves(arrays)
            if move.targets
        ]
        faults = [
            f"{' and '.join(move.targets)}: there is no {source}"
            for move in moves
            for source in move.sources
            if source not in specs
        ]
        known = {source for move in moves for source in move.sources}
        faults += [f"{name} has no place in it" for name in specs if name not in known]
        raise_faults(RuleError, f"{read.title}: like= and the parameters do not fit:", faults)
        return moves

    return write


def cut(name: str) -> tuple[str, str]:
    """Cut a name into its block and its last key.

    >>> cut("encoder/dense0/weight"), cut("weight")
    (('encoder/dense0', 'weight'), ('', 'weight'))
    """
    block, _, key = name.rpartition("/")
    return block, key


def places(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Cut every name."""
    return {name: cut(name) for name in names}


def collected(names: Iterable[str], collections: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Cut the names that are in these collections, without those; or all, where there are none."""
    split = {name: name.partition("/") for name in names}
    if not any(first == collections[0] and rest for first, _, rest in split.values()):
        return places(split)
    return {name: cut(rest) for name, (first, _, rest) in split.items() if first in collections and rest}


def is_transposed(block: str) -> bool:
    """Tell whether a block has the name of a ConvTranspose."""
    return re.fullmatch(r"(?i)conv\w*transpose(_?\d+)?", cut(block)[1]) is not None


def our_attentions(layers: Layers) -> list[str]:
    """List the blocks of ours that are attention."""
    found = layers.holding(PARTS, "weight")
    return [
        each
        for each in found
        if all(len(layers.shape(join(each, part), "weight") or ()) == 2 for part in PARTS)
    ]
