"""Numbers that a model reads through properties, `getattr`, dictionaries of objects, and modules."""

import dataclasses
import enum
import functools
import operator
import sys
import types
import weakref

from tests.compile.svi.probes.objects import Options, Settings
from tests.compile.svi.probes.programs import WATCHED, Program, observe, probe


@probe(WATCHED)
def property_of_a_field():
    options = Options()
    return Program(lambda x: observe(x, options.doubled), change=lambda: setattr(options, "scale", 2.0))


@probe(WATCHED)
def property_that_is_replaced():
    class Config:
        scale = property(lambda self: 1.0)

    config = Config()
    return Program(
        lambda x: observe(x, config.scale), change=lambda: setattr(Config, "scale", property(lambda self: 2.0))
    )


@probe(WATCHED)
def cached_property_that_is_cleared():
    class Config:
        base = 1.0
        scale = functools.cached_property(lambda self: self.base)

    Config.scale.__set_name__(Config, "scale")
    config = Config()

    def change():
        Config.base = 2.0
        vars(config).pop("scale", None)

    return Program(lambda x: observe(x, config.scale), change=change)


@probe(WATCHED)
def descriptor_with_a_table():
    values = weakref.WeakKeyDictionary()

    class Field:
        def __get__(self, owner, kind):
            return values[owner]

    class Config:
        scale = Field()

    config = Config()
    values[config] = 1.0
    return Program(lambda x: observe(x, config.scale), change=lambda: values.update({config: 2.0}))


@probe(WATCHED)
def computed_getattr():
    class Config(Settings):
        def __getattr__(self, name):
            return self.values[name.removeprefix("the_")]

    config = Config()
    return Program(lambda x: observe(x, config.the_scale), change=lambda: config.values.update(scale=2.0))


@probe(WATCHED)
def computed_getattribute():
    table = {"scale": 1.0}

    class Config:
        def __getattribute__(self, name):
            return table[name]

    config = Config()
    return Program(lambda x: observe(x, config.scale), change=lambda: table.update(scale=2.0))


@probe(WATCHED)
def getattr_with_a_constant_name():
    settings = Settings()
    return Program(lambda x: observe(x, getattr(settings, "scale")), change=lambda: setattr(settings, "scale", 2.0))  # noqa: B009


@probe(WATCHED)
def getattr_with_a_computed_name():
    settings, part = Settings(), "ale"
    return Program(lambda x: observe(x, getattr(settings, "sc" + part)), change=lambda: setattr(settings, "scale", 2.0))


@probe(WATCHED)
def getattr_with_a_default():
    options = types.SimpleNamespace()
    return Program(lambda x: observe(x, getattr(options, "scale", 1.0)), change=lambda: setattr(options, "scale", 2.0))


@probe(WATCHED)
def hasattr_of_an_object():
    options = types.SimpleNamespace()
    return Program(
        lambda x: observe(x, 2.0 if hasattr(options, "wide") else 1.0), change=lambda: setattr(options, "wide", True)
    )


@probe(WATCHED)
def vars_of_an_object():
    options = Options()
    return Program(lambda x: observe(x, vars(options)["scale"]), change=lambda: setattr(options, "scale", 2.0))


@probe(WATCHED)
def dict_of_an_object():
    options = Options()
    return Program(lambda x: observe(x, options.__dict__["scale"]), change=lambda: setattr(options, "scale", 2.0))


@probe(WATCHED)
def globals_by_name():
    globals()["TABLED"] = 1.0
    return Program(lambda x: observe(x, globals()["TABLED"]), change=lambda: globals().update(TABLED=2.0))


@probe(WATCHED)
def attrgetter():
    options, get = types.SimpleNamespace(model=Options()), operator.attrgetter("model.scale")
    return Program(lambda x: observe(x, get(options)), change=lambda: setattr(options.model, "scale", 2.0))


@probe(WATCHED)
def fields_of_a_dataclass():
    options = Options()
    return Program(lambda x: observe(x, **dataclasses.asdict(options)), change=lambda: setattr(options, "scale", 2.0))


def imported(model):
    """Return the program of a model that uses a module of settings."""
    module = sys.modules["probe_settings"] = types.ModuleType("probe_settings")
    module.scale = 1.0
    return Program(model, change=lambda: setattr(module, "scale", 2.0), undo=lambda: sys.modules.pop("probe_settings"))


@probe(WATCHED)
def attribute_of_a_module():
    module = types.ModuleType("settings")
    module.scale = 1.0
    return Program(lambda x: observe(x, module.scale), change=lambda: setattr(module, "scale", 2.0))


@probe(WATCHED)
def module_imported_in_the_model():
    def model(x):
        import probe_settings

        observe(x, probe_settings.scale)

    return imported(model)


@probe(WATCHED)
def name_imported_in_the_model():
    def model(x):
        from probe_settings import scale

        observe(x, scale)

    return imported(model)


@probe(WATCHED)
def attribute_of_a_library():
    """The user stores a number in a module of the standard library."""
    enum.scale = 1.0
    return Program(
        lambda x: observe(x, enum.scale),
        change=lambda: setattr(enum, "scale", 2.0),
        undo=lambda: delattr(enum, "scale"),
    )


@probe(WATCHED)
def number_with_a_conversion_of_its_own():
    class Dial:
        value = 1.0

        def __float__(self):
            return self.value

    dial = Dial()
    return Program(lambda x: observe(x, float(dial)), change=lambda: setattr(dial, "value", 2.0))


@probe(WATCHED)
def truth_of_an_object():
    class Switch:
        on = False

        def __bool__(self):
            return self.on

    switch = Switch()
    return Program(lambda x: observe(x, 2.0 if switch else 1.0), change=lambda: setattr(switch, "on", True))
