"""Saved runs that are damaged, or belong to another model, encoder or family."""

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


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, b"\xff" * 40], ids=["nothing", "garbage", "a large header"])
def test_damaged_runs(content: bytes, saved: Path) -> None:
    saved.write_bytes(content)
    load_refused(saved, "run", "is damaged")


def renamed(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("latent", prior()), x)


def larger(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Normal(pyro.sample("z", prior(3)), 0.5).to_event(1), obs=x)


def unsupported(x: Tensor) -> None:
    observe(pyro.sample("z", prior()), x)


OTHER = ("does not match",)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"hidden": 9}, (*OTHER, "encoder.layers.0.weight", "(8, 3)", "(9, 3)")),
        ({"model": renamed}, (*OTHER, "latent latent: missing", "[2] here")),
        ({"model": larger}, (*OTHER, "latent z: [2]", "[3] here")),
        ({"model": TurnsBad(3)}, (*OTHER, "model", "TurnsBad here")),
        ({"family": "full"}, (*OTHER, "family")),
        ({"model": unsupported}, ("does not belong to this model", "no plate")),
    ],
    ids=["encoder", "latent names", "latent shapes", "model", "family", "unsupported model"],
)
def test_runs_of_something_else(options: dict[str, Any], facts: tuple[str, ...], saved: Path) -> None:
    load_refused(saved, "the run in", *facts, **options)


def test_paths_without_a_run(tmp_path: Path) -> None:
    load_refused(tmp_path / "elsewhere", "elsewhere does not exist")
    load_refused(tmp_path, "without checkpoints")
