"""The sections of a report about the results of its diagnostics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from amortvi._util.lazy import pandas as pd
from amortvi._util.text import MISSING, number, with_error
from amortvi.comparison.fits import FamilyFits, Fit
from amortvi.diagnostics.latents import latent_usage
from amortvi.errors import FamilyError
from amortvi.importance import k_hat_threshold
from amortvi.plots import (
    plot_comparison,
    plot_gaps,
    plot_k_hat,
    plot_latent_usage,
    plot_latents,
    plot_training,
)
from amortvi.plots.palette import family_colors
from amortvi.plots.report.figures import draw_figure
from amortvi.plots.report.findings import CHECKED, Findings, Work
from amortvi.plots.report.page import Card, Part, Section
from amortvi.plots.report.provenance import named_runs
from amortvi.plots.report.tables import Table, table_of
from amortvi.plots.report.verdicts import Verdict, calibration_faults, judge
from amortvi.posterior import Posterior

__all__ = [
    "comparison_section",
    "gaps_section",
    "latents_section",
    "training_section",
    "verdict_section",
    "weights_section",
]

_WORST = 5
_ELLIPSES = 20
_SCORES = {"elbo": "the ELBO, since all fits share one model", "evidence": "the held-out evidence log p(x)"}
_ONE = "one observation has no standard error"
_REASONS = {"difference_se": _ONE, "elbo_se": _ONE, "seed_sd": "there is one seed"}
_NO_EVIDENCE = f"{MISSING}: no observation has reliable evidence, or there is only one."


def verdict_section(found: Sequence[Findings], failures: Mapping[str, Verdict], work: Work) -> Section:
    """Return the verdicts on all fits: those that were examined, those that could not be, and those that failed."""
    colors = family_colors([*(each.name for each in found), *failures])
    cards = [Card(each.name, colors[each.name], judge(each, work.tolerance), _facts(each)) for each in found]
    cards += [Card(name, colors[name], verdict) for name, verdict in failures.items()]
    return Section("Verdicts", [Part(cards=cards)])


def _facts(found: Findings) -> list[tuple[str, str]]:
    threshold = found.amortized.threshold
    facts = [
        ("Training", f"{len(found.vi.history):,} epochs ({found.convergence.status})"),
        ("Inference gap", f"{found.gap}"),
        (f"k-hat below {threshold:.2f}", f"{found.reliable_share:.0%} of observations"),
    ]
    if found.calibration is not None:
        faults = calibration_faults(found.calibration)
        largest = faults[0].text + " (negligible)" * (not faults[0].is_material) if faults else "no fault found"
        facts.append(("On simulated data", largest))
    return facts


def comparison_section(table: pd.DataFrame) -> Section:
    """Return the comparison of the fits."""
    paragraphs = [f"Ranked by {_SCORES[table['score'].iloc[0]]}. Differences are paired by observation."]
    if (seeds := int(table["seeds"].max())) > 1:
        paragraphs.append(f"The comparison averages over {seeds} seeds; the other sections are about the first.")
    header = ["fit", "verdict", "difference to the best", "ELBO", "reconstruction", "KL", "status"]
    rows = [
        [
            str(name),
            row["verdict"],
            with_error(row["difference"], row["difference_se"]) if row["verdict"] != "best" else "0",
            with_error(row["elbo"], row["elbo_se"], 2),
            number(row["reconstruction"], 2),
            number(row["kl"], 2),
            str(row["status"]),
        ]
        for name, row in table.iterrows()
    ]
    notes = ["Nats per observation ± one standard error."]
    if table["difference_se"].isna().any():
        notes.append(f"{MISSING}: {_ONE}.")
    shown = Table("Means over the observations, the best fit first.", header, rows, notes)
    figure = draw_figure(plot_comparison, table, rows=len(table))
    everything = table_of(table, "All columns", reasons=_REASONS)
    return Section("Comparison", [Part(paragraphs=paragraphs, tables=[shown], figures=[figure], details=[everything])])


def gaps_section(found: Sequence[Findings], work: Work) -> Section:
    """Return what the fits lose, by cause; a family that cannot be refined has no gaps."""
    gaps = {each.name: each.diagnosis.judged for each in found if each.diagnosis is not None}
    text = (
        f"The inference gap is the evidence minus the ELBO. One part is lost because the family does not contain the exact "
        f"posterior, the other because the encoder does not return the best posterior of the family. The evidence is estimated "
        f"by importance sampling around the best refined posterior, and checked on {CHECKED} simulated observations."
    )
    paragraphs = [text, *(f"{each.name} has no gaps: {each.unrefined}" for each in found if each.unrefined)]
    if not gaps:
        return Section("Gaps", [Part(paragraphs=paragraphs)])
    rows, details = [], []
    for name, each in gaps.items():
        means = each.summary()
        counts = ", ".join(f"{verdict} {count}" for verdict, count in each.verdicts().items() if count)
        cells = [
            with_error(*means.loc[quantity, ["mean", "se"]])
            for quantity in ("inference_gap", "approximation_gap", "amortization_gap", "evidence")
        ]
        rows.append([name, counts, *cells])
        worst = each.to_frame().sort_values("inference_gap", ascending=False).head(_WORST)
        worst.insert(0, "verdict", worst.pop("verdict"))
        worst.index.name = worst.index.name or "observation"
        caption = f"{name}: the {len(worst)} observations with the largest gaps"
        details.append(
            table_of(worst, caption, digits=2, reasons={str(column): "a weight is not finite" for column in worst})
        )
    header = ["fit", "verdicts of observations", "inference gap", "due to family", "due to encoder", "evidence"]
    notes = [
        "Nats per observation ± one standard error of the mean over the observations whose evidence is reliable.",
        *([_NO_EVIDENCE] if any(MISSING in cell for row in rows for cell in row) else []),
    ]
    table = Table("Mean gaps by cause.", header, rows, notes)
    figure = draw_figure(plot_gaps, gaps, rows=len(gaps))
    return Section("Gaps", [Part(paragraphs=paragraphs, tables=[table], figures=[figure], details=details)])


def weights_section(found: Sequence[Findings], work: Work) -> Section:
    """Return how far draws can be importance-weighted."""
    text = (
        f"K-hat is the estimated tail shape of the importance weights of {work.draws:,} draws from the posterior. Below "
        f"{k_hat_threshold(work.draws):.2f}, the threshold for this number of draws, weighted draws are reliable; above 0.7, no "
        f"practical number of draws is enough. The gaps are not affected, since their evidence is estimated around a refined "
        f"posterior."
    )
    figures = [draw_figure(plot_k_hat, each.amortized, name=each.name) for each in found]
    return Section("Importance weights", [Part(paragraphs=[text], figures=figures)])


def latents_section(found: Sequence[Findings], labels: Any, work: Work) -> Section:
    """Return how much the latents are used, with a map of two of them."""
    if len(found[0].posterior) < 2:
        return Section("Latents", [Part(paragraphs=["The usage of latents needs at least two observations."])])
    parts = []
    for each in found:
        used = latent_usage(each.vi, posterior=each.posterior, seed=work.seed)
        figures = [draw_figure(plot_latent_usage, used, name=each.name)]
        site = each.posterior.latents.sites[0]
        if site.shape.numel() > 1:
            ellipses = _ELLIPSES if site.is_unconstrained and _has_covariance(each.posterior) else 0
            figures.append(draw_figure(plot_latents, each.posterior, name=each.name, labels=labels, ellipses=ellipses))
        color = family_colors([one.name for one in found])[each.name]
        parts.append(Part(each.name, color, str(used).splitlines(), figures=figures))
    return Section("Latents", parts)


def _has_covariance(posterior: Posterior) -> bool:
    """Return whether the covariance is known in closed form."""
    try:
        return len(posterior.select(0).covariance) > 0
    except FamilyError:
        return False


def training_section(fits: Sequence[Fit], named: FamilyFits) -> Section:
    """Return how the fits of all seeds ended."""
    rows = []
    for name, fit in named_runs(fits):
        history, convergence = fit.vi.history, fit.vi.convergence
        assert convergence is not None
        last = {name: float(value) for name, value in history.loc[[convergence.epoch]].iloc[0].items()}
        gain = convergence.gain
        rows.append(
            [
                name,
                convergence.status,
                f"{len(history):,}",
                number(float(history["seconds"].sum()), 1),
                number(last["elbo"], 2),
                number(last.get("validation_elbo", math.nan), 2),
                with_error(gain.value, gain.standard_error),
            ]
        )
    header = ["fit", "status", "epochs", "seconds", "training ELBO", "validation ELBO", "gain of twice the epochs"]
    notes = ["ELBO and gain in nats per observation, those of the epoch whose parameters were kept."]
    if any(row[5] == MISSING for row in rows):
        notes.append(f"{MISSING} in validation ELBO: no validation data were given.")
    if any(row[6] == MISSING for row in rows):
        notes.append(f"{MISSING} in gain: the fit was too short to tell, or ended before it could be judged.")
    figure = draw_figure(plot_training, named)
    return Section("Training", [Part(tables=[Table("How the fits ended.", header, rows, notes)], figures=[figure])])
