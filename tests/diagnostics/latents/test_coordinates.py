"""The usage of each latent coordinate, compared with closed forms, and the warning about inactive latents."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi._util.random import random_state
from amortvi.data import as_observations
from amortvi.diagnostics.latents import CoordinateUsage
from amortvi.diagnostics.latents.coordinates import abbreviated, coordinate_usage, warn_of_inactive_latents
from amortvi.errors import AmortviWarning
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


def measured_for(prior: dist.Distribution, mean: float = MEAN, dim: int = 1, family=avi.families.Diagonal, **options):
    """Return the usage of a latent whose unconstrained posterior has the location ``mean`` and the scale ``SCALE``."""
    parameters = torch.tensor([mean] * dim + [math.log(SCALE)] * dim, dtype=torch.float64)
    return measured(with_parameters(one_latent(prior), parameters, ROWS, family), ROWS, **options)


@pytest.mark.parametrize("family", [avi.families.Diagonal, avi.families.FullCovariance])
def test_linear_gaussian_usage_is_exact(family):
    found = measured(solved(MODEL, family), X)
    posterior = MODEL.posterior(X)
    variance = posterior.variance if family is avi.families.FullCovariance else 1 / MODEL.precision().diagonal()
    kl = 0.5 * (posterior.mean.square() + variance - 1 - variance.log()).mean(0)
    aggregate = posterior.mean.var(0, correction=0) + variance.expand_as(posterior.mean).mean(0)
    expected = [posterior.mean.mT.cov(), kl, posterior.mean.mean(0), aggregate]
    measures = [found.mean_covariance, found.kl, found.mean, found.variance]
    torch.testing.assert_close(measures, expected, rtol=1e-6, atol=1e-8)
    assert found.active.all()
    assert found.inactive_labels == []


@pytest.mark.parametrize("second", [0.0, 1.0], ids=["no loading", "the same loadings"])
def test_an_inactive_or_redundant_coordinate_adds_no_active_direction(second):
    model = avi.models.LinearGaussian(torch.tensor([[1.0, second], [2.0, 2 * second]], dtype=torch.float64), scale=0.5)
    found = measured(solved(model), model.simulate(300, seed=1))
    assert found.active.tolist() == [True, second > 0]
    assert found.inactive_labels == ([] if second else ["z[1]"])
    assert found.active_directions == 1


def normal(loc: float, scale: float) -> dist.Normal:
    return dist.Normal(torch.tensor(loc).double(), scale)


PRIORS = {
    "another normal": (normal(-0.5, 2.0), (-0.5, 2.0)),
    # Its unconstrained coordinate is the logarithm, which is normal.
    "positive": (dist.LogNormal(torch.tensor(0.3).double(), 0.6), (0.3, 0.6)),
    "event dimensions": (normal(0.2, 1.5).expand([1]).to_event(1), (0.2, 1.5)),
    "multivariate": (dist.MultivariateNormal(torch.tensor([0.2]).double(), 2.25 * torch.eye(1).double()), (0.2, 1.5)),
    # The KL is invariant under transforms: two logistic-normal distributions have the KL of the normal ones.
    "interval": (dist.TransformedDistribution(normal(0.5, 1.2), [dist.transforms.SigmoidTransform()]), (0.5, 1.2)),
}


@pytest.mark.parametrize("name", PRIORS)
def test_kl_to_quadratic_log_priors_has_no_monte_carlo_error(name):
    prior, unconstrained = PRIORS[name]
    assert float(measured_for(prior).kl) == pytest.approx(kl_of_normals(MEAN, SCALE, *unconstrained), abs=1e-6)


def test_kl_to_other_priors_is_estimated():
    """With the prior Gamma(2, 2), the log density of u = log(z) is 2 u - 2 exp(u) + log 4, and E exp(u) is known."""
    found = measured_for(dist.Gamma(torch.tensor(2.0).double(), 2.0))
    expected = -(0.5 * math.log(2 * math.pi * math.e) + math.log(SCALE))
    expected -= 2 * MEAN - 2 * math.exp(MEAN + SCALE**2 / 2) + math.log(4)
    # The standard error is about 0.001: draws with exact moments also average exp(u) with little error.
    assert float(found.kl) == pytest.approx(expected, abs=0.01)


def test_prior_that_depends_on_another_latent_is_marginalized():
    """The prior of z is N(top, 1) given top and N(0, 2) marginally, which is its posterior here."""

    def hierarchical(x):
        with pyro.plate("data", x.shape[0]):
            top = pyro.sample("top", dist.Normal(x.new_zeros(()), 1.0))
            z = pyro.sample("z", dist.Normal(top, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    parameters = torch.tensor([MEAN, 0.0, math.log(SCALE), 0.5 * math.log(2)], dtype=torch.float64)
    found = measured(with_parameters(hierarchical, parameters, ROWS, avi.families.Diagonal), ROWS)
    assert float(found.kl[0]) == pytest.approx(kl_of_normals(MEAN, SCALE), abs=1e-6)
    # The average over 25 runs has a bias of about 0.02 and a standard error of about 0.005. The KL to the conditional prior is
    # much larger.
    assert kl_of_normals(0.0, math.sqrt(2), MEAN, 1.0) > 0.3
    assert abs(float(found.kl[1])) < 0.07
    assert float(found.prior_variance[1]) == pytest.approx(2, abs=5 * 2 * math.sqrt(2 / 1000))


@pytest.mark.parametrize(("shift", "inactive"), [(0.0, True), (0.5, False)])
def test_posterior_that_repeats_a_prior_with_covariates_is_inactive(shift, inactive):
    def with_covariates(x, c):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(3 * c, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0 * z, 1.0).to_event(1), obs=x)

    c = torch.randn(40, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (torch.ones_like(c), c)
    encoder = nn.Bilinear(1, 1, 2, dtype=torch.float64)  # the posterior is N(3 x c + shift, 1)
    encoder.weight.data = torch.tensor([[[3.0]], [[0.0]]]).double()
    encoder.bias.data = torch.tensor([shift, 0.0]).double()
    found = measured(hand_set(with_covariates, encoder, avi.families.Diagonal, x), x)
    assert found.active  # the posterior mean varies, because the prior mean does
    assert float(found.kl) == pytest.approx(shift**2 / 2, abs=1e-6)
    assert bool(found.inactive) is inactive


def test_coordinates_of_a_joint_prior_have_no_kl():
    found = measured_for(dist.Dirichlet(torch.full((3,), 2.0).double()), dim=2)
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


class WithoutClosedForms(Laplace):
    def distribution(self, parameters: Tensor):
        return dist.TransformedDistribution(super().distribution(parameters), [dist.transforms.AffineTransform(0, 1)])


class StudentT(Laplace):
    """Has a closed-form entropy, but no closed-form KL to a normal distribution, to which it is close."""

    def distribution(self, parameters: Tensor):
        loc, log_scale = parameters.chunk(2, dim=-1)
        return dist.StudentT(torch.tensor(50.0).to(loc), loc, log_scale.exp()).to_event(1)


STANDARD_NORMAL = dist.Normal(torch.zeros(1).double(), 1.0).to_event(1)
LAPLACE_VARIANCE = 2 * SCALE**2
LAPLACE_KL = -1 - math.log(2 * SCALE) + 0.5 * math.log(2 * math.pi) + 0.5 * (MEAN**2 + LAPLACE_VARIANCE)


def test_closed_forms_are_used_for_any_distribution():
    found = measured_for(STANDARD_NORMAL, family=Laplace)
    assert float(found.kl) == pytest.approx(LAPLACE_KL, abs=1e-9)
    assert float(found.variance) == pytest.approx(LAPLACE_VARIANCE, abs=1e-9)
    assert float(found.mean_variance) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("draws", [50, 200])
def test_draws_replace_closed_forms(draws):
    """All posteriors are equal, so the variance of the estimated means is Monte Carlo error, which is subtracted."""
    parameters, rows = torch.tensor([MEAN, math.log(SCALE)], dtype=torch.float64), ROWS.repeat(50)
    found = measured(with_parameters(one_latent(STANDARD_NORMAL), parameters, rows, WithoutClosedForms), rows, draws)
    # The estimator of the entropy, by spacings, has a bias of a few hundredths of a nat for a Laplace distribution.
    assert float(found.kl) == pytest.approx(LAPLACE_KL, abs=0.06)
    # The kurtosis of a Laplace distribution is 6.
    assert float(found.variance) == pytest.approx(LAPLACE_VARIANCE, rel=5 * math.sqrt(5 / (2000 * draws)))
    noise = LAPLACE_VARIANCE / draws
    assert abs(float(found.mean_variance)) < 6 * noise * math.sqrt(2 / 2000)


def test_inactive_coordinate_is_found_without_closed_forms():
    vi = with_parameters(one_latent(STANDARD_NORMAL), torch.zeros(2, dtype=torch.float64), ROWS, StudentT)
    assert measured(vi, ROWS, 200).inactive


def test_posterior_at_the_edge_of_the_support_is_no_error():
    """Draws of a Beta latent round to one. A warning at the end of a fit must not fail for that."""
    found = measured_for(dist.Beta(torch.tensor(2.0).double(), 3.0), mean=60.0)
    assert float(found.kl) > 10
    assert not found.inactive


DATA = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))


def one_unused(x: Tensor) -> None:
    """A model with a parameter and two latents, the second of which does not affect the data."""
    weight = pyro.param("weight", torch.ones(2))
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1))
        pyro.sample("x", dist.Normal(weight * z[..., :1], 0.5).to_event(1), obs=x)


def encoder(second: float = 0.0) -> nn.Linear:
    """Return an encoder with a varying mean for the first latent and, for the second, ``second`` times ``x``."""
    linear = nn.Linear(2, 4)
    linear.weight.data = torch.tensor([[0.5, 0.5], [second, 0.0], [0.0, 0.0], [0.0, 0.0]])
    linear.bias.data = torch.tensor([0.0, 0.0, -1.0, 0.0])
    return linear


def fitted(model, encoder, *, freeze_model=False) -> avi.AmortizedVI:
    """Return an estimator after one epoch that does not change its parameters."""
    vi = avi.AmortizedVI(model, encoder, avi.families.Diagonal(head=False), freeze_model=freeze_model)
    return vi.fit(DATA, epochs=1, lr=1e-30, standardize=False, progress=False, seed=0)


def check(vi: avi.AmortizedVI, x=DATA, batch_size: int | None = 1) -> None:
    """Call the hook as after one epoch of ``x`` in batches of ``batch_size``: by default 600 steps."""
    warn_of_inactive_latents(vi, as_observations(x, vi.dtype), avi.FitOptions(batch_size=batch_size))


ONE_BY_ONE = DataLoader(TensorDataset(DATA), batch_size=1, shuffle=True)


@pytest.mark.parametrize(("x", "batch_size"), [(DATA, 1), (TensorDataset(DATA), 1), (ONE_BY_ONE, None)])
def test_inactive_latent_is_reported(x, batch_size):
    with pytest.warns(AmortviWarning, match=r"1 of 2 latent dimensions are inactive: z\[1\]\. .*kl_weight"):
        check(fitted(one_unused, encoder()), x, batch_size)


def test_only_the_first_inactive_latents_are_listed():
    assert abbreviated([f"z[{i}]" for i in range(20)]).endswith("z[6], z[7] and 12 more")


def new_network() -> avi.AmortizedVI:
    decoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
    vi = avi.AmortizedVI(avi.models.VAE(decoder, 8, "normal"), avi.encoders.MLP(2, [16]))
    return vi.fit(DATA, epochs=1, lr=1e-30, standardize=False, progress=False, seed=0)


WITHOUT_REASON = {
    "all latents are active": (lambda: fitted(one_unused, encoder(second=0.5)), 1),
    "the model is frozen": (lambda: fitted(one_unused, encoder(), freeze_model=True), 1),
    "no parameters": (lambda: fitted(avi.models.LinearGaussian(torch.eye(2), scale=1.0), encoder()), 1),
    "the network is new": (new_network, 1),
    "the fit is short": (lambda: fitted(one_unused, encoder()), 128),
}


@pytest.mark.parametrize(("make", "batch_size"), WITHOUT_REASON.values(), ids=WITHOUT_REASON)
def test_no_warning_without_reason(make, batch_size):
    vi = make()
    state = torch.get_rng_state()
    check(vi, batch_size=batch_size)  # a warning is an error
    assert torch.equal(torch.get_rng_state(), state)


def test_fit_in_which_a_latent_collapses_issues_the_warning():
    vi = avi.AmortizedVI(one_unused, avi.encoders.MLP(2, []))
    with pytest.warns(AmortviWarning, match=r"1 of 2 latent dimensions are inactive: z\[1\]") as caught:
        vi.fit(DATA, epochs=100, lr=0.03, batch_size=100, progress=False, seed=0)
    assert caught[0].filename == __file__
