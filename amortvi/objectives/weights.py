r"""Per-observation log weights: the one thing that every objective is made of.

With :math:`z_{ik} \sim q(z \mid x_i)`,

.. math::

    \log w_{ki} = \log p(x_i, z_{ik}) - \log q(z_{ik} \mid x_i).

They are of one observation each, *without* the scale that a subsampled plate puts on the log-probabilities of a batch.
So a bound of each observation is a reduction over ``k`` alone, right for any batch size. Pyro's ``RenyiELBO`` puts scaled
log-probabilities inside the logarithm of a sum, where the scale does not come out again.
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
from amortvi.guide import AmortizedGuide
from amortvi.latents import LatentVector
from amortvi.observations import Batch
from amortvi.prototype import Prototype
from amortvi.sites import is_subsample, own_scale

__all__ = ["LogWeights", "log_weights"]


@dataclass(frozen=True)
class LogWeights:
    """What model and guide say of ``K`` draws of the latents of ``B`` observations.

    Args:
        log_likelihoods: for each observed site its log-probability, ``(K, B)``.
        log_priors: for each latent site its log-probability, ``(K, B)``.
        log_posterior: ``log q(z | x)`` in the support of the sites, ``(K, B)``.
        closed_form_kl: ``KL(q || N(0, I))``, ``(B,)``; then ``log_priors`` and ``log_posterior`` were not computed.
        global_log_prob: the log-probability of what stands outside the data plate, a number; it belongs to the data set
            as a whole, not to an observation.
    """

    log_likelihoods: Mapping[str, Tensor]
    log_priors: Mapping[str, Tensor]
    log_posterior: Tensor | None
    closed_form_kl: Tensor | None
    global_log_prob: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        """``log p(x | z)``, ``(K, B)``."""
        return sum_of(self.log_likelihoods)

    @property
    def log_ratio(self) -> Tensor:
        """``log q(z | x) - log p(z)``, ``(K, B)``, whose mean over draws estimates the KL."""
        assert self.log_posterior is not None
        return self.log_posterior - sum_of(self.log_priors)

    @property
    def log_weight(self) -> Tensor:
        """``log w``, ``(K, B)``."""
        return self.log_likelihood - self.log_ratio

    @property
    def reconstruction(self) -> Tensor:
        """The estimate of ``E_q[log p(x | z)]``, ``(B,)``."""
        return self.log_likelihood.mean(0)

    @property
    def kl(self) -> Tensor:
        """``KL(q || p(z))``, exact where it was asked for in closed form, else estimated, ``(B,)``."""
        return self.log_ratio.mean(0) if self.closed_form_kl is None else self.closed_form_kl

    def parts(self) -> dict[str, Tensor]:
        """Every term by the name of its site, to find the one that is not finite."""
        named = {f"observed site {name!r}": value for name, value in self.log_likelihoods.items()}
        named |= {f"latent site {name!r} (prior)": value for name, value in self.log_priors.items()}
        if self.log_posterior is not None:
            named["the posterior (guide)"] = self.log_posterior
        if self.closed_form_kl is not None:
            named["the KL of the posterior (guide)"] = self.closed_form_kl
        named["the sites outside the plate"] = self.global_log_prob
        return named


def sum_of(terms: Mapping[str, Tensor]) -> Tensor:
    """Add the terms of all sites."""
    first, *rest = terms.values()
    for term in rest:
        first = first + term
    return first


def log_weights(
    model: GenerativeModel, guide: AmortizedGuide, batch: Batch, draws: int, *, closed_form_kl: bool = False
) -> LogWeights:
    """Draw ``draws`` latents of each observation from the guide and score them under model and guide.

    Args:
        model: the generative model.
        guide: a guide that is set up.
        batch: ``B`` observations.
        draws: ``K``.
        closed_form_kl: use the family's KL to ``N(0, I)`` in place of the two densities that estimate it.

    Raises:
        ModelError: the model fails, or its plate has not the size of the batch.
    """
    posterior = guide.get_posterior(*batch.args, **batch.kwargs)
    vector = posterior.rsample((draws,))
    values, log_dets = guide.latents.constrain(vector)
    scores = score(model, guide.prototype, batch, values, skip_priors=closed_form_kl)
    if closed_form_kl:
        log_posterior, kl = None, posterior.kl_standard_normal()
    else:
        log_posterior, kl = posterior.log_prob(vector), None
        for log_det in log_dets.values():
            log_posterior = log_posterior - (log_det.flatten(2).sum(-1) if log_det.dim() > 2 else log_det)
    latent = {site.name for site in guide.latents.sites}
    return LogWeights(
        log_likelihoods={name: value for name, value in scores.local.items() if name not in latent},
        log_priors={name: value for name, value in scores.local.items() if name in latent},
        log_posterior=log_posterior,
        closed_form_kl=kl,
        global_log_prob=scores.global_log_prob,
    )


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of one run of the model.

    Args:
        local: for each site inside the data plate, ``(K, B)``.
        global_log_prob: the sum over the sites outside.
    """

    local: Mapping[str, Tensor]
    global_log_prob: Tensor


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
    run_model(model, batch.repeat(draws), scorer)
    missing = {site.name for site in prototype.latents.sites} - scorer.met
    if missing:
        raise ModelError(f"the model did not reach its latent sites {sorted(missing)} this time: {_FIXED_SITES}")
    if len(scorer.local) == (0 if skip_priors else len(scorer.met)):
        raise ModelError(f"the model observed nothing in plate {prototype.plate!r} this time: {_FIXED_SITES}")
    return Scores(scorer.local, scorer.global_log_prob)


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
