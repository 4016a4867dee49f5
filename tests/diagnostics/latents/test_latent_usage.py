"""Mutual information and KL of the aggregate posterior, compared with closed forms."""

import math

import numpy as np
import pytest
import torch
from pyro import distributions as dist

import amortvi as avi
from amortvi._util import memory
from amortvi._util.random import random_state
from amortvi.diagnostics.latents import CoordinateUsage, LatentUsage
from amortvi.diagnostics.latents.aggregate import draw_aggregate, mutual_information
from amortvi.errors import DataError, OptionError
from tests.any_models import CASES
from tests.any_models.estimators import fitted
from tests.exact import linear_gaussian, one_latent, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(1000, seed=1)
POINTS = 2048
KS_ERROR = 3 / math.sqrt(POINTS)
"""The distance of an empirical distribution function from its limit exceeds this with probability ``2 exp(-18)``."""
EXACT = solved(MODEL)


def ks_distance(q: torch.distributions.Distribution, p: torch.distributions.Distribution) -> float:
    grid = torch.linspace(-4, 4, 4001)
    return float((q.cdf(grid) - p.cdf(grid)).abs().max())


def test_linear_gaussian_model():
    found = avi.latent_usage(EXACT, X, points=POINTS, seed=0)
    prior = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    kl = torch.distributions.kl_divergence(MODEL.posterior(X), prior).mean()
    assert found.kl == pytest.approx(float(kl), abs=1e-6)
    assert found.kl_se == 0
    assert found.aggregate_kl == pytest.approx(found.kl - found.mutual_information)
    # The aggregate posterior approaches the prior, because the model is right. The KL to the prior remains positive, by the
    # relative variance of the mixture over 2 N: here by about 0.03.
    assert abs(found.aggregate_kl) < 5 * found.mutual_information_se + 0.1
    assert avi.latent_usage(EXACT, X[:50], seed=0).aggregate_kl > 0.2
    assert found.mutual_information_bound == pytest.approx(math.log(1000))
    frame = found.to_frame()
    assert list(frame.index) == ["z[0]", "z[1]", "z[2]"]
    assert frame["active"].all()
    assert not frame["inactive"].any()
    np.testing.assert_allclose(frame["prior_sd"], 1.0)
    np.testing.assert_allclose(frame["sd"], 1.0, atol=5 * math.sqrt(0.5 / 1000))
    assert (frame["ks"] < KS_ERROR + 3 / math.sqrt(1000)).all()


# The unconstrained coordinate of a log-normal latent is normal; the KL to its prior has no closed form.
@pytest.mark.parametrize(
    ("prior", "mean", "scale"),
    [
        (dist.Normal(torch.zeros(1).double(), 1.0).to_event(1), 0.7, 0.4),
        (dist.Normal(torch.zeros(1).double(), 1.0).to_event(1), 0.0, 1.0),
        (dist.LogNormal(torch.tensor(0.3).double(), 0.6), 0.7, 0.4),
    ],
)
def test_constant_posteriors_carry_no_information(prior, mean, scale):
    """The aggregate posterior is then the posterior of each observation."""
    parameters, x = torch.tensor([mean, math.log(scale)], dtype=torch.float64), torch.zeros(80, dtype=torch.float64)
    vi = with_parameters(one_latent(prior), parameters, x, avi.families.Diagonal)
    found = avi.latent_usage(vi, x, draws=200, points=POINTS, seed=0)
    estimated = isinstance(prior, dist.LogNormal)
    q, p = dist.Normal(mean, scale), dist.Normal(0.3, 0.6) if estimated else dist.Normal(0.0, 1.0)
    kl = float(torch.distributions.kl_divergence(q, p))
    assert abs(found.kl - kl) < 5 * found.kl_se + 1e-6
    assert 0 < found.kl_se < 0.02 if estimated else found.kl_se == 0
    assert found.mutual_information == pytest.approx(0, abs=1e-9)
    assert found.aggregate_kl == pytest.approx(found.kl, abs=1e-9)
    assert found.coordinates.mean_variance.item() == pytest.approx(0, abs=1e-12)
    assert found.coordinates.inactive.item() is (kl == 0)
    assert found.ks.item() == pytest.approx(ks_distance(q, p), abs=math.sqrt(2) * KS_ERROR)
    assert found.coordinates.prior_mean.item() == pytest.approx(float(p.mean), abs=5 * float(p.stddev) / math.sqrt(960))
    assert found.prior.mean().item() == pytest.approx(float(p.mean), abs=5 * float(p.stddev) / math.sqrt(POINTS))


def test_mutual_information_of_disjoint_posteriors_is_the_log_of_their_number():
    model = avi.models.LinearGaussian(torch.eye(2, dtype=torch.float64), scale=1e-4)
    found = avi.latent_usage(solved(model), model.simulate(60, seed=0), seed=0)
    assert found.mutual_information == pytest.approx(math.log(60), abs=0.01)
    assert found.kl > math.log(60) + 5


def test_flow_without_closed_forms():
    """For an independent prior the marginal KLs add up to no more than the KL of the whole vector."""
    pytest.importorskip("zuko")
    model = linear_gaussian(dtype=torch.float32)
    x = model.simulate(200, seed=0)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(5, [8]), avi.families.Flow(transforms=2)).setup(x, seed=0)
    found = avi.latent_usage(vi, x, draws=200, points=100, seed=0)
    assert found.kl_se > 0
    assert 0 < float(found.coordinates.kl.sum()) < found.kl + 0.2  # entropies are estimated by spacings
    assert math.isfinite(found.mutual_information)


def test_summary_counts_every_dimension():
    """One is active, one inactive, one neither, and one active as well as inactive: it repeats a prior with covariates."""
    zeros, variances, kl = torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.5, 0.001])
    labels = ("z[0]", "z[1]", "z[2]", "z[3]")
    coordinates = CoordinateUsage(labels, variances.diag(), kl, zeros, 1 + zeros, zeros, 1 + zeros)
    found = LatentUsage(coordinates, 100, zeros, 1.5, 0.0, 1.2, 0.1, torch.zeros(1, 4), torch.zeros(1, 4))
    assert str(found).splitlines() == [
        "1 of 4 latent dimensions are active, 2 inactive: z[1], z[3], 1 neither (the posterior differs from the prior, but its "
        "mean does not vary): z[2] (100 observations). The posterior means vary along 2 directions.",
        "KL 1.50 nats = mutual information 1.20 ± 0.10 (at most log N = 4.61) + KL from aggregate posterior to prior 0.30.",
    ]


def test_result_does_not_depend_on_the_size_of_chunks(monkeypatch):
    whole = avi.latent_usage(EXACT, X[:200], points=300, seed=0)
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", 500)
    in_chunks = avi.latent_usage(EXACT, X[:200], points=300, seed=0)
    assert in_chunks.kl == pytest.approx(whole.kl)
    torch.testing.assert_close(in_chunks.coordinates.mean_covariance, whole.coordinates.mean_covariance)
    error = math.hypot(in_chunks.mutual_information_se, whole.mutual_information_se)
    assert abs(in_chunks.mutual_information - whole.mutual_information) < 5 * error


@pytest.mark.parametrize("name", CASES)
def test_any_model(name):
    vi, x = fitted(name), CASES[name].x
    found = avi.latent_usage(vi, x, draws=30, points=50, seed=0)
    frame = found.to_frame()
    assert list(frame.index) == vi.posterior(x).latents.labels
    assert np.isfinite(frame.drop(columns="kl").to_numpy(dtype=float)).all()
    joint = [label.partition("[")[0] in ("weights", "factor") for label in frame.index]
    assert frame["kl"].isna().tolist() == joint
    assert math.isfinite(found.mutual_information)
    assert ("joint prior" in str(found)) is any(joint)


@pytest.mark.parametrize(("rows", "points"), [(7, 105), (500, 100)])
def test_observations_contribute_equally(rows, points):
    posterior = EXACT.posterior(X[:rows])
    with random_state(0):
        drawn = draw_aggregate(posterior, 100)
    assert drawn.vector.shape == drawn.prior.shape == (points, 3)
    assert drawn.log_prob.shape == (points,)
    assert abs(float(drawn.control.mean())) < 5 * float(drawn.control.std()) / math.sqrt(points)


def test_mutual_information_compares_each_posterior_with_the_mixture():
    exact, posterior = MODEL.posterior(X[:20]), EXACT.posterior(X[:20])
    with random_state(0):
        drawn = draw_aggregate(posterior, 1000)
    mixture = torch.logsumexp(exact.log_prob(drawn.vector.unsqueeze(1)), dim=1) - math.log(20)
    terms = drawn.log_prob - mixture
    found, error = mutual_information(posterior, drawn)
    assert error < float(terms.std()) / math.sqrt(1000)  # the control variate reduces the variance
    assert abs(found - float(terms.mean())) < 5 * float(terms.std()) / math.sqrt(1000)


def test_bad_input():
    with pytest.raises(DataError, match="x must have at least two observations"):
        avi.latent_usage(EXACT, X[:1])
    with pytest.raises(OptionError, match=r"draws must be .* at least 10"):
        avi.latent_usage(EXACT, X, draws=3)
    with pytest.raises(OptionError, match="points must be a positive integer"):
        avi.latent_usage(EXACT, X, points=0)
