"""Fitted posterior families beside one another, on observations that they were not fitted to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.utils.data import DataLoader, Dataset

from amortvi._util.lazy import pandas as pd
from amortvi.comparison.fits import FamilyFits, Fit
from amortvi.diagnostics.gaps.diagnosis import Diagnosis, diagnose
from amortvi.errors import OptionError
from amortvi.inference import AmortizedVI

__all__ = ["Score", "compare"]


Score: TypeAlias = Literal["auto", "evidence", "elbo"]

_COLUMNS = {"evidence": "iwae", "elbo": "elbo"}
"""The column of `AmortizedVI.evaluate` that holds a score."""
_NOISE = 2
"""A difference within this many standard errors is said to be within noise."""


def compare(
    fits: FamilyFits | Mapping[str, AmortizedVI],
    x: Any,
    *,
    by: Score = "auto",
    particles: int = 100,
    gaps: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare fitted families on held-out observations.

    Each model is scored by its held-out evidence ``log p(x)``, as the importance-weighted bound with ``particles`` draws has
    it. Where all fits share one frozen model they have one evidence, and what tells them apart is the ELBO. A difference is
    taken observation by observation, since all fits see the same ones: its standard error is then that of the mean of paired
    differences, and much smaller than that of the scores. With several seeds an observation's score is its mean over them.

    Args:
        fits: from `fit_families`, or fitted estimators by name.
        x: held-out observations, as for `AmortizedVI.evaluate`.
        by: what ranks: ``"evidence"``, ``"elbo"``, or with ``"auto"`` the ELBO where the fits share one model and
            the evidence elsewhere.
        particles: draws for each observation. The bound is below the evidence, and further below for a poor posterior: what is
            to be compared closely wants a thousand of them.
        gaps: refine the posterior of each observation to tell what the family loses and what the encoder does, as `gaps`
            does; the evidence then comes from the refined posteriors.
        seed: of the draws.

    Returns:
        A row a family, best first. Means an observation in nats are ``elbo``, ``elbo_se``, ``difference`` to the best score
        and ``difference_se``, ``iwae``, ``reconstruction``, ``kl``; then come ``parameters`` (trained ones of encoder and
        family), ``seconds`` a fit, ``seeds``, ``seed_sd``, the standard deviation of the mean score between seeds (NaN for
        one), and ``verdict``: ``"best"``, ``"within noise of the best"`` (two standard errors of the difference, the spread
        between seeds counted in) or ``"worse"``. With one seed it is a verdict on these fits; how much a family's fits differ
        from seed to seed only several tell. With ``gaps`` there are also ``evidence``, ``approximation_gap``,
        ``amortization_gap`` and ``inference_gap`` (over the observations whose evidence is known), ``k_hat`` (the median) and
        ``fault``, as `diagnose` names it for most seeds. ``attrs["score"]`` says what ranked.

    Raises:
        OptionError: ``fits`` is neither from `fit_families` nor a dict of fitted estimators, or is empty; another option is
            out of range.
        DataError: the observations cannot be used.
    """
    runs = _runs(fits)
    score = _checked_score(by, runs)
    x = _held(x, runs[0].vi)
    found: dict[str, list[_Scored]] = {}
    for run in runs:
        found.setdefault(run.family, []).append(_scored(run, x, score, particles, gaps, seed))
    scores = {family: np.mean([own.score for own in several], axis=0) for family, several in found.items()}
    # A bound that is not a number is the worst of all: no comparison with it would hold.
    best = max(scores, key=lambda family: float(np.nan_to_num(scores[family].mean(), nan=-np.inf)))
    variances = {family: _seed_variance(several) for family, several in found.items()}
    rows = [
        _row(
            family,
            found[family],
            scores[family],
            scores[best],
            is_best=family == best,
            between_seeds=math.sqrt(variances[family] + variances[best]),
        )
        for family in found
    ]
    table = pd.DataFrame(rows).set_index("family").sort_values("difference", ascending=False)
    table.attrs["score"] = score
    return table


@dataclass(frozen=True)
class _Scored:
    """One fit with its bounds: ``score`` is one number an observation."""

    run: Fit
    bounds: pd.DataFrame
    score: npt.NDArray[np.float64]
    diagnosis: Diagnosis | None


def _scored(run: Fit, x: Any, score: str, particles: int, with_gaps: bool, seed: int) -> _Scored:
    bounds = run.vi.evaluate(x, particles=particles, seed=seed)
    found = diagnose(run.vi, x, seed=seed) if with_gaps else None
    values = bounds[_COLUMNS[score]].to_numpy()
    if found is not None and score == "evidence":
        values = found.gaps.evidence.numpy()
    return _Scored(run, bounds, values, found)


def _row(
    family: str,
    found: Sequence[_Scored],
    score: npt.NDArray[np.float64],
    best: npt.NDArray[np.float64],
    *,
    is_best: bool,
    between_seeds: float,
) -> dict[str, Any]:
    elbo = np.mean([own.bounds["elbo"] for own in found], axis=0)
    difference = score - best
    per_seed = [float(own.score.mean()) for own in found]
    means = {
        column: float(np.mean([own.bounds[column].mean() for own in found]))
        for column in ("iwae", "reconstruction", "kl")
    }
    error = _standard_error(difference)
    return {
        "family": family,
        "elbo": float(elbo.mean()),
        "elbo_se": _standard_error(elbo),
        "difference": float(difference.mean()),
        "difference_se": error,
        **means,
        **_gap_columns([own.diagnosis for own in found if own.diagnosis is not None]),
        "parameters": sum(p.numel() for p in found[0].run.vi.guide.parameters() if p.requires_grad),
        "seconds": float(np.mean([own.run.seconds for own in found])),
        "seeds": len(found),
        "seed_sd": float(np.std(per_seed, ddof=1)) if len(found) > 1 else float("nan"),
        "verdict": "best" if is_best else _verdict(float(difference.mean()), math.hypot(error, between_seeds)),
    }


def _verdict(difference: float, error: float) -> str:
    if math.isnan(error) and math.isfinite(difference):
        return "not known from one observation"
    # Written so that a difference that is not a number is no tie.
    return "within noise of the best" if abs(difference) <= _NOISE * error else "worse"


def _held(x: Any, vi: AmortizedVI) -> Any:
    """Return data that may be drawn anew at each reading as they are now, so that all fits see the same."""
    if isinstance(x, Dataset | DataLoader):
        return vi.posterior(x).in_memory().observations
    return x


def _seed_variance(found: Sequence[_Scored]) -> float:
    """The variance of a mean score over seeds; nothing is known of it from one."""
    means = [float(own.score.mean()) for own in found]
    return float(np.var(means, ddof=1)) / len(means) if len(means) > 1 else 0.0


def _gap_columns(found: Sequence[Diagnosis]) -> dict[str, Any]:
    """Return the means over observations and seeds."""
    if not found:
        return {}
    faults = Counter(diagnosis.fault for diagnosis in found)
    summaries = [diagnosis.gaps.summary()["mean"] for diagnosis in found]
    names = ("evidence", "approximation_gap", "amortization_gap", "inference_gap")
    return {
        **{name: float(np.mean([summary[name] for summary in summaries])) for name in names},
        "k_hat": float(np.median(np.concatenate([diagnosis.gaps.amortized.k_hat.numpy() for diagnosis in found]))),
        "fault": faults.most_common(1)[0][0],
    }


def _checked_score(by: Score, runs: Sequence[Fit]) -> str:
    if by not in ("auto", *_COLUMNS):
        raise OptionError(f"by must be 'auto', 'evidence' or 'elbo'; got {by!r}.")
    if by != "auto":
        return by
    return "elbo" if all(_share_a_model(run.vi, runs[0].vi) for run in runs) else "evidence"


def _share_a_model(one: AmortizedVI, other: AmortizedVI) -> bool:
    """Whether two estimators have the same model with the same parameters; a function gets parameters in each of them."""
    if one.generative is other.generative:
        return True
    return isinstance(one.model, nn.Module) and one.model is other.model


def _runs(fits: FamilyFits | Mapping[str, AmortizedVI]) -> Sequence[Fit]:
    """Return the single fits."""
    if isinstance(fits, FamilyFits):
        return fits.fits
    if not isinstance(fits, Mapping) or not all(isinstance(vi, AmortizedVI) for vi in fits.values()):
        raise OptionError(
            "fits must come from fit_families, or be a dict of fitted estimators such as {'full': vi}; "
            f"got {type(fits).__name__}."
        )
    if not fits:
        raise OptionError("fits holds no fit to compare.")
    return [Fit(name, 0, vi, _seconds(vi)) for name, vi in fits.items()]


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")


def _seconds(vi: AmortizedVI) -> float:
    return float(vi.history["seconds"].sum())
