"""One training step behind one contract: eager, the reference, or compiled."""

from amortvi.engine.auto import AutoStep, Budget, CompileChoice, is_compile_choice
from amortvi.engine.compiled import CompiledEstimation, CompiledStep
from amortvi.engine.eager import EagerEstimation, EagerStep
from amortvi.engine.optimizers import place_state
from amortvi.engine.state import State
from amortvi.engine.step import CompilingStep, FoundLateError, Step
from amortvi.engine.totals import Averages, Totals
from amortvi.engine.update import Estimation, Update

__all__ = [
    "AutoStep",
    "Averages",
    "Budget",
    "CompileChoice",
    "CompiledEstimation",
    "CompiledStep",
    "CompilingStep",
    "EagerEstimation",
    "EagerStep",
    "Estimation",
    "FoundLateError",
    "State",
    "Step",
    "Totals",
    "Update",
    "is_compile_choice",
    "place_state",
]
