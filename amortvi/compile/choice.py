"""The user's choice whether to compile."""

from __future__ import annotations

from typing import Literal, TypeAlias

from amortvi.errors import OptionError

__all__ = ["CompileChoice", "check_compile_choice"]

CompileChoice: TypeAlias = bool | Literal["auto"]
"""Compile every step, no step, or the steps for which it pays."""


def check_compile_choice(value: object) -> CompileChoice:
    """Return ``value`` if it is a `CompileChoice`.

    Raises:
        OptionError: it is something else; 0 and 1 are refused too.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value == "auto":
        return "auto"
    raise OptionError(f'compile must be True, False or "auto"; got {value!r}.')
