"""Steps that cannot be compiled run as Pyro's own, with one warning, or raise an error with ``compile=True``."""

import math
import warnings

import numpy as np
import pyro
import pyro.optim
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import amortvi as avi
from amortvi.errors import AmortviWarning, CaptureError
from tests.compile.svi import problems
from tests.compile.svi.problems import Problem, assert_same, constructed, data, fit, mean_guide, normal_model, plain
from tests.global_state import nothing_changes

pytestmark = pytest.mark.usefixtures("recordings")


def reading():
    def model(x):
        scale = 2.0 if x.mean() > 0 else 1.0
        normal_model(x, scale=scale)

    return Problem(model, mean_guide)


def replacing():
    """Each call replaces a buffer by a new tensor."""
    layer = nn.BatchNorm1d(2)

    def model(x):
        normal_model(x, layer)
        layer.running_mean = layer.running_mean.clone()

    return Problem(model, mean_guide)


def drawing_with_numpy():
    return Problem(lambda x: normal_model(x, lambda z: z + float(np.random.rand())), mean_guide)  # noqa: NPY002


def hooked():
    registered = []

    def model(x):
        plain().model(x)
        if not registered:
            loc = dict(pyro.get_param_store().named_parameters())["loc"]
            registered.append(loc.register_hook(lambda gradient: None))

    return Problem(model, mean_guide)


def reading_loss(model, guide, x):
    loss = Trace_ELBO().differentiable_loss(model, guide, x)
    return loss if float(loss.detach()) > 0 else 2 * loss


CASES = {
    "reads a value": (reading, Trace_ELBO(), r"test_fallback.py, line \d+ \(`scale = 2.0 if x.mean\(\) > 0"),
    "replaces a buffer": (replacing, Trace_ELBO(), "replaces a parameter or buffer"),
    "draws with NumPy": (drawing_with_numpy, Trace_ELBO(), "draws random numbers with NumPy"),
    "has a hook": (hooked, Trace_ELBO(), "hook on its gradient"),
    "has a loss that reads a value": (plain, reading_loss, "return loss if float"),
}


@pytest.mark.parametrize("name", CASES)
def test_auto_runs_pyros_step(name):
    problem, loss, reason = CASES[name]
    np.random.seed(0)  # noqa: NPY002
    with pytest.warns(AmortviWarning, match=f"steps run without compiling: .*{reason}") as warned:
        ours = fit(avi.SVI, problem, loss=lambda: loss, compile_after=3)
    assert len(warned) == 1
    assert ours.svi.compilations == 0
    np.random.seed(0)  # noqa: NPY002
    assert_same(ours, fit(pyro.infer.SVI, problem, loss=lambda: loss))


@pytest.mark.parametrize("name", CASES)
def test_true_raises_and_changes_nothing(name):
    problem, loss, reason = CASES[name]
    svi = constructed(problem, lambda: pyro.optim.Adam({"lr": 0.1}), loss=loss)
    svi.step(data())
    before = state(svi)
    for _ in range(2):
        with nothing_changes(), pytest.raises(CaptureError, match=reason):
            svi.step(data())
    assert state(svi) == before


def state(svi):
    """Return each parameter, its gradient, and the state of its optimizer."""
    found = []
    for name, p in pyro.get_param_store().named_parameters():
        values = [value.tolist() for value in svi.optim.optim_objs[p].state[p].values()]
        found.append((name, id(p), p.tolist(), p.grad is None or p.grad.tolist(), values))
    return found


def test_a_compiled_step_leaves_the_settings():
    svi = constructed(problems.constrained)
    svi.step(data())
    before = dict(pyro.get_param_store().named_parameters())
    with nothing_changes(except_for=("param store", "torch random state")):
        for _ in range(3):
            svi.step(data())
    assert svi.compilations == 1
    for name, parameter in pyro.get_param_store().named_parameters():
        assert parameter is before[name]
        assert not parameter.grad.any()  # Pyro leaves gradients that are zero


def test_an_unexpected_error_while_recording_does_not_end_the_fit(monkeypatch):
    def fail(*_):
        raise RuntimeError("no such operation")

    monkeypatch.setattr("amortvi.compile.verified_graph.record", fail)
    with pytest.warns(AmortviWarning, match="fails while it is recorded: RuntimeError: no such operation"):
        ours = fit(avi.SVI, plain, compile_after=3)
    assert_same(ours, fit(pyro.infer.SVI, plain))


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        (np.zeros(3), "NumPy array"),
        (torch.zeros(1, requires_grad=True), "requires a gradient"),
        (torch.zeros(1).to_sparse(), "torch.sparse_coo"),
    ],
    ids=["array", "gradient", "sparse"],
)
def test_arguments_that_a_graph_does_not_accept(argument, reason):
    svi = constructed(compile="auto")
    with pytest.warns(AmortviWarning, match=reason) as warned:
        losses = [svi.step(data(), argument) for _ in range(3)]
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert all(math.isfinite(loss) for loss in losses)
    with pytest.raises(CaptureError, match=reason):
        constructed().step(data(), argument)


def test_a_step_inside_a_handler_or_without_gradients_is_refused():
    svi = constructed()
    svi.step(data())
    svi.step(data())
    with pytest.raises(CaptureError, match="Pyro handler"), pyro.poutine.scale(scale=0.1):
        svi.step(data())
    with pytest.raises(CaptureError, match="gradients disabled"), torch.no_grad():
        svi.step(data())
    svi.step(data())
    assert svi.compilations == 1


def test_a_compiled_step_issues_pyros_warning_for_nan():
    svi = constructed()
    svi.step(data())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svi.step(data())
        svi.step(data())
    # The next audit validates, so it raises an error for data that are NaN.
    with pytest.warns(UserWarning, match="Encountered NaN: loss"):
        assert math.isnan(svi.step(data() * math.nan))
    assert svi.compilations == 1
    with pytest.raises(ValueError, match="invalid values"):
        svi.step(data())
