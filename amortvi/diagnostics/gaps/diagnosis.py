"""What limits a fit: its family, its encoder or its optimizer.

The gaps measure how much is lost to the family and how much to the encoder. An encoder that was not trained for long enough
may lose as much as one that is too weak; the history of the fit distinguishes the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from amortvi._util.text import capitalized, html_summary, number
from amortvi.diagnostics.evidence import MOST_UNRELIABLE
from amortvi.diagnostics.gaps.advice import Loss, advise, charge, loss_beyond, losses
from amortvi.diagnostics.gaps.gaps import Gaps, gaps
from amortvi.diagnostics.gaps.gradients import GradientNorms, read_gradients
from amortvi.diagnostics.gaps.inputs import InputScale, read_inputs
from amortvi.diagnostics.gaps.thorough import Thorough, examine_thoroughly
from amortvi.diagnostics.simulation import Simulated
from amortvi.errors import NotFittedError
from amortvi.inference import AmortizedVI
from amortvi.training import Convergence

__all__ = ["Diagnosis", "Fault", "Loss", "diagnose"]

Fault: TypeAlias = Literal["ok", "family", "encoder", "optimizer", "unreliable"]


@dataclass(frozen=True)
class Diagnosis:
    """What limits a fit, if anything.

    Args:
        gaps: the gaps of some observations.
        convergence: how the fit ended.
        frozen: whether the model was frozen or has no parameters, so that training can gain no more than the inference gap.
        inputs: the scale of the encoder's inputs, if they are floating-point numbers.
        gradients: how the gradient of the encoder varies, if it is trained.
        thorough: what annealed importance sampling and NUTS say, if they were asked.
    """

    gaps: Gaps
    convergence: Convergence
    frozen: bool = False
    inputs: InputScale | None = None
    gradients: GradientNorms | None = None
    thorough: Thorough | None = None

    @property
    def judged(self) -> Gaps:
        """The gaps that are judged: with annealed evidence if it is accurate and the other is unreliable, else `gaps`."""
        if self.thorough is not None and self.thorough.trusted and _unreliable(self.gaps):
            return self.thorough.gaps
        return self.gaps

    @property
    def loss(self) -> Loss:
        """The mean gaps over the reliable observations."""
        return losses(self.judged)

    @property
    def gain(self) -> float:
        """The gain that doubling the epochs may bring, in nats per observation; zero unless the bound was still rising."""
        if self.convergence.status != "still rising":
            return 0.0
        gain = self.convergence.gain.value
        return min(gain, max(self.loss.total, 0.0)) if self.frozen else gain

    @property
    def fault(self) -> Fault:
        """What limits the fit as a whole: ``"ok"``, ``"family"``, ``"encoder"``, ``"optimizer"`` or ``"unreliable"``.

        * ``"unreliable"``: the evidence of most observations cannot be estimated reliably.
        * ``"ok"``: the mean inference gap exceeds the tolerance by at most two standard errors, and training longer would not
          gain more than the tolerance.
        * otherwise the cause of the largest loss. What training longer would gain is charged to the optimizer. If the history
          does not show that the fit has converged or at least begun to level off, everything that the encoder loses is, too.
        """
        found, loss = self.judged, self.loss
        if _unreliable(found):
            return "unreliable"
        if loss.total <= found.tolerance + 2 * loss.standard_error and self.gain <= found.tolerance:
            return "ok"
        charges = charge(loss, self.convergence, self.gain)
        return max(charges, key=lambda cause: charges[cause])

    @property
    def advice(self) -> str:
        """What to do about the fault; empty if there is nothing to do."""
        if self.fault == "unreliable":
            return "compare with annealed_evidence or with reference (NUTS), or use diagnose(..., thorough=True)."
        if self.fault == "ok":
            return ""
        return advise(self.fault, self.judged, self.loss, self.convergence, self.gain, self._problem)

    @property
    def statement(self) -> str:
        """The fault in a few sentences, with advice."""
        found, fault, loss = self.judged, self.fault, self.loss
        count, unknown = len(found.reliable), int((~found.reliable).sum())
        check = found.proposed.missed
        notes = []
        if fault == "unreliable":
            text = (
                f"the evidence of {unknown} of {count} observations cannot be estimated reliably: k-hat is above its threshold "
                f"even for refined posteriors."
            )
            if self.thorough is None:
                notes.append(capitalized(self.advice))
        else:
            advice = self.advice or f"this is within the tolerance of {found.tolerance:g} nats or two standard errors."
            text = (
                f"{loss.total:.2f} nats per observation are lost, {loss.family:.2f} to the family and {loss.encoder:.2f} to the "
                f"encoder; {advice}"
            )
            if unknown:
                notes.append(f"{unknown} of {count} observations could not be judged.")
            if check is not None and not check.known:
                notes.append(capitalized(str(check)))
        if self.thorough is not None:
            notes.append(str(self.thorough))
        return " ".join([text, *notes])

    @property
    def _problem(self) -> str:
        """What makes training hard, if anything, with its remedy."""
        return next((each.problem for each in (self.inputs, self.gradients) if each and each.problem), "")

    def _repr_html_(self) -> str:
        loss = self.loss
        rows = [
            (cause, number(nats, 3))
            for cause, nats in (("family", loss.family), ("encoder", loss.encoder), ("total", loss.total))
        ]
        facts = {"status of the fit": self.convergence.status}
        header = ["lost to", "nats per observation"]
        return html_summary(f"Diagnosis: {self.fault}", facts, header=header, rows=rows, notes=[self.statement])

    def __str__(self) -> str:
        return f"{self.fault}: {self.statement}"

    __repr__ = __str__


def _unreliable(found: Gaps) -> bool:
    return int((~found.reliable).sum()) > MOST_UNRELIABLE * len(found.reliable)


def diagnose(
    vi: AmortizedVI,
    x: Any,
    *,
    draws: int = 1000,
    simulations: int | Simulated = 300,
    tolerance: float = 0.1,
    thorough: bool = False,
    seed: int = 0,
) -> Diagnosis:
    """Diagnose whether a fit is limited by its posterior family, its encoder, its optimizer, or not at all.

    The refined posteriors of a Gaussian with full covariance and, where that is not close to the exact posterior, of a mixture of
    Gaussians show what another family would gain.

    Args:
        vi: a fitted estimator, whose family can be refined.
        x: observations, as for `AmortizedVI.fit`; held-out ones show what is lost on new data.
        draws: draws for each bound and for the evidence, at least 21.
        simulations: the number of observations that are simulated, to find out whether the estimate of the evidence misses a
            part of the exact posterior, or the result of `simulate_observations`; 0 omits this check.
        tolerance: in nats per observation; a loss up to this is ok, and so is a gain that more training would bring.
        thorough: whether to estimate the evidence of up to 20 observations by annealed importance sampling as well, to check
            that estimate on simulated data, and to sample two observations with NUTS. The annealed evidence decides if it is
            accurate and the other is unreliable. This takes a minute or more.
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
    if vi.convergence is None:
        raise NotFittedError("there is no fit to diagnose: call fit first.")
    measure = partial(gaps, vi, x, draws=draws, simulations=simulations, tolerance=tolerance, seed=seed)
    found = measure()
    if _unreliable(found) or loss_beyond(found) > tolerance:
        # No Gaussian is close to the exact posterior.
        found = measure(["full", "mixture"])
    frozen = vi.freeze_model or next(vi.generative.parameters(), None) is None
    posterior = vi.posterior(x, copy=False)
    examined = examine_thoroughly(vi, x, found, seed=seed) if thorough else None
    return Diagnosis(found, vi.convergence, frozen, read_inputs(posterior), read_gradients(posterior), examined)
