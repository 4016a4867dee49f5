"""Statistics of the values that one site observes, and of replicated values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi.data import Chunk
from amortvi.diagnostics.predictive.statistics import NAMED, Statistic, evaluate
from amortvi.errors import DataError, ModelError, OptionError
from amortvi.posterior import Posterior

__all__ = ["CheckedStatistic", "ObservedSite", "SiteCheck", "read_observed_sites"]


@dataclass(frozen=True, eq=False)
class ObservedSite:
    """The values that one site observes, ``(N, *nested, *event)``, on the CPU; NaN where the model masks them."""

    name: str
    values: Tensor
    discrete: bool


def read_observed_sites(posterior: Posterior) -> list[ObservedSite]:
    """Run the model on the observations and return the values of its observed sites in the data plate.

    Raises:
        ModelError: the model observes nothing in the plate.
        DataError: a value is outside the support, or all values of a site are masked.
    """
    model, plate = posterior.model, posterior.model.structure.plate
    discrete: dict[str, bool] = {}

    def read(chunk: Chunk, _: Distribution) -> Mapping[str, Tensor]:
        values, size = {}, chunk.batch.size
        for site in model.run(chunk.batch):
            value = site.by_observation(site.value, plate, size) if site.is_data else None
            if value is not None:
                discrete[site.name] = bool(site.distribution.support.is_discrete)
                observed = site.observed_entries(plate, value)
                values[site.name] = _masked(value, None if observed is None else ~observed)
        return values

    values = posterior.map_chunks(read, check_data=True)
    if not values:
        raise ModelError(
            "the model observes no values in its data plate, so there is nothing to replicate: pyro.factor contributes to the "
            "density but draws no data."
        )
    for name, value in values.items():
        if bool(value.isnan().all()):
            raise DataError(f"x has no unmasked value at site {name!r}.")
    return [ObservedSite(name, value, discrete[name]) for name, value in values.items()]


@dataclass(frozen=True, eq=False)
class CheckedStatistic:
    """One statistic of the data and of replicated data.

    Args:
        site: the observed site.
        name: the name of the statistic.
        observed: its value for the data.
        replicated: its value for each replicated data set, ``(S,)``.
    """

    site: str
    name: str
    observed: float
    replicated: Tensor = field(repr=False)

    @property
    def p_value(self) -> float:
        """The proportion of replications above the data, strictly between 0 and 1."""
        above = float((self.replicated > self.observed).sum())
        equal = float((self.replicated == self.observed).sum())
        return (above + 0.5 * equal + 0.5) / (len(self.replicated) + 1)

    @property
    def two_sided(self) -> float:
        """Twice the smaller of ``p_value`` and ``1 - p_value``."""
        return 2 * min(self.p_value, 1 - self.p_value)

    def __str__(self) -> str:
        return (
            f"{self.site} {self.name}: {self.observed:.4g}, replicated {float(self.replicated.mean()):.4g} ± "
            f"{float(self.replicated.std(correction=0)):.2g}, two-sided p = {self.two_sided:.2g}"
        )


class SiteCheck:
    """The statistics of one site, for the data and for replications that are added one after the other."""

    def __init__(self, site: ObservedSite, statistics: Mapping[str, Statistic]) -> None:
        self.site = site
        self._statistics = statistics
        self._observed = {name: evaluate(name, s, site.values, site.name) for name, s in statistics.items()}
        self._replicated: dict[str, list[Tensor]] = {name: [] for name in statistics}
        missing = site.values.isnan()
        self._missing = missing if bool(missing.any()) else None
        named = [s for s in statistics.values() if isinstance(s, str)]
        if site.values[0].numel() == 1:  # the other statistics of a single value repeat it
            named = [name for name in named if name == "mean"]
        self._by_observation = {name: _by_observation(name, site.values) for name in named}
        self._exceeding = {name: torch.zeros_like(value) for name, value in self._by_observation.items()}

    def add(self, replicated: Tensor) -> None:
        """Add replications, ``(S, N, *nested, *event)``.

        Raises:
            ModelError: a replicated value is not finite.
            OptionError: a statistic fails, or returns more or fewer values than for the data.
        """
        for data in replicated:
            values = _masked(data, self._missing)
            finite = torch.isfinite(values) if self._missing is None else torch.isfinite(values) | self._missing
            if not bool(finite.all()):
                raise ModelError(
                    f"the model draws values of site {self.site.name!r} that are not finite, which cannot be compared with data."
                )
            for name, statistic in self._statistics.items():
                found = evaluate(name, statistic, values, self.site.name)
                if found.shape != self._observed[name].shape:
                    raise OptionError(
                        f"statistic {name!r} must return as many numbers for replicated values as for the data; got "
                        f"{found.numel()} and {self._observed[name].numel()}."
                    )
                self._replicated[name].append(found)
            for name, value in self._by_observation.items():
                found = _by_observation(name, values)
                self._exceeding[name] += (found > value).double() + 0.5 * (found == value).double()

    def statistics(self) -> Iterator[CheckedStatistic]:
        """Iterate over the statistics, with one element for each value of a statistic."""
        for name, observed in self._observed.items():
            replicated = torch.stack(self._replicated[name])
            for position, value in enumerate(observed.tolist()):
                label = name if len(observed) == 1 else f"{name}[{position}]"
                yield CheckedStatistic(self.site.name, label, value, replicated[:, position])

    def observation_p_values(self) -> dict[str, Tensor]:
        """Return the p-values of each observation, ``(N,)``, by site and statistic."""
        replications = len(next(iter(self._replicated.values())))
        p_values = {name: (exceeding + 0.5) / (replications + 1) for name, exceeding in self._exceeding.items()}
        return {
            f"{self.site.name} {name}": p.masked_fill(self._by_observation[name].isnan(), torch.nan)
            for name, p in p_values.items()
        }


def _masked(values: Tensor, missing: Tensor | None) -> Tensor:
    """Return values as floating-point numbers on the CPU, with NaN for those that are missing."""
    values = values.cpu() if values.is_floating_point() else values.cpu().double()
    return values if missing is None else values.masked_fill(missing.cpu(), torch.nan)


def _by_observation(name: str, values: Tensor) -> Tensor:
    """Return a named statistic of each observation, ``(N,)``, in double precision."""
    return NAMED[name](values.double().reshape(values.shape[0], -1), [1])
