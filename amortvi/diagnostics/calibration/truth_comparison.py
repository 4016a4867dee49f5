"""The comparison of the truth with posterior draws, simulation by simulation."""

from __future__ import annotations

import torch
from torch import Tensor

from amortvi.data import Batch
from amortvi.diagnostics.calibration.ranks import uniform_ranks
from amortvi.diagnostics.calibration.whitened import Whitening
from amortvi.errors import NonFiniteError
from amortvi.model import log_jacobian, sum_sites
from amortvi.posterior import Posterior
from amortvi.posterior.importance_sampling import WeightedDraws

__all__ = ["JOINT", "TruthComparison", "random_directions"]

JOINT = ("log likelihood", "log joint")
"""Quantities of all latents and the data together, which reveal faults that marginal ranks cannot (Modrák et al., 2023)."""

_PROJECTIONS = 4
"""The number of random directions onto which the whitened latents are projected."""


class TruthComparison:
    """Reduces weighted draws from the posteriors of simulated data to ranks of the truth, chunk by chunk."""

    def __init__(self, posterior: Posterior, truth: Tensor, references: Tensor, directions: Tensor) -> None:
        """Compare the draws of ``posterior`` with the truth, ``(n, D)``; see `reference_points` and `random_directions`."""
        self.posterior = posterior
        self.truth = truth
        self.references = references
        self.directions = directions
        dim = truth.shape[1]
        self.second_moment = torch.zeros(dim, dim, dtype=torch.float64)
        """The sum of the second moments of the whitened draws over the simulations so far, ``(D, D)``."""
        self.squared_correlation = torch.zeros(dim, dim, dtype=torch.float64)
        """The sum of the squared correlations of the posteriors, ``(D, D)``."""

    def reduce(self, weighted: WeightedDraws) -> dict[str, Tensor]:
        """Compare the truth with the draws for a chunk of ``B`` simulations; each simulation must be in one chunk only.

        Returns:
            - ``ranks``, ``(B, names)``; ``whitened_ranks``, ``(B, D)``; and ``norm_ranks``, the ranks of the norm of the
              whitened latents, ``(B,)``;
            - ``density_levels``, ``(B, 1)``, and ``reference_levels``, ``(B, REFERENCES)``; see `coverage`;
            - ``truth`` and one ``draw``, whitened, ``(B, D)``; ``loc`` and ``log_scale`` of the posterior, ``(B, D)``.

        Raises:
            NonFiniteError: a draw is not finite, or a log density is NaN.
        """
        assert weighted.vector is not None
        q, draws, device = weighted.posterior, weighted.vector, self.posterior.device
        rows = slice(weighted.rows.start, weighted.rows.stop)
        truth = self.truth[rows]
        log_q_truth, log_q = (q.log_prob(z.to(device)).cpu().double() for z in (truth, draws))
        joint_truth = self._joint(weighted.batch, truth.to(device))
        joint = torch.stack([weighted.log_weight + weighted.log_ratio, weighted.log_weight + log_q], dim=-1)
        _check_finite(draws, log_q_truth, log_q, joint_truth, joint)
        whitening = Whitening.of(q, draws.shape[0])
        white_truth, white_draws = whitening(truth), whitening(draws)
        self.second_moment += torch.einsum("kbi,kbj->ij", white_draws, white_draws) / draws.shape[0]
        self.squared_correlation += whitening.squared_correlation().sum(0)

        rounded = [_rounded(value, joint, self.truth.dtype) for value in (joint_truth, joint)]
        distances = [_squared_distances(white, self.references[rows]) for white in (white_truth, white_draws)]
        quantities = [
            torch.cat([z.double(), log_densities, white @ self.directions], dim=-1)
            for z, log_densities, white in zip((truth, draws), rounded, (white_truth, white_draws), strict=True)
        ]
        return {
            "ranks": uniform_ranks(*quantities),
            "whitened_ranks": uniform_ranks(white_truth, white_draws),
            "norm_ranks": uniform_ranks(white_truth.square().sum(-1), white_draws.square().sum(-1)),
            "density_levels": uniform_ranks(-log_q_truth, -log_q).unsqueeze(-1),
            "reference_levels": uniform_ranks(*distances),
            "truth": white_truth,
            "draw": white_draws[0],
            "loc": whitening.loc,
            "log_scale": whitening.scale.log(),
        }

    def _joint(self, batch: Batch, vector: Tensor) -> Tensor:
        """Return log-likelihood and log joint density, ``(B, 2)``, of unconstrained latents ``(B, D)``."""
        model = self.posterior.model
        values, log_dets = model.latents.constrain(vector.unsqueeze(0))
        scores = model.log_probs(batch, values)
        log_likelihood = sum_sites(scores.likelihoods)
        log_joint = sum_sites(scores.local) + log_jacobian(log_dets, log_likelihood)
        return torch.stack([log_likelihood[0], log_joint[0]], dim=-1).cpu().double()


def random_directions(dim: int) -> Tensor:
    """Return unit vectors onto which whitened latents are projected, ``(D, directions)``; none for a single coordinate."""
    directions = torch.randn(dim, _PROJECTIONS if dim > 1 else 0, dtype=torch.float64)
    return directions / directions.norm(dim=0)


def _check_finite(draws: Tensor, *log_densities: Tensor) -> None:
    """Raise `NonFiniteError` if a draw is not finite or a log density is NaN; a density of zero is allowed."""
    bad_draws = int((~draws.isfinite()).sum())
    bad_densities = sum(int(value.isnan().sum()) for value in log_densities)
    if bad_draws or bad_densities:
        raise NonFiniteError(
            f"the posterior or the model is not finite on data simulated from the prior: {bad_draws} coordinates of posterior "
            f"draws are not finite and {bad_densities} log densities are NaN. "
            f"vi.evaluate(simulate_observations(vi, n).observations) lists the observations concerned."
        )


def _squared_distances(points: Tensor, references: Tensor) -> Tensor:
    """Return the squared distances of ``(*S, B, D)`` to each of ``(B, R, D)``, ``(*S, B, R)``."""
    products = torch.einsum("...bi,bri->...br", points, references)
    return points.square().sum(-1, keepdim=True) - 2 * products + references.square().sum(-1)


def _rounded(values: Tensor, draws: Tensor, dtype: torch.dtype) -> Tensor:
    """Round ``(*S, B, Q)`` to the precision ``dtype`` of the model at the magnitude of ``draws``, ``(K, B, Q)``.

    Values that are equal up to rounding error thus become ties.
    """
    size = draws.where(draws.isfinite(), 0).abs().mean(0).clamp_min(1.0)
    # A power of two, so that the step itself is exact.
    step = torch.exp2(torch.ceil(torch.log2(64 * torch.finfo(dtype).eps * size)))
    return torch.round(values / step) * step
