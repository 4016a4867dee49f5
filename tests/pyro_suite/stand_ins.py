"""Small random data and inert packages in place of what the examples download or only draw with."""

from __future__ import annotations

import pickle
import sys
from functools import reduce
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import torch
from torch.utils.data import Dataset

INERT = ("seaborn", "visdom", "wget")


class Digits(Dataset):
    """Random images of the number, shape and type of MNIST, with the interface of `torchvision.datasets.MNIST`."""

    def __init__(self, root: str, train: bool = True, transform: object = None, download: bool = True) -> None:
        images = np.random.default_rng(train).integers(0, 256, (100, 28, 28), dtype=np.uint8)
        repetitions = 600 if train else 100
        self.data = torch.from_numpy(images).repeat(repetitions, 1, 1)
        self.targets = torch.arange(100).remainder(10).repeat(repetitions)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.data[index].float().unsqueeze(0) / 255, int(self.targets[index])


def write_data(folder: Path) -> None:
    """Write the data sets in the files in which the examples look for them before they download them."""
    rng = np.random.default_rng(0)
    # The lengths of the sequences differ, and one batch holds them all, so that batches have one shape.
    lengths = [8, 10, 12, 12] * 5
    music = {"sequences": [torch.from_numpy(rng.integers(0, 2, (n, 88))).float() for n in lengths]}
    music["sequence_lengths"] = torch.tensor(lengths)
    with open(folder / "jsb_chorales.pkl", "wb") as file:
        pickle.dump(dict.fromkeys(("train", "valid", "test"), music), file)
    counts = torch.from_numpy(rng.poisson(50.0, (24 * 7 * 4, 2, 2))).float()
    torch.save({"stations": ["EMBR", "12TH"], "counts": counts}, folder / "bart_full.pkl")
    np.savetxt(folder / "faces_training.csv", rng.integers(0, 256, (16, 64 * 64)), fmt="%d", delimiter=",")
    objects = np.empty(64, dtype=object)
    objects[:] = [[digit] for digit in range(64)]
    np.savez(folder / "multi_mnist_uint8.npz", x=rng.integers(0, 256, (64, 50, 50), dtype=np.uint8), y=objects)


def install(folder: Path) -> None:
    """Let the example that runs next in this process use the data in ``folder`` and the inert packages."""
    for name in INERT:
        sys.modules[name] = MagicMock()
    vision = ModuleType("torchvision")
    for part in ("datasets", "transforms", "utils"):
        setattr(vision, part, ModuleType(f"torchvision.{part}"))
    vision.datasets.MNIST = Digits
    vision.transforms.Compose = lambda transforms: lambda x: reduce(lambda value, each: each(value), transforms, x)
    vision.transforms.ToTensor = vision.transforms.Normalize = MagicMock()
    vision.transforms.functional = ModuleType("torchvision.transforms.functional")
    vision.transforms.functional.to_tensor = lambda image: image
    vision.utils.make_grid = vision.utils.save_image = MagicMock()
    for module in (vision, vision.datasets, vision.transforms, vision.utils):
        sys.modules[module.__name__] = module

    import pyro.contrib.examples.util

    pyro.contrib.examples.util.get_data_directory = lambda filepath=None: str(folder)
