r"""The geometric path from a start density to the joint density, and moves that leave a density on it unchanged.

.. math::

    f_\beta(z) = f_0(z)^{1 - \beta} \, p(x, z)^{\beta}, \quad 0 \le \beta \le 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amortvi.diagnostics.annealing.starts import Start

__all__ = ["Point", "evaluated", "move"]

_JITTER = 0.2
"""By how much of itself a step size varies from chain to chain, so that no trajectory comes back to where it began."""


@dataclass(frozen=True)
class Point:
    """Where the chains are, with the densities at both ends of the path.

    The two gradients are kept apart, so that the next temperature, at the same point, needs no new ones.

    Args:
        vector: unconstrained latents, ``(K, B, D)``.
        log_start: ``log f_0``, ``(K, B)``.
        log_joint: ``log p(x, z)``, ``(K, B)``.
        start_gradient: of ``log_start``, ``(K, B, D)``.
        joint_gradient: of ``log_joint``, ``(K, B, D)``.
    """

    vector: Tensor
    log_start: Tensor
    log_joint: Tensor
    start_gradient: Tensor
    joint_gradient: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """``log p(x, z) - log f_0(z)``, ``(K, B)``."""
        return self.log_joint - self.log_start

    def log_density(self, beta: float) -> Tensor:
        """``log f_beta``, ``(K, B)``."""
        return (1 - beta) * self.log_start + beta * self.log_joint

    def gradient(self, beta: float) -> Tensor:
        """The gradient of ``log f_beta``, ``(K, B, D)``."""
        return (1 - beta) * self.start_gradient + beta * self.joint_gradient

    def where(self, chosen: Tensor, other: Point) -> Point:
        """Return this point where ``chosen``, ``(K, B)``, and ``other`` elsewhere."""
        wide = chosen.unsqueeze(-1)
        return Point(
            torch.where(wide, self.vector, other.vector),
            torch.where(chosen, self.log_start, other.log_start),
            torch.where(chosen, self.log_joint, other.log_joint),
            torch.where(wide, self.start_gradient, other.start_gradient),
            torch.where(wide, self.joint_gradient, other.joint_gradient),
        )


def evaluated(start: Start, vector: Tensor) -> Point:
    """Return ``vector``, ``(K, B, D)``, with densities and gradients."""
    with torch.enable_grad():
        vector = vector.detach().requires_grad_()
        log_start, log_joint = start.log_densities(vector)
        (joint_gradient,) = torch.autograd.grad(log_joint.sum(), vector, retain_graph=True)
        (start_gradient,) = torch.autograd.grad(log_start.sum(), vector)
    return Point(vector.detach(), log_start.detach(), log_joint.detach(), start_gradient, joint_gradient)


def move(
    start: Start, point: Point, beta: float, step: Tensor, scale: Tensor, leapfrog_steps: int
) -> tuple[Point, Tensor]:
    """Take one Hamiltonian Monte Carlo move, which leaves ``f_beta`` unchanged.

    Args:
        start: the beginning of the path.
        point: where the chains are.
        beta: the inverse temperature.
        step: the step size of each observation, ``(B,)``.
        scale: the unit of length of each coordinate, ``(B, D)``.
        leapfrog_steps: how many steps a proposal takes.

    Returns:
        Where the chains are then, and the probability of each proposal to be accepted, ``(K, B)``. A trajectory that
        leaves the finite numbers is not accepted.
    """
    jitter = torch.empty_like(point.log_joint).uniform_(1 - _JITTER, 1 + _JITTER)
    length = (jitter * step).unsqueeze(-1) * scale
    momentum = torch.randn_like(point.vector)
    energy = 0.5 * momentum.square().sum(-1) - point.log_density(beta)
    proposal, lost = point, torch.zeros_like(point.log_joint, dtype=torch.bool)
    momentum = momentum + 0.5 * length * point.gradient(beta)
    for remaining in reversed(range(leapfrog_steps)):
        vector = proposal.vector + length * momentum
        lost = lost | ~torch.isfinite(vector).all(-1)
        # The model is never asked about numbers that are not finite: where one is lost, all the chain's proposal is.
        proposal = evaluated(start, torch.where(lost.unsqueeze(-1), point.vector, vector))
        momentum = momentum + (1.0 if remaining else 0.5) * length * proposal.gradient(beta)
    log_ratio = energy + proposal.log_density(beta) - 0.5 * momentum.square().sum(-1)
    acceptance = torch.where(lost | torch.isnan(log_ratio), 0.0, log_ratio.clamp(max=0.0).exp())
    return proposal.where(torch.rand_like(acceptance) < acceptance, point), acceptance
