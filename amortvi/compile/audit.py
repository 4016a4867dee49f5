"""Verification of compiled steps: from time to time, the step that they replace is taken from the same state and compared."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from amortvi.errors import OptionError

__all__ = ["AUDIT_EVERY", "Audit", "Tolerance", "Verify", "check_verify"]

AUDIT_EVERY = 1000
"""The largest number of compiled steps between two audits. An audit takes twice as long as one step of Pyro: for a small
model, 2 percent of the time of a thousand interpreted steps, and 3 percent of that of compiled ones; less for larger models."""

Verify: TypeAlias = Literal["warn", "error"]
"""What to do if a compiled step differs from the step that it replaces."""

Step: TypeAlias = Callable[[], Sequence[Tensor]]
"""Takes a step and returns its losses."""


def check_verify(value: object) -> Verify:
    """Return ``value`` if it is a `Verify`, and otherwise raise `OptionError`."""
    if value == "warn":
        return "warn"
    if value == "error":
        return "error"
    raise OptionError(f'verify must be "warn" or "error"; got {value!r}.')


@dataclass(frozen=True)
class Tolerance:
    """The largest differences that can be rounding errors.

    Args:
        loss: relative to the loss, in units of its rounding error.
        update: relative to the norm of the change that the step makes.
    """

    loss: float
    update: float


INTERPRETED = Tolerance(loss=100, update=1e-2)
"""The same operations in the same order. Only fused updates of optimizers, and sums of Python, are rounded differently."""

COMPILED = Tolerance(loss=1e4, update=0.2)
"""Sums in another order. Adam turns a gradient that is nothing but rounding error into an update of normal size."""


class Audit:
    """Compares compiled steps with the reference: the steps 1, 2, 4, 8, ..., and then every thousandth.

    The reference takes the step last, so an audited step is one of the reference.

    Args:
        trained: the trained parameters among the tensors that a step changes.
        others: the other tensors that it changes, such as buffers and the state of the optimizer.
        unchanged: tensors that it uses and does not change.
        device: the device of the step, whose random state is compared too.

    Example:
        >>> import torch
        >>> x = torch.zeros(())
        >>> audit = Audit([x], [], [], x.device)
        >>> def step():
        ...     return [x.add_(1).clone()]
        >>> audit.is_due, audit.compare([(step, INTERPRETED)], step), x
        (True, None, tensor(1.))
        >>> audit.compare([(step, INTERPRETED)], lambda: [x.add_(1.01).clone()])
        'its loss is 2, and should be 2.01'
    """

    def __init__(
        self, trained: Sequence[Tensor], others: Sequence[Tensor], unchanged: Sequence[Tensor], device: torch.device
    ) -> None:
        self.steps = 0
        self.is_next = False
        self._trained = [tensor.detach() for tensor in trained]
        self._others = [tensor.detach() for tensor in others]
        self._unchanged = list(unchanged)
        self.device = device

    @property
    def is_due(self) -> bool:
        """Whether the next step is to be compared."""
        step = self.steps + 1
        return self.is_next or step % AUDIT_EVERY == 0 or (step < AUDIT_EVERY and step & (step - 1) == 0)

    def compare(
        self, candidates: Sequence[tuple[Step, Tolerance]], reference: Step, written: Sequence[Tensor] = ()
    ) -> str | None:
        """Take one step with each candidate, undo it, take the step with ``reference``, and describe the first difference.

        Args:
            candidates: the steps to verify.
            reference: the step that they replace. If it raises an exception, it did so in the state before the step.
            written: arguments of the step that it changes.
        """
        tensors = [*self._trained, *self._others, *written]
        before, generators = _copies(tensors), _random_state(self.device)
        found = []
        try:
            for step, _ in candidates:
                found.append(_Outcome(step(), _copies(tensors), _random_state(self.device)))
                self._restore(tensors, before, generators)
        except BaseException:
            self._restore(tensors, before, generators)
            raise
        versions = [tensor._version for tensor in self._unchanged]

        def take() -> tuple[_Outcome, bool]:
            drawn = _python_random_state()
            outcome = _Outcome(reference(), _copies(tensors), _random_state(self.device))
            return outcome, not _is_equal(drawn, _python_random_state())

        expected, draws = take()
        if draws and threading.active_count() > 1:  # perhaps another thread has drawn, such as those of a Dask worker
            self._restore(tensors, before, generators)
            expected, draws = take()
        self.steps += 1
        self.is_next = False
        if draws:
            return "the step draws from the random number generator of Python or NumPy, which only runs when it is not compiled"
        if [tensor._version for tensor in self._unchanged] != versions:
            return "the step changes a tensor in place that it did not change when it was recorded"
        differences = (
            self._difference(outcome, expected, before, tolerance)
            for outcome, (_, tolerance) in zip(found, candidates, strict=True)
        )
        return next(filter(None, differences), None)

    def _restore(self, tensors: Sequence[Tensor], values: Sequence[Tensor], generators: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        torch.set_rng_state(generators[0])
        if self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(generators[1], self.device)

    def _difference(
        self, found: _Outcome, expected: _Outcome, before: Sequence[Tensor], tolerance: Tolerance
    ) -> str | None:
        for loss, other in zip(found.losses, expected.losses, strict=True):
            if not _is_close(loss, other, tolerance.loss):
                return f"its loss is {loss.item():.8g}, and should be {other.item():.8g}"
        # A CUDA graph reserves random numbers in larger blocks than the operations that it contains.
        generators = slice(None) if tolerance is INTERPRETED else slice(1)
        if not _is_equal(found.generators[generators], expected.generators[generators]):
            return "it does not draw the same random numbers"
        middle = len(self._trained)
        for part, name in (
            (slice(middle), "parameters"),
            (slice(middle, None), "buffers or the state of the optimizer"),
        ):
            update, error = (
                _norm(first[part], second[part])
                for first, second in ((expected.state, before), (found.state, expected.state))
            )
            rounding = 100 * _epsilon(before[part]) * _norm(expected.state[part])
            is_close = error <= tolerance.update * update + rounding < math.inf
            if not is_close and not _same_non_finite(found.state, expected.state):
                return f"its {name} change differently, by {error / max(update, 1e-300):.2g} of the correct change"
        return None


@dataclass(frozen=True)
class _Outcome:
    """The losses of a step, copies of the tensors that it changes, and the random state after it."""

    losses: Sequence[Tensor]
    state: Sequence[Tensor]
    generators: Sequence[Tensor]


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state(device)]


def _python_random_state() -> tuple[Any, ...]:
    return random.getstate(), *np.random.get_state()  # noqa: NPY002  # a model may draw from NumPy's global generator


def _is_equal(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return all(map(_same, first, second))


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    return np.array_equal(first, second) if isinstance(first, np.ndarray) else bool(first == second)


def _is_close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    relative = tolerance * _epsilon([found])
    return bool(
        torch.isclose(found.double(), expected.double().to(found.device), rtol=relative, atol=relative, equal_nan=True)
    )


def _epsilon(tensors: Sequence[Tensor]) -> float:
    return max((torch.finfo(t.dtype).eps for t in tensors if t.is_floating_point()), default=0.0)


_WIDE = {False: torch.float64, True: torch.complex128}
"""The type in which norms are computed, for real and for complex numbers."""


def _norm(first: Sequence[Tensor], second: Sequence[Tensor] | None = None) -> float:
    """Return the norm of tensors, or of the differences of two lists of tensors."""
    given = [_as_floating(tensor) for tensor in first]
    if second is not None:
        given = [a - _as_floating(b) for a, b in zip(given, second, strict=True)]
    return math.hypot(*(torch.linalg.vector_norm(tensor, dtype=_WIDE[tensor.is_complex()]).item() for tensor in given))


def _as_floating(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.double()


def _same_non_finite(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Return whether both contain numbers that are not finite, so that no norm can be compared, and these in the same places."""
    places = [(torch.isfinite(a), torch.isfinite(b)) for a, b in zip(first, second, strict=True)]
    return any(not b.all() for _, b in places) and all(torch.equal(a, b) for a, b in places)
