"""A small convolutional encoder for square images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from amortvi._util.checks import positive_int
from amortvi.encoders._widths import checked_widths
from amortvi.errors import OptionError

__all__ = ["Conv"]


class Conv(nn.Module):
    """Strided convolutions, then one that covers what is left of the image and gives the context.

    Args:
        size: the side of the image in pixels, such as 28 or 8.
        out_features: ``C``. The last layer is linear, so with ``2 * latents`` and a family made with ``head=False`` it
            gives mean and log scale itself.
        in_channels: channels of the image; images come as ``(B, in_channels, size, size)`` or flattened, those with one
            channel as ``(B, size, size)`` too.
        channels: the channels of the strided layers, each halving the side.
        activation: makes one activation module.

    Raises:
        OptionError: an option is not a positive integer, or ``size`` is too small to be halved ``len(channels)`` times.

    Example:
        >>> import torch
        >>> Conv(28, out_features=16)(torch.zeros(5, 784)).shape
        torch.Size([5, 16])
    """

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
        widths = checked_widths("channels", channels)
        if self.size < 2 ** len(widths):
            raise OptionError(f"size={size} cannot be halved {len(widths)} times; give fewer channels.")
        self.layers = nn.Sequential()
        previous, side = self.in_channels, self.size
        for width in widths:
            self.layers.append(nn.Conv2d(previous, width, kernel_size=3, stride=2, padding=1))
            self.layers.append(activation())
            previous, side = width, (side + 1) // 2
        self.layers.append(nn.Conv2d(previous, self.out_features, kernel_size=side))

    def forward(self, images: Tensor) -> Tensor:
        """Return the context ``(B, C)`` of images in any of the accepted layouts."""
        plane = (self.size, self.size)
        layouts = [(self.in_channels * self.size**2,), (self.in_channels, *plane)]
        if self.in_channels == 1:
            layouts.insert(1, plane)
        # Any other layout, such as one with the channels last, could be reshaped too, to an image that is scrambled.
        if tuple(images.shape[1:]) not in layouts:
            raise ValueError(
                f"Conv(size={self.size}, in_channels={self.in_channels}) takes images of shape "
                f"{' or '.join(map(str, layouts))}; got {tuple(images.shape[1:])}"
            )
        dtype = next((p.dtype for p in self.parameters()), torch.get_default_dtype())
        planes = images.reshape(-1, self.in_channels, self.size, self.size).to(dtype)
        context: Tensor = self.layers(planes).flatten(1)
        return context
