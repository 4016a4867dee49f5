"""What the model computes from draws of the latents: ``pyro.deterministic`` sites, and probabilities of discrete latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from amortvi._util.memory import Gathered
from amortvi._util.random import random_state
from amortvi.data import Batch, Chunk
from amortvi.model import Model, Site, draw_spans
from amortvi.model.discrete import observed_part, partly_observed

__all__ = ["deterministic_shapes", "deterministic_sites", "deterministic_values", "discrete_probs"]


def deterministic_values(sites: Sequence[Site], plate: str, observations: int) -> dict[str, Tensor]:
    """Return the deterministic sites of one run of the model that have a value for each observation.

    Args:
        sites: the sites of the run.
        plate: the name of the data plate.
        observations: ``B``, the number of observations in the run.

    Returns:
        Values in observation layout by name, ``(B, *nested, *event)``.
    """
    found = {s.name: s.by_observation(s.value, plate, observations) for s in sites if s.is_deterministic}
    return {name: value for name, value in found.items() if value is not None}


def deterministic_shapes(model: Model, example: Batch) -> dict[str, torch.Size]:
    """Return the shape of each deterministic site for one observation, ``(*nested, *event)``, from a run on an example."""
    with model.inference_mode(), random_state(0, example.device):
        sites = model.run(example.arguments())
    found = deterministic_values(sites, model.structure.plate, example.size)
    return {name: value.shape[1:] for name, value in found.items()}


def deterministic_sites(
    model: Model, chunk: Chunk, values: Mapping[str, Tensor], theta: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Compute the deterministic sites from values of the latents, inside `Model.inference_mode`.

    Discrete latents are drawn given the data and these values.

    Args:
        model: the generative model.
        chunk: ``B`` observations; at most ``chunk.draws_at_once`` draws are processed together.
        values: the latents in observation layout, ``(K, B, *shape)``.
        theta: the global latents of each draw, ``(K, *shape)``; empty if there are none.

    Returns:
        Values by name, ``(K, B, *nested, *event)``, on the CPU.
    """
    draws = next(iter(values.values())).shape[0]
    gathered = Gathered(draws)
    for span, shared in draw_spans(theta, draws, chunk.draws_at_once):
        copies = chunk.batch.arguments().repeat(len(span))
        part = {name: value[span.start : span.stop] for name, value in values.items()}
        sites = model.run(copies, values={**(shared or {}), **model.with_discrete(chunk.batch, part, theta=shared)})
        found = deterministic_values(sites, model.structure.plate, copies.size)
        gathered.add({name: value.unflatten(0, (len(span), chunk.batch.size)) for name, value in found.items()})
    return gathered.result()


def discrete_probs(
    model: Model, chunk: Chunk, values: Mapping[str, Tensor], theta: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Average the probabilities of discrete latents over draws of the continuous ones, inside `Model.inference_mode`.

    A site ``y`` with ``obs_mask=`` has probability one for its value where it is observed, and those of the latent
    ``y_unobserved`` elsewhere.

    Args:
        model: the generative model.
        chunk: ``B`` observations; at most ``chunk.draws_at_once`` draws are processed together.
        values: the continuous latents in observation layout, ``(K, B, *shape)``.
        theta: the global latents of each draw, ``(K, *shape)``; empty if there are none.

    Returns:
        For each discrete latent the mean of ``p(y | x, z)`` over draws, ``(B, *nested, V)``.
    """
    draws = next(iter(values.values())).shape[0]
    total: dict[str, Tensor] = {}
    for span, shared in draw_spans(theta, draws, chunk.draws_at_once):
        part = {name: value[span.start : span.stop] for name, value in values.items()}
        for group in model.discrete_groups(chunk.batch, part, theta=shared)[1]:
            for name, probs in group.probs().items():
                summed = probs.unflatten(0, (len(span), chunk.batch.size)).sum(0)
                total[name] = total[name] + summed if name in total else summed
    return _with_observed(model, chunk.batch, {name: value / draws for name, value in total.items()})


def _with_observed(model: Model, batch: Batch, probs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the values that are known through ``obs_mask=`` into the probabilities, under the names of the observed sites."""
    sites, plate = {site.name: site for site in model.run(batch.arguments())}, model.structure.plate
    found = {}
    for discrete in model.structure.discrete:
        name, missing = partly_observed(discrete.name), probs[discrete.name]
        site = None if name is None else sites.get(observed_part(name))
        value = None if site is None else site.by_observation(site.scored_value, plate, batch.size)
        known = None if site is None or value is None else site.observed_entries(plate, like=value)
        if name is None or value is None or known is None:
            found[discrete.name] = missing
            continue
        certain = one_hot(discrete.positions(value), len(discrete.values)).to(missing)
        known = known.reshape(*missing.shape[:-1], -1)[..., :1]  # the elements of one value are masked together
        found[name] = torch.where(known, certain, missing)
    return found
