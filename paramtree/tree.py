"""The verbs: look parameters up, change them, split a tree and put it together.

All are pure functions; the tree comes first. What depends on the structure alone is worked out once per
structure, on a tree of integers (`names.Plan`), and kept in bounded caches.
"""

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from paramtree import display
from paramtree.errors import (
    HINTED,
    BadNameError,
    MismatchError,
    UnknownNameError,
    did_you_mean,
    listing,
    raise_faults,
)
from paramtree.names import (
    SEPARATOR,
    Picker,
    Plan,
    Structure,
    flatten_named,
    in_order,
    index_tree,
    is_dict,
    is_under,
    join,
    key_fault,
    natural_name_key,
    nest,
    picker,
    structure_of,
    untyped_jax,
)
from paramtree.nodes import (
    Alias,
    Fixed,
    Frozen,
    gather_aliases,
    is_node,
    resolve,
    spread_aliases,
    tied_names,
    whole_ties,
)
from paramtree.select import (
    REQUIRED,
    Rule,
    Rules,
    Select,
    apply_rules,
    apply_select,
    check_rules,
    expand_template,
    numbered,
    parse_rules,
)


class ParamDict(dict[str, Any]):
    """Parameters by name, in natural order: a dict, a pytree, and what the chapter prints.

    Made by `collect_params`. It shows tied places too, constants, and what `freeze` has fixed, when it comes
    from a tree that has them; these notes are for the eye, and do not pass through `jit` or `jax.tree.map`.

    >>> collect_params({"dense0": {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)}})
    dense0 (
      Parameter dense0/weight (shape=(2, 3), dtype=float32)
      Parameter dense0/bias (shape=(2,), dtype=float32)
    )
    """

    title: str = ""
    fixed: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()  # of those, what `freeze` has fixed
    tied: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:
        return display.block_text(self._title(), [line for _, line in sorted(self._lines())])

    def _title(self) -> str:
        if self.title:
            return self.title
        blocks = {name.rpartition("/")[0] for name in self}
        return (blocks.pop() if len(blocks) == 1 else "") or "params"

    def _kind(self, name: str) -> str:
        if name not in self.fixed:
            return "Parameter"
        return "Frozen" if name in self.frozen else "Constant"

    def _lines(self) -> Iterator[tuple[Any, str]]:
        for name, leaf in self.items():
            yield natural_name_key(name), display.parameter_line(name, leaf, self._kind(name))
        for place, target in self.tied.items():
            yield natural_name_key(place), f"{place} -> {target}"

    def to_html(self) -> str:
        """Write the parameters as an HTML table, as a notebook shows them."""
        rows = [
            (name, *_shape_and_dtype(leaf), self._kind(name).lower() if name in self.fixed else "")
            for name, leaf in self.items()
        ]
        rows += [(place, "", "", f"tied to {target}") for place, target in self.tied.items()]
        rows.sort(key=lambda row: natural_name_key(row[0]))
        return display.table_html(self._title(), ("name", "shape", "dtype", ""), rows)

    def _repr_html_(self) -> str:
        return self.to_html()


def _flatten_with_keys(found: ParamDict) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    return tuple((jax.tree_util.DictKey(name), leaf) for name, leaf in found.items()), tuple(found)


def _flatten_dict(found: ParamDict) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    return tuple(found.values()), tuple(found)


def _unflatten_dict(names: tuple[str, ...], leaves: Iterable[Any]) -> ParamDict:
    return ParamDict(zip(names, leaves, strict=True))


untyped_jax.tree_util.register_pytree_with_keys(ParamDict, _flatten_with_keys, _unflatten_dict, _flatten_dict)


def _shape_and_dtype(leaf: Any) -> tuple[str, str]:
    if is_array_like(leaf):
        return display.shape_text(leaf.shape), str(leaf.dtype)
    return "", repr(leaf)


# look up


def collect_params(params: Any, /, select: Select | None = None, *, allow_empty: bool = False) -> ParamDict:
    """Collect parameters, flat, by name, in natural order.

    The result is a pytree, so a part of a tree is trained by
    `grad(lambda part: loss(update(params, part)))(collect_params(params, select))`.

    Args:
        params: any tree of parameters.
        select: which ones; all, if left out. A tied parameter is seen once, where it lives.
        allow_empty: return an empty dict where the select hits nothing.

    >>> params = {"dense0": {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)}}
    >>> list(collect_params(params, ".*bias"))
    ['dense0/bias']

    Raises:
        NoMatchError: where the select hits nothing, with the names that are near.
        SelectError: where it is not a select.
    """
    found = apply_select(params, select, allow_empty)
    names, pick = _chosen(found.structure, found.places)
    collected = ParamDict(names)  # a copy has its final size: filling it is faster than growing it
    collected.update(zip(names, pick(found.leaves), strict=True))
    collected.fixed, collected.frozen, tied = _notes(found.structure, select is None)
    collected.tied = dict(tied)  # a copy: the notes are kept for the next call
    return collected


@lru_cache(maxsize=64)
def _chosen(structure: Structure, places: tuple[int, ...]) -> tuple[dict[str, None], Picker]:
    pick = picker(places)
    return dict.fromkeys(pick(structure.names)), picker(pick(structure.indices))


@lru_cache(maxsize=64)
def _notes(structure: Structure, whole: bool) -> tuple[frozenset[str], frozenset[str], Mapping[str, str]]:
    tied = {place: str(node) for place, node in structure.leafless.items() if isinstance(node, Alias)}
    return frozenset(fixed_names(structure)), frozen_names(structure), tied if whole else {}


def frozen_names(structure: Structure) -> frozenset[str]:
    """Give the names of all that `freeze` holds fixed, constants and statistics not among them."""
    return frozenset(name for name, kind in fixed_names(structure).items() if issubclass(kind, Frozen))


@lru_cache(maxsize=64)
def fixed_names(structure: Structure) -> Mapping[str, type[Fixed]]:
    """Map the names of all leaves of a structure that are held fixed to the kind of what holds them."""
    held = [node for node in structure.containers if isinstance(node, Fixed)]
    # from the innermost outwards: the outermost tells the kind
    kinds = {index: type(node) for node in reversed(held) for index in jax.tree.leaves(node)}
    if not kinds:
        return MappingProxyType({})
    named = zip(structure.names, structure.indices, strict=True)
    return MappingProxyType({name: kinds[index] for name, index in named if index in kinds})


def names(params: Any, /) -> list[str]:
    """List the names of all parameters, in natural order; a tied one once, where it lives.

    >>> names({"layer10": {"bias": 0.0}, "layer2": {"bias": 0.0, "weight": 0.0}})
    ['layer2/weight', 'layer2/bias', 'layer10/bias']
    """
    return list(structure_of(params).names)


def get(params: Any, name: str, /) -> Any:
    """Get one parameter by its name; a tied place gives the parameter that it shares.

    >>> get({"dense0": {"bias": 0.5}, "dense1": Alias("dense0")}, "dense1/bias")
    0.5

    Raises:
        UnknownNameError: where no parameter has the name, with the names that are near.
    """
    if not isinstance(name, str):
        raise UnknownNameError(f"get takes one name, and got {name!r}; collect_params takes selects.")
    leaves, structure = flatten_named(params)
    if name in structure.position:
        return leaves[structure.indices[structure.position[name]]]
    if name in whole_ties(structure):
        plain = flat_leaves(resolve(params))
        # a leaf inside of a node is gone where the node is resolved, and has a name only in the tree
        return plain[name] if name in plain else get(params, tied_names(structure)[name])
    raise UnknownNameError(_unknown_text(structure, name))


def flat_leaves(params: Any, /) -> dict[str, Any]:
    """Map names to leaves, in natural order, as a plain dict."""
    leaves, structure = flatten_named(params)
    return {name: leaves[index] for name, index in zip(structure.names, structure.indices, strict=True)}


def _unknown_text(structure: Structure, name: str, hinted: bool = True) -> str:
    inside = [each for each in structure.names if is_under(each, name)]
    if inside:
        return f"{name!r} is a block, not a parameter. It holds {listing(inside, 6)}."
    ties = whole_ties(structure)
    if name in ties:
        return f"{name!r} is tied to {ties[name]!r}. Change the parameter where it lives."
    shared = [source for place, source in ties.items() if is_under(place, name)]
    if shared:
        return f"{name!r} is a tied block, not a parameter. What it holds is {listing(shared, 6)}."
    near = did_you_mean(name, structure.names) if hinted else ""
    if not structure.names:
        return f"{name!r} is not in the tree, which has no parameters."
    return f"{name!r} is not in the tree.{near or f' The names are {listing(structure.names, 6)}.'}"


# change


def update(params: Any, values: Mapping[str, Any], /) -> Any:
    """Return the tree with some parameters replaced, each by an array or by a function of its old value.

    >>> params = {"dense0": {"weight": jnp.ones((2, 3)), "bias": jnp.zeros(2)}}
    >>> params = update(params, {"dense0/bias": jnp.ones(2), "dense0/weight": lambda old: 2 * old})
    >>> params["dense0"]["bias"], params["dense0"]["weight"][0, 0]
    (Array([1., 1.], dtype=float32), Array(2., dtype=float32))

    Raises:
        UnknownNameError: listing every name that is not in the tree.
        MismatchError: listing every value of another shape or dtype, and every one that is not an array.
    """
    if not isinstance(values, Mapping):
        raise MismatchError(f"update takes a dict {{name: value}}, and got a {type(values).__name__}.")
    leaves, structure = flatten_named(params)
    position, indices = structure.position, structure.indices
    strangers = [name for name in values if name not in position]
    unknown = [_unknown_text(structure, name, place < HINTED) for place, name in enumerate(strangers)]
    raise_faults(UnknownNameError, "update: these names cannot be replaced:", unknown)
    faults: list[str] = []
    for name, value in values.items():
        index = indices[position[name]]
        old = leaves[index]
        new: Any = value(old) if callable(value) else value
        leaves[index] = new
        if not _alike(old, new) and (unfit := value_faults(name, old, new)):
            faults += unfit
        elif getattr(new, "weak_type", False) and not getattr(old, "weak_type", False) and is_array(new):
            leaves[index] = lax.convert_element_type(new, new.dtype)  # a compiled function knows it again
    raise_faults(MismatchError, "update: these values do not fit:", faults)
    return structure.treedef.unflatten(leaves)


def _alike(old: Any, new: Any) -> bool:
    # at a glance, as most are: asking for each fault takes several times longer
    same = type(old) is type(new) and is_array_like(old)
    return same and old.shape == new.shape and old.dtype == new.dtype


def value_faults(name: str, old: Any, new: Any) -> list[str]:
    """Say how a new value does not fit where an old one stands; an empty list where it does.

    >>> value_faults("dense0/bias", np.zeros(2, np.float32), np.zeros(3, np.float32))
    ['dense0/bias needs shape (2,), and got (3,)']
    """
    if not is_array_like(old):
        return []  # labels, masks and shardings have no shape to keep
    real = isinstance(old, jax.Array | np.ndarray)
    if is_node(new) or not (is_array(new) if real else is_array_like(new)):
        got = f"{reprlib.repr(new)} of type {type(new).__name__}"
        return [f"{name} needs an array of {display.shape_dtype(old)}, and got {got}"]
    faults: list[str] = []
    if tuple(old.shape) != tuple(new.shape):
        needs, got = display.shape_text(old.shape), display.shape_text(new.shape)
        faults.append(f"{name} needs shape {needs}, and got {got}")
    if old.dtype != new.dtype:
        hint = "convert it, or pt.cast the tree first"
        faults.append(f"{name} needs dtype {old.dtype}, and got {new.dtype}; {hint}")
    return faults


def is_array(value: object) -> bool:
    """Tell whether a value is an array, of JAX or NumPy, or says how to become one.

    >>> is_array(np.ones(2)), is_array(jax.ShapeDtypeStruct((2,), "float32"))
    (True, False)
    """
    return isinstance(value, jax.Array | np.ndarray | np.generic) or hasattr(value, "__jax_array__")


def is_array_like(leaf: Any) -> bool:
    """Tell whether a leaf is an array or says what array it stands for."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def map_params(
    fn: Callable[[str, Any], Any], params: Any, /, select: Select | None = None, *, allow_empty: bool = False
) -> Any:
    """Return the tree with `fn(name, leaf)` in place of every parameter that the select hits.

    >>> map_params(lambda name, leaf: -leaf, {"a": {"w": 1.0, "b": 2.0}}, ".*b")
    {'a': {'b': -2.0, 'w': 1.0}}

    Raises:
        NoMatchError: where the select hits nothing, unless `allow_empty`.
    """
    found = apply_select(params, select, allow_empty)
    leaves = list(found.leaves)
    for place in found.places:
        index = found.structure.indices[place]
        leaves[index] = fn(found.structure.names[place], leaves[index])
    return found.structure.treedef.unflatten(leaves)


def by_rules(params: Any, rules: Rules, change: Callable[[str, Any, Any], Any]) -> Any:
    """Return the tree with `change(name, leaf, value)` where a rule hits; the rest stays as it is."""
    leaves, structure, values = apply_rules(params, rules, default=_KEEP)
    for name, index, value in zip(structure.names, structure.indices, values, strict=True):
        if value is not _KEEP:
            leaves[index] = change(name, leaves[index], value)
    return structure.treedef.unflatten(leaves)


_KEEP: Any = object()


def cast(params: Any, rules: Rules, /) -> Any:
    """Return the tree with dtypes changed by rules, select -> dtype; what no rule hits keeps its own.

    Abstract leaves (`jax.ShapeDtypeStruct`) are cast too.

    >>> params = {"dense0": {"weight": jnp.ones(2)}, "norm0": {"gamma": jnp.ones(2)}}
    >>> cast(params, {"norm.*": "float32", ".*": "bfloat16"})["dense0"]["weight"].dtype
    dtype(bfloat16)

    Raises:
        RuleError: listing every rule that hits nothing or is shadowed, or whose value is not a dtype.
        MismatchError: listing all that would turn from an integer to a float or back, or from complex to
            real, all that is not an array, and every 64-bit dtype that JAX would narrow.
    """
    parsed = check_cast_rules(parse_rules(rules))
    faults: list[str] = []

    def change(name: str, leaf: Any, dtype: Any) -> Any:
        fault = cast_fault(name, leaf, dtype)
        if fault:
            faults.append(fault)
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
        return leaf.astype(dtype)

    changed = by_rules(params, [(rule.select, jnp.dtype(rule.value)) for rule in parsed], change)
    raise_faults(MismatchError, "cast: these parameters cannot be cast:", faults)
    return changed


def _is_dtype(value: Any) -> bool:
    try:
        jnp.dtype(value)
    except TypeError:
        return False
    return value is not None  # which NumPy takes for float64


def check_cast_rules(rules: Sequence[Rule]) -> Sequence[Rule]:
    """Return rules select -> dtype, or raise.

    Raises:
        RuleError: listing every rule whose value is not a dtype.
    """
    check_rules(rules, lambda rule: _is_dtype(rule.value), "cast: the values of these rules are not dtypes:")
    return rules


def cast_fault(name: str, leaf: Any, dtype: Any) -> str:
    """Say why a leaf cannot be cast; an empty text where it can.

    >>> cast_fault("steps", np.zeros(2, np.int32), np.dtype("float32"))
    'steps is int32, and float32 is of another kind; select the others only, or map_params it'
    """
    if not is_array_like(leaf):
        return f"{name} is {reprlib.repr(leaf)} of type {type(leaf).__name__}, not an array"
    if not _is_dtype(leaf.dtype):  # a key of jax.random, a tensor of torch
        return f"{name} is {leaf.dtype}, no dtype of NumPy; select the others only, or map_params it"
    old, narrowed = leaf.dtype, jax.dtypes.canonicalize_dtype(dtype)
    if narrowed != dtype and not isinstance(leaf, np.ndarray):
        return f"{name} would not become {dtype} but {narrowed}; set jax_enable_x64 first"
    if _kind(old) > _kind(dtype) or (_kind(old) == 0) != (_kind(dtype) == 0):
        return f"{name} is {old}, and {dtype} is of another kind; select the others only, or map_params it"
    return ""


def _kind(dtype: Any) -> int:
    """Grade dtypes: what is neither float nor complex 0, float 1, complex 2."""
    return int(jnp.issubdtype(dtype, jnp.inexact)) + int(jnp.issubdtype(dtype, jnp.complexfloating))


# split


def mask(params: Any, select: Select, /, *, allow_empty: bool = False) -> Any:
    """Return a tree of the same structure with True where the select hits, and False elsewhere.

    >>> mask({"a": {"w": 1.0, "b": 2.0}}, ".*w")
    {'a': {'b': False, 'w': True}}

    Raises:
        NoMatchError: where the select hits nothing, unless `allow_empty`.
    """
    found = apply_select(params, select, allow_empty)
    hit = [False] * len(found.leaves)
    for place in found.places:
        hit[found.structure.indices[place]] = True
    return found.structure.treedef.unflatten(hit)


def label_params(params: Any, rules: Rules, /, default: Any = REQUIRED) -> Any:
    """Return a tree of the same structure with the value of the first rule that hits each parameter.

    What `optax.partition` takes as its labels.

    >>> label_params({"a": {"w": 1.0, "b": 2.0}}, {".*b": "no_decay", ".*": "decay"})
    {'a': {'b': 'no_decay', 'w': 'decay'}}

    Raises:
        RuleError: listing every rule that hits nothing or is shadowed, and what no rule covers.
    """
    leaves, structure, values = apply_rules(params, rules, default=default)
    for index, value in zip(structure.indices, values, strict=True):
        leaves[index] = value
    return structure.treedef.unflatten(leaves)


def flatten(params: dict[str, Any], /) -> dict[str, Any]:
    """Flatten nested dicts to one plain dict: name -> leaf, node or empty dict, in natural order.

    Unlike `collect_params` it keeps nodes whole, so that `unflatten` can build the same tree again.

    >>> flatten({"shared": {"weight": 1.0}, "dense1": Alias("shared")})
    {'dense1': Alias(target='shared'), 'shared/weight': 1.0}

    Raises:
        BadNameError: listing every key that is not a non-empty string without `/`, and all but dicts that
            holds parameters.
    """
    if isinstance(params, ParamDict):
        raise BadNameError("a ParamDict is flat already; pt.unflatten it first.")
    flat: dict[str, Any] = {}
    faults: list[str] = []
    _flatten_into(flat, params, "", faults)  # in natural order, as it visits the keys of each dict
    raise_faults(BadNameError, "only nested dicts with keys that can be names can be taken apart:", faults)
    return flat


def _flatten_into(flat: dict[str, Any], node: Any, name: str, faults: list[str]) -> None:
    if is_dict(node) and (node or not name):
        lead = f"{name}{SEPARATOR}" if name else ""
        for key in in_order(node):
            if fault := key_fault(key):
                faults.append(f"the key {key!r}{f' in {name!r}' if name else ''} {fault}")
            elif type(child := node[key]) is int:  # as all of an index tree are
                flat[f"{lead}{key}"] = child
            else:
                _flatten_into(flat, child, f"{lead}{key}", faults)
    elif name and (is_node(node) or is_dict(node) or _is_leaf(node)):
        flat[name] = node
    else:
        faults.append(f"{name or 'the tree'} is of type {type(node).__name__}, not a dict")


def _is_leaf(node: Any) -> bool:
    return jax.tree_util.all_leaves([node])


def _flat_positions(structure: Structure) -> dict[str, Any]:
    """Flatten the index tree of a structure."""
    if structure.containers or structure.odd_keys:
        return flatten(index_tree(structure.treedef))
    return dict(zip(structure.names, structure.indices, strict=True))  # nested dicts, and nothing else


def unflatten(flat: Mapping[str, Any], /) -> dict[str, Any]:
    """Build nested dicts from name -> leaf, node or empty dict: the inverse of `flatten`.

    >>> unflatten({"dense0/weight": 1.0, "dense0/bias": 2.0})
    {'dense0': {'weight': 1.0, 'bias': 2.0}}

    Raises:
        BadNameError: listing every name with an empty key, and every name that is also a block.
    """
    return nest(dict(flat))


def partition(
    params: dict[str, Any], select: Select, /, *, allow_empty: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a tree into (selected, rest), two pruned nested dicts that `merge` puts together again.

    An alias goes with the parameters it shares where all of them are selected, and with the rest otherwise.

    >>> partition({"a": {"w": 1.0, "b": 2.0}, "c": {"w": 3.0}}, ".*w")
    ({'a': {'w': 1.0}, 'c': {'w': 3.0}}, {'a': {'b': 2.0}})

    Raises:
        NoMatchError: where the select hits nothing, unless `allow_empty`.
        BadNameError: where the tree is not made of dicts with keys that can be names.
        MismatchError: where the select would split a node that has several leaves.
    """
    found = apply_select(params, select, allow_empty)
    selected, rest = _partition_plans(found.structure, found.places)
    return selected.build(found.leaves), rest.build(found.leaves)


@lru_cache(maxsize=64)
def _partition_plans(structure: Structure, places: tuple[int, ...]) -> tuple[Plan, Plan]:
    chosen = {structure.indices[place] for place in places}
    chosen_names = {structure.names[place] for place in places}
    sources = tied_names(structure)
    sides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    faults: list[str] = []
    for name, value in _flat_positions(structure).items():
        if type(value) is int:
            sides[value not in chosen][name] = value
            continue
        below = jax.tree.leaves(value)
        if isinstance(value, Alias):
            shared = [source for place, source in sources.items() if is_under(place, name)]
            taken = bool(shared) and chosen_names.issuperset(shared)
        else:
            taken = bool(below) and chosen.issuperset(below)
            if not taken and not chosen.isdisjoint(below):
                faults.append(f"{name} is one {type(value).__name__}; select all of it, or none")
        sides[not taken][name] = value
    raise_faults(MismatchError, "partition: a node cannot be split:", faults)
    return Plan.of(nest(sides[0])), Plan.of(nest(sides[1]))


def merge(*trees: dict[str, Any]) -> dict[str, Any]:
    """Put trees with no parameter in common together: the inverse of `partition`.

    >>> merge({"a": {"w": 1.0}}, {"a": {"b": 2.0}, "c": 3.0})
    {'a': {'w': 1.0, 'b': 2.0}, 'c': 3.0}

    Raises:
        BadNameError: listing every name that two of the trees hold; or where one is no dict, or flat.
    """
    faults: list[str] = []
    merged: dict[str, Any] = {}
    for tree in trees:
        if not is_dict(tree):
            raise BadNameError(f"merge: takes nested dicts, and got one of type {type(tree).__name__}.")
        flat = [key for key in tree if isinstance(key, str) and SEPARATOR in key]
        if flat:
            held = listing([repr(key) for key in flat], 3)
            raise BadNameError(f"merge: takes nested dicts, and one is flat: {held}. pt.unflatten it first.")
        _merge_into(merged, tree, "", faults)
    headline = "merge: these names are in two trees; take them out of one, or pt.update instead:"
    raise_faults(BadNameError, headline, faults)
    return merged


def _merge_into(merged: dict[str, Any], tree: dict[str, Any], name: str, faults: list[str]) -> None:
    for key, value in tree.items():
        if key not in merged:
            merged[key] = _copied(value) if is_dict(value) else value
        elif is_dict(merged[key]) and is_dict(value):
            _merge_into(merged[key], value, join(name, str(key)), faults)
        else:
            faults.append(join(name, str(key)))


def _copied(block: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if is_dict(value) else value for key, value in block.items()}


# rename


def rename(params: dict[str, Any], rules: Mapping[str, str], /) -> dict[str, Any]:
    r"""Return the tree with names changed by rules: pattern of the whole name -> template, as in `re`.

    Ties follow: an alias is renamed like a parameter, and still finds what it shares.

    >>> rename({"layer": {"0": {"w": 1.0}, "1": {"w": 2.0}}}, {r"layer/(\d+)/w": r"layer\1/weight"})
    {'layer0': {'weight': 1.0}, 'layer1': {'weight': 2.0}}

    Raises:
        RuleError: listing every rule that hits nothing or is shadowed, or every one that is not a text, or a
            template that does not fit its pattern.
        BadNameError: listing every new name that two parameters would share, or that cannot be a name.
    """
    leaves, structure = flatten_named(params)
    parsed = tuple(parse_rules(rules))
    headline = "rename: takes pattern -> template, both texts; these rules are not:"
    check_rules(parsed, lambda rule: _is_text(rule.select) and isinstance(rule.value, str), headline)
    return _rename_plan(structure, parsed).build(leaves)


def _is_text(select: object) -> bool:
    return isinstance(select, str | re.Pattern)


@lru_cache(maxsize=64)
def _rename_plan(structure: Structure, rules: tuple[Rule, ...]) -> Plan:
    tied_names(structure)  # raises where a tie is broken
    whole = _flat_positions(structure)
    flat = spread_aliases(whole)
    new = _new_names(structure, tuple(flat), rules)
    if len(set(new.values())) < len(new):
        _raise_shared(new)

    def follow(node: Any) -> Any:
        return Alias(_renamed(node.target, new), node.transpose) if isinstance(node, Alias) else node

    renamed = {
        new[name]: value if type(value) is int else jax.tree.map(follow, value, is_leaf=_is_alias)
        for name, value in flat.items()
    }
    spread = {name: _block_of(name, whole) for name in flat if name not in whole}
    depths = {name: name[len(block) :].count(SEPARATOR) for name, block in spread.items()}
    blocks = {new[name].rsplit(SEPARATOR, depth)[0] for name, depth in depths.items()}
    return Plan.of(gather_aliases(nest(renamed), {new[name] for name in spread}, blocks))


def _raise_shared(new: Mapping[str, str]) -> None:
    by_new: dict[str, list[str]] = {}
    for old, name in new.items():
        by_new.setdefault(name, []).append(old)
    faults = [f"{name!r} would be {' and '.join(olds)}" for name, olds in by_new.items() if len(olds) > 1]
    raise_faults(BadNameError, "rename: two parameters would have one name:", faults)


def _block_of(name: str, known: Mapping[str, Any]) -> str:
    """Give the nearest known name that a name lies in."""
    while name not in known:
        name = name.rpartition(SEPARATOR)[0]
    return name


def _is_alias(value: object) -> bool:
    return isinstance(value, Alias)


def _renamed(target: str, new: dict[str, str]) -> str:
    """Follow a target; one that lies inside of a node moves with the node."""
    whole = _block_of(target, new)
    return new[whole] + target[len(whole) :]


def _new_names(structure: Structure, names: tuple[str, ...], rules: tuple[Rule, ...]) -> dict[str, str]:
    # where each name is a leaf's, their order is known
    named = index_tree(structure.treedef) if names == structure.names else dict.fromkeys(names, 0)
    _, structure, winners = apply_rules(named, numbered(rules), default=None)
    by_name: dict[str, int | None] = dict(zip(structure.names, winners, strict=True))
    return {
        name: name if at is None else expand_template(rules[at].select, name, rules[at].value)
        for name, at in by_name.items()
    }
