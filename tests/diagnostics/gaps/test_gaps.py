"""What is lost to the family and what to the encoder, where both are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import amortvi as avi
from amortvi.errors import FamilyError, NotFittedError, OptionError
from tests.exact import closest, held, linear_gaussian, solved

MODEL = linear_gaussian(4, 6)
X = MODEL.simulate(60, seed=1)


class Shifted(nn.Module):
    """The best encoder of a family, with its locations off by ``shift`` exact standard deviations."""

    def __init__(self, best: nn.Module, shift: torch.Tensor) -> None:
        super().__init__()
        self.best = best
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parameters = self.best(x)
        return torch.cat([parameters[:, :4] + self.shift, parameters[:, 4:]], dim=1)


def shifted(family: type[avi.families.GaussianFamily], size: float) -> tuple[avi.AmortizedVI, float]:
    """An estimator with a known amortization gap: a shift ``d`` of a Gaussian costs ``d' M d / 2``."""
    offset = size * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    vi = held(MODEL, Shifted(solved(MODEL, family).encoder, offset), family, X[:4])
    return vi, float(0.5 * offset @ MODEL.precision() @ offset)


def within(values: torch.Tensor, exact: float, tolerance: float) -> bool:
    """Whether the mean is ``exact`` within five standard errors and a tolerance of the method."""
    error = float(values.std()) / len(values) ** 0.5
    return abs(float(values.mean()) - exact) < 5 * error + tolerance


def test_a_family_that_is_too_narrow() -> None:
    """What issue and paper ask: the amortization gap near zero, the approximation gap that of the formula."""
    found = avi.gaps(solved(MODEL, avi.families.Diagonal), X)
    assert within(found.approximation, MODEL.diagonal_gap(), 0.01)
    assert abs(float(found.approximation.mean()) - MODEL.diagonal_gap()) < 0.05
    assert abs(float(found.amortization.mean())) < 0.02
    assert set(found.verdict) == {"family"}
    exact = MODEL.log_evidence(X)
    torch.testing.assert_close(found.evidence, exact, rtol=0, atol=0.02)


def test_a_family_that_is_rich_enough() -> None:
    found = avi.gaps(solved(MODEL), X)
    assert abs(float(found.approximation.mean())) < 0.02
    assert abs(float(found.amortization.mean())) < 0.02
    assert set(found.verdict) == {"fine"}


@pytest.mark.parametrize("family", [avi.families.Diagonal, avi.families.FullCovariance])
def test_an_encoder_that_is_off(family) -> None:
    vi, cost = shifted(family, 1.0)
    found = avi.gaps(vi, X)
    assert cost > 2
    assert within(found.amortization, cost, 0.01)
    own = MODEL.diagonal_gap() if family is avi.families.Diagonal else 0.0
    assert within(found.approximation, own, 0.01)
    assert set(found.verdict) == {"encoder" if cost > own else "family"}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_trained_encoders_reach_what_their_family_can(family) -> None:
    """Eight latents, a linear encoder, which can be exact: what is lost is the formula for a diagonal family, else nothing."""
    model, epochs = linear_gaussian(8, 12), 400
    torch.manual_seed(0)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(12, []), family, freeze_model=True)
    vi.fit(
        model.simulate(2000, seed=0),
        epochs=epochs,
        batch_size=100,
        lr=0.05,
        lr_schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        objective=avi.objectives.ELBO(gradient="sticking_the_landing"),
        dtype=torch.float64,
        seed=0,
        progress=False,
    )
    found = avi.gaps(vi, model.simulate(300, seed=1))
    assert float(found.amortization.mean()) < 0.02
    exact = model.diagonal_gap() if family == "diagonal" else 0.0
    assert abs(float(found.approximation.mean()) - exact) < (0.05 if exact else 0.02)


def test_parts_make_the_whole_and_the_table_has_them_all() -> None:
    frame = pd.DataFrame(X[:7].numpy(), index=list("abcdefg"))
    vi, _ = shifted(avi.families.Diagonal, 0.3)
    found = avi.gaps(vi, frame, ["low_rank", "full"], draws=200, seed=3)
    table = found.to_frame()
    np.testing.assert_allclose(table["inference_gap"], table["approximation_gap"] + table["amortization_gap"])
    np.testing.assert_allclose(table["inference_gap"], table["evidence"] - table["elbo"])
    assert list(table.index) == list(frame.index)
    assert {"elbo_low_rank", "elbo_full", "evidence_se", "k_hat", "ess", "verdict"} <= set(table.columns)
    # The bounds of richer families are higher, the evidence the highest of all.
    assert table["elbo_full"].mean() > table["elbo_low_rank"].mean() > table["elbo"].mean()
    summary = found.summary()
    assert summary.loc["evidence", "mean"] == pytest.approx(table["evidence"].mean())
    assert sum(found.verdicts().values()) == 7
    assert "approximation" in str(found)


def test_the_same_seed_gives_the_same_gaps_and_leaves_the_random_state_alone() -> None:
    vi = solved(MODEL, avi.families.Diagonal)
    state = torch.get_rng_state()
    one, two, other = (avi.gaps(vi, X[:5], draws=50, seed=seed).to_frame() for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    pd.testing.assert_frame_equal(one, two)
    assert not np.array_equal(one["elbo"], other["elbo"])


def test_an_evidence_that_cannot_be_known_is_not_to_be_trusted() -> None:
    """A posterior of two far modes, of which every Gaussian sees one: the weights of the other are never met."""

    def two_modes(x: torch.Tensor) -> None:
        import pyro
        from pyro import distributions as dist

        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.StudentT(1.5, 0.0, 1.0))
            pyro.sample("x", dist.StudentT(1.5, 1e-3 * z, 50.0), obs=x)

    x = torch.linspace(-1, 1, 10)
    vi = avi.AmortizedVI(two_modes, avi.encoders.MLP(1, [4])).fit(x, epochs=2, seed=0, progress=False)
    found = avi.gaps(vi, x)
    # A Gaussian under a prior with tails like z^-2.5: the weights have no mean of their square, k-hat is above 0.7.
    assert found.verdicts()["do not trust"] >= 8


def test_what_was_refined_can_be_looked_at_again() -> None:
    vi, _ = shifted(avi.families.Diagonal, 1.0)
    found = avi.gaps(vi, vi.refine(X[:10], "full"))
    assert found.family == "full"
    assert list(found.refined) == ["full"]
    assert set(found.verdict) == {"fine"}
    assert vi.to_arviz(vi.refine(X[:2], "full"), draws=2, prior_draws=0, seed=0).attrs["posterior_family"] == "full"


def test_one_observation_without_a_bound_does_not_decide_for_the_others() -> None:
    class Broken(nn.Module):
        """Its first observation has no posterior."""

        def __init__(self, best: nn.Module) -> None:
            super().__init__()
            self.best = best

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where((x == X[0]).all(1, keepdim=True), torch.nan, self.best(x))

    vi = held(MODEL, Broken(solved(MODEL, avi.families.Diagonal).encoder), avi.families.Diagonal, X[1:5])
    with pytest.warns(avi.errors.AmortviWarning):
        found = avi.gaps(vi, X[:10])
    assert found.verdict == ["do not trust", *["family"] * 9]
    assert found.summary()["count"].eq(9).all()
    assert found.summary().loc["approximation_gap", "mean"] == pytest.approx(MODEL.diagonal_gap(), abs=0.05)
    assert "nan" not in str(found)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"families": "full"}, OptionError, "families must be a list of families"),
        ({"families": ["full", "full"]}, OptionError, "different labels"),
        ({"families": ["fulll"]}, FamilyError, "family must be one of"),
        ({"draws": 0}, OptionError, "draws must be a positive integer"),
        ({"draws": 20}, OptionError, "draws must be at least 21, the fewest that have a k-hat; got 20"),
        ({"tolerance": -1}, OptionError, "tolerance must be a finite number above zero"),
        ({"seed": -1}, OptionError, "seed must be"),
    ],
)
def test_bad_options(options, error, message) -> None:
    with pytest.raises(error, match=message):
        avi.gaps(solved(MODEL), X[:3], **options)


def test_before_the_fit() -> None:
    with pytest.raises(NotFittedError):
        avi.gaps(avi.AmortizedVI(MODEL, avi.encoders.MLP(6, [4])), X)


def test_closest_is_what_refinement_finds() -> None:
    """Two ways to the best posterior of a family: KL in closed form, and the ELBO on matched noise."""
    family = avi.families.LowRank(1)(4, 1)
    best = family.distribution(closest(family, MODEL.precision()))
    vi = solved(MODEL, avi.families.Diagonal)
    refined = vi.refine(X[:3], avi.families.LowRank(1))
    expected = best.covariance_matrix.expand(3, -1, -1)
    torch.testing.assert_close(refined.covariance, expected, rtol=0.05, atol=0.01)
