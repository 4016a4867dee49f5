"""Refinement: each observation reaches the best posterior of a family, whatever the encoder returned."""

import pickle
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset

import amortvi as avi
from amortvi.errors import AmortviWarning, FamilyError
from amortvi.posterior import Posterior
from tests.any_models import CASES
from tests.any_models.estimators import make_vi
from tests.exact import linear_gaussian, solved
from tests.posterior.problem import Laplaces

DOUBLE = torch.float64
MODEL = linear_gaussian(4, 6)
X = MODEL.simulate(40, seed=1)


@pytest.fixture(scope="module")
def vi() -> avi.AmortizedVI:
    """An estimator with an untrained encoder, far from the exact posterior."""
    torch.manual_seed(0)
    return avi.AmortizedVI(MODEL, avi.encoders.MLP(6, [4]).double(), "diagonal", freeze_model=True).setup(X, seed=0)


def gap_of(posterior: Posterior) -> torch.Tensor:
    """Return the KL to the exact posterior of each observation, for Gaussian posteriors."""
    exact = MODEL.posterior(posterior.observations.as_batch().args[0])
    gaussian = torch.distributions.MultivariateNormal(posterior.mean["z"], posterior.covariance)
    return torch.distributions.kl_divergence(gaussian, exact)


@pytest.mark.parametrize("method", ["lbfgs", "adam"])
@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_the_best_posterior_of_each_family_is_reached(vi: avi.AmortizedVI, family: str, method: Any) -> None:
    """Matched noise makes the bound of a Gaussian model exact, so only the tolerance of the optimizer remains."""
    gap = gap_of(vi.refine(X, family, method=method))
    best = MODEL.diagonal_gap() if family == "diagonal" else 0.0
    assert (gap.mean() - best).abs() < 1e-3
    assert (gap > best - 1e-6).all()


def test_low_rank_lies_between_diagonal_and_full(vi: avi.AmortizedVI) -> None:
    assert gap_of(vi.posterior(X)).mean() > 1
    assert gap_of(vi.refine(X, avi.families.LowRank(rank=2))).mean() < MODEL.diagonal_gap()


@pytest.mark.filterwarnings("ignore:refine")
@pytest.mark.parametrize("method", ["lbfgs", "adam"])
def test_a_family_without_normal_noise(method: Any) -> None:
    """Refined with all observations or with a few, on any noise, the ELBO is the same up to the error of fixed noise."""
    torch.manual_seed(0)
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(6, [4]).double(), Laplaces, freeze_model=True).setup(X, seed=0)
    together = vi.refine(X[:8], method=method, draws=300, max_steps=400)
    alone = vi.refine(X[:3], method=method, draws=300, seed=1, max_steps=400)
    found, best = (vi.evaluate(posterior=posterior, particles=4000, seed=0) for posterior in (together, alone))
    # Fixed noise costs about P / (2 K) nats, here a hundredth.
    error = (found["elbo_se"][:3] ** 2 + best["elbo_se"] ** 2) ** 0.5
    assert (abs(found["elbo"][:3] - best["elbo"]) < 5 * error + 0.1).all()
    assert found["elbo"].mean() > vi.evaluate(X[:8], particles=500, seed=0)["elbo"].mean() + 1


@pytest.mark.filterwarnings("ignore:refine")
@pytest.mark.parametrize("name", CASES)
def test_any_model_gains_and_no_observation_loses(name: str) -> None:
    x = CASES[name].x
    vi = make_vi(CASES[name]).setup(x, seed=0)
    before = vi.evaluate(x, particles=200, seed=0)
    after = vi.evaluate(posterior=vi.refine(x, max_steps=15), particles=200, seed=0)
    error = (after["elbo_se"] ** 2 + before["elbo_se"] ** 2) ** 0.5
    assert (after["elbo"] > before["elbo"] - 6 * error - 0.01).all()
    assert after["elbo"].mean() > before["elbo"].mean()


def test_data_that_change_at_each_reading_are_read_once() -> None:
    class Noisy(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, row: int) -> torch.Tensor:
            return X[row] + torch.randn(6, dtype=DOUBLE)

    # On the data that it holds, the best posterior of the family stays the best.
    gap = gap_of(solved(MODEL, avi.families.Diagonal).refine(Noisy()))
    assert (gap - MODEL.diagonal_gap()).abs().max() < 2e-3


def test_a_refined_posterior_is_like_any_other(vi: avi.AmortizedVI) -> None:
    frame = pd.DataFrame(X.numpy(), index=[f"row {i}" for i in range(len(X))])
    refined = vi.refine(frame.iloc[:5], "full")
    assert refined.label == "full"
    assert list(refined.to_frame().index.get_level_values(0).unique()) == list(frame.index[:5])
    chosen = refined.select([4, 0])
    torch.testing.assert_close(chosen.mean["z"], refined.mean["z"][[4, 0]])
    data = vi.to_arviz(posterior=chosen, draws=4, prior_draws=0, seed=0)
    assert list(data["posterior"]["data"].values) == ["row 4", "row 0"]
    values = refined.sample(2, seed=1)
    torch.testing.assert_close(pickle.loads(pickle.dumps(refined)).log_prob(values), refined.log_prob(values))


def test_a_refinement_can_start_from_a_refined_posterior(vi: avi.AmortizedVI) -> None:
    refined = vi.refine(X[:5], "full")
    again = vi.refine(posterior=refined)
    torch.testing.assert_close(again.mean["z"], refined.mean["z"], rtol=0, atol=0.02)
    assert gap_of(vi.refine(posterior=vi.refine(X[:5]), family="full")).mean() < 2e-3


def test_encoder_and_random_state_are_unchanged(vi: avi.AmortizedVI) -> None:
    weights = [p.clone() for p in vi.guide.parameters()]
    state = torch.get_rng_state()
    first = vi.refine(X[:3], "low_rank", seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights, vi.guide.parameters(), strict=True))
    assert torch.equal(first.mean["z"], vi.refine(X[:3], "low_rank", seed=3).mean["z"])


def test_results_do_not_depend_on_chunks(vi: avi.AmortizedVI, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = MODEL.posterior(X).mean
    monkeypatch.setattr("amortvi._util.memory.NUMBERS_AT_ONCE", 2**11)
    torch.testing.assert_close(vi.refine(X, "full").mean["z"], whole, rtol=0, atol=0.02)


def test_observations_that_did_not_converge_are_reported(vi: avi.AmortizedVI) -> None:
    with pytest.warns(AmortviWarning, match="refine: 40 of 40 observations did not converge") as caught:
        vi.refine(X, "full", max_steps=1)
    assert caught[0].filename == __file__


def test_unusable_families_are_refused(vi: avi.AmortizedVI) -> None:
    with pytest.raises(FamilyError, match="implement parameters_near"):
        vi.refine(X, Laplaces)
    with pytest.raises(FamilyError, match="family must be one of"):
        vi.refine(X, "fulll")
