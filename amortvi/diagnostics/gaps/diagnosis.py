"""What limits a fit: its family, its encoder or its optimizer.

The gaps measure how much is lost to the family and how much to the encoder. An encoder that was not trained for long enough
may lose as much as one that is too weak; the history of the fit distinguishes the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from amortvi.diagnostics.convergence.convergence import Convergence, convergence
from amortvi.diagnostics.gaps.gaps import Gaps, gaps
from amortvi.inference import AmortizedVI

__all__ = ["Diagnosis", "Fault", "Loss", "diagnose"]

Fault: TypeAlias = Literal["ok", "family", "encoder", "optimizer", "unreliable"]

_MOST_UNRELIABLE = 0.5
"""The largest fraction of unreliable observations with which a fit can be judged."""
_DECAYED = 0.5
"""A learning rate above this fraction of its largest value keeps the encoder oscillating around its optimum."""


@dataclass(frozen=True)
class Loss:
    """Mean gaps over the reliable observations, in nats per observation; NaN if there are none.

    Args:
        family: the approximation gap.
        encoder: the amortization gap.
        total: the inference gap.
        standard_error: the Monte Carlo standard error of `total`, without the variation between observations.
    """

    family: float
    encoder: float
    total: float
    standard_error: float


@dataclass(frozen=True)
class Diagnosis:
    """What limits a fit, if anything.

    Args:
        gaps: the gaps of some observations.
        convergence: whether the fit has converged.
        frozen: whether the model was frozen, so that training can gain no more than the inference gap.
    """

    gaps: Gaps
    convergence: Convergence
    frozen: bool = False

    @property
    def loss(self) -> Loss:
        """The mean gaps over the reliable observations."""
        found, reliable = self.gaps, self.gaps.reliable
        return Loss(
            family=float(found.approximation[reliable].mean()),
            encoder=float(found.amortization[reliable].mean()),
            total=float(found.inference[reliable].mean()),
            standard_error=float(found.inference_se[reliable].square().sum().sqrt()) / max(1, int(reliable.sum())),
        )

    @property
    def gain(self) -> float:
        """The gain that doubling the epochs may bring, in nats per observation; zero unless the bound is still rising."""
        trend = self.convergence.trend
        if self.convergence.state != "rising" or trend is None:
            return 0.0
        return min(trend.gain, max(self.loss.total, 0.0)) if self.frozen else trend.gain

    @property
    def fault(self) -> Fault:
        """What limits the fit as a whole: ``"ok"``, ``"family"``, ``"encoder"``, ``"optimizer"`` or ``"unreliable"``.

        * ``"unreliable"``: the evidence of most observations cannot be estimated reliably.
        * ``"ok"``: the mean inference gap exceeds the tolerance by at most two Monte Carlo standard errors, and training longer
          would not gain more than the tolerance.
        * ``"optimizer"``: the bound is still rising, and training longer may gain more than is lost to the family; or most is
          lost to the encoder, and the history does not show that the fit has converged.
        * ``"family"`` or ``"encoder"`` otherwise, depending on the larger gap.
        """
        found, loss = self.gaps, self.loss
        if int((~found.reliable).sum()) > _MOST_UNRELIABLE * len(found.reliable):
            return "unreliable"
        if loss.total <= found.tolerance + 2 * loss.standard_error and self.gain <= found.tolerance:
            return "ok"
        if self.gain > max(loss.family, found.tolerance):
            return "optimizer"
        if loss.family >= loss.encoder:
            return "family"
        return "encoder" if self.convergence.state in ("converged", "overfitting") else "optimizer"

    @property
    def statement(self) -> str:
        """The fault in a sentence or two, with advice."""
        found, fault, loss = self.gaps, self.fault, self.loss
        count, unknown = len(found.reliable), int((~found.reliable).sum())
        if fault == "unreliable":
            return (
                f"the evidence of {unknown} of {count} observations cannot be estimated reliably: k-hat is above its threshold "
                f"even for refined posteriors. Compare with annealed_evidence or with reference (NUTS)."
            )
        advice = {
            "ok": f"this is within the tolerance of {found.tolerance:g} nats or two standard errors.",
            "family": f"a more expressive family than {found.family!r} would gain most.",
            "encoder": self._encoder_advice(),
            "optimizer": f"{self.convergence.reason} {self._optimizer_advice()}",
        }
        skipped = f" {unknown} of {count} observations could not be judged." if unknown else ""
        return (
            f"{loss.total:.2f} nats per observation are lost, {loss.family:.2f} to the family and {loss.encoder:.2f} to the "
            f"encoder; {advice[fault]}{skipped}"
        )

    def _encoder_advice(self) -> str:
        effect = "would gain most; vi.refine closes the gap."
        if self.convergence.state == "overfitting":
            return f"{self.convergence.reason} More data or a smaller encoder {effect}"
        advice = f"a larger encoder, richer encoder inputs or more data {effect}"
        if self.convergence.learning_rate <= _DECAYED:
            return advice
        return f"{advice} The learning rate was never lowered; decay it first, since at a constant rate the encoder oscillates."

    def _optimizer_advice(self) -> str:
        if self.convergence.state in ("rising", "too few epochs"):
            return "First train for more epochs or with a larger learning rate."
        return "First train with a smaller learning rate, or with one that decays."

    def __str__(self) -> str:
        return f"{self.fault}: {self.statement}"

    __repr__ = __str__


def diagnose(vi: AmortizedVI, x: Any, *, draws: int = 1000, tolerance: float = 0.1, seed: int = 0) -> Diagnosis:
    """Diagnose whether a fit is limited by its posterior family, its encoder, its optimizer, or not at all.

    Args:
        vi: a fitted estimator, whose family can be refined.
        x: observations, as for `AmortizedVI.fit`; held-out ones show what is lost on new data.
        draws: draws for each bound and for the evidence, at least 21.
        tolerance: in nats per observation; a loss up to this is ok, and so is a gain that more training would bring.
        seed: the seed of all draws; the caller's random state is left untouched.

    Raises:
        NotFittedError: no data have been seen, or no epoch has been trained.
        DataError: the observations cannot be used.
        FamilyError: the family cannot be refined.
        OptionError: an option is out of range.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.0, 0.5]]), scale=0.5)
        >>> x = model.simulate(50, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).fit(x, epochs=400, lr=0.02, progress=False, seed=0)
        >>> avi.diagnose(vi, x).fault
        'family'
    """
    converged = convergence(vi, tolerance=tolerance)  # cheap, and refuses an estimator that was not trained
    return Diagnosis(gaps(vi, x, draws=draws, tolerance=tolerance, seed=seed), converged, vi.freeze_model)
