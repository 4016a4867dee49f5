"""Sites with ``obs_mask=``: observed in part, with a discrete latent ``y_unobserved`` for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from amortvi.model.sites import Site

__all__ = ["complete_values"]


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
    observed = {site.name.removesuffix("_observed"): site for site in sites if site.name.endswith("_observed")}
    found = {}
    for latent, value in drawn.items():
        name = latent.removesuffix("_unobserved")
        if name != latent and name in observed and isinstance(observed[name].message["mask"], Tensor):
            site = observed[name]
            mask = site.message["mask"]
            known = mask.reshape(mask.shape + (1,) * site.distribution.event_dim)
            found[name] = torch.where(known, site.scored_value, value)
    return found
