"""The rules of `--rename` and `--cast`, read from what was typed."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from paramtree import renaming
from paramtree.errors import RuleError, did_you_mean

_READY: dict[str, Callable[..., Any]] = {
    "haiku": renaming.haiku,
    "linen": renaming.linen,
    "nnx": renaming.nnx,
    "torch": renaming.torch,
}
_KINDS = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
_COMMON = ("bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "int8", "int32")


def read_renames(texts: Sequence[str] | None, invert: bool = False) -> Any:
    r"""Read the rules of `--rename`; None where there are none.

    >>> read_renames([r"(.*)\.w=\1/weight", "step="])
    [('(.*)\\.w', '\\1/weight'), ('step', None)]

    Args:
        texts: PATTERN=TEMPLATE, or the name of a ready set.
        invert: whether the rules are used backwards.

    Raises:
        RuleError: for a text that is no rule, several ready sets, and what cannot be inverted.
    """
    if not texts:
        if invert:
            raise RuleError("--invert is for the rules of --rename, and there are none.")
        return None
    ready = [text for text in texts if text in _READY]
    rules = [_rename_of(text) for text in texts if text not in _READY]
    if len(ready) > 1:
        raise RuleError(f"--rename takes one ready set, and not {' and '.join(ready)}.")
    found = _READY[ready[0]](blocks=rules or None) if ready else rules
    return renaming.invert(found) if invert else found


def _rename_of(text: str) -> tuple[str, str | None]:
    # the last one, as a pattern may hold others: (?=...), (?P=name)
    pattern, equals, template = text.rpartition("=")
    if not equals or not pattern:
        raise RuleError(
            f"--rename {text!r} is neither PATTERN=TEMPLATE nor a ready set.{did_you_mean(text, _READY)} "
            f"The ready sets are {', '.join(_READY)}."
        )
    return pattern, template or None


def read_casts(texts: Sequence[str] | None) -> Any:
    """Read the rules of `--cast`; None where there are none.

    >>> read_casts(["head/.*=float32"])
    [('head/.*', dtype('float32'))]

    Args:
        texts: PATTERN=DTYPE, or DTYPE for all parameters of its kind.

    Raises:
        RuleError: for what is no dtype.
    """
    return [_cast_of(text) for text in texts] if texts else None


def _cast_of(text: str) -> tuple[Any, Any]:
    pattern, equals, word = text.rpartition("=")
    try:
        dtype = jnp.dtype(word)
    except TypeError:
        raise RuleError(
            f"--cast {text!r}: {word!r} is no dtype.{did_you_mean(word, _COMMON)} "
            "Write a DTYPE such as bfloat16, or PATTERN=DTYPE."
        ) from None
    return (pattern if equals else _kind_of(dtype)), dtype


def _kind_of(dtype: Any) -> Callable[[str, Any], bool]:
    """Give the select of all parameters that are of one kind with a dtype: whole numbers, floats, ..."""
    kind = next((each for each in _KINDS if jnp.issubdtype(dtype, each)), dtype)

    def of_its_kind(name: str, leaf: Any) -> bool:
        del name
        return bool(jnp.issubdtype(leaf.dtype, kind))

    return of_its_kind
