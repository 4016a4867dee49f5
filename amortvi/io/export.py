"""Export of posteriors to ArviZ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util import __version__
from amortvi._util.checks import nonnegative_int, positive_int
from amortvi._util.memory import Gathered
from amortvi.data import Batch, Chunk
from amortvi.errors import OptionError
from amortvi.io.arviz_layout import DATA_GROUPS, DimensionNames, Groups, assemble
from amortvi.io.elementwise import elementwise_log_prob
from amortvi.model import Model, Site, draw_spans, log_jacobian, sample_globals, sum_sites
from amortvi.model.discrete import partly_observed
from amortvi.posterior import Posterior
from amortvi.posterior.deterministic import deterministic_values
from amortvi.posterior.importance_sampling import check_proposals, resample_chunk, warn_of_unreliable_draws
from amortvi.posterior.non_finite import check_rows, draws_not_finite, undefined

__all__ = ["ExportOptions", "to_arviz"]

_DRAWN_GROUPS = ("posterior", "posterior_predictive", "log_likelihood", "sample_stats", "prior", "prior_predictive")
_GROUPS = (*_DRAWN_GROUPS, *DATA_GROUPS)
_K_HAT = "/k_hat"
_NOT_FINITE = "/not_finite"


@dataclass(frozen=True)
class ExportOptions:
    """The options of `amortvi.AmortizedVI.to_arviz`; raises `OptionError` if one is out of range."""

    draws: int
    chains: int
    posterior_predictive: bool
    prior_draws: int
    resample: bool
    proposals: int | None
    pointwise: bool = False
    names: DimensionNames = field(default_factory=DimensionNames)

    def __post_init__(self) -> None:
        object.__setattr__(self, "draws", positive_int("draws", self.draws))
        object.__setattr__(self, "chains", positive_int("chains", self.chains))
        object.__setattr__(self, "prior_draws", nonnegative_int("prior_draws", self.prior_draws))
        object.__setattr__(self, "proposals", check_proposals(self.total_draws, self.resample, self.proposals))
        if not isinstance(self.pointwise, bool):
            raise OptionError(f"pointwise must be True or False; got {self.pointwise!r}.")

    @property
    def total_draws(self) -> int:
        """The number of draws of all chains for each observation."""
        return self.draws * self.chains


def to_arviz(posterior: Posterior, options: ExportOptions, attrs: Mapping[str, str], x: Any = None) -> Any:
    """Return draws, log-probabilities and data as `arviz.InferenceData` (ArviZ 0.x) or `xarray.DataTree` (ArviZ 1.x).

    ``attrs`` are recorded beside the attributes of the posterior, and the columns of data frames in ``x`` label dimensions.
    """
    posterior.check_resamples(options.resample)
    model = posterior.model
    theta = posterior.network.sample_globals(options.total_draws)
    with model.inference_mode():
        prior = sample_globals(model, posterior.first().arguments(), options.prior_draws) if options.prior_draws else {}
    exporter = _Exporter(model, options, theta, prior)
    single = replace(
        options, draws=1, chains=1, prior_draws=min(1, options.prior_draws), resample=False, proposals=None
    )
    probe = _Exporter(model, single, theta, prior)
    found = posterior.map_chunks(
        exporter.compute,
        draws=max(options.total_draws, options.prior_draws, options.proposals or 0),
        observation_dim=1,
        probe=probe.compute,
        check_data=True,
    )
    attrs = {
        "inference_library": "amortvi",
        "inference_library_version": __version__,
        "posterior_family": posterior.label,
        **attrs,
    }
    check_rows(found.pop(_NOT_FINITE).flatten(), "the draws of the posterior", posterior.index)
    if options.proposals is not None:
        warn_of_unreliable_draws(found.pop(_K_HAT).flatten(), options.proposals)
        attrs["resampled_from"] = f"{options.proposals} draws of the posterior family"
    found |= {f"posterior/{name}": value.cpu() for name, value in theta.items()}
    found |= {f"prior/{name}": value.cpu() for name, value in prior.items()}
    groups, columns = _without_observed_arguments(_grouped(found, options.chains), _columns(model, x))
    names = replace(options.names, columns=columns)
    return assemble(groups, model.structure.plate, exporter.nested, posterior.index, attrs, {*theta}, names)


class _Exporter:
    """Computes all groups for a chunk of observations, and records the nested plates of each site.

    Global latents have one value for each draw, ``(draws, *shape)``: those of ``theta`` are posterior draws, those of ``prior``
    prior draws.
    """

    def __init__(
        self, model: Model, options: ExportOptions, theta: Mapping[str, Tensor], prior: Mapping[str, Tensor]
    ) -> None:
        self.model = model
        self.options = options
        self.theta = theta
        self.prior = prior
        self.nested: dict[str, list[str]] = {}

    def compute(self, chunk: Chunk, q: Distribution) -> dict[str, Tensor]:
        """Return every variable as ``"group/name"``: ``(draws, B, ...)``, or ``(1, B, ...)`` in `DATA_GROUPS`."""
        model, options = self.model, self.options
        stats: dict[str, Tensor] = {}
        found: dict[str, Tensor] = {}
        if options.proposals is not None:
            vector, k_hat = resample_chunk(model, replace(chunk, draws=options.proposals), q, options.total_draws)
            found[_K_HAT] = k_hat.unsqueeze(0)
        else:
            vector = q.sample(torch.Size([options.total_draws]))
        values, log_dets = model.latents.constrain(vector)
        log_q = q.log_prob(vector)
        scored, observed = self._score(replace(chunk, draws=options.total_draws), values)
        stats["log_q"] = (log_q - log_jacobian(log_dets, log_q)).cpu().double()
        stats["log_joint"] = scored.pop("log_joint")["log_joint"]
        undefined_density = undefined(stats["log_q"], 1) | undefined(stats["log_joint"], 1)
        found[_NOT_FINITE] = draws_not_finite(values).cpu() | undefined_density
        if not options.resample:
            stats["log_weight"] = stats["log_joint"] - stats["log_q"]  # resampled draws have unit weights
        groups = {**scored, "sample_stats": stats}
        groups["posterior"] = {**values, **scored["posterior"]}
        groups["observed_data"] = {name: value.unsqueeze(0) for name, value in observed.items()}
        groups["constant_data"] = {
            name: value.unsqueeze(0) for name, value in _named_arguments(model, chunk.batch.args, chunk.batch.kwargs)
        }
        if options.posterior_predictive:
            drawn = self._simulate(chunk, values, options.total_draws, self.theta)
            groups["posterior_predictive"] = {name: drawn[name] for name in drawn if name in observed}
        if options.prior_draws:
            drawn = self._simulate(chunk, None, options.prior_draws, self.prior)
            groups["prior"] = {name: drawn[name] for name in drawn if name not in observed}
            groups["prior_predictive"] = {name: drawn[name] for name in drawn if name in observed}
        return found | {f"{group}/{name}": value for group in _GROUPS for name, value in groups.get(group, {}).items()}

    def _simulate(
        self, chunk: Chunk, values: Mapping[str, Tensor] | None, draws: int, theta: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return self.model.simulate(chunk.batch, values, draws, theta=theta, draws_at_once=chunk.draws_at_once)

    def _score(self, chunk: Chunk, values: Mapping[str, Tensor]) -> tuple[Groups, dict[str, Tensor]]:
        """Return the log-probabilities and deterministic sites of all draws, and the data."""
        collected = {group: Gathered(chunk.draws) for group in ("log_joint", "log_likelihood", "posterior")}
        observed: dict[str, Tensor] = {}
        for span, shared in draw_spans(self.theta, chunk.draws, chunk.draws_at_once):
            part = {name: value[span.start : span.stop] for name, value in values.items()}
            scores = self.model.log_probs(chunk.batch, part, theta=shared)
            sites = self._sites(chunk.batch, part, shared) if self.model.structure.discrete else scores.sites
            deterministic, observed = self._read(sites, len(span) * chunk.batch.size)
            # ArviZ computes in the type that it is given; in single precision, its importance sampling returns NaN or a wrong
            # number for observations that fit badly.
            terms = {name: value.cpu().double() for name, value in scores.local.items() if name not in deterministic}
            collected["log_joint"].add({"log_joint": sum_sites(terms)})
            shape = (len(span), chunk.batch.size)
            likelihoods = {name: value for name, value in terms.items() if name not in scores.prior_names}
            likelihoods |= self._elementwise(scores.sites, likelihoods, shape)
            collected["log_likelihood"].add(
                {scores.observed_names.get(name, name): value for name, value in likelihoods.items()}
            )
            collected["posterior"].add({name: value.unflatten(0, shape) for name, value in deterministic.items()})
        data = {name: value[: chunk.batch.size] for name, value in observed.items()}
        return {group: found.result() for group, found in collected.items()}, data

    def _elementwise(
        self, sites: Sequence[Site], terms: Mapping[str, Tensor], shape: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return the log-probability of each element, ``(*shape, *nested, *event)``, of sites that have terms of their own."""
        if not self.options.pointwise:
            return {}
        plate, rows = self.model.structure.plate, shape[0] * shape[1]
        found = {site.name: site for site in sites if site.is_data and site.name in terms}
        return {
            name: elementwise_log_prob(site, plate, rows).unflatten(0, shape).cpu().double()
            for name, site in found.items()
        }

    def _sites(self, batch: Batch, values: Mapping[str, Tensor], theta: Mapping[str, Tensor] | None) -> list[Site]:
        """Return the sites of a run with given latents, and discrete latents drawn given these and the data."""
        given = self.model.with_discrete(batch, values, theta=theta)
        draws = next(iter(values.values())).shape[0]
        return self.model.run(batch.arguments().repeat(draws), values={**(theta or {}), **given})

    def _read(self, sites: Sequence[Site], rows: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return deterministic and observed sites in observation layout, and record the nested plates of each.

        Discrete latents, which are drawn like deterministic sites, are among these.
        """
        plate, names = self.model.structure.plate, {site.name for site in sites}
        # A site with obs_mask= is a deterministic site with all values; where it was observed, its latent part means nothing.
        discrete = {each.name for each in self.model.structure.discrete if partly_observed(each.name) not in names}
        drawn: dict[str, Tensor] = {}
        observed: dict[str, Tensor] = {}
        for site in sites:
            value = site.by_observation(site.value, plate, rows)
            if value is None:
                continue
            if not site.layout_is_unknown:
                self.nested[site.name] = [nested.name for nested in site.layout(plate).nested]
            if not (site.is_deterministic or site.is_latent):
                observed[site.name] = value
            if site.name in discrete:
                drawn[site.name] = value
        return drawn | deterministic_values(sites, plate, rows), observed


def _grouped(found: Mapping[str, Tensor], chains: int) -> Groups:
    """Sort variables named ``"group/name"`` into groups: ``(chains, draws, N, ...)``, or ``(N, ...)`` in `DATA_GROUPS`."""
    groups: Groups = {}
    for key, value in found.items():
        group, _, name = key.partition("/")
        count = 1 if group.startswith("prior") else chains
        groups.setdefault(group, {})[name] = (
            value.squeeze(0) if group in DATA_GROUPS else value.unflatten(0, (count, -1))
        )
    return groups


def _named_arguments(model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Iterate over the names and values of arguments of the model, or of what stands for them."""
    try:
        bound = model.program.signature.bind(*args, **kwargs)
    except (TypeError, ValueError):  # the callable has no usable signature
        yield from ((f"argument_{i}", value) for i, value in enumerate(args))
        yield from kwargs.items()
        return
    for name, value in bound.arguments.items():
        if isinstance(value, tuple):
            yield from ((f"{name}_{i}", part) for i, part in enumerate(value))
        elif isinstance(value, dict):
            yield from value.items()
        else:
            yield name, value


def _columns(model: Model, x: Any) -> dict[str, Any]:
    """Return the columns of the data frames in the user's observations, by the names of the arguments of the model."""
    args, kwargs = ((), x) if isinstance(x, Mapping) else (x if isinstance(x, tuple) else (x,), {})
    return {
        name: part.columns
        for name, part in _named_arguments(model, args, kwargs)
        if hasattr(part, "iloc") and hasattr(part, "columns")
    }


def _without_observed_arguments(groups: Groups, columns: Mapping[str, Any]) -> tuple[Groups, dict[str, Any]]:
    """Omit the arguments that are observed sites from the constant data, and give their columns to these sites."""
    observed = groups.get("observed_data", {})
    constant: dict[str, Tensor] = {}
    labels: dict[str, Any] = {}
    for name, value in groups.pop("constant_data").items():
        same = [site for site, data in observed.items() if value.shape == data.shape and bool((value == data).all())]
        if not same:
            constant[name] = value
        labels |= {each: columns[name] for each in same or [name] if name in columns}
    return {**groups, "constant_data": constant} if constant else groups, labels
