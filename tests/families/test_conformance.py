"""Every family passes every check of the shipped suite; ``tests/testing`` shows that the suite detects faults."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Independent, Laplace, MultivariateNormal

from amortvi import families
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


CHOICES: dict[str, families.FamilyChoice] = {
    **FAMILIES,
    "Laplace": ByHand,
    "MultivariateNormal": ByHand(correlated=True),
    "full for each of two labels": lambda: families.GivenLabel(families.FullCovariance(), 2),
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES.keys())
@pytest.mark.parametrize("check", FAMILY_CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[families.FamilyChoice], None], choice: families.FamilyChoice) -> None:
    check(choice)
