"""The digits data, and MNIST from IDX files: small ones written here, damaged ones, and the real ones if available."""

import gzip
import os
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from amortvi.data.datasets import digits, mnist
from amortvi.errors import DataError, MissingDependencyError


def test_the_split_of_the_digits_is_disjoint_and_complete() -> None:
    """Training and test set together are scikit-learn's digits, each image with its own label."""
    from sklearn.datasets import load_digits

    found, bunch = digits(seed=7), load_digits()
    assert (found.x_train.shape, found.x_test.shape) == ((1437, 64), (360, 64))
    assert (found.x_train.dtype, found.labels_train.dtype) == (torch.float32, torch.int64)
    assert (found.side, found.name) == (8, "digits")
    given = np.column_stack([bunch.data / 16, bunch.target]).tolist()
    parts = (found.x_train, found.labels_train), (found.x_test, found.labels_test)
    assert sorted(given) == sorted(row for x, labels in parts for row in torch.column_stack([x, labels]).tolist())


def test_digits_need_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"digits data needs sklearn.*amortvi\[examples\]"):
        digits()


def test_the_split_of_the_digits_depends_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, second, other = (digits(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.x_train, second.x_train)
    assert not torch.equal(first.x_test, other.x_test)


NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def arrays(side: int = 6) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = [(7, side, side), (7,), (3, side, side), (3,)]
    return [generator.integers(0, 256 if len(shape) == 3 else 10, shape, dtype=np.uint8) for shape in shapes]


def write(folder: Path, contents: list[bytes], *, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(NAMES, contents, strict=True):
        (folder / f"{name}{'.gz' * zipped}").write_bytes(gzip.compress(content) if zipped else content)
    return folder


FILES = [idx(array) for array in arrays()]
IMAGES, LABELS = FILES[:2]


@pytest.mark.parametrize("zipped", [False, True])
def test_images_and_labels_are_read(tmp_path: Path, zipped: bool) -> None:
    found = mnist(str(write(tmp_path, FILES, zipped=zipped)))
    train, train_labels, test, test_labels = arrays()
    for x, images in ((found.x_train, train), (found.x_test, test)):
        torch.testing.assert_close(x, torch.tensor(images).flatten(1).float() / 255)
    for labels, given in ((found.labels_train, train_labels), (found.labels_test, test_labels)):
        assert torch.equal(labels, torch.tensor(given).long())
    assert (found.side, found.name) == (6, "MNIST")


def test_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder ``mnist`` inside it takes precedence over the folder itself, and an argument over both."""
    monkeypatch.setenv("AMORTVI_DATA", str(write(tmp_path / "data", FILES)))
    assert mnist().side == 6
    write(tmp_path / "data" / "mnist", [idx(array) for array in arrays(side=4)])
    assert mnist().side == 4
    assert mnist(tmp_path / "data").side == 6


def test_missing_files_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMORTVI_DATA", "")
    with pytest.raises(DataError, match=r"MNIST was not found: pass the folder .* AMORTVI_DATA"):
        mnist()
    for name in NAMES:
        (write(tmp_path, FILES) / name).unlink()
        with pytest.raises(DataError, match=rf"MNIST was not found: .* has neither {name} nor {name}\.gz"):
            mnist(tmp_path)


@pytest.mark.parametrize(
    ("position", "content", "message"),
    [
        (0, b"<html>404</html>", "train-images-idx3-ubyte in .* is not an IDX file of bytes"),
        (0, b"\0\0\x0d" + IMAGES[3:], "is not an IDX file of bytes"),  # floating-point values
        (0, IMAGES[:10], r"train-images-idx3-ubyte in .* is damaged: its header must give"),
        (0, IMAGES[:-1], r"is damaged: it has 251 values where its header says \[7, 6, 6\]"),
        (0, IMAGES + b"\0", r"has more values where its header says \[7, 6, 6\]"),
        (
            0,
            b"\0\0\x08\x03" + b"\xff" * 12 + b"\0",
            r"product from 1 to \d+; it gives \[4294967295, 4294967295, 4294967295\]",
        ),
        (0, b"\0\0\x08\0" + b"\0", r"one to three sizes .* it gives \[\]"),
        (0, b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"\0", r"it gives \[1, 1, 1, 1\] and more"),
        (0, LABELS, r"train-images-idx3-ubyte in .* must hold square images; its shape is \(7,\)"),
        (0, idx(np.zeros((7, 6, 5), np.uint8)), r"must hold square images; its shape is \(7, 6, 5\)"),
        (0, idx(np.zeros((0, 6, 6), np.uint8)), r"product from 1 to \d+; it gives \[0, 6, 6\]"),
        (2, idx(np.zeros((3, 5, 5), np.uint8)), "training images in .* have sides of 6 pixels, the test images of 5"),
        (1, IMAGES, r"the train files in .* hold 7 images, but labels of shape \(7, 6, 6\)"),
        (3, idx(np.zeros(4, np.uint8)), r"the t10k files in .* hold 3 images, but labels of shape \(4,\)"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_damaged_files_are_refused(tmp_path: Path, position: int, content: bytes, message: str) -> None:
    files = [*FILES[:position], content, *FILES[position + 1 :]]
    with pytest.raises(DataError, match=message):
        mnist(write(tmp_path, files))


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"not gzip", lambda _: b"", lambda content: content[:100], lambda content: content[:-8] + bytes(8)],
    ids=["other format", "empty", "cut short", "wrong checksum"],
)
def test_damaged_archives_are_refused(tmp_path: Path, damage) -> None:
    path = write(tmp_path, FILES, zipped=True) / f"{NAMES[0]}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte(\.gz)? in .* is (damaged|not an IDX file)"):
        mnist(tmp_path)
    write(tmp_path, FILES)
    assert mnist(tmp_path).side == 6  # plain files take precedence


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("shape", [(2**15, 2**5, 2**5), (4, 6, 6), (2**32 - 1,) * 3])
def test_memory_does_not_follow_the_header(tmp_path: Path, zipped: bool, shape: tuple[int, ...]) -> None:
    """Less is in the file than its header says, or far more: 64 MB, which the archive holds in 64 kB."""
    content = idx(np.zeros(0, np.uint8))[:3] + struct.pack(">B3I", 3, *shape) + bytes(2**26 if shape[0] == 4 else 100)
    files = [gzip.compress(content, 1), *map(gzip.compress, FILES[1:])] if zipped else [content, *FILES[1:]]
    for name, each in zip(NAMES, files, strict=True):
        (tmp_path / f"{name}{'.gz' * zipped}").write_bytes(each)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"is damaged: (it has (more|100) values|its header must give)"):
            mnist(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_files_that_the_system_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "loop", tmp_path / "file", tmp_path / ("x" * 300), "with\0zero"):
        with pytest.raises(DataError, match=r"MNIST was not found|cannot be read"):
            mnist(folder)
    for number in (3, b"bytes"):
        with pytest.raises(DataError, match="folder must be a path; got"):
            mnist(number)
    for target in ("/dev/zero", NAMES[0]):  # endless, and a link to itself
        (write(tmp_path / target[1:4], FILES) / NAMES[0]).unlink()
        (tmp_path / target[1:4] / NAMES[0]).symlink_to(target)
        with pytest.raises(DataError, match=r"MNIST was not found|cannot be read"):
            mnist(tmp_path / target[1:4])


def test_a_file_that_disappears_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise PermissionError("no")

    write(tmp_path, FILES)
    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte in .* cannot be read: no"):
        mnist(tmp_path)


@pytest.mark.skipif("AMORTVI_DATA" not in os.environ, reason="AMORTVI_DATA is not set")
def test_the_real_files() -> None:
    found = mnist()
    assert (found.x_train.shape, found.x_test.shape) == ((60_000, 784), (10_000, 784))
    # Known facts: the mean of the pixels, the frequencies of the digits, and the first labels.
    assert found.x_train.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert torch.bincount(found.labels_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(found.labels_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert found.labels_train[:5].tolist() == [5, 0, 4, 1, 9]
