"""What may change from step to step: without a new graph, with a new graph, or not at all."""

import functools

import pyro
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

import amortvi as avi
from amortvi.compile import verified_graph
from amortvi.compile.recording import record
from amortvi.errors import AmortviWarning
from tests.compile.svi import problems
from tests.compile.svi.problems import Problem, assert_same, constructed, data, fit, fit_as_pyro, plain

pytestmark = pytest.mark.usefixtures("recordings")


def weighted(of=lambda beta: beta):
    """The weight of the KL is an argument."""

    def problem():
        def model(x, beta, shift=0):
            problems.normal_model(x, lambda z: z + shift, beta=of(beta))

        def guide(x, beta, shift=0):
            with poutine.scale(scale=of(beta)):
                problems.mean_guide(x)

        return Problem(model, guide)

    return problem


@pytest.mark.usefixtures("graphs")
def test_a_float_argument_may_change_without_a_new_graph():
    svi = fit_as_pyro(weighted(), arguments=lambda step: (data(), 0.05 * (step + 1)))
    assert svi.compilations == 1


def test_a_float_argument_that_the_model_reads_gets_a_graph_per_value(monkeypatch):
    attempts = []

    def attempt(*given):
        attempts.append(None)
        return record(*given)

    monkeypatch.setattr(verified_graph, "record", attempt)
    reads_it = weighted(of=lambda beta: 0.5 if beta < 0.5 else 1.0)
    svi = fit_as_pyro(reads_it, arguments=lambda step: (data(), 0.3 if step % 4 < 2 else 0.7))
    assert svi.compilations == 2
    assert len(attempts) == 3  # the first one finds that the float must be a constant


def test_shapes_and_integers_get_a_graph_per_value():
    def problem():
        inner = weighted()()

        def unpacking(part):
            return lambda batch, beta, options: part(batch["x"][0], beta, shift=options[0])

        return Problem(unpacking(inner.model), unpacking(inner.guide))

    def arguments(step):
        """Return two shapes, and two integers for one of them, in nested containers."""
        rows = data()[: 6 if step % 3 else 4]
        return {"x": [rows]}, 0.5, (2 if step % 3 == 1 else 0, "text", None)

    assert fit_as_pyro(problem, steps=9, arguments=arguments).compilations == 3


def test_arguments_may_be_keywords():
    svi = constructed(weighted())
    for step in range(3):
        svi.step(beta=0.1 * step + 0.1, x=data())
    assert svi.compilations == 1
    svi.step(data(), 0.5)
    svi.step(data(), 0.5)
    assert svi.compilations == 2


@pytest.mark.usefixtures("graphs")
def test_there_may_be_no_arguments():
    assert fit_as_pyro(problems.subsampling, arguments=lambda step: ()).compilations == 1


def normalizing_encoder():
    return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 4), nn.Dropout(0.5))


@pytest.mark.usefixtures("graphs")
def test_each_mode_of_a_module_has_a_graph():
    """Dropout and running statistics follow the current mode, and a mode that returns keeps its graph."""

    def run(kind, **options):
        vae, means = problems.vae(normalizing_encoder), []
        problem = Problem(lambda x: vae.model(x), lambda x: vae.guide(x))

        def switch(svi, step):
            means.append(vae.encoder[0].running_mean.clone())
            vae.encoder.train(step % 6 < 3)

        optim = functools.partial(pyro.optim.SGD, {"lr": 1e-6})
        return fit(kind, lambda: problem, optim, steps=14, after_step=switch, **options), torch.stack(means)

    (ours, means), (pyros, expected) = run(avi.SVI, compile=True), run(pyro.infer.SVI)
    assert_same(ours, pyros)
    torch.testing.assert_close(means, expected)
    assert ours.svi.compilations == 2
    assert not torch.equal(means[0], means[-1])


def test_new_parameters_lead_to_a_new_graph():
    def change(svi, step):
        if step == 3:
            pyro.clear_param_store()
            pyro.param("loc", torch.full((2,), 3.0))

    assert fit_as_pyro(plain, after_step=change).compilations == 2


@pytest.mark.filterwarnings("ignore:weight was not registered in the param store")
def test_a_parameter_may_be_set_in_place_replaced_and_frozen():
    def change(svi, step):
        weight = svi.guide.__self__.decoder.weight
        if step == 2:
            weight.detach().mul_(0.5)
        elif step == 3:
            weight.data = torch.ones(2, 2)
        elif step == 6:
            weight.requires_grad_(False)

    assert fit_as_pyro(problems.vae, steps=10, after_step=change).compilations == 3


def test_learning_rates_may_change_without_a_new_graph_and_other_options_with_one():
    def change(svi, step):
        for optimizer in svi.optim.optim_objs.values():
            optimizer.param_groups[0]["lr"] = 0.01 / (step + 1)
            optimizer.param_groups[0]["weight_decay"] = 0.0 if step < 5 else 0.1

    svi = fit_as_pyro(problems.constrained, lambda: pyro.optim.Adam({"lr": 0.01}), steps=10, after_step=change)
    assert svi.compilations == 2


def test_the_number_of_particles_may_change():
    def change(svi, step):
        # A tensor of random numbers has another size, so a graph with the old number would draw differently.
        svi.loss.__self__.num_particles = 2 if step < 3 else 5

    loss = functools.partial(Trace_ELBO, num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    assert fit_as_pyro(plain, loss=loss, after_step=change).compilations == 2


def test_the_number_of_compilations_is_limited(monkeypatch):
    monkeypatch.setattr("amortvi.compile.svi.dispatcher.MAX_RECORDINGS", 2)
    svi = constructed(plain)
    for rows in (3, 3, 4, 4):
        svi.step(data()[:rows])
    with pytest.warns(AmortviWarning, match="2 different steps were recorded") as warned:
        svi.step(data()[:5])
    assert len(warned) == 1
    for rows in (3, 4, 5, 5, 6):
        svi.step(data()[:rows])
    assert warned[0].filename == __file__
    assert svi.compilations == 2


def test_auto_records_signatures_that_occur_often():
    svi = constructed(plain, compile="auto", compile_after=7)
    for step in range(12):
        assert svi.compilations == (step > 7)
        svi.step(data())
        svi.step(data()[: step % 5 + 1])
    assert svi.compilations == 1
