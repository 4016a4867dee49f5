"""Posteriors of given observations, against the exact posterior of a linear-Gaussian model."""

import math
import pickle
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

import amortvi as avi
from amortvi.errors import DataError, FamilyError, OptionError
from amortvi.posterior import Posterior
from tests.exact import linear_gaussian, one_latent, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(50, seed=1)
EXACT = MODEL.posterior(X)
DOUBLE = torch.float64


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return solved(MODEL).posterior(X)


def hierarchical(y: torch.Tensor) -> None:
    with pyro.plate("units", y.shape[0], dim=-2):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("times", y.shape[1], dim=-1):
            level = pyro.sample("level", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(level.sum(-1), scale), obs=y)


@pytest.fixture(scope="module")
def nested() -> Posterior:
    y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    return avi.AmortizedVI(hierarchical, avi.encoders.MLP(3, [8]), "full").setup(y, seed=0).posterior(y)


def test_moments(posterior: Posterior) -> None:
    torch.testing.assert_close(posterior.mean["z"], EXACT.mean)
    torch.testing.assert_close(posterior.std["z"], EXACT.variance.sqrt())
    torch.testing.assert_close(posterior.covariance, EXACT.covariance_matrix)
    scale = EXACT.variance.sqrt()
    torch.testing.assert_close(posterior.correlation, EXACT.covariance_matrix / scale[:, :, None] / scale[:, None, :])


def test_quantiles(posterior: Posterior) -> None:
    levels = [0.05, 0.5, 0.9]
    marginal = torch.distributions.Normal(EXACT.mean, EXACT.variance.sqrt())
    expected = torch.stack([marginal.icdf(torch.tensor(level, dtype=DOUBLE)) for level in levels])
    torch.testing.assert_close(posterior.quantiles(levels)["z"], expected)
    torch.testing.assert_close(posterior.median["z"], EXACT.mean)


def test_log_prob(posterior: Posterior) -> None:
    z = torch.randn(4, 2, len(X), 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(posterior.log_prob({"z": z}), EXACT.log_prob(z))
    torch.testing.assert_close(posterior.log_prob({"z": z[0, 0]}), EXACT.log_prob(z[0, 0]))


def test_draws(posterior: Posterior) -> None:
    draws = 20_000
    z = posterior.sample(draws, seed=0)["z"]
    assert z.shape == (draws, len(X), 3)
    scale = EXACT.variance.sqrt()
    assert ((z.mean(0) - EXACT.mean) / scale * math.sqrt(draws)).abs().max() < 5
    whitened = (z - EXACT.mean) / scale
    covariance = torch.einsum("sni,snj->nij", whitened, whitened) / draws
    assert (covariance - posterior.correlation).abs().max() < 5 * math.sqrt(2 / draws)
    below = (z < posterior.quantiles([0.2])["z"][0]).double().mean(0)
    assert (below - 0.2).abs().max() < 5 * math.sqrt(0.16 / draws)


def test_a_seed_reproduces_draws_and_leaves_the_random_state_untouched(posterior: Posterior) -> None:
    state = torch.get_rng_state()
    first = posterior.sample(3, seed=11)["z"]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, posterior.sample(3, seed=11)["z"])
    assert not torch.equal(first, posterior.sample(3)["z"])


# ---------------------------------------------------------------------------------------------- other supports


def of_one(prior: dist.Distribution, loc: list[float], scale: list[float]) -> Posterior:
    """Return a posterior of one observation that is ``N(loc, scale^2)`` before the transform to the support of ``prior``."""
    x = torch.zeros(1, dtype=DOUBLE)
    parameters = torch.tensor([*loc, *np.log(scale)], dtype=DOUBLE)
    return with_parameters(one_latent(prior), parameters, x, avi.families.Diagonal).posterior(x)


def zero(value: float = 0.0) -> torch.Tensor:
    return torch.tensor(value, dtype=DOUBLE)


SCALARS = {
    "positive": (dist.LogNormal(zero(), 1.0), (1e-12, 60.0)),
    "interval": (dist.Uniform(zero(2.0), 5.0), (2 + 1e-12, 5 - 1e-12)),
    "unit interval": (dist.Beta(zero(2.0), 2.0), (1e-12, 1 - 1e-12)),
    "greater than": (dist.Pareto(zero(1.5), 2.0), (1.5 + 1e-12, 60.0)),
}


@pytest.mark.parametrize("support", SCALARS)
def test_density_integrates_to_one_and_has_the_moments(support: str) -> None:
    prior, (low, high) = SCALARS[support]
    found = of_one(prior, [-0.2], [0.5])
    grid = torch.linspace(low, high, 100_001, dtype=DOUBLE)
    density = found.log_prob({"z": grid.unsqueeze(-1)}).squeeze(-1).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-5)
    mean = torch.trapezoid(density * grid, grid)
    variance = torch.trapezoid(density * (grid - mean) ** 2, grid)
    assert found.mean["z"].item() == pytest.approx(mean.item(), rel=1e-5)
    assert found.std["z"].item() == pytest.approx(variance.sqrt().item(), rel=1e-4)
    below = torch.trapezoid(density * (grid < found.quantiles([0.3])["z"].item()), grid)
    assert below.item() == pytest.approx(0.3, abs=2e-3)


def test_density_of_a_simplex_is_that_of_its_first_coordinates() -> None:
    """This is the convention of Pyro and PyTorch."""
    found = of_one(dist.Dirichlet(torch.ones(3, dtype=DOUBLE)), [0.4, -0.3], [0.5, 0.3])
    first, second = torch.meshgrid(*[torch.linspace(1e-6, 1 - 1e-6, 401, dtype=DOUBLE)] * 2, indexing="ij")
    points = torch.stack([first, second, 1 - first - second], dim=-1)[first + second < 1 - 1e-6].unsqueeze(1)
    cell = (first[1, 0] - first[0, 0]) ** 2
    density = found.log_prob({"z": points}).squeeze(1).exp()
    assert (density.sum() * cell).item() == pytest.approx(1, abs=2e-3)
    mean = (density[:, None] * points.squeeze(1)).sum(0) * cell
    spread = ((density[:, None] * (points.squeeze(1) - mean) ** 2).sum(0) * cell).sqrt()
    # The mean of a simplex is estimated from 1,000 draws.
    assert ((found.mean["z"][0] - mean).abs() < 5 * spread / math.sqrt(1000) + 2e-3).all()
    assert found.mean["z"].sum(-1).item() == pytest.approx(1)


def test_estimates_are_reproducible_and_leave_the_random_state_untouched() -> None:
    found = of_one(dist.Dirichlet(torch.ones(3, dtype=DOUBLE)), [0.4, -0.3], [0.5, 0.3])
    state = torch.get_rng_state()
    assert torch.equal(found.mean["z"], found.mean["z"])
    assert torch.equal(found.quantiles([0.5])["z"], found.quantiles([0.5])["z"])
    assert torch.equal(torch.get_rng_state(), state)


class Opaque(avi.families.ParametricFamily):
    """A family of distributions that know nothing in closed form."""

    @property
    def num_parameters(self) -> int:
        return 2 * self.dim

    def distribution(self, parameters: torch.Tensor) -> dist.Distribution:
        loc, log_scale = parameters.chunk(2, dim=-1)
        base = dist.Laplace(loc, log_scale.exp()).to_event(1)
        return dist.TransformedDistribution(base, [dist.transforms.ComposeTransform([])])


def test_quantities_without_closed_forms_are_estimated_from_draws() -> None:
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(5, []), Opaque).to(dtype=DOUBLE).setup(X, seed=0)
    found, q = vi.posterior(X), vi.guide.get_posterior(X).base_dist
    error = (found.mean["z"] - q.mean) / q.stddev * math.sqrt(1000)
    assert error.abs().max() < 5
    # The relative error of the standard deviation of a Laplace distribution, of kurtosis six, is sqrt(5 / 4 / draws).
    assert (found.std["z"] / q.stddev - 1).abs().max() < 6 * math.sqrt(5 / 4 / 1000)
    torch.testing.assert_close(found.log_prob({"z": EXACT.mean}), q.log_prob(EXACT.mean).detach())
    with pytest.raises(FamilyError, match=r"covariance of a Opaque posterior is not known .* sample\(1000\)"):
        _ = found.covariance


# ------------------------------------------------------------------------------------- several sites, nested plates


def test_shapes_are_observations_then_nested_plates_then_event(nested: Posterior) -> None:
    assert {name: tuple(value.shape) for name, value in nested.mean.items()} == {"scale": (6,), "level": (6, 3, 2)}
    draws = nested.sample(4, seed=0)
    assert draws["level"].shape == (4, 6, 3, 2)
    assert nested.log_prob(draws).shape == (4, 6)
    assert nested.quantiles([0.1, 0.9])["level"].shape == (2, 6, 3, 2)
    assert nested.covariance.shape == (6, 7, 7)
    assert len(nested.latents.labels) == 7


def test_log_prob_is_that_of_the_unconstrained_vector_minus_the_jacobian(nested: Posterior) -> None:
    draws = nested.sample(4, seed=0)
    vector = torch.cat([draws["scale"].log().reshape(4, 6, 1), draws["level"].flatten(2)], dim=-1)
    mean = torch.cat([nested.median["scale"].log().reshape(6, 1), nested.mean["level"].flatten(1)], -1)
    gaussian = torch.distributions.MultivariateNormal(mean, nested.covariance)
    expected = gaussian.log_prob(vector) - draws["scale"].log().reshape(4, 6)
    torch.testing.assert_close(nested.log_prob(draws), expected, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------------------- tables


def test_to_frame(posterior: Posterior) -> None:
    frame = posterior.select([0, 7]).to_frame(quantiles=[0.1, 0.9])
    assert list(frame.columns) == ["mean", "std", "10%", "90%"]
    assert frame.index.names == ["data", "latent"]
    assert list(frame.index[:3]) == [(0, "z[0]"), (0, "z[1]"), (0, "z[2]")]
    np.testing.assert_allclose(frame["mean"].to_numpy().reshape(2, 3), EXACT.mean[[0, 7]])
    np.testing.assert_allclose(frame["std"].to_numpy().reshape(2, 3), EXACT.variance[[0, 7]].sqrt())
    assert (frame["10%"] < frame["90%"]).all()


def test_to_frame_of_several_sites(nested: Posterior) -> None:
    frame = nested.to_frame()
    assert frame.shape == (6 * 7, 5)
    assert list(frame.loc[0].index) == ["scale", *(f"level[{i}, {j}]" for i in range(3) for j in range(2))]
    expected = nested.mean["level"][4, 2, 1].item()
    assert frame.loc[(4, "level[2, 1]"), "mean"] == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------- independence


def test_later_training_changes_nothing() -> None:
    encoder = nn.Linear(5, 4, dtype=DOUBLE)
    vi = avi.AmortizedVI(MODEL, encoder, "full").setup(X, seed=0)
    posterior, live = vi.posterior(X), vi.posterior(X, copy=False)
    before = posterior.mean["z"]
    vi.fit(X, epochs=1, lr=0.1, progress=False, seed=0)
    assert torch.equal(posterior.mean["z"], before)
    assert not torch.equal(live.mean["z"], before)


def test_posteriors_can_be_pickled(posterior: Posterior) -> None:
    again = pickle.loads(pickle.dumps(posterior))
    torch.testing.assert_close(again.mean["z"], posterior.mean["z"])


def test_posteriors_are_not_observations(posterior: Posterior) -> None:
    with pytest.raises(DataError, match="x must be observations; got a Posterior"):
        solved(MODEL).posterior(posterior)


def test_a_compiled_encoder() -> None:
    encoder = nn.Linear(5, 4, dtype=DOUBLE)
    vi = avi.AmortizedVI(MODEL, encoder, "diagonal").setup(X, seed=0)
    compiled = avi.AmortizedVI(MODEL, torch.compile(encoder, backend="eager"), "diagonal").setup(X, seed=0)
    torch.testing.assert_close(compiled.posterior(X).mean["z"], vi.posterior(X).mean["z"])


# --------------------------------------------------------------------------------------------------- invalid input


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"values must be a dict with the latent sites \['z'\]; got \[\]"),
        ({"z": torch.zeros(50, 4)}, r"values\['z'\] must have shape"),
        ({"z": torch.zeros(2, 49, 3)}, r"values are of 49 observations, but the posterior is of 50\."),
    ],
)
def test_invalid_values_are_refused(posterior: Posterior, values: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        posterior.log_prob(values)


def test_values_outside_the_support_are_refused(nested: Posterior) -> None:
    draws = nested.sample(1, seed=0)
    with pytest.raises(DataError, match=r"values\['scale'\] has values outside the support"):
        nested.log_prob({**draws, "scale": -draws["scale"]})


def test_options_are_checked(posterior: Posterior) -> None:
    with pytest.raises(OptionError, match="draws must be a positive integer; got 0"):
        posterior.sample(0)
    with pytest.raises(OptionError, match="quantiles must lie strictly between 0 and 1"):
        posterior.quantiles([0.5, 1.0])
