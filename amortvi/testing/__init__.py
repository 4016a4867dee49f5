"""Conformance suites: checks that every posterior family and every objective, including your own, must pass."""

from amortvi.testing.families import FAMILY_CHECKS
from amortvi.testing.objectives import OBJECTIVE_CHECKS

__all__ = ["FAMILY_CHECKS", "OBJECTIVE_CHECKS"]
