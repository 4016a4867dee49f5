"""One training step, behind one contract."""

from amortvi.engine.eager import EagerStep
from amortvi.engine.step import Metrics, Step

__all__ = ["EagerStep", "Metrics", "Step"]
