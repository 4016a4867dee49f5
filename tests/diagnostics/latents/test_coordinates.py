"""The usage of each latent coordinate, compared with closed forms."""

import math
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi._util import chunks
from amortvi._util.random import random_state
from amortvi.diagnostics.latents.coordinates import CoordinateUsage, coordinate_usage
from amortvi.families import ParametricFamily
from tests.exact import hand_set, linear_gaussian, one_latent, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(300, seed=1)
ROWS = torch.zeros(40, dtype=torch.float64)
MEAN, SCALE = 0.7, 0.4


def kl_of_normals(mean: float, scale: float, prior_mean: float = 0.0, prior_scale: float = 1.0) -> float:
    q, p = torch.distributions.Normal(mean, scale), torch.distributions.Normal(prior_mean, prior_scale)
    return float(torch.distributions.kl_divergence(q, p))


def measured(vi: avi.AmortizedVI, x, draws: int = 400) -> CoordinateUsage:
    with random_state(0):
        return coordinate_usage(vi.posterior(x), draws)


def with_posterior(prior: dist.Distribution, mean: float = MEAN, scale: float = SCALE, dim: int = 1) -> avi.AmortizedVI:
    """Return an estimator with the posterior ``N(mean, scale^2)`` for each coordinate of the unconstrained latent."""
    parameters = torch.tensor([mean] * dim + [math.log(scale)] * dim, dtype=torch.float64)
    return with_parameters(one_latent(prior), parameters, ROWS, avi.families.Diagonal)


@pytest.mark.parametrize("family", [avi.families.Diagonal, avi.families.FullCovariance])
def test_linear_gaussian_usage_is_exact(family):
    found = measured(solved(MODEL, family), X)
    posterior = MODEL.posterior(X)
    variance = posterior.variance if family is avi.families.FullCovariance else 1 / MODEL.precision().diagonal()
    kl = 0.5 * (posterior.mean.square() + variance - 1 - variance.log()).mean(0)
    torch.testing.assert_close(found.mean_covariance, posterior.mean.mT.cov(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.kl, kl, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.mean, posterior.mean.mean(0), rtol=1e-6, atol=1e-8)
    expected = posterior.mean.var(0, correction=0) + variance.expand_as(posterior.mean).mean(0)
    torch.testing.assert_close(found.variance, expected, rtol=1e-6, atol=1e-8)
    assert found.labels == ("z[0]", "z[1]", "z[2]")
    assert found.active.all()
    assert not found.inactive.any()
    assert found.inactive_labels == []


def test_latent_without_loading_is_inactive():
    W = MODEL.W.clone()
    W[:, 1] = 0
    model = avi.models.LinearGaussian(W, scale=0.8)
    found = measured(solved(model), model.simulate(300, seed=1))
    assert found.inactive.tolist() == [False, True, False]
    assert found.inactive_labels == ["z[1]"]
    assert found.active.tolist() == [True, False, True]
    assert found.active_directions == 2


def test_redundant_coordinates_share_one_active_direction():
    model = avi.models.LinearGaussian(torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=torch.float64), scale=0.5)
    found = measured(solved(model), model.simulate(300, seed=1))
    assert found.active.tolist() == [True, True]
    assert found.active_directions == 1


PRIORS: dict[str, tuple[Callable[[], dist.Distribution], float]] = {
    "another normal": (lambda: dist.Normal(torch.tensor(-0.5).double(), 2.0), kl_of_normals(MEAN, SCALE, -0.5, 2.0)),
    # Its unconstrained coordinate is the logarithm, which is normal.
    "positive": (lambda: dist.LogNormal(torch.tensor(0.3).double(), 0.6), kl_of_normals(MEAN, SCALE, 0.3, 0.6)),
    "event dimensions": (
        lambda: dist.Normal(torch.tensor([0.2]).double(), 1.5).to_event(1),
        kl_of_normals(MEAN, SCALE, 0.2, 1.5),
    ),
    "multivariate normal": (
        lambda: dist.MultivariateNormal(torch.tensor([0.2]).double(), torch.tensor([[2.25]]).double()),
        kl_of_normals(MEAN, SCALE, 0.2, 1.5),
    ),
    # The KL is invariant under transforms: two logistic-normal distributions have the KL of the normal ones.
    "interval": (
        lambda: dist.TransformedDistribution(
            dist.Normal(torch.tensor(0.5).double(), 1.2), [dist.transforms.SigmoidTransform()]
        ),
        kl_of_normals(MEAN, SCALE, 0.5, 1.2),
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_kl_to_quadratic_log_priors_has_no_monte_carlo_error(name):
    make, expected = PRIORS[name]
    found = measured(with_posterior(make()), ROWS)
    assert float(found.kl) == pytest.approx(expected, abs=1e-6)


def test_kl_to_other_priors_is_estimated():
    """With the prior Gamma(2, 2), the log density of u = log(z) is 2 u - 2 exp(u) + log 4, and E exp(u) is known."""
    found = measured(with_posterior(dist.Gamma(torch.tensor(2.0).double(), 2.0)), ROWS)
    expected = -(0.5 * math.log(2 * math.pi * math.e) + math.log(SCALE))
    expected -= 2 * MEAN - 2 * math.exp(MEAN + SCALE**2 / 2) + math.log(4)
    # The standard error is about 0.001: draws with exact moments also average exp(u) with little error.
    assert float(found.kl) == pytest.approx(expected, abs=0.01)


def test_moments_of_the_prior_are_estimated():
    found = measured(with_posterior(dist.Normal(torch.tensor(-0.5).double(), 2.0)), ROWS)
    assert float(found.prior_mean) == pytest.approx(-0.5, abs=5 * 2 / math.sqrt(1000))
    assert float(found.prior_variance) == pytest.approx(4, abs=5 * 4 * math.sqrt(2 / 1000))


def hierarchical(x):
    with pyro.plate("data", x.shape[0]):
        top = pyro.sample("top", dist.Normal(x.new_zeros(()), 1.0))
        z = pyro.sample("z", dist.Normal(top, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_prior_that_depends_on_another_latent_is_marginalized():
    """The prior of z is N(top, 1) given top and N(0, 2) marginally, which is its posterior here."""
    parameters = torch.tensor([MEAN, 0.0, math.log(SCALE), 0.5 * math.log(2)], dtype=torch.float64)
    vi = with_parameters(hierarchical, parameters, ROWS, avi.families.Diagonal)
    found = measured(vi, ROWS)
    assert float(found.kl[0]) == pytest.approx(kl_of_normals(MEAN, SCALE), abs=1e-6)
    # The average over 25 runs has a bias of about 0.02 and a standard error of about 0.005. The KL to the conditional prior is
    # much larger.
    assert kl_of_normals(0.0, math.sqrt(2), MEAN, 1.0) > 0.3
    assert abs(float(found.kl[1])) < 0.07
    assert float(found.prior_variance[1]) == pytest.approx(2, abs=5 * 2 * math.sqrt(2 / 1000))


def with_covariates(x, c):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(3 * c, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(0 * z, 1.0).to_event(1), obs=x)


class RepeatsPrior(nn.Module):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.cat([3 * c + self.shift, torch.zeros_like(c)], dim=-1)


@pytest.mark.parametrize(("shift", "inactive"), [(0.0, True), (0.5, False)])
def test_posterior_that_repeats_a_prior_with_covariates_is_inactive(shift, inactive):
    c = torch.randn(40, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (torch.zeros_like(c), c)
    found = measured(hand_set(with_covariates, RepeatsPrior(shift), avi.families.Diagonal, x), x)
    assert found.active  # the posterior mean varies, because the prior mean does
    assert float(found.kl) == pytest.approx(shift**2 / 2, abs=1e-6)
    assert bool(found.inactive) is inactive


def test_coordinates_of_a_joint_prior_have_no_kl():
    found = measured(with_posterior(dist.Dirichlet(torch.full((3,), 2.0).double()), dim=2), ROWS)
    assert found.kl.isnan().all()
    assert found.inactive.all()  # judged by the posterior mean alone, which does not vary


class Laplace(ParametricFamily):
    """Has closed forms, but is not Gaussian."""

    @property
    def num_parameters(self) -> int:
        return 2 * self.dim

    def distribution(self, parameters: Tensor):
        loc, log_scale = parameters.chunk(2, dim=-1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


class StudentT(Laplace):
    """Has a closed-form entropy, but no closed-form KL to a normal distribution."""

    def distribution(self, parameters: Tensor):
        loc, log_scale = parameters.chunk(2, dim=-1)
        return dist.StudentT(torch.tensor(50.0).to(loc), loc, log_scale.exp()).to_event(1)


class WithoutClosedForms(Laplace):
    """The same distributions as `Laplace`."""

    def distribution(self, parameters: Tensor):
        return dist.TransformedDistribution(super().distribution(parameters), [dist.transforms.AffineTransform(0, 1)])


def standard_normal_latent():
    return one_latent(dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))


LAPLACE_VARIANCE = 2 * SCALE**2
LAPLACE_KL = -1 - math.log(2 * SCALE) + 0.5 * math.log(2 * math.pi) + 0.5 * (MEAN**2 + LAPLACE_VARIANCE)


def test_closed_forms_are_used_for_any_distribution():
    parameters = torch.tensor([MEAN, math.log(SCALE)], dtype=torch.float64)
    found = measured(with_parameters(standard_normal_latent(), parameters, ROWS, Laplace), ROWS)
    assert float(found.kl) == pytest.approx(LAPLACE_KL, abs=1e-9)
    assert float(found.variance) == pytest.approx(LAPLACE_VARIANCE, abs=1e-9)
    assert float(found.mean_variance) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("draws", [50, 200, 1000])
def test_draws_replace_closed_forms(draws):
    """All posteriors are equal, so the variance of the estimated means is Monte Carlo error, which is subtracted."""
    parameters, rows = torch.tensor([MEAN, math.log(SCALE)], dtype=torch.float64), ROWS.repeat(50)
    vi = with_parameters(standard_normal_latent(), parameters, rows, WithoutClosedForms)
    found = measured(vi, rows, draws)
    # The estimator of the entropy, by spacings, has a bias of a few hundredths of a nat for a Laplace distribution.
    assert float(found.kl) == pytest.approx(LAPLACE_KL, abs=0.06)
    # The kurtosis of a Laplace distribution is 6.
    assert float(found.variance) == pytest.approx(LAPLACE_VARIANCE, rel=5 * math.sqrt(5 / (2000 * draws)))
    noise = LAPLACE_VARIANCE / draws
    assert abs(float(found.mean_variance)) < 6 * noise * math.sqrt(2 / 2000)


def test_inactive_coordinate_is_found_without_closed_forms():
    """A Student's t distribution with many degrees of freedom is close to N(0, 1)."""
    vi = with_parameters(standard_normal_latent(), torch.zeros(2, dtype=torch.float64), ROWS, StudentT)
    assert measured(vi, ROWS, 200).inactive


def test_posterior_at_the_edge_of_the_support_is_no_error():
    """Draws of a Beta latent round to one. A warning at the end of a fit must not fail for that."""
    found = measured(with_posterior(dist.Beta(torch.tensor(2.0).double(), 3.0), mean=60.0), ROWS)
    assert float(found.kl) > 10
    assert not found.inactive


def test_result_does_not_depend_on_the_size_of_chunks(monkeypatch):
    whole = measured(solved(MODEL), X)
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", 64)
    in_chunks = measured(solved(MODEL), X)
    torch.testing.assert_close(in_chunks.mean_covariance, whole.mean_covariance)
    torch.testing.assert_close(in_chunks.kl, whole.kl)
