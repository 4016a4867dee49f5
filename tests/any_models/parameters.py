"""Models that create their parameters in different ways, and the networks of models and encoders."""

from collections.abc import Callable

import pyro
import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from tests.any_models.data import FEATURES, LATENTS, padded, standard


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


class Decoder(nn.Module):
    """An nn.Module that does not register its parameters with Pyro."""

    def __init__(self, decoder: nn.Module | None = None) -> None:
        super().__init__()
        self.decoder = nn.Linear(LATENTS, FEATURES) if decoder is None else decoder
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
    """As in Pyro's tutorial: the model is a method of an nn.Module that contains the encoder too."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(FEATURES, 4)
        self.decoder = nn.Linear(LATENTS, FEATURES)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(len(x), LATENTS), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x.reshape(-1, FEATURES))


def with_a_prior_on_a_parameter(x: Tensor) -> None:
    """A global term, which belongs to the data set and not to an observation."""
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


class PseudoInputs(nn.Module):
    """A VampPrior: the prior is the mean of the posteriors of trained pseudo-inputs (Tomczak and Welling, 2018).

    Args:
        trunk: the network of the pseudo-inputs; by default one of its own.
    """

    def __init__(self, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.inputs = nn.Parameter(2 * torch.eye(FEATURES))
        self.trunk = nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh()) if trunk is None else trunk
        self.loc = nn.Linear(6, LATENTS)
        self.log_scale = nn.Linear(6, LATENTS)
        self.decoder = nn.Linear(LATENTS, FEATURES)

    def prior(self) -> dist.MixtureSameFamily:
        hidden = self.trunk(self.inputs)
        components = dist.Normal(self.loc(hidden), self.log_scale(hidden).exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(len(hidden))), components)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


def normalized() -> nn.Module:
    """A decoder with batch normalization and dropout."""
    return Decoder(nn.Sequential(nn.Linear(LATENTS, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, FEATURES)))


def lazy() -> nn.Module:
    return Decoder(nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(FEATURES)))


class Convolutional(nn.Module):
    """A decoder that accepts exactly one batch dimension."""

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


class IsPyroModule(PyroModule):
    """An encoder that is a PyroModule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = PyroModule[nn.Linear](FEATURES, 5)
        self.gain = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(x)) * self.gain


def holds_pyro_module() -> nn.Module:
    return nn.Sequential(IsPyroModule(), nn.Linear(5, 4))


def normalizing_encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ReLU())
