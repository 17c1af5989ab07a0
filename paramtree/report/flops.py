"""How many floating-point operations a function takes, as XLA counts them."""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from paramtree.names import untyped_jax


def count_flops(function: Callable[..., Any], *inputs: Any) -> int | None:
    """Count the operations of one call, for inputs of these shapes; None where XLA does not say.

    XLA counts what is in a loop once; for `jax.lax.scan`, whose length is known, this is put right. A
    `jax.lax.while_loop` remains counted once.

    >>> count_flops(lambda x: x @ x, jax.ShapeDtypeStruct((4, 4), "float32"))
    128
    """
    found = _flops(jax.make_jaxpr(function)(*inputs))
    return None if found is None else round(found)


def _flops(jaxpr: Any) -> float | None:
    total = _counted_once(jaxpr)
    for scan in _scans(jaxpr.jaxpr):
        body = scan.params["jaxpr"]
        once, whole = _counted_once(body), _flops(body)
        if total is None or once is None or whole is None:
            return None
        total += scan.params["length"] * whole - once
    return total


def _counted_once(jaxpr: Any) -> float | None:
    from jax.extend import core  # loads more than all of this package does

    lowered = untyped_jax.jit(core.jaxpr_as_fun(jaxpr)).lower(*jaxpr.in_avals)
    found = lowered.cost_analysis() or {}
    return found.get("flops")


def _scans(jaxpr: Any) -> Iterator[Any]:
    """Give the loops of a program that are in no other loop."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
            continue
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(part):
                yield from _scans(getattr(part, "jaxpr", part))


def _is_program(value: object) -> bool:
    from jax.extend import core

    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
