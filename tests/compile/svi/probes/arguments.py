"""Numbers and containers as arguments of a step."""

import collections
import enum
import math

import numpy as np
import torch

from tests.compile.svi.probes.programs import (
    AUDITED,
    CHANGE_AT,
    COMPILES,
    ROWS,
    WATCHED,
    Program,
    data,
    mean_field,
    observe,
    probe,
)


def switching(model, before, after, **options):
    """Return the program with a second argument that is another one from `CHANGE_AT` on."""
    return Program(model, arguments=lambda step: (data(), before if step < CHANGE_AT else after), **options)


def changing(model, argument, change):
    """Return the program with a second argument that changes but remains the same object."""
    return Program(model, arguments=lambda step: (data(), argument), change=change)


@probe(COMPILES)
def float_that_varies():
    return switching(observe, 1.0, 2.0)


@probe(COMPILES)
def float_in_a_keyword():
    def drive(svi, step):
        return svi.step(data(), scale=1.0 + 0.1 * step)

    return Program(observe, drive=drive)


@probe(COMPILES)
def integer_that_varies():
    return switching(observe, 1, 2)


@probe(WATCHED)
def flag_that_equals_an_integer():
    return switching(lambda x, wide: observe(x, 2.0 if wide is True else 1.0), 1, True)


@probe(WATCHED)
def branch_on_the_type_of_a_float():
    return switching(lambda x, scale: observe(x, scale if isinstance(scale, float) else 5.0), 1.0, 2.0)


@probe(WATCHED)
def branch_on_a_tensor_type():
    """A float must not look like a tensor."""
    return switching(lambda x, scale: observe(x, 5.0 if isinstance(scale, torch.Tensor) else scale), 1.0, 2.0)


@probe(WATCHED)
def logarithm_of_a_float():
    return switching(lambda x, scale: observe(x, 1.0 + math.log(scale)), 1.0, 2.0)


@probe(WATCHED)
def text_of_a_float():
    return switching(lambda x, scale: observe(x, float(len(f"{scale}"))), 1.0, 2.25)


@probe(WATCHED)
def float_that_is_compared():
    return switching(lambda x, scale: observe(x, 2.0 if scale > 1.5 else 1.0), 1.0, 2.0)


@probe(WATCHED)
def float_as_a_key():
    scales = {1.0: 1.0, 2.0: 3.0}
    return switching(lambda x, key: observe(x, scales[key]), 1.0, 2.0)


@probe(WATCHED)
def float_that_is_rounded():
    return switching(lambda x, scale: observe(x, float(round(scale))), 1.2, 1.8)


@probe(WATCHED)
def float_of_a_subclass():
    class Scale(float):
        pass

    return switching(observe, Scale(1.0), Scale(2.0))


@probe(WATCHED)
def float_that_becomes_infinite():
    return switching(lambda x, limit: observe(x.clamp(max=limit)), 0.5, math.inf)


@probe(AUDITED)
def float_of_double_precision():
    """The difference of two floats that are equal in single precision."""
    return switching(lambda x, scale: observe(x, 1.0 + (scale - 1.0) * 1e9), 1.0, 1.0 + 1e-9)


@probe(WATCHED)
def large_integer():
    return switching(lambda x, big: observe(x, 1.0 + big % 10), 10**30, 10**30 + 1)


@probe(WATCHED)
def number_of_numpy():
    return switching(observe, np.float64(1.0), np.float64(2.0))


@probe(WATCHED)
def array_of_numpy():
    return switching(lambda x, scales: observe(x, torch.as_tensor(scales)), np.ones(2), np.full(2, 2.0))


@probe(WATCHED)
def array_of_numpy_changed_in_place():
    scales = np.ones(2)
    return changing(lambda x, scales: observe(x, float(scales[0])), scales, lambda: scales.fill(2.0))


@probe(WATCHED)
def text():
    return switching(lambda x, kind: observe(x, {"narrow": 1.0, "wide": 2.0}[kind]), "narrow", "wide")


@probe(WATCHED)
def none_that_becomes_a_tensor():
    return switching(lambda x, scale: observe(x, 1.0 if scale is None else scale), None, torch.tensor(2.0))


@probe(WATCHED)
def enum_member_that_changes():
    class Kind(enum.Enum):
        A, B = 1.0, 2.0

    return switching(lambda x, kind: observe(x, kind.value), Kind.A, Kind.B)


@probe(COMPILES)
def dict_with_tensors():
    """As data loaders give it."""
    return Program(
        lambda batch: observe(batch["x"], batch["scale"]),
        lambda batch: mean_field(batch["x"]),
        arguments=lambda step: ({"x": data(), "scale": 1.0 if step < CHANGE_AT else 2.0},),
    )


@probe(WATCHED)
def dict_with_keys_in_another_order():
    before, after = {"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}
    return switching(lambda x, scales: observe(x, next(iter(scales.values()))), before, after)


@probe(WATCHED)
def subclass_of_dict():
    class Options(dict):
        scale = 1.0

    options = Options()
    return changing(lambda x, options: observe(x, options.scale), options, lambda: setattr(options, "scale", 2.0))


@probe(WATCHED)
def default_dict():
    before = collections.defaultdict(lambda: 1.0)
    after = collections.defaultdict(lambda: 2.0)
    return switching(lambda x, scales: observe(x, scales["x"]), before, after)


@probe(WATCHED)
def list_that_changes():
    scales = [1.0]
    return changing(lambda x, scales: observe(x, float(len(scales))), scales, lambda: scales.append(1.0))


@probe(WATCHED)
def tuple_that_becomes_a_list():
    return switching(lambda x, pair: observe(x, 1.0 if isinstance(pair, tuple) else 2.0), (1, 2), [1, 2])


@probe(WATCHED)
def named_tuple():
    kind = collections.namedtuple("kind", "scale shift")
    return switching(lambda x, options: observe(x, *options), kind(1.0, 0.0), kind(2.0, 0.0))


@probe(WATCHED)
def members_of_a_set():
    return switching(lambda x, flags: observe(x, 2.0 if "wide" in flags else 1.0), {"narrow"}, {"wide"})


@probe(WATCHED)
def set_that_changes():
    flags = set()
    return changing(lambda x, flags: observe(x, 1.0 + len(flags)), flags, lambda: flags.add("wide"))


@probe(WATCHED)
def slice_that_changes():
    return switching(lambda x, part: observe(x, 1.0 + x[part].abs().mean()), slice(0, 2), slice(2, ROWS))
