"""Isolation of what a page of the documentation does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pyro
import pytest
import torch

matplotlib.use("Agg")

from matplotlib import pyplot  # the backend is chosen before


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Isolate what a page writes, draws and puts into Pyro's parameter store."""
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
    pyro.clear_param_store()
    pyplot.close("all")
