"""Timing: ways to do one job are timed in turns, so that a busy machine slows all of them alike."""

import gc
import random
import time
from statistics import median

import jax


def interleaved(ways, rounds, inner=1):
    """Time each way `inner` times in each round, taking turns; give the median seconds of one call.

    What is called more than once a round is called once more before, so that all its calls are warm.
    """
    times = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(rounds):
        # in any order, so that no way always follows the one that leaves the caches cold
        for name, call in order.sample(list(ways.items()), len(ways)):
            if inner > 1:
                call()
            start = time.perf_counter()
            for _ in range(inner):
                call()
            times[name].append((time.perf_counter() - start) / inner)
    return {name: median(each) for name, each in times.items()}


def compile_time(jitted, *arguments):
    """Trace, lower and compile a function when nothing has been traced; give the seconds, and what comes."""
    jax.clear_caches()
    gc.collect()
    start = time.perf_counter()
    compiled = jitted.lower(*arguments).compile()
    return time.perf_counter() - start, compiled
