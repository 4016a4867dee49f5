r"""A conditional normalizing flow (Rezende and Mohamed, 2015; Kingma et al., 2016), built with zuko.

.. math::

    z = f_x(\epsilon), \quad \epsilon \sim N(0, s_0^2 I), \qquad
    \log q(z \mid x) = \log N(\epsilon; 0, s_0^2 I) - \log\lvert\det \partial f_x / \partial \epsilon\rvert .

:math:`f_x` is a composition of affine coupling transforms whose coefficients are computed from the context by a masked
network. The parameters of the family are the weights of that network, so no observation has parameters of its own: a flow
cannot be refined. Its mean, covariance and KL are not known in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, Transform, constraints
from torch.types import _size

from amortvi._util.checks import layer_widths, positive_int
from amortvi._util.lazy import require
from amortvi.families.base import INITIAL_LOG_SCALE, Family

__all__ = ["Flow", "FlowDistribution"]

_COUPLING = 2
"""The number of network passes that invert a transform. Two make it a coupling transform, fast in both directions."""


class Flow(Family):
    """Normalizing flow of affine coupling transforms; needs the extra ``flows``.

    Args:
        transforms: the number of transforms.
        hidden: the widths of the hidden layers of each transform's network.

    Raises:
        OptionError: an option is not a positive integer.
        MissingDependencyError: at setup, if zuko is not installed.

    Example:
        >>> family = Flow(transforms=2).setup(dim=3, context_features=5)
        >>> family(torch.zeros(4, 5)).rsample((10,)).shape
        torch.Size([10, 4, 3])
    """

    def __init__(self, transforms: int = 3, *, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.transforms = positive_int("transforms", transforms)
        self.hidden = layer_widths("hidden", hidden)

    transform: nn.Module

    def build(self) -> None:
        # Importing zuko disables argument validation for every distribution of the process. Its default for arg_constraints
        # stays: it affects only classes without their own, and zuko's need it.
        validate = Distribution._validate_args
        try:
            flows = require("zuko.flows", extra="flows", purpose="the family Flow")
        finally:
            Distribution.set_default_validate_args(validate)
        flow = flows.MAF(
            self.dim, self.context_features, self.transforms, passes=_COUPLING, hidden_features=self.hidden
        )
        self.transform = flow.transform

    def forward(self, context: Tensor) -> FlowDistribution:
        """Return the posteriors for ``context`` of shape ``(*B, C)``."""
        return FlowDistribution(self.transform(context), context.new_zeros(*context.shape[:-1], self.dim))


class FlowDistribution(TorchDistribution):
    """The distribution of ``f(eps)`` for normal noise ``eps``; the density of the last draw is computed without inverting ``f``.

    Args:
        transform: ``f``, from ``(*S, *B, D)`` to the same shape.
        loc: the mean of the noise, ``(*B, D)``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, transform: Transform, loc: Tensor) -> None:
        self.transform = transform
        self.loc = loc
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def base(self) -> Distribution:
        """The distribution of the noise."""
        noise = Normal(self.loc, math.exp(INITIAL_LOG_SCALE), validate_args=False)
        return Independent(noise, 1, validate_args=False)

    def expand(self, batch_shape: _size, _instance: None = None) -> FlowDistribution:
        """Return the same distributions with batch shape ``batch_shape``."""
        return FlowDistribution(self.transform, self.loc.expand(torch.Size(batch_shape) + self.event_shape))

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw with gradients, shape ``(*sample_shape, *B, D)``."""
        noise = self.base.rsample(torch.Size(sample_shape))
        drawn, log_det = self.transform.call_and_ladj(noise)  # type: ignore[attr-defined]  # added by zuko
        self._drawn = drawn, self.base.log_prob(noise) - log_det
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ``log q(value)``, shape ``value.shape[:-1]``."""
        drawn, log_prob = self._drawn or (None, None)
        if value is drawn and log_prob is not None:
            return log_prob
        noise, log_det = self.transform.inv.call_and_ladj(value)  # type: ignore[attr-defined]  # added by zuko
        return self.base.log_prob(noise) + log_det
