"""The default optimizer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["adam"]


def adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Adam:
    """Return Adam with ``betas=(0.9, 0.95)``, whose averages of squared gradients cover twenty steps instead of a thousand.

    The gradient of a bound falls by orders of magnitude within the first hundred steps. An average that still contains the
    early ones makes all steps too small, for as long as it remembers them.
    """
    return torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.95))
