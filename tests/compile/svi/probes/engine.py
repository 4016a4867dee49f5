"""Runs each probe with Pyro's SVI and with amortvi's, and compares the results."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

import amortvi as avi
from amortvi.errors import AmortviWarning, VerificationWarning
from tests.compile.svi.probes.programs import CHANGE_AT, CONSTANT_CALLS, STEPS, Probe, Verdict

COMPILING = functools.partial(avi.SVI, compile="auto", compile_after=3, verify="warn")
"""The SVI whose results are compared with those of Pyro's."""

SAYS_RERUN = r"(once|twice|times) more"
"""In the warning of a refusal that has run the model more often than Pyro does."""


@dataclass(frozen=True)
class Outcome:
    """What one run leaves: numbers, the error that ended it, and the warnings of amortvi."""

    losses: list[float]
    parameters: dict[str, Tensor]
    next_draws: list[Any]
    error: BaseException | None
    warned: list[Warning]
    compilations: int
    changes: bool
    comparable: bool


@dataclass(frozen=True)
class Report:
    """The verdict on one probe, its reason, and the number of graphs."""

    probe: Probe
    verdict: Verdict
    note: str
    compilations: int

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is one of those expected."""
        expected = self.probe.expectation
        return self.verdict in expected.verdicts and (self.compilations > 0 or not expected.compiles)


@functools.cache
def examine(probe: Probe, kind: Callable[..., Any] = COMPILING) -> Report:
    """Run a probe with Pyro's SVI and with another kind, and classify the result."""
    theirs, ours = _run(pyro.infer.SVI, probe), _run(kind, probe)
    return Report(probe, *_classify(probe, theirs, ours), ours.compilations)


def has_effect(probe: Probe) -> bool:
    """Return whether the change of a program shows in Pyro's results, and whether the program runs long enough to be compiled."""
    changed = _run(pyro.infer.SVI, probe)
    if not changed.comparable or not changed.changes:
        return len(changed.losses) >= CONSTANT_CALLS
    return _difference(changed, _run(pyro.infer.SVI, probe, changes=False)) is not None


def as_table(reports: Iterable[Report]) -> str:
    """Return one line per probe and the number of probes with each verdict."""
    reports = list(reports)
    width = max(len(report.probe.name) for report in reports)
    lines = [
        f"{report.probe.name:{width}}  {report.verdict.value + ('' if report.as_expected else ' !'):10}  "
        f"{report.compilations}  {' '.join(report.note.split())[:150]}"
        for report in reports
    ]
    counts = {each: sum(report.verdict is each for report in reports) for each in Verdict}
    totals = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items())
    compiled = sum(report.compilations > 0 for report in reports)
    unexpected = sum(not report.as_expected for report in reports)
    head = f"{'probe':{width}}  {'verdict':10}  graphs, reason"
    return "\n".join(
        [head, *lines, f"{len(reports)} probes: {totals}; {compiled} compiled, {unexpected} unexpected (!)"]
    )


# --------------------------------------------------------------------------------------------------- one run


def _run(kind: Callable[..., Any], probe: Probe, *, changes: bool = True) -> Outcome:
    made: list[Any] = []

    def make_svi(*args: Any, **kwargs: Any) -> Any:
        made.append(kind(*args, **kwargs))
        return made[-1]

    losses: list[float] = []
    error: BaseException | None = None
    with _isolated(probe), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program = probe.program(make_svi)
        try:
            svi = program.construct(make_svi)
            for step in range(STEPS):
                if step == CHANGE_AT and changes and program.change is not None:
                    program.change()
                try:
                    loss = program.step(svi, step if changes else min(step, CHANGE_AT - 1))
                except Exception as raised:  # programs raise on purpose, and a fault may raise anything
                    error = raised
                    break
                losses.extend(map(float, loss if isinstance(loss, tuple | list) else [loss]))
        finally:
            if program.undo is not None:
                program.undo()
        parameters = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
        draws = [torch.rand(()).item(), random.random(), np.random.rand()]  # noqa: NPY002
    warned = [each.message for each in caught if isinstance(each.message, AmortviWarning)]
    compilations = sum(getattr(each, "compilations", 0) for each in made)
    changing = program.change is not None or program.arguments is not None
    return Outcome(losses, parameters, draws, error, warned, compilations, changing, program.comparable)


@contextlib.contextmanager
def _isolated(probe: Probe) -> Iterator[None]:
    """Start with fixed seeds and an empty parameter store, and restore all global state on exit."""
    namespace = vars(sys.modules[probe.make.__module__])
    variables, environ = dict(namespace), dict(os.environ)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    dtype, settings, validates = torch.get_default_dtype(), pyro.settings.get(), Distribution._validate_args
    pyro.clear_param_store()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    try:
        yield
    finally:
        pyro.clear_param_store()
        pyro.settings.set(**settings)
        torch.set_default_dtype(dtype)
        Distribution.set_default_validate_args(validates)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if dict(os.environ) != environ:
            os.environ.clear()
            os.environ.update(environ)
            time.tzset()
        namespace.clear()
        namespace.update(variables)


# ------------------------------------------------------------------------------------------------ comparison


def _classify(probe: Probe, theirs: Outcome, ours: Outcome) -> tuple[Verdict, str]:
    difference = _difference(theirs, ours) if theirs.comparable else None
    note = "; ".join(" ".join(str(warning).split()) for warning in ours.warned)
    if any(isinstance(warning, VerificationWarning) for warning in ours.warned):
        return Verdict.DETECTED, note
    if difference is not None:
        if re.search(SAYS_RERUN, note):
            return Verdict.RERUN, f"{difference} ({note})"
        late = theirs.error is not None and type(ours.error) is type(theirs.error)
        verdict = Verdict.DETECTED if late and len(ours.losses) > len(theirs.losses) else Verdict.WRONG
        return verdict, difference + (f" ({note})" if note else "")
    if not ours.warned:
        if theirs.comparable:
            return Verdict.EQUAL, note
        return Verdict.WRONG, "depends on what no graph can know, and there was no warning"
    return (Verdict.REFUSED if _names_users_code(probe, note) else Verdict.UNNAMED), note


def _names_users_code(probe: Probe, message: str) -> bool:
    """Return whether a message gives a line of the program, quotes a part of it, or names an argument or a type."""
    if re.search(r"\w+\.py, line \d+|\btype \w+|\bargument \d", message):
        return True
    quoted = [next(filter(None, groups)) for groups in re.findall(r"`([^`]+)`|'([^']+)'|\"([^\"]+)\"", message)]
    return any(each in " ".join(probe.source.split()) for each in quoted)


def _difference(first: Outcome, second: Outcome) -> str | None:
    """Return the first difference that is larger than rounding errors."""
    for step, (a, b) in enumerate(zip(first.losses, second.losses, strict=False)):
        if not np.isclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True):
            return f"loss {step} is {b:.4f} where Pyro has {a:.4f}"
    if type(first.error) is not type(second.error) or len(first.losses) != len(second.losses):
        return f"{_ending(second)} where Pyro's run {_ending(first)}"
    if first.parameters.keys() != second.parameters.keys():
        return f"the parameters are {', '.join(second.parameters)} where Pyro has {', '.join(first.parameters)}"
    for name, a in first.parameters.items():
        b = second.parameters[name]
        if a.shape != b.shape or not torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True):
            return f"parameter {name} is {b.flatten()[:3].tolist()} where Pyro has {a.flatten()[:3].tolist()}"
    return None if first.next_draws == second.next_draws else "the next random draw differs"


def _ending(outcome: Outcome) -> str:
    how = "ends" if outcome.error is None else f"raises {type(outcome.error).__name__} ({outcome.error})"
    return f"{how} after {len(outcome.losses)} losses"
