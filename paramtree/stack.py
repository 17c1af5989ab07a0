"""Blocks of one kind, one by one or stacked: `block0`, `block1`, ... or one `block` with a leading axis.

`nn.Repeat` holds them stacked, so that one `jax.lax.scan` goes over them.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from paramtree import display
from paramtree.errors import (
    BadNameError,
    MismatchError,
    NoMatchError,
    TieError,
    did_you_mean,
    first_of,
    listing,
    raise_faults,
)
from paramtree.names import (
    SEPARATOR,
    blocks_above,
    is_dict,
    is_under,
    join,
    natural_name_key,
    structure_of,
    untyped_jax,
)
from paramtree.nodes import Alias, block_at, follow, tied_names
from paramtree.select import Select, describe_select, freeze_select, idle_selects, matching_names
from paramtree.tree import flat_leaves, is_array, is_array_like

_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)


def unstack(params: dict[str, Any], select: Select, /) -> dict[str, Any]:
    """Take stacked blocks apart: each `block` that a select hits becomes `block0`, `block1`, ...

    Of stacks within stacks, the outer ones come first: the first axis is theirs.

    Args:
        params: nested dicts of arrays, or of stand-ins for arrays.
        select: the blocks, by their whole names.

    >>> unstack({"net": {"block": {"bias": np.arange(2.0)}}}, "net/block")
    {'net': {'block0': {'bias': array(0.)}, 'block1': {'bias': array(1.)}}}

    Raises:
        NoMatchError: where the select, or one of several, hits no block.
        MismatchError: where the leaves of a block do not have one leading size.
        BadNameError: where the block's name ends in a digit, or there is a block of a new name already.
        TieError: where a place outside of a block is tied to one in it.
    """
    for place in _hit_blocks(params, select, "unstack"):
        if place[-1].isdigit():
            raise BadNameError(f"unstack: a number behind {place!r} would not be told from it; pt.rename it.")
        _check_not_tied(params, [place], "unstack")
        block = block_at(params, place)
        leaves, treedef = untyped_jax.tree.flatten(block)
        count = _leading_size(block, place)
        rows = [_rows(leaf, count) for leaf in leaves]
        numbered = {
            f"{place}{number}": _ordered(treedef.unflatten(row), block)
            for number, row in enumerate(zip(*rows, strict=True))
        }
        params = _exchange(params, place, {new: _retied(one, place, new) for new, one in numbered.items()})
    return params


def stack(params: dict[str, Any], select: Select, /) -> dict[str, Any]:
    r"""Stack numbered blocks: the `block0`, `block1`, ... that a select hits become one `block`.

    Of blocks within blocks, the inner ones come first.

    Args:
        params: nested dicts of arrays.
        select: the blocks, by their whole names: `r"net/block\d+"`.

    >>> stack({"block0": {"bias": np.float32(1)}, "block1": {"bias": np.float32(2)}}, r"block\d+")
    {'block': {'bias': array([1., 2.], dtype=float32)}}

    Raises:
        NoMatchError: where the select, or one of several, hits no block.
        BadNameError: where the blocks are not numbered from 0 on, or there is a block of the new name.
        MismatchError: where they do not hold the same, in the same shapes and dtypes.
        TieError: where a place outside of a block is tied to one in it.
    """
    groups: dict[str, list[str]] = {}
    for place in _hit_blocks(params, select, "stack"):
        found = _NUMBERED.fullmatch(place)
        if found is None:
            raise BadNameError(f"stack: {place!r} does not end in a number. Select blocks such as 'block0'.")
        if found[1][-1:] in ("", SEPARATOR):
            raise BadNameError(f"stack: {place!r} has no name before its number. pt.rename it to 'block0'.")
        groups.setdefault(found[1], []).append(place)
    for stem, places in groups.items():
        wanted = [f"{stem}{number}" for number in range(len(places))]
        missing = [place for place in wanted if place not in places]
        if missing:
            raise BadNameError(
                f"stack: {listing(places, 4)} are not numbered from 0 on; {missing[0]} is missing."
            )
        _check_not_tied(params, wanted, "stack")
        blocks = {place: _retied(block_at(params, place), place, stem) for place in wanted}
        for place in wanted[1:]:
            params = _exchange(params, place, {})
        params = _exchange(params, wanted[0], {stem: _stacked(blocks)})
    return params


def _hit_blocks(params: Any, select: Select, verb: str) -> list[str]:
    chosen = freeze_select(select)
    structure = structure_of(params)
    tied_names(structure)  # which checks that every tie leads somewhere
    leafless = structure.leafless  # among them the empty blocks
    places = {*leafless, *(block for name in (*structure.names, *leafless) for block in blocks_above(name))}
    blocks = sorted((place for place in places if block_at(params, place) is not None), key=natural_name_key)
    held = {place: block_at(params, place) for place in blocks}
    found = f" The blocks are {listing(blocks, 6)}." if blocks else " There are no blocks."
    faults = [
        f"{verb}: {describe_select(idle)} hits no block; it must match its whole name."
        f"{(did_you_mean(idle, blocks) if isinstance(idle, str) else '') or found}"
        for idle in idle_selects(chosen, held)
    ]
    if faults:
        raise NoMatchError("\n".join(faults))
    hit = matching_names(chosen, held)
    for place in hit:
        inside = [other for other in hit if other != place and is_under(other, place)]
        if inside:
            raise BadNameError(
                f"{verb}: {inside[0]!r} lies in {place!r}; {verb} one of them after the other."
            )
    return hit


def _check_not_tied(params: Any, places: Sequence[str], verb: str) -> None:
    """Check that no place is tied to one of these blocks from outside of that block."""
    structure = structure_of(params)
    faults: list[str] = []
    for name, alias in structure.leafless.items():
        if isinstance(alias, Alias):
            source = follow(structure, alias.target)[0]  # another tie may lead there
            for place in places:
                inside = is_under(name, place) and is_under(alias.target, place)
                if not inside and (is_under(alias.target, place) or is_under(source, place)):
                    faults.append(f"{name} is tied to {alias}")
    raise_faults(TieError, f"{verb}: these ties would lead nowhere; pt.untie them first:", faults)


def _leading_size(block: Any, place: str) -> int:
    found = flat_leaves(block)
    sizes = {leaf.shape[:1] if is_array_like(leaf) else () for leaf in found.values()}
    size = next(iter(sizes), ())
    if len(sizes) == 1 and size and isinstance(size[0], int) and size[0]:
        return size[0]
    faults = [f"{join(place, name)} has {display.shape_dtype(leaf)}" for name, leaf in found.items()]
    headline = f"unstack: {place!r} needs one leading size for all that it holds:"
    raise MismatchError("\n  ".join([headline, *(first_of(faults) or ["it holds no arrays"])]))


def _rows(leaf: Any, count: int) -> Sequence[Any]:
    if isinstance(leaf, np.ndarray):
        return [np.asarray(row) for row in leaf]
    if is_array(leaf):
        return untyped_jax.numpy.unstack(leaf)
    if hasattr(leaf, "repetition"):  # a ParamSpec
        return [leaf.repetition(number) for number in range(count)]
    return [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)] * count


def _stacked(blocks: dict[str, Any]) -> Any:
    """Stack blocks that hold the same."""
    first = next(iter(blocks))
    wanted = flat_leaves(blocks[first])
    faults: list[str] = []
    for place in blocks:
        found = flat_leaves(blocks[place])
        faults += [f"{join(first, name)} has no {join(place, name)}" for name in wanted if name not in found]
        faults += [f"{join(place, name)} has no {join(first, name)}" for name in found if name not in wanted]
        for name in wanted.keys() & found.keys():
            one, other = display.shape_dtype(wanted[name]), display.shape_dtype(found[name])
            if not (is_array(found[name]) or isinstance(found[name], jax.ShapeDtypeStruct)):
                faults.append(f"{join(place, name)} is {found[name]!r}, not an array")
            elif one != other:
                faults.append(f"{join(first, name)} has {one}, and {join(place, name)} {other}")
        if not faults and jax.tree.structure(blocks[place]) != jax.tree.structure(blocks[first]):
            faults.append(f"{first} and {place} are tied or fixed in different ways")
    raise_faults(MismatchError, "stack: these blocks do not hold the same arrays:", first_of(sorted(faults)))
    return _ordered(jax.tree.map(_stack_arrays, *blocks.values()), blocks[first])


def _stack_arrays(*leaves: Any) -> Any:
    if all(isinstance(leaf, np.ndarray | np.generic) for leaf in leaves):
        return np.stack(leaves)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return jax.ShapeDtypeStruct((len(leaves), *leaves[0].shape), leaves[0].dtype)
    return untyped_jax.numpy.stack(leaves)


def _retied(block: Any, old: str, new: str) -> Any:
    """Let the ties within a block lead to the same places when it has a new name."""

    def retie(node: Any) -> Any:
        if isinstance(node, Alias) and is_under(node.target, old):
            return Alias(new + node.target[len(old) :], node.transpose)
        return node

    return _ordered(jax.tree.map(retie, block, is_leaf=lambda node: isinstance(node, Alias)), block)


def _ordered(block: Any, like: Any) -> Any:
    """Put the keys of nested dicts, which JAX has sorted, in the order of others."""
    return {key: _ordered(block[key], child) for key, child in like.items()} if is_dict(like) else block


def _exchange(node: Any, place: str, new: dict[str, Any], at: str = "") -> Any:
    """Put new blocks, by their names, in the place of another; the order of the keys stays."""
    exchanged: dict[str, Any] = {}
    for key, child in node.items():
        here = join(at, key)
        if here == place:
            taken = [name for name in new if name.rpartition(SEPARATOR)[2] in node]
            if taken:
                raise BadNameError(f"{listing(taken, 4)} is there already, and {place} would become it too.")
            exchanged |= {name.rpartition(SEPARATOR)[2]: block for name, block in new.items()}
        else:
            exchanged[key] = _exchange(child, place, new, here) if is_under(place, here) else child
    return exchanged
