"""The latent sites of one observation as one unconstrained vector, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.distributions.transforms import identity_transform

from amortvi.errors import DataError
from amortvi.model.plates import PlateLayout
from amortvi.model.supports import bijection

__all__ = ["LatentSite", "LatentVector", "element_labels", "sum_from"]


@dataclass(frozen=True)
class LatentSite:
    """One latent site inside the data plate.

    Args:
        name: the name of the site.
        layout: the plates around it.
        event_shape: the shape of one value in its own support.
        support: the support; tensor bounds are those of one observation, in observation layout.
    """

    name: str
    layout: PlateLayout
    event_shape: torch.Size
    support: constraints.Constraint

    @property
    def transform(self) -> Transform:
        """The bijection from unconstrained numbers to the support."""
        return bijection(self.support)

    @property
    def is_unconstrained(self) -> bool:
        """Whether the transform is the identity."""
        return self.transform is identity_transform

    @property
    def is_elementwise(self) -> bool:
        """Whether the transform maps each number separately."""
        return bool(self.transform.domain.event_dim == 0)

    @property
    def shape(self) -> torch.Size:
        """The shape of the site for one observation, ``(*nested, *event)``."""
        return torch.Size(self.layout.nested_shape) + self.event_shape

    @property
    def unconstrained_shape(self) -> torch.Size:
        """The shape of the unconstrained site for one observation."""
        if self.is_elementwise:
            return self.shape
        return torch.Size(self.transform.inverse_shape(self.shape))

    @property
    def size(self) -> int:
        """The number of unconstrained coordinates of the site."""
        return self.unconstrained_shape.numel()

    @property
    def labels(self) -> list[str]:
        """A label for each element of the site."""
        return element_labels(self.name, self.shape)

    def constrain(self, unconstrained: Tensor, observation_dim: int) -> tuple[Tensor, Tensor | None]:
        """Map unconstrained values ``(*S, B, *unconstrained_shape)`` to the support.

        Args:
            unconstrained: the values.
            observation_dim: the position of ``B``.

        Returns:
            The value ``(*S, B, *shape)`` and ``log |det J|`` of the transform, ``(*S, B, *nested)``, or ``None`` if it is zero.
        """
        if self.is_unconstrained:
            return unconstrained, None
        transform = self.transform
        value = transform(unconstrained)
        log_det = transform.log_abs_det_jacobian(unconstrained, value)
        return value, sum_from(log_det, observation_dim + 1 + len(self.layout.nested))


def sum_from(tensor: Tensor, dim: int) -> Tensor:
    """Sum over dimension ``dim`` and all that follow."""
    return tensor if tensor.dim() <= dim else tensor.flatten(dim).sum(-1)


def element_labels(name: str, shape: torch.Size) -> list[str]:
    """Return a label for each element of a site: its name, with the position if the site is not a scalar."""
    return [f"{name}[{', '.join(map(str, position))}]" if shape else name for position in np.ndindex(*shape)]


class LatentVector:
    """The latent sites of one observation, flattened to a vector of ``dim`` unconstrained coordinates.

    Args:
        sites: the latent sites, in the order of the model.

    Example:
        >>> from pyro.distributions import constraints
        >>> from amortvi.model.plates import PlateLayout
        >>> layout = PlateLayout(dim=-1, nested=(), event_dim=1)
        >>> vector = LatentVector([LatentSite("z", layout, torch.Size([3]), constraints.real_vector)])
        >>> vector.dim, vector.labels
        (3, ['z[0]', 'z[1]', 'z[2]'])
    """

    def __init__(self, sites: list[LatentSite]) -> None:
        self.sites = tuple(sites)
        self.dim = sum(site.size for site in self.sites)

    @property
    def names(self) -> set[str]:
        """The names of the sites."""
        return {site.name for site in self.sites}

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The unconstrained shape of each site."""
        return {site.name: site.unconstrained_shape for site in self.sites}

    @property
    def labels(self) -> list[str]:
        """A label for each coordinate of the vector: its site and its position there."""
        return [label for site in self.sites for label in element_labels(site.name, site.unconstrained_shape)]

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Split ``(*B, dim)`` into the unconstrained sites, ``(*B, *unconstrained_shape)``."""
        parts = vector.split([site.size for site in self.sites], dim=-1)
        return {
            site.name: part.reshape(vector.shape[:-1] + site.unconstrained_shape)
            for site, part in zip(self.sites, parts, strict=True)
        }

    def constrain(self, vector: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Map the vector to the sites.

        Args:
            vector: ``(*S, B, dim)``.

        Returns:
            The values of the sites in observation layout, ``(*S, B, *shape)``, and ``log |det J|`` of the sites where it is
            not zero, ``(*S, B, *nested)``.
        """
        values, log_dets = {}, {}
        parts = self.split(vector)
        for site in self.sites:
            values[site.name], log_det = site.constrain(parts[site.name], vector.dim() - 2)
            if log_det is not None:
                log_dets[site.name] = log_det
        return values, log_dets

    def unconstrain(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Map values of the sites to the vector.

        Args:
            values: for each site ``(*S, B, *shape)``.

        Returns:
            The vector ``(*S, B, dim)`` and the sum of all ``log |det J|``, ``(*S, B)``.

        Raises:
            DataError: a site is missing or unknown, has the wrong shape, or has values outside its support.
        """
        self.leading_shape(values)
        parts, log_dets = [], []
        for site in self.sites:
            value = values[site.name]
            if not bool(site.support.check(value).all()):
                raise DataError(f"values[{site.name!r}] has values outside the support {site.support}.")
            batch = value.shape[: value.dim() - len(site.shape)]
            unconstrained = site.transform.inv(value)
            _, log_det = site.constrain(unconstrained, len(batch) - 1)
            parts.append(unconstrained.reshape((*batch, site.size)))
            if log_det is not None:
                log_dets.append(sum_from(log_det, len(batch)))
        vector = torch.cat(parts, dim=-1)
        return vector, sum(log_dets, start=vector.new_zeros(vector.shape[:-1]))

    def leading_shape(self, values: Mapping[str, Tensor]) -> torch.Size:
        """Return the common leading shape ``(*S, B)`` of values ``(*S, B, *shape)`` for all sites.

        Raises:
            DataError: a site is missing or unknown, has the wrong shape, or differs from the others in leading dimensions.
        """
        if not isinstance(values, Mapping) or set(values) != self.names:
            got = sorted(values) if isinstance(values, Mapping) else type(values).__name__
            raise DataError(f"values must be a dict with the latent sites {[s.name for s in self.sites]}; got {got}.")
        shapes = {}
        for site in self.sites:
            value = values[site.name]
            if not isinstance(value, Tensor):
                raise DataError(f"values[{site.name!r}] must be a tensor; got {type(value).__name__}.")
            leading = value.dim() - len(site.shape)
            if leading < 1 or value.shape[leading:] != site.shape:
                raise DataError(
                    f"values[{site.name!r}] must have shape (..., {', '.join(['observations', *map(str, site.shape)])}); "
                    f"got {tuple(value.shape)}."
                )
            shapes[site.name] = value.shape[:leading]
        first = next(iter(shapes.values()))
        if any(shape != first for shape in shapes.values()):
            listed = ", ".join(f"{name!r} has {tuple(shape)}" for name, shape in shapes.items())
            raise DataError(f"values must have the same draws and observations for each site; {listed}.")
        return first
