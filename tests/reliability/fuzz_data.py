"""Random hostile data: each must be refused with `DataError`, or give all rows, in order, at every pass.

Run with ``python -m tests.reliability.fuzz_data --seconds 600``. Each failure is printed with the
number of its case, from which ``--start`` repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from amortvi.data import Batch, as_observations, loader, mask_missing, pad, rereading
from amortvi.data.datasets import mnist
from amortvi.errors import DataError, OptionError
from tests.data.hostile import hostile_source, hostile_value
from tests.data.test_datasets import NAMES, arrays, idx


def check_source(x: Any, expected: Tensor | None) -> str:
    """Read a source as the package does and return the outcome."""
    observations = as_observations(x, torch.float32)
    try:
        observations.check_ordered()
        in_order = True
    except DataError:
        in_order = False
    fingerprints = {observations.fingerprint() for _ in range(2)}
    for _ in range(3):
        observations.first(1)
        found = Batch.concatenate(list(observations.batches() if in_order else observations.in_any_order())).args[0]
        given = found if in_order else found[found[:, 0].argsort()]
        expected = given if expected is None else expected
        same = given.shape == expected.shape and torch.equal(given, expected)
        if not same or observations.size not in (None, len(found)) or len(fingerprints) > 1:
            return "silent"
    return "accepted"


def reference(value: Any) -> Tensor:
    """Return a value as numbers, by another path than the package's."""
    array = (
        value.detach().double().resolve_neg().numpy() if isinstance(value, Tensor) else np.asarray(value, dtype=float)
    )
    return torch.from_numpy(array.astype(np.float64))


def check_value(x: Any) -> str:
    """Read a value as data, and by `mask_missing` and `pad`, which may refuse it too."""
    for read in (mask_missing, pad):
        with contextlib.suppress(DataError, OptionError):
            read(x)
    observations = as_observations(x, torch.float32)
    observations.fingerprint()
    content = x.tensors if isinstance(x, TensorDataset) else x
    given = content.values() if isinstance(content, dict) else content if isinstance(content, tuple) else [content]
    read_again = Batch.concatenate(list(observations.batches(7)))
    pairs = zip(given, read_again.tensors(), strict=True)
    same = all(type(found) is Tensor and torch.equal(found.double(), reference(value)) for value, found in pairs)
    return "accepted" if same else "silent"


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return the content of a file with some of it changed."""
    for _ in range(rng.choice([0, 1, 1, 1, 2, 5])):
        place = rng.randrange(len(content) + 1)
        content = rng.choice(
            [
                lambda c, p: c[:p] + bytes([rng.randrange(256)]) + c[p + 1 :],
                lambda c, p: c[: rng.randrange(20)] + bytes([rng.choice([0, 1, 3, 4, 255])]) + c[rng.randrange(20) :],
                lambda c, p: c[:p],
                lambda c, p: c[:p] + rng.randbytes(rng.randrange(1, 9)) + c[p:],
                lambda c, p: c + rng.choice([b"\0", c, b"garbage"]),
                lambda c, p: c[:4] + rng.randbytes(4 * rng.randrange(4)) + c[16:],
                lambda c, p: c[:3] + bytes([rng.randrange(256)]) + b"\xff" * rng.randrange(1100) + c[16:],
            ]
        )(content, place)
    return content


def check_files(folder: Path, rng: random.Random) -> str:
    """Write IDX files of which one is damaged, before or after compression, and read them."""
    contents = [idx(array) for array in arrays(side=2)]
    position, zipped = rng.randrange(4), rng.random() < 0.5
    contents[position] = mutated(contents[position], rng)
    for place, (name, content) in enumerate(zip(NAMES, contents, strict=True)):
        archive = gzip.compress(content, 1)
        archive = mutated(archive, rng) if place == position and rng.random() < 0.5 else archive
        (folder / name).unlink(missing_ok=True)
        (folder / f"{name}.gz" if zipped else folder / name).write_bytes(archive if zipped else content)
        contents[place] = content
    found = mnist(folder)
    read = [found.x_train * 255, found.labels_train, found.x_test * 255, found.labels_test]
    # What is accepted is the content of the files, and its header is right.
    headers = [
        idx(np.zeros((len(found.labels_train), *((found.side,) * 2 if i == 0 else ())), np.uint8)) for i in (0, 1)
    ]
    exact = all(
        content[-value.numel() :] == value.round().to(torch.uint8).numpy().tobytes()
        for content, value in zip(contents, read, strict=True)
    )
    return (
        "accepted" if exact and contents[0][:16] == headers[0][:16] and contents[1][:8] == headers[1][:8] else "silent"
    )


def check_case(number: int, folder: Path) -> str:
    """Return what becomes of one random case: refused, accepted, silent (wrong without an error) or a foreign error."""
    rng = random.Random(number)
    torch.manual_seed(number)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = rng.choice(["source", "source", "value", "files"])
            if kind == "files":
                return check_files(folder, rng)
            return check_source(*hostile_source(rng)) if kind == "source" else check_value(hostile_value(rng))
    except DataError:
        return "refused"
    except Exception:
        return traceback.format_exc(limit=-6)


def fuzz(seconds: float, start: int = 0) -> tuple[Counter[str], dict[int, str]]:
    """Try cases for a time, and return how often each outcome was, and what went wrong by number of the case."""
    counts: Counter[str] = Counter(refused=0, accepted=0, crashed=0, silent=0)
    wrong: dict[int, str] = {}
    deadline, number = time.monotonic() + seconds, start
    with tempfile.TemporaryDirectory() as folder, limited_passes():
        while time.monotonic() < deadline:
            outcome = check_case(number, Path(folder))
            kind = outcome if outcome in counts else "crashed"
            counts[kind] += 1
            if kind in ("crashed", "silent"):
                wrong[number] = outcome
            number += 1
    return counts, wrong


@contextlib.contextmanager
def limited_passes(most: int = 2000) -> Iterator[None]:
    """Lower the number of observations at which a pass is taken for endless."""
    before = loader.MOST_OBSERVATIONS, rereading.MOST_OBSERVATIONS
    loader.MOST_OBSERVATIONS = rereading.MOST_OBSERVATIONS = most
    try:
        yield
    finally:
        loader.MOST_OBSERVATIONS, rereading.MOST_OBSERVATIONS = before


def main() -> int:
    """Fuzz, print the counts and what went wrong, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--start", type=int, default=0, help="the number of the first case")
    options = parser.parse_args()
    counts, wrong = fuzz(options.seconds, options.start)
    for number, outcome in list(wrong.items())[:20]:
        print(f"--start {number}: {outcome}")
    print(", ".join(f"{kind} {count}" for kind, count in counts.items()))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
