"""Training steps: eager ones, which are the reference, graphs of them, and those of several processes."""

from amortvi.training.steps.compiled import CompiledEstimation, CompiledStep
from amortvi.training.steps.distributed import DistributedEstimation, DistributedStep
from amortvi.training.steps.eager import EagerEstimation, EagerStep
from amortvi.training.steps.fit_steps import FitSteps
from amortvi.training.steps.policy import Policy
from amortvi.training.steps.step import Averages, LateNonFiniteError, NonFiniteStepError, Step, Totals
from amortvi.training.steps.update import Estimation, Update

__all__ = [
    "Averages",
    "CompiledEstimation",
    "CompiledStep",
    "DistributedEstimation",
    "DistributedStep",
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
