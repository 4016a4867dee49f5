"""The same observations in every form that users may pass as ``x``."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

ROWS, FEATURES = 37, 3  # with batches of eight, the last one is smaller


def data() -> Tensor:
    return torch.randn(ROWS, FEATURES, generator=torch.Generator().manual_seed(0))


def counts() -> Tensor:
    return torch.poisson(torch.ones(ROWS), generator=torch.Generator().manual_seed(1)).long()


def double() -> np.ndarray:
    return data().numpy().astype(np.float64)


def frame() -> pd.DataFrame:
    index = [f"row {i}" for i in range(ROWS)]
    return pd.DataFrame(double(), columns=["a", "b", "c"], index=index)


class Rows(list, Dataset):
    """A data set that is not a `TensorDataset`."""


class Stream(IterableDataset[Any]):
    """A data set without a length."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


FORMS: dict[str, Callable[[], Any]] = {
    "tensor": data,
    "with gradients": lambda: data().requires_grad_(),
    "a view": lambda: torch.cat([data(), data()], dim=1)[:, :FEATURES],
    "float32": lambda: data().numpy(),
    "float64": double,
    "big endian": lambda: data().numpy().astype(">f8"),
    "long double": lambda: data().numpy().astype(np.longdouble),
    "Fortran order": lambda: np.asfortranarray(data().numpy()),
    "read only": lambda: np.frombuffer(data().numpy().tobytes(), np.float32).reshape(ROWS, FEATURES),
    "negative strides": lambda: data().numpy()[::-1].copy()[::-1],
    "frame": frame,
    "nullable frame": lambda: frame().astype("Float64"),
    "nested list": lambda: data().tolist(),
    "tuple of arrays": lambda: (double(),),
    "tensor data set": lambda: TensorDataset(data()),
    "data set": lambda: Rows(data()),
    "data set of arrays of doubles": lambda: Rows(double()),
    "data set of tuples": lambda: Rows([(row,) for row in data()]),
    "stream": lambda: Stream(data()),
    "loader": lambda: DataLoader(Rows(data()), batch_size=8),
    "loader of a tensor data set": lambda: DataLoader(TensorDataset(data()), batch_size=5),
    "loader of a stream": lambda: DataLoader(Stream(data()), batch_size=8),
    "loader without automatic batching": lambda: DataLoader(Rows(data().split(8)), batch_size=None),
    "loader of doubles": lambda: DataLoader(TensorDataset(data().double()), batch_size=8),
    "two tensors": lambda: (data(), counts()),
    "two arrays": lambda: (double(), counts().numpy()),
    "frame and series": lambda: (frame(), pd.Series(counts().numpy())),
    "two lists": lambda: (data().tolist(), counts().tolist()),
    "data set of two tensors": lambda: TensorDataset(data(), counts()),
    "32 bits": lambda: (data(), counts().int()),
    "unsigned": lambda: (data(), counts().numpy().astype(np.uint32)),
    "loader of pairs": lambda: DataLoader(Rows(zip(data(), counts(), strict=True)), batch_size=8),
    "dict of tensors": lambda: {"x": data(), "y": counts()},
    "dict of a frame and an array": lambda: {"x": frame(), "y": counts().numpy()},
    "loader of dicts": lambda: DataLoader(Rows({"x": data()[i], "y": counts()[i]} for i in range(ROWS)), batch_size=8),
}
"""Forms of `data`, alone or with `counts` as a second argument, positional or by keyword."""
