"""Fits of several posterior families to the same model and data, each from the same start."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from amortvi._util.checks import seed_or_none
from amortvi._util.executors import check_executor
from amortvi._util.keyword_options import make_options
from amortvi._util.text import MISSING, html_summary, number
from amortvi.comparison.planned import fit_by_workers, fit_in_turn
from amortvi.comparison.start import Start
from amortvi.errors import AmortviWarning, OptionError, quoted
from amortvi.families import FamilyChoice, family_label, resolve_family
from amortvi.inference import AmortizedVI
from amortvi.model import Program
from amortvi.posterior.global_latents import GlobalGuideChoice
from amortvi.posterior.labels import LabelChoice, resolve_labels
from amortvi.training import FitOptions

__all__ = ["FamilyFits", "Fit", "fit_families", "list_fits"]


@dataclass(frozen=True)
class Fit:
    """One fit of one family.

    Args:
        family: the label of the family.
        seed: the seed of the fit.
        vi: the fitted estimator.
        seconds: the wall-clock time of the fit.
    """

    family: str
    seed: int
    vi: AmortizedVI
    seconds: float


class FamilyFits(Mapping[str, AmortizedVI]):
    """The fits of several families by label: ``fits["full"]`` is the fit with the first seed that did not fail.

    Args:
        fits: all fits; those of one family in the order of their seeds. One that Ctrl-C cut short has the status
            ``"interrupted"``.
        failures: the errors of fits that failed, by family and seed.
        not_fitted: the family and seed of each fit that had not begun when Ctrl-C ended all fits.
    """

    def __init__(
        self,
        fits: Sequence[Fit],
        failures: Mapping[tuple[str, int], Exception] | None = None,
        not_fitted: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.fits = tuple(fits)
        self.failures = dict(failures or {})
        self.not_fitted = tuple(not_fitted)

    def __getitem__(self, family: str) -> AmortizedVI:
        return self.of(family)[0].vi

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(fit.family for fit in self.fits))

    def __len__(self) -> int:
        return len({fit.family for fit in self.fits})

    def _repr_html_(self) -> str:
        rows: list[tuple[object, ...]] = []
        for fit in self.fits:
            history = fit.vi.history
            elbo = number(float(history["elbo"].iloc[-1]), 3) if len(history) else MISSING
            rows.append(
                (fit.family, fit.seed, fit.vi.status or "not trained", len(history), elbo, number(fit.seconds, 1))
            )
        rows += [(*each, f"failed: {quoted(error)}", *[MISSING] * 3) for each, error in self.failures.items()]
        rows += [(*each, "not fitted", *[MISSING] * 3) for each in self.not_fitted]
        header = ["family", "seed", "status", "epochs", "training ELBO", "seconds"]
        return html_summary(type(self).__name__, header=header, rows=rows)

    def of(self, family: str) -> list[Fit]:
        """Return the fits of one family, one per seed.

        Raises:
            KeyError: there are none; the message says whether they failed or were not begun.
        """
        found = [fit for fit in self.fits if fit.family == family]
        if found:
            return found
        for (label, seed), error in self.failures.items():
            if label == family:
                raise KeyError(f"the fit of {_named(label, seed)} failed; see failures: {quoted(error)}") from error
        if any(label == family for label, _ in self.not_fitted):
            raise KeyError(f"{family!r} was not fitted, because Ctrl-C ended the fits before it.")
        raise KeyError(f"there is no fit of {family!r}; the families are {list(self)}.")


def list_fits(fits: AmortizedVI | Mapping[str, AmortizedVI], *, allow_single: bool = False) -> Sequence[Fit]:
    """Return the fits of an argument ``fits``; a single estimator, if allowed, gets the label of its family."""
    if allow_single and isinstance(fits, AmortizedVI):
        fits = {family_label(fits.family): fits}
    if isinstance(fits, FamilyFits):
        found: Sequence[Fit] = fits.fits
    elif isinstance(fits, Mapping) and all(isinstance(vi, AmortizedVI) for vi in fits.values()):
        found = [Fit(name, 0, vi, float(vi.history["seconds"].sum())) for name, vi in fits.items()]
    else:
        raise OptionError(
            f"fits must be {'an AmortizedVI, ' * allow_single}the result of fit_families, or a dict of fitted estimators such as "
            f"{{'full': vi}}; got {type(fits).__name__}."
        )
    if not found:
        raise OptionError("fits is empty.")
    return found


def fit_families(
    model: Callable[..., Any],
    encoder: nn.Module,
    families: Sequence[FamilyChoice],
    x: Any,
    *,
    seeds: Sequence[int] = (0,),
    freeze_model: bool = False,
    plate: str | None = None,
    global_guide: GlobalGuideChoice | None = None,
    labels: LabelChoice | None = None,
    executor: Executor | None = None,
    **fit: Any,
) -> FamilyFits:
    """Fit several posterior families, each with its own copy of encoder and model.

    With the same seed, all families start from the same encoder and model. The first seed starts from the given parameters;
    each further seed starts from new random parameters in all modules that have ``reset_parameters``. Invalid arguments are
    detected before the first fit.

    Ctrl-C ends all fits, and what has been fitted so far is returned; a warning names the fit that was cut short and those that
    were not begun. If a fit fails, the others go on; a warning quotes the error, which is kept in ``FamilyFits.failures``. The
    error is raised only if every fit has failed. With ``checkpoint=``, each fit has a folder of its own inside that folder, and
    the same call resumes all of them.

    Args:
        model: the Pyro model; each fit trains a copy and leaves the given one unchanged.
        encoder: the encoder; each fit trains a copy.
        families: the families to compare.
        x: observations, as for `AmortizedVI.fit`.
        seeds: one fit of each family per seed.
        freeze_model: whether to train the posteriors only. All fits then share the given model, and the options ``device`` and
            ``dtype`` apply to that model itself.
        plate: the name of the data plate, if several qualify.
        global_guide: makes the posterior of the global latents of each fit, which is trained even if the model is frozen; see
            `AmortizedGuide`.
        labels: the argument of the model that holds labels; each fit trains a copy of the classifier. See `Labels`.
        executor: runs the fits at the same time: a `concurrent.futures.Executor`, such as a ``ProcessPoolExecutor``, an
            executor of loky or MPI, or ``client.get_executor()`` of Dask. By default they run here, one after the other. The
            results are the same bit for bit. For that, each worker computes with as many threads as this process: call
            ``torch.set_num_threads(1)`` before if there are as many workers as cores. Data and callbacks are copied to the
            workers, and the model is sent with its parameters; but modules are imported anew, so it must not read variables that
            have changed since their import. What is defined in a notebook or inside a function needs cloudpickle. With threads
            nothing is gained, because Pyro runs in one at a time. If a worker dies, the fits that it loses are among
            ``FamilyFits.failures``. A fit on another computer goes on after Ctrl-C, but is not waited for.
        **fit: further options of `AmortizedVI.fit`, except ``seed``; see `amortvi.FitOptions`.

    Returns:
        The fits, by the label of the family.

    Raises:
        OptionError: an option is unknown or out of range, or ``families`` or ``seeds`` are empty or contain duplicates; or the
            executor accepts no work, or an argument cannot be sent to its workers.
        FamilyError: a family is unknown or cannot be built for this model.
        ModelError: the model is not supported; or it is a function that uses outer modules, which cannot be copied.
        DataError: the observations cannot be used.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.0, 0.5]]), scale=0.5)
        >>> x = model.simulate(200, seed=0)
        >>> fits = avi.fit_families(
        ...     model, avi.encoders.MLP(2, []), ["diagonal", "full"], x, epochs=20, lr=0.02, progress=False
        ... )
        >>> list(avi.compare(fits, x).index)
        ['full', 'diagonal']
    """
    options, executor = _check_options(fit), check_executor(executor)
    choices, seeds = _check_families(families), _check_seeds(seeds)
    program = model if isinstance(model, Program) else Program(model)
    given = Start(program, encoder, resolve_labels(labels))
    made = {"plate": plate, "global_guide": global_guide}
    copied = given.copy(freeze_model=freeze_model)
    for family in choices.values():
        vi = copied.estimator(family, freeze_model=freeze_model, **made)
        vi.to(device=options.device, dtype=options.dtype).setup(x, seed=seeds[0])
    if not freeze_model:
        # A program that uses outer modules cannot be copied, but only knows that it does once it has run.
        copied.program.independent_copy({})
    starts = {seed: given if seed == seeds[0] else given.restarted(seed, freeze_model=freeze_model) for seed in seeds}
    planned = {
        (label, seed): {
            "model": starts[seed].program,
            "encoder": starts[seed].encoder,
            "labels": starts[seed].labels,
            "family": choices[label],
            "seed": seed,
            "checkpoint": _folder(options.checkpoint, label, seed),
        }
        for seed in seeds
        for label in choices
    }
    shared = {"freeze_model": freeze_model, "made": made, "x": x, "fit": fit}
    if executor is None:
        ended = fit_in_turn(planned, shared)
    else:
        frozen = program if freeze_model else None
        ended = fit_by_workers(executor, planned, shared, frozen, progress=options.progress)
    found: dict[tuple[str, int], Fit] = {}
    failures: dict[tuple[str, int], Exception] = {}
    for (label, seed), outcome in ended.outcomes.items():
        try:
            one = outcome.get()
        except Exception as error:
            failures[label, seed] = error
            continue
        if one.vi.status is not None:
            found[label, seed] = Fit(label, seed, one.vi, one.seconds)
    if not found:
        raise next(iter(failures.values()), KeyboardInterrupt())
    fits = FamilyFits(
        [found[label, seed] for label in choices for seed in seeds if (label, seed) in found],
        failures,
        [each for each in planned if each not in found and each not in failures],
    )
    _warn_of_incomplete(fits)
    return fits


def _folder(checkpoint: str | Path | None, label: str, seed: int) -> Path | None:
    """Return the folder for the checkpoints of one fit; a worker may have another working directory."""
    return (
        None if checkpoint is None else Path(checkpoint).absolute() / re.sub(r"[^\w.-]+", "_", f"{label}, seed {seed}")
    )


def _warn_of_incomplete(fits: FamilyFits) -> None:
    """Name the fits that Ctrl-C cut short or prevented, and those that failed."""
    cut_short = [fit for fit in fits.fits if fit.vi.status == "interrupted"]
    if cut_short or fits.not_fitted:
        parts = [
            *(f"{_named(fit.family, fit.seed)} was cut short in epoch {len(fit.vi.history) + 1}" for fit in cut_short),
            *([f"not fitted: {', '.join(_named(*each) for each in fits.not_fitted)}"] * bool(fits.not_fitted)),
        ]
        warnings.warn(f"Ctrl-C ended the fits: {'; '.join(parts)}.", AmortviWarning, stacklevel=3)
    if fits.failures:
        errors = "; ".join(f"{_named(*each)}: {quoted(error, lines=3)}" for each, error in fits.failures.items())
        warnings.warn(
            f"{len(fits.failures)} fits failed, and are not among the results; see FamilyFits.failures. {errors}",
            AmortviWarning,
            stacklevel=3,
        )


def _named(family: str, seed: int) -> str:
    return f"{family!r} (seed {seed})"


def _check_options(fit: Mapping[str, Any]) -> FitOptions:
    if "seed" in fit:
        raise OptionError(f"seed is not an option of fit_families; pass seeds=[{fit['seed']!r}].")
    return make_options(FitOptions, **fit)


def _check_families(families: Sequence[FamilyChoice]) -> dict[str, FamilyChoice]:
    """Return the families by label."""
    if isinstance(families, str | Mapping) or not isinstance(families, Iterable):
        raise OptionError(f"families must be a list of families, such as ['diagonal', 'full']; got {families!r}.")
    given = list(families)
    for family in given:
        resolve_family(family)
    labels = [family_label(family) for family in given]
    if not labels or len(set(labels)) != len(labels):
        raise OptionError(f"families must be one or more families with different labels; got {labels}.")
    return dict(zip(labels, given, strict=True))


def _check_seeds(seeds: Sequence[int]) -> list[int]:
    if not isinstance(seeds, Iterable):
        raise OptionError(f"seeds must be a list of integers, such as [0, 1]; got {seeds!r}.")
    given = list(seeds)
    checked = [seed for seed in map(seed_or_none, given) if seed is not None]
    if not checked or len(set(checked)) != len(given):
        raise OptionError(f"seeds must be one or more different integers; got {given}.")
    return checked
