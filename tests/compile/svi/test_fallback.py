"""Steps that cannot be compiled: they are Pyro's own, with one warning, or an error where compiling was asked for."""

import math
import warnings

import numpy as np
import pyro
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from torch import nn

import amortvi as avi
from amortvi.errors import AmortviWarning, CaptureError
from tests.svi import problems
from tests.compile.svi.problems import Problem, assert_same, data, fit

pytestmark = pytest.mark.usefixtures("uncompiled")


def sgd():
    return pyro.optim.SGD({"lr": 0.01})


@pytest.fixture
def early(monkeypatch):
    """Let "auto" compile after three steps."""
    monkeypatch.setattr("amortvi.compile.svi.stepper.COMPILE_AFTER", 3)


def reads():
    """A model whose noise depends on a number that it reads."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            wide = 2.0 if x.mean() > 0 else 1.0
            pyro.sample("x", dist.Normal(z, wide).to_event(1), obs=x)

    return Problem(model, weightless)


def weightless(x):
    loc = pyro.param("loc", lambda: torch.zeros(2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def plain():
    def model(x, *_):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=torch.as_tensor(x))

    return Problem(model, lambda x, *_: weightless(x))


class Replacing(nn.Module):
    """Keeps a running mean, but makes a new tensor of it each time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.mean


def replacing():
    module = Replacing()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(module(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return Problem(model, weightless)


def numpy_draws():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + float(np.random.rand()), 1.0).to_event(1), obs=x)  # noqa: NPY002

    return Problem(model, weightless)


def hooked():
    def model(x):
        plain().model(x)
        if not hasattr(hooked, "seen"):
            hooked.seen = []
            dict(pyro.get_param_store().named_parameters())["loc"].register_hook(
                lambda g: hooked.seen.append(float(g[0]))
            )

    vars(hooked).pop("seen", None)
    return Problem(model, weightless)


CASES = {
    "reads a value": (reads, r"test_fallback.py, line \d+ \(`wide = 2.0 if x.mean\(\) > 0 else 1.0`\)"),
    "replaces a buffer": (replacing, "puts another tensor in place"),
    "draws elsewhere": (numpy_draws, "does not do the same at each call"),
    "has a hook": (hooked, "hook on its gradient"),
}


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("name", CASES)
def test_auto_falls_back(name):
    problem, reason = CASES[name]
    np.random.seed(0)  # noqa: NPY002
    with pytest.warns(AmortviWarning, match=reason) as warned:
        ours = fit(avi.SVI, problem, sgd, Trace_ELBO)
    assert len(warned) == 1
    assert "steps are taken without compiling" in str(warned[0].message)
    assert ours.svi.compilations == 0
    np.random.seed(0)  # noqa: NPY002
    assert_same(ours, fit(pyro.infer.SVI, problem, sgd, Trace_ELBO))


@pytest.mark.parametrize("name", CASES)
def test_true_raises_and_changes_nothing(name):
    problem, reason = CASES[name]
    made = problem()
    svi = avi.SVI(made.model, made.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(), compile=True)
    svi.step(data())
    before = state(svi)
    for _ in range(2):
        with pytest.raises(CaptureError, match=reason):
            svi.step(data())
    assert_state(svi, before)


def state(svi):
    store = pyro.get_param_store()
    optimizers = getattr(svi.optim, "optim_objs", {})
    return {
        "parameters": {name: (id(p), p.detach().clone()) for name, p in store.named_parameters()},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in store.named_parameters()},
        "optimizers": [
            {name: value.clone() for name, value in optimizer.state[p].items()} for p, optimizer in optimizers.items()
        ],
        "settings": [
            pyro.infer.util.is_validation_enabled(),
            dist.is_validation_enabled(),
            pyro.poutine.util.is_validation_enabled(),
            torch.distributions.Distribution._validate_args,
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.compiler.is_compiling(),
            len(torch.nn.modules.module._global_forward_pre_hooks),
            len(pyro.poutine.runtime._PYRO_STACK),
        ],
        "random": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "pyro": [pyro.infer.trace_elbo.torch_item, pyro.infer.trace_elbo.warn_if_nan],
    }


def assert_state(svi, before):
    after = state(svi)
    assert after["settings"] == before["settings"]
    assert after["pyro"] == before["pyro"]
    assert after["numpy"] == before["numpy"]
    for name in ("parameters", "gradients", "optimizers", "random"):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0, check_dtype=False)


def test_a_compiled_step_leaves_the_settings():
    made = problems.constrained()
    svi = avi.SVI(made.model, made.guide, sgd(), Trace_ELBO(), compile=True)
    svi.step(data())
    before = state(svi)
    for _ in range(3):
        svi.step(data())
    after = state(svi)
    assert svi.compilations == 1
    assert after["settings"] == before["settings"]
    assert {name: place for name, (place, _) in after["parameters"].items()} == {
        name: place for name, (place, _) in before["parameters"].items()
    }
    # Pyro leaves zeros.
    assert all(bool((gradient == 0).all()) for gradient in after["gradients"].values())


@pytest.mark.usefixtures("early")
def test_whatever_goes_wrong_while_recording(monkeypatch):
    """A fault of ours, or of torch's, must not cost the user a step."""

    def fail(*_):
        raise RuntimeError("no such operation")

    monkeypatch.setattr("amortvi.compile.svi.plan.record", fail)
    with pytest.warns(AmortviWarning, match="fails while it is recorded: RuntimeError: no such operation"):
        ours = fit(avi.SVI, plain, sgd, Trace_ELBO)
    assert_same(ours, fit(pyro.infer.SVI, plain, sgd, Trace_ELBO))


class Config:
    """Something that may change without anyone seeing it."""


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        (np.zeros(3), "type ndarray"),
        (Config(), "type Config"),
        (torch.zeros(1, requires_grad=True), "requires a gradient"),
    ],
    ids=["array", "object", "gradient"],
)
def test_arguments_that_no_graph_can_take(argument, reason):
    made = plain()
    svi = avi.SVI(made.model, made.guide, sgd(), Trace_ELBO())
    with pytest.warns(AmortviWarning, match=reason) as warned:
        losses = [svi.step(data(), argument) for _ in range(3)]
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert all(math.isfinite(loss) for loss in losses)
    with pytest.raises(CaptureError, match=reason):
        avi.SVI(made.model, made.guide, sgd(), Trace_ELBO(), compile=True).step(data(), argument)


def test_a_handler_around_the_step():
    made = plain()
    svi = avi.SVI(made.model, made.guide, sgd(), Trace_ELBO(), compile=True)
    svi.step(data())
    svi.step(data())
    with pytest.raises(CaptureError, match="handler of Pyro's"), pyro.poutine.scale(scale=0.1):
        svi.step(data())
    with pytest.raises(CaptureError, match="gradients are disabled"), torch.no_grad():
        svi.step(data())
    svi.step(data())
    assert svi.compilations == 1


@pytest.mark.usefixtures("early")
def test_a_loss_of_ones_own():
    """A loss that reads is stepped eagerly, one that does not is compiled."""

    def reading(model, guide, x):
        loss = Trace_ELBO().differentiable_loss(model, guide, x)
        return loss if float(loss.detach()) > 0 else 2 * loss

    def clean(model, guide, x):
        return 2 * Trace_ELBO().differentiable_loss(model, guide, x)

    with pytest.warns(AmortviWarning, match="return loss if float"):
        ours = fit(avi.SVI, plain, sgd, lambda: reading)
    assert_same(ours, fit(pyro.infer.SVI, plain, sgd, lambda: reading))
    ours = fit(avi.SVI, plain, sgd, lambda: clean)
    assert ours.svi.compilations == 1
    assert_same(ours, fit(pyro.infer.SVI, plain, sgd, lambda: clean))


def test_nan_is_told_as_pyro_tells_it():
    made = plain()
    svi = avi.SVI(made.model, made.guide, sgd(), Trace_ELBO(), compile=True)
    svi.step(data())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svi.step(data())
    with pytest.warns(UserWarning, match="Encountered NaN: loss"):
        assert math.isnan(svi.step(data() * math.nan))
    assert svi.compilations == 1
