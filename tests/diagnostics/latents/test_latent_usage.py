"""Mutual information and aggregate posterior against their closed forms; planted collapse is found."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from pyro import distributions as dist

import amortvi as avi
from amortvi import _chunks
from amortvi.errors import DataError, NotFittedError, OptionError
from tests.any_models import CASES
from tests.exact import linear_gaussian, one_latent, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(1000, seed=1)
INFORMATION = float(0.5 * torch.logdet(MODEL.precision()))


@pytest.fixture(scope="module")
def exact():
    return avi.latent_usage(solved(MODEL), X, seed=0)


def constant(mean: float, scale: float, rows: int):
    """The estimator of one ``N(0, 1)`` latent with the same posterior for each observation."""
    parameters = torch.tensor([mean, math.log(scale)], dtype=torch.float64)
    x = torch.zeros(rows, 1, dtype=torch.float64)
    prior = avi.models.LinearGaussian(torch.zeros(1, 1, dtype=torch.float64), scale=1.0)
    return with_parameters(prior, parameters, x, avi.families.Diagonal), x


def test_kl_is_exact_and_the_information_close(exact):
    posterior = MODEL.posterior(X)
    prior = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    assert exact.kl == pytest.approx(float(torch.distributions.kl_divergence(posterior, prior).mean()), abs=1e-6)
    assert exact.kl_se == 0
    # A mixture of N is below the population's information by about the relative variance of its terms over 2 N:
    # here about 0.03. The simulated x themselves spread more or less than the law of x, in kl and information alike.
    sample = exact.kl - INFORMATION
    assert abs(exact.mutual_information - INFORMATION - sample) < 5 * exact.mutual_information_se + 0.05
    assert exact.mutual_information_bound == pytest.approx(math.log(1000))
    assert exact.aggregate_kl == pytest.approx(exact.kl - exact.mutual_information)


def test_more_observations_bring_the_aggregate_to_the_prior():
    """All posteriors together are the prior where the model is right, whatever its posteriors are."""
    few, many = (avi.latent_usage(solved(MODEL), MODEL.simulate(n, seed=1), seed=0) for n in (100, 3000))
    assert many.aggregate_kl < few.aggregate_kl
    assert abs(many.aggregate_kl) < 5 * many.mutual_information_se + 0.02


def test_an_aggregate_that_is_not_the_prior_has_its_kl():
    """Posteriors alike: no information, and the whole KL is that of the aggregate."""
    found = avi.latent_usage(*constant(0.7, 0.4, rows=50), seed=0)
    kl = 0.5 * (0.7**2 + 0.4**2 - 1) - math.log(0.4)
    assert found.kl == pytest.approx(kl, abs=1e-6)
    assert found.mutual_information == pytest.approx(0, abs=1e-9)
    assert found.aggregate_kl == pytest.approx(kl, abs=1e-6)
    assert found.each.mean_variance.item() == pytest.approx(0, abs=1e-12)
    normal = torch.distributions.Normal(0.0, 1.0)
    # Where the two densities cross, the distribution functions are the farthest apart.
    grid = torch.linspace(-4, 4, 4001)
    distance = (torch.distributions.Normal(0.7, 0.4).cdf(grid) - normal.cdf(grid)).abs().max()
    assert found.ks.item() == pytest.approx(float(distance), abs=1.36 / math.sqrt(2048) * 1.5)


def test_narrow_posteriors_meet_the_bound():
    """Observations that no posterior confuses: the information is log N, and more cannot be seen."""
    model = avi.models.LinearGaussian(torch.eye(2, dtype=torch.float64), scale=1e-4)
    found = avi.latent_usage(solved(model), model.simulate(60, seed=0), seed=0)
    assert found.mutual_information == pytest.approx(math.log(60), abs=0.01)
    assert found.kl > math.log(60) + 5


def test_collapse_is_found():
    found = avi.latent_usage(*constant(0.0, 1.0, rows=50), seed=0)
    assert found.each.dead.tolist() == [True]
    assert "1 dead: z[0]" in str(found)
    assert found.kl == pytest.approx(0, abs=1e-9)
    assert found.ks.item() < 1.36 / math.sqrt(2048) * 1.5


def test_another_prior_is_estimated():
    """The unconstrained number of a log-normal latent: as if it were normal."""
    parameters = torch.tensor([0.7, math.log(0.4)], dtype=torch.float64)
    x = torch.zeros(80, dtype=torch.float64)
    prior = dist.LogNormal(torch.tensor(0.3).double(), 0.6)
    vi = with_parameters(one_latent(prior), parameters, x, avi.families.Diagonal)
    found = avi.latent_usage(vi, x, draws=200, seed=0)
    q, p = torch.distributions.Normal(0.7, 0.4), torch.distributions.Normal(0.3, 0.6)
    kl = float(torch.distributions.kl_divergence(q, p))
    assert 0 < found.kl_se < 0.01
    assert abs(found.kl - kl) < 5 * found.kl_se
    assert found.mutual_information == pytest.approx(0, abs=1e-9)
    assert found.each.prior_mean.item() == pytest.approx(0.3, abs=5 * 0.6 / math.sqrt(1000))
    assert found.prior.mean().item() == pytest.approx(0.3, abs=5 * 0.6 / math.sqrt(2080))
    grid = torch.linspace(-4, 4, 4001)
    distance = float((q.cdf(grid) - p.cdf(grid)).abs().max())
    assert found.ks.item() == pytest.approx(distance, abs=1.36 * math.sqrt(2 / 2048) * 1.5)


def test_frame(exact):
    frame = exact.to_frame()
    assert list(frame.index) == ["z[0]", "z[1]", "z[2]"]
    assert frame["active"].all()
    np.testing.assert_allclose(frame["mean_variance"], MODEL.posterior(X).mean.var(0), rtol=1e-6)
    np.testing.assert_allclose(frame["prior_sd"], 1.0)
    np.testing.assert_allclose(frame["sd"], 1.0, atol=5 * math.sqrt(0.5 / 1000))
    assert (frame["ks"] < 0.1).all()


def test_a_seed_repeats_and_leaves_the_random_state():
    vi = solved(MODEL)
    state = torch.get_rng_state()
    first, second = (avi.latent_usage(vi, X[:50], points=100, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.mutual_information == second.mutual_information
    assert torch.equal(first.aggregate, second.aggregate)


@pytest.mark.parametrize("rows", [7, 500])
def test_every_posterior_gives_as_many_draws(rows):
    found = avi.latent_usage(solved(MODEL), X[:rows], points=100, seed=0)
    assert found.aggregate.shape == found.prior.shape == (105 if rows == 7 else 100, 3)


def test_pieces_are_put_together(monkeypatch):
    whole = avi.latent_usage(solved(MODEL), X[:200], points=300, seed=0)
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", 500)
    pieces = avi.latent_usage(solved(MODEL), X[:200], points=300, seed=0)
    assert pieces.kl == pytest.approx(whole.kl)
    error = math.hypot(pieces.mutual_information_se, whole.mutual_information_se)
    assert abs(pieces.mutual_information - whole.mutual_information) < 5 * error


@pytest.mark.parametrize("name", CASES)
def test_any_model(name):
    case = CASES[name]
    torch.manual_seed(0)
    vi = avi.AmortizedVI(case.make(), case.make_encoder(), "full").fit(case.x, epochs=1, progress=False, seed=0)
    found = avi.latent_usage(vi, case.x, draws=30, points=50, seed=0)
    frame = found.to_frame()
    assert list(frame.index) == vi.posterior(case.x).latents.labels
    known = frame.drop(columns="kl")
    assert np.isfinite(known.to_numpy(dtype=float)).all()
    joint = {"weights", "factor"}
    expected = [label.partition("[")[0] in joint for label in frame.index]
    assert frame["kl"].isna().tolist() == expected
    assert math.isfinite(found.mutual_information)
    assert ("joint prior" in str(found)) is any(expected)


def test_single_precision_and_data_frames():
    model = linear_gaussian(dtype=torch.float32)
    x = model.simulate(100, seed=0)
    found = avi.latent_usage(solved(model), pd.DataFrame(x.numpy()), points=100, seed=0)
    assert found.kl == pytest.approx(avi.latent_usage(solved(model), x, points=100, seed=0).kl)


def test_bad_input():
    vi = solved(MODEL)
    with pytest.raises(DataError, match="x must have at least two observations"):
        avi.latent_usage(vi, X[:1])
    with pytest.raises(OptionError, match="draws must be at least 10"):
        avi.latent_usage(vi, X, draws=3)
    with pytest.raises(OptionError, match="points must be a positive integer"):
        avi.latent_usage(vi, X, points=0)
    with pytest.raises(NotFittedError, match="call fit first"):
        avi.latent_usage(avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [])), X)


def test_a_refined_posterior_in_place_of_observations():
    """Of an encoder that says nothing: refined, the posteriors of the same observations say what they should."""
    vi = avi.AmortizedVI(MODEL, torch.nn.Linear(5, 3, dtype=torch.float64), "full", freeze_model=True)
    vi.fit(X[:100], epochs=1, lr=1e-30, progress=False, seed=0)
    best = avi.latent_usage(solved(MODEL), X[:100], points=100, seed=0)
    refined = avi.latent_usage(vi, vi.refine(X[:100], seed=0), points=100, seed=0)
    assert refined.kl == pytest.approx(best.kl, abs=0.05)
    assert abs(avi.latent_usage(vi, X[:100], points=100, seed=0).kl - best.kl) > 0.5
