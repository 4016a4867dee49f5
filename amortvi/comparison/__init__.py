"""Several posterior families fitted to the same model and data, and compared on held-out observations."""

from amortvi.comparison.compare import compare
from amortvi.comparison.fits import FamilyFits, fit_families

__all__ = ["FamilyFits", "compare", "fit_families"]
