"""The conformance suite of posterior families: checks that every family must pass, to run on your own.

Each check takes a `families.FamilyChoice` and raises `AssertionError` if the family violates the contract. Closed forms (see
``amortvi.families.closed_forms``) are checked if they are known, parameters only of a `families.ParametricFamily`. Statistical
checks use a fixed seed and allow for five standard errors. The family is set up with a head, for one to four latent dimensions.

Example:
    >>> import amortvi as avi
    >>> for check in avi.testing.FAMILY_CHECKS:
    ...     check(avi.families.FullCovariance)
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, StudentT

from amortvi._util.random import random_state
from amortvi.errors import FamilyError
from amortvi.families import Family, FamilyChoice, ParametricFamily, closed_forms, make_family, resolve_family

__all__ = ["FAMILY_CHECKS"]

_CONTEXT_FEATURES = 5
_DRAWS = 50_000
# A standard normal variable exceeds five in absolute value less than once in a million times.
_STANDARD_ERRORS = 5.0


def _perturbed(choice: FamilyChoice, dim: int, dtype: torch.dtype = torch.float64) -> Family:
    """Return the chosen family, set up for ``dim`` latents, with random parameters instead of the initial ones."""
    family = make_family(choice, dim, _CONTEXT_FEATURES).to(dtype)
    with torch.no_grad():
        for parameter in family.parameters():
            # The outputs of every layer have about the same scale, regardless of its width.
            fan_in = parameter[0].numel() if parameter.dim() > 1 else _CONTEXT_FEATURES
            parameter.normal_(0.0, 0.9 / fan_in**0.5)
    return family


def _contexts(*batch_shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*batch_shape, _CONTEXT_FEATURES, dtype=dtype)


def _posterior(choice: FamilyChoice, dim: int) -> Distribution:
    """Return the posteriors of three random contexts, without gradients."""
    return _perturbed(choice, dim).requires_grad_(False)(_contexts(3))


def _assert_mean(estimates: Tensor, expected: Tensor, what: str) -> None:
    """Check that the mean of independent ``estimates`` over dimension 0 is ``expected``, within Monte Carlo error."""
    error = (estimates.mean(0) - expected).abs()
    allowed = _STANDARD_ERRORS * estimates.std(0) / estimates.shape[0] ** 0.5 + 1e-9
    assert bool((error <= allowed).all()), f"{what} is off by {error.max():.3g}, beyond Monte Carlo error"


def check_setup(choice: FamilyChoice) -> None:
    """A family has parameters only after `setup`, which returns the family itself and keeps its options."""
    family = resolve_family(choice)
    options = repr(family)
    assert not list(family.parameters()), "the family has parameters before setup"
    try:
        family(_contexts(3).float())
    except Exception:  # any error is correct here; which one is raised depends on the family
        pass
    else:
        raise AssertionError("the family returns posteriors before setup")
    duplicate = copy.deepcopy(family)
    assert repr(duplicate) == options, f"a copy of {options} has other options: {duplicate!r}"
    assert family.setup(4, _CONTEXT_FEATURES) is family, "setup does not return the family"
    assert (family.dim, family.context_features) == (4, _CONTEXT_FEATURES), "setup does not store the sizes"
    assert repr(family) == options, f"setup changes the options of {options} to {family!r}"
    duplicate.setup(4, _CONTEXT_FEATURES).load_state_dict(family.state_dict())


def check_batch_shapes(choice: FamilyChoice) -> None:
    """Contexts of any batch shape, in single and double precision, give distributions with that batch shape."""
    for dim, dtype in ((4, torch.float32), (4, torch.float64), (1, torch.float64)):
        family = _perturbed(choice, dim, dtype)
        for batch_shape in ((), (3,), (2, 3)):
            q = family(_contexts(*batch_shape, dtype=dtype))
            z = q.rsample(torch.Size([7]))
            assert q.batch_shape == batch_shape, f"batch shape {q.batch_shape}, expected {batch_shape}"
            assert q.event_shape == (dim,), f"event shape {q.event_shape}, expected {(dim,)}"
            assert z.shape == (7, *batch_shape, dim), f"sample shape {z.shape}"
            assert z.dtype == dtype, f"sample of {z.dtype}, expected {dtype}"
            assert q.log_prob(z).shape == (7, *batch_shape), f"log_prob shape {q.log_prob(z).shape}"


def check_independence(choice: FamilyChoice) -> None:
    """The posterior of an observation depends neither on the others in its batch nor on the shape of the batch."""
    family, context, z = _perturbed(choice, 4), _contexts(2, 3), torch.randn(2, 3, 4, dtype=torch.float64)
    together = family(context).log_prob(z).flatten()
    rows = zip(context.flatten(0, 1), z.flatten(0, 1), strict=True)
    alone = torch.stack([family(row).log_prob(value) for row, value in rows])
    assert torch.allclose(alone, together), "the density depends on the batch"


def check_gradients(choice: FamilyChoice) -> None:
    """Each parameter, and the context, receives a finite nonzero gradient."""
    family, context = _perturbed(choice, 4), _contexts(3).requires_grad_()
    q = family(context)
    z = q.rsample(torch.Size([7]))
    # No symmetry of the family leaves this loss unchanged.
    (q.log_prob(z) + (z * torch.arange(1.0, 5.0)).sin().sum(-1)).sum().backward()
    for name, parameter in (*family.named_parameters(), ("the context", context)):
        assert parameter.grad is not None, f"{name} receives no gradient"
        assert bool(torch.isfinite(parameter.grad).all()), f"{name} receives a gradient that is not finite"
        assert bool((parameter.grad != 0).any()), f"{name} receives a zero gradient"


def check_own_draws(choice: FamilyChoice) -> None:
    """The density of a draw, which a distribution may cache, equals that of a copy of the draw, gradients included."""
    family, context = _perturbed(choice, 4), _contexts(3)
    results = []
    for copied in (False, True):
        family.zero_grad()
        q = family(context)
        with random_state(1):
            z = q.rsample(torch.Size([6]))
        log_prob = q.log_prob(z.clone() if copied else z)
        log_prob.square().sum().backward()
        results.append((log_prob.detach(), [p.grad.clone() for p in family.parameters() if p.grad is not None]))
    (own, own_gradients), (other, other_gradients) = results
    assert torch.allclose(own, other, rtol=1e-8, atol=1e-8), f"log_prob differs by {(own - other).abs().max():.3g}"
    for one, two in zip(own_gradients, other_gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-6, atol=1e-6), f"gradients differ by {(one - two).abs().max():.3g}"


def check_normalization(choice: FamilyChoice) -> None:
    """The density integrates to one, by importance sampling from a wider Student t distribution."""
    q = _posterior(choice, 2)
    drawn = q.sample(torch.Size([20_000]))
    deviation = drawn - drawn.mean(0)
    factor = torch.linalg.cholesky(2.0 * torch.einsum("sbi,sbj->bij", deviation, deviation) / drawn.shape[0])
    student = StudentT(torch.full((3, 2), 5.0, dtype=torch.float64))
    noise = student.sample(torch.Size([_DRAWS]))
    z = drawn.mean(0) + torch.einsum("bij,sbj->sbi", factor, noise)
    log_proposal = student.log_prob(noise).sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    ratio = (q.log_prob(z) - log_proposal).exp()
    _assert_mean(ratio, torch.ones(3, dtype=torch.float64), "the integral of the density")


def check_moments(choice: FamilyChoice) -> None:
    """Mean, variance and covariance, if they are known, agree with draws."""
    q = _posterior(choice, 3)
    z = q.sample(torch.Size([_DRAWS]))
    deviation = z - z.mean(0)
    known, covariance = closed_forms.moments(q), closed_forms.covariance(q)
    if known is not None:
        _assert_mean(z, known[0], "the mean")
        _assert_mean(deviation.square(), known[1], "the variance")
    if covariance is not None:
        _assert_mean(deviation.unsqueeze(-1) * deviation.unsqueeze(-2), covariance, "the covariance")


def check_marginals(choice: FamilyChoice) -> None:
    """The marginals, if they are known, have the right shape, and their quantiles agree with draws."""
    q = _posterior(choice, 3)
    marginal = closed_forms.marginals(q)
    if marginal is None:
        return
    shapes = marginal.batch_shape, marginal.event_shape
    assert shapes == ((3, 3), ()), f"batch and event shape of the marginals are {shapes}, expected (*B, D) and ()"
    z = q.sample(torch.Size([_DRAWS]))
    for probability in (0.05, 0.5, 0.9):
        expected = torch.full_like(z[0], probability)
        try:
            below = z < marginal.icdf(expected)
        except NotImplementedError:  # quantiles are optional
            below = marginal.cdf(z) < probability
        _assert_mean(below.double(), expected, f"the probability below the {probability} quantile")


def check_kl_and_entropy(choice: FamilyChoice) -> None:
    """KL to ``N(0, I)`` and entropy, if they are known, equal the means of ``log q - log p`` and of ``-log q``."""
    q = _posterior(choice, 3)
    z = q.sample(torch.Size([_DRAWS]))
    log_q, kl = q.log_prob(z), closed_forms.kl_to_standard_normal(q)
    if kl is not None:
        _assert_mean(log_q - Normal(0.0, 1.0).log_prob(z).sum(-1), kl, "kl_to_standard_normal")
    try:
        entropy = q.entropy()
    except NotImplementedError:  # optional
        return
    _assert_mean(-log_q, entropy, "the entropy")


def check_expand(choice: FamilyChoice) -> None:
    """Expanded to surrounding plates, as in Pyro, a distribution keeps its density and draws independent noise."""
    q = _posterior(choice, 4)
    wide = q.expand(torch.Size([5, 3]))
    z = wide.rsample()
    assert (wide.batch_shape, z.shape) == ((5, 3), (5, 3, 4)), f"batch shape {wide.batch_shape}, sample shape {z.shape}"
    assert torch.allclose(wide.log_prob(z), q.log_prob(z)), "expanding changes the density"
    assert not torch.equal(z[0], z[1]), "expanded copies share their noise"


def check_copies(choice: FamilyChoice) -> None:
    """A new family that loads the state dict, and a deep copy, give the same distribution and share no parameters."""
    family = _perturbed(choice, 4)
    loaded = make_family(choice, 4, _CONTEXT_FEATURES).double()
    loaded.load_state_dict(family.state_dict())
    context, z = _contexts(3), torch.randn(3, 4, dtype=torch.float64)
    expected = family(context).log_prob(z)
    for other in (loaded, copy.deepcopy(family)):
        assert torch.equal(other(context).log_prob(z), expected), "a copy has another density"
        shared = {p.data_ptr() for p in family.parameters()} & {p.data_ptr() for p in other.parameters()}
        assert not shared, "a copy shares parameters"


def check_start(choice: FamilyChoice) -> None:
    """For contexts of unit scale, the initial standard deviations are between 0.01 and 10."""
    q = make_family(choice, 4, _CONTEXT_FEATURES)(_contexts(200, dtype=torch.float32))
    spread = q.sample(torch.Size([200])).std(0)
    assert bool(((spread > 0.01) & (spread < 10)).all()), f"scales start at {spread.min():.3g} to {spread.max():.3g}"


def check_parameters(choice: FamilyChoice) -> None:
    """In a `ParametricFamily`, parameters have the right sizes, and `without_head` gives the same posteriors."""
    family = _perturbed(choice, 4)
    if not isinstance(family, ParametricFamily):
        return
    size, context, z = family.num_parameters, _contexts(3), torch.randn(3, 4, dtype=torch.float64)
    assert family.initial_parameters().shape == (size,), "initial_parameters must have shape (P,)"
    assert family.learning_rates().shape == (size,), "learning_rates must have shape (P,)"
    parameters = family.to_parameters(context)
    assert parameters.shape == (3, size), f"the head returns shape {tuple(parameters.shape)}, expected {(3, size)}"
    bare = family.without_head()
    assert bare.context_features == size, "without a head, the context must have P features"
    assert not any(parameter.requires_grad for parameter in bare.parameters()), "without_head must return a frozen copy"
    expected = family(context).log_prob(z)
    assert torch.allclose(bare(parameters).log_prob(z), expected), "without_head changes the posterior"
    assert torch.allclose(bare.distribution(parameters).log_prob(z), expected), "distribution differs from forward"


def check_parameters_near(choice: FamilyChoice) -> None:
    """In a `ParametricFamily`, `parameters_near`, if implemented, gives the location and, roughly, the scale."""
    family = _perturbed(choice, 3)
    if not isinstance(family, ParametricFamily):
        return
    loc, scale = torch.randn(2, 3, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64) + 0.1
    try:
        parameters = family.parameters_near(loc, scale)
    except FamilyError:  # optional
        return
    z = family.distribution(parameters).sample(torch.Size([_DRAWS]))
    _assert_mean(z, loc, "the mean of the posterior at parameters_near")
    ratio = z.std(0) / scale
    assert bool(((ratio > 0.5) & (ratio < 2)).all()), f"scales are off by {ratio.min():.3g} to {ratio.max():.3g}"


def check_extreme_parameters(choice: FamilyChoice) -> None:
    """In a `ParametricFamily`, draws and densities are finite even for extreme parameters."""
    family = _perturbed(choice, 4)
    if not isinstance(family, ParametricFamily):
        return
    for size in (-20.0, 20.0):
        q = family.distribution(torch.full((2, family.num_parameters), size, dtype=torch.float64))
        z = q.rsample()
        assert bool(torch.isfinite(z).all()), f"draws are not finite for parameters of {size}"
        assert bool(torch.isfinite(q.log_prob(z)).all()), f"log_prob is not finite for parameters of {size}"


def _seeded(check: Callable[[FamilyChoice], None]) -> Callable[[FamilyChoice], None]:
    @functools.wraps(check)
    def run(choice: FamilyChoice) -> None:
        with random_state(20_240_229):
            check(choice)

    return run


FAMILY_CHECKS: tuple[Callable[[FamilyChoice], None], ...] = tuple(
    _seeded(check)
    for check in (
        check_setup,
        check_batch_shapes,
        check_independence,
        check_gradients,
        check_own_draws,
        check_normalization,
        check_moments,
        check_marginals,
        check_kl_and_entropy,
        check_expand,
        check_copies,
        check_start,
        check_parameters,
        check_parameters_near,
        check_extreme_parameters,
    )
)
"""All checks, ``(choice) -> None``; they leave the caller's random state untouched."""
