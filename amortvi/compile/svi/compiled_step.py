"""One step of stochastic variational inference as a compiled graph: loss, gradient, clipping and optimizers."""

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
from torch import Tensor
from torch.overrides import TorchFunctionMode

from amortvi.compile.compiler import compile_recording
from amortvi.compile.recording import record
from amortvi.compile.svi.arguments import Arguments
from amortvi.compile.svi.guards import ConstantGuard
from amortvi.compile.svi.state import TensorGuard, UsedState, unconstrained_parameters
from amortvi.compile.svi.torch_optim import RecordedUpdate, own_parameters
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

_PERTURBATION = 0.9375
"""The factor applied to a float to detect whether the graph depends on its value; below one, in case it is a probability."""


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
    """The compiled step for arguments of one signature.

    Args:
        definition: what the step computes.
        arguments: an example of its arguments.
        used: the state used by an eager step with such arguments.
        records_optimizer: whether the optimizer updates are part of the graph; otherwise the graph returns gradients.
        floats_vary: whether floats in the arguments may change from step to step.

    Raises:
        CaptureError: the step cannot be recorded or compiled; nothing has changed.
    """

    def __init__(
        self,
        definition: StepDefinition,
        arguments: Arguments,
        used: UsedState,
        *,
        records_optimizer: bool,
        floats_vary: bool,
    ) -> None:
        self._definition = definition
        self._example = arguments.without_data()
        self._named = used.parameters
        known = {id(p): p for p in (*used.parameters.values(), *own_parameters(definition.optim))}
        self._parameters = [parameter for parameter in known.values() if parameter.requires_grad]
        self._tensor_guard = TensorGuard(used.parameters, self._parameters, used.modules)
        self._tensor_guard.check_hooks()
        self._update = RecordedUpdate(definition.optim, list(used.parameters.values())) if records_optimizer else None
        self._constant_guard = ConstantGuard(
            [definition.model, definition.guide, definition.loss_and_grads, *used.modules]
        )
        self._floats = [self._float_tensor() for _ in arguments.floats] if floats_vary else []
        self._first = self._first_input(arguments.tensors)
        self._compile(arguments)

    def invalidated_by(self) -> str | None:
        """Return a description of what has changed since the step was compiled, or ``None`` if the step is still valid."""
        if not self._tensor_guard.holds() or any(parameter.grad is not None for parameter in self._without_gradient):
            return "parameters or buffers were replaced"
        if self._update is not None and not self._update.holds():
            return OTHER_OPTIONS
        changed = self._constant_guard.changed()
        return None if changed is None else f"the value of {changed!r} changed"

    def run(self, arguments: Arguments) -> Any:
        """Run the step and return the loss, a number or a tuple of numbers."""
        inputs = self._inputs(arguments)
        results = self._compiled(inputs)
        if self._update is None:
            self._apply(results[self._num_losses :], inputs)
        if self._loss_type is None:
            return results[0].item()
        return self._loss_type(result.item() for result in results[: self._num_losses])

    def _float_tensor(self) -> Tensor:
        dtypes = {parameter.dtype for parameter in self._parameters if parameter.is_floating_point()}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.get_default_dtype()
        return torch.zeros((), dtype=dtype, device=self._device())

    def _first_input(self, tensors: list[Tensor]) -> list[Tensor]:
        # A recording preserves the random state of the device of its first input.
        device = self._device()
        return [] if tensors and tensors[0].device == device else [torch.zeros((), device=device)]

    def _device(self) -> torch.device:
        tensors = [*self._parameters, *self._example.tensors]
        return next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))

    def _inputs(self, arguments: Arguments) -> list[Tensor]:
        """Return the inputs of the graph: the tensors, and the floats as tensors unless they are constants."""
        for tensor, value in zip(self._floats, arguments.floats, strict=False):
            tensor.fill_(value)
        return [*self._first, *arguments.tensors, *self._floats]

    def _compile(self, arguments: Arguments) -> None:
        inputs = self._inputs(arguments)
        others = [
            *self._first,
            # The rows in another order are different values that the model accepts, too.
            *(tensor.roll(1, 0) if tensor.dim() else tensor.clone() for tensor in arguments.tensors),
            *(value * _PERTURBATION for value in self._floats),
        ]
        state = random.getstate()
        try:
            with self._constant_guard.restored(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # eager steps have issued the model's warnings
                recording = record(self._step, inputs, others)
        except CaptureError:
            raise
        except Exception as error:  # the user's code may raise anything; Pyro's own step can still run
            raise CaptureError(f"the step fails while it is recorded: {quoted(error, lines=4)}") from error
        finally:
            random.setstate(state)
        self._compiled = compile_recording(recording, inputs)
        self._memory = {tensor.data_ptr() for tensor in recording.outside}

    def _step(self, *inputs: Tensor) -> list[Tensor]:
        rest = list(inputs[len(self._first) :])
        count = len(self._example.tensors)
        args, kwargs = self._example.rebuild(rest[:count], rest[count:] if self._floats else self._example.floats)
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
        # Validation by the distributions reads values; the eager steps have done it.
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
        losses = loss if isinstance(loss, tuple) else (loss,)
        self._num_losses = len(losses)
        return [torch.as_tensor(each).detach() for each in losses]

    def _apply(self, gradients: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        used = self._memory | {tensor.data_ptr() for tensor in inputs}
        for parameter, gradient in zip(self._with_gradient, gradients, strict=True):
            # An optimizer may change gradients in place, but a graph may return one tensor twice, or one of its inputs.
            parameter.grad = gradient.clone() if gradient.data_ptr() in used else gradient
            used.add(gradient.data_ptr())
        parameters = list(self._named.values())
        self._definition.optim(parameters)
        zero_grads(parameters)
