"""What distributions know in closed form, against torch's distributions."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro import distributions as dist
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, StudentT, kl_divergence

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


@PROPERTY
@given(gaussians())
def test_gaussians_agree_with_torch(q: families.Gaussian) -> None:
    reference, dim = MultivariateNormal(q.mean, q.covariance_matrix), q.event_shape[0]
    z = torch.randn(4, *q.batch_shape, dim, dtype=DOUBLE)
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z))
    torch.testing.assert_close(q.entropy(), reference.entropy())
    torch.testing.assert_close(moments(q), (reference.mean, reference.variance))
    torch.testing.assert_close(covariance(q), reference.covariance_matrix)
    marginal = marginals(q)
    assert (marginal.batch_shape, marginal.event_shape) == ((*q.batch_shape, dim), ())
    torch.testing.assert_close((marginal.mean, marginal.variance), (reference.mean, reference.variance))
    standard = MultivariateNormal(torch.zeros(dim, dtype=DOUBLE), torch.eye(dim, dtype=DOUBLE))
    torch.testing.assert_close(kl_to_standard_normal(q), kl_divergence(reference, standard))
    wide = q.expand(torch.Size([5, 2, *q.batch_shape]))
    for closed_form in (kl_to_standard_normal, covariance, lambda q: moments(q)[1], lambda q: marginals(q).mean):
        torch.testing.assert_close(closed_form(wide)[3, 1], closed_form(q))


@PROPERTY
@given(gaussians())
def test_draws_from_given_noise(q: families.Gaussian) -> None:
    """With noise ``eps``, the draw is ``loc + A eps``, and ``A A'`` is the covariance."""
    dim = q.event_shape[0]
    basis = torch.eye(dim, dtype=DOUBLE).reshape(dim, *(1,) * len(q.batch_shape), dim).expand(dim, *q.batch_shape, dim)
    factor = (q.from_noise(basis).vector - q.mean).movedim(0, -1)
    torch.testing.assert_close(factor @ factor.mT, q.covariance_matrix)
    torch.testing.assert_close(torch.linalg.slogdet(factor).logabsdet, q.scale.log_abs_det())
    torch.testing.assert_close(q.scale.solve(q.from_noise(basis).vector - q.mean), basis)


def test_standard_normal() -> None:
    z = torch.randn(5, 3, dtype=DOUBLE)
    p = StandardNormal(z)
    assert (p.batch_shape, p.event_shape, p.sample().dtype) == ((), (3,), DOUBLE)
    torch.testing.assert_close(p.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(-1))


def test_distributions_of_pyro_have_the_closed_forms_of_torch() -> None:
    loc, scale = torch.randn(3, 2), torch.rand(3, 2) + 0.1
    one, other = dist.Normal(loc, scale).to_event(1), Independent(Normal(loc, scale), 1)
    for closed_form in (kl_to_standard_normal, moments, covariance, lambda q: marginals(q).mean):
        torch.testing.assert_close(closed_form(one), closed_form(other))


def test_unknown_closed_forms_are_none() -> None:
    flow = families.make_family("flow", 3, 2)(torch.zeros(4, 2))
    for closed_form in (kl_to_standard_normal, moments, covariance, marginals):
        assert closed_form(flow) is None
    student = Independent(StudentT(torch.full((3, 2), 7.0)), 1)
    assert kl_to_standard_normal(student) is None
    assert torch.equal(covariance(student), torch.diag_embed(moments(student)[1]))
    assert marginals(Independent(Normal(torch.zeros(4, 2, 3), 1.0), 2)) is None  # two event dimensions


def test_marginals_can_be_registered() -> None:
    class Shifted(MultivariateNormal):
        pass

    @marginals.register
    def _(q: Shifted) -> Distribution:
        return Normal(q.mean + 1, 1.0)

    assert marginals(Shifted(torch.zeros(2), torch.eye(2))).mean.tolist() == [1, 1]
    assert marginals(MultivariateNormal(torch.zeros(2), torch.eye(2))).mean.tolist() == [0, 0]
