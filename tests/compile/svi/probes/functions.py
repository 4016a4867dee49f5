"""Numbers that a model reads from functions: closures, defaults, attributes, and partial functions."""

import functools
import operator
import types

from tests.compile.svi.probes.programs import WATCHED, Program, observe, probe


@probe(WATCHED)
def closure():
    scale = 1.0

    def change():
        nonlocal scale
        scale = 2.0

    return Program(lambda x: observe(x, scale), change=change)


@probe(WATCHED)
def nested_closures():
    scale = 1.0

    def outer(x):
        def middle():
            return (lambda: scale)()

        observe(x, middle())

    def change():
        nonlocal scale
        scale = 2.0

    return Program(outer, change=change)


@probe(WATCHED)
def closure_of_a_closure():
    def factory():
        scale = 1.0

        def read():
            return scale

        def write(value):
            nonlocal scale
            scale = value

        return read, write

    read, write = factory()
    return Program(lambda x: observe(x, read()), change=lambda: write(2.0))


@probe(WATCHED)
def default_argument():
    options = types.SimpleNamespace(scale=1.0)

    def model(x, options=options):
        observe(x, options.scale)

    return Program(model, change=lambda: setattr(options, "scale", 2.0))


@probe(WATCHED)
def default_list():
    def model(x, scales=[1.0]):  # noqa: B006
        observe(x, scales[0])

    return Program(model, change=lambda: model.__defaults__[0].__setitem__(0, 2.0))


@probe(WATCHED)
def keyword_default():
    options = {"scale": 1.0}

    def model(x, *, options=options):
        observe(x, options["scale"])

    return Program(model, change=lambda: options.update(scale=2.0))


@probe(WATCHED)
def defaults_that_are_replaced():
    def model(x, scale=1.0):
        observe(x, scale)

    return Program(model, change=lambda: setattr(model, "__defaults__", (2.0,)))


@probe(WATCHED)
def keyword_defaults_that_are_replaced():
    def model(x, *, scale=1.0):
        observe(x, scale)

    return Program(model, change=lambda: model.__kwdefaults__.update(scale=2.0))


@probe(WATCHED)
def defaults_of_a_helper():
    def helper(x, scale=1.0):
        observe(x, scale)

    return Program(lambda x: helper(x), change=lambda: setattr(helper, "__defaults__", (2.0,)))


@probe(WATCHED)
def function_attribute():
    def model(x):
        observe(x, model.scale)

    model.scale = 1.0
    return Program(model, change=lambda: setattr(model, "scale", 2.0))


@probe(WATCHED)
def attribute_of_a_helper():
    def helper():
        return helper.scale

    helper.scale = 1.0
    return Program(lambda x: observe(x, helper()), change=lambda: setattr(helper, "scale", 2.0))


@probe(WATCHED)
def code_that_is_replaced():
    def helper():
        return 1.0

    def wider():
        return 2.0

    return Program(lambda x: observe(x, helper()), change=lambda: setattr(helper, "__code__", wider.__code__))


@probe(WATCHED)
def partial_keywords():
    model = functools.partial(observe, scale=1.0)
    return Program(model, change=lambda: model.keywords.update(scale=2.0))


@probe(WATCHED)
def partial_arguments():
    scales = [1.0]
    model = functools.partial(lambda scales, x: observe(x, scales[0]), scales)
    return Program(model, change=lambda: operator.setitem(scales, 0, 2.0))


@probe(WATCHED)
def partial_with_another_state():
    helper = functools.partial(max, 1.0)

    def change():
        helper.__setstate__((max, (2.0,), {}, {}))

    return Program(lambda x: observe(x, helper(0.5)), change=change)


@probe(WATCHED)
def partial_method():
    class Model:
        def run(self, scales, x):
            observe(x, scales["scale"])

        narrow = functools.partialmethod(run, {"scale": 1.0})

    return Program(Model().narrow, change=lambda: vars(Model)["narrow"].args[0].update(scale=2.0))


@probe(WATCHED)
def cached_helper():
    values = iter([1.0, 2.0])

    @functools.lru_cache
    def scale():
        return next(values)

    return Program(lambda x: observe(x, scale()), change=scale.cache_clear)


@probe(WATCHED)
def cached_helper_that_reads_a_global():
    globals()["CACHED"] = 1.0
    scale = functools.cache(lambda: CACHED)  # noqa: F821

    def change():
        globals()["CACHED"] = 2.0
        scale.cache_clear()

    return Program(lambda x: observe(x, scale()), change=change)
