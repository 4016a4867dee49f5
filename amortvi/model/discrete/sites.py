"""The discrete latent sites of one observation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amortvi.model.plates import PlateLayout
from amortvi.model.sites import Site

__all__ = ["DiscreteSite"]


@dataclass(frozen=True)
class DiscreteSite:
    """One discrete latent site inside the data plate.

    Args:
        name: the name of the site.
        layout: the plates around it.
        values: the values of its support in the order of ``enumerate_support``, ``(V, *event)``.
    """

    name: str
    layout: PlateLayout
    values: Tensor

    @classmethod
    def read(cls, site: Site, plate: str) -> DiscreteSite:
        """Return the description of a site in the data plate ``plate`` whose support can be enumerated."""
        values = site.distribution.enumerate_support(expand=False)
        event = site.distribution.event_shape
        return cls(site.name, site.layout(plate), values.detach().reshape(values.shape[0], *event))

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one value."""
        return self.values.shape[1:]

    def first(self, observations: int) -> Tensor:
        """Return its first value for each observation, in model layout."""
        return self.at(
            torch.zeros(observations, *self.layout.nested_shape, dtype=torch.long, device=self.values.device)
        )

    def at(self, positions: Tensor) -> Tensor:
        """Return the values at positions ``(B, *nested)``, in model layout."""
        return self.layout.to_model(self.values.to(positions.device)[positions])

    def positions(self, rows: Tensor) -> Tensor:
        """Return the positions of values in observation layout, ``(B, *nested, *event)``, among all values, ``(B, *nested)``."""
        lead, values = rows.shape[: rows.dim() - len(self.event_shape)], self.values.to(rows)
        same = rows.reshape(*lead, 1, -1) == values.reshape(len(values), -1)
        return same.all(-1).long().argmax(-1)
