"""Global latents beside local ones, against exact posteriors and bounds."""

import math
from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoIAFNormal, AutoMultivariateNormal
from torch.utils.data import DataLoader, IterableDataset

import amortvi as avi
from tests import global_latents as exact
from tests.global_latents import EXACT_MEAN, EXACT_SD, MEAN_FIELD_SD, N, X, fitted, set_by_hand


def location_and_scale(vi: avi.AmortizedVI) -> tuple[float, float]:
    """Return the parameters of ``q(mu) = N(loc, scale)``."""
    guide = vi.guide.network.global_posterior.guide
    return float(guide.locs.mu.detach()), float(guide.scales.mu.detach())


def local_elbo(x: torch.Tensor, loc: float, scale: float, z_loc: float, z_scale: float) -> torch.Tensor:
    """Return the ELBO of each observation with ``q(mu) = N(loc, scale)`` and ``q(z | x) = N(z_loc, z_scale)``."""
    half = 0.5 * math.log(2 * math.pi)
    log_likelihood = -half - 0.5 * ((x - z_loc).square() + z_scale**2)
    log_prior = -half - 0.5 * ((z_loc - loc) ** 2 + z_scale**2 + scale**2)
    return log_likelihood + log_prior + half + 0.5 + math.log(z_scale)


@pytest.mark.parametrize(("batch_size", "epochs"), [(8, 200), (N, 700)])
def test_the_mean_field_optimum(batch_size: int, epochs: int) -> None:
    """The best factorized posterior, whatever the size of the batches, and its bound in the history."""
    vi = fitted(batch_size=batch_size, epochs=epochs)
    loc, scale = location_and_scale(vi)
    assert abs(loc - EXACT_MEAN) < 0.1 * EXACT_SD
    assert scale == pytest.approx(MEAN_FIELD_SD, rel=0.08)
    torch.testing.assert_close(vi.posterior(X).mean["z"], (X + EXACT_MEAN) / 2, atol=0.05, rtol=0)
    last = vi.history["elbo"].tail(50)
    error = float(last.std()) / math.sqrt(len(last))
    assert float(last.mean()) * N == pytest.approx(exact.best_mean_field_bound(), abs=4 * N * error + 0.02)
    assert 4 * N * error < 0.5  # the KL of mu is 2.7 nats


def test_more_draws_of_the_local_latents_widen_the_global_posterior() -> None:
    """A tighter bound of ``log p(x | mu)`` depends less on the local posteriors, which do not know mu."""
    loc, scale = location_and_scale(fitted(objective=avi.objectives.IWAE(30)))
    assert abs(loc - EXACT_MEAN) < 0.1 * EXACT_SD
    assert scale == pytest.approx(EXACT_SD, rel=0.08)
    assert scale > 1.2 * MEAN_FIELD_SD


def test_the_default_objective_gives_the_width_of_the_exact_posterior() -> None:
    torch.manual_seed(0)
    vi = avi.AmortizedVI(exact.model, avi.encoders.MLP(1, [16])).fit(X.float(), seed=0, progress=False)
    posterior = vi.posterior(X.float())
    assert vi.objective == "IWAE(particles=20)"
    assert abs(float(posterior.mean["mu"]) - EXACT_MEAN) < 0.1 * EXACT_SD
    assert float(posterior.std["mu"]) == pytest.approx(EXACT_SD, rel=0.1)  # the ELBO: 0.71 of it


def test_a_point_estimate_is_the_mode() -> None:
    vi = fitted(global_guide=AutoDelta)
    # q(z | x) is exact given mu, so the bound is log p(x, mu), whose mode is the mean of the Gaussian posterior.
    posterior = vi.posterior(X)
    assert float(posterior.mean["mu"]) == pytest.approx(EXACT_MEAN, abs=0.1 * EXACT_SD)
    assert float(posterior.std["mu"]) < 1e-12
    mode = torch.tensor(EXACT_MEAN, dtype=X.dtype)
    expected = dist.Normal(mode, math.sqrt(2)).log_prob(X).sum() + dist.Normal(0.0, exact.PRIOR_SD).log_prob(mode)
    assert float(vi.history["elbo"].tail(50).mean()) * N == pytest.approx(float(expected), abs=0.05)


def test_a_subsampled_plate_is_the_same() -> None:
    plain, subsampled = (fitted(program, batch_size=8, epochs=3) for program in (exact.model, exact.subsampled))
    for one, other in zip(plain.guide.parameters(), subsampled.guide.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.tensor(plain.history["elbo"].to_numpy()), torch.tensor(subsampled.history["elbo"].to_numpy())
    )


def test_the_bound_of_validation_data_has_the_divergence_of_the_training_data() -> None:
    """The KL of mu is shared by the training data, not by the four validation observations."""
    loc, scale, z_loc, z_scale = 1.0, 1e-3, 0.5, 0.7
    vi = set_by_hand(loc, scale, z_loc, z_scale)
    objective = avi.objectives.ELBO(2000)
    vi.fit(X, validation_data=X[:4], epochs=1, lr=1e-12, objective=objective, seed=0, progress=False)
    kl = math.log(exact.PRIOR_SD / scale) + (scale**2 + loc**2) / (2 * exact.PRIOR_SD**2) - 0.5
    # One draw of mu estimates its KL with a standard deviation of 0.7 nats; divided by 4, the KL is 1.9, by 40 it is 0.2.
    for column, x in (("elbo", X), ("validation_elbo", X[:4])):
        expected = float(local_elbo(x, loc, scale, z_loc, z_scale).mean()) - kl / N
        assert float(vi.history[column].iloc[0]) == pytest.approx(expected, abs=0.1)


def test_fits_are_reproducible_and_families_share_their_start() -> None:
    def start(family: str) -> torch.Tensor:
        return (
            avi.AmortizedVI(exact.model, exact.estimator().encoder, family)
            .setup(X.float(), seed=3)
            .posterior(X.float())
            .median["mu"]
        )

    torch.manual_seed(5)
    first = start("diagonal")
    assert torch.equal(first, start("flow"))
    guided = [
        exact.estimator(global_guide=AutoMultivariateNormal).to(dtype=torch.float64).setup(X, seed=seed)
        for seed in (0, 0, 1)
    ]
    guided = [vi.posterior(X).median["mu"] for vi in guided]
    assert guided[0] == guided[1] != guided[2]


def test_each_draw_has_its_own_global_latents() -> None:
    """The predictive variance is that of x given mu, plus that of mu where the local posterior does not depend on it."""
    vi = set_by_hand(1.0, 2.0, 0.0, 0.5)
    draws = vi.posterior(X).sample(4000, seed=0)
    assert draws["mu"].shape == (4000,)
    assert float(draws["mu"].std()) == pytest.approx(2.0, rel=5 / math.sqrt(2 * 4000))
    check = avi.predictive_check(vi, X, {"mean": lambda x: x.mean()}, draws=1000, latents="prior", seed=0)
    # Means of N draws of x ~ N(mu, 2), with one mu ~ N(1, 4) for all of them.
    replicated = check.statistics[0].replicated
    assert float(replicated.std()) == pytest.approx(math.sqrt(4 + 2 / N), rel=5 / math.sqrt(2 * 1000))
    assert float(replicated.mean()) == pytest.approx(1.0, abs=5 * 2.0 / math.sqrt(1000))


def test_predictions_integrate_over_the_global_latents() -> None:
    def model(x: torch.Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.deterministic("mean", z + shift)
            pyro.sample("x", dist.Normal(z + shift, 0.5), obs=x)

    vi = exact.estimator(model).to(dtype=torch.float64).setup(X, seed=0)
    guide = vi.guide.network.global_posterior.guide
    with torch.no_grad():
        guide.locs.shift.fill_(0.3)
        guide.scales.shift = torch.tensor(2.0, dtype=torch.float64)
    posterior, draws = vi.posterior(X), 3000
    z_variance = posterior.std["z"].square()
    tolerance = {"rtol": 6 * math.sqrt(2 / draws), "atol": 0.0}
    drawn = vi.predict(X, draws, seed=0)
    torch.testing.assert_close(drawn["x"].var(0), z_variance + 4 + 0.25, **tolerance)
    torch.testing.assert_close(posterior.sample(draws, seed=1)["mean"].var(0), z_variance + 4, **tolerance)
    two = posterior.select([0, 1]).std["mean"].square()
    torch.testing.assert_close(two, (z_variance + 4)[:2], rtol=6 * math.sqrt(2 / 1000), atol=0.0)
    # All observations share the value of a draw.
    residual = drawn["mean"] - drawn["mean"].mean(1, keepdim=True)
    assert float(residual.var(0).mean()) < float(drawn["mean"].var(0).mean()) - 3


def test_prior_draws_have_their_own_global_latents() -> None:
    vi = set_by_hand(1.0, 0.1)
    drawn = vi.sample_prior(3000, seed=0)
    spread = 5 / math.sqrt(2 * 3000)
    assert float(drawn["mu"].std()) == pytest.approx(exact.PRIOR_SD, rel=spread)
    assert float((drawn["z"] - drawn["mu"]).std()) == pytest.approx(1.0, rel=spread)
    assert float(drawn["x"].std()) == pytest.approx(math.sqrt(exact.PRIOR_SD**2 + 2), rel=spread)


def test_evaluate_averages_over_the_global_latents() -> None:
    """The bound of an observation is that of its predictive density, and its ELBO the mean over mu."""
    loc, scale, z_loc, z_scale = 1.0, 0.8, 1.0, 2.0
    table = set_by_hand(loc, scale, z_loc, z_scale).evaluate(X, particles=3000, seed=0)
    predictive = dist.Normal(loc, math.sqrt(scale**2 + 2)).log_prob(X)
    torch.testing.assert_close(torch.tensor(table["iwae"].to_numpy()), predictive, atol=0.15, rtol=0)
    error = torch.tensor(table["elbo_se"].to_numpy())
    difference = torch.tensor(table["elbo"].to_numpy()) - local_elbo(X, loc, scale, z_loc, z_scale)
    assert bool((difference.abs() < 5 * error).all())


def test_the_analysis_of_an_observation_is_given_the_median() -> None:
    """Refinement, evidence and the simulated data of a calibration know mu = 1."""
    vi = set_by_hand(1.0, 0.8, 0.7, 0.9)
    refined = vi.refine(X)
    torch.testing.assert_close(refined.mean["z"], (X + 1) / 2, atol=0.02, rtol=0)
    assert float(refined.median["mu"]) == pytest.approx(1.0)
    evidence = avi.evidence(vi, X, posterior=refined, draws=200, simulations=0, seed=0).log_evidence
    torch.testing.assert_close(evidence.double(), dist.Normal(1.0, math.sqrt(2)).log_prob(X), atol=0.05, rtol=0)
    simulated = avi.diagnostics.simulate_observations(vi, 2000, seed=0)
    assert float(simulated.values["z"].mean()) == pytest.approx(1.0, abs=5 / math.sqrt(2000))
    assert float(simulated.values["z"].std()) == pytest.approx(1.0, rel=5 / math.sqrt(4000))


def test_resampling_is_refused() -> None:
    vi = set_by_hand(1.0, 0.8)
    for call in (lambda: vi.posterior(X).sample(5, resample=True), lambda: vi.to_arviz(X, 5, resample=True)):
        with pytest.raises(
            avi.errors.OptionError, match=r"resample=True is not possible with the global latents \['mu'\]"
        ):
            call()


def test_encoder_training_leaves_the_global_posterior() -> None:
    vi = fitted(epochs=3)
    before = vi.posterior(X)
    vi.fit_encoder(X, epochs=2, seed=0, progress=False)
    after = vi.posterior(X)
    assert torch.equal(before.median["mu"], after.median["mu"])
    assert not torch.equal(before.mean["z"], after.mean["z"])
    # A further fit trains it again.
    assert not torch.equal(vi.fit(X, epochs=1, seed=0, progress=False).posterior(X).median["mu"], after.median["mu"])


@pytest.mark.parametrize("global_guide", [None, AutoMultivariateNormal])
def test_the_guide_in_plain_pyro(global_guide: Any) -> None:
    """Pyro's SVI estimates N times the negative bound of `fit`, and its gradient trains the global posterior."""
    vi = exact.fitted(global_guide=global_guide, epochs=300)
    bound = N * float(vi.history["elbo"].tail(50).mean())
    before = vi.posterior(X).median["mu"]
    svi = pyro.infer.SVI(exact.model, vi.guide, pyro.optim.SGD({"lr": 1e-9}), Trace_ELBO())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses = torch.tensor([svi.evaluate_loss(X) for _ in range(600)])
        assert float(losses.mean()) == pytest.approx(-bound, abs=4 * float(losses.std()) / math.sqrt(600) + 0.3)
        pyro.infer.SVI(exact.model, vi.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(X)
        # Adam's first step is the rate, for every parameter with a gradient.
        assert abs(float(vi.posterior(X).median["mu"] - before)) == pytest.approx(0.01, rel=0.01)
        drawn = Predictive(exact.model, guide=vi.guide, num_samples=2000, parallel=True)(X)
    assert len(pyro.get_param_store()) == 0
    assert drawn["x"].shape == (2000, N)
    sd = float(vi.posterior(X).std["mu"])
    assert float(drawn["mu"].std()) == pytest.approx(sd, rel=5 / math.sqrt(4000) + 0.03)


class Stream(IterableDataset):
    """Observations whose number nobody knows."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from X


def test_data_of_unknown_length_need_a_declared_number() -> None:
    """The KL of mu is divided by the number of observations, which only the plate may know."""
    options = {"epochs": 3, "lr": 0.02, "seed": 0, "progress": False, "dtype": torch.float64}
    with pytest.raises(avi.errors.DataError, match=r"number of observations of x is unknown.*subsample=x"):
        exact.estimator().fit(DataLoader(Stream(), batch_size=8), **options)
    streamed = exact.estimator(exact.subsampled).fit(DataLoader(Stream(), batch_size=8), **options)
    in_memory = exact.estimator(exact.subsampled).fit(X, batch_size=8, **options)
    assert streamed.history["elbo"].tolist() == pytest.approx(in_memory.history["elbo"].tolist(), rel=0.2)


@pytest.mark.filterwarnings("ignore:ConditionalAutoRegressiveNN:UserWarning")
def test_the_guide_has_the_type_of_the_posterior() -> None:
    vi = exact.estimator(global_guide=AutoIAFNormal).to(dtype=torch.float64).setup(X, seed=0)
    assert {parameter.dtype for parameter in vi.guide.parameters()} == {torch.float64}
    assert vi.posterior(X).median["mu"].dtype == torch.float64


def test_pyros_mean_field_bound_agrees() -> None:
    """The density of a positive global latent includes the Jacobian of its transform in either bound of Pyro."""

    def model(x: torch.Tensor) -> None:
        tau = pyro.sample("tau", dist.HalfNormal(30.0))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, tau)), 1.0), obs=x)

    vi = exact.estimator(model).to(dtype=torch.float64).setup(X[:3], seed=0)
    guide = vi.guide.network.global_posterior.guide
    with torch.no_grad():
        guide.locs.tau_unconstrained.fill_(3.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses = [
            torch.tensor(
                [
                    pyro.infer.SVI(model, vi.guide, pyro.optim.SGD({"lr": 1e-9}), loss).evaluate_loss(X[:3])
                    for _ in range(500)
                ]
            )
            for loss in (Trace_ELBO(), TraceMeanField_ELBO())
        ]
    error = math.sqrt(sum(float(loss.var()) for loss in losses) / 500)
    assert float(losses[0].mean() - losses[1].mean()) == pytest.approx(0.0, abs=4 * error)
    assert 4 * error < 2.0  # the Jacobian is 3


def test_the_frozen_model_and_comparisons() -> None:
    """A frozen model leaves its global posterior to be trained, and fits then do not share the evidence."""
    fits = avi.fit_families(
        exact.model,
        exact.Column(),
        ["diagonal", "full"],
        X,
        freeze_model=True,
        epochs=200,
        lr=0.05,
        dtype=torch.float64,
        progress=False,
    )
    start = exact.estimator().to(dtype=torch.float64).setup(X, seed=0).posterior(X).median["mu"]
    assert all(abs(float(vi.posterior(X).median["mu"]) - float(start)) > 0.1 for vi in fits.values())
    table = avi.compare(fits, X)
    assert set(table["score"]) == {"evidence"}
