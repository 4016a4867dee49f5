"""An empty parameter store for each test, and recordings in place of compiled graphs."""

from collections.abc import Iterator

import pyro
import pytest

from tests.as_recorded import graphs, kept, recordings

__all__ = ["graphs", "kept", "recordings"]


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
