"""The latent sites of one observation as one unconstrained vector, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.transforms import identity_transform

from amortvi.errors import DataError, ModelError
from amortvi.plates import PlateLayout

__all__ = ["LatentSite", "LatentVector"]


@dataclass(frozen=True)
class LatentSite:
    """One latent site inside the data plate.

    Args:
        name: the name of the site.
        layout: the plates around it.
        event_shape: the shape of one value in its own support.
        support: the support; its bounds, where they are tensors, are in observation layout with one observation.
    """

    name: str
    layout: PlateLayout
    event_shape: torch.Size
    support: constraints.Constraint

    @property
    def transform(self) -> Transform:
        """The bijection from unconstrained numbers to the support."""
        return biject_to(self.support)

    @property
    def is_unconstrained(self) -> bool:
        """Whether the transform does nothing."""
        return self.transform is identity_transform

    @property
    def is_elementwise(self) -> bool:
        """Whether each unconstrained number maps to one constrained number."""
        return bool(self.transform.domain.event_dim == 0)

    @property
    def shape(self) -> torch.Size:
        """The shape of the site for one observation, in its support: ``(*nested, *event)``."""
        return torch.Size(self.layout.nested_shape) + self.event_shape

    @property
    def unconstrained_shape(self) -> torch.Size:
        """The shape of the site for one observation before the transform."""
        if self.is_elementwise:
            return self.shape
        return torch.Size(self.transform.inverse_shape(self.shape))

    @property
    def size(self) -> int:
        """How many unconstrained numbers the site takes."""
        return self.unconstrained_shape.numel()

    def constrain(self, unconstrained: Tensor, observation_dim: int) -> tuple[Tensor, Tensor | None]:
        """Map to the support.

        Args:
            unconstrained: ``(*S, B, *unconstrained_shape)``.
            observation_dim: the position of ``B``.

        Returns:
            The value ``(*S, B, *shape)`` and ``log |det J|`` of the map, ``(*S, B, *nested)``, or ``None`` where it is
            zero.
        """
        if self.is_unconstrained:
            return unconstrained, None
        transform = self.transform
        value = transform(unconstrained)
        log_det = transform.log_abs_det_jacobian(unconstrained, value)
        return value, sum_from(log_det, observation_dim + 1 + len(self.layout.nested))


def sum_from(tensor: Tensor, dim: int) -> Tensor:
    """Sum all dimensions from ``dim`` on."""
    return tensor if tensor.dim() <= dim else tensor.flatten(dim).sum(-1)


class LatentVector:
    """The latent sites of one observation, flattened to a vector of ``dim`` unconstrained numbers.

    Args:
        sites: the latent sites, in the order of the model.

    Example:
        >>> from pyro.distributions import constraints
        >>> from amortvi.plates import PlateLayout
        >>> layout = PlateLayout(dim=-1, nested=(), event_dim=1)
        >>> vector = LatentVector([LatentSite("z", layout, torch.Size([3]), constraints.real_vector)])
        >>> vector.dim, vector.labels
        (3, ['z[0]', 'z[1]', 'z[2]'])
    """

    def __init__(self, sites: list[LatentSite]) -> None:
        self.sites = tuple(sites)
        self.dim = sum(site.size for site in self.sites)

    @property
    def labels(self) -> list[str]:
        """A label of each unconstrained number: the site and its position in it."""
        labels = []
        for site in self.sites:
            if not site.unconstrained_shape:
                labels.append(site.name)
                continue
            for position in torch.cartesian_prod(*map(torch.arange, site.unconstrained_shape)).reshape(site.size, -1):
                labels.append(f"{site.name}[{', '.join(str(int(i)) for i in position)}]")
        return labels

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut ``(*B, dim)`` into the unconstrained sites ``(*B, *unconstrained_shape)``."""
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
            The values of the sites in observation layout, ``(*S, B, *shape)``, and ``log |det J|`` of those sites that
            have one, ``(*S, B, *nested)``.
        """
        values, log_dets = {}, {}
        parts = self.split(vector)
        for site in self.sites:
            values[site.name], log_det = site.constrain(parts[site.name], vector.dim() - 2)
            if log_det is not None:
                log_dets[site.name] = log_det
        return values, log_dets

    def unconstrain(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Map values of the sites back to the vector.

        Args:
            values: for each site ``(*S, B, *shape)``.

        Returns:
            The vector ``(*S, B, dim)`` and the sum of all ``log |det J|``, ``(*S, B)``.

        Raises:
            DataError: a site is missing, unknown, of a wrong shape or outside its support.
        """
        names = [site.name for site in self.sites]
        if not isinstance(values, Mapping) or set(values) != set(names):
            got = sorted(values) if isinstance(values, Mapping) else type(values).__name__
            raise DataError(f"values must be a dict with the latent sites {names}; got {got}.")
        parts, total = [], None
        for site in self.sites:
            value = values[site.name]
            dims = len(site.shape)
            if not isinstance(value, Tensor):
                raise DataError(f"values[{site.name!r}] must be a tensor; got {type(value).__name__}.")
            if value.dim() <= dims or value.shape[value.dim() - dims :] != site.shape:
                raise DataError(
                    f"values[{site.name!r}] must have shape (..., {', '.join(['observations', *map(str, site.shape)])}); "
                    f"got {tuple(value.shape)}."
                )
            if not bool(site.support.check(value).all()):
                raise DataError(f"values[{site.name!r}] has values outside the support {site.support}.")
            batch = value.shape[: value.dim() - dims]
            unconstrained = site.transform.inv(value)
            _, log_det = site.constrain(unconstrained, len(batch) - 1)
            parts.append(unconstrained.reshape((*batch, site.size)))
            if log_det is not None:
                summed = sum_from(log_det, len(batch))
                total = summed if total is None else total + summed
        vector = torch.cat(parts, dim=-1)
        return vector, vector.new_zeros(vector.shape[:-1]) if total is None else total


def has_bijection(support: constraints.Constraint) -> bool:
    """Whether unconstrained numbers map to ``support`` one to one."""
    try:
        return bool(biject_to(support).bijective)
    except NotImplementedError:
        return False


_BOUNDS = ("lower_bound", "upper_bound")


def fixed_support(name: str, support: constraints.Constraint, layout: PlateLayout) -> constraints.Constraint:
    """Return ``support``, elementwise, with tensor bounds taken to observation layout and cut to one observation.

    A distribution such as ``Uniform`` carries its bounds expanded over every plate. They describe the site only if they
    are the same for each observation.

    Raises:
        ModelError: the bounds differ between observations.
    """
    if isinstance(support, constraints.independent):
        return fixed_support(name, support.base_constraint, layout)
    bounds = [attribute for attribute in _BOUNDS if isinstance(getattr(support, attribute, None), Tensor)]
    if not bounds:
        return support
    arguments = []
    for attribute in (attribute for attribute in _BOUNDS if hasattr(support, attribute)):
        bound = getattr(support, attribute)
        if attribute in bounds and bound.requires_grad:
            raise ModelError(
                f"the support of latent site {name!r} has a bound that is learned ({attribute}), so that the posterior would "
                f"leave it as it moves: sample a site with a fixed support, and shift and scale it in the model."
            )
        if attribute in bounds and bound.dim() > 0:
            rows = layout.to_observations(bound.detach())
            if not torch.equal(rows, rows[:1].expand_as(rows)):
                raise ModelError(
                    f"the support of latent site {name!r} differs between observations ({attribute} depends on the "
                    f"data), so one posterior family cannot cover it: sample a site with a fixed support, and shift "
                    f"and scale it in the model."
                )
            bound = rows[0]
        arguments.append(bound)
    return type(support)(*arguments)
