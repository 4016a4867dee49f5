"""Saved runs that are damaged, or belong to another model, encoder or family."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi.errors import CheckpointError
from tests.bad_input.helpers import (
    TurnsBad,
    data,
    estimator,
    fit,
    good_model,
    network,
    nothing_changes,
    observe,
    prior,
    refused,
)


def load(path: Path, model: Any = good_model, hidden: int = 8, **options: Any) -> avi.AmortizedVI:
    return avi.AmortizedVI.load(path, model, network(hidden), **options)


@pytest.fixture
def saved(trained: avi.AmortizedVI, tmp_path: Path) -> Path:
    trained.save(tmp_path / "run")
    return tmp_path / "run"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_history(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "history": [{"a": 1}]}))


DAMAGED = ("is damaged", "save it again")
DAMAGE: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "no description": ("run.json", Path.unlink, ("holds no saved run", "run.json is missing")),
    "no tensors": ("tensors.pt", Path.unlink, ("holds no saved run", "tensors.pt is missing")),
    "half a description": ("run.json", truncate, DAMAGED),
    "another description": ("run.json", lambda path: path.write_text("[]"), DAMAGED),
    "an empty description": ("run.json", lambda path: path.write_text("{}"), DAMAGED),
    "a binary description": ("run.json", lambda path: path.write_bytes(b"\xff\xfe\x00"), DAMAGED),
    "another history": ("run.json", change_history, DAMAGED),
    "no bytes": ("tensors.pt", lambda path: path.write_bytes(b""), DAMAGED),
    "garbage": ("tensors.pt", lambda path: path.write_bytes(b"garbage" * 99), DAMAGED),
    "half of the tensors": ("tensors.pt", truncate, DAMAGED),
    "other tensors": ("tensors.pt", lambda path: torch.save({"model": {}}, path), DAMAGED),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_runs(case: str, saved: Path) -> None:
    name, harm, facts = DAMAGE[case]
    harm(saved / name)
    encoder = network()
    before = [parameter.clone() for parameter in encoder.parameters()]
    with nothing_changes(), refused(CheckpointError, "run", *facts) as caught:
        avi.AmortizedVI.load(saved, good_model, encoder)
    assert "weights_only" not in str(caught.value)  # PyTorch's advice would execute code from the file
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))


def renamed(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("latent", prior()), x)


def larger(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Normal(pyro.sample("z", prior(3)), 0.5).to_event(1), obs=x)


def discrete(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", prior()) + pyro.sample("k", dist.Bernoulli(0.3))[:, None], x)


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
        ({"model": discrete}, ("does not belong to this model", "'k' is discrete")),
    ],
    ids=["encoder", "latent names", "latent shapes", "model", "family", "unsupported model"],
)
def test_runs_of_something_else(options: dict[str, Any], facts: tuple[str, ...], saved: Path) -> None:
    with refused(CheckpointError, "the run in", *facts):
        load(saved, **options)


def test_a_refused_load_writes_nothing(saved: Path) -> None:
    model, encoder = TurnsBad(3), network()
    before = [parameter.clone() for module in (model, encoder) for parameter in module.parameters()]
    with nothing_changes(), refused(CheckpointError, "does not match the model"):
        avi.AmortizedVI.load(saved, model, encoder)
    after = [parameter for module in (model, encoder) for parameter in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_paths_without_a_run(saved: Path, tmp_path: Path) -> None:
    with refused(CheckpointError, "elsewhere holds no saved run", "run.json is missing"):
        load(tmp_path / "elsewhere")
    with refused(CheckpointError, "is a file", "folder"):
        load(saved / "run.json")


def test_a_family_without_a_name_must_be_given(tmp_path: Path) -> None:
    estimator(family=avi.families.LowRank(2)).setup(data(), seed=0).save(tmp_path)
    with refused(CheckpointError, "LowRank(rank=2)", "family="):
        load(tmp_path)
    load(tmp_path, family=avi.families.LowRank(2))


def test_double_precision_and_numpy_rates_can_be_loaded(tmp_path: Path) -> None:
    x = data().double()
    double = fit(estimator(), x, dtype=torch.float64)
    double.save(tmp_path / "double")
    loaded = load(tmp_path / "double")
    assert loaded.dtype == torch.float64
    assert torch.equal(loaded.posterior(x).mean["z"], double.posterior(x).mean["z"])

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: np.cos(epoch))

    fit(estimator(), data(), lr_schedule=schedule).save(tmp_path / "schedule")
    load(tmp_path / "schedule")
