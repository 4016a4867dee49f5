"""A weighted KL and free bits: against the closed form by autograd, and what is reported beside them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import amortvi as avi
from amortvi import families
from amortvi._util.modes import random_state
from amortvi.errors import OptionError
from amortvi.model.program import GenerativeModel
from amortvi.posterior.guide import AmortizedGuide
from amortvi.objectives import ELBO, CyclicalSchedule, LinearSchedule
from amortvi.data import Batch
from tests.exact import linear_gaussian

TRUTH = linear_gaussian()
X = TRUTH.simulate(30, seed=0)
D = 3


def guide(family: Any = families.FullCovariance) -> AmortizedGuide:
    """One whose posteriors differ from observation to observation, in scales and correlations too."""
    parameters = family(D, 1).num_parameters
    encoder = nn.Linear(5, parameters, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        encoder.weight.normal_(0, 0.15, generator=generator)
        encoder.bias.normal_(0, 0.5, generator=generator)
        encoder.bias[D] -= 1.0
    return AmortizedGuide(TRUTH, encoder, partial(family, head=False)).setup(X)


def gradient(objective: ELBO, own: AmortizedGuide) -> Tensor:
    """Of the mean of what training follows, with one seed for all."""
    with random_state(0):
        loss = objective.estimate(GenerativeModel(TRUTH), own, Batch((X,))).loss(None)
    return flat(torch.autograd.grad(-loss, list(own.parameters())))


def flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.flatten() for part in gradients])


def dimensions(q: Any) -> Tensor:
    """The KL of each marginal, ``(B, D)``."""
    return kl_divergence(Normal(q.mean, q.variance.sqrt()), Normal(torch.zeros(D).double(), torch.ones(D).double()))


def whole(q: Any) -> Tensor:
    """The KL, ``(B,)``."""
    standard = MultivariateNormal(torch.zeros(D).double(), torch.eye(D).double())
    return kl_divergence(MultivariateNormal(q.mean, q.covariance_matrix), standard)


def charged(q: Any, free: float) -> Tensor:
    """What free bits leave of the KL, as the formula has it."""
    marginal = dimensions(q)
    means = marginal.mean(0)
    return torch.maximum(means, torch.full_like(means, free)).sum() + (whole(q) - marginal.sum(-1)).mean()


@pytest.mark.parametrize("family", [families.Diagonal, families.FullCovariance, families.LowRankFamily])
@pytest.mark.parametrize("weight", [0.3, 4.0])
def test_weight_multiplies_the_gradient_of_the_kl(weight: float, family: Any) -> None:
    own = guide(partial(family, rank=1) if family is families.LowRankFamily else family)
    exact = flat(torch.autograd.grad(whole(own.get_posterior(X)).mean(), list(own.parameters())))
    found = gradient(ELBO(kl_weight=0), own) - gradient(ELBO(kl_weight=weight), own)
    torch.testing.assert_close(found, weight * exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("family", [families.Diagonal, families.FullCovariance])
@pytest.mark.parametrize("free", [0.05, 2.0, 50.0])
def test_free_bits_of_each_dimension(free: float, family: Any) -> None:
    own = guide(family)
    q = own.get_posterior(X)
    value = charged(q, free)
    exact = flat(torch.autograd.grad(2 * value, list(own.parameters()), allow_unused=False))
    found = gradient(ELBO(kl_weight=0), own) - gradient(ELBO(kl_weight=2.0, free_bits=free), own)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)


def test_free_bits_choose_dimensions() -> None:
    """In the middle case of those above some dimensions are charged and some are not."""
    q = guide().get_posterior(X)
    means = dimensions(q).mean(0)
    assert means.min() > 0.05
    assert means.min() < 2.0 < means.max()
    assert (whole(q) - dimensions(q).sum(-1)).mean() > 0.05


@pytest.mark.parametrize("free", [0.2, 50.0])
def test_free_bits_of_a_sampled_kl_are_those_of_all_dimensions(free: float) -> None:
    own = guide()
    with random_state(0):
        estimate = ELBO(4, kl="sampled", free_bits=free).estimate(GenerativeModel(TRUTH), own, Batch((X,)))
    kl = estimate.weights.log_ratio.mean().detach()
    assert estimate.surrogate is not None
    expected = estimate.weights.reconstruction.mean() - max(float(kl), 3 * free)
    torch.testing.assert_close(estimate.surrogate.mean(), expected)
    without_kl = gradient(ELBO(4, kl="sampled", kl_weight=0), own)
    charged_kl = gradient(ELBO(4, kl="sampled"), own)
    expected_gradient = charged_kl if kl > 3 * free else without_kl
    torch.testing.assert_close(gradient(ELBO(4, kl="sampled", free_bits=free), own), expected_gradient)


class _ScaledGaussian(families.Diagonal):
    """Has a KL in closed form, and says nothing of its marginals."""

    has_gaussian_marginals = False


def test_free_bits_where_marginals_are_not_known() -> None:
    own = guide(_ScaledGaussian)
    kl = float(whole(own.get_posterior(X)).mean().detach())
    assert torch.equal(gradient(ELBO(free_bits=kl / 3 - 0.01), own), gradient(ELBO(), own))
    torch.testing.assert_close(gradient(ELBO(free_bits=kl / 3 + 0.01), own), gradient(ELBO(kl_weight=0), own))


WEIGHTED = {
    "a weight": lambda: ELBO(kl_weight=0.2),
    "a schedule": lambda: ELBO(kl_weight=LinearSchedule(10)),
    "free bits": lambda: ELBO(free_bits=2.0),
}


@pytest.mark.parametrize("make", WEIGHTED.values(), ids=WEIGHTED.keys())
def test_what_is_reported_is_the_elbo(make: Callable[[], ELBO]) -> None:
    own = guide()
    found = []
    for objective in (ELBO(), make()):
        with random_state(0):
            found.append(objective.estimate(GenerativeModel(TRUTH), own, Batch((X,))))
    plain, weighted = found
    assert torch.equal(plain.bound, weighted.bound)
    assert torch.equal(plain.elbo(100), weighted.elbo(100))
    assert not weighted.bound.requires_grad
    assert abs(float((weighted.loss(100) + weighted.elbo(100)).detach())) > 0.01
    assert ELBO(kl_weight=1.0).estimate(GenerativeModel(TRUTH), own, Batch((X,))).surrogate is None


def test_sticking_the_landing_takes_a_weight() -> None:
    """Where the likelihood says nothing the best posterior is the prior, for any weight, and there the gradient has no noise."""
    model = avi.models.LinearGaussian(torch.zeros(4, D, dtype=torch.float64), scale=1.0)
    x = model.simulate(10, seed=0)
    encoder = nn.Linear(4, 2 * D, dtype=torch.float64)
    nn.init.zeros_(encoder.weight)
    nn.init.zeros_(encoder.bias)
    own = AmortizedGuide(model, encoder, partial(families.Diagonal, head=False)).setup(x)
    found = {}
    for form in ("sticking_the_landing", "reparameterized"):
        objective = ELBO(kl="sampled", gradient=form, kl_weight=3.0)
        with random_state(0):
            loss = objective.estimate(GenerativeModel(model), own, Batch((x,))).loss(None)
        found[form] = flat(torch.autograd.grad(loss, list(own.parameters()))).abs().max()
    assert found["sticking_the_landing"] < 1e-12
    assert found["reparameterized"] > 0.1


def test_linear_schedule() -> None:
    schedule = LinearSchedule(epochs=8, start=0.2, stop=0.6)
    assert [schedule(epochs) for epochs in (-3, 0, 2, 4, 8, 100)] == pytest.approx([0.2, 0.2, 0.3, 0.4, 0.6, 0.6])
    assert LinearSchedule(2, start=3.0)(1) == 2.0


def test_cyclical_schedule() -> None:
    """Against the formula of the paper: tau = mod(t - 1, T / M) / (T / M), and tau / R or one."""
    schedule = CyclicalSchedule(epochs=12, cycles=3, rising=0.25)
    for tick in range(240):
        epochs = tick / 20
        tau = (epochs % 4) / 4
        assert schedule(epochs) == pytest.approx(min(1.0, tau / 0.25), abs=1e-9)
    assert [schedule(epochs) for epochs in (-1, 12, 12.5, 1000)] == [0.0, 1.0, 1.0, 1.0]
    saw = CyclicalSchedule(epochs=2, cycles=2, rising=1.0, start=1.0, stop=2.0)
    assert [saw(epochs) for epochs in (0, 0.5, 1, 1.75)] == [1.0, 1.5, 1.0, 1.75]


def test_schedules_are_checked() -> None:
    for bad in (0, -1, float("inf"), float("nan"), "10", True):
        with pytest.raises(OptionError, match="epochs must be a"):
            LinearSchedule(bad)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="epochs must be a"):
            CyclicalSchedule(bad)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"start must be a finite number of at least 0; got -0.1"):
        LinearSchedule(3, start=-0.1)
    with pytest.raises(OptionError, match="stop must be a finite number of at least 0; got None"):
        CyclicalSchedule(3, stop=None)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"rising is a part of each cycle, at most 1; got 1.5"):
        CyclicalSchedule(3, rising=1.5)
    with pytest.raises(OptionError, match="cycles must be a positive integer; got 0"):
        CyclicalSchedule(3, cycles=0)


def test_options_are_checked_and_shown() -> None:
    for bad in (-1.0, float("inf"), "0.5", None, torch.ones(2)):
        with pytest.raises(OptionError, match="kl_weight must be a finite number of at least 0; got"):
            ELBO(kl_weight=bad)  # type: ignore[arg-type]
    for bad in (0.0, -1.0, float("nan"), "0.5"):
        with pytest.raises(OptionError, match="free_bits must be a"):
            ELBO(free_bits=bad)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="gradient must be 'reparameterized' or 'sticking_the_landing'; got 'dreg'"):
        ELBO(gradient="dreg")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="a KL in closed form has not: use kl='auto' or 'sampled'"):
        ELBO(kl="closed_form", gradient="sticking_the_landing")
    with pytest.raises(OptionError, match=r"kl_weight, where it is a schedule, .* after 0 it returned -1"):
        ELBO(kl_weight=lambda epochs: epochs - 1)
    late = ELBO(kl_weight=lambda epochs: 1 - epochs)
    late.advance(1.0)
    with pytest.raises(OptionError, match=r"after 1.5 it returned -0.5"):
        late.advance(1.5)
    assert repr(ELBO(kl_weight=2)) == "ELBO(particles=1, kl='auto', kl_weight=2.0)"

    def warm_up(epochs: float) -> float:
        return min(1.0, epochs / 10)

    assert repr(ELBO(gradient="sticking_the_landing", kl_weight=warm_up, free_bits=1)) == (
        "ELBO(particles=1, kl='auto', gradient='sticking_the_landing', kl_weight=warm_up, free_bits=1.0)"
    )
