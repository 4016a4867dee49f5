"""The posterior as ArviZ data: `InferenceData` for ArviZ 0.x, an xarray `DataTree` for ArviZ 1.x."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution

from amortvi._chunks import Gathered, Tile, spans
from amortvi._modes import evaluation_mode
from amortvi.arviz_layout import DATA_GROUPS, Groups, assemble
from amortvi.data_check import check_data
from amortvi.generative import GenerativeModel
from amortvi.observations import Batch
from amortvi.observations.pieces import numbers_per_row
from amortvi.plates import PlateLayout
from amortvi.posterior import Posterior
from amortvi.predictive import layout_is_unknown, observation_rows, simulate
from amortvi.prototype import Prototype
from amortvi.resampling import Resampler
from amortvi.scoring import log_jacobian, score, sum_of
from amortvi.sites import is_deterministic

__all__ = ["DrawCounts", "to_arviz"]

_ORDER = (
    "posterior",
    "posterior_predictive",
    "log_likelihood",
    "sample_stats",
    "prior",
    "prior_predictive",
    *DATA_GROUPS,
)


@dataclass(frozen=True)
class DrawCounts:
    """How many draws of each kind an export has; zero leaves the groups out.

    Args:
        posterior: of the latents, with their log-likelihood and weights.
        predictive: whether data are drawn for each posterior draw.
        prior: of latents and data from the prior.
        proposals: how many draws of the posterior family those of the latents are resampled from; ``None`` takes its draws as
            they are.
    """

    posterior: int
    predictive: bool
    prior: int
    proposals: int | None = None


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
    gathered: dict[str, Gathered] = {}
    exporter = _Exporter(model, prototype, counts)
    with torch.no_grad(), evaluation_mode(model), model.own_parameters():
        one = DrawCounts(1, counts.predictive, min(1, counts.prior))
        probe = _Exporter(model, prototype, one)
        width = numbers_per_row(lambda batch: probe.groups(batch, posterior.of(batch), 1), posterior.first())
        most = max(counts.posterior, counts.prior, counts.proposals or 0)
        for batch, q in posterior.chunks(width * most):
            check_data(model, batch)
            for group, values in exporter.groups(batch, q, Tile.of(most, width).draws).items():
                if group not in gathered:
                    gathered[group] = Gathered(posterior.size, dim=0 if group in DATA_GROUPS else 1)
                gathered[group].add(values)
    if exporter.resampler is not None:
        exporter.resampler.warn()
    groups = _without_observed_arguments({group: values.result() for group, values in gathered.items()})
    for group in groups.keys() - DATA_GROUPS:
        groups[group] = {name: value.unsqueeze(0) for name, value in groups[group].items()}  # all draws are one chain
    return assemble(groups, prototype.plate, exporter.nested, posterior.index, attrs)


class _Exporter:
    """Computes all the groups of a batch, and remembers which plates each site stands in."""

    def __init__(self, model: GenerativeModel, prototype: Prototype, counts: DrawCounts) -> None:
        self.model = model
        self.prototype = prototype
        self.counts = counts
        self.resampler: Resampler | None = None
        if counts.proposals is not None:
            self.resampler = Resampler(model, prototype, counts.posterior, counts.proposals)
        self.nested: dict[str, list[str]] = {}

    def groups(self, batch: Batch, q: Distribution, at_once: int) -> Groups:
        """Return every group for one batch: ``(draws, B, ...)``, and ``(B, ...)`` for those in `DATA_GROUPS`."""
        model, prototype, counts = self.model, self.prototype, self.counts
        resampler = self.resampler
        vector = resampler(batch, q, at_once=at_once) if resampler else q.sample(torch.Size([counts.posterior]))
        values, log_dets = prototype.latents.constrain(vector)
        log_q = q.log_prob(vector)
        log_q = (log_q - log_jacobian(log_dets, log_q)).cpu().double()
        scored, observed = self._score(batch, values, at_once)
        log_joint = scored.pop("log_joint")["log_joint"]
        stats = {"log_q": log_q, "log_joint": log_joint}
        if resampler is None:
            stats["log_weight"] = log_joint - log_q  # resampled draws have had theirs
        groups = {
            **scored,
            "sample_stats": stats,
            "observed_data": observed,
            "constant_data": dict(_named_arguments(model, batch)),
        }
        groups["posterior"] = {**{name: value.cpu() for name, value in values.items()}, **scored["posterior"]}
        if counts.predictive:
            drawn = simulate(model, prototype, batch, values, counts.posterior, at_once=at_once)
            groups["posterior_predictive"] = {name: drawn[name] for name in drawn if name in observed}
        if counts.prior:
            drawn = simulate(model, prototype, batch, None, counts.prior, at_once=at_once)
            groups["prior"] = {name: drawn[name] for name in drawn if name not in observed}
            groups["prior_predictive"] = {name: drawn[name] for name in drawn if name in observed}
        return {group: groups[group] for group in _ORDER if groups.get(group)}

    def _score(self, batch: Batch, values: Mapping[str, Tensor], at_once: int) -> tuple[Groups, dict[str, Tensor]]:
        """Return what one pass over the draws gives: log-probabilities, deterministic sites, and the data."""
        names = {site.name for site in self.prototype.latents.sites}
        draws = self.counts.posterior
        collected = {group: Gathered(draws) for group in ("log_joint", "log_likelihood", "posterior")}
        for span in spans(draws, at_once):
            part = {name: value[span.start : span.stop] for name, value in values.items()}
            with _SiteReader(self.prototype.plate, len(span) * batch.size) as reader:
                local = score(self.model, self.prototype, batch, part).local
            # In double precision: ArviZ computes in the type that it is given, and in single precision its importance
            # sampling returns NaN or a number far off where an observation fits badly.
            terms = {name: value.cpu().double() for name, value in local.items() if name not in reader.deterministic}
            collected["log_joint"].add({"log_joint": sum_of(terms)})
            collected["log_likelihood"].add({name: terms[name] for name in terms if name not in names})
            collected["posterior"].add(
                {
                    name: value.unflatten(0, (len(span), batch.size))
                    for name, value in reader.values.items()
                    if name in reader.deterministic
                }
            )
        self.nested = reader.nested
        observed = {
            name: reader.values[name][: batch.size] for name in reader.values if name not in reader.deterministic
        }
        return {group: found.result() for group, found in collected.items()}, observed


class _SiteReader(Messenger):
    """Reads the value of every observed and every deterministic site in the data plate, in observation layout."""

    def __init__(self, plate: str, rows: int) -> None:
        super().__init__()
        self.plate = plate
        self.rows = rows
        self.values: dict[str, Tensor] = {}
        self.deterministic: set[str] = set()
        self.nested: dict[str, list[str]] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        value = observation_rows(msg, self.plate, self.rows)
        if value is None:
            return
        if not layout_is_unknown(msg):
            self.nested[msg["name"]] = [plate.name for plate in PlateLayout.of_site(msg, self.plate).nested]
        if is_deterministic(msg):
            self.deterministic.add(msg["name"])
        if msg["is_observed"]:
            self.values[msg["name"]] = value


def _named_arguments(model: GenerativeModel, batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """Every argument of the model by its name in the model's signature."""
    called = model.model.forward if isinstance(model.model, nn.Module) else model.model
    try:
        bound = inspect.signature(called).bind(*batch.args, **batch.kwargs)
    except (TypeError, ValueError):  # a callable that does not say what it takes
        yield from ((f"argument_{i}", value) for i, value in enumerate(batch.args))
        yield from batch.kwargs.items()
        return
    for name, value in bound.arguments.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, tuple):
            yield from ((f"{name}_{i}", part) for i, part in enumerate(value))
        else:
            yield from value.items()


def _without_observed_arguments(groups: Groups) -> Groups:
    """Leave an argument that is an observed site itself out of the constant data."""
    observed = list(groups.get("observed_data", {}).values())
    constant = {
        name: value
        for name, value in groups["constant_data"].items()
        if not any(value.shape == site.shape and bool((value == site).all()) for site in observed)
    }
    others = {group: values for group, values in groups.items() if group != "constant_data"}
    return {**others, "constant_data": constant} if constant else others
