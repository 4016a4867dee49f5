"""Fits of several posterior families to the same model and data, each from the same start."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from amortvi._util.checks import seed_or_none
from amortvi._util.keyword_options import make_options
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.errors import OptionError
from amortvi.families import FamilyChoice, family_label, resolve_family
from amortvi.inference import AmortizedVI
from amortvi.model import Program
from amortvi.posterior.global_latents import GlobalGuideChoice
from amortvi.posterior.labels import LabelChoice, Labels, resolve_labels
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
    """The fits of several families by label: ``fits["full"]`` is the fit with the first seed.

    Args:
        fits: all fits; those of one family in the order of their seeds.
    """

    def __init__(self, fits: Sequence[Fit]) -> None:
        self.fits = tuple(fits)

    def __getitem__(self, family: str) -> AmortizedVI:
        return self.of(family)[0].vi

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(fit.family for fit in self.fits))

    def __len__(self) -> int:
        return len({fit.family for fit in self.fits})

    def of(self, family: str) -> list[Fit]:
        """Return the fits of one family, one per seed.

        Raises:
            KeyError: there are none.
        """
        found = [fit for fit in self.fits if fit.family == family]
        if not found:
            raise KeyError(family)
        return found


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
    **fit: Any,
) -> FamilyFits:
    """Fit several posterior families, each with its own copy of encoder and model.

    With the same seed, all families start from the same encoder and model. The first seed starts from the given parameters;
    each further seed starts from new random parameters in all modules that have ``reset_parameters``. Invalid arguments are
    detected before the first fit.

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
        **fit: further options of `AmortizedVI.fit`, except ``seed``; see `amortvi.FitOptions`.

    Returns:
        The fits, by the label of the family.

    Raises:
        OptionError: an option is unknown or out of range, or ``families`` or ``seeds`` are empty or contain duplicates.
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
    options = _check_options(fit)
    choices, seeds = _check_families(families), _check_seeds(seeds)
    program = model if isinstance(model, Program) else Program(model)
    given = _Start(program, encoder, resolve_labels(labels))
    made = {"plate": plate, "freeze_model": freeze_model, "global_guide": global_guide}
    copied = given.copy(freeze_model=freeze_model)
    for family in choices.values():
        vi = copied.estimator(family, **made)
        vi.to(device=options.device, dtype=options.dtype).setup(x, seed=seeds[0])
    if not freeze_model:
        # A program that uses outer modules cannot be copied, but only knows that it does once it has run.
        copied.program.independent_copy({})
    found: dict[str, list[Fit]] = {label: [] for label in choices}
    for position, seed in enumerate(seeds):
        start = given
        if position:
            start = given.copy(freeze_model=freeze_model)
            start.reset(derived_seed(seed, Stream.RESTART), freeze_model=freeze_model)
        for label, family in choices.items():
            vi = start.copy(freeze_model=freeze_model).estimator(family, **made)
            began = time.perf_counter()
            vi.fit(x, seed=seed, **fit)
            found[label].append(Fit(label, seed, vi, time.perf_counter() - began))
    return FamilyFits([each for of_family in found.values() for each in of_family])


@dataclass(frozen=True)
class _Start:
    """What each fit trains, from the same parameters."""

    program: Program
    encoder: nn.Module
    labels: Labels | None

    def copy(self, *, freeze_model: bool) -> _Start:
        """Copy everything except a frozen model; modules that are shared stay shared between the copies."""
        memo: dict[int, Any] = {}
        program = self.program if freeze_model else self.program.independent_copy(memo)
        return _Start(program, copy.deepcopy(self.encoder, memo), copy.deepcopy(self.labels, memo))

    def reset(self, seed: int | None, *, freeze_model: bool) -> None:
        """Draw new parameters, except in a frozen model and in parts that are not trained, such as pretrained ones."""
        networks = [self.encoder, self.labels.classifier if self.labels else None]
        with random_state(seed):
            for module in ([] if freeze_model else [self.program]) + [each for each in networks if each is not None]:
                for part in module.modules():
                    reset = getattr(part, "reset_parameters", None)
                    if callable(reset) and all(parameter.requires_grad for parameter in part.parameters(recurse=False)):
                        reset()

    def estimator(self, family: FamilyChoice, **options: Any) -> AmortizedVI:
        """Return an estimator of which the fit trains these parameters."""
        return AmortizedVI(self.program, self.encoder, family, labels=self.labels, **options)


def _check_options(fit: Mapping[str, Any]) -> FitOptions:
    if "seed" in fit:
        raise OptionError(f"seed is not an option of fit_families; pass seeds=[{fit['seed']!r}].")
    return make_options(FitOptions, **fit)


def _check_families(families: Sequence[FamilyChoice]) -> dict[str, FamilyChoice]:
    """Return the families by label."""
    if isinstance(families, str) or not isinstance(families, Iterable):
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
