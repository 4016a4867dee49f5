"""The requirements of exact enumeration on a model; the error for each violation says how to fix it."""

from __future__ import annotations

import math

from pyro.distributions import MaskedDistribution
from torch import Tensor

from amortvi.errors import ModelError, quoted
from amortvi.model.sites import Site, distribution_layers

__all__ = ["HOW_TO_BROADCAST", "check_enumerable", "check_inside", "check_unscaled", "fails_to_broadcast"]

HOW_TO_BROADCAST = (
    "The model must broadcast over a dimension of values to the left of all plates: index with 'means[y]' or Vindex, use '...' "
    "and negative dimensions, expand tensors before torch.cat, and use the states of a pyro.markov chain only inside it. See "
    "https://pyro.ai/examples/enumeration.html."
)


def check_enumerable(site: Site) -> None:
    """Raise `ModelError` unless the values of a discrete latent site can be enumerated."""
    name, kind = site.name, type(site.base_distribution).__name__
    if not site.distribution.has_enumerate_support:
        raise ModelError(
            f"latent site {name!r} is discrete ({kind}), and its values cannot be listed, so it cannot be summed out: use a "
            f"distribution with finitely many values, such as Categorical, Bernoulli or OneHotCategorical, in a plate instead of "
            f"to_event; sum it out in the model (a mixture with dist.MixtureSameFamily, in general with torch.logsumexp and "
            f"pyro.factor); or observe it with obs=."
        )
    if any(isinstance(part, MaskedDistribution) for part in distribution_layers(site.distribution)):
        raise ModelError(
            f"latent site {name!r} is discrete ({kind}) and has a mask in its distribution, with which its probabilities do not "
            f"sum to one: mask the observed sites instead, with pyro.poutine.mask."
        )


def check_inside(site: Site, plate: str) -> None:
    """Raise `ModelError` if a site that is discrete or depends on a discrete latent is outside the data plate."""
    if site.frame(plate) is not None:
        return
    if site.is_latent:
        raise ModelError(
            f"latent site {site.name!r} is discrete ({type(site.base_distribution).__name__}) and outside plate {plate!r}, so "
            f"it couples all observations and cannot be summed out for each of them: move it inside "
            f"'with pyro.plate({plate!r}, ...):', or observe it with obs=."
        )
    raise ModelError(
        f"site {site.name!r} depends on discrete latents in plate {plate!r}, but is outside it: move it inside "
        f"'with pyro.plate({plate!r}, ...):'."
    )


def check_unscaled(site: Site, plate: str) -> None:
    """Raise `ModelError` if a site that is discrete or depends on a discrete latent is scaled."""
    scale = site.own_scale(plate)
    if isinstance(scale, Tensor) or not math.isclose(scale, 1.0):
        raise ModelError(
            f"site {site.name!r} is scaled (poutine.scale, or a subsampled plate) and takes part in the sum over discrete "
            f"latents, where a scale would change the probabilities that are added: leave the site unscaled."
        )


def fails_to_broadcast(error: Exception) -> ModelError:
    """Return the error for a model that fails when its discrete latents take all their values at once."""
    return ModelError(
        f"the model fails when its discrete latents take all their values at once, to be summed out: {quoted(error)} "
        f"{HOW_TO_BROADCAST}"
    )
