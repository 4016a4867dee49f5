"""Estimators whose posterior is set by hand, so that what is computed from it can be compared with exact answers."""

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.models import LinearGaussian


def linear_gaussian(latents: int = 3, features: int = 5, *, dtype: torch.dtype = torch.float64) -> LinearGaussian:
    """A model with non-orthogonal loadings."""
    generator = torch.Generator().manual_seed(7)
    W = torch.randn(features, latents, generator=generator, dtype=dtype)
    bias = torch.randn(features, generator=generator, dtype=dtype)
    return LinearGaussian(W, scale=0.8, bias=bias)


def solved(model: LinearGaussian, family: str = "full", *, widen: float = 1.0) -> avi.AmortizedVI:
    """The estimator with the family's best posterior, its covariance multiplied by ``widen ** 2``."""
    features, latents = model.W.shape
    vi = avi.AmortizedVI(model, avi.encoders.MLP(features, []), family, freeze_model=True)
    vi.fit(model.simulate(4, seed=0), epochs=1, progress=False, seed=0)
    gain = torch.linalg.solve(model.precision(), model.W.mT / model.scale.square())
    head = vi.guide.family.head
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:latents] = gain
        head.bias[:latents] = -gain @ model.bias
        head.bias[latents:] = best_raw(vi.guide.family, model.precision() / widen**2)
    return vi


def best_raw(family: avi.families.GaussianFamily, precision: Tensor) -> Tensor:
    """The scale parameters whose Gaussian is closest, in KL(q || p), to the one with this precision."""
    raw = family.initial_raw().to(precision).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [raw], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def kl() -> Tensor:
        optimizer.zero_grad()
        scale = family.scale(raw)
        value = 0.5 * (precision * scale.covariance()).sum() - scale.log_abs_det()
        value.backward()
        return value

    optimizer.step(kl)
    return raw.detach()


class Fixed(nn.Module):
    """An encoder that returns ``parameters`` (one row, or a row an observation) whatever it is called with."""

    def __init__(self, parameters: Tensor) -> None:
        super().__init__()
        self.parameters_ = nn.Parameter(parameters)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.parameters_.expand(inputs[0].shape[0], -1)


def with_parameters(model, parameters: Tensor, x, family=avi.families.FullCovariance) -> avi.AmortizedVI:
    """The estimator whose posterior has these family parameters for each observation, for a model of any latents."""
    vi = avi.AmortizedVI(model, Fixed(parameters), lambda dim, context: family(dim, context, head=False))
    vi.fit(x, epochs=1, lr=1e-30, progress=False, seed=0)
    return vi


def one_latent(prior: dist.Distribution):
    """A model whose one latent ``"z"`` has ``prior``, and whose data say nothing of it."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)

    return model
