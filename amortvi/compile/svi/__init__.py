"""A drop-in replacement for Pyro's `SVI`, with compiled steps."""

from amortvi.compile.svi.renyi_elbo import RenyiELBO
from amortvi.compile.svi.svi import SVI

__all__ = ["SVI", "RenyiELBO"]
