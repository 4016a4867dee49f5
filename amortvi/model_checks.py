"""What a model must be for amortized inference, each breach with an error that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.distributions import Delta, MaskedDistribution, VonMises, VonMises3D
from torch import Tensor
from torch.distributions import constraints

from amortvi.errors import DataError, ModelError
from amortvi.observations import Batch
from amortvi.sites import Site, frames, is_deterministic, layers, plates

__all__ = [
    "check_latent",
    "check_local",
    "check_observed",
    "check_support",
    "find_plate",
    "own_subsample",
    "wrong_size",
]


def check_latent(site: Site) -> None:
    """Raise `ModelError` unless the site has a density over numbers that no mask takes away."""
    name, distribution = site["name"], site["fn"]
    base = layers(distribution)[-1]
    if distribution.support.is_discrete:
        raise ModelError(
            f"latent site {name!r} is discrete ({type(base).__name__}), and an amortized posterior here is continuous: sum "
            f"the site out in the model (for a mixture with dist.MixtureSameFamily, in general with torch.logsumexp and "
            f"pyro.factor), or give it obs=."
        )
    if isinstance(base, Delta):
        raise ModelError(
            f"latent site {name!r} is a point (Delta), which has no density to infer: use pyro.deterministic, or obs=."
        )
    if isinstance(base, VonMises | VonMises3D):
        raise ModelError(
            f"latent site {name!r} is an angle ({type(base).__name__}), whose density repeats itself over the real line, so "
            f"that no bound holds: take a normal latent in the plane, and its angle by torch.atan2."
        )
    # A mask that is true all over the example need not be so on the next batch.
    masks = [site["mask"], *(part._mask for part in layers(distribution) if isinstance(part, MaskedDistribution))]
    masked = any(mask is False or isinstance(mask, Tensor) for mask in masks)
    if masked and name.endswith("_unobserved"):
        of = name.removesuffix("_unobserved")
        raise ModelError(
            f"site {of!r} has obs_mask=, which makes each missing value a latent of its own: leave them out instead, by "
            f"writing 'with pyro.poutine.mask(mask=mask): pyro.sample({of!r}, ..., obs=...)'."
        )
    if masked:
        raise ModelError(
            f"latent site {name!r} stands under a mask, where its posterior would be without bound: mask the observed sites "
            f"only. A latent that nothing observes then keeps its prior, and the evidence is the same."
        )


def find_plate(sites: list[Site], latent: list[Site], example: Batch, observations: int, plate: str | None) -> str:
    """Return the name of the data plate.

    Args:
        sites: all of the model.
        latent: those that are not observed.
        example: what the model was run on.
        observations: the number of observations in the example.
        plate: the name, where the user gives it.

    Raises:
        ModelError: there is none, or there are two.
    """
    found = plates(sites)
    if not found:
        raise ModelError(
            "the model has no plate: put the latents and the observations of each row inside "
            "'with pyro.plate(\"data\", x.shape[0]):'."
        )
    if plate is not None and plate not in found:
        raise ModelError(f"plate={plate!r} is not in the model; its plates are {_listed(found)}.")
    loops = [frame.name for frame in found.values() if not frame.vectorized]
    if loops and (plate in loops or len(loops) == len(found)):
        raise ModelError(
            f"plate {loops[0]!r} is a Python loop; write 'with pyro.plate({loops[0]!r}, x.shape[0]):', so that all the "
            f"observations are handled at once."
        )
    sized = [name for name, frame in found.items() if frame.vectorized and frame.size == observations]
    if not sized or (plate is not None and plate not in sized):
        raise wrong_size(found, example, observations)
    holders = [name for name in sized if any(name in _names(site) for site in latent)]
    # A nested plate may be as large as the batch by chance; the data plate has every latent inside.
    complete = [name for name in holders if all(name in _names(site) for site in latent)]
    holders = complete if len(complete) == 1 else holders
    if plate is not None:
        return plate
    if not holders:
        raise ModelError(
            f"plate {sized[0]!r} has no latent inside: the latents "
            f"{[site['name'] for site in latent]} stand outside it. Each observation needs a latent of its own: sample one "
            f"inside."
        )
    if len(holders) > 1:
        raise ModelError(
            f"several plates of the batch's size {observations} have latents inside: {holders}. Say which one is over the "
            f"observations with plate=..."
        )
    return holders[0]


def _names(site: Site) -> list[str]:
    return [frame.name for frame in frames(site)]


def check_local(latent: list[Site], plate: str) -> None:
    """Raise `ModelError` unless every latent stands inside the data plate."""
    for site in latent:
        if plate not in _names(site):
            raise ModelError(
                f"latent site {site['name']!r} stands outside plate {plate!r}, so all observations share it, and an encoder of "
                f"one observation cannot know it: make it a parameter (pyro.param, PyroParam or nn.Parameter), or move "
                f"it inside the plate."
            )


def check_observed(sites: list[Site], plate: str, example: Batch, observations: int) -> None:
    """Every observation must belong to a row of the data plate; what stands outside is of the data set as a whole."""
    observed = [site for site in sites if site["is_observed"] and not is_deterministic(site)]
    data = {value.untyped_storage().data_ptr() for value in example.tensors()}
    for site in observed:
        sizes = {frame.name: frame.size for frame in frames(site)}
        others = [name for name, size in sizes.items() if size == observations]
        value = site["value"]
        is_data = isinstance(value, Tensor) and value.numel() and value.untyped_storage().data_ptr() in data
        if plate not in sizes and (others or is_data):
            where = f"in plate {others[0]!r}" if others else "in no plate"
            raise ModelError(
                f"observed site {site['name']!r} stands {where}, its latents in plate {plate!r}: put it inside "
                f"'with pyro.plate({plate!r}, ...):' too, so that each row's log-probability is known."
            )
    if not any(plate in _names(site) for site in observed):
        raise ModelError(
            f"nothing is observed inside plate {plate!r}, so the posterior is the prior: give the data to a pyro.sample "
            f"with obs=x there."
        )


def check_support(site: Site) -> None:
    """Raise `DataError` if an observed site is given values outside the support of its distribution.

    Only a support that is the same whatever the latents and parameters are says something of the data.
    """
    support = site["fn"].support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if any(isinstance(bound, Tensor) for bound in vars(support).values()) or not isinstance(site["value"], Tensor):
        return
    within = support.check(site["value"])
    if bool(within.all()):
        return
    outside = site["value"][~within]
    raise DataError(
        f"observed site {site['name']!r} ({type(layers(site['fn'])[-1]).__name__}) takes values in the support {support}, and "
        f"{len(outside)} of the {within.numel()} that a batch gives it are outside, the first of them "
        f"{outside[0].tolist()}: choose a likelihood that fits the data, or clean them."
    )


def own_subsample(plate: str) -> str:
    """Say what is wrong with a plate that chooses rows at random, and what to do."""
    return (
        f"plate {plate!r} draws a subsample of its own (subsample_size=...), where the batches are made for the model: "
        f"write pyro.plate({plate!r}, x.shape[0]), or pyro.plate({plate!r}, N, subsample=x) with the number N of all "
        f"observations."
    )


def wrong_size(found: Mapping[str, Any], example: Batch, observations: int) -> ModelError:
    """Return the error for a model none of whose plates has the size of the batch."""
    return ModelError(
        f"no plate has the size of the batch: the example has {observations} observations ({example.describe('x')}), the "
        f"model's plates are {_listed(found)}. Write pyro.plate('data', x.shape[0]) or pyro.plate('data', N, subsample=x)."
    )


def _listed(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{frame.name!r} of size {frame.size}" for frame in found.values())
