"""What a Pyro model is made of: its data plate and the latent sites in it, read from one run on an example."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import ExpandedDistribution
from pyro.util import check_site_shape
from torch.distributions import Independent, Normal

from amortvi.errors import AmortviError, ModelError
from amortvi.latents import LatentSite, LatentVector, fixed_support
from amortvi.observations import Batch
from amortvi.plates import PlateLayout

__all__ = ["Prototype", "read_model"]

Site = dict[str, Any]


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
    sites = _trace(model, example)
    latent = [site for site in sites if not site["is_observed"]]
    if not latent:
        raise ModelError("the model has no latent site: every pyro.sample has obs=, so there is no posterior to find.")
    _check_continuous(latent)
    name = _find_plate(sites, latent, example, observations, plate)
    _check_local(latent, name)
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
        standard_normal_prior=all(_is_standard_normal(site, name) for site in latent),
    )


def _trace(model: Callable[..., Any], example: Batch) -> list[Site]:
    """The sample sites of one run, checked as Pyro checks them."""
    try:
        with pyro.validation_enabled(True), torch.enable_grad():
            trace = poutine.trace(model).get_trace(*example.args, **example.kwargs)
            trace.compute_log_prob()
            sites = [site for site in trace.nodes.values() if site["type"] == "sample" and not is_subsample(site)]
            nesting = max((-frame.dim for site in sites for frame in _frames(site)), default=0)
            for site in sites:
                check_site_shape(site, nesting)
    except AmortviError:
        raise
    except Exception as error:
        # Whatever a user's program raises on its example is the user's to see, with what it was called with.
        raise ModelError(f"the model failed on {example.describe('x')}: {type(error).__name__}: {error}") from error
    return sites


def is_subsample(site: Any) -> bool:
    """Whether a sample message is the choice of rows that a plate makes, not a site of the model's own."""
    return type(site["fn"]).__name__ == "_Subsample"


def _frames(site: Site) -> Iterable[Any]:
    return (frame for frame in site["cond_indep_stack"] if frame.vectorized)


def _check_continuous(latent: list[Site]) -> None:
    for site in latent:
        if site["fn"].support.is_discrete:
            raise ModelError(
                f"latent site {site['name']!r} is discrete ({type(site['fn']).__name__}), and an amortized posterior here "
                f"is continuous: sum the site out in the model (for a mixture with dist.MixtureSameFamily, in general "
                f"with torch.logsumexp and pyro.factor), or give it obs=."
            )


def _find_plate(sites: list[Site], latent: list[Site], example: Batch, observations: int, plate: str | None) -> str:
    found = {frame.name: frame for site in sites for frame in site["cond_indep_stack"]}
    if not found:
        raise ModelError(
            "the model has no plate: put the latents and the observations of each row inside "
            "'with pyro.plate(\"data\", x.shape[0]):'."
        )
    listed = ", ".join(f"{frame.name!r} of size {frame.size}" for frame in found.values())
    if plate is not None and plate not in found:
        raise ModelError(f"plate={plate!r} is not in the model; its plates are {listed}.")
    loops = [frame.name for frame in found.values() if not frame.vectorized]
    if loops and (plate in loops or len(loops) == len(found)):
        raise ModelError(
            f"plate {loops[0]!r} is a Python loop; write 'with pyro.plate({loops[0]!r}, x.shape[0]):', so that all the "
            f"observations are handled at once."
        )
    sized = [name for name, frame in found.items() if frame.vectorized and frame.size == observations]
    if not sized or (plate is not None and plate not in sized):
        raise ModelError(
            f"no plate has the size of the batch: the example has {observations} observations ({example.describe('x')}), "
            f"the model's plates are {listed}. Write pyro.plate('data', x.shape[0]) or "
            f"pyro.plate('data', N, subsample=x); a plate must not draw a subsample of its own, since batches are made "
            f"for it."
        )
    holders = [name for name in sized if any(name in map(_name, _frames(site)) for site in latent)]
    if plate is not None:
        return plate
    if not holders:
        raise ModelError(
            f"plate {sized[0]!r} has no latent inside: the latents "
            f"{[site['name'] for site in latent]} stand outside it. Each observation needs a latent of its own."
        )
    if len(holders) > 1:
        raise ModelError(
            f"several plates of the batch's size {observations} have latents inside: {holders}. Say which one is over the "
            f"observations with plate=..."
        )
    return holders[0]


def _name(frame: Any) -> Any:
    return frame.name


def _check_local(latent: list[Site], plate: str) -> None:
    for site in latent:
        if plate not in map(_name, _frames(site)):
            raise ModelError(
                f"latent site {site['name']!r} stands outside plate {plate!r}, so all observations share it, and an encoder of "
                f"one observation cannot know it: make it a parameter (pyro.param, PyroParam or nn.Parameter), or move "
                f"it inside the plate."
            )


def _latent_site(site: Site, plate: str) -> LatentSite:
    for frame in _frames(site):
        if frame.name != plate and frame.full_size != frame.size:
            raise ModelError(
                f"latent site {site['name']!r} stands in plate {frame.name!r}, which takes {frame.size} of {frame.full_size} "
                f"at random, so its place says nothing about which latent it is: let that plate be complete."
            )
    layout = PlateLayout.of_site(site, plate)
    support = fixed_support(site["name"], site["fn"].support, layout)
    return LatentSite(site["name"], layout, site["fn"].event_shape, support)


def _is_standard_normal(site: Site, plate: str) -> bool:
    base = site["fn"]
    while isinstance(base, Independent | ExpandedDistribution):
        base = base.base_dist
    if not isinstance(base, Normal) or base.loc.requires_grad or base.scale.requires_grad:
        return False
    weighted = site["mask"] is not None or own_scale(site, plate) != 1
    return not weighted and bool((base.loc == 0).all()) and bool((base.scale == 1).all())


def own_scale(site: Any, plate: str) -> Any:
    """The site's scale without the data plate's: weights are for one observation, however it was subsampled."""
    for frame in site["cond_indep_stack"]:
        if frame.name == plate and frame.full_size != frame.size:
            return site["scale"] * frame.size / frame.full_size
    return site["scale"]
