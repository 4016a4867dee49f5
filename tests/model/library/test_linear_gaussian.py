"""Posterior and evidence of the linear-Gaussian model, against formulas that it does not use."""

import math

import pyro.poutine as poutine
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from amortvi.errors import OptionError
from amortvi.model.library import LinearGaussian

DTYPE = torch.float64


def _model(latents: int = 3, features: int = 5, *, bias: bool = True, seed: int = 0) -> LinearGaussian:
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(features, latents, generator=generator, dtype=DTYPE)
    offset = torch.randn(features, generator=generator, dtype=DTYPE) if bias else None
    return LinearGaussian(W, scale=0.7, bias=offset)


def _joint(model: LinearGaussian) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and covariance of ``(z, x)``, a linear map of independent noise."""
    features, latents = model.W.shape
    push = torch.zeros(latents + features, latents + features, dtype=DTYPE)
    push[:latents, :latents] = torch.eye(latents, dtype=DTYPE)
    push[latents:, :latents] = model.W
    push[latents:, latents:] = model.scale * torch.eye(features, dtype=DTYPE)
    return torch.cat([torch.zeros(latents, dtype=DTYPE), model.bias]), push @ push.mT


@pytest.mark.parametrize("shape", [(3, 5), (2, 2), (4, 2), (1, 1)])
def test_posterior_is_the_joint_gaussian_conditioned_on_x(shape: tuple[int, int]) -> None:
    latents, features = shape
    model = _model(latents, features)
    mean, covariance = _joint(model)
    x = model.simulate(7, seed=1)
    gain = covariance[:latents, latents:] @ torch.linalg.inv(covariance[latents:, latents:])
    posterior = model.posterior(x)
    assert posterior.batch_shape == (7,)
    torch.testing.assert_close(posterior.mean, (x - mean[latents:]) @ gain.mT)
    expected = covariance[:latents, :latents] - gain @ covariance[latents:, :latents]
    torch.testing.assert_close(posterior.covariance_matrix, expected.expand(7, latents, latents))
    torch.testing.assert_close(model.precision(), torch.linalg.inv(expected))


def test_evidence_is_the_integral_over_the_latent() -> None:
    """The integral of p(z) p(x | z) over one latent, on a fine grid."""
    model = _model(latents=1, features=3)
    x = model.simulate(20, seed=2)
    z = torch.linspace(-12.0, 12.0, 200_001, dtype=DTYPE).unsqueeze(-1)
    likelihood = Normal(z @ model.W.mT + model.bias, model.scale)
    for row, evidence in zip(x, model.log_evidence(x), strict=True):
        log_joint = Normal(0.0, 1.0).log_prob(z).sum(-1) + likelihood.log_prob(row).sum(-1)
        torch.testing.assert_close(torch.logsumexp(log_joint, 0) + math.log(24 / 200_000), evidence)


def test_bayes_rule_holds_for_any_latent() -> None:
    """log p(x) = log p(x, z) - log p(z | x) for every z."""
    model = _model()
    x, z = model.simulate(10, seed=3), torch.randn(10, 3, dtype=DTYPE)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
    trace.compute_log_prob()
    log_joint = trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]
    torch.testing.assert_close(log_joint - model.posterior(x).log_prob(z), model.log_evidence(x))


def test_densities_of_the_pyro_model() -> None:
    model = _model()
    x, z = model.simulate(4, seed=3), torch.randn(4, 3, dtype=DTYPE)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], Normal(0.0, 1.0).log_prob(z).sum(-1))
    expected = Normal(torch.einsum("fl,bl->bf", model.W, z) + model.bias, 0.7).log_prob(x).sum(-1)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)


@pytest.mark.parametrize("latents", [1, 2, 5])
def test_diagonal_gap_is_the_smallest_kl_of_a_diagonal_gaussian(latents: int) -> None:
    """The smallest KL to the exact posterior, found numerically."""
    model = _model(latents, 6)
    x = model.simulate(3, seed=4)
    exact = model.posterior(x)
    log_scale = torch.zeros(3, latents, dtype=DTYPE, requires_grad=True)
    loc = torch.zeros(3, latents, dtype=DTYPE, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [loc, log_scale], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def gaps() -> torch.Tensor:
        return kl_divergence(MultivariateNormal(loc, scale_tril=torch.diag_embed(log_scale.exp())), exact)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = gaps().sum()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(gaps().detach(), torch.full((3,), model.diagonal_gap(), dtype=DTYPE))
    torch.testing.assert_close(loc.detach(), exact.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close((2 * log_scale.detach()).exp(), (1 / model.precision().diagonal()).expand(3, latents))
    assert model.diagonal_gap() >= 0


def test_orthogonal_loadings_have_no_diagonal_gap() -> None:
    W = torch.linalg.qr(torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=DTYPE))[0]
    assert LinearGaussian(2 * W, scale=0.5).diagonal_gap() == pytest.approx(0, abs=1e-12)


def test_simulations_have_the_moments_of_the_model() -> None:
    model, draws = _model(), 200_000
    x = model.simulate(draws, seed=5)
    mean, covariance = (part[3:] for part in _joint(model))
    covariance = covariance[:, 3:]
    assert ((x.mean(0) - mean).abs() < 5 * (covariance.diagonal() / draws).sqrt()).all()
    deviation = x - mean
    estimates = torch.einsum("bi,bj->ij", deviation, deviation) / draws
    # The variance of the product of two centered Gaussians is C_ii C_jj + C_ij ** 2.
    variance = covariance.diagonal().outer(covariance.diagonal()) + covariance.square()
    assert ((estimates - covariance).abs() < 5 * (variance / draws).sqrt()).all()


def test_simulations_depend_on_the_seed_alone() -> None:
    model = _model()
    state = torch.get_rng_state()
    first, second, other = (model.simulate(5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    torch.manual_seed(0)
    assert not torch.equal(model.simulate(5), model.simulate(5))


def test_precision_can_be_changed() -> None:
    model = LinearGaussian(torch.tensor([[1.0, 0.5], [0.0, 1.0]]), scale=0.5)
    x = model.simulate(5, seed=0)
    assert x.dtype == torch.float32
    assert model.log_evidence(x).dtype == torch.float32
    double = model.double()
    assert double.simulate(5, seed=0).dtype == torch.float64
    assert double.posterior(x.double()).mean.dtype == torch.float64


def test_parameters_are_fixed_copies() -> None:
    W, bias = torch.ones(3, 2), torch.zeros(3, dtype=torch.float64)
    model = LinearGaussian(W, scale=1, bias=bias)
    W.zero_()
    assert (model.W == 1).all()
    assert model.bias.dtype == torch.float32
    assert list(model.parameters()) == []
    assert model.latent_dim == 2


@pytest.mark.parametrize(
    ("W", "scale", "bias", "message"),
    [
        (torch.ones(3), 1.0, None, r"W must be a matrix \(features, latents\); got shape \(3,\)"),
        (torch.ones(3, 0), 1.0, None, r"W must be a matrix .* got shape \(3, 0\)"),
        (torch.ones(3, 2, dtype=torch.int64), 1.0, None, "W must be a floating-point tensor; got torch.int64"),
        ([[1.0]], 1.0, None, "W must be a floating-point tensor; got list"),
        (torch.tensor([[1.0], [math.nan]]), 1.0, None, "W must be finite; 1 of its elements"),
        (torch.ones(3, 2), 0.0, None, "scale must be a finite positive number; got 0.0"),
        (torch.ones(3, 2), math.inf, None, "scale must be a finite positive number; got inf"),
        (torch.ones(3, 2), "one", None, "scale must be a finite positive number; got 'one'"),
        (torch.ones(3, 2), 1.0, torch.zeros(2), r"bias must have shape \(3,\); got \(2,\)"),
        (torch.ones(3, 2), 1.0, torch.full((3,), math.inf), "bias must be finite; 3 of its elements"),
    ],
)
def test_invalid_parameters_are_refused(W, scale, bias, message) -> None:
    with pytest.raises(OptionError, match=message):
        LinearGaussian(W, scale, bias)


@pytest.mark.parametrize("observations", [0, -1, 2.5])
def test_invalid_numbers_of_observations_are_refused(observations) -> None:
    with pytest.raises(OptionError, match="observations must be a positive integer"):
        _model().simulate(observations)
