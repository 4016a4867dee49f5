"""Steps that run as recorded graphs, one per shape of a minibatch, without any Python code of model, guide or optimizer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from amortvi.compile import (
    MismatchError,
    RecordableOptimizer,
    VerifiedGraph,
    is_recordable,
    memory_of,
    needs_closure,
    optimizer_options,
    optimizer_tensors,
    share_counters,
)
from amortvi.data import Minibatch
from amortvi.errors import CaptureError, NonFiniteError
from amortvi.training.steps.eager import EagerEstimation, EagerStep
from amortvi.training.steps.policy import Policy
from amortvi.training.steps.step import LateNonFiniteError, Totals
from amortvi.training.steps.update import Estimation, Update

__all__ = ["CompiledEstimation", "CompiledStep"]

_STEPS_BETWEEN_CHECKS = 1000
"""Steps between checks for non-finite numbers within an epoch. A check takes a third of the time of a small step and makes the
CPU wait for an accelerator. Once per thousand steps the cost is negligible, and a failed fit still ends soon."""


class _Graphs:
    """Runs minibatches eagerly at first, and then as one graph per shape.

    Args:
        policy: when to record and compile.
        eager: takes a step eagerly and returns its loss.
        function: takes the same step as a function that can be recorded; it returns the loss and any further results.
        trained: the parameters that a step changes.
        prepare: called before each recording.
    """

    def __init__(
        self,
        policy: Policy,
        eager: Callable[[Minibatch], Tensor],
        function: Callable[[Minibatch], Sequence[Tensor]],
        trained: Sequence[Tensor],
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._policy = policy
        self._eager = eager
        self._function = function
        self._trained = trained
        self._prepare = prepare
        self._graphs: dict[Hashable, VerifiedGraph] = {}
        self._steps: Counter[Hashable] = Counter()
        self._distrusted: set[Hashable] = set()  # shapes with graphs of an earlier fit, not verified since
        self._resumed: dict[Hashable, int] = {}  # the steps that graphs of a resumed fit had taken

    def clear(self) -> None:
        """Discard all graphs, which are no longer valid."""
        self._graphs.clear()

    def distrust(self) -> None:
        """Verify each graph before it is used again, and record anew what has changed since."""
        self._distrusted = set(self._graphs)
        for graph in self._graphs.values():
            graph.verify_next()

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps for each shape, and how many of them were taken by its graph."""
        recorded = {shape: graph.steps for shape, graph in self._graphs.items()}
        return {"steps": dict(self._steps), "recorded": {**self._resumed, **recorded}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if these steps had been taken, so that the same ones are taken eagerly as without the interruption."""
        self._graphs.clear()
        self._distrusted.clear()
        self._steps, self._resumed = Counter(state["steps"]), dict(state["recorded"])

    def __bool__(self) -> bool:
        return bool(self._graphs)

    def __call__(self, minibatch: Minibatch) -> Sequence[Tensor] | None:
        """Process one minibatch; return the further results of the function, or ``None`` if the step was taken eagerly."""
        policy, tensors = self._policy, minibatch.tensors()
        shape = tuple((tuple(tensor.shape), tensor.stride(), tensor.dtype) for tensor in tensors)
        self._steps[shape] += 1
        if not policy.gave_up and self._steps[shape] > policy.record_after:
            try:
                results = self._graph(shape, minibatch, tensors).run(tensors, lambda: [self._eager(minibatch)])[1]
                self._distrusted.discard(shape)
                return results
            except CaptureError as error:
                policy.refuse(error)
            except MismatchError as mismatch:
                if shape in self._distrusted:
                    # The user has changed a number between two fits.
                    self._distrusted.discard(shape)
                    del self._graphs[shape]
                else:
                    policy.report(mismatch)
                return None
            except NonFiniteError as error:
                # A recorded step before this audit may have computed the first such number.
                raise LateNonFiniteError(str(error)) from error
        self._eager(minibatch)
        return None

    def _graph(self, shape: Hashable, minibatch: Minibatch, tensors: list[Tensor]) -> VerifiedGraph:
        graph = self._graphs.get(shape)
        if graph is None or not graph.is_valid():
            # The graph outlives the fit, so it must not keep the data in memory.
            form = minibatch.replace([tensor.new_empty(0) for tensor in tensors])

            def function(*arguments: Tensor) -> Sequence[Tensor]:
                return self._function(form.replace(list(arguments)))

            self._prepare()
            graph = self._graphs[shape] = VerifiedGraph(function, tensors, self._trained, num_losses=lambda: 1)
            graph.steps = self._resumed.pop(shape, 0)
        if self._policy.compiles:
            try:
                graph.compile_when_due(lambda: tensors, self._policy.compile_after, minibatch.num_shared)
            except CaptureError as error:
                self._policy.keep_interpreting(error)
        return graph


class CompiledStep:
    """One optimizer step on one minibatch, including the selection of its observations.

    Objective, gradient, clipping and optimizer are one graph if the optimizer can be recorded. Otherwise its step stays outside
    the graph. Non-finite numbers are detected at the end of the epoch, so that no step waits for the check.

    Args:
        update: what to compute.
        policy: when to record and compile.
    """

    def __init__(self, update: Update, policy: Policy) -> None:
        self.update = update
        self._policy = policy
        self._optimizer = RecordableOptimizer(update.optimizer) if is_recordable(update.optimizer) else None
        self._graphs = _Graphs(policy, EagerStep(update).take, self._recorded, update.parameters, self._prepare)
        self._has_gradient: list[bool] = []
        self._fingerprint: Hashable = None
        self._unchecked = 0

    @property
    def totals(self) -> Totals:
        """The sums of the epoch so far."""
        return self.update.totals

    @property
    def records_optimizer(self) -> bool:
        """Whether the optimizer's step is part of the graph."""
        return self._optimizer is not None

    def distrust(self) -> None:
        """Verify what an earlier fit has recorded before it is used again."""
        self._graphs.distrust()

    def state_dict(self) -> dict[str, Any]:
        """Return which steps were recorded."""
        return self._graphs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` has returned."""
        self._graphs.load_state_dict(state)

    def begin(self) -> None:
        """Discard graphs that are no longer valid."""
        if self._graphs and self._fingerprint != self._current_fingerprint():
            self._graphs.clear()

    def __call__(self, minibatch: Minibatch) -> None:
        """Update the parameters.

        Raises:
            CaptureError: the step cannot be recorded or compiled, and compiling was asked for; nothing has changed.
            LateNonFiniteError: a loss or a parameter is not finite.
        """
        if self._optimizer is not None:
            self._optimizer.write_rates()
        gradients = self._graphs(minibatch)
        if gradients is not None and self._optimizer is None:
            found = iter(gradients)
            self.update.apply([next(found) if present else None for present in self._has_gradient])
        self._unchecked += 1
        if self._unchecked >= _STEPS_BETWEEN_CHECKS:
            self.end()

    def end(self) -> None:
        """Check the sums of the epoch and the parameters.

        Raises:
            LateNonFiniteError: one of them is not finite.
        """
        self._unchecked = 0
        sums = torch.stack([tensor.detach().sum().float() for tensor in (self.totals.sums, *self.update.parameters)])
        if not math.isfinite(float(sums.sum())):
            raise LateNonFiniteError("the loss or a parameter is not finite")

    def _current_fingerprint(self) -> Hashable:
        if self._optimizer is None:
            return self.update.fingerprint()
        optimizer = self.update.optimizer
        return self.update.fingerprint(), memory_of(optimizer_tensors(optimizer)), optimizer_options(optimizer)

    def _prepare(self) -> None:
        """Convert what a recording would otherwise convert in each step."""
        if needs_closure(self.update.optimizer):
            raise CaptureError(
                f"{type(self.update.optimizer).__name__} evaluates the loss itself, as often as its line search needs, which a "
                f"recorded step cannot do: use compile=False or another optimizer."
            )
        if self._optimizer is not None:
            self._optimizer.count_in_double()
            share_counters([self.update.optimizer])

    def _recorded(self, minibatch: Minibatch) -> Sequence[Tensor]:
        """Perform the whole update, or return the gradients that exist if the optimizer stays outside the graph."""
        self._fingerprint = self._current_fingerprint()
        found = self.update.differentiate(minibatch.gather())
        if self._optimizer is None:
            self._has_gradient = [gradient is not None for gradient in found.gradients]
            return [found.loss, *(gradient for gradient in found.gradients if gradient is not None)]
        # Clipping stays outside recording(), which sets a flag for optimizers only.
        self.update.attach(found.gradients)
        with self._optimizer.recording():
            self.update.step()
        return [found.loss]


class CompiledEstimation:
    """The estimate of the objective on one minibatch, as a graph."""

    def __init__(self, estimation: Estimation, policy: Policy) -> None:
        self.estimation = estimation
        self._fingerprint: Hashable = None
        self._graphs = _Graphs(policy, EagerEstimation(estimation).take, self._recorded, [])

    @property
    def totals(self) -> Totals:
        """The sums of the pass so far."""
        return self.estimation.totals

    def distrust(self) -> None:
        """Verify what an earlier fit has recorded before it is used again."""
        self._graphs.distrust()

    def state_dict(self) -> dict[str, Any]:
        """Return which steps were recorded."""
        return self._graphs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` has returned."""
        self._graphs.load_state_dict(state)

    def begin(self) -> None:
        """Discard graphs that are no longer valid."""
        if self._graphs and self._fingerprint != self.estimation.fingerprint():
            self._graphs.clear()

    def __call__(self, minibatch: Minibatch) -> None:
        """Estimate the objective and add it to the totals; raise `CaptureError` if compiling was asked for and fails."""
        self._graphs(minibatch)

    def end(self) -> None:
        """Do nothing: the estimate changes no parameters."""

    def _recorded(self, minibatch: Minibatch) -> Sequence[Tensor]:
        self._fingerprint = self.estimation.fingerprint()
        return [self.estimation.accumulate(minibatch.gather())]
