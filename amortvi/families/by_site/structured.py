r"""A family for each latent site, independent of each other given the observation.

.. math::

    q(z \mid x) = \prod_s q_s(z_s \mid x),

a block-diagonal covariance if all of them are Gaussian. The cost of correlations then grows with the squares of the sizes of the
sites instead of the square of their sum, and a chain, a simplex and a vector of loadings can each have the family that suits it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from amortvi.errors import FamilyError
from amortvi.families.base import ParametricFamily, require_parametric
from amortvi.families.by_site.product import ProductDistribution
from amortvi.families.choice import FamilyChoice, resolve_family
from amortvi.families.draws import require_noise

__all__ = ["Structured"]


class Structured(ParametricFamily):
    """A family for each latent site; by default, a full covariance within each site and none between them.

    Args:
        families: families by the name of the latent site, such as ``{"path": Banded(), "loadings": "low_rank"}``.
        default: the family of the sites that ``families`` does not name.
        head: whether there is a linear head; without one, the context itself holds the locations of all sites, followed by the
            other parameters of each.

    Raises:
        FamilyError: a family is unknown or has no parameters for each observation; or, at setup, the model has no latent site of
            a given name.

    Example:
        >>> family = Structured({"path": "banded"}, default="diagonal")
        >>> sites = {"level": torch.Size([2]), "path": torch.Size([50])}
        >>> q = family.setup(dim=52, context_features=5, sites=sites)(torch.zeros(4, 5))
        >>> [type(part.scale).__name__ for part in q.parts]
        ['DiagonalScale', 'ChainScale']
    """

    role: ClassVar[str] = "a part of Structured"  # how error messages refer to the family of a site

    def __init__(
        self, families: Mapping[str, FamilyChoice] | None = None, *, default: FamilyChoice = "full", head: bool = True
    ) -> None:
        super().__init__(head=head)
        if families is not None and not isinstance(families, Mapping):
            raise FamilyError(f"families must be a dict of families by the name of the site; got {families!r}.")
        for choice in (default, *(families or {}).values()):
            self._resolve(choice)
        self.families = None if families is None else dict(families)
        self.default = default

    def _resolve(self, choice: FamilyChoice) -> ParametricFamily:
        return require_parametric(resolve_family(choice), self.role)

    def build(self) -> None:
        chosen = self.families or {}
        unknown = sorted(set(chosen) - set(self.sites))
        if unknown:
            raise FamilyError(f"families names {unknown}, but the latent sites of the model are {list(self.sites)}.")
        parts = []
        for name, shape in self.sites.items():
            part = self._resolve(chosen.get(name, self.default))
            parts.append(part.setup(shape.numel(), self.context_features, {name: shape}).remove_head())
        self.parts = nn.ModuleList(parts)
        super().build()

    def each(self) -> list[ParametricFamily]:
        """Return the families of the sites, in the order of the latent vector."""
        return [part for part in self.parts if isinstance(part, ParametricFamily)]

    @property
    def num_parameters(self) -> int:
        return sum(part.num_parameters for part in self.each())

    def _combine(self, of_part: Callable[[ParametricFamily], Tensor]) -> Tensor:
        """Put the parameters of the parts together: first all locations, then the others of each part."""
        found = [of_part(part) for part in self.each()]
        locations = [values[..., : part.dim] for part, values in zip(self.each(), found, strict=True)]
        others = [values[..., part.dim :] for part, values in zip(self.each(), found, strict=True)]
        return torch.cat([*locations, *others], dim=-1)

    def split(self, parameters: Tensor) -> list[Tensor]:
        """Return the parameters of each part, ``(*B, P_s)``."""
        dims = [part.dim for part in self.each()]
        others = [part.num_parameters - part.dim for part in self.each()]
        pieces = parameters.split([*dims, *others], dim=-1)
        return [torch.cat(pair, dim=-1) for pair in zip(pieces[: len(dims)], pieces[len(dims) :], strict=True)]

    def initial_parameters(self) -> Tensor:
        return self._combine(lambda part: part.initial_parameters())

    def learning_rates(self) -> Tensor:
        return self._combine(lambda part: part.learning_rates())

    def locked_parameters(self) -> Tensor:
        return self._combine(lambda part: part.locked_parameters())

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        dims = [part.dim for part in self.each()]
        near = zip(self.each(), loc.split(dims, dim=-1), scale.split(dims, dim=-1), strict=True)
        found = {part: part.parameters_near(*moments) for part, *moments in near}
        return self._combine(lambda part: found[part])

    def distribution(self, parameters: Tensor) -> ProductDistribution:
        """Return the distributions with ``parameters`` of shape ``(*B, P)``."""
        split = zip(self.each(), self.split(parameters), strict=True)
        return ProductDistribution([require_noise(part.distribution(own), self.role) for part, own in split])
