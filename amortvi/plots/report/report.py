"""The report on the quality of the posteriors of some fits and on their limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amortvi._util import __version__
from amortvi._util.checks import nonnegative_int, positive_float, positive_int
from amortvi._util.lazy import pandas as pd
from amortvi._util.lazy import require
from amortvi.comparison.compare import compare
from amortvi.comparison.fits import FamilyFits, list_fits
from amortvi.diagnostics.calibration import calibrate
from amortvi.diagnostics.evidence import Evidence, evidence
from amortvi.diagnostics.gaps.diagnosis import diagnose
from amortvi.diagnostics.gaps.gaps import FEWEST_DRAWS, Gaps
from amortvi.diagnostics.latents import latent_usage
from amortvi.errors import AmortviError, FamilyError, OptionError
from amortvi.importance import k_hat_threshold
from amortvi.inference import AmortizedVI
from amortvi.plots import (
    plot_comparison,
    plot_coverage,
    plot_gaps,
    plot_history,
    plot_k_hat,
    plot_latent_map,
    plot_latent_usage,
    plot_ranks,
)
from amortvi.plots.report.page import FitSummary, Part, Section, draw_figure, make_table, render
from amortvi.posterior import Posterior

__all__ = ["report"]

_WORST = 5
_FEWEST_SIMULATIONS = 100
_ELLIPSES = 20
_SCORES = {"elbo": "the ELBO, since all fits share one model", "evidence": "the held-out evidence log p(x)"}


def report(
    fits: AmortizedVI | FamilyFits | Mapping[str, AmortizedVI],
    x: Any,
    path: str | Path,
    *,
    labels: Any = None,
    draws: int = 1000,
    simulations: int = 500,
    tolerance: float = 0.1,
    seed: int = 0,
) -> Path:
    """Diagnose some fits and write the results to one HTML file, which contains its figures and can be opened offline.

    The sections are a verdict on each fit, the comparison, the gaps, the reliability of importance weights, the calibration on
    simulated data, the usage of the latents with a map, and the history of training. The comparison uses the fits of all seeds;
    the other sections are about those of the first seed. A family that cannot be refined, such as a flow, has no gaps.

    Args:
        fits: an estimator, several by name, or the result of `fit_families`.
        x: observations, as for `AmortizedVI.fit`, preferably held-out ones.
        path: the file; missing folders are created, and an existing file is replaced.
        labels: one label per observation, for the colors of the map.
        draws: draws for each bound and for the evidence, at least 21.
        simulations: the number of observations to simulate for the calibration, at least 100; 0 omits that section.
        tolerance: the largest inference gap that is ok, in nats per observation.
        seed: the seed of all draws; the caller's random state is left untouched.

    Returns:
        The path of the file.

    Raises:
        OptionError: ``fits`` is something else or empty, or an option is out of range.
        NotFittedError: a fit has seen no data, or was not trained.
        DataError: the observations cannot be used.
        MissingDependencyError: the extra ``report`` is not installed.

    Example:
        >>> import tempfile, torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.0, 0.5]]), scale=0.5)
        >>> x = model.simulate(50, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).fit(x, epochs=30, progress=False, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = avi.report(vi, x, f"{folder}/report.html", draws=100, simulations=0)
        ...     "Verdicts" in path.read_text(encoding="utf-8")
        True
    """
    positive_int("draws", draws, at_least=FEWEST_DRAWS)
    positive_float("tolerance", tolerance)
    seed = nonnegative_int("seed", seed)
    if 0 < nonnegative_int("simulations", simulations) < _FEWEST_SIMULATIONS:
        raise OptionError(f"simulations must be 0 or at least {_FEWEST_SIMULATIONS}; got {simulations}.")
    named = FamilyFits(list_fits(fits, allow_single=True))
    for module in ("jinja2", "matplotlib"):  # fail now rather than after minutes of computation
        require(module, extra="report", purpose="a report")
    first = next(iter(named.values())).posterior(x, copy=False)
    # Data that may be random at each reading are read once, so that all results are about the same data.
    loaded = first.in_memory()
    x, count = x if loaded is first else loaded.observations, len(loaded)
    _check_labels(labels, count)
    table = compare(named, x, particles=draws, seed=seed)
    examined = [_examine(name, vi, x, draws, tolerance, seed) for name, vi in named.items()]
    sections = [_verdicts(examined, tolerance)]
    if len(examined) > 1:
        sections.append(_comparison(table))
    if any(fit.gaps for fit in examined):
        sections.append(_gaps({fit.name: fit.gaps for fit in examined if fit.gaps}))
    sections.append(_reliability(examined, draws))
    if simulations:
        sections.append(_calibration(examined, x, simulations, seed))
    sections += [_latents(examined, labels, seed), _training(named, examined)]
    page = render(
        title="Posterior diagnostics",
        subtitle=f"{count} observation{'s' * (count != 1)}; fits: {', '.join(named)}",
        sections=sections,
        footer=f"amortvi {__version__}; {draws} draws per observation, seed {seed}. Bounds and gaps are in nats.",
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


@dataclass(frozen=True)
class _Fit:
    """One fit with its results; there are no gaps if the family cannot be refined."""

    name: str
    vi: AmortizedVI
    posterior: Posterior
    summary: FitSummary
    amortized: Evidence
    gaps: Gaps | None


def _check_labels(labels: Any, count: int) -> None:
    if labels is None:
        return
    got = str(len(labels)) if hasattr(labels, "__len__") else type(labels).__name__
    if got != str(count):
        raise OptionError(f"labels must be one label per observation, {count} in total; got {got}.")


def _examine(name: str, vi: AmortizedVI, x: Any, draws: int, tolerance: float, seed: int) -> _Fit:
    posterior = vi.posterior(x, copy=False)
    try:
        found = diagnose(vi, x, draws=draws, tolerance=tolerance, seed=seed)
    except FamilyError as error:  # the family cannot be refined; the other results are reported
        summary = FitSummary(name, "no verdict", f"the gaps are unknown, because {error}")
        return _Fit(name, vi, posterior, summary, evidence(vi, posterior=posterior, draws=draws, seed=seed), None)
    summary = FitSummary(name, found.fault, found.statement)
    return _Fit(name, vi, posterior, summary, found.gaps.amortized, found.gaps)


def _verdicts(fits: list[_Fit], tolerance: float) -> Section:
    meanings = {
        "ok": f"the mean inference gap exceeds the tolerance of {tolerance:g} nats by at most two standard errors.",
        "family": "most is lost because the family does not contain a better posterior.",
        "encoder": "most is lost because the encoder does not return the best posterior of the family.",
        "optimizer": "the history does not show that training has converged.",
        "unreliable": "the evidence cannot be estimated reliably, so the gaps are unknown.",
    }
    found = {fit.summary.verdict for fit in fits}
    paragraphs = [f"{verdict}: {meaning}" for verdict, meaning in meanings.items() if verdict in found]
    return Section("Verdicts", [Part(summaries=[fit.summary for fit in fits]), Part(paragraphs=paragraphs)])


def _comparison(table: pd.DataFrame) -> Section:
    paragraphs = [f"Ranked by {_SCORES[table['score'].iloc[0]]}. Differences are paired by observation."]
    seeds = int(table["seeds"].max())
    if seeds > 1:
        paragraphs.append(f"The comparison averages over {seeds} seeds; the other sections are about the first.")
    # A verdict ends with ", but cut short" if a fit was interrupted.
    verdicts = table["verdict"].str.partition(",")[0]
    others = verdicts.drop(verdicts.index[verdicts == "best"])
    ties = [str(name) for name in others.index[others == "within noise of the best"]]
    if ties:
        paragraphs.append(f"Within noise of the best (two standard errors): {', '.join(ties)}.")
    elif (others == "worse").all():
        paragraphs.append("The best is better than every other fit by more than two standard errors.")
    elif (others == "unreliable").any():
        paragraphs.append(
            "For fits that are unreliable, the evidence is unknown for most observations: k-hat is too high."
        )
    else:
        paragraphs.append("A single observation has no standard error, so it is unknown which differences are noise.")
    figure = draw_figure("Difference to the best ± one standard error.", plot_comparison, table, rows=len(table))
    return Section("Comparison", [Part(paragraphs=paragraphs, table=make_table(table), figures=[figure])])


def _gaps(found: Mapping[str, Gaps]) -> Section:
    text = (
        "The evidence is estimated by importance sampling around the best refined posterior; a verdict is unreliable if the "
        "k-hat of these weights is too high. Means are over the observations whose evidence is reliable. In the tables, elbo is "
        "the bound of the amortized posterior, and elbo with the name of a family is the bound of the refined posterior of that "
        "family; k hat and ess are those of the amortized posterior."
    )
    figure = draw_figure("Gaps to the evidence by cause.", plot_gaps, found, rows=len(found))
    parts = [Part(paragraphs=[text], figures=[figure])]
    for name, gaps in found.items():
        counts = ", ".join(f"{verdict}: {count}" for verdict, count in gaps.verdicts().items() if count)
        means = gaps.summary().rename(index=lambda quantity: quantity.replace("_", " "))
        worst = gaps.to_frame().sort_values("inference_gap", ascending=False).head(_WORST)
        worst.index.name = worst.index.name or "observation"
        parts.append(Part(f"{name}: means", [f"Verdicts per observation: {counts}."], table=make_table(means)))
        parts.append(Part(f"{name}: largest inference gaps", table=make_table(worst, digits=2)))
    return Section("Gaps", parts)


def _reliability(fits: list[_Fit], draws: int) -> Section:
    text = (
        f"K-hat is the estimated tail shape of the importance weights of draws from the amortized posterior. Below "
        f"{k_hat_threshold(draws):.2f} (the threshold for {draws} draws), the weighted draws are reliable; above 0.7, no "
        f"practical number of draws is enough. The gaps are not affected, since their evidence is estimated around a refined "
        f"posterior."
    )
    figures = []
    for fit in fits:
        share = float(fit.amortized.reliable.double().mean())
        caption = f"{fit.name}: k-hat of each observation; {share:.0%} are below the threshold."
        figures.append(draw_figure(caption, plot_k_hat, fit.amortized))
    return Section("Reliability", [Part(paragraphs=[text], figures=figures)])


def _calibration(fits: list[_Fit], x: Any, simulations: int, seed: int) -> Section:
    text = (
        f"{simulations} latents and observations are simulated from the model. If the posterior is exact, the ranks of the "
        f"true latents among posterior draws are uniform, and credible regions contain them as often as they claim. A verdict "
        f"names the faults found by the tests of location, spread and correlation, or else by those of ranks. The tests are "
        f"about the posterior on data from the model, not about the model on real data."
    )
    parts = [Part(paragraphs=[text])]
    for fit in fits:
        try:
            found = calibrate(fit.vi, simulations, x=x, seed=seed)
        except AmortviError as error:  # not every model can be simulated; the other sections do not need simulations
            parts.append(Part(fit.name, [f"Calibration failed: {error}"]))
            continue
        tests = found.to_frame().set_index("kind").astype({"statistic": float})
        figures = [
            draw_figure(f"{fit.name}: ranks of the true latents (SBC).", plot_ranks, found, wide=True),
            draw_figure(f"{fit.name}: expected coverage.", plot_coverage, found, wide=True),
        ]
        parts.append(Part(fit.name, [f"Verdict: {found.verdict}."], table=make_table(tests), figures=figures))
    return Section("Calibration", parts)


def _latents(fits: list[_Fit], labels: Any, seed: int) -> Section:
    if len(fits[0].posterior) < 2:
        return Section("Latents", [Part(paragraphs=["The usage of latents needs at least two observations."])])
    parts = []
    for fit in fits:
        used = latent_usage(fit.vi, posterior=fit.posterior, seed=seed)
        figures = [draw_figure(f"{fit.name}: usage of each latent coordinate.", plot_latent_usage, used)]
        site = fit.posterior.latents.sites[0]
        if site.shape.numel() > 1:
            ellipses = _ELLIPSES if site.is_unconstrained and _has_covariance(fit.posterior) else 0
            caption = f"{fit.name}: posterior means of {site.labels[0]} and {site.labels[1]}."
            figures.append(draw_figure(caption, plot_latent_map, fit.posterior, labels, ellipses=ellipses))
        parts.append(Part(fit.name, str(used).splitlines(), figures=figures))
    return Section("Latents", parts)


def _has_covariance(posterior: Posterior) -> bool:
    """Return whether the covariance is known in closed form."""
    try:
        return len(posterior.select(0).covariance) > 0
    except FamilyError:
        return False


def _training(named: Mapping[str, AmortizedVI], fits: list[_Fit]) -> Section:
    lines = [f"{fit.name}: {fit.vi.summary()}" for fit in fits]
    figure = draw_figure("ELBO of each epoch.", plot_history, named)
    return Section("Training", [Part(paragraphs=lines, figures=[figure])])
