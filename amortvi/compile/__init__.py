"""Compilation: Python code recorded as one graph of tensor operations, and compiled; and Pyro's `SVI` on top of it."""

from amortvi.compile.choice import CompileChoice, check_compile_choice
from amortvi.compile.compiled_function import CompiledFunction
from amortvi.compile.recordable_optimizer import (
    RecordableOptimizer,
    is_recordable,
    needs_closure,
    optimizer_options,
    optimizer_tensors,
    place_optimizer_state,
)

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
