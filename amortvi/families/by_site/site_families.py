"""What families that consist of a family for each latent site share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from amortvi.errors import FamilyError
from amortvi.families.base import ParametricFamily, require_parametric
from amortvi.families.choice import FamilyChoice, resolve_family

__all__ = ["SiteFamilies"]


class SiteFamilies(ParametricFamily):
    """A family for each latent site; a subclass implements `distribution`.

    The parameters are the locations of all sites, followed by the other parameters of each.

    Args:
        families: families by the name of the latent site.
        default: the family of the sites that ``families`` does not name.
        head: whether there is a linear head; see `ParametricFamily`.

    Raises:
        FamilyError: a family is unknown or has no parameters for each observation; or, at setup, the model has no latent site of
            a given name.
    """

    def __init__(self, families: Mapping[str, FamilyChoice] | None, default: FamilyChoice, *, head: bool) -> None:
        super().__init__(head=head)
        if families is not None and not isinstance(families, Mapping):
            raise FamilyError(f"families must be a dict of families by the name of the site; got {families!r}.")
        for choice in (default, *(families or {}).values()):
            require_parametric(resolve_family(choice), f"a part of {type(self).__name__}")
        self.families = None if families is None else dict(families)
        self.default = default

    def build(self) -> None:
        chosen = self.families or {}
        unknown = sorted(set(chosen) - set(self.sites))
        if unknown:
            raise FamilyError(f"families names {unknown}, but the latent sites of the model are {list(self.sites)}.")
        parts = []
        for name, shape in self.sites.items():
            part = require_parametric(
                resolve_family(chosen.get(name, self.default)), f"a part of {type(self).__name__}"
            )
            parts.append(part.setup(shape.numel(), self.context_features, {name: shape}).remove_head())
        self.parts = nn.ModuleList(parts)
        super().build()

    def each(self) -> list[ParametricFamily]:
        """Return the families of the sites, in the order of the latent vector."""
        return [part for part in self.parts if isinstance(part, ParametricFamily)]

    @property
    def num_parameters(self) -> int:
        return sum(part.num_parameters for part in self.each())

    def combine(self, of_part: Callable[[ParametricFamily], Tensor]) -> Tensor:
        """Put the parameters of the parts together: first all locations, then the others of each part."""
        found = [of_part(part) for part in self.each()]
        locations = [values[..., : part.dim] for part, values in zip(self.each(), found, strict=True)]
        others = [values[..., part.dim :] for part, values in zip(self.each(), found, strict=True)]
        return torch.cat([*locations, *others], dim=-1)

    def split(self, parameters: Tensor) -> list[Tensor]:
        """Invert `combine`: return the parameters of each part."""
        dims = [part.dim for part in self.each()]
        others = [part.num_parameters - part.dim for part in self.each()]
        pieces = parameters.split([*dims, *others], dim=-1)
        return [torch.cat(pair, dim=-1) for pair in zip(pieces[: len(dims)], pieces[len(dims) :], strict=True)]

    def initial_parameters(self) -> Tensor:
        return self.combine(lambda part: part.initial_parameters())

    def learning_rates(self) -> Tensor:
        return self.combine(lambda part: part.learning_rates())

    def locked_parameters(self) -> Tensor:
        return self.combine(lambda part: part.locked_parameters())

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        dims = [part.dim for part in self.each()]
        near = zip(self.each(), loc.split(dims, dim=-1), scale.split(dims, dim=-1), strict=True)
        found = {part: part.parameters_near(*moments) for part, *moments in near}
        return self.combine(lambda part: found[part])
