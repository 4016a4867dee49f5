"""Bad arguments of a posterior's methods, and calls before any data have been seen."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import amortvi as avi
from amortvi.errors import DataError, NotFittedError, OptionError
from tests.bad_input.helpers import LATENTS, ROWS, data, estimator, nothing_changes, refused

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
    with nothing_changes(trained), refused(DataError, *facts):
        trained.posterior(data()).log_prob(values)


@pytest.mark.parametrize("quantiles", [0.5, None, ["a"], [0.0], [1.0], [math.nan], [0.5, 2.0]], ids=repr)
def test_quantiles(quantiles: Any, trained: avi.AmortizedVI) -> None:
    posterior = trained.posterior(data())
    for call in (posterior.quantiles, posterior.to_frame):
        with nothing_changes(trained), refused(OptionError, "quantiles must", "got"):
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
    with nothing_changes(trained), refused(DataError, *facts):
        trained.posterior(data()).select(rows)


CALLS: dict[str, Callable[[avi.AmortizedVI], Any]] = {
    "posterior": lambda vi: vi.posterior(data()),
    "evaluate": lambda vi: vi.evaluate(data()),
    "predict": lambda vi: vi.predict(data()),
    "to_arviz": lambda vi: vi.to_arviz(data()),
    "refine": lambda vi: vi.refine(data()),
    "sample_prior": lambda vi: vi.sample_prior(3),
    "sample_prior, x": lambda vi: vi.sample_prior(3, data()),
    "example": lambda vi: vi.example,
    "latents": lambda vi: vi.guide.latents,
    "structure": lambda vi: vi.generative.structure,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_before_any_data(call: Callable[[avi.AmortizedVI], Any]) -> None:
    vi = estimator()
    with nothing_changes(vi), refused(NotFittedError, "call fit or setup first"):
        call(vi)
    assert vi.history.empty


def test_save_before_any_data(tmp_path: Path) -> None:
    with nothing_changes(), refused(NotFittedError, "call fit or setup first"):
        estimator().save(tmp_path / "run")
    assert not (tmp_path / "run").exists()
