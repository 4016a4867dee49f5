"""The posterior ``q(z | x)``: inference network, Pyro guide, posteriors of given observations, their draws and refinement."""

from amortvi.posterior.guide import AmortizedGuide
from amortvi.posterior.log_weights import LogWeights, log_weights
from amortvi.posterior.network import InferenceNetwork
from amortvi.posterior.posterior import Posterior

__all__ = ["AmortizedGuide", "InferenceNetwork", "LogWeights", "Posterior", "log_weights"]
