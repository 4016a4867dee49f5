"""Bad arguments of a posterior's methods, and calls before any data have been seen."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import amortvi as avi
from amortvi.errors import AmortviError, DataError, NotFittedError, OptionError
from tests.bad_input.helpers import LATENTS, ROWS, data, estimator, refused

WRONG: list[tuple[str, Any, type[AmortviError], tuple[str, ...]]] = [
    ("log_prob", {"z": torch.zeros(39, LATENTS)}, DataError, ("values are of 39 observations", "40")),
    *[
        (method, value, OptionError, ("quantiles must", "got"))
        for method in ("quantiles", "to_frame")
        for value in (0.5, None, ["a"], [0.0], [1.0], [math.nan], [0.5, 2.0])
    ],
    ("select", [0, ROWS], DataError, ("rows must be positions from -40 to 39", "40")),
]


@pytest.mark.parametrize(("method", "value", "error", "facts"), WRONG, ids=lambda value: str(value)[:20])
def test_arguments_of_methods(
    method: str, value: Any, error: type[AmortviError], facts: tuple[str, ...], trained: avi.AmortizedVI
) -> None:
    with refused(error, *facts, vi=trained):
        getattr(trained.posterior(data()), method)(value)


def test_before_any_data(tmp_path: Path) -> None:
    vi, path = estimator(), tmp_path / "run"
    calls: list[Callable[[], Any]] = [
        *[partial(call, data()) for call in (vi.posterior, vi.evaluate, vi.predict, vi.to_arviz, vi.refine)],
        *[partial(vi.sample_prior, 3), partial(vi.sample_prior, 3, data()), partial(vi.save, path)],
        *[lambda: vi.example, lambda: vi.guide.latents, lambda: vi.generative.structure],
    ]
    for call in calls:
        with refused(NotFittedError, "call fit or setup first", vi=vi):
            call()
    assert not path.exists()
