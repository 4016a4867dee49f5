"""Sites with ``obs_mask=``: observed in part, with a discrete latent ``y_unobserved`` for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from amortvi.model.sites import Site

__all__ = ["complete_values", "observed_part", "partly_observed", "unobserved_part"]


def observed_part(name: str) -> str:
    """Return the name that Pyro gives to the observed part of a site with ``obs_mask=``."""
    return f"{name}_observed"


def unobserved_part(name: str) -> str:
    """Return the name that Pyro gives to the latent part of a site with ``obs_mask=``."""
    return f"{name}_unobserved"


def partly_observed(latent: str) -> str | None:
    """Return the name of the site with ``obs_mask=`` of which a latent is a part, or ``None`` if its name is not of that form."""
    name = latent.removesuffix(unobserved_part(""))
    return None if name == latent else name


def complete_values(sites: Sequence[Site], drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values of partly observed sites: those that were observed, and else those of the discrete latents.

    A run that draws data draws the observed part anew. But an observation whose class is known keeps it when the rest of its data
    are replicated.

    Args:
        sites: the sites of a run on the data.
        drawn: values of discrete latents in model layout, by name.

    Returns:
        For each site ``y`` of which the latent ``y_unobserved`` is in ``drawn``, the values of ``y`` in model layout.
    """
    by_name, found = {site.name: site for site in sites}, {}
    for latent, value in drawn.items():
        name = partly_observed(latent)
        site = None if name is None else by_name.get(observed_part(name))
        mask = None if site is None else site.message["mask"]
        if name is not None and site is not None and isinstance(mask, Tensor):
            known = mask.reshape(mask.shape + (1,) * site.distribution.event_dim)
            found[name] = torch.where(known, site.scored_value, value)
    return found
