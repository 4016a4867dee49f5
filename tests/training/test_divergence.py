"""The error of a fit that diverges says where: in which epoch and step, at which sites, and for which observations."""

from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi.errors import TrainingDiverged
from tests import labels

ROWS, BAD = 60, 37
STEPS = {"eager": False, "recorded": "auto", "compiled": True}
MODES = [name if name != "compiled" else pytest.param(name, marks=pytest.mark.slow) for name in STEPS]
THRESHOLD = 0.3


class Second(nn.Module):
    """An encoder that ignores the argument that marks observations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = avi.encoders.MLP(2, [8])

    def forward(self, x: Tensor, marked: Tensor) -> Tensor:
        return self.layers(x)


class Marked(nn.Module):
    """A model that fails for marked observations once its parameter, which grows, has passed a threshold."""

    def __init__(self, fails: str) -> None:
        super().__init__()
        self.fails, self.shift = fails, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, marked: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            late = (marked * (self.shift.detach() > THRESHOLD)).unsqueeze(-1)
            loc = z + self.shift
            if self.fails == "gradient":
                loc = loc + (z**2 * (1 - late)).sqrt()  # its slope is 0 * inf at zero
            elif self.fails == "nan":
                loc = loc + (1 - late).log().clamp(max=0.0) * 0
            else:
                loc = loc + 1e30 * late
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def data(*marked: int) -> tuple[Tensor, Tensor]:
    x = 5 + torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0))
    return x, torch.zeros(ROWS).index_fill(0, torch.tensor(marked), 1.0)


class LastStep(avi.callbacks.Callback):
    """Remembers the last step that was taken."""

    place = (1, 0)

    def on_step_end(self, fit: avi.callbacks.RunningFit) -> None:
        self.place = (fit.epoch, fit.step)


def diverging(
    fails: str, x: Any, mode: str, batch_size: int | None = 20, **options: Any
) -> tuple[avi.AmortizedVI, TrainingDiverged, LastStep]:
    """Fit until the error, and return it with the estimator and the last step before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(Marked(fails), Second(), "diagonal")
    last = LastStep()
    chosen = {"epochs": 60, "lr": 0.01, "lr_schedule": "constant", "seed": 0, "progress": False, **options}
    with pytest.raises(TrainingDiverged) as caught:
        vi.fit(x, batch_size=batch_size, compile=STEPS[mode], callbacks=[last], **chosen)
    return vi, caught.value, last


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("fails", "sites"), [("nan", ["x"]), ("inf", ["x"]), ("gradient", [])])
def test_epoch_step_sites_and_rows(fails: str, sites: list[str], mode: str) -> None:
    vi, error, last = diverging(fails, data(BAD), mode)
    assert (error.sites, error.rows) == (sites, [BAD])
    assert error.epoch == len(vi.history) + 1 > 5  # 0.01 per step, three steps per epoch
    epoch, step = last.place
    assert (error.epoch, error.step) == ((epoch, step + 1) if epoch == error.epoch else (epoch + 1, 1))
    assert f"epoch {error.epoch}, step {error.step}" in str(error)
    assert f"rows {BAD} of x" in str(error)
    assert ("gradient is not finite for" in str(error)) == (fails == "gradient")
    assert vi.status == "interrupted"
    assert all(torch.isfinite(parameter).all() for parameter in (*vi.guide.parameters(), *vi.generative.parameters()))
    if mode != "eager":
        expected = diverging(fails, data(BAD), "eager")[1]
        assert (error.epoch, error.step) == (expected.epoch, expected.step)


def test_several_rows_are_listed_in_order() -> None:
    rows = list(range(0, ROWS, 4))
    _, error, _ = diverging("inf", data(*rows), "eager", batch_size=ROWS)
    assert error.rows == rows
    assert "rows 0, 4, 8, 12, 16, 20, 24, 28, 32, 36, ... of x" in str(error)


def test_all_rows_are_not_listed() -> None:
    _, error, _ = diverging("inf", data(*range(ROWS)), "eager")
    assert len(error.rows) == 20  # those of the minibatch
    assert "rows" not in str(error).split("The parameters")[0]


@pytest.mark.parametrize("mode", ["eager", "recorded"])
def test_rows_of_a_loader_are_those_of_the_minibatch(mode: str) -> None:
    loader = DataLoader(TensorDataset(*data(BAD)), batch_size=20)
    _, error, _ = diverging("nan", loader, mode, batch_size=None)
    assert (error.step, error.sites, error.rows) == (2, ["x"], [BAD - 20])
    assert f"rows {BAD - 20} of the minibatch" in str(error)


def test_the_first_step_can_diverge() -> None:
    x, marked = data(BAD)
    x[BAD] = 1e30
    vi, error, last = diverging("nan", (x, 0 * marked), "eager", batch_size=ROWS, standardize=False)
    assert (error.epoch, error.step, last.place) == (1, 1, (1, 0))
    assert error.rows == [BAD]
    assert vi.status is None


@pytest.mark.parametrize("mode", ["eager", "recorded"])
def test_rows_of_data_with_labels(mode: str) -> None:
    x, y, _ = labels.data(ROWS, 30)
    for row in (BAD, 5):  # without and with a label
        bad = x.clone()
        bad[row] = 1e25
        vi = avi.AmortizedVI(labels.model, avi.encoders.MLP(3, [8]), "diagonal", labels="y")
        with pytest.raises(TrainingDiverged) as caught:
            vi.fit((bad, y), epochs=3, batch_size=20, seed=0, progress=False, compile=STEPS[mode])
        assert "x" in caught.value.sites
        assert caught.value.rows == [row]
        assert caught.value.epoch == 1


def test_rows_are_those_of_all_observations_when_some_are_held_out() -> None:
    _, error, _ = diverging("nan", data(*range(30, 36)), "eager", None, validation_data=0.3)
    assert error.rows
    assert set(error.rows) <= set(range(30, 36))
