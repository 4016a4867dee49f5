"""One step of stochastic variational inference as one compiled graph: loss, gradient, clipping, optimizers."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.util import zero_grads
from pyro.optim import PyroOptim
from torch import Tensor

from amortvi.compile.compiler import compile_recording
from amortvi.compile.recording import record
from amortvi.compile.svi.arguments import Arguments
from amortvi.compile.svi.guards import Mentions
from amortvi.compile.svi.reading import UnreadEstimates
from amortvi.compile.svi.surroundings import Seen, Surroundings, unconstrained
from amortvi.compile.svi.torch_optim import RecordedUpdate
from amortvi.errors import CaptureError, quoted

__all__ = ["OTHER_OPTIONS", "Ingredients", "Plan"]

OTHER_OPTIONS = "the optimizer has other options"

_OTHER_NUMBER = 0.9375
"""What a float is multiplied by to see whether the graph depends on its value: near one, for it may be a probability."""


@dataclass(frozen=True)
class Ingredients:
    """What a step is made of.

    Args:
        model: the model.
        guide: the guide.
        optim: updates the parameters.
        loss_and_grads: takes model, guide and arguments; returns the loss and leaves gradients on the parameters.
        options: the numbers that the loss was made with.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    optim: PyroOptim
    loss_and_grads: Callable[..., Any]
    options: Sequence[Any]


class Plan:
    """A compiled step, for arguments of one signature.

    Args:
        made_of: what the step is made of.
        arguments: an example of its arguments.
        seen: what an eager step with such arguments has used.
        trained: parameters that the optimizer has whether or not Pyro knows of them.
        whole: the optimizers are part of the graph; else it gives the gradients.
        numbers_vary: floats among the arguments may have another value at each step.

    Raises:
        CaptureError: the step cannot be recorded or compiled; nothing was changed.
    """

    def __init__(
        self,
        made_of: Ingredients,
        arguments: Arguments,
        seen: Seen,
        trained: Sequence[Tensor],
        *,
        whole: bool,
        numbers_vary: bool,
    ) -> None:
        self._made_of = made_of
        self._example = arguments.emptied()
        self._named = seen.parameters
        known = {id(parameter): parameter for parameter in (*seen.parameters.values(), *trained)}
        self._parameters = [parameter for parameter in known.values() if parameter.requires_grad]
        self.surroundings = Surroundings(seen.parameters, self._parameters, seen.modules)
        self.surroundings.check()
        self.update = RecordedUpdate(made_of.optim, list(seen.parameters.values())) if whole else None
        self._mentions = Mentions([made_of.model, made_of.guide, made_of.loss_and_grads, *seen.modules])
        self._numbers = [self._number() for _ in arguments.numbers] if numbers_vary else []
        self._lead = self._leading(arguments.tensors)
        self._compile(arguments)

    def broken_by(self) -> str | None:
        """Say what is not as it was when the step was compiled; ``None`` if the plan holds."""
        if not self.surroundings.holds() or any(parameter.grad is not None for parameter in self._idle):
            return "the parameters or buffers are others"
        if self.update is not None and not self.update.holds():
            return OTHER_OPTIONS
        changed = self._mentions.changed()
        return None if changed is None else f"{changed!r} is another"

    def run(self, arguments: Arguments) -> Any:
        """Take the step and return the loss, a number or a tuple of numbers."""
        given = self._given(arguments)
        results = self._compiled(given)
        if self.update is None:
            self._apply(results[self._losses :], given)
        if self._kind is None:
            return results[0].item()
        return self._kind(result.item() for result in results[: self._losses])

    def _number(self) -> Tensor:
        kinds = {parameter.dtype for parameter in self._parameters if parameter.is_floating_point()}
        dtype = kinds.pop() if len(kinds) == 1 else torch.get_default_dtype()
        return torch.zeros((), dtype=dtype, device=self._device())

    def _leading(self, tensors: list[Tensor]) -> list[Tensor]:
        # The first argument says which device's random numbers a recording is to leave alone.
        device = self._device()
        return [] if tensors and tensors[0].device == device else [torch.zeros((), device=device)]

    def _device(self) -> torch.device:
        tensors = [*self._parameters, *self._example.tensors]
        return next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))

    def _given(self, arguments: Arguments) -> list[Tensor]:
        """Return what the graph takes: numbers as tensors, none where it is for the numbers of the example alone."""
        for tensor, number in zip(self._numbers, arguments.numbers, strict=False):
            tensor.fill_(number)
        return [*self._lead, *arguments.tensors, *self._numbers]

    def _compile(self, arguments: Arguments) -> None:
        given = self._given(arguments)
        others = [
            *self._lead,
            # Rows in another order: values that the model can take, but not the same ones.
            *(tensor.roll(1, 0) if tensor.dim() else tensor.clone() for tensor in arguments.tensors),
            *(number * _OTHER_NUMBER for number in self._numbers),
        ]
        state = random.getstate()
        try:
            with self._mentions.kept(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what the model warns of, the eager steps have said
                recording = record(self._step, given, others)
        except CaptureError:
            raise
        except Exception as error:
            # Whatever it is, Pyro's own step can still be taken.
            raise CaptureError(f"the step fails while it is recorded: {quoted(error, lines=4)}") from error
        finally:
            random.setstate(state)
        self._compiled = compile_recording(recording, given)
        self._taken = {tensor.data_ptr() for tensor in recording.outside}

    def _step(self, *given: Tensor) -> list[Tensor]:
        rest = list(given[len(self._lead) :])
        count = len(self._example.tensors)
        args, kwargs = self._example.filled(rest[:count], rest[count:] if self._numbers else self._example.numbers)
        with self.surroundings.kept():
            absent = [parameter.grad is None for parameter in self._parameters]
            losses = self._differentiate(args, kwargs)
            gradients = [parameter.grad for parameter in self._parameters]
            self._with_gradient = [p for p, g in zip(self._parameters, gradients, strict=True) if g is not None]
            self._idle = [p for p, g, no in zip(self._parameters, gradients, absent, strict=True) if g is None and no]
            if self.update is None:
                return [*losses, *(gradient.detach() for gradient in gradients if gradient is not None)]
            for parameter, gradient, no in zip(self._parameters, gradients, absent, strict=True):
                # Pyro leaves a zero on a parameter that has once had a gradient, and optimizers go on with it.
                if gradient is None and not no:
                    parameter.grad = torch.zeros_like(parameter)
            self.update.record()
            return losses

    def _differentiate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        for parameter in self._parameters:
            parameter.grad = None
        made_of = self._made_of
        # Distributions check their arguments by reading them; the eager steps have done it.
        with (
            torch.enable_grad(),
            pyro.validation_enabled(False),
            UnreadEstimates(self._parameters),
            poutine.trace(param_only=True) as captured,
        ):
            loss = made_of.loss_and_grads(made_of.model, made_of.guide, *args, **kwargs)
        found = unconstrained(captured)
        if found.keys() != self._named.keys() or any(found[name] is not value for name, value in self._named.items()):
            raise CaptureError("the step does not train the same parameters each time.")
        self._kind = type(loss) if isinstance(loss, tuple) else None
        losses = loss if isinstance(loss, tuple) else (loss,)
        self._losses = len(losses)
        return [torch.as_tensor(each).detach() for each in losses]

    def _apply(self, gradients: Sequence[Tensor], given: Sequence[Tensor]) -> None:
        taken = self._taken | {tensor.data_ptr() for tensor in given}
        for parameter, gradient in zip(self._with_gradient, gradients, strict=True):
            # An optimizer may change a gradient in place; a compiled graph may return one tensor for two, or its argument.
            parameter.grad = gradient.clone() if gradient.data_ptr() in taken else gradient
            taken.add(gradient.data_ptr())
        parameters = list(self._named.values())
        self._made_of.optim(parameters)
        zero_grads(parameters)
