"""What each family reaches where the answer is known, and on real data with one model for all."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

import amortvi as avi

LATENTS, FEATURES, OBSERVATIONS = 8, 20, 1000
LEVEL = 0.9
NORMAL_QUANTILE = float(torch.special.ndtri(torch.tensor(0.5 + LEVEL / 2, dtype=torch.float64)))


# ---------------------------------------------------------- linear-Gaussian: the exact posterior is known


def _model(seed: int = 0) -> avi.models.LinearGaussian:
    """Loadings that share a common direction, and so are far from orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    loadings = torch.randn(FEATURES, LATENTS, generator=generator) + torch.randn(FEATURES, 1, generator=generator)
    return avi.models.LinearGaussian(loadings, scale=2.0)


def _data(model: avi.models.LinearGaussian, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(OBSERVATIONS, LATENTS, generator=generator)
    return z, z @ model.W.mT + model.scale * torch.randn(OBSERVATIONS, FEATURES, generator=generator)


class Whitened(nn.Module):
    """A linear encoder: the data's principal components in units of their spread, which makes the head learn quickly."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        values, vectors = torch.linalg.eigh(torch.cov(x.mT))
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("axes", vectors * values.rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.axes


def _fit(
    model: avi.models.LinearGaussian,
    x: Tensor,
    encoder: nn.Module,
    family: avi.families.FamilyChoice,
    *,
    epochs: int,
    lr: float,
    particles: int,
    seed: int = 0,
) -> avi.AmortizedVI:
    return avi.AmortizedVI(model, encoder, family, freeze_model=True).fit(
        x,
        epochs=epochs,
        batch_size=250,
        lr=lr,
        objective=avi.objectives.ELBO(particles),
        lr_schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        seed=seed,
        progress=False,
    )


def _gaps(vi: avi.AmortizedVI, model: avi.models.LinearGaussian, x: Tensor) -> Tensor:
    """``log p(x) - ELBO = KL(q || p(z | x))`` of each observation, in closed form and double precision."""
    posterior, exact = vi.posterior(x), model.posterior(x)
    q = MultivariateNormal(posterior.mean["z"].double(), posterior.covariance.double())
    return kl_divergence(q, MultivariateNormal(exact.mean.double(), exact.covariance_matrix.double()))


def _covariance_errors(vi: avi.AmortizedVI, model: avi.models.LinearGaussian, x: Tensor) -> Tensor:
    """Of each observation, relative, in the Frobenius norm."""
    exact = torch.linalg.inv(model.precision())
    return (vi.posterior(x).covariance - exact).norm(dim=(1, 2)) / exact.norm()


def _coverage(vi: avi.AmortizedVI, x: Tensor, z: Tensor) -> tuple[float, float]:
    """How often central intervals hold the true latents, with its standard error.

    The latents of one observation depend on one another, so that observations, not latents, are the independent cases: the
    estimate is the mean over observations of the share of their latents that is covered.
    """
    low, high = vi.posterior(x).quantiles([0.5 - LEVEL / 2, 0.5 + LEVEL / 2])["z"]
    shares = ((z > low) & (z < high)).double().mean(1)
    return float(shares.mean()), float(shares.std() / math.sqrt(len(shares)))


def _diagonal_coverage(model: avi.models.LinearGaussian) -> float:
    """What the best diagonal posterior covers: its scale is ``M_ii ** -0.5``, that of the latent ``(M^-1)_ii ** 0.5``."""
    precision = model.precision().double()
    ratio = (precision.diagonal() * torch.linalg.inv(precision).diagonal()).rsqrt()
    return float((2 * torch.special.ndtr(NORMAL_QUANTILE * ratio) - 1).mean())


def _check_full(vi: avi.AmortizedVI, model: avi.models.LinearGaussian, x: Tensor, z: Tensor) -> None:
    assert _gaps(vi, model, x).mean() < 0.02
    bounds = vi.evaluate(x, seed=0)["elbo"].to_numpy()
    assert abs(model.log_evidence(x).numpy() - bounds).mean() < 0.05
    assert (model.log_evidence(x).numpy() - bounds).mean() < 0.02
    assert _covariance_errors(vi, model, x).max() < 0.05
    coverage, error = _coverage(vi, x, z)
    assert abs(coverage - LEVEL) < 3 * error


def _check_diagonal(vi: avi.AmortizedVI, model: avi.models.LinearGaussian, x: Tensor, z: Tensor) -> None:
    gap, best = float(_gaps(vi, model, x).mean()), model.diagonal_gap()
    assert best - 1e-4 < gap < best + 0.05
    best_variance = 1 / model.precision().diagonal()
    assert (vi.posterior(x).std["z"].square() / best_variance - 1).abs().mean() < 0.05
    coverage, error = _coverage(vi, x, z)
    assert coverage < LEVEL - 10 * error
    assert abs(coverage - _diagonal_coverage(model)) < 3 * error


def test_full_covariance_reaches_the_evidence() -> None:
    model = _model()
    z, x = _data(model, seed=1)
    vi = _fit(model, x, Whitened(x), "full", epochs=200, lr=0.3, particles=10)
    _check_full(vi, model, x, z)


def test_diagonal_loses_what_it_must_and_covers_too_little() -> None:
    model = _model()
    assert model.diagonal_gap() > 1
    z, x = _data(model, seed=1)
    vi = _fit(model, x, Whitened(x), "diagonal", epochs=100, lr=0.1, particles=5)
    _check_diagonal(vi, model, x, z)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("family", "epochs", "check"),
    [
        ("full", 1000, _check_full),
        (partial(avi.families.FullCovariance, mixing_rate=1.0), 500, _check_full),
        ("diagonal", 400, _check_diagonal),
    ],
    ids=["full", "full, faster mixing", "diagonal"],
)
def test_a_plain_linear_encoder(
    family: avi.families.FamilyChoice, epochs: int, check: Callable[..., None], seed: int
) -> None:
    """Nothing done to the data, and other loadings for each seed; also on observations that the fit has not seen."""
    model = _model(seed)
    z, x = _data(model, seed=100 + seed)
    vi = _fit(model, x, avi.encoders.MLP(FEATURES, []), family, epochs=epochs, lr=0.03, particles=5, seed=seed)
    check(vi, model, x, z)
    z, x = _data(model, seed=200 + seed)
    check(vi, model, x, z)


# ------------------------------------------------- digits: one model, fitted once and frozen, for all families


def _frozen_digits(epochs: int, seeds: list[int]) -> list[dict[str, np.ndarray]]:
    """The held-out ELBO of each observation by family, for each seed of the fits to one decoder."""
    digits = avi.datasets.digits()
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(LATENTS, 64), nn.Tanh(), nn.Linear(64, 64))
    encoder = avi.encoders.MLP(64, [64, 64])
    options: avi.FitArguments = {"epochs": epochs, "batch_size": 64, "lr": 2e-3, "progress": False}
    trained = avi.AmortizedVI(avi.models.VAE(decoder, LATENTS, "normal"), encoder, "full")
    trained.fit(digits.x_train, seed=0, **options)

    torch.manual_seed(1)
    encoder = avi.encoders.MLP(64, [64, 64])
    families = ["diagonal", "low_rank", "full"]
    fits = avi.fit_families(trained.model, encoder, families, digits.x_train, seeds=seeds, freeze_model=True, **options)
    return [
        {family: fits.of(family)[position].vi.evaluate(digits.x_test, seed=0)["elbo"].to_numpy() for family in families}
        for position in range(len(seeds))
    ]


def _check_digits(elbos: list[dict[str, np.ndarray]]) -> None:
    for each in elbos:
        for richer in ("low_rank", "full"):
            paired = each[richer] - each["diagonal"]
            error = paired.std(ddof=1) / math.sqrt(len(paired))
            assert paired.mean() > 3 * error, f"{richer} gains {paired.mean():.3f} +- {error:.3f} nats on diagonal"


def test_richer_families_gain_on_a_frozen_decoder() -> None:
    _check_digits(_frozen_digits(epochs=15, seeds=[0]))


@pytest.mark.slow
def test_richer_families_gain_on_a_frozen_decoder_for_every_seed() -> None:
    _check_digits(_frozen_digits(epochs=60, seeds=[0, 1, 2]))
