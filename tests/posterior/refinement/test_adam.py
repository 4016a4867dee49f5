"""Many small problems maximized at once with noisy gradients, on functions with known maxima."""

import pytest
import torch
from torch import Tensor

from amortvi.posterior.refinement.adam import climb
from amortvi.posterior.refinement.lbfgs import OptimizeResult

DTYPE = torch.float64
MAXIMA = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=DTYPE)


def climb_paraboloids(noise: float, *, max_steps: int = 2000, start: Tensor | None = None) -> OptimizeResult:
    generator = torch.Generator().manual_seed(1)

    def bound(rows: Tensor, points: Tensor) -> Tensor:
        return -0.5 * (points - MAXIMA[rows]).square().sum(-1)

    def gradient(rows: Tensor, points: Tensor) -> Tensor:
        return MAXIMA[rows] - points + noise * torch.randn(points.shape, generator=generator, dtype=DTYPE)

    begin = torch.zeros_like(MAXIMA) if start is None else start
    return climb(gradient, bound, begin, lr=0.05, tolerance=1e-4, max_steps=max_steps)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_maxima_are_found_despite_noise(noise: float) -> None:
    found = climb_paraboloids(noise)
    assert found.converged.all()
    # The average of 25 points at the smallest learning rate varies far less than a single gradient.
    assert (found.point - MAXIMA).square().sum(-1).mean() < (0.02 if noise else 0.002)


def test_the_result_is_never_worse_than_the_start() -> None:
    found = climb_paraboloids(noise=3.0, start=MAXIMA)
    assert torch.equal(found.point, MAXIMA)
    assert found.converged.all()


def test_steps_are_limited() -> None:
    found = climb_paraboloids(noise=1.0, max_steps=70)
    assert not found.converged.any()
    assert (found.steps == 70).all()


def test_values_that_are_not_finite_are_no_improvement() -> None:
    def bound(rows: Tensor, points: Tensor) -> Tensor:
        return torch.where(points[:, 0] > 0.01, torch.nan, points[:, 0])

    start = torch.zeros(2, 1, dtype=DTYPE)
    found = climb(lambda _, points: torch.ones_like(points), bound, start, lr=0.05, tolerance=1e-4, max_steps=1000)
    assert found.converged.all()
    assert (found.point <= 0.01).all()
