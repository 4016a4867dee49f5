"""Recording of Python code as one graph of tensor operations, and its compilation; `svi` compiles the steps of Pyro's SVI."""

from __future__ import annotations

from typing import Literal, TypeAlias

from amortvi.compile.compiled_function import CompiledFunction
from amortvi.compile.recordable_optimizer import (
    RecordableOptimizer,
    is_recordable,
    needs_closure,
    optimizer_options,
    optimizer_tensors,
    place_optimizer_state,
)
from amortvi.errors import OptionError

__all__ = [
    "CompileChoice",
    "CompiledFunction",
    "RecordableOptimizer",
    "check_compile_choice",
    "is_recordable",
    "needs_closure",
    "optimizer_options",
    "optimizer_tensors",
    "place_optimizer_state",
]

CompileChoice: TypeAlias = bool | Literal["auto"]
"""Whether to compile: always, never, or if enough steps follow to make up for the time that compiling takes."""


def check_compile_choice(value: object) -> CompileChoice:
    """Return ``value`` if it is a `CompileChoice`, and otherwise raise `OptionError`, even for 0 and 1."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value == "auto":
        return "auto"
    raise OptionError(f'compile must be True, False or "auto"; got {value!r}.')
