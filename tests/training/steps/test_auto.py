"""When compiling is left to the library: by the steps to come, with one warning where it cannot be, and back where it is slow."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import amortvi as avi
from amortvi.training.steps import EagerStep, auto
from amortvi.errors import AmortviWarning
from tests.training.steps.test_compiled_is_eager import assert_equal, numbers
from tests.training.steps.test_compiled import compilations, estimator, fitted, reads_a_value


@pytest.fixture
def short_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compiling pay from a few steps on."""
    monkeypatch.setattr(auto, "PAYS_FROM", 12)
    monkeypatch.setattr(auto, "_WATCHED", 3)
    monkeypatch.setattr(auto, "_TOLERATED", 1e9)


def test_a_short_fit_is_eager_bit_for_bit() -> None:
    left_to_us, eager = fitted(compile="auto"), fitted(compile=False)
    assert compilations(left_to_us) == 0
    for name, value in numbers(eager).items():
        assert torch.equal(numbers(left_to_us)[name], value), name


@pytest.mark.usefixtures("not_compiled", "short_of_patience")
def test_a_long_fit_is_compiled_in_those_shapes_that_come_often() -> None:
    # 40 observations in batches of 16: two full ones an epoch, and one of eight, which comes ten times only.
    left_to_us = fitted(compile="auto")
    assert compilations(left_to_us) == 1
    assert_equal(left_to_us, fitted(compile=False), 1e-9)


@pytest.mark.usefixtures("not_compiled", "short_of_patience")
def test_the_choice_is_the_same_each_time() -> None:
    once, again = fitted(compile="auto"), fitted(compile="auto")
    for name, value in numbers(once).items():
        assert torch.equal(numbers(again)[name], value), name


@pytest.mark.usefixtures("not_compiled", "short_of_patience")
def test_what_was_compiled_serves_the_next_fit_however_short(monkeypatch: pytest.MonkeyPatch) -> None:
    vi = fitted(epochs=20, compile="auto")
    found = compilations(vi)
    assert found == 2

    def refuse(minibatch: Any) -> None:
        raise AssertionError("a step ran eagerly")

    monkeypatch.setattr(EagerStep, "__call__", lambda step, minibatch: refuse(minibatch))
    fitted(vi, epochs=1, compile="auto")
    assert compilations(vi) == found


@pytest.mark.usefixtures("not_compiled", "short_of_patience")
def test_a_compiled_step_that_is_slower_goes_back_to_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each reading of the clock is one second later, and ten during a compiled step.
    clock = iter(range(10**9))
    times = {"now": 0.0}

    def now(totals: Any) -> float:
        next(clock)
        times["now"] += 1.0
        return times["now"]

    monkeypatch.setattr(auto, "_TOLERATED", 1.1)
    monkeypatch.setattr(auto, "_now", now)
    vi = estimator()
    calls = {"compiled": 0}
    engine = vi._trainer._updates
    make = engine._make_compiled

    def slow(update: Any) -> Any:
        step = make(update)
        run = step.program.__call__

        class Slow(type(step.program)):  # type: ignore[misc]
            def __call__(self, minibatch: Any) -> Any:
                times["now"] += 10.0
                calls["compiled"] += 1
                return run(minibatch)

        step.program.__class__ = Slow
        return step

    monkeypatch.setattr(engine, "_make_compiled", slow)
    fitted(vi, compile="auto", batch_size=40, epochs=40)
    assert calls["compiled"] == 4
    assert_equal(vi, fitted(compile=False, batch_size=40, epochs=40), 1e-9)


@pytest.mark.usefixtures("short_of_patience")
def test_a_model_that_cannot_be_recorded_runs_eagerly_with_one_warning() -> None:
    def fit(compile: Any) -> avi.AmortizedVI:
        torch.manual_seed(0)
        vi = avi.AmortizedVI(reads_a_value, avi.encoders.MLP(3, [6]))
        return fitted(vi, dtype=torch.float32, compile=compile, epochs=20, validation_data=estimator_data())

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        left_to_us = fit("auto")
    ours = [each for each in caught if issubclass(each.category, AmortviWarning)]
    assert len(ours) == 1
    assert "runs without compiling" in str(ours[0].message)
    assert "sign = 1.0 if z.sum() > 0" in str(ours[0].message)
    eager = fit(False)
    for name, value in numbers(eager).items():
        assert torch.equal(numbers(left_to_us)[name], value), name


def estimator_data() -> torch.Tensor:
    return torch.randn(10, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.usefixtures("short_of_patience")
def test_a_line_search_runs_eagerly_with_one_warning() -> None:
    with pytest.warns(AmortviWarning, match="LBFGS asks for the loss"):
        fitted(compile="auto", optimizer=torch.optim.LBFGS, epochs=20, batch_size=40, lr=0.1)


WITHOUT_A_COMPILER = """
import warnings, torch, amortvi as avi
from amortvi.training.steps import auto
auto.PAYS_FROM = 12
x = torch.randn(32, 3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    vi = avi.AmortizedVI(avi.models.VAE(torch.nn.Linear(2, 3), 2, likelihood="normal"), avi.encoders.MLP(3, [4]))
    vi.fit(x, epochs=20, batch_size=16, validation_data=x, seed=0, progress=False)
    for each in caught:
        if issubclass(each.category, avi.errors.AmortviWarning):
            print("warned:", each.message)
try:
    vi.fit(x, epochs=20, batch_size=16, seed=0, progress=False, compile=True)
except avi.errors.CaptureError as error:
    print("refused:", error)
print("epochs:", len(vi.history))
"""


def test_without_a_compiler_it_says_so_once_and_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_COMPILER], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["warned", "refused", "epochs"], done.stdout
    assert "needs a C++ compiler" in lines[0]
    assert "needs a C++ compiler" in lines[1]
    assert lines[2] == "epochs: 20"
