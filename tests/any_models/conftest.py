"""Pyro's param store, which is empty before and after each test."""

from collections.abc import Iterator

import pyro
import pytest


@pytest.fixture(autouse=True)
def empty_param_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
