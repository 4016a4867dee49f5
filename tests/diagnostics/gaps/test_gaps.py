"""Approximation and amortization gaps, compared with exact values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.diagnostics.gaps import gaps
from amortvi.errors import DataError, FamilyError, NotFittedError, OptionError
from tests.exact import closest, hand_set, linear_gaussian, solved

MODEL = linear_gaussian(4, 6)
X = MODEL.simulate(60, seed=1)


class Shifted(nn.Module):
    """The best encoder of a family, with its locations shifted by a constant."""

    def __init__(self, best: nn.Module, shift: Tensor) -> None:
        super().__init__()
        self.best = best
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        parameters = self.best(x)
        return torch.cat([parameters[:, :4] + self.shift, parameters[:, 4:]], dim=1)


def shifted(family: type[avi.families.GaussianFamily], size: float) -> tuple[avi.AmortizedVI, float]:
    """Return an estimator and its amortization gap: shifting a Gaussian by ``d`` costs ``d' M d / 2``."""
    offset = size * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    vi = hand_set(MODEL, Shifted(solved(MODEL, family).encoder, offset), family, X[:4])
    return vi, float(0.5 * offset @ MODEL.precision() @ offset)


def assert_mean(values: Tensor, exact: float) -> None:
    """Assert that the mean is ``exact`` within five standard errors, and within the tolerance of the refinement."""
    error = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean()) - exact) < 5 * error + 0.01


@pytest.fixture(scope="module")
def diagonal() -> avi.AmortizedVI:
    return solved(MODEL, avi.families.Diagonal)


def test_a_family_that_is_too_restricted(diagonal: avi.AmortizedVI) -> None:
    found = gaps(diagonal, X)
    assert_mean(found.approximation, MODEL.diagonal_gap())
    assert_mean(found.amortization, 0.0)
    assert MODEL.diagonal_gap() > 0.4  # four times the tolerance
    assert set(found.verdict) == {"family"}
    assert ((found.evidence - MODEL.log_evidence(X)).abs() < 6 * found.evidence_se).all()


def test_a_family_that_contains_the_exact_posterior() -> None:
    found = gaps(solved(MODEL), X)
    assert_mean(found.approximation, 0.0)
    assert_mean(found.amortization, 0.0)
    assert set(found.verdict) == {"ok"}


@pytest.mark.parametrize("family", [avi.families.Diagonal, avi.families.FullCovariance])
def test_an_encoder_that_is_off(family: type[avi.families.GaussianFamily]) -> None:
    vi, cost = shifted(family, 1.0)
    found = gaps(vi, X)
    approximation = MODEL.diagonal_gap() if family is avi.families.Diagonal else 0.0
    assert cost > approximation + 1
    assert_mean(found.amortization, cost)
    assert_mean(found.approximation, approximation)
    assert set(found.verdict) == {"encoder"}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_trained_encoders_reach_the_optimum_of_their_family(family: str) -> None:
    """With a linear encoder, which can be exact, only the approximation gap is left."""
    model, epochs = linear_gaussian(8, 12), 250
    torch.manual_seed(0)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(12, []), family, freeze_model=True)
    vi.fit(
        model.simulate(2000, seed=0),
        epochs=epochs,
        batch_size=100,
        lr=0.02,
        lr_schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        objective=avi.objectives.ELBO(gradient="sticking_the_landing"),
        dtype=torch.float64,
        seed=0,
        progress=False,
    )
    found = gaps(vi, model.simulate(300, seed=1))
    assert float(found.amortization.mean()) < 0.05
    assert_mean(found.approximation, model.diagonal_gap() if family == "diagonal" else 0.0)


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
    one, two, other = (gaps(diagonal, X[:5], draws=50, seed=seed).to_frame() for seed in (1, 1, 2))
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
    assert not found.reliable.all()


def test_one_observation_without_a_bound_does_not_affect_the_others(diagonal: avi.AmortizedVI) -> None:
    class Broken(nn.Module):
        """Returns NaN for the first observation."""

        def __init__(self, best: nn.Module) -> None:
            super().__init__()
            self.best = best

        def forward(self, x: Tensor) -> Tensor:
            return torch.where((x == X[0]).all(1, keepdim=True), torch.nan, self.best(x))

    vi = hand_set(MODEL, Broken(diagonal.encoder), avi.families.Diagonal, X[1:5])
    with pytest.warns(avi.errors.AmortviWarning):
        found = gaps(vi, X[:10])
    assert found.verdict == ["unreliable", *["family"] * 9]
    assert found.summary()["count"].eq(9).all()
    assert_mean(found.approximation[1:], MODEL.diagonal_gap())
    assert "nan" not in str(found)


def test_flows_are_refused(diagonal: avi.AmortizedVI) -> None:
    model = linear_gaussian(2, 3, dtype=torch.float32)
    x = model.simulate(5, seed=0)
    flow = avi.AmortizedVI(model, avi.encoders.MLP(3, [4]), "flow").setup(x, seed=0)
    with pytest.raises(FamilyError, match="Flow"):
        gaps(flow, x)
    with pytest.raises(FamilyError, match="Flow"):
        gaps(diagonal, X[:3], ["flow"])


@pytest.mark.parametrize(
    ("options", "error", "argument"),
    [
        ({"families": "full"}, OptionError, "families"),
        ({"families": ["full", "full"]}, OptionError, "families"),
        ({"families": ["fulll"]}, FamilyError, "family"),
        ({"draws": 0}, OptionError, "draws"),
        ({"draws": 20}, OptionError, "draws .* 21"),
        ({"tolerance": -1}, OptionError, "tolerance"),
        ({"seed": -1}, OptionError, "seed"),
    ],
)
def test_bad_options(diagonal: avi.AmortizedVI, options, error, argument) -> None:
    with pytest.raises(error, match=argument):
        gaps(diagonal, X[:3], **options)


def test_bad_observations(diagonal: avi.AmortizedVI) -> None:
    with pytest.raises(DataError, match="Posterior"):
        gaps(diagonal, diagonal.posterior(X))
    with pytest.raises(NotFittedError):
        gaps(avi.AmortizedVI(MODEL, avi.encoders.MLP(6, [4])), X)


def test_closest_is_what_refinement_finds(diagonal: avi.AmortizedVI) -> None:
    """The best posterior of a family by the closed-form KL, and by the ELBO on fixed noise."""
    family = avi.families.LowRank(rank=1).setup(4, 1)
    best = family.distribution(closest(family, MODEL.precision()))
    refined = diagonal.refine(X[:3], avi.families.LowRank(rank=1), draws=512)
    torch.testing.assert_close(refined.covariance, best.covariance_matrix.expand(3, -1, -1), rtol=0.1, atol=0.02)
