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
from amortvi.errors import AmortviError, AmortviWarning, OptionError
from amortvi.families import moments, require_parametric
from amortvi.importance import k_hat_threshold, pareto_smoothed
from amortvi.inference import AmortizedVI
from amortvi.posterior import Posterior
from amortvi.posterior.importance_sampling import WeightedDraws

__all__ = ["check_simulations", "location_and_scale", "missed_mass"]

_FEWEST = 20
"""The fewest simulated observations with reliable weights from which anything is concluded."""
_MOMENT_DRAWS = 256
_REFINE_TOLERANCE, _REFINE_STEPS = 1e-3, 200
"""The tolerance of refinements of simulated posteriors, in nats, far below what is negligible. Observations from the tails of a
prior may need thousands of steps, but then have a large k-hat and do not count."""


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
            simulated = _simulated(vi, posterior, simulations, seed)
            comparison = _Comparison(_repeated(vi, posterior, simulated.observations), simulated)
            with random_state(derived_seed(seed, Stream.SIMULATION, draws), vi.device):
                found = comparison.posterior.importance_sample(draws, comparison.reduce)
    except AmortviError as error:  # whatever the reason why data cannot be simulated or inferred, it is reported
        none = torch.zeros(0, dtype=torch.float64)
        return MissedMass(none, none, none > 0, none.reshape(0, 0), draws, str(error), none > 0, none, none, none > 0)
    counted, none = found["counted"], torch.zeros(0, dtype=torch.float64)
    reason = ""
    if int(counted.sum()) < _FEWEST:
        reason = (
            f"only {int(counted.sum())} of {len(counted)} simulated observations have reliable weights, and {_FEWEST} are "
            f"needed."
        )
    excess, gap, features = found["excess"], found["gap"], found["features"]
    return MissedMass(excess, gap, counted, features, draws, reason, none > 0, none, none, none > 0)


def check_simulations(simulations: object) -> int | Simulated:
    """Return ``simulations`` if it is a nonnegative integer or `Simulated`, else raise `OptionError`."""
    if isinstance(simulations, Simulated):
        return simulations
    try:
        return nonnegative_int("simulations", simulations)
    except OptionError as error:
        raise OptionError(f"{error} A result of simulate_observations is possible, too.") from error


def location_and_scale(q: Distribution) -> Tensor:
    """Return mean and log standard deviation of each coordinate, ``(B, 2 D)``, estimated if they have no closed form."""
    known = moments(q)
    if known is None:
        with random_state(0):
            draws = q.sample(torch.Size([_MOMENT_DRAWS]))
        known = draws.mean(0), draws.var(0)
    return torch.cat([known[0], 0.5 * known[1].log()], dim=-1).cpu().double()


class _Comparison:
    """Compares the weights of the latents that generated simulated data with those of draws, chunk by chunk."""

    def __init__(self, posterior: Posterior, simulated: Simulated) -> None:
        self.posterior = posterior
        self.truth = simulated.vector

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
            "features": location_and_scale(q),
        }


def _simulated(vi: AmortizedVI, posterior: Posterior, simulations: int | Simulated, seed: int | None) -> Simulated:
    if isinstance(simulations, Simulated):
        return simulations
    # Without the contexts of refined posteriors, which belong to the real observations.
    source = TensorObservations(posterior.observations.first(simulations).arguments(), "the observations")
    return simulate_observations(vi, simulations, source, seed=seed)


def _repeated(vi: AmortizedVI, posterior: Posterior, observations: Observations) -> Posterior:
    """Return the posteriors of other observations, made as ``posterior`` was."""
    if posterior.observations.first(1).context is not None:
        family = require_parametric(posterior.family, "the check on simulated data")
        encoded = vi.posterior(observations)

        def start(q: Distribution) -> Tensor:
            location, log_scale = location_and_scale(q).chunk(2, dim=-1)
            return family.parameters_near(location.to(vi.dtype), log_scale.exp().to(vi.dtype))

        contexts = encoded.map_chunks(lambda _, q: {"context": start(q)})
        batch = replace(encoded.in_memory().observations.as_batch(), context=contexts["context"])
        observations = TensorObservations(batch, "the simulated data")
        given = Posterior(posterior.model, posterior.network, observations, posterior.device)
        observations = vi.refine(posterior=given, tolerance=_REFINE_TOLERANCE, max_steps=_REFINE_STEPS).observations
    return Posterior(posterior.model, posterior.network, observations, posterior.device)
