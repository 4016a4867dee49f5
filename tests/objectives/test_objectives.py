"""Conformance of every objective, and the ELBO with a closed-form and with a sampled KL."""

import math
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

from amortvi import objectives
from amortvi.errors import OptionError
from amortvi.families import Diagonal, kl_to_standard_normal
from amortvi.posterior import AmortizedGuide
from amortvi.posterior.log_weights import KLForm
from amortvi.testing import OBJECTIVE_CHECKS
from tests.exact import linear_gaussian, solved
from tests.objectives.problems import estimate

OBJECTIVES = {
    "elbo": objectives.ELBO(),
    "elbo, 5 particles": objectives.ELBO(5),
    "elbo, sampled KL": objectives.ELBO(kl="sampled"),
    "elbo, exact KL": objectives.ELBO(kl="closed_form"),
    "sticking the landing": objectives.ELBO(gradient="sticking_the_landing"),
    "beta-VAE": objectives.ELBO(kl_weight=4.0),
    "free bits": objectives.ELBO(free_bits=0.3),
    "free bits, sampled KL": objectives.ELBO(3, kl="sampled", free_bits=0.3),
    "linear schedule": objectives.ELBO(kl_weight=objectives.LinearSchedule(epochs=5, start=0.1)),
    "all options": objectives.ELBO(
        2, gradient="sticking_the_landing", kl_weight=objectives.CyclicalSchedule(epochs=20), free_bits=0.2
    ),
    "iwae": objectives.IWAE(),
    "iwae, plain gradient": objectives.IWAE(gradient="plain"),
    "iwae, 1 particle": objectives.IWAE(1),
    "renyi": objectives.Renyi(0.5),
    "renyi, plain gradient": objectives.Renyi(0.5, gradient="plain"),
    "renyi, order 1": objectives.Renyi(1.0),
    "renyi, order 2": objectives.Renyi(2.0, 3),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
@pytest.mark.parametrize("check", OBJECTIVE_CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[objectives.Objective], None], objective: objectives.Objective) -> None:
    check(objective)


MODEL = linear_gaussian()
X = MODEL.simulate(40, seed=1)


@pytest.mark.parametrize("kl", ["closed_form", "sampled"])
def test_elbo_of_exact_posterior_is_evidence(kl: KLForm) -> None:
    found = estimate(objectives.ELBO(2000, kl=kl), solved(MODEL).guide, X, seed=0)
    if kl == "sampled":
        # At q = p every single weight equals the evidence.
        torch.testing.assert_close(found.weights.log_weight, MODEL.log_evidence(X).expand(2000, -1))
    error = found.weights.log_likelihood.std(0) / math.sqrt(2000)
    assert ((found.bound - MODEL.log_evidence(X)).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("kl", ["closed_form", "sampled"])
def test_elbo_gradient_is_unbiased(kl: KLForm) -> None:
    """Compare with the exact gradient for a Gaussian posterior of the linear-Gaussian model."""
    guide = solved(MODEL, Diagonal).guide
    head = guide.network.encoder
    with torch.no_grad():
        head.weight.add_(0.1 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0)))
        head.bias.add_(0.2)
    q = guide.get_posterior(X)
    residual = (X - MODEL.bias - q.mean @ MODEL.W.mT).square().sum(-1)
    spread = (MODEL.W.square() * q.variance.unsqueeze(-2)).sum((-1, -2))
    bound = (-0.5 * (residual + spread) / MODEL.scale.square() - kl_to_standard_normal(q)).mean()
    exact = torch.cat([part.flatten() for part in torch.autograd.grad(bound, list(head.parameters()))])
    found = []
    for seed in range(200):
        loss = estimate(objectives.ELBO(5, kl=kl), guide, X, seed=seed).loss(None)
        found.append(-torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(head.parameters()))]))
    estimates = torch.stack(found)
    error = estimates.std(0) / math.sqrt(200)
    assert ((estimates.mean(0) - exact).abs() <= 5 * error + 1e-12).all()


def test_global_terms_are_shared_over_the_data_set() -> None:
    def model(x: Tensor) -> None:
        pyro.factor("penalty", torch.tensor(-30.0))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(10, generator=torch.Generator().manual_seed(0))
    guide = AmortizedGuide(model, nn.Unflatten(0, (10, 1)), "diagonal").setup(x)
    found = estimate(objectives.ELBO(), guide, x)
    torch.testing.assert_close(found.elbo(300), found.bound.mean() - 0.1)
    torch.testing.assert_close(found.loss(300), -found.elbo(300))


def test_options() -> None:
    with pytest.raises(OptionError, match=r"kl must be .*'exact'"):
        objectives.ELBO(kl="exact")  # type: ignore[arg-type]
    assert repr(objectives.make_objective("elbo")) == "ELBO()"
    assert repr(objectives.make_objective("iwae")) == "IWAE()"
    assert repr(objectives.ELBO(3, kl="sampled")) == "ELBO(particles=3, kl='sampled')"
