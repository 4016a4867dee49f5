"""Moves leave every density on the path invariant, and diverging trajectories are rejected."""

import math

import pytest
import torch
from torch import Tensor

from amortvi.data import Batch
from amortvi.diagnostics.annealing.path import Start, evaluate_point, hmc_move
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian(2, 3)
X = MODEL.simulate(1, seed=1)
VI = solved(MODEL)


class GaussianStart(Start):
    """A path between two Gaussians in two dimensions: N(0, I) and N((1, -1), 0.25 I)."""

    def __init__(self) -> None:
        super().__init__(VI.generative, Batch((X,)))

    def sample(self, draws: int) -> Tensor:
        return torch.randn(draws, 1, 2, dtype=torch.float64)

    def log_densities(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        end = (vector - vector.new_tensor([1.0, -1.0])) / 0.5
        return -0.5 * vector.square().sum(-1), -0.5 * end.square().sum(-1)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_moves_leave_the_density_invariant(beta: float) -> None:
    """The product of the densities has precision 1 - beta + 4 beta. Steps are so long that a quarter are rejected."""
    torch.manual_seed(0)
    precision = (1 - beta) + 4 * beta
    mean = 4 * beta / precision * torch.tensor([1.0, -1.0], dtype=torch.float64)
    start = GaussianStart()
    vector = mean + start.sample(20_000) / math.sqrt(precision)
    scale = torch.full((1, 2), precision**-0.5, dtype=torch.float64)
    moved, acceptance = hmc_move(start, evaluate_point(start, vector), beta, torch.tensor([1.5]), scale, 3)
    assert 0.5 < acceptance.mean() < 0.95
    standardized = (moved.vector - mean).squeeze(1) * math.sqrt(precision)
    for power, expected in ((1, 0.0), (2, 1.0), (4, 3.0)):
        terms = standardized**power
        assert ((terms.mean(0) - expected).abs() < 5 * terms.std(0) / math.sqrt(len(terms))).all()
    fresh = evaluate_point(start, moved.vector)
    torch.testing.assert_close(moved.gradient(beta), fresh.gradient(beta))
    torch.testing.assert_close(moved.log_density(beta), fresh.log_density(beta))


def test_diverging_trajectories_are_rejected() -> None:
    start = GaussianStart()
    point = evaluate_point(start, start.sample(5))
    step, scale = torch.tensor([1e200], dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    moved, acceptance = hmc_move(start, point, 0.5, step, scale, 3)
    assert (acceptance == 0).all()
    assert torch.equal(moved.vector, point.vector)
