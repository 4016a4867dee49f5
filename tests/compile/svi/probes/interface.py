"""Other uses of an SVI: copies, threads, two of them, and what users replace in one."""

import copy
import threading

import pyro
import torch
from pyro.infer import Trace_ELBO

from tests.compile.svi.probes.programs import (
    CHANGE_AT,
    COMPILES,
    WATCHED,
    Program,
    data,
    mean_field,
    observe,
    probe,
    propose,
)


class Model:
    """A model that can be copied and pickled."""

    def __init__(self):
        self.scale = 1.0

    def __call__(self, x):
        observe(x, self.scale)


def sgd():
    return pyro.optim.SGD({"lr": 0.01})


@probe(COMPILES)
def evaluations_between_the_steps():
    def drive(svi, step):
        return [svi.evaluate_loss(data()), svi.step(data()), svi.evaluate_loss(data(3))]

    return Program(observe, drive=drive)


@probe(WATCHED)
def copy_of_an_svi():
    copies = []

    def drive(svi, step):
        if step == CHANGE_AT:
            copies.append(copy.deepcopy(svi))
            copies[0].model.scale = 2.0
        return (copies or [svi])[0].step(data())

    return Program(Model(), drive=drive)


@probe(WATCHED)
def run_that_is_resumed(make_svi):
    """Parameters and optimizer are stored and loaded, and another SVI continues."""
    optim = pyro.optim.Adam({"lr": 0.05})
    other = make_svi(observe, mean_field, optim, Trace_ELBO())

    def drive(svi, step):
        if step == CHANGE_AT:
            state, options = pyro.get_param_store().get_state(), optim.get_state()
            pyro.clear_param_store()
            pyro.get_param_store().set_state(state)
            other.optim = pyro.optim.Adam({"lr": 0.05})
            other.optim.set_state(options)
        return (svi if step < CHANGE_AT else other).step(data())

    return Program(observe, optim=optim, drive=drive)


@probe(WATCHED)
def copy_and_original_in_turns():
    copies = []

    def drive(svi, step):
        if step == CHANGE_AT:
            copies.append(copy.deepcopy(svi))
        return [each.step(data()) for each in [svi, *copies]]

    return Program(Model(), drive=drive)


@probe(WATCHED)
def two_svis_with_one_store(make_svi):
    """Both train the same parameters, with losses of their own."""
    other = make_svi(Model(), mean_field, sgd(), Trace_ELBO(num_particles=2))

    def drive(svi, step):
        return [svi.step(data()), other.step(data(3))]

    return Program(observe, drive=drive)


@probe(WATCHED)
def second_svi_that_starts_later(make_svi):
    """It replaces the parameter that the first has trained."""
    other = make_svi(observe, mean_field, sgd(), Trace_ELBO())

    def drive(svi, step):
        if step == CHANGE_AT:
            pyro.clear_param_store()
        return [svi.step(data())] if step < CHANGE_AT else [other.step(data()), svi.step(data())]

    return Program(observe, drive=drive)


@probe(WATCHED)
def model_with_parameters_that_another_svi_trains(make_svi):
    def model(x):
        observe(x, shift=pyro.param("loc", torch.zeros(2)).detach())

    def guide(x):
        propose(x, pyro.param("other", torch.zeros(2)))

    other = make_svi(observe, mean_field, sgd(), Trace_ELBO())
    return Program(model, guide, drive=lambda svi, step: [other.step(data()), svi.step(data())])


@probe(WATCHED)
def optimizer_that_two_svis_share(make_svi):
    optim = pyro.optim.Adam({"lr": 0.05})
    other = make_svi(Model(), mean_field, optim, Trace_ELBO())
    return Program(observe, optim=optim, drive=lambda svi, step: [svi.step(data()), other.step(data())])


def step_in_another_thread(svi):
    losses = []
    thread = threading.Thread(target=lambda: losses.append(svi.step(data())))
    thread.start()
    thread.join()
    return losses


@probe(WATCHED)
def steps_in_another_thread():
    """One thread after the other."""

    return Program(observe, drive=lambda svi, step: step_in_another_thread(svi))


@probe(WATCHED)
def steps_in_two_threads():
    """Every second step runs in another thread."""

    def drive(svi, step):
        return svi.step(data()) if step % 2 else step_in_another_thread(svi)

    return Program(observe, drive=drive)


@probe(WATCHED)
def model_that_is_replaced():
    def drive(svi, step):
        if step == CHANGE_AT:
            svi.model = lambda x: observe(x, 2.0)
        return svi.step(data())

    return Program(observe, drive=drive)


@probe(WATCHED)
def guide_that_is_replaced():
    def drive(svi, step):
        if step == CHANGE_AT:
            svi.guide = lambda x: propose(x, pyro.param("loc"), 2.0)
        return svi.step(data())

    return Program(observe, drive=drive)


@probe(WATCHED)
def model_that_is_wrapped_between_the_steps():
    def drive(svi, step):
        if step == CHANGE_AT:
            svi.model = pyro.poutine.scale(svi.model, scale=0.5)
        return svi.step(data())

    return Program(observe, drive=drive)


@probe(COMPILES)
def runs_of_pyro():
    """`SVI.run` trains with `svi.step`, and then draws from the guide."""

    def drive(svi, step):
        svi.num_steps, svi.num_samples = 1, 1
        svi.run(data())
        return svi.evaluate_loss(data())

    return Program(observe, drive=drive)


@probe(COMPILES)
def sum_of_the_losses_of_two_batches():
    def drive(svi, step):
        return [svi.step(data()), svi.step(data() + 1.0)]

    return Program(observe, drive=drive)
