"""simulate_observations draws latents and data jointly, writes the data where the model reads them, or refuses the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

import amortvi as avi
from amortvi._util import memory
from amortvi.diagnostics import simulate_observations
from amortvi.errors import DataError, ModelError, OptionError
from tests.any_models import CASES, FEATURES, covariate, padded, real
from tests.exact import linear_gaussian, solved

N = 2000
MODEL = linear_gaussian()
EXACT = solved(MODEL)


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


@pytest.mark.parametrize("elements_at_once", [memory.NUMBERS_AT_ONCE, 300])
def test_latents_and_data_have_their_joint_distribution(monkeypatch: pytest.MonkeyPatch, elements_at_once: int) -> None:
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", elements_at_once)
    simulated = simulate_observations(EXACT, N, seed=0)
    z, x = simulated.values["z"], simulated.batch.args[0]
    assert_standard_normal(z)
    assert_standard_normal((x - z @ MODEL.W.mT - MODEL.bias) / MODEL.scale)
    torch.testing.assert_close(simulated.vector, z)
    assert simulated.size == N == len(EXACT.posterior(simulated.observations))
    # The noise is independent of draws of another kind with the same seed.
    assert abs(float((z * EXACT.sample_prior(N, seed=0)["z"]).mean())) < 5 / z.numel() ** 0.5


RESIDUALS = {
    "a plate on the left": lambda v, x: (x - v["z"].sum(-1)) / 0.7,
    "a plate on the right": lambda v, x: (x - v["level"][:, None] - v["rate"]) / 0.7,
    "a chain": lambda v, x: (x - torch.stack([v[f"z_{t}"] for t in range(FEATURES)], dim=1)) / 0.5,
    **dict.fromkeys(
        ("a subsampled plate", "keywords", "deterministic sites", "one latent on another"),
        lambda v, x: (x - padded(v["z"])) / 0.5,
    ),
}
"""What remains of each element given the latents: the noise of the model."""

NOT_A_DISTRIBUTION = {
    "plates on both sides": "element of x in site 'x' twice",
    **dict.fromkeys(("subsampled in parts", "scales", "weights"), "has a weight"),
    **dict.fromkeys(("a factor", "a factor alone"), r"is a pyro\.factor"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_model_is_simulated_or_refused(name: str) -> None:
    case, vi = CASES[name], case_set_up(name)
    modes = [part.training for part in vi.generative.modules()]
    if name in NOT_A_DISTRIBUTION:
        with pytest.raises(ModelError, match=rf"{NOT_A_DISTRIBUTION[name]}.* simulator="):
            simulate_observations(vi, 5)
        return
    simulated = simulate_observations(vi, N if name in RESIDUALS else 30, seed=0)
    assert [part.training for part in vi.generative.modules()] == modes
    shapes = {site: tuple(value.shape[1:]) for site, value in simulated.values.items()}
    assert shapes == case.shapes
    vi.example.check_compatible(simulated.batch, "simulated", "example")
    assert vi.evaluate(simulated.observations, particles=2).notna().all(axis=None)
    if name in RESIDUALS:
        assert_standard_normal(RESIDUALS[name](simulated.values, next(simulated.batch.tensors())))


def test_covariates_are_those_of_x() -> None:
    y = 10 + covariate()[:5]
    simulated = simulate_observations(case_set_up("covariates"), N, (real()[:5], y), seed=0)
    assert torch.equal(simulated.batch.args[1], y[torch.arange(N) % 5])
    assert_standard_normal(simulated.values["z"] - simulated.batch.args[1])  # the covariate is the mean of the prior


def in_plate(observe: Callable[..., object]) -> Callable[..., None]:
    """Return the model that calls ``observe`` with a standard normal latent and the arguments, inside the data plate."""

    def model(*args: Tensor) -> None:
        with pyro.plate("data", args[0].shape[0]):
            observe(pyro.sample("z", dist.Normal(0.0, 1.0)), *args)

    return model


def observing(read: Callable[..., Tensor]) -> Callable[..., None]:
    """Return the model that observes what ``read`` returns, elements with mean ``z`` and variance one."""

    def observe(z: Tensor, *args: Tensor) -> None:
        x = read(*args)
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(x.shape), 1.0).to_event(1), obs=x)

    return in_plate(observe)


@in_plate
def autoregressive(z: Tensor, x: Tensor) -> None:
    for t in range(FEATURES):  # each mean is computed after the element before it is drawn
        pyro.sample(f"x_{t}", dist.Normal(0.9 * (x[:, t - 1] if t else 0) + z, 0.5), obs=x[:, t])


@in_plate
def teacher_forcing(z: Tensor, x: Tensor) -> None:
    """All means are computed from the data before any of them is drawn."""
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
    pyro.sample("x", dist.Normal(0.9 * before + z.unsqueeze(-1), 0.5).to_event(1), obs=x)


def simulate_teacher_forcing(n: int) -> tuple[dict[str, Tensor], Tensor]:
    z, x = torch.randn(n), torch.zeros(n, FEATURES)
    for t in range(FEATURES):
        x[:, t] = 0.9 * (x[:, t - 1] if t else 0) + z + 0.5 * torch.randn(n)
    return {"z": z}, x


@pytest.mark.parametrize(
    ("model", "simulator"),
    [(autoregressive, None), (teacher_forcing, simulate_teacher_forcing)],
    ids=["model", "simulator"],
)
def test_a_site_can_read_what_was_drawn_before_it(model: Any, simulator: Any) -> None:
    vi = set_up(model, real())
    one, other = (simulate_observations(vi, N, simulator=simulator, seed=1) for _ in range(2))
    z, x = one.vector, one.batch.args[0]
    assert torch.equal(x, other.batch.args[0])
    assert torch.equal(one.values["z"], z[:, 0])
    assert_standard_normal((x - 0.9 * torch.cat([torch.zeros(N, 1), x[:, :-1]], dim=1) - z) / 0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"simulations": 0}, OptionError, "simulations"),
        ({"x": EXACT.posterior(torch.zeros(3, 5, dtype=torch.float64))}, DataError, "got a Posterior"),
        ({"simulator": torch.zeros}, OptionError, "must return a tuple of .* the observations; got Tensor"),
        ({"simulator": lambda n: simulate_teacher_forcing(n + 1)}, OptionError, r"\(9\) .* \(10,\) and 10 obs"),
        ({"simulator": lambda n: ({"z": torch.zeros(n)}, torch.zeros(n, 2))}, DataError, "must have observations of"),
        ({"simulator": lambda n: ({"w": torch.zeros(n)}, torch.zeros(n, FEATURES))}, DataError, r"sites \['z'\]"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        simulate_observations(set_up(teacher_forcing, real()), **{"simulations": 9, **options})


def test_data_that_are_cast_split_and_stacked() -> None:
    """Counts as integers, a class, a boolean, and two of three columns."""

    @in_plate
    def model(z: Tensor, counts: Tensor, kind: Tensor, flag: Tensor, x: Tensor) -> None:
        pyro.sample("counts", dist.Poisson(z.exp()).expand([x.shape[0]]), obs=counts.float())
        pyro.sample("kind", dist.Categorical(logits=torch.stack([z, -z], -1)), obs=kind)
        pyro.sample("flag", dist.Bernoulli(logits=3 * z), obs=flag.to(x.dtype))
        both = torch.stack([x[:, 2], x[:, 0]], dim=-1)
        pyro.sample("x", dist.Normal(z.unsqueeze(-1) + x.new_tensor([5.0, 0.0]), 1.0).to_event(1), obs=both)

    x = real()
    arguments = x[:, 0].abs().long(), (x[:, 0] > 0).long(), x[:, 0] > 0, x
    simulated = simulate_observations(set_up(model, *arguments), N, seed=0)
    z, (counts, kind, flag, new) = simulated.values["z"], simulated.batch.args
    assert [value.dtype for value in (counts, kind, flag)] == [torch.int64, torch.int64, torch.bool]
    assert_standard_normal(new[:, 0] - z)
    assert_standard_normal(new[:, 2] - z - 5)
    assert torch.equal(new[:, 1], x[torch.arange(N) % len(x), 1])
    laws = dist.Poisson(z.exp()), dist.Bernoulli(logits=-2 * z), dist.Bernoulli(logits=3 * z)
    for value, law in zip((counts, kind, flag.long()), laws, strict=True):
        assert abs(float((value - law.mean).sum())) < 5 * float(law.variance.sum()) ** 0.5


def masked_inside_to_event(fill: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., None]:
    def observe(z: Tensor, x: Tensor, seen: Tensor) -> None:
        likelihood = dist.Normal(z.unsqueeze(-1).expand(x.shape), 0.5).mask(seen).to_event(1)
        pyro.sample("x", likelihood, obs=fill(x, seen))

    return in_plate(observe)


@pytest.mark.parametrize(
    "model",
    [
        CASES["a mask"].make(),
        masked_inside_to_event(lambda x, seen: torch.where(seen, x, 0.0)),
        masked_inside_to_event(lambda x, seen: x.masked_fill(~seen, 0.0)),
    ],
)
def test_masked_entries_and_masks_keep_their_values(model: Any) -> None:
    x, seen = CASES["a mask"].args
    simulated = simulate_observations(set_up(model, torch.where(seen, x, 777.0), seen), N, seed=0)
    new, new_seen = simulated.batch.args
    assert torch.equal(new_seen, seen[torch.arange(N) % len(x)])
    assert bool((new[~new_seen] == 777).all())
    assert_standard_normal(((new - simulated.values["z"].unsqueeze(1)) / 0.5)[new_seen])


def test_a_tensor_passed_as_two_arguments_stays_one() -> None:
    x = real()
    vi = set_up(observing(lambda image, target: target), x, x)
    assert torch.equal(*simulate_observations(vi, 20, (x, x), seed=0).batch.args)
    separate = simulate_observations(vi, 20, (x, x.clone()), seed=0).batch.args
    assert torch.equal(separate[0], x[torch.arange(20) % len(x)])


@in_plate
def through_masked_entries(z: Tensor, x: Tensor, seen: Tensor) -> None:
    """A mean depends on the value of a site, masked entries included."""
    with poutine.mask(mask=seen[:, 0]):
        first = pyro.sample("first", dist.Normal(z, 1.0), obs=x[:, 0])
    pyro.sample("second", dist.Normal(first, 0.5), obs=x[:, 1])


def first_column(likelihood: Callable[[Tensor, Tensor], Any]) -> Callable[..., None]:
    """Return the model that observes the first column, as floating-point numbers."""
    return in_plate(lambda z, x: pyro.sample("x", likelihood(z, x), obs=x.float()[:, 0]))


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        (teacher_forcing, (real(),), "distribution of site 'x' depends on observed data"),
        (first_column(lambda z, x: dist.Normal(x[:, 0], z.exp())), (real(),), "site 'x' depends on observed data"),
        (through_masked_entries, (real(), real() > 0), "distribution of site 'second' depends on observed data"),
        (observing(lambda x: x.abs().log()), (real(),), "'x' has values that are constants or computed from"),
        (observing(torch.zeros_like), (real(),), "'x' has values that are constants or computed from"),
        (observing(lambda x: x.clamp(-0.5, 0.5)), (real(),), "'x' does not have the values that were written"),
        (observing(lambda x: x.flip(0)), (real(),), "mixes the rows of a batch"),
        (poutine.scale(observing(lambda x: x), 0.5), (real(),), "site 'z' has a weight"),
        (first_column(lambda z, x: dist.LogNormal(1e4 * z, 1.0)), (real().exp(),), "'x' .* values that are not finite"),
        (first_column(lambda z, x: dist.Normal(z, 1.0)), (torch.arange(12).unsqueeze(1),), "x, a .*int64, cannot hold"),
    ],
)
def test_models_that_cannot_be_simulated(model: Any, args: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        simulate_observations(set_up(model, *args), 100, seed=0)
