"""Summaries of the posteriors of given observations: moments, quantiles, covariances and tables."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.lazy import pandas as pd
from amortvi._util.memory import rows_at_once
from amortvi._util.random import random_state
from amortvi.data import Chunk
from amortvi.errors import FamilyError
from amortvi.families import covariance
from amortvi.model.latents import element_labels
from amortvi.posterior.chunked import ChunkedPosterior
from amortvi.posterior.deterministic import deterministic_shapes, deterministic_sites
from amortvi.posterior.moments import (
    DRAWS,
    check_quantiles,
    site_moments,
    site_quantiles,
    site_summary,
    tail_dominated,
)
from amortvi.posterior.non_finite import (
    IMPLAUSIBLE,
    TAIL_DOMINATED,
    check_finite_results,
    implausible_rows,
    warn_of,
)
from amortvi.posterior.site_covariance import site_covariance

__all__ = ["SummarizedPosterior"]

_ESTIMATES = 0
"""The seed of the draws from which quantities without a closed form are estimated, so that they are reproducible."""
_GLOBAL_DRAWS = 10_000
"""The number of draws from which the summaries of global latents are estimated: to 1 percent of a standard deviation."""
_IMPLAUSIBLE, _TAILS, _WHOLE = "/implausible", "/tails", "latents"


class SummarizedPosterior(ChunkedPosterior):
    """``q(z | x)`` for each of ``N`` observations, with its summaries; the base of `Posterior`."""

    @functools.cached_property
    def deterministic(self) -> dict[str, torch.Size]:
        """The shape of each ``pyro.deterministic`` site inside the data plate for one observation, ``(*nested, *event)``."""
        return deterministic_shapes(self.model, self.first())

    @property
    def labels(self) -> list[str]:
        """A label for each element of the latent sites, in their own support, such as ``weights[2]``; see `site_covariance`."""
        return [label for site in self.latents.sites for label in site.labels]

    @property
    def unconstrained_labels(self) -> list[str]:
        """A label for each coordinate of the unconstrained latent vector; see `covariance`.

        They are those of ``latents.labels``. The coordinates of a site whose support is not all real numbers are marked as
        unconstrained, such as ``weights[1] (unconstrained)``: they are not elements of the site.
        """
        marks = [
            "" if site.is_unconstrained else " (unconstrained)" for site in self.latents.sites for _ in range(site.size)
        ]
        return [label + mark for label, mark in zip(self.latents.labels, marks, strict=True)]

    @property
    def mean(self) -> dict[str, Tensor]:
        """The mean of each site, ``(N, *nested, *event)``; of a global latent ``(*shape)``, estimated from draws.

        Raises:
            NonFiniteError: a mean is NaN or infinite.
        """
        return self._summary(
            "mean",
            lambda q: {name: mean for name, (mean, _) in site_moments(self.latents, q).items()},
            lambda draws: draws.mean(0),
            moments=True,
        )

    @property
    def std(self) -> dict[str, Tensor]:
        """The standard deviation of each site, ``(N, *nested, *event)``; of a global latent ``(*shape)``, estimated from draws.

        Raises:
            NonFiniteError: a standard deviation is NaN or infinite.
        """
        return self._summary(
            "standard deviation",
            lambda q: {name: std for name, (_, std) in site_moments(self.latents, q).items()},
            lambda draws: draws.std(0),
            moments=True,
        )

    @property
    def median(self) -> dict[str, Tensor]:
        """The median of each element of each site, ``(N, *nested, *event)``; of a global latent ``(*shape)``.

        Raises:
            NonFiniteError: a median is NaN or infinite.
        """
        found = {name: value[0] for name, value in self.quantiles([0.5]).items()}
        return found | {name: value.cpu() for name, value in self.network.global_medians().items()}

    def quantiles(self, quantiles: Sequence[float]) -> dict[str, Tensor]:
        """Return quantiles of each element of each site.

        Args:
            quantiles: probabilities strictly between 0 and 1.

        Returns:
            For each site ``(len(quantiles), N, *nested, *event)``; for a global latent ``(len(quantiles), *shape)``, estimated
            from draws.

        Raises:
            OptionError: a probability is not strictly between 0 and 1.
            NonFiniteError: a quantile is NaN or infinite.
        """
        levels = check_quantiles(quantiles)
        return self._summary(
            "quantiles",
            lambda q: site_quantiles(self.latents, q, levels),
            lambda draws: _quantiles_of_draws(draws, levels),
            observation_dim=1,
        )

    def _summary(
        self,
        what: str,
        of_posterior: Callable[[Distribution], Mapping[str, Tensor]],
        of_draws: Callable[[Tensor], Tensor] | None = None,
        *,
        observation_dim: int = 0,
        moments: bool = False,
    ) -> dict[str, Tensor]:
        """Return a quantity of each posterior, checked; called by the methods of the public interface.

        Args:
            what: the quantity, for messages.
            of_posterior: computes it for the latent sites.
            of_draws: computes it for a deterministic site from draws, ``(K, B, *shape)``, or for a global latent from draws,
                ``(K, *shape)``; by default these are omitted.
            observation_dim: the dimension of the results that indexes observations.
            moments: whether the quantity is meaningless if the tails dominate it.
        """

        def compute(chunk: Chunk, q: Distribution) -> dict[str, Tensor]:
            found = dict(of_posterior(q))
            flags = {_IMPLAUSIBLE: implausible_rows(q, self.device)}
            if moments:
                flags[_TAILS] = tail_dominated(self.latents, q)
            return found | {name: flag.reshape(*(1,) * observation_dim, -1) for name, flag in flags.items()}

        with random_state(_ESTIMATES, self.device):
            found = self.map_chunks(compute, observation_dim=observation_dim)
        flagged, dominated = found.pop(_IMPLAUSIBLE).flatten(), found.pop(_TAILS, None)
        check_finite_results(found, f"the {what}", self.index, observation_dim)
        warn_of(IMPLAUSIBLE, flagged, self.index, stacklevel=3)
        if dominated is not None:
            warn_of(TAIL_DOMINATED, dominated, self.index, stacklevel=3)
        if of_draws is None:
            return found
        return found | self._of_globals(of_draws) | self._of_deterministic(what, of_draws, observation_dim)

    def _of_globals(self, of_draws: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return a quantity of each global latent, computed from draws, ``(K, *shape)``."""
        with random_state(_ESTIMATES, self.device):
            size = sum(site.shape.numel() for site in self.model.structure.globals)
            drawn = self.network.sample_globals(min(_GLOBAL_DRAWS, max(DRAWS, rows_at_once(size))))
        return {name: of_draws(value.cpu()) for name, value in drawn.items()}

    def _of_deterministic(
        self, what: str, of_draws: Callable[[Tensor], Tensor], observation_dim: int = 0
    ) -> dict[str, Tensor]:
        """Return a quantity of each deterministic site, computed from draws, ``(K, B, *shape)``, checked."""
        if not self.deterministic:
            return {}

        def draw(chunk: Chunk, q: Distribution) -> dict[str, Tensor]:
            vector = torch.cat([q.sample(torch.Size([len(span)])) for span in chunk.draw_spans()])
            return deterministic_sites(self.model, chunk, self.latents.constrain(vector)[0], theta)

        def compute(chunk: Chunk, q: Distribution) -> dict[str, Tensor]:
            # A site may be integer or boolean.
            return {name: of_draws(1.0 * value) for name, value in draw(chunk, q).items()}

        with random_state(_ESTIMATES, self.device):
            theta = self.network.sample_globals(DRAWS)
            found = self.map_chunks(compute, draws=DRAWS, observation_dim=observation_dim, probe=draw)
        check_finite_results(found, f"the {what}", self.index, observation_dim)
        return found

    @property
    def covariance(self) -> Tensor:
        """The covariance of the unconstrained latent vector, ``(N, D, D)``; `unconstrained_labels` names its coordinates.

        Raises:
            FamilyError: the covariance is not known in closed form; use that of draws.
            NonFiniteError: an element is NaN or infinite.
        """

        def compute(q: Distribution) -> dict[str, Tensor]:
            found = covariance(q)
            if found is None:
                raise FamilyError(
                    f"the covariance of a {type(self.family).__name__} posterior is not known in closed form: estimate it from "
                    f"draws, sample(1000)."
                )
            return {_WHOLE: found}

        return self._summary("covariance", compute)[_WHOLE]

    @property
    def site_covariance(self) -> Tensor:
        """The covariance of the elements of the latent sites in their own support, ``(N, elements, elements)``.

        `labels` names the elements; without transforms, this is `covariance`. It is computed by quadrature if the posterior is
        Gaussian and all transforms are elementwise. Otherwise (a simplex, a flow) it is estimated from 1,000 draws, so the
        standard error of a correlation is about 0.03.

        Raises:
            NonFiniteError: an element is NaN or infinite.
        """
        return self._summary("covariance", lambda q: {"covariance": site_covariance(self.latents, q)}, moments=True)[
            "covariance"
        ]

    @property
    def correlation(self) -> Tensor:
        """The correlation matrices of the unconstrained latent vector, ``(N, D, D)``.

        Raises:
            FamilyError: the covariance is not known in closed form.
            NonFiniteError: an element is NaN or infinite.
        """
        found = self.covariance
        std = found.diagonal(dim1=-2, dim2=-1).sqrt()
        return found / std.unsqueeze(-1) / std.unsqueeze(-2)

    def to_frame(self, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> pd.DataFrame:
        """Return a summary with one row for each observation and each element of its sites, and for each global latent.

        Args:
            quantiles: probabilities strictly between 0 and 1.

        Returns:
            Columns ``mean``, ``std`` and one for each quantile, such as ``5%``. The index consists of the observation (the
            user's label, if there is one) and the element, such as ``z[0]``. The rows of global latents come last; they have
            ``"global"`` in place of an observation.

        Raises:
            OptionError: a probability is not strictly between 0 and 1.
            NonFiniteError: a value is NaN or infinite.
        """
        levels = check_quantiles(quantiles)
        table = self._summary("summary", lambda q: {"summary": site_summary(self.latents, q, levels)}, moments=True)[
            "summary"
        ]
        computed = self._of_deterministic("summary", lambda draws: _summary_of_draws(draws, levels))
        labels = [
            *self.labels,
            *(label for name in computed for label in element_labels(name, self.deterministic[name])),
        ]
        of_globals = self._of_globals(lambda draws: _summary_of_draws(draws.unsqueeze(1), levels)[0])
        shared = {
            label: row
            for site in self.model.structure.globals
            for label, row in zip(site.labels, of_globals[site.name], strict=True)
        }
        index = range(table.shape[0]) if self.index is None else self.index
        name = getattr(index, "name", None) or self.model.structure.plate
        rows = pd.MultiIndex.from_product([index, labels], names=[name, "latent"])
        values = torch.cat([table, *computed.values()], dim=1).flatten(0, 1)
        if shared:
            of_shared = pd.MultiIndex.from_product([["global"], [*shared]], names=rows.names)
            rows, values = rows.append(of_shared), torch.cat([values, torch.stack([*shared.values()])])
        columns = ["mean", "std", *(f"{100 * level:g}%" for level in levels)]
        return pd.DataFrame(values.numpy(), index=rows, columns=columns)


def _quantiles_of_draws(draws: Tensor, levels: Sequence[float]) -> Tensor:
    """Return quantiles of draws, ``(K, B, *shape)``, as ``(len(levels), B, *shape)``."""
    # torch.quantile accepts at most 16 million elements. What is not finite is reported by the caller.
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.quantile(draws.numpy(), levels, axis=0)).to(draws)


def _summary_of_draws(draws: Tensor, levels: Sequence[float]) -> Tensor:
    """Return mean, standard deviation and quantiles of draws, ``(K, B, *shape)``, as ``(B, elements, 2 + len(levels))``."""
    columns = torch.stack([draws.mean(0), draws.std(0), *_quantiles_of_draws(draws, levels)], dim=-1)
    return columns.reshape(columns.shape[0], -1, columns.shape[-1])
