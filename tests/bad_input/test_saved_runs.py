"""Saved runs that are damaged, or belong to another model, encoder or family."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.errors import CheckpointError
from tests.bad_input.helpers import TurnsBad, good_model, network, observe, prior, refused


def load_refused(path: Path, *facts: str, model: Any = good_model, hidden: int = 8, **options: Any) -> str:
    """Check that loading raises an error and writes nothing, and return the message."""
    encoder = network(hidden)
    before = [parameter.clone() for module in (encoder, model) for parameter in parameters(module)]
    with refused(CheckpointError, *facts) as caught:
        avi.AmortizedVI.load(path, model, encoder, **options)
    after = [parameter for module in (encoder, model) for parameter in parameters(module)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return str(caught.value)


def parameters(module: Any) -> list[Tensor]:
    return list(module.parameters()) if isinstance(module, nn.Module) else []


@pytest.fixture
def saved(trained: avi.AmortizedVI, tmp_path: Path) -> Path:
    trained.save(tmp_path / "run")
    return tmp_path / "run"


def change_history(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "history": [{"a": 1}]}))


DAMAGED = ("is damaged", "save it again")
DAMAGE: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "no description": ("run.json", Path.unlink, ("holds no saved run", "run.json is missing")),
    "no tensors": ("tensors.pt", Path.unlink, ("holds no saved run", "tensors.pt is missing")),
    "another description": ("run.json", lambda path: path.write_text("[]"), DAMAGED),
    "a binary description": ("run.json", lambda path: path.write_bytes(b"\xff\xfe\x00"), DAMAGED),
    "another history": ("run.json", change_history, DAMAGED),
    "garbage": ("tensors.pt", lambda path: path.write_bytes(b"garbage" * 99), DAMAGED),
    "other tensors": ("tensors.pt", lambda path: torch.save({"model": {}}, path), DAMAGED),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_runs(case: str, saved: Path) -> None:
    name, harm, facts = DAMAGE[case]
    harm(saved / name)
    message = load_refused(saved, "run", *facts)
    assert "weights_only" not in message  # PyTorch's advice would execute code from the file


def renamed(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("latent", prior()), x)


def larger(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Normal(pyro.sample("z", prior(3)), 0.5).to_event(1), obs=x)


def unsupported(x: Tensor) -> None:
    observe(pyro.sample("z", prior()), x)


LATENTS = ("latents {'z': [2]}",)
NETWORK = ("does not match encoder and family",)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"hidden": 9}, (*NETWORK, "encoder.layers.0.weight", "(8, 3)", "(9, 3)")),
        ({"model": renamed}, (*LATENTS, "{'latent': [2]}")),
        ({"model": larger}, (*LATENTS, "{'z': [3]}")),
        ({"model": TurnsBad(3)}, ("does not match the model", "shift")),
        ({"family": "full"}, (*NETWORK, "family")),
        ({"model": unsupported}, ("does not belong to this model", "no plate")),
    ],
    ids=["encoder", "latent names", "latent shapes", "model", "family", "unsupported model"],
)
def test_runs_of_something_else(options: dict[str, Any], facts: tuple[str, ...], saved: Path) -> None:
    load_refused(saved, "the run in", *facts, **options)


def test_paths_without_a_run(saved: Path, tmp_path: Path) -> None:
    load_refused(tmp_path / "elsewhere", "elsewhere holds no saved run", "run.json is missing")
    load_refused(saved / "run.json", "is a file", "folder")
