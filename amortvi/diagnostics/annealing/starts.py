"""What an annealed path can start from: a normalised density over the unconstrained latents that can be drawn from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from amortvi.model.plates import PlateLayout
from amortvi.model.priors import PriorRuns
from amortvi.model.scoring import LogJoint, log_jacobian, per_row, sum_of

__all__ = ["FromPosterior", "FromPrior", "Start"]


class Start(ABC):
    """The density ``f_0`` of the latents of each observation of a batch, with integral one.

    Args:
        joint: the log joint density, which a path ends at.
    """

    def __init__(self, joint: LogJoint) -> None:
        self.joint = joint

    @abstractmethod
    def sample(self, draws: int) -> Tensor:
        """Draw ``draws`` latents of each observation, ``(K, B, D)``."""

    @abstractmethod
    def log_densities(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``log f_0`` and the log joint density in nats, each ``(K, B)``, at ``vector``, ``(K, B, D)``."""


class FromPosterior(Start):
    """The approximate posterior ``q(z | x)``: the nearer it is to the exact one, the less is left to anneal.

    Args:
        joint: the log joint density.
        q: of the batch, batch shape ``(B,)``, event shape ``(D,)``.
    """

    def __init__(self, joint: LogJoint, q: Distribution) -> None:
        super().__init__(joint)
        self.q = q

    def sample(self, draws: int) -> Tensor:
        return self.q.sample(torch.Size([draws]))

    def log_densities(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        return self.q.log_prob(vector), self.joint(vector)


class FromPrior(Start):
    """What the model draws its latents from, each given those before it and what it observes.

    Scales and masks around a latent site count in the joint density, as they do everywhere, but not here: a site is drawn from
    its distribution whatever it is multiplied with, and ``f_0`` has to be the density of what is drawn.

    Args:
        joint: the log joint density.
    """

    def sample(self, draws: int) -> Tensor:
        with torch.no_grad():
            return PriorRuns(self.joint.model, self.joint.prototype, self.joint.batch, draws).vector

    def log_densities(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        with _PriorScorer(self.joint, vector.shape[0]) as scorer:
            log_joint = self.joint(vector)
        _, log_dets = self.joint.prototype.latents.constrain(vector)
        return sum_of(scorer.log_probs) + log_jacobian(log_dets, log_joint), log_joint


class _PriorScorer(Messenger):
    """Reads the log-probability of each latent site in a run of the model on ``draws`` copies of the batch."""

    def __init__(self, joint: LogJoint, draws: int) -> None:
        super().__init__()
        self.plate = joint.prototype.plate
        self.names = {site.name for site in joint.prototype.latents.sites}
        self.shape = torch.Size([draws, joint.batch.size])
        self.log_probs: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
            dim = PlateLayout.of_site(msg, self.plate).dim
            self.log_probs[msg["name"]] = per_row(log_prob, dim, self.shape.numel()).reshape(self.shape)
