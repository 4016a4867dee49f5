"""Data in files: read as they are needed, in memory that does not grow with the file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import amortvi as avi
from tests.data.stores import READERS, WRITERS, ParquetStream, make_vi, parts

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "megabytes"), [("array", 600), ("zarr stream", 240), ("parquet", 240)])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is limited and measured as Linux does")
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str, megabytes: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.stores", kind, str(tmp_path), str(megabytes)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("kind", READERS)
def test_results_are_those_of_data_in_memory(tmp_path: Path, kind: str) -> None:
    x = next(parts(300))
    WRITERS[kind](tmp_path / "x", parts(300), 300)
    source = READERS[kind](tmp_path / "x")
    vi = make_vi().fit(source, validation_data=source, epochs=2, seed=0, progress=False)
    torch.testing.assert_close(vi.posterior(source).mean["z"], vi.posterior(x).mean["z"])


def test_a_shuffling_stream_trains_reproducibly_and_is_no_order_for_results(tmp_path: Path) -> None:
    WRITERS["parquet"](tmp_path / "x", parts(300), 300)
    source = ParquetStream(tmp_path / "x", shuffle=True)
    first, second = (make_vi().fit(source, epochs=2, seed=0, progress=False) for _ in range(2))
    assert first.history["elbo"].tolist() == second.history["elbo"].tolist()
    with pytest.raises(avi.errors.DataError, match="shuffles"):
        first.posterior(source)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_memory_map_is_not_copied(tmp_path: Path, mode: str) -> None:
    WRITERS["array"](tmp_path / "x", parts(50), 50)
    mapped = np.load(tmp_path / "x", mmap_mode=mode)  # type: ignore[call-overload]
    for part in (mapped, mapped[10:], mapped[::2], np.asarray(mapped)[:, 3:]):
        observations = avi.data.as_observations(part, torch.float32)
        (tensor,) = observations.as_batch().args
        assert tensor.data_ptr() == part.__array_interface__["data"][0]
        np.testing.assert_array_equal(tensor, part)
        for batch in (observations.first(5), observations.sample(5), next(observations.batches(5))):
            batch.args[0].zero_()  # as a model might do; a read-only map would end the process
        np.testing.assert_array_equal(tensor, part)


def test_another_type_is_converted(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 2)))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    (tensor,) = avi.data.as_observations(mapped, torch.float32).as_batch().args
    assert tensor.dtype == torch.float32


def test_values_that_are_not_finite_are_found_in_parts(tmp_path: Path) -> None:
    x = np.zeros((40_000, 2), np.float32)
    x[[3, 20_000, 39_999], 1] = np.nan, np.inf, -np.inf
    with pytest.raises(
        avi.errors.DataError, match=r"1 NaN and 2 infinite values, first at \[3, 1\], in 3 rows \(3, 20000, 39999\)"
    ):
        avi.data.as_observations(x, torch.float32)
