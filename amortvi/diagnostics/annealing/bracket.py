"""Lower and upper bounds of the evidence of observations that are simulated from the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from amortvi._util.lazy import pandas as pd
from amortvi._util.random import random_state
from amortvi.diagnostics.annealing.annealed_evidence import AnnealedEvidence, anneal
from amortvi.diagnostics.annealing.chains import AnnealingOptions, StartChoice
from amortvi.diagnostics.simulation.simulate import Simulated, Simulator, simulate_observations
from amortvi.inference import AmortizedVI

__all__ = ["EvidenceBracket", "bracket_evidence"]


@dataclass(frozen=True, repr=False)
class EvidenceBracket:
    """Bounds of the evidence of ``N`` simulated observations, from annealed chains in both directions.

    Args:
        lower: from chains that went forward; too low on average.
        upper: from chains that went backward from the latents that generated the observations; too high on average.
        simulated: the latents and the observations.
    """

    lower: AnnealedEvidence
    upper: AnnealedEvidence
    simulated: Simulated

    @property
    def gap(self) -> Tensor:
        """The upper minus the lower bound of each observation in nats, ``(N,)``; negative values occur by chance."""
        return self.upper.log_evidence - self.lower.log_evidence

    @property
    def mean_gap(self) -> float:
        """The mean gap in nats: the largest mean error of either bound, up to `mean_gap_se`."""
        return float(self.gap.mean())

    @property
    def mean_gap_se(self) -> float:
        """The standard error of `mean_gap`, from the variation between observations; NaN for one observation."""
        return float(self.gap.std() / len(self.gap) ** 0.5)

    def __repr__(self) -> str:
        return f"EvidenceBracket({len(self.gap)} simulated observations: {self})"

    def __str__(self) -> str:
        return (
            f"{float(self.lower.log_evidence.mean()):.2f} <= mean log p(x) <= {float(self.upper.log_evidence.mean()):.2f} "
            f"nats, gap {self.mean_gap:.3f} ± {self.mean_gap_se:.3f}"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row per observation: ``lower``, ``lower_se``, ``upper``, ``upper_se`` and ``gap``, in nats."""
        columns: dict[str, Tensor] = {}
        for name, bound in (("lower", self.lower), ("upper", self.upper)):
            columns |= {name: bound.log_evidence, f"{name}_se": bound.standard_error}
        return pd.DataFrame({name: value.numpy() for name, value in {**columns, "gap": self.gap}.items()})


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
    progress: bool | None = None,
) -> EvidenceBracket:
    """Bracket ``log p(x)`` of simulated observations, to check how accurate annealing is with given options.

    The latents that generated an observation are a draw from its exact posterior, from which chains can go backward. On
    average, the exact evidence lies between the estimates of the two directions. The gap thus bounds the mean error of
    `annealed_evidence`, provided that real observations resemble simulated ones (bidirectional Monte Carlo; Grosse, Ghahramani
    and Adams, 2015).

    Args:
        vi: a fitted estimator.
        simulations: ``N``, the number of observations to simulate.
        x: observations whose sizes and covariates are used, cyclically; by default some of the training data.
        simulator: draws latents and data in place of the model; see `simulate_observations`.
        temperatures: the number of steps between start density and joint density.
        chains: ``K``, the number of chains for each observation and direction, at least 2.
        start: the start density, ``"posterior"`` (the approximate posterior) or ``"prior"``.
        leapfrog_steps: the number of leapfrog steps per move, each with a gradient of the model.
        seed: reproduces the result and leaves the caller's random state untouched.
        progress: whether to show progress bars; by default in notebooks and if standard error is a terminal.

    Returns:
        Both bounds, with the simulated latents and observations.

    Raises:
        NotFittedError: no data have been seen.
        ModelError: data cannot be simulated from the model.
        DataError: the observations ``x`` cannot be used.
        OptionError: an option is out of range.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.0], [0.5, 1.0]]), scale=0.5)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), freeze_model=True)
        >>> vi = vi.fit(model.simulate(50, seed=0), epochs=50, lr=0.05, progress=False, seed=0)
        >>> bracket = bracket_evidence(vi, 50, temperatures=50, leapfrog_steps=2, seed=0, progress=False)
        >>> exact = float(model.log_evidence(bracket.simulated.batch.args[0]).mean())
        >>> bool(abs(bracket.lower.log_evidence.mean() - exact) < 0.1 > abs(bracket.upper.log_evidence.mean() - exact))
        True
    """
    options = AnnealingOptions(temperatures, chains, start, leapfrog_steps, progress)
    simulated = simulate_observations(vi, simulations, x, simulator=simulator, seed=seed)
    posterior = vi.posterior(simulated.observations, copy=False)
    with random_state(seed, vi.device):
        lower, upper = anneal(posterior, options), anneal(posterior, options, simulated.vector)
    return EvidenceBracket(lower, upper, simulated)
