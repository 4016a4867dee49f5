"""The weighted KL and free bits: gradients compared with the closed form, and a bound that does not depend on them."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import amortvi as avi
from amortvi.errors import OptionError
from amortvi.families import Diagonal, FullCovariance, Gaussian, LowRank, ParametricFamily, marginals
from amortvi.objectives import ELBO, LinearSchedule
from amortvi.posterior import AmortizedGuide
from tests.exact import linear_gaussian
from tests.objectives.problems import estimate

MODEL = linear_gaussian()
X = MODEL.simulate(30, seed=0)
D = 3

# The gradients of these are compared with the closed form, or with each other.
reparameterized = partial(ELBO, gradient="reparameterized")


def make_guide(family: ParametricFamily) -> AmortizedGuide:
    """Return a guide whose posteriors differ between observations in location, scale and correlation."""
    sized = copy.deepcopy(family)
    sized.dim = D
    encoder = nn.Linear(5, sized.num_parameters, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        encoder.weight.normal_(0, 0.15, generator=generator)
        encoder.bias.normal_(0, 0.5, generator=generator)
        encoder.bias[D] -= 1.0
    return AmortizedGuide(MODEL, encoder, family).setup(X)


def gradient(objective: ELBO, guide: AmortizedGuide) -> Tensor:
    """Return the gradient of what training maximizes, with the same noise for every objective."""
    loss = estimate(objective, guide, X, seed=0).loss(None)
    return flat(torch.autograd.grad(-loss, list(guide.parameters())))


def flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.flatten() for part in gradients])


def marginal_kl(q: Any) -> Tensor:
    """Return the KL of each marginal, ``(B, D)``."""
    return kl_divergence(Normal(q.mean, q.variance.sqrt()), Normal(torch.zeros(D).double(), torch.ones(D).double()))


def total_kl(q: Any) -> Tensor:
    """Return the KL, ``(B,)``."""
    standard = MultivariateNormal(torch.zeros(D).double(), torch.eye(D).double())
    return kl_divergence(MultivariateNormal(q.mean, q.covariance_matrix), standard)


def charge(q: Any, free: float) -> Tensor:
    """Return the charge for the KL that the formula of free bits gives."""
    means = marginal_kl(q).mean(0)
    return means.clamp(min=free).sum() + (total_kl(q) - marginal_kl(q).sum(-1)).mean()


FAMILIES = {
    "diagonal": lambda: Diagonal(head=False),
    "full": lambda: FullCovariance(head=False),
    "low rank": lambda: LowRank(rank=1, head=False),
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
@pytest.mark.parametrize("weight", [0.3, 4.0])
def test_weight_multiplies_the_gradient_of_the_kl(weight: float, family: Callable[[], ParametricFamily]) -> None:
    guide = make_guide(family())
    exact = flat(torch.autograd.grad(total_kl(guide.get_posterior(X)).mean(), list(guide.parameters())))
    found = gradient(reparameterized(kl_weight=0), guide) - gradient(reparameterized(kl_weight=weight), guide)
    torch.testing.assert_close(found, weight * exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("family", [FAMILIES["diagonal"], FAMILIES["full"]], ids=["diagonal", "full"])
@pytest.mark.parametrize("free", [0.05, 2.0, 50.0])
def test_free_bits_per_dimension(free: float, family: Callable[[], ParametricFamily]) -> None:
    guide = make_guide(family())
    value = charge(guide.get_posterior(X), free)
    # The allowances are below all dimensions, between them, and above them; some of the KL belongs to no dimension.
    means, total = marginal_kl(guide.get_posterior(X)).mean(0), total_kl(guide.get_posterior(X)).mean()
    assert 0.05 < means.min() < 2.0 < means.max() < 50.0
    assert guide.family.num_parameters == 2 * D or total - means.sum() > 0.05
    exact = flat(torch.autograd.grad(2 * value, list(guide.parameters())))
    found = gradient(reparameterized(kl_weight=0), guide) - gradient(
        reparameterized(kl_weight=2.0, free_bits=free), guide
    )
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("free", [0.2, 50.0])
def test_free_bits_of_a_sampled_kl_apply_to_the_total(free: float) -> None:
    guide = make_guide(FullCovariance(head=False))
    found = estimate(reparameterized(4, kl="sampled", free_bits=free), guide, X, seed=0)
    kl = float(found.weights.log_ratio.mean().detach())
    assert found.surrogate is not None
    torch.testing.assert_close(found.surrogate.mean(), found.weights.reconstruction.mean() - max(kl, 3 * free))
    expected = reparameterized(4, kl="sampled") if kl > 3 * free else reparameterized(4, kl="sampled", kl_weight=0)
    torch.testing.assert_close(
        gradient(reparameterized(4, kl="sampled", free_bits=free), guide), gradient(expected, guide)
    )


class _UnknownMarginals(Gaussian):
    """A distribution whose KL is known in closed form, but not its marginals."""


marginals.register(_UnknownMarginals, lambda q: None)


class _UnknownMarginalsFamily(Diagonal):
    def distribution(self, parameters: Tensor) -> Gaussian:
        known = super().distribution(parameters)
        return _UnknownMarginals(known.loc, known.scale)


def test_free_bits_apply_to_the_total_if_marginals_are_unknown() -> None:
    guide = make_guide(_UnknownMarginalsFamily(head=False))
    kl = float(total_kl(guide.get_posterior(X)).mean().detach())
    assert torch.equal(gradient(reparameterized(free_bits=kl / 3 - 0.01), guide), gradient(reparameterized(), guide))
    torch.testing.assert_close(
        gradient(reparameterized(free_bits=kl / 3 + 0.01), guide), gradient(reparameterized(kl_weight=0), guide)
    )


WEIGHTED = {
    "a weight": lambda: reparameterized(kl_weight=0.2),
    "a schedule": lambda: reparameterized(kl_weight=LinearSchedule(10)),
    "free bits": lambda: reparameterized(free_bits=2.0),
}


@pytest.mark.parametrize("make", WEIGHTED.values(), ids=WEIGHTED.keys())
def test_bound_is_the_unweighted_elbo(make: Callable[[], ELBO]) -> None:
    guide = make_guide(FullCovariance(head=False))
    plain, weighted = (estimate(objective, guide, X, seed=0) for objective in (reparameterized(), make()))
    assert torch.equal(plain.bound, weighted.bound)
    assert torch.equal(plain.elbo(100), weighted.elbo(100))
    assert not weighted.bound.requires_grad
    assert abs(float((weighted.loss(100) + weighted.elbo(100)).detach())) > 0.01
    assert plain.surrogate is None
    assert estimate(ELBO(kl_weight=1.0), guide, X).surrogate is None


def test_sticking_the_landing_with_a_weight() -> None:
    """If the data carry no information, the prior is optimal for any weight; there the gradient has no noise."""
    model = avi.models.LinearGaussian(torch.zeros(4, D, dtype=torch.float64), scale=1.0)
    x = model.simulate(10, seed=0)
    encoder = nn.Linear(4, 2 * D, dtype=torch.float64)
    nn.init.zeros_(encoder.weight)
    nn.init.zeros_(encoder.bias)
    guide = AmortizedGuide(model, encoder, Diagonal(head=False)).setup(x)
    found = {}
    for form in ("sticking_the_landing", "reparameterized"):
        objective = ELBO(kl="sampled", gradient=form, kl_weight=3.0)
        loss = estimate(objective, guide, x, seed=0).loss(None)
        found[form] = flat(torch.autograd.grad(loss, list(guide.parameters()))).abs().max()
    assert found["sticking_the_landing"] < 1e-12
    assert found["reparameterized"] > 0.1


def test_options() -> None:
    for bad in (-1.0, float("inf"), "0.5", None, torch.ones(2)):
        with pytest.raises(OptionError, match=r"kl_weight must be .*; got"):
            ELBO(kl_weight=bad)  # type: ignore[arg-type]
    for bad in (0.0, -1.0, float("nan"), "0.5"):
        with pytest.raises(OptionError, match=r"free_bits must be .*; got"):
            ELBO(free_bits=bad)  # type: ignore[arg-type]
    with pytest.raises(
        OptionError, match="gradient must be 'auto', 'reparameterized' or 'sticking_the_landing'; got 'dreg'"
    ):
        ELBO(gradient="dreg")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="kl='auto' or kl='sampled'"):
        ELBO(kl="closed_form", gradient="sticking_the_landing")
    assert repr(ELBO(kl_weight=2)) == "ELBO(kl_weight=2.0)"

    def warm_up(epochs: float) -> float:
        return min(1.0, epochs / 10)

    assert repr(ELBO(gradient="sticking_the_landing", kl_weight=warm_up, free_bits=1)) == (
        "ELBO(gradient='sticking_the_landing', kl_weight=warm_up, free_bits=1.0)"
    )
