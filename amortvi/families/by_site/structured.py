r"""A family for each latent site, independent of each other given the observation.

.. math::

    q(z \mid x) = \prod_s q_s(z_s \mid x),

a block-diagonal covariance if all of them are Gaussian. The cost of correlations then grows with the squares of the sizes of the
sites instead of the square of their sum, and a chain, a simplex and a vector of loadings can each have the family that suits it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from amortvi.families.by_site.product import ProductDistribution
from amortvi.families.by_site.site_families import SiteFamilies
from amortvi.families.choice import FamilyChoice
from amortvi.families.draws import require_noise

__all__ = ["Structured"]


class Structured(SiteFamilies):
    """A family for each latent site; by default, a full covariance within each site and none between them.

    Args:
        families: families by the name of the latent site, such as ``{"path": Banded(), "loadings": "low_rank"}``.
        default: the family of the sites that ``families`` does not name.
        head: whether there is a linear head; without one, the context itself holds the locations of all sites, followed by the
            other parameters of each.

    Raises:
        FamilyError: a family is unknown; or, at setup, the model has no latent site of a given name, or a family has no
            parameters for each observation.

    Example:
        >>> import torch
        >>> family = Structured({"path": "banded"}, default="diagonal")
        >>> sites = {"level": torch.Size([2]), "path": torch.Size([50])}
        >>> q = family.setup(dim=52, context_features=5, sites=sites)(torch.zeros(4, 5))
        >>> [type(part.scale).__name__ for part in q.parts]
        ['DiagonalScale', 'ChainScale']
    """

    def __init__(
        self, families: Mapping[str, FamilyChoice] | None = None, *, default: FamilyChoice = "full", head: bool = True
    ) -> None:
        super().__init__(families, default, head=head)

    def distribution(self, parameters: Tensor) -> ProductDistribution:
        """Return the distributions with ``parameters`` of shape ``(*B, P)``."""
        split = zip(self.each(), self.split(parameters), strict=True)
        return ProductDistribution(
            [require_noise(part.distribution(own), "a part of Structured") for part, own in split]
        )
