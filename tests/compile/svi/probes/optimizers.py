"""Options, clipping and schedules of optimizers."""

import pyro
import pyro.optim
import torch

from tests.compile.svi.probes.programs import CHANGE_AT, COMPILES, WATCHED, Program, data, observe, probe


def adam(**options):
    return pyro.optim.Adam({"lr": 0.1, **options})


def groups(optim):
    """Return the options of all optimizers of torch in one of Pyro."""
    return [group for each in optim.optim_objs.values() for group in each.param_groups]


def setting(optim, **options):
    """Return a program that sets options of its optimizer."""

    def change():
        for group in groups(optim):
            group.update(options)

    return Program(observe, optim=optim, change=change)


@probe(COMPILES)
def learning_rate():
    return setting(adam(), lr=0.5)


@probe(COMPILES)
def learning_rate_of_sgd():
    return setting(pyro.optim.SGD({"lr": 0.01}), lr=0.1)


@probe(WATCHED)
def betas():
    return setting(adam(), betas=(0.1, 0.2))


@probe(WATCHED)
def epsilon():
    return setting(adam(), eps=10.0)


@probe(WATCHED)
def weight_decay():
    return setting(adam(), weight_decay=1.0)


@probe(WATCHED)
def momentum():
    return setting(pyro.optim.SGD({"lr": 0.01, "momentum": 0.5}), momentum=0.99)


@probe(WATCHED)
def direction():
    return setting(adam(), maximize=True)


@probe(WATCHED)
def learning_rate_in_a_tensor():
    rate = torch.tensor(0.1)
    return Program(observe, optim=adam(lr=rate), change=lambda: rate.fill_(0.5))


@probe(WATCHED)
def defaults_that_are_not_used_any_more():
    """Pyro hands its arguments to the optimizers of new parameters only."""
    optim = adam()

    def drive(svi, step):
        optim.pt_optim_args["lr"] = 0.1 * (1 + step)
        return svi.step(data())

    return Program(observe, optim=optim, drive=drive)


@probe(WATCHED)
def norm_of_a_clipped_gradient():
    optim = pyro.optim.Adam({"lr": 0.1}, {"clip_norm": 100.0})
    return Program(observe, optim=optim, change=lambda: optim.pt_clip_args.update(clip_norm=0.01))


@probe(WATCHED)
def clip_arguments():
    optim = pyro.optim.SGD({"lr": 0.01}, {"clip_value": 100.0})

    def change():
        for arguments in [optim.pt_clip_args, *optim.grad_clip.values()]:
            if isinstance(arguments, dict):
                arguments.update(clip_value=0.1)

    return Program(observe, optim=optim, change=change)


@probe(WATCHED)
def clip_function_that_is_replaced():
    optim = pyro.optim.SGD({"lr": 0.01}, {"clip_norm": 100.0})

    def change():
        for parameter in list(optim.grad_clip):
            optim.grad_clip[parameter] = lambda parameter: parameter.grad.zero_()

    return Program(observe, optim=optim, change=change)


@probe(WATCHED)
def clipping_added_later():
    optim = pyro.optim.SGD({"lr": 0.01})

    def change():
        for parameter in list(optim.optim_objs):
            optim.grad_clip[parameter] = lambda parameter: parameter.grad.clamp_(-0.1, 0.1)

    return Program(observe, optim=optim, change=change)


@probe(WATCHED)
def options_of_a_clipped_adam():
    return setting(pyro.optim.ClippedAdam({"lr": 0.1, "clip_norm": 100.0}), clip_norm=0.01)


@probe(WATCHED)
def decay_of_a_clipped_adam():
    return setting(pyro.optim.ClippedAdam({"lr": 0.1}), lrd=0.5)


@probe(COMPILES)
def function_of_the_name():
    rates = {"loc": 0.1, "width": 0.01}
    return Program(observe, optim=pyro.optim.Adam(lambda name: {"lr": rates[name]}))


@probe(WATCHED)
def function_of_the_name_with_a_new_parameter():
    """The rate of a parameter that is added later is looked up in the changed table."""
    options = {"lr": 0.01}

    def model(x):
        observe(x, shift=pyro.param("shift", torch.ones(2)) if options["lr"] > 0.1 else 0.0)

    return Program(model, optim=pyro.optim.Adam(lambda name: dict(options)), change=lambda: options.update(lr=0.3))


@probe(COMPILES)
def schedule():
    def drive(svi, step):
        loss = svi.step(data())
        svi.optim.step()
        return loss

    optim = pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.9})
    return Program(observe, optim=optim, drive=drive)


@probe(WATCHED)
def schedule_with_a_function_that_changes():
    factors = {"factor": 1.0}

    def drive(svi, step):
        if step == CHANGE_AT:
            factors["factor"] = 0.1
        loss = svi.step(data())
        svi.optim.step()
        return loss

    options = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.01}, "lr_lambda": lambda epoch: factors["factor"]}
    return Program(observe, optim=pyro.optim.LambdaLR(options), drive=drive)


@probe(WATCHED)
def schedule_of_the_momentum():
    def drive(svi, step):
        loss = svi.step(data())
        svi.optim.step()
        return loss

    options = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.01, "momentum": 0.9}}
    options = {**options, "max_lr": 0.05, "total_steps": 50}
    return Program(observe, optim=pyro.optim.OneCycleLR(options), drive=drive)


@probe(WATCHED)
def adagrad_of_pyro():
    return Program(observe, optim=pyro.optim.AdagradRMSProp({"eta": 0.1}))
