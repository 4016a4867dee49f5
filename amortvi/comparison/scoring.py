"""The scores of fits on held-out observations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from amortvi._util.executors import run_jobs
from amortvi._util.lazy import pandas as pd
from amortvi._util.random import random_state
from amortvi.comparison.fits import Fit
from amortvi.diagnostics.evidence import evidence
from amortvi.diagnostics.gaps.diagnosis import Diagnosis, diagnose
from amortvi.errors import AmortviWarning, NonFiniteError
from amortvi.inference import AmortizedVI
from amortvi.posterior.evaluation import evaluate
from amortvi.training import Status

__all__ = ["PARTS", "Scored", "Scores", "score_fits"]

Scores: TypeAlias = npt.NDArray[np.float64]

PARTS = ("iwae", "reconstruction", "kl")


@dataclass(frozen=True)
class Scored:
    """What a comparison has to know of one fit.

    Args:
        family: the label of the family.
        seconds: the wall-clock time of the fit.
        parameters: the number of trained parameters of encoder and family.
        epochs: the number of epochs.
        status: how the fit ended.
        bounds: the bounds of each observation, one row each.
        score: the score of each observation, ``(N,)``.
        unreliable: the share of scores that are unreliable.
        diagnosis: the gaps, if they were requested.
    """

    family: str
    seconds: float
    parameters: int
    epochs: int
    status: Status | None
    bounds: pd.DataFrame
    score: Scores
    unreliable: float = 0.0
    diagnosis: Diagnosis | None = None


def score_fits(
    runs: Sequence[Fit], x: Any, score: str, particles: int, *, gaps: bool, seed: int, executor: Executor | None
) -> list[Scored]:
    """Score each fit on the same observations, one after the other or by the workers of an executor."""
    shared: dict[str, Any] = {"x": x, "score": score, "particles": particles, "gaps": gaps, "seed": seed}
    each: list[dict[str, Any]] = [{"vi": run.vi, "family": run.family, "seconds": run.seconds} for run in runs]
    if executor is None:
        return [_score(**arguments, **shared) for arguments in each]
    found: list[Scored] = run_jobs(executor, _score, shared, dict(enumerate(each)), unit="fit").values()
    return found


def _score(
    vi: AmortizedVI, family: str, seconds: float, x: Any, score: str, particles: int, gaps: bool, seed: int
) -> Scored:
    parameters = sum(p.numel() for p in vi.guide.parameters() if p.requires_grad)
    fit = (family, seconds, parameters, len(vi.history), vi.status)
    try:
        # Unlike vi.evaluate, this does not warn of fits that have not converged; one warning has named them all.
        with random_state(seed, vi.device):
            bounds = evaluate(vi.posterior(x, copy=False), particles)
    except NonFiniteError as error:
        warnings.warn(f"the fit of {family!r} is ranked last: {error}", AmortviWarning, stacklevel=4)
        nothing = np.full(len(vi.posterior(x, copy=False).in_memory()), math.nan)
        return Scored(*fit, pd.DataFrame(dict.fromkeys(("elbo", *PARTS), nothing)), nothing)
    found = diagnose(vi, x, seed=seed) if gaps else None
    if score == "elbo":
        return Scored(*fit, bounds, bounds["elbo"].to_numpy(), 0.0, found)
    if found is not None:
        return Scored(*fit, bounds, found.gaps.evidence.numpy(), _share(~found.gaps.reliable), found)
    reliable = evidence(vi, x, draws=particles, simulations=0, seed=seed).reliable
    return Scored(*fit, bounds, bounds["iwae"].to_numpy(), _share(~reliable))


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())
