r"""Standardization of what the encoder reads, with statistics of the training data.

A network learns slowly, or not at all, from inputs on a large or uneven scale. Each feature is shifted by its mean and divided by
its standard deviation. A feature with heavy tails, such as raw counts, is shifted by its median, divided by its median absolute
deviation, and compressed:

.. math::

    x \mapsto \operatorname{arsinh}\Bigl(\frac{x - m}{s}\Bigr),

which is linear near the median and logarithmic in the tails. Only the encoder reads the result; the model reads the data.

Booleans are not changed. One that masks another argument, element by element or row by row, is recognized by what it excludes:
numbers that fill the place of missing values or pad a sequence, the same in all observations. They do not enter the statistics,
and the encoder reads zero in their place, the mean, whatever they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
    encoder that treats them alike, such as a convolutional one, still can. The rows of a set or a sequence have the same
    statistics, for each of their features.
    """

    @classmethod
    def of(cls, batch: Batch, *, casts_integers: bool, shares_weights: bool | Literal["rows"]) -> Standardization:
        """Return the standardization with the statistics of the arguments of a batch.

        Args:
            batch: a representative sample.
            casts_integers: whether the encoder casts integers to floating-point numbers; otherwise they may be indices.
            shares_weights: whether the encoder treats all features alike, even those of a vector; ``"rows"`` if it treats the
                rows of its first argument, ``(B, rows, *features)``, alike.
        """
        made = cls()
        values = list(batch.tensors())
        for number, value in enumerate(values):
            is_alike = shares_weights is True or value.dim() > 2
            shared = 2 if shares_weights == "rows" and number == 0 else value.dim() if is_alike else 1
            changes = value.is_floating_point() or (casts_integers and value.dtype is not torch.bool)
            made.add_module(str(number), _Transform(values, number, shared=shared) if changes else nn.Identity())
        return made.to(batch.device)

    def forward(self, batch: Batch) -> Batch:
        """Return the standardized arguments."""
        parts = list(self.children())
        if not parts:
            return batch
        values = list(batch.tensors())
        transformed = (
            part(value, values) if isinstance(part, _Transform) else value
            for part, value in zip(parts, values, strict=True)
        )
        changed = iter(list(transformed))
        return batch.map(lambda _: next(changed))


class _Transform(nn.Module):
    """The map of one argument.

    Args:
        values: the observations of all arguments, each ``(N, *event)``.
        number: the position of the argument among them.
        shared: the number of leading dimensions that have the same statistics; 1 if each feature has its own.
    """

    loc: Tensor
    scale: Tensor
    heavy: Tensor
    mask: Tensor

    def __init__(self, values: Sequence[Tensor], number: int, *, shared: int) -> None:
        super().__init__()
        value = _as_floating(values[number])
        shape = value.shape[shared:]
        columns = value.reshape(-1, math.prod(shape))
        position = _position_of_mask(values, number)
        if position is None:
            loc, scale, heavy = _statistics(columns)
        else:
            observed = _expanded(values[position], value).reshape(columns.shape)
            pairs = zip(columns.unbind(1), observed.unbind(1), strict=True)
            each = [_statistics(column[seen].unsqueeze(1)) for column, seen in pairs]
            loc, scale, heavy = (torch.cat(parts) for parts in zip(*each, strict=True))
        scale = scale.clamp(min=_LOWEST_SCALE * float(scale.square().mean().sqrt()))
        self.register_buffer("loc", loc.reshape(shape))
        self.register_buffer("scale", torch.where(scale > 0, scale, 1.0).reshape(shape))
        self.register_buffer("heavy", heavy.reshape(shape))
        self.register_buffer("mask", torch.tensor(-1 if position is None else position))
        self._note_constants()

    def forward(self, value: Tensor, values: Sequence[Tensor]) -> Tensor:
        standardized = (_as_floating(value) - self.loc) / self.scale
        if self._has_heavy:
            standardized = torch.where(self.heavy, standardized.asinh(), standardized)
        if self._position_of_mask is None:
            return standardized
        return standardized.masked_fill(~_expanded(values[self._position_of_mask], value), 0.0)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *others)
        self._note_constants()

    def _note_constants(self) -> None:
        """Keep what decides on the operations of `forward` as Python values, which a recorded step can read."""
        self._has_heavy = bool(self.heavy.any())
        self._position_of_mask = None if self.mask < 0 else int(self.mask)


def _statistics(columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return location and scale of each column, ``(features,)``, and whether it has heavy tails."""
    if not len(columns):  # a feature that was never observed
        zero = columns.new_zeros(columns.shape[1])
        return zero, zero, zero.bool()
    spread = columns.std(0, correction=0)
    median = columns.median(0).values
    deviation = _MAD_TO_STD * (columns - median).abs().median(0).values
    deviation = torch.where(deviation > 0, deviation, spread)
    heavy = (columns - median).abs().amax(0) > _HEAVY * deviation
    return torch.where(heavy, median, columns.mean(0)), torch.where(heavy, deviation, spread), heavy


def _position_of_mask(values: Sequence[Tensor], number: int) -> int | None:
    """Return the position of the argument that masks the one at ``number``, the next one first, or ``None``."""
    for position in (*range(number + 1, len(values)), *range(number)):
        if values[position].dtype is torch.bool and _masks(values[position], values[number]):
            return position
    return None


def _masks(mask: Tensor, value: Tensor) -> bool:
    """Return whether ``value`` is constant, over the observations, wherever ``mask`` is false.

    A boolean covariate or label is not: nothing may be lost by setting these elements to zero.
    """
    fits = mask.dim() > 1 or value.dim() == 1
    if not fits or value.shape[: mask.dim()] != mask.shape:
        return False
    excluded = ~_expanded(mask, value).reshape(len(value), -1)
    flat = _as_floating(value).reshape(len(value), -1)
    highest = flat.masked_fill(~excluded, -torch.inf).amax(0)
    lowest = flat.masked_fill(~excluded, torch.inf).amin(0)
    # One element alone is constant in any case.
    return bool((excluded.sum(0) > 1).any() and (highest <= lowest).all())


def _expanded(mask: Tensor, value: Tensor) -> Tensor:
    """Return a mask of the leading dimensions of ``value`` in its shape."""
    return mask.reshape(*mask.shape, *(1,) * (value.dim() - mask.dim())).expand_as(value)


def _as_floating(value: Tensor) -> Tensor:
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())
