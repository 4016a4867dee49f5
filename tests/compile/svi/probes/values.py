"""Strings, flags, and elements of arrays that a model reads."""

import array
import operator

import numpy as np
import pandas as pd

from tests.compile.svi.probes.programs import WATCHED, Program, observe, probe


@probe(WATCHED)
def array_of_python():
    scales = array.array("d", [1.0])
    return Program(lambda x: observe(x, scales[0]), change=lambda: operator.setitem(scales, 0, 2.0))


@probe(WATCHED)
def byte_array():
    scales = bytearray([1, 9])
    return Program(lambda x: observe(x, float(scales[0])), change=lambda: operator.setitem(scales, 0, 2))


@probe(WATCHED)
def element_of_a_numpy_array():
    scales = np.ones(3)
    return Program(lambda x: observe(x, scales[1]), change=lambda: operator.setitem(scales, 1, 2.0))


@probe(WATCHED)
def element_of_a_large_numpy_array():
    scales = np.ones(100_000)
    return Program(lambda x: observe(x, scales[77_777]), change=lambda: operator.setitem(scales, 77_777, 2.0))


@probe(WATCHED)
def mean_of_a_numpy_array():
    scales = np.ones(4)
    return Program(lambda x: observe(x, float(scales.mean())), change=lambda: scales.fill(2.0))


@probe(WATCHED)
def numpy_number_that_is_replaced():
    scale = np.float32(1.0)

    def change():
        nonlocal scale
        scale = np.float32(2.0)

    return Program(lambda x: observe(x, float(scale)), change=change)


@probe(WATCHED)
def numpy_record():
    record = np.zeros((), dtype=[("scale", "f8")])
    record["scale"] = 1.0
    return Program(lambda x: observe(x, float(record["scale"])), change=lambda: operator.setitem(record, "scale", 2.0))


@probe(WATCHED)
def shape_of_a_numpy_array():
    rows = np.zeros((1, 2))
    return Program(lambda x: observe(x, float(rows.shape[0])), change=lambda: setattr(rows, "shape", (2, 1)))


@probe(WATCHED)
def cell_of_a_data_frame():
    table = pd.DataFrame({"scale": [1.0]})
    return Program(lambda x: observe(x, table["scale"].iloc[0]), change=lambda: operator.setitem(table, "scale", [2.0]))


@probe(WATCHED)
def string():
    options = {"likelihood": "narrow"}
    scales = {"narrow": 1.0, "wide": 2.0}
    return Program(
        lambda x: observe(x, scales[options["likelihood"]]), change=lambda: options.update(likelihood="wide")
    )


@probe(WATCHED)
def flag():
    options = {"wide": False}
    return Program(lambda x: observe(x, 2.0 if options["wide"] else 1.0), change=lambda: options.update(wide=True))


@probe(WATCHED)
def integer_that_becomes_a_flag():
    """True equals 1."""
    options = {"wide": 1}
    return Program(
        lambda x: observe(x, 2.0 if options["wide"] is True else 1.0), change=lambda: options.update(wide=True)
    )


@probe(WATCHED)
def none_that_becomes_a_number():
    options = {"scale": None}
    return Program(lambda x: observe(x, options["scale"] or 1.0), change=lambda: options.update(scale=2.0))


@probe(WATCHED)
def sign_of_zero():
    """-0.0 equals 0.0."""
    options = {"zero": 0.0}
    return Program(
        lambda x: observe(x, 1.0 if str(options["zero"]) == "0.0" else 2.0), change=lambda: options.update(zero=-0.0)
    )
