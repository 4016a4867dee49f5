"""The evidence between two bounds, on data that the model simulates itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from amortvi._util.lazy import pandas as pd
from amortvi._util.random import random_state
from amortvi.diagnostics.annealing.annealed_evidence import AnnealedEvidence, evidence_of
from amortvi.diagnostics.annealing.annealer import annealed
from amortvi.diagnostics.annealing.options import Annealing, StartChoice
from amortvi.diagnostics.simulation.simulate import Simulated, Simulator, simulate_observations
from amortvi.inference import AmortizedVI

__all__ = ["EvidenceBracket", "bracket_evidence"]


@dataclass(frozen=True, repr=False)
class EvidenceBracket:
    """Bounds of the evidence of ``N`` simulated observations, from annealed chains in both directions.

    Args:
        lower: from chains that went forwards: too low on average.
        upper: from chains that went backwards from the latents that made the observations: too high on average.
        simulated: the latents and the observations.
    """

    lower: AnnealedEvidence
    upper: AnnealedEvidence
    simulated: Simulated

    @property
    def gap(self) -> Tensor:
        """What lies between the two bounds of each observation in nats, ``(N,)``; by chance it can be below zero."""
        return self.upper.log_evidence - self.lower.log_evidence

    @property
    def mean_gap(self) -> float:
        """The mean gap in nats: on average over observations, each bound is off by no more, up to `mean_gap_se`."""
        return float(self.gap.mean())

    @property
    def mean_gap_se(self) -> float:
        """The standard error of `mean_gap`, from what the observations differ by; NaN for one observation."""
        return float(self.gap.std() / len(self.gap) ** 0.5)

    def __repr__(self) -> str:
        return f"EvidenceBracket({len(self.gap)} simulated observations: {self})"

    def __str__(self) -> str:
        return (
            f"{float(self.lower.log_evidence.mean()):.2f} <= mean log p(x) <= {float(self.upper.log_evidence.mean()):.2f} "
            f"nats, gap {self.mean_gap:.3f} ± {self.mean_gap_se:.3f}"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a row an observation: ``lower``, ``lower_se``, ``upper``, ``upper_se`` and ``gap``, all in nats."""
        columns = {
            "lower": self.lower.log_evidence,
            "lower_se": self.lower.standard_error,
            "upper": self.upper.log_evidence,
            "upper_se": self.upper.standard_error,
            "gap": self.gap,
        }
        return pd.DataFrame({name: value.numpy() for name, value in columns.items()})


def bracket_evidence(
    vi: AmortizedVI,
    simulations: int = 100,
    x: Any = None,
    *,
    simulator: Simulator | None = None,
    temperatures: int = 500,
    chains: int = 16,
    start: StartChoice = "posterior",
    leapfrog_steps: int = 5,
    seed: int | None = None,
    progress: bool = True,
) -> EvidenceBracket:
    """Bracket ``log p(x)`` of observations that the model simulates: a check of how well annealing does with these options.

    The latents that an observation was simulated from are a draw of its exact posterior, from which chains can go backwards.
    On average the exact evidence lies between the two answers, so the gap says how far off `annealed_evidence` is at most,
    as far as real observations are like simulated ones (bidirectional Monte Carlo; Grosse, Ghahramani and Adams, 2015).

    Args:
        vi: a fitted estimator.
        simulations: ``N``, how many observations are simulated.
        x: observations whose sizes and covariates these are for, taken in turn; by default a few of the training data.
        simulator: what simulates instead of the model, see `simulate_observations`.
        temperatures: steps between the start and the joint density.
        chains: ``K``, runs of each observation in each direction, at least 2.
        start: where the path starts, ``"posterior"`` (the approximate one) or ``"prior"``.
        leapfrog_steps: how many steps, each with a gradient of the model, a move takes.
        seed: reproduces the result and leaves the caller's random state as it was.
        progress: show progress bars.

    Returns:
        Both bounds, with the simulated latents and observations.

    Raises:
        NotFittedError: the guide has not seen data yet.
        ModelError: data cannot be simulated from the model.
        DataError: the observations ``x`` cannot be used.
        OptionError: an option is out of range.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.0], [0.5, 1.0]]), scale=0.5)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), freeze_model=True)
        >>> vi = vi.fit(model.simulate(100, seed=0), epochs=100, lr=0.05, progress=False, seed=0)
        >>> bracket = bracket_evidence(vi, 50, temperatures=50, seed=0, progress=False)
        >>> exact = float(model.log_evidence(bracket.simulated.batch.args[0]).mean())
        >>> bool(abs(bracket.lower.log_evidence.mean() - exact) < 0.05 > abs(bracket.upper.log_evidence.mean() - exact))
        True
    """
    options = Annealing(temperatures, chains, leapfrog_steps, start, progress)
    simulated = simulate_observations(vi, simulations, x, simulator=simulator, seed=seed)
    posterior = vi.posterior(simulated.observations)
    with random_state(seed, vi.device):
        forwards = annealed(vi.generative, posterior, options)
        backwards = annealed(vi.generative, posterior, options, simulated.vector)
    return EvidenceBracket(
        evidence_of(forwards, options), evidence_of(backwards, options, is_upper_bound=True), simulated
    )
