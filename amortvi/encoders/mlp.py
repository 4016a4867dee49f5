"""A multilayer perceptron as encoder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from amortvi._util.checks import layer_widths, positive_int
from amortvi.errors import OptionError

__all__ = ["MLP"]


class MLP(nn.Module):
    """Fully connected layers, each followed by an activation. Observations of any shape are flattened.

    Args:
        in_features: the number of elements of one observation, over all arguments of the model.
        hidden: the width of each layer; the last width is ``C``, the size of the context. Without layers, the context is the
            flattened observation, so the parameters of the posterior are linear in it.
        activation: returns a new activation module, such as the class ``nn.ReLU``.
        dropout: the dropout probability after each activation.

    Raises:
        OptionError: a width is not a positive integer, or ``dropout`` is not in [0, 1).

    Example:
        >>> import torch
        >>> MLP(64, [32, 16])(torch.zeros(5, 8, 8)).shape
        torch.Size([5, 16])
    """

    casts_integers: ClassVar[bool] = True

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (128, 128),
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [positive_int("in_features", in_features), *layer_widths("hidden", hidden)]
        if not 0 <= dropout < 1:
            raise OptionError(f"dropout must be a probability below 1; got {dropout}.")
        self.layers = nn.Sequential()
        for width_in, width_out in itertools.pairwise(widths):
            self.layers.append(nn.Linear(width_in, width_out))
            self.layers.append(activation())
            if dropout:
                self.layers.append(nn.Dropout(dropout))
        self.in_features = widths[0]
        self.out_features = widths[-1]

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Return the context ``(B, C)`` of inputs ``(B, ...)`` with ``in_features`` elements per observation."""
        rows = [value.flatten(1) if value.dim() > 1 else value.unsqueeze(1) for value in (*inputs, *named.values())]
        # Integers, such as counts and labels, are cast to the type of the layers.
        dtype = next((p.dtype for p in self.parameters()), torch.get_default_dtype())
        flat = torch.cat([row if row.is_floating_point() else row.to(dtype) for row in rows], dim=1)
        if flat.shape[1] != self.in_features:
            raise ValueError(
                f"MLP expects in_features={self.in_features} elements per observation; got {flat.shape[1]}, from inputs of "
                f"shape {[tuple(value.shape) for value in (*inputs, *named.values())]}"
            )
        return self.layers(flat)
