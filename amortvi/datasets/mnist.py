"""MNIST from its four IDX files (LeCun, Cortes and Burges)."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amortvi.datasets.splits import ImageSplits
from amortvi.errors import DataError

__all__ = ["mnist"]


def mnist(folder: str | Path | None = None) -> ImageSplits:
    """Return MNIST, 60,000 images to train and 10,000 to test, as intensities in [0, 1].

    Other data in files of these names and this format, such as Fashion-MNIST, are read as well.

    Args:
        folder: where the IDX files are, gzipped or not; by default the folder ``mnist`` in the folder that the
            environment variable ``AMORTVI_DATA`` names, or that folder itself.

    Raises:
        DataError: no folder is named, a file is missing or damaged, or the files do not belong together.
    """
    place = _folder(folder)
    x_train, labels_train = _read_part(place, "train")
    x_test, labels_test = _read_part(place, "t10k")
    side = x_train.shape[1]
    if x_test.shape[1] != side:
        raise DataError(f"the images in {place} are of {side} pixels a side to train, of {x_test.shape[1]} to test.")
    return ImageSplits(x_train.flatten(1), x_test.flatten(1), labels_train, labels_test, side=side, name="MNIST")


def _folder(folder: str | Path | None) -> Path:
    if folder is not None:
        return Path(folder)
    named = os.environ.get("AMORTVI_DATA")
    if not named:
        raise DataError(
            "MNIST was not found: give the folder of its IDX files, or name that in the environment variable "
            "AMORTVI_DATA."
        )
    inside = Path(named) / "mnist"
    return inside if inside.is_dir() else Path(named)


def _read_part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Return images ``(N, side, side)`` in [0, 1] and labels ``(N,)``."""
    images, labels = _read(folder, f"{part}-images-idx3-ubyte"), _read(folder, f"{part}-labels-idx1-ubyte")
    if images.dim() != 3 or images.shape[1] != images.shape[2] or images.numel() == 0:
        raise DataError(f"{part}-images-idx3-ubyte in {folder} must hold square images; it has {tuple(images.shape)}.")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{folder} has {len(images)} images, but labels of {tuple(labels.shape)}, in its {part} files.")
    return images.float() / 255, labels.long()


def _read(folder: Path, name: str) -> Tensor:
    plain, zipped = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        content = plain.read_bytes()
    elif zipped.is_file():
        try:
            content = gzip.decompress(zipped.read_bytes())
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{name}.gz in {folder} is damaged: {error}. Download it again.") from error
    else:
        raise DataError(f"MNIST was not found: {folder} has neither {name} nor {name}.gz.")
    return _parse(content, f"{name} in {folder}")


def _parse(content: bytes, name: str) -> Tensor:
    """Two zero bytes, the type (8: unsigned bytes), the number of dimensions; each size, big-endian; the values."""
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{name} is not an IDX file of bytes.")
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[place : place + 4], "big") for place in range(4, start, 4)]
    values = np.frombuffer(content, dtype=np.uint8)[start:]
    if len(content) < start or values.size != np.prod(shape, dtype=object):
        raise DataError(f"{name} has {values.size} values where its header says {shape}: it is damaged.")
    return torch.from_numpy(values.reshape(shape).copy())
