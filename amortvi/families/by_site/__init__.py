"""Families that consist of a family for each latent site."""

from amortvi.families.by_site.product import ProductDistribution
from amortvi.families.by_site.structured import Structured
from amortvi.families.by_site.top_down import TopDown

__all__ = ["ProductDistribution", "Structured", "TopDown"]
