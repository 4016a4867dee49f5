"""Checks of the contract: setup, shapes, copies, parameters."""

from __future__ import annotations

import copy

import torch

from amortvi.errors import FamilyError
from amortvi.families import FamilyChoice, ParametricFamily, draw, make_family, resolve_family
from amortvi.testing.families.common import CONTEXT_FEATURES, DRAWS, assert_mean, contexts, perturbed

__all__ = [
    "check_batch_shapes",
    "check_copies",
    "check_extreme_parameters",
    "check_independence",
    "check_parameters",
    "check_parameters_near",
    "check_setup",
    "check_start",
]


def check_setup(choice: FamilyChoice) -> None:
    """A family has parameters only after `setup`, which returns the family itself and keeps its options."""
    family = resolve_family(choice)
    options = repr(family)
    assert not list(family.parameters()), "the family has parameters before setup"
    try:
        family(contexts(3).float())
    except Exception:  # any error is correct here; which one is raised depends on the family
        pass
    else:
        raise AssertionError("the family returns posteriors before setup")
    duplicate = copy.deepcopy(family)
    assert repr(duplicate) == options, f"a copy of {options} has other options: {duplicate!r}"
    assert family.setup(4, CONTEXT_FEATURES) is family, "setup does not return the family"
    assert (family.dim, family.context_features) == (4, CONTEXT_FEATURES), "setup does not store the sizes"
    assert repr(family) == options, f"setup changes the options of {options} to {family!r}"
    duplicate.setup(4, CONTEXT_FEATURES).load_state_dict(family.state_dict())


def check_batch_shapes(choice: FamilyChoice) -> None:
    """Contexts of any batch shape, in single and double precision, give distributions with that batch shape."""
    for dim, dtype in ((4, torch.float32), (4, torch.float64), (1, torch.float64)):
        family = perturbed(choice, dim, dtype)
        for batch_shape in ((), (3,), (2, 3)):
            q = family(contexts(*batch_shape, dtype=dtype))
            z = q.sample(torch.Size([7]))
            assert q.batch_shape == batch_shape, f"batch shape {q.batch_shape}, expected {batch_shape}"
            assert q.event_shape == (dim,), f"event shape {q.event_shape}, expected {(dim,)}"
            assert z.shape == (7, *batch_shape, dim), f"sample shape {z.shape}"
            assert z.dtype == dtype, f"sample of {z.dtype}, expected {dtype}"
            assert q.log_prob(z).shape == (7, *batch_shape), f"log_prob shape {q.log_prob(z).shape}"


def check_independence(choice: FamilyChoice) -> None:
    """The posterior of an observation depends neither on the others in its batch nor on the shape of the batch."""
    family, context, z = perturbed(choice, 4), contexts(2, 3), torch.randn(2, 3, 4, dtype=torch.float64)
    together = family(context).log_prob(z).flatten()
    rows = zip(context.flatten(0, 1), z.flatten(0, 1), strict=True)
    alone = torch.stack([family(row).log_prob(value) for row, value in rows])
    assert torch.allclose(alone, together), "the density depends on the batch"


def check_copies(choice: FamilyChoice) -> None:
    """A new family that loads the state dict, and a deep copy, give the same distribution and share no parameters."""
    family = perturbed(choice, 4)
    loaded = make_family(choice, 4, CONTEXT_FEATURES).double()
    loaded.load_state_dict(family.state_dict())
    context, z = contexts(3), torch.randn(3, 4, dtype=torch.float64)
    expected = family(context).log_prob(z)
    for other in (loaded, copy.deepcopy(family)):
        assert torch.equal(other(context).log_prob(z), expected), "a copy has another density"
        shared = {p.data_ptr() for p in family.parameters()} & {p.data_ptr() for p in other.parameters()}
        assert not shared, "a copy shares parameters"


def check_start(choice: FamilyChoice) -> None:
    """For contexts of unit scale, the initial standard deviations are between 0.01 and 10."""
    q = make_family(choice, 4, CONTEXT_FEATURES)(contexts(200, dtype=torch.float32))
    spread = q.sample(torch.Size([200])).std(0)
    assert bool(((spread > 0.01) & (spread < 10)).all()), f"scales start at {spread.min():.3g} to {spread.max():.3g}"


def check_parameters(choice: FamilyChoice) -> None:
    """In a `ParametricFamily`, parameters have the right sizes, and `without_head` gives the same posteriors."""
    family = perturbed(choice, 4)
    if not isinstance(family, ParametricFamily):
        return
    size, context, z = family.num_parameters, contexts(3), torch.randn(3, 4, dtype=torch.float64)
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
    family = perturbed(choice, 3)
    if not isinstance(family, ParametricFamily):
        return
    loc, scale = torch.randn(2, 3, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64) + 0.1
    if any(True for _ in family.without_head().parameters()):
        return  # networks of its own, here random ones, move the posteriors of the family
    try:
        parameters = family.parameters_near(loc, scale)
    except FamilyError:  # optional
        return
    z = family.distribution(parameters).sample(torch.Size([DRAWS]))
    assert_mean(z, loc, "the mean of the posterior at parameters_near")
    ratio = z.std(0) / scale
    assert bool(((ratio > 0.5) & (ratio < 2)).all()), f"scales are off by {ratio.min():.3g} to {ratio.max():.3g}"


def check_extreme_parameters(choice: FamilyChoice) -> None:
    """In a `ParametricFamily`, draws and densities are finite even for extreme parameters."""
    family = perturbed(choice, 4)
    if not isinstance(family, ParametricFamily):
        return
    for size in (-20.0, 20.0):
        q = family.distribution(torch.full((2, family.num_parameters), size, dtype=torch.float64))
        z = draw(q, 1).vector
        assert bool(torch.isfinite(z).all()), f"draws are not finite for parameters of {size}"
        assert bool(torch.isfinite(q.log_prob(z)).all()), f"log_prob is not finite for parameters of {size}"
