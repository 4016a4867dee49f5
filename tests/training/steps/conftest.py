"""Compiled steps that run their recordings without the compiler, and a parameter store that no fit may change."""

from collections.abc import Iterator

import pyro
import pytest
import torch

from amortvi.compile import compiled_function
from amortvi.compile.recording import Recording
from tests.as_recorded import without_compiler


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Run recordings as they are, and return those made so far."""
    return without_compiler(monkeypatch, compiled_function)


@pytest.fixture(autouse=True)
def _unchanged_param_store() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.param("mine", torch.ones(2))
    yield
    assert list(pyro.get_param_store()) == ["mine"]
    assert torch.equal(pyro.param("mine"), torch.ones(2))
    pyro.clear_param_store()
