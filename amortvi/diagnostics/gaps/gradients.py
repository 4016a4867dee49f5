"""How the gradient of the encoder varies between minibatches: a few of them may decide every step."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import torch
from torch import Tensor, nn

from amortvi._util.modes import evaluation_mode
from amortvi._util.random import random_state
from amortvi.objectives import ELBO
from amortvi.posterior import Posterior

__all__ = ["GradientNorms", "read_gradients"]

_ROWS, _BATCH_SIZE = 512, 16
_DOMINATING = 100.0
"""The largest norm, relative to the median, that does no harm: an optimizer such as Adam averages over about as many steps."""


@dataclass(frozen=True)
class GradientNorms:
    """The norms of the gradient of the ELBO with respect to encoder and family, over minibatches of 16 observations.

    Args:
        typical: the median, in nats per observation and unit of the parameters.
        largest: the largest; infinite if a gradient is not finite.
    """

    typical: float
    largest: float

    @property
    def problem(self) -> str:
        """What makes training hard, and the remedy, in a sentence; empty if there is no such problem."""
        if self.largest <= _DOMINATING * self.typical:
            return ""
        return (
            f"A few observations decide the steps of the optimizer (norm of the gradient: typically {self.typical:.2g}, up to "
            f"{self.largest:.2g}): train with gradient_clip={self.typical:.1g}, before anything else."
        )


def read_gradients(posterior: Posterior) -> GradientNorms | None:
    """Return the norms of the gradient, or ``None`` if the encoder and the family have no trained parameters.

    Args:
        posterior: the posterior of the encoder for some observations.
    """
    model, network = posterior.model, posterior.network
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not parameters:
        return None
    objective, norms = ELBO(), list[Tensor]()
    batch = posterior.observations.first(_ROWS).arguments().to(posterior.device)
    with (
        evaluation_mode(model, network),
        model.program.own_parameters(),
        pyro.validation_enabled(False),
        random_state(0, posterior.device),
        torch.enable_grad(),
    ):
        for rows in torch.arange(batch.size, device=posterior.device).split(_BATCH_SIZE):
            loss = objective.estimate(model, network, batch.take(rows)).loss(batch.size)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            norms.append(nn.utils.get_total_norm([gradient for gradient in found if gradient is not None]))
    values = torch.stack(norms).nan_to_num(nan=torch.inf).double()
    return GradientNorms(float(values.median()), float(values.max()))
