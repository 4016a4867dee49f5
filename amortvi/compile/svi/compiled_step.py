"""One step of stochastic variational inference as a graph: loss, gradient, clipping and optimizers."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.util import zero_grads
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from amortvi.compile.svi.arguments import Arguments
from amortvi.compile.svi.state import TensorGuard
from amortvi.compile.svi.torch_optim import RecordedUpdate, own_parameters
from amortvi.compile.svi.watch import Observation, Watch, unconstrained_parameters
from amortvi.compile.verified_graph import VerifiedGraph, device_of
from amortvi.errors import CaptureError, quoted

__all__ = ["OTHER_OPTIONS", "AvoidReads", "CompiledSVIStep", "StepDefinition"]

# Values that Pyro's estimators read, by the module and function that read them. Checks for NaN and infinity are left to the
# eager steps, and SVI checks the loss of each step. Pyro checks whether an enumerated value has probability zero only to save
# work; the code for "no" is correct in both cases. The preceding eager step has verified that all scales are equal.
_ANSWER_NO = frozenset(
    {("pyro.util", "warn_if_nan"), ("pyro.util", "warn_if_inf"), ("pyro.infer.util", "compute_expectation")}
)
_SELECT_POSSIBLE = ("pyro.infer.util", "compute_expectation")
_COMMON_SCALE = ("pyro.infer.traceenum_elbo", "_get_common_scale")
_NAN_HOOK = ("pyro.util", "warn_if_nan")
_READS = frozenset({Tensor.item, Tensor.__bool__, Tensor.__float__, Tensor.masked_select, Tensor.register_hook})


class AvoidReads(TorchFunctionMode):
    """Keeps values as tensors that Pyro's estimators convert to numbers; other code reads values as usual.

    Pyro itself is not modified: a torch function mode applies to one thread and one ``with`` block. In the block, ``backward``
    differentiates with respect to ``parameters`` only.

    Example:
        >>> import torch
        >>> from pyro.infer.util import torch_item
        >>> with AvoidReads([]):
        ...     torch_item(torch.tensor(1.5))
        tensor(1.5000)
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.parameters = list(parameters)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward:
            return self._backward(func, args, kwargs)
        if func in _READS:
            caller = _caller(sys._getframe(1))
            if func is Tensor.item and caller[0].startswith("pyro.infer."):
                return args[0].detach()
            if func is Tensor.__bool__ and caller in _ANSWER_NO:
                return False
            if func is Tensor.__float__ and caller == _COMMON_SCALE:
                return 0.0
            if func is Tensor.masked_select and caller == _SELECT_POSSIBLE:
                # Pyro only sums the selected values.
                return torch.where(args[1], args[0], torch.zeros_like(args[0]))
            if func is Tensor.register_hook and caller == _NAN_HOOK:
                return None
        return func(*args, **kwargs)

    def _backward(self, func: Any, args: Any, kwargs: Any) -> None:
        if kwargs.get("inputs") is not None:
            func(*args, **kwargs)
        elif self.parameters:
            func(*args, **{**kwargs, "inputs": self.parameters})


def _caller(frame: FrameType | None) -> tuple[str, str]:
    """Return the module and the function that called torch."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module != "torch" and not module.startswith("torch."):
            return module, frame.f_code.co_name
        frame = frame.f_back
    return "", ""


OTHER_OPTIONS = "the options of the optimizer changed"


@dataclass(frozen=True)
class StepDefinition:
    """What a step computes.

    Args:
        model: the model.
        guide: the guide.
        optim: updates the parameters.
        loss_and_grads: takes model, guide and arguments; returns the loss and adds gradients to the parameters.
        options: the options of the loss.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    optim: PyroOptim
    loss_and_grads: Callable[..., Any]
    options: Sequence[Any]


class CompiledSVIStep:
    """The step for arguments of one signature, as a graph.

    Args:
        definition: what the step computes.
        arguments: an example of its arguments.
        observation: what an eager step with such arguments has used.
        modules: every module whose tensors the step may use.
        records_optimizer: whether the optimizer updates are part of the graph; otherwise the graph returns gradients.
        floats_vary: whether floats in the arguments may change from step to step.

    Raises:
        CaptureError: the step cannot be recorded; nothing has changed.
    """

    def __init__(
        self,
        definition: StepDefinition,
        arguments: Arguments,
        observation: Observation,
        modules: Sequence[nn.Module],
        *,
        records_optimizer: bool,
        floats_vary: bool,
    ) -> None:
        self._definition = definition
        self._example = arguments.without_data()
        self._named = observation.parameters
        # One parameter may have several names.
        self._pyros = list({id(parameter): parameter for parameter in self._named.values()}.values())
        known = {id(p): p for p in (*self._pyros, *own_parameters(definition.optim))}
        self._parameters = [parameter for parameter in known.values() if parameter.requires_grad]
        self._tensor_guard = TensorGuard(self._named, self._parameters, modules)
        self._tensor_guard.check_hooks()
        self._update = RecordedUpdate(definition.optim, self._pyros) if records_optimizer else None
        clipping = [definition.optim.pt_clip_args, definition.optim.grad_clip]
        self._watch = Watch(
            observation,
            [definition.model, definition.guide, definition.loss_and_grads, *clipping, *arguments.objects, *modules],
        )
        self._floats = [self._float_tensor() for _ in arguments.floats] if floats_vary else []
        self._num_losses = 1
        self._graph = self._record(arguments)

    @property
    def is_compiled(self) -> bool:
        """Whether the graph is compiled rather than interpreted."""
        return self._graph.is_compiled

    @property
    def has_floats(self) -> bool:
        """Whether the arguments contain floats whose values may change."""
        return bool(self._floats)

    def compile_when_due(self, arguments: Arguments, after: int) -> None:
        """Compile the graph, once, if it has run ``after`` times; raise `CaptureError` if that fails."""
        self._graph.compile_when_due(lambda: self._inputs(arguments), after)

    def invalidated_by(self) -> str | None:
        """Return a description of what has changed since the step was recorded, or ``None`` if the step is still valid."""
        if not self._tensor_guard.holds():
            return "parameters, buffers or other tensors were replaced"
        if any(parameter.grad is not None for parameter in self._without_gradient):
            return "a parameter has a gradient for the first time"
        if self._update is not None and not self._update.holds():
            return OTHER_OPTIONS
        if not self._graph.is_valid():
            return "a tensor was changed whose values the model reads"
        changed = self._watch.changed()
        return None if changed is None else f"the value of {changed!r} changed"

    def has_gradients_of_others(self) -> bool:
        """Return whether gradients were accumulated since the last step."""
        return self._tensor_guard.has_gradients_of_others()

    def run(self, arguments: Arguments, eager: Callable[[], Any]) -> Any:
        """Run the step and return the loss, a number or a tuple of numbers.

        Args:
            arguments: the arguments of the step.
            eager: Pyro's own step, which is taken instead in an audit.

        Raises:
            MismatchError: the step differs from Pyro's.
        """
        inputs = self._inputs(arguments)
        losses, gradients = self._graph.run(inputs, lambda: self._as_tensors(eager()))
        if gradients is not None and self._update is None:
            self._apply(gradients, inputs)
        return self.as_numbers(losses)

    def as_numbers(self, losses: Sequence[Tensor]) -> Any:
        """Return losses as Pyro returns them: a number, or a tuple of numbers if the loss has several terms."""
        if self._loss_type is None:
            return losses[0].item()
        return self._loss_type(loss.item() for loss in losses)

    def _as_tensors(self, loss: Any) -> list[Tensor]:
        losses = loss if isinstance(loss, tuple) else (loss,)
        return [torch.as_tensor(each, dtype=self._loss_dtype).detach() for each in losses]

    def _float_tensor(self) -> Tensor:
        dtypes = {parameter.dtype for parameter in self._parameters if parameter.is_floating_point()}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.get_default_dtype()
        device = device_of([*self._parameters, *self._example.tensors])
        return torch.zeros((), dtype=dtype, device=device)

    def _inputs(self, arguments: Arguments) -> list[Tensor]:
        """Return the inputs of the graph: the tensors, and the floats as tensors unless they are constants."""
        for tensor, value in zip(self._floats, arguments.floats, strict=False):
            tensor.fill_(value)
        return [*arguments.tensors, *self._floats]

    def _record(self, arguments: Arguments) -> VerifiedGraph:
        state = random.getstate()
        try:
            with self._watch.restored(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # eager steps have issued the model's warnings
                trained = self._parameters if self._update is not None else []
                graph = VerifiedGraph(self._step, self._inputs(arguments), trained, lambda: self._num_losses)
        except CaptureError:
            raise
        except Exception as error:  # the user's code may raise anything; Pyro's own step can still run
            raise CaptureError(f"the step fails while it is recorded: {quoted(error, lines=4)}") from error
        finally:
            random.setstate(state)
        self._tensor_guard.add([*graph.outside, *self._watch.tensors])
        return graph

    def _step(self, *inputs: Tensor) -> list[Tensor]:
        count = len(self._example.tensors)
        args, kwargs = self._example.rebuild(inputs[:count], inputs[count:] if self._floats else self._example.floats)
        with self._tensor_guard.restored():
            had_none = [parameter.grad is None for parameter in self._parameters]
            losses = self._differentiate(args, kwargs)
            gradients = [parameter.grad for parameter in self._parameters]
            found = list(zip(self._parameters, gradients, had_none, strict=True))
            self._with_gradient = [p for p, gradient, _ in found if gradient is not None]
            self._without_gradient = [p for p, gradient, none in found if gradient is None and none]
            if self._update is None:
                return [*losses, *(gradient.detach() for gradient in gradients if gradient is not None)]
            for parameter, gradient, none in found:
                # Pyro keeps a zero gradient on a parameter that has had a gradient, and optimizers continue to update it.
                if gradient is None and not none:
                    parameter.grad = torch.zeros_like(parameter)
            self._update.record()
            return losses

    def _differentiate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        for parameter in self._parameters:
            parameter.grad = None
        definition = self._definition
        # Validation by the distributions reads values; the eager steps and the audits do it.
        with (
            torch.enable_grad(),
            pyro.validation_enabled(False),
            AvoidReads(self._parameters),
            poutine.trace(param_only=True) as captured,
        ):
            loss = definition.loss_and_grads(definition.model, definition.guide, *args, **kwargs)
        found = unconstrained_parameters(captured)
        if found.keys() != self._named.keys() or any(found[name] is not value for name, value in self._named.items()):
            raise CaptureError("the step does not use the same parameters in every call.")
        self._loss_type = type(loss) if isinstance(loss, tuple) else None
        losses = [torch.as_tensor(each).detach() for each in (loss if isinstance(loss, tuple) else (loss,))]
        self._num_losses, self._loss_dtype = len(losses), losses[0].dtype
        return losses

    def _apply(self, gradients: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        used = {tensor.data_ptr() for tensor in (*self._graph.outside, *inputs)}
        for parameter, gradient in zip(self._with_gradient, gradients, strict=True):
            # An optimizer may change gradients in place, but a graph may return one tensor twice, or one of its inputs.
            parameter.grad = gradient.clone() if gradient.data_ptr() in used else gradient
            used.add(gradient.data_ptr())
        self._definition.optim(self._pyros)
        zero_grads(self._pyros)
