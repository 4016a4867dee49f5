"""Data sets for examples, tests and benchmarks."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amortvi._util.checks import seed_or_none
from amortvi._util.lazy import require
from amortvi.errors import DataError

__all__ = ["ImageSplits", "digits", "mnist"]


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


_TEST = 360
MOST_VALUES = 2**30
"""The largest number of values in an IDX file; a header that says more is taken for damaged."""
_PART = 2**20  # a file that ends before its header says does not cause a large allocation


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


def mnist(folder: str | Path | None = None) -> ImageSplits:
    """Return MNIST as intensities in [0, 1]: 60,000 training and 10,000 test images.

    Other data sets in files of the same names and format, such as Fashion-MNIST, can be read too.

    Args:
        folder: the folder of the IDX files, gzipped or not; by default the folder ``mnist`` inside the folder given by the
            environment variable ``AMORTVI_DATA``, or that folder itself.

    Returns:
        The images and labels.

    Raises:
        DataError: no folder is given, a file is missing, damaged or holds more than `MOST_VALUES` values, or the files do not
            belong together.
    """
    place = _folder(folder)
    x_train, labels_train = _read_part(place, "train")
    x_test, labels_test = _read_part(place, "t10k")
    side = x_train.shape[1]
    if x_test.shape[1] != side:
        raise DataError(
            f"the training images in {place} have sides of {side} pixels, the test images of {x_test.shape[1]}; the files "
            f"must belong to the same data set."
        )
    return ImageSplits(x_train.flatten(1), x_test.flatten(1), labels_train, labels_test, side=side, name="MNIST")


def _folder(folder: str | Path | None) -> Path:
    if folder is not None:
        if not isinstance(folder, str | os.PathLike):
            raise DataError(f"folder must be a path; got {type(folder).__name__}.")
        return Path(folder)
    named = os.environ.get("AMORTVI_DATA")
    if not named:
        raise DataError(
            "MNIST was not found: pass the folder of its IDX files, or set the environment variable AMORTVI_DATA to the "
            "folder that contains it."
        )
    inside = Path(named) / "mnist"
    return inside if inside.is_dir() else Path(named)


def _read_part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Return images ``(N, side, side)`` in [0, 1] and labels ``(N,)``."""
    images, labels = _read(folder, f"{part}-images-idx3-ubyte"), _read(folder, f"{part}-labels-idx1-ubyte")
    if images.dim() != 3 or images.shape[1] != images.shape[2]:
        raise DataError(
            f"{part}-images-idx3-ubyte in {folder} must hold square images; its shape is {tuple(images.shape)}."
        )
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"the {part} files in {folder} hold {len(images)} images, but labels of shape {tuple(labels.shape)}."
        )
    return images.float() / 255, labels.long()


def _read(folder: Path, name: str) -> Tensor:
    plain, zipped = folder / name, folder / f"{name}.gz"
    try:
        if plain.is_file():
            with plain.open("rb") as file:
                return _parse(file, f"{name} in {folder}")
        if zipped.is_file():
            with gzip.open(zipped) as file:
                return _parse(file, f"{name}.gz in {folder}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name}.gz in {folder} is damaged: {error}. Download it again.") from error
    except OSError as error:
        raise DataError(f"{name} in {folder} cannot be read: {error}.") from error
    raise DataError(f"MNIST was not found: {folder} has neither {name} nor {name}.gz.")


def _parse(file: BufferedIOBase, name: str) -> Tensor:
    """Parse two zero bytes, the type (8: unsigned bytes), the number of dimensions, the sizes (big-endian) and the values.

    Not more is read, decompressed or allocated than the file holds, nor more than its header says.
    """
    begin = file.read(4)
    if len(begin) < 4 or begin[:3] != b"\0\0\x08":
        raise DataError(f"{name} is not an IDX file of bytes.")
    sizes = file.read(4 * begin[3])
    shape = [int.from_bytes(sizes[place : place + 4], "big") for place in range(0, len(sizes), 4)]
    if len(sizes) < 4 * begin[3] or not 1 <= len(shape) <= 3 or not 0 < math.prod(shape) <= MOST_VALUES:
        raise DataError(
            f"{name} is damaged: its header must give one to three sizes with a product from 1 to {MOST_VALUES}; it gives "
            f"{shape[:4]}{' and more' if len(shape) > 4 else ''}."
        )
    values, expected = bytearray(), math.prod(shape)
    while len(values) <= expected and (part := file.read(min(_PART, expected + 1 - len(values)))):
        values += part
    if len(values) != expected:
        found = f"{len(values)} values" if len(values) < expected else "more values"
        raise DataError(f"{name} is damaged: it has {found} where its header says {shape}.")
    return torch.from_numpy(np.frombuffer(values, dtype=np.uint8).reshape(shape))
