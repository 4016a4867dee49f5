"""The report on the quality of the posteriors of some fits and on their limits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from amortvi._util.checks import nonnegative_int, positive_float, positive_int
from amortvi._util.lazy import require
from amortvi.comparison.compare import compare
from amortvi.comparison.fits import FamilyFits, list_fits
from amortvi.diagnostics.gaps.gaps import FEWEST_DRAWS
from amortvi.errors import AmortviError, ConvergenceWarning, NotFittedError, OptionError
from amortvi.inference import AmortizedVI
from amortvi.plots.report.calibration import calibration_section
from amortvi.plots.report.findings import Findings, Work, examine
from amortvi.plots.report.page import Page, Section, render
from amortvi.plots.report.provenance import model_name, provenance_section
from amortvi.plots.report.sections import (
    comparison_section,
    gaps_section,
    latents_section,
    training_section,
    verdict_section,
    weights_section,
)
from amortvi.plots.report.verdicts import NOT_FITTED, Verdict, failure_verdict

__all__ = ["report"]

_FEWEST_SIMULATIONS = 100
_RANKED = 100
"""The number of posterior draws among which each true latent is ranked."""


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

    The page begins with one verdict per fit, which says what to do next. It is the first that applies: the fit was cut short; it
    has not converged; the posterior loses more than the tolerance, to its family or to its encoder, or it is unknown how much; it
    is miscalibrated on simulated data, by more than is negligible; or nothing needs to be done. A frozen model that has not
    converged is no fault if the whole inference gap is within the tolerance, since training can gain no more.

    The sections are the comparison, the gaps, the reliability of importance weights, the calibration on simulated data, the usage
    of the latents with a map, the history of training, and the provenance: data, models, options of the fits, and versions. The
    comparison and the history use the fits of all seeds; the other sections are about those of the first seed. A family that
    cannot be refined, such as a flow, has no gaps; what it loses is then estimated with its own importance weights.

    Args:
        fits: an estimator, several by name, or the result of `fit_families`, whose failures are listed.
        x: observations, as for `AmortizedVI.fit`, preferably held-out ones.
        path: the file; missing folders are created, and an existing file is replaced.
        labels: one label per observation, for the colors of the map.
        draws: draws for each bound and for the evidence, at least 21.
        simulations: the number of observations to simulate for the calibration, at least 100; 0 omits that section. More
            simulations reveal smaller faults.
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
        ...     ">Verdicts<" in path.read_text(encoding="utf-8")
        True
    """
    if 0 < nonnegative_int("simulations", simulations) < _FEWEST_SIMULATIONS:
        raise OptionError(f"simulations must be 0 or at least {_FEWEST_SIMULATIONS}; got {simulations}.")
    draws, tolerance = positive_int("draws", draws, at_least=FEWEST_DRAWS), positive_float("tolerance", tolerance)
    work = Work(draws, simulations, _RANKED, tolerance, nonnegative_int("seed", seed))
    given = fits if isinstance(fits, FamilyFits) else FamilyFits(list_fits(fits, allow_single=True))
    for module in ("jinja2", "matplotlib"):  # fail now rather than after minutes of computation
        require(module, extra="report", purpose="a report")
    for fit in list_fits(given):
        if fit.vi.convergence is None:
            raise NotFittedError(f"{fit.family!r} has not been trained: call fit first.")
    first = next(iter(given.values())).posterior(x, copy=False)
    # Data that may be random at each reading are read once, so that all results are about the same data.
    loaded = first.in_memory()
    x, count = x if loaded is first else loaded.observations, len(loaded)
    _check_labels(labels, count)
    failures = {f"{family}, seed {seed}": failure_verdict(error) for (family, seed), error in given.failures.items()}
    failures |= {f"{family}, seed {seed}": NOT_FITTED for family, seed in given.not_fitted}
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # the report says it
        found = _examine(given, x, work, failures)
        sections = _sections(given, found, failures, x, labels, work)
    now = datetime.now(UTC)
    page = Page(
        title="Posterior diagnostics",
        subtitle=f"{model_name(first.model)} · {count:,} observation{'s' * (count != 1)} · fits: {', '.join(given)}",
        date=f"{now.day} {now:%B %Y, %H:%M} UTC",
        sections=sections,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(page), encoding="utf-8")
    return path


def _examine(fits: FamilyFits, x: Any, work: Work, failures: dict[str, Verdict]) -> list[Findings]:
    """Return what is found about each fit; a fit that cannot be examined joins the ``failures``, unless there is no other."""
    found, errors = [], []
    for name, vi in fits.items():
        try:
            found.append(examine(name, vi, x, work))
        except AmortviError as error:
            failures[name] = failure_verdict(error)
            errors.append(error)
    if not found:
        raise errors[0]
    return found


def _sections(
    fits: FamilyFits, found: list[Findings], failures: Mapping[str, Verdict], x: Any, labels: Any, work: Work
) -> list[Section]:
    runs, names = list_fits(fits), [each.name for each in found]
    sections = [verdict_section(found, failures, work)]
    if len(found) > 1:
        examined = FamilyFits([run for run in runs if run.family in names])
        sections.append(comparison_section(compare(examined, x, particles=work.draws, seed=work.seed)))
    sections += [gaps_section(found, work), weights_section(found, work)]
    if work.simulations:
        sections.append(calibration_section(found, work))
    sections += [
        latents_section(found, labels, work),
        training_section(runs, fits),
        provenance_section(runs, found[0].posterior.in_memory().observations, work),
    ]
    return sections


def _check_labels(labels: Any, count: int) -> None:
    if labels is None:
        return
    got = str(len(labels)) if hasattr(labels, "__len__") else type(labels).__name__
    if got != str(count):
        raise OptionError(f"labels must be one label per observation, {count} in total; got {got}.")
