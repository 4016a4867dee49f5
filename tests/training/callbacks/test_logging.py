"""Callbacks that log each epoch with experiment trackers."""

import math
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from amortvi.errors import MissingDependencyError
from amortvi.training.callbacks import Callback, MLflow, RunningFit, TensorBoard, WeightsAndBiases
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


class Raise(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_step_end(self, fit: RunningFit) -> None:
        if fit.epoch == 2:
            raise self.error


class FakeMLflow:
    """Records what is called in which order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def MlflowClient(self) -> Any:  # noqa: N802  # MLflow's name
        return self

    def active_run(self) -> None:
        return None

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id), data=SimpleNamespace(params={"lr": "1"}))

    def start_run(self, **options: Any) -> Any:
        self.calls.append(("start", options))
        return self.get_run("made")

    def log_param(self, run_id: str, name: str, value: Any) -> None:
        self.calls.append((run_id, name))

    def log_metrics(self, metrics: dict[str, float], step: int, run_id: str) -> None:
        self.calls.append((run_id, step))

    def end_run(self, status: str) -> None:
        self.calls.append(("end", status))


def test_mlflow_starts_and_ends_runs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", library)
    make_vi().fit(X, callbacks=[MLflow(run_name="a")], **SHORT)
    assert library.calls[0] == ("start", {"nested": False, "run_name": "a"})
    assert ("made", "epochs") in library.calls
    assert ("made", "lr") not in library.calls  # the run has it
    assert library.calls[-4:] == [("made", 1), ("made", 2), ("made", 3), ("end", "FINISHED")]
    library.calls.clear()
    with pytest.raises(ZeroDivisionError):
        make_vi().fit(X, callbacks=[MLflow(), Raise(ZeroDivisionError())], **SHORT)
    assert library.calls[-2:] == [("made", 1), ("end", "FAILED")]
    library.calls.clear()
    make_vi().fit(X, callbacks=[MLflow(library.get_run("given"))], **SHORT)
    assert library.calls[-1] == ("given", 3)
    assert not {"start", "end"} & {name for name, _ in library.calls}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """MLflow with a database of its own, which takes seconds to create."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy 2.1 about MLflow, when its tables are first used
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        library = pytest.importorskip("mlflow")
        library.set_tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/runs.db")
        library.MlflowClient().search_runs(["0"])
        yield library
        library.set_tracking_uri(None)


@pytest.fixture
def mlflow(tracked: Any, request: pytest.FixtureRequest) -> Any:
    """MLflow in an experiment of this test."""
    tracked.set_experiment(request.node.name)
    return tracked


def runs(mlflow: Any) -> list[Any]:
    """Return all runs of the current experiment, the oldest first."""
    experiments = [each.experiment_id for each in mlflow.search_experiments()][:1]  # the newest
    return mlflow.MlflowClient().search_runs(experiments, order_by=["attributes.start_time ASC"])


def logged(mlflow: Any, run: Any, metric: str) -> pd.Series:
    found = mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)
    return pd.Series({each.step: each.value for each in found})


@pytest.mark.slow
def test_mlflow_logs_options_and_epochs_of_each_fit(mlflow: Any) -> None:
    callback = MLflow(run_name="digits")
    assert not runs(mlflow)  # before the fit
    vi = make_vi().fit(X, validation_data=X[:50], callbacks=[callback], **SHORT)
    vi.fit(X, callbacks=[callback], objective="iwae", **SHORT)
    one, two = runs(mlflow)
    assert [each.info.status for each in (one, two)] == ["FINISHED"] * 2
    assert one.info.run_name == "digits"
    assert mlflow.active_run() is None
    assert {name: one.data.params[name] for name in ("epochs", "batch_size", "lr", "optimizer", "objective")} == {
        "epochs": "3",
        "batch_size": "150",
        "lr": "0.005",
        "optimizer": "adam",
        "objective": "ELBO()",
    }
    assert "IWAE" in two.data.params["objective"]
    assert not {"callbacks", "validation_data"} & one.data.params.keys()
    for column in ("elbo", "kl"):
        found = pd.concat([logged(mlflow, each, column) for each in (one, two)])
        pd.testing.assert_series_equal(found, vi.history[column], check_names=False, check_index_type=False)
    assert list(logged(mlflow, one, "validation_elbo")) == vi.history["validation_elbo"].dropna().tolist()
    assert "validation_elbo" not in two.data.metrics


@pytest.mark.slow
def test_mlflow_knows_how_a_fit_has_ended(mlflow: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        make_vi().fit(X, callbacks=[MLflow(), Raise(ZeroDivisionError())], **SHORT)
    make_vi().fit(X, callbacks=[MLflow(), Raise(KeyboardInterrupt())], **SHORT)
    make_vi().fit(X, callbacks=[MLflow(), StopAfter(1)], **SHORT)
    assert [each.info.status for each in runs(mlflow)] == ["FAILED", "KILLED", "FINISHED"]
    assert [list(logged(mlflow, each, "elbo").index) for each in runs(mlflow)] == [[1]] * 3
    assert mlflow.active_run() is None


@pytest.mark.slow
def test_mlflow_nests_in_the_active_run_or_logs_to_a_given_one(mlflow: Any) -> None:
    with mlflow.start_run() as outer:
        make_vi().fit(X, callbacks=[MLflow()], **SHORT)
        assert mlflow.active_run().info.run_id == outer.info.run_id
        vi = make_vi().fit(X, callbacks=[MLflow(outer)], **SHORT)
        vi.fit(X, callbacks=[MLflow(outer)], **{**SHORT, "epochs": 1})
        assert mlflow.active_run().info.run_id == outer.info.run_id
    found = {each.info.run_id: each for each in runs(mlflow)}
    given = found.pop(outer.info.run_id)
    (nested,) = found.values()
    assert nested.data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert list(logged(mlflow, given, "elbo")) == vi.history["elbo"].tolist()
    assert given.data.params["epochs"] == "3"


@pytest.mark.parametrize(
    ("make", "package"),
    [
        (lambda: WeightsAndBiases(), "wandb"),
        (lambda: TensorBoard("runs"), "tensorboard"),
        (lambda: MLflow(), "mlflow"),
    ],
)
def test_a_missing_package_is_named(make: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"callbacks\.\w+ needs {package}.*'amortvi\[{package}\]'"):
        make()
