"""Ready Pyro models: a VAE with several likelihoods, and a linear-Gaussian model with its exact answers."""

from amortvi.models.likelihoods import Bernoulli, Categorical, Likelihood, Normal, Poisson
from amortvi.models.linear_gaussian import LinearGaussian
from amortvi.models.vae import VAE

__all__ = ["VAE", "Bernoulli", "Categorical", "Likelihood", "LinearGaussian", "Normal", "Poisson"]
