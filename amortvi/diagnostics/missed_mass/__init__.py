"""The part of the exact posterior that importance sampling misses, found on simulated data."""

from amortvi.diagnostics.missed_mass.check import check_simulations, location_and_scale, missed_mass, simulate_like
from amortvi.diagnostics.missed_mass.result import MissedMass

__all__ = ["MissedMass", "check_simulations", "location_and_scale", "missed_mass", "simulate_like"]
