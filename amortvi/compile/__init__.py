"""Recording of Python code as a graph of tensor operations, verified as it runs; `svi` records the steps of Pyro's SVI."""

from __future__ import annotations

from typing import Literal, TypeAlias

from amortvi.compile.audit import AUDIT_EVERY, Verify, check_verify
from amortvi.compile.recordable_optimizer import (
    RecordableOptimizer,
    fuse,
    is_recordable,
    needs_closure,
    optimizer_options,
    optimizer_tensors,
    place_optimizer_state,
    share_counters,
    take_step,
    without_dynamo,
)
from amortvi.compile.verified_graph import MismatchError, VerifiedGraph, memory_of
from amortvi.errors import OptionError

__all__ = [
    "AUDIT_EVERY",
    "COMPILE_AFTER",
    "RECORD_AFTER",
    "CompileChoice",
    "MismatchError",
    "RecordableOptimizer",
    "VerifiedGraph",
    "Verify",
    "check_compile_choice",
    "check_verify",
    "fuse",
    "is_recordable",
    "memory_of",
    "needs_closure",
    "optimizer_options",
    "optimizer_tensors",
    "place_optimizer_state",
    "share_counters",
    "take_step",
    "without_dynamo",
]

CompileChoice: TypeAlias = bool | Literal["auto"]
"""Whether steps run as graphs: ``"auto"`` after `RECORD_AFTER` steps, ``True`` at once and compiled, ``False`` never."""

RECORD_AFTER = 20
"""Steps of one shape before it is recorded. Recording takes as long as about 15 steps of Pyro, and a recorded step a tenth of
one, so at worst, if no step follows, a fit takes twice the time of its first 20 steps."""

COMPILE_AFTER = 100_000
"""Runs of a graph before it is compiled as well. That takes 4 seconds after another process has compiled it, and halves the time
of a small step; so many of the fastest steps take 30 seconds, so at worst, if no step follows, a fit takes a seventh longer."""


def check_compile_choice(value: object) -> CompileChoice:
    """Return ``value`` if it is a `CompileChoice`, and otherwise raise `OptionError`, even for 0 and 1."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value == "auto":
        return "auto"
    raise OptionError(f'compile must be True, False or "auto"; got {value!r}.')
