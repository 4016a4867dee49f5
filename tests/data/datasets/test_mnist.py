"""MNIST from IDX files: small ones written here, damaged ones, and the real ones if they are available."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from amortvi.data.datasets import mnist
from amortvi.errors import DataError

NAMES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


def _idx(values: np.ndarray) -> bytes:
    return (
        struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    )


def _arrays(side: int = 6) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    sizes = {"train": 7, "t10k": 3}
    return [
        generator.integers(0, 256, (sizes[part], side, side), dtype=np.uint8)
        if kind == "images"
        else generator.integers(0, 10, sizes[part], dtype=np.uint8)
        for part in sizes
        for kind in ("images", "labels")
    ]


def _write(folder: Path, contents: list[bytes], *, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(NAMES, contents, strict=True):
        path = folder / f"{name}.gz" if zipped else folder / name
        path.write_bytes(gzip.compress(content) if zipped else content)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_images_and_labels_are_read(tmp_path: Path, zipped: bool) -> None:
    arrays = _arrays()
    found = mnist(_write(tmp_path, [_idx(array) for array in arrays], zipped=zipped))
    train, train_labels, test, test_labels = arrays
    np.testing.assert_allclose(found.x_train.numpy(), train.reshape(7, 36) / 255, rtol=1e-6)
    np.testing.assert_allclose(found.x_test.numpy(), test.reshape(3, 36) / 255, rtol=1e-6)
    assert found.labels_train.tolist() == train_labels.tolist()
    assert found.labels_test.tolist() == test_labels.tolist()
    assert found.x_train.dtype == torch.float32
    assert found.labels_test.dtype == torch.int64
    assert (found.side, found.name) == (6, "MNIST")
    assert torch.equal(mnist(str(tmp_path)).x_train, found.x_train)


def test_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder ``mnist`` inside it takes precedence over the folder itself, and an argument over both."""
    files = [_idx(array) for array in _arrays()]
    other = [_idx(array) for array in _arrays(side=4)]
    monkeypatch.setenv("AMORTVI_DATA", str(_write(tmp_path / "data", files)))
    assert mnist().side == 6
    _write(tmp_path / "data" / "mnist", other)
    assert mnist().side == 4
    assert mnist(tmp_path / "data").side == 6


def test_plain_files_take_precedence_over_zipped_ones(tmp_path: Path) -> None:
    files = [_idx(array) for array in _arrays()]
    _write(tmp_path, files)
    (tmp_path / f"{NAMES[0]}.gz").write_bytes(b"not gzip")
    assert mnist(tmp_path).side == 6


@pytest.mark.parametrize("value", [None, ""])
def test_a_folder_is_required(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("AMORTVI_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("AMORTVI_DATA", value)
    with pytest.raises(DataError, match=r"MNIST was not found: pass the folder .* AMORTVI_DATA"):
        mnist()


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_reported(tmp_path: Path, name: str) -> None:
    _write(tmp_path, [_idx(array) for array in _arrays()])
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"MNIST was not found: .* has neither {name} nor {name}\.gz"):
        mnist(tmp_path)


def test_missing_folders_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"MNIST was not found: .*nowhere has neither"):
        mnist(tmp_path / "nowhere")


IMAGES, LABELS = _idx(_arrays()[0]), _idx(_arrays()[1])


@pytest.mark.parametrize(
    ("position", "content", "message"),
    [
        (0, b"", "train-images-idx3-ubyte in .* is not an IDX file of bytes"),
        (0, b"\0\0", "is not an IDX file of bytes"),
        (0, b"<html>404</html>", "is not an IDX file of bytes"),
        (0, b"\0\0\x0d" + IMAGES[3:], "is not an IDX file of bytes"),  # floating-point values
        (0, IMAGES[:10], r"train-images-idx3-ubyte in .* has 0 values where its header says"),
        (0, IMAGES[:-1], r"is damaged: it has 251 values where its header says \[7, 6, 6\]"),
        (0, IMAGES + b"\0", r"has 253 values where its header says \[7, 6, 6\]"),
        (0, b"\0\0\x08\x03" + b"\xff" * 12 + b"\0", "has 1 values where its header says"),
        (0, b"\0\0\x08\0\x01", r"train-images-idx3-ubyte in .* must hold square images; its shape is \(\)"),
        (0, LABELS, r"train-images-idx3-ubyte in .* must hold square images; its shape is \(7,\)"),
        (0, _idx(np.zeros((7, 6, 5), np.uint8)), r"must hold square images; its shape is \(7, 6, 5\)"),
        (0, _idx(np.zeros((0, 6, 6), np.uint8)), r"must hold square images; its shape is \(0, 6, 6\)"),
        (
            2,
            _idx(np.zeros((3, 5, 5), np.uint8)),
            "the training images in .* have sides of 6 pixels, the test images of 5",
        ),
        (1, LABELS[:-3], "train-labels-idx1-ubyte in .* has 4 values where its header says"),
        (1, IMAGES, r"the train files in .* hold 7 images, but labels of shape \(7, 6, 6\)"),
        (3, _idx(np.zeros(4, np.uint8)), r"the t10k files in .* hold 3 images, but labels of shape \(4,\)"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_damaged_files_are_refused(tmp_path: Path, position: int, content: bytes, message: str) -> None:
    files = [_idx(array) for array in _arrays()]
    files[position] = content
    for zipped in (False, True):
        folder = _write(tmp_path / str(zipped), files, zipped=zipped)
        with pytest.raises(DataError, match=message):
            mnist(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"not gzip at all",
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:20] + bytes(20) + content[40:],
        lambda content: content[:-8] + bytes(8),
    ],
    ids=["other format", "empty", "cut short", "overwritten", "wrong checksum"],
)
def test_damaged_archives_are_refused(tmp_path: Path, damage) -> None:
    folder = _write(tmp_path, [_idx(array) for array in _arrays()], zipped=True)
    path = folder / f"{NAMES[0]}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte(\.gz)? in .* is (damaged|not an IDX file)"):
        mnist(folder)


def test_the_real_files() -> None:
    try:
        found = mnist()
    except DataError as error:
        if "was not found" not in str(error):
            raise
        pytest.skip(str(error))
    assert found.x_train.shape == (60_000, 784)
    assert found.x_test.shape == (10_000, 784)
    assert found.side == 28
    assert (found.x_train.min(), found.x_train.max()) == (0, 1)
    # Known facts: the mean of the pixels, the frequencies of the digits, and the first labels.
    assert found.x_train.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert torch.bincount(found.labels_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(found.labels_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert found.labels_train[:5].tolist() == [5, 0, 4, 1, 9]
