"""Global latents: the latent sites outside the data plate, whose values all observations share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints

from amortvi._util.memory import spans
from amortvi.errors import ModelError
from amortvi.model.latents import LatentSite, element_labels
from amortvi.model.sites import Site
from amortvi.model.supports import fixed_global_support, same_bounds

__all__ = ["GlobalSite", "check_fixed", "draw_spans", "global_site"]


@dataclass(frozen=True)
class GlobalSite:
    """One latent site outside the data plate.

    Args:
        name: the name of the site.
        shape: the shape of its value, ``(*plates, *event)``.
        support: the support.
    """

    name: str
    shape: torch.Size
    support: constraints.Constraint

    @property
    def labels(self) -> list[str]:
        """A label for each element of the site."""
        return element_labels(self.name, self.shape)


def global_site(site: Site) -> GlobalSite:
    """Return the description of a latent site outside the data plate; raise `ModelError` if its support is not fixed."""
    return GlobalSite(site.name, site.value.shape, fixed_global_support(site.name, site.support))


def check_fixed(sites: Sequence[LatentSite | GlobalSite], again: Sequence[LatentSite | GlobalSite], plate: str) -> None:
    """Raise `ModelError` unless the latent sites are the same in two runs of the model.

    Args:
        sites: the latent sites of a run on some observations.
        again: those of a run on fewer observations, with other values of the latents.
        plate: the name of the data plate.
    """
    others = {site.name: site for site in again}
    for site in sites:
        other = others.get(site.name)
        if other is None or (isinstance(site, GlobalSite) and site.shape != other.shape):
            found = "missing" if other is None else f"of shape {tuple(other.shape)}"
            raise ModelError(
                f"latent site {site.name!r} is outside plate {plate!r}, so all observations share it, but it depends on their "
                f"number: it has shape {tuple(site.shape)} for one batch and is {found} for a smaller one. If each observation "
                f"has a value of its own, move the site inside 'with pyro.plate({plate!r}, ...):'."
            )
        if not same_bounds(site.support, other.support):
            raise ModelError(
                f"the support of latent site {site.name!r}, {site.support}, differs from run to run, because its bounds depend "
                f"on other latents, so no single posterior covers it: sample a site with a fixed support, and shift and scale "
                f"it in the model."
            )


def draw_spans(
    theta: Mapping[str, Tensor] | None, draws: int, at_once: int
) -> Iterator[tuple[range, Mapping[str, Tensor] | None]]:
    """Split draws into ranges for which one run of the model suffices, each with its values of the global latents.

    Draws with different global latents need separate runs, because any code of the user may depend on them.

    Args:
        theta: the global latents of each draw, ``(draws, *shape)``; empty or ``None`` if the draws share theirs.
        draws: the number of draws.
        at_once: the number of draws that fit in memory together.

    Example:
        >>> [span for span, _ in draw_spans(None, 5, 2)]
        [range(0, 2), range(2, 4), range(4, 5)]
        >>> [(span, float(theta["mu"])) for span, theta in draw_spans({"mu": torch.tensor([0.5, 0.75])}, 2, 2)]
        [(range(0, 1), 0.5), (range(1, 2), 0.75)]
    """
    if not theta:
        yield from ((span, None) for span in spans(draws, at_once))
        return
    yield from ((range(k, k + 1), {name: value[k] for name, value in theta.items()}) for k in range(draws))
