r"""Standardization of what the encoder reads, with statistics of the training data.

A network learns slowly, or not at all, from inputs on a large or uneven scale. Each feature is shifted by its mean and divided by
its standard deviation. A feature with heavy tails, such as raw counts, is shifted by its median, divided by its median absolute
deviation, and compressed:

.. math::

    x \mapsto \operatorname{arsinh}\Bigl(\frac{x - m}{s}\Bigr),

which is linear near the median and logarithmic in the tails. Only the encoder reads the result; the model reads the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amortvi.data import Batch

__all__ = ["Standardization"]

_HEAVY = 10
"""A feature has heavy tails if its largest deviation from the median is this many times the typical one. In a million normal
numbers, it is five times."""
_LOWEST_SCALE = 0.1
"""The lowest scale of a feature, relative to that of all features of an argument: pixels at the border hardly vary."""
_MAD_TO_STD = 1.4826


class Standardization(nn.Module):
    """Maps a batch of the model's arguments to a batch of standardized ones; without statistics, it changes nothing.

    Each feature of a vector has its own statistics. All features of an image, or of another array, have the same, so that an
    encoder that treats them alike, such as a convolutional one, still can.
    """

    @classmethod
    def of(cls, batch: Batch, *, casts_integers: bool, shares_weights: bool) -> Standardization:
        """Return the standardization with the statistics of the arguments of a batch.

        Args:
            batch: a representative sample.
            casts_integers: whether the encoder casts integers to floating-point numbers; otherwise they may be indices.
            shares_weights: whether the encoder treats all features alike, even those of a vector.
        """
        made = cls()
        for number, value in enumerate(batch.tensors()):
            is_alike = shares_weights or value.dim() > 2
            changes = value.is_floating_point() or casts_integers
            made.add_module(str(number), _Transform(value, is_alike=is_alike) if changes else nn.Identity())
        return made.to(next(batch.tensors()).device)

    def forward(self, batch: Batch) -> Batch:
        """Return the standardized arguments."""
        parts = list(self.children())
        if not parts:
            return batch
        changed = iter([part(value) for part, value in zip(parts, batch.tensors(), strict=True)])
        return batch.map(lambda _: next(changed))


class _Transform(nn.Module):
    """The map of one argument.

    Args:
        value: the observations, ``(N, *event)``.
        is_alike: whether all features have the same statistics.
    """

    loc: Tensor
    scale: Tensor
    heavy: Tensor

    def __init__(self, value: Tensor, *, is_alike: bool) -> None:
        super().__init__()
        floating = _as_floating(value)
        rows = floating.reshape(-1, 1) if is_alike else floating.reshape(len(value), -1)
        spread = rows.std(0, correction=0)
        median = rows.median(0).values
        deviation = _MAD_TO_STD * (rows - median).abs().median(0).values
        deviation = torch.where(deviation > 0, deviation, spread)
        heavy = (rows - median).abs().amax(0) > _HEAVY * deviation
        scale = torch.where(heavy, deviation, spread)
        scale = scale.clamp(min=_LOWEST_SCALE * float(scale.square().mean().sqrt()))
        shape = (1,) * (value.dim() - 1) if is_alike else value.shape[1:]
        self.register_buffer("loc", torch.where(heavy, median, rows.mean(0)).reshape(shape))
        self.register_buffer("scale", torch.where(scale > 0, scale, 1.0).reshape(shape))
        self.register_buffer("heavy", heavy.reshape(shape))
        self._has_heavy = bool(heavy.any())

    def forward(self, value: Tensor) -> Tensor:
        standardized = (_as_floating(value) - self.loc) / self.scale
        return torch.where(self.heavy, standardized.asinh(), standardized) if self._has_heavy else standardized

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *others)
        self._has_heavy = bool(self.heavy.any())


def _as_floating(value: Tensor) -> Tensor:
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())
