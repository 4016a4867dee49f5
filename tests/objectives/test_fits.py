"""Fits with each objective, on a model whose posterior is known: all of them end at the exact one, or at the one they ask for."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import amortvi as avi
from amortvi.families import FullCovariance
from amortvi.objectives import ELBO, IWAE, LinearSchedule, Objective, Renyi
from tests.exact import linear_gaussian

TRUTH = linear_gaussian()
X = TRUTH.simulate(400, seed=0)


def fitted(objective: Objective, **options: Any) -> avi.AmortizedVI:
    """With an encoder that can be exact, and whose outputs are the parameters of the posterior."""
    encoder = nn.Linear(5, 9, dtype=torch.float64)
    nn.init.zeros_(encoder.weight)
    nn.init.zeros_(encoder.bias)
    vi = avi.AmortizedVI(TRUTH, encoder, partial(FullCovariance, head=False), freeze_model=True)
    return vi.fit(X, objective=objective, **{**FIT, **options})


def _decay(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.965)


FIT: dict[str, Any] = {
    "epochs": 150,
    "lr": 0.1,
    "lr_schedule": _decay,
    "batch_size": 100,
    "dtype": torch.float64,
    "seed": 0,
    "progress": False,
}


def distance(vi: avi.AmortizedVI, exact: MultivariateNormal) -> float:
    """The mean of ``KL(q || exact)``."""
    q = vi.guide.get_posterior(X)
    return float(kl_divergence(MultivariateNormal(q.mean, q.covariance_matrix), exact).mean().detach())


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(5, gradient="sticking_the_landing"),
        ELBO(kl_weight=LinearSchedule(epochs=30)),
        ELBO(free_bits=0.01),
        IWAE(5),
        Renyi(0.5, 5),
    ],
    ids=["sticking the landing", "a rising weight", "free bits", "iwae", "renyi"],
)
def test_every_objective_finds_the_exact_posterior(objective: Objective) -> None:
    assert distance(fitted(objective), TRUTH.posterior(X)) < 0.02


def test_no_noise_is_left_of_a_gradient_without_the_score() -> None:
    """At a learning rate that stays, sticking the landing goes on to the exact posterior; the plain gradient shakes about it."""
    quiet, noisy = (
        distance(fitted(objective, lr=0.03, lr_schedule=None), TRUTH.posterior(X))
        for objective in (ELBO(5, gradient="sticking_the_landing"), ELBO(5, kl="sampled"))
    )
    assert noisy < 0.1
    assert quiet < 0.01 * noisy


def test_a_kl_weight_tempers_the_likelihood() -> None:
    """The best q of the weighted objective is proportional to p(z) p(x | z) to the power of one over the weight."""
    noise = 4.0 * TRUTH.scale.square()
    precision = torch.eye(3).double() + TRUTH.W.mT @ TRUTH.W / noise
    mean = torch.linalg.solve(precision, TRUTH.W.mT @ (X - TRUTH.bias).mT / noise).mT
    vi = fitted(ELBO(5, kl_weight=4.0))
    assert distance(vi, MultivariateNormal(mean, precision_matrix=precision)) < 0.01
    assert distance(vi, TRUTH.posterior(X)) > 0.5
