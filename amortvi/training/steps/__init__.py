"""Training steps: eager ones, which are the reference, and compiled ones with the same interface."""

from amortvi.training.steps.auto import AutoStep, Budget, Engine
from amortvi.training.steps.compiled import CompiledEstimation, CompiledStep
from amortvi.training.steps.eager import EagerEstimation, EagerStep
from amortvi.training.steps.step import Averages, CompilingStep, LateNonFiniteError, Step, Totals
from amortvi.training.steps.update import Estimation, Update

__all__ = [
    "AutoStep",
    "Averages",
    "Budget",
    "CompiledEstimation",
    "CompiledStep",
    "CompilingStep",
    "EagerEstimation",
    "EagerStep",
    "Engine",
    "Estimation",
    "LateNonFiniteError",
    "Step",
    "Totals",
    "Update",
]
