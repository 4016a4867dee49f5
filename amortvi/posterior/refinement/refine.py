"""Refinement: the posterior of each observation, optimized individually."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.checks import optional, positive_float, positive_int
from amortvi._util.random import random_state
from amortvi.data import Batch, Chunk, TensorObservations
from amortvi.errors import AmortviWarning, FamilyError, OptionError
from amortvi.families import (
    FamilyChoice,
    Gaussian,
    ParametricFamily,
    TransformedNoise,
    family_label,
    make_family,
    require_parametric,
)
from amortvi.families.closed_forms import implausible
from amortvi.model import PriorRuns
from amortvi.posterior.moments import mean_and_std
from amortvi.posterior.network import InferenceNetwork
from amortvi.posterior.posterior import Posterior
from amortvi.posterior.refinement.adam import climb
from amortvi.posterior.refinement.bound import Noise, ObservationELBO
from amortvi.posterior.refinement.lbfgs import STATE_PER_PARAMETER, OptimizeResult, minimize

__all__ = ["RefineMethod", "RefineOptions", "refine"]

RefineMethod: TypeAlias = Literal["lbfgs", "adam"]

_VALIDATION_DRAWS = 64
_STEP_DRAWS = 8
_PRIOR_DRAWS = 100
"""The draws from which the moments of the prior are estimated, where the optimization may start."""
_FEWEST_DRAWS, _DRAWS_UNLESS_GAUSSIAN = 32, 256
"""A Gaussian's draws have its exact moments; what other posteriors exploit in fixed noise falls with the number of draws."""


@dataclass(frozen=True)
class RefineOptions:
    """The options of `amortvi.AmortizedVI.refine`; raises `OptionError` if one is out of range."""

    method: RefineMethod = "lbfgs"
    draws: int | None = None
    lr: float = 0.05
    tolerance: float = 1e-4
    max_steps: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in ("lbfgs", "adam"):
            raise OptionError(f"method must be 'lbfgs' or 'adam'; got {self.method!r}.")
        if optional(positive_int, "draws", self.draws) == 1:
            raise OptionError("draws must be at least 2, because they come in antithetic pairs; got 1.")
        positive_float("lr", self.lr)
        positive_float("tolerance", self.tolerance)
        positive_int("max_steps", self.max_steps)


def refine(posterior: Posterior, family: FamilyChoice | None, options: RefineOptions) -> Posterior:
    """Optimize the parameters of each observation's posterior.

    The observations of a chunk are optimized at once, each with its own step sizes and until it has converged. The result is
    validated on noise that the search has not used; an observation that did not improve keeps its initial posterior.

    Args:
        posterior: the initial posterior. The generative model does not change.
        family: the family to search in; ``None`` for that of ``posterior``.
        options: how to search.

    Returns:
        The posteriors, with their observations in memory.
    """
    # Data that change whenever they are read, such as images binarized on the fly, are read once and kept with the result.
    posterior = posterior.in_memory()
    search = _Search(posterior, family, options)
    found = posterior.map_chunks(search.refine_chunk, probe=search.probe, check_data=True)
    _warn_of_unconverged(found["converged"], options)
    source = posterior.observations
    observations = TensorObservations(
        replace(source.as_batch(), context=found["parameters"]), source.name, source.index
    )
    label = posterior.label if family is None else family_label(family)
    network = InferenceNetwork(posterior.network.encoder, search.family, label, posterior.network.global_posterior)
    return Posterior(posterior.model, network, observations, posterior.device)


class _Search:
    """A refinement, chunk by chunk; the arguments are those of `refine`."""

    def __init__(self, posterior: Posterior, choice: FamilyChoice | None, options: RefineOptions) -> None:
        self.posterior = posterior
        self.options = options
        self.dim = posterior.latents.dim
        self._source: ParametricFamily | None = None
        if choice is None:
            self._source = require_parametric(posterior.family, "refine")
            self.family = self._source.without_head()
        else:
            with random_state(options.seed):
                made = make_family(choice, self.dim, posterior.family.context_features, posterior.latents.shapes)
            self.family = require_parametric(made, "refine").without_head().to(posterior.device)
            _check_no_networks(self.family)
        network = next(self.family.parameters(), torch.zeros((), device=posterior.device))
        like = self.family.distribution(network.new_zeros(1, self.family.num_parameters))
        self.noise_dim = like.noise_dim if isinstance(like, TransformedNoise) else self.dim
        fewest = _FEWEST_DRAWS if isinstance(like, Gaussian) else _DRAWS_UNLESS_GAUSSIAN
        self.draws = max(fewest, 4 * self.noise_dim) if options.draws is None else options.draws

    def refine_chunk(self, chunk: Chunk, q: Distribution) -> Mapping[str, Tensor]:
        """Return the refined ``parameters``, ``(B, P)``, and whether each observation has ``converged``, ``(B,)``."""
        generator = torch.Generator().manual_seed(self.options.seed)
        starts = self._starts(chunk.batch, q)
        elbo = self._elbo(chunk.batch, starts[0])
        results = [self._optimize(elbo, start, generator) for start in starts]
        fresh = Noise.sample(max(_VALIDATION_DRAWS, self.draws), self.noise_dim, generator)
        points = torch.stack([starts[0], *(found.point for found in results)])
        # NaN counts as no improvement.
        reached = torch.stack([elbo(point, fresh) for point in points]).nan_to_num(-torch.inf)
        best = reached.argmax(0)
        converged = torch.stack([results[0].converged, *(found.converged for found in results)])
        return {
            "parameters": points.take_along_dim(best[None, :, None], dim=0).squeeze(0),
            "converged": converged.take_along_dim(best.unsqueeze(0), dim=0).squeeze(0),
        }

    def probe(self, chunk: Chunk, q: Distribution) -> Mapping[str, Tensor]:
        """Compute one gradient and allocate the optimizer's state, to measure the memory that a chunk needs."""
        start = self._starts(chunk.batch, q)[0]
        noise = Noise.sample(self.draws, self.noise_dim, torch.Generator().manual_seed(0))
        gradient = self._elbo(chunk.batch, start).with_gradient(start, noise)[1]
        return {"state": gradient.repeat(1, STATE_PER_PARAMETER)}

    def _elbo(self, batch: Batch, start: Tensor) -> ObservationELBO:
        rows = torch.arange(batch.size, device=start.device)
        return ObservationELBO(self.posterior.model, self.family, batch, start, rows)

    def _starts(self, batch: Batch, q: Distribution) -> list[Tensor]:
        """Return the parameters of ``q``, or of posteriors of the new family with about the same location and scale."""
        if self._source is not None:
            parameters: Tensor = self._source.to_parameters(self.posterior.network.context(batch))
            flagged = implausible(q)
            if flagged is None or not bool(flagged.any()):
                return [parameters]
            # At a bound of the family, the gradient vanishes; the location may still be of use.
            loc = parameters[:, : self.dim]
            ordinary = self._source.parameters_near(loc, torch.ones_like(loc))
            return [torch.where(flagged.unsqueeze(-1), ordinary, parameters)]
        with random_state(0, self.posterior.device):
            prior = PriorRuns(self.posterior.model, batch, _PRIOR_DRAWS).vector
            near = mean_and_std(q, self.posterior.device)
            return self.family.starting_points(near, (prior.mean(0), prior.std(0)))

    def _optimize(self, elbo: ObservationELBO, start: Tensor, generator: torch.Generator) -> OptimizeResult:
        """Maximize the ELBO of each observation from ``start``, ``(B, P)``."""
        options, fixed = self.options, Noise.sample(self.draws, self.noise_dim, generator)
        tolerance, max_steps = options.tolerance, options.max_steps

        def bound(rows: Tensor, points: Tensor) -> Tensor:
            return elbo.select(rows)(points, fixed)

        def gradient(rows: Tensor, points: Tensor) -> Tensor:
            return elbo.select(rows).path_gradient(points, Noise.sample(_STEP_DRAWS, self.noise_dim, generator))

        def loss(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
            value, slope = elbo.select(rows).with_gradient(points, fixed)
            return -value, -slope

        if options.method == "adam":
            return climb(gradient, bound, start, lr=options.lr, tolerance=tolerance, max_steps=max_steps)
        return minimize(loss, start, tolerance=tolerance, max_steps=max_steps)


def _check_no_networks(family: ParametricFamily) -> None:
    if any(True for _ in family.parameters()):
        raise FamilyError(
            f"refine cannot start with family={family!r}: it has networks shared by all observations, which only a fit trains. "
            f"Fit that family, for example with fit_families, and refine its own posteriors."
        )


def _warn_of_unconverged(converged: Tensor, options: RefineOptions) -> None:
    remaining = int((~converged).sum())
    if remaining:
        warnings.warn(
            f"refine: {remaining} of {len(converged)} observations did not converge to {options.tolerance} nats within "
            f"{options.max_steps} steps. They keep the best posterior found; increase max_steps or draws.",
            AmortviWarning,
            stacklevel=4,
        )
