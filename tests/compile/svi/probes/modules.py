"""Modules of torch and Pyro: modes, options, buffers, and parts that are replaced."""

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from tests.compile.svi.probes.programs import COMPILES, WATCHED, Program, data, mean_field, observe, probe


def network(part=None):
    """Return a network; its parameters are the same in each run."""
    return nn.Sequential(nn.Linear(2, 4), part or nn.Tanh(), nn.Linear(4, 2))


def decoding(decoder, change=None, **options):
    """Return the program in which a module decodes the data."""

    def model(x):
        observe(x, shift=pyro.module("decoder", decoder)(x))

    return Program(model, change=change, **options)


@probe(COMPILES)
def network_in_the_model():
    return decoding(network())


@probe(WATCHED)
def evaluation_mode():
    decoder = network(nn.Dropout(0.5))
    return decoding(decoder, decoder.eval)


@probe(WATCHED)
def evaluation_mode_of_a_part():
    decoder = network(nn.BatchNorm1d(4))
    return decoding(decoder, decoder[1].eval)


@probe(COMPILES)
def running_statistics():
    return decoding(network(nn.BatchNorm1d(4)))


@probe(WATCHED)
def running_statistics_set_by_hand():
    decoder = network(nn.BatchNorm1d(4))
    decoder[1].eval()

    def change():
        decoder[1].running_mean.add_(1.0)
        decoder[1].running_var.mul_(4.0)

    return decoding(decoder, change)


@probe(WATCHED)
def rate_of_dropout():
    decoder = network(nn.Dropout(0.1))
    return decoding(decoder, lambda: setattr(decoder[1], "p", 0.9))


@probe(WATCHED)
def option_of_a_layer():
    decoder = network(nn.LeakyReLU(0.1))
    return decoding(decoder, lambda: setattr(decoder[1], "negative_slope", 0.9))


@probe(WATCHED)
def number_in_a_module_of_the_user():
    class Scaled(nn.Module):
        factor = 1.0

        def forward(self, x):
            return self.factor * x

    decoder = network(Scaled())
    return decoding(decoder, lambda: setattr(decoder[1], "factor", 3.0))


@probe(WATCHED)
def module_that_pyro_does_not_know():
    """Its parameters are constants for Pyro, and may change in place."""
    encoder = network()

    def model(x):
        observe(x, shift=encoder(x).detach())

    def change():
        with torch.no_grad():
            encoder[2].bias.add_(1.0)

    return Program(model, change=change)


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(4))

    def forward(self, x):
        return x + self.shift


@probe(COMPILES)
def buffer_changed_in_place():
    decoder = network(Shifted())
    return decoding(decoder, lambda: decoder[1].shift.fill_(1.0))


@probe(WATCHED)
def buffer_that_is_replaced():
    decoder = network(Shifted())
    return decoding(decoder, lambda: setattr(decoder[1], "shift", torch.ones(4)))


@probe(WATCHED)
def part_that_is_replaced():
    decoder = network()
    return decoding(decoder, lambda: decoder.__setitem__(1, nn.Softplus()))


@probe(WATCHED)
def part_that_is_appended():
    decoder = network()
    return decoding(decoder, lambda: decoder.append(nn.Tanh()))


@probe(WATCHED)
def order_of_parts():
    decoder = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Softplus())

    def change():
        decoder[1], decoder[2] = decoder[2], decoder[1]

    return decoding(decoder, change)


@probe(WATCHED)
def parameter_of_a_module_that_is_replaced():
    decoder = network()
    return decoding(decoder, lambda: setattr(decoder[2], "bias", nn.Parameter(torch.ones(2))))


@probe(WATCHED)
def state_that_is_loaded():
    decoder, other = network(), network()
    return decoding(decoder, lambda: decoder.load_state_dict(other.state_dict()))


@probe(WATCHED)
def state_that_is_assigned():
    decoder, other = network(), network()
    return decoding(decoder, lambda: decoder.load_state_dict(other.state_dict(), assign=True))


@probe(WATCHED)
def module_of_another_type():
    decoder = network()
    return decoding(decoder, decoder.double)


@probe(WATCHED)
def module_without_gradients():
    decoder = network()
    return decoding(decoder, lambda: decoder.requires_grad_(False))


@probe(WATCHED)
def layer_without_a_gradient():
    decoder = network()
    return decoding(decoder, lambda: decoder[0].weight.requires_grad_(False))


class Bayesian(PyroModule):
    """A module with a prior that may be replaced."""

    def __init__(self):
        super().__init__()
        self.offset = PyroSample(dist.Normal(0.0, 1.0))
        self.scale = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

    def forward(self, x):
        observe(x, self.scale, self.offset)


def propose_offset(x):
    pyro.sample("offset", dist.Normal(pyro.param("offset_loc", torch.tensor(0.0)), 0.1))
    mean_field(x)


@probe(COMPILES)
def module_of_pyro():
    return Program(Bayesian(), propose_offset)


@probe(WATCHED)
def prior_of_a_module_that_is_replaced():
    model = Bayesian()
    return Program(model, propose_offset, change=lambda: setattr(model, "offset", PyroSample(dist.Normal(0.0, 0.1))))


@probe(WATCHED)
def parameter_of_a_module_of_pyro_that_is_replaced():
    model = Bayesian()
    return Program(model, propose_offset, change=lambda: setattr(model, "scale", torch.tensor(2.0)))


@probe(WATCHED)
def modes_that_the_loop_switches():
    """As in loops that evaluate between the steps."""
    decoder = network(nn.Dropout(0.5))
    program = decoding(decoder)

    def drive(svi, step):
        decoder.train(step % 2 == 0)
        return svi.step(data())

    return Program(program.model, drive=drive)
