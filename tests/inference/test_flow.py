"""A normalizing flow as the family of an estimator: no closed forms, no parameters for each observation."""

import numpy as np
import pytest
import torch

import amortvi as avi
from amortvi.errors import FamilyError
from amortvi.families import Flow
from tests.arviz_versions import groups
from tests.inference.problem import MODEL, X, make_vi


@pytest.fixture(scope="module")
def vi() -> avi.AmortizedVI:
    return make_vi(Flow(transforms=2, hidden=(8,))).fit(X, epochs=2, batch_size=10, seed=0, progress=False)


def test_evaluate(vi: avi.AmortizedVI) -> None:
    assert np.isfinite(vi.history.to_numpy()).all()
    table = vi.evaluate(X, particles=500, seed=0)
    np.testing.assert_allclose(table["elbo"], table["reconstruction"] - table["kl"], rtol=1e-5, atol=1e-5)
    assert (table["elbo"] <= MODEL.log_evidence(X).numpy() + 5 * table["elbo_se"]).all()
    assert (table["iwae"] >= table["elbo"]).all()


def test_moments_draws_and_densities(vi: avi.AmortizedVI) -> None:
    posterior = vi.posterior(X)
    assert repr(posterior) == "Posterior(Flow, 20 observations, z: (2,))"
    draws = posterior.sample(2000, seed=0)
    assert draws["z"].shape == (2000, 20, 2)
    for moment, drawn in ((posterior.mean, draws["z"].mean(0)), (posterior.median, draws["z"].median(0).values)):
        error = posterior.std["z"] / 2000**0.5 + posterior.std["z"] / 1000**0.5  # both sides are estimates
        assert ((moment["z"] - drawn).abs() < 5 * 1.3 * error).all()
    assert posterior.log_prob(draws).shape == (2000, 20)
    low, high = posterior.quantiles([0.1, 0.9])["z"]
    assert (low < high).all()


def test_predictions_and_export(vi: avi.AmortizedVI) -> None:
    assert vi.predict(X, 3, seed=0)["x"].shape == (3, 20, 3)
    found = groups(vi.to_arviz(X, 5, seed=0))
    density = vi.posterior(X).log_prob({"z": torch.tensor(found["posterior"]["z"].values[0])})
    np.testing.assert_allclose(found["sample_stats"]["log_q"][0], density, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("objective", ["elbo", "iwae", avi.objectives.ELBO(gradient="sticking_the_landing")])
def test_every_gradient_trains_a_flow(objective: object) -> None:
    vi = make_vi("flow").setup(X, seed=0)
    before = vi.evaluate(X, particles=200, seed=0)
    vi.fit(X, epochs=60, lr=0.01, objective=objective, seed=0, progress=False)
    after = vi.evaluate(X, particles=200, seed=0)
    error = np.sqrt((before["elbo_se"] ** 2 + after["elbo_se"] ** 2).sum()) / len(X)
    assert after["elbo"].mean() - before["elbo"].mean() > 5 * error


@pytest.mark.parametrize("name", ["covariance", "correlation"])
def test_covariance_is_unknown(vi: avi.AmortizedVI, name: str) -> None:
    with pytest.raises(FamilyError, match=r"covariance of a Flow posterior is not known in closed form.*sample"):
        getattr(vi.posterior(X), name)


def test_only_another_family_can_be_refined(vi: avi.AmortizedVI) -> None:
    for start, family in ((vi, None), (make_vi("full").setup(X, seed=0), "flow")):
        with pytest.raises(FamilyError, match=r"refine needs a family .* Flow has none"):
            start.refine(X, family)
    torch.testing.assert_close(vi.refine(X, "full").mean["z"], MODEL.posterior(X).mean, atol=0.05, rtol=0)
