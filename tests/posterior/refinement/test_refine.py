"""Refinement: each observation reaches the best posterior of the family, whatever the encoder said."""

import pickle
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import amortvi as avi
from amortvi.posterior.refinement.bound import matched_noise
from tests.any_models import CASES
from tests.exact import linear_gaussian, solved
from tests.families.cases import FAMILIES
from tests.test_any_model import fitted

MODEL = linear_gaussian(4, 6)
X = MODEL.simulate(40, seed=1)


@pytest.fixture(scope="module")
def untrained() -> avi.AmortizedVI:
    """An encoder that has seen one epoch, far from the posterior."""
    torch.manual_seed(0)
    encoder = avi.encoders.MLP(6, [4])
    vi = avi.AmortizedVI(MODEL, encoder, "diagonal", freeze_model=True)
    return vi.fit(X, epochs=1, seed=0, progress=False, dtype=torch.float64)


@pytest.mark.parametrize("method", ["lbfgs", "adam"])
def test_full_covariance_reaches_the_exact_posterior(untrained: avi.AmortizedVI, method) -> None:
    refined = untrained.refine(X, "full", method=method)
    exact = MODEL.posterior(X)
    # Matched noise makes the bound of a Gaussian model exact, so nothing but the tolerance is left: 0.5 |d|^2 nats in
    # units of the posterior's standard deviations.
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(exact.covariance_matrix), (refined.mean["z"] - exact.mean).unsqueeze(-1), upper=False
    )
    assert float(0.5 * whitened.square().sum((1, 2)).mean()) < 2e-3
    gap = MODEL.log_evidence(X).numpy() - untrained.evaluate(refined, particles=200, seed=0)["elbo"]
    # The log weights of a posterior that is off by g nats have a variance of about 2 g.
    assert -0.01 < gap.mean() < 0.01


@pytest.mark.parametrize("method", ["lbfgs", "adam"])
def test_diagonal_reaches_its_known_gap(untrained: avi.AmortizedVI, method) -> None:
    refined = untrained.refine(X, method=method)
    precision = MODEL.precision()
    best = precision.diagonal().rsqrt().expand(len(X), -1)
    torch.testing.assert_close(refined.mean["z"], MODEL.posterior(X).mean, rtol=0, atol=0.03)
    torch.testing.assert_close(refined.std["z"], best, rtol=0.05, atol=0)


def test_every_family_gains_and_never_loses(untrained: avi.AmortizedVI) -> None:
    before = untrained.evaluate(X, particles=500, seed=0)["elbo"]
    for family in ("diagonal", "low_rank", "full"):
        after = untrained.evaluate(untrained.refine(X, family), particles=500, seed=0)
        assert (after["elbo"] > before - 5 * after["elbo_se"]).all()
        assert after["elbo"].mean() > before.mean() + 1


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_all_kinds_start_from_the_encoder(name) -> None:
    torch.manual_seed(0)
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(6, [4]), FAMILIES[name], freeze_model=True)
    vi.fit(X[:8], epochs=1, seed=0, progress=False, dtype=torch.float64)
    before = vi.evaluate(X[:8], particles=500, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", avi.errors.AmortviWarning)  # a few steps are enough to gain
        refined = vi.refine(X[:8], max_steps=30)
    after = vi.evaluate(refined, particles=500, seed=0)
    assert type(refined.family) is type(vi.guide.family)
    assert after["elbo"].mean() > before["elbo"].mean() + 0.5


class Laplace(avi.families.Family):
    """Not made of normal noise: its draws come from a generator of their own."""

    def __init__(self, dim: int, context_features: int) -> None:
        super().__init__(dim, context_features, num_parameters=2 * dim)

    def distribution(self, parameters):
        loc, log_scale = parameters.chunk(2, dim=-1)
        return torch.distributions.Independent(torch.distributions.Laplace(loc, log_scale.exp()), 1)


@pytest.mark.parametrize("method", ["lbfgs", "adam"])
def test_a_family_without_normal_noise(method) -> None:
    """Refined together or alone, on the draws of any seed, it comes to the same: the noise of a row is its own."""
    torch.manual_seed(0)
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(6, [4]), Laplace, freeze_model=True)
    vi.fit(X, epochs=1, seed=0, progress=False, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", avi.errors.AmortviWarning)
        together = vi.refine(X, method=method, draws=500, max_steps=500)
        alone = vi.refine(X[:3], method=method, draws=2000, seed=1, max_steps=500)
    found = vi.evaluate(together, particles=4000, seed=0)
    best = vi.evaluate(alone, particles=4000, seed=0)
    # What draws held fixed mislead by falls with their number: P / (2 K) nats, here a hundredth and less.
    error = (found["elbo_se"][:3] ** 2 + best["elbo_se"] ** 2) ** 0.5
    assert (abs(found["elbo"][:3] - best["elbo"]) < 5 * error + 0.05).all()
    assert found["elbo"].mean() > vi.evaluate(X, particles=500, seed=0)["elbo"].mean() + 1


def test_data_that_change_at_each_reading_are_read_once() -> None:
    class Fresh(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, row: int) -> torch.Tensor:
            return X[row] + torch.randn(6, dtype=torch.float64)

    vi = solved(MODEL, avi.families.Diagonal)
    refined = vi.refine(Fresh())
    # On the data that it holds, a posterior that was the family's best is the best still.
    gained = (
        vi.evaluate(refined, particles=200, seed=0)["elbo"]
        - vi.evaluate(vi.posterior(refined.observations.as_batch().args[0]), particles=200, seed=0)["elbo"]
    )
    assert abs(gained).max() < 0.05
    found = avi.gaps(vi, Fresh(), draws=200)
    assert abs(float(found.amortization.mean())) < 0.02


def test_an_exact_posterior_stays() -> None:
    vi = solved(MODEL)
    refined = vi.refine(X)
    torch.testing.assert_close(refined.mean["z"], vi.posterior(X).mean["z"], rtol=0, atol=1e-3)
    torch.testing.assert_close(refined.covariance, vi.posterior(X).covariance, rtol=0, atol=1e-3)


def test_a_refined_posterior_is_like_any_other(untrained: avi.AmortizedVI) -> None:
    frame = pd.DataFrame(X.numpy(), index=[f"row {i}" for i in range(len(X))])
    refined = untrained.refine(frame.iloc[:5], "full")
    assert repr(refined) == "Posterior(FullCovariance, 5 observations, z: (4,))"
    assert refined.sample(3, seed=0)["z"].shape == (3, 5, 4)
    assert list(refined.to_frame().index.get_level_values(0).unique()) == list(frame.index[:5])
    chosen = refined.select([4, 0])
    torch.testing.assert_close(chosen.mean["z"], refined.mean["z"][[4, 0]])
    data = untrained.to_arviz(chosen, draws=4, prior_draws=0, seed=0)
    assert list(data["posterior"]["data"].values) == ["row 4", "row 0"]
    assert untrained.predict(refined, draws=2, seed=0)["x"].shape == (2, 5, 6)
    values = refined.sample(2, seed=1)
    np.testing.assert_allclose(
        pickle.loads(pickle.dumps(refined)).log_prob(values).numpy(), refined.log_prob(values).numpy()
    )
    # A second refinement begins where the first ended.
    torch.testing.assert_close(untrained.refine(refined).mean["z"], refined.mean["z"], rtol=0, atol=0.02)


def test_training_and_random_state_are_left_alone(untrained: avi.AmortizedVI) -> None:
    weights = [p.clone() for p in untrained.guide.parameters()]
    state = torch.get_rng_state()
    first = untrained.refine(X[:3], "low_rank", seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights, untrained.guide.parameters(), strict=True))
    assert torch.equal(first.mean["z"], untrained.refine(X[:3], "low_rank", seed=3).mean["z"])


def test_chunks_do_not_change_the_answer(untrained: avi.AmortizedVI, monkeypatch) -> None:
    whole = untrained.refine(X, "full").mean["z"]
    monkeypatch.setattr("amortvi._util.chunks.NUMBERS_AT_ONCE", 2**11)
    torch.testing.assert_close(untrained.refine(X, "full").mean["z"], whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_any_model(name) -> None:
    vi = fitted(CASES[name])
    x = CASES[name].x
    before = vi.evaluate(x, particles=300, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", avi.errors.AmortviWarning)  # a few steps are enough to gain
        refined = vi.refine(x, max_steps=20)
    after = vi.evaluate(refined, particles=300, seed=0)
    assert (after["elbo"] > before["elbo"] - 5 * (after["elbo_se"] + before["elbo_se"])).all()
    assert after["elbo"].mean() > before["elbo"].mean()


def test_what_has_not_converged_is_told(untrained: avi.AmortizedVI) -> None:
    with pytest.warns(avi.errors.AmortviWarning, match="of 40 observations had not converged") as caught:
        untrained.refine(X, "full", max_steps=2)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, "method must be 'lbfgs' or 'adam'; got 'newton'"),
        ({"draws": 1}, "draws must be at least 2"),
        ({"tolerance": 0}, "tolerance must be a finite number above zero"),
        ({"max_steps": 0}, "max_steps must be a positive integer"),
        ({"lr": -1}, "lr must be a finite number above zero"),
        ({"seed": -1}, "seed must be a positive integer or 0"),
        ({"family": "fulll"}, "family must be one of"),
    ],
)
def test_bad_options(untrained: avi.AmortizedVI, options, message) -> None:
    with pytest.raises(avi.errors.AmortviError, match=message):
        untrained.refine(X, **options)


def test_a_family_that_cannot_start_elsewhere_says_so(untrained: avi.AmortizedVI) -> None:
    class Own(avi.families.Family):
        def __init__(self, dim: int, context_features: int) -> None:
            super().__init__(dim, context_features, num_parameters=dim)

        def distribution(self, parameters):
            return torch.distributions.Independent(torch.distributions.Normal(parameters, 1.0), 1)

    with pytest.raises(avi.errors.FamilyError, match="write parameters_near"):
        untrained.refine(X, Own)
    with pytest.raises(avi.errors.NotFittedError):
        avi.AmortizedVI(MODEL, avi.encoders.MLP(6, [4])).refine(X)


def test_noise_is_matched() -> None:
    noise = matched_noise(33, 5, torch.Generator().manual_seed(0))
    assert noise.shape == (34, 5)
    torch.testing.assert_close(noise.mean(0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(noise.mT @ noise / 34, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)
    few = matched_noise(4, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(few.mean(0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
    assert partial(matched_noise, 4, 5)(torch.Generator().manual_seed(0)).equal(few)
