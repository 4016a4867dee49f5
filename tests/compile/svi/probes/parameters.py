"""Pyro's parameters: under two names, added or replaced later, and with other constraints."""

import pyro
import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoIAFNormal, AutoNormal
from torch import nn

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


def adam():
    return pyro.optim.Adam({"lr": 0.05})


def regression(x):
    """A model without a plate, for autoguides."""
    loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(loc.sum(), 1.0).expand(x.shape).to_event(2), obs=x)


@probe(WATCHED)
def autoguide_with_two_names_for_each_parameter():
    """Pyro's `AutoIAFNormal` registers its transform under two names."""
    return Program(regression, AutoIAFNormal(regression, hidden_dim=[8]), adam())


@probe(COMPILES)
def autoguide():
    return Program(regression, AutoNormal(regression), adam())


def layer():
    return nn.Linear(2, 2)


@probe(WATCHED)
def layer_under_two_names():
    decoder = layer()

    def model(x):
        first, second = pyro.module("first", decoder), pyro.module("second", decoder)
        observe(x, shift=first(x) - 0.5 * second(2.0 * x))

    return Program(model, optim=adam())


@probe(WATCHED)
def layer_in_model_and_guide_under_two_names():
    shared = layer()

    def model(x):
        observe(x, shift=pyro.module("decoder", shared)(x))

    def guide(x):
        propose(x, pyro.module("encoder", shared)(x))

    return Program(model, guide, adam())


@probe(WATCHED)
def tied_weights():
    first, second = layer(), layer()
    second.weight = first.weight

    def model(x):
        observe(x, shift=pyro.module("second", second)(pyro.module("first", first)(x)))

    return Program(model, optim=adam())


@probe(WATCHED)
def tied_weights_in_one_module():
    network = nn.Sequential(layer(), layer())
    network[1].weight = network[0].weight

    def model(x):
        observe(x, shift=pyro.module("network", network)(x))

    return Program(model, optim=adam())


@probe(WATCHED)
def weights_that_are_tied_later():
    first, second = layer(), layer()

    def model(x):
        observe(x, shift=pyro.module("second", second)(pyro.module("first", first)(x)))

    return Program(model, optim=adam(), change=lambda: setattr(second, "weight", first.weight))


@probe(WATCHED)
def parameter_under_two_names():
    shift = torch.zeros(2, requires_grad=True)

    def model(x):
        observe(x, shift=pyro.param("a", shift) + pyro.param("b", shift))

    return Program(model, optim=adam())


@probe(WATCHED)
def parameter_store_that_is_cleared():
    return Program(observe, change=pyro.clear_param_store)


@probe(WATCHED)
def parameter_that_is_deleted():
    return Program(observe, change=lambda: pyro.get_param_store().__delitem__("loc"))


@probe(COMPILES)
def value_of_a_parameter_set_in_place():
    def change():
        with torch.no_grad():
            pyro.param("loc").fill_(1.0)

    return Program(observe, change=change)


@probe(WATCHED)
def parameter_that_is_replaced():
    return Program(observe, change=lambda: pyro.get_param_store().__setitem__("loc", torch.ones(2)))


@probe(WATCHED)
def data_of_a_parameter_replaced():
    return Program(observe, change=lambda: setattr(pyro.param("loc"), "data", torch.ones(2)))


@probe(WATCHED)
def parameters_that_are_loaded():
    def change():
        store = pyro.get_param_store()
        state = store.get_state()
        state["params"] = {name: value.detach() + 0.5 for name, value in state["params"].items()}
        store.set_state(state)

    return Program(observe, change=change)


def shifting(options):
    """A model that uses another parameter if it is told to."""

    def model(x):
        observe(x, shift=pyro.param("shift", torch.ones(2)) if options["shifts"] else 0.0)

    return model


@probe(WATCHED)
def parameter_added_later():
    options = {"shifts": False}
    return Program(shifting(options), change=lambda: options.update(shifts=True))


@probe(WATCHED)
def parameter_that_is_not_used_any_more():
    options = {"shifts": True}
    return Program(shifting(options), change=lambda: options.update(shifts=False))


@probe(WATCHED)
def parameter_that_is_frozen():
    return Program(observe, change=lambda: pyro.param("loc").requires_grad_(False))


@probe(WATCHED)
def parameter_that_is_trained_again():
    def guide(x):
        propose(x, pyro.param("loc", torch.zeros(2)))

    def drive(svi, step):
        if step in (4, CHANGE_AT) and "loc" in pyro.get_param_store():
            pyro.param("loc").requires_grad_(step == CHANGE_AT)
        return svi.step(data())

    return Program(observe, guide, drive=drive)


@probe(WATCHED)
def constraint_that_is_replaced():
    options = {"constraint": constraints.positive}

    def model(x):
        observe(x, pyro.param("scale", torch.tensor(1.0), constraint=options["constraint"]))

    def change():
        pyro.get_param_store().__delitem__("scale")
        options["constraint"] = constraints.greater_than(0.9)

    return Program(model, change=change)


@probe(WATCHED)
def constraint_in_the_store():
    """The same unconstrained value means another scale."""

    def model(x):
        observe(x, pyro.param("scale", torch.tensor(1.5), constraint=constraints.positive))

    def change():
        pyro.get_param_store()._constraints["scale"] = constraints.greater_than(1.0)

    return Program(model, change=change)


@probe(WATCHED)
def name_that_changes():
    options = {"name": "a"}

    def model(x):
        observe(x, shift=pyro.param(options["name"], torch.ones(2)))

    return Program(model, change=lambda: options.update(name="b"))


@probe(WATCHED)
def initial_value_that_is_not_used():
    """The parameter exists, so that its initial value has no influence any more."""
    options = {"start": 1.0}

    def model(x):
        observe(x, shift=pyro.param("shift", torch.full((2,), options["start"])))

    def drive(svi, step):
        options["start"] = 1.0 + step
        return svi.step(data())

    return Program(model, drive=drive)


@probe(WATCHED)
def store_that_the_model_reads():
    """A parameter that only exists from some step on."""

    def model(x):
        store = pyro.get_param_store()
        observe(x, shift=store["extra"] if "extra" in store else 0.0)  # noqa: SIM401

    return Program(model, change=lambda: pyro.param("extra", torch.ones(2)))


@probe(WATCHED)
def number_of_parameters():
    def model(x):
        observe(x, 1.0 + 0.2 * len(pyro.get_param_store()))

    def guide(x):
        pyro.param("first", torch.zeros(1))
        mean_field(x)

    return Program(model, guide, change=lambda: pyro.param("extra", torch.ones(2)))
