"""Saved runs: equal when loaded, continued exactly, replaced atomically."""

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
from amortvi.errors import CheckpointError, NotFittedError
from tests.io.runs import SHORT, X, assert_same, load, make_encoder, make_model, make_vi, state_of


class CountEncoder(nn.Module):
    """A lazy encoder with keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LazyLinear(6)

    def forward(self, counts: Tensor, exposure: Tensor) -> Tensor:
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
    "keyword arguments, parameters of a function": {
        "model": lambda: count_model,
        "encoder": CountEncoder,
        "x": COUNTS,
    },
    "schedule": {"fit": {"lr_schedule": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)}},
    "momentum": {"fit": {"optimizer": partial(torch.optim.SGD, momentum=0.9)}},
    "line search": {"fit": {"optimizer": torch.optim.LBFGS, "batch_size": 80, "lr": 1e-3}},
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
    for draw in (lambda each: each.predict(x, 2, seed=0), lambda each: each.sample_prior(2, seed=0)):
        for one, two in zip(draw(vi).values(), draw(loaded).values(), strict=True):
            assert torch.equal(one, two)
    attributes = [each.to_arviz(x, 2, seed=0)["posterior"].attrs for each in (vi, loaded)]
    for attribute in attributes:
        attribute.pop("created_at", None)
    assert attributes[0] == attributes[1]
    # Each fit has its own schedule, so the original is fitted twice too.
    vi.fit(x, **options)
    loaded.fit(x, **options)
    pd.testing.assert_frame_equal(vi.history.drop(columns="seconds"), loaded.history.drop(columns="seconds"))
    for one, two in zip(state_of(vi).values(), state_of(loaded).values(), strict=True):
        assert torch.equal(one, two)


def test_a_run_without_training(tmp_path: Path) -> None:
    vi = make_vi()
    vi.save(tmp_path)
    loaded = load(tmp_path)
    assert_same(vi, loaded)
    assert loaded.history.empty
    vi.fit(X, **SHORT)
    loaded.fit(X, **SHORT)
    assert torch.equal(vi.encoder.layers[0].weight, loaded.encoder.layers[0].weight)


def test_saved_and_loaded_twice(tmp_path: Path) -> None:
    """A loaded run can be saved before it is fitted again, with the state of its optimizer."""
    vi = make_vi().fit(X, **SHORT)
    vi.save(tmp_path / "first")
    load(tmp_path / "first").save(tmp_path / "second")
    again = load(str(tmp_path / "second"))
    assert_same(vi, again)
    vi.fit(X, **SHORT)
    again.fit(X, **SHORT)
    assert torch.equal(vi.encoder.layers[0].weight, again.encoder.layers[0].weight)


def test_a_saved_run_does_not_change_with_the_original(tmp_path: Path) -> None:
    vi = make_vi().fit(X, **SHORT)
    vi.save(tmp_path)
    weight = vi.encoder.layers[0].weight.detach().clone()
    vi.fit(X, **SHORT)
    assert torch.equal(load(tmp_path).encoder.layers[0].weight, weight)
    assert not torch.equal(vi.encoder.layers[0].weight, weight)


def test_random_state_and_param_store_are_untouched(tmp_path: Path) -> None:
    vi = avi.AmortizedVI(count_model, CountEncoder(), "full").fit(COUNTS, **SHORT)
    encoder, state, numpy_state = CountEncoder(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    vi.save(tmp_path)
    avi.AmortizedVI.load(tmp_path, count_model, encoder)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert "shape" not in pyro.get_param_store()


def test_save_creates_the_folder_and_replaces_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "new" / "folder"
    vi = make_vi().fit(X, **SHORT)
    vi.save(folder)
    vi.fit(X, **SHORT).save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["run.json", "tensors.pt"]
    assert len(load(folder).history) == 4


@pytest.mark.parametrize("step", ["torch.save", "json.dumps"])
def test_a_failed_save_keeps_the_existing_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    vi = make_vi().fit(X, **SHORT)
    vi.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(value: Any, path: Path | None = None, **kwargs: Any) -> None:
        if path is not None:
            path.write_bytes(b"incomplete")
        raise OSError("No space left on device")

    vi.fit(X, **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(f"amortvi.io.checkpoint.{step}", fail)
        with pytest.raises(OSError, match="No space left"):
            vi.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert len(load(tmp_path).history) == 2


def test_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="fit or setup"):
        avi.AmortizedVI(make_model(), make_encoder()).save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_extra_state_of_a_module(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 4)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

        def get_extra_state(self) -> dict[str, int]:
            return {"calls": self.calls}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.calls = state["calls"]

    encoder = Counting()
    vi = avi.AmortizedVI(make_model(), encoder).fit(X, **SHORT)
    vi.save(tmp_path)
    loaded = avi.AmortizedVI.load(tmp_path, make_model(), Counting())
    assert loaded.encoder.calls == encoder.calls > 0


def test_estimators_that_share_a_model(tmp_path: Path) -> None:
    model = make_model()
    for family in ("diagonal", "full"):
        vi = avi.AmortizedVI(model, make_encoder(), family, freeze_model=True).setup(X, seed=0)
        vi.save(tmp_path / family)
        assert_same(vi, load(tmp_path / family))


def test_a_class_with_the_name_of_a_family_is_not_that_family(tmp_path: Path) -> None:
    class full(avi.families.FullCovariance):  # noqa: N801
        pass

    vi = make_vi(full)
    vi.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"family full, not chosen by name.*family="):
        load(tmp_path)
    assert_same(vi, load(tmp_path, full))
