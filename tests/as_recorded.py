"""Recorded graphs that run operation by operation, so that tests of recordings do not wait for the compiler."""

from collections.abc import Sequence

import pytest
from torch import Tensor, fx

from amortvi.compile import verified_graph
from amortvi.compile.backends.interpreter import Run, interpret
from amortvi.compile.recording import Function, Recording, record


def _interpret(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Run:
    """Stand in for `compile_graph`."""
    return interpret(module)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Return the recordings made so far."""
    found: list[Recording] = []

    def keep(function: Function, arguments: Sequence[Tensor], seed: int = 0) -> Recording:
        found.append(record(function, arguments, seed))
        return found[-1]

    monkeypatch.setattr(verified_graph, "record", keep)
    return found


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch, kept: list[Recording]) -> list[Recording]:
    """Run recordings without compiling them, and return those made so far."""
    monkeypatch.setattr(verified_graph, "compile_graph", _interpret)
    return kept


@pytest.fixture(params=["recorded", pytest.param("compiled", marks=pytest.mark.slow)])
def graphs(request: pytest.FixtureRequest, kept: list[Recording]) -> list[Recording]:
    """Return the recordings made so far; the slow tests compile them."""
    if request.param == "recorded":
        request.getfixturevalue("recordings")
    return kept
