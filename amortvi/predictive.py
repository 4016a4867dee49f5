"""Draws from the model: of new data given latents, and of everything from the prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from amortvi._chunks import Gathered, Tile, rows_at_once, spans
from amortvi._modes import evaluation_mode
from amortvi.generative import GenerativeModel
from amortvi.observations import Batch
from amortvi.observations.pieces import numbers_per_row
from amortvi.plates import PlateLayout
from amortvi.posterior import Posterior
from amortvi.prototype import Prototype
from amortvi.scoring import check_plate_size, run_model, site_values
from amortvi.sites import is_deterministic, is_subsample

__all__ = ["predict", "sample_prior", "simulate"]


def predict(model: GenerativeModel, posterior: Posterior, draws: int) -> dict[str, Tensor]:
    """Draw new data for each observation from the posterior predictive.

    Args:
        model: the generative model.
        posterior: of the observations.
        draws: how many draws for each.

    Returns:
        For each observed (and deterministic) site in the data plate ``(draws, N, *nested, *event)``, on the CPU.
    """

    def draw(batch: Batch, q: Distribution, count: int, at_once: int) -> dict[str, Tensor]:
        values, _ = posterior.latents.constrain(q.sample(torch.Size([count])))
        return simulate(model, posterior.prototype, batch, values, count, at_once=at_once)

    gathered = Gathered(posterior.size, dim=1)
    with torch.no_grad(), evaluation_mode(model), model.own_parameters():
        width = numbers_per_row(lambda batch: draw(batch, posterior.of(batch), 1, 1), posterior.first())
        tile = Tile.of(draws, width)
        for batch, q in posterior.chunks(tile.numbers_per_observation):
            gathered.add(draw(batch, q, draws, tile.draws))
    return gathered.result()


def sample_prior(model: GenerativeModel, prototype: Prototype, source: Batch, draws: int) -> dict[str, Tensor]:
    """Draw latents and data from the model alone.

    Args:
        model: the generative model.
        prototype: its structure.
        source: observations whose sizes and covariates the draws are for, taken in turn.
        draws: how many.

    Returns:
        For each site in the data plate ``(draws, *nested, *event)``, on the CPU.
    """
    gathered = Gathered(draws)
    with torch.no_grad(), evaluation_mode(model), model.own_parameters():
        width = numbers_per_row(lambda batch: simulate(model, prototype, batch, None, 1), source)
        for rows in spans(draws, rows_at_once(width)):
            batch = source.take(torch.arange(rows.start, rows.stop) % source.size)
            drawn = simulate(model, prototype, batch, None, 1)
            gathered.add({name: value[0] for name, value in drawn.items()})
    return gathered.result()


def simulate(
    model: GenerativeModel,
    prototype: Prototype,
    batch: Batch,
    values: Mapping[str, Tensor] | None,
    draws: int,
    *,
    at_once: int | None = None,
) -> dict[str, Tensor]:
    """Draw what the model observes, with its ``obs=`` taken away.

    Args:
        model: the generative model.
        prototype: its structure.
        batch: ``B`` observations, for the sizes and the covariates.
        values: the latents in observation layout, ``(draws, B, *shape)``; ``None`` draws them from the prior.
        draws: ``K``, how many draws for each observation.
        at_once: on how many of these the model is run at once; by default on all.

    Returns:
        For each site in the data plate ``(draws, B, *nested, *event)``: the observed ones, deterministic ones and,
        where they were drawn, the latents. They are on the CPU.
    """

    def run(span: range) -> dict[str, Tensor]:
        fixed = {} if values is None else {name: value[span.start : span.stop] for name, value in values.items()}
        placed = site_values(prototype.latents, fixed) if fixed else {}
        sampler = SiteSampler(prototype.plate, placed, len(span) * batch.size)
        run_model(model, batch.arguments().repeat(len(span)), sampler)
        return {name: value.unflatten(0, (len(span), batch.size)).cpu() for name, value in sampler.drawn.items()}

    with torch.no_grad(), evaluation_mode(model):
        if at_once is None or at_once >= draws:
            return run(range(draws))
        gathered = Gathered(draws)
        for span in spans(draws, at_once):
            gathered.add(run(span))
    return gathered.result()


class SiteSampler(Messenger):
    """Sets given latents, samples every other site anew and keeps its value in observation layout."""

    def __init__(self, plate: str, values: Mapping[str, Tensor], rows: int) -> None:
        super().__init__()
        self.plate = plate
        self.values = values
        self.rows = rows
        self.drawn: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            return
        check_plate_size(msg, self.plate, self.rows)
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True
        elif msg["is_observed"] and not is_deterministic(msg):
            msg["value"], msg["is_observed"], msg["done"] = None, False, False

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            return
        value = observation_rows(msg, self.plate, self.rows)
        if value is not None:
            self.drawn[msg["name"]] = value.detach()


def observation_rows(site: Any, plate: str, rows: int) -> Tensor | None:
    """Return a site's value in observation layout, ``(rows, *nested, *event)``; ``None`` where it has no such value."""
    value: Tensor = site["value"]
    inside = any(frame.name == plate for frame in site["cond_indep_stack"])
    if not inside or is_subsample(site) or value.numel() == 0:  # a pyro.factor has an empty value
        return None
    if layout_is_unknown(site):
        # Rows come first wherever they can be told.
        first = value if value.dim() else value.unsqueeze(0)
        return first.expand(rows, *first.shape[1:]) if first.shape[0] in (1, rows) else None
    layout = PlateLayout.of_site(site, plate)
    laid_out = layout.to_observations(value)
    # What Pyro only broadcasts over a plate, such as obs= without its dimension, is written out.
    return laid_out.expand(rows, *layout.nested_shape, *laid_out.shape[1 + len(layout.nested) :])


def layout_is_unknown(site: Any) -> bool:
    """Whether the value cannot be told apart into plates and event: a ``pyro.deterministic`` without ``event_dim``."""
    return is_deterministic(site) and site["fn"].event_dim >= site["value"].dim()
