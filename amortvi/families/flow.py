r"""A conditional normalizing flow (Rezende and Mohamed, 2015), built with the transforms of zuko.

.. math::

    z &= \mu(x) + A(x)\, f_x(\epsilon), \quad \epsilon \sim N(0, I), \\
    \log q(z \mid x) &= \log N(\epsilon; 0, I) - \log\lvert\det \partial f_x / \partial \epsilon\rvert
        - \log\lvert\det A(x)\rvert .

:math:`f_x` is a composition of inverse-autoregressive transforms (Kingma et al., 2016): a coordinate of a draw is a monotonic
function of its own noise, with coefficients from a masked network that reads the noise of the coordinates before it. A draw
takes one pass through each network, the density of a given value ``D`` of them. The monotonic functions are
affine, or rational-quadratic splines (Durkan et al., 2019) followed by affine ones.

:math:`f_x` starts as the identity, so a flow starts as the Gaussian :math:`N(\mu, A A^\top)`, and while the model is trained
together with its posterior, the flow is locked like off-diagonal parameters. The hidden layers are bounded functions (tanh), so
that an unusual observation cannot stretch the flow without limit.

The networks are shared by all observations. What differs between them, and what refinement optimizes, are :math:`\mu`,
:math:`A` and a few features that the networks read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.types import _size

from amortvi._util.checks import layer_widths, optional, positive_int
from amortvi._util.lazy import require
from amortvi.errors import OptionError
from amortvi.families.choice import FamilyChoice
from amortvi.families.closed_forms import implausible
from amortvi.families.draws import Draws, TransformedNoise, has_fast_density
from amortvi.families.gate import Gate
from amortvi.families.gaussians import Gaussian
from amortvi.families.wrapped import WrappedGaussian

__all__ = ["Flow", "FlowDistribution"]

FlowKind = Literal["spline", "affine"]

_FAST_PASSES = 2
"""An inverse with as many passes per transform takes about as long as a draw and its gradient."""


class Flow(WrappedGaussian):
    """Inverse-autoregressive flow on top of a Gaussian; needs the extra ``flows``.

    Args:
        transforms: the number of autoregressive transforms.
        kind: ``"spline"``, which can also represent several modes, or ``"affine"``, which is faster.
        passes: the number of groups of coordinates, each of which depends on those before it, and of the passes that invert a
            transform: 2 makes it a coupling transform; by default, it is fully autoregressive.
        hidden: the widths of the hidden layers of each transform's network.
        bins: the number of bins of a spline.
        features: the number of features of an observation that the networks read.
        base: the Gaussian family on top of which the flow is.
        head: whether there is a linear head; without one, the context itself holds the parameters of ``base`` and the features.

    Raises:
        OptionError: an option is out of range.
        FamilyError: ``base`` is unknown; or, at setup, it is not Gaussian.
        MissingDependencyError: at setup, if zuko is not installed.

    Example:
        >>> family = Flow(transforms=2).setup(dim=3, context_features=5)
        >>> family(torch.zeros(4, 5)).rsample((10,)).shape
        torch.Size([10, 4, 3])
    """

    def __init__(
        self,
        transforms: int = 3,
        *,
        kind: FlowKind = "spline",
        passes: int | None = None,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        features: int = 16,
        base: FamilyChoice = "full",
        head: bool = True,
    ) -> None:
        super().__init__(base, features=positive_int("features", features), head=head)
        if kind not in get_args(FlowKind):
            raise OptionError(f"kind must be 'spline' or 'affine'; got {kind!r}.")
        self.transforms = positive_int("transforms", transforms)
        self.kind = kind
        self.passes = optional(positive_int, "passes", passes)
        self.hidden = layer_widths("hidden", hidden)
        self.bins = positive_int("bins", bins, at_least=2)

    def build(self) -> None:
        super().build()
        zuko = _import_zuko()
        shapes: list[tuple[int, ...]] = [(), ()]
        if self.kind == "spline":
            shapes += [(self.bins,), (self.bins,), (self.bins - 1,)]
        order = torch.arange(self.dim)
        layers = []
        for _ in range(self.transforms):
            layer = zuko.flows.autoregressive.MaskedAutoregressiveTransform(
                self.dim,
                self.features,
                passes=self.passes,
                order=order,
                univariate=_spline if self.kind == "spline" else _affine,
                shapes=shapes,
                hidden_features=self.hidden,
                activation=nn.Tanh,
            )
            layer.hyper = Gate(layer.hyper)
            layers.append(layer)
            order = order.flip(0)
        self.layers = nn.ModuleList(layers)

    def distribution(self, parameters: Tensor) -> FlowDistribution:
        """Return the posteriors with ``parameters`` of shape ``(*B, P)``."""
        own, features = parameters.split([self.inner.num_parameters, self.features], dim=-1)
        transforms = [layer(features) for layer in self.layers]
        passes = min(self.dim, self.passes or self.dim)
        return FlowDistribution(transforms, self.gaussian(own), passes)


class FlowDistribution(TransformedNoise):
    """The distribution of ``loc + A f(eps)`` for normal noise ``eps``; the density of the last draw needs no inverse of ``f``.

    Args:
        transforms: the transforms that make up ``f``, each from ``(*S, *B, D)`` to the same shape.
        gaussian: location and ``A``, batch shape ``*B``.
        passes: the number of passes through a network that invert a transform.
    """

    def __init__(self, transforms: Sequence[Transform], gaussian: Gaussian, passes: int) -> None:
        super().__init__(gaussian.loc)
        self.passes = passes
        self.transforms = transforms
        self.gaussian = gaussian

    def expand(self, batch_shape: _size, _instance: None = None) -> FlowDistribution:
        """Return the same distributions with batch shape ``batch_shape``."""
        return FlowDistribution(self.transforms, self.gaussian.expand(batch_shape), self.passes)

    def from_noise(self, noise: Tensor) -> Draws:
        """Return the draws ``loc + A f(noise)``, ``(*S, *B, D)`` like the noise."""
        value, log_prob = noise, self._log_prob_of_noise(noise)
        for transform in self.transforms:
            value, log_det = transform.call_and_ladj(value)  # type: ignore[attr-defined]  # added by zuko
            log_prob = log_prob - log_det
        drawn = self.gaussian.from_noise(value)
        self.remember(drawn.vector, log_prob)
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ``log q(value)``, shape ``value.shape[:-1]``."""
        log_prob = self.recall(value)
        if log_prob is None:
            noise, total = self.gaussian.scale.solve(value - self.loc), value.new_zeros(())
            for transform in reversed(self.transforms):
                noise, log_det = transform.inv.call_and_ladj(noise)  # type: ignore[attr-defined]  # added by zuko
                total = total + log_det
            log_prob = self._log_prob_of_noise(noise) + total
        return log_prob - self.gaussian.scale.log_abs_det()

    def _log_prob_of_noise(self, noise: Tensor) -> Tensor:
        return -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1)


@has_fast_density.register
def _(q: FlowDistribution) -> bool:
    return q.passes <= _FAST_PASSES


@implausible.register
def _(q: FlowDistribution) -> Tensor | None:
    return implausible(q.gaussian)


def _import_zuko() -> Any:
    # Importing zuko disables argument validation for every distribution of the process. Its default for arg_constraints
    # stays: it affects only classes without their own, and zuko's need it.
    validate = Distribution._validate_args
    try:
        return require("zuko", extra="flows", purpose="the family Flow")
    finally:
        Distribution.set_default_validate_args(validate)


def _affine(shift: Tensor, scale: Tensor) -> Transform:
    transform: Callable[..., Transform] = _import_zuko().transforms.MonotonicAffineTransform
    return transform(shift, scale)


def _spline(shift: Tensor, scale: Tensor, widths: Tensor, heights: Tensor, derivatives: Tensor) -> Transform:
    transforms = _import_zuko().transforms
    spline = transforms.MonotonicRQSTransform(widths, heights, derivatives)
    composed: Transform = transforms.ComposedTransform(spline, _affine(shift, scale))
    return composed
