"""A saved run comes back whole: every number, the optimizer, the history; and saving is all or nothing."""

import hashlib
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import amortvi as avi
from amortvi import checkpoint
from amortvi.errors import CheckpointError, NotFittedError

X = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.0, 1.0], [0.3, 0.3]]), scale=0.5).simulate(80, seed=0)
SHORT = {"epochs": 2, "lr": 0.01, "batch_size": 32, "seed": 0, "progress": False}


def _model(norm: bool = False) -> avi.models.VAE:
    layers: list[nn.Module] = [nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)]
    return avi.models.VAE(nn.Sequential(*layers[:1], *([nn.BatchNorm1d(8)] if norm else []), *layers[1:]), 2, "normal")


def _encoder() -> avi.encoders.MLP:
    return avi.encoders.MLP(3, [8])


def _assert_same(one: avi.AmortizedVI, two: avi.AmortizedVI) -> None:
    """Everything that the two know, bit for bit."""
    for first, second in ((one.guide, two.guide), (one._generative, two._generative)):
        states = first.state_dict(), second.state_dict()
        assert states[0].keys() == states[1].keys()
        for name in states[0]:
            assert torch.equal(states[0][name], states[1][name]), name
            assert states[0][name].dtype == states[1][name].dtype
    pd.testing.assert_frame_equal(one.history, two.history)
    assert one.dtype == two.dtype
    assert one.freeze_model == two.freeze_model
    assert repr(one) == repr(two)


class Gamma(nn.Module):
    """A custom encoder of counts and exposures, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LazyLinear(6)

    def forward(self, counts: Tensor, exposure: Tensor) -> Tensor:
        return self.layers(torch.cat([counts.float(), exposure.unsqueeze(1)], dim=1)).tanh()


def _counts_model(counts: Tensor, exposure: Tensor) -> None:
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
    "a callable": {"family": avi.families.LowRank(2)},
    "no head": {"family": partial(avi.families.Diagonal, head=False), "encoder": lambda: avi.encoders.MLP(3, [4])},
    "buffers and dropout": {
        "model": lambda: _model(norm=True),
        "encoder": lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)),
    },
    "double precision": {"fit": {"dtype": torch.float64}, "x": X.double()},
    "frozen": {"freeze_model": True},
    "linear-Gaussian": {"model": lambda: avi.models.LinearGaussian(torch.eye(3)[:, :2], scale=1.0)},
    "several arguments, parameters of a function": {"model": lambda: _counts_model, "encoder": Gamma, "x": COUNTS},
    "a schedule": {"fit": {"lr_schedule": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)}},
    "stochastic gradients with momentum": {"fit": {"optimizer": partial(torch.optim.SGD, momentum=0.9)}},
    "a line search": {"fit": {"optimizer": torch.optim.LBFGS, "batch_size": 80}},
    "validation": {"fit": {"validation_data": X[:10], "patience": 50}},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_run_comes_back_and_goes_on(case: dict[str, Any], tmp_path: Path) -> None:
    """Into modules that were made with other random numbers; a further fit does what it would have done at once."""
    make_model, make_encoder = case.get("model", _model), case.get("encoder", _encoder)
    family, x, options = case.get("family", "full"), case.get("x", X), SHORT | case.get("fit", {})
    torch.manual_seed(0)
    vi = avi.AmortizedVI(make_model(), make_encoder(), family, freeze_model=case.get("freeze_model", False))
    vi.fit(x, **options)
    vi.save(tmp_path / "run")
    torch.manual_seed(1)
    given = None if isinstance(family, str) else family
    loaded = avi.AmortizedVI.load(tmp_path / "run", make_model(), make_encoder(), given)
    _assert_same(vi, loaded)
    pd.testing.assert_frame_equal(vi.evaluate(x, particles=3, seed=0), loaded.evaluate(x, particles=3, seed=0))
    for one, two in zip(vi.predict(x, 2, seed=0).values(), loaded.predict(x, 2, seed=0).values(), strict=True):
        assert torch.equal(one, two)
    for one, two in zip(vi.sample_prior(2, seed=0).values(), loaded.sample_prior(2, seed=0).values(), strict=True):
        assert torch.equal(one, two)
    attributes = [each.to_arviz(x, 2, seed=0)["posterior"].attrs for each in (vi, loaded)]
    for attribute in attributes:
        attribute.pop("created_at", None)
    assert attributes[0] == attributes[1]
    # A schedule is of one fit, so that the whole is two fits too.
    vi.fit(x, **options)
    loaded.fit(x, **options)
    pd.testing.assert_frame_equal(vi.history.drop(columns="seconds"), loaded.history.drop(columns="seconds"))
    for first, second in ((vi.guide, loaded.guide), (vi._generative, loaded._generative)):
        for one, two in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
            assert torch.equal(one, two)


def test_saved_and_loaded_twice(tmp_path: Path) -> None:
    """A loaded run can be saved before it is fitted again, and loses nothing, the optimizer's state included."""
    vi = avi.AmortizedVI(_model(), _encoder()).fit(X, **SHORT)
    vi.save(tmp_path / "first")
    loaded = avi.AmortizedVI.load(tmp_path / "first", _model(), _encoder())
    loaded.save(tmp_path / "second")
    again = avi.AmortizedVI.load(str(tmp_path / "second"), _model(), _encoder())
    _assert_same(vi, again)
    vi.fit(X, **SHORT)
    again.fit(X, **SHORT)
    assert torch.equal(vi.encoder.layers[0].weight, again.encoder.layers[0].weight)


def test_what_is_loaded_is_independent_of_what_was_saved(tmp_path: Path) -> None:
    vi = avi.AmortizedVI(_model(), _encoder()).fit(X, **SHORT)
    vi.save(tmp_path)
    weight = vi.encoder.layers[0].weight.detach().clone()
    vi.fit(X, **SHORT)
    loaded = avi.AmortizedVI.load(tmp_path, _model(), _encoder())
    assert torch.equal(loaded.encoder.layers[0].weight, weight)
    assert not torch.equal(vi.encoder.layers[0].weight, weight)


def test_loading_leaves_random_state_and_param_store_alone(tmp_path: Path) -> None:
    vi = avi.AmortizedVI(_counts_model, Gamma(), "full").fit(COUNTS, **SHORT)
    torch.manual_seed(4)
    encoder, state, numpy_state = Gamma(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    vi.save(tmp_path)
    avi.AmortizedVI.load(tmp_path, _counts_model, encoder)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert "shape" not in pyro.get_param_store()


def test_the_folder_is_made_and_a_run_in_it_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "new" / "folder"
    vi = avi.AmortizedVI(_model(), _encoder()).fit(X, **SHORT)
    vi.save(folder)
    vi.fit(X, **SHORT).save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["run.json", "tensors.pt"]
    assert len(avi.AmortizedVI.load(folder, _model(), _encoder()).history) == 4


@pytest.mark.parametrize("step", ["torch.save", "json.dumps"])
def test_a_save_that_fails_leaves_the_run_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    vi = avi.AmortizedVI(_model(), _encoder()).fit(X, **SHORT)
    vi.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(value: Any, path: Path | None = None, **kwargs: Any) -> None:
        if path is not None:
            path.write_bytes(b"half of it")
        raise OSError("No space left on device")

    vi.fit(X, **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(f"amortvi.io.checkpoint.{step}", full)
        with pytest.raises(OSError, match="No space left"):
            vi.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert len(avi.AmortizedVI.load(tmp_path, _model(), _encoder()).history) == 2


def test_nothing_to_save_yet(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="nothing to save yet: call fit first"):
        avi.AmortizedVI(_model(), _encoder()).save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_description_can_be_read_without_amortvi(tmp_path: Path) -> None:
    vi = avi.AmortizedVI(_model(), _encoder(), "low_rank", freeze_model=True).fit(X, **SHORT)
    vi.save(tmp_path)
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["amortvi"] == avi.__version__
    assert (found["family"], found["dtype"], found["freeze_model"]) == ("low_rank", "float32", True)
    assert found["latents"] == {"z": [2]}
    assert [record["epoch"] for record in found["history"]] == [1, 2]
    assert found["history"][1]["elbo"] == vi.history["elbo"].iloc[1]
    tensors = torch.load(tmp_path / "tensors.pt", weights_only=True)
    assert torch.equal(tensors["guide"]["encoder.layers.0.weight"], vi.encoder.layers[0].weight)
    # A few observations are kept, not the data set.
    assert len(tensors["example_args"][0]) <= 16


def test_loading_runs_no_code(tmp_path: Path) -> None:
    """A pickle can call anything when it is read; what would is refused."""
    avi.AmortizedVI(_model(), _encoder()).fit(X, **SHORT).save(tmp_path)
    tensors = torch.load(tmp_path / "tensors.pt", weights_only=True)
    tensors["optimizer"] = _Touches(tmp_path / "touched")
    torch.save(tensors, tmp_path / "tensors.pt")
    _sign(tmp_path)
    with pytest.raises(CheckpointError, match=r"damaged, or of another version of amortvi .*\(UnpicklingError\)"):
        avi.AmortizedVI.load(tmp_path, _model(), _encoder())
    assert not (tmp_path / "touched").exists()
    pickle.loads(pickle.dumps(tensors["optimizer"]))
    assert (tmp_path / "touched").exists()  # it would have


def _sign(folder: Path) -> None:
    """Make the description of a run fit tensors that were put there."""
    description = json.loads((folder / "run.json").read_text())
    description["sha256"] = hashlib.sha256((folder / "tensors.pt").read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(description))


class _Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["tensors.pt", "run.json"])
def test_damage_anywhere_is_found_or_harmless(tmp_path: Path, name: str) -> None:
    """Bytes overwritten at many places: an error of ours, or, where it is still a description, a run that loads."""
    avi.AmortizedVI(_model(), _encoder()).fit(X, **SHORT).save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    errors = []
    for start in generator.integers(0, len(content), 60):
        path.write_bytes(content[:start] + bytes(generator.integers(0, 256, 8, dtype=np.uint8)) + content[start + 8 :])
        try:
            checkpoint.read(tmp_path)
        except CheckpointError as error:
            errors.append(str(error))
    assert all(f"the saved run in {tmp_path} is damaged" in error for error in errors)
    assert len(errors) == 60 if name == "tensors.pt" else len(errors) > 30
    path.write_bytes(content)
    avi.AmortizedVI.load(tmp_path, _model(), _encoder())


def test_tensors_of_another_save_are_refused(tmp_path: Path) -> None:
    """As after a crash between the two files: the numbers of one fit with the history of another."""
    vi = avi.AmortizedVI(_model(), _encoder()).fit(X, **SHORT)
    vi.save(tmp_path / "one")
    vi.fit(X, **SHORT).save(tmp_path / "two")
    (tmp_path / "one" / "tensors.pt").replace(tmp_path / "two" / "tensors.pt")
    with pytest.raises(CheckpointError, match=r"two is damaged.*save it again"):
        avi.AmortizedVI.load(tmp_path / "two", _model(), _encoder())


def test_whatever_the_reader_of_tensors_raises_is_ours(tmp_path: Path) -> None:
    avi.AmortizedVI(_model(), _encoder()).fit(X, **SHORT).save(tmp_path)
    path, generator = tmp_path / "tensors.pt", np.random.default_rng(0)
    content = path.read_bytes()
    errors = []
    for _ in range(40):
        damaged = bytearray(content)
        for place in generator.integers(60, 4000, 5):  # the pickle comes first in the archive
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        _sign(tmp_path)
        try:
            checkpoint.read(tmp_path)
        except CheckpointError as error:
            errors.append(str(error))
    assert len(errors) > 20
    assert all("is damaged" in error for error in errors)


def test_a_module_that_keeps_more_than_tensors(tmp_path: Path) -> None:
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
    vi = avi.AmortizedVI(_model(), encoder).fit(X, **SHORT)
    vi.save(tmp_path)
    loaded = avi.AmortizedVI.load(tmp_path, _model(), Counting())
    assert loaded.encoder.calls == encoder.calls > 0


def test_a_model_that_other_estimators_share(tmp_path: Path) -> None:
    """Fits of one frozen model are saved each for itself."""
    model = _model()
    fits = avi.fit_families(model, _encoder(), ["diagonal", "full"], X, freeze_model=True, epochs=1, progress=False)
    for name, vi in fits.items():
        vi.save(tmp_path / name)
    for name, vi in fits.items():
        loaded = avi.AmortizedVI.load(tmp_path / name, _model(), _encoder())
        _assert_same(vi, loaded)


def test_a_callable_named_like_a_family_is_not_that_family(tmp_path: Path) -> None:
    def full(dim: int, context_features: int) -> avi.families.Family:
        return avi.families.FullCovariance(dim, context_features, mixing_rate=0.01)

    vi = avi.AmortizedVI(_model(), _encoder(), full).fit(X, **SHORT)
    vi.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"family full, a callable: give it again as family=\.\.\."):
        avi.AmortizedVI.load(tmp_path, _model(), _encoder())
    _assert_same(vi, avi.AmortizedVI.load(tmp_path, _model(), _encoder(), full))
