r"""The prior of each number of the unconstrained latent vector.

Its density is that of the *marginal* prior, :math:`p_j(u_j) = E[p_j(u_j \mid \text{other latents})]`. Where the prior of a
number does not depend on other latents, one run of the model gives it exactly; else it is averaged over runs whose latents
are drawn from the prior.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal
from pyro.poutine.messenger import Messenger
from torch import Tensor

from amortvi.generative import GenerativeModel
from amortvi.latents import LatentSite
from amortvi.observations import Batch
from amortvi.predictive import observation_rows
from amortvi.prototype import Prototype
from amortvi.scoring import check_plate_size, run_model
from amortvi.sites import layers

__all__ = ["PriorRuns", "priors_depend"]

_TOLERANCE = 1e-4
"""Densities of one value that differ by less are the same up to rounding, in single precision."""


class PriorRuns:
    """Some runs of the model with its latents drawn from the prior.

    Args:
        model: the generative model.
        prototype: its structure.
        batch: ``B`` observations, for the sizes and the covariates.
        runs: ``M``, how many.

    Raises:
        ModelError: the model fails, or its plate has not the size of the batch.
    """

    def __init__(self, model: GenerativeModel, prototype: Prototype, batch: Batch, runs: int) -> None:
        self.latents = prototype.latents
        self.runs = runs
        reader = _LatentReader(prototype, runs * batch.size)
        run_model(model, batch.arguments().repeat(runs), reader)
        self._priors = reader.priors
        values = {name: value.unflatten(0, (runs, batch.size)) for name, value in reader.values.items()}
        self.vector: Tensor = self.latents.unconstrain(values)[0]
        """The draws, unconstrained, ``(M, B, D)``."""

    def log_prob(self, vector: Tensor) -> Tensor:
        """Return the log density of each number under its marginal prior.

        Args:
            vector: ``(K, B, D)``.

        Returns:
            ``(K, B, D)`` in nats; NaN for the numbers of a site whose prior is joint, such as a Dirichlet, for which no
            density of one number is known.
        """
        return torch.logsumexp(self.log_prob_of_each(vector), dim=1) - math.log(self.runs)

    def log_prob_of_each(self, vector: Tensor) -> Tensor:
        """Return the log density of each number given the other latents of each run, ``(K, M, B, D)``."""
        draws, observations, _ = vector.shape
        parts = self.latents.split(vector)
        found = []
        for site in self.latents.sites:
            values, log_det = _elementwise(site, parts[site.name])
            density = _density_of_each(self._priors[site.name])
            if values is None or density is None:
                found.append(vector.new_full((draws, self.runs, observations, site.size), math.nan))
                continue
            copies = values.unsqueeze(1).expand(draws, self.runs, *values.shape[1:]).flatten(1, 2)
            # A draw at a time: the distribution has the rows of one run of the model.
            terms = [
                site.layout.to_observations(density.log_prob(site.layout.to_model(value))).expand_as(value)
                for value in copies
            ]
            log_prob = torch.stack(terms).unflatten(1, (self.runs, observations)) + log_det.unsqueeze(1)
            found.append(log_prob.reshape(draws, self.runs, observations, site.size))
        return torch.cat(found, dim=-1)


def priors_depend(model: GenerativeModel, prototype: Prototype, batch: Batch) -> bool:
    """Whether the prior of some latent depends on other latents, seen from two runs with different ones."""
    runs = PriorRuns(model, prototype, batch, 2)
    first, second = runs.log_prob_of_each(runs.vector[:1])[0]
    return not torch.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def _elementwise(site: LatentSite, unconstrained: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the values of a site whose transform works number by number, and the log of each derivative."""
    if not site.is_elementwise:
        return None, unconstrained
    values = site.transform(unconstrained)
    return values, site.transform.log_abs_det_jacobian(unconstrained, values)


def _density_of_each(prior: Any) -> Any | None:
    """Return the distribution of each single number of a site's prior, or ``None`` where it is not known."""
    base = layers(prior)[-1]
    if isinstance(base, MultivariateNormal | LowRankMultivariateNormal):
        return Normal(base.mean, base.variance.sqrt())
    return base if base.event_dim == 0 else None


class _LatentReader(Messenger):
    """Notes the distribution of each latent site, and the value drawn from it in observation layout."""

    def __init__(self, prototype: Prototype, rows: int) -> None:
        super().__init__()
        self.plate = prototype.plate
        self.names = {site.name for site in prototype.latents.sites}
        self.rows = rows
        self.priors: dict[str, Any] = {}
        self.values: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        check_plate_size(msg, self.plate, self.rows)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            value = observation_rows(msg, self.plate, self.rows)
            assert value is not None
            self.priors[msg["name"]], self.values[msg["name"]] = msg["fn"], value
