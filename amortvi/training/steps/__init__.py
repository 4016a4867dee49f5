"""Training steps: eager ones, which are the reference, and graphs of them with the same interface."""

from amortvi.training.steps.compiled import CompiledEstimation, CompiledStep
from amortvi.training.steps.eager import EagerEstimation, EagerStep
from amortvi.training.steps.fit_steps import FitSteps
from amortvi.training.steps.policy import Policy
from amortvi.training.steps.step import Averages, LateNonFiniteError, NonFiniteStepError, Step, Totals
from amortvi.training.steps.update import Estimation, Update

__all__ = [
    "Averages",
    "CompiledEstimation",
    "CompiledStep",
    "EagerEstimation",
    "EagerStep",
    "Estimation",
    "FitSteps",
    "LateNonFiniteError",
    "NonFiniteStepError",
    "Policy",
    "Step",
    "Totals",
    "Update",
]
