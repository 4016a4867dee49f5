r"""The priors of the latents: of each coordinate of the unconstrained latent vector, and draws of the global latents.

The prior of a coordinate is the *marginal* prior, with density
:math:`p_j(u_j) = E[p_j(u_j \mid \text{other latents})]`. If it does not depend on other latents, one run of the model gives the
exact density; otherwise, the density is averaged over runs with latents drawn from the prior.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import MixtureOfDiagNormals, Normal
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MixtureSameFamily, MultivariateNormal

from amortvi.data import Batch
from amortvi.model.latents import LatentSite
from amortvi.model.model import Model
from amortvi.model.sites import distribution_layers

__all__ = ["PriorRuns", "priors_depend_on_latents", "sample_globals"]

_TOLERANCE = 1e-4
"""Log densities that differ by less are considered equal up to rounding, in single precision."""


class PriorRuns:
    """Runs of the model with latents drawn from the prior.

    Args:
        model: the generative model, in `Model.inference_mode`.
        batch: ``B`` observations, for sizes and covariates.
        runs: ``M``, the number of runs.

    Attributes:
        vector: the draws, unconstrained, ``(M, B, D)``.
    """

    def __init__(self, model: Model, batch: Batch, runs: int) -> None:
        copies = batch.arguments().repeat(runs)
        plate, names = model.structure.plate, model.latents.names
        sites = {site.name: site for site in model.run(copies) if site.name in names}
        rows = {name: site.by_observation(site.value, plate, copies.size) for name, site in sites.items()}
        values = {name: value.unflatten(0, (runs, batch.size)) for name, value in rows.items() if value is not None}
        self.vector: Tensor = model.latents.unconstrain(values)[0]
        self._latents = model.latents
        self._sites = sites
        self._runs = runs

    def log_prob(self, vector: Tensor) -> Tensor:
        """Return the log density of each coordinate under its marginal prior.

        Args:
            vector: ``(K, B, D)``.

        Returns:
            ``(K, B, D)`` in nats; NaN where the marginal density is unknown, as for a Dirichlet prior.
        """
        return torch.logsumexp(self.conditional_log_prob(vector), dim=1) - math.log(self._runs)

    def conditional_log_prob(self, vector: Tensor) -> Tensor:
        """Return the log density of each coordinate given the other latents in each run, ``(K, M, B, D)``."""
        draws, observations, _ = vector.shape
        parts = self._latents.split(vector)
        terms = []
        for site in self._latents.sites:
            density = _elementwise_density(self._sites[site.name].base_distribution)
            if density is None or not site.is_elementwise:
                log_prob = vector.new_full((draws, self._runs, observations, site.size), math.nan)
            else:
                log_prob = self._site_log_prob(site, density, parts[site.name])
            terms.append(log_prob.reshape(draws, self._runs, observations, site.size))
        return torch.cat(terms, dim=-1)

    def _site_log_prob(self, site: LatentSite, density: Any, unconstrained: Tensor) -> Tensor:
        """Return ``(K, M, B, *shape)`` for an elementwise ``site``, ``(K, B, *shape)``."""
        values = site.transform(unconstrained)
        log_derivative = site.transform.log_abs_det_jacobian(unconstrained, values)
        draws, observations = values.shape[:2]
        copies = values.unsqueeze(1).expand(draws, self._runs, *values.shape[1:]).flatten(1, 2)
        # One draw at a time, because the distribution has the batch shape of one run of the model.
        terms = [
            site.layout.to_observations(density.log_prob(site.layout.to_model(value))).expand_as(value)
            for value in copies
        ]
        return torch.stack(terms).unflatten(1, (self._runs, observations)) + log_derivative.unsqueeze(1)


def priors_depend_on_latents(model: Model, batch: Batch) -> bool:
    """Whether the prior of a latent depends on other latents, according to two runs with different latents."""
    if model.structure.discrete_priors:
        return True
    runs = PriorRuns(model, batch, 2)
    first, second = runs.conditional_log_prob(runs.vector[:1])[0]
    return not torch.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def sample_globals(model: Model, batch: Batch, draws: int) -> dict[str, Tensor]:
    """Draw the global latents from their prior, inside `Model.inference_mode`.

    Args:
        model: the generative model.
        batch: observations on which the model can run.
        draws: the number of draws, each of which is one run of the model.

    Returns:
        ``(draws, *shape)`` for each global latent; empty if there are none.
    """
    names = {site.name for site in model.structure.globals}
    if not names:
        return {}
    runs = [{s.name: s.value for s in model.run(batch, draw_globals=True) if s.name in names} for _ in range(draws)]
    return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}


class _MixtureOfMarginals:
    """The marginal distribution of each element under a mixture of vectors.

    Args:
        logits: the log weights of the ``K`` components, ``(*B, K)``.
        marginals: the marginal distribution of each element under each component, batch shape ``(*B, K, D)``.
    """

    def __init__(self, logits: Tensor, marginals: Any) -> None:
        self._log_weights = logits.log_softmax(-1).unsqueeze(-1)
        self._marginals = marginals

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of each element of ``value``, ``(*B, D)``."""
        return torch.logsumexp(self._log_weights + self._marginals.log_prob(value.unsqueeze(-2)), dim=-2)


def _elementwise_density(base: Any) -> Any | None:
    """Return the marginal distribution of each element of a site's prior, or ``None`` if it is unknown."""
    if isinstance(base, MultivariateNormal | LowRankMultivariateNormal):
        return Normal(base.mean, base.variance.sqrt())
    if isinstance(base, MixtureOfDiagNormals):
        return _MixtureOfMarginals(base.component_logits, Normal(base.locs, base.coord_scale))
    if isinstance(base, MixtureSameFamily) and len(base.event_shape) == 1:
        component = distribution_layers(base.component_distribution)[-1]
        marginals = _elementwise_density(component)
        return None if marginals is None else _MixtureOfMarginals(base.mixture_distribution.logits, marginals)
    return base if not base.event_shape else None
