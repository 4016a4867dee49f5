"""The evidence by importance sampling, compared with the exact evidence of a linear-Gaussian model."""

import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi.diagnostics.evidence import Evidence, evidence
from amortvi.errors import AmortviWarning, OptionError
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian()
X = MODEL.simulate(200, seed=1)
EXACT = MODEL.log_evidence(X)

WIDEN = 1.5
ESS_SHARE = ((2 * WIDEN**2 - 1) / WIDEN**4) ** 1.5
"""E[w]^2 / E[w^2] for the proposal N(m, c S) and the target N(m, S) in three dimensions, with c = WIDEN^2."""


@pytest.fixture(scope="module")
def exact() -> avi.AmortizedVI:
    return solved(MODEL)


@pytest.fixture(scope="module")
def wide() -> avi.AmortizedVI:
    """A posterior that is wider than the exact one, so that the weights are bounded."""
    return solved(MODEL, widen=WIDEN)


def assert_unbiased(found: Evidence, truth: Tensor = EXACT) -> None:
    """Assert that the mean weights are unbiased, given the exact variance of a weight under the proposal of ``wide``."""
    error = math.sqrt((1 / ESS_SHARE - 1) / found.draws)
    relative = (found.log_evidence - truth).exp() - 1
    assert relative.abs().max() < 6 * error
    assert relative.mean().abs() < 5 * error / math.sqrt(len(found))


def test_exact_posterior(exact: avi.AmortizedVI) -> None:
    found = evidence(exact, X, draws=1000, seed=0)
    for estimate in (found.log_evidence, found.smoothed, found.elbo):
        torch.testing.assert_close(estimate, EXACT, rtol=0, atol=1e-6)
    assert (found.standard_error < 1e-6).all()
    assert (found.effective_sample_size > 1000 - 1e-3).all()
    assert found.reliable.all()


@pytest.mark.parametrize("draws", [100, 3000])
def test_estimates_and_standard_errors_agree_with_theory(wide: avi.AmortizedVI, draws: int) -> None:
    found = evidence(wide, X, draws=draws, seed=0)
    assert_unbiased(found)
    assert (found.elbo < found.log_evidence).all()
    assert found.k_hat.mean() < 0.5
    share = found.effective_sample_size / draws
    sampling_error = float(share.std()) / math.sqrt(len(X))
    assert float(share.mean()) == pytest.approx(ESS_SHARE, abs=5 * sampling_error + 1 / draws)
    variance = float(found.standard_error.square().mean())
    assert variance == pytest.approx((1 / ESS_SHARE - 1) / draws, rel=0.1)


def test_narrow_posteriors_are_unreliable() -> None:
    """With 0.3 of the exact width, the shape of the tail is 1 - 0.3^2; with 0.9 of it, 1 - 0.9^2."""
    narrow = evidence(solved(MODEL, widen=0.3), X, seed=0)
    assert narrow.k_hat.mean() > narrow.threshold
    assert narrow.reliable.double().mean() < 0.25
    assert ((narrow.log_evidence - EXACT).abs() > 3 * narrow.standard_error).double().mean() > 0.1
    close = evidence(solved(MODEL, widen=0.9), X, seed=0)
    assert close.reliable.double().mean() > 0.9
    assert close.k_hat.mean() < narrow.k_hat.mean() - 0.3


def test_frames_and_loaders(wide: avi.AmortizedVI) -> None:
    frame = pd.DataFrame(X[:40].numpy(), index=[f"row {i}" for i in range(40)])
    found = evidence(wide, frame, draws=30, seed=5)
    assert list(found.to_frame().index) == list(frame.index)
    assert torch.equal(found.log_evidence, evidence(wide, X[:40], draws=30, seed=5).log_evidence)
    loader = DataLoader(TensorDataset(X[:40]), batch_size=7)
    assert_unbiased(evidence(wide, loader, draws=2000, seed=0), EXACT[:40])


def test_table_and_text(wide: avi.AmortizedVI) -> None:
    found = evidence(wide, X, draws=1000, seed=0)
    frame = found.to_frame()
    columns = ["log_evidence", "standard_error", "smoothed", "elbo", "elbo_se", "k_hat", "ess", "reliable"]
    assert list(frame.columns) == columns
    assert len(frame) == len(found) == 200
    assert f"mean log evidence {frame['log_evidence'].mean():.3f} ± " in str(found)
    assert "200 observations from 1000 draws each" in str(found)
    assert str(evidence(wide, X[:1], draws=21, seed=0)).startswith("Evidence of 1 observation from 21 draws")


@pytest.mark.parametrize("family", ["full", "flow"])
def test_estimates_agree_with_evaluate(family: str) -> None:
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [4]), family).to(dtype=torch.float64).setup(X, seed=0)
    frame = evidence(vi, X, draws=50, seed=3).to_frame()
    table = vi.evaluate(X, particles=50, seed=3)[["iwae", "elbo", "elbo_se"]]
    np.testing.assert_allclose(frame[["log_evidence", "elbo", "elbo_se"]], table, rtol=1e-12)


def failing(x: Tensor) -> None:
    """A model whose log-probability is NaN if ``x`` is 1, ``+inf`` if it is 2 and ``-inf`` if it is 3."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        wrong = torch.tensor([0.0, torch.nan, torch.inf, -torch.inf])[x.long()]
        pyro.factor("failure", torch.where((z.abs() > 0.01) | (x == 3), wrong, 0.0))


def test_nonfinite_weights_are_reported() -> None:
    vi = avi.AmortizedVI(failing, avi.encoders.MLP(1, [])).setup(torch.zeros(5), seed=0)
    x = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0])
    with pytest.warns(AmortviWarning, match="evidence of 3 of 5 observations is not finite; the first is 1"):
        found = evidence(vi, x, draws=100, seed=0)
    assert found.log_evidence.isnan().tolist() == [False, True, True, False, False]
    assert found.log_evidence[3] == found.elbo[3] == -torch.inf
    assert found.effective_sample_size[1:4].tolist() == [0, 0, 0]
    assert (found.k_hat[1:4] == torch.inf).all()
    assert not found.reliable[1:4].any()
    assert found.k_hat[[0, 4]].isfinite().all()
    assert found.standard_error[3] == found.elbo_se[3] == torch.inf
    frame = pd.Series(x.numpy(), index=list("abcde"))
    with pytest.warns(AmortviWarning, match="the first is 'b'"):
        evidence(vi, frame, draws=100, seed=0)


def test_bad_input(wide: avi.AmortizedVI, exact: avi.AmortizedVI) -> None:
    for draws in (0, 1, 2.5):
        with pytest.raises(OptionError, match="draws"):
            evidence(wide, X, draws=draws)
    with pytest.raises(OptionError, match="posterior"):
        evidence(wide)
    with pytest.raises(OptionError, match="posterior belongs to another"):
        evidence(wide, posterior=exact.posterior(X))
