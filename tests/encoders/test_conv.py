"""The convolutional encoder: the context does not depend on the layout of the images."""

import pytest
import torch
from torch import nn

from amortvi.encoders import Conv
from amortvi.errors import OptionError


@pytest.mark.parametrize("size", [28, 8, 7, 4])
def test_layouts_are_equivalent(size: int) -> None:
    encoder = Conv(size, out_features=6)
    images = torch.rand(5, 1, size, size)
    context = encoder(images)
    assert context.shape == (5, 6)
    torch.testing.assert_close(encoder(images.squeeze(1)), context)
    torch.testing.assert_close(encoder(images.flatten(1)), context)


def test_channels() -> None:
    encoder = Conv(8, out_features=6, in_channels=3, channels=(4,), activation=nn.Tanh)
    images = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(encoder(images.flatten(1)), encoder(images))
    assert encoder.out_features == 6
    assert Conv(8, 6, channels=())(torch.rand(5, 64)).shape == (5, 6)


def test_every_pixel_affects_the_context() -> None:
    for size in (28, 8):
        images = torch.rand(1, size, size, requires_grad=True)
        Conv(size, out_features=1, activation=nn.Tanh)(images).sum().backward()
        assert (images.grad != 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_are_cast(dtype: torch.dtype) -> None:
    encoder = Conv(8, out_features=6).to(dtype)
    images = torch.randint(256, (5, 8, 8), dtype=torch.uint8)
    assert encoder(images).dtype == dtype
    torch.testing.assert_close(encoder(images), encoder(images.to(dtype)))


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("shape", [(5, 63), (5, 9, 9), (5, 2, 8, 8), (5, 8, 8, 3), (5, 64, 3), (5,)])
def test_other_layouts_are_refused(in_channels: int, shape: tuple[int, ...]) -> None:
    """Channels last would have the right number of elements, but scramble the images."""
    message = rf"Conv\(size=8, in_channels={in_channels}\) expects images of shape \(\d+,\) or .*; got"
    with pytest.raises(ValueError, match=message):
        Conv(8, in_channels=in_channels)(torch.rand(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be a positive integer"),
        ({"out_features": 0}, "out_features must be a positive integer"),
        ({"in_channels": -1}, "in_channels must be a positive integer"),
        ({"channels": (8, 0)}, "each width in channels must be a positive integer; got 0"),
        ({"channels": 8}, r"channels must be a sequence of widths, one per layer, such as \[8\]; got 8"),
        ({"size": 3}, "size=3 cannot be halved 2 times: pass fewer channels"),
    ],
)
def test_options_are_checked(options, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Conv(**options)
