"""Pyro's handlers around models and guides, and what they hold."""

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.contrib import gp
from pyro.poutine.messenger import Messenger

from tests.compile.svi.probes.programs import (
    COMPILES,
    COUNTED,
    ROWS,
    WATCHED,
    Program,
    mean_field,
    observe,
    probe,
)


@probe(COMPILES)
def scale_by_a_constant():
    return Program(poutine.scale(observe, scale=0.5))


@probe(WATCHED)
def scale_by_an_option():
    options = {"beta": 1.0}

    def model(x):
        with poutine.scale(scale=options["beta"]):
            observe(x)

    return Program(model, change=lambda: options.update(beta=0.5))


@probe(WATCHED)
def scale_of_a_messenger():
    messenger = poutine.scale_messenger.ScaleMessenger(scale=1.0)

    def model(x):
        with messenger:
            observe(x)

    return Program(model, change=lambda: setattr(messenger, "scale", 0.5))


@probe(WATCHED)
def scale_of_a_handler_around_the_model():
    model = poutine.scale(observe, scale=1.0)
    return Program(model, change=lambda: setattr(model.args[0], "scale", 0.5))


@probe(COMPILES)
def scale_in_a_tensor():
    beta = torch.tensor(1.0)
    return Program(poutine.scale(observe, scale=beta), change=lambda: beta.fill_(0.5))


@probe(WATCHED)
def mask_of_a_messenger():
    messenger = poutine.mask_messenger.MaskMessenger(mask=True)

    def model(x):
        with messenger:
            observe(x)

    return Program(model, change=lambda: setattr(messenger, "mask", torch.arange(ROWS) < 3))


@probe(COMPILES)
def mask_changed_in_place():
    mask = torch.ones(ROWS, dtype=torch.bool)
    return Program(poutine.mask(observe, mask=mask), change=lambda: mask[3:].fill_(False))


@probe(WATCHED)
def mask_that_is_switched_off():
    options = {"mask": True}
    return Program(lambda x: poutine.mask(observe, mask=options["mask"])(x), change=lambda: options.update(mask=False))


def unconditioned():
    return pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1))


@probe(WATCHED)
def data_of_a_condition():
    observed = {"x": torch.zeros(2)}
    model = poutine.condition(unconditioned, data=observed)
    return Program(model, lambda: None, change=lambda: observed.update(x=torch.ones(2)), drive=no_arguments)


def no_arguments(svi, step):
    return svi.step()


@probe(COMPILES)
def data_of_a_condition_changed_in_place():
    observed = {"x": torch.zeros(2)}
    model = poutine.condition(unconditioned, data=observed)
    return Program(model, lambda: None, change=lambda: observed["x"].fill_(1.0), drive=no_arguments)


@probe(WATCHED)
def data_of_an_attribute_of_a_condition():
    model = poutine.condition(unconditioned, data={"x": torch.zeros(2)})
    change = lambda: setattr(model.args[0], "data", {"x": torch.ones(2)})  # noqa: E731
    return Program(model, lambda: None, change=change, drive=no_arguments)


def two_sites(x):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(a + b, 1.0).expand([2]).to_event(1), obs=x)


def guide_of_a(x):
    pyro.sample("a", dist.Normal(pyro.param("a_loc", torch.tensor(0.0)), 0.1))


@probe(WATCHED)
def substituted_value():
    values = {"b": torch.tensor(0.0)}
    return Program(
        lambda x: poutine.condition(two_sites, data=values)(x),
        guide_of_a,
        change=lambda: values.update(b=torch.tensor(1.0)),
    )


def guide_of_b_unless(hidden):
    def guide(x):
        guide_of_a(x)
        if not hidden:
            pyro.sample("b", dist.Normal(0.0, 0.5))

    return guide


@probe(WATCHED)
def sites_that_are_blocked():
    hidden = ["b"]
    model = poutine.block(two_sites, hide=hidden)
    return Program(model, guide_of_b_unless(hidden), change=hidden.clear)


@probe(WATCHED)
def function_of_a_block():
    hidden = {"b"}
    model = poutine.block(two_sites, hide_fn=lambda site: site["name"] in hidden)
    return Program(model, guide_of_b_unless(hidden), change=hidden.clear)


@probe(WATCHED)
def intervention():
    values = {"a": torch.tensor(0.0)}
    return Program(
        lambda x: poutine.do(two_sites, data=values)(x),
        lambda x: pyro.sample("b", dist.Normal(pyro.param("b_loc", torch.tensor(0.0)), 0.1)),
        change=lambda: values.update(a=torch.tensor(1.0)),
    )


@probe(WATCHED)
def observed_or_not():
    options = {"observed": False}

    def model(x):
        pyro.sample("b", dist.Normal(0.0, 1.0), obs=torch.tensor(3.0) if options["observed"] else None)
        observe(x)

    def guide(x):
        if not options["observed"]:
            pyro.sample("b", dist.Normal(pyro.param("b_loc", torch.tensor(0.0)), 0.1))
        mean_field(x)

    return Program(model, guide, change=lambda: options.update(observed=True))


@probe(WATCHED)
def reparameterization():
    config = {}
    return Program(
        lambda x: poutine.reparam(two_sites, config=config)(x),
        pyro.infer.autoguide.AutoNormal(two_sites),
        change=lambda: config.update(a=pyro.infer.reparam.LocScaleReparam(0.5)),
    )


@probe(WATCHED)
def handler_of_the_user():
    class Widen(Messenger):
        factor = 1.0

        def _pyro_sample(self, msg):
            if msg["name"] == "x":
                msg["scale"] = self.factor

    widen = Widen()

    def model(x):
        with widen:
            observe(x)

    return Program(model, change=lambda: setattr(Widen, "factor", 2.0))


@probe(COUNTED)
def handler_that_counts_sites():
    class Count(Messenger):
        sites = 0

        def _pyro_sample(self, msg):
            self.sites += 1

    count = Count()

    def model(x):
        with count:
            observe(x, 1.0 + 0.01 * count.sites)

    return Program(model)


@probe(WATCHED)
def data_of_a_gaussian_process():
    x, y = torch.linspace(0.0, 1.0, 5), torch.linspace(-1.0, 1.0, 5)
    process = gp.models.GPRegression(x, y, gp.kernels.RBF(1))
    return Program(
        process.model, process.guide, drive=no_arguments, change=lambda: process.set_data(x, 3.0 * y.flip(0))
    )


@probe(WATCHED)
def batches_of_a_sparse_gaussian_process():
    """As in Pyro's tutorial: new data before each step."""
    x, y = torch.linspace(0.0, 1.0, 8), torch.linspace(-1.0, 1.0, 8)
    process = gp.models.SparseGPRegression(x, y, gp.kernels.RBF(1), x[::2].clone(), jitter=1e-3)

    def drive(svi, step):
        process.set_data(x, y * (1.0 + 0.1 * (step % 4)))
        return svi.step()

    return Program(process.model, process.guide, drive=drive)


@probe(WATCHED)
def batches_of_a_variational_gaussian_process():
    """As in Pyro's example of deep kernel learning: another batch before each step."""
    x = torch.linspace(0.0, 1.0, 12)
    y = torch.sin(6.0 * x)
    process = gp.models.VariationalSparseGP(
        x[:4], y[:4], gp.kernels.RBF(1), x[::4].clone(), gp.likelihoods.Gaussian(), num_data=12, jitter=1e-3
    )

    def drive(svi, step):
        rows = slice(4 * (step % 3), 4 * (step % 3) + 4)
        process.set_data(x[rows], y[rows])
        return svi.step()

    return Program(process.model, process.guide, drive=drive)
