"""Log-probabilities of the sites in one run of the model, and their sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from amortvi.errors import ModelError
from amortvi.model.discrete import FactorGroup
from amortvi.model.latents import sum_from
from amortvi.model.requirements import FIXED_SITES
from amortvi.model.sites import Site
from amortvi.model.structure import ModelStructure

__all__ = ["SiteLogProbs", "SummedTerms", "log_jacobian", "sum_per_observation", "sum_sites"]


@dataclass(frozen=True)
class SiteLogProbs:
    """Log-probabilities of the sites in one run of the model.

    They are *unscaled*: the factor of a subsampled plate belongs to sums over the data, not to an observation.

    Sites that depend on a discrete latent have no term of their own: the discrete latents are summed out, and the sites that
    depend on the same ones share at most two terms. One is the prior density of the continuous latents among them, such as
    ``"y, z"``; the other is the density of the observed sites among them given the continuous latents, such as ``"y, x"``.

    Args:
        local: for each site inside the data plate, or each term of several sites, ``(K, B)``.
        global_log_prob: the sum over all sites outside the data plate, a scalar.
        sites: the sites of the run, on ``K * B`` observations; discrete latents have all their values in it.
        prior_names: the names of the terms in ``local`` that belong to latents.
        observed_names: the names of the observed sites for each term of several sites, joined, such as ``"x"`` for ``"y, x"``.
    """

    local: Mapping[str, Tensor]
    global_log_prob: Tensor
    sites: Sequence[Site]
    prior_names: frozenset[str]
    observed_names: Mapping[str, str]

    @classmethod
    def read(
        cls,
        sites: Sequence[Site],
        scored: Mapping[str, Tensor],
        groups: Sequence[FactorGroup],
        structure: ModelStructure,
        draws: int,
        observations: int,
        *,
        skip_priors: bool = False,
    ) -> SiteLogProbs:
        """Return the terms of a run on copies of a batch.

        Args:
            sites: the sites of the run.
            scored: their log-probabilities, in model layout, as far as they are known.
            groups: those among them that depend on discrete latents.
            structure: the structure of the model.
            draws: ``K``, the number of copies.
            observations: ``B``, the number of observations in the batch.
            skip_priors: whether to omit the latent sites in the data plate.

        Raises:
            ModelError: nothing is observed in the data plate.
        """
        summed = SummedTerms.of(groups)
        terms, total = {**({} if skip_priors else summed.priors), **summed.likelihoods}, torch.zeros(())
        names, plate = structure.latents.names, structure.plate
        for site in sites:
            if site.name in summed.members or (skip_priors and site.name in names):
                continue
            log_prob = scored[site.name] if site.name in scored else site.log_prob(plate)
            frame = site.frame(plate)
            if frame is None:
                total = total + log_prob.sum()
            else:
                terms[site.name] = sum_per_observation(log_prob, frame.dim, draws * observations)
        local = {name: value.reshape(draws, observations) for name, value in terms.items()}
        found = cls(local, total, sites, frozenset({*names, *summed.priors}), summed.observed_names)
        if not found.likelihoods:
            raise ModelError(f"the model observed nothing in plate {plate!r} this time: {FIXED_SITES}")
        return found

    @property
    def priors(self) -> dict[str, Tensor]:
        """The terms of latents, ``(K, B)`` each."""
        return {name: value for name, value in self.local.items() if name in self.prior_names}

    @property
    def likelihoods(self) -> dict[str, Tensor]:
        """The other terms, ``(K, B)`` each."""
        return {name: value for name, value in self.local.items() if name not in self.prior_names}


@dataclass(frozen=True)
class SummedTerms:
    """The terms of sites that depend on discrete latents; see `SiteLogProbs`.

    Args:
        priors: by name, ``(B,)``.
        likelihoods: by name, ``(B,)``.
        observed_names: the names of the observed sites for each of ``likelihoods``, joined.
        members: the sites of which these are the terms.
    """

    priors: Mapping[str, Tensor]
    likelihoods: Mapping[str, Tensor]
    observed_names: Mapping[str, str]
    members: frozenset[str]

    @classmethod
    def of(cls, groups: Sequence[FactorGroup]) -> SummedTerms:
        """Sum the discrete latents of each group out."""
        priors, likelihoods, observed_names = dict[str, Tensor](), dict[str, Tensor](), dict[str, str]()
        for group in groups:
            prior = ", ".join([*group.discrete, *group.continuous])
            likelihood = ", ".join([*group.discrete, *group.observed])
            joint = group.log_joint()
            if group.observed:
                observed_names[likelihood] = ", ".join(group.observed)
            if group.observed and group.continuous:
                priors[prior] = group.log_prior()
                likelihoods[likelihood] = joint - priors[prior]
            else:
                (likelihoods if group.observed else priors).update({likelihood if group.observed else prior: joint})
        members = (name for group in groups for name in (*group.discrete, *group.continuous, *group.observed))
        return cls(priors, likelihoods, observed_names, frozenset(members))


def sum_sites(terms: Mapping[str, Tensor]) -> Tensor:
    """Add the terms of all sites."""
    return reduce(torch.add, terms.values())


def sum_per_observation(log_prob: Tensor, dim: int, observations: int) -> Tensor:
    """Sum a log-probability in model layout over all dimensions except ``dim``, the data plate: ``(observations,)``."""
    if log_prob.dim() < -dim:
        return log_prob.sum().expand(observations)
    if log_prob.dim() > 1:
        log_prob = log_prob.movedim(dim, 0).flatten(1).sum(-1)
    return log_prob.expand(observations)


def log_jacobian(log_dets: Mapping[str, Tensor], like: Tensor) -> Tensor | float:
    """Add ``log |det J|`` of the transforms of all sites, shaped like ``like``, ``(*S, B)``; 0 if there are none."""
    return sum((sum_from(log_det, like.dim()) for log_det in log_dets.values()), start=0.0)
