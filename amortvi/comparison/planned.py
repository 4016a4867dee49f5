"""Planned fits, one after the other in this process or by the workers of an executor."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from amortvi._util.executors import Jobs, Outcome, request_stop, run_jobs, stop_requested
from amortvi.comparison.start import Start
from amortvi.errors import ModelError
from amortvi.families import FamilyChoice
from amortvi.inference import AmortizedVI
from amortvi.model import Program
from amortvi.posterior.labels import Labels
from amortvi.training import Callback

__all__ = ["Ended", "fit_by_workers", "fit_in_turn"]

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Ended:
    """A fit that has ended.

    Args:
        vi: the estimator.
        seconds: the wall-clock time of the fit.
        is_interrupted: whether Ctrl-C was pressed: while training, where it is no error, or before or after it.
    """

    vi: AmortizedVI
    seconds: float
    is_interrupted: bool


def fit_in_turn(planned: Mapping[Key, Mapping[str, Any]], shared: Mapping[str, Any]) -> Jobs[Key]:
    """Fit one after the other until Ctrl-C is pressed; see `_fit` for the arguments."""
    outcomes: dict[Key, Outcome] = {}
    try:
        for key, arguments in planned.items():
            try:
                ended = _fit(**arguments, **shared)
            except Exception as error:  # whatever failed, the other fits are not lost
                outcomes[key] = Outcome(error=error)
                continue
            outcomes[key] = Outcome(ended)
            if ended.is_interrupted:
                return Jobs(outcomes, is_interrupted=True)
    except KeyboardInterrupt:
        return Jobs(outcomes, is_interrupted=True)
    return Jobs(outcomes)


def fit_by_workers(
    executor: Executor,
    planned: Mapping[Key, Mapping[str, Any]],
    shared: Mapping[str, Any],
    frozen: Program | None,
    *,
    progress: bool | None,
) -> Jobs[Key]:
    """Fit in the workers of an executor; a ``frozen`` program, which all fits share, does not come back with them.

    Raises:
        OptionError: an argument cannot be sent to the workers, or the executor accepts no work.
        ModelError: the frozen model is a function that uses modules around it.
    """
    if frozen is not None and frozen.uses_outer_modules:
        raise ModelError(
            "the model is a function that registers outer modules with pyro.module, of which each worker of an executor may have "
            "others: write it as a PyroModule that has them as attributes."
        )
    jobs = run_jobs(executor, _fit_in_worker, shared, planned, ends_all=_is_interrupted, unit="fit", progress=progress)
    if frozen is not None:
        for outcome in jobs.outcomes.values():
            if isinstance(outcome.value, Ended):
                outcome.value.vi.generative.program = frozen
    return jobs


def _is_interrupted(value: Any) -> bool:
    return isinstance(value, Ended) and value.is_interrupted


def _fit(
    model: Program,
    encoder: nn.Module,
    labels: Labels | None,
    family: FamilyChoice,
    seed: int,
    checkpoint: Path | None,
    *,
    freeze_model: bool,
    made: Mapping[str, Any],
    x: Any,
    fit: Mapping[str, Any],
) -> Ended:
    """Fit one family.

    Args:
        model: the model, of which a copy is trained unless it is frozen.
        encoder: the encoder, of which a copy is trained.
        labels: the labels, if any are missing; a copy of their classifier is trained.
        family: the family.
        seed: the seed of the fit.
        checkpoint: the folder of its checkpoints, if any.
        freeze_model: whether the model is frozen.
        made: further options of the estimator.
        x: the observations.
        fit: further options of the fit.
    """
    start = Start(model, encoder, labels).copy(freeze_model=freeze_model)
    vi = start.estimator(family, freeze_model=freeze_model, **made)
    began = time.perf_counter()
    try:
        vi.fit(x, **{**fit, "seed": seed, "checkpoint": checkpoint})
    except KeyboardInterrupt:
        return Ended(vi, time.perf_counter() - began, is_interrupted=True)
    return Ended(vi, time.perf_counter() - began, is_interrupted=vi.status == "interrupted")


def _fit_in_worker(*, fit: Mapping[str, Any], freeze_model: bool, **arguments: Any) -> Ended:
    callbacks = [*fit.get("callbacks", ()), _StopsOnRequest()]
    options = {**fit, "callbacks": callbacks, "progress": False}  # the caller shows a bar of all fits
    ended = _fit(fit=options, freeze_model=freeze_model, **arguments)
    if ended.is_interrupted:
        request_stop()
    if freeze_model:
        del ended.vi.generative.program
    return ended


class _StopsOnRequest(Callback):
    """Ends a fit as Ctrl-C does, if it was pressed in the process that waits for it."""

    def on_step_end(self, fit: Any) -> None:
        if stop_requested():
            raise KeyboardInterrupt
