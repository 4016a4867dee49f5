"""Checks of gradients, through draws and densities."""

from __future__ import annotations

import torch
from torch import Tensor

from amortvi._util.random import random_state
from amortvi.families import FamilyChoice, draw
from amortvi.testing.families.common import assert_mean, contexts, perturbed

__all__ = ["check_gradients", "check_own_draws", "check_pathwise_gradient"]


_REPLICATES = 20_000


def check_gradients(choice: FamilyChoice) -> None:
    """Each parameter, and the context, receives a finite nonzero gradient."""
    family, context = perturbed(choice, 4), contexts(3).requires_grad_()
    q = family(context)
    drawn = draw(q, 7)
    # No symmetry of the family leaves this loss unchanged.
    loss = drawn.mean(q.log_prob(drawn.vector) + (drawn.vector * torch.arange(1.0, 5.0)).sin().sum(-1))
    loss.sum().backward()
    for name, parameter in (*family.named_parameters(), ("the context", context)):
        assert parameter.grad is not None, f"{name} receives no gradient"
        assert bool(torch.isfinite(parameter.grad).all()), f"{name} receives a gradient that is not finite"
        assert bool((parameter.grad != 0).any()), f"{name} receives a zero gradient"


def check_own_draws(choice: FamilyChoice) -> None:
    """The density of a draw, which a distribution may cache, equals that of a copy of the draw, gradients included."""
    family, context = perturbed(choice, 4), contexts(3)
    results = []
    for copied in (False, True):
        family.zero_grad()
        q = family(context)
        with random_state(1):
            z = draw(q, 6).vector
        log_prob = q.log_prob(z.clone() if copied else z)
        log_prob.square().sum().backward()
        results.append((log_prob.detach(), [p.grad.clone() for p in family.parameters() if p.grad is not None]))
    (own, own_gradients), (other, other_gradients) = results
    assert torch.allclose(own, other, rtol=1e-8, atol=1e-8), f"log_prob differs by {(own - other).abs().max():.3g}"
    for one, two in zip(own_gradients, other_gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-6, atol=1e-6), f"gradients differ by {(one - two).abs().max():.3g}"


def check_pathwise_gradient(choice: FamilyChoice) -> None:
    """The gradient of an expectation through the draws equals that by the score function, which needs only the density."""
    family = perturbed(choice, 2)
    one = contexts()

    def gradients(*, through_draws: bool) -> Tensor:
        """Return independent estimates of the gradient with respect to the context, ``(replicates, C)``."""
        context = one.expand(_REPLICATES, -1).clone().requires_grad_()
        q = family(context)
        if through_draws:
            drawn = draw(q, 1)
            estimate = drawn.mean(_test_function(drawn.vector))
        else:
            z = q.sample()
            estimate = q.log_prob(z) * (_test_function(z) - _test_function(one.new_zeros(2)))
        (gradient,) = torch.autograd.grad(estimate.sum(), context)
        return gradient

    difference = gradients(through_draws=True) - gradients(through_draws=False)
    assert_mean(difference, torch.zeros_like(one), "the gradient through the draws, compared with that of log_prob,")


def _test_function(z: Tensor) -> Tensor:
    """Return a bounded function of draws, ``(*S, 2)``, without symmetries that could hide an error."""
    return (z * torch.tensor([1.0, 2.0])).sin().sum(-1) + (z[..., 0] - z[..., 1]).tanh()
