"""Models as people write them, with what is needed to run each of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from amortvi.encoders import MLP

ROWS, FEATURES, LATENTS = 12, 3, 2
FULL = 30
"""The size of the data set that a subsampled plate declares."""


def standard(dim: int = LATENTS) -> Any:
    return dist.Normal(torch.zeros(dim), torch.ones(dim)).to_event(1)


def real() -> Tensor:
    return torch.randn(ROWS, FEATURES, generator=torch.Generator().manual_seed(0))


def positive() -> Tensor:
    return real().abs() + 0.1


def covariate() -> Tensor:
    return torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1))


def counts() -> Tensor:
    return torch.poisson(torch.full((ROWS,), 2.0), generator=torch.Generator().manual_seed(2))


def padded(z: Tensor) -> Tensor:
    """Two latents as three features, for any leading shape."""
    return torch.cat([z, z[..., :1] - z[..., 1:]], dim=-1)


# ---------------------------------------------------------------------------------------------- how parameters are made


def with_params(x: Tensor) -> None:
    shift = pyro.param("shift", torch.zeros(FEATURES))
    scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        pyro.sample("x", dist.Normal(padded(z) + shift, scale).to_event(1), obs=x)


def with_outer_network() -> Callable[[Tensor], None]:
    decoder = nn.Sequential(nn.Linear(LATENTS, 5), nn.Tanh(), nn.Linear(5, FEATURES))

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard())
            pyro.sample("x", dist.Normal(decoder(z), 0.6).to_event(1), obs=x)

    return model


class Module(nn.Module):
    """Without a word of Pyro about its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(LATENTS, FEATURES)
        self.log_scale = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard())
            pyro.sample("x", dist.Normal(self.decoder(z), self.log_scale.exp()).to_event(1), obs=x)


class WithPyroParam(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = PyroModule[nn.Linear](LATENTS, FEATURES)
        self.scale = PyroParam(torch.full((FEATURES,), 0.8), constraint=constraints.positive)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard())
            return pyro.sample("x", dist.Normal(self.decoder(z), self.scale).to_event(1), obs=x)


class TutorialVAE(nn.Module):
    """As in Pyro's tutorial: the model is a method of an nn.Module, which holds the guide's network too."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(FEATURES, 4)
        self.decoder = nn.Linear(LATENTS, FEATURES)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(torch.Size((x.shape[0], LATENTS)))
            z_scale = x.new_ones(torch.Size((x.shape[0], LATENTS)))
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            pyro.sample("obs", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x.reshape(-1, FEATURES))


def with_a_prior_on_a_parameter(x: Tensor) -> None:
    """A global term that belongs to the data set, not to an observation."""
    scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
    pyro.sample("prior on scale", dist.Gamma(2.0, 2.0), obs=scale)
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Normal(padded(pyro.sample("z", standard())), scale).to_event(1), obs=x)


def with_a_learned_prior(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(LATENTS))
    scale = pyro.param("scale", torch.ones(LATENTS), constraint=constraints.positive)
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


# -------------------------------------------------------------------------------------------------- latents and supports


def many_supports(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
        weights = pyro.sample("weights", dist.Dirichlet(torch.full((FEATURES,), 3.0)))
        level = pyro.sample("level", dist.Uniform(torch.full((2,), -1.0), torch.tensor([2.0, 3.0])).to_event(1))
        share = pyro.sample("share", dist.Beta(2.0, 3.0))
        factor = pyro.sample("factor", dist.LKJCholesky(2, 1.5))
        loc = padded(z) + rate.unsqueeze(-1) * weights + (level.sum(-1) + share + factor[..., 1, 0]).unsqueeze(-1)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def lower_triangle(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        factor = pyro.sample("factor", dist.LKJCholesky(FEATURES, 2.0))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(FEATURES), 0.5).to_event(1))
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(FEATURES), scale_tril=scale.unsqueeze(-1) * factor), obs=x)


def without_event_dim(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand((*z.shape, FEATURES)), 0.5).to_event(1), obs=x)


def two_event_dims(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, FEATURES), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.prod(-2), 0.5).to_event(1), obs=x)


def one_on_another(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        scale = pyro.sample("spread", dist.LogNormal(top, 0.3))
        z = pyro.sample(
            "z", dist.Normal(top.unsqueeze(-1).expand((*top.shape, LATENTS)), scale.unsqueeze(-1)).to_event(1)
        )
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def a_chain(x: Tensor) -> None:
    """A state-space model: one latent after another, inside the data plate."""
    with pyro.plate("data", x.shape[0]):
        state = x.new_zeros(())
        for t in pyro.markov(range(FEATURES)):
            state = pyro.sample(f"z_{t}", dist.Normal(0.8 * state, 1.0))
            pyro.sample(f"x_{t}", dist.Normal(state, 0.5), obs=x[:, t])


def a_loop_inside(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        for t in pyro.plate("parts", FEATURES):
            z = pyro.sample(f"z_{t}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x_{t}", dist.Normal(z, 0.5), obs=x[:, t])


# --------------------------------------------------------------------------------------------------------------- plates


def nested_right(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("parts", FEATURES, dim=-1):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(level + rate, 0.7), obs=x)


def nested_left(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        level = pyro.sample("level", standard())
        with pyro.plate("parts", FEATURES, dim=-2):
            z = pyro.sample("z", dist.Normal(level, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.7), obs=x.mT)


def nested_around(x: Tensor) -> None:
    """The data plate is in the middle, and the inner plates are entered before it."""
    parts = pyro.plate("parts", FEATURES, dim=-1)
    repeats = pyro.plate("repeats", 2, dim=-3)
    with parts, pyro.plate("data", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with repeats:
            w = pyro.sample("w", dist.Exponential(2.0))
            pyro.sample("x", dist.Normal(z + w, 0.7), obs=x.expand(2, *x.shape))


def subsampled(x: Tensor) -> None:
    with pyro.plate("data", FULL, subsample=x):
        z = pyro.sample("z", standard())
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def not_subsampled(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def subsampled_in_parts(x: Tensor) -> None:
    """A subsampled data plate with a nested plate that is subsampled too, of which only the observed site is inside."""
    with pyro.plate("data", FULL, subsample=x, dim=-2):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        with pyro.plate("parts", 2 * FEATURES, subsample=torch.arange(FEATURES), dim=-1):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)


# ---------------------------------------------------------------------------------------------------------- observed sites


def masked(x: Tensor, seen: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("features", FEATURES, dim=-1), poutine.mask(mask=seen):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def scaled(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        with poutine.scale(scale=0.3):
            z = pyro.sample("z", standard())
        with poutine.scale(scale=2.5):
            pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def with_weights(x: Tensor, y: Tensor) -> None:
    """A weight for each observation."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        with poutine.scale(scale=y.exp()[:, 0]):
            pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def with_factor(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        pyro.factor("penalty", -z.abs().sum(-1))
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def with_factor_alone(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        pyro.factor("likelihood", -((x - padded(z)) ** 2).sum(-1))


def with_deterministic(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        loc = pyro.deterministic("loc", padded(z), event_dim=1)
        pyro.deterministic("norm", z.square().sum(-1))
        pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


def two_observed(x: Tensor, y: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)
        pyro.sample("y", dist.Poisson(z[..., 0].exp()), obs=y)


def with_covariates(x: Tensor, y: Tensor) -> None:
    weight = pyro.param("weight", torch.ones(LATENTS))
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(weight * y, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def with_keywords(*, x: Tensor, y: Tensor) -> None:
    with_covariates(x, y)


def mixture(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        components = dist.Normal(torch.stack([padded(z), -padded(z)], dim=-2), 0.5).to_event(1)
        mixing = dist.Categorical(logits=z.new_zeros((*z.shape[:-1], 2)))
        pyro.sample("x", dist.MixtureSameFamily(mixing, components), obs=x)


# ------------------------------------------------------------------------------------------------------------- networks


class Normalised(nn.Module):
    """BatchNorm and dropout in the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(LATENTS, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, FEATURES))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard())
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(FEATURES))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard())
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


class Convolutional(nn.Module):
    """A decoder that takes one batch dimension and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(LATENTS, 8)
        self.layers = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(2, 1, 2, stride=2))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard())
            assert z.dim() == 2
            logits = self.layers(self.first(z).reshape(-1, 2, 2, 2))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)


def images() -> Tensor:
    return torch.bernoulli(torch.full((ROWS, 1, 4, 4), 0.4), generator=torch.Generator().manual_seed(3))


class HoldsPyroModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = PyroModule[nn.Linear](FEATURES, 5)
        self.gain = PyroModule("gain")
        self.gain.value = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(x)) * self.gain.value


class IsPyroModule(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.inner = PyroModule[nn.Linear](FEATURES, 5)
        self.gain = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(x)) * self.gain


def normalising() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ReLU())


# ------------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Case:
    """A model with what it is run on.

    Args:
        make: makes the model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        encoder: makes the encoder; by default a perceptron over all the arguments.
        shapes: of one observation of each latent site, as a user reads it.
        nesting: the number of batch dimensions.
        particles: whether it takes a dimension of particles in front, as Pyro's vectorized ELBOs need.
        scale: what the plate multiplies each observation with.
    """

    make: Callable[[], Callable[..., Any]]
    args: tuple[Tensor, ...] = ()
    kwargs: dict[str, Tensor] = field(default_factory=dict)
    encoder: Callable[[], nn.Module] | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"z": (LATENTS,)})
    nesting: int = 1
    particles: bool = True
    scale: float = 1.0

    @property
    def x(self) -> Any:
        """What is given to `AmortizedVI`."""
        if self.kwargs:
            return self.kwargs
        return self.args[0] if len(self.args) == 1 else self.args

    def make_encoder(self) -> nn.Module:
        """Return a fresh encoder."""
        if self.encoder is not None:
            return self.encoder()
        tensors = (*self.args, *self.kwargs.values())
        return MLP(sum(value[0].numel() for value in tensors), [6])


def case(model: Callable[..., Any], *args: Tensor, **options: Any) -> Case:
    """A case of a model that is one function."""
    return Case(lambda: model, args or (real(),), **options)


CASES: dict[str, Case] = {
    "parameters of a function": case(with_params),
    "a network outside": Case(with_outer_network, (real(),)),
    "a module": Case(Module, (real(),)),
    "a PyroModule": Case(WithPyroParam, (real(),)),
    "the method of a module": Case(
        lambda: TutorialVAE().model, (real(),), shapes={"latent": (LATENTS,)}, particles=False
    ),
    "a prior on a parameter": case(with_a_prior_on_a_parameter),
    "a learned prior": case(with_a_learned_prior),
    "many supports": case(
        many_supports,
        shapes={"z": (2,), "rate": (), "weights": (3,), "level": (2,), "share": (), "factor": (2, 2)},
    ),
    "a Cholesky factor": case(lower_triangle, shapes={"factor": (3, 3), "scale": (3,)}),
    "no event dimension": case(without_event_dim, shapes={"z": ()}),
    "two event dimensions": case(two_event_dims, shapes={"z": (2, 3)}),
    "one latent on another": case(one_on_another, shapes={"top": (), "spread": (), "z": (2,)}),
    "a chain": case(a_chain, shapes={f"z_{t}": () for t in range(FEATURES)}),
    "a loop inside": case(a_loop_inside, shapes={f"z_{t}": () for t in range(FEATURES)}),
    "a plate on the right": case(nested_right, positive(), shapes={"level": (), "rate": (3,)}, nesting=2),
    "a plate on the left": case(nested_left, shapes={"level": (2,), "z": (3, 2)}, nesting=2),
    "plates on both sides": case(nested_around, shapes={"z": (3,), "w": (2, 3)}, nesting=3),
    "a subsampled plate": case(subsampled, scale=FULL / ROWS),
    "subsampled in parts": case(subsampled_in_parts, shapes={"z": ()}, nesting=2, scale=FULL / ROWS),
    "a mask": case(masked, real(), real() > 0, shapes={"z": ()}, nesting=2),
    "scales": case(scaled),
    "weights": case(with_weights, real(), covariate()),
    "a factor": case(with_factor),
    "a factor alone": case(with_factor_alone),
    "deterministic sites": case(with_deterministic),
    "two observed sites": case(two_observed, real(), counts()),
    "covariates": case(with_covariates, real(), covariate()),
    "keywords": Case(lambda: with_keywords, kwargs={"x": real(), "y": covariate()}),
    "a mixture": case(mixture),
    "normalisation and dropout": Case(Normalised, (real(),), encoder=normalising, particles=False),
    "lazy layers": Case(Lazy, (real(),), encoder=lambda: nn.Sequential(nn.LazyLinear(6), nn.ReLU())),
    "convolutions": Case(Convolutional, (images(),), encoder=lambda: MLP(16, [6]), particles=False),
    "an encoder that holds a PyroModule": case(with_params, encoder=HoldsPyroModule),
    "an encoder that is a PyroModule": Case(Module, (real(),), encoder=IsPyroModule),
}
