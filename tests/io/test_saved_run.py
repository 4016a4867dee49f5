"""Saved runs: equal when loaded, continued exactly, replaced atomically."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.errors import CheckpointError
from tests.global_state import nothing_changes
from tests.io.runs import SHORT, X, assert_same, load, make_encoder, make_model, make_vi


class CountEncoder(nn.Module):
    """A lazy encoder with keyword arguments and an extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LazyLinear(6)
        self.calls = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]

    def forward(self, counts: Tensor, exposure: Tensor) -> Tensor:
        self.calls += self.training
        return self.layers(torch.cat([counts.float(), exposure.unsqueeze(1)], dim=1)).tanh()


def count_model(counts: Tensor, exposure: Tensor) -> None:
    shape = pyro.param("shape", torch.tensor(2.0), constraint=dist.constraints.positive)
    with pyro.plate("data", len(counts)):
        rate = pyro.sample("rate", dist.Gamma(shape, 1.0))
        pyro.sample("counts", dist.Poisson((rate * exposure).unsqueeze(1).expand(counts.shape)).to_event(1), obs=counts)


COUNTS = {
    "counts": torch.randint(5, (80, 3), generator=torch.Generator().manual_seed(0)),
    "exposure": torch.rand(80, generator=torch.Generator().manual_seed(1)) + 0.5,
}

CASES: dict[str, dict[str, Any]] = {
    "diagonal": {"family": "diagonal"},
    "low_rank": {"family": "low_rank"},
    "full": {"family": "full"},
    "flow": {"family": "flow"},
    "family with options": {"family": avi.families.LowRank(2)},
    "no head": {"family": avi.families.Diagonal(head=False), "encoder": lambda: avi.encoders.MLP(3, [4])},
    "buffers and dropout": {
        "model": lambda: make_model(norm=True),
        "encoder": lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)),
    },
    "double precision": {"fit": {"dtype": torch.float64}, "x": X.double()},
    "frozen": {"freeze_model": True},
    "linear-Gaussian": {"model": lambda: avi.models.LinearGaussian(torch.eye(3)[:, :2], scale=1.0)},
    "keyword arguments, parameters of a function": {"model": lambda: count_model, "encoder": CountEncoder, "x": COUNTS},
    # NumPy scalars in the state of the optimizer
    "schedule": {"fit": {"lr_schedule": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, np.cos)}},
    "momentum": {"fit": {"optimizer": partial(torch.optim.SGD, momentum=0.9)}},
    # Sums over long vectors depend on how these are aligned in memory; large steps with noisy gradients can diverge.
    "quasi-Newton": {"fit": {"optimizer": torch.optim.LBFGS, "batch_size": 80, "lr": 1e-6}, "tolerance": 1e-4},
    "validation": {"fit": {"validation_data": X[:10], "patience": 50}},
    "iwae": {"fit": {"objective": "iwae"}},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_loaded_run_is_equal_and_continues(case: dict[str, Any], tmp_path: Path) -> None:
    """A further fit of the loaded run equals a further fit of the original."""
    make_model_, make_encoder_ = case.get("model", make_model), case.get("encoder", make_encoder)
    family, x, options = case.get("family", "full"), case.get("x", X), SHORT | case.get("fit", {})
    vi = avi.AmortizedVI(make_model_(), make_encoder_(), family, freeze_model=case.get("freeze_model", False))
    vi.fit(x, **options)
    vi.save(tmp_path / "run")
    given = None if isinstance(family, str) else family
    loaded = avi.AmortizedVI.load(tmp_path / "run", make_model_(), make_encoder_(), given)
    assert_same(vi, loaded)
    pd.testing.assert_frame_equal(vi.evaluate(x, particles=3, seed=0), loaded.evaluate(x, particles=3, seed=0))
    for one, two in zip(vi.sample_prior(2, seed=0).values(), loaded.sample_prior(2, seed=0).values(), strict=True):
        assert torch.equal(one, two)
    # Each fit has its own schedule, so the original is fitted twice too.
    assert_same(vi.fit(x, **options), loaded.fit(x, **options), case.get("tolerance", 0.0))


@pytest.mark.parametrize("epochs", [0, 2])
def test_saved_and_loaded_twice(tmp_path: Path, epochs: int) -> None:
    """A loaded run can be saved before it is fitted again, with the state of its optimizer."""
    vi = make_vi().fit(X, **SHORT) if epochs else make_vi()
    vi.save(tmp_path / "a" / "new" / "folder")
    load(tmp_path / "a" / "new" / "folder").save(tmp_path / "second")
    again = load(str(tmp_path / "second"))
    assert_same(vi, again)
    assert len(again.history) == epochs
    pd.testing.assert_frame_equal(vi.history, again.history)
    assert_same(vi.fit(X, **SHORT), again.fit(X, **SHORT))


def test_a_saved_run_does_not_change_with_the_original(tmp_path: Path) -> None:
    vi = make_vi().fit(X, **SHORT)
    vi.save(tmp_path / "run")
    weight = vi.encoder.layers[0].weight.detach().clone()
    vi.fit(X, **SHORT)
    assert torch.equal(load(tmp_path / "run").encoder.layers[0].weight, weight)
    vi.save(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert_same(vi, load(tmp_path / "run"))


def test_global_state_is_untouched(tmp_path: Path) -> None:
    vi = avi.AmortizedVI(count_model, CountEncoder(), "full").fit(COUNTS, **SHORT)
    encoder = CountEncoder()
    with nothing_changes():
        vi.save(tmp_path / "run")
        avi.AmortizedVI.load(tmp_path / "run", count_model, encoder)


@pytest.mark.parametrize("step", ["os.fsync", "safetensors.torch.save", "pathlib.Path.replace"])
def test_a_failed_save_keeps_the_existing_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    vi = make_vi().fit(X, **SHORT)
    vi.save(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    vi.fit(X, **SHORT)
    with monkeypatch.context() as patched:
        patched.setattr(step, fail)
        with pytest.raises(CheckpointError, match="No space left"):
            vi.save(tmp_path / "run")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_without_observations(tmp_path: Path) -> None:
    vi = make_vi().fit(X, **SHORT)
    vi.save(tmp_path / "with")
    vi.save(tmp_path / "without", example=False)
    row = X[3].numpy().tobytes()
    assert row in (tmp_path / "with").read_bytes()
    assert row not in (tmp_path / "without").read_bytes()
    with pytest.raises(CheckpointError, match=r"saved with example=False.*example="):
        load(tmp_path / "without")
    loaded = avi.AmortizedVI.load(tmp_path / "without", make_model(), make_encoder(), example=X[40:50])
    assert_same(vi, loaded)


def wrong_encoder() -> nn.Module:
    """Return an encoder with the same parameters as `make_encoder`, and another activation."""
    encoder = make_encoder()
    encoder.layers[1] = nn.Tanh()
    return encoder


def counts(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Laplace(z.sum(-1, keepdim=True).expand(x.shape), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: (make_model(), wrong_encoder()), "module encoder.layers.1: ReLU in the run, Tanh here"),
        (lambda: (counts, make_encoder()), "likelihood x: Normal in the run, Laplace here"),
        (
            lambda: (make_model(), avi.encoders.MLP(3, [9])),
            "shape of guide.network.encoder.layers.0.weight: (8, 3) in the run",
        ),
        (lambda: (avi.models.VAE(nn.Linear(3, 3), 3, "normal"), make_encoder()), "latent z: [2] in the run, [3] here"),
        (lambda: (make_model(), nn.LazyLinear(5)), "module encoder"),
    ],
)
def test_a_run_of_another_model_changes_nothing(tmp_path: Path, make: Any, facts: str) -> None:
    """The caller's modules keep their parameters, types and laziness."""
    make_vi().fit(X.double(), dtype=torch.float64, **SHORT).save(tmp_path / "run")
    model, encoder = make()
    modules = [each for each in (model, encoder) if isinstance(each, nn.Module)]
    before = [(repr(each), [(id(p), repr(p)) for p in each.parameters()]) for each in modules]
    with pytest.raises(CheckpointError, match=re.escape(facts)):
        avi.AmortizedVI.load(tmp_path / "run", model, encoder)
    assert [(repr(each), [(id(p), repr(p)) for p in each.parameters()]) for each in modules] == before


class full(avi.families.FullCovariance):  # noqa: N801
    """A family with the name of another one."""


@pytest.mark.parametrize(
    ("family", "label"),
    [(avi.families.LowRank(2), "LowRank(rank=2), not chosen by name"), (full, "full, not chosen by name")],
)
def test_a_family_that_was_not_chosen_by_name_must_be_given(tmp_path: Path, family: Any, label: str) -> None:
    vi = make_vi(family)
    vi.save(tmp_path / "run")
    with pytest.raises(CheckpointError, match=rf"the family {re.escape(label)}.*family="):
        load(tmp_path / "run")
    assert_same(vi, load(tmp_path / "run", family))
