"""The report: how good the posteriors of some fits are, and whose fault it is where they are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amortvi import plots
from amortvi._util.checks import nonnegative_int, positive_float, positive_int
from amortvi._util.version import __version__
from amortvi.comparison.compare import compare
from amortvi.comparison.fits import FamilyFits
from amortvi.diagnostics import (
    Calibration,
    Diagnosis,
    calibrate,
    convergence,
    diagnose,
    latent_usage,
)
from amortvi.diagnostics.gaps.gaps import FEWEST_DRAWS
from amortvi.errors import AmortviError, OptionError
from amortvi.families import family_label
from amortvi.importance import k_hat_threshold
from amortvi.inference import AmortizedVI
from amortvi.plots.report.page import Figure, Part, Section, Verdict, drawn, rendered, tabled
from amortvi.posterior.posterior import Posterior

__all__ = ["report"]

_WORST = 5
_FEWEST_SIMULATIONS = 100
_ELLIPSES = 20


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
    """Write what there is to say of some fits into one HTML file, which needs nothing else to be read.

    It has a verdict on each fit, the comparison, the gaps, k-hat, the calibration on simulated data, the use of the latents, a
    map of them, and the training history. Of fits with several seeds the comparison counts all, the rest looks at the
    first.

    Args:
        fits: an estimator, several by name, or what `fit_families` returns.
        x: observations, as for `AmortizedVI.fit`; held-out ones.
        path: of the file; folders that are missing are made, a file that is there is replaced.
        labels: one an observation, for the colors of the map.
        draws: for each bound and for the evidence.
        simulations: how many observations are simulated for the calibration; 0 leaves that section out.
        tolerance: in nats; a loss up to this is fine.
        seed: of all draws; the caller's random state stays as it was.

    Returns:
        The path of the file.

    Raises:
        OptionError: ``fits`` is something else or empty, or an option is out of range.
        NotFittedError: a fit has not seen data yet.
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
    if positive_int("draws", draws) < FEWEST_DRAWS:
        raise OptionError(f"draws must be at least {FEWEST_DRAWS}, the fewest that have a k-hat; got {draws}.")
    positive_float("tolerance", tolerance)
    seed = nonnegative_int("seed", seed)
    if 0 < nonnegative_int("simulations", simulations) < _FEWEST_SIMULATIONS:
        raise OptionError(
            f"simulations must be 0 or at least {_FEWEST_SIMULATIONS} to tell anything; got {simulations}."
        )
    fits = {family_label(fits.family): fits} if isinstance(fits, AmortizedVI) else fits
    x, labels = _checked_data(fits, x, labels)
    table = compare(fits, x, particles=draws, seed=seed)
    looked_at = [
        _Fit(name, vi, vi.posterior(x), diagnose(vi, x, draws=draws, tolerance=tolerance, seed=seed))
        for name, vi in fits.items()
    ]
    sections = [_verdicts(looked_at)]
    if len(looked_at) > 1:
        sections.append(_comparison(table))
    sections += [_gaps(looked_at), _trust(looked_at, draws)]
    if simulations:
        sections.append(_calibration(looked_at, x, simulations, seed))
    sections += [_latents(looked_at, x, labels, seed), _training(fits, looked_at)]
    count = len(looked_at[0].posterior)
    page = rendered(
        title="Posteriors under examination",
        subtitle=f"{count} observations; fits: {', '.join(fit.name for fit in looked_at)}",
        sections=sections,
        footer=f"amortvi {__version__}; {draws} draws an observation, seed {seed}. Bounds and gaps are in nats an observation.",
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _checked_data(fits: Any, x: Any, labels: Any) -> tuple[Any, Any]:
    """Return the observations, read once, and the labels, if these are as many."""
    first = next(iter(fits.values()), None) if isinstance(fits, Mapping) else None
    if not isinstance(first, AmortizedVI):
        return x, labels  # of which `compare` says what is wrong
    posterior = first.posterior(x).in_memory()
    if labels is not None and (not hasattr(labels, "__len__") or len(labels) != len(posterior)):
        got = f"{len(labels)}" if hasattr(labels, "__len__") else type(labels).__name__
        raise OptionError(f"labels must be one an observation, {len(posterior)} of them; got {got}.")
    return x if first.posterior(x).observations.in_memory else posterior.observations, labels


@dataclass(frozen=True)
class _Fit:
    """One fit with what was found of it."""

    name: str
    vi: AmortizedVI
    posterior: Posterior
    diagnosis: Diagnosis


def _verdicts(fits: list[_Fit]) -> Section:
    verdicts = [Verdict(fit.name, fit.diagnosis.fault, fit.diagnosis.statement) for fit in fits]
    meaning = (
        "fine: within the tolerance. family: the posterior family is too narrow. encoder: its answer is not the best of the "
        "family. optimizer: training was not done. do not trust: the evidence is not known well enough to say."
    )
    return Section("Verdicts", [Part(paragraphs=[meaning], verdicts=verdicts)])


def _comparison(table: Any) -> Section:
    score = {"elbo": "the ELBO, since all fits share one model", "evidence": "the held-out evidence log p(x)"}
    ranked = f"Ranked by {score[table.attrs['score']]}; differences are paired, observation by observation."
    others = table["verdict"].drop(table.index[table["verdict"] == "best"])
    ties = [str(name) for name in others.index[others == "within noise of the best"]]
    if ties:
        noise = f"Within noise of the best (two standard errors): {', '.join(ties)}."
    elif (others == "worse").all():
        noise = "Every other fit is worse than the best by more than two standard errors."
    else:
        noise = "From one observation nothing can be said of differences."
    caption = "Difference to the best, with one standard error."
    picture = drawn(caption, plots.plot_comparison, table, rows=len(table))
    return Section("Comparison", [Part(paragraphs=[ranked, noise], table=tabled(table), figures=[picture])])


def _gaps(fits: list[_Fit]) -> Section:
    found = {fit.name: fit.diagnosis.gaps for fit in fits}
    caption = "What each fit loses against the evidence, and to what."
    figure = drawn(caption, plots.plot_gaps, found, rows=len(found))
    parts = [Part(figures=[figure])]
    for name, gaps in found.items():
        counts = ", ".join(f"{verdict}: {count}" for verdict, count in gaps.verdicts().items() if count)
        worst = gaps.to_frame().sort_values("inference_gap", ascending=False).head(_WORST)
        worst.index.name = worst.index.name or "observation"
        parts.append(Part(f"{name}: means", [f"Verdicts an observation: {counts}."], table=tabled(gaps.summary())))
        parts.append(Part(f"{name}: the {len(worst)} observations that lose most", table=tabled(worst, digits=2)))
    return Section("Gaps", parts)


def _trust(fits: list[_Fit], draws: int) -> Section:
    threshold = k_hat_threshold(draws)
    text = (
        f"k-hat is the shape of the tail of the importance weights of each posterior's own draws. Up to {threshold:.2f} "
        f"(for {draws} draws) they can be corrected by their weights; above 0.7 no practical number of draws is enough."
    )
    figures = []
    for fit in fits:
        found = fit.diagnosis.gaps.amortized
        share = float(found.reliable.double().mean())
        caption = f"{fit.name}: k-hat of each observation; {share:.0%} below the threshold."
        figures.append(drawn(caption, plots.plot_k_hat, found))
    return Section("Trust", [Part(paragraphs=[text], figures=figures)])


def _calibration(fits: list[_Fit], x: Any, simulations: int, seed: int) -> Section:
    parts = []
    for fit in fits:
        try:
            found = calibrate(fit.vi, simulations, x=x, seed=seed)
        except AmortviError as error:
            parts.append(Part(fit.name, [f"The calibration could not be done: {error}"]))
            continue
        tests = found.to_frame().set_index("kind").astype({"statistic": float})
        verdict = f"Verdict: {found.verdict}."
        parts.append(Part(fit.name, [verdict], table=tabled(tests), figures=_calibration_figures(fit.name, found)))
    text = (
        f"{simulations} observations were simulated from the model, with latents that are known: their ranks among posterior "
        f"draws are uniform if the posterior is right, for data that come from the model."
    )
    return Section("Calibration", [Part(paragraphs=[text]), *parts])


def _calibration_figures(name: str, found: Calibration) -> list[Figure]:
    return [
        drawn(f"{name}: ranks of the truth (SBC).", plots.plot_ranks, found, broad=True),
        drawn(f"{name}: expected against nominal coverage.", plots.plot_coverage, found, broad=True),
    ]


def _latents(fits: list[_Fit], x: Any, labels: Any, seed: int) -> Section:
    if len(fits[0].posterior) < 2:
        return Section("Latents", [Part(paragraphs=["How latents are used shows from several observations only."])])
    parts = []
    for fit in fits:
        used = latent_usage(fit.vi, x, seed=seed)
        figures = [drawn(f"{fit.name}: use of each latent.", plots.plot_latent_usage, used)]
        site = fit.posterior.latents.sites[0]
        if site.shape.numel() > 1:
            known = fit.posterior.family.has_closed_form_moments and site.is_unconstrained
            ellipses = _ELLIPSES if known else 0
            caption = f"{fit.name}: posterior means in the first two latents."
            figures.append(drawn(caption, plots.plot_latent_map, fit.posterior, labels, ellipses=ellipses))
        parts.append(Part(fit.name, str(used).splitlines(), figures=figures))
    return Section("Latents", parts)


def _training(fits: Mapping[str, AmortizedVI], looked_at: list[_Fit]) -> Section:
    lines = [f"{fit.name}: {convergence(fit.vi)}" for fit in looked_at]
    figure = drawn("The bound against the epoch.", plots.plot_history, fits)
    return Section("Training", [Part(paragraphs=lines, figures=[figure])])
