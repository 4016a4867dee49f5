"""The Python values that a step refers to: what it has used, which values can change, and whether one has."""

from amortvi.compile.svi.watch.observation import Observation, observe, unconstrained_parameters
from amortvi.compile.svi.watch.watch import Watch

__all__ = ["Observation", "Watch", "observe", "unconstrained_parameters"]
