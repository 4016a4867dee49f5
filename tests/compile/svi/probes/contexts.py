"""Contexts around the steps: handlers of Pyro, and modes of torch."""

import contextlib

import torch
from pyro import poutine
from torch.overrides import TorchFunctionMode

from tests.compile.svi.probes.programs import CHANGE_AT, OUTSIDE, Program, data, observe, probe


def entering(context, model=observe):
    """Return the program whose steps run inside a context from `CHANGE_AT` on."""
    stack = contextlib.ExitStack()
    return Program(model, change=lambda: stack.enter_context(context), undo=stack.close)


@probe(OUTSIDE)
def handler_around_the_steps():
    return entering(poutine.scale(scale=0.5))


@probe(OUTSIDE)
def handler_around_all_steps():
    def drive(svi, step):
        with poutine.scale(scale=0.5):
            return svi.step(data())

    return Program(observe, drive=drive)


@probe(OUTSIDE)
def steps_without_gradients():
    """Pyro's step estimates the loss and updates nothing."""
    return entering(torch.no_grad())


@probe(OUTSIDE)
def inference_mode():
    """Pyro's step estimates the loss and updates nothing."""
    return entering(torch.inference_mode())


@probe(OUTSIDE)
def automatic_mixed_precision():
    layer = torch.nn.Linear(2, 2)
    return entering(torch.autocast("cpu", torch.bfloat16), lambda x: observe(x, shift=10.0 * layer(x).detach().float()))


@probe(OUTSIDE)
def detection_of_anomalies():
    def drive(svi, step):
        with torch.autograd.set_detect_anomaly(step >= CHANGE_AT):
            return svi.step(data())

    return Program(observe, drive=drive)


@probe(OUTSIDE)
def device_of_new_tensors():
    """New tensors are of type meta, so Pyro's step fails."""
    return entering(torch.device("meta"))


@probe(OUTSIDE)
def function_mode_of_the_user():
    """A mode that sees every call of torch, as profilers and debuggers install it."""

    class Doubling(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            return 2.0 * result if function is torch.sin else result

    return entering(Doubling(), lambda x: observe(x, shift=torch.sin(x)))
