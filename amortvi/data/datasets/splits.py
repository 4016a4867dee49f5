"""Images with labels, split for training and testing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["ImageSplits"]


@dataclass(frozen=True)
class ImageSplits:
    """Flattened images with intensities in [0, 1], and their labels.

    Args:
        x_train: ``(N, side * side)``.
        x_test: ``(M, side * side)``.
        labels_train: ``(N,)``, integers.
        labels_test: ``(M,)``, integers.
        side: the side length of an image, in pixels.
        name: the name of the data set.
    """

    x_train: Tensor
    x_test: Tensor
    labels_train: Tensor
    labels_test: Tensor
    side: int
    name: str
