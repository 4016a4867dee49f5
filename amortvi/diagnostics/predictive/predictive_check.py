r"""Whether data drawn from the fitted model look like the data (Gelman, Meng and Stern, 1996).

A statistic ``T`` of the data is compared with its values on replicated data sets: of the same size, with the same covariates,
drawn from the model. The p-value is the share of replications that exceed the data, ties counted by half,

.. math::

    p = \frac{\#\{T(x^{rep}) > T(x)\} + \tfrac12 \#\{T(x^{rep}) = T(x)\} + \tfrac12}{S + 1},

near 0 where the data have too much of ``T``, near 1 where they have too little. The replicated latents can come from two laws:

* ``latents="posterior"``: :math:`z \sim q(z \mid x)` of the observation that is replicated. Each observation is then predicted
  from itself, so p-values crowd around 1/2 even for a right model (Bayarri and Berger, 2000): what is flagged is wrong, but much
  that is wrong is not flagged. Statistics that the latents cannot adapt to, such as the scatter around the reconstruction, are
  those to look at.
* ``latents="prior"``: :math:`z \sim p(z)` anew, the mixed predictive (Marshall and Spiegelhalter, 2003). Given the parameters
  this is the law of new data, so for observations that the model was not trained on p-values are uniform if it is right. It
  does not look at the posterior at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi._util.chunks import Gathered, Tile, rows_at_once, spans
from amortvi._util.lazy import pandas as pd
from amortvi._util.modes import evaluation_mode
from amortvi._util.random import random_state
from amortvi.data.chunks import numbers_per_row
from amortvi.diagnostics.predictive.data_sites import read_data
from amortvi.diagnostics.predictive.site_check import CheckedStatistic, SiteCheck
from amortvi.diagnostics.predictive.statistics import Statistics, choose
from amortvi.errors import OptionError
from amortvi.inference import AmortizedVI
from amortvi.model.program import GenerativeModel
from amortvi.posterior.posterior import Posterior
from amortvi.posterior.predictive import predict, simulate

__all__ = ["Latents", "PredictiveCheck", "predictive_check"]

Latents: TypeAlias = Literal["posterior", "prior"]


@dataclass(frozen=True)
class PredictiveCheck:
    """Statistics of the data beside those of replicated data.

    Args:
        latents: where the replicated latents are from.
        statistics: of the whole data set.
        of_observations: for each observed site and each named statistic of one observation, such as ``"x mean"``, the p-value
            of each observation among its own replications, ``(N,)``; NaN where nothing of it was observed.
        index: the user's labels of the observations, where there are any.
    """

    latents: Latents
    statistics: tuple[CheckedStatistic, ...]
    of_observations: Mapping[str, Tensor] = field(repr=False)
    index: Any | None = field(default=None, repr=False)

    def misfits(self, level: float = 0.01) -> list[CheckedStatistic]:
        """Return the statistics whose two-sided p-value is below ``level``, the farthest out first.

        With ``S`` replications none is below ``1 / (S + 1)``, and of many statistics one in ``1 / level`` is here by chance.

        Raises:
            OptionError: ``level`` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise OptionError(f"level must be a probability strictly between 0 and 1; got {level!r}.")
        return sorted((s for s in self.statistics if s.two_sided < level), key=lambda s: s.two_sided)

    def to_frame(self) -> pd.DataFrame:
        """Return a row a statistic of the whole data set; ``mean`` and ``sd`` are of the replications."""
        rows = [
            {
                "observed": statistic.observed,
                "mean": float(statistic.replicated.mean()),
                "sd": float(statistic.replicated.std(correction=0)),
                "p_value": statistic.p_value,
                "two_sided": statistic.two_sided,
            }
            for statistic in self.statistics
        ]
        keys = [(statistic.site, statistic.name) for statistic in self.statistics]
        return pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(keys, names=["site", "statistic"]))

    def observations_frame(self) -> pd.DataFrame:
        """Return a row an observation: its p-values."""
        return pd.DataFrame({name: value.numpy() for name, value in self.of_observations.items()}, index=self.index)

    def __str__(self) -> str:
        found = self.misfits()
        kind = "Posterior" if self.latents == "posterior" else "Mixed (latents from the prior)"
        counted = (
            f"{kind} predictive check: {len(found)} of {len(self.statistics)} statistics are not reproduced at p < 0.01"
        )
        return "\n  ".join([counted + (":" if found else "."), *map(str, found)])


def predictive_check(
    vi: AmortizedVI,
    x: Any,
    statistics: Statistics | None = None,
    *,
    draws: int = 100,
    latents: Latents = "posterior",
    seed: int | None = None,
) -> PredictiveCheck:
    """Compare statistics of the data with those of data that the fitted model draws.

    Args:
        vi: a fitted estimator.
        x: observations, as for `AmortizedVI.fit`; held-out ones for p-values that can be taken at their word.
        statistics: for each observed site: names among ``"mean"``, ``"std"``, ``"min"``, ``"max"`` and ``"zeros"`` (the share of
            zeros), or callables that take the values of all observations, ``(N, *nested, *event)``, and return a number or
            numbers; in a list or a mapping. Values that the model masks are NaN. By default all the named ones, ``"zeros"`` for
            discrete data only.
        draws: ``S``, how many replicated data sets.
        latents: ``"posterior"`` replicates each observation from its own posterior, ``"prior"`` draws its latents anew.
        seed: reproduces the draws and leaves the caller's random state as it was.

    Returns:
        The statistics of the data and of the replications, with p-values; and for the named ones the p-values of each
        observation by itself (of one number, its own value among its replications).

    Raises:
        NotFittedError: the guide has not seen data yet.
        DataError: the observations cannot be used.
        ModelError: the model observes nothing that it could draw, or draws values that are not finite.
        OptionError: an option is out of range, or a statistic does not work.

    References:
        Gelman, Meng and Stern, 1996, "Posterior predictive assessment of model fitness via realized discrepancies".

    Example:
        >>> import torch, amortvi as avi
        >>> truth = avi.models.LinearGaussian(torch.ones(3, 1), scale=2.0)
        >>> wrong = avi.models.LinearGaussian(torch.ones(3, 1), scale=0.5)
        >>> x = truth.simulate(200, seed=0)
        >>> vi = avi.AmortizedVI(wrong, avi.encoders.MLP(3, []), freeze_model=True)
        >>> check = avi.predictive_check(vi.fit(x, epochs=20, lr=0.05, seed=0, progress=False), x, ["mean", "std"], seed=0)
        >>> [statistic.name for statistic in check.misfits()]
        ['std']
    """
    count = positive_int("draws", draws)
    if latents not in get_args(Latents):
        raise OptionError(f"latents must be one of {list(get_args(Latents))}; got {latents!r}.")
    choose(statistics, discrete=True)
    posterior, model = vi.posterior(x), vi.generative
    with random_state(seed, vi.device), torch.no_grad(), evaluation_mode(model), model.own_parameters():
        checks = [SiteCheck(site, choose(statistics, discrete=site.discrete)) for site in read_data(model, posterior)]
        at_once = rows_at_once(sum(check.site.value.numel() for check in checks))
        for span in spans(count, at_once):
            replicated = _replicate(model, posterior, len(span), latents)
            for check in checks:
                check.add(replicated[check.site.name])
    return PredictiveCheck(
        latents=latents,
        statistics=tuple(statistic for check in checks for statistic in check.statistics()),
        of_observations={name: value for check in checks for name, value in check.p_values().items()},
        index=posterior.index,
    )


def _replicate(model: GenerativeModel, posterior: Posterior, draws: int, latents: Latents) -> dict[str, Tensor]:
    """Draw data sets from the model: for each site ``(draws, N, *nested, *event)``."""
    if latents == "posterior":
        return predict(model, posterior, draws)
    prototype, gathered = posterior.prototype, Gathered(posterior.size, dim=1)
    tile = Tile.of(draws, numbers_per_row(lambda batch: simulate(model, prototype, batch, None, 1), posterior.first()))
    for batch, _ in posterior.chunks(tile.numbers_per_observation):
        gathered.add(simulate(model, prototype, batch, None, draws, at_once=tile.draws))
    return gathered.result()
