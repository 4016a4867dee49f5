"""A parameter store that is empty, and steps that run the recorded graph as it is."""

from collections.abc import Iterator

import pyro
import pytest

from amortvi.compile.svi import plan
from tests.as_recorded import run_as_recorded


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is recorded run without inductor."""
    monkeypatch.setattr(plan, "compile_recording", run_as_recorded)
