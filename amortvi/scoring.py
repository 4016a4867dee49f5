"""What the model says of given latents: the log-probability of each of its sites, one number an observation.

The log-probabilities are *unscaled*: the factor that a subsampled plate puts on a batch belongs to sums over the data, not
to an observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from amortvi.errors import AmortviError, ModelError, quoted
from amortvi.generative import GenerativeModel
from amortvi.latents import LatentVector, sum_from
from amortvi.observations import Batch
from amortvi.prototype import Prototype
from amortvi.sites import is_subsample, own_scale

__all__ = ["LogJoint", "Scores", "check_plate_size", "log_jacobian", "run_model", "score", "site_values", "sum_of"]


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of one run of the model.

    Args:
        local: for each site inside the data plate, ``(K, B)``.
        global_log_prob: the sum over the sites outside.
    """

    local: Mapping[str, Tensor]
    global_log_prob: Tensor


def sum_of(terms: Mapping[str, Tensor]) -> Tensor:
    """Add the terms of all sites."""
    first, *rest = terms.values()
    for term in rest:
        first = first + term
    return first


def score(
    model: GenerativeModel,
    prototype: Prototype,
    batch: Batch,
    values: Mapping[str, Tensor],
    *,
    skip_priors: bool = False,
) -> Scores:
    """Run the model with its latents at ``values`` and return what it says of each observation.

    The ``K`` draws are laid out as ``K`` copies of the batch, so any model that works for a batch works for them, with
    convolutions and reshapes in it too.

    Args:
        model: the generative model.
        prototype: its structure.
        batch: ``B`` observations.
        values: the latent sites in observation layout, ``(K, B, *shape)``.
        skip_priors: leave the latent sites out of the scores.

    Raises:
        ModelError: the model fails, or its plate has not the size of the batch.
    """
    draws = next(iter(values.values())).shape[0]
    scorer = SiteScorer(prototype, site_values(prototype.latents, values), draws, batch.size, skip_priors)
    run_model(model, batch.arguments().repeat(draws), scorer)
    missing = {site.name for site in prototype.latents.sites} - scorer.met
    if missing:
        raise ModelError(f"the model did not reach its latent sites {sorted(missing)} this time: {_FIXED_SITES}")
    if len(scorer.local) == (0 if skip_priors else len(scorer.met)):
        raise ModelError(f"the model observed nothing in plate {prototype.plate!r} this time: {_FIXED_SITES}")
    return Scores(scorer.local, scorer.global_log_prob)


class LogJoint:
    """The log joint density of the data and of *unconstrained* latents, of each observation of a batch.

    Up to a constant it is the log density of the exact posterior over the vector on which the families work:
    ``log p(x, T(u)) + log |det J_T(u)|``. What stands outside the data plate is left out.

    Args:
        model: the generative model.
        prototype: its structure.
        batch: ``B`` observations, where the model is.
    """

    def __init__(self, model: GenerativeModel, prototype: Prototype, batch: Batch) -> None:
        self.model = model
        self.prototype = prototype
        self.batch = batch

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the log joint density in nats, ``(K, B)``, at ``vector``, ``(K, B, D)``.

        Raises:
            ModelError: the model fails, or its plate has not the size of the batch.
        """
        values, log_dets = self.prototype.latents.constrain(vector)
        log_joint = sum_of(score(self.model, self.prototype, self.batch, values).local)
        return log_joint + log_jacobian(log_dets, log_joint)

    def with_gradient(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log joint density, ``(K, B)``, and its gradient, ``(K, B, D)``, both without a graph."""
        with torch.enable_grad():
            point = vector.detach().requires_grad_()
            log_joint = self(point)
            (gradient,) = torch.autograd.grad(log_joint.sum(), point)
        return log_joint.detach(), gradient


def log_jacobian(log_dets: Mapping[str, Tensor], like: Tensor) -> Tensor | float:
    """Add up ``log |det J|`` of the changes of variables of all sites, shaped as ``like``, ``(*S, B)``; 0 without any."""
    return sum((sum_from(log_det, like.dim()) for log_det in log_dets.values()), start=0.0)


def site_values(latents: LatentVector, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Lay values ``(K, B, *shape)`` out as the model has them for ``K * B`` observations."""
    return {site.name: site.layout.to_model(values[site.name].flatten(0, 1)) for site in latents.sites}


def run_model(model: GenerativeModel, batch: Batch, handler: Messenger) -> None:
    """Run the model under ``handler``; what the user's program raises comes back as `ModelError`."""
    try:
        with handler:
            model(*batch.args, **batch.kwargs)
    except AmortviError:
        raise
    except Exception as error:
        hint = batch.hint() if isinstance(error, TypeError) else ""
        raise ModelError(f"the model failed on {batch.describe()}: {quoted(error)}{hint}") from error


_FIXED_SITES = (
    "whether a site is there must not depend on the data; give it always, and leave out what does not count with "
    "pyro.poutine.mask around the observed site."
)


class SiteScorer(Messenger):
    """Sets the latent sites and takes the log-probability of every site, reduced to one number an observation."""

    def __init__(
        self,
        prototype: Prototype,
        values: Mapping[str, Tensor],
        draws: int,
        observations: int,
        skip_priors: bool,
    ) -> None:
        super().__init__()
        self.prototype = prototype
        self.values = values
        self.draws = draws
        self.observations = observations
        self.skip_priors = skip_priors
        self.met: set[str] = set()
        self.local: dict[str, Tensor] = {}
        self.global_log_prob = torch.zeros(())

    def _pyro_sample(self, msg: Any) -> None:
        # Before anything is computed, since a plate of another size shows as one of many errors, or not at all.
        check_plate_size(msg, self.prototype.plate, self.draws * self.observations)
        value = self.values.get(msg["name"])
        if value is not None:
            msg["value"], msg["done"] = value, True

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            return
        latent = msg["name"] in self.values
        if latent:
            self.met.add(msg["name"])
        elif not msg["is_observed"]:
            raise ModelError(
                f"latent site {msg['name']!r} was not in the model when the guide was made: {_FIXED_SITES}"
            )
        if latent and self.skip_priors:
            return
        log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        scaled = scale_and_mask(log_prob, own_scale(msg, self.prototype.plate), msg["mask"])
        frame = next((f for f in msg["cond_indep_stack"] if f.name == self.prototype.plate), None)
        if frame is None:
            self.global_log_prob = self.global_log_prob + scaled.sum()
            return
        rows = self.draws * self.observations
        self.local[msg["name"]] = per_row(scaled, frame.dim, rows).reshape(self.draws, self.observations)


def check_plate_size(msg: Any, plate: str, rows: int) -> None:
    """Raise `ModelError` if a site stands in the data plate and that has not the size of what the model was given."""
    frame = next((f for f in msg["cond_indep_stack"] if f.name == plate), None)
    if frame is not None and frame.size != rows:
        raise ModelError(
            f"plate {plate!r} has size {frame.size}, but the model must take batches of any size, such as "
            f"{rows} observations here: write pyro.plate({plate!r}, x.shape[0]) or "
            f"pyro.plate({plate!r}, N, subsample=x)."
        )


def per_row(log_prob: Tensor, dim: int, rows: int) -> Tensor:
    """Sum all but dimension ``dim`` (negative) of a log-probability: ``(rows,)``."""
    if log_prob.dim() < -dim:
        return log_prob.sum().expand(rows)
    if log_prob.dim() > 1:
        log_prob = log_prob.movedim(dim, 0).flatten(1).sum(-1)
    return log_prob.expand(rows)
