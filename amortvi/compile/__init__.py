"""Compilation: record Python code as one graph of tensor operations and compile it; `svi` compiles the steps of Pyro's SVI."""

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
