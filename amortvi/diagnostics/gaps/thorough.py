"""What to do where importance sampling fails: annealed importance sampling, itself checked on simulated data, and NUTS."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from amortvi.diagnostics.annealing import AnnealedEvidence, EvidenceBracket, annealed_evidence, bracket_evidence
from amortvi.diagnostics.annealing.chains import StartChoice
from amortvi.diagnostics.evidence import Evidence
from amortvi.diagnostics.gaps.gaps import Gaps
from amortvi.diagnostics.reference import Distances, Reference, reference
from amortvi.errors import AmortviError, AmortviWarning, NonFiniteError
from amortvi.inference import AmortizedVI

__all__ = ["Thorough", "examine_thoroughly"]

_ANNEALED = 20
"""The number of observations whose evidence is annealed, and of those that are simulated to check it."""
_ANNEALING: dict[str, Any] = {"temperatures": 300, "chains": 16, "progress": False}
_SAMPLED = 2
"""The number of observations sampled by NUTS, which takes seconds for each."""
_SAMPLING: dict[str, Any] = {"chains": 4, "draws": 200, "warmup": 200, "together": _SAMPLED, "progress": False}
_STARTS: tuple[StartChoice, ...] = ("posterior", "prior")
_FEWEST_CHAINS = 0.25
"""The smallest effective share of the chains with which an annealed estimate counts."""


@dataclass(frozen=True)
class Thorough:
    """What annealed importance sampling and NUTS say about some observations.

    Args:
        rows: the positions of the annealed observations, ``(n,)``.
        annealed: their evidence.
        bracket: bounds of the evidence of simulated observations by the same method; ``None`` if the model cannot be simulated.
        gaps: the gaps of these observations with the annealed evidence.
        reference: draws of NUTS for the first of them; ``None`` if the log joint density is not finite there.
        distances: the distances of the posteriors of the encoder from these draws.
    """

    rows: Tensor
    annealed: AnnealedEvidence
    bracket: EvidenceBracket | None
    gaps: Gaps
    reference: Reference | None
    distances: Distances | None

    @property
    def error(self) -> float:
        """A bound of the mean error of the annealed evidence in nats, two standard errors included; ``inf`` if unknown."""
        if self.bracket is None:
            return math.inf
        found = self.bracket.mean_gap + 2 * self.bracket.mean_gap_se
        return found if math.isfinite(found) else math.inf

    @property
    def trusted(self) -> bool:
        """Whether the annealed evidence is accurate enough to judge the fit."""
        return self.error <= self.gaps.tolerance

    def __str__(self) -> str:
        known = (
            "whose accuracy cannot be checked, because the model cannot be simulated"
            if self.bracket is None
            else f"with a mean error of at most {self.error:.2g} nats on simulated data"
        )
        text = (
            f"Annealed importance sampling of {len(self.rows)} observations, {known}, gives a mean log evidence of "
            f"{float(self.annealed.log_evidence.mean()):.3f}."
        )
        if self.reference is None or self.distances is None:
            return text
        count, mean_error = len(self.reference.r_hat), float(self.distances.mean_error.mean())
        return (
            f"{text} NUTS for {count} of them (r-hat up to {float(self.reference.r_hat.max()):.2f}): the means of the encoder's "
            f"posteriors are {mean_error:.2f} standard deviations away."
        )


def examine_thoroughly(vi: AmortizedVI, x: Any, gaps: Gaps, *, seed: int) -> Thorough:
    """Anneal some observations from the start that is more accurate on simulated data, and sample a few with NUTS.

    Args:
        vi: a fitted estimator.
        x: observations, as for `AmortizedVI.fit`.
        gaps: their gaps.
        seed: the seed of all draws.
    """
    posterior = vi.posterior(x).in_memory()
    count = len(posterior)
    rows = torch.linspace(0, count - 1, min(count, _ANNEALED)).round().long()
    few = posterior.select(rows.tolist())
    refined = vi.refine(posterior=few, seed=seed)
    with warnings.catch_warnings(action="ignore", category=AmortviWarning):  # the results say how good they are
        brackets = {start: _bracket(vi, few.observations, start, seed) for start in _STARTS}
        known = {start: each for start, each in brackets.items() if each is not None and math.isfinite(each.mean_gap)}
        start = min(known, key=lambda name: known[name].mean_gap, default=_STARTS[0])
        source = few if start == "posterior" and known else refined
        annealed = annealed_evidence(vi, posterior=source, start=start, seed=seed, **_ANNEALING)
        sampled = _sampled(vi, few.select(slice(0, _SAMPLED)), seed)
    judged = _judged(gaps, rows, annealed)
    return Thorough(rows, annealed, known.get(start), judged, *sampled)


def _bracket(vi: AmortizedVI, source: Any, start: StartChoice, seed: int) -> EvidenceBracket | None:
    try:
        return bracket_evidence(vi, _ANNEALED, source, start=start, seed=seed, **_ANNEALING)
    except AmortviError:  # not every model can be simulated; the result says so
        return None


def _sampled(vi: AmortizedVI, posterior: Any, seed: int) -> tuple[Reference | None, Distances | None]:
    try:
        found = reference(vi, posterior=posterior, seed=seed, **_SAMPLING)
    except NonFiniteError:
        return None, None
    return found, found.distances(posterior, c2st=False, seed=seed)


def _judged(gaps: Gaps, rows: Tensor, annealed: AnnealedEvidence) -> Gaps:
    """Return the gaps of some observations with their annealed evidence in place of the importance-sampled one."""
    chains = len(annealed.log_weight)
    enough = annealed.ess >= _FEWEST_CHAINS * chains
    log_weight = annealed.log_weight
    proposed = Evidence(
        log_evidence=annealed.log_evidence,
        standard_error=annealed.standard_error,
        smoothed=annealed.log_evidence,
        elbo=log_weight.mean(0),
        elbo_se=log_weight.std(0) / math.sqrt(chains),
        k_hat=torch.where(enough, -torch.inf, torch.inf).double(),
        effective_sample_size=annealed.ess,
        draws=chains,
        index=annealed.index,
    )
    refined = {label: _select(found, rows) for label, found in gaps.refined.items()}
    amortized = _select(gaps.amortized, rows)
    return replace(gaps, amortized=amortized, refined=refined, proposed=proposed, index=annealed.index)


def _select(found: Evidence, rows: Tensor) -> Evidence:
    """Return the estimates of some observations."""
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    chosen: dict[str, Any] = {name: value[rows] for name, value in values.items() if isinstance(value, Tensor)}
    return replace(found, **chosen, index=None, missed=None)
