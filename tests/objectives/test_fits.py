"""Fits with each objective to a model whose posterior is known in closed form."""

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

MODEL = linear_gaussian(latents=2, features=3)
X = MODEL.simulate(400, seed=0)
NOISE = MODEL.scale.square()


def fitted(objective: Objective, **options: Any) -> avi.AmortizedVI:
    """Return an estimator whose encoder is linear, and so can represent the exact posterior."""
    encoder = nn.Linear(3, 5, dtype=torch.float64)
    nn.init.zeros_(encoder.weight)
    nn.init.zeros_(encoder.bias)
    vi = avi.AmortizedVI(MODEL, encoder, FullCovariance(head=False), freeze_model=True)
    decay = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.95)
    default = {"epochs": 80, "lr": 0.1, "lr_schedule": decay, "batch_size": 100, "seed": 0, "progress": False}
    return vi.fit(X, objective=objective, **{**default, **options})


def mean_kl(vi: avi.AmortizedVI, exact: MultivariateNormal) -> float:
    """Return the mean of ``KL(q || exact)``."""
    q = vi.guide.get_posterior(X)
    return float(kl_divergence(MultivariateNormal(q.mean, q.covariance_matrix), exact).mean().detach())


def tempered(weight: float) -> MultivariateNormal:
    """Return the distribution proportional to ``p(z) p(x | z) ** (1 / weight)``."""
    precision = torch.eye(2).double() + MODEL.W.mT @ MODEL.W / (weight * NOISE)
    mean = torch.linalg.solve(precision, MODEL.W.mT @ (X - MODEL.bias).mT / (weight * NOISE)).mT
    return MultivariateNormal(mean, precision_matrix=precision)


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(5, gradient="sticking_the_landing"),
        ELBO(kl_weight=LinearSchedule(epochs=30)),
        ELBO(free_bits=0.01),
        IWAE(5),
        Renyi(0.5, 5),
    ],
    ids=["sticking the landing", "rising weight", "free bits", "iwae", "renyi"],
)
def test_every_objective_finds_the_exact_posterior(objective: Objective) -> None:
    assert mean_kl(fitted(objective), MODEL.posterior(X)) < 0.02


def test_sticking_the_landing_converges_at_a_constant_learning_rate() -> None:
    """The plain gradient keeps its noise at the optimum, and the optimizer oscillates around it."""
    options = {"epochs": 100, "lr": 0.03, "lr_schedule": "constant"}
    quiet, noisy = (
        mean_kl(fitted(objective, **options), MODEL.posterior(X))
        for objective in (ELBO(5, gradient="sticking_the_landing"), ELBO(5, kl="sampled", gradient="reparameterized"))
    )
    assert noisy < 0.1
    assert quiet < 0.03 * noisy


def test_kl_weight_tempers_the_likelihood() -> None:
    vi = fitted(ELBO(5, kl_weight=4.0))
    assert mean_kl(vi, tempered(4.0)) < 0.01
    assert mean_kl(vi, MODEL.posterior(X)) > 0.5
