"""With ``compile="auto"``, the number of steps decides; a failure leads to one warning, and a slow compiled step is dropped."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from amortvi.compile import compiled_function
from amortvi.compile.recording import Recording
from amortvi.errors import AmortviWarning, CaptureError
from amortvi.training.steps import CompiledStep, EagerStep, auto
from tests.training.steps.fits import X, assert_equal, estimator, fitted, reads_a_value

TOLERANCE = 1e-9  # see test_compiled_optimizers.py


@pytest.fixture
def compiles_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compiling pay from 12 steps on, and never return to eager steps."""
    monkeypatch.setattr(auto, "PAYS_FROM", 12)
    monkeypatch.setattr(auto, "_TIMED_STEPS", 3)
    monkeypatch.setattr(auto, "_TOLERATED_SLOWDOWN", 1e9)


def test_a_short_fit_is_eager(recordings: list[Recording]) -> None:
    assert_equal(fitted(compile="auto"), fitted(compile=False))
    assert not recordings


@pytest.mark.usefixtures("compiles_early")
def test_shapes_that_occur_often_are_compiled(recordings: list[Recording]) -> None:
    """20 observations in batches of 8 are two full batches per epoch, and one of four, which occurs only ten times."""
    first, second = (fitted(compile="auto", epochs=10, batch_size=8) for _ in range(2))
    assert len(recordings) == 2  # one for each fit
    assert_equal(first, second)
    assert_equal(first, fitted(compile=False, epochs=10, batch_size=8), TOLERANCE)


@pytest.mark.usefixtures("compiles_early")
def test_a_short_fit_uses_what_an_earlier_fit_compiled(
    recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    vi = fitted(epochs=20, compile="auto")

    def fail(step: EagerStep, minibatch: Any) -> None:
        raise AssertionError("a step ran eagerly")

    monkeypatch.setattr(EagerStep, "__call__", fail)
    fitted(vi, epochs=1, compile="auto")
    assert len(recordings) == 1


@pytest.mark.usefixtures("compiles_early", "recordings")
def test_a_slow_compiled_step_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock on which an eager step takes one second and a compiled one eleven."""
    seconds, compiled_steps = [0.0], [0]
    run = CompiledStep.__call__

    def now(totals: Any) -> float:
        seconds[0] += 1.0
        return seconds[0]

    def slow(step: CompiledStep, minibatch: Any) -> None:
        seconds[0] += 10.0
        compiled_steps[0] += 1
        run(step, minibatch)

    monkeypatch.setattr(auto, "_TOLERATED_SLOWDOWN", 1.1)
    monkeypatch.setattr(auto, "_now", now)
    monkeypatch.setattr(CompiledStep, "__call__", slow)
    vi = fitted(compile="auto", epochs=40)
    assert compiled_steps[0] == 4  # the one that compiles, and three that are timed
    assert_equal(vi, fitted(compile=False, epochs=40), TOLERANCE)


@pytest.mark.usefixtures("compiles_early")
def test_a_model_that_cannot_be_recorded_runs_eagerly_with_one_warning() -> None:
    options: dict[str, Any] = {"epochs": 20, "validation_data": X[:5].double()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vi = fitted(estimator(reads_a_value), compile="auto", **options)
    messages = [str(each.message) for each in caught if issubclass(each.category, AmortviWarning)]
    assert len(messages) == 1
    assert "runs without compiling" in messages[0]
    assert "sign = 1.0 if z.sum() > 0" in messages[0]
    assert_equal(vi, fitted(estimator(reads_a_value), compile=False, **options))


@pytest.mark.usefixtures("compiles_early")
def test_a_line_search_runs_eagerly_with_one_warning() -> None:
    with pytest.warns(AmortviWarning, match="LBFGS evaluates the loss itself") as caught:
        fitted(compile="auto", optimizer=torch.optim.LBFGS, epochs=20, lr=0.1)
    assert len(caught) == 1


@pytest.mark.usefixtures("compiles_early")
def test_a_graph_that_does_not_compile_runs_eagerly_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise CaptureError("no compiler")

    monkeypatch.setattr(compiled_function, "compile_recording", fail)
    options: dict[str, Any] = {"epochs": 20, "validation_data": X[:5].double()}
    with pytest.warns(AmortviWarning, match=r"runs without compiling: no compiler") as caught:
        vi = fitted(compile="auto", **options)
    assert len(caught) == 1
    assert_equal(vi, fitted(compile=False, **options))


WITHOUT_COMPILER = """
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


@pytest.mark.slow
def test_a_machine_without_a_compiler_gets_one_warning(tmp_path: Path) -> None:
    """The compiler is missing from the start of the process."""
    environment = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["warned", "refused", "epochs"], done.stdout
    assert "needs a C++ compiler" in lines[0]
    assert "needs a C++ compiler" in lines[1]
    assert lines[2] == "epochs: 20"
