"""Parameters with which no posterior is plausible are bounded and reported; plausible ones are unchanged, bit by bit."""

import pytest
import torch
from torch import Tensor

from amortvi import families
from amortvi.families import Gaussian, GaussianFamily, kl_to_standard_normal
from amortvi.families.closed_forms import implausible
from amortvi.families.gaussians.gaussian import bounded_log_scale, standardized

DTYPES = [torch.float32, torch.float64]
CHOICES = {"diagonal": "diagonal", "full": "full", "low_rank": families.LowRank(2)}


def family(name: str, dim: int = 4) -> GaussianFamily:
    return families.make_family(CHOICES[name], dim, 2)


def parameters(of: GaussianFamily, loc: float, log_scale: float, off_diagonal: float, dtype: torch.dtype) -> Tensor:
    """Return the parameters of one observation, with the same number for each parameter of a kind."""
    parts = [torch.full((count,), value) for count, value in ((of.dim, loc), (of.dim, log_scale))]
    return torch.cat([*parts, torch.full((of.num_off_diagonal,), off_diagonal)]).to(dtype).unsqueeze(0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plausible_log_scales_and_their_gradients_are_unchanged(dtype: torch.dtype) -> None:
    log_scale = torch.cat([torch.linspace(-20, 15, 1001), torch.tensor([-20.0, 15.0, 0.0, 1e-30])]).to(dtype)
    slope = torch.randn(len(log_scale), dtype=dtype)
    inside = log_scale.clone().requires_grad_()
    bounded = bounded_log_scale(inside)
    assert torch.equal(bounded, log_scale)
    (gradient,) = torch.autograd.grad(bounded, inside, slope)
    interior = (log_scale > -20) & (log_scale < 15)
    assert torch.equal(gradient[interior], slope[interior])


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_scales_level_off_smoothly(dtype: torch.dtype) -> None:
    far = torch.tensor([16.0, 20.0, 1e3, 1e30, torch.inf], dtype=dtype)
    above, below = bounded_log_scale(far), bounded_log_scale(-5 - far)
    for found, ends in ((above, (15, 16)), (-below, (20, 21))):
        assert ((found > ends[0]) & (found <= ends[1])).all()
        assert (found.diff() >= 0).all()
    near = torch.tensor([-20.01, -19.99, 14.99, 15.01], dtype=dtype).requires_grad_()
    (slope,) = torch.autograd.grad(bounded_log_scale(near).sum(), near)
    torch.testing.assert_close(slope, torch.ones(4, dtype=dtype), rtol=0, atol=2e-4)
    assert bounded_log_scale(torch.tensor(torch.nan)).isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_distances_are_bounded(dtype: torch.dtype) -> None:
    """Those that matter and their gradients are unchanged; the square of any other is representable."""
    torch.manual_seed(0)
    residual = torch.cat([100 * torch.randn(1000), torch.tensor([1e-30, -1e14, 0.0])]).to(dtype).requires_grad_()
    log_scale = torch.linspace(-2, 2, len(residual), dtype=dtype)
    found, expected = standardized(residual, log_scale), residual * (-log_scale).exp()
    assert torch.equal(found, expected)
    slopes = [torch.autograd.grad(value.square().sum(), residual)[0] for value in (found, expected)]
    assert torch.equal(*slopes)
    far = torch.tensor([-torch.inf, -1e38, 1e30, torch.nan], dtype=dtype)
    bounded = standardized(far, torch.full((4,), -21.0, dtype=dtype))
    torch.testing.assert_close(bounded[:3], torch.tensor([-1e15, -1e15, 1e15], dtype=dtype))
    assert bounded[3].isnan()


@pytest.mark.parametrize("name", CHOICES)
def test_plausible_posteriors_are_unchanged(name: str) -> None:
    """Draws, densities and gradients equal those of the operator made of the parameters themselves, bit by bit."""
    torch.manual_seed(0)
    of, noise = family(name), torch.randn(3, 5, 4)
    given, results = 2 * torch.randn(5, of.num_parameters), []
    for bounded in (True, False):
        leaf = given.clone().requires_grad_()
        loc, log_scale, off_diagonal = leaf.split([4, 4, of.num_off_diagonal], dim=-1)
        q = of.distribution(leaf) if bounded else Gaussian(loc, of.scale(log_scale, off_diagonal))
        draws = q.from_noise(noise).vector
        log_prob = q.log_prob(draws.detach().clone())
        (gradient,) = torch.autograd.grad(log_prob.sum() + draws.square().sum() + kl_to_standard_normal(q).sum(), leaf)
        results.append((draws, log_prob, gradient))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    assert not implausible(of.distribution(given)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [30.0, 1e3, 1e10, 1e30])
@pytest.mark.parametrize("name", CHOICES)
def test_nothing_overflows(name: str, size: float, dtype: torch.dtype) -> None:
    """Whatever the scales and off-diagonal parameters are; the unbounded ones overflow in single precision at 100."""
    of = family(name, dim=2)
    for signs in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1)):
        q = of.distribution(parameters(of, 0.0, signs[0] * size, signs[1] * size, dtype))
        draws = q.sample(torch.Size([20]))
        for found in (
            draws,
            q.log_prob(draws),
            q.log_prob(draws.clone()),
            q.entropy(),
            q.variance,
            q.covariance_matrix,
        ):
            assert found.isfinite().all(), (signs, found)
        assert kl_to_standard_normal(q).isfinite().all()
        assert (q.variance > 0).all()
        assert implausible(q).all() or (signs[0] == 0 and (size < 1e6 or not of.num_off_diagonal))


@pytest.mark.parametrize("name", CHOICES)
def test_implausible_posteriors_are_named(name: str) -> None:
    of = family(name)
    ordinary = parameters(of, 0.5, -1.0, 0.3, torch.float32)
    given = ordinary.repeat(5, 1)
    given[1, of.dim] = 15.5
    given[2, of.dim + 1] = -20.5
    given[3, 0] = 1e8  # the scale is 0.4, but the next larger number in single precision is 8 away
    expected = torch.tensor([False, True, True, True, False])
    if of.num_off_diagonal:
        given[4, -1] = -2e6
        expected[4] = True
    assert torch.equal(implausible(of.distribution(given)), expected)
    assert torch.equal(implausible(of.distribution(given).expand(torch.Size([2, 5]))), expected.expand(2, 5))
    assert not implausible(of.distribution(given.double()[3]))  # double precision resolves it


def test_low_rank_reports_failed_factorizations_as_nan() -> None:
    """For the observation concerned alone, and without an error of torch, so that whoever calls can name the observation."""
    of = family("low_rank")
    given = parameters(of, 0.0, 0.0, 0.1, torch.float32).repeat(3, 1)
    given[1, -1] = torch.nan
    q = of.distribution(given)
    for found in (q.scale.log_abs_det(), q.log_prob(torch.zeros(3, 4))):
        assert found.isnan().tolist() == [False, True, False]
