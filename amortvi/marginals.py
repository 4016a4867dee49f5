"""Means, spreads and quantiles of each latent site, in its own support.

A site that is not transformed has the moments of the family. A site whose transform works number by number (positive,
interval) has exact quantiles, the transformed ones, and its moments by Gauss-Hermite quadrature where the marginals are
Gaussian. What is left (a simplex; a family without closed forms) is estimated from draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi.errors import OptionError
from amortvi.families import Family
from amortvi.latents import LatentSite, LatentVector

__all__ = ["DRAWS", "Workload", "checked_quantiles", "site_moments", "site_quantiles", "site_summary"]

DRAWS = 1000
"""How many draws an estimate takes where there is no closed form."""

QUADRATURE_NODES = 64


@dataclass(frozen=True)
class Workload:
    """What moments and quantiles cost, and whether they are estimates.

    Args:
        moment_numbers: how many numbers the moments of one observation take on the way.
        quantile_numbers: how many one quantile takes, or all of them where they are estimated.
        is_estimate: whether some site needs draws.
    """

    moment_numbers: int
    quantile_numbers: int
    is_estimate: bool

    @classmethod
    def of(cls, latents: LatentVector, family: Family) -> Workload:
        """Return that of the sites of one model under one family."""
        marginal = family.has_gaussian_marginals and all(site.is_elementwise for site in latents.sites)
        closed = family.has_closed_form_moments and all(site.is_unconstrained for site in latents.sites)
        nodes = 1 if closed else QUADRATURE_NODES if marginal else DRAWS
        return cls(latents.dim * nodes, latents.dim * (1 if marginal else DRAWS), not marginal)


def site_quantiles(
    latents: LatentVector, family: Family, posterior: Distribution, quantiles: Sequence[float]
) -> dict[str, Tensor]:
    """Return quantiles of each coordinate of each site.

    Args:
        latents: the sites.
        family: says what is known in closed form.
        posterior: batch shape ``(B,)``, event shape ``(D,)``.
        quantiles: probabilities strictly between 0 and 1.

    Returns:
        For each site ``(len(quantiles), B, *nested, *event)``.

    Raises:
        OptionError: a probability is not strictly between 0 and 1.
    """
    quantiles = checked_quantiles(quantiles)
    draws = _Draws(latents, posterior)
    result = {}
    for site in latents.sites:
        if family.has_gaussian_marginals and site.is_elementwise:
            result[site.name] = _transformed_quantiles(latents, site, posterior, quantiles)
        else:
            sample = draws.of(site)
            result[site.name] = torch.quantile(sample, sample.new_tensor(list(quantiles)), dim=0)
    return result


def checked_quantiles(quantiles: Sequence[float]) -> list[float]:
    """Return probabilities as plain numbers.

    Raises:
        OptionError: they are no sequence of numbers strictly between 0 and 1.
    """
    try:
        found = [float(probability) for probability in quantiles]
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"quantiles must be a list of probabilities, such as [0.05, 0.95]; got {quantiles!r}."
        ) from error
    if not all(0 < probability < 1 for probability in found):
        raise OptionError(f"quantiles must lie strictly between 0 and 1; got {found}.")
    return found


def _transformed_quantiles(
    latents: LatentVector, site: LatentSite, posterior: Distribution, quantiles: Sequence[float]
) -> Tensor:
    mean, std = _unconstrained_moments(latents, site, posterior)
    probability = mean.new_tensor(list(quantiles))
    standard = torch.special.ndtri(probability).reshape(-1, *(1,) * mean.dim())
    # A decreasing transform (an upper bound) takes the lower quantile to the upper one.
    return site.constrain(mean + site.transform.sign * std * standard, observation_dim=1)[0]


def _unconstrained_moments(latents: LatentVector, site: LatentSite, posterior: Distribution) -> tuple[Tensor, Tensor]:
    mean = latents.split(posterior.mean)[site.name]
    return mean, latents.split(posterior.variance)[site.name].sqrt()


def site_moments(latents: LatentVector, family: Family, posterior: Distribution) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and standard deviation of each coordinate of each site, each ``(B, *nested, *event)``.

    Args:
        latents: the sites.
        family: says what is known in closed form.
        posterior: batch shape ``(B,)``, event shape ``(D,)``.
    """
    draws = _Draws(latents, posterior)
    result = {}
    for site in latents.sites:
        if family.has_closed_form_moments and site.is_unconstrained:
            result[site.name] = _unconstrained_moments(latents, site, posterior)
        elif family.has_gaussian_marginals and site.is_elementwise:
            result[site.name] = _quadrature_moments(latents, site, posterior)
        else:
            sample = draws.of(site)
            result[site.name] = sample.mean(0), sample.std(0)
    return result


def site_summary(latents: LatentVector, family: Family, posterior: Distribution, quantiles: Sequence[float]) -> Tensor:
    """Return mean, standard deviation and quantiles of each number of each site, ``(B, numbers, 2 + len(quantiles))``.

    The numbers are those of the sites in their own support, one site after the other.
    """
    moments = site_moments(latents, family, posterior)
    levels = site_quantiles(latents, family, posterior, quantiles)
    columns = [torch.stack([*moments[site.name], *levels[site.name]], dim=-1) for site in latents.sites]
    return torch.cat([part.reshape(part.shape[0], -1, part.shape[-1]) for part in columns], dim=1)


def _quadrature_moments(latents: LatentVector, site: LatentSite, posterior: Distribution) -> tuple[Tensor, Tensor]:
    mean, std = _unconstrained_moments(latents, site, posterior)
    roots, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
    node = mean.new_tensor(roots).reshape(-1, *(1,) * mean.dim())
    weight = mean.new_tensor(weights / weights.sum()).reshape(-1, *(1,) * mean.dim())
    values, _ = site.constrain(mean + std * node, observation_dim=1)
    centre = (weight * values).sum(0)
    return centre, (weight * (values - centre).square()).sum(0).sqrt()


class _Draws:
    """Draws shared by all the sites that need them, made when the first one does."""

    def __init__(self, latents: LatentVector, posterior: Distribution) -> None:
        self.latents = latents
        self.posterior = posterior
        self._values: dict[str, Tensor] | None = None

    def of(self, site: LatentSite) -> Tensor:
        """Return draws of ``site``, ``(DRAWS, B, *nested, *event)``."""
        if self._values is None:
            self._values, _ = self.latents.constrain(self.posterior.sample(torch.Size([DRAWS])))
        return self._values[site.name]
