"""Estimators whose posterior is set by hand, so that what is computed from it can be compared with exact answers."""

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.model.library import LinearGaussian


def linear_gaussian(latents: int = 3, features: int = 5, *, dtype: torch.dtype = torch.float64) -> LinearGaussian:
    """A model with non-orthogonal loadings."""
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
    """The estimator with the family's best posterior, its covariance multiplied by ``widen ** 2``."""
    features, latents = model.W.shape
    best = closest(family(latents, family(latents, 1).num_parameters, head=False), model.precision() / widen**2)
    gain = torch.linalg.solve(model.precision(), model.W.mT / model.scale.square())
    encoder = nn.Linear(features, best.numel(), dtype=model.W.dtype)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[:latents] = gain
        encoder.bias.copy_(best)
        encoder.bias[:latents] = -gain @ model.bias
    return held(model, encoder, family, model.simulate(4, seed=0))


def held(model, encoder: nn.Module, family: type[avi.families.GaussianFamily], x) -> avi.AmortizedVI:
    """The estimator whose encoder gives the family's parameters, left as they are."""
    vi = avi.AmortizedVI(model, encoder, lambda dim, context: family(dim, context, head=False), freeze_model=True)
    return vi.fit(x, epochs=1, lr=1e-30, progress=False, seed=0)


@torch.enable_grad()
def closest(family: avi.families.GaussianFamily, precision: Tensor) -> Tensor:
    """The parameters of the family's Gaussian that is closest, in KL(q || p), to N(0, inverse of ``precision``)."""
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
    """An encoder that returns ``parameters`` (one row, or a row an observation) whatever it is called with."""

    def __init__(self, parameters: Tensor) -> None:
        super().__init__()
        self.parameters_ = nn.Parameter(parameters)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.parameters_.expand(inputs[0].shape[0], -1)


def with_parameters(model, parameters: Tensor, x, family=avi.families.FullCovariance) -> avi.AmortizedVI:
    """The estimator whose posterior has these family parameters for each observation, for a model of any latents."""
    return held(model, Fixed(parameters), family, x)


def one_latent(prior: dist.Distribution):
    """A model whose one latent ``"z"`` has ``prior``, and whose data say nothing of it."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)

    return model
