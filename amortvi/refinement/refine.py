"""Refinement: the posterior of each observation, optimized by itself."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import pyro
import torch
from torch import Tensor

from amortvi._checks import positive_float, positive_int
from amortvi._chunks import Gathered
from amortvi._modes import evaluation_mode, random_state
from amortvi.data_check import check_data
from amortvi.errors import AmortviWarning, OptionError
from amortvi.families import Family, FamilyChoice, family_label, make_family
from amortvi.generative import GenerativeModel
from amortvi.observations import Batch, TensorObservations
from amortvi.observations.pieces import numbers_per_row
from amortvi.posterior import Posterior
from amortvi.posterior_sources import Stored
from amortvi.refinement.adam import climb
from amortvi.refinement.bound import Bound, Noise
from amortvi.refinement.lbfgs import NUMBERS_KEPT, Minimum, minimize

__all__ = ["RefineMethod", "Refinement", "refine"]

RefineMethod: TypeAlias = Literal["lbfgs", "adam"]

_CHECK_DRAWS = 64
_STEP_DRAWS = 8
_MOMENT_DRAWS = 256


@dataclass(frozen=True)
class Refinement:
    """How posteriors are refined.

    Args:
        method: ``"lbfgs"``, on noise that is held fixed, or ``"adam"``, on fresh noise.
        draws: ``K``, the draws of a bound, or ``None`` for four to a dimension, and 32 at least.
        lr: Adam's learning rate.
        tolerance: in nats: an observation is done when no more than this is to be gained.
        max_steps: after which an observation counts as not converged.

    Raises:
        OptionError: an option is out of range.
    """

    method: RefineMethod = "lbfgs"
    draws: int | None = None
    lr: float = 0.05
    tolerance: float = 1e-4
    max_steps: int = 2000

    def __post_init__(self) -> None:
        if self.method not in ("lbfgs", "adam"):
            raise OptionError(f"method must be 'lbfgs' or 'adam'; got {self.method!r}.")
        if self.draws is not None and positive_int("draws", self.draws) < 2:
            raise OptionError("draws must be at least 2, since they come in pairs; got 1.")
        positive_float("lr", self.lr)
        positive_float("tolerance", self.tolerance)
        positive_int("max_steps", self.max_steps)

    def draws_for(self, dim: int) -> int:
        """Return ``K`` for ``dim`` latents."""
        return max(32, 4 * dim) if self.draws is None else self.draws

    def search(self, bound: Bound, start: Tensor, generator: torch.Generator) -> Minimum:
        """Maximise the bound of each observation from ``start``, ``(B, P)``."""
        dim = bound.family.dim
        fixed = Noise.drawn(self.draws_for(dim), dim, generator)
        if self.method == "adam":
            return climb(
                lambda rows, points: bound.select(rows).path_gradient(points, Noise.drawn(_STEP_DRAWS, dim, generator)),
                lambda rows, points: bound.select(rows)(points, fixed),
                start,
                lr=self.lr,
                tolerance=self.tolerance,
                max_steps=self.max_steps,
            )

        def negative(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = bound.select(rows).with_gradient(points, fixed)
            return -value, -gradient

        return minimize(negative, start, tolerance=self.tolerance, max_steps=self.max_steps)


def refine(
    model: GenerativeModel, posterior: Posterior, family: FamilyChoice | None, options: Refinement, seed: int
) -> Posterior:
    """Optimize the parameters of each observation's posterior by themselves.

    All observations of a chunk are searched at once, each with steps of its own and until it has converged. What comes out is
    looked at on noise that the search has not seen; an observation that it does not make better keeps its start.

    Args:
        model: the generative model, which stays as it is.
        posterior: where to start.
        family: the family to search in; ``None`` is that of ``posterior``.
        options: how.
        seed: of the noise.

    Returns:
        The posteriors, with their observations held in memory.

    Raises:
        FamilyError: the family is unknown, or cannot start from the posterior of another.
        DataError: a value is outside the support of the model's likelihood.
    """
    # Data that are drawn anew at each reading, such as images binarised on the fly, are read once: parameters are of these.
    posterior = posterior.in_memory()
    prototype, dim = posterior.prototype, posterior.latents.dim
    own = posterior.family if family is None else _made(family, posterior, seed)
    label = posterior.label if family is None else family_label(family)
    draws = options.draws_for(dim)
    gathered = Gathered(posterior.size)

    def started(batch: Batch) -> tuple[Bound, Tensor]:
        start = _start(posterior, own, batch, from_encoder=family is None)
        return Bound(model, prototype, own, batch, start), start

    def probe(batch: Batch) -> None:
        bound, start = started(batch)
        bound.with_gradient(start, Noise.drawn(draws, dim, torch.Generator().manual_seed(seed)))

    with torch.no_grad(), evaluation_mode(model), pyro.validation_enabled(False), model.own_parameters():
        width = max(numbers_per_row(probe, posterior.first()), NUMBERS_KEPT * own.num_parameters)
        for batch, _ in posterior.chunks(width):
            check_data(model, batch)
            generator = torch.Generator().manual_seed(seed)
            bound, start = started(batch)
            found = options.search(bound, start, generator)
            fresh = Noise.drawn(max(_CHECK_DRAWS, draws), dim, generator)
            better = bound(found.point, fresh) > bound(start, fresh)
            parameters = torch.where(better.unsqueeze(-1), found.point, start)
            gathered.add({"parameters": parameters, "converged": found.converged})
    result = gathered.result()
    _warn_of_unfinished(result["converged"], options)
    observations = posterior.observations
    batch = replace(observations.as_batch(), parameters=result["parameters"])
    held = TensorObservations(batch, observations.name, observations.index)
    return Posterior(prototype, Stored(own, label), held, posterior.device, model)


def _made(choice: FamilyChoice, posterior: Posterior, seed: int) -> Family:
    """Make a family of which only the meaning of its parameters is wanted, as if for the encoder that there is."""
    with random_state(seed):
        family = make_family(choice, posterior.latents.dim, posterior.family.context_features)
    return family.to(posterior.device).requires_grad_(False)


def _start(posterior: Posterior, family: Family, batch: Batch, *, from_encoder: bool) -> Tensor:
    """Return where the search begins: at the given parameters, or near the Gaussian of the same location and scale."""
    if from_encoder:
        return posterior.source.parameters(batch)
    q = posterior.of(batch)
    if posterior.family.has_closed_form_moments:
        mean, scale = q.mean, q.variance.sqrt()
    else:
        with random_state(0, posterior.device):
            draws = q.sample(torch.Size([_MOMENT_DRAWS]))
        mean, scale = draws.mean(0), draws.std(0)
    with random_state(0, posterior.device):
        return family.parameters_near(mean, scale)


def _warn_of_unfinished(converged: Tensor, options: Refinement) -> None:
    left = int((~converged).sum())
    if left:
        warnings.warn(
            f"refine: {left} of {len(converged)} observations had not converged to {options.tolerance} nats after at most "
            f"{options.max_steps} steps. They keep the best posterior found; more max_steps or draws take them further.",
            AmortviWarning,
            stacklevel=4,
        )
