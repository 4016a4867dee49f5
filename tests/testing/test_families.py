"""The conformance suite of families detects faults, each by the check that is named."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.distributions import Distribution

from amortvi.families import Diagonal
from amortvi.families.gaussians.diagonal import DiagonalScale
from amortvi.testing import FAMILY_CHECKS


def with_scale(**methods: Callable[..., torch.Tensor]) -> type[Diagonal]:
    """Return a diagonal family whose scale matrix has other methods."""
    scale_type = type("FaultyScale", (DiagonalScale,), methods)

    class Faulty(Diagonal):
        def scale(self, log_scale: torch.Tensor, off_diagonal: torch.Tensor) -> DiagonalScale:
            return scale_type(log_scale)

    return Faulty


# Entropy and KL share the fault of the log-determinant and agree with it; only the integral reveals it.
WRONG_DETERMINANT = with_scale(log_abs_det=lambda self: DiagonalScale.log_abs_det(self) - math.log(1.05))
WRONG_SOLVE = with_scale(solve=lambda self, residual: 1.05 * DiagonalScale.solve(self, residual))
WRONG_VARIANCE = with_scale(variance=lambda self: 1.2 * DiagonalScale.variance(self))
OVERFLOWING = with_scale(matmul=lambda self, noise: (50 * self.log_scale).exp().log().div(50).exp() * noise)


class BuiltTooEarly(Diagonal):
    def __init__(self) -> None:
        super().__init__()
        self.setup(4, 5)


class ForgetsOptions(Diagonal):
    def __init__(self, rank: int = 3) -> None:
        super().__init__()
        self.rank = rank

    def build(self) -> None:
        self.rank = self.dim
        super().build()


class DependsOnTheBatch(Diagonal):
    def forward(self, context: torch.Tensor) -> Distribution:
        return super().forward(context - 0.1 * context.reshape(-1, context.shape[-1]).mean(0))


class HeadChanges(Diagonal):
    def without_head(self) -> "HeadChanges":
        bare = super().without_head()
        bare.distribution = lambda parameters: Diagonal.distribution(bare, 1.1 * parameters)
        return bare


class FarAway(Diagonal):
    def parameters_near(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return super().parameters_near(loc + 1.0, scale)


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("normalization", WRONG_DETERMINANT),
        ("own_draws", WRONG_SOLVE),
        ("moments", WRONG_VARIANCE),
        ("marginals", WRONG_VARIANCE),
        ("kl_and_entropy", WRONG_VARIANCE),
        ("extreme_parameters", OVERFLOWING),
        ("setup", BuiltTooEarly),
        ("setup", ForgetsOptions),
        ("independence", DependsOnTheBatch),
        ("parameters", HeadChanges),
        ("parameters_near", FarAway),
    ],
)
def test_faults_are_detected(name: str, choice: type[Diagonal]) -> None:
    check = next(check for check in FAMILY_CHECKS if check.__name__ == f"check_{name}")
    check(Diagonal)
    with pytest.raises(AssertionError):
        check(choice)
