"""Mixtures as priors of latents: densities, draws and marginals, against closed forms."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

from amortvi.data import Batch
from amortvi.model import Model, PriorRuns
from tests.exact import one_latent

DOUBLE = torch.float64
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)
LOCS = torch.tensor([-3.0, 0.0, 4.0], dtype=DOUBLE)
SCALES = torch.tensor([0.5, 1.0, 0.8], dtype=DOUBLE)
NOISE = 0.7
X = torch.tensor([-3.0, 0.5, 2.0], dtype=DOUBLE)


def mixture(components: Any) -> Any:
    return dist.MixtureSameFamily(dist.Categorical(WEIGHTS), components)


def set_up(program: Callable[[Tensor], None], x: Tensor = X) -> tuple[Model, Batch]:
    torch.manual_seed(0)
    batch = Batch((x,))
    return Model(program).setup(batch, batch.size), batch


def latent_and_data(prior: Any, likelihood: Callable[[Tensor], Any]) -> Callable[[Tensor], None]:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("x", likelihood(pyro.sample("z", prior)), obs=x)

    return model


def evidence_on_grid(program: Callable[[Tensor], None], x: Tensor, low: float, high: float) -> Tensor:
    """Integrate the joint density over one unconstrained latent."""
    model, batch = set_up(program, x)
    grid = torch.linspace(low, high, 4001, dtype=DOUBLE).reshape(-1, 1, 1).expand(-1, batch.size, 1)
    with model.inference_mode():
        return torch.trapezoid(model.log_joint(batch, grid).exp(), grid[..., 0], dim=0).log()


def logsumexp_over_components(log_density: Tensor) -> Tensor:
    return torch.logsumexp(WEIGHTS.log() + log_density, dim=-1)


def test_evidence_of_a_gaussian_mixture() -> None:
    expected = logsumexp_over_components(dist.Normal(LOCS, (SCALES**2 + NOISE**2).sqrt()).log_prob(X.unsqueeze(-1)))
    program = latent_and_data(mixture(dist.Normal(LOCS, SCALES)), lambda z: dist.Normal(z, NOISE))
    torch.testing.assert_close(evidence_on_grid(program, X, -20, 20), expected)


def test_evidence_of_a_mixture_of_gammas() -> None:
    shape, rate = torch.tensor([1.0, 4.0, 9.0], dtype=DOUBLE), torch.tensor([2.0, 1.0, 0.5], dtype=DOUBLE)
    x = torch.tensor([0.0, 3.0, 20.0], dtype=DOUBLE)
    expected = logsumexp_over_components(dist.NegativeBinomial(shape, 1 / (1 + rate)).log_prob(x.unsqueeze(-1)))
    program = latent_and_data(mixture(dist.Gamma(shape, rate)), dist.Poisson)
    torch.testing.assert_close(evidence_on_grid(program, x, -40, 8), expected)


LOC2 = torch.stack([LOCS, LOCS.flip(0) / 2], dim=-1)  # (components, 2)
SCALE2 = torch.stack([SCALES, SCALES.flip(0)], dim=-1)
FACTOR2 = torch.diag_embed(SCALE2) + torch.tensor([[0.0, 0.0], [0.6, 0.0]], dtype=DOUBLE)
VECTORS: dict[str, tuple[Any, Tensor]] = {
    "independent": (mixture(dist.Normal(LOC2, SCALE2).to_event(1)), SCALE2),
    "components of torch": (
        dist.MixtureSameFamily(
            torch.distributions.Categorical(WEIGHTS),
            torch.distributions.Independent(torch.distributions.Normal(LOC2, SCALE2), 1),
        ),
        SCALE2,
    ),
    "correlated": (mixture(dist.MultivariateNormal(LOC2, scale_tril=FACTOR2)), FACTOR2.square().sum(-1).sqrt()),
    "diagonal": (dist.MixtureOfDiagNormals(LOC2, SCALE2, WEIGHTS.log()), SCALE2),
}


@pytest.mark.parametrize("name", VECTORS)
def test_mixtures_of_vectors(name: str) -> None:
    """The joint density integrates to one, and its marginals are the mixtures of the marginals."""
    prior, scales = VECTORS[name]
    model, batch = set_up(one_latent(prior))
    line = torch.linspace(-12, 12, 201, dtype=DOUBLE)
    grid = torch.cartesian_prod(line, line).unsqueeze(1).expand(-1, batch.size, 2)
    with model.inference_mode():
        likelihood = dist.Normal(0.0, 1.0).log_prob(X)
        density = (model.log_joint(batch, grid) - likelihood).exp()[:, 0].reshape(201, 201)
        total = torch.trapezoid(torch.trapezoid(density, line), line)
        assert total.item() == pytest.approx(1, abs=1e-6)
        u = torch.randn(5, batch.size, 2, dtype=DOUBLE)
        found = PriorRuns(model, batch, 1).log_prob(u)
    expected = [
        logsumexp_over_components(dist.Normal(LOC2[:, i], scales[:, i]).log_prob(u[..., i : i + 1])) for i in (0, 1)
    ]
    torch.testing.assert_close(found, torch.stack(expected, dim=-1))


def test_marginals_of_a_mixture_in_a_nested_plate() -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("parts", 4, dim=-1):
            z = pyro.sample("z", VECTORS["independent"][0])
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x.unsqueeze(-1).expand(-1, 4))

    model, batch = set_up(program)
    u = torch.randn(2, batch.size, 8, dtype=DOUBLE)
    with model.inference_mode():
        found = PriorRuns(model, batch, 1).log_prob(u).unflatten(-1, (4, 2))
    expected = logsumexp_over_components(dist.Normal(LOC2[:, 0], SCALE2[:, 0]).log_prob(u[..., 0::2].unsqueeze(-1)))
    torch.testing.assert_close(found[..., 0], expected)


def test_draws_have_the_moments_of_the_mixture() -> None:
    program = latent_and_data(mixture(dist.Normal(LOCS, SCALES)), lambda z: dist.Normal(z, NOISE))
    model, batch = set_up(program)
    draws = 20_000
    with model.inference_mode():
        x = model.simulate(batch, None, draws)["x"].flatten()
    mean = WEIGHTS @ LOCS
    variance = WEIGHTS @ (SCALES**2 + NOISE**2 + LOCS**2) - mean**2
    assert abs(x.mean() - mean) < 5 * (variance / len(x)).sqrt()
    spread = (x - mean).square()
    assert abs(spread.mean() - variance) < 5 * spread.std() / math.sqrt(len(x))
