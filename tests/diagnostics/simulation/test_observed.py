"""Simulated data are written to the elements of the arguments that the model observes; other models are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

from amortvi.diagnostics.simulation import simulate_observations
from amortvi.errors import ModelError
from tests.any_models import CASES, real
from tests.diagnostics.simulation.test_simulate import N, assert_standard_normal, set_up, teacher_forcing


def independent_normal(loc: Tensor, x: Tensor, scale: float = 1.0) -> Any:
    return dist.Normal(loc.unsqueeze(-1).expand(x.shape), scale).to_event(1)


def test_data_that_are_cast_split_and_stacked() -> None:
    """Counts as integers, a class, a boolean, and two of three columns."""

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
    simulated = simulate_observations(set_up(model, *arguments), N, seed=0)
    z, (counts, kind, flag, new) = simulated.values["z"], simulated.batch.args
    assert [value.dtype for value in (counts, kind, flag)] == [torch.int64, torch.int64, torch.bool]
    assert_standard_normal(new[:, 0] - z)
    assert_standard_normal(new[:, 2] - z - 5)
    assert torch.equal(new[:, 1], x[torch.arange(N) % len(x), 1])
    for value, mean, variance in (
        (counts, z.exp(), z.exp()),
        (kind, torch.sigmoid(-2 * z), torch.sigmoid(-2 * z) * torch.sigmoid(2 * z)),
        (flag.long(), torch.sigmoid(3 * z), torch.sigmoid(3 * z) * torch.sigmoid(-3 * z)),
    ):
        assert abs(float((value - mean).sum())) < 5 * float(variance.sum()) ** 0.5


def test_masked_entries_and_masks_keep_their_values() -> None:
    x, seen = CASES["a mask"].args
    x = torch.where(seen, x, torch.tensor(777.0))
    simulated = simulate_observations(set_up(CASES["a mask"].make(), x, seen), N, seed=0)
    new, new_seen = simulated.batch.args
    assert torch.equal(new_seen, seen[torch.arange(N) % len(x)])
    assert bool((new[~new_seen] == 777).all())
    assert_standard_normal(((new - simulated.values["z"].unsqueeze(1)) / 0.5)[new_seen])


@pytest.mark.parametrize("fill", [lambda x, seen: torch.where(seen, x, 0.0), lambda x, seen: x.masked_fill(~seen, 0.0)])
def test_a_mask_inside_to_event(fill: Callable[[Tensor, Tensor], Tensor]) -> None:
    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            likelihood = dist.Normal(z.unsqueeze(-1).expand(x.shape), 1.0).mask(seen).to_event(1)
            pyro.sample("x", likelihood, obs=fill(x, seen))

    x, seen = real(), real() > 0
    new, new_seen = simulate_observations(set_up(model, x, seen), N, seed=0).batch.args
    original = x[torch.arange(N) % len(x)]
    assert torch.equal(new[~new_seen], original[~new_seen])
    assert not bool((new == original)[new_seen].any())


def test_a_tensor_passed_as_two_arguments_stays_one() -> None:
    def model(image: Tensor, target: Tensor) -> None:
        with pyro.plate("data", image.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", independent_normal(z, target), obs=target)

    x = real()
    vi = set_up(model, x, x)
    assert torch.equal(*simulate_observations(vi, 20, (x, x), seed=0).batch.args)
    separate = simulate_observations(vi, 20, (x, x.clone()), seed=0).batch.args
    assert torch.equal(separate[0], x[torch.arange(20) % len(x)])


def observing(observed: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", independent_normal(z, x), obs=observed(x))

    return model


def around_itself(x: Tensor) -> None:
    """The mean is a view of the argument that the site observes."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(x[:, 0], z.exp()), obs=x[:, 0])


def through_masked_entries(x: Tensor, seen: Tensor) -> None:
    """A mean depends on the value of a site, masked entries included."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with poutine.mask(mask=seen[:, 0]):
            first = pyro.sample("first", dist.Normal(z, 1.0), obs=x[:, 0])
        pyro.sample("second", dist.Normal(first, 0.5), obs=x[:, 1])


def constant(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("constant", dist.Normal(z, 0.1), obs=torch.zeros(x.shape[0]))
        pyro.sample("x", independent_normal(z, x), obs=x)


def weighted_in_the_plate(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]), poutine.scale(scale=0.5):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", independent_normal(z, x), obs=x)


def overflowing(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1e4))
        pyro.sample("x", dist.LogNormal(z.unsqueeze(-1).expand(x.shape), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        (teacher_forcing, (real(),), "distribution of site 'x' depends on observed data"),
        (around_itself, (real(),), "distribution of site 'x' depends on observed data"),
        (through_masked_entries, (real(), real() > 0), "distribution of site 'second' depends on observed data"),
        (
            observing(lambda x: x.abs().log()),
            (real(),),
            "'x' has values that are not elements of the model's arguments",
        ),
        (constant, (real(),), "'constant' has values that are not elements of the model's arguments"),
        (observing(lambda x: x.clamp(-0.5, 0.5)), (real(),), "'x' does not have the values that were written"),
        (observing(lambda x: x.flip(0)), (real(),), "'x' reads some observations from another row"),
        (weighted_in_the_plate, (real(),), "site 'z' has a weight"),
        (overflowing, (real().exp(),), "'x' has values that are not finite"),
    ],
)
def test_models_that_cannot_be_simulated(model: Any, args: tuple[Tensor, ...], message: str) -> None:
    vi = set_up(model, *args)
    with pytest.raises(ModelError, match=message):
        simulate_observations(vi, 100, seed=0)


def test_an_argument_that_cannot_hold_the_draws() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.float()[:, 0])

    vi = set_up(model, torch.arange(12).unsqueeze(1))
    with pytest.raises(ModelError, match=r"site 'x' .* which x, a tensor of torch.int64, cannot hold"):
        simulate_observations(vi, 10, seed=0)
