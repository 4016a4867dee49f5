"""Means, standard deviations and quantiles of each latent site, in its own support.

A site without a transform has the moments of the posterior. If the transform is elementwise, its quantiles are the transformed
quantiles of the marginals, and if the marginals are normal, its moments are computed by Gauss-Hermite quadrature. Everything
else (a simplex, a flow) is estimated from draws.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from amortvi._util.random import random_state
from amortvi.errors import OptionError
from amortvi.families import marginals, moments
from amortvi.model import LatentSite, LatentVector

__all__ = [
    "DRAWS",
    "QUADRATURE_NODES",
    "check_quantiles",
    "mean_and_std",
    "quadrature",
    "site_moments",
    "site_quantiles",
    "site_summary",
    "tail_dominated",
]

DRAWS = 1000
"""The number of draws from which quantities without a closed form are estimated."""
QUADRATURE_NODES = 64
_COARSE_DRAWS = 100
"""The number of draws of `mean_and_std`."""
_LARGEST_TAIL = 1000.0


def mean_and_std(q: Distribution, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each unconstrained coordinate, ``(B, D)``.

    Those that have no closed form are estimated from a few draws, always with the same noise, which leave the caller's random
    state untouched. The estimates suffice to compare posteriors, or to start an optimization.

    Args:
        q: posteriors.
        device: where they are.
    """
    known = moments(q)
    if known is None:
        with random_state(0, device):
            draws = q.sample(torch.Size([_COARSE_DRAWS]))
        return draws.mean(0), draws.std(0)
    return known[0], known[1].sqrt()


def site_moments(latents: LatentVector, q: Distribution) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the mean and the standard deviation of each element of each site, each ``(B, *nested, *event)``."""
    known, marginal, draws = moments(q), marginals(q), _lazy_draws(latents, q)
    result = {}
    for site in latents.sites:
        if known is not None and site.is_unconstrained:
            mean, variance = (latents.split(moment)[site.name] for moment in known)
            result[site.name] = mean, variance.sqrt()
        elif isinstance(marginal, Normal) and site.is_elementwise:
            mean, std = (latents.split(moment)[site.name] for moment in (marginal.mean, marginal.stddev))
            result[site.name] = _quadrature(site, mean, std)
        else:
            sample = draws()[site.name]
            result[site.name] = sample.mean(0), sample.std(0)
    return result


def tail_dominated(latents: LatentVector, q: Distribution) -> Tensor:
    """Return which posteriors have moments that rest on values of negligible probability, ``(B,)``, on the CPU.

    The standard deviation of a site then exceeds a thousand times the half width of its interval from 16 to 84 %. For a
    log-normal variable, this is a log scale above 3. Only sites with elementwise transforms and normal marginals are checked.
    """
    marginal = marginals(q)
    found = torch.zeros(q.batch_shape, dtype=torch.bool)
    for site in latents.sites:
        if not isinstance(marginal, Normal) or not site.is_elementwise or site.is_unconstrained:
            continue
        loc, scale = (latents.split(moment)[site.name] for moment in (marginal.mean, marginal.stddev))
        ends, _ = site.constrain(torch.stack([loc - scale, loc + scale]), observation_dim=1)
        _, std = _quadrature(site, loc, scale)
        dominated = std > 0.5 * _LARGEST_TAIL * (ends[1] - ends[0]).abs()
        # At a bound of the support, both can be rounding errors.
        dominated = dominated & (std > 1e-4 * ends.abs().amax(0))
        found = found | dominated.reshape(len(dominated), -1).any(-1).cpu()
    return found


def site_quantiles(latents: LatentVector, q: Distribution, quantiles: Sequence[float]) -> dict[str, Tensor]:
    """Return quantiles of each element of each site, ``(len(quantiles), B, *nested, *event)``."""
    levels = check_quantiles(quantiles)
    draws, result = _lazy_draws(latents, q), {}
    for site in latents.sites:
        found = _marginal_quantiles(latents, site, q, levels) if site.is_elementwise else None
        if found is None:
            sample = draws()[site.name]
            found = torch.quantile(sample, sample.new_tensor(levels), dim=0)
        result[site.name] = found
    return result


def site_summary(latents: LatentVector, q: Distribution, quantiles: Sequence[float]) -> Tensor:
    """Return mean, standard deviation and quantiles of each element of each site, ``(B, elements, 2 + len(quantiles))``.

    The elements are those of the sites in their own support, one site after the other.
    """
    found, levels = site_moments(latents, q), site_quantiles(latents, q, quantiles)
    columns = [torch.stack([*found[site.name], *levels[site.name]], dim=-1) for site in latents.sites]
    return torch.cat([part.reshape(part.shape[0], -1, part.shape[-1]) for part in columns], dim=1)


def check_quantiles(quantiles: Sequence[float]) -> list[float]:
    """Return probabilities as floats; raise `OptionError` unless all lie strictly between 0 and 1."""
    try:
        levels = [float(probability) for probability in quantiles]
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"quantiles must be a list of probabilities, such as [0.05, 0.95]; got {quantiles!r}."
        ) from error
    if not all(0 < level < 1 for level in levels):
        raise OptionError(f"quantiles must lie strictly between 0 and 1; got {levels}.")
    return levels


def _marginal_quantiles(
    latents: LatentVector, site: LatentSite, q: Distribution, levels: Sequence[float]
) -> Tensor | None:
    """Return the transformed quantiles of the marginals, or ``None`` if the marginals are unknown."""
    marginal = marginals(q)
    if marginal is None:
        return None
    # A decreasing transform (of a site with an upper bound) maps the lower quantile to the upper one.
    upward = bool(torch.as_tensor(site.transform.sign > 0).all())
    probabilities = [level if upward else 1 - level for level in levels]
    try:
        values = [marginal.icdf(marginal.mean.new_tensor(probability)) for probability in probabilities]
    except NotImplementedError:  # the quantile function of the marginals is unknown
        return None
    return site.constrain(latents.split(torch.stack(values))[site.name], observation_dim=1)[0]


def _quadrature(site: LatentSite, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Return the moments of a site with an elementwise transform and normal marginals, each ``(B, *nested, *event)``."""
    values, weights = quadrature(site, mean, std)
    weight = weights.reshape(-1, *(1,) * mean.dim())
    center = (weight * values).sum(0)
    spread = (weight * (values - center).square()).sum(0).sqrt()
    return center.to(mean), spread.to(mean)


def quadrature(site: LatentSite, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of a site at the nodes of Gauss-Hermite quadrature, ``(nodes, B, *shape)``, and their weights.

    Args:
        site: a site with an elementwise transform.
        mean: the means of the normal marginals, ``(B, *shape)``.
        std: their standard deviations, ``(B, *shape)``.
    """
    roots, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
    # In single precision, the outermost weights are zero and the values there may be infinite.
    wide = mean.dtype if mean.device.type == "mps" else torch.float64
    node = torch.as_tensor(roots, dtype=wide, device=mean.device).reshape(-1, *(1,) * mean.dim())
    values, _ = site.constrain(mean + std * node, observation_dim=1)
    return values, torch.as_tensor(weights / weights.sum(), dtype=wide, device=mean.device)


def _lazy_draws(latents: LatentVector, q: Distribution) -> Callable[[], dict[str, Tensor]]:
    """Return a function that draws all sites at its first call, and returns the same draws at each further one."""
    return functools.cache(lambda: latents.constrain(q.sample(torch.Size([DRAWS])))[0])
