"""Data drawn from the model, in the form of its arguments."""

from amortvi.model.simulation.data_simulator import DataSimulator
from amortvi.model.simulation.places import GIVE_SIMULATOR

__all__ = ["GIVE_SIMULATOR", "DataSimulator"]
