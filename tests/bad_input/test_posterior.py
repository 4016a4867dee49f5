"""Bad arguments of a posterior's methods, and calls before any data have been seen."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import amortvi as avi
from amortvi.errors import DataError, NotFittedError, OptionError
from tests.bad_input.helpers import LATENTS, ROWS, data, estimator, refused

SITES = ("values must be a dict with the latent sites ['z']",)
VALUES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "none": (None, (*SITES, "NoneType")),
    "tensor": (torch.zeros(ROWS, LATENTS), (*SITES, "Tensor")),
    "missing": ({}, (*SITES, "[]")),
    "unknown": ({"y": torch.zeros(ROWS, LATENTS)}, (*SITES, "['y']")),
    "array": ({"z": np.zeros((ROWS, LATENTS))}, ("values['z'] must be a tensor", "ndarray")),
    "rows": ({"z": torch.zeros(39, LATENTS)}, ("values are of 39 observations", "40")),
    "shape": ({"z": torch.zeros(ROWS, 3)}, ("values['z'] must have shape (..., observations, 2)", "(40, 3)")),
    "nan": ({"z": torch.full((ROWS, LATENTS), math.nan)}, ("values['z'] has values outside the support",)),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_of_log_prob(case: str, trained: avi.AmortizedVI) -> None:
    values, facts = VALUES[case]
    with refused(DataError, *facts, vi=trained):
        trained.posterior(data()).log_prob(values)


@pytest.mark.parametrize("quantiles", [0.5, None, ["a"], [0.0], [1.0], [math.nan], [0.5, 2.0]], ids=repr)
def test_quantiles(quantiles: Any, trained: avi.AmortizedVI) -> None:
    posterior = trained.posterior(data())
    for call in (posterior.quantiles, posterior.to_frame):
        with refused(OptionError, "quantiles must", "got", vi=trained):
            call(quantiles)


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        ([], ("rows selects no observations",)),
        (slice(5, 5), ("rows selects no observations",)),
        ([0, ROWS], ("rows must be positions from -40 to 39", "40")),
        ([0.5], ("rows must be integer positions", "float64")),
        ([True] * 3, ("rows is a mask with 3 entries", "40 observations")),
        (np.zeros((2, 2), dtype=int), ("rows must be integer positions", "(2, 2)")),
    ],
    ids=["empty", "empty slice", "out of range", "fraction", "mask", "matrix"],
)
def test_rows_of_select(rows: Any, facts: tuple[str, ...], trained: avi.AmortizedVI) -> None:
    with refused(DataError, *facts, vi=trained):
        trained.posterior(data()).select(rows)


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
