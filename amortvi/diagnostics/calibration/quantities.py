"""What is compared: quantities of latents and data, of the truth and of draws, one simulation after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amortvi.data import Batch
from amortvi.diagnostics.calibration.coverage import reference_points
from amortvi.diagnostics.calibration.moments import Whitening
from amortvi.diagnostics.calibration.ranks import uniform_ranks
from amortvi.diagnostics.simulation.simulate import Simulated
from amortvi.errors import NonFiniteError
from amortvi.model.program import GenerativeModel
from amortvi.model.scoring import log_jacobian, score, sum_of
from amortvi.posterior.importance_sampling import Weighed
from amortvi.posterior.posterior import Posterior

__all__ = ["JOINT", "PROJECTIONS", "Compare"]

JOINT = ("log likelihood", "log joint")
"""Quantities of all latents and the data at once, which see what marginal ranks cannot (Modrák et al., 2023)."""

PROJECTIONS = 4
"""Random directions among whitened latents."""


class Compare:
    """Turns the draws of a chunk of simulations into ranks; called with one chunk after the other, in order.

    Args:
        model: the generative model.
        posterior: of the simulated data.
        simulated: the truth.
    """

    def __init__(self, model: GenerativeModel, posterior: Posterior, simulated: Simulated) -> None:
        self.model = model
        self.posterior = posterior
        self.truth = simulated.vector
        self.dim = self.truth.shape[1]
        self.references = reference_points(simulated.batch, self.dim)
        directions = torch.randn(self.dim, PROJECTIONS if self.dim > 1 else 0, dtype=torch.float64)
        self.directions = directions / directions.norm(dim=0)
        self._start = 0
        self._second_moment = torch.zeros(self.dim, self.dim, dtype=torch.float64)
        self._own_correlation = torch.zeros(self.dim, self.dim, dtype=torch.float64)

    @property
    def names(self) -> list[str]:
        """Of the quantities whose ranks are taken: the latents, those of all of them, projections."""
        projections = [f"projection {i + 1}" for i in range(self.directions.shape[1])]
        return [*self.posterior.latents.labels, *JOINT, *projections]

    @property
    def second_moment(self) -> npt.NDArray[np.float64]:
        """Of the whitened draws, over all simulations, ``(D, D)``."""
        return (self._second_moment / self._start).numpy()

    @property
    def own_correlation(self) -> npt.NDArray[np.float64]:
        """The mean squares of the correlations of the posteriors, ``(D, D)``."""
        return (self._own_correlation / self._start).numpy()

    def __call__(self, weighed: Weighed) -> dict[str, Tensor]:
        """Return what is kept of each of the ``B`` simulations of a chunk.

        - ``ranks``, ``(B, names)``; ``whitened_ranks``, ``(B, D)``, and ``norm_ranks``, those of their norm, ``(B,)``;
        - ``highest_density``, ``(B, 1)``, and ``around_references``, ``(B, REFERENCES)``, the levels of regions;
        - ``truth`` and ``draw``, whitened, ``(B, D)``; ``loc`` and ``log_scale`` of the posterior, ``(B, D)``.
        """
        assert weighed.vector is not None
        batch, q, draws = weighed.batch, weighed.posterior, weighed.vector
        rows = slice(self._start, self._start + batch.size)
        self._start += batch.size
        truth = self.truth[rows]
        device = self.posterior.device
        log_q_truth, log_q = (q.log_prob(z.to(device)).cpu().double() for z in (truth, draws))
        of_truth = self._of_truth(batch, truth.to(device))
        of_draws = torch.stack([weighed.log_weight + weighed.log_ratio, weighed.log_weight + log_q], dim=-1)
        _check_finite(draws, log_q_truth, log_q, of_truth, of_draws)
        whitening = Whitening.of(self.posterior.family, q, draws.shape[0])
        white_truth, white_draws = whitening(truth), whitening(draws)
        self._second_moment += torch.einsum("kbi,kbj->ij", white_draws, white_draws) / draws.shape[0]
        self._own_correlation += whitening.squared_correlation().sum(0)

        joint = [_rounded(value, of_draws, self.truth.dtype) for value in (of_truth, of_draws)]
        distances = [_squared_distances(white, self.references[rows]) for white in (white_truth, white_draws)]
        all_of_truth = torch.cat([truth.double(), joint[0], white_truth @ self.directions], dim=-1)
        all_of_draws = torch.cat([draws.double(), joint[1], white_draws @ self.directions], dim=-1)
        return {
            "ranks": uniform_ranks(all_of_truth, all_of_draws),
            "whitened_ranks": uniform_ranks(white_truth, white_draws),
            "norm_ranks": uniform_ranks(white_truth.square().sum(-1), white_draws.square().sum(-1)),
            "highest_density": uniform_ranks(-log_q_truth, -log_q).unsqueeze(-1),
            "around_references": uniform_ranks(*distances),
            "truth": white_truth,
            "draw": white_draws[0],
            "loc": whitening.loc,
            "log_scale": whitening.scale.log(),
        }

    def _of_truth(self, batch: Batch, vector: Tensor) -> Tensor:
        """Return log-likelihood and log joint density of the truth, ``(B, 2)``."""
        prototype = self.posterior.prototype
        values, log_dets = prototype.latents.constrain(vector.unsqueeze(0))
        scores = score(self.model, prototype, batch, values).local
        latent = {site.name for site in prototype.latents.sites}
        likelihood = sum_of({name: value for name, value in scores.items() if name not in latent})
        joint = sum_of(scores) + log_jacobian(log_dets, likelihood)
        return torch.stack([likelihood[0], joint[0]], dim=-1).cpu().double()


def _check_finite(draws: Tensor, *densities: Tensor) -> None:
    """Raise `NonFiniteError` unless draws are finite and log densities are numbers; a density of zero is one."""
    draws_off = int((~draws.isfinite()).sum())
    densities_off = sum(int(value.isnan().sum()) for value in densities)
    if draws_off or densities_off:
        raise NonFiniteError(
            f"the posterior or the model is not finite on data simulated from the prior: {draws_off} posterior draws and "
            f"{densities_off} log densities are not. vi.evaluate(simulate_observations(vi, n).observations) shows where."
        )


def _squared_distances(points: Tensor, references: Tensor) -> Tensor:
    """Return the squared distances of ``(*S, B, D)`` to each of ``(B, R, D)``, ``(*S, B, R)``."""
    products = torch.einsum("...bi,bri->...br", points, references)
    return points.square().sum(-1, keepdim=True) - 2 * products + references.square().sum(-1)


def _rounded(values: Tensor, draws: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to what the model's precision can tell apart, so that what is equal but for rounding is a tie.

    Args:
        values: ``(*S, B, Q)``.
        draws: of the posterior, ``(K, B, Q)``, which say how large the numbers are.
        dtype: that the model computes in.
    """
    size = draws.where(draws.isfinite(), 0).abs().mean(0).clamp_min(1.0)
    # A power of two, so that the step itself is exact.
    step = torch.exp2(torch.ceil(torch.log2(64 * torch.finfo(dtype).eps * size)))
    return torch.round(values / step) * step
