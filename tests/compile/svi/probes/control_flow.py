"""Models that print, warn, raise, return early, or take another branch later."""

import contextlib
import io
import logging
import sys
import warnings

import pyro
import torch
from pyro import distributions as dist

from tests.compile.svi.probes.programs import (
    CHANGE_AT,
    CONSTANT_CALLS,
    COUNTED,
    WATCHED,
    Program,
    data,
    observe,
    probe,
)


@probe(WATCHED)
def print_in_the_model():
    out = io.StringIO()

    def model(x):
        print("a step with", len(x), "rows", file=out)
        observe(x)

    return Program(model)


@probe(WATCHED)
def shape_that_is_printed():
    def model(x):
        with contextlib.redirect_stdout(io.StringIO()):
            print(x.shape, x.dtype)
        observe(x)

    return Program(model)


@probe(WATCHED)
def tensor_that_is_printed():
    def model(x):
        with contextlib.redirect_stdout(io.StringIO()):
            print(pyro.param("loc", torch.zeros(2)))
        observe(x)

    return Program(model)


@probe(WATCHED)
def log_in_the_model():
    logger = logging.getLogger("probe")

    def model(x):
        logger.debug("a step with %d rows", len(x))
        observe(x)

    return Program(model)


@probe(WATCHED)
def warning_in_the_model():
    def model(x):
        warnings.warn("an experimental model", UserWarning, stacklevel=1)
        observe(x)

    return Program(model)


@probe(WATCHED)
def exception_at_a_later_step():
    options = {"broken": False}

    def model(x):
        if options["broken"]:
            raise RuntimeError("the model is broken")
        observe(x)

    return Program(model, change=lambda: options.update(broken=True))


@probe(COUNTED)
def exception_after_some_calls():
    calls = []

    def model(x):
        calls.append(len(x))
        if len(calls) > CONSTANT_CALLS:
            raise RuntimeError("the schedule has ended")
        observe(x)

    return Program(model)


@probe(WATCHED)
def exception_that_the_model_catches():
    table = {"wide": 2.0}

    def model(x):
        try:
            scale = table["narrow"]
        except KeyError:
            scale = table["wide"]
        observe(x, scale)

    return Program(model, change=lambda: table.update(narrow=1.0))


@probe(WATCHED)
def exception_by_the_values_of_a_batch():
    def model(x):
        if (x > 2.5).any():
            raise ValueError("an outlier")
        observe(x)

    return Program(model, arguments=lambda step: (data() + (0.0 if step < CHANGE_AT else 1.0),))


@probe(WATCHED)
def assertion_on_a_parameter():
    def model(x):
        assert pyro.param("loc", torch.zeros(2)).abs().max() < 0.75
        observe(x, shift=-2.0)

    return Program(model)


@probe(WATCHED)
def early_return():
    options = {"prior_only": False}

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            if options["prior_only"]:
                return
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return Program(model, change=lambda: options.update(prior_only=True))


@probe(WATCHED)
def additional_site():
    options = {"penalty": False}

    def model(x):
        observe(x)
        if options["penalty"]:
            pyro.factor("penalty", -pyro.param("loc").pow(2).sum())

    return Program(model, change=lambda: options.update(penalty=True))


@probe(WATCHED)
def number_of_iterations():
    options = {"iterations": 1}

    def model(x):
        shift = x
        for _ in range(options["iterations"]):
            shift = torch.tanh(shift + pyro.param("loc", torch.zeros(2)))
        observe(x, shift=shift)

    return Program(model, change=lambda: options.update(iterations=4))


@probe(WATCHED)
def iteration_until_convergence():
    """A fixed point, as in implicit models; the number of iterations depends on the parameters."""

    def model(x):
        loc, shift = pyro.param("loc", torch.ones(2)), torch.zeros(2)
        for _ in range(50):
            new = 0.5 * torch.tanh(shift) + 2.0 * loc
            if torch.allclose(new, shift, atol=1e-3):
                break
            shift = new
        observe(x, shift=shift)

    return Program(model)


@probe(WATCHED)
def branch_on_a_parameter():
    def model(x):
        loc = pyro.param("loc", torch.zeros(2))
        observe(x, 1.0 if loc.detach().sum() < 0.6 else 2.0)

    return Program(model)


@probe(WATCHED)
def branch_on_the_loss_of_the_last_step():
    last = {"loss": 100.0}

    def drive(svi, step):
        last["loss"] = svi.step(data())
        return last["loss"]

    return Program(lambda x: observe(x, 1.0 if last["loss"] > 21.0 else 1.5), drive=drive)


@probe(WATCHED)
def branch_of_a_generator_expression():
    flags = [True, True]
    return Program(
        lambda x: observe(x, 1.0 if all(flag for flag in flags) else 2.0), change=lambda: flags.append(False)
    )


@probe(WATCHED)
def pattern():
    options = {"kind": {"name": "narrow"}}

    def scale():
        match options["kind"]:
            case {"name": "narrow"}:
                return 1.0
            case {"name": _, "factor": factor}:
                return factor

    return Program(lambda x: observe(x, scale()), change=lambda: options.update(kind={"name": "wide", "factor": 2.0}))


@probe(WATCHED)
def trace_function():
    """A debugger or a coverage tool changes what the interpreter does, and the model asks for it."""
    before = sys.gettrace()
    return Program(
        lambda x: observe(x, 1.0 if sys.gettrace() is before else 2.0),
        change=lambda: sys.settrace(lambda *args: None),
        undo=lambda: sys.settrace(before),
    )
