"""Estimators whose posterior is set by hand, so that results can be compared with exact answers."""

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.model.library import LinearGaussian


def linear_gaussian(latents: int = 3, features: int = 5, *, dtype: torch.dtype = torch.float64) -> LinearGaussian:
    """Return a model with non-orthogonal loadings."""
    generator = torch.Generator().manual_seed(7)
    W = torch.randn(features, latents, generator=generator, dtype=dtype)
    bias = torch.randn(features, generator=generator, dtype=dtype)
    return LinearGaussian(W, scale=0.8, bias=bias)


def solved(
    model: LinearGaussian,
    family: type[avi.families.GaussianFamily] = avi.families.FullCovariance,
    *,
    widen: float = 1.0,
) -> avi.AmortizedVI:
    """Return the estimator with the best posterior of the family, its covariance multiplied by ``widen ** 2``."""
    features, latents = model.W.shape
    parameters = family().setup(latents, context_features=1).num_parameters
    best = closest(family(head=False).setup(latents, parameters), model.precision() / widen**2)
    gain = torch.linalg.solve(model.precision(), model.W.mT / model.scale.square())
    encoder = nn.Linear(features, best.numel(), dtype=model.W.dtype)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[:latents] = gain
        encoder.bias.copy_(best)
        encoder.bias[:latents] = -gain @ model.bias
    return hand_set(model, encoder, family, model.simulate(4, seed=0))


def hand_set(model, encoder: nn.Module, family: type[avi.families.GaussianFamily], x) -> avi.AmortizedVI:
    """Return the estimator whose encoder returns the parameters of the family itself, set up but not trained."""
    return avi.AmortizedVI(model, encoder, family(head=False), freeze_model=True).setup(x, seed=0)


@torch.enable_grad()
def closest(family: avi.families.GaussianFamily, precision: Tensor) -> Tensor:
    """Return the parameters of the Gaussian closest, in KL(q || p), to N(0, inverse of ``precision``)."""
    parameters = torch.zeros(family.num_parameters, dtype=precision.dtype)
    parameters = parameters.normal_(0, 0.01, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def kl() -> Tensor:
        optimizer.zero_grad()
        q = family.distribution(parameters)
        second_moment = q.covariance_matrix + q.mean.unsqueeze(-1) * q.mean.unsqueeze(-2)
        value = 0.5 * (precision * second_moment).sum() - q.entropy()
        value.backward()
        return value

    optimizer.step(kl)
    return parameters.detach()


class Fixed(nn.Module):
    """An encoder that returns ``parameters`` (one row, or one per observation) whatever its input."""

    def __init__(self, parameters: Tensor) -> None:
        super().__init__()
        self.parameters_ = nn.Parameter(parameters)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.parameters_.expand(inputs[0].shape[0], -1)


def with_parameters(model, parameters: Tensor, x, family=avi.families.FullCovariance) -> avi.AmortizedVI:
    """Return the estimator whose posterior has these family parameters for each observation."""
    return hand_set(model, Fixed(parameters), family, x)


def gamma_poisson(x) -> None:
    """A model of counts: the posterior of the rate is Gamma(4 + x, 3), and the evidence negative binomial."""
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Poisson(pyro.sample("rate", dist.Gamma(4.0, 2.0))), obs=x)


def one_latent(prior: dist.Distribution):
    """Return a model whose only latent ``"z"`` has ``prior`` and does not affect the data."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)

    return model
