"""Ready-made Pyro models: a VAE with several likelihoods, and a linear-Gaussian model with known posterior and evidence."""

from amortvi.model.library.likelihoods import Bernoulli, Categorical, Likelihood, Normal, Poisson
from amortvi.model.library.linear_gaussian import LinearGaussian
from amortvi.model.library.vae import VAE

__all__ = ["VAE", "Bernoulli", "Categorical", "Likelihood", "LinearGaussian", "Normal", "Poisson"]
