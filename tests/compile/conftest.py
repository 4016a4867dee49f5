"""Steps that run the recorded graph as it is."""

import pytest

from amortvi.training.steps import compiled
from tests.as_recorded import run_as_recorded


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is recorded run without inductor."""
    monkeypatch.setattr(compiled, "compile_recording", run_as_recorded)
