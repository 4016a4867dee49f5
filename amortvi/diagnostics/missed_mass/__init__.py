"""The part of the exact posterior that importance sampling misses, found on simulated data."""

from amortvi.diagnostics.missed_mass.check import check_simulations, location_and_scale, missed_mass
from amortvi.diagnostics.missed_mass.result import MissedMass, capitalized

__all__ = ["MissedMass", "capitalized", "check_simulations", "location_and_scale", "missed_mass"]
