"""Callbacks that log each epoch with experiment trackers."""

import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from amortvi.errors import MissingDependencyError
from amortvi.training.callbacks import TensorBoard, WeightsAndBiases
from tests.training.callbacks.short import SHORT, StopAfter
from tests.training.problem import X, make_vi


def scalars(folder: Path) -> pd.DataFrame:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    columns = {
        name: pd.Series({event.step: event.value for event in events.Scalars(name)})
        for name in events.Tags()["scalars"]
    }
    return pd.DataFrame(columns)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_the_history_also_of_a_resumed_fit(tmp_path: Path) -> None:
    options = {**SHORT, "epochs": 5, "validation_data": X[:50]}
    events, folder = tmp_path / "events", tmp_path / "checkpoints"
    make_vi().fit(X, checkpoint=folder, callbacks=[TensorBoard(events), StopAfter(3)], **options)
    assert list(scalars(events).index) == [1, 2, 3]
    vi = make_vi().fit(X, checkpoint=folder, callbacks=[TensorBoard(events)], **options)
    found, expected = scalars(events), vi.history
    assert set(found) == set(expected)
    pd.testing.assert_frame_equal(
        found[list(expected)].drop(columns="seconds"),
        expected.drop(columns="seconds"),
        rtol=1e-6,  # TensorBoard keeps single precision
        check_names=False,
    )


class FakeRun:
    def __init__(self, **options: Any) -> None:
        self.options, self.logged, self.finished = options, [], False  # type: ignore[var-annotated]

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((step, metrics))

    def finish(self) -> None:
        self.finished = True


def test_weights_and_biases_logs_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[FakeRun] = []

    class Library:
        @staticmethod
        def init(**options: Any) -> FakeRun:
            runs.append(FakeRun(**options))
            return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", Library)
    callback = WeightsAndBiases(project="digits")
    assert not runs  # before the fit
    vi = make_vi().fit(X, callbacks=[callback], **SHORT)
    vi.fit(X, callbacks=[callback], **SHORT)
    assert [(each.options, each.finished) for each in runs] == [({"project": "digits"}, True)] * 2
    logged = [*runs[0].logged, *runs[1].logged]
    assert [step for step, _ in logged] == list(vi.history.index)
    assert [metrics["elbo"] for _, metrics in logged] == vi.history["elbo"].tolist()
    assert all(math.isfinite(value) for _, metrics in logged for value in metrics.values())
    assert "validation_elbo" not in logged[0][1]


def test_a_given_run_of_weights_and_biases_remains_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = FakeRun()
    make_vi().fit(X, callbacks=[WeightsAndBiases(run)], **SHORT)
    assert [step for step, _ in run.logged] == [1, 2, 3]
    assert not run.finished


@pytest.mark.parametrize(
    ("make", "package"), [(lambda: WeightsAndBiases(), "wandb"), (lambda: TensorBoard("runs"), "tensorboard")]
)
def test_a_missing_package_is_named(make: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"callbacks\.\w+ needs {package}.*'amortvi\[{package}\]'"):
        make()
