"""Tie parameters, and fix them: the verbs that put nodes into a tree and take them out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from paramtree import display
from paramtree.errors import BadNameError, NoMatchError, TieError, did_you_mean, listing, raise_faults
from paramtree.names import flatten_tree, is_under, natural_name_key, nest, structure_of
from paramtree.nodes import (
    Alias,
    Fixed,
    Frozen,
    gather_aliases,
    is_transparent,
    places_of,
    resolve,
    spread_aliases,
    tied_names,
)
from paramtree.select import (
    Select,
    Selection,
    apply_select,
    describe_select,
    freeze_select,
    idle_selects,
    matching_names,
    spells_out,
)
from paramtree.tree import fixed_names, flat_leaves, flatten, is_array


def tie(params: dict[str, Any], ties: Mapping[str, str | Alias], /) -> dict[str, Any]:
    """Return the tree with parameters, or blocks, tied: place -> where its parameter lives.

    The place's own array is dropped. Pass `Alias(name, transpose=True)` to tie a matrix to the transpose.

    >>> import jax.numpy as jnp
    >>> params = {"embed": {"weight": jnp.ones((5, 3))}, "head": {"weight": jnp.zeros((5, 3))}}
    >>> tie(params, {"head/weight": "embed/weight"})["head"]
    {'weight': Alias(target='embed/weight')}

    Raises:
        TieError: listing every place and target that is not in the tree, every tie to itself or within
            itself, and all ties between different shapes, dtypes or blocks, or of a trained parameter and a
            fixed one.
    """
    if not isinstance(ties, Mapping):
        raise TieError(f"tie takes a dict {{place: where it lives}}, and got a {type(ties).__name__}.")
    strange = [
        f"{place!r} to {target!r} of type {type(target).__name__}; give the name where it lives, or an Alias"
        for place, target in ties.items()
        if not _is_target(target)
    ]
    raise_faults(TieError, "tie: these cannot be tied:", strange)
    wanted = {place: target if isinstance(target, Alias) else Alias(target) for place, target in ties.items()}
    plain, structure = flat_leaves(resolve(params)), structure_of(params)
    sources, kinds = tied_names(structure), fixed_names(structure)
    fixed = {name for name in plain if sources.get(name, name) in kinds}
    faults = [
        fault
        for place, alias in wanted.items()
        for fault in _tie_faults(plain, place, alias) or _role_faults(fixed, plain, place, alias.target)
    ]
    faults += [
        f"{inner!r} lies in {outer!r}, which is to be tied as a whole; name only one of them"
        for inner in wanted
        for outer in wanted
        if inner != outer and is_under(inner, outer)
    ]
    raise_faults(TieError, "tie: these cannot be tied:", faults)
    whole = flat = flatten(params)
    blocks = [name for name, node in flat.items() if isinstance(node, Alias)]
    if any(name != place and is_under(place, name) for name in blocks for place in wanted):
        flat = spread_aliases(flat)
    kept = {name: node for name, node in flat.items() if not any(is_under(name, place) for place in wanted)}
    tied = gather_aliases(nest(kept | wanted), kept.keys() - whole.keys(), whole.keys() - flat.keys())
    tied_names(structure_of(tied))  # raises where the new ties go in a circle
    return tied


def _is_target(target: object) -> bool:
    return isinstance(target, str | Alias)


def _tie_faults(plain: Mapping[str, Any], place: str, alias: Alias) -> list[str]:
    target = alias.target
    if place == target:
        return [f"{place!r} would be tied to itself; tie it to a parameter or block beside it"]
    if is_under(place, target):
        return [f"{place!r} would be tied to what contains it; tie it to a parameter or block beside it"]
    if is_under(target, place):
        return [f"{place!r} would be tied to a part of itself; tie it to a parameter or block beside it"]
    old, new = _shapes(plain, place), _shapes(plain, target)
    missing = [name for name, found in ((place, old), (target, new)) if not found]
    if missing:
        known = places_of(plain)
        near = [did_you_mean(name, known) or f" The names are {listing(list(plain), 6)}." for name in missing]
        return [f"{name!r} is not in the tree.{hint}" for name, hint in zip(missing, near, strict=True)]
    if alias.transpose:
        if any(rest or len(shape) < 3 for rest, shape in new.items()):
            return [f"{target!r} is not a matrix, so that {place!r} cannot be tied to it transposed"]
        new = {name: (*shape[:-2], *shape[:-3:-1], dtype) for name, (*shape, dtype) in new.items()}
    return [
        f"{place + rest!r} {_describe(old.get(rest))} and {target + rest!r} {_describe(new.get(rest))} differ"
        for rest in sorted(old.keys() | new.keys())
        if old.get(rest) != new.get(rest)
    ]


def _role_faults(fixed: Collection[str], plain: Mapping[str, Any], place: str, target: str) -> list[str]:
    role = ("trained", "fixed")
    return [
        f"{name!r} is {role[name in fixed]} and {other!r} is {role[other in fixed]}; "
        "pt.freeze or pt.unfreeze one of them first"
        for name in plain
        if is_under(name, place) and (name in fixed) != ((other := target + name[len(place) :]) in fixed)
    ]


def _shapes(plain: Mapping[str, Any], name: str) -> dict[str, tuple[Any, ...]]:
    """Map the names below a block, or "" for a parameter, to (*shape, dtype)."""
    return {
        each[len(name) :]: (*getattr(leaf, "shape", ()), str(getattr(leaf, "dtype", type(leaf).__name__)))
        for each, leaf in plain.items()
        if is_under(each, name)
    }


def _describe(shape: tuple[Any, ...] | None) -> str:
    return "(missing)" if shape is None else f"({display.shape_text(shape[:-1])} {shape[-1]})"


def untie(params: dict[str, Any], select: Select | None = None, /, *, copy: bool = True) -> dict[str, Any]:
    """Return the tree with an array of its own at every tied place.

    An alias of a place that is untied shares that place's array from then on.

    Args:
        params: nested dicts.
        select: which tied places, by their own names; all, if left out.
        copy: whether to copy the arrays. Without it two leaves are one buffer: no good for training, as
            a donated buffer must not be used twice, but free, and what `find_tied` finds.

    >>> import jax.numpy as jnp
    >>> sorted(untie({"a": {"w": jnp.ones(2)}, "b": Alias("a")})["b"])
    ['w']

    Raises:
        NoMatchError: where the select, or one of several, hits no tied place.
    """
    flat = flatten(params)
    spread = spread_aliases(flat)
    tied = sorted((n for n, node in spread.items() if isinstance(node, Alias)), key=natural_name_key)
    own = _own_leaves(params, tied)
    if select is not None:
        frozen, places = freeze_select(select), listing(tied, 6) if tied else "none"
        faults = [
            f"untie: {describe_select(idle)} hits no tied place. The tied places are: {places}."
            for idle in idle_selects(frozen, own)
        ]
        if faults:
            raise NoMatchError("\n".join(faults))
        own = {name: own[name] for name in matching_names(frozen, own)}
    own = jax.tree.map(_copied, own) if copy else own
    return gather_aliases(nest(spread | own), spread.keys() - flat.keys(), flat.keys() - spread.keys())


def _own_leaves(params: dict[str, Any], tied: list[str]) -> dict[str, Any]:
    """Give what each tied place would hold by itself: an array, fixed where the one it shares is."""
    structure, plain = structure_of(params), flat_leaves(resolve(params))
    sources, fixed = tied_names(structure), fixed_names(structure)
    kinds = {name: fixed.get(sources.get(name, "")) for name in tied}
    return {name: kind(plain[name]) if kind else plain[name] for name, kind in kinds.items()}


def _copied(leaf: Any) -> Any:
    return leaf.copy() if hasattr(leaf, "copy") else leaf


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
        if not is_array(leaf):
            continue  # a stand-in has no buffer, and one may stand for many arrays
        source = first.setdefault(_buffer(leaf), name)
        if source != name:
            found[name] = source
    if not isinstance(tree, dict):
        return found
    proposed = leaves | structure_of(tree).leafless | {name: Alias(found[name]) for name in found}
    try:
        gathered = flatten(gather_aliases(nest(proposed), set(found)))
    except BadNameError:  # in a tree of another library a name may be a parameter, and a block too
        return found
    return {
        name: node.target
        for name, node in gathered.items()
        if isinstance(node, Alias) and is_proposed(name, found)
    }


def is_proposed(name: str, found: Mapping[str, str]) -> bool:
    """Tell whether an alias is one of those just found, or gathers some of them."""
    return any(is_under(place, name) for place in found)


def is_concrete(leaf: object) -> bool:
    """Tell whether a leaf is a JAX array that holds values, not one that is being traced.

    >>> is_concrete(jax.numpy.ones(2)), is_concrete(2.0)
    (True, False)
    """
    return isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)


def _buffer(leaf: Any) -> Any:
    """Identify the memory a leaf lies in; two views that differ in shape or strides are not one parameter."""
    if issubclass(type(leaf), np.ndarray) and leaf.size:
        interface = leaf.__array_interface__
        return (interface["data"][0], leaf.shape, leaf.strides, leaf.dtype.str)
    if is_concrete(leaf) and leaf.size:
        pointers = [(each.device.id, each.data.unsafe_buffer_pointer()) for each in leaf.addressable_shards]
        if pointers:  # none where all of the array lies with other processes
            return (*pointers, leaf.shape, str(leaf.dtype))
    return id(leaf)


def freeze(params: Any, select: Select, /, *, allow_empty: bool = False) -> Any:
    """Return the tree with the selected parameters fixed: no gradient is computed for them.

    They stay leaves. `train_step` and `group_optimizers` leave them alone. Any other loop that uses weight
    decay would still change them: wrap its optimiser as `optax.masked(optimizer, mask(params, trainable))`.
    The optimiser's state belongs to one structure of the tree: make it anew after freezing.

    >>> freeze({"embed": {"weight": 1.0}, "head": {"weight": 2.0}}, "embed/.*")["embed"]
    {'weight': Frozen(value=1.0)}

    Raises:
        NoMatchError: where the select hits nothing, unless `allow_empty`.
    """
    found = apply_select(params, select, allow_empty)
    places = found.places
    return _rewrap(params, found, places, lambda held: held if isinstance(held, Fixed) else Frozen(held))


def unfreeze(params: Any, select: Select | None = None, /, *, allow_empty: bool = False) -> Any:
    """Return the tree with the selected parameters, or all that `freeze` has fixed, trained again.

    A constant or running statistic, which was never frozen, is only meant by a select that spells out its
    whole name.

    >>> unfreeze(freeze({"embed": {"weight": 1.0}}, ".*"))
    {'embed': {'weight': 1.0}}

    Raises:
        NoMatchError: where the select hits nothing, or nothing but constants, unless `allow_empty`.
    """
    found = apply_select(params, select, allow_empty)
    names, kinds = found.structure.names, fixed_names(found.structure)
    given = None if select is None else freeze_select(select)
    constant = [
        at for at in found.places if kinds.get(names[at]) is Fixed and not spells_out(given, names[at])
    ]
    if constant and len(constant) == len(found.places) and not (allow_empty or select is None):
        held = listing([names[at] for at in constant], 6)
        raise NoMatchError(
            f"unfreeze: select {describe_select(given)} hits only constants, which were never frozen: "
            f"{held}. Spell out the whole name to mean it."
        )
    left = set(constant)
    places = [at for at in found.places if at not in left]
    return _rewrap(params, found, places, lambda held: held.value if isinstance(held, Fixed) else held)


def _rewrap(params: Any, found: Selection, places: Sequence[int], change: Callable[[Any], Any]) -> Any:
    hit = [False] * len(found.leaves)
    for place in places:
        hit[found.structure.indices[place]] = True
    held, treedef = flatten_tree(params, is_transparent)
    hits = iter(hit)
    # a transparent node holds one leaf as a rule, but none where a mask has put a hole into it
    chosen = [max((next(hits) for _ in jax.tree.leaves(node)), default=False) for node in held]
    return treedef.unflatten([change(node) if yes else node for yes, node in zip(chosen, held, strict=True)])


def trainable(name: str, leaf: Any, /) -> bool:
    """Tell whether a parameter is not fixed: a predicate to select with.

    >>> from paramtree.tree import collect_params
    >>> list(collect_params({"w": 1.0, "running_mean": Fixed(0.0)}, trainable))
    ['w']
    """
    del name
    return not isinstance(leaf, Fixed)
