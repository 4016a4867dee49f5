"""Data sets over files that may be larger than memory, as the documentation shows them, and a fit in bounded memory.

``python -m tests.data.stores KIND FOLDER MEGABYTES`` writes a file of that size and fits a model to it, while the process may
allocate only a third of that.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zarr
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

import amortvi as avi

WIDTH = 500
_PART = 5_000


class ZarrStream(IterableDataset[Tensor]):
    """Whole chunks one after the other, each of which is read once."""

    def __init__(self, path: str | Path, shuffle: bool = False) -> None:
        self.array: Any = zarr.open_array(path, mode="r")
        self.shuffle = shuffle

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        size = self.array.chunks[0]
        count = -(-len(self) // size)
        for chunk in (torch.randperm(count) if self.shuffle else torch.arange(count)).tolist():
            values = torch.from_numpy(self.array[chunk * size : (chunk + 1) * size])
            yield from values[torch.randperm(len(values))] if self.shuffle else values


class ZarrRows(Dataset[Tensor]):
    """Rows by position, as a fit in several processes needs them; each minibatch reads all chunks that it touches."""

    def __init__(self, path: str | Path) -> None:
        self.array: Any = zarr.open_array(path, mode="r")

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:  # of one minibatch
        return list(self.array.oindex[rows])


class ParquetStream(IterableDataset[Tensor]):
    """Whole row groups one after the other."""

    def __init__(self, path: str | Path, shuffle: bool = False) -> None:
        self.path, self.shuffle = path, shuffle

    def __len__(self) -> int:
        return pq.ParquetFile(self.path).metadata.num_rows

    def __iter__(self) -> Iterator[Tensor]:
        with pq.ParquetFile(self.path) as file:
            groups = file.num_row_groups
            for group in (torch.randperm(groups) if self.shuffle else torch.arange(groups)).tolist():
                columns = file.read_row_group(group).columns
                values = torch.from_numpy(np.column_stack([column.to_numpy() for column in columns]).astype(np.float32))
                yield from values[torch.randperm(len(values))] if self.shuffle else values


def write_array(path: Path, x: Iterator[np.ndarray], rows: int) -> None:
    array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, WIDTH))
    for number, part in enumerate(x):
        array[number * _PART : number * _PART + len(part)] = part


def write_zarr(path: Path, x: Iterator[np.ndarray], rows: int) -> None:
    array: Any = zarr.create_array(path, shape=(rows, WIDTH), chunks=(1000, WIDTH), dtype="float32")
    for number, part in enumerate(x):
        array[number * _PART : number * _PART + len(part)] = part


def write_parquet(path: Path, x: Iterator[np.ndarray], rows: int) -> None:
    names = [f"x{number}" for number in range(WIDTH)]
    with pq.ParquetWriter(path, pa.schema([(name, pa.float32()) for name in names])) as writer:
        for part in x:
            for start in range(0, len(part), 1000):
                writer.write_table(pa.Table.from_arrays([*part[start : start + 1000].T.copy()], names=names))


def read_array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


WRITERS: dict[str, Callable[[Path, Iterator[np.ndarray], int], None]] = {
    "array": write_array,
    "zarr": write_zarr,
    "zarr stream": write_zarr,
    "parquet": write_parquet,
}
READERS: dict[str, Callable[[Path], Any]] = {
    "array": read_array,
    "zarr": ZarrRows,
    "zarr stream": ZarrStream,
    "parquet": ParquetStream,
}


def parts(rows: int) -> Iterator[np.ndarray]:
    """Return observations, a part at a time."""
    generator = np.random.default_rng(0)
    for start in range(0, rows, _PART):
        yield generator.standard_normal((min(_PART, rows - start), WIDTH), dtype=np.float32)


def make_vi() -> avi.AmortizedVI:
    torch.manual_seed(0)
    model = avi.models.LinearGaussian(torch.randn(WIDTH, 2), scale=1.0)
    return avi.AmortizedVI(model, avi.encoders.MLP(WIDTH, [16]), "full", freeze_model=True)


def allocated() -> int:
    """Return the private memory of this process that is backed by no file, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmData")))


def main(kind: str, folder: Path, megabytes: int) -> None:
    rows = megabytes * 1_000_000 // (4 * WIDTH)
    WRITERS[kind](folder / "large", parts(rows), rows)
    WRITERS[kind](folder / "small", parts(1000), 1000)
    vi, small, large = make_vi(), READERS[kind](folder / "small"), READERS[kind](folder / "large")
    options: dict[str, Any] = {"epochs": 1, "seed": 0, "progress": False, "validation_data": small, "batch_size": 500}
    vi.fit(small, **options)
    assert vi.posterior(small).mean["z"].shape == (1000, 2)
    allowed = megabytes * 1_000_000 // 3
    resource.setrlimit(resource.RLIMIT_DATA, (allocated() + allowed, resource.RLIM_INFINITY))
    try:
        np.ones(2 * allowed, np.uint8)
    except MemoryError:
        pass
    else:
        raise SystemExit("the limit is not in force")
    vi.fit(large, **options)
    if vi.posterior(large).mean["z"].shape != (rows, 2):
        raise SystemExit("not all observations were read")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
