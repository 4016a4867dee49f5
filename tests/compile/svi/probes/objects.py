"""Numbers that a model reads from attributes of objects and classes."""

import argparse
import collections
import configparser
import dataclasses
import enum
import functools
import operator
import types
import weakref

from tests.compile.svi.probes.programs import COMPILES, WATCHED, Program, mean_field, observe, probe, propose


@probe(COMPILES)
def nothing_changes():
    """The program without a change, which shows that the others are not refused for what they share."""
    return Program(observe)


@probe(WATCHED)
def namespace_in_a_closure():
    args = argparse.Namespace(scale=1.0)
    return Program(lambda x: observe(x, args.scale), change=lambda: setattr(args, "scale", 2.0))


@probe(WATCHED)
def namespace_that_is_global():
    global ARGS
    ARGS = argparse.Namespace(scale=1.0)
    return Program(lambda x: observe(x, ARGS.scale), change=lambda: setattr(ARGS, "scale", 2.0))


@probe(WATCHED)
def global_that_is_replaced():
    globals()["SCALE"] = 1.0
    return Program(lambda x: observe(x, SCALE), change=lambda: globals().update(SCALE=2.0))  # noqa: F821


@probe(WATCHED)
def simple_namespace():
    options = types.SimpleNamespace(scale=1.0)
    return Program(lambda x: observe(x, options.scale), change=lambda: vars(options).update(scale=2.0))


@probe(WATCHED)
def nested_namespaces():
    options = types.SimpleNamespace(model=types.SimpleNamespace(noise=types.SimpleNamespace(scale=1.0)))
    return Program(
        lambda x: observe(x, options.model.noise.scale), change=lambda: setattr(options.model.noise, "scale", 2.0)
    )


@dataclasses.dataclass
class Options:
    scale: float = 1.0
    beta = 1.0

    @property
    def doubled(self):
        return 2.0 * self.scale


@dataclasses.dataclass(slots=True)
class SlottedOptions:
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class FrozenOptions:
    scale: float = 1.0


class Settings:
    scale = 1.0

    def __init__(self):
        self.values = {"scale": 1.0}


@probe(WATCHED)
def dataclass():
    options = Options()
    return Program(lambda x: observe(x, options.scale), change=lambda: setattr(options, "scale", 2.0))


@probe(WATCHED)
def slotted_dataclass():
    options = SlottedOptions()
    return Program(lambda x: observe(x, options.scale), change=lambda: setattr(options, "scale", 2.0))


@probe(WATCHED)
def frozen_dataclass_that_is_replaced():
    box = {"options": FrozenOptions()}
    change = functools.partial(operator.setitem, box, "options", dataclasses.replace(box["options"], scale=2.0))
    return Program(lambda x: observe(x, box["options"].scale), change=change)


@probe(WATCHED)
def frozen_dataclass_changed_by_force():
    options = FrozenOptions()
    return Program(lambda x: observe(x, options.scale), change=lambda: object.__setattr__(options, "scale", 2.0))


@probe(WATCHED)
def slots():
    class Slotted:
        __slots__ = ("scale",)

    slotted = Slotted()
    slotted.scale = 1.0
    return Program(lambda x: observe(x, slotted.scale), change=lambda: setattr(slotted, "scale", 2.0))


@probe(WATCHED)
def named_tuple_that_is_replaced():
    kind = collections.namedtuple("kind", "scale shift")
    holder = types.SimpleNamespace(options=kind(1.0, 0.0))
    return Program(
        lambda x: observe(x, *holder.options),
        change=lambda: setattr(holder, "options", holder.options._replace(scale=2.0)),
    )


@probe(WATCHED)
def class_attribute():
    class Config:
        scale = 1.0

    return Program(lambda x: observe(x, Config.scale), change=lambda: setattr(Config, "scale", 2.0))


@probe(WATCHED)
def attribute_of_a_base_class():
    class Base:
        scale = 1.0

    class Config(Base):
        pass

    return Program(lambda x: observe(x, Config().scale), change=lambda: setattr(Base, "scale", 2.0))


@probe(WATCHED)
def instance_attribute_that_hides_that_of_the_class():
    class Config:
        scale = 1.0

    config = Config()
    return Program(lambda x: observe(x, config.scale), change=lambda: setattr(config, "scale", 2.0))


@probe(WATCHED)
def attribute_that_is_deleted():
    class Config:
        scale = 1.0

    config = Config()
    config.scale = 2.0
    return Program(lambda x: observe(x, config.scale), change=lambda: delattr(config, "scale"))


@probe(WATCHED)
def attribute_of_a_metaclass():
    class Meta(type):
        scale = 1.0

    class Config(metaclass=Meta):
        pass

    return Program(lambda x: observe(x, Config.scale), change=lambda: setattr(Meta, "scale", 2.0))


@probe(WATCHED)
def object_that_changes_its_class():
    class Wide(Settings):
        scale = 2.0

    settings = Settings()
    return Program(lambda x: observe(x, settings.scale), change=lambda: setattr(settings, "__class__", Wide))


@probe(WATCHED)
def weak_reference_to_an_object_that_dies():
    holder = [Settings()]
    reference = weakref.ref(holder[0])
    return Program(lambda x: observe(x, 1.0 if reference() else 2.0), change=holder.clear)


@probe(WATCHED)
def config_parser():
    config = configparser.ConfigParser()
    config.read_dict({"model": {"scale": "1.0"}})
    return Program(
        lambda x: observe(x, config.getfloat("model", "scale")), change=lambda: config.set("model", "scale", "2.0")
    )


@probe(WATCHED)
def attribute_of_the_model_itself():
    class Model:
        def __init__(self):
            self._scale = 1.0

        def __call__(self, x):
            observe(x, self._scale)

    model = Model()
    return Program(model, change=lambda: setattr(model, "_scale", 2.0))


@probe(WATCHED)
def enum_member():
    class Kind(enum.Enum):
        NARROW = 1.0
        WIDE = 2.0

    options = types.SimpleNamespace(kind=Kind.NARROW)
    return Program(lambda x: observe(x, options.kind.value), change=lambda: setattr(options, "kind", Kind.WIDE))


@probe(WATCHED)
def read_by_the_guide_only():
    options = types.SimpleNamespace(scale=1.0)

    def guide(x):
        mean_field(x) if options.scale == 1.0 else propose(x, 0.5, options.scale)

    return Program(observe, guide, change=lambda: setattr(options, "scale", 2.0))
