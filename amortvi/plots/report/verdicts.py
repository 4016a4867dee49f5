"""One verdict per fit, which follows from its training, its gaps and its calibration together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from amortvi._util.text import capitalized, number
from amortvi.diagnostics.calibration import Calibration
from amortvi.diagnostics.evidence import MOST_UNRELIABLE
from amortvi.errors import quoted
from amortvi.plots.report.findings import Findings

__all__ = ["MATERIAL", "NOT_FITTED", "Level", "Verdict", "calibration_faults", "failure_verdict", "judge"]

Level: TypeAlias = Literal["ok", "warning", "error"]

MATERIAL = {
    "location": 0.1,
    "spread": 0.1,
    "correlation": 0.1,
    "marginal": 0.1,
    "joint": 0.1,
    "coverage": 0.02,
    "TARP": 0.02,
}
"""The size of an effect, by the kind of its test, from which a calibration fault counts. With enough simulations, a test detects
faults that are far too small to matter."""
_TRAIN = "call fit(x) without epochs, which trains until the fit has converged"
_REMEDIES = {
    "missing correlation": "use a family with correlations, such as 'full' or 'low_rank'",
    "wrong correlation": "use a richer family, such as 'full', 'mixture' or 'flow'",
}
_SIMULATED = "train the encoder on simulated data as well (vi.fit_encoder) if new data may look like them"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one fit: a sentence that consists of the reason and of what to do.

    Args:
        level: how serious it is.
        label: the verdict in a few words.
        reason: what was found.
        action: what to do next.
    """

    level: Level
    label: str
    reason: str
    action: str


def judge(found: Findings, tolerance: float) -> Verdict:
    """Return the verdict on a fit: the first that applies of an unfinished training, a fault of the posterior, and none."""
    return (
        _training_verdict(found, tolerance)
        or _gap_verdict(found, tolerance)
        or _calibration_verdict(found)
        or _ok(found, tolerance)
    )


def failure_verdict(error: Exception) -> Verdict:
    """Return the verdict on a fit that ended with an error, or whose posteriors cannot be computed."""
    reason = quoted(error, lines=3).rstrip(".")
    return Verdict("error", "Failed", reason, "correct the cause and fit it again; the other fits are not affected")


NOT_FITTED = Verdict("error", "Not fitted", "Ctrl-C ended the fits before this one", "fit it again")
"""The verdict on a fit that was not begun."""


def _training_verdict(found: Findings, tolerance: float) -> Verdict | None:
    convergence = found.convergence
    if convergence.status == "interrupted":
        return Verdict(
            "error", "Cut short", capitalized(convergence.reason), "call fit(x) again, which continues the training"
        )
    if convergence.converged or _can_gain_nothing(found, tolerance):
        return None
    action = _TRAIN
    if found.diagnosis is not None and found.diagnosis.fault == "optimizer":
        action = found.diagnosis.advice.removeprefix(f"{convergence.reason}. ").removeprefix("First ").rstrip(".")
    elif convergence.gain.is_fall:
        action = "train with a smaller learning rate"
    return Verdict("warning", "Not converged", capitalized(convergence.reason), _lowered(action))


def _can_gain_nothing(found: Findings, tolerance: float) -> bool:
    """Return whether the whole inference gap, which bounds what more training of a frozen model can gain, is negligible."""
    return found.frozen and found.gap.known and found.gap.is_within(tolerance)


def _gap_verdict(found: Findings, tolerance: float) -> Verdict | None:
    gap, diagnosis = found.gap, found.diagnosis
    if not gap.known:
        reason = (
            f"The evidence of {gap.unknown} of {gap.count} observations cannot be estimated reliably, so that it is unknown how "
            f"much the posterior loses"
        )
        advice = "compare with annealed_evidence or with reference (NUTS)"
        return Verdict("warning", "Unknown", reason, advice)
    if diagnosis is None:
        if gap.is_within(tolerance):
            return None
        action = "train with fit_encoder, or use a larger encoder or family; a family with parameters can be refined"
        return Verdict(
            "warning", "Inference gap", capitalized(f"{gap} are lost to family and encoder together"), action
        )
    loss = diagnosis.loss
    causes = {
        "family": ("Limited by its family", f"{loss.family:.2f} of them to the family"),
        "encoder": ("Limited by its encoder", f"{loss.encoder:.2f} of them to the encoder"),
        "optimizer": ("Hardly trained", "and training has gained little compared with that"),
    }
    if diagnosis.fault in causes:
        label, cause = causes[diagnosis.fault]
        reason = capitalized(f"{gap} are lost, {cause}")
        return Verdict("warning", label, reason, _lowered(diagnosis.advice))
    return None


def _calibration_verdict(found: Findings) -> Verdict | None:
    if found.calibration is None:
        return None
    faults = [fault for fault in calibration_faults(found.calibration) if fault.is_material]
    if not faults:
        return None
    reason = (
        f"{capitalized(str(found.gap))} are lost on these data, but on data simulated from the model the posterior is "
        f"{' and '.join(dict.fromkeys(fault.text for fault in faults[:2]))}"
    )
    action = next((_REMEDIES[fault.verdict] for fault in faults if fault.verdict in _REMEDIES), _SIMULATED)
    return Verdict("warning", "Miscalibrated", reason, action)


def _ok(found: Findings, tolerance: float) -> Verdict:
    gap = found.gap
    size = "within" if gap.mean <= tolerance else "within two standard errors of"
    reasons = [f"{capitalized(str(gap))} are lost, {size} the tolerance of {tolerance:g}"]
    if not found.convergence.converged:
        reasons.append("which is all that more training of a frozen model could gain")
    if found.calibration is not None:
        small = calibration_faults(found.calibration)
        reasons.append(
            "and the faults that calibration resolves are negligible" if small else "and calibration finds no fault"
        )
    action = "nothing needs to be done"
    if found.reliable_share < 1 - MOST_UNRELIABLE:
        action = "refine (vi.refine) before you importance-weight its draws, because k-hat is high"
    return Verdict("ok", "Good", ", ".join(reasons), action)


def _lowered(text: str) -> str:
    """Return a sentence as the end of another one."""
    return text[:1].lower() + text[1:].rstrip(".")


@dataclass(frozen=True)
class CalibrationFault:
    """A fault that a calibration test has found.

    Args:
        verdict: the verdict of the test.
        text: the fault with its size.
        size: the effect relative to the one from which it counts.
    """

    verdict: str
    text: str
    size: float

    @property
    def is_material(self) -> bool:
        """Whether the effect is large enough to matter."""
        return self.size >= 1


def calibration_faults(found: Calibration) -> list[CalibrationFault]:
    """Return the faults of a calibration: those that have a name first, and the largest first; several may be the same."""
    return sorted(_faults(found), key=lambda fault: (fault.verdict == "not calibrated", -fault.size))


def _faults(found: Calibration) -> Iterator[CalibrationFault]:
    coverage = _coverage_text(found)
    for test in found.tests:
        if test.verdict == "calibrated" or test.kind not in MATERIAL:
            continue
        size, is_missing = number(test.statistic, 2), test.verdict == "missing correlation"
        effect = abs(test.statistic - 1) if test.kind == "spread" else abs(test.statistic)
        texts = {
            "location": f"shifted by {size} posterior standard deviations",
            "spread": f"{test.verdict} (the truth varies {size} times as much as it claims)",
            "correlation": f"{'missing' if is_missing else 'wrong by'} a correlation of {size}",
            "coverage": f"{test.verdict} ({coverage})",
            "TARP": f"{test.verdict} in balls around reference points",
        }
        text = texts.get(test.kind, f"{test.verdict} in the ranks of {test.quantity}")
        yield CalibrationFault(test.verdict, text, effect / MATERIAL[test.kind])


def _coverage_text(found: Calibration) -> str:
    """Return what the coverage of the level with the largest error is."""
    covered = found.coverage()["highest_density"]
    pairs = zip(covered.index.to_numpy(dtype=float), covered.to_numpy(dtype=float), strict=True)
    level, share = max(pairs, key=lambda pair: abs(pair[1] - pair[0]))
    return f"its {level:.0%} regions contain the truth {share:.0%} of the time"
