"""Draws from the exact posterior by NUTS, and the distance of approximate posteriors from them."""

from amortvi.diagnostics.reference.distances import Distances, distances
from amortvi.diagnostics.reference.reference import Reference, reference, unconstrained_draws

__all__ = ["Distances", "Reference", "distances", "reference", "unconstrained_draws"]
