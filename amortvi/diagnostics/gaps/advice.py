"""Which cause is to blame for what a fit loses, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from amortvi.diagnostics.gaps.gaps import Gaps
from amortvi.training import Convergence

__all__ = ["Cause", "Loss", "advise", "charge", "loss_beyond", "losses"]

Cause: TypeAlias = Literal["family", "encoder", "optimizer"]

_HARDLY_BEGUN = 10
"""An encoder that loses this many times what training has gained has hardly been trained."""
_MOST = 0.5
"""The share of a loss that a remedy must recover to be recommended without reservation."""
_ELSEWHERE = (
    "a mixture with more components, 'flow' (needs the extra `flows`), or a model whose posteriors are closer to normal, for "
    "example in a non-centered parameterization"
)


@dataclass(frozen=True)
class Loss:
    """Mean gaps over the reliable observations, in nats per observation; NaN if there are none.

    Args:
        family: the approximation gap.
        encoder: the amortization gap.
        total: the inference gap.
        standard_error: the standard error of `total`, without the variation between observations.
        missed: the part of `family` that only simulated data reveal; see `Gaps.missed`.
    """

    family: float
    encoder: float
    total: float
    standard_error: float
    missed: float


def losses(found: Gaps) -> Loss:
    """Return the mean gaps over the reliable observations."""
    reliable = found.reliable
    return Loss(
        family=float(found.approximation[reliable].mean()),
        encoder=float(found.amortization[reliable].mean()),
        total=float(found.inference[reliable].mean()),
        standard_error=float(found.inference_se[reliable].square().sum().sqrt()) / max(1, int(reliable.sum())),
        missed=float(found.missed[reliable].mean()),
    )


def loss_beyond(found: Gaps) -> float:
    """Return what the best of the refined families loses, in nats per observation."""
    elbos = torch.stack([bound.elbo for bound in found.refined.values()])[:, found.reliable]
    return float((found.evidence[found.reliable] - elbos).mean(-1).amin())


def charge(loss: Loss, convergence: Convergence, gain: float) -> dict[Cause, float]:
    """Divide what is lost between the causes, in nats per observation.

    What more training would gain is charged to the optimizer, not to the encoder. So is everything that the encoder loses if the
    history does not show that training has come to an end, or shows that it has hardly begun.

    Args:
        loss: the mean gaps.
        convergence: how the fit ended.
        gain: the gain that more training would bring.
    """
    hardly_begun = loss.encoder > _HARDLY_BEGUN * max(convergence.climb, 0.0)
    optimizer = max(gain, loss.encoder) if hardly_begun or convergence.is_unfinished else gain
    return {"family": loss.family, "encoder": loss.encoder - min(loss.encoder, optimizer), "optimizer": optimizer}


def advise(fault: Cause, found: Gaps, loss: Loss, convergence: Convergence, gain: float, problem: str) -> str:
    """Return what to do about a fault, in one or two sentences.

    Args:
        fault: the cause of the largest loss.
        found: the gaps.
        loss: their means.
        convergence: how the fit ended.
        gain: the gain that more training would bring.
        problem: what makes training hard, with its remedy; empty if nothing does.
    """
    if fault == "family":
        return _family_advice(found, loss)
    if fault == "optimizer":
        return f"{convergence.reason}. {problem or _optimizer_advice(convergence)}"
    rising = ""
    if gain > found.tolerance:
        rising = f" The bound was still rising, but doubling the epochs may gain only {gain:.2g} nats."
    if problem:
        return f"vi.refine closes the gap. {problem}{rising}"
    effect = "would gain most; vi.refine closes the gap."
    if convergence.overfits:
        return f"{convergence.reason}. Simulated data (vi.fit_encoder), more data or a smaller encoder {effect}"
    return f"a larger encoder, simulated data (vi.fit_encoder), richer encoder inputs or more data {effect}{rising}"


def _family_advice(found: Gaps, loss: Loss) -> str:
    """Recommend the refined family that recovers most, if any does."""
    reliable, own = found.reliable, found.refined[found.family].elbo
    gains = {label: float((other.elbo - own)[reliable].mean()) for label, other in found.refined.items()}
    best = max(gains, key=lambda label: gains[label])
    missed = ""
    if loss.missed > 0:
        missed = (
            f"at least part of the exact posterior, worth {loss.missed:.2f} nats, is missed by every refined posterior (several "
            f"modes, a funnel or heavy tails): "
        )
    if not missed and gains[best] >= _MOST * loss.family:
        return f"the family {best!r} recovers {gains[best]:.2f} of them."
    if gains[best] > found.tolerance:
        return f"{missed}the family {best!r} recovers {gains[best]:.2f} nats; for the rest try {_ELSEWHERE}."
    return f"{missed}no other refined family recovers them; try {_ELSEWHERE}."


def _optimizer_advice(convergence: Convergence) -> str:
    if convergence.gain.is_fall:
        return "First train with a smaller learning rate."
    return "First train until the fit has converged: fit(x) without epochs."
