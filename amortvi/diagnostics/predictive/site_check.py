"""Statistics of what one site observes, and of replications as they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from amortvi.diagnostics.predictive.data_sites import DataSite
from amortvi.diagnostics.predictive.statistics import NAMED, Statistic, evaluate
from amortvi.errors import ModelError, OptionError

__all__ = ["CheckedStatistic", "SiteCheck"]


@dataclass(frozen=True)
class CheckedStatistic:
    """One number made of the data, and of replicated data.

    Args:
        site: the observed site.
        name: of the statistic.
        observed: of the data.
        replicated: of each replicated data set, ``(S,)``.
    """

    site: str
    name: str
    observed: float
    replicated: Tensor = field(repr=False)

    @property
    def p_value(self) -> float:
        """The share of the replications above the data, strictly between 0 and 1."""
        above = float((self.replicated > self.observed).sum())
        equal = float((self.replicated == self.observed).sum())
        return (above + 0.5 * equal + 0.5) / (len(self.replicated) + 1)

    @property
    def two_sided(self) -> float:
        """The share of the replications that are as far out as the data, on either side."""
        return 2 * min(self.p_value, 1 - self.p_value)

    def __str__(self) -> str:
        spread = self.replicated.std() if len(self.replicated) > 1 else torch.zeros(())
        return (
            f"{self.site} {self.name}: {self.observed:.4g}, replicated {float(self.replicated.mean()):.4g} ± "
            f"{float(spread):.2g}, two-sided p = {self.two_sided:.2g}"
        )


class SiteCheck:
    """The statistics of one site: of the data, and of replications as they come.

    Args:
        site: the site, with the data.
        statistics: by name.
    """

    def __init__(self, site: DataSite, statistics: Mapping[str, Statistic]) -> None:
        self.site = site
        self.chosen = statistics
        self.observed = {name: evaluate(name, s, site.masked(site.value), site.name) for name, s in statistics.items()}
        self.replicated: dict[str, list[Tensor]] = {name: [] for name in statistics}
        self.each = {name: _of_each(name, site.masked(site.value)) for name in self._named()}
        self.above = {name: torch.zeros_like(value) for name, value in self.each.items()}
        self.draws = 0

    def _named(self) -> list[str]:
        """The statistics that single observations have: of a single number it is that number."""
        named = [s for s in self.chosen.values() if isinstance(s, str)]
        return named if self.site.value[0].numel() > 1 else [s for s in named if s == "mean"]

    def add(self, replicated: Tensor) -> None:
        """Take replications, ``(S, N, *nested, *event)``."""
        for data in replicated:
            values = self.site.masked(data)
            if not bool(torch.isfinite(values).logical_or(self.site.missing).all()):
                raise ModelError(
                    f"the model draws values of site {self.site.name!r} that are not finite, which cannot be compared with data."
                )
            for name, statistic in self.chosen.items():
                found = evaluate(name, statistic, values, self.site.name)
                if found.shape != self.observed[name].shape:
                    raise OptionError(
                        f"statistic {name!r} must return as many numbers for replicated values as for the data; got "
                        f"{found.numel()} and {self.observed[name].numel()}."
                    )
                self.replicated[name].append(found)
            for name, value in self.each.items():
                found = _of_each(name, values)
                self.above[name] += (found > value).double() + 0.5 * (found == value).double()
            self.draws += 1

    def statistics(self) -> Iterator[CheckedStatistic]:
        """Each number of each statistic."""
        for name, observed in self.observed.items():
            replicated = torch.stack(self.replicated[name])
            for position, value in enumerate(observed.tolist()):
                label = name if len(observed) == 1 else f"{name}[{position}]"
                yield CheckedStatistic(self.site.name, label, value, replicated[:, position])

    def p_values(self) -> dict[str, Tensor]:
        """The p-values of each observation, ``(N,)``, by site and statistic."""
        return {
            f"{self.site.name} {name}": ((above + 0.5) / (self.draws + 1)).masked_fill(
                self.each[name].isnan(), torch.nan
            )
            for name, above in self.above.items()
        }


def _of_each(name: str, values: Tensor) -> Tensor:
    """Return a named statistic of each observation, ``(N,)``, in double precision."""
    rows = values.double().reshape(values.shape[0], -1)
    return NAMED[name](rows, [1])
