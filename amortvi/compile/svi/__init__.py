"""A drop-in replacement for Pyro's `SVI`, whose steps run as recorded graphs."""

from amortvi.compile.svi.install import install
from amortvi.compile.svi.renyi_elbo import RenyiELBO
from amortvi.compile.svi.svi import SVI

__all__ = ["SVI", "RenyiELBO", "install"]
