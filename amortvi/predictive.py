"""Draws from the model: of new data given latents, and of everything from the prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from amortvi._chunks import NUMBERS_AT_ONCE, spans
from amortvi._modes import evaluation_mode
from amortvi.generative import GenerativeModel
from amortvi.objectives.weights import run_model, site_values
from amortvi.observations import Batch
from amortvi.plates import PlateLayout
from amortvi.prototype import Prototype, is_subsample

__all__ = ["draws_at_once", "simulate"]


def draws_at_once(batch: Batch) -> int:
    """How many draws for each observation of ``batch`` the model may be run on at once."""
    numbers = sum(value.numel() for value in batch.tensors())
    return max(1, NUMBERS_AT_ONCE // numbers)


def simulate(
    model: GenerativeModel,
    prototype: Prototype,
    batch: Batch,
    values: Mapping[str, Tensor] | None,
    draws: int,
) -> dict[str, Tensor]:
    """Draw what the model observes, with its ``obs=`` taken away.

    Args:
        model: the generative model.
        prototype: its structure.
        batch: ``B`` observations, for the sizes and the covariates.
        values: the latents in observation layout, ``(draws, B, *shape)``; ``None`` draws them from the prior.
        draws: ``K``, how many draws for each observation.

    Returns:
        For each site in the data plate ``(draws, B, *nested, *event)``: the observed ones, deterministic ones and, where
        they were drawn, the latents. They are on the CPU.
    """
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad(), evaluation_mode(model):
        for span in spans(draws, draws_at_once(batch)):
            fixed = {} if values is None else {name: value[span.start : span.stop] for name, value in values.items()}
            placed = site_values(prototype.latents, fixed) if fixed else {}
            sampler = SiteSampler(prototype.plate, placed, len(span) * batch.size)
            run_model(model, batch.repeat(len(span)), sampler)
            for name, value in sampler.drawn.items():
                parts.setdefault(name, []).append(value.unflatten(0, (len(span), batch.size)).cpu())
    return {name: torch.cat(pieces) for name, pieces in parts.items()}


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
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True
        elif msg["is_observed"] and not msg["infer"].get("_deterministic"):
            msg["value"], msg["is_observed"], msg["done"] = None, False, False

    def _pyro_post_sample(self, msg: Any) -> None:
        inside = any(frame.name == self.plate for frame in msg["cond_indep_stack"])
        if is_subsample(msg) or msg["name"] in self.values or not inside or msg["value"].numel() == 0:
            return
        value = observation_rows(msg, self.plate)
        if value.shape[0] in (1, self.rows):
            self.drawn[msg["name"]] = value.expand(self.rows, *value.shape[1:]).detach()


def observation_rows(site: Any, plate: str) -> Tensor:
    """Return a site's value in observation layout, ``(rows, *nested, *event)``."""
    value: Tensor = site["value"]
    if site["infer"].get("_deterministic") and site["fn"].event_dim >= value.dim():
        # pyro.deterministic without event_dim says nothing of the plates; rows come first wherever they can be told.
        return value if value.dim() else value.unsqueeze(0)
    return PlateLayout.of_site(site, plate).to_observations(value)
