"""What a probe is: a small program whose Python state changes after its step may have been compiled."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.optim
import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO
from torch import Tensor

STEPS = 16
"""With graphs from the fourth step on, the eighth compiled step, which is audited, follows the change."""

CHANGE_AT = 8
"""The step before which the state of a program changes: between the audits of the fourth and the eighth compiled step."""

CONSTANT_CALLS = 6
"""How many calls of the model pass before state that moves with each call matters: no more than the eager steps and the first
audits need."""

ROWS = 6


class Verdict(enum.Enum):
    """How the results of a program compare with those of Pyro's SVI."""

    EQUAL = "equal"  # the same numbers, without a warning
    REFUSED = "refused"  # the same numbers, and a warning that names something in the user's code
    UNNAMED = "unnamed"  # the same numbers, and a warning that does not say which line or value is the reason
    RERUN = "rerun"  # other numbers, because a refused attempt has run the model again, as its warning says
    DETECTED = "detected"  # other numbers, which an audit has reported
    WRONG = "wrong"  # other numbers, and nothing says so


@dataclass(frozen=True)
class Expectation:
    """The verdicts that are right, and whether the program must be compiled."""

    verdicts: frozenset[Verdict]
    compiles: bool = False


WATCHED = Expectation(frozenset({Verdict.EQUAL, Verdict.REFUSED}))
"""What a guard can see: the change is followed, or the program is refused."""

COUNTED = Expectation(frozenset({Verdict.EQUAL, Verdict.REFUSED, Verdict.RERUN}))
"""What a guard can see, in programs whose state moves with each call, also with those of an attempt that is refused."""

AUDITED = Expectation(frozenset({Verdict.EQUAL, Verdict.REFUSED, Verdict.RERUN, Verdict.DETECTED}))
"""What no guard can see: the next audit reports it at the latest."""

OUTSIDE = Expectation(frozenset({Verdict.EQUAL, Verdict.REFUSED, Verdict.UNNAMED}))
"""As `WATCHED`, for a reason that is not in the code of the program but in how a step is called."""

COMPILES = Expectation(frozenset({Verdict.EQUAL}), compiles=True)
"""What a user can expect to be compiled."""


@dataclass(frozen=True)
class Program:
    """One program, constructed anew for each run.

    Args:
        model: the model.
        guide: the guide.
        optim: the optimizer; SGD by default, whose update is linear in the gradient, so that rounding errors stay small.
        loss: the loss.
        change: changes the program's state before step `CHANGE_AT`.
        arguments: returns the positional arguments of a step.
        undo: restores at the end what the program has changed outside itself.
        drive: takes a step of an SVI and returns the loss.
        comparable: whether two runs of Pyro give the same numbers; if not, only a refusal is right.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any] | None = None
    optim: Any = None
    loss: Any = None
    change: Callable[[], object] | None = None
    undo: Callable[[], object] | None = None
    arguments: Callable[[int], Iterable[Any]] | None = None
    drive: Callable[[Any, int], Any] | None = None
    comparable: bool = True

    def steady(self) -> Program:
        """Return the program with arguments that nothing changes."""
        arguments = self.arguments
        assert arguments is not None
        return replace(self, arguments=None, drive=lambda svi, step: svi.step(*arguments(step)))

    def construct(self, make_svi: Callable[..., Any]) -> Any:
        """Return an SVI of this program."""
        optim = self.optim or pyro.optim.SGD({"lr": 0.01})
        return make_svi(self.model, self.guide or mean_field, optim, self.loss or Trace_ELBO())

    def step(self, svi: Any, number: int) -> Any:
        """Take one step and return the loss."""
        if self.drive is not None:
            return self.drive(svi, number)
        return svi.step(*(self.arguments(number) if self.arguments is not None else (data(),)))


@dataclass(frozen=True)
class Probe:
    """A named program and what may be expected of it."""

    make: Callable[..., Program]
    expectation: Expectation

    @property
    def name(self) -> str:
        """The module and the name of the probe."""
        return f"{self.make.__module__.rpartition('.')[2]}: {self.make.__name__.replace('_', ' ')}"

    @property
    def source(self) -> str:
        """The code of the program, and of what all programs share."""
        return inspect.getsource(self.make) + inspect.getsource(inspect.getmodule(Probe))

    def program(self, make_svi: Callable[..., Any]) -> Program:
        """Return a new program; some construct further SVIs."""
        return self.make(make_svi) if inspect.signature(self.make).parameters else self.make()


def probe(expectation: Expectation) -> Callable[[Callable[..., Program]], Probe]:
    """Turn a function that returns a program into a probe."""
    return lambda make: Probe(make, expectation)


# ------------------------------------------------------------------------------------------- models and guides


def data(rows: int = ROWS) -> Tensor:
    """Return new, equal data in each call."""
    return torch.linspace(-1.0, 2.0, 2 * rows).reshape(rows, 2)


def observe(x: Tensor, scale: Any = 1.0, shift: Any = 0.0) -> None:
    """The model of most probes: one latent vector per row; the probes change the scale."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + shift, scale).to_event(1), obs=x)


def mean_field(x: Tensor, *_: Any, **__: Any) -> None:
    """The guide of most probes."""
    propose(x, pyro.param("loc", lambda: torch.zeros(2)))


def propose(x: Tensor, loc: Any, scale: Any = 1.0) -> None:
    """Sample the latent vectors of `observe` around ``loc``, with a width that is trained."""
    width = pyro.param("width", lambda: torch.ones(2), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, width * scale).to_event(1))
