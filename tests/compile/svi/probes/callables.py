"""Models and helpers that are decorated, methods, or replaced by other functions."""

import functools
import math
import operator
from contextlib import contextmanager

from tests.compile.svi.probes.programs import AUDITED, WATCHED, Program, observe, probe


@probe(WATCHED)
def decorated_model():
    options = {"scale": 1.0}

    def scaled(function):
        @functools.wraps(function)
        def wrapper(x):
            return function(x, options["scale"])

        return wrapper

    return Program(scaled(observe), change=lambda: options.update(scale=2.0))


@probe(WATCHED)
def decorator_that_is_a_class():
    class Scaled:
        def __init__(self, function):
            functools.update_wrapper(self, function)
            self.function, self.scale = function, 1.0

        def __call__(self, x):
            return self.function(x, self.scale)

    model = Scaled(observe)
    return Program(model, change=lambda: setattr(model, "scale", 2.0))


class Model:
    def __init__(self):
        self.scale = 1.0

    def run(self, x):
        observe(x, self.scale)

    @classmethod
    def of_class(cls, x):
        observe(x, cls.default)

    @staticmethod
    def static(x):
        observe(x, Model.default)

    default = 1.0


@probe(WATCHED)
def bound_method():
    model = Model()
    return Program(model.run, change=lambda: setattr(model, "scale", 2.0))


@probe(WATCHED)
def class_method():
    kind = type("Kind", (Model,), {"default": 1.0})
    return Program(kind.of_class, change=lambda: setattr(kind, "default", 2.0))


@probe(WATCHED)
def static_method_that_reads_its_class():
    globals()["Model"] = type("Model", (Model,), {"default": 1.0})
    return Program(Model.static, change=lambda: setattr(Model, "default", 2.0))


@probe(WATCHED)
def method_that_is_replaced_on_the_class():
    kind = type("Kind", (Model,), {})
    return Program(
        lambda x: kind().run(x), change=lambda: setattr(kind, "run", lambda self, x: observe(x, 2.0 * self.scale))
    )


@probe(WATCHED)
def method_that_is_replaced_on_the_instance():
    model = Model()
    return Program(lambda x: model.run(x), change=lambda: setattr(model, "run", lambda x: observe(x, 2.0)))


@probe(WATCHED)
def call_that_is_replaced():
    kind = type("Kind", (), {"__call__": lambda self, x: observe(x, 1.0)})
    return Program(kind(), change=lambda: setattr(kind, "__call__", lambda self, x: observe(x, 2.0)))


@probe(WATCHED)
def attribute_of_the_super_class():
    class Base:
        scale = 1.0

    class Derived(Base):
        scale = 5.0

        def __call__(self, x):
            observe(x, super().scale)

    return Program(Derived(), change=lambda: setattr(Base, "scale", 2.0))


@probe(WATCHED)
def helper_that_is_replaced():
    globals()["helper"] = lambda: 1.0
    return Program(lambda x: observe(x, helper()), change=lambda: globals().update(helper=lambda: 2.0))  # noqa: F821


@probe(AUDITED)
def library_function_that_is_replaced():
    original = math.sqrt
    return Program(
        lambda x: observe(x, math.sqrt(4.0)),
        change=lambda: setattr(math, "sqrt", lambda value: original(value) / 2),
        undo=lambda: setattr(math, "sqrt", original),
    )


@probe(WATCHED)
def function_in_a_dict():
    table = {"scale": lambda: 1.0}
    return Program(lambda x: observe(x, table["scale"]()), change=lambda: table.update(scale=lambda: 2.0))


@probe(WATCHED)
def single_dispatch():
    @functools.singledispatch
    def scale(value):
        return 1.0

    return Program(lambda x: observe(x, scale(3)), change=lambda: scale.register(int, lambda value: 2.0))


@probe(WATCHED)
def evaluated_name():
    globals()["EVALUATED"] = 1.0
    return Program(lambda x: observe(x, eval("EVALUATED")), change=lambda: globals().update(EVALUATED=2.0))


@probe(WATCHED)
def executed_model():
    namespace = {"observe": observe, "scale": 1.0}
    exec("def model(x):\n    observe(x, scale)", namespace)
    return Program(namespace["model"], change=lambda: namespace.update(scale=2.0))


@probe(WATCHED)
def context_manager():
    scales = [1.0]

    @contextmanager
    def scaled():
        yield scales[-1]

    def model(x):
        with scaled() as scale:
            observe(x, scale)

    return Program(model, change=lambda: scales.append(2.0))


@probe(WATCHED)
def recursion():
    options = {"depth": 3}

    def scale(depth):
        return 1.0 if depth == 0 else 1.0 + 0.5 * scale(depth - 1)

    return Program(lambda x: observe(x, scale(options["depth"])), change=lambda: options.update(depth=0))


@probe(WATCHED)
def mapped_function():
    scales = [1.0, 1.0]
    return Program(lambda x: observe(x, sum(map(abs, scales)) / 2), change=lambda: operator.setitem(scales, 0, 3.0))
