"""Options of losses, and losses that are replaced."""

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, config_enumerate

from tests.compile.svi.probes.programs import CHANGE_AT, WATCHED, Program, data, mean_field, observe, probe


def changing_loss(loss, **options):
    return Program(observe, mean_field, loss=loss, change=lambda: vars(loss).update(options))


@probe(WATCHED)
def number_of_particles():
    return changing_loss(Trace_ELBO(num_particles=1), num_particles=3)


@probe(WATCHED)
def number_of_particles_in_one_batch():
    return changing_loss(Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1), num_particles=3)


@probe(WATCHED)
def order_of_a_renyi_divergence():
    return changing_loss(RenyiELBO(alpha=0.0, num_particles=2), alpha=0.9)


@probe(WATCHED)
def losses_of_other_kinds():
    """Each step estimates another loss."""
    losses = [Trace_ELBO(), TraceGraph_ELBO(), TraceMeanField_ELBO()]

    def drive(svi, step):
        if step >= CHANGE_AT:
            svi.loss = losses[step % 3].loss
            svi.loss_and_grads = losses[step % 3].loss_and_grads
        return svi.step(data())

    return Program(observe, drive=drive)


@probe(WATCHED)
def loss_of_the_user():
    options = {"factor": 1.0}

    def loss(model, guide, *args):
        return options["factor"] * Trace_ELBO().differentiable_loss(model, guide, *args)

    return Program(observe, mean_field, loss=loss, change=lambda: options.update(factor=2.0))


@probe(WATCHED)
def enumeration():
    """A class of the mixture becomes impossible."""
    weights = torch.tensor([0.5, 0.5])

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(torch.tensor([-1.0, 1.0])[k], 1.0), obs=x[:, 0])

    def guide(x):
        chances = pyro.param("chances", torch.full((6, 2), 0.5), constraint=dist.constraints.simplex)
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(chances))

    change = lambda: weights.copy_(torch.tensor([0.999, 0.001]))  # noqa: E731
    return Program(model, config_enumerate(guide), loss=TraceEnum_ELBO(max_plate_nesting=1), change=change)
