"""Recordings in place of compiled graphs, and a parameter store that no fit may change."""

from collections.abc import Iterator

import pyro
import pytest
import torch

from tests.as_recorded import graphs, kept, recordings

__all__ = ["graphs", "kept", "recordings"]


@pytest.fixture(autouse=True)
def _unchanged_param_store() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.param("mine", torch.ones(2))
    yield
    assert {name: value.tolist() for name, value in pyro.get_param_store().items()} == {"mine": [1, 1]}
    pyro.clear_param_store()
