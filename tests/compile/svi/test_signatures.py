"""What may change from step to step: without another graph, with another graph, and not at all."""

import pyro
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

import amortvi as avi
from amortvi.compile.recording import record
from amortvi.errors import AmortviWarning
from tests.svi import problems
from tests.compile.svi.problems import Problem, assert_same, data, fit, fit_as_pyro


def sgd():
    return pyro.optim.SGD({"lr": 0.01})


def weighted(of=lambda beta: beta):
    """A model whose KL has a weight, an argument."""

    def problem():
        def model(x, beta, shift=0):
            with pyro.plate("data", len(x)):
                with poutine.scale(scale=of(beta)):
                    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z + shift, 1.0).to_event(1), obs=x)

        def guide(x, beta, shift=0):
            loc = pyro.param("loc", lambda: torch.zeros(2))
            with pyro.plate("data", len(x)), poutine.scale(scale=of(beta)):
                pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

        return Problem(model, guide)

    return problem


def both(problem, arguments):
    return fit_as_pyro(problem=problem, optim=sgd, loss=Trace_ELBO, arguments=arguments)


@pytest.mark.usefixtures("uncompiled")
def test_a_weight_that_rises_has_one_graph():
    assert both(weighted(), lambda step: (data(), 0.05 * (step + 1))).compilations == 1


@pytest.mark.usefixtures("uncompiled")
def test_a_number_that_the_model_needs_has_a_graph_of_its_own(monkeypatch):
    needs_it = weighted(of=lambda beta: 0.5 if beta < 0.5 else 1.0)
    recorded = []
    monkeypatch.setattr("amortvi.compile.svi.plan.record", lambda *given: recorded.append(None) or record(*given))
    assert both(needs_it, lambda step: (data(), 0.3 if step % 4 < 2 else 0.7)).compilations == 2
    assert len(recorded) == 3  # once to find out


@pytest.mark.usefixtures("uncompiled")
def test_shapes_numbers_and_containers():
    def problem():
        inner = weighted()()

        def taking(part):
            return lambda batch, beta, options: part(batch["x"][0], beta, shift=options[0])

        return Problem(taking(inner.model), taking(inner.guide))

    def arguments(step):
        # Two shapes, and two integers for one of them.
        rows = data()[: 6 if step % 3 else 4]
        return {"x": [rows]}, 0.5, (2 if step % 3 == 1 else 0, "text", None)

    assert both(problem, arguments).compilations == 3


@pytest.mark.usefixtures("uncompiled")
def test_keywords():
    made = weighted()()
    svi = avi.SVI(made.model, made.guide, sgd(), Trace_ELBO(), compile=True)
    for step in range(4):
        svi.step(beta=0.1 * step + 0.1, x=data())
    assert svi.compilations == 1
    svi.step(data(), 0.5)
    svi.step(data(), 0.5)
    assert svi.compilations == 2


@pytest.mark.usefixtures("uncompiled")
def test_arguments_of_no_tensor():
    assert both(problems.drawn, lambda step: ()).compilations == 1


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.drop, self.norm = nn.Linear(2, 4), nn.Dropout(0.5), nn.BatchNorm1d(2)

    def forward(self, x):
        return self.drop(self.linear(self.norm(x))).chunk(2, -1)


def amortized():
    torch.manual_seed(5)
    encoder = Dropping()

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", 100, subsample=x):
            loc, log_scale = encoder(x)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    guide.encoder = encoder
    return Problem(problems.subsampled().model, guide)


@pytest.mark.usefixtures("uncompiled")
def test_training_and_evaluation_mode():
    """Dropout and running statistics are those of the mode of the day; a mode that comes back keeps its graph."""
    counted = []

    def run(kind, **options):
        def switch(svi):
            encoder = svi.guide.encoder
            counted.append(encoder.norm.running_mean.clone())
            encoder.train(len(svi_losses) % 8 < 4)
            svi_losses.append(None)

        svi_losses = []
        return fit(kind, amortized, lambda: pyro.optim.SGD({"lr": 1e-4}), Trace_ELBO, after_each=switch, **options)

    ours = run(avi.SVI, compile=True)
    means, counted = counted, []
    assert_same(ours, run(pyro.infer.SVI))
    torch.testing.assert_close(torch.stack(means), torch.stack(counted))
    assert ours.svi.compilations == 2
    assert not torch.equal(means[0], means[-1])


@pytest.mark.usefixtures("uncompiled")
def test_parameters_that_are_new():
    svi = avi.SVI(*vars(weighted()()).values(), sgd(), Trace_ELBO(), compile=True)
    pyros = pyro.infer.SVI(svi.model, svi.guide, sgd(), Trace_ELBO())
    for start in (0.0, 3.0):
        found = []
        for each in (svi, pyros):
            pyro.clear_param_store()
            pyro.param("loc", torch.full((2,), start))
            torch.manual_seed(0)
            losses = [each.step(data(), 0.5) for _ in range(5)]
            found.append((losses, pyro.param("loc").detach().clone()))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
        torch.testing.assert_close(found[0][1], found[1][1])
    assert svi.compilations == 2


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.filterwarnings("ignore:weight was not registered in the param store")
def test_values_that_the_user_sets():
    """In place, by a new tensor, and held fixed from now on."""
    losses = {}
    for kind, options in ((avi.SVI, {"compile": True}), (pyro.infer.SVI, {})):
        pyro.clear_param_store()
        made = problems.subsampled()
        svi = kind(made.model, made.guide, pyro.optim.SGD({"lr": 1e-4}), Trace_ELBO(), **options)
        torch.manual_seed(0)
        found = losses[kind] = [svi.step(data()) for _ in range(3)]
        weight = pyro.param("decoder$$$weight")
        with torch.no_grad():
            weight.mul_(0.5)
        found.append(svi.step(data()))
        weight.data = torch.ones(2, 2)
        found.extend(svi.step(data()) for _ in range(3))
        weight.requires_grad_(False)
        found.extend(svi.step(data()) for _ in range(3))
        assert torch.equal(pyro.param("decoder$$$weight"), weight)
    assert losses[avi.SVI] == pytest.approx(losses[pyro.infer.SVI], rel=1e-5)


@pytest.mark.usefixtures("uncompiled")
def test_rates_and_options_that_the_user_sets():
    def run(kind, **options):
        count = iter(range(100))

        def change(svi):
            step = next(count)
            for optimizer in svi.optim.optim_objs.values():
                optimizer.param_groups[0]["lr"] = 0.01 / (step + 1)
                optimizer.param_groups[0]["weight_decay"] = 0.0 if step < 10 else 0.1

        return fit(
            kind, problems.constrained, lambda: pyro.optim.Adam({"lr": 0.01}), Trace_ELBO, after_each=change, **options
        )

    ours = run(avi.SVI, compile=True)
    assert ours.svi.compilations == 2
    assert_same(ours, run(pyro.infer.SVI))


@pytest.mark.usefixtures("uncompiled")
def test_particles_that_the_user_sets():
    made = problems.constrained()
    loss = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    svi = avi.SVI(made.model, made.guide, pyro.optim.SGD({"lr": 1e-6}), loss, compile=True)
    torch.manual_seed(0)
    few = torch.tensor([svi.step(data()) for _ in range(30)])
    loss.num_particles = 50
    many = torch.tensor([svi.step(data()) for _ in range(30)])
    assert few.std() > 3 * many.std()  # five times, but for chance
    assert svi.compilations == 2


@pytest.mark.usefixtures("uncompiled")
def test_too_many_shapes(monkeypatch):
    monkeypatch.setattr("amortvi.compile.svi.stepper.MOST_COMPILATIONS", 2)
    made = weighted()()
    svi = avi.SVI(made.model, made.guide, sgd(), Trace_ELBO(), compile=True)
    for rows in (3, 3, 4, 4):
        svi.step(data()[:rows], 0.5)
    with pytest.warns(AmortviWarning, match="different steps were compiled") as warned:
        svi.step(data()[:5], 0.5)
    assert len(warned) == 1
    for rows in (3, 4, 5, 5, 6):
        svi.step(data()[:rows], 0.5)
    assert warned[0].filename == __file__
    assert svi.compilations == 2


@pytest.mark.usefixtures("uncompiled")
def test_auto_waits(monkeypatch):
    monkeypatch.setattr("amortvi.compile.svi.stepper.COMPILE_AFTER", 7)
    made = weighted()()
    svi = avi.SVI(made.model, made.guide, sgd(), Trace_ELBO())
    for step in range(12):
        assert svi.compilations == (step > 7)
        svi.step(data(), 0.5)
        svi.step(data()[: step % 5 + 1], 0.5)
    assert svi.compilations == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weight", "subsample", "modes"])
def test_for_real(name):
    """With a compiler that has its own way with random numbers, statistics and numbers among the arguments."""
    if name == "weight":
        test_a_weight_that_rises_has_one_graph()
    elif name == "subsample":
        test_arguments_of_no_tensor()
    else:
        test_training_and_evaluation_mode()
