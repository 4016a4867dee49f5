"""Mutual information and KL of the aggregate posterior, compared with closed forms."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from pyro import distributions as dist

import amortvi as avi
from amortvi._util import chunks
from amortvi.errors import DataError, NotFittedError, OptionError
from tests.any_models import CASES
from tests.exact import linear_gaussian, one_latent, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(1000, seed=1)
INFORMATION = float(0.5 * torch.logdet(MODEL.precision()))
"""The mutual information of ``x`` and ``z`` in the population."""

POINTS = 2048
KS_ERROR = 3 / math.sqrt(POINTS)
"""The distance of an empirical distribution function from its limit exceeds this with probability ``2 exp(-18)``."""


@pytest.fixture(scope="module")
def exact():
    return avi.latent_usage(solved(MODEL), X, points=POINTS, seed=0)


def constant(mean: float, scale: float, rows: int):
    """Return an estimator with the same posterior of one ``N(0, 1)`` latent for each observation, and observations."""
    parameters = torch.tensor([mean, math.log(scale)], dtype=torch.float64)
    x = torch.zeros(rows, 1, dtype=torch.float64)
    prior = avi.models.LinearGaussian(torch.zeros(1, 1, dtype=torch.float64), scale=1.0)
    return with_parameters(prior, parameters, x, avi.families.Diagonal), x


def ks_distance(q: torch.distributions.Distribution, p: torch.distributions.Distribution) -> float:
    grid = torch.linspace(-4, 4, 4001)
    return float((q.cdf(grid) - p.cdf(grid)).abs().max())


def test_kl_is_exact(exact):
    prior = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    kl = torch.distributions.kl_divergence(MODEL.posterior(X), prior).mean()
    assert exact.kl == pytest.approx(float(kl), abs=1e-6)
    assert exact.kl_se == 0
    assert exact.aggregate_kl == pytest.approx(exact.kl - exact.mutual_information)


def test_mutual_information_is_that_of_the_population(exact):
    # The mutual information of N observations is too small, by the relative variance of the mixture over 2 N: here by about
    # 0.03. The variation of the simulated x changes it and the KL alike.
    variation = exact.kl - INFORMATION
    assert abs(exact.mutual_information - INFORMATION - variation) < 5 * exact.mutual_information_se + 0.1
    assert exact.mutual_information_bound == pytest.approx(math.log(1000))


def test_aggregate_posterior_approaches_the_prior_of_a_right_model():
    few, many = (avi.latent_usage(solved(MODEL), MODEL.simulate(n, seed=1), seed=0) for n in (50, 3000))
    assert few.aggregate_kl > 0.2
    assert abs(many.aggregate_kl) < 5 * many.mutual_information_se + 0.04


def test_constant_posteriors_carry_no_information():
    """The aggregate posterior is then the posterior of each observation."""
    found = avi.latent_usage(*constant(0.7, 0.4, rows=50), points=POINTS, seed=0)
    kl = 0.5 * (0.7**2 + 0.4**2 - 1) - math.log(0.4)
    assert found.kl == pytest.approx(kl, abs=1e-6)
    assert found.mutual_information == pytest.approx(0, abs=1e-9)
    assert found.aggregate_kl == pytest.approx(kl, abs=1e-6)
    assert found.coordinates.mean_variance.item() == pytest.approx(0, abs=1e-12)
    distance = ks_distance(torch.distributions.Normal(0.7, 0.4), torch.distributions.Normal(0.0, 1.0))
    assert found.ks.item() == pytest.approx(distance, abs=KS_ERROR)


def test_mutual_information_of_disjoint_posteriors_is_the_log_of_their_number():
    model = avi.models.LinearGaussian(torch.eye(2, dtype=torch.float64), scale=1e-4)
    found = avi.latent_usage(solved(model), model.simulate(60, seed=0), seed=0)
    assert found.mutual_information == pytest.approx(math.log(60), abs=0.01)
    assert found.kl > math.log(60) + 5


def test_collapsed_latent_is_inactive():
    found = avi.latent_usage(*constant(0.0, 1.0, rows=50), points=POINTS, seed=0)
    assert found.coordinates.inactive.tolist() == [True]
    assert "0 of 1 latent dimensions are active (0 directions), 1 inactive: z[0]" in str(found)
    assert found.kl == pytest.approx(0, abs=1e-9)
    assert found.ks.item() < KS_ERROR


def test_kl_to_another_prior_is_estimated():
    """The unconstrained coordinate of a log-normal latent is normal."""
    parameters = torch.tensor([0.7, math.log(0.4)], dtype=torch.float64)
    x = torch.zeros(80, dtype=torch.float64)
    prior = dist.LogNormal(torch.tensor(0.3).double(), 0.6)
    vi = with_parameters(one_latent(prior), parameters, x, avi.families.Diagonal)
    found = avi.latent_usage(vi, x, draws=200, points=POINTS, seed=0)
    q, p = torch.distributions.Normal(0.7, 0.4), torch.distributions.Normal(0.3, 0.6)
    kl = float(torch.distributions.kl_divergence(q, p))
    assert 0 < found.kl_se < 0.02
    assert abs(found.kl - kl) < 5 * found.kl_se
    assert found.mutual_information == pytest.approx(0, abs=1e-9)
    assert found.coordinates.prior_mean.item() == pytest.approx(0.3, abs=5 * 0.6 / math.sqrt(960))
    assert found.prior.mean().item() == pytest.approx(0.3, abs=5 * 0.6 / math.sqrt(POINTS))
    assert found.ks.item() == pytest.approx(ks_distance(q, p), abs=math.sqrt(2) * KS_ERROR)


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


def test_frame(exact):
    frame = exact.to_frame()
    assert list(frame.index) == ["z[0]", "z[1]", "z[2]"]
    assert frame["active"].all()
    assert not frame["inactive"].any()
    np.testing.assert_allclose(frame["mean_variance"], MODEL.posterior(X).mean.var(0), rtol=1e-6)
    np.testing.assert_allclose(frame["prior_sd"], 1.0)
    np.testing.assert_allclose(frame["sd"], 1.0, atol=5 * math.sqrt(0.5 / 1000))
    assert (frame["ks"] < KS_ERROR + 3 / math.sqrt(1000)).all()


def test_seed_reproduces_and_leaves_the_random_state_untouched():
    vi = solved(MODEL)
    state = torch.get_rng_state()
    first, second = (avi.latent_usage(vi, X[:50], points=100, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.mutual_information == second.mutual_information
    assert torch.equal(first.aggregate, second.aggregate)


def test_result_does_not_depend_on_the_size_of_chunks(monkeypatch):
    whole = avi.latent_usage(solved(MODEL), X[:200], points=300, seed=0)
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", 500)
    in_chunks = avi.latent_usage(solved(MODEL), X[:200], points=300, seed=0)
    assert in_chunks.kl == pytest.approx(whole.kl)
    error = math.hypot(in_chunks.mutual_information_se, whole.mutual_information_se)
    assert abs(in_chunks.mutual_information - whole.mutual_information) < 5 * error


@pytest.mark.parametrize("name", CASES)
def test_any_model(name):
    case = CASES[name]
    torch.manual_seed(0)
    vi = avi.AmortizedVI(case.make(), case.make_encoder(), "full").setup(case.x, seed=0)
    found = avi.latent_usage(vi, case.x, draws=30, points=50, seed=0)
    frame = found.to_frame()
    assert list(frame.index) == vi.posterior(case.x).latents.labels
    assert np.isfinite(frame.drop(columns="kl").to_numpy(dtype=float)).all()
    joint = [label.partition("[")[0] in ("weights", "factor") for label in frame.index]
    assert frame["kl"].isna().tolist() == joint
    assert math.isfinite(found.mutual_information)
    assert ("joint prior" in str(found)) is any(joint)


def test_single_precision_and_data_frames():
    model = linear_gaussian(dtype=torch.float32)
    x = model.simulate(100, seed=0)
    found = avi.latent_usage(solved(model), pd.DataFrame(x.numpy()), points=100, seed=0)
    assert found.kl == pytest.approx(avi.latent_usage(solved(model), x, points=100, seed=0).kl)


def test_refined_posterior_is_used():
    """The encoder returns the prior, and refinement the exact posterior."""
    parameters = torch.zeros(1, 9, dtype=torch.float64)
    vi = with_parameters(MODEL, parameters, X[:100])
    assert avi.latent_usage(vi, X[:100], points=100, seed=0).kl == pytest.approx(0, abs=1e-6)
    refined = avi.latent_usage(vi, posterior=vi.refine(X[:100], seed=0), points=100, seed=0)
    assert refined.kl == pytest.approx(avi.latent_usage(solved(MODEL), X[:100], points=100, seed=0).kl, abs=0.05)


def test_bad_input():
    vi = solved(MODEL)
    with pytest.raises(DataError, match="x must have at least two observations"):
        avi.latent_usage(vi, X[:1])
    with pytest.raises(OptionError, match=r"draws must be .* at least 10"):
        avi.latent_usage(vi, X, draws=3)
    with pytest.raises(OptionError, match="points must be a positive integer"):
        avi.latent_usage(vi, X, points=0)
    with pytest.raises(OptionError, match="posterior"):
        avi.latent_usage(vi)
    with pytest.raises(NotFittedError, match="call fit"):
        avi.latent_usage(avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [])), X)
