"""A hierarchy of sites: conditional densities, gradients, locking, and a funnel that no Gaussian fits."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi.errors import FamilyError
from amortvi.families import Mixture, Structured, TopDown, draw
from tests.families.network_family import NetworkFamily

DOUBLE = torch.float64
SITES = {"top": torch.Size([1]), "middle": torch.Size([2]), "bottom": torch.Size([3])}


def family() -> TopDown:
    torch.manual_seed(0)
    made = TopDown({"top": "student_t"}, hidden=[8], features=3).setup(6, 4, SITES).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def test_density_of_a_draw_is_that_of_the_same_value() -> None:
    q = family()(torch.randn(5, 4, dtype=DOUBLE))
    z = draw(q, 7).vector
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))


def test_density_is_normalized_and_conditional() -> None:
    """Importance sampling from the distribution itself with other values of the sites above."""
    q = family()(torch.randn(4, dtype=DOUBLE))
    z = q.sample((20_000,))
    wide = dist.StudentT(3.0, z.mean(0), 2 * z.std(0)).to_event(1)
    proposed = wide.sample((50_000,))
    ratio = (q.log_prob(proposed) - wide.log_prob(proposed)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 50_000**0.5
    above = z[0].clone()
    moved = above.clone()
    moved[0] += 1.0
    # The density of the bottom given the sites above changes with them.
    changes = [
        q.log_prob(torch.cat([value[:3], z[1, 3:]])) - q.log_prob(torch.cat([value[:3], z[2, 3:]]))
        for value in (above, moved)
    ]
    assert abs(changes[0] - changes[1]) > 1e-3


def test_gradient_through_draws_equals_the_score_function() -> None:
    made, one = family(), torch.randn(4, dtype=DOUBLE)
    estimates = []
    for through_draws in (True, False):
        context = one.expand(20_000, -1).clone().requires_grad_()
        q = made(context)
        z = draw(q, 1).vector[0] if through_draws else q.sample()
        value = z.sin().sum(-1) + (z[..., 0] * z[..., 5]).tanh()
        (gradient,) = torch.autograd.grad((value if through_draws else value.detach() * q.log_prob(z)).sum(), context)
        estimates.append(gradient)
    difference = estimates[0] - estimates[1]
    assert (difference.mean(0).abs() < 5 * difference.std(0) / 20_000**0.5).all()


def test_a_locked_family_is_structured() -> None:
    made, context, z = family(), torch.randn(5, 4, dtype=DOUBLE), torch.randn(5, 6, dtype=DOUBLE)
    made.unlock(0.0)
    parameters = made.to_parameters(context)
    plain = Structured({"top": "student_t"}).setup(6, 4, SITES).double()
    expected = plain.distribution(parameters[..., : plain.num_parameters]).log_prob(z)
    torch.testing.assert_close(made(context).log_prob(z), expected)
    made.unlock(0.5)
    before = made(context).log_prob(z)
    made.settle()
    torch.testing.assert_close(made(context).log_prob(z), before)
    assert not torch.allclose(before, expected, atol=1e-3)


def test_mixtures_are_refused() -> None:
    with pytest.raises(FamilyError, match="its draws are stratified: use Structured"):
        TopDown({"top": Mixture(2)}).setup(6, 4, SITES)


def test_messages_name_the_class_that_was_chosen() -> None:
    for made in (Structured, TopDown):
        with pytest.raises(FamilyError, match=f"a part of {made.__name__} needs .* and NetworkFamily has none"):
            made({"top": NetworkFamily()})
        with pytest.raises(FamilyError, match=rf"{made.__name__}\(head=False\) uses the context as its parameters"):
            made(head=False).setup(6, 4, SITES)


MEMBERS, NOISE = 8, 1.0


def funnel(x: Tensor) -> None:
    """Members of a group with a common, unknown spread."""
    with pyro.plate("data", x.shape[0]):
        log_scale = pyro.sample("log_scale", dist.Normal(-0.5, 0.7))
        scale = log_scale.exp().unsqueeze(-1).expand(-1, MEMBERS)
        z = pyro.sample("z", dist.Normal(0.0, scale).to_event(1))
        pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)


def funnel_evidence(x: Tensor) -> Tensor:
    grid = torch.linspace(-7.0, 7.0, 2001, dtype=DOUBLE)
    marginal = dist.Normal(0.0, ((2 * grid).exp() + NOISE**2).sqrt().unsqueeze(-1)).log_prob(x.double().unsqueeze(1))
    return torch.logsumexp(marginal.sum(-1) + dist.Normal(-0.5, 0.7).log_prob(grid), -1) + (grid[1] - grid[0]).log()


def test_a_funnel_is_fitted() -> None:
    torch.manual_seed(0)
    x = (0.7 * torch.randn(1000, 1) - 0.5).exp() * torch.randn(1000, MEMBERS) + NOISE * torch.randn(1000, MEMBERS)
    evidence, gaps = float(funnel_evidence(x[:200]).mean()), {}
    for name in ("full", "top_down"):
        torch.manual_seed(0)
        vi = avi.AmortizedVI(funnel, avi.encoders.MLP(MEMBERS), name, freeze_model=True)
        vi.fit(x, epochs=200, seed=0, progress=False)
        refined = vi.refine(x[:200])
        gaps[name] = evidence - float(vi.evaluate(posterior=refined, particles=300, seed=0)["elbo"].mean())
    assert gaps["full"] > 0.3
    assert -0.01 < gaps["top_down"] < 0.8 * gaps["full"]
