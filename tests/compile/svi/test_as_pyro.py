"""The compiled step gives what Pyro's own gives, from the same random numbers."""

import functools

import pyro.infer
import pyro.optim
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import (
    JitTrace_ELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.optim.lr_scheduler import PyroLRScheduler

import amortvi as avi
from tests.svi import problems
from tests.compile.svi.problems import assert_same, fit, fit_as_pyro


def adam():
    return pyro.optim.Adam({"lr": 0.05})


PARTICLES = functools.partial(Trace_ELBO, num_particles=3)
LOSSES = {
    "Trace": (problems.constrained, Trace_ELBO),
    "Trace, particles": (problems.constrained, PARTICLES),
    "Trace, vectorized": (problems.constrained, functools.partial(PARTICLES, vectorize_particles=True)),
    "Trace, subsample": (problems.subsampled, Trace_ELBO),
    "Trace, score function": (problems.discrete, functools.partial(Trace_ELBO, num_particles=2)),
    "Trace, module": (problems.module, Trace_ELBO),
    "Trace, structured guide": (problems.structured, Trace_ELBO),
    "Trace, function": (problems.constrained, lambda: Trace_ELBO().differentiable_loss),
    "MeanField": (problems.subsampled, TraceMeanField_ELBO),
    "Graph": (problems.discrete, TraceGraph_ELBO),
    "Enum, model": (problems.mixture, functools.partial(TraceEnum_ELBO, num_particles=2)),
    "Enum, guide": (problems.enumerated_in_guide, TraceEnum_ELBO),
    "Wake-sleep": (problems.constrained, functools.partial(ReweightedWakeSleep, num_particles=2, insomnia=1.0)),
}


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    problem, loss = LOSSES[name]
    assert fit_as_pyro(problem=problem, optim=adam, loss=loss).compilations == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_losses_compiled(name):
    test_losses(name)


@pytest.mark.usefixtures("uncompiled")
def test_losses_that_pyro_traces_with_torch_jit():
    """They are taken as what they are without."""
    ours = fit(avi.SVI, problems.constrained, adam, JitTrace_ELBO, compile=True)
    assert ours.svi.compilations == 1
    assert_same(ours, fit(pyro.infer.SVI, problems.constrained, adam, Trace_ELBO))


OPTIMIZERS = {
    "Adam, clipped": lambda: pyro.optim.Adam({"lr": 0.05}, {"clip_norm": 1.0}),
    "Adam, by name": lambda: pyro.optim.Adam(lambda name: {"lr": 0.1 if name == "scale" else 0.01}),
    "SGD": lambda: pyro.optim.SGD({"lr": 0.01, "momentum": 0.9}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "clip_norm": 1.0, "lrd": 0.9}),
    "ExponentialLR": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.9}
    ),
}


def schedule(svi):
    """Pyro's schedulers step when they are told to."""
    if isinstance(svi.optim, PyroLRScheduler):
        svi.optim.step()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_of_pyro(name):
    case = {"problem": problems.constrained, "optim": OPTIMIZERS[name], "loss": Trace_ELBO, "after_each": schedule}
    assert fit_as_pyro(**case).compilations == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_of_pyro_compiled(name):
    test_optimizers_of_pyro(name)


@pytest.mark.usefixtures("uncompiled")
def test_state_that_the_user_sets():
    """An optimizer that forgets, or is given another state, goes on from there."""

    def run(kind, **options):
        count = iter(range(100))

        def change(svi):
            step = next(count)
            if step == 6:
                svi.optim.optim_objs = {}
            if step == 12:
                for optimizer in svi.optim.optim_objs.values():
                    state = optimizer.state_dict()
                    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"] + 1.0
                    optimizer.load_state_dict(state)

        return fit(kind, problems.constrained, adam, Trace_ELBO, after_each=change, **options)

    ours = run(avi.SVI, compile=True)
    assert ours.svi.compilations == 3
    assert_same(ours, run(pyro.infer.SVI))


class Halving(torch.optim.SGD):
    """Changes gradients in place, so that two of them must not be one."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(0.5)
        return super().step(closure)


def added():
    """Parameters whose gradients are the same, and one whose gradient is an argument."""

    def model(x):
        a, b, c = (pyro.param(name, lambda: torch.ones(problems.ROWS, 2)) for name in "abc")
        pyro.factor("factor", ((a + b) * x).sum() + (c * x).sum())

    return problems.Problem(model, lambda x: None)


@pytest.mark.usefixtures("uncompiled")
def test_gradients_that_an_optimizer_changes_in_place():
    x = problems.data()
    svi = fit_as_pyro(
        problem=added,
        optim=lambda: pyro.optim.PyroOptim(Halving, {"lr": 0.01}),
        loss=Trace_ELBO,
        arguments=lambda step: (x,),
    )
    assert svi.compilations == 1
    assert torch.equal(x, problems.data())


def switched():
    """A parameter that only some steps use; Pyro's optimizers go on with it in all others."""

    def model(x, use):
        a, b = (pyro.param(name, torch.tensor(1.0)) for name in "ab")
        loc = a + b if use else a
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x), 2]).to_event(1), obs=x)

    return problems.Problem(model, lambda x, use: None)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("first", [True, False])
def test_parameters_that_a_step_does_not_use(first):
    svi = fit_as_pyro(
        problem=switched,
        optim=adam,
        loss=Trace_ELBO,
        arguments=lambda step: (problems.data(), first if step % 6 < 3 else not first),
    )
    assert svi.compilations == (2 if first else 3)


@pytest.mark.usefixtures("uncompiled")
def test_momentum_that_a_schedule_moves():
    """What a graph holds fixed and a schedule changes leads to a graph of the gradients alone, not to endless compiling."""
    options = {
        "optimizer": torch.optim.SGD,
        "optim_args": {"lr": 0.01, "momentum": 0.9},
        "max_lr": 0.05,
        "total_steps": 50,
    }
    svi = fit_as_pyro(
        problem=problems.constrained,
        optim=lambda: pyro.optim.OneCycleLR(dict(options)),
        loss=Trace_ELBO,
        after_each=schedule,
    )
    assert svi.compilations == 3


class TorchSteps(pyro.infer.SVI):
    """The steps of one optimizer of torch, by hand."""

    def __init__(self, model, guide, optim, loss):
        super().__init__(model, guide, pyro.optim.SGD({"lr": 0.0}), loss)
        self.by_torch = optim

    def step(self, *args):
        loss = self.loss_and_grads(self.model, self.guide, *args)
        self.by_torch.step()
        self.by_torch.zero_grad()
        return loss


def with_parameters(kind, make):
    """Make an SVI with an optimizer of torch, when the parameters are there."""

    def made(model, guide, _, loss, **options):
        loss.loss(model, guide, problems.data())
        return kind(model, guide, make([p for _, p in pyro.get_param_store().named_parameters()]), loss, **options)

    return made


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "make",
    [functools.partial(torch.optim.Adam, lr=0.05), functools.partial(torch.optim.SGD, lr=1e-4, momentum=0.9)],
    ids=["Adam", "SGD"],
)
def test_optimizers_of_torch(make):
    run = functools.partial(fit, problem=problems.subsampled, optim=lambda: None, loss=Trace_ELBO)
    ours = run(with_parameters(avi.SVI, make), compile=True)
    assert ours.svi.compilations == 1
    by_hand = run(with_parameters(TorchSteps, make))
    assert_same(ours, by_hand)
    assert_same(run(with_parameters(avi.SVI, make), compile=False), by_hand)
