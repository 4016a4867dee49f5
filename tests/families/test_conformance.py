"""Every family passes every check of the shipped suite, and the suite detects planted faults."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Independent, Laplace, MultivariateNormal

from amortvi import families
from amortvi.families.diagonal import DiagonalScale
from amortvi.testing import FAMILY_CHECKS
from tests.families.cases import FAMILIES


@pytest.mark.parametrize("choice", FAMILIES.values(), ids=FAMILIES.keys())
@pytest.mark.parametrize("check", FAMILY_CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[families.FamilyChoice], None], choice: families.FamilyChoice) -> None:
    check(choice)


class ByHand(families.Family):
    """A family of torch's own distributions, without parameters for each observation."""

    def __init__(self, *, correlated: bool = False) -> None:
        super().__init__()
        self.correlated = correlated

    def build(self) -> None:
        self.layer = nn.Linear(self.context_features, 2 * self.dim)
        nn.init.normal_(self.layer.weight, std=0.1)

    def forward(self, context: torch.Tensor) -> Distribution:
        loc, log_scale = self.layer(context).chunk(2, dim=-1)
        if self.correlated:
            factor = torch.diag_embed(log_scale.exp()) + 0.3 * torch.ones(self.dim, self.dim).tril(-1)
            return MultivariateNormal(loc, scale_tril=factor)
        return Independent(Laplace(loc, log_scale.exp()), 1)


@pytest.mark.parametrize("choice", [ByHand, ByHand(correlated=True)], ids=["Laplace", "MultivariateNormal"])
@pytest.mark.parametrize("check", FAMILY_CHECKS, ids=lambda check: check.__name__)
def test_families_of_torch_distributions_conform(
    check: Callable[[families.FamilyChoice], None], choice: families.FamilyChoice
) -> None:
    check(choice)


# ------------------------------------------------------------------------------------------------- planted faults


def failures(choice: families.FamilyChoice) -> set[str]:
    """Return the names of the checks that fail."""
    failed = set()
    for check in FAMILY_CHECKS:
        try:
            check(choice)
        except AssertionError:
            failed.add(check.__name__)
    return failed


class Unnormalized(DiagonalScale):
    def log_abs_det(self) -> torch.Tensor:
        return super().log_abs_det() - math.log(1.05)


class WrongSolve(DiagonalScale):
    def solve(self, residual: torch.Tensor) -> torch.Tensor:
        return 1.05 * super().solve(residual)


class WrongVariance(DiagonalScale):
    def variance(self) -> torch.Tensor:
        return 1.2 * super().variance()


class Overflowing(DiagonalScale):
    def matmul(self, noise: torch.Tensor) -> torch.Tensor:
        return (40 * self.log_scale).exp().log().div(40).exp() * noise


def with_scale(scale: type[DiagonalScale]) -> type[families.Diagonal]:
    class Planted(families.Diagonal):
        def scale(self, log_scale: torch.Tensor, off_diagonal: torch.Tensor) -> DiagonalScale:
            return scale(log_scale)

    return Planted


class BuiltTooEarly(families.Diagonal):
    def __init__(self) -> None:
        super().__init__()
        self.setup(4, 5)


class ForgetsOptions(families.Diagonal):
    def __init__(self, rank: int = 3) -> None:
        super().__init__()
        self.rank = rank

    def build(self) -> None:
        self.rank = self.dim
        super().build()


class DependsOnBatch(families.Diagonal):
    def forward(self, context: torch.Tensor) -> Distribution:
        return super().forward(context - 0.1 * context.reshape(-1, context.shape[-1]).mean(0))


class HeadChanges(families.Diagonal):
    def without_head(self) -> "HeadChanges":
        bare = super().without_head()
        bare.distribution = lambda parameters: families.Diagonal.distribution(bare, 1.1 * parameters)
        return bare


class FarAway(families.Diagonal):
    def parameters_near(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return super().parameters_near(loc + 1.0, scale)


PLANTED = {
    # Entropy and KL share the fault of the log-determinant and agree with it; only the integral reveals it.
    "normalization": (with_scale(Unnormalized), {"check_normalization"}),
    "solve": (with_scale(WrongSolve), {"check_own_draws", "check_normalization", "check_expand"}),
    "variance": (with_scale(WrongVariance), {"check_moments", "check_marginals", "check_kl_and_entropy"}),
    "overflow": (with_scale(Overflowing), {"check_extreme_parameters"}),
    "built too early": (BuiltTooEarly, {"check_setup"}),
    "options": (ForgetsOptions, {"check_setup"}),
    "head": (HeadChanges, {"check_parameters"}),
    "start of a search": (FarAway, {"check_parameters_near"}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_detected(name: str) -> None:
    choice, expected = PLANTED[name]
    assert failures(choice) == expected


def test_dependence_on_the_batch_is_detected() -> None:
    assert "check_independence" in failures(DependsOnBatch)
