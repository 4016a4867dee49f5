r"""The evidence of each observation by importance sampling, and how reliable the estimate is.

With ``K`` draws :math:`z_k \sim q(z \mid x)` and weights :math:`w_k = p(x, z_k) / q(z_k \mid x)`, the mean weight
:math:`\hat p = \tfrac1K \sum_k w_k` is an unbiased estimate of :math:`p(x)`. Its logarithm, the importance-weighted bound (Burda,
Grosse and Salakhutdinov, 2016), is below :math:`\log p(x)` on average, by about half its variance. By the delta method, this
variance is

.. math::

    \operatorname{Var}[\log \hat p] \approx \frac{1}{K - 1} \Bigl(\frac{K \sum_k w_k^2}{(\sum_k w_k)^2} - 1\Bigr)
    = \frac{K / \mathrm{ESS} - 1}{K - 1}.

Neither estimate is informative if the weights have a heavy tail and the draws have missed the largest weights. K-hat, the
estimated shape of the tail, detects this (Vehtari, Simpson, Gelman, Yao and Gabry, 2024); see
`amortvi.importance.pareto_smoothed`. It cannot detect a region that no draw reaches, such as a second mode. Data simulated
together with their latents can; see `amortvi.diagnostics.missed_mass`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi._util.lazy import pandas as pd
from amortvi._util.random import random_state
from amortvi._util.text import capitalized
from amortvi.diagnostics.missed_mass import MissedMass, check_simulations, location_and_scale, missed_mass
from amortvi.diagnostics.simulation import Simulated
from amortvi.errors import AmortviWarning
from amortvi.importance import effective_sample_size, k_hat_threshold, pareto_smoothed
from amortvi.inference import AmortizedVI
from amortvi.posterior import Posterior
from amortvi.posterior.importance_sampling import WeightedDraws

__all__ = ["MOST_UNRELIABLE", "Evidence", "evidence"]

_FEWEST_DRAWS = 21
"""The fewest draws from which k-hat can be estimated, without which nothing is reliable."""
MOST_UNRELIABLE = 0.5
"""The largest share of unreliable observations with which their mean can be estimated, and fits can be judged or ranked."""


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """Estimates of ``log p(x)`` for each of ``N`` observations from the log weights of ``K`` draws each.

    All tensors are in double precision. If a weight of an observation is NaN or infinite, its estimates are NaN, its k-hat is
    ``inf`` and its effective sample size is zero.

    Args:
        log_evidence: the log of the mean weight in nats, ``(N,)``; below ``log p(x)`` on average.
        standard_error: the Monte Carlo standard error of `log_evidence` in nats, ``(N,)``. It can be far too small for an
            observation that is not `reliable`, and is only approximate above about 0.3, where the delta method fails.
        smoothed: the log of the mean Pareto-smoothed weight in nats, ``(N,)``: less variance for a small bias.
        elbo: the mean log weight in nats, ``(N,)``.
        elbo_se: the Monte Carlo standard error of `elbo` in nats, ``(N,)``.
        k_hat: the estimated shape of the tail of the weights, ``(N,)``; see `amortvi.importance.pareto_smoothed`.
        effective_sample_size: the number of equally weighted draws that are as precise as the ``K`` draws, ``(N,)``.
        draws: ``K``.
        index: the user's labels of the observations, if any.
        missed: the posterior mass that the draws miss, found on simulated data; ``None`` if that was not checked.
    """

    log_evidence: Tensor
    standard_error: Tensor
    smoothed: Tensor
    elbo: Tensor
    elbo_se: Tensor
    k_hat: Tensor
    effective_sample_size: Tensor
    draws: int
    index: Any | None = None
    missed: MissedMass | None = None

    @property
    def threshold(self) -> float:
        """The k-hat below which estimates from ``K`` draws are reliable."""
        return k_hat_threshold(self.draws)

    @property
    def light_tailed(self) -> Tensor:
        """Whether the k-hat of each observation is below `threshold`, ``(N,)``."""
        return self.k_hat < self.threshold

    @property
    def reliable(self) -> Tensor:
        """Whether the estimate of each observation is reliable, ``(N,)``.

        Its weights are `light_tailed`, and so are those of similar simulated observations, which do not show that anything is
        missed.
        """
        if self.missed is None:
            return self.light_tailed
        return self.light_tailed & ~self.missed.unjudged & ~self.missed.significant

    def to_frame(self) -> pd.DataFrame:
        """Return one row per observation, with the fields as columns, ``ess`` (effective sample size) and ``reliable``."""
        estimates = ("log_evidence", "standard_error", "smoothed", "elbo", "elbo_se", "k_hat")
        columns = {name: getattr(self, name) for name in estimates}
        columns |= {"ess": self.effective_sample_size, "reliable": self.reliable}
        return pd.DataFrame({name: value.numpy() for name, value in columns.items()}, index=self.index)

    def __len__(self) -> int:
        return self.log_evidence.shape[0]

    def __str__(self) -> str:
        share, reliable = float(self.reliable.double().mean()), self.reliable
        if 1 - share > MOST_UNRELIABLE or (self.missed is not None and self.missed.failed):
            headline = f"mean log evidence unknown, probably above {float(self.log_evidence.mean()):.3f} nats"
        else:
            error = float(self.standard_error[reliable].square().sum().sqrt()) / int(reliable.sum())
            which = "" if bool(reliable.all()) else f" of the {int(reliable.sum())} reliable ones"
            mean = float(self.log_evidence[reliable].mean())
            headline = f"mean log evidence{which} {mean:.3f} ± {error:.3f} nats (Monte Carlo)"
        missed = "" if self.missed is None else f" {capitalized(str(self.missed))}"
        return (
            f"Evidence of {len(self)} observation{'s' * (len(self) != 1)} from {self.draws} draws each: {headline}, "
            f"{share:.0%} reliable (k-hat below {self.threshold:.2f}), median k-hat {float(self.k_hat.median()):.2f}, median "
            f"effective sample size {float(self.effective_sample_size.median()):.0f}.{missed}"
        )

    __repr__ = __str__


def evidence(
    vi: AmortizedVI,
    x: Any = None,
    *,
    posterior: Posterior | None = None,
    draws: int = 1000,
    simulations: int | Simulated = 300,
    seed: int | None = None,
) -> Evidence:
    """Estimate ``log p(x)`` of each observation by importance sampling from its posterior.

    The better the posterior, the fewer draws are needed; `AmortizedVI.refine` returns a better posterior than the encoder.
    Memory is bounded by the weights of one chunk of observations.

    Args:
        vi: a fitted estimator.
        x: observations, as for `AmortizedVI.fit`.
        posterior: the posterior of ``x`` to draw from; by default that of the encoder.
        draws: ``K``, draws for each observation, at least 2; k-hat needs 21.
        simulations: the number of observations that are simulated from the model, with the sizes and covariates of ``x``, to
            find out whether the draws miss a part of the exact posterior, or the result of `simulate_observations`; 0 omits
            this check. If the model cannot be simulated, `Evidence.missed` says why.
        seed: reproduces the draws and leaves the caller's random state untouched.

    Returns:
        The estimates with their reliability; `Evidence.to_frame` returns one row per observation.

    Raises:
        NotFittedError: no data have been seen.
        DataError: the observations cannot be used, or are not those of ``posterior``.
        OptionError: ``draws`` is not an integer of at least 2, ``simulations`` is not a nonnegative integer, or ``posterior``
            belongs to another estimator.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.3, 1.0]]), scale=0.5)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(x, seed=0)
        >>> found = avi.evidence(vi, posterior=vi.refine(x), seed=0)
        >>> bool((found.log_evidence - model.log_evidence(x)).abs().max() < 0.01), bool(found.reliable.all())
        (True, True)
        >>> found.missed.fraction
        0.0
    """
    count, posterior = positive_int("draws", draws, at_least=2), vi.resolve_posterior(x, posterior)
    simulations = check_simulations(simulations)
    with random_state(seed, vi.device):
        found = posterior.importance_sample(count, _estimates)
    features = found.pop("features")
    result = Evidence(**found, draws=count, index=posterior.index, missed=None)
    _warn_of_nonfinite(result)
    if simulations == 0 or count < _FEWEST_DRAWS:
        return result
    missed = missed_mass(vi, posterior, simulations, draws=count, seed=seed)
    return replace(result, missed=missed.applied_to(features, result.standard_error))


def _estimates(weighted: WeightedDraws) -> dict[str, Tensor]:
    """Return the fields of `Evidence` for ``B`` observations, each ``(B,)``, and ``features`` of their posteriors, ``(B, F)``."""
    log_weight, draws = weighted.log_weight, weighted.log_weight.shape[0]
    unknown = ~(log_weight.amax(0) < torch.inf)  # NaN or infinite
    log_weight = log_weight.masked_fill(unknown, -torch.inf)
    size = effective_sample_size(log_weight)
    smoothed = pareto_smoothed(log_weight)
    elbo = log_weight.mean(0)
    spread = log_weight.std(0).masked_fill(elbo == -torch.inf, torch.inf)
    estimates = {
        "log_evidence": log_weight.logsumexp(0) - math.log(draws),
        # Rounding can make the difference slightly negative.
        "standard_error": ((draws / size - 1).clamp(min=0.0) / (draws - 1)).sqrt(),
        "smoothed": smoothed.log_weights.logsumexp(0) - math.log(draws),
        "elbo": elbo,
        "elbo_se": spread / math.sqrt(draws),
    }
    known = {name: value.masked_fill(unknown, math.nan) for name, value in estimates.items()}
    features = location_and_scale(weighted.posterior, weighted.batch.device)
    return {**known, "k_hat": smoothed.k_hat, "effective_sample_size": size, "features": features}


def _warn_of_nonfinite(found: Evidence) -> None:
    bad = ~found.log_evidence.isfinite()
    if bad.any():
        position = int(bad.nonzero()[0])
        label = position if found.index is None else found.index[position]
        warnings.warn(
            f"the evidence of {int(bad.sum())} of {len(found)} observations is not finite; the first is {label!r}. Either a "
            f"log-probability of the model or of the posterior is NaN or infinite for a draw, or the model gives every draw zero "
            f"probability. to_frame() lists the observations; check how the model handles extreme latents.",
            AmortviWarning,
            stacklevel=3,
        )
