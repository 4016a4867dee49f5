"""A table that compares fitted posterior families on held-out observations."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Literal, TypeAlias

import numpy as np
import pyro
import torch

from amortvi._util.checks import positive_int
from amortvi._util.executors import check_executor
from amortvi._util.lazy import pandas as pd
from amortvi.comparison.fits import FamilyFits, Fit, list_fits
from amortvi.comparison.scoring import PARTS, Scored, Scores, score_fits
from amortvi.diagnostics.evidence import MOST_UNRELIABLE
from amortvi.diagnostics.gaps.diagnosis import Diagnosis
from amortvi.errors import AmortviWarning, ConvergenceWarning, OptionError
from amortvi.families import require_parametric
from amortvi.inference import AmortizedVI
from amortvi.training import FINISHED, Status

__all__ = ["Score", "compare"]

Score: TypeAlias = Literal["auto", "evidence", "elbo"]

_SCORES = ("evidence", "elbo")
_GAP_COLUMNS = ("evidence", "approximation_gap", "amortization_gap", "inference_gap")
_WORST_FIRST: tuple[Status | None, ...] = (
    "interrupted",
    None,
    "falling",
    "still rising",
    "budget",
    "stopped",
    "stopped early",
    "converged",
)
"""How a fit may have ended; ``None`` is an estimator that has not been trained."""
_POINTS = 8
"""The number of latent vectors per observation at which two models are compared."""
_NOISE = 2
"""A difference of up to this many standard errors is within noise."""


def compare(
    fits: FamilyFits | Mapping[str, AmortizedVI],
    x: Any,
    *,
    by: Score = "auto",
    particles: int = 100,
    gaps: bool = False,
    executor: Executor | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare fitted families on held-out observations.

    Models are compared by their held-out evidence ``log p(x)``, estimated by the importance-weighted bound with ``particles``
    draws. If the model is the same in all fits, because it is frozen or has no parameters, so is the evidence, and the fits are
    compared by the ELBO. Global latents belong to the posterior of each fit, so models with them are always compared by the
    evidence: the log predictive density, averaged over the posterior of the global latents. All fits see the same observations,
    so differences are paired: the standard error of a mean difference is much smaller than that of the scores. With several
    seeds, the score of an observation is its mean over seeds.

    If fits are not known to have converged, the differences may be due to training rather than to the families; one warning names
    these fits, and those that failed, which are not in the table.

    Args:
        fits: the result of `fit_families`, or fitted estimators by name.
        x: held-out observations, as for `AmortizedVI.evaluate`.
        by: the score: ``"evidence"``, ``"elbo"``, or ``"auto"`` for the ELBO if the fits share one model and the evidence
            otherwise.
        particles: draws for each observation. The poorer the posterior, the further the importance-weighted bound is below the
            evidence; use a thousand draws for close comparisons.
        gaps: whether to refine the posteriors and split the inference gap between family and encoder; see `amortvi.gaps`. The
            evidence is then estimated from the refined posteriors.
        executor: whose workers score the fits at the same time, with the same results; see `fit_families`.
        seed: the seed of the draws.

    Returns:
        One row per family, best first. Means over observations in nats: ``elbo``, ``elbo_se``, ``difference`` to the best
        score, ``difference_se``, ``iwae``, ``reconstruction``, ``kl``. Then ``score``, by which the families are ranked
        (``"elbo"`` or ``"evidence"``), ``unreliable`` (the share of observations whose evidence cannot be estimated reliably,
        because k-hat is above its threshold; 0 if the score is the ELBO), ``parameters`` (the number of trained parameters of
        encoder and family), ``epochs`` per fit, ``status`` (how the worst fit of the family ended; see `AmortizedVI.status`),
        ``converged`` (whether all fits have), ``seconds`` per fit, ``seeds``, ``seed_sd`` (the standard deviation of the mean
        score between seeds; NaN for one seed), and ``verdict``: ``"best"``, ``"within noise of the best"`` (within two standard
        errors of the difference, which include the variation between seeds), ``"worse"``, ``"unreliable"`` (the evidence of
        this or of the best family is unreliable for most observations), or ``"unknown from one observation"``. If a fit of the
        family was interrupted, the verdict ends with ``", but cut short"``. With one seed, the verdict is about these fits
        only; several seeds show how much the fits of one family vary. With ``gaps`` also ``evidence``, ``approximation_gap``,
        ``amortization_gap``, ``inference_gap`` (over the observations whose evidence is reliable), ``k_hat`` (the median) and
        ``fault``, the most frequent among seeds; see `diagnose`.

    Raises:
        OptionError: ``fits`` is not the result of `fit_families` or a dict of estimators, or is empty; or an option is out of
            range.
        DataError: the observations cannot be used.
        FamilyError: with ``gaps``, a family cannot be refined.
        NotFittedError: an estimator has seen no data.
    """
    runs, particles, executor = list_fits(fits), positive_int("particles", particles), check_executor(executor)
    score = _check_score(by, runs)
    if gaps:
        for run in runs:
            require_parametric(run.vi.guide.family, "compare with gaps=True")
    posterior = runs[0].vi.posterior(x, copy=False)
    _warn_of_training(runs, fits.failures if isinstance(fits, FamilyFits) else {})
    # Data that may be random at each reading are read once, so that all fits see the same.
    data = x if posterior.observations.in_memory else posterior.in_memory().observations
    found: dict[str, list[Scored]] = {}
    for one in score_fits(runs, data, score, particles, gaps=gaps, seed=seed, executor=executor):
        found.setdefault(one.family, []).append(one)
    # NaN counts as the worst score: every comparison with it is false.
    best = max(found, key=lambda family: float(np.nan_to_num(_mean_score(found[family]).mean(), nan=-np.inf)))
    _warn_of_unreliable([family for family, fits in found.items() if _unreliable(fits) > MOST_UNRELIABLE])
    rows = [_row(family, found[family], found[best]) for family in found]
    table = pd.DataFrame(rows).set_index("family").sort_values("difference", ascending=False)
    table.insert(list(table.columns).index("unreliable"), "score", score)
    return table


def _row(family: str, found: Sequence[Scored], best: Sequence[Scored]) -> dict[str, Any]:
    """Return the row of one family: its fits, one per seed, compared with those of the best family."""
    elbo = np.mean([one.bounds["elbo"] for one in found], axis=0)
    difference = _mean_score(found) - _mean_score(best)
    error = math.sqrt(_standard_error(difference) ** 2 + _seed_variance(found) + _seed_variance(best))
    return {
        "family": family,
        "elbo": float(elbo.mean()),
        "elbo_se": _standard_error(elbo),
        "difference": float(difference.mean()),
        "difference_se": _standard_error(difference),
        **{name: float(np.mean([one.bounds[name] for one in found])) for name in PARTS},
        **_gap_columns([one.diagnosis for one in found if one.diagnosis is not None]),
        "unreliable": _unreliable(found),
        "parameters": found[0].parameters,
        "epochs": float(np.mean([one.epochs for one in found])),
        "status": min((one.status for one in found), key=_WORST_FIRST.index),
        "converged": all(one.status in FINISHED for one in found),
        "seconds": float(np.mean([one.seconds for one in found])),
        "seeds": len(found),
        "seed_sd": math.sqrt(_seed_variance(found) * len(found)) if len(found) > 1 else math.nan,
        "verdict": _verdict(found, best, float(difference.mean()), error) + ", but cut short" * _is_cut_short(found),
    }


def _is_cut_short(found: Sequence[Scored]) -> bool:
    return any(one.status == "interrupted" for one in found)


def _verdict(found: Sequence[Scored], best: Sequence[Scored], difference: float, error: float) -> str:
    if max(_unreliable(found), _unreliable(best)) > MOST_UNRELIABLE:
        return "unreliable"
    if found is best:
        return "best"
    if math.isnan(error) and math.isfinite(difference):
        return "unknown from one observation"
    # A difference of NaN is not within noise.
    return "within noise of the best" if abs(difference) <= _NOISE * error else "worse"


def _gap_columns(found: Sequence[Diagnosis]) -> dict[str, Any]:
    """Return the means over observations and seeds."""
    if not found:
        return {}
    summaries = [diagnosis.gaps.summary()["mean"] for diagnosis in found]
    k_hat = np.concatenate([diagnosis.gaps.amortized.k_hat.numpy() for diagnosis in found])
    return {
        **{name: float(np.mean([summary[name] for summary in summaries])) for name in _GAP_COLUMNS},
        "k_hat": float(np.median(k_hat)),
        "fault": Counter(diagnosis.fault for diagnosis in found).most_common(1)[0][0],
    }


def _unreliable(found: Sequence[Scored]) -> float:
    return float(np.mean([one.unreliable for one in found]))


def _warn_of_training(runs: Sequence[Fit], failures: Mapping[tuple[str, int], Exception]) -> None:
    """Name the fits that have not converged, unless they have not been trained at all, and those that failed."""
    unfinished = [run for run in runs if run.vi.status is not None and run.vi.status not in FINISHED]
    named = [
        *dict.fromkeys(f"{run.family!r}: {run.vi.status}" for run in unfinished),
        *(f"{family!r} (seed {seed}) failed, and is not in the table" for family, seed in failures),
    ]
    if named:
        warnings.warn(
            f"differences may be due to training rather than to the families, because not every fit is known to have converged: "
            f"{'; '.join(named)}. Call fit(x) on an estimator without epochs to train it until it has.",
            ConvergenceWarning,
            stacklevel=3,
        )


def _warn_of_unreliable(families: list[str]) -> None:
    if families:
        warnings.warn(
            f"the evidence of {', '.join(map(repr, families))} may be nats too low, because k-hat is above its threshold for "
            f"most observations. Pass gaps=True, which estimates it from refined posteriors, or more particles; or train the "
            f"encoder further with fit_encoder.",
            AmortviWarning,
            stacklevel=3,
        )


def _mean_score(found: Sequence[Scored]) -> Scores:
    """Return the score of each observation, averaged over seeds, ``(N,)``."""
    return np.mean([one.score for one in found], axis=0)


def _seed_variance(found: Sequence[Scored]) -> float:
    """Return the variance of the mean score that is due to the seeds; zero if there is only one."""
    means = [one.score.mean() for one in found]
    return float(np.var(means, ddof=1)) / len(means) if len(means) > 1 else 0.0


def _standard_error(values: Scores) -> float:
    return float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else math.nan


def _check_score(by: Score, runs: Sequence[Fit]) -> str:
    if by not in ("auto", *_SCORES):
        raise OptionError(f"by must be 'auto', 'evidence' or 'elbo'; got {by!r}.")
    if by != "auto":
        return by
    return "elbo" if all(_have_same_density(run.vi, runs[0].vi) for run in runs) else "evidence"


def _have_same_density(first: AmortizedVI, second: AmortizedVI) -> bool:
    """Return whether two models, which may be copies, are equal, so that all data have the same evidence.

    The density of data under a model with global latents is an average over their posterior, which differs between fits.
    """
    if first is second or (first.model is second.model and not first.generative.structure.globals):
        return True
    if first.generative.structure.globals or second.generative.structure.globals:
        return False
    example, dim = first.example, first.generative.latents.dim
    if second.generative.latents.dim != dim:
        return False
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(_POINTS, example.size, dim, generator=generator, dtype=first.dtype)
    # Parameters may be NaN.
    with torch.no_grad(), pyro.validation_enabled(False):
        densities = [
            vi.generative.log_joint(example.to(vi.device), vector.to(vi.device, vi.dtype)).cpu()
            for vi in (first, second)
        ]
    return torch.equal(*densities)
