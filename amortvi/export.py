"""The posterior as ArviZ data: `InferenceData` for ArviZ 0.x, an xarray `DataTree` for ArviZ 1.x."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from amortvi._chunks import spans
from amortvi._modes import evaluation_mode
from amortvi.generative import GenerativeModel
from amortvi.latents import sum_from
from amortvi.objectives.weights import run_model, score, sum_of
from amortvi.observations import Batch
from amortvi.posterior import Posterior
from amortvi.predictive import draws_at_once, observation_rows, simulate
from amortvi.prototype import Prototype, is_subsample

__all__ = ["to_arviz"]

Groups = dict[str, dict[str, list[Tensor]]]

# Groups with a chain and a draw dimension before the observations; only the data themselves have none.
_WITHOUT_DRAWS = "observed_data"


@dataclass(frozen=True)
class DrawCounts:
    """How many draws of each kind an export has; zero leaves the groups out.

    Args:
        posterior: of the latents, with their log-likelihood and weights.
        predictive: whether data are drawn for each posterior draw.
        prior: of latents and data from the prior.
    """

    posterior: int
    predictive: bool
    prior: int


def to_arviz(
    model: GenerativeModel,
    prototype: Prototype,
    posterior: Posterior,
    counts: DrawCounts,
    attrs: Mapping[str, str],
) -> Any:
    """Draw, score and lay out for ArviZ.

    Args:
        model: the generative model.
        prototype: its structure.
        posterior: of the observations to export.
        counts: what to draw.
        attrs: written on the whole and on each group.

    Returns:
        `arviz.InferenceData` under ArviZ 0.x, `xarray.DataTree` under ArviZ 1.x.
    """
    groups: Groups = {}
    with torch.no_grad(), evaluation_mode(model), model.own_parameters():
        heaviest = max(counts.posterior, counts.prior) * prototype.latents.dim
        for batch, q in posterior.chunks(heaviest):
            for group, values in _chunk_groups(model, prototype, batch, q, counts).items():
                for name, value in values.items():
                    groups.setdefault(group, {}).setdefault(name, []).append(value)
    return _assemble(groups, prototype, posterior.index, dict(attrs))


def _chunk_groups(
    model: GenerativeModel, prototype: Prototype, batch: Batch, q: Any, counts: DrawCounts
) -> dict[str, dict[str, Tensor]]:
    """Every group for one batch: ``(draws, B, ...)``, and ``(B, ...)`` for the observed data."""
    latents = prototype.latents
    vector = q.sample(torch.Size([counts.posterior]))
    values, log_dets = latents.constrain(vector)
    log_q = q.log_prob(vector) - sum(sum_from(log_det, 2) for log_det in log_dets.values())
    names = {site.name for site in latents.sites}
    likelihoods: dict[str, list[Tensor]] = {}
    joints = []
    for span in spans(counts.posterior, draws_at_once(batch)):
        part = {name: value[span.start : span.stop] for name, value in values.items()}
        scores = score(model, prototype, batch, part)
        joints.append(sum_of(scores.local))
        for name, value in scores.local.items():
            if name not in names:
                likelihoods.setdefault(name, []).append(value)
    log_joint = torch.cat(joints)
    groups = {
        "posterior": values,
        "sample_stats": {"log_q": log_q, "log_joint": log_joint, "log_weight": log_joint - log_q},
        "log_likelihood": {name: torch.cat(parts) for name, parts in likelihoods.items()},
        "observed_data": _observed(model, prototype, batch),
    }
    if counts.predictive:
        groups["posterior_predictive"] = simulate(model, prototype, batch, values, counts.posterior)
    if counts.prior:
        drawn = simulate(model, prototype, batch, None, counts.prior)
        groups["prior"] = {name: value for name, value in drawn.items() if name in names}
        groups["prior_predictive"] = {name: value for name, value in drawn.items() if name not in names}
    return {group: {name: value.cpu() for name, value in found.items()} for group, found in groups.items() if found}


class _ObservedSites(Messenger):
    """Keeps the value of every observed site in the data plate, in observation layout."""

    def __init__(self, plate: str) -> None:
        super().__init__()
        self.plate = plate
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        inside = any(frame.name == self.plate for frame in msg["cond_indep_stack"])
        if msg["is_observed"] and inside and not is_subsample(msg) and msg["value"].numel():
            if not msg["infer"].get("_deterministic"):
                self.values[msg["name"]] = observation_rows(msg, self.plate)


def _observed(model: GenerativeModel, prototype: Prototype, batch: Batch) -> dict[str, Tensor]:
    handler = _ObservedSites(prototype.plate)
    run_model(model, batch, handler)
    return handler.values


def _assemble(groups: Groups, prototype: Prototype, index: Any | None, attrs: dict[str, str]) -> Any:
    import arviz  # imported where it is used: it takes longer than everything else that amortvi imports
    import xarray

    nested = {
        site.name: [plate.name for plate in site.layout.nested]
        for site in prototype.latents.sites
        if site.layout.nested
    }
    taken = {name for values in groups.values() for name in values}
    plate = prototype.plate if prototype.plate not in taken else f"{prototype.plate}_dim"
    datasets = {}
    for group, values in groups.items():
        variables = {}
        for name, parts in values.items():
            array = torch.cat(parts, dim=0 if group == _WITHOUT_DRAWS else 1).numpy()
            lead = [plate] if group == _WITHOUT_DRAWS else ["chain", "draw", plate]
            full = array if group == _WITHOUT_DRAWS else array[np.newaxis]
            inner = list(_inner_dims(name, full.ndim - len(lead), nested.get(name, []), taken))
            variables[name] = (lead + inner, full)
        datasets[group] = _dataset(xarray, variables, plate, index, attrs)
    if hasattr(arviz, "InferenceData"):
        return arviz.InferenceData(attrs=attrs, **datasets)
    tree = xarray.DataTree.from_dict(datasets)
    tree.attrs.update(attrs)
    return tree


def _inner_dims(name: str, count: int, nested: list[str], taken: Iterable[str]) -> Iterable[str]:
    """Name the dimensions behind the observations: nested plates, then ``<site>_dim_0`` and so on."""
    yield from (plate if plate not in taken else f"{plate}_dim" for plate in nested)
    yield from (f"{name}_dim_{i}" for i in range(count - len(nested)))


def _dataset(
    xarray: Any,
    variables: dict[str, tuple[list[str], np.ndarray]],
    plate: str,
    index: Any | None,
    attrs: dict[str, str],
) -> Any:
    sizes = {dim: size for dims, array in variables.values() for dim, size in zip(dims, array.shape, strict=True)}
    coords = {dim: np.arange(size) for dim, size in sizes.items()}
    if index is not None:
        coords[plate] = np.asarray(index)
    return xarray.Dataset(variables, coords=coords, attrs=attrs)
