"""A network that a fit locks, unlocks and settles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["GATE_RATE", "Gate"]

GATE_RATE = 0.3
"""How fast the output of a gate, and the features that it reads, change relative to the locations. At the full rate, a flow
oscillates on bent posteriors."""


class Gate(nn.Module):
    """A network whose output is multiplied by a number between 0 and 1 and by `GATE_RATE`; it starts at zero output.

    Args:
        network: a sequence of layers, of which the last is linear.
    """

    strength: Tensor
    """The current factor; compiled steps read it in each step."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("strength", torch.ones(()), persistent=False)
        for parameter in network[-1].parameters():
            nn.init.zeros_(parameter)

    def unlock(self, fraction: float) -> None:
        """Let the output be a fraction of what it is with the same parameters at the end."""
        self.strength.fill_(fraction)

    def settle(self) -> None:
        """Set the factor to one and keep the outputs."""
        with torch.no_grad():
            for parameter in self.network[-1].parameters():
                parameter.mul_(self.strength)
        self.strength.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated output of the network."""
        output: Tensor = GATE_RATE * self.strength * self.network(x)
        return output
