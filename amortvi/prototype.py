"""What a Pyro model is made of: its data plate and the latent sites in it, read from one run on an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.util import check_site_shape
from torch import Tensor
from torch.distributions import Normal

from amortvi.errors import AmortviError, ModelError, quoted
from amortvi.latents import LatentSite, LatentVector, fixed_support, has_bijection
from amortvi.model_checks import (
    check_latent,
    check_local,
    check_observed,
    check_support,
    find_plate,
    own_subsample,
    wrong_size,
)
from amortvi.observations import Batch
from amortvi.plates import PlateLayout
from amortvi.sites import Site, frames, is_data, is_subsample, is_weighted, layers, plates

__all__ = ["Prototype", "read_model"]


@dataclass(frozen=True)
class Prototype:
    """The structure of a model.

    Args:
        plate: the name of the data plate.
        dim: its batch dimension, negative.
        full_size: the size that the plate declares where its observations are a subsample, else ``None``.
        latents: the latent sites of one observation.
        standard_normal_prior: whether every latent's prior is ``N(0, I)``, fixed.
    """

    plate: str
    dim: int
    full_size: int | None
    latents: LatentVector
    standard_normal_prior: bool


def read_model(model: Callable[..., Any], example: Batch, observations: int, plate: str | None) -> Prototype:
    """Run ``model`` on ``example`` and find its data plate and latents.

    Args:
        model: the Pyro model.
        example: arguments to call it with.
        observations: the number of observations in the example.
        plate: the name of the data plate; ``None`` finds the one plate of that size with a latent inside.

    Raises:
        ModelError: the model fails, or has no plate, no latent in it, two candidates, a discrete latent, a latent outside
            the plate, or a plate whose size is not the batch.
    """
    sites, subsampled = _trace(model, example, observations)
    latent = [site for site in sites if not site["is_observed"]]
    if not latent:
        raise ModelError(
            "the model has no latent site, as every pyro.sample has obs=, so there is no posterior to find: leave obs= out "
            "where a value is to be inferred."
        )
    for site in latent:
        check_latent(site)
    name = find_plate(sites, latent, example, observations, plate)
    if name in subsampled:
        raise ModelError(own_subsample(name))
    check_local(latent, name)
    check_observed(sites, name, example, observations)
    frames = [frame for site in latent for frame in site["cond_indep_stack"] if frame.name == name]
    if len({frame.dim for frame in frames}) > 1:
        raise ModelError(
            f"plate {name!r} stands at different dimensions for different latents: give it a fixed one, as in "
            f"pyro.plate({name!r}, ..., dim=-1)."
        )
    full_size = frames[0].full_size
    return Prototype(
        plate=name,
        dim=frames[0].dim,
        full_size=full_size if full_size != observations else None,
        latents=LatentVector([_latent_site(site, name) for site in latent]),
        standard_normal_prior=_has_standard_normal_prior(model, example, latent, name),
    )


def _trace(model: Callable[..., Any], example: Batch, observations: int) -> tuple[list[Site], list[str]]:
    """The sample sites of one run, checked as Pyro checks them, and the plates that choose rows at random themselves."""
    tracer = poutine.trace()
    subsampled = _SubsampledPlates()
    try:
        with pyro.validation_enabled(True), torch.enable_grad():
            with subsampled, tracer:
                model(*example.args, **example.kwargs)
            sites = _sample_sites(tracer.trace)
            for site in sites:
                if is_data(site):
                    check_support(site)
            tracer.trace.compute_log_prob()
            nesting = max((-frame.dim for site in sites for frame in frames(site)), default=0)
            for site in sites:
                check_site_shape(site, nesting)
    except AmortviError:
        raise
    except Exception as error:
        _check_sizes(tracer.trace, subsampled.names, example, observations, error)
        hint = example.hint() if isinstance(error, TypeError) else ""
        # Whatever a user's program raises on its example is the user's to see, with what it was called with.
        raise ModelError(f"the model failed on {example.describe('x')}: {quoted(error)}{hint}") from error
    _check_sizes(tracer.trace, subsampled.names, example, observations, None)
    return sites, subsampled.names


def _check_sizes(trace: Any, subsampled: list[str], example: Batch, observations: int, error: Exception | None) -> None:
    """Raise `ModelError` if no plate has the size of the batch, which shows as one of many errors in the model."""
    found = plates(_sample_sites(trace))
    sized = [frame for frame in found.values() if frame.vectorized]
    if subsampled and not any(frame.size == observations for frame in sized):
        raise ModelError(own_subsample(subsampled[0])) from error
    if sized and not any(frame.size == observations for frame in sized):
        raise wrong_size(found, example, observations) from error


class _SubsampledPlates(Messenger):
    """Notes the plates that choose rows at random themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) and msg["value"] is None:
            size = msg["fn"].subsample_size
            if size is not None and size < msg["fn"].size:
                self.names.append(msg["name"])


def _sample_sites(trace: Any) -> list[Site]:
    return [site for site in trace.nodes.values() if site["type"] == "sample" and not is_subsample(site)]


def _latent_site(site: Site, plate: str) -> LatentSite:
    for frame in frames(site):
        if frame.name != plate and frame.full_size != frame.size:
            raise ModelError(
                f"latent site {site['name']!r} stands in plate {frame.name!r}, which takes {frame.size} of {frame.full_size} "
                f"at random, so its place says nothing about which latent it is: let that plate be complete."
            )
    layout = PlateLayout.of_site(site, plate)
    support = fixed_support(site["name"], site["fn"].support, layout)
    if not has_bijection(support):
        raise ModelError(
            f"the support {support} of latent site {site['name']!r} cannot be reached one to one from unconstrained numbers: "
            f"sample a latent with another support and map it there in the model."
        )
    return LatentSite(site["name"], layout, site["fn"].event_shape, support)


def _has_standard_normal_prior(model: Callable[..., Any], example: Batch, latent: list[Site], plate: str) -> bool:
    """Whether every latent's prior is ``N(0, I)`` for any data, not only on the example.

    A prior that depends on the data, by a covariate that happens to be zero in the example, shows in a gradient.
    """
    if not all(_is_standard_normal(site, plate) for site in latent):
        return False

    def traced(value: Tensor) -> Tensor:
        return value.detach().clone().requires_grad_().clone() if value.is_floating_point() else value

    followed = example.map(traced)
    try:
        with torch.enable_grad(), poutine.trace() as tracer:
            model(*followed.args, **followed.kwargs)
    except Exception:
        return False  # the model takes no data with gradients: then nothing is known, and nothing promised
    names = {site["name"] for site in latent}
    return all(_is_standard_normal(site, plate) for site in _sample_sites(tracer.trace) if site["name"] in names)


def _is_standard_normal(site: Site, plate: str) -> bool:
    base = layers(site["fn"])[-1]
    if not isinstance(base, Normal) or base.loc.requires_grad or base.scale.requires_grad:
        return False
    return not is_weighted(site, plate) and bool((base.loc == 0).all()) and bool((base.scale == 1).all())
