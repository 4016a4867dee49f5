"""The same observations in every form that users may pass as ``x``."""

from collections.abc import Iterator
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


def frame() -> pd.DataFrame:
    index = [f"row {i}" for i in range(ROWS)]
    return pd.DataFrame(data().numpy().astype(np.float64), columns=["a", "b", "c"], index=index)


def read_only() -> np.ndarray:
    array = data().numpy().copy()
    array.flags.writeable = False
    return array


class Rows(Dataset[Any]):
    """A data set that is not a `TensorDataset`."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset[Any]):
    """A data set without a length."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


IN_MEMORY = {
    "tensor": data,
    "float32": lambda: data().numpy(),
    "float64": lambda: data().numpy().astype(np.float64),
    "big endian": lambda: data().numpy().astype(">f8"),
    "long double": lambda: data().numpy().astype(np.longdouble),
    "Fortran order": lambda: np.asfortranarray(data().numpy()),
    "read only": read_only,
    "negative strides": lambda: data().numpy()[::-1].copy()[::-1],
    "frame": frame,
    "nullable frame": lambda: frame().astype("Float64"),
    "nested list": lambda: data().tolist(),
    "tuple": lambda: (data(),),
    "tuple of arrays": lambda: (data().numpy().astype(np.float64),),
    "tensor data set": lambda: TensorDataset(data()),
    "with gradients": lambda: data().requires_grad_(),
    "a view": lambda: torch.cat([data(), data()], dim=1)[:, :FEATURES],
}
"""Forms of one argument that are in memory."""

TWO_ARGUMENTS = {
    "tensors": lambda: (data(), counts()),
    "arrays": lambda: (data().numpy().astype(np.float64), counts().numpy()),
    "frame and series": lambda: (frame(), pd.Series(counts().numpy())),
    "lists": lambda: (data().tolist(), counts().tolist()),
    "data set": lambda: TensorDataset(data(), counts()),
    "32 bits": lambda: (data(), counts().int()),
    "unsigned": lambda: (data(), counts().numpy().astype(np.uint32)),
    "loader": lambda: DataLoader(Rows(list(zip(data(), counts(), strict=True))), batch_size=8),
}
"""Forms of two arguments, the second with integers."""

READ_IN_ORDER = {
    "data set": lambda: Rows(data()),
    "data set of arrays of doubles": lambda: Rows(data().numpy().astype(np.float64)),
    "data set of tuples": lambda: Rows([(row,) for row in data()]),
    "stream": lambda: Stream(data()),
    "loader": lambda: DataLoader(Rows(data()), batch_size=8),
    "loader of a tensor data set": lambda: DataLoader(TensorDataset(data()), batch_size=5),
    "loader of a stream": lambda: DataLoader(Stream(data()), batch_size=8),
    "loader without automatic batching": lambda: DataLoader(Rows(data().split(8)), batch_size=None),
    "loader of doubles": lambda: DataLoader(TensorDataset(data().double()), batch_size=8),
}
"""Forms of one argument that are read in batches."""
