"""The conformance suite of posterior families: what every family must satisfy, as functions to run on your own.

Each check takes a `families.FamilyChoice` and raises `AssertionError` saying what is wrong. Statistical checks draw enough
that a right family fails one with a probability below one in a million, and fix the seed, so that they are repeatable.

Example:
    >>> import amortvi as avi
    >>> for check in avi.testing.FAMILY_CHECKS:
    ...     check(avi.families.FullCovariance)
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.random import random_state
from amortvi.families import Family, FamilyChoice, make_family

__all__ = ["FAMILY_CHECKS"]

_CONTEXT_FEATURES = 5
_DRAWS = 200_000
# A normal variable is beyond five standard errors less than once in a million times.
_STANDARD_ERRORS = 5.0


def perturbed(choice: FamilyChoice, dim: int, dtype: torch.dtype = torch.float64) -> Family:
    """Build a family whose head has random weights, so that nothing is at its starting point."""
    family = make_family(choice, dim, _CONTEXT_FEATURES).to(dtype)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.normal_(0.0, 0.4)
    return family


def _posterior(choice: FamilyChoice, dim: int, batch_shape: tuple[int, ...] = (3,)) -> Distribution:
    context = torch.randn(*batch_shape, _CONTEXT_FEATURES, dtype=torch.float64)
    return perturbed(choice, dim)(context)


def _assert_mean(estimates: Tensor, expected: Tensor, what: str) -> None:
    """Compare the mean over dimension 0 of independent ``estimates`` with ``expected``, by its standard error."""
    error = (estimates.mean(0) - expected).abs()
    allowed = _STANDARD_ERRORS * estimates.std(0) / estimates.shape[0] ** 0.5 + 1e-9
    assert bool((error <= allowed).all()), (
        f"{what}: off by {error.max():.3g}, Monte Carlo error allows {allowed.max():.3g}"
    )


def check_shapes(choice: FamilyChoice) -> None:
    """Any leading batch shape and both floating types give batch shape, event shape and type as they should be."""
    for dtype in (torch.float32, torch.float64):
        family = perturbed(choice, 4, dtype)
        for batch_shape in ((), (3,), (2, 3)):
            q = family(torch.randn(*batch_shape, _CONTEXT_FEATURES, dtype=dtype))
            z = q.rsample(torch.Size([7]))
            assert q.batch_shape == batch_shape, f"batch shape {q.batch_shape}, expected {batch_shape}"
            assert q.event_shape == (4,), f"event shape {q.event_shape}, expected (4,)"
            assert z.shape == (7, *batch_shape, 4), f"sample shape {z.shape}"
            assert z.dtype == dtype, f"sample of {z.dtype}, expected {dtype}"
            assert q.log_prob(z).shape == (7, *batch_shape), f"log_prob shape {q.log_prob(z).shape}"


def check_one_dimension(choice: FamilyChoice) -> None:
    """A single latent dimension works."""
    q = _posterior(choice, 1)
    assert q.rsample().shape == (3, 1)


def check_gradients(choice: FamilyChoice) -> None:
    """Each parameter, and the context, gets a finite gradient that is not zero."""
    family = perturbed(choice, 4)
    context = torch.randn(3, _CONTEXT_FEATURES, dtype=torch.float64, requires_grad=True)
    q = family(context)
    z = q.rsample(torch.Size([7]))
    # A loss that no symmetry of the family leaves unchanged.
    (q.log_prob(z) + (z * torch.arange(1.0, 5.0)).sin().sum(-1)).sum().backward()
    for name, parameter in (*family.named_parameters(), ("the context", context)):
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert bool(torch.isfinite(parameter.grad).all()), f"{name} gets a gradient that is not finite"
        assert bool((parameter.grad != 0).any()), f"{name} gets a gradient of zero"


def check_fresh_sample(choice: FamilyChoice) -> None:
    """Scoring a fresh draw, however it is done, equals scoring the same numbers as a stranger, gradient included."""
    family = perturbed(choice, 4)
    context = torch.randn(3, _CONTEXT_FEATURES, dtype=torch.float64)
    results = []
    for stranger in (False, True):
        family.zero_grad()
        with random_state(1):
            q = family(context)
            z = q.rsample(torch.Size([6]))
        log_prob = q.log_prob(z.clone() if stranger else z)
        log_prob.square().sum().backward()
        results.append((log_prob.detach(), [p.grad.clone() for p in family.parameters() if p.grad is not None]))
    (fresh, fresh_gradients), (other, other_gradients) = results
    assert torch.allclose(fresh, other, rtol=1e-8, atol=1e-8), f"log_prob differs by {(fresh - other).abs().max():.3g}"
    for one, two in zip(fresh_gradients, other_gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-6, atol=1e-6), f"gradients differ by {(one - two).abs().max():.3g}"


def check_normalisation(choice: FamilyChoice) -> None:
    """The density integrates to one, by importance sampling from a wider Student t."""
    q = _posterior(choice, 2)
    drawn = q.sample(torch.Size([20_000]))
    deviation = drawn - drawn.mean(0)
    covariance = torch.einsum("sbi,sbj->bij", deviation, deviation) / drawn.shape[0]
    factor = torch.linalg.cholesky(2.0 * covariance)
    degrees = torch.tensor(5.0, dtype=torch.float64)
    noise = torch.distributions.StudentT(degrees).sample(torch.Size([_DRAWS, 3, 2]))
    z = drawn.mean(0) + torch.einsum("bij,sbj->sbi", factor, noise)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_proposal = torch.distributions.StudentT(degrees).log_prob(noise).sum(-1) - log_det
    ratio = (q.log_prob(z) - log_proposal).exp()
    _assert_mean(ratio, torch.ones(3, dtype=torch.float64), "the integral of the density")


def check_moments(choice: FamilyChoice) -> None:
    """Mean, variance and covariance, where the family has them in closed form, are those of its draws."""
    if not make_family(choice, 3, _CONTEXT_FEATURES).has_closed_form_moments:
        return
    q = _posterior(choice, 3)
    z = q.sample(torch.Size([_DRAWS]))
    deviation = z - q.mean
    outer = deviation.unsqueeze(-1) * deviation.unsqueeze(-2)
    _assert_mean(z, q.mean, "mean")
    _assert_mean(deviation.square(), q.variance, "variance")
    _assert_mean(outer, q.covariance_matrix, "covariance_matrix")  # type: ignore[attr-defined]  # stated by the family


def check_marginals(choice: FamilyChoice) -> None:
    """Where the family says that its marginals are Gaussian, draws fall below each normal quantile as often as they should."""
    if not make_family(choice, 3, _CONTEXT_FEATURES).has_gaussian_marginals:
        return
    q = _posterior(choice, 3)
    standard = (q.sample(torch.Size([_DRAWS])) - q.mean) / q.variance.sqrt()
    for probability in (0.05, 0.5, 0.9):
        below = (standard < torch.special.ndtri(torch.tensor(probability))).double()
        _assert_mean(below, torch.full_like(q.mean, probability), f"probability below the {probability} quantile")


def check_kl(choice: FamilyChoice) -> None:
    """The closed-form KL to N(0, I), where the family has one, is the mean of the log ratio over draws."""
    if not make_family(choice, 3, _CONTEXT_FEATURES).has_closed_form_kl:
        return
    q = _posterior(choice, 3)
    z = q.sample(torch.Size([_DRAWS]))
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    _assert_mean(q.log_prob(z) - log_prior, q.kl_standard_normal(), "kl_standard_normal")  # type: ignore[attr-defined]


def check_entropy(choice: FamilyChoice) -> None:
    """The entropy, where the distribution has one, is the mean of ``-log q``."""
    q = _posterior(choice, 3)
    try:
        entropy = q.entropy()
    except NotImplementedError:
        return
    _assert_mean(-q.log_prob(q.sample(torch.Size([_DRAWS]))), entropy, "entropy")


def check_expand(choice: FamilyChoice) -> None:
    """Pyro can expand the distribution to plates around it."""
    q = _posterior(choice, 4)
    wide = q.expand(torch.Size([5, 3]))
    z = wide.rsample()
    assert wide.batch_shape == (5, 3)
    assert z.shape == (5, 3, 4)
    assert torch.allclose(wide.log_prob(z), q.log_prob(z)), "expanding changes the density"
    assert not torch.equal(z[0], z[1]), "expanded copies share their noise"


def check_extremes(choice: FamilyChoice) -> None:
    """Parameters far out give finite draws and densities: nothing is "singular"."""
    family = perturbed(choice, 4)
    for size in (-20.0, 20.0):
        q = family.distribution(torch.full((2, family.num_parameters), size, dtype=torch.float64))
        z = q.rsample()
        assert bool(torch.isfinite(z).all()), f"draws are not finite for parameters of {size}"
        assert bool(torch.isfinite(q.log_prob(z)).all()), f"log_prob is not finite for parameters of {size}"


def check_copies(choice: FamilyChoice) -> None:
    """A state dict loaded into a new family, and a deep copy, give the same distribution and share nothing."""
    family = perturbed(choice, 4)
    loaded = make_family(choice, 4, _CONTEXT_FEATURES).double()
    loaded.load_state_dict(family.state_dict())
    context = torch.randn(3, _CONTEXT_FEATURES, dtype=torch.float64)
    z = torch.randn(3, 4, dtype=torch.float64)
    expected = family(context).log_prob(z)
    for other in (loaded, copy.deepcopy(family)):
        assert torch.equal(other(context).log_prob(z), expected), "a copy gives another density"
        shared = {p.data_ptr() for p in family.parameters()} & {p.data_ptr() for p in other.parameters()}
        assert not shared, "a copy shares parameters"


def check_start(choice: FamilyChoice) -> None:
    """A new family starts sane: finite, and of a scale between 0.01 and 10 for contexts of unit size."""
    family = make_family(choice, 4, _CONTEXT_FEATURES)
    q = family(torch.randn(200, _CONTEXT_FEATURES))
    spread = q.sample(torch.Size([200])).std(0)
    assert bool(((spread > 0.01) & (spread < 10)).all()), (
        f"the scale starts at {spread.min():.3g} to {spread.max():.3g}"
    )


def _seeded(check: Callable[[FamilyChoice], None]) -> Callable[[FamilyChoice], None]:
    def run(choice: FamilyChoice) -> None:
        with random_state(20_240_229):
            check(choice)

    run.__name__ = check.__name__
    run.__doc__ = check.__doc__
    return run


FAMILY_CHECKS: tuple[Callable[[FamilyChoice], None], ...] = tuple(
    _seeded(check)
    for check in (
        check_shapes,
        check_one_dimension,
        check_gradients,
        check_fresh_sample,
        check_normalisation,
        check_moments,
        check_marginals,
        check_kl,
        check_entropy,
        check_expand,
        check_extremes,
        check_copies,
        check_start,
    )
)
"""Every check, each ``(choice) -> None``; they leave the random state of the caller as it was."""
