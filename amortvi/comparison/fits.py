"""Fits of several posterior families to the same model and data, each from the same start."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import nn

from amortvi._util.checks import seed_or_none
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.data import as_observations
from amortvi.errors import OptionError
from amortvi.families import FamilyChoice, family_label, make_family
from amortvi.families import resolve as resolve_family
from amortvi.inference import AmortizedVI
from amortvi.model.program import GenerativeModel
from amortvi.objectives import ObjectiveChoice
from amortvi.training import CompileChoice, OptimizerFactory, ScheduleFactory

__all__ = ["FamilyFits", "Fit", "FitArguments", "fit_families"]

_EXAMPLE_ROWS = 16


@dataclass(frozen=True)
class Fit:
    """One fit of one family.

    Args:
        family: the label of the family.
        seed: of the fit.
        vi: the fitted estimator.
        seconds: wall-clock time of the fit.
    """

    family: str
    seed: int
    vi: AmortizedVI
    seconds: float


class FamilyFits(Mapping[str, AmortizedVI]):
    """The fits of some families, by label: ``fits["full"]`` is the fit with the first seed.

    Args:
        fits: all of them, seeds of one family in order.
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
        """Return the fits of one family, one for each seed.

        Raises:
            KeyError: there is none.
        """
        found = [fit for fit in self.fits if fit.family == family]
        if not found:
            raise KeyError(family)
        return found


class FitArguments(TypedDict, total=False):
    """What `AmortizedVI.fit` takes beside data and seed."""

    validation_data: Any
    epochs: int
    batch_size: int | None
    lr: float
    objective: ObjectiveChoice
    optimizer: OptimizerFactory
    lr_schedule: ScheduleFactory | None
    gradient_clip: float | None
    patience: int | None
    device: str | torch.device | None
    dtype: torch.dtype | None
    compile: CompileChoice
    progress: bool


def fit_families(
    model: Callable[..., Any],
    encoder: nn.Module,
    families: Sequence[FamilyChoice],
    x: Any,
    *,
    seeds: Sequence[int] = (0,),
    freeze_model: bool = False,
    plate: str | None = None,
    **fit: Unpack[FitArguments],
) -> FamilyFits:
    """Fit several posterior families, each with its own copy of encoder and model.

    For one seed every family starts from the same encoder and model. The first seed starts from the parameters that are
    given; each further seed starts from parameters drawn anew, where the modules can do that (``reset_parameters``).

    Args:
        model: the Pyro model; each fit trains a copy, so what is given is not changed.
        encoder: the encoder; each fit trains a copy.
        families: the families to compare.
        x: observations, as for `AmortizedVI.fit`.
        seeds: a fit of each family for each of them.
        freeze_model: keep the model as it is, and let all fits share it, so that only the posteriors differ. A
            ``device`` or ``dtype`` given for the fits is then the model's own from there on.
        plate: the name of the data plate, where the model has several that could be it.
        **fit: the other arguments of `AmortizedVI.fit`.

    Returns:
        The fits, by the label of the family.

    Raises:
        OptionError: there is no family or no seed, one is there twice, or two families have one label.
        FamilyError: a family is unknown, or cannot be made for this model; no fit has then been done.
        ModelError: the model is outside what amortized inference can take, or is a function that uses modules from
            outside it, which cannot be copied.
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
    choices, seeds = _checked_families(families), _checked_seeds(seeds)
    generative = GenerativeModel(model) if not isinstance(model, GenerativeModel) else model
    own = (generative, copy.deepcopy(encoder)) if freeze_model else _copies(generative, encoder)
    _rehearse(own, list(choices.values()), x, plate, seeds[0], fit)
    if not freeze_model:
        own[0].independent_copy({})  # having run, it knows whether a copy would train the modules of the original
    done = []
    for position, seed in enumerate(seeds):
        start = _fresh_start(generative, encoder, seed if position else None, freeze_model=freeze_model)
        for label, family in choices.items():
            own = (start[0], copy.deepcopy(start[1])) if freeze_model else _copies(*start)
            vi = AmortizedVI(*own, family, plate=plate, freeze_model=freeze_model)
            began = time.perf_counter()
            vi.fit(x, seed=seed, **fit)
            done.append(Fit(label, seed, vi, time.perf_counter() - began))
    by_family = {label: [f for f in done if f.family == label] for label in choices}
    return FamilyFits(list(itertools.chain.from_iterable(by_family.values())))


def _checked_families(families: Sequence[FamilyChoice]) -> dict[str, FamilyChoice]:
    """Return the families by their labels."""
    if isinstance(families, str) or not isinstance(families, Iterable):
        raise OptionError(f"families must be a list of families, such as ['diagonal', 'full']; got {families!r}.")
    given = list(families)
    for family in given:
        resolve_family(family)
    labels = [family_label(family) for family in given]
    if not labels or len(set(labels)) != len(labels):
        raise OptionError(f"families must be one or several with different labels; got {labels}.")
    return dict(zip(labels, given, strict=True))


def _checked_seeds(seeds: Sequence[int]) -> list[int]:
    if not isinstance(seeds, Iterable):
        raise OptionError(f"seeds must be a list of integers, such as [0, 1]; got {seeds!r}.")
    given = list(seeds)
    checked = [seed for seed in map(seed_or_none, given) if seed is not None]
    if not checked or len(set(checked)) != len(given):
        raise OptionError(f"seeds must be at least one integer, each of them once; got {given}.")
    return checked


def _rehearse(
    own: tuple[GenerativeModel, nn.Module],
    families: Sequence[FamilyChoice],
    x: Any,
    plate: str | None,
    seed: int,
    fit: FitArguments,
) -> None:
    """Make each family once for this model and encoder, so that a wrong one is found before the first fit."""
    vi = AmortizedVI(*own, families[0], plate=plate)
    vi.to(device=fit.get("device"), dtype=fit.get("dtype"))
    example = as_observations(x, vi.dtype, "x").first(_EXAMPLE_ROWS).to(vi.device)
    with random_state(derived_seed(seed, Stream.REHEARSAL), vi.device):
        vi.guide.setup(*example.args, **example.kwargs)
        for family in families:
            make_family(family, vi.guide.latents.dim, vi.guide.family.context_features)


def _copies(model: GenerativeModel, encoder: nn.Module) -> tuple[GenerativeModel, nn.Module]:
    """Copy both with what they share kept shared among the copies."""
    memo: dict[int, Any] = {}
    return model.independent_copy(memo), copy.deepcopy(encoder, memo)


def _fresh_start(
    model: GenerativeModel, encoder: nn.Module, seed: int | None, *, freeze_model: bool
) -> tuple[GenerativeModel, nn.Module]:
    """Return model and encoder to start from; with a seed, copies with parameters drawn anew."""
    if seed is None:
        return model, encoder
    if freeze_model:
        model_copy, encoder_copy = model, copy.deepcopy(encoder)
    else:
        model_copy, encoder_copy = _copies(model, encoder)
    with random_state(derived_seed(seed, Stream.RESTART)):
        for module in (encoder_copy,) if freeze_model else (encoder_copy, model_copy):
            for part in module.modules():
                _draw_anew(part)
    return model_copy, encoder_copy


def _draw_anew(part: nn.Module) -> None:
    """Draw the parameters of one module anew, unless they are not to be trained, such as pretrained ones."""
    own = list(part.parameters(recurse=False))
    reset = getattr(part, "reset_parameters", None)
    if callable(reset) and all(parameter.requires_grad for parameter in own):
        reset()
