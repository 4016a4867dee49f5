"""Distribution objects that live outside the model, and whose parts are replaced."""

import pyro
import torch
from pyro import distributions as dist
from pyro.distributions import transforms
from torch.distributions import Distribution

from tests.compile.svi.probes.programs import AUDITED, COMPILES, ROWS, WATCHED, Program, mean_field, observe, probe


def with_prior(prior, change):
    """Return a program with a prior that is constructed once."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return Program(model, change=change)


@probe(WATCHED)
def location_that_is_replaced():
    prior = dist.Normal(torch.zeros(2), torch.ones(2))
    return with_prior(prior.to_event(1), lambda: setattr(prior, "loc", torch.ones(2)))


@probe(COMPILES)
def location_changed_in_place():
    prior = dist.Normal(torch.zeros(2), torch.ones(2))
    return with_prior(prior.to_event(1), lambda: prior.loc.fill_(1.0))


@probe(WATCHED)
def base_of_an_independent_distribution():
    prior = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
    return with_prior(prior, lambda: setattr(prior, "base_dist", dist.Normal(torch.ones(2), torch.ones(2))))


@probe(WATCHED)
def parts_of_a_transformation():
    affine = transforms.AffineTransform(torch.zeros(2), torch.ones(2))
    prior = dist.TransformedDistribution(dist.Normal(torch.zeros(2), torch.ones(2)), [affine])
    return with_prior(prior.to_event(1), lambda: setattr(affine, "loc", torch.ones(2)))


@probe(WATCHED)
def list_of_transformations():
    prior = dist.TransformedDistribution(
        dist.Normal(torch.zeros(2), torch.ones(2)), [transforms.AffineTransform(torch.zeros(2), torch.ones(2))]
    )
    return with_prior(
        prior.to_event(1),
        lambda: prior.transforms.append(transforms.AffineTransform(torch.ones(2), 2.0 * torch.ones(2))),
    )


@probe(WATCHED)
def exponent_of_a_transformation():
    power = transforms.AffineTransform(0.0, 1.0)
    prior = dist.TransformedDistribution(dist.Normal(torch.zeros(2), torch.ones(2)), [power])
    return with_prior(prior.to_event(1), lambda: setattr(power, "scale", 2.0))


@probe(WATCHED)
def mask_of_a_distribution():
    prior = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1).mask(torch.ones(ROWS, dtype=torch.bool))
    return with_prior(prior, lambda: setattr(prior, "_mask", torch.zeros(ROWS, dtype=torch.bool)))


@probe(WATCHED)
def cached_property_of_a_distribution():
    """torch computes the precision matrix once, and keeps it."""
    normal = dist.MultivariateNormal(torch.zeros(2), covariance_matrix=2.0 * torch.eye(2))
    return Program(
        lambda x: observe(x, normal.precision_matrix[0, 0] + 0.5),
        change=lambda: vars(normal).update(precision_matrix=2.0 * torch.eye(2)),
    )


@probe(WATCHED)
def class_of_a_distribution_in_an_option():
    options = {"kind": dist.Normal}

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", options["kind"](z, 1.0).to_event(1), obs=x)

    return Program(model, change=lambda: options.update(kind=dist.Laplace))


@probe(WATCHED)
def method_of_a_distribution_that_is_replaced():
    class Likelihood(dist.Normal):
        def log_prob(self, value):
            return super().log_prob(value)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", Likelihood(z, 1.0).to_event(1), obs=x)

    def change():
        Likelihood.log_prob = lambda self, value: -(value - self.loc).abs()

    return Program(model, change=change)


@probe(AUDITED)
def scale_that_becomes_negative():
    """Pyro raises a ValueError; a graph does not validate, so an audit has to."""
    scale = torch.tensor(1.0)
    return Program(lambda x: observe(x, scale), change=lambda: scale.fill_(-1.0))


@probe(AUDITED)
def observation_outside_the_support():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.LogNormal(z, 1.0).to_event(1), obs=counts)

    counts = torch.ones(ROWS, 2)
    return Program(model, change=lambda: counts.fill_(-1.0))


@probe(AUDITED)
def probability_above_one():
    chance = torch.tensor(0.5)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(chance).expand([2]).to_event(1), obs=(x + z.detach() > 0).float())

    return Program(model, change=lambda: chance.fill_(1.5))


@probe(WATCHED)
def negative_scale_without_validation():
    """Without validation, Pyro goes on with NaN."""
    scale = torch.tensor(1.0)

    def change():
        pyro.enable_validation(False)
        scale.fill_(-1.0)

    return Program(lambda x: observe(x, scale), change=change)


@probe(AUDITED)
def validation_that_is_switched_on():
    scale = torch.tensor(1.0)
    Distribution.set_default_validate_args(False)

    def change():
        Distribution.set_default_validate_args(True)
        scale.fill_(-1.0)

    return Program(lambda x: observe(x, scale), mean_field, change=change)


@probe(AUDITED)
def loss_that_becomes_infinite():
    """The data leave single precision."""
    shift = torch.zeros(2)
    return Program(lambda x: observe(x, shift=shift), change=lambda: shift.fill_(1e30))
