"""The files of a saved run: readable without amortvi, safe to load, and checked for damage."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import amortvi as avi
from amortvi.errors import CheckpointError
from amortvi.io import load_run
from tests.io.runs import SHORT, X, load, make_vi


def test_the_files_can_be_read_without_amortvi(tmp_path: Path) -> None:
    vi = make_vi("low_rank", freeze_model=True).fit(X, **SHORT)
    vi.save(tmp_path)
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["amortvi"] == avi.__version__
    assert (found["family"], found["dtype"], found["freeze_model"]) == ("low_rank", "float32", True)
    assert found["latents"] == {"z": [2]}
    assert [record["epoch"] for record in found["history"]] == [1, 2]
    assert found["history"][1]["elbo"] == vi.history["elbo"].iloc[1]
    tensors = torch.load(tmp_path / "tensors.pt", weights_only=True)
    assert torch.equal(tensors["guide"]["network.encoder.layers.0.weight"], vi.encoder.layers[0].weight)
    assert len(tensors["example_args"][0]) <= 16  # a few observations, not the data set


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def sign(folder: Path) -> None:
    """Write the hash of changed tensors into the description of a run."""
    description = json.loads((folder / "run.json").read_text())
    description["sha256"] = hashlib.sha256((folder / "tensors.pt").read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(description))


def test_loading_executes_no_code(tmp_path: Path) -> None:
    make_vi().save(tmp_path)
    tensors = torch.load(tmp_path / "tensors.pt", weights_only=True)
    tensors["optimizer"] = Touch(tmp_path / "touched")
    torch.save(tensors, tmp_path / "tensors.pt")
    sign(tmp_path)
    with pytest.raises(CheckpointError, match=r"damaged.*UnpicklingError"):
        load(tmp_path)
    assert not (tmp_path / "touched").exists()
    pickle.loads(pickle.dumps(tensors["optimizer"]))
    assert (tmp_path / "touched").exists()  # so plain unpickling would have executed it


@pytest.mark.parametrize(
    ("name", "signed", "least"), [("tensors.pt", False, 60), ("tensors.pt", True, 10), ("run.json", False, 30)]
)
def test_damage_raises_no_other_error(tmp_path: Path, name: str, signed: bool, least: int) -> None:
    """With a matching hash, the reader of PyTorch fails on damaged tensors with any error."""
    make_vi().fit(X, **SHORT).save(tmp_path)
    path, generator, errors = tmp_path / name, np.random.default_rng(0), []
    content = path.read_bytes()
    first, last = (60, 4000) if signed else (0, len(content))  # the pickle is at the start of the archive
    for start in generator.integers(first, last, 60):
        path.write_bytes(content[:start] + bytes(generator.integers(0, 256, 8, dtype=np.uint8)) + content[start + 8 :])
        if signed:
            sign(tmp_path)
        try:
            load_run(tmp_path)
        except CheckpointError as error:
            errors.append(str(error))
    assert len(errors) >= least
    assert all("damaged" in error and str(tmp_path) in error for error in errors)


def test_tensors_of_another_run_are_refused(tmp_path: Path) -> None:
    """A crash between writing the two files would combine the tensors of one fit with the history of another."""
    make_vi().save(tmp_path / "one")
    make_vi().fit(X, **SHORT).save(tmp_path / "two")
    (tmp_path / "one" / "tensors.pt").replace(tmp_path / "two" / "tensors.pt")
    with pytest.raises(CheckpointError, match=r"two is damaged"):
        load(tmp_path / "two")
