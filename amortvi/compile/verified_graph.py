"""A function of tensors as a graph, verified from time to time against the function that it replaces."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from amortvi._util.text import capitalized
from amortvi.compile.audit import COMPILED, INTERPRETED, Audit, Tolerance
from amortvi.compile.backends.ahead import CompilationAhead
from amortvi.compile.backends.cuda_graph import as_cuda_graph
from amortvi.compile.backends.inductor import compile_graph
from amortvi.compile.backends.interpreter import Run
from amortvi.compile.executable import executable, split
from amortvi.compile.recording import Function, difference, record
from amortvi.errors import CaptureError, VerificationError

__all__ = ["MismatchError", "VerifiedGraph", "device_of", "memory_of"]


class MismatchError(Exception):
    """A graph differs from the function that it replaces. The function has taken the step, so the step is not to be repeated.

    Args:
        losses: the losses of the function.
        error: the reason; a `CaptureError` if no step was taken without verification, else a `VerificationError`.
        unverified: the number of steps since the last successful audit.
    """

    def __init__(self, losses: Sequence[Tensor], error: CaptureError | VerificationError, unverified: int) -> None:
        super().__init__(str(error))
        self.losses = losses
        self.error = error
        self.unverified = unverified


_AHEAD = 0.2
"""The fraction of the runs before the compilation after which another process begins to compile. It needs 20 seconds, and the
80,000 runs that remain by default take longer even if they are the fastest."""


class VerifiedGraph:
    """A recorded function; some of its runs are audits, in which the function itself is run too, and the results compared.

    Args:
        function: takes tensors, and returns losses and then other tensors; it may also change tensors in place.
        arguments: an example of its arguments.
        trained: the parameters among the tensors that it changes.
        num_losses: returns the number of losses, once the function is recorded.

    Raises:
        CaptureError: the function cannot be recorded; nothing has changed.
    """

    def __init__(
        self,
        function: Function,
        arguments: Sequence[Tensor],
        trained: Sequence[Tensor],
        num_losses: Callable[[], int],
    ) -> None:
        self.recording = recording = record(function, arguments)
        self.outside = recording.outside
        self._function = function
        self._num_losses = num_losses
        self._written_arguments = [number for number in recording.written if number < len(arguments)]
        written = {
            id(recording.outside[number - len(arguments)]) for number in recording.written if number >= len(arguments)
        }
        self._audit = Audit(
            [tensor for tensor in trained if id(tensor) in written],
            [t for t in recording.outside if id(t) in written and not any(t is each for each in trained)],
            # Parameters that the graph does not change may be updated outside it.
            [t for t in recording.outside if id(t) not in written and not t.requires_grad],
            device_of([*arguments, *recording.outside]),
        )
        self._run = executable(recording, arguments)
        self._candidates: list[tuple[Run, Tolerance]] = [(self._run, INTERPRETED)]
        self._verified = 0
        self._ahead: CompilationAhead | None = None
        self._is_final = False  # whether it has been tried to compile the graph

    def compile_when_due(
        self, example: Callable[[], Sequence[Tensor]], after: int, num_shared: int | None = None
    ) -> None:
        """Compile the graph, once, if it has run often enough; some time before, another process begins to compile it.

        The number of runs decides, and not whether the other process has ended, so that a seed always leads to the same numbers.

        Args:
            example: returns an example of the arguments.
            after: the number of runs before the graph is compiled.
            num_shared: how many arguments are the same tensors in every call. On a GPU, the compiled code is then replayed as a
                CUDA graph, for these tensors only.

        Raises:
            CaptureError: the graph does not compile, and remains interpreted.
        """
        if self._is_final:
            return
        if self._audit.steps >= after:
            self._is_final = True
            if self._ahead is not None:
                self._ahead.wait()
                self._ahead = None
            self._compile(example(), num_shared)
        elif self._ahead is None and self._audit.steps >= after * _AHEAD and self._audit.device.type == "cpu":
            inputs = self.recording.inputs(example())
            self._ahead = CompilationAhead(split(self.recording.graph, inputs)[0], inputs)

    def _compile(self, arguments: Sequence[Tensor], num_shared: int | None) -> None:
        run = executable(self.recording, arguments, compile_graph)
        if num_shared is not None and arguments[0].is_cuda:
            run = as_cuda_graph(run, arguments, num_shared, self.outside)
        self._run = run
        self._candidates.append((run, COMPILED))

    @property
    def steps(self) -> int:
        """The number of runs so far, which decides which runs are audits and when the graph is compiled."""
        return self._audit.steps

    @steps.setter
    def steps(self, steps: int) -> None:
        self._audit.steps = self._verified = steps

    @property
    def is_compiled(self) -> bool:
        """Whether the graph is compiled rather than interpreted."""
        return len(self._candidates) > 1

    def is_valid(self) -> bool:
        """Return whether the values that Python has read while recording are still the same."""
        return all(tensor._version == version for tensor, version in self.recording.read)

    def verify_next(self) -> None:
        """Make the next run an audit, which starts to count anew the steps without verification."""
        self._audit.is_next = True
        self._verified = self._audit.steps

    def run(
        self, arguments: Sequence[Tensor], reference: Callable[[], Sequence[Tensor]]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor] | None]:
        """Run the graph, or in an audit ``reference``.

        Args:
            arguments: the arguments of the function.
            reference: what the function replaces; it returns the losses.

        Returns:
            The losses and the other results of the function; ``None`` in place of the others if ``reference`` was run.

        Raises:
            MismatchError: the graph and ``reference`` differ.
        """
        count = self._num_losses()
        if not self._audit.is_due:
            self._audit.steps += 1
            results = self._run(arguments)
            return results[:count], results[count:]
        losses: Sequence[Tensor] = ()

        def take() -> Sequence[Tensor]:
            nonlocal losses
            losses = reference()
            return losses

        candidates = [(lambda run=run: run(arguments)[:count], tolerance) for run, tolerance in self._candidates]
        unverified = self._audit.steps - self._verified
        problem = self._audit.compare(candidates, take, [arguments[number] for number in self._written_arguments])
        if problem is not None:
            raise MismatchError(losses, self._explain(problem, arguments, unverified), unverified)
        self._verified = self._audit.steps
        return losses, None

    def _explain(self, problem: str, arguments: Sequence[Tensor], unverified: int) -> CaptureError | VerificationError:
        """Return the error for a difference, with the user's line if the function is different when recorded again."""
        try:
            cause = difference(self.recording, record(self._function, arguments, seed=1))
        except CaptureError as error:
            cause = error
        if unverified:
            return VerificationError(f"{problem}. {_UNKNOWN_CAUSE if cause is None else capitalized(str(cause))}")
        return cause or CaptureError(f"the recorded step is not the step of the model: {problem}. {_UNKNOWN_CAUSE}")


_UNKNOWN_CAUSE = (
    "A recorded graph repeats one call of the model, so the model must not depend on Python values that change, such as "
    "counters, clocks or random numbers of Python: keep such numbers in tensors, or use compile=False."
)


def device_of(tensors: Sequence[Tensor]) -> torch.device:
    """Return the device of the first tensor that is on an accelerator, and otherwise the CPU."""
    return next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))


def memory_of(tensors: Sequence[Tensor]) -> Hashable:
    """Return a key that is equal for the same tensors of the same shapes in the same memory."""
    return tuple([(id(t), t.data_ptr(), t.shape, t.stride(), t.dtype, t.requires_grad) for t in tensors])
