"""Whose fault is it: the family's, the encoder's or the optimizer's?

The gaps tell what is lost to the family and what to the encoder. An encoder that was not trained to the end loses as one
does that is too weak; the history tells these two apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor

from amortvi.diagnostics.convergence import Convergence, convergence
from amortvi.diagnostics.gaps import Gaps, gaps
from amortvi.inference import AmortizedVI

__all__ = ["Diagnosis", "Fault", "diagnose"]

Fault: TypeAlias = Literal["fine", "family", "encoder", "optimizer", "do not trust"]

_MOST = 0.5


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a fit, if anything.

    Args:
        gaps: of the observations that were looked at.
        convergence: of the fit.
    """

    gaps: Gaps
    convergence: Convergence

    @property
    def fault(self) -> Fault:
        """``"fine"``, ``"family"``, ``"encoder"``, ``"optimizer"`` or ``"do not trust"``, of the observations as a whole.

        * Not to be trusted: the evidence of most observations has weights too heavy-tailed to be known.
        * The optimizer: the bound was still rising, by more than was lost to the family; or the encoder loses most and the
          epochs were too few to tell whether it had learned what it can.
        * The larger of the mean gaps otherwise, unless both together are within the tolerance.
        """
        found = self.gaps
        if found.verdicts()["do not trust"] > _MOST * len(found.evidence):
            return "do not trust"
        trusted = self._trusted
        approximation, amortization = (float(gap[trusted].mean()) for gap in (found.approximation, found.amortization))
        loss = found.inference[trusted]
        error = float(loss.std() / len(loss) ** 0.5) if len(loss) > 1 else float(found.inference_se[trusted])
        rising, unknown = self._gain > 0, self.convergence.state == "too few epochs"
        if rising and self._gain > approximation:
            return "optimizer"
        if float(loss.mean()) <= found.tolerance + 2 * error:
            return "fine"
        if approximation >= amortization:
            return "family"
        return "optimizer" if rising or unknown else "encoder"

    @property
    def _trusted(self) -> Tensor:
        return self.gaps.trusted

    @property
    def _gain(self) -> float:
        """What as many epochs again may bring, where the bound was rising."""
        trend = self.convergence.trend
        return trend.gain if self.convergence.state == "rising" and trend is not None else 0.0

    @property
    def statement(self) -> str:
        """The fault in a sentence or two, with what can be done."""
        found, trusted = self.gaps, self._trusted
        count = len(found.evidence)
        if self.fault == "do not trust":
            return (
                f"the evidence of {int((~trusted).sum())} of {count} observations cannot be known from these weights: k-hat is "
                f"above its threshold, for refined posteriors too. Compare with annealed_evidence or with reference (NUTS)."
            )
        approximation, amortization, loss = (
            float(gap[trusted].mean()) for gap in (found.approximation, found.amortization, found.inference)
        )
        lost = f"{loss:.2f} nats an observation are lost, {approximation:.2f} to the family and {amortization:.2f} to the encoder"
        advice = {
            "fine": f"within the tolerance of {found.tolerance:g} nats or two standard errors.",
            "family": f"a richer one than {found.family!r} would gain most.",
            "encoder": "a larger encoder, or one that sees more of the observation, would gain most; vi.refine makes up for it.",
            "optimizer": f"{self.convergence.reason} More epochs or a larger learning rate come first.",
        }
        left_out = (
            "" if bool(trusted.all()) else f" {int((~trusted).sum())} of {count} observations could not be judged."
        )
        return f"{lost}; {advice[self.fault]}{left_out}"

    def __str__(self) -> str:
        return f"{self.fault}: {self.statement}"


def diagnose(vi: AmortizedVI, x: Any, *, draws: int = 1000, tolerance: float = 0.1, seed: int = 0) -> Diagnosis:
    """Say what is wrong with a fit: its posterior family, its encoder, its optimizer, or nothing.

    Args:
        vi: a fitted estimator.
        x: observations, as for `AmortizedVI.fit`; held-out ones tell what new data will lose.
        draws: for each bound and for the evidence.
        tolerance: in nats; a loss up to this is fine.
        seed: of all draws; the caller's random state stays as it was.

    Raises:
        NotFittedError: the guide has not seen data yet.
        DataError: the observations cannot be used.
        OptionError: an option is out of range.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.0, 0.5]]), scale=0.5)
        >>> x = model.simulate(50, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).fit(x, epochs=400, lr=0.02, progress=False, seed=0)
        >>> avi.diagnose(vi, x).fault
        'family'
    """
    return Diagnosis(gaps(vi, x, draws=draws, tolerance=tolerance, seed=seed), convergence(vi))
