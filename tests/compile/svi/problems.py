"""Small models with guides of many kinds, and fits to compare with those of Pyro's SVI."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.optim
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

import amortvi as avi
from amortvi.compile import CompileChoice

ROWS = 6


def data() -> Tensor:
    return torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(3))


@dataclass(frozen=True)
class Problem:
    model: Callable[..., Any]
    guide: Callable[..., Any]


def normal_model(x, decode=lambda z: z, scale=1.0, size=None, beta=1.0):
    """One latent per row. With ``size``, the rows are a subsample; ``beta`` is the weight of the prior."""
    with pyro.plate("data", size or len(x), subsample=size and x):
        with poutine.scale(scale=beta):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decode(z), scale).to_event(1), obs=x)


def normal_guide(x, loc, scale=1.0, size=None):
    with pyro.plate("data", size or len(x), subsample=size and x):
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def mean_guide(x, *_):
    normal_guide(x, pyro.param("loc", lambda: torch.zeros(2)))


def plain() -> Problem:
    return Problem(lambda x, *_: normal_model(x), mean_guide)


def constrained() -> Problem:
    def model(x):
        normal_model(x, scale=pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive))

    def guide(x):
        loc = pyro.param("loc", lambda: torch.zeros(ROWS, 2))
        normal_guide(x, loc, pyro.param("width", lambda: torch.ones(ROWS, 2), constraint=constraints.positive))

    return Problem(model, guide)


class VAE(nn.Module):
    """As in Pyro's tutorial: model and guide are methods of a module that contains the networks. Rows are a subsample."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.decoder = encoder, nn.Linear(2, 2)

    def model(self, x):
        normal_model(x, pyro.module("decoder", self.decoder), 0.5, size=100)

    def guide(self, x):
        loc, log_scale = pyro.module("encoder", self.encoder)(x).chunk(2, -1)
        normal_guide(x, loc, log_scale.exp(), size=100)


def vae(make_encoder=lambda: nn.Linear(2, 4)) -> VAE:
    torch.manual_seed(5)
    return VAE(make_encoder())


def subsampling() -> Problem:
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
    """A latent that is not reparameterized."""

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


def mixture(enumerate_in_guide=False) -> Problem:
    """Classes that are enumerated in the model, or in the guide, where one of them is impossible."""

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
        if enumerate_in_guide:
            # Pyro leaves a class of probability zero out of its sums.
            chances = pyro.param("chances", lambda: torch.full((ROWS, 2), 0.5), constraint=constraints.simplex)
            with pyro.plate("data", len(x)):
                pyro.sample("k", dist.Categorical(nn.functional.pad(chances, (0, 1))))

    return Problem(model, config_enumerate(guide) if enumerate_in_guide else guide)


class Regression(PyroModule):
    """A model with a parameter and a module as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)
        self.linear = nn.Linear(1, 1)

    def forward(self, x):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.linear(x[:, :1]).squeeze(-1) + slope, self.noise), obs=x[:, 1])


def module(kind=AutoNormal) -> Problem:
    """A PyroModule with one of Pyro's autoguides."""
    torch.manual_seed(6)
    model = Regression()
    return Problem(model, kind(model))


@dataclass
class Fitted:
    losses: list[float]
    parameters: dict[str, Tensor]
    next_draw: Tensor
    svi: Any


def sgd() -> pyro.optim.PyroOptim:
    """Return an optimizer whose update is linear in the gradient, so that rounding errors stay small."""
    return pyro.optim.SGD({"lr": 0.001})


def constructed(
    problem: Callable[[], Problem] = plain,
    optim: Callable[[], Any] = sgd,
    *,
    loss: Any = None,
    compile: CompileChoice = True,
    **options: Any,
) -> avi.SVI:
    made = problem()
    return avi.SVI(made.model, made.guide, optim(), loss or Trace_ELBO(), compile=compile, **options)


def fit(
    kind: Callable[..., Any],
    problem: Callable[[], Problem],
    optim: Callable[[], Any] = sgd,
    loss: Callable[[], Any] = Trace_ELBO,
    *,
    steps: int = 8,
    arguments: Callable[[int], Iterable[Any]] = lambda step: (data(),),
    after_step: Callable[[Any, int], object] = lambda svi, step: None,
    **options: Any,
) -> Fitted:
    """Fit with one kind of SVI, from a fixed seed."""
    pyro.clear_param_store()
    made = problem()
    torch.manual_seed(1)
    svi = kind(made.model, made.guide, optim(), loss(), **options)
    losses = []
    for step in range(steps):
        losses.append(svi.step(*arguments(step)))
        after_step(svi, step)
    parameters = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    next_draw = torch.rand(())
    pyro.clear_param_store()
    return Fitted(losses, parameters, next_draw, svi)


def assert_same(first: Fitted, second: Fitted) -> None:
    """Assert the same losses, parameters and random numbers, up to many times the rounding error of single precision."""
    torch.testing.assert_close(torch.tensor(first.losses), torch.tensor(second.losses), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.parameters, second.parameters, rtol=1e-4, atol=1e-5)
    assert torch.equal(first.next_draw, second.next_draw)


def fit_as_pyro(problem: Callable[[], Problem], *args: Any, **options: Any) -> avi.SVI:
    """Fit with compiled steps and with Pyro's, assert that they learn the same, and return the compiled SVI."""
    compiled = fit(avi.SVI, problem, *args, **options, compile=True)
    assert_same(compiled, fit(pyro.infer.SVI, problem, *args, **options))
    return compiled.svi
