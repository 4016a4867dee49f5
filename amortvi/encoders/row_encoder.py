"""What the encoders of sets and sequences share: how they read rows of unequal number, and which of them count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from amortvi._util.checks import nonnegative_int, positive_int

__all__ = ["RowEncoder"]


class RowEncoder(nn.Module, ABC):
    """The base of encoders whose observations consist of rows, of which a mask says which count.

    What stands in the other rows, and how many there are, has no effect on the context.

    Args:
        in_features: the number of elements of one row; with a mask of single elements, twice as many.
        other_features: the number of elements per observation of the arguments after values and mask.

    Raises:
        OptionError: ``in_features`` is not a positive integer, or ``other_features`` not a nonnegative one.
    """

    casts_integers: ClassVar[bool] = True
    shares_weights: ClassVar[str] = "rows"

    def __init__(self, in_features: int, other_features: int) -> None:
        super().__init__()
        self.in_features = positive_int("in_features", in_features)
        self.other_features = nonnegative_int("other_features", other_features)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Return the context ``(B, C)`` of the model's arguments, positional or by keyword, in this order.

        Args:
            *inputs: the values, ``(B, L)`` or ``(B, L, *features)``; then, optionally, a boolean mask, ``(B, L)``, of the rows
                that count, or one of the single elements that were observed, in the shape of the values, which the network
                then reads along with them; without a mask, all rows count. Others are one per observation, ``(B, ...)``.
            **named: the same by keyword.
        """
        values, *others = (*inputs, *named.values())
        dtype = next((p.dtype for p in self.parameters()), torch.get_default_dtype())
        shapes = [tuple(value.shape) for value in (values, *others)]
        if values.dim() < 2:
            raise ValueError(
                f"{type(self).__name__} expects values of shape (B, L) or (B, L, features); got inputs of shape {shapes}"
            )
        elements = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        if others and others[0].dtype is torch.bool:
            elements = others.pop(0)
            if elements.shape not in (values.shape[:2], values.shape):
                raise ValueError(
                    f"{type(self).__name__} expects a mask of shape {tuple(values.shape[:2])} (rows) or {shapes[0]} "
                    f"(elements), like the values; got a boolean argument of shape {tuple(elements.shape)}"
                )
        rows, seen = (each.reshape(*each.shape[:2], -1) for each in (values.to(dtype), elements))
        # Whatever fills the other places, even infinity, must reach neither the context nor its gradient.
        rows = rows.masked_fill(~seen, 0.0)
        if elements.dim() > 2:
            rows = torch.cat([rows, seen.to(dtype)], dim=2)
        flat = [other.reshape(len(other), -1).to(dtype) for other in others]
        extra = torch.cat(flat, dim=1) if flat else rows.new_zeros(len(rows), 0)
        if (rows.shape[2], extra.shape[1]) != (self.in_features, self.other_features):
            raise ValueError(
                f"{type(self).__name__} expects in_features={self.in_features} elements per row and "
                f"other_features={self.other_features} elements per observation in the arguments after values and mask; got "
                f"{rows.shape[2]} and {extra.shape[1]}, from inputs of shape {shapes}. A mask must be boolean."
            )
        return self.encode(rows, seen.any(2), extra)

    @abstractmethod
    def encode(self, rows: Tensor, mask: Tensor, others: Tensor) -> Tensor:
        """Return the context ``(B, C)``.

        Args:
            rows: ``(B, L, in_features)``, zero where ``mask`` is ``False``.
            mask: which rows count, ``(B, L)``.
            others: the other arguments, ``(B, other_features)``.
        """
