"""Evaluation of a model with its posteriors: bounds of the log evidence, posterior predictive draws and prior draws."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.lazy import pandas as pd
from amortvi._util.memory import Gathered
from amortvi.data import Batch, Chunk, TensorObservations, map_chunks
from amortvi.model import Model, draw_spans, sample_globals
from amortvi.posterior.importance_sampling import WeightedDraws
from amortvi.posterior.log_weights import closed_form_kl
from amortvi.posterior.non_finite import (
    IMPLAUSIBLE,
    check_finite_results,
    check_rows,
    draws_not_finite,
    implausible_rows,
    not_finite,
    undefined,
    warn_of,
)
from amortvi.posterior.posterior import Posterior

__all__ = ["evaluate", "predict", "replicate", "sample_prior"]

_IMPLAUSIBLE, _LATENTS = "/implausible", "/latents"


def evaluate(posterior: Posterior, particles: int) -> pd.DataFrame:
    """Return bounds of ``log p(x)`` from ``particles`` draws for each observation; see `amortvi.AmortizedVI.evaluate`."""
    theta = posterior.network.sample_globals(particles)
    bounds = posterior.importance_sample(particles, lambda weighted: _bounds(posterior.model, weighted), theta=theta)
    flagged = bounds.pop(_IMPLAUSIBLE)
    # The model may give every draw zero probability.
    for name, check in (("kl", not_finite), ("elbo", undefined), ("iwae", undefined)):
        check_rows(check(bounds[name]), f"the {name} of the posterior", posterior.index)
    warn_of(IMPLAUSIBLE, flagged, posterior.index, stacklevel=3)
    return pd.DataFrame({name: value.numpy() for name, value in bounds.items()}, index=posterior.index)


def _bounds(model: Model, weighted: WeightedDraws) -> dict[str, Tensor]:
    log_weight, particles = weighted.log_weight, weighted.log_weight.shape[0]
    # The closer the posterior is to the exact one, the less log weights vary between draws, unlike log-likelihoods. Their mean
    # is therefore a better estimate of the ELBO than one with the exact KL, which only splits the ELBO into its parts.
    elbo, exact_kl = log_weight.mean(0), closed_form_kl(model, weighted.posterior)
    elbo_se = torch.full_like(elbo, math.nan)
    if particles > 1:
        elbo_se = log_weight.std(0).masked_fill(elbo == -torch.inf, torch.inf) / math.sqrt(particles)
    kl = weighted.log_ratio.mean(0) if exact_kl is None else exact_kl.cpu().double()
    return {
        _IMPLAUSIBLE: implausible_rows(weighted.posterior, weighted.batch.device),
        "elbo": elbo,
        "elbo_se": elbo_se,
        "reconstruction": elbo + kl,
        "kl": kl,
        "iwae": torch.logsumexp(log_weight, dim=0) - math.log(particles),
    }


def predict(posterior: Posterior, draws: int) -> dict[str, Tensor]:
    """Draw new data for each observation from the posterior predictive distribution; see `amortvi.AmortizedVI.predict`."""
    found = replicate(posterior, draws)
    check_finite_results(found, "the draws", posterior.index, observation_dim=1)
    return found


def replicate(posterior: Posterior, draws: int) -> dict[str, Tensor]:
    """Do the same as `predict`, but return the values that the model draws even if they are not finite."""
    model = posterior.model
    model.structure.check_predicts()
    theta = posterior.network.sample_globals(draws)

    def compute(chunk: Chunk, q: Distribution) -> Mapping[str, Tensor]:
        values, _ = model.latents.constrain(q.sample(torch.Size([chunk.draws])))
        drawn = model.simulate(chunk.batch, values, chunk.draws, theta=theta, draws_at_once=chunk.draws_at_once)
        return {**drawn, _LATENTS: draws_not_finite(values)}

    found = posterior.map_chunks(compute, draws=draws, observation_dim=1)
    check_rows(found.pop(_LATENTS).flatten(), "the latents drawn from the posterior", posterior.index)
    return found


def sample_prior(model: Model, source: Batch, draws: int, device: torch.device) -> dict[str, Tensor]:
    """Draw latents and data from the model alone; see `amortvi.AmortizedVI.sample_prior`.

    Args:
        model: the generative model.
        source: observations whose sizes and covariates are used, cyclically.
        draws: the number of draws.
        device: where the model is.
    """
    rows = TensorObservations(source.arguments().take(torch.arange(draws) % source.size), "x")
    with model.inference_mode():
        theta = sample_globals(model, rows.first(1).to(device), draws)

        def compute(chunk: Chunk) -> Mapping[str, Tensor]:
            # A draw is one row, so with global latents each row is a run of its own.
            gathered, count = Gathered(len(chunk.rows)), len(chunk.rows)
            own = {name: value[chunk.rows.start : chunk.rows.stop] for name, value in theta.items()}
            for span, shared in draw_spans(own, count, count):
                part = chunk.batch.take(slice(span.start, span.stop))
                one = {name: value.unsqueeze(0) for name, value in (shared or {}).items()}
                gathered.add({name: value[0] for name, value in model.simulate(part, None, 1, theta=one).items()})
            return gathered.result()

        found = map_chunks(rows, compute, device=device)
    return found | {name: value.cpu() for name, value in theta.items()}
