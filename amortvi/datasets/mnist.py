"""MNIST from its four IDX files (LeCun, Cortes and Burges)."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amortvi.datasets.splits import ImageSplits
from amortvi.errors import DataError

__all__ = ["mnist"]


def mnist(folder: str | Path | None = None) -> ImageSplits:
    """Return MNIST, 60,000 images to train and 10,000 to test, as intensities in [0, 1].

    Args:
        folder: where the IDX files are, gzipped or not; by default the folder ``mnist`` in the folder that the
            environment variable ``AMORTVI_DATA`` names, or that folder itself.

    Raises:
        DataError: no folder is named, a file is missing, or a file is not in the IDX format.
    """
    place = _folder(folder)
    return ImageSplits(
        _read(place, "train-images-idx3-ubyte").flatten(1).float() / 255,
        _read(place, "t10k-images-idx3-ubyte").flatten(1).float() / 255,
        _read(place, "train-labels-idx1-ubyte").long(),
        _read(place, "t10k-labels-idx1-ubyte").long(),
        side=28,
        name="MNIST",
    )


def _folder(folder: str | Path | None) -> Path:
    if folder is not None:
        return Path(folder)
    named = os.environ.get("AMORTVI_DATA")
    if not named:
        raise DataError(
            "MNIST was not found: give the folder of its IDX files, or name it in the environment variable AMORTVI_DATA."
        )
    inside = Path(named) / "mnist"
    return inside if inside.is_dir() else Path(named)


def _read(folder: Path, name: str) -> Tensor:
    plain, zipped = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        content = plain.read_bytes()
    elif zipped.is_file():
        content = gzip.decompress(zipped.read_bytes())
    else:
        raise DataError(f"MNIST was not found: {folder} has neither {name} nor {name}.gz.")
    # Two zero bytes, the type (8: unsigned bytes), the number of dimensions, then each size as a big-endian integer.
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{name} in {folder} is not an IDX file of bytes.")
    dimensions = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4).astype(int)
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions)
    if values.size != shape.prod():
        raise DataError(f"{name} in {folder} has {values.size} values where its header says {shape.prod()}.")
    return torch.from_numpy(values.reshape(shape).copy())
