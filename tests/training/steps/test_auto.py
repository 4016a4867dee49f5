"""With ``compile="auto"``, the number of steps decides; a failure leads to one warning, and a slow compiled step is dropped."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from amortvi.compile import compiled_function
from amortvi.compile.recording import Recording
from amortvi.errors import AmortviWarning, CaptureError
from amortvi.training.steps import CompiledStep, EagerStep, auto
from tests.training.steps.fits import X, assert_equal, check_as_eager, estimator, fitted, reads_a_value


@pytest.fixture
def compiles_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compiling pay from 12 steps on, and never return to eager steps."""
    monkeypatch.setattr(auto, "PAYS_FROM", 12)
    monkeypatch.setattr(auto, "_TIMED_STEPS", 3)
    monkeypatch.setattr(auto, "_TOLERATED_SLOWDOWN", 1e9)


def test_a_short_fit_is_eager(recordings: list[Recording]) -> None:
    check_as_eager(compile="auto", tolerance=0)
    assert not recordings


@pytest.mark.usefixtures("compiles_early")
def test_shapes_that_occur_often_are_compiled(recordings: list[Recording]) -> None:
    """20 observations in batches of 8 are two full batches per epoch, and one of four, which occurs only ten times."""
    options: dict[str, Any] = {"compile": "auto", "epochs": 10, "batch_size": 8}
    assert_equal(fitted(**options), check_as_eager(**options))
    assert len(recordings) == 2  # one for each fit


@pytest.mark.usefixtures("compiles_early")
def test_a_short_fit_uses_what_an_earlier_fit_compiled(
    recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    vi = fitted(epochs=20, compile="auto")
    monkeypatch.setattr(EagerStep, "__call__", lambda step, minibatch: pytest.fail("a step ran eagerly"))
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
    check_as_eager(compile="auto", epochs=40)
    assert compiled_steps[0] == 4  # the one that compiles, and three that are timed


@pytest.mark.usefixtures("compiles_early")
@pytest.mark.parametrize(
    ("model", "optimizer", "reason"),
    [
        (reads_a_value, torch.optim.Adam, r"sign = 1\.0 if z\.sum\(\) > 0"),
        (None, torch.optim.LBFGS, "LBFGS evaluates the loss itself"),
        (None, torch.optim.Adam, "no compiler"),
    ],
    ids=["a value that is read", "a line search", "a graph that does not compile"],
)
def test_a_fit_that_cannot_be_compiled_runs_eagerly_with_one_warning(
    model: Any, optimizer: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_function, "compile_recording", Mock(side_effect=CaptureError("no compiler")))
    options = {"optimizer": optimizer, "epochs": 20, "validation_data": X[:5].double()}
    with pytest.warns(AmortviWarning, match=f"runs without compiling: .*{reason}") as caught:
        check_as_eager(lambda: estimator(model), compile="auto", tolerance=0, **options)
    assert len(caught) == 1


WITHOUT_COMPILER = """
import pytest
from amortvi.errors import AmortviWarning, CaptureError
from amortvi.training.steps import auto
from tests.training.steps.fits import fitted
auto.PAYS_FROM = 12
with pytest.warns(AmortviWarning, match="needs a C[+][+] compiler") as caught:
    vi = fitted(epochs=20, compile="auto")
assert len(caught) == 1
with pytest.raises(CaptureError, match="needs a C[+][+] compiler"):
    fitted(vi, epochs=20)
assert len(vi.history) == 20
"""


@pytest.mark.slow
def test_a_machine_without_a_compiler_gets_one_warning(tmp_path: Path) -> None:
    """The compiler is missing from the start of the process."""
    environment = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], env=environment, check=True, timeout=200)
