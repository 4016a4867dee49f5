"""simulate_observations draws latents and data jointly, and writes the data where model and encoder read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi._util import chunks
from amortvi.diagnostics import simulate_observations
from amortvi.errors import DataError, ModelError, NotFittedError, OptionError
from tests.any_models import CASES, FEATURES, covariate, padded, real
from tests.exact import linear_gaussian, solved

N = 2000


def set_up(model: Callable[..., Any], *args: Tensor) -> avi.AmortizedVI:
    encoder = avi.encoders.MLP(sum(value[0].numel() for value in args), [])
    return avi.AmortizedVI(model, encoder).setup(args, seed=0)


def case_set_up(name: str) -> avi.AmortizedVI:
    case = CASES[name]
    return avi.AmortizedVI(case.make(), case.make_encoder()).setup(case.x, seed=0)


def assert_standard_normal(values: Tensor) -> None:
    """Mean and variance are 0 and 1 within five standard errors."""
    assert abs(float(values.mean())) < 5 / values.numel() ** 0.5
    assert abs(float(values.var()) - 1) < 5 * (2 / values.numel()) ** 0.5


@pytest.mark.parametrize("elements_at_once", [chunks.NUMBERS_AT_ONCE, 300])
def test_latents_and_data_have_their_joint_distribution(monkeypatch: pytest.MonkeyPatch, elements_at_once: int) -> None:
    model = linear_gaussian()
    vi = solved(model)
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", elements_at_once)
    simulated = simulate_observations(vi, N, seed=0)
    z, x = simulated.values["z"], simulated.batch.args[0]
    assert_standard_normal(z)
    assert_standard_normal((x - z @ model.W.mT - model.bias) / model.scale)
    torch.testing.assert_close(simulated.vector, z)
    assert simulated.size == N == len(vi.posterior(simulated.observations))


def test_a_seed_reproduces_the_draws_and_leaves_the_random_state() -> None:
    vi = solved(linear_gaussian())
    before = torch.get_rng_state()
    one, other = (simulate_observations(vi, 50, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.batch.args[0], other.batch.args[0])
    assert torch.equal(one.vector, other.vector)
    assert not torch.equal(one.vector, simulate_observations(vi, 50, seed=4).vector)
    assert not torch.equal(simulate_observations(vi, 50).vector, simulate_observations(vi, 50).vector)


def test_the_noise_is_independent_of_a_posterior_sampled_with_the_same_seed() -> None:
    vi = solved(linear_gaussian())
    z = simulate_observations(vi, N, seed=0).values["z"]
    correlation = float((z * vi.sample_prior(N, seed=0)["z"]).mean())
    assert abs(correlation) < 5 / z.numel() ** 0.5


RESIDUALS = {
    "a plate on the left": lambda v, x: (x - v["z"].sum(-1)) / 0.7,
    "a plate on the right": lambda v, x: (x - v["level"][:, None] - v["rate"]) / 0.7,
    "a chain": lambda v, x: (x - torch.stack([v[f"z_{t}"] for t in range(FEATURES)], dim=1)) / 0.5,
    "a subsampled plate": lambda v, x: (x - padded(v["z"])) / 0.5,
    "keywords": lambda v, x: (x - padded(v["z"])) / 0.5,
    "deterministic sites": lambda v, x: (x - padded(v["z"])) / 0.5,
    "one latent on another": lambda v, x: (x - padded(v["z"])) / 0.5,
}


@pytest.mark.parametrize("name", RESIDUALS)
def test_the_data_belong_to_the_latents_in_every_layout(name: str) -> None:
    """Given the latents, what remains of each element is the noise of the model."""
    simulated = simulate_observations(case_set_up(name), N, seed=0)
    assert_standard_normal(RESIDUALS[name](simulated.values, next(simulated.batch.tensors())))


NOT_A_DISTRIBUTION = {
    "plates on both sides": "element of x in site 'x' twice",
    "subsampled in parts": "has a weight",
    "scales": "has a weight",
    "weights": "has a weight",
    "a factor": r"is a pyro\.factor",
    "a factor alone": r"is a pyro\.factor",
}


@pytest.mark.parametrize("name", CASES)
def test_every_model_is_simulated_or_refused(name: str) -> None:
    case, vi = CASES[name], case_set_up(name)
    modes = [part.training for part in vi.generative.modules()]
    if name in NOT_A_DISTRIBUTION:
        with pytest.raises(ModelError, match=rf"{NOT_A_DISTRIBUTION[name]}.* simulator="):
            simulate_observations(vi, 5)
        return
    simulated = simulate_observations(vi, 30, seed=0)
    assert [part.training for part in vi.generative.modules()] == modes
    shapes = {site: tuple(value.shape) for site, value in simulated.values.items()}
    assert shapes == {site: (30, *shape) for site, shape in case.shapes.items()}
    vi.example.check_compatible(simulated.batch, "simulated", "example")
    assert vi.evaluate(simulated.observations, particles=2).notna().all(axis=None)


def test_covariates_are_those_of_x() -> None:
    y = 10 + covariate()[:5]
    simulated = simulate_observations(case_set_up("covariates"), N, (real()[:5], y), seed=0)
    assert torch.equal(simulated.batch.args[1], y[torch.arange(N) % 5])
    assert_standard_normal(simulated.values["z"] - simulated.batch.args[1])  # the covariate is the mean of the prior


def test_a_site_can_read_what_was_drawn_before_it() -> None:
    def autoregressive(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            last = torch.zeros(())
            for t in range(FEATURES):
                pyro.sample(f"x_{t}", dist.Normal(0.9 * last + z, 0.5), obs=x[:, t])
                last = x[:, t]

    simulated = simulate_observations(set_up(autoregressive, real()), N, seed=0)
    z, x = simulated.values["z"], simulated.batch.args[0]
    before = torch.cat([torch.zeros(N, 1), x[:, :-1]], dim=1)
    assert_standard_normal((x - 0.9 * before - z.unsqueeze(1)) / 0.5)


def teacher_forcing(x: Tensor) -> None:
    """All means are computed from the data before any of them is drawn."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        pyro.sample("x", dist.Normal(0.9 * before + z.unsqueeze(-1), 0.5).to_event(1), obs=x)


def simulate_teacher_forcing(n: int) -> tuple[dict[str, Tensor], Tensor]:
    z, x = torch.randn(n), torch.zeros(n, FEATURES)
    for t in range(FEATURES):
        x[:, t] = 0.9 * (x[:, t - 1] if t else 0) + z + 0.5 * torch.randn(n)
    return {"z": z}, x


def test_a_simulator_in_place_of_the_model() -> None:
    vi = set_up(teacher_forcing, real())
    one, other = (simulate_observations(vi, 40, simulator=simulate_teacher_forcing, seed=1) for _ in range(2))
    assert torch.equal(one.batch.args[0], other.batch.args[0])
    assert torch.equal(one.values["z"], one.vector[:, 0])
    z, x = one.vector, one.batch.args[0]
    before = torch.cat([torch.zeros(40, 1), x[:, :-1]], dim=1)
    assert_standard_normal((x - 0.9 * before - z) / 0.5)


@pytest.mark.parametrize(
    ("simulator", "error", "message"),
    [
        (
            torch.zeros,
            OptionError,
            "simulator must return a tuple of a dict of latents and the observations; got Tensor",
        ),
        (lambda n: simulate_teacher_forcing(n + 1), OptionError, r"simulator\(10\) .* \(11,\) and 11 observations"),
        (lambda n: (simulate_teacher_forcing(n)[0], torch.zeros(n, 2)), DataError, "must have observations of shape"),
        (lambda n: ({"w": torch.zeros(n)}, torch.zeros(n, FEATURES)), DataError, r"latent sites \['z'\]"),
    ],
)
def test_a_simulator_that_returns_something_else(simulator: Any, error: type[Exception], message: str) -> None:
    vi = set_up(teacher_forcing, real())
    with pytest.raises(error, match=message):
        simulate_observations(vi, 10, simulator=simulator)


def test_bad_arguments() -> None:
    with pytest.raises(NotFittedError):
        simulate_observations(avi.AmortizedVI(linear_gaussian(), nn.Linear(5, 2)), 10)
    vi = solved(linear_gaussian())
    with pytest.raises(OptionError, match="simulations"):
        simulate_observations(vi, 0)
    with pytest.raises(DataError, match="got a Posterior"):
        simulate_observations(vi, 10, vi.posterior(torch.zeros(3, 5, dtype=torch.float64)))
