"""Pyro's `SVI` with a compiled step, for models and guides that people have already."""

from amortvi.compile.svi.renyi_elbo import RenyiELBO
from amortvi.compile.svi.svi import SVI

__all__ = ["SVI", "RenyiELBO"]
