"""What distributions know in closed form, against torch's distributions, quadrature and Monte Carlo."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro import distributions as dist
from torch.distributions import Distribution, Independent, Laplace, MultivariateNormal, Normal, StudentT, kl_divergence

from amortvi import families
from amortvi.families import StandardNormal, covariance, kl_to_standard_normal, marginals, moments
from tests.properties import PROPERTY

DOUBLE = torch.float64


@st.composite
def gaussians(draw: Any) -> families.Gaussian:
    """Return Gaussians of any family, dimension and batch shape, far from the initial parameters."""
    dim = draw(st.integers(1, 6))
    choice = draw(st.sampled_from([families.Diagonal(), families.FullCovariance(), families.LowRank(rank=1)]))
    batch_shape = draw(st.sampled_from([(), (3,), (2, 1, 3)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    family = families.resolve_family(choice).setup(dim, 1)
    parameters = torch.randn(*batch_shape, family.num_parameters, generator=generator, dtype=DOUBLE)
    return family.distribution(0.7 * parameters)


def as_torch(q: families.Gaussian) -> MultivariateNormal:
    return MultivariateNormal(q.mean, q.covariance_matrix)


@PROPERTY
@given(gaussians())
def test_gaussians_agree_with_torch(q: families.Gaussian) -> None:
    reference, dim = as_torch(q), q.event_shape[0]
    z = torch.randn(4, *q.batch_shape, dim, dtype=DOUBLE)
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z))
    torch.testing.assert_close(q.entropy(), reference.entropy())
    torch.testing.assert_close(q.variance, reference.variance)
    torch.testing.assert_close(covariance(q), reference.covariance_matrix)
    standard = MultivariateNormal(torch.zeros(dim, dtype=DOUBLE), torch.eye(dim, dtype=DOUBLE))
    torch.testing.assert_close(kl_to_standard_normal(q), kl_divergence(reference, standard))


@PROPERTY
@given(gaussians())
def test_draws_from_given_noise(q: families.Gaussian) -> None:
    """With noise ``eps``, the draw is ``loc + A eps``, and ``A A'`` is the covariance."""
    dim = q.event_shape[0]
    basis = torch.eye(dim, dtype=DOUBLE).reshape(dim, *(1,) * len(q.batch_shape), dim).expand(dim, *q.batch_shape, dim)
    factor = (q.from_noise(basis) - q.mean).movedim(0, -1)
    torch.testing.assert_close(factor @ factor.mT, q.covariance_matrix)
    torch.testing.assert_close(torch.linalg.slogdet(factor).logabsdet, q.scale.log_abs_det())
    torch.testing.assert_close(q.scale.solve(q.from_noise(basis) - q.mean), basis)


@PROPERTY
@given(gaussians())
def test_marginals_of_gaussians(q: families.Gaussian) -> None:
    found = marginals(q)
    assert found.batch_shape == (*q.batch_shape, *q.event_shape)
    assert found.event_shape == ()
    mean, variance = moments(q)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.variance, variance)
    torch.testing.assert_close(variance, covariance(q).diagonal(dim1=-2, dim2=-1))


@PROPERTY
@given(gaussians(), st.sampled_from([(2,), (5, 3)]))
def test_expanding_keeps_every_closed_form(q: families.Gaussian, outer: tuple[int, ...]) -> None:
    wide = q.expand(torch.Size([*outer, *q.batch_shape]))
    for closed_form in (kl_to_standard_normal, covariance, lambda q: moments(q)[1], lambda q: marginals(q).mean):
        found = closed_form(q)
        torch.testing.assert_close(closed_form(wide), found.expand(*outer, *found.shape))


def test_kl_is_the_mean_log_ratio() -> None:
    torch.manual_seed(0)
    family = families.FullCovariance().setup(3, 1)
    q = family.distribution(0.5 * torch.randn(4, family.num_parameters, dtype=DOUBLE))
    z = q.sample((50_000,))
    ratio = q.log_prob(z) - StandardNormal(z).log_prob(z)
    assert ((ratio.mean(0) - kl_to_standard_normal(q)).abs() < 5 * ratio.std(0) / math.sqrt(50_000)).all()


def test_standard_normal() -> None:
    z = torch.randn(5, 3, dtype=DOUBLE)
    p = StandardNormal(z)
    assert (p.batch_shape, p.event_shape) == ((), (3,))
    assert p.sample().dtype == DOUBLE
    torch.testing.assert_close(p.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(-1))


# --------------------------------------------------------------------------------- distributions of other packages


LOC, SCALE = torch.tensor([[0.3, -1.0], [2.0, 0.1]], dtype=DOUBLE), torch.tensor([[0.5, 2.0], [1.0, 0.2]], dtype=DOUBLE)
FACTOR = torch.tensor([[0.8, 0.0], [0.5, 1.2]], dtype=DOUBLE)
KNOWN: dict[str, Distribution] = {
    "normal": Independent(Normal(LOC, SCALE), 1),
    "normal of Pyro": dist.Normal(LOC, SCALE).to_event(1),
    "Laplace": Independent(Laplace(LOC, SCALE), 1),
    "correlated normal": MultivariateNormal(LOC, scale_tril=FACTOR),
    "Student t": Independent(StudentT(torch.tensor(7.0, dtype=DOUBLE), LOC, SCALE), 1),
}


@pytest.mark.parametrize("name", KNOWN)
def test_closed_forms_of_other_distributions(name: str) -> None:
    q = KNOWN[name]
    torch.manual_seed(0)
    draws = 50_000
    z = q.sample((draws,))
    mean, variance = moments(q)
    assert ((z.mean(0) - mean).abs() < 5 * (variance / draws).sqrt()).all()
    matrix = covariance(q)
    torch.testing.assert_close(matrix.diagonal(dim1=-2, dim2=-1), variance)
    marginal = marginals(q)
    assert (marginal.batch_shape, marginal.event_shape) == ((2, 2), ())
    below = (z < mean + 0.3 * variance.sqrt()).double().mean(0)
    if not isinstance(marginal, StudentT):
        expected = marginal.cdf(mean + 0.3 * variance.sqrt())
        assert ((below - expected).abs() < 5 * (0.25 / draws) ** 0.5).all()
    kl = kl_to_standard_normal(q)
    if kl is not None:
        ratio = q.log_prob(z) - StandardNormal(z).log_prob(z)
        assert ((ratio.mean(0) - kl).abs() < 5 * ratio.std(0) / math.sqrt(draws)).all()
    assert (kl is None) == (name == "Student t")


def test_unknown_closed_forms_are_none() -> None:
    flow = families.make_family("flow", 3, 2)(torch.zeros(4, 2))
    joint = Independent(Normal(torch.zeros(4, 2, 3), 1.0), 2)  # two event dimensions
    for q in (flow, joint):
        assert marginals(q) is None
    for closed_form in (kl_to_standard_normal, moments, covariance):
        assert closed_form(flow) is None


def test_marginals_can_be_registered() -> None:
    class Shifted(MultivariateNormal):
        pass

    @marginals.register
    def _(q: Shifted) -> Distribution:
        return Normal(q.mean + 1, 1.0)

    assert marginals(Shifted(torch.zeros(2), torch.eye(2))).mean.tolist() == [1, 1]
    assert marginals(MultivariateNormal(torch.zeros(2), torch.eye(2))).mean.tolist() == [0, 0]
