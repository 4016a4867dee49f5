"""Computations of a fitted estimator: bounds, draws, refined posteriors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from amortvi._util.checks import nonnegative_int, positive_int
from amortvi._util.lazy import pandas as pd
from amortvi._util.random import random_state
from amortvi.data import Batch
from amortvi.errors import OptionError
from amortvi.families import FamilyChoice
from amortvi.model import Model
from amortvi.posterior import Posterior
from amortvi.posterior.evaluation import evaluate, predict, sample_prior
from amortvi.posterior.refinement import RefineMethod, RefineOptions, refine

__all__ = ["PosteriorAnalysis"]


class PosteriorAnalysis(ABC):
    """Computations with a model and its posteriors, both of which an estimator provides."""

    @property
    @abstractmethod
    def generative(self) -> Model:
        """The model ``p(x, z)`` as diagnostics use it: structure, log joint density, simulation."""

    @property
    @abstractmethod
    def example(self) -> Batch:
        """Some of the training data, as arguments of the model; raises `NotFittedError` before any data have been seen."""

    @property
    @abstractmethod
    def objective(self) -> str:
        """The objective of the last fit."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the parameters."""

    @abstractmethod
    def posterior(self, x: Any, *, copy: bool = True) -> Posterior:
        """Return the posterior of each observation, whose properties are computed on access.

        Args:
            x: observations, as for `fit`.
            copy: whether to copy encoder and family, so that later training does not change the posterior.

        Raises:
            NotFittedError: no data have been seen.
            DataError: the observations cannot be used.
        """

    @abstractmethod
    def warn_unless_converged(self) -> None:
        """Issue a `ConvergenceWarning`, once per fit, if the last fit has not converged."""

    def resolve_posterior(self, x: Any, posterior: Posterior | None) -> Posterior:
        """Return ``posterior`` after checking it, or else the posterior of the encoder.

        Args:
            x: observations, as for `fit`; optional if ``posterior`` is given.
            posterior: a refined or selected posterior of this estimator, of the observations ``x``.

        Raises:
            NotFittedError: no data have been seen.
            OptionError: neither is given, or ``posterior`` is not a `Posterior` or belongs to another estimator.
            DataError: the observations cannot be used, or are not those of ``posterior``.
        """
        if posterior is None:
            if x is None:
                raise OptionError("pass observations x, or posterior=...")
            return self.posterior(x, copy=False)
        if not isinstance(posterior, Posterior):
            raise OptionError(
                f"posterior must be a Posterior, as AmortizedVI.refine returns it; got {type(posterior).__name__}."
            )
        if posterior.model is not self.generative:
            raise OptionError("posterior belongs to another AmortizedVI; pass one that this estimator returned.")
        if x is not None:
            self.posterior(x, copy=False).check_same_observations(posterior)
        return posterior

    def refine(
        self,
        x: Any = None,
        family: FamilyChoice | None = None,
        *,
        posterior: Posterior | None = None,
        method: RefineMethod = "lbfgs",
        draws: int | None = None,
        lr: float = 0.05,
        tolerance: float = 1e-4,
        max_steps: int = 2000,
        seed: int = 0,
    ) -> Posterior:
        """Optimize the posterior of each observation individually, starting from the encoder's output.

        The gain in ELBO is the amortization gap (Cremer, Li and Duvenaud, 2018). All observations are optimized in parallel,
        each with its own step sizes and until it has converged; encoder and model do not change. An observation that does
        not improve keeps its initial posterior.

        Args:
            x: observations, as for `fit`.
            family: the family of the refined posteriors; by default that of the initial posterior.
            posterior: the initial posterior; by default that of the encoder.
            method: ``"lbfgs"`` maximizes the ELBO on fixed noise, to any accuracy; ``"adam"`` follows noisy gradients, for
                posteriors so far from Gaussian that fixed noise does not represent them.
            draws: draws per ELBO; by default four per dimension, but at least 32, or 256 if the family is not Gaussian.
            lr: Adam's learning rate.
            tolerance: an observation has converged when its ELBO can rise by less than this, in nats.
            max_steps: the maximum number of steps; a warning reports the observations that have not converged.
            seed: the seed of the noise; the caller's random state is left untouched.

        Returns:
            The refined posteriors, with their observations in memory.

        Raises:
            NotFittedError: no data have been seen.
            DataError: the observations cannot be used.
            FamilyError: the family is unknown, has no parameters for each observation, or cannot start from another family.
            OptionError: an option is out of range.

        Example:
            >>> import torch, amortvi as avi
            >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.3, 1.0]]), scale=0.5)
            >>> x = model.simulate(10, seed=0)
            >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [4]), "full").setup(x, seed=0)
            >>> bool(torch.allclose(vi.refine(x).mean["z"], model.posterior(x).mean, atol=0.05))
            True
        """
        options = RefineOptions(method, draws, lr, tolerance, max_steps, nonnegative_int("seed", seed))
        return refine(self.resolve_posterior(x, posterior), family, options)

    def evaluate(
        self, x: Any = None, *, posterior: Posterior | None = None, particles: int = 100, seed: int | None = None
    ) -> pd.DataFrame:
        """Return lower bounds of ``log p(x)`` in nats, one row per observation.

        With global latents theta, each draw has its own, from their posterior: the bounds are those of the log predictive density
        of an observation, ``log E[p(x | theta)]``. The weights ``p(x, z | theta) / q(z | x)`` contain neither ``p(theta)`` nor
        ``q(theta)``, which belong to the whole data set.

        Args:
            x: observations, as for `fit`.
            posterior: the posterior of ``x`` to evaluate; by default that of the encoder.
            particles: draws for each observation.
            seed: reproduces the draws and leaves the caller's random state untouched.

        Returns:
            Columns ``elbo`` (the mean log weight, without terms outside the data plate), ``elbo_se`` (its Monte Carlo standard
            error), ``reconstruction``, ``kl`` (in closed form if it is known), and ``iwae`` (the importance-weighted bound with
            ``particles`` draws).

        Raises:
            NotFittedError: no data have been seen.
            DataError: the observations cannot be used.
            OptionError: ``particles`` is not a positive integer.
            NonFiniteError: a posterior is not finite.
        """
        count, posterior = positive_int("particles", particles), self.resolve_posterior(x, posterior)
        with random_state(seed, self.device):
            self.warn_unless_converged()
            return evaluate(posterior, count)

    def predict(
        self, x: Any = None, draws: int = 100, *, posterior: Posterior | None = None, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Draw new data for each observation from the posterior predictive distribution.

        All observations of a draw share its global latents. Classes that are known through ``obs_mask=`` are kept.

        Args:
            x: observations, as for `fit`.
            draws: draws for each observation.
            posterior: the posterior of ``x`` to draw from; by default that of the encoder.
            seed: reproduces the draws and leaves the caller's random state untouched.

        Returns:
            For each observed (and deterministic) site in the data plate ``(draws, N, *nested, *event)``.

        Raises:
            NotFittedError: no data have been seen.
            DataError: the observations cannot be used.
            OptionError: ``draws`` is not a positive integer.
        """
        count, posterior = positive_int("draws", draws), self.resolve_posterior(x, posterior)
        with random_state(seed, self.device):
            return predict(posterior, count)

    def sample_prior(self, n: int, x: Any = None, *, seed: int | None = None) -> dict[str, Tensor]:
        """Draw latents and data from the model alone; each draw has its own global latents.

        Args:
            n: the number of draws.
            x: observations that provide sizes and covariates, cyclically; by default some of the training data.
            seed: reproduces the draws and leaves the caller's random state untouched.

        Returns:
            For each site in the data plate ``(n, *nested, *event)``; for each global latent ``(n, *shape)``.

        Raises:
            NotFittedError: no data have been seen.
            OptionError: ``n`` is not a positive integer.
        """
        count = positive_int("n", n)
        source = self.example if x is None else self.posterior(x, copy=False).observations.first(count)
        with random_state(seed, self.device):
            return sample_prior(self.generative, source, count, self.device)
