"""The files of saved runs: readable without amortvi, safe to load, and verified before they are parsed."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

import amortvi as avi
from amortvi.errors import CheckpointError
from amortvi.io import load_run
from tests.io.runs import SHORT, X, assert_same, load, make_vi

KEPT = Path(__file__).parent / "formats"
"""Files that earlier versions have saved."""


def metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["amortvi"])


def sign(content: bytes) -> bytes:
    """Return the content of a changed file with the right checksum."""
    blank = re.sub(rb'"sha256":"[0-9a-f]{64}"', b'"sha256":"' + b"0" * 64 + b'"', content, count=1)
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def test_the_file_can_be_read_without_amortvi(tmp_path: Path) -> None:
    vi = make_vi("low_rank", freeze_model=True).fit(X, **SHORT)
    vi.save(tmp_path / "run")
    found = metadata(tmp_path / "run")
    assert (found["amortvi"], found["format"]) == (avi.__version__, 1)
    assert (found["family"], found["dtype"], found["freeze_model"]) == ("low_rank", "float32", True)
    tensors = load_file(tmp_path / "run")
    assert torch.equal(tensors["guide.network.encoder.layers.0.weight"], vi.encoder.layers[0].weight)
    assert tensors["history"][:, 1].tolist() == vi.history["elbo"].tolist()
    assert len(tensors["example.args.0"]) <= 16  # a few observations, not the data set


@pytest.mark.parametrize("signed", [False, True])
def test_damage_raises_no_other_error(tmp_path: Path, signed: bool) -> None:
    """Without a checksum of what was changed, every change is found; with one, whatever is not what save writes."""
    vi = make_vi().fit(X, **SHORT)
    path = tmp_path / "run"
    vi.save(path)
    generator, errors, content = np.random.default_rng(0), [], path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for number in range(200):
        start = int(generator.integers(0, header if signed or number % 2 else len(content)))
        changed = content[:start] + bytes(generator.integers(0, 256, 4, dtype=np.uint8)) + content[start + 4 :]
        path.write_bytes(sign(changed) if signed else changed)
        try:
            load_run(path)
        except CheckpointError as error:
            errors.append(str(error))
    assert len(errors) == 200 or (signed and len(errors) > 100)
    assert all(str(path) in error for error in errors)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -1])
def test_a_truncated_file(tmp_path: Path, length: int) -> None:
    make_vi().save(tmp_path / "run")
    content = (tmp_path / "run").read_bytes()
    (tmp_path / "run").write_bytes(content[:length])
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path / "run")


def changed(path: Path, **values: Any) -> None:
    """Change entries of a saved run, and sign it."""
    description, tensors = metadata(path), load_file(path)
    text = json.dumps({**description, **values})
    path.write_bytes(sign(save(tensors, {"amortvi": text, "sha256": "0" * 64})))


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    make_vi().save(tmp_path / "run")
    changed(tmp_path / "run")
    load(tmp_path / "run")
    changed(tmp_path / "run", format=2, amortvi="99.0")
    with pytest.raises(CheckpointError, match=r"saved by amortvi 99.0 in format 2.*upgrade"):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    "values",
    [
        {"history": 3},
        {"family": 3},
        {"format": "1"},
        {"format": None},
        {"dtype": "float16"},
        {"freeze_model": "yes"},
        {"fingerprint": {"dict": {"latent": 3}}},
        {"model": {"list": []}},
        {"convergence": {"dict": {"status": "good"}}},
        {"example": {"dict": {"args": 3}}},
        {"history": {"unknown": 3}},
        {"history": {"tensor": "nothing"}},
    ],
    ids=str,
)
def test_content_that_is_not_what_save_writes(tmp_path: Path, values: dict[str, Any]) -> None:
    make_vi().save(tmp_path / "run")
    changed(tmp_path / "run", **values)
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path / "run")


def test_places_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="folder without checkpoints"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="is a folder"):
        make_vi().save(tmp_path)
    (tmp_path / "file").write_text("text")
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot be saved"):
        make_vi().save(tmp_path / "file" / "run")
    with pytest.raises(CheckpointError, match=r"earlier version.*pickled"):
        load(KEPT / "folder")


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    """The link is replaced, and the file to which it points stays as it is."""
    (tmp_path / "target").write_text("mine")
    (tmp_path / "run").symlink_to(tmp_path / "target")
    vi = make_vi()
    vi.save(tmp_path / "run")
    assert (tmp_path / "target").read_text() == "mine"
    assert_same(vi, load(tmp_path / "run"))


def test_files_of_the_first_format() -> None:
    """A run that format 1 has saved is loaded with its posterior means."""
    loaded = load(KEPT / "format-1.safetensors")
    expected = load_file(KEPT / "format-1-means.safetensors")
    torch.testing.assert_close(loaded.posterior(X[:20]).mean["z"], expected["mean"], rtol=1e-4, atol=1e-5)
    assert len(loaded.history) == 2
    assert len(loaded.fit(X, **SHORT).history) == 4
