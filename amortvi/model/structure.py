"""The structure of a model: its data plate and its latent sites, read from one run on an example."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import torch
from pyro.util import check_site_shape
from torch import Tensor
from torch.distributions import Normal
from torch.distributions.constraints import Constraint

from amortvi.data import Batch
from amortvi.errors import AmortviError, ModelError, quoted
from amortvi.model.discrete import DiscreteSite, check_enumeration, check_inside
from amortvi.model.global_sites import GlobalSite, check_fixed, global_site
from amortvi.model.latents import LatentSite, LatentVector
from amortvi.model.program import Program
from amortvi.model.requirements import (
    check_latent,
    check_observed,
    check_support,
    find_plate,
    nothing_to_predict,
    plate_draws_rows,
    wrong_plate_size,
)
from amortvi.model.sites import Site, SiteReader, plate_frames
from amortvi.model.supports import common_support, fixed_support, has_bijection

__all__ = ["ModelStructure", "read_structure"]


@dataclass(frozen=True)
class ModelStructure:
    """The structure of a model.

    Args:
        plate: the name of the data plate.
        dim: its batch dimension, negative.
        full_size: the declared size of the plate if the observations are a subsample, else ``None``.
        latents: the latent sites of one observation.
        globals: the latent sites outside the data plate, shared by all observations.
        discrete: the discrete latent sites of one observation, which are summed out.
        discrete_priors: whether the prior of a latent in ``latents`` depends on a discrete one.
        nesting: the number of dimensions that plates take; enumerated values are to the left of them.
        standard_normal_prior: whether the prior of every latent is a fixed ``N(0, I)``.
        predicted: the observed and deterministic sites in the data plate, of which new values can be drawn.
        unvalidated: the observed sites whose distribution has ``validate_args=False``, so that any data are accepted.
    """

    plate: str
    dim: int
    full_size: int | None
    latents: LatentVector
    globals: tuple[GlobalSite, ...]
    discrete: tuple[DiscreteSite, ...]
    discrete_priors: bool
    nesting: int
    standard_normal_prior: bool
    predicted: tuple[str, ...]
    unvalidated: frozenset[str]

    def check_predicts(self) -> None:
        """Raise `ModelError` if the model has neither an observed nor a deterministic site of which values can be drawn."""
        if not self.predicted:
            raise nothing_to_predict(self.plate)


def read_structure(program: Program, example: Batch, observations: int, plate: str | None) -> ModelStructure:
    """Run a model on an example and read its structure.

    Args:
        program: the model.
        example: the arguments of the call.
        observations: the number of observations in the example.
        plate: the name of the data plate; by default the plate of batch size that contains the latents.

    Raises:
        ModelError: the model fails or is not supported; see `amortvi.model.requirements`.
        DataError: a value is outside the support of the likelihood.
    """
    sites, random_plates = _run(program, example, observations)
    latent = [site for site in sites if site.is_latent]
    if not latent:
        raise ModelError(
            "the model has no latent site, because every pyro.sample has obs=, so there is no posterior to infer: omit obs= "
            "where a value is to be inferred."
        )
    for site in latent:
        check_latent(site)
    name = find_plate(sites, latent, example, observations, plate)
    if name in random_plates:
        raise plate_draws_rows(name)
    check_observed(sites, name, example, observations)
    discrete = _discrete_sites(latent, name)
    local, shared = _latents_by_place(latent, name)
    if not local:
        raise ModelError(
            f"all latents in plate {name!r} are discrete ({', '.join(discrete)}), so there is no continuous one whose posterior "
            f"could be amortized: the exact posterior of discrete latents alone is available from pyro.infer.infer_discrete."
        )
    if shared and observations > 1:
        fewer = _run(program, example.take(slice(0, observations - 1)), observations - 1)[0]
        local_again, shared_again = _latents_by_place(fewer, name)
        check_fixed([*local, *shared], [*local_again, *shared_again], name)
    frames = [frame for site in latent for frame in site.plates if frame.name == name]
    if len({frame.dim for frame in frames}) > 1:
        raise ModelError(
            f"plate {name!r} has different dimensions for different latents: fix it with pyro.plate({name!r}, ..., dim=-1)."
        )
    full_size = frames[0].full_size
    nesting = _nesting(sites)
    mixed = check_enumeration(program, example, sites, discrete, name, nesting) if discrete else frozenset()
    return ModelStructure(
        plate=name,
        dim=frames[0].dim,
        full_size=full_size if full_size != observations else None,
        latents=LatentVector(local),
        globals=tuple(shared),
        discrete=tuple(discrete.values()),
        discrete_priors=bool(mixed),
        nesting=nesting,
        standard_normal_prior=not mixed and _has_standard_normal_prior(program, example, latent, name),
        predicted=tuple(site.name for site in sites if _is_predicted(site, name, observations)),
        unvalidated=_unvalidated(sites),
    )


def _run(program: Program, example: Batch, observations: int) -> tuple[list[Site], list[str]]:
    """Return the sites of one run, checked as Pyro checks them, and the plates that select rows at random."""
    reader = SiteReader()
    try:
        with pyro.validation_enabled(True), torch.enable_grad():
            with reader:
                program(*example.args, **example.kwargs)
            names = [site.name for site in reader]
            for name in names:
                if names.count(name) > 1:
                    raise ModelError(
                        f"the model has several sites named {name!r}: give each pyro.sample a name of its own."
                    )
            for site in reader:
                if site.is_latent:
                    # First, because validation would find a draw outside the support of another component.
                    common_support(site.name, site.support)
                elif site.is_data and site.is_validated:
                    check_support(site)
            for site in reader:
                site.message["log_prob"] = _log_prob(site)  # read by check_site_shape
            for site in reader:
                check_site_shape(site.message, _nesting(reader.sites))
    except AmortviError:
        raise
    except Exception as error:  # the user's program can raise anything; the message says what it was called with
        _check_sizes(reader, example, observations, error)
        hint = example.hint() if isinstance(error, TypeError) else ""
        raise ModelError(f"the model failed on {example.describe('x')}: {quoted(error)}{hint}") from error
    _check_sizes(reader, example, observations, None)
    return reader.sites, reader.random_plates


def _nesting(sites: list[Site]) -> int:
    """Return the number of dimensions that plates take."""
    return max((-frame.dim for site in sites for frame in site.plates), default=0)


def _log_prob(site: Site) -> Tensor:
    """Return the log-probability of a site; an error about the shape of its value names the site."""
    try:
        return site.log_prob()
    except ValueError as error:
        raise ValueError(f"at site {site.name!r}: {error}") from error


def _check_sizes(reader: SiteReader, example: Batch, observations: int, error: Exception | None) -> None:
    """Raise `ModelError` if no plate has the size of the batch, the cause of many different errors in a model."""
    found = plate_frames(reader)
    vectorized = [frame for frame in found.values() if frame.vectorized]
    if any(frame.size == observations for frame in vectorized):
        return
    if reader.random_plates:
        raise plate_draws_rows(reader.random_plates[0]) from error
    if vectorized:
        raise wrong_plate_size(found, example, observations) from error


def _unvalidated(sites: list[Site]) -> frozenset[str]:
    with pyro.validation_enabled(True):  # as when the distributions were created
        return frozenset(site.name for site in sites if site.is_data and not site.is_validated)


def _is_predicted(site: Site, plate: str, observations: int) -> bool:
    return not site.is_latent and site.by_observation(site.value, plate, observations) is not None


def _latents_by_place(sites: list[Site], plate: str) -> tuple[list[LatentSite], list[GlobalSite]]:
    """Return the continuous latent sites inside and outside the data plate."""
    local, shared = list[LatentSite](), list[GlobalSite]()
    for site in sites:
        if not site.is_latent or site.is_discrete:
            continue
        _check_plates(site, plate)
        if site.frame(plate) is None:
            shared.append(global_site(site))
            _check_bijection(site.name, shared[-1].support)
        else:
            local.append(_latent_site(site, plate))
    return local, shared


def _discrete_sites(latent: list[Site], plate: str) -> dict[str, DiscreteSite]:
    """Return the discrete latent sites by name, all of which must be inside the data plate."""
    found = {}
    for site in latent:
        if site.is_discrete:
            _check_plates(site, plate)
            check_inside(site, plate)
            found[site.name] = DiscreteSite.read(site, plate)
    return found


def _check_plates(site: Site, plate: str) -> None:
    for frame in site.plates:
        if frame.name != plate and frame.full_size != frame.size:
            raise ModelError(
                f"latent site {site.name!r} is in plate {frame.name!r}, which selects {frame.size} of {frame.full_size} at "
                f"random, so its position does not identify a latent: make that plate complete."
            )


def _check_bijection(name: str, support: Constraint) -> None:
    if not has_bijection(support):
        raise ModelError(
            f"no bijection from unconstrained numbers to the support {support} of latent site {name!r} is known: sample "
            f"a latent with another support and transform it in the model."
        )


def _latent_site(site: Site, plate: str) -> LatentSite:
    layout = site.layout(plate)
    support = fixed_support(site.name, site.support, layout)
    _check_bijection(site.name, support)
    return LatentSite(site.name, layout, site.distribution.event_shape, support)


def _has_standard_normal_prior(program: Program, example: Batch, latent: list[Site], plate: str) -> bool:
    """Whether the prior of every latent in the data plate is ``N(0, I)`` for any data, not only on the example.

    Gradients reveal a prior that depends on the data, for example on a covariate that is zero in the example, or on a global
    latent.
    """
    if not all(_is_standard_normal(site, plate) for site in latent if _is_local(site, plate)):
        return False

    def tracked(value: Tensor) -> Tensor:
        return value.detach().clone().requires_grad_().clone() if value.is_floating_point() else value

    inputs = example.map(tracked)
    reader = SiteReader(values={site.name: tracked(site.value) for site in latent if site.frame(plate) is None})
    try:
        with torch.enable_grad(), reader:
            program(*inputs.args, **inputs.kwargs)
    except Exception:  # the program does not accept inputs that require gradients: the prior is then taken to vary
        return False
    return all(_is_standard_normal(site, plate) for site in reader if site.is_latent and _is_local(site, plate))


def _is_local(site: Site, plate: str) -> bool:
    return site.frame(plate) is not None and not site.is_discrete


def _is_standard_normal(site: Site, plate: str) -> bool:
    base = site.base_distribution
    if not isinstance(base, Normal) or base.loc.requires_grad or base.scale.requires_grad:
        return False
    return not site.is_weighted(plate) and bool((base.loc == 0).all()) and bool((base.scale == 1).all())
