"""The 1,797 digits of 8 by 8 pixels that ship with scikit-learn (Alpaydin and Kaynak, 1998)."""

from __future__ import annotations

import torch

from amortvi._util.checks import seed_or_none
from amortvi._util.lazy import require
from amortvi.data.datasets.splits import ImageSplits

__all__ = ["digits"]

_TEST = 360


def digits(*, seed: int = 0) -> ImageSplits:
    """Return the digits as intensities in [0, 1]: 1,437 training and 360 test images of 8 by 8 pixels.

    Args:
        seed: seed of the split.

    Returns:
        The images and labels.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
        OptionError: the seed is not an integer in range.

    Example:
        >>> digits().x_train.shape
        torch.Size([1437, 64])
    """
    generator = torch.Generator().manual_seed(seed_or_none(seed) or 0)
    loader = require("sklearn.datasets", extra="examples", purpose="the digits data")
    bunch = loader.load_digits()
    order = torch.randperm(len(bunch.target), generator=generator)
    x = torch.tensor(bunch.data, dtype=torch.float32)[order] / 16
    labels = torch.tensor(bunch.target)[order]
    return ImageSplits(x[_TEST:], x[:_TEST], labels[_TEST:], labels[:_TEST], side=8, name="digits")
