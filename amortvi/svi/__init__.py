"""Pyro's `SVI` with a compiled step, for models and guides that people have already."""

from amortvi.svi.renyi import RenyiELBO
from amortvi.svi.svi import SVI

__all__ = ["SVI", "RenyiELBO"]
