"""Gradients: hooks, gradients that are accumulated by hand, and steps without gradients."""

import pyro
import torch

from tests.compile.svi.probes.programs import CHANGE_AT, COMPILES, OUTSIDE, WATCHED, Program, data, observe, probe


@probe(WATCHED)
def hook_on_a_gradient():
    return Program(observe, change=lambda: pyro.param("loc").register_hook(lambda gradient: 3.0 * gradient))


@probe(WATCHED)
def gradient_accumulated_by_hand():
    def drive(svi, step):
        if step >= CHANGE_AT:
            pyro.param("loc").grad = torch.ones(2)
        return svi.step(data())

    return Program(observe, drive=drive)


@probe(WATCHED)
def backward_by_hand_before_a_step():
    def drive(svi, step):
        if step >= CHANGE_AT:
            (3.0 * pyro.param("loc").sum()).backward()
        return svi.step(data())

    return Program(observe, drive=drive)


@probe(WATCHED)
def gradients_of_several_batches():
    """Pyro's way to accumulate gradients: the loss of a further batch before each step."""

    def drive(svi, step):
        if step >= CHANGE_AT:
            svi.loss_and_grads(svi.model, svi.guide, data() + 3.0)
        return svi.step(data())

    return Program(observe, drive=drive)


@probe(COMPILES)
def gradients_set_to_none():
    def drive(svi, step):
        for _, parameter in pyro.get_param_store().named_parameters():
            parameter.grad = None
        return svi.step(data())

    return Program(observe, drive=drive)


@probe(OUTSIDE)
def gradient_of_a_tensor_that_is_no_parameter():
    """Pyro never resets this gradient, so it grows from step to step."""
    shift = torch.zeros(2, requires_grad=True)

    def model(x):
        observe(x, shift=shift + 0.01 * (0.0 if shift.grad is None else shift.grad))

    return Program(model)


@probe(WATCHED)
def gradient_that_is_switched_on():
    state = torch.zeros(2)
    return Program(lambda x: observe(x, 2.0 if state.requires_grad else 1.0), change=lambda: state.requires_grad_(True))


@probe(WATCHED)
def gradients_disabled_in_the_model():
    options = {"train": True}

    def model(x):
        with torch.set_grad_enabled(options["train"]):
            shift = 1.0 * pyro.param("shift", torch.zeros(2))
        observe(x, shift=shift)

    return Program(model, change=lambda: options.update(train=False))
