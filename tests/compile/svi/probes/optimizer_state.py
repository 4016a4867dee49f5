"""State and hooks of optimizers, and optimizers that users write or replace."""

import pyro
import pyro.optim
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.compile.svi.probes.optimizers import adam
from tests.compile.svi.probes.programs import CHANGE_AT, COMPILES, COUNTED, WATCHED, Program, data, observe, probe


@probe(WATCHED)
def hook_before_the_step():
    optim = adam()

    def double(optimizer, args, kwargs):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.zero_()

    def change():
        for each in optim.optim_objs.values():
            each.register_step_pre_hook(double)

    return Program(observe, optim=optim, change=change)


@probe(WATCHED)
def hook_on_all_optimizers():
    handles = []

    def shrink(optimizer, args, kwargs):
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(0.9)

    def change():
        handles.append(register_optimizer_step_post_hook(shrink))

    return Program(observe, optim=adam(), change=change, undo=lambda: [handle.remove() for handle in handles])


@probe(WATCHED)
def state_that_is_deleted():
    optim = adam()
    return Program(observe, optim=optim, change=lambda: [each.state.clear() for each in optim.optim_objs.values()])


@probe(COMPILES)
def state_that_is_changed_in_place():
    optim = adam()

    def change():
        for each in optim.optim_objs.values():
            for state in each.state.values():
                state["exp_avg"].mul_(-3.0)

    return Program(observe, optim=optim, change=change)


@probe(WATCHED)
def state_that_is_replaced():
    optim = adam()

    def change():
        for each in optim.optim_objs.values():
            for state in each.state.values():
                state["exp_avg"] = -3.0 * state["exp_avg"]

    return Program(observe, optim=optim, change=change)


@probe(WATCHED)
def state_that_is_loaded():
    optim = adam()
    saved = []

    def drive(svi, step):
        if step == 2:
            saved.append({name: dict(state) for name, state in optim.get_state().items()})
        if step == CHANGE_AT:
            optim.set_state(saved[0])
        return svi.step(data())

    return Program(observe, optim=optim, drive=drive)


@probe(WATCHED)
def optimizers_that_are_dropped():
    optim = adam()
    return Program(observe, optim=optim, change=lambda: setattr(optim, "optim_objs", {}))


@probe(WATCHED)
def optimizer_that_is_replaced():
    def drive(svi, step):
        if step == CHANGE_AT:
            svi.optim = pyro.optim.SGD({"lr": 0.001})
        return svi.step(data())

    return Program(observe, optim=adam(), drive=drive)


@probe(WATCHED)
def several_steps_of_the_optimizer_on_one_gradient():
    """The user calls the optimizer between two steps of SVI."""
    optim = adam()

    def drive(svi, step):
        loss = svi.step(data())
        if step >= CHANGE_AT:
            for name in ("loc", "width"):
                parameter = dict(pyro.get_param_store().named_parameters())[name]
                parameter.grad = torch.ones_like(parameter)
                optim([parameter])
                parameter.grad = torch.zeros_like(parameter)
        return loss

    return Program(observe, optim=optim, drive=drive)


@probe(COUNTED)
def optimizer_with_a_counter_of_its_own():
    class Warming(torch.optim.SGD):
        calls = 0

        def step(self, closure=None):
            self.calls += 1
            for group in self.param_groups:
                group["lr"] = 0.01 * min(self.calls, 10)
            return super().step(closure)

    return Program(observe, optim=pyro.optim.PyroOptim(Warming, {"lr": 0.01}))


@probe(WATCHED)
def optimizer_that_reads_an_option():
    options = {"factor": 1.0}

    class Scaled(torch.optim.SGD):
        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter.grad.mul_(options["factor"])
            return super().step(closure)

    return Program(observe, optim=pyro.optim.PyroOptim(Scaled, {"lr": 0.01}), change=lambda: options.update(factor=5.0))


@probe(WATCHED)
def optimizer_of_pyro_with_a_method_of_its_own():
    options = {"skip": False}

    class Skipping(pyro.optim.PyroOptim):
        def __call__(self, parameters, *args, **kwargs):
            if not options["skip"]:
                super().__call__(parameters, *args, **kwargs)

    return Program(observe, optim=Skipping(torch.optim.SGD, {"lr": 0.01}), change=lambda: options.update(skip=True))
