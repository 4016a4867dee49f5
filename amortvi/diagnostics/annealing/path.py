r"""The geometric path from a start density to the joint density, and moves that leave a density on it invariant.

.. math::

    f_\beta(z) = f_0(z)^{1 - \beta} \, p(x, z)^{\beta}, \quad 0 \le \beta \le 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi.data import Batch
from amortvi.model import Model, PriorRuns, log_jacobian, sum_per_observation, sum_sites

__all__ = ["Point", "PosteriorStart", "PriorStart", "Start", "evaluate_point", "hmc_move"]

_JITTER = 0.2
"""Step sizes vary between chains by up to this fraction, so that trajectories do not return to their starting points."""


class Start(ABC):
    """A normalized start density ``f_0`` over the unconstrained latents of ``B`` observations, and their joint density.

    The model is in `Model.inference_mode`.
    """

    def __init__(self, model: Model, batch: Batch) -> None:
        self.model = model
        self.batch = batch

    @abstractmethod
    def sample(self, draws: int) -> Tensor:
        """Draw from ``f_0``, ``(draws, B, D)``."""

    @abstractmethod
    def log_densities(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``log f_0`` and ``log p(x, z)`` in nats, each ``(K, B)``, at ``vector``, ``(K, B, D)``."""


class PosteriorStart(Start):
    """The approximate posterior ``q(z | x)``, of batch shape ``(B,)`` and event shape ``(D,)``."""

    def __init__(self, model: Model, batch: Batch, q: Distribution) -> None:
        super().__init__(model, batch)
        self.q = q

    def sample(self, draws: int) -> Tensor:
        return self.q.sample(torch.Size([draws]))

    def log_densities(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        return self.q.log_prob(vector), self.model.log_joint(self.batch, vector)


class PriorStart(Start):
    """The distribution from which the model draws its latents, each given the previous ones and the covariates.

    The joint density includes scales and masks around a latent site; this density does not, since it is that of the draws.
    """

    def sample(self, draws: int) -> Tensor:
        return PriorRuns(self.model, self.batch, draws).vector

    def log_densities(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        values, log_dets = self.model.latents.constrain(vector)
        scores = self.model.log_probs(self.batch, values)
        log_joint = sum_sites(scores.local)
        dim, count, shape = self.model.structure.dim, log_joint.numel(), log_joint.shape
        # A prior that depends on discrete latents is neither scaled nor masked.
        latents = [site for site in scores.sites if site.name in values and site.name in scores.local]
        unweighted = {s.name: sum_per_observation(s.log_prob(), dim, count).reshape(shape) for s in latents}
        log_priors = scores.priors | unweighted
        jacobian = log_jacobian(log_dets, log_joint)
        return sum_sites(log_priors) + jacobian, log_joint + jacobian


@dataclass(frozen=True)
class Point:
    """The positions of chains, with the densities at both ends of the path.

    Positions, which are unconstrained latents, and gradients have shape ``(K, B, D)``, log densities ``(K, B)``. The gradients
    at both ends are separate, so that they can be reused at the next temperature.
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
        """Return ``log f_beta``, ``(K, B)``."""
        return (1 - beta) * self.log_start + beta * self.log_joint

    def gradient(self, beta: float) -> Tensor:
        """Return the gradient of ``log f_beta``, ``(K, B, D)``."""
        return (1 - beta) * self.start_gradient + beta * self.joint_gradient

    def where(self, chosen: Tensor, other: Point) -> Point:
        """Return this point where ``chosen``, ``(K, B)``, is true and ``other`` elsewhere."""
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return Point(*(torch.where(chosen.unsqueeze(-1) if a.ndim == 3 else chosen, a, b) for a, b in pairs))


def evaluate_point(start: Start, vector: Tensor) -> Point:
    """Compute densities and gradients at ``vector``, ``(K, B, D)``."""
    with torch.enable_grad():
        vector = vector.detach().requires_grad_()
        log_start, log_joint = start.log_densities(vector)
        (joint_gradient,) = torch.autograd.grad(log_joint.sum(), vector, retain_graph=True)
        (start_gradient,) = torch.autograd.grad(log_start.sum(), vector)
    return Point(vector.detach(), log_start.detach(), log_joint.detach(), start_gradient, joint_gradient)


def hmc_move(
    start: Start, point: Point, beta: float, step: Tensor, scale: Tensor, leapfrog_steps: int
) -> tuple[Point, Tensor]:
    """Make one Hamiltonian Monte Carlo move, which leaves ``f_beta`` invariant, from ``point``.

    The step size of a coordinate is ``step``, ``(B,)``, times its length scale ``scale``, ``(B, D)``.

    Returns:
        The new positions, and the acceptance probability of each proposal, ``(K, B)``. A trajectory that diverges to infinity
        or NaN is rejected.
    """
    jitter = torch.empty_like(point.log_joint).uniform_(1 - _JITTER, 1 + _JITTER)
    length = (jitter * step).unsqueeze(-1) * scale
    momentum = torch.randn_like(point.vector)
    energy = 0.5 * momentum.square().sum(-1) - point.log_density(beta)
    proposal, diverged = point, torch.zeros_like(point.log_joint, dtype=torch.bool)
    momentum = momentum + 0.5 * length * point.gradient(beta)
    for remaining in reversed(range(leapfrog_steps)):
        vector = proposal.vector + length * momentum
        diverged = diverged | ~torch.isfinite(vector).all(-1)
        # The model is not evaluated at infinity or NaN; a diverged trajectory is rejected wherever it continues.
        proposal = evaluate_point(start, torch.where(diverged.unsqueeze(-1), point.vector, vector))
        momentum = momentum + (1.0 if remaining else 0.5) * length * proposal.gradient(beta)
    log_ratio = energy + proposal.log_density(beta) - 0.5 * momentum.square().sum(-1)
    acceptance = torch.where(diverged | torch.isnan(log_ratio), 0.0, log_ratio.clamp(max=0.0).exp())
    return proposal.where(torch.rand_like(acceptance) < acceptance, point), acceptance
