"""An empty parameter store for each test, and steps that run their recordings without the compiler."""

from collections.abc import Iterator

import pyro
import pytest

from amortvi.compile.recording import Recording
from amortvi.compile.svi import compiled_step
from tests.as_recorded import without_compiler


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Run recordings as they are, and return those made so far."""
    return without_compiler(monkeypatch, compiled_step)
