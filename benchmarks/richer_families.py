"""How much longer does a training step take with a posterior beyond one Gaussian?

Steps alone, without the fit, on the digits: batches of 64, 8 latents, one draw per observation (per component, for the mixture of
three). Each family recorded, as by default, and compiled; beside them, zuko's own flow as its documentation uses it, in eager
PyTorch. Compiling the flows takes minutes, once.
"""

from __future__ import annotations

import amortvi as avi
from benchmarks.competitors import problem
from benchmarks.competitors.amortvi_fit import compiled_steps
from benchmarks.competitors.zuko_flow import zuko_steps
from benchmarks.harness import Competitor, Ratio, measure, report, start

FAMILIES: dict[str, avi.families.FamilyChoice] = {
    "diagonal": "diagonal",
    "full": "full",
    "student_t": "student_t",
    "mixture": "mixture",
    "affine flow": avi.families.Flow(kind="affine"),
    "spline flow": "flow",
}
ZUKO = "zuko's spline flow, eager"


def main() -> None:
    """Measure and report."""
    settings = start("richer_families", __doc__, threads=1, epochs=20, repetitions=5)
    digits = problem.whole_batches(problem.small())
    competitors: dict[str, Competitor] = {}
    for name, family in FAMILIES.items():
        competitors[f"{name}, recorded"] = compiled_steps(digits, settings.epochs, family=family, compiled="auto")
        competitors[f"{name}, compiled"] = compiled_steps(digits, settings.epochs, family=family)
    competitors[ZUKO] = zuko_steps(digits, settings.epochs)
    ratios = [
        Ratio(f"{name}, {kind}", f"diagonal, {kind}")
        for kind in ("recorded", "compiled")
        for name in FAMILIES
        if name != "diagonal"
    ]
    ratios += [Ratio(ZUKO, "spline flow, recorded"), Ratio(ZUKO, "spline flow, compiled")]
    times = measure(competitors, steps=settings.epochs * digits.steps, repetitions=settings.repetitions)
    report(settings, times, ratios, competitors=competitors)


if __name__ == "__main__":
    main()
