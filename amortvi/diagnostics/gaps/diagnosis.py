"""Whose fault is it: the family's, the encoder's or the optimizer's?

The gaps tell what is lost to the family and what to the encoder. An encoder that was not trained to the end loses as one
does that is too weak; the history tells these two apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from amortvi.diagnostics.convergence.convergence import Convergence, convergence
from amortvi.diagnostics.gaps.gaps import Gaps, gaps
from amortvi.inference import AmortizedVI

__all__ = ["Diagnosis", "Fault", "diagnose"]

Fault: TypeAlias = Literal["fine", "family", "encoder", "optimizer", "do not trust"]

_MOST = 0.5


_FALLEN = 0.5
"""A learning rate that never came below this part of its largest still shakes the encoder about its best."""


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a fit, if anything.

    Args:
        gaps: of the observations that were looked at.
        convergence: of the fit.
        frozen: whether the model was held fixed, so that no more can be gained than is lost.
    """

    gaps: Gaps
    convergence: Convergence
    frozen: bool = False

    @property
    def loss(self) -> Loss:
        """The mean loss of the observations whose evidence is known."""
        return Loss.of(self.gaps)

    @property
    def gain(self) -> float:
        """What as many epochs again may bring in nats an observation, where the bound was still rising, else zero."""
        trend = self.convergence.trend
        if self.convergence.state != "rising" or trend is None:
            return 0.0
        return min(trend.gain, max(self.loss.whole, 0.0)) if self.frozen else trend.gain

    @property
    def fault(self) -> Fault:
        """``"fine"``, ``"family"``, ``"encoder"``, ``"optimizer"`` or ``"do not trust"``, of the observations as a whole.

        * Not to be trusted: the evidence of most observations has weights too heavy-tailed to be known.
        * Fine: no more is lost than the tolerance, two Monte Carlo standard errors allowed for, and no more is to be gained.
        * The optimizer: the bound was still rising, by more than was lost to the family; or the encoder loses most, and the
          history does not say that it had come to rest.
        * The larger of the mean gaps otherwise.
        """
        found, loss = self.gaps, self.loss
        if int((~found.trusted).sum()) > _MOST * len(found.trusted):
            return "do not trust"
        if loss.whole <= found.tolerance + 2 * loss.error and self.gain <= found.tolerance:
            return "fine"
        if self.gain > max(loss.family, found.tolerance):
            return "optimizer"
        if loss.family >= loss.encoder:
            return "family"
        return "encoder" if self.convergence.state in ("converged", "overfitting") else "optimizer"

    @property
    def statement(self) -> str:
        """The fault in a sentence or two, with what can be done."""
        found, fault, loss = self.gaps, self.fault, self.loss
        count, unknown = len(found.trusted), int((~found.trusted).sum())
        if fault == "do not trust":
            return (
                f"the evidence of {unknown} of {count} observations cannot be known from these weights: k-hat is above its "
                f"threshold, for refined posteriors too. Compare with annealed_evidence or with reference (NUTS)."
            )
        parts = f"{loss.family:.2f} to the family and {loss.encoder:.2f} to the encoder"
        lost = f"{loss.whole:.2f} nats an observation are lost, {parts}"
        advice = {
            "fine": f"within the tolerance of {found.tolerance:g} nats or two standard errors.",
            "family": f"a richer one than {found.family!r} would gain most.",
            "encoder": self._advice_on_the_encoder(),
            "optimizer": f"{self.convergence.reason} {self._advice_on_the_optimizer()}",
        }
        left_out = f" {unknown} of {count} observations could not be judged." if unknown else ""
        return f"{lost}; {advice[fault]}{left_out}"

    def _advice_on_the_encoder(self) -> str:
        if self.convergence.state == "overfitting":
            return (
                f"{self.convergence.reason} More data or a smaller encoder would gain most; vi.refine makes up for it."
            )
        rate = (
            " The learning rate was never lowered: let it fall first, since at one that stays an encoder shakes about its best."
            if self.convergence.learning_rate > _FALLEN
            else ""
        )
        return (
            "a larger encoder, or one that sees more of the observation, or more data would gain most; vi.refine makes up for "
            f"it.{rate}"
        )

    def _advice_on_the_optimizer(self) -> str:
        if self.convergence.state in ("rising", "too few epochs"):
            return "More epochs or a larger learning rate come first."
        return "A smaller learning rate, or one that falls, comes first."

    def __str__(self) -> str:
        return f"{self.fault}: {self.statement}"

    __repr__ = __str__


@dataclass(frozen=True)
class Loss:
    """Mean losses in nats an observation, over those whose evidence is known.

    Args:
        family: the approximation gap.
        encoder: the amortization gap.
        whole: the inference gap.
        error: its Monte Carlo standard error; what observations differ by is no error, since these are the ones asked about.
    """

    family: float
    encoder: float
    whole: float
    error: float

    @classmethod
    def of(cls, gaps: Gaps) -> Loss:
        """Return the mean losses; NaN where no evidence is known."""
        known = gaps.trusted
        return cls(
            family=float(gaps.approximation[known].mean()),
            encoder=float(gaps.amortization[known].mean()),
            whole=float(gaps.inference[known].mean()),
            error=float(gaps.inference_se[known].square().sum().sqrt()) / max(1, int(known.sum())),
        )


def diagnose(vi: AmortizedVI, x: Any, *, draws: int = 1000, tolerance: float = 0.1, seed: int = 0) -> Diagnosis:
    """Say what is wrong with a fit: its posterior family, its encoder, its optimizer, or nothing.

    Args:
        vi: a fitted estimator.
        x: observations, as for `AmortizedVI.fit`; held-out ones tell what new data will lose.
        draws: for each bound and for the evidence, at least 21.
        tolerance: in nats an observation; a loss up to this is fine, and so is a gain that training was not run for.
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
    found = gaps(vi, x, draws=draws, tolerance=tolerance, seed=seed)
    return Diagnosis(found, convergence(vi, tolerance=tolerance), vi.freeze_model)
