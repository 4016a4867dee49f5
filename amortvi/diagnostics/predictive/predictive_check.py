r"""Predictive checks compare statistics of the data with those of replicated data (Gelman, Meng and Stern, 1996).

A replicated data set has the size and the covariates of the data and is drawn from the fitted model. The p-value of a
statistic ``T`` is the proportion of replications in which it exceeds its value for the data, with ties counted half,

.. math::

    p = \frac{\#\{T(x^{rep}) > T(x)\} + \tfrac12 \#\{T(x^{rep}) = T(x)\} + \tfrac12}{S + 1}.

It is close to 0 if ``T`` is larger in the data than the model predicts, and close to 1 if it is smaller. The latents of the
replications are drawn in one of two ways:

* ``latents="posterior"``: from the posterior of the replicated observation, :math:`z \sim q(z \mid x)`. Each observation is
  then predicted from itself, so p-values concentrate around 1/2 if the model is right (Bayarri and Berger, 2000): a flagged
  misfit is real, but others go undetected. Prefer statistics to which the latents cannot adapt, such as the spread around the
  reconstruction.
* ``latents="prior"``: from the prior, :math:`z \sim p(z)`, the mixed predictive distribution (Marshall and Spiegelhalter,
  2003). Given the parameters, this is the distribution of new data: for observations that the model was not trained on,
  p-values are uniform if the model is right. The posterior plays no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from amortvi._util.checks import positive_int, probability
from amortvi._util.lazy import pandas as pd
from amortvi._util.memory import rows_at_once, spans
from amortvi._util.random import random_state
from amortvi.diagnostics.predictive.site_check import CheckedStatistic, SiteCheck, read_observed_sites
from amortvi.diagnostics.predictive.statistics import Statistics, choose
from amortvi.errors import OptionError
from amortvi.inference import AmortizedVI
from amortvi.posterior import Posterior
from amortvi.posterior.evaluation import replicate

__all__ = ["Latents", "PredictiveCheck", "predictive_check"]

Latents: TypeAlias = Literal["posterior", "prior"]
"""The distribution from which the latents of replicated data are drawn."""


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Statistics of the data and of replicated data.

    Args:
        latents: the distribution from which the replicated latents were drawn.
        statistics: the statistics of the whole data set.
        observation_p_values: for each observed site and named statistic, such as ``"x mean"``, the p-value of each observation
            among its own replications, ``(N,)``; NaN if the observation is masked.
        index: the user's labels of the observations, if any.
    """

    latents: Latents
    statistics: tuple[CheckedStatistic, ...]
    observation_p_values: Mapping[str, Tensor] = field(repr=False)
    index: Any | None = field(default=None, repr=False)

    def misfits(self, level: float = 0.01) -> list[CheckedStatistic]:
        """Return the statistics with a two-sided p-value below ``level``, smallest first.

        With ``S`` replications no p-value is below ``1 / (S + 1)``. Under a right model, a proportion ``level`` of the
        statistics is returned by chance.

        Raises:
            OptionError: ``level`` is not strictly between 0 and 1.
        """
        threshold = probability("level", level)
        return sorted((s for s in self.statistics if s.two_sided < threshold), key=lambda s: s.two_sided)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per statistic; ``mean`` and ``sd`` are those of the replications."""
        rows = [
            (s.observed, float(s.replicated.mean()), float(s.replicated.std(correction=0)), s.p_value, s.two_sided)
            for s in self.statistics
        ]
        index = pd.MultiIndex.from_tuples([(s.site, s.name) for s in self.statistics], names=["site", "statistic"])
        return pd.DataFrame(rows, index=index, columns=["observed", "mean", "sd", "p_value", "two_sided"])

    def observations_frame(self) -> pd.DataFrame:
        """Return the p-values of each observation, one row per observation."""
        columns = {name: value.numpy() for name, value in self.observation_p_values.items()}
        return pd.DataFrame(columns, index=self.index)

    def __str__(self) -> str:
        found = self.misfits()
        kind = "Posterior" if self.latents == "posterior" else "Mixed (latents from the prior)"
        summary = f"{kind} predictive check: {len(found)} of {len(self.statistics)} statistics have p < 0.01"
        return "\n  ".join([summary + (":" if found else "."), *map(str, found)])


def predictive_check(
    vi: AmortizedVI,
    x: Any = None,
    statistics: Statistics | None = None,
    *,
    posterior: Posterior | None = None,
    draws: int = 100,
    latents: Latents = "posterior",
    seed: int | None = None,
) -> PredictiveCheck:
    """Compare statistics of the data with those of data drawn from the fitted model.

    Args:
        vi: a fitted estimator.
        x: observations, as for `AmortizedVI.fit`; for p-values that are uniform under a right model, held-out observations.
        statistics: a list or mapping of statistics of each observed site: names among ``"mean"``, ``"std"``, ``"min"``,
            ``"max"`` and ``"zeros"`` (the proportion of zeros), or callables that map the values of all observations,
            ``(N, *nested, *event)``, to one or several numbers. Values that the model masks are NaN. By default all names,
            ``"zeros"`` for discrete data only.
        posterior: the posterior of ``x`` to use; by default that of the encoder.
        draws: ``S``, the number of replicated data sets.
        latents: whether to draw the latents from the ``"posterior"`` of each observation or from the ``"prior"``.
        seed: reproduces the draws and leaves the caller's random state untouched.

    Returns:
        The statistics of the data and of the replications with their p-values and, for named statistics, the p-values of each
        observation (only of the mean if an observation is a single number).

    Raises:
        NotFittedError: no data have been seen.
        DataError: the observations cannot be used.
        ModelError: the model observes nothing that can be drawn, or draws values that are not finite.
        OptionError: an option is out of range, or a statistic fails.

    References:
        Gelman, Meng and Stern, 1996, "Posterior predictive assessment of model fitness via realized discrepancies".

    Example:
        >>> import torch, amortvi as avi
        >>> truth = avi.models.LinearGaussian(torch.ones(3, 1), scale=2.0)
        >>> wrong = avi.models.LinearGaussian(torch.ones(3, 1), scale=0.5)
        >>> x = truth.simulate(200, seed=0)
        >>> vi = avi.AmortizedVI(wrong, avi.encoders.MLP(3, []), freeze_model=True).setup(x, seed=0)
        >>> check = avi.predictive_check(vi, x, ["std"], latents="prior", seed=0)
        >>> [statistic.name for statistic in check.misfits()]
        ['std']
    """
    draws = positive_int("draws", draws)
    if latents not in get_args(Latents):
        raise OptionError(f"latents must be one of {list(get_args(Latents))}; got {latents!r}.")
    choose(statistics, discrete=True)  # fails before any computation
    posterior = vi.resolve_posterior(x, posterior)
    with random_state(seed, vi.device):
        sites = read_observed_sites(posterior)
        checks = [SiteCheck(site, choose(statistics, discrete=site.discrete)) for site in sites]
        for span in spans(draws, rows_at_once(sum(site.values.numel() for site in sites))):
            replicated = _replicate(posterior, len(span), latents)
            for check in checks:
                check.add(replicated[check.site.name])
    return PredictiveCheck(
        latents=latents,
        statistics=tuple(statistic for check in checks for statistic in check.statistics()),
        observation_p_values={name: p for check in checks for name, p in check.observation_p_values().items()},
        index=posterior.index,
    )


def _replicate(posterior: Posterior, draws: int, latents: Latents) -> dict[str, Tensor]:
    """Draw data sets from the model: for each site ``(draws, N, *nested, *event)``."""
    if latents == "posterior":
        return replicate(posterior, draws)
    model, theta = posterior.model, posterior.network.sample_globals(draws)
    return posterior.map_chunks(
        lambda chunk, _: model.simulate(chunk.batch, None, chunk.draws, theta=theta, draws_at_once=chunk.draws_at_once),
        draws=draws,
        observation_dim=1,
    )
