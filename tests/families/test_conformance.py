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


CHOICES = {**FAMILIES, "Laplace": ByHand, "MultivariateNormal": ByHand(correlated=True)}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES.keys())
@pytest.mark.parametrize("check", FAMILY_CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[families.FamilyChoice], None], choice: families.FamilyChoice) -> None:
    check(choice)


def with_scale(method: str, change: Callable[[torch.Tensor], torch.Tensor]) -> type[families.Diagonal]:
    """Return a family whose scale operator changes what one of its methods returns."""

    def changed(self: DiagonalScale, *arguments: torch.Tensor) -> torch.Tensor:
        return change(getattr(DiagonalScale, method)(self, *arguments))

    operator = type("Planted", (DiagonalScale,), {method: changed})
    return type("PlantedFamily", (families.Diagonal,), {"scale": lambda self, log_scale, _: operator(log_scale)})


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
    "normalization": (with_scale("log_abs_det", lambda v: v - math.log(1.05)), {"check_normalization"}),
    "solve": (with_scale("solve", lambda v: 1.05 * v), {"check_own_draws", "check_normalization", "check_expand"}),
    "variance": (
        with_scale("variance", lambda v: 1.2 * v),
        {"check_moments", "check_marginals", "check_kl_and_entropy"},
    ),
    "overflow": (with_scale("matmul", lambda v: v.where(v.abs() < 1e6, math.inf)), {"check_extreme_parameters"}),
    "built too early": (BuiltTooEarly, {"check_setup"}),
    "options": (ForgetsOptions, {"check_setup"}),
    "head": (HeadChanges, {"check_parameters"}),
    "start of a search": (FarAway, {"check_parameters_near"}),
    "batch": (DependsOnBatch, {"check_independence", "check_parameters"}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_detected(name: str) -> None:
    choice, expected = PLANTED[name]
    failed = set()
    for check in FAMILY_CHECKS:
        try:
            check(choice)
        except AssertionError:
            failed.add(check.__name__)
    assert failed == expected
