"""Heads and encoders may return any finite numbers: every family gives proper posteriors for magnitudes from 1e-30 to 1e30."""

import contextlib

import pytest
import torch
from torch import Tensor

from amortvi import families
from amortvi.families import covariance, draw, kl_to_standard_normal, moments
from amortvi.testing.families.common import CONTEXT_FEATURES
from tests.families.cases import FAMILIES

DIM = 4
SITES = {"a": torch.Size([2]), "b": torch.Size([2])}
SQUARABLE = 1e18
"""Locations above it have squares that single precision cannot represent."""
CHOICES: dict[str, families.FamilyChoice] = {
    **FAMILIES,
    "banded, two coordinates per step": families.Banded(2),
    "full for each of two labels": lambda: families.GivenLabel(families.FullCovariance(), 2),
}


def made(choice: families.FamilyChoice, dtype: torch.dtype, *, head: bool) -> families.Family:
    """Return a family with random parameters, whose contexts are those of an encoder or the parameters themselves."""
    by_site = isinstance(choice, families.Structured | families.TopDown) or choice in ("structured", "top_down")
    family = families.make_family(choice, DIM, CONTEXT_FEATURES, SITES if by_site else None).to(dtype)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.normal_(0.0, 0.4)
    if head:
        return family
    assert isinstance(family, families.ParametricFamily)
    return family.without_head()


def extreme(rows: int, size: int, dtype: torch.dtype) -> Tensor:
    """Return numbers of both signs, ``(rows, size)``, with log-uniform magnitudes.

    Of four rows, one has numbers of the same magnitude, one only large numbers, one moderate ones, and one everything mixed.
    """
    exponents = 60 * torch.rand(rows, size, dtype=torch.float64) - 30
    exponents[0::4] = exponents[0::4, :1]
    exponents[1::4] = exponents[1::4].abs()
    exponents[2::4] /= 10
    return (10**exponents * (torch.randint(0, 2, (rows, size)) * 2 - 1)).to(dtype)


def finite(values: Tensor, what: str) -> None:
    assert values.isfinite().all(), (
        f"{what}: {int((~values.isfinite()).sum())} of {values.numel()} numbers are not finite"
    )


@pytest.mark.parametrize("rows", [400, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("head", [True, False], ids=["contexts", "parameters"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES.keys())
def test_posteriors_are_proper(choice: families.FamilyChoice, dtype: torch.dtype, head: bool, rows: int) -> None:
    torch.manual_seed(0)
    family = made(choice, dtype, head=head)
    context = extreme(rows, family.context_features, dtype).requires_grad_()
    drawn = draw(q := family(context), 3)
    log_prob = q.log_prob(drawn.vector)
    finite(drawn.vector, "draws")
    finite(log_prob, "the density of draws")
    (gradient,) = torch.autograd.grad(drawn.mean(log_prob).sum(), context)
    finite(gradient, "the gradient of the density of draws")
    q = family(context.detach().clone())
    independent = q.sample(torch.Size([3]))
    finite(independent, "independent draws")
    finite(q.log_prob(independent), "the density of independent draws")
    assert not q.log_prob(independent.clone()).isnan().any()
    assert not q.log_prob(torch.zeros_like(independent)).isnan().any()
    check_closed_forms(family, context)


def check_closed_forms(family: families.Family, context: Tensor) -> None:
    """Where they are known, moments, entropy and KL are finite, unless the square of a location exceeds the type."""
    q = family(context)
    known, within = moments(q), covariance(q)
    representable = torch.ones(len(context), dtype=torch.bool)
    if known is not None:
        mean, variance = known
        finite(mean, "the mean")
        assert (variance > 0).all()
        representable = (largest_location(q) < SQUARABLE) | torch.tensor(context.dtype == torch.float64)
        finite(variance[representable], "the variance")
    if within is not None:
        finite(within[representable], "the covariance")
    with contextlib.suppress(NotImplementedError):  # unknown
        finite(q.entropy(), "the entropy")
    kl = kl_to_standard_normal(q)
    if kl is not None:
        assert not kl.isnan().any()
        finite(kl[representable], "the KL")
        (gradient,) = torch.autograd.grad(kl[representable].sum(), context)
        finite(gradient, "the gradient of the KL")


def largest_location(q: torch.distributions.Distribution) -> Tensor:
    """Return the largest absolute location of each posterior, with those of the components of a mixture, ``(B,)``."""
    parts = getattr(q, "parts", [q])
    locations = [getattr(part, "components", part).mean.detach().abs().flatten(1).amax(-1) for part in parts]
    return torch.stack(locations).amax(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_components_without_weight_do_not_count(dtype: torch.dtype) -> None:
    """However far away they are; the others have the moments that they have without it."""
    family = families.make_family(families.Mixture(2, "diagonal"), 1, CONTEXT_FEATURES).to(dtype).without_head()
    # The parameters are location and log scale, twice those of a component relative to it, and two logits.
    parameters = torch.tensor([[0.5, -1.0, 0.0, 0.0, 1e30, 0.0, 0.0, -1e30]], dtype=dtype)
    q = family(parameters)
    expected = torch.tensor([[0.5]], dtype=dtype), torch.tensor([[-2.0]], dtype=dtype).exp()
    torch.testing.assert_close(moments(q), expected)
    torch.testing.assert_close(covariance(q), expected[1].unsqueeze(-1))
    z = torch.tensor([[0.7]], dtype=dtype)
    normal = torch.distributions.Normal(expected[0], expected[1].sqrt())
    torch.testing.assert_close(q.log_prob(z), normal.log_prob(z).squeeze(-1))
