"""simulate_observations draws latents and data together, and puts the data where model and encoder read them."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

import amortvi as avi
from amortvi import _chunks
from amortvi.diagnostics import simulate_observations
from amortvi.errors import DataError, ModelError, NotFittedError, OptionError
from tests.any_models import CASES, FEATURES, covariate, padded, real
from tests.exact import linear_gaussian, solved

N = 2000


def seen_by(model: Any, *args: Tensor, latents: int = 1) -> avi.AmortizedVI:
    """An estimator that was set up on ``args``."""
    encoder = avi.encoders.MLP(sum(value[0].numel() for value in args), [])
    return avi.AmortizedVI(model, encoder).fit(args, epochs=1, lr=1e-30, seed=0, progress=False)


def assert_standard_normal(values: Tensor) -> None:
    """Numbers that are N(0, 1), within five standard errors of mean and variance."""
    assert abs(float(values.mean())) < 5 / values.numel() ** 0.5
    assert abs(float(values.var()) - 1) < 5 * (2 / values.numel()) ** 0.5


def test_latents_and_data_belong_together() -> None:
    model = linear_gaussian()
    simulated = simulate_observations(solved(model), N, seed=0)
    z, x = simulated.values["z"], simulated.batch.args[0]
    assert_standard_normal(z)
    assert_standard_normal((x - z @ model.W.mT - model.bias) / model.scale)
    torch.testing.assert_close(simulated.vector, z)
    assert simulated.size == N == len(solved(model).posterior(simulated.observations))


def test_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = linear_gaussian()
    vi = solved(model)
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", 300)
    simulated = simulate_observations(vi, N, seed=0)
    assert_standard_normal((simulated.batch.args[0] - simulated.values["z"] @ model.W.mT - model.bias) / model.scale)


def test_a_seed_gives_the_same_and_leaves_the_random_state() -> None:
    vi = solved(linear_gaussian())
    before = torch.get_rng_state()
    one, other = (simulate_observations(vi, 50, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.batch.args[0], other.batch.args[0])
    assert torch.equal(one.vector, other.vector)
    assert not torch.equal(one.vector, simulate_observations(vi, 50, seed=4).vector)
    assert not torch.equal(simulate_observations(vi, 50).vector, simulate_observations(vi, 50).vector)


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
def test_every_layout(name: str) -> None:
    """What is left of the data without the latents is the noise of the model, number by number."""
    case = CASES[name]
    vi = avi.AmortizedVI(case.make(), case.make_encoder()).fit(case.x, epochs=1, lr=1e-30, seed=0, progress=False)
    simulated = simulate_observations(vi, N, seed=0)
    assert_standard_normal(RESIDUALS[name](simulated.values, next(simulated.batch.tensors())))


NOT_A_DISTRIBUTION = {
    "plates on both sides": "observes the same number of x in site 'x' twice",
    "subsampled in parts": "has a weight",
    "scales": "has a weight",
    "weights": "has a weight",
    "a factor": "is a pyro.factor",
    "a factor alone": "is a pyro.factor",
}


@pytest.mark.parametrize("name", CASES)
def test_any_model_is_simulated_or_says_why_not(name: str) -> None:
    case = CASES[name]
    vi = avi.AmortizedVI(case.make(), case.make_encoder()).fit(case.x, epochs=1, lr=1e-30, seed=0, progress=False)
    modes = [part.training for part in vi.generative.modules()]
    if name in NOT_A_DISTRIBUTION:
        with pytest.raises(ModelError, match=rf"{NOT_A_DISTRIBUTION[name]}.* Give simulator="):
            simulate_observations(vi, 5)
        return
    simulated = simulate_observations(vi, 30, seed=0)
    assert [part.training for part in vi.generative.modules()] == modes
    assert {site: tuple(value.shape) for site, value in simulated.values.items()} == {
        site: (30, *shape) for site, shape in case.shapes.items()
    }
    vi.example.check_alike(simulated.batch, "simulated", "example")
    assert vi.evaluate(simulated.observations, particles=2).notna().all(axis=None)


def test_casts_columns_and_joins() -> None:
    """Counts as integers, a class, truth values; two columns observed, one left as it is."""

    def model(counts: Tensor, kind: Tensor, flag: Tensor, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("counts", dist.Poisson(z.exp()).expand([x.shape[0]]), obs=counts.float())
            pyro.sample("kind", dist.Categorical(logits=torch.stack([z, -z], -1)), obs=kind)
            pyro.sample("flag", dist.Bernoulli(logits=3 * z), obs=flag.to(x.dtype))
            both = torch.stack([x[:, 2], x[:, 0]], dim=-1)
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) + x.new_tensor([5.0, 0.0]), 1.0).to_event(1), obs=both)

    x = real()
    arguments = x[:, 0].abs().long(), (x[:, 0] > 0).long(), x[:, 0] > 0, x
    simulated = simulate_observations(seen_by(model, *arguments), N, seed=0)
    z, (counts, kind, flag, new) = simulated.values["z"], simulated.batch.args
    assert [value.dtype for value in (counts, kind, flag)] == [torch.int64, torch.int64, torch.bool]
    assert_standard_normal(new[:, 0] - z)
    assert_standard_normal(new[:, 2] - z - 5)
    assert torch.equal(new[:, 1], x[torch.arange(N) % len(x), 1])
    # Poisson and Bernoulli scores have mean zero and known variance.
    for value, mean, variance in (
        (counts, z.exp(), z.exp()),
        (kind, torch.sigmoid(-2 * z), torch.sigmoid(-2 * z) * torch.sigmoid(2 * z)),
        (flag.long(), torch.sigmoid(3 * z), torch.sigmoid(3 * z) * torch.sigmoid(-3 * z)),
    ):
        assert abs(float((value - mean).sum())) < 5 * float(variance.sum()) ** 0.5


def test_masked_numbers_and_covariates_stay() -> None:
    case = CASES["a mask"]
    x, seen = case.args
    x = torch.where(seen, x, torch.tensor(777.0))
    vi = avi.AmortizedVI(case.make(), case.make_encoder()).fit((x, seen), epochs=1, seed=0, progress=False)
    simulated = simulate_observations(vi, N, seed=0)
    new, new_seen = simulated.batch.args
    assert torch.equal(new_seen, seen[torch.arange(N) % len(x)])
    assert bool((new[~new_seen] == 777).all())
    assert_standard_normal(((new - simulated.values["z"].unsqueeze(1)) / 0.5)[new_seen])


@pytest.mark.parametrize("fill", [lambda x, seen: torch.where(seen, x, 0.0), lambda x, seen: x.masked_fill(~seen, 0.0)])
def test_a_mask_below_the_event(fill: Any) -> None:
    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            likelihood = dist.Normal(z.unsqueeze(-1).expand(x.shape), 1.0).mask(seen).to_event(1)
            pyro.sample("x", likelihood, obs=fill(x, seen))

    x, seen = real(), real() > 0
    new, new_seen = simulate_observations(seen_by(model, x, seen), N, seed=0).batch.args
    kept = x[torch.arange(N) % len(x)]
    assert torch.equal(new[~new_seen], kept[~new_seen])
    assert not bool((new == kept)[new_seen].any())


def test_x_gives_the_covariates() -> None:
    case = CASES["covariates"]
    vi = avi.AmortizedVI(case.make(), case.make_encoder()).fit(case.x, epochs=1, seed=0, progress=False)
    y = 10 + covariate()[:5]
    simulated = simulate_observations(vi, N, (real()[:5], y), seed=0)
    assert torch.equal(simulated.batch.args[1], y[torch.arange(N) % 5])
    assert_standard_normal(simulated.values["z"] - simulated.batch.args[1])  # the prior is around y


def autoregressive(x: Tensor) -> None:
    """Each number follows the one before it, as the argument has it at that moment."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        last = torch.zeros(())
        for t in range(FEATURES):
            pyro.sample(f"x_{t}", dist.Normal(0.9 * last + z, 0.5), obs=x[:, t])
            last = x[:, t]


def test_what_is_drawn_is_read_further_down() -> None:
    simulated = simulate_observations(seen_by(autoregressive, real()), N, seed=0)
    z, x = simulated.values["z"], simulated.batch.args[0]
    before = torch.cat([torch.zeros(N, 1), x[:, :-1]], dim=1)
    assert_standard_normal((x - 0.9 * before - z.unsqueeze(1)) / 0.5)


def test_data_in_two_arguments_are_one() -> None:
    def model(image: Tensor, target: Tensor) -> None:
        with pyro.plate("data", image.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(target.shape), 1.0).to_event(1), obs=target)

    x = real()
    both = simulate_observations(seen_by(model, x, x), 20, (x, x), seed=0).batch.args
    assert torch.equal(*both)
    apart = simulate_observations(seen_by(model, x, x), 20, (x, x.clone()), seed=0).batch.args
    assert torch.equal(apart[0], x[torch.arange(20) % len(x)])


def forced(x: Tensor) -> None:
    """Teacher forcing: all means are computed from the data before any is drawn."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        pyro.sample("x", dist.Normal(0.9 * before + z.unsqueeze(-1), 0.5).to_event(1), obs=x)


def logarithm(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(x.shape), 1.0).to_event(1), obs=x.abs().log())


def constant(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("near zero", dist.Normal(z, 0.1), obs=torch.zeros(x.shape[0]))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(x.shape), 1.0).to_event(1), obs=x)


def clamped(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(x.shape), 1.0).to_event(1), obs=x.clamp(-0.5, 0.5))


def turned(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(x.shape), 1.0).to_event(1), obs=x.flip(0))


def weighted_in_the_plate(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]), poutine.scale(scale=0.5):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(x.shape), 1.0).to_event(1), obs=x)


def overflowing(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1e4))
        pyro.sample("x", dist.LogNormal(z.unsqueeze(-1).expand(x.shape), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (forced, real(), "distribution of site 'x' depends on data that the model observes itself"),
        (logarithm, real(), "observed site 'x' has values that are not the model's arguments"),
        (constant, real(), "observed site 'near zero' has values that are not the model's arguments"),
        (clamped, real(), "observed site 'x' does not have the values that were put"),
        (turned, real(), "observed site 'x' takes for one row of its plate what stands in another"),
        (weighted_in_the_plate, real(), "site 'z' has a weight"),
        (overflowing, real().exp(), "draws values of site 'x' that are not finite"),
    ],
)
def test_models_that_cannot_be_simulated(model: Any, x: Tensor, message: str) -> None:
    vi = seen_by(model, x)
    with pytest.raises(ModelError, match=message):
        simulate_observations(vi, 100, seed=0)


def test_an_argument_that_cannot_hold_what_is_drawn() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.float()[:, 0])

    x = torch.arange(12).unsqueeze(1)
    vi = seen_by(model, x)
    with pytest.raises(
        ModelError, match=r"site 'x' draws values such as .*, which x, a tensor of torch.int64, cannot hold"
    ):
        simulate_observations(vi, 10, seed=0)


def draw_forced(n: int) -> tuple[dict[str, Tensor], Tensor]:
    z, x = torch.randn(n), torch.zeros(n, FEATURES)
    for t in range(FEATURES):
        x[:, t] = 0.9 * (x[:, t - 1] if t else 0) + z + 0.5 * torch.randn(n)
    return {"z": z}, x


def test_a_simulator_of_ones_own() -> None:
    vi = seen_by(forced, real())
    one, other = (simulate_observations(vi, 40, simulator=draw_forced, seed=1) for _ in range(2))
    assert torch.equal(one.batch.args[0], other.batch.args[0])
    assert torch.equal(one.values["z"], one.vector[:, 0])
    z, x = one.vector, one.batch.args[0]
    before = torch.cat([torch.zeros(40, 1), x[:, :-1]], dim=1)
    assert_standard_normal((x - 0.9 * before - z) / 0.5)


def test_the_noise_is_not_that_of_a_posterior_sampled_with_the_same_seed() -> None:
    vi = solved(linear_gaussian())
    simulated = simulate_observations(vi, N, seed=0)
    z = simulated.values["z"]
    again = vi.sample_prior(N, seed=0)["z"]
    correlation = (z * again).mean()
    assert abs(float(correlation)) < 5 / z.numel() ** 0.5


def test_a_simulator_that_is_wrong() -> None:
    vi = seen_by(forced, real())
    wrong: list[tuple[Any, type[Exception], str]] = [
        (
            lambda n: torch.zeros(n),
            OptionError,
            "simulator must return a dict of latents and the observations; got Tensor",
        ),
        (lambda n: draw_forced(n + 1), OptionError, r"simulator\(10\) must return 10 latents .*'latents': 11"),
        (lambda n: (draw_forced(n)[0], torch.zeros(n, 2)), DataError, "must have observations of shape"),
        (lambda n: ({"w": torch.zeros(n)}, torch.zeros(n, FEATURES)), DataError, r"latent sites \['z'\]"),
    ]
    for simulator, kind, message in wrong:
        with pytest.raises(kind, match=message):
            simulate_observations(vi, 10, simulator=simulator)


def test_before_a_fit_and_with_bad_numbers() -> None:
    vi = avi.AmortizedVI(linear_gaussian(), avi.encoders.MLP(5, []))
    with pytest.raises(NotFittedError, match="call fit first"):
        simulate_observations(vi, 10)
    with pytest.raises(OptionError, match="simulations must be a positive integer; got 0"):
        simulate_observations(solved(linear_gaussian()), 0)
