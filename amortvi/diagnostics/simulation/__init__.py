"""Simulation of latents together with data, in the form that model and encoder expect."""

from amortvi.diagnostics.simulation.simulate import Simulated, Simulator, simulate_observations

__all__ = ["Simulated", "Simulator", "simulate_observations"]
