"""A small convolutional encoder for square images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from amortvi._util.checks import layer_widths, positive_int
from amortvi.errors import OptionError

__all__ = ["Conv"]


class Conv(nn.Module):
    """Strided convolutions, followed by one that covers the remaining image and returns the context.

    Args:
        size: the side length of the images in pixels, such as 28 or 8.
        out_features: ``C``. The last layer is linear, so with ``2 * latents`` features and ``families.Diagonal(head=False)``,
            its output is the location and the log scale.
        in_channels: the number of channels. Images have shape ``(B, in_channels, size, size)`` or are flattened; those with
            one channel may also have shape ``(B, size, size)``.
        channels: the channels of the strided layers, each of which halves the side length.
        activation: returns a new activation module.

    Raises:
        OptionError: an option is not a positive integer, or ``size`` is too small to be halved ``len(channels)`` times.

    Example:
        >>> import torch
        >>> Conv(28, out_features=16)(torch.zeros(5, 784)).shape
        torch.Size([5, 16])
    """

    casts_integers: ClassVar[bool] = True
    shares_weights: ClassVar[bool] = True

    def __init__(
        self,
        size: int = 28,
        out_features: int = 128,
        *,
        in_channels: int = 1,
        channels: Sequence[int] = (32, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.size = positive_int("size", size)
        self.in_channels = positive_int("in_channels", in_channels)
        self.out_features = positive_int("out_features", out_features)
        widths = layer_widths("channels", channels)
        if self.size < 2 ** len(widths):
            raise OptionError(f"size={size} cannot be halved {len(widths)} times: pass fewer channels.")
        self.layers = nn.Sequential()
        previous, side = self.in_channels, self.size
        for width in widths:
            self.layers.append(nn.Conv2d(previous, width, kernel_size=3, stride=2, padding=1))
            self.layers.append(activation())
            previous, side = width, (side + 1) // 2
        self.layers.append(nn.Conv2d(previous, self.out_features, kernel_size=side))

    def forward(self, images: Tensor) -> Tensor:
        """Return the context ``(B, C)`` of images in one of the accepted layouts."""
        plane = (self.size, self.size)
        layouts = [(self.in_channels * self.size**2,), *[plane] * (self.in_channels == 1), (self.in_channels, *plane)]
        # Other layouts, such as channels last, could be reshaped too, but into scrambled images.
        if tuple(images.shape[1:]) not in layouts:
            raise ValueError(
                f"Conv(size={self.size}, in_channels={self.in_channels}) expects images of shape "
                f"{' or '.join(map(str, layouts))}; got {tuple(images.shape[1:])}"
            )
        dtype = next((p.dtype for p in self.parameters()), torch.get_default_dtype())
        planes = images.reshape(-1, self.in_channels, self.size, self.size).to(dtype)
        return self.layers(planes).flatten(1)
