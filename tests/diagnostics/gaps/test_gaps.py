"""Approximation and amortization gaps, compared with exact values."""

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi.diagnostics.gaps import gaps
from amortvi.errors import FamilyError, NotFittedError, OptionError
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian(4, 6)
X = MODEL.simulate(60, seed=1)


def shifted(family: type[avi.families.GaussianFamily], size: float) -> tuple[avi.AmortizedVI, float]:
    """Return an estimator and its amortization gap: shifting a Gaussian by ``d`` costs ``d' M d / 2``."""
    vi, offset = solved(MODEL, family), size * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    with torch.no_grad():
        vi.encoder.bias[:4] += offset
    return vi, float(0.5 * offset @ MODEL.precision() @ offset)


def assert_mean(values: Tensor, exact: float) -> None:
    """Assert that the mean is ``exact`` within five standard errors, and within the tolerance of the refinement."""
    error = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean()) - exact) < 5 * error + 0.01


@pytest.fixture(scope="module")
def diagonal() -> avi.AmortizedVI:
    return solved(MODEL, avi.families.Diagonal)


@pytest.mark.parametrize(
    ("family", "shift", "verdict"),
    [
        (avi.families.Diagonal, 0.0, "family"),
        (avi.families.FullCovariance, 0.0, "ok"),
        (avi.families.Diagonal, 1.0, "encoder"),
        (avi.families.FullCovariance, 1.0, "encoder"),
    ],
)
def test_gaps_and_verdicts(family: type[avi.families.GaussianFamily], shift: float, verdict: str) -> None:
    vi, cost = shifted(family, shift)
    found = gaps(vi, X)
    approximation = MODEL.diagonal_gap() if family is avi.families.Diagonal else 0.0
    if verdict != "ok":
        assert abs(cost - approximation) > 0.4  # four times the tolerance
    assert_mean(found.approximation, approximation)
    assert_mean(found.amortization, cost)
    assert set(found.verdict) == {verdict}
    assert ((found.evidence - MODEL.log_evidence(X)).abs() < 6 * found.evidence_se).all()


def test_the_table(diagonal: avi.AmortizedVI) -> None:
    frame = pd.DataFrame(X[:7].numpy(), index=list("abcdefg"))
    found = gaps(diagonal, frame, ["low_rank", "full"], draws=200, seed=3)
    table = found.to_frame()
    np.testing.assert_allclose(table["inference_gap"], table["approximation_gap"] + table["amortization_gap"])
    np.testing.assert_allclose(table["inference_gap"], table["evidence"] - table["elbo"])
    assert list(table.index) == list(frame.index)
    assert {"elbo_low_rank", "elbo_full", "evidence_se", "k_hat", "ess", "verdict"} <= set(table.columns)
    assert table["elbo_full"].mean() > table["elbo_low_rank"].mean() > table["elbo"].mean()
    assert found.summary().loc["evidence", "mean"] == pytest.approx(table["evidence"].mean())
    assert found.verdicts() == {"ok": 0, "family": 7, "encoder": 0, "unreliable": 0}
    assert "family: 7" in str(found)


def test_a_seed_reproduces_and_leaves_the_random_state(diagonal: avi.AmortizedVI) -> None:
    state = torch.get_rng_state()
    one, two, other = (gaps(diagonal, X[:3], draws=30, seed=seed).to_frame() for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    pd.testing.assert_frame_equal(one, two)
    assert not np.array_equal(one["elbo"], other["elbo"])


def test_heavy_tails_are_unreliable() -> None:
    """The posterior, nearly the prior, has far heavier tails than even the defensive mixture."""

    def heavy(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.StudentT(0.3, 0.0, 1.0))
            pyro.sample("x", dist.StudentT(0.3, 1e-6 * z, 50.0), obs=x)

    x = torch.linspace(-1, 1, 20)
    torch.manual_seed(0)
    found = gaps(avi.AmortizedVI(heavy, avi.encoders.MLP(1, [4])).setup(x, seed=0), x)
    assert found.verdicts()["unreliable"] > 10


def test_one_observation_without_a_bound_does_not_affect_the_others() -> None:
    vi = solved(MODEL, avi.families.Diagonal)
    vi.encoder.register_forward_hook(lambda _, x, y: torch.where((x[0] == X[0]).all(1, keepdim=True), torch.nan, y))
    with pytest.warns(avi.errors.AmortviWarning):
        found = gaps(vi, X[:10])
    assert found.verdict == ["unreliable", *["family"] * 9]
    assert found.summary()["count"].eq(9).all()
    assert_mean(found.approximation[1:], MODEL.diagonal_gap())
    assert "nan" not in str(found)


@pytest.mark.parametrize(
    ("options", "error", "argument"),
    [
        ({"families": "full"}, OptionError, "families"),
        ({"families": ["full", "full"]}, OptionError, "families"),
        ({"families": ["fulll"]}, FamilyError, "family"),
        ({"families": ["flow"]}, FamilyError, "Flow"),
        ({"draws": 0}, OptionError, "draws"),
        ({"draws": 20}, OptionError, "draws .* 21"),
        ({"tolerance": -1}, OptionError, "tolerance"),
        ({"seed": -1}, OptionError, "seed"),
    ],
)
def test_bad_options(diagonal: avi.AmortizedVI, options, error, argument) -> None:
    with pytest.raises(error, match=argument):
        gaps(diagonal, X[:3], **options)


def test_flows_and_estimators_without_data_are_refused() -> None:
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(6, [4]), "flow").to(dtype=torch.float64)
    with pytest.raises(NotFittedError):
        gaps(vi, X)
    with pytest.raises(FamilyError, match="Flow"):
        gaps(vi.setup(X, seed=0), X)
