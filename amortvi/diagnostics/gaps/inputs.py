"""The scale of the numbers that an encoder receives, which decides whether it can be trained with the usual learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amortvi._util.modes import evaluation_mode
from amortvi.posterior import Posterior

__all__ = ["InputScale", "read_inputs"]

_ROWS = 1000
_LARGE = 5.0
"""The largest root mean square of a feature with which a network trains well; that of a standardized feature is 1."""
_SMALL = 0.02
"""The smallest standard deviation of a feature that a network sees easily."""
_HARMFUL = 20.0
"""A value that a network cannot ignore; standardized values of a rare feature, such as a pixel that is seldom on, reach ten."""
_OUTLYING = 8.0
"""The number of standard deviations beyond which a value is due to a heavy tail: a normal one would occur once in 1e15."""


@dataclass(frozen=True)
class InputScale:
    """The scale of the inputs of the first layer of an encoder over some observations.

    What happens before that layer, such as a standardization inside the encoder, is taken into account.

    Args:
        largest: the largest absolute value.
        typical: the root mean square of the largest feature.
        variation: the standard deviation of the feature that varies most.
        outlying: the largest distance of a value from the mean of its feature, in standard deviations; zero for features whose
            values are all small.
        smallest: the smallest value.
    """

    largest: float
    typical: float
    variation: float
    outlying: float
    smallest: float

    @property
    def problem(self) -> str:
        """What makes training hard, and the remedy, in a sentence; empty if there is no such problem."""
        if self.outlying > _OUTLYING:
            transform = "torch.log1p" if self.smallest >= 0 else "torch.asinh"
            return (
                f"The encoder's inputs are skewed and large (up to {self.largest:.3g}, {self.outlying:.0f} standard deviations "
                f"from the mean): give the encoder {transform} of the data, and standardize it, before anything else."
            )
        if self.typical > _LARGE or 0 < self.variation < _SMALL:
            return (
                f"The encoder's inputs are not standardized (root mean square up to {self.typical:.3g}, standard deviation up "
                f"to {self.variation:.3g}): standardize them, or take their logarithm, before anything else."
            )
        return ""


def read_inputs(posterior: Posterior) -> InputScale | None:
    """Return the scale of the inputs of the first layer with parameters, or ``None`` if they are not floating-point numbers.

    Args:
        posterior: the posterior of the encoder for some observations.
    """
    encoder, batch = posterior.network.encoder, posterior.observations.first(_ROWS).arguments().to(posterior.device)
    seen: list[Tensor] = []

    def record(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if not seen:
            seen.extend(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))

    layers = [module for module in encoder.modules() if next(module.parameters(recurse=False), None) is not None]
    handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    try:
        with torch.no_grad(), evaluation_mode(posterior.network):
            posterior.network.context(batch)
    finally:
        for handle in handles:
            handle.remove()
    features = [_features(value, batch.size) for value in seen if value.is_floating_point() and value.numel()]
    return _scale_of(features) if features else None


def _features(value: Tensor, observations: int) -> Tensor:
    """Return the values of each feature as columns."""
    rows = value.detach().cpu().double()
    return rows.reshape(observations, -1) if rows.dim() and rows.shape[0] == observations else rows.reshape(-1, 1)


def _scale_of(parts: list[Tensor]) -> InputScale:
    typical, variation, outlying = [], [], []
    for columns in parts:
        mean, std = columns.mean(0), columns.std(0, correction=0)
        varying = std > 0
        distance = ((columns - mean).abs() / std)[:, varying]
        typical.append(float(columns.square().mean(0).sqrt().max()))
        variation.append(float(std.max()))
        harmful = (columns.abs().amax(0) > _HARMFUL)[varying]
        outlying.append(float(distance[:, harmful].max()) if bool(harmful.any()) else 0.0)
    largest = max(float(columns.abs().max()) for columns in parts)
    smallest = min(float(columns.min()) for columns in parts)
    return InputScale(largest, max(typical), max(variation), max(outlying), smallest)
