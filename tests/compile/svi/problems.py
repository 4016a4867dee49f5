"""Small models with guides of many kinds, and a fit that is the same for Pyro's SVI and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.infer
import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from pyro.infer import config_enumerate
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

import amortvi as avi

ROWS = 6


def data() -> Tensor:
    return torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(3))


@dataclass(frozen=True)
class Problem:
    model: Callable[..., Any]
    guide: Callable[..., Any]


def constrained() -> Problem:
    """Parameters of functions, with constraints."""

    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", lambda: torch.zeros(ROWS, 2))
        width = pyro.param("width", lambda: torch.ones(ROWS, 2), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, width).to_event(1))

    return Problem(model, guide)


def subsampled() -> Problem:
    """A plate of more observations than there are rows; modules announced by hand."""
    torch.manual_seed(5)
    decoder, encoder = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 4))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", 100, subsample=x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", 100, subsample=x):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Problem(model, guide)


def drawn() -> Problem:
    """A plate that draws its subsample itself."""
    table = data()

    def model():
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", ROWS, subsample_size=3) as rows:
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=table[rows])

    def guide():
        loc = pyro.param("guide_loc", lambda: torch.zeros(2))
        pyro.sample("loc", dist.Normal(loc, 0.3).to_event(1))

    return Problem(model, guide)


def discrete() -> Problem:
    """A latent that cannot be reparameterized."""

    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(x.shape), scale).to_event(1), obs=x)

    def guide(x):
        probability = pyro.param("probability", lambda: torch.full((ROWS,), 0.4), constraint=constraints.unit_interval)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(probability))

    return Problem(model, guide)


def mixture() -> Problem:
    """Classes that are enumerated in the model."""

    def model(x):
        weights = pyro.param("weights", torch.tensor([0.2, 0.3, 0.5]), constraint=constraints.simplex)
        with pyro.plate("classes", 3):
            loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x[:, 0])

    def guide(x):
        loc = pyro.param("guide_loc", torch.tensor([-1.0, 0.0, 1.0]))
        width = pyro.param("width", lambda: torch.ones(3), constraint=constraints.positive)
        with pyro.plate("classes", 3):
            pyro.sample("loc", dist.Normal(loc, width))

    return Problem(model, guide)


def enumerated_in_guide() -> Problem:
    """The same mixture, with classes enumerated in the guide, some of them impossible."""

    @config_enumerate
    def guide(x):
        mixture().guide(x)
        # A class of probability zero is what Pyro leaves out of its sums.
        chances = pyro.param("chances", lambda: torch.full((ROWS, 2), 0.5), constraint=constraints.simplex)
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(nn.functional.pad(chances, (0, 1))))

    return Problem(mixture().model, guide)


class Regression(PyroModule):
    """A model with a parameter and a latent as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)
        self.linear = nn.Linear(1, 1)

    def forward(self, x):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.linear(x[:, :1]).squeeze(-1) + slope, self.noise), obs=x[:, 1])


def module() -> Problem:
    """A PyroModule with one of Pyro's own guides."""
    torch.manual_seed(6)
    model = Regression()
    return Problem(model, pyro.infer.autoguide.AutoNormal(model))


def structured() -> Problem:
    """The same model with a guide that changes the shape of tensors in place."""
    made = module()
    return Problem(made.model, pyro.infer.autoguide.AutoStructured(made.model))


@dataclass
class Fitted:
    losses: list[float]
    parameters: dict[str, Tensor]
    next_draw: Tensor
    svi: Any


def fit(
    kind: Callable[..., Any],
    problem: Callable[[], Problem],
    optim: Callable[[], Any],
    loss: Callable[[], Any],
    *,
    steps: int = 20,
    arguments: Callable[[int], Iterable[Any]] = lambda step: (data(),),
    after_each: Callable[[Any], object] = lambda svi: None,
    **options: Any,
) -> Fitted:
    """Fit from a seed, and say what came of it."""
    pyro.clear_param_store()
    made = problem()
    torch.manual_seed(1)
    svi = kind(made.model, made.guide, optim(), loss(), **options)
    losses = []
    for step in range(steps):
        losses.append(svi.step(*arguments(step)))
        after_each(svi)
    parameters = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    next_draw = torch.rand(())
    pyro.clear_param_store()
    return Fitted(losses, parameters, next_draw, svi)


def assert_same(ours: Fitted, pyros: Fitted) -> None:
    """Same losses, parameters and random numbers, to rounding."""
    torch.testing.assert_close(torch.tensor(ours.losses), torch.tensor(pyros.losses), rtol=1e-4, atol=1e-4)
    assert ours.parameters.keys() == pyros.parameters.keys()
    for name, value in pyros.parameters.items():
        torch.testing.assert_close(
            ours.parameters[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert torch.equal(ours.next_draw, pyros.next_draw)


def fit_as_pyro(**case: Any) -> avi.SVI:
    """Fit with every step compiled and as Pyro does, see that the numbers are the same, and return what compiled."""
    ours = fit(avi.SVI, **case, compile=True)
    assert_same(ours, fit(pyro.infer.SVI, **case))
    return ours.svi
