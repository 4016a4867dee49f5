"""The section of a report on calibration."""

from __future__ import annotations

from collections.abc import Sequence

from amortvi._util.text import number, p_value
from amortvi.diagnostics.calibration import Calibration
from amortvi.plots import plot_coverage, plot_ranks
from amortvi.plots.palette import family_colors
from amortvi.plots.report.figures import draw_figure
from amortvi.plots.report.findings import Findings, Work
from amortvi.plots.report.page import Part, Section
from amortvi.plots.report.tables import Table
from amortvi.plots.report.verdicts import MATERIAL

__all__ = ["calibration_section"]

_EFFECTS = (
    "The effects in the tables are the shift in posterior standard deviations; the standard deviation of the truth relative to "
    "that of the posterior; the remaining correlation; the area between coverage and diagonal above one half; and for ranks "
    "(marginal, joint) the Kolmogorov-Smirnov distance. P-values are corrected for the number of tests (Holm)."
)


def calibration_section(found: Sequence[Findings], work: Work) -> Section:
    """Return whether the posteriors agree with the latents from which data were simulated."""
    text = (
        f"{work.simulations} latents and observations are simulated from the model. If the posterior is exact, the ranks of the "
        f"true latents among {work.ranked} posterior draws are uniform, and credible regions contain them as often as they claim."
    )
    why = (
        f"Calibration and gaps may disagree, since they are about different data: the gaps are measured on the observations of "
        f"this report, calibration on observations that the model simulates, some of which may resemble nothing that the encoder "
        f"was trained on. And a p-value says only that a fault is not due to chance. Judge its size: what counts for the verdict "
        f"is a shift of at least {MATERIAL['location']:g} posterior standard deviations, a width that is wrong by "
        f"{MATERIAL['spread']:.0%}, a correlation of {MATERIAL['correlation']:g}, a Kolmogorov-Smirnov distance of "
        f"{MATERIAL['joint']:g}, or an area of {MATERIAL['coverage']:g} between coverage and diagonal."
    )
    colors = family_colors([each.name for each in found])
    parts = [Part(paragraphs=[text, _EFFECTS], note=why)]
    for each in found:
        if each.calibration is None:
            parts.append(Part(each.name, colors[each.name], [f"Calibration failed: {each.uncalibrated}"]))
            continue
        tests, everything = _tests(each.calibration)
        parts.append(
            Part(
                each.name,
                colors[each.name],
                tables=[_coverage(each.calibration), tests],
                figures=[draw_figure(plot, each.calibration, name=each.name) for plot in (plot_ranks, plot_coverage)],
                details=[everything] if len(everything.rows) > len(tests.rows) else [],
            )
        )
    return Section("Calibration", parts)


def _coverage(found: Calibration) -> Table:
    rows = [
        [f"{level:.0%}", f"{highest:.0%} ± {error:.0%}", f"{around:.0%}"]
        for level, highest, around, error in found.coverage().itertuples()
    ]
    header = ["claimed", "highest-density regions", "balls around references"]
    return Table("How often regions contain the truth.", header, rows, ["± one standard error of an exact posterior."])


def _tests(found: Calibration) -> tuple[Table, Table]:
    """Return the tests that name faults or find one, and all tests."""
    by_rank = ("marginal", "joint")
    tests = sorted(found.tests, key=lambda test: (test.kind in by_rank, test.corrected))
    shown = [test for test in tests if test.kind not in by_rank or test.verdict != "calibrated"]
    header = ["test", "verdict", "effect", "p (corrected)", "quantity"]
    tables = [
        Table(
            caption,
            header,
            [
                [test.kind, test.verdict, number(float(test.statistic)), p_value(test.corrected), test.quantity]
                for test in some
            ],
        )
        for caption, some in (
            ("Tests of regions and moments, and others that find a fault.", shown),
            ("All tests", tests),
        )
    ]
    return tables[0], tables[1]
