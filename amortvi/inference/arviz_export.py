"""The export of an estimator's posteriors to ArviZ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amortvi._util.random import random_state
from amortvi.inference.analysis import PosteriorAnalysis
from amortvi.io import DimensionNames, ExportOptions, to_arviz
from amortvi.posterior import Posterior

__all__ = ["ArvizExport"]


class ArvizExport(PosteriorAnalysis):
    """Draws and log-probabilities in the form that ArviZ reads."""

    def to_arviz(
        self,
        x: Any = None,
        draws: int = 250,
        *,
        chains: int = 4,
        posterior: Posterior | None = None,
        posterior_predictive: bool = True,
        prior_draws: int = 100,
        resample: bool = False,
        proposals: int | None = None,
        pointwise: bool = False,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Any:
        """Return draws and log-probabilities for ArviZ.

        Groups: ``posterior`` (with deterministic sites), ``sample_stats`` (``log_q``, ``log_joint`` and ``log_weight`` of each
        observation), ``log_likelihood`` (discrete latents are summed out), ``observed_data``, ``constant_data`` (the model's
        other arguments), ``posterior_predictive``, ``prior`` and ``prior_predictive``. Dimensions: ``chain``, ``draw``, the name
        of the data plate, nested plates, and ``<site>_dim_<i>`` unless ``dims`` names it. The index of a DataFrame labels the
        observations; its columns, if it is passed as ``x``, label the last dimension of that argument. Global latents have
        ``chain``, ``draw`` and dimensions of their own; everything else is given those of its draw.

        The draws are independent draws from ``q``, not from the exact posterior; ``log_weight`` corrects for that. Chains are
        groups of them: effective sample sizes are about the number of draws and r-hat is about 1, whatever ``q`` is. With
        ``resample=True`` the draws are already corrected, so ``log_weight`` is omitted, and the attribute ``resampled_from``
        records the number of proposals.

        ``az.loo`` leaves out what has one log-likelihood: by default a whole observation, with all its nested plates and event
        dimensions. Without global latents, nothing but the prior of its latents then remains, which draws from the posterior do
        not cover: ``az.loo`` rightly warns of high k-hats, and its result is too optimistic. The elpd of that observation is
        ``log p(x)``, which `evaluate` bounds on held-out data. With ``pointwise=True``, ``az.loo`` leaves out one element and
        keeps the rest of its observation, which still informs the latents; ``az.loo_pit`` needs such elements if an observation
        has several. That answers another question: how well an observation predicts its own missing element.

        Args:
            x: observations, as for `fit`.
            draws: posterior draws of each chain for each observation.
            chains: the number of chains.
            posterior: the posterior of ``x`` to draw from; by default that of the encoder.
            posterior_predictive: whether to draw new data too, once per posterior draw.
            prior_draws: draws from the prior for each observation, in one chain; 0 omits both prior groups.
            resample: whether to approximate draws from the exact posterior by importance resampling; see `Posterior.sample`.
            proposals: draws of ``q`` from which to resample; by default ten per draw, but at least 1,000.
            pointwise: whether ``log_likelihood`` has the dimensions of ``observed_data``: one value for each element of nested
                plates and of ``to_event``. A distribution that is multivariate in itself keeps one value for each event, and a
                site that depends on discrete latents one for each observation. A masked element has log-likelihood 0.
            dims: names of the dimensions of sites and arguments, as in ArviZ, such as ``{"z": ["factor"]}``. Those of plates
                have the names of the plates, and may be left out.
            coords: labels along dimensions, as in ArviZ, such as ``{"factor": ["speed", "power"]}``; they replace those of a
                DataFrame.
            seed: reproduces the draws and leaves the caller's random state untouched.

        Returns:
            `arviz.InferenceData` with ArviZ 0.x, `xarray.DataTree` with ArviZ 1.x.

        Raises:
            NotFittedError: no data have been seen.
            DataError: the observations cannot be used.
            OptionError: a number of draws is out of range, ``resample`` is true, but the model has global latents, or ``dims`` or
                ``coords`` name what does not exist or has another size.
            NonFiniteError: with ``resample``, an observation has a weight that is NaN or infinite, or no positive weight.

        Example:
            >>> import torch, amortvi as avi
            >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.3, 1.0]]), scale=0.5)
            >>> x = model.simulate(10, seed=0)
            >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [4]), "full").setup(x, seed=0)
            >>> data = vi.to_arviz(x, dims={"z": ["factor"]}, coords={"factor": ["speed", "power"]}, seed=0)
            >>> data["posterior"]["z"].dims, data["posterior"]["z"].shape
            (('chain', 'draw', 'data', 'factor'), (4, 250, 10, 2))
        """
        names = DimensionNames({} if dims is None else dims, {} if coords is None else coords)
        options = ExportOptions(draws, chains, posterior_predictive, prior_draws, resample, proposals, pointwise, names)
        posterior = self.resolve_posterior(x, posterior)
        with random_state(seed, self.device):
            self.warn_unless_converged()
            return to_arviz(posterior, options, {"objective": self.objective}, x)
