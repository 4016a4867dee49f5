"""The result of the check for missed posterior mass, and what follows for other observations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amortvi._util.lazy import stats
from amortvi._util.memory import spans

__all__ = ["MissedMass"]

_NEIGHBORS = 30
"""The number of simulated observations with which an observation is compared."""
_LEAST_COUNTED = 0.5
"""The smallest share of them that must count."""
_CONFIDENCE = 0.99
_NEGLIGIBLE = 0.1
"""An error of the evidence, in nats, that does not make it unreliable; nor does one of two standard errors."""
_DETECTED = 0.02
"""A share of the posterior, beyond the one expected by chance, that must be exceeded with confidence to be significant."""
_ROUNDING = 1e-3
"""Log weights that are equal in exact arithmetic differ by up to about this in single precision."""
_AT_ONCE = 10_000
"""The number of observations whose neighbors are determined at once."""
_NONE = torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True, eq=False, repr=False)
class MissedMass:
    """The posterior mass that importance sampling misses for ``M`` simulated observations, and what follows for ``N`` others.

    The fields for the ``N`` others are set by `applied_to`.

    Args:
        draws: ``K``.
        reason: the reason why nothing is known; empty otherwise.
        left_out: the number of simulated observations without a posterior with finite parameters; not among the ``M``.
        excess: ``log w(z*) - max_k log w_k`` in nats, ``(M,)``; positive if the draws miss the latents that generated the data.
        gap: ``log w(z*) - log mean_k w_k`` in nats, ``(M,)``: an upper minus a lower bound of the evidence, on average.
        counted: whether an observation counts, ``(M,)``: its k-hat is below the threshold, and nothing is NaN.
        features: location and scale of the posteriors, ``(M, 2 D)``.
        unjudged: whether too few similar simulated observations count to judge an observation, ``(N,)``.
        nats: for each of the ``N`` observations the error of the evidence in nats, ``(N,)``, if it is `significant`, else 0.
        nats_se: the standard error of `nats`, ``(N,)``.
        significant: whether the evidence of an observation is too low by more than is negligible, ``(N,)``.
    """

    draws: int
    reason: str = ""
    left_out: int = 0
    excess: Tensor = _NONE
    gap: Tensor = _NONE
    counted: Tensor = _NONE > 0
    features: Tensor = _NONE
    unjudged: Tensor = _NONE > 0
    nats: Tensor = _NONE
    nats_se: Tensor = _NONE
    significant: Tensor = _NONE > 0

    @property
    def known(self) -> bool:
        """Whether there are enough simulated observations with reliable weights."""
        return not self.reason

    @property
    def fraction(self) -> float:
        """The mean posterior mass that is missed, from 0 to 1; NaN if it is unknown."""
        return float(self._misses.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 98% confidence interval of `fraction` (Clopper and Pearson, 1934); from 0 to 1 if it is unknown."""
        misses, count = self._misses.sum(), torch.tensor(len(self._misses))
        return float(_lower_limit(misses, count)), 1 - float(_lower_limit(count - misses, count))

    @property
    def failed(self) -> bool:
        """Whether the evidence of simulated observations is too low by more than is negligible."""
        return self.known and _nats(self.interval[0]) > _NEGLIGIBLE

    @property
    def mean_gap(self) -> float:
        """The mean `gap` of the counted observations in nats; it has a heavy tail."""
        return float(self.gap[self.counted].mean())

    @property
    def _misses(self) -> Tensor:
        return self.excess[self.counted] > _ROUNDING

    def applied_to(self, features: Tensor, standard_error: Tensor) -> MissedMass:
        """Return the result for ``N`` observations, each judged by the simulated observations with the most similar posteriors.

        An observation is significant if more than is negligible is missed for its neighbors, and that is not due to chance, for
        its neighbors or for all simulated observations.

        Args:
            features: location and scale of the posteriors, ``(N, 2 D)``.
            standard_error: that of the log evidence, ``(N,)``; twice as much is negligible.
        """
        if not self.known:
            none = torch.zeros(len(features), dtype=torch.float64)
            # If data were simulated, none of the weights, not even those with a small k-hat, have been shown to be reliable.
            unjudged = torch.full((len(features),), len(self.counted) > 0)
            return replace(self, unjudged=unjudged, nats=none, nats_se=none, significant=none > 0)
        negligible = (2 * standard_error).clamp(min=_NEGLIGIBLE).nan_to_num(nan=math.inf)
        misses, count = self._counts_of_neighbors(features)
        # Even if all neighbors are missed, the mass that is not missed cannot be known to be below 1 / (n + 1).
        share = torch.minimum(misses / count.clamp(min=1), count / (count + 1))
        nats = -torch.log1p(-share)
        chance = _DETECTED + 1 / (self.draws + 1)
        detected = (_lower_limit(misses, count) > chance) | (self.interval[0] > chance)
        unjudged = count < _LEAST_COUNTED * min(_NEIGHBORS, len(self.counted))
        significant = (nats > negligible) & detected & ~unjudged
        error = (share / (count.clamp(min=1) * (1 - share))).sqrt()
        return replace(
            self, unjudged=unjudged, nats=nats * significant, nats_se=error * significant, significant=significant
        )

    def _counts_of_neighbors(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many of the nearest simulated observations are missed, and how many count, each ``(N,)``.

        Features are compared by their ranks among those of all simulated observations.
        """
        columns = self.features.mT.contiguous()
        ordered, total = columns.sort().values, columns.shape[1]
        ours = torch.searchsorted(ordered, columns).mT / total
        theirs = torch.searchsorted(ordered, features.mT.contiguous()).mT / total
        missed = self.counted & (self.excess > _ROUNDING)
        parts = []
        for rows in spans(len(theirs), _AT_ONCE):
            distances = torch.cdist(theirs[rows.start : rows.stop], ours)
            nearest = distances.topk(min(_NEIGHBORS, total), largest=False).indices
            parts.append(torch.stack([missed[nearest].sum(1), self.counted[nearest].sum(1)]))
        misses, count = torch.cat(parts, dim=1)
        return misses, count

    def __str__(self) -> str:
        if not self.known:
            return f"whether the draws miss a part of the exact posterior cannot be checked: {self.reason}"
        counted, (low, high) = int(self.counted.sum()), self.interval
        what = "of the exact posterior, which the latents that generated the data reveal"
        left_out = f" ({self.left_out} others, without a finite posterior, are left out)" if self.left_out else ""
        where = f"for {counted} simulated observations with reliable weights{left_out}, the draws"
        if self.failed:
            return (
                f"{where} miss {self.fraction:.0%} (at least {low:.0%}) {what}: upper and lower bounds of the evidence are "
                f"{self.mean_gap:.3g} nats apart."
            )
        return f"{where} miss {self.fraction:.1%} (at most {high:.1%}, {_nats(high):.2f} nats) {what}."

    __repr__ = __str__


def _lower_limit(successes: Tensor, trials: Tensor) -> Tensor:
    """Return the lower confidence limits of probabilities from binomial counts, all ``(*S,)`` (Clopper and Pearson, 1934)."""
    found = stats.beta.ppf(1 - _CONFIDENCE, successes.numpy(), (trials - successes + 1).numpy())
    return torch.as_tensor(found, dtype=torch.float64).nan_to_num(nan=0.0)  # NaN without successes


def _nats(share: float) -> float:
    """Return the error of the log evidence in nats if this share of the posterior is missed."""
    return -math.log1p(-share) if share < 1 else math.inf
