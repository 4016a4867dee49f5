"""A compiled step learns the same as Pyro's own step with the same random numbers."""

import functools

import pyro.optim
import pytest
import torch
from pyro import distributions as dist
from pyro import infer
from pyro.optim.lr_scheduler import PyroLRScheduler

import amortvi as avi
from tests.compile.svi import problems
from tests.compile.svi.problems import Problem, assert_same, data, fit, fit_as_pyro

pytestmark = pytest.mark.usefixtures("recordings")


def adam():
    return pyro.optim.Adam({"lr": 0.05})


LOSSES = {
    "Trace": (problems.constrained, infer.Trace_ELBO),
    "Trace, particles": (problems.constrained, lambda: infer.Trace_ELBO(num_particles=2)),
    "Trace, vectorized": (problems.plain, lambda: infer.Trace_ELBO(num_particles=3, vectorize_particles=True)),
    "Trace, subsample": (problems.vae, infer.Trace_ELBO),
    "Trace, score function": (problems.discrete, lambda: infer.Trace_ELBO(num_particles=2)),
    "Trace, module": (problems.module, infer.Trace_ELBO),
    "Trace, structured guide": (lambda: problems.module(infer.autoguide.AutoStructured), infer.Trace_ELBO),
    "Trace, function": (problems.plain, lambda: infer.Trace_ELBO().differentiable_loss),
    "MeanField": (problems.vae, infer.TraceMeanField_ELBO),
    "Graph": (problems.discrete, infer.TraceGraph_ELBO),
    "Enum, model": (problems.mixture, lambda: infer.TraceEnum_ELBO(num_particles=2)),
    "Enum, guide": (lambda: problems.mixture(enumerate_in_guide=True), infer.TraceEnum_ELBO),
    "Wake-sleep": (problems.constrained, lambda: infer.ReweightedWakeSleep(num_particles=2, insomnia=1.0)),
}


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    problem, loss = LOSSES[name]
    assert fit_as_pyro(problem, loss=loss).compilations == 1


def test_losses_that_pyro_compiles_are_recorded_without_torch_jit():
    ours = fit(avi.SVI, problems.plain, loss=infer.JitTrace_ELBO, compile=True)
    assert ours.svi.compilations == 1
    assert_same(ours, fit(infer.SVI, problems.plain))


OPTIMIZERS = {
    "Adam, clipped": lambda: pyro.optim.Adam({"lr": 0.05}, {"clip_norm": 1.0}),
    "Adam, by name": lambda: pyro.optim.Adam(lambda name: {"lr": 0.1 if name == "scale" else 0.01}),
    "SGD": lambda: pyro.optim.SGD({"lr": 0.01, "momentum": 0.9}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "clip_norm": 1.0, "lrd": 0.9}),
    "ExponentialLR": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.9}
    ),
}


def advance_schedule(svi, step):
    """Pyro's schedulers take a step only when they are called."""
    if isinstance(svi.optim, PyroLRScheduler):
        svi.optim.step()


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_of_pyro(name):
    svi = fit_as_pyro(problems.constrained, OPTIMIZERS[name], after_step=advance_schedule)
    assert svi.compilations == 1


def test_a_step_continues_from_an_optimizer_state_that_the_user_sets():
    def change(svi, step):
        if step == 4:
            svi.optim.optim_objs = {}
        if step == 8:
            for optimizer in svi.optim.optim_objs.values():
                state = optimizer.state_dict()
                state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"] + 1.0
                optimizer.load_state_dict(state)

    assert fit_as_pyro(problems.plain, adam, steps=12, after_step=change).compilations == 3


class Halving(torch.optim.SGD):
    """Changes gradients in place."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            parameter.grad.mul_(0.5)
        return super().step(closure)


def equal_gradients():
    """Two parameters have the same gradient, and the gradient of a third is an argument."""

    def model(x):
        a, b, c = (pyro.param(name, lambda: torch.ones(problems.ROWS, 2)) for name in "abc")
        pyro.factor("factor", ((a + b) * x).sum() + (c * x).sum())

    return Problem(model, lambda x: None)


def test_an_optimizer_may_change_gradients_in_place():
    x = data()
    halving = functools.partial(pyro.optim.PyroOptim, Halving, {"lr": 0.01})
    assert fit_as_pyro(equal_gradients, halving, arguments=lambda step: (x,)).compilations == 1
    assert torch.equal(x, data())


def partly_used():
    """A parameter that only some steps use; Pyro's optimizers continue to update it in all others."""

    def model(x, use):
        a, b = (pyro.param(name, torch.tensor(1.0)) for name in "ab")
        loc = a + b if use else a
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x), 2]).to_event(1), obs=x)

    return Problem(model, lambda x, use: None)


@pytest.mark.parametrize("first", [True, False])
def test_parameters_may_be_unused_in_some_steps(first):
    def arguments(step):
        return data(), first if step % 6 < 3 else not first

    svi = fit_as_pyro(partly_used, adam, steps=14, arguments=arguments)
    assert svi.compilations == (2 if first else 3)


def test_a_schedule_of_the_momentum_leaves_the_optimizer_outside_the_graph():
    """The third graph contains only the gradients, so that not every step compiles."""
    momentum = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.01, "momentum": 0.9}}
    options = {**momentum, "max_lr": 0.05, "total_steps": 50}
    svi = fit_as_pyro(problems.plain, lambda: pyro.optim.OneCycleLR(dict(options)), after_step=advance_schedule)
    assert svi.compilations == 3


@pytest.mark.parametrize(("name", "lr"), [("Adam", 0.05), ("SGD", 1e-4)])
def test_optimizers_of_torch(name, lr):
    def with_parameters(model, guide, optim, loss, compile):
        optimizer = getattr(torch.optim, name)(model.__self__.parameters(), lr=lr)
        return avi.SVI(model, guide, optimizer, loss, compile=compile)

    expected = fit(infer.SVI, problems.vae, lambda: getattr(pyro.optim, name)({"lr": lr}))
    for compile in (True, False):
        ours = fit(with_parameters, problems.vae, compile=compile)
        assert ours.svi.compilations == compile
        assert_same(ours, expected)
