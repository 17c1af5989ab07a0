"""Tie parameters, and fix them: the verbs that put nodes into a tree and take them out."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from paramtree import display
from paramtree.errors import NoMatchError, TieError, did_you_mean, listing, raise_faults
from paramtree.names import flatten_named, index_tree, is_under, join, nest, structure_of
from paramtree.nodes import Alias, Fixed, gather_aliases, is_transparent, resolve, spread_aliases, tied_names
from paramtree.select import Select, apply_select, describe_select, freeze_select, hints, matches
from paramtree.tree import flat_leaves, flatten


def tie(params: dict[str, Any], ties: Mapping[str, str | Alias], /) -> dict[str, Any]:
    """Return the tree with parameters, or blocks, tied: place -> where its parameter lives.

    The place's own array is dropped. Pass `Alias(name, transpose=True)` to tie a matrix to the transpose.

    >>> import jax.numpy as jnp
    >>> params = {"embed": {"weight": jnp.ones((5, 3))}, "head": {"weight": jnp.zeros((5, 3))}}
    >>> tie(params, {"head/weight": "embed/weight"})["head"]
    {'weight': Alias(target='embed/weight', transpose=False)}

    Raises:
        TieError: listing every place and target that is not in the tree, every tie to itself or within
            itself, and all ties between different shapes, dtypes or blocks.
    """
    wanted = {place: target if isinstance(target, Alias) else Alias(target) for place, target in ties.items()}
    plain = resolve(params)
    faults = [fault for place, alias in wanted.items() for fault in _tie_faults(plain, place, alias)]
    raise_faults(TieError, "tie: these cannot be tied:", faults)
    flat = {
        name: node
        for name, node in flatten(params).items()
        if not any(is_under(name, place) for place in wanted)
    }
    tied = nest(flat | wanted)
    tied_names(structure_of(tied))  # raises where the new ties go in a circle
    return tied


def _tie_faults(plain: Any, place: str, alias: Alias) -> list[str]:
    target = alias.target
    if is_under(target, place) or is_under(place, target):
        same = "itself" if place == target else "what contains it" if is_under(place, target) else "a part of itself"
        return [f"{place!r} would be tied to {same}; tie it to a parameter or block beside it"]
    old, new = _shapes(plain, place), _shapes(plain, target)
    missing = [name for name, found in ((place, old), (target, new)) if not found]
    if missing:
        known = list(flat_leaves(plain))
        return [f"{name!r} is not in the tree.{did_you_mean(name, known)}" for name in missing]
    if alias.transpose:
        new = {name: (*shape[:-2], *shape[:-3:-1], dtype) for name, (*shape, dtype) in new.items()}
    return [
        f"{place + rest!r} {_describe(old.get(rest))} and {target + rest!r} {_describe(new.get(rest))} differ"
        for rest in sorted(old.keys() | new.keys())
        if old.get(rest) != new.get(rest)
    ]


def _shapes(plain: Any, name: str) -> dict[str, tuple[Any, ...]]:
    """Map the names below a block, or "" for a parameter, to (*shape, dtype)."""
    return {
        each[len(name) :]: (*getattr(leaf, "shape", ()), str(getattr(leaf, "dtype", type(leaf).__name__)))
        for each, leaf in flat_leaves(plain).items()
        if is_under(each, name)
    }


def _describe(shape: tuple[Any, ...] | None) -> str:
    return "(missing)" if shape is None else f"({display.shape_text(shape[:-1])} {shape[-1]})"


def untie(params: dict[str, Any], select: Select | None = None, /, *, copy: bool = True) -> dict[str, Any]:
    """Return the tree with an array of its own at every tied place.

    Args:
        params: nested dicts.
        select: which tied places, by their own names; all, if left out.
        copy: whether to copy the arrays. Without it two leaves are one buffer: no good for training, as
            a donated buffer must not be used twice, but free, and what `find_tied` finds.

    >>> import jax.numpy as jnp
    >>> sorted(untie({"a": {"w": jnp.ones(2)}, "b": Alias("a")})["b"])
    ['w']

    Raises:
        NoMatchError: where the select hits no tied place.
    """
    flat, plain = flatten(params), flat_leaves(resolve(params))
    spread = spread_aliases(flat)
    chosen = [name for name, node in spread.items() if isinstance(node, Alias)]
    if select is not None:
        frozen = freeze_select(select)
        chosen, places = [name for name in chosen if matches(frozen, name)], chosen
        if not chosen:
            tied = listing(places, 6) if places else "none"
            raise NoMatchError(f"untie: {describe_select(frozen)} hits no tied place. The tied places are: {tied}.")
    kept = {name for name, node in flat.items() if isinstance(node, Alias) and not any(is_under(c, name) for c in chosen)}
    rebuilt = {name: node for name, node in flat.items() if not isinstance(node, Alias) or name in kept}
    rebuilt |= {n: node for n, node in spread.items() if isinstance(node, Alias) and not any(is_under(n, k) for k in kept)}
    return nest(rebuilt | {name: _copied(plain[name]) if copy else plain[name] for name in chosen})


def _copied(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, jax.Array | np.ndarray) else leaf


def find_tied(tree: Any, /) -> dict[str, str]:
    """Find leaves that are one buffer under several names, and propose the ties: place -> where it lives.

    In a plain tree such leaves are no tie: they get two gradients and drift apart. Whole blocks are
    proposed where all they hold is shared. The first name, in natural order, keeps the array.

    >>> import jax.numpy as jnp
    >>> shared = {"weight": jnp.ones(3), "bias": jnp.zeros(1)}
    >>> find_tied({"dense0": shared, "dense1": dict(shared), "dense2": {"weight": jnp.ones(3)}})
    {'dense1': 'dense0'}
    """
    leaves = flat_leaves(tree)
    first: dict[Any, str] = {}
    found: dict[str, str] = {}
    for name, leaf in leaves.items():
        source = first.setdefault(_buffer(leaf), name)
        if source != name:
            found[name] = source
    if not isinstance(tree, dict):
        return found
    proposed = nest({name: Alias(found[name]) if name in found else leaf for name, leaf in leaves.items()})
    gathered = flatten(gather_aliases(proposed, set(found)))
    return {name: node.target for name, node in gathered.items() if isinstance(node, Alias) and is_proposed(name, found)}


def is_proposed(name: str, found: Mapping[str, str]) -> bool:
    """Tell whether an alias is one of those just found, or gathers some of them."""
    return any(is_under(place, name) for place in found)


def _buffer(leaf: Any) -> Any:
    """Identify the memory a leaf lies in; two views that differ in shape or strides are not one parameter."""
    if isinstance(leaf, np.ndarray) and leaf.size:
        interface = leaf.__array_interface__
        return (interface["data"][0], leaf.shape, leaf.strides, leaf.dtype.str)
    if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and leaf.size:
        shards = leaf.addressable_shards
        pointers = tuple(shard.data.unsafe_buffer_pointer() for shard in shards)
        return (pointers, leaf.shape, str(leaf.dtype))
    return id(leaf)


def freeze(params: Any, select: Select, /, *, allow_empty: bool = False) -> Any:
    """Return the tree with the selected parameters fixed: no gradient is computed for them.

    >>> freeze({"embed": {"weight": 1.0}, "head": {"weight": 2.0}}, "embed/.*")["embed"]
    {'weight': Fixed(value=1.0)}

    Raises:
        NoMatchError: where the select hits nothing, unless `allow_empty`.
    """
    return _rewrap(params, select, allow_empty, lambda held: held if isinstance(held, Fixed) else Fixed(held))


def unfreeze(params: Any, select: Select | None = None, /, *, allow_empty: bool = False) -> Any:
    """Return the tree with the selected parameters, or all, fixed no more.

    >>> unfreeze({"embed": {"weight": Fixed(1.0)}})
    {'embed': {'weight': 1.0}}

    Raises:
        NoMatchError: where the select hits nothing, unless `allow_empty`.
    """
    return _rewrap(params, select, allow_empty, lambda held: held.value if isinstance(held, Fixed) else held)


def _rewrap(params: Any, select: Select | None, allow_empty: bool, change: Callable[[Any], Any]) -> Any:
    found = apply_select(params, select, allow_empty)
    chosen = {found.structure.indices[place] for place in found.places}
    held, treedef = jax.tree.flatten(params, is_leaf=is_transparent)
    return treedef.unflatten([change(node) if index in chosen else node for index, node in enumerate(held)])


def trainable(name: str, leaf: Any, /) -> bool:
    """Tell whether a parameter is not fixed: a predicate to select with.

    >>> from paramtree.tree import collect_params
    >>> list(collect_params({"w": 1.0, "running_mean": Fixed(0.0)}, trainable))
    ['w']
    """
    del name
    return not isinstance(leaf, Fixed)
