"""What a fit of each family reaches if the answer is known, and on real data with one decoder for all families."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

import amortvi as avi

LATENTS, FEATURES, OBSERVATIONS, LEVEL = 8, 20, 1000, 0.9
NORMAL_QUANTILE = float(torch.special.ndtri(torch.tensor(0.5 + LEVEL / 2, dtype=torch.float64)))

Check = Callable[[avi.AmortizedVI, avi.models.LinearGaussian, Tensor, Tensor], None]


def make_model(seed: int = 0) -> avi.models.LinearGaussian:
    """Return a model whose loadings share a direction, so that they are far from orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    loadings = torch.randn(FEATURES, LATENTS, generator=generator) + torch.randn(FEATURES, 1, generator=generator)
    return avi.models.LinearGaussian(loadings, scale=2.0)


def simulate(model: avi.models.LinearGaussian, seed: int) -> tuple[Tensor, Tensor]:
    """Return latents, ``(N, D)``, and the observations made of them."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(OBSERVATIONS, LATENTS, generator=generator)
    return z, z @ model.W.mT + model.scale * torch.randn(OBSERVATIONS, FEATURES, generator=generator)


class Whitened(nn.Module):
    """A linear encoder that returns the principal components of the data in units of their standard deviation."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        values, vectors = torch.linalg.eigh(torch.cov(x.mT))
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("axes", vectors * values.rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.axes


def fit(vi: avi.AmortizedVI, x: Tensor, epochs: int, lr: float, particles: int, seed: int = 0) -> avi.AmortizedVI:
    """Fit with a learning rate that decays to zero."""
    objective = avi.objectives.ELBO(particles)
    decay = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs)
    options = {"batch_size": 250, "objective": objective, "lr_schedule": decay, "progress": False}
    return vi.fit(x, epochs=epochs, lr=lr, seed=seed, **options)


def gaps(vi: avi.AmortizedVI, model: avi.models.LinearGaussian, x: Tensor) -> Tensor:
    """Return ``log p(x) - ELBO = KL(q || p(z | x))`` of each observation, in closed form and double precision."""
    posterior, exact = vi.posterior(x), model.posterior(x)
    q = MultivariateNormal(posterior.mean["z"].double(), posterior.covariance.double())
    return kl_divergence(q, MultivariateNormal(exact.mean.double(), exact.covariance_matrix.double()))


def coverage(vi: avi.AmortizedVI, x: Tensor, z: Tensor) -> tuple[float, float]:
    """Return the coverage of central credible intervals, with its standard error over independent observations."""
    low, high = vi.posterior(x).quantiles([0.5 - LEVEL / 2, 0.5 + LEVEL / 2])["z"]
    shares = ((z > low) & (z < high)).double().mean(1)
    return float(shares.mean()), float(shares.std() / math.sqrt(len(shares)))


def diagonal_coverage(model: avi.models.LinearGaussian) -> float:
    """Return the coverage of the best diagonal posterior, whose scales are ``M_ii ** -0.5`` instead of ``(M^-1)_ii ** 0.5``."""
    precision = model.precision().double()
    ratio = (precision.diagonal() * torch.linalg.inv(precision).diagonal()).rsqrt()
    return float((2 * torch.special.ndtr(NORMAL_QUANTILE * ratio) - 1).mean())


def check_full(vi: avi.AmortizedVI, model: avi.models.LinearGaussian, x: Tensor, z: Tensor) -> None:
    """The ELBO reaches the evidence, and the posterior is exact: its covariance, and its coverage."""
    assert gaps(vi, model, x).mean() < 0.02
    bounds = vi.evaluate(x, seed=0)["elbo"].to_numpy()
    assert abs(model.log_evidence(x).numpy() - bounds).mean() < 0.05
    exact = torch.linalg.inv(model.precision())
    assert (vi.posterior(x).covariance - exact).norm(dim=(1, 2)).max() < 0.15 * exact.norm()
    found, error = coverage(vi, x, z)
    assert abs(found - LEVEL) < 5 * error


def check_diagonal(vi: avi.AmortizedVI, model: avi.models.LinearGaussian, x: Tensor, z: Tensor) -> None:
    """The ELBO loses the gap of the best diagonal posterior, which is overconfident by a known amount."""
    gap, best = float(gaps(vi, model, x).mean()), model.diagonal_gap()
    assert best - 1e-4 < gap < best + 0.05
    best_variance = 1 / model.precision().diagonal()
    assert (vi.posterior(x).std["z"].square() / best_variance - 1).abs().mean() < 0.1
    found, error = coverage(vi, x, z)
    assert found < LEVEL - 10 * error
    assert abs(found - diagonal_coverage(model)) < 5 * error


@pytest.mark.parametrize(
    ("family", "epochs", "lr", "particles", "check"),
    [("full", 100, 0.3, 10, check_full), ("diagonal", 50, 0.1, 5, check_diagonal)],
    ids=["full", "diagonal"],
)
def test_known_gap_and_coverage(family: str, epochs: int, lr: float, particles: int, check: Check) -> None:
    model = make_model()
    assert model.diagonal_gap() > 1
    z, x = simulate(model, seed=1)
    vi = avi.AmortizedVI(model, Whitened(x), family, freeze_model=True)
    check(fit(vi, x, epochs, lr, particles), model, x, z)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("family", "epochs", "check"),
    [
        ("full", 1000, check_full),
        (avi.families.FullCovariance(off_diagonal_rate=1.0), 500, check_full),
        ("diagonal", 400, check_diagonal),
    ],
    ids=["full", "full, higher off-diagonal rate", "diagonal"],
)
def test_a_plain_linear_encoder(family: avi.families.FamilyChoice, epochs: int, check: Check, seed: int) -> None:
    """The data are not whitened, each seed has other loadings, and held-out observations are checked too."""
    model = make_model(seed)
    z, x = simulate(model, seed=100 + seed)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(FEATURES, []), family, freeze_model=True)
    check(fit(vi, x, epochs, 0.03, 5, seed), model, x, z)
    z, x = simulate(model, seed=200 + seed)
    check(vi, model, x, z)


def held_out_elbos(*, epochs: int, family_epochs: int, lr: float, seeds: list[int]) -> list[dict[str, np.ndarray]]:
    """Train a decoder, fit every family to it, and return the held-out ELBO of each observation, for each seed."""
    digits = avi.datasets.digits()
    options: dict[str, Any] = {"batch_size": 64, "lr": lr, "progress": False}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = nn.Sequential(nn.Linear(LATENTS, 64), nn.Tanh(), nn.Linear(64, 64))
        encoders = [avi.encoders.MLP(64, [64, 64]) for _ in range(2)]
    trained = avi.AmortizedVI(avi.models.VAE(decoder, LATENTS, "normal"), encoders[0], "full")
    trained.fit(digits.x_train, epochs=epochs, seed=0, **options)
    families = ["diagonal", "low_rank", "full"]
    options |= {"seeds": seeds, "freeze_model": True, "epochs": family_epochs}
    fits = avi.fit_families(trained.model, encoders[1], families, digits.x_train, **options)
    return [
        {name: fits.of(name)[i].vi.evaluate(digits.x_test, seed=0)["elbo"].to_numpy() for name in families}
        for i in range(len(seeds))
    ]


def check_gains(elbos: list[dict[str, np.ndarray]]) -> None:
    for each in elbos:
        for richer in ("low_rank", "full"):
            paired = each[richer] - each["diagonal"]
            error = paired.std(ddof=1) / math.sqrt(len(paired))
            assert paired.mean() > 5 * error, f"{richer} gains {paired.mean():.3f} +- {error:.3f} nats on diagonal"


def test_richer_families_gain_on_a_frozen_decoder() -> None:
    check_gains(held_out_elbos(epochs=10, family_epochs=5, lr=5e-3, seeds=[0]))


@pytest.mark.slow
def test_richer_families_gain_on_a_frozen_decoder_for_every_seed() -> None:
    check_gains(held_out_elbos(epochs=60, family_epochs=60, lr=2e-3, seeds=[0, 1, 2]))
