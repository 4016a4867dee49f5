"""A change of anything that a step refers to is detected; what the step itself changes is restored and refused."""

import functools
import weakref

import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

import amortvi as avi
from amortvi.compile.svi.watch import Watch, observe
from amortvi.errors import AmortviWarning, CaptureError
from tests.compile.svi.problems import constructed, data, fit, fit_as_pyro, mean_guide, normal_model

WEIGHT = 1.0
OPTIONS = {"weight": 1.0}


def uses_a_global(x):
    return helper(x)


def helper(x):
    return WEIGHT * x


def uses_a_dict(x):
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
        self.weight, self.steps = 1.0, 0

    @property
    def scaled(self):
        return self.inner.weight if hasattr(self, "inner") else self.weight

    def __call__(self, x):
        return self.scaled * x


class Without(Plain):
    """Does not compute the names of attributes, so that only those in its code matter."""

    @property
    def scaled(self):
        return self.weight


class Module(PyroModule):
    weight = 1.0

    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))

    def forward(self, x):
        return self.weight * self.parts(x)


def attribute(owner, name="weight"):
    return functools.partial(setattr, owner, name)


def watched(function):
    return Watch(observe(lambda: function(torch.ones(2)))[1], [function])


def cases():
    plain, outer, module = Plain(), Plain(), Module()
    outer.inner = Plain()
    return {
        "global": (uses_a_global, lambda value: globals().update(WEIGHT=value)),
        "dict": (uses_a_dict, lambda value: OPTIONS.update(weight=value)),
        "closure": closure(),
        "attribute": (plain.__call__, attribute(plain)),
        "callable": (plain, attribute(plain)),
        "nested": (outer, attribute(outer.inner)),
        "module": (module, attribute(module)),
        "dropout": (module, attribute(module.parts[1], "p")),
        "handler": (poutine.scale(plain.__call__, 2.0), attribute(plain)),
    }


@pytest.mark.parametrize("name", cases())
def test_a_change_is_detected(name):
    function, change = cases()[name]
    change(0.5)
    watch = watched(function)
    assert watch.changed() is None
    change(float("0.5"))  # another object with the same value
    assert watch.changed() is None
    change(0.25)
    assert watch.changed() is not None
    change(0.5)
    assert watch.changed() is None


def test_values_that_the_code_does_not_use_may_change():
    plain = Without()
    watch = watched(plain)
    plain.steps, plain.other, Plain.other = 1, 2.0, 4.0
    OPTIONS["weight"] = 0.1
    assert watch.changed() is None


def test_an_attribute_that_is_set_for_the_first_time_is_removed():
    module = Module()
    watch = watched(module)
    with watch.restored():
        module.weight = 2.0
    assert "weight" not in vars(module)


def test_a_list_that_the_step_appends_to_is_restored():
    kept = []

    def keeping(x):
        kept.append(x)
        return x

    watch = watched(keeping)
    with pytest.raises(CaptureError, match=r"changes 'kept' in each step.*") as caught, watch.restored():
        kept.append(2)
    assert len(kept) == 1
    assert "`kept.append(x)`" in str(caught.value) or "`kept = []`" in str(caught.value)


def an_iterator():
    numbers = iter([1.0, 1.0])
    return lambda x: next(numbers) * x


def a_large_list():
    numbers = [1.0] * 1001
    return lambda x: numbers[0] * x


def a_weak_reference():
    owner = Plain()
    reference = weakref.ref(owner)
    return lambda x: x if reference() is None else 2 * x


UNWATCHABLE = {
    "an iterator": (an_iterator, "'numbers', of type builtins.list_iterator"),
    "a large list": (a_large_list, "'numbers', a list of 1001 items"),
    "a weak reference": (a_weak_reference, "'reference', of type"),
}


@pytest.mark.parametrize("name", UNWATCHABLE)
def test_what_cannot_be_compared_is_refused_with_the_line(name):
    make, reason = UNWATCHABLE[name]
    with pytest.raises(CaptureError, match=rf"at test_watch.py, line \d+ \(`.*`\).*{reason}"):
        watched(make())


class Annealed:
    """Keeps the weight of the KL as an attribute, and may count the calls of the model."""

    def __init__(self, counts=False):
        self.beta, self.calls, self.counts = 1.0, 0, counts

    def model(self, x):
        self.calls += self.counts
        normal_model(x, beta=self.beta)

    def guide(self, x):
        with poutine.scale(scale=self.beta):
            mean_guide(x)


def anneal(svi, step):
    svi.model.__self__.beta = 0.25 * (1 + step // 4)


@pytest.mark.usefixtures("recordings")
def test_a_weight_can_be_kept_as_an_attribute():
    assert fit_as_pyro(Annealed, steps=12, after_step=anneal).compilations == 3


@pytest.mark.usefixtures("recordings")
def test_the_warning_names_an_attribute_that_changes_often(monkeypatch):
    monkeypatch.setattr("amortvi.compile.svi.dispatcher.MAX_RECORDINGS", 2)
    with pytest.warns(AmortviWarning, match=r"2 different steps were recorded.*the value of 'beta' changed"):
        fit(avi.SVI, Annealed, steps=12, after_step=anneal, compile=True)


@pytest.mark.usefixtures("recordings")
def test_a_model_that_counts_its_calls_is_refused_and_its_count_restored():
    svi = constructed(lambda: Annealed(counts=True))
    svi.step(data())
    with pytest.raises(CaptureError, match="changes 'calls' in each step"):
        svi.step(data())
    assert svi.model.__self__.calls == 1
