"""When steps are recorded and compiled, and what happens if they cannot be or if a graph turns out to be wrong."""

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyro
import pytest
import torch
from torch import Tensor, fx

from amortvi.compile import RECORD_AFTER, verified_graph
from amortvi.compile.backends.interpreter import Run, interpret
from amortvi.compile.recording import Recording
from amortvi.errors import AmortviWarning, CaptureError, OptionError, VerificationError, VerificationWarning
from amortvi.objectives import ELBO
from amortvi.training.steps import Policy, policy
from tests.training.steps.fits import Linear, X, check_as_eager, estimator, fitted, reads_a_value

LINE_SEARCH = partial(torch.optim.LBFGS, max_iter=2)


@pytest.fixture
def compiled_graphs(monkeypatch: pytest.MonkeyPatch) -> list[fx.GraphModule]:
    """Compile after 24 recorded steps; return the graphs given to the compiler, which are interpreted instead."""
    found: list[fx.GraphModule] = []

    def keep(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Run:
        found.append(module)
        return interpret(module)

    compile_after(24, keep, monkeypatch)
    return found


def compile_after(steps: int, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile with another backend, after this number of recorded steps, in this process."""
    monkeypatch.setattr(policy, "COMPILE_AFTER", steps)
    monkeypatch.setattr(verified_graph, "CompilationAhead", Mock())
    monkeypatch.setattr(verified_graph, "compile_graph", backend)


def test_a_shape_is_recorded_after_some_steps_and_compiled_after_many(
    recordings: list[Recording], compiled_graphs: list[fx.GraphModule]
) -> None:
    fitted(compile="auto", epochs=RECORD_AFTER)
    assert not recordings
    fitted(compile="auto", epochs=RECORD_AFTER + 24)
    assert len(recordings) == 1
    assert not compiled_graphs
    fitted(compile="auto", epochs=RECORD_AFTER + 25)
    assert len(recordings) == 2
    assert len(compiled_graphs) == 1


def test_shapes_are_counted_one_by_one(recordings: list[Recording]) -> None:
    """20 observations in batches of 8 are two full batches per epoch, and one of four."""
    check_as_eager(compile="auto", epochs=12, batch_size=8)
    assert len(recordings) == 1
    # Two epochs with the small batch and 18 with the estimate for the validation data are too few.
    check_as_eager(compile="auto", epochs=18, validation_data=X[:5].double())
    assert len(recordings) == 1


def test_true_records_and_compiles_from_the_second_step(
    recordings: list[Recording], compiled_graphs: list[fx.GraphModule]
) -> None:
    fitted(epochs=1)
    assert not recordings
    fitted(epochs=2)
    assert len(recordings) == len(compiled_graphs) == 1
    assert (Policy("auto", "warn").record_after, Policy(True, "warn").record_after) == (RECORD_AFTER, 1)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (reads_a_value, r"without compiling: .*sign = 1\.0 if z\.isfinite"),
        (None, "as a graph that is not compiled: no compiler"),
    ],
    ids=["a value that is read", "a graph that does not compile"],
)
def test_a_fit_that_is_refused_continues_with_one_warning(
    model: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_after(4, Mock(side_effect=CaptureError("no compiler")), monkeypatch)
    options = {"epochs": 26, "validation_data": X[:5].double()}
    with pytest.warns(AmortviWarning, match=reason) as caught:
        check_as_eager(lambda: estimator(model), compile="auto", **options)
    assert len(caught) == 1


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, LINE_SEARCH])
def test_a_fit_too_short_to_be_recorded_is_eager_without_warning(optimizer: Any, recordings: list[Recording]) -> None:
    check_as_eager(compile="auto", epochs=RECORD_AFTER, optimizer=optimizer, tolerance=0)
    assert not recordings


def test_a_line_search_is_eager_without_warning(recordings: list[Recording]) -> None:
    check_as_eager(compile="auto", epochs=RECORD_AFTER + 2, optimizer=LINE_SEARCH, tolerance=0)
    assert not recordings


class DrawsInPython(Linear):
    """Draws a weight from Python's generator, which a graph cannot."""

    def forward(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=random.uniform(0.5, 1.0)):
            super().forward(x)


@pytest.mark.usefixtures("recordings")
def test_a_model_that_varies_is_refused_at_the_first_recorded_step() -> None:
    with pytest.warns(
        AmortviWarning, match=r"this fit runs without compiling: .*fits.*, line \d+.*received .* in one"
    ) as caught:
        vi = fitted(estimator(DrawsInPython()), compile="auto", epochs=40)
    assert len(caught) == 1
    assert not isinstance(caught[0].message, VerificationWarning)
    assert len(vi.history) == 40
    with pytest.raises(CaptureError, match="received"):
        fitted(estimator(DrawsInPython()), compile=True)


class Changing(Linear):
    """Scales the log density by a Python number, which the schedule of the KL weight changes after five epochs."""

    factor = 1.0

    def forward(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=self.factor):
            super().forward(x)


def changing() -> tuple[Any, ELBO]:
    model = Changing()

    def weight(epochs: float) -> float:
        model.factor = 1.0 if epochs < 5 else 2.0
        return 1.0

    vi = estimator(model)
    return vi, ELBO(kl_weight=weight)


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize("epochs", [8, 20])
def test_a_graph_that_becomes_wrong_is_found_by_the_next_audit(epochs: int) -> None:
    """The audits are the steps 2, 3, 5 and 9; the factor changes before step 6."""
    vi, objective = changing()
    if epochs < 9:
        fitted(vi, objective=objective, epochs=epochs)  # no audit follows
        return
    with pytest.warns(VerificationWarning, match="the last 3 compiled steps may be wrong.*its loss is") as caught:
        fitted(vi, objective=objective, epochs=epochs)
    assert len(caught) == 1
    assert len(vi.history) == epochs
    other, objective = changing()
    with pytest.raises(VerificationError, match=r"its loss is .*fits\.py, line"):
        fitted(other, objective=objective, epochs=epochs, verify="error")
    assert len(other.history) == 8


def test_verify_is_checked() -> None:
    with pytest.raises(OptionError, match="verify must be"):
        fitted(verify="ignore")


WITHOUT_COMPILER = """
import pytest
from amortvi.errors import CaptureError
from tests.training.steps.fits import fitted
vi = fitted(epochs=40, compile="auto")
with pytest.raises(CaptureError, match="needs a C[+][+] compiler"):
    fitted(vi, epochs=20)
assert len(vi.history) == 41
"""


@pytest.mark.slow
def test_a_machine_without_a_compiler_records_all_the_same(tmp_path: Path) -> None:
    """The compiler is missing from the start of the process."""
    environment = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", WITHOUT_COMPILER], env=environment, check=True, timeout=200
    )
