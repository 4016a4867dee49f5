"""The evidence of each observation by importance sampling, against the exact evidence of a linear-Gaussian model."""

import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi import _chunks
from amortvi.errors import AmortviWarning, NotFittedError, OptionError
from tests.any_models import CASES, Case
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian()
X = MODEL.simulate(200, seed=1)
EXACT = MODEL.log_evidence(X)


@pytest.fixture(scope="module")
def exact() -> avi.AmortizedVI:
    return solved(MODEL)


@pytest.fixture(scope="module")
def wide() -> avi.AmortizedVI:
    """Weights that are bounded, since the posterior is wider than the exact one."""
    return solved(MODEL, widen=1.5)


def test_exact_posterior(exact: avi.AmortizedVI) -> None:
    found = avi.evidence(exact, X, draws=1000, seed=0)
    for estimate in (found.log_evidence, found.smoothed, found.elbo):
        torch.testing.assert_close(estimate, EXACT, rtol=0, atol=1e-6)
    assert (found.standard_error < 1e-6).all()
    assert (found.effective_sample_size > 1000 - 1e-3).all()
    assert found.reliable.all()


@pytest.mark.parametrize("draws", [100, 3000])
def test_within_standard_errors(wide: avi.AmortizedVI, draws: int) -> None:
    found = avi.evidence(wide, X, draws=draws, seed=0)
    bias = found.standard_error.square() / 2  # of the logarithm of a mean
    score = (found.log_evidence + bias - EXACT) / found.standard_error
    assert score.abs().max() < 5
    pooled = found.standard_error.square().sum().sqrt()
    assert (found.log_evidence + bias - EXACT).sum().abs() < 5 * pooled
    assert (found.elbo < found.log_evidence).all()
    assert (found.k_hat < 0.7).all()
    # For N(m, c S) as proposal of N(m, S): E[w]^2 / E[w^2] = ((2 c - 1) / c^2)^(D / 2), with c = 1.5^2.
    share = (found.effective_sample_size / draws).mean()
    assert abs(share - (3.5 / 2.25**2) ** 1.5) < 5 * (found.effective_sample_size / draws).std() / 200**0.5 + 1 / draws


def test_the_standard_errors_cover(wide: avi.AmortizedVI) -> None:
    """Over seeds and observations 95 % of the intervals hold the truth."""
    inside, elbo_inside = [], []
    for seed in range(15):
        found = avi.evidence(wide, X, draws=400, seed=seed)
        inside.append((found.log_evidence - EXACT).abs() < 1.96 * found.standard_error)
        elbo_inside.append((found.elbo - EXACT + 1.5 * (2.25 - 1 - math.log(2.25))).abs() < 1.96 * found.elbo_se)
    # 3,000 intervals each: a standard error of 0.004.
    assert 0.93 < torch.stack(inside).double().mean() < 0.97
    assert 0.93 < torch.stack(elbo_inside).double().mean() < 0.97


def test_more_draws_come_closer(wide: avi.AmortizedVI) -> None:
    errors = [(avi.evidence(wide, X, draws=k, seed=0).log_evidence - EXACT).square().mean().sqrt() for k in (100, 6400)]
    assert 5 < errors[0] / errors[1] < 12  # eight, by the square root


def test_a_posterior_that_is_too_narrow_is_found_out() -> None:
    """Its weights have no variance: k is ``1 - 0.3^2`` in truth. Its standard errors mean nothing, and it says so."""
    narrow = avi.evidence(solved(MODEL, widen=0.3), X, seed=0)
    assert not narrow.reliable.double().mean() > 0.05
    assert narrow.k_hat.mean() > 0.75
    assert ((narrow.log_evidence - EXACT).abs() > 3 * narrow.standard_error).double().mean() > 0.2
    lightly = avi.evidence(solved(MODEL, widen=0.9), X, seed=0)
    assert lightly.reliable.double().mean() > 0.95
    assert lightly.k_hat.mean() < narrow.k_hat.mean() - 0.4


def test_what_is_the_same_as_evaluate(wide: avi.AmortizedVI) -> None:
    found, table = avi.evidence(wide, X, draws=50, seed=3), wide.evaluate(X, particles=50, seed=3)
    frame = found.to_frame()
    np.testing.assert_allclose(frame["log_evidence"], table["iwae"], rtol=1e-12)
    np.testing.assert_allclose(frame[["elbo", "elbo_se"]], table[["elbo", "elbo_se"]], rtol=1e-12)


def test_a_posterior_to_draw_from(wide: avi.AmortizedVI) -> None:
    """Of another estimator, of another family, refined, or selected: it brings its own observations."""
    other = solved(MODEL).posterior(X)
    torch.testing.assert_close(avi.evidence(wide, other, draws=100).log_evidence, EXACT, rtol=0, atol=1e-6)
    some = wide.posterior(X).select([3, 5, 8])
    found = avi.evidence(wide, some, draws=2000, seed=0)
    assert ((found.log_evidence - EXACT[[3, 5, 8]]).abs() < 5 * found.standard_error).all()
    diagonal = solved(MODEL, avi.families.Diagonal)
    refined = diagonal.refine(X[:20], "full")
    better, worse = (avi.evidence(diagonal, given, seed=0) for given in (refined, X[:20]))
    assert (better.standard_error < 0.1 * worse.standard_error).all()
    torch.testing.assert_close(better.log_evidence, EXACT[:20], rtol=0, atol=0.02)


@pytest.mark.parametrize("numbers", [16, 500, 2**22])
def test_chunks_of_any_size(wide: avi.AmortizedVI, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", numbers)
    found = avi.evidence(wide, X[:30], draws=60, seed=0)
    assert ((found.log_evidence - EXACT[:30]).abs() < 5 * found.standard_error + found.standard_error.square()).all()
    assert found.k_hat.shape == (30,)


def test_loaders_frames_seeds_and_random_state(wide: avi.AmortizedVI) -> None:
    frame = pd.DataFrame(X[:40].numpy(), index=[f"row {i}" for i in range(40)])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    found = avi.evidence(wide, frame, draws=30, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(found.to_frame().index) == list(frame.index)
    assert torch.equal(found.log_evidence, avi.evidence(wide, X[:40], draws=30, seed=5).log_evidence)
    assert not torch.equal(found.log_evidence, avi.evidence(wide, X[:40], draws=30, seed=6).log_evidence)
    loader = DataLoader(TensorDataset(X[:40]), batch_size=7)
    read = avi.evidence(wide, loader, draws=2000, seed=0)
    assert ((read.log_evidence - EXACT[:40]).abs() < 5 * read.standard_error).all()


def test_the_result(wide: avi.AmortizedVI) -> None:
    found = avi.evidence(wide, X, draws=1000, seed=0)
    frame = found.to_frame()
    columns = ["log_evidence", "standard_error", "smoothed", "elbo", "elbo_se", "k_hat", "ess", "reliable"]
    assert list(frame.columns) == columns
    assert len(frame) == len(found) == 200
    assert frame["reliable"].dtype == bool
    assert found.threshold == pytest.approx(2 / 3)
    assert str(found) == repr(found)
    assert str(found).startswith(
        f"Evidence of 200 observations from 1000 draws of each: mean log evidence {frame['log_evidence'].mean():.3f} ± "
    )
    assert "100% reliable (k-hat below 0.67)" in str(found)
    assert str(avi.evidence(wide, X[:1], draws=21, seed=0)).startswith("Evidence of 1 observation from 21 draws")
    with pytest.raises(AttributeError):
        found.draws = 3  # type: ignore[misc]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_any_model(case: Case) -> None:
    pyro.clear_param_store()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(case.make(), case.make_encoder(), "full")
    vi.fit(case.x, epochs=1, seed=0, progress=False)
    found = avi.evidence(vi, case.x, draws=30, seed=0)
    assert len(found) == 12
    assert found.to_frame().drop(columns="k_hat").notna().all(axis=None)
    np.testing.assert_allclose(found.log_evidence, vi.evaluate(case.x, particles=30, seed=0)["iwae"], rtol=1e-9)


def odd(x):
    """A model that goes wrong where the data say so: ``x[0]`` of 1 makes NaN, of 2 infinity, of 3 probability zero."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([x.shape[0], 2]).to_event(1), obs=x)
        kind = x[:, 0]
        wrong = torch.where(kind == 1, torch.nan, torch.where(kind == 2, torch.inf, -torch.inf))
        extreme = (z.abs() > 0.01) | (kind == 3)
        pyro.factor("odd", torch.where((kind > 0) & extreme, wrong, 0.0))


def test_weights_that_are_no_numbers_are_told() -> None:
    fine = torch.zeros(5, 2)
    vi = avi.AmortizedVI(odd, avi.encoders.MLP(2, [])).fit(fine, epochs=1, seed=0, progress=False)
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
    with pytest.warns(
        AmortviWarning, match="the evidence of 3 of 5 observations is not finite, first that of 1: the log-prob"
    ):
        found = avi.evidence(vi, x, draws=100, seed=0)
    assert found.log_evidence.isfinite().tolist() == [True, False, False, False, True]
    assert found.log_evidence.isnan().tolist() == [False, True, True, False, False]
    assert found.log_evidence[3] == found.elbo[3] == -torch.inf
    assert found.effective_sample_size[1:4].tolist() == [0, 0, 0]
    assert (found.k_hat[1:4] == torch.inf).all()
    assert not found.reliable[1:4].any()
    assert found.k_hat[[0, 4]].isfinite().all()
    assert found.standard_error[3] == found.elbo_se[3] == torch.inf
    frame = pd.DataFrame(x.numpy(), index=list("abcde"))
    with pytest.warns(AmortviWarning, match="first that of 'b'"):
        avi.evidence(vi, frame, draws=100, seed=0)


def test_bad_input(wide: avi.AmortizedVI) -> None:
    with pytest.raises(OptionError, match="draws must be at least 2, for weights to differ; got 1"):
        avi.evidence(wide, X, draws=1)
    with pytest.raises(OptionError, match="draws must be a positive integer"):
        avi.evidence(wide, X, draws=0)
    with pytest.raises(NotFittedError):
        avi.evidence(avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [])), X)
