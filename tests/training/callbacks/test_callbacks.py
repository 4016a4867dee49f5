"""Callbacks: when they are called, what they see, what they may do, and what their errors undo."""

from pathlib import Path
from typing import Any

import pytest
import torch

import amortvi as avi
from amortvi.errors import ConcurrentFitError, OptionError
from amortvi.training.callbacks import Callback, EarlyStopping, RunningFit
from tests.training.callbacks.short import SHORT, StopAfter
from tests.training.problem import X, make_vi, parameters


class Recorder(Callback):
    """Notes every call with what the fit shows at that time, and raises an error at one of them."""

    def __init__(self, name: str = "", calls: list[Any] | None = None, fails_at: Any = None) -> None:
        self.name, self.calls, self.fails_at = name, [] if calls is None else calls, fails_at

    def note(self, hook: str, fit: RunningFit) -> None:
        shown = (hook, fit.epoch, fit.step, len(fit.history), fit.status)
        self.calls.append((self.name, *shown) if self.name else shown)
        if self.fails_at in (hook, (hook, fit.epoch)):
            raise ZeroDivisionError(hook)

    def on_fit_start(self, fit: RunningFit) -> None:
        self.note("start", fit)

    def on_step_end(self, fit: RunningFit) -> None:
        self.note("step", fit)

    def on_epoch_end(self, fit: RunningFit) -> None:
        self.note("epoch", fit)

    def on_interrupt(self, fit: RunningFit) -> None:
        self.note("interrupt", fit)

    def on_fit_end(self, fit: RunningFit) -> None:
        self.note("end", fit)


def test_when_callbacks_are_called_and_what_they_see() -> None:
    recorder = Recorder()
    vi = make_vi().fit(X, callbacks=[recorder], **{**SHORT, "epochs": 2})
    epochs = [[("step", n, 1, n - 1, None), ("step", n, 2, n - 1, None), ("epoch", n, 2, n, None)] for n in (1, 2)]
    assert recorder.calls == [("start", 1, 0, 0, None), *epochs[0], *epochs[1], ("end", 3, 2, 2, vi.status)]
    recorder.calls.clear()
    vi.fit(X, callbacks=[recorder], **{**SHORT, "epochs": 1})
    assert recorder.calls[0] == ("start", 3, 0, 2, None)
    assert [call[:2] for call in recorder.calls[1:-1]] == [("step", 3), ("step", 3), ("epoch", 3)]


def test_several_are_called_in_order_and_at_the_end_in_reverse() -> None:
    calls: list[Any] = []
    make_vi().fit(X, callbacks=[Recorder("a", calls), Recorder("b", calls)], **{**SHORT, "epochs": 1})
    assert [call[:2] for call in calls if call[1] != "step"] == [
        ("a", "start"),
        ("b", "start"),
        ("a", "epoch"),
        ("b", "epoch"),
        ("b", "end"),
        ("a", "end"),
    ]


def test_what_a_running_fit_shows() -> None:
    seen: dict[str, Any] = {}

    class Look(Callback):
        def on_step_end(self, fit: RunningFit) -> None:
            seen["bound"] = fit.bound_so_far()

        def on_epoch_end(self, fit: RunningFit) -> None:
            seen.update(
                {
                    "last": fit.last_epoch,
                    "asked": fit.options.epochs,
                    "steps": fit.steps,
                    "elbo": fit.history[-1].elbo,
                    "tensors": fit.tensors,
                }
            )

    vi = make_vi().fit(X, callbacks=[Look()], **SHORT)
    assert (seen["last"], seen["asked"], seen["steps"]) == (3, 3, 2)
    assert seen["bound"] == seen["elbo"] == vi.history["elbo"].iloc[-1]
    shown, own = {id(each) for each in seen["tensors"]}, (*vi.guide.parameters(), *vi.generative.parameters())
    assert {id(each) for each in own} <= shown


def test_callbacks_change_nothing_unless_they_write() -> None:
    plain, watched = make_vi(dropout=0.1).fit(X, **SHORT), make_vi(dropout=0.1)

    class Draws(Recorder):
        """Draws random numbers outside the epochs, where those of the fit are not its concern."""

        def on_epoch_end(self, fit: RunningFit) -> None:
            torch.randn(3)

    watched.fit(X, callbacks=[Draws()], **SHORT)
    assert torch.equal(parameters(plain), parameters(watched))

    class Zero(Callback):
        def on_fit_end(self, fit: RunningFit) -> None:
            with torch.no_grad():
                for tensor in fit.tensors:
                    tensor.zero_()

    assert not parameters(watched.fit(X, callbacks=[Zero()], **SHORT)).any()


@pytest.mark.parametrize("hook", ["step", "epoch"])
def test_stop_ends_the_fit_after_the_epoch(hook: str) -> None:
    class Stop(Recorder):
        def note(self, called: str, fit: RunningFit) -> None:
            super().note(called, fit)
            if (called, fit.epoch) == (hook, 2):
                fit.stop()

    stop = Stop()
    vi = make_vi().fit(X, callbacks=[stop], **{**SHORT, "epochs": 9})
    assert (vi.status, len(vi.history)) == ("stopped", 2)
    assert [call[0] for call in stop.calls].count("step") == 4
    assert stop.calls[-1][0] == "end"
    assert "callback" in str(vi.convergence)
    assert torch.equal(parameters(vi), parameters(make_vi().fit(X, callbacks=[Stop()], **{**SHORT, "epochs": 9})))


@pytest.mark.parametrize(
    ("fails_at", "epochs"), [("start", 0), (("step", 1), 0), (("step", 3), 2), (("epoch", 2), 2), ("end", 3)]
)
def test_an_error_ends_the_fit_and_undoes_the_epoch_in_which_it_is_raised(fails_at: Any, epochs: int) -> None:
    vi, first = make_vi().setup(X, seed=0), Recorder()
    before = parameters(vi).clone()
    with pytest.raises(ZeroDivisionError):
        vi.fit(X, callbacks=[first, Recorder(fails_at=fails_at)], lr_schedule="constant", **SHORT)
    assert len(vi.history) == epochs
    assert first.calls[-1][0] == "end"  # also after an error
    assert "interrupt" not in [call[0] for call in first.calls]
    if not epochs:
        assert torch.equal(parameters(vi), before)
        assert vi.status is None
        return
    expected = make_vi().setup(X, seed=0)
    # Epochs at a constant learning rate do not depend on how many there are, once off-diagonal parameters are as locked.
    expected.fit(X, callbacks=[StopAfter(epochs)], lr_schedule="constant", **SHORT)
    assert torch.equal(parameters(vi), parameters(expected))
    assert vi.status == "interrupted"
    assert len(vi.fit(X, **SHORT).history) == epochs + 3


def test_ctrl_c_calls_on_interrupt_with_the_parameters_before_the_epoch() -> None:
    found: list[torch.Tensor] = []

    class Press(Recorder):
        def on_step_end(self, fit: RunningFit) -> None:
            super().on_step_end(fit)
            if (fit.epoch, fit.step) == (3, 1):
                raise KeyboardInterrupt

        def on_interrupt(self, fit: RunningFit) -> None:
            super().on_interrupt(fit)
            found.append(parameters(vi).clone())

    vi, press = make_vi(), Press()
    vi.fit(X, callbacks=[press], lr_schedule="constant", **SHORT)
    assert press.calls[-2:] == [("interrupt", 3, 1, 2, None), ("end", 3, 1, 2, "interrupted")]
    before = make_vi().fit(X, callbacks=[StopAfter(2)], lr_schedule="constant", **SHORT)
    assert torch.equal(found[0], parameters(before))
    assert not torch.equal(parameters(vi), found[0])  # the step of the interrupted epoch is kept


def test_a_callback_can_use_the_estimator_but_not_fit_it() -> None:
    class Use(Callback):
        def on_epoch_end(self, fit: RunningFit) -> None:
            assert torch.isfinite(vi.posterior(X[:5]).mean["z"]).all()
            with pytest.raises(ConcurrentFitError, match="being fitted"):
                vi.fit(X, **SHORT)

    vi = make_vi()
    vi.fit(X, callbacks=[Use()], **SHORT)
    assert torch.equal(parameters(vi), parameters(make_vi().fit(X, **SHORT)))


@pytest.mark.parametrize("bad", [3, [3], [Recorder], "callback", Recorder()])
def test_what_is_no_callback_is_refused(bad: Any) -> None:
    with pytest.raises(OptionError, match="callbacks must be a list of instances"):
        make_vi().fit(X, callbacks=bad, **SHORT)


class Counter(Callback):
    """Counts epochs, also those before a fit was resumed."""

    def __init__(self) -> None:
        self.count, self.start = 0, -1

    def on_fit_start(self, fit: RunningFit) -> None:
        self.start = fit.epoch

    def on_epoch_end(self, fit: RunningFit) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "average": torch.full((2,), float(self.count))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["average"].tolist() == [state["count"]] * 2
        self.count = state["count"]


def test_the_state_of_callbacks_is_in_checkpoints(tmp_path: Path) -> None:
    options = {**SHORT, "epochs": 6, "validation_data": X[:50], "patience": 10}
    make_vi().fit(X, checkpoint=tmp_path, callbacks=[Counter(), StopAfter(4), Counter()], **options)
    ours = [Counter(), Counter(), Counter()]
    vi = make_vi().fit(X, checkpoint=tmp_path, callbacks=ours, **options)
    assert len(vi.history) == 6
    assert [each.count for each in ours] == [6, 6, 2]  # the third is new
    assert [each.start for each in ours] == [5, 5, 5]


class TestEarlyStopping:
    options: dict[str, Any] = {  # noqa: RUF012
        "validation_data": X[200:],
        "lr": 0.2,
        "lr_schedule": "constant",
        "seed": 0,
        "progress": False,
        "epochs": 300,
    }

    def test_it_is_what_patience_adds(self) -> None:
        stopping = EarlyStopping(3)
        ours = make_vi("diagonal").fit(X[:40], callbacks=[stopping], **self.options)
        theirs = make_vi("diagonal").fit(X[:40], patience=3, **self.options)
        assert torch.equal(parameters(ours), parameters(theirs))
        assert ours.status == theirs.status == "stopped early"
        assert stopping.best_epoch == int(ours.history["validation_elbo"].idxmax()) == len(ours.history) - 3

    def test_it_starts_anew_with_each_fit(self) -> None:
        stopping, vi = EarlyStopping(3), make_vi("diagonal")
        vi.fit(X[:40], callbacks=[stopping], **self.options)
        trained = len(vi.history)
        vi.fit(X[:40], callbacks=[stopping], **self.options)
        assert trained + 3 <= len(vi.history)
        assert stopping.best_epoch > trained

    @pytest.mark.parametrize("patience", [0, -1, 2.0, None, "3", True])
    def test_bad_patience(self, patience: Any) -> None:
        with pytest.raises(OptionError, match="patience"):
            EarlyStopping(patience)


def test_the_progress_bar_of_a_resumed_fit_shows_what_is_left(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {**SHORT, "epochs": 4, "progress": True}
    make_vi().fit(X, checkpoint=tmp_path, callbacks=[StopAfter(3)], **options)
    capfd.readouterr()
    make_vi().fit(X, checkpoint=tmp_path, **options)
    shown = capfd.readouterr().err
    assert "epoch 4/4" in shown
    assert "2/2" in shown  # two steps
    assert "8" not in shown.split("\r")[1].split("[")[0]


def test_the_shipped_callbacks_are_public() -> None:
    assert {"Callback", "EarlyStopping", "MLflow", "ProgressBar"} <= set(dir(avi.callbacks))
    assert {"TensorBoard", "WeightsAndBiases"} <= set(dir(avi.callbacks))
