"""Schedules that a model takes from iterators, and counts that it keeps itself."""

import itertools
import types

import pyro
import torch

from tests.compile.svi.probes.programs import (
    AUDITED,
    CHANGE_AT,
    CONSTANT_CALLS,
    COUNTED,
    WATCHED,
    Program,
    data,
    observe,
    probe,
    propose,
)


@probe(COUNTED)
def iterator_that_counts():
    steps = itertools.count()
    return Program(lambda x: observe(x, 1.0 + 0.1 * next(steps)))


@probe(COUNTED)
def cycle():
    scales = itertools.cycle([1.0, 2.0])
    return Program(lambda x: observe(x, next(scales)))


@probe(COUNTED)
def generator():
    def schedule():
        step = 0
        while True:
            yield 1.0 + 0.1 * step
            step += 1

    scales = schedule()
    return Program(lambda x: observe(x, next(scales)))


@probe(AUDITED)
def iterator_that_is_constant_at_first():
    scales = itertools.chain(itertools.repeat(1.0, CONSTANT_CALLS), itertools.repeat(2.0))
    return Program(lambda x: observe(x, next(scales)))


@probe(AUDITED)
def iterator_that_is_exhausted():
    warm_up = iter(range(CONSTANT_CALLS))
    return Program(lambda x: observe(x, 1.0 if next(warm_up, None) is not None else 2.0))


@probe(AUDITED)
def generator_that_is_sent_a_value():
    def schedule():
        scale = 1.0
        while True:
            scale = (yield scale) or scale

    scales = schedule()
    return Program(lambda x: observe(x, next(scales)), change=lambda: scales.send(2.0))


@probe(WATCHED)
def annealing_by_the_length_of_a_history():
    history = types.SimpleNamespace(losses=[])

    def drive(svi, step):
        history.losses.append(svi.step(data()))
        return history.losses[-1]

    return Program(lambda x: observe(x, 1.0 + len(history.losses) // CHANGE_AT), drive=drive)


@probe(COUNTED)
def model_that_counts_its_calls():
    class Model:
        calls = 0

        def __call__(self, x):
            self.calls += 1
            observe(x, 1.0 + 0.05 * self.calls)

    return Program(Model())


@probe(COUNTED)
def model_that_counts_its_calls_for_later():
    """The count matters only after some time."""

    class Model:
        calls = 0

        def __call__(self, x):
            self.calls += 1
            observe(x, 1.0 if self.calls <= CONSTANT_CALLS else 2.0)

    return Program(Model())


@probe(COUNTED)
def model_that_counts_in_a_dict():
    seen = {"calls": 0}

    def model(x):
        seen["calls"] += 1
        observe(x, 1.0 if seen["calls"] <= CONSTANT_CALLS else 2.0)

    return Program(model)


@probe(COUNTED)
def model_that_counts_in_a_closure():
    calls = 0

    def model(x):
        nonlocal calls
        calls += 1
        observe(x, 1.0 if calls <= CONSTANT_CALLS else 2.0)

    return Program(model)


@probe(COUNTED)
def model_that_counts_in_a_global():
    globals()["CALLS"] = 0

    def model(x):
        global CALLS
        CALLS += 1
        observe(x, 1.0 if CALLS <= CONSTANT_CALLS else 2.0)

    return Program(model)


@probe(COUNTED)
def model_that_appends_to_a_list():
    history = []

    def model(x):
        history.append(x.shape[0])
        observe(x, 1.0 if len(history) <= CONSTANT_CALLS else 2.0)

    return Program(model)


@probe(COUNTED)
def model_that_pops_from_a_list():
    schedule = [2.0] * 40 + [1.0] * CONSTANT_CALLS
    return Program(lambda x: observe(x, schedule.pop()))


@probe(COUNTED)
def guide_that_counts_its_calls():
    """The guide anneals its own width."""
    seen = []

    def guide(x):
        seen.append(None)
        propose(x, pyro.param("loc", lambda: torch.zeros(2)), 1.0 if len(seen) <= CONSTANT_CALLS else 0.5)

    return Program(observe, guide)


@probe(WATCHED)
def counter_in_a_tensor():
    """The model changes a tensor in place, which a graph can do, too."""
    calls = torch.zeros(())

    def model(x):
        calls.add_(1.0)
        observe(x, 1.0 + 0.1 * calls)

    return Program(model)
