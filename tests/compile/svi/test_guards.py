"""Numbers that model and guide find outside of their arguments: a compiled step does not go on with old ones."""

import functools

import pyro
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

import amortvi as avi
from amortvi.errors import AmortviWarning, CaptureError
from amortvi.compile.svi.guards import Mentions
from tests.compile.svi.problems import data

WEIGHT = 1.0
OPTIONS = {"weight": 1.0}


def set_global(value):
    global WEIGHT
    WEIGHT = value


def of_globals(x):
    return helper(x)


def helper(x):
    return WEIGHT * x


def of_a_dict(x):
    return (lambda: OPTIONS["weight"] * x)()


def closure():
    weight = 1.0

    def change(value):
        nonlocal weight
        weight = value

    return functools.partial(lambda x: weight * x), change


class Plain:
    other = 3.0

    def __init__(self):
        self.weight = 1.0
        self.steps = 0

    @property
    def scaled(self):
        return self.inner.weight if hasattr(self, "inner") else self.weight

    def model(self, x):
        return self.scaled * x

    def __call__(self, x):
        return self.model(x)


class Module(PyroModule):
    weight = 1.0

    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))

    def forward(self, x):
        return self.weight * self.parts(x)


def attribute(owner, name="weight"):
    return functools.partial(setattr, owner, name)


def nested():
    outer, outer.inner = (made := Plain()), Plain()
    return made.model, attribute(outer.inner)


def cases():
    plain, module = Plain(), Module()
    return {
        "global": (of_globals, set_global),
        "dict": (of_a_dict, lambda value: OPTIONS.update(weight=value)),
        "closure": closure(),
        "attribute": (plain.model, attribute(plain)),
        "callable": (plain, attribute(plain)),
        "nested": nested(),
        "module": (module, attribute(module)),
        "dropout": (module, attribute(module.parts[1], "p")),
        "handler": (poutine.scale(plain.model, 2.0), attribute(plain)),
    }


@pytest.mark.parametrize("name", cases())
def test_a_change_is_seen(name):
    function, change = cases()[name]
    change(0.5)
    mentions = Mentions([function])
    assert mentions.changed() is None
    change(float("0.5"))  # another object, the same number
    assert mentions.changed() is None
    change(0.25)
    assert mentions.changed() is not None
    change(0.5)
    assert mentions.changed() is None


def test_what_is_not_mentioned_may_change():
    plain = Plain()
    mentions = Mentions([plain.model])
    plain.steps, plain.other, Plain.other = 1, 2.0, 4.0
    OPTIONS["weight"] = 0.1
    assert mentions.changed() is None


class Annealed:
    """The weight of the KL as an attribute, as many write it."""

    def __init__(self):
        self.beta = 1.0
        self.calls = 0
        self.counts = False

    def model(self, x):
        if self.counts:
            self.calls += 1
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=self.beta):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        loc = pyro.param("loc", lambda: torch.zeros(2))
        with pyro.plate("data", len(x)), poutine.scale(scale=self.beta):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def losses(kind, change, steps=12, **options):
    pyro.clear_param_store()
    annealed = Annealed()
    torch.manual_seed(0)
    svi = kind(annealed.model, annealed.guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO(), **options)
    found = []
    for step in range(steps):
        change(annealed, step)
        found.append(svi.step(data()))
    return found, svi, annealed


def every_four(annealed, step):
    annealed.beta = 0.25 * (1 + step // 4)


@pytest.mark.usefixtures("uncompiled")
def test_a_weight_kept_as_an_attribute():
    ours, svi, _ = losses(avi.SVI, every_four, compile=True)
    assert svi.compilations == 3
    assert ours == pytest.approx(losses(pyro.infer.SVI, every_four)[0], rel=1e-5)


@pytest.mark.usefixtures("uncompiled")
def test_one_that_changes_often_is_named(monkeypatch):
    monkeypatch.setattr("amortvi.compile.svi.stepper.MOST_COMPILATIONS", 2)
    with pytest.warns(AmortviWarning, match=r"2 different steps were compiled.*'beta' is another"):
        losses(avi.SVI, every_four, compile=True)


@pytest.mark.usefixtures("uncompiled")
def test_a_model_that_counts_its_calls():
    def count(annealed, step):
        annealed.counts = True

    with pytest.raises(CaptureError, match="sets 'calls' to another value each time"):
        losses(avi.SVI, count, compile=True)
    pyro.clear_param_store()
    annealed = Annealed()
    annealed.counts = True
    svi = avi.SVI(annealed.model, annealed.guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO(), compile=True)
    svi.step(data())
    with pytest.raises(CaptureError):
        svi.step(data())
    assert annealed.calls == 1
