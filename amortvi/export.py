"""The posterior as ArviZ data: `InferenceData` for ArviZ 0.x, an xarray `DataTree` for ArviZ 1.x."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution

from amortvi._chunks import Gathered, Tile, spans
from amortvi._modes import evaluation_mode
from amortvi.data_check import check_data
from amortvi.generative import GenerativeModel
from amortvi.observations import Batch
from amortvi.observations.pieces import numbers_per_row
from amortvi.plates import PlateLayout
from amortvi.posterior import Posterior
from amortvi.predictive import layout_is_unknown, observation_rows, simulate
from amortvi.prototype import Prototype
from amortvi.scoring import log_jacobian, score, sum_of
from amortvi.sites import is_deterministic

__all__ = ["DrawCounts", "to_arviz"]

Groups = dict[str, dict[str, Tensor]]

_DATA = ("observed_data", "constant_data")
"""The groups whose variables begin with the observations; in all others a chain and a draw dimension come first."""

_ORDER = (
    "posterior",
    "posterior_predictive",
    "log_likelihood",
    "sample_stats",
    "prior",
    "prior_predictive",
    *_DATA,
)


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
    gathered: dict[str, Gathered] = {}
    exporter = _Exporter(model, prototype, counts)
    with torch.no_grad(), evaluation_mode(model), model.own_parameters():
        one = DrawCounts(1, counts.predictive, min(1, counts.prior))
        probe = _Exporter(model, prototype, one)
        width = numbers_per_row(lambda batch: probe.groups(batch, posterior.of(batch), 1), posterior.first())
        most = max(counts.posterior, counts.prior)
        for batch, q in posterior.chunks(width * most):
            check_data(model, batch)
            for group, values in exporter.groups(batch, q, Tile.of(most, width).draws).items():
                if group not in gathered:
                    gathered[group] = Gathered(posterior.size, dim=0 if group in _DATA else 1)
                gathered[group].add(values)
    groups = {group: values.result() for group, values in gathered.items()}
    return _assemble(_without_observed_arguments(groups), prototype.plate, exporter.nested, posterior.index, attrs)


class _Exporter:
    """Computes all the groups of a batch, and remembers which plates each site stands in."""

    def __init__(self, model: GenerativeModel, prototype: Prototype, counts: DrawCounts) -> None:
        self.model = model
        self.prototype = prototype
        self.counts = counts
        self.nested: dict[str, list[str]] = {}

    def groups(self, batch: Batch, q: Distribution, at_once: int) -> Groups:
        """Return every group for one batch: ``(draws, B, ...)``, and ``(B, ...)`` for those in `_DATA`."""
        model, prototype, counts = self.model, self.prototype, self.counts
        vector = q.sample(torch.Size([counts.posterior]))
        values, log_dets = prototype.latents.constrain(vector)
        log_q = q.log_prob(vector)
        log_q = (log_q - log_jacobian(log_dets, log_q)).cpu().double()
        scored, observed = self._score(batch, values, at_once)
        log_joint = scored.pop("log_joint")["log_joint"]
        groups = {
            **scored,
            "sample_stats": {"log_q": log_q, "log_joint": log_joint, "log_weight": log_joint - log_q},
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


def _assemble(
    groups: Groups, plate: str, nested: Mapping[str, list[str]], index: Any | None, attrs: Mapping[str, str]
) -> Any:
    import arviz  # imported where it is used: it takes longer than everything else that amortvi imports
    import xarray

    names = _Names(plate, nested)
    datasets = {group: _dataset(xarray, names, group, values, index, attrs) for group, values in groups.items()}
    if int(arviz.__version__.partition(".")[0]) < 1:
        return arviz.InferenceData(attrs=dict(attrs), **datasets)
    tree = xarray.DataTree.from_dict(datasets)
    tree.attrs.update(attrs)
    return tree


class _Names:
    """Names of variables and dimensions; a variable called like a dimension would be taken for its coordinate.

    Args:
        plate: the data plate.
        nested: for each site the plates inside the data plate that it stands in.
    """

    def __init__(self, plate: str, nested: Mapping[str, list[str]]) -> None:
        self.plate = plate
        self.nested = nested
        self._dimensions = {
            self.dimension(name) for name in (plate, *(name for found in nested.values() for name in found))
        }

    def dimension(self, plate: str) -> str:
        """The dimension of a plate: its name, unless ArviZ has that for another."""
        return _plain(f"{plate}_dim" if plate in ("chain", "draw") else plate)

    def variable(self, name: str) -> str:
        """The name of a variable; an argument of the model may be called like the plate."""
        return _plain(f"{name}_argument" if name in self._dimensions else name)

    def dimensions(self, group: str, name: str, count: int) -> list[str]:
        """The names of the ``count`` dimensions of a variable."""
        data = self.dimension(self.plate)
        lead = [data] if group in _DATA else ["chain", "draw", data]
        # A log-probability is summed over the nested plates, an argument may be called like a site.
        summed = group in ("sample_stats", "log_likelihood", "constant_data")
        inner = [] if summed else [self.dimension(plate) for plate in self.nested.get(name, [])]
        rest = count - len(lead) - len(inner)
        return [*lead, *inner, *(f"{self.variable(name)}_dim_{i}" for i in range(rest))]


def _plain(name: str) -> str:
    """A name without the slash, which Pyro's scopes put into names and NetCDF into paths."""
    return name.replace("/", ".")


def _dataset(
    xarray: Any, names: _Names, group: str, values: Mapping[str, Tensor], index: Any | None, attrs: Mapping[str, str]
) -> Any:
    variables: dict[str, tuple[list[str], np.ndarray[Any, Any]]] = {}
    coords: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in values.items():
        array = value.numpy() if group in _DATA else value.numpy()[np.newaxis]
        dims = names.dimensions(group, name, array.ndim)
        variables[names.variable(name)] = (dims, array)
        coords |= {dim: np.arange(size) for dim, size in zip(dims, array.shape, strict=True)}
    if index is not None:
        coords[names.dimension(names.plate)] = _labels(index)
    return xarray.Dataset(variables, coords=coords, attrs=dict(attrs))


def _labels(index: Any) -> np.ndarray[Any, Any]:
    """A data frame's index as a coordinate that NetCDF can hold: numbers, times or text."""
    labels = np.asarray(index)
    if labels.dtype.kind in "biufM":
        return labels
    # Several levels, time zones, categories and whatever else has no type of its own there.
    return np.asarray([", ".join(map(str, label)) if isinstance(label, tuple) else str(label) for label in index])
