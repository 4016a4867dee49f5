"""The posterior ``q(z | x)``: the inference network, the Pyro guide, and posteriors of given observations."""

from amortvi.posterior.guide import AmortizedGuide
from amortvi.posterior.labels import Labels
from amortvi.posterior.log_weights import LogWeights, log_weights
from amortvi.posterior.network import InferenceNetwork
from amortvi.posterior.posterior import Posterior

__all__ = ["AmortizedGuide", "InferenceNetwork", "Labels", "LogWeights", "Posterior", "log_weights"]
