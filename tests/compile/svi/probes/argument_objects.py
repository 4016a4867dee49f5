"""Objects, classes and functions as arguments of a step."""

import argparse
import dataclasses
import functools
import types

from tests.compile.svi.probes.arguments import changing, switching
from tests.compile.svi.probes.programs import COMPILES, CONSTANT_CALLS, COUNTED, WATCHED, Program, data, observe, probe


@probe(COMPILES)
def namespace():
    """As `argparse` gives it; Pyro's examples pass it to model and guide."""
    args = argparse.Namespace(scale=1.0, jit=False)
    return Program(lambda x, args: observe(x, args.scale), arguments=lambda step: (data(), args)).steady()


@probe(WATCHED)
def namespace_that_changes():
    args = argparse.Namespace(scale=1.0)
    return changing(lambda x, args: observe(x, args.scale), args, lambda: setattr(args, "scale", 2.0))


@probe(WATCHED)
def dataclass():
    @dataclasses.dataclass
    class Options:
        scale: float = 1.0

    options = Options()
    return changing(lambda x, options: observe(x, options.scale), options, lambda: setattr(options, "scale", 2.0))


@probe(WATCHED)
def dataclass_with_a_hash():
    @dataclasses.dataclass(unsafe_hash=True)
    class Options:
        name: str = "a"
        scale: float = dataclasses.field(default=1.0, compare=False)

    return switching(lambda x, options: observe(x, options.scale), Options(), Options(scale=2.0))


@probe(WATCHED)
def object_with_a_hash_of_its_own():
    class Options:
        scale = 1.0

        def __hash__(self):
            return 1

        def __eq__(self, other):
            return isinstance(other, Options)

    options = Options()
    return changing(lambda x, options: observe(x, options.scale), options, lambda: setattr(options, "scale", 2.0))


@probe(WATCHED)
def equal_objects_that_differ():
    class Options:
        def __init__(self, scale):
            self.scale = scale

        def __hash__(self):
            return 1

        def __eq__(self, other):
            return isinstance(other, Options)

    return switching(lambda x, options: observe(x, options.scale), Options(1.0), Options(2.0))


@probe(WATCHED)
def class_as_an_argument():
    class Options:
        scale = 1.0

    return changing(lambda x, options: observe(x, options.scale), Options, lambda: setattr(Options, "scale", 2.0))


@probe(WATCHED)
def closure_as_an_argument():
    scale = 1.0

    def read():
        return scale

    def change():
        nonlocal scale
        scale = 2.0

    return changing(lambda x, read: observe(x, read()), read, change)


@probe(WATCHED)
def bound_method_as_an_argument():
    class Schedule:
        value = 1.0

        def scale(self):
            return self.value

    schedule = Schedule()
    return changing(lambda x, scale: observe(x, scale()), schedule.scale, lambda: setattr(schedule, "value", 2.0))


@probe(COMPILES)
def partial():
    scale = functools.partial(max, 1.0)
    return Program(lambda x, scale: observe(x, scale(0.5)), arguments=lambda step: (data(), scale)).steady()


@probe(WATCHED)
def partial_that_is_replaced():
    return switching(lambda x, scale: observe(x, scale(0.5)), functools.partial(max, 1.0), functools.partial(max, 2.0))


@probe(WATCHED)
def partial_with_keywords_that_change():
    scale = functools.partial(dict, scale=1.0)
    return changing(lambda x, make: observe(x, make()["scale"]), scale, lambda: scale.keywords.update(scale=2.0))


@probe(WATCHED)
def module_as_an_argument():
    module = types.ModuleType("options")
    module.scale = 1.0
    return changing(lambda x, module: observe(x, module.scale), module, lambda: setattr(module, "scale", 2.0))


@probe(COUNTED)
def iterator_as_an_argument():
    scales = iter([1.0] * CONSTANT_CALLS + [2.0] * 60)
    return Program(lambda x, scales: observe(x, next(scales)), arguments=lambda step: (data(), scales)).steady()
