r"""The part of the exact posterior that importance sampling misses, on data simulated together with their latents.

Weights of draws from :math:`q` say nothing about regions that no draw reaches: with a narrow :math:`q` around one of two modes,
they are nearly constant, k-hat is small, and the evidence is too low by :math:`\log 2`. But latents :math:`z^* \sim p(z)` with
data :math:`x^* \sim p(x \mid z^*)` are exact draws from :math:`p(z \mid x^*)`, whatever :math:`q` is. With the weights
:math:`w_1, \dots, w_K` of draws from :math:`q(z \mid x^*)`, the probability that

.. math::

    w(z^*) = \frac{p(x^*, z^*)}{q(z^* \mid x^*)} > \max_k w_k

is the posterior mass of the region whose weights exceed all that were seen. If :math:`q` is exact, it is at most
:math:`1 / (K + 1)`. If it is :math:`\rho`, the draws represent only :math:`1 - \rho` of the posterior, and the estimate of the
evidence is typically too low by :math:`-\log(1 - \rho)`. Only simulated observations with a small k-hat count, since the others
are known to be unreliable; this choice does not depend on :math:`z^*`, which remains an exact draw.

The size of what is missed, :math:`E[\log w(z^*) - \log \frac1K \sum_k w_k]`, is an upper minus a lower bound of the mean evidence
(Grosse, Ghahramani and Adams, 2015). It can be enormous where importance sampling looks fine.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.checks import nonnegative_int
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.data import Observations, TensorObservations
from amortvi.diagnostics.missed_mass.result import MissedMass
from amortvi.diagnostics.simulation import Simulated, simulate_observations
from amortvi.errors import AmortviError, AmortviWarning, EncoderError, OptionError
from amortvi.families import require_parametric
from amortvi.importance import k_hat_threshold, pareto_smoothed
from amortvi.inference import AmortizedVI
from amortvi.model.simulation import GIVE_SIMULATOR
from amortvi.posterior import Posterior
from amortvi.posterior.importance_sampling import WeightedDraws
from amortvi.posterior.moments import mean_and_std

__all__ = ["check_simulations", "location_and_scale", "missed_mass", "simulate_like"]

_FEWEST = 20
"""The fewest simulated observations with reliable weights from which anything is concluded."""
_REFINE_TOLERANCE, _REFINE_STEPS = 1e-3, 200
"""The tolerance of refinements of simulated posteriors, in nats, far below what is negligible. Observations from the tails of a
prior may need thousands of steps, but then have a large k-hat and do not count."""
_OTHERWISE = (
    "Pass simulations=, the result of diagnostics.simulate_observations(vi, n, simulator=...), or compare with "
    "annealed_evidence or with reference (NUTS)."
)
"""What to do if the model cannot be simulated, in place of the advice of `simulate_observations`."""


def missed_mass(
    vi: AmortizedVI, posterior: Posterior, simulations: int | Simulated, *, draws: int, seed: int | None
) -> MissedMass:
    """Return the posterior mass that draws from ``posterior`` miss, found on simulated data.

    The posteriors of simulated data are made as ``posterior`` was: by its encoder, or by refinement in its family.

    Args:
        vi: a fitted estimator.
        posterior: the proposal of importance sampling for some observations, which provide sizes and covariates.
        simulations: ``M``, the number of observations to simulate, or simulated observations.
        draws: ``K``, the number of draws from each posterior.
        seed: reproduces the result and leaves the caller's random state untouched.

    Returns:
        The result, not yet applied to any observations. If the model cannot be simulated, it has a ``reason``.
    """
    try:
        # Refinement warns of observations that did not converge.
        with warnings.catch_warnings(action="ignore", category=AmortviWarning):
            simulated = simulate_like(vi, posterior, simulations, seed=seed)
            with random_state(derived_seed(seed, Stream.SIMULATION, draws), vi.device):
                comparison = _Comparison(vi, posterior, simulated)
                found = comparison.posterior.importance_sample(draws, comparison.reduce)
    except AmortviError as error:  # whatever the reason why data cannot be simulated or inferred, it is reported
        return MissedMass(draws, str(error).replace(GIVE_SIMULATOR, _OTHERWISE))
    counted, reason = int(found["counted"].sum()), ""
    if counted < _FEWEST:
        reason = f"only {counted} of {simulated.size} simulated observations have reliable weights, and {_FEWEST} are needed."
    return MissedMass(draws, reason, simulated.size - len(found["counted"]), **found)


def simulate_like(
    vi: AmortizedVI, posterior: Posterior, simulations: int | Simulated, *, seed: int | None
) -> Simulated:
    """Return ``simulations`` observations with the sizes and covariates of those of ``posterior``, unless they are given."""
    if isinstance(simulations, Simulated):
        return simulations
    # Without the contexts of refined posteriors, which belong to the real observations.
    source = TensorObservations(posterior.observations.first(simulations).arguments(), "the observations")
    return simulate_observations(vi, simulations, source, seed=seed)


def check_simulations(simulations: object) -> int | Simulated:
    """Return ``simulations`` if it is a nonnegative integer or `Simulated`, else raise `OptionError`."""
    if isinstance(simulations, Simulated):
        return simulations
    try:
        return nonnegative_int("simulations", simulations)
    except OptionError as error:
        raise OptionError(f"{error} A result of simulate_observations is possible, too.") from error


def location_and_scale(q: Distribution, device: torch.device | None = None) -> Tensor:
    """Return mean and log standard deviation of each coordinate, ``(B, 2 D)``; see ``posterior.moments.mean_and_std``."""
    mean, std = mean_and_std(q, device)
    return torch.cat([mean, std.log()], dim=-1).cpu().double()


class _Comparison:
    """Compares the weights of the latents that generated simulated data with those of draws, chunk by chunk."""

    def __init__(self, vi: AmortizedVI, posterior: Posterior, simulated: Simulated) -> None:
        refined = posterior.observations.first(1).context is not None
        observations = simulated.observations
        encoded = vi.posterior(observations) if refined else _with_data(posterior, observations)
        finite = _finite(encoded)
        # Which observations have no posterior depends on the data alone, so the latents of the others remain exact draws. If none
        # has one, importance sampling says why.
        rows = finite if bool(finite.any()) else ~finite
        encoded, self.truth = encoded.select(rows), simulated.vector[rows]
        self.posterior = _refined(vi, posterior, encoded) if refined else encoded

    def reduce(self, weighted: WeightedDraws) -> dict[str, Tensor]:
        """Return ``excess``, ``gap`` and ``counted``, each ``(B,)``, and ``features``, ``(B, 2 D)``."""
        q, log_weight, draws = weighted.posterior, weighted.log_weight, weighted.log_weight.shape[0]
        truth = self.truth[weighted.rows.start : weighted.rows.stop].to(self.posterior.device)
        log_joint = self.posterior.model.log_joint(weighted.batch, truth.unsqueeze(0))[0]
        true_weight = (log_joint - q.log_prob(truth)).cpu().double()
        largest = log_weight.amax(0)
        usable = largest.isfinite()
        k_hat = pareto_smoothed(log_weight.masked_fill(~usable, -torch.inf)).k_hat
        gap = true_weight - (log_weight.logsumexp(0) - math.log(draws))
        counted = usable & (k_hat < k_hat_threshold(draws)) & ~gap.isnan()
        return {
            "excess": true_weight - largest,
            "gap": gap,
            "counted": counted,
            "features": location_and_scale(q, self.posterior.device),
        }


def _finite(posterior: Posterior) -> Tensor:
    """Return which observations have a posterior with finite parameters, ``(N,)``; not those on which the encoder fails."""
    try:
        return ~posterior.not_finite()
    except EncoderError:
        rows = range(len(posterior))
        return torch.cat([_finite(posterior.select(row)) for row in rows]) if len(rows) > 1 else torch.tensor([False])


def _refined(vi: AmortizedVI, posterior: Posterior, encoded: Posterior) -> Posterior:
    """Return the posteriors of the observations of ``encoded``, refined in the family of ``posterior``."""
    family = require_parametric(posterior.family, "the check on simulated data")

    def start(q: Distribution) -> Tensor:
        return family.parameters_near(*mean_and_std(q, posterior.device))

    contexts = encoded.map_chunks(lambda _, q: {"context": start(q)})
    batch = replace(encoded.observations.as_batch(), context=contexts["context"])
    given = _with_data(posterior, TensorObservations(batch, "the simulated data"))
    refined = vi.refine(posterior=given, tolerance=_REFINE_TOLERANCE, max_steps=_REFINE_STEPS)
    return _with_data(posterior, refined.observations)


def _with_data(posterior: Posterior, observations: Observations) -> Posterior:
    """Return the posteriors of other observations."""
    return Posterior(posterior.model, posterior.network, observations, posterior.device)
