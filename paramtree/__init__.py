"""Model parameters in JAX as what they are: a plain nested dict of arrays, addressed by name.

The API at a glance (`import paramtree as pt`):

- look up: `collect_params`, `names`, `get`
- change: `update`, `map_params`, `rename`, `cast`, `reinit`
- split: `partition`, `merge`, `mask`, `label_params`, `flatten`, `unflatten`, `stack`, `unstack`
- tie: `Alias`, `tie`, `untie`, `find_tied`, `resolve`
- fix: `Fixed`, `Frozen`, `freeze`, `unfreeze`, `trainable`
- model: `Module`, `module`, `Scope`, `ParamSpec`, `wrap`, `bind`; layers in `nn`, initialisers in `init`
- files: `save`, `load`, `plan_load`, `LoadPlan`; other programs' names: `renaming`
- look at: `summary`, `stats`, `show`, `plot`, `track`; the results: `Summary`, `Stats`, `View`, `Tracker`
- compare, check: `diff`, `Diff`; `find_nonfinite`, `Nonfinite`, `check_finite`, `nonfinite_mask`
- train: `train_step`, `TrainState`, `TrainStep`, `group_optimizers`, `fuse`, `unfuse`, `Fused`
- scale: `plan_sharding`, `ShardingPlan`, `shardings`, `shard`; `init(shardings=)` of a module
- errors: `ParamTreeError` and those below it

A *name* is a leaf's path, its keys joined with `/`. A *select* says which parameters: a regular expression of
the whole name, a predicate `(name, leaf) -> bool`, or a list of these. *Rules* are an ordered mapping
select -> value; the first that matches wins. Nothing about them is ever silent.
"""

import importlib as _importlib
import typing as _typing

from paramtree import init
from paramtree.bind import Bound, Parameter, bind
from paramtree.draw import ParamSpec, reinit
from paramtree.errors import (
    BadNameError,
    MismatchError,
    NoMatchError,
    ParamTreeError,
    RuleError,
    SelectError,
    TieError,
    UnknownNameError,
)
from paramtree.module import Module, module
from paramtree.nodes import Alias, Fixed, Frozen, Node, resolve
from paramtree.scope import Scope
from paramtree.stack import stack, unstack
from paramtree.ties import find_tied, freeze, tie, trainable, unfreeze, untie
from paramtree.tree import (
    ParamDict,
    cast,
    collect_params,
    flatten,
    get,
    label_params,
    map_params,
    mask,
    merge,
    names,
    partition,
    rename,
    unflatten,
    update,
)
from paramtree.wrap import wrap

if _typing.TYPE_CHECKING:
    from paramtree import nn, renaming
    from paramtree.checkpoint import LoadPlan, load, plan_load, save
    from paramtree.compare import Diff, diff
    from paramtree.report.finite import Nonfinite, check_finite, find_nonfinite, nonfinite_mask
    from paramtree.report.plot import plot
    from paramtree.report.stats import Stats, stats
    from paramtree.report.summary import Summary, summary
    from paramtree.report.track import Tracker, track
    from paramtree.report.view import View, show
    from paramtree.sharding import ShardingPlan, plan_sharding, shard, shardings
    from paramtree.train import Fused, TrainState, TrainStep, fuse, group_optimizers, train_step, unfuse

__version__ = "0.1.0"

__all__ = [
    "ParamDict", "collect_params", "names", "get",
    "update", "map_params", "rename", "cast", "reinit",
    "partition", "merge", "mask", "label_params", "flatten", "unflatten",
    "stack", "unstack",
    "Node", "Alias", "tie", "untie", "find_tied", "resolve",
    "Fixed", "Frozen", "freeze", "unfreeze", "trainable",
    "Module", "module", "Scope", "ParamSpec", "wrap", "Bound", "Parameter", "bind", "nn", "init",
    "save", "load", "plan_load", "LoadPlan", "renaming", "diff", "Diff",
    "summary", "Summary", "stats", "Stats", "find_nonfinite", "Nonfinite", "check_finite", "nonfinite_mask",
    "show", "View", "plot", "track", "Tracker",
    "train_step", "TrainState", "TrainStep", "group_optimizers", "fuse", "unfuse", "Fused",
    "plan_sharding", "ShardingPlan", "shardings", "shard",
    "ParamTreeError", "SelectError", "NoMatchError", "RuleError", "BadNameError", "UnknownNameError",
    "MismatchError", "TieError",
]  # fmt: skip

_AT_FIRST_USE = {
    "nn": "paramtree.nn",
    "renaming": "paramtree.renaming",
    "load": "paramtree.checkpoint",
    "save": "paramtree.checkpoint",
    "plan_load": "paramtree.checkpoint",
    "LoadPlan": "paramtree.checkpoint",
    "diff": "paramtree.compare",
    "Diff": "paramtree.compare",
    "summary": "paramtree.report.summary",
    "Summary": "paramtree.report.summary",
    "stats": "paramtree.report.stats",
    "Stats": "paramtree.report.stats",
    "find_nonfinite": "paramtree.report.finite",
    "Nonfinite": "paramtree.report.finite",
    "check_finite": "paramtree.report.finite",
    "nonfinite_mask": "paramtree.report.finite",
    "show": "paramtree.report.view",
    "View": "paramtree.report.view",
    "plot": "paramtree.report.plot",
    "track": "paramtree.report.track",
    "Tracker": "paramtree.report.track",
    "plan_sharding": "paramtree.sharding",
    "ShardingPlan": "paramtree.sharding",
    "shardings": "paramtree.sharding",
    "shard": "paramtree.sharding",
    "train_step": "paramtree.train",
    "TrainState": "paramtree.train",
    "TrainStep": "paramtree.train",
    "group_optimizers": "paramtree.train",
    "fuse": "paramtree.train",
    "unfuse": "paramtree.train",
    "Fused": "paramtree.train",
}


def __getattr__(name: str) -> _typing.Any:
    """Import layers, files and reports when they are first asked for: importing the package is quick."""
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module 'paramtree' has no attribute {name!r}")
    home = _importlib.import_module(_AT_FIRST_USE[name])
    is_module = home.__name__.endswith(f".{name}") and not hasattr(home, name)
    globals()[name] = found = home if is_module else getattr(home, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
