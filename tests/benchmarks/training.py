"""Jobs of training: the same networks in each library, with the same optimiser and dtype."""

import sys
from functools import lru_cache, partial
from importlib import import_module

import jax
from timing import compile_time, interleaved

_PEERS = ("optax", "flax", "equinox")


def step_job(network, repeat=False):
    """Train one step, compiled and warm: forward, backward, the optimiser, and the running statistics."""
    ways = {name: training for name, (_, training) in _compiled_once(network, repeat).items()}
    if here := library("paramtree"):
        ways["paramtree, pt.train_step"] = getattr(here, network)(make=here.by_train_step)
        unchecked = partial(here.by_train_step, check_finite=False)
        ways["paramtree, pt.train_step, check_finite=False"] = getattr(here, network)(make=unchecked)
    assert len({training.size for training in ways.values()}) <= 1, "these networks are not the same"
    calls = {name: _stepping(training) for name, training in ways.items()}
    for _, call in list(calls.items()) * 2:
        call()  # compiles
    return interleaved(calls, 9)


def compile_job(network, repeat=False):
    """Trace, lower and compile that step, with nothing in any cache."""
    return _seconds(_compiled_once(network, repeat))


@lru_cache(maxsize=1)
def _compiled_once(network, repeat):
    """Compile once for both jobs of a network."""
    return _compiled(_ways(network, repeat))


def depth_job(depth):
    """Compile the step of a Transformer of many blocks, in a Python loop and repeated."""
    here = library("paramtree")
    ways = {
        "a Python loop": partial(here.transformer, depth),
        "nn.Repeat": partial(here.transformer, depth, repeat=True),
    }
    return _seconds(_compiled(ways if here else {}))


def _ways(network, repeat):
    """Give what makes the network, by the name of its row."""
    libraries = {name: library(name) for name in ("paramtree", "linen", "equinox")}
    ways = {name: getattr(library, network) for name, library in libraries.items() if library}
    if repeat and ways:
        ways["paramtree, nn.Repeat"] = partial(ways["paramtree"], repeat=True)
    return ways


def library(name):
    try:
        return import_module(f"with_{name}")
    except ModuleNotFoundError as error:
        if error.name not in _PEERS:
            raise
        print(f"{error.name} is not installed: the rows of {name} are left out", file=sys.stderr)
        return None


def _stepping(training):
    state = training.state

    def call():
        nonlocal state
        state, _ = jax.block_until_ready(training.step(training.batch, state))

    return call


def _seconds(compiled):
    return {name: seconds for name, (seconds, _) in compiled.items()}


def _compiled(ways):
    """Give the seconds that each way takes to compile, and what trains by what was compiled."""
    made, found = {name: make() for name, make in ways.items()}, {}
    for name, training in made.items():
        seconds, step = compile_time(training.step, training.batch, training.state)
        found[name] = seconds, training._replace(step=step)
    return found
