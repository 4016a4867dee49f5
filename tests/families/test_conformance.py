"""Every family of the table passes every check of the shipped suite, and the suite catches planted faults."""

import math
from collections.abc import Callable

import pytest
import torch

from amortvi import families
from amortvi.families.diagonal import DiagonalScale
from amortvi.testing import FAMILY_CHECKS
from tests.families.cases import FAMILIES


@pytest.mark.parametrize("choice", FAMILIES.values(), ids=FAMILIES.keys())
@pytest.mark.parametrize("check", FAMILY_CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[families.FamilyChoice], None], choice: families.FamilyChoice) -> None:
    check(choice)


class _UnnormalisedScale(DiagonalScale):
    def log_abs_det(self) -> torch.Tensor:
        return super().log_abs_det() - math.log(1.02)


class _StaleScale(DiagonalScale):
    def solve(self, residual: torch.Tensor) -> torch.Tensor:
        return super().solve(residual) * 1.01


class _WideScale(DiagonalScale):
    def variance(self) -> torch.Tensor:
        return 1.05 * super().variance()


def _family_with(scale: type[DiagonalScale]) -> families.FamilyChoice:
    class Planted(families.Diagonal):
        def scale(self, log_scale: torch.Tensor, mixing: torch.Tensor) -> DiagonalScale:
            return scale(log_scale)

    return Planted


@pytest.mark.parametrize(
    ("scale", "caught_by"),
    [
        # Entropy and KL share the fault of the log-determinant, and so agree with it: only the integral tells.
        (_UnnormalisedScale, {"check_normalisation"}),
        (_StaleScale, {"check_fresh_sample", "check_normalisation", "check_expand"}),
        (_WideScale, {"check_moments", "check_marginals", "check_kl"}),
    ],
)
def test_suite_catches_a_planted_fault(scale: type[DiagonalScale], caught_by: set[str]) -> None:
    caught = set()
    for check in FAMILY_CHECKS:
        try:
            check(_family_with(scale))
        except AssertionError:
            caught.add(check.__name__)
    assert caught == caught_by
