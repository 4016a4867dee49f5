"""Numbers that a model reads from its surroundings: context variables, the environment, settings, the caller."""

import builtins
import contextvars
import decimal
import gc
import importlib
import logging
import os
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import pyro
import torch

from tests.compile.svi.probes.programs import AUDITED, CHANGE_AT, WATCHED, Program, data, observe, probe


@probe(WATCHED)
def context_variable():
    scale = contextvars.ContextVar("scale", default=1.0)
    return Program(lambda x: observe(x, scale.get()), change=lambda: scale.set(2.0))


@probe(WATCHED)
def thread_local():
    local = threading.local()
    local.scale = 1.0
    return Program(lambda x: observe(x, local.scale), change=lambda: setattr(local, "scale", 2.0))


@probe(WATCHED)
def event():
    wide = threading.Event()
    return Program(lambda x: observe(x, 2.0 if wide.is_set() else 1.0), change=wide.set)


@probe(WATCHED)
def environment():
    os.environ["PROBE_SCALE"] = "1.0"
    return Program(
        lambda x: observe(x, float(os.environ["PROBE_SCALE"])), change=lambda: os.environ.update(PROBE_SCALE="2.0")
    )


@probe(WATCHED)
def environment_with_a_default():
    return Program(
        lambda x: observe(x, float(os.getenv("PROBE_SCALE", "1.0"))),
        change=lambda: os.environ.update(PROBE_SCALE="2.0"),
    )


@probe(AUDITED)
def precision_of_decimals():
    def scale():
        return float(decimal.Decimal(4) / decimal.Decimal(3))

    def change():
        decimal.getcontext().prec = 1

    precision = decimal.getcontext().prec
    return Program(
        lambda x: observe(x, scale()), change=change, undo=lambda: setattr(decimal.getcontext(), "prec", precision)
    )


@probe(AUDITED)
def level_of_a_logger():
    logger = logging.getLogger("probe")
    logger.setLevel(logging.INFO)
    return Program(
        lambda x: observe(x, 2.0 if logger.isEnabledFor(logging.DEBUG) else 1.0),
        change=lambda: logger.setLevel(logging.DEBUG),
    )


@probe(WATCHED)
def recursion_limit():
    before = sys.getrecursionlimit()
    return Program(
        lambda x: observe(x, 2.0 if sys.getrecursionlimit() > before else 1.0),
        change=lambda: sys.setrecursionlimit(before + 100),
        undo=lambda: sys.setrecursionlimit(before),
    )


@probe(WATCHED)
def attribute_of_builtins():
    builtins.probe_scale = 1.0
    return Program(
        lambda x: observe(x, probe_scale),  # noqa: F821
        change=lambda: setattr(builtins, "probe_scale", 2.0),
        undo=lambda: delattr(builtins, "probe_scale"),
    )


@probe(WATCHED)
def garbage_collector():
    return Program(lambda x: observe(x, 1.0 if gc.isenabled() else 2.0), change=gc.disable, undo=gc.enable)


@probe(WATCHED)
def variable_of_the_caller():
    """The model looks at the loop that trains it."""

    def model(x):
        frame = sys._getframe()
        while "training_scale" not in frame.f_locals:
            frame = frame.f_back
        observe(x, frame.f_locals["training_scale"])

    def drive(svi, step):
        training_scale = 1.0 if step < CHANGE_AT else 2.0  # noqa: F841
        return svi.step(data())

    return Program(model, drive=drive)


@probe(WATCHED)
def module_that_is_reloaded():
    name = "probe_reloaded"
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / f"{name}.py"
    path.write_text("def scale():\n    return 1.0\n")
    sys.path.insert(0, folder.name)
    importlib.invalidate_caches()
    module = importlib.import_module(name)

    def change():
        path.write_text("def scale():\n    return 2.0  # another length\n")
        importlib.reload(module)

    def undo():
        sys.path.remove(folder.name)
        del sys.modules[name]
        folder.cleanup()

    return Program(lambda x: observe(x, module.scale()), change=change, undo=undo)


@probe(WATCHED)
def warning_filters():
    def scale():
        try:
            warnings.warn("the scale is wide", UserWarning, stacklevel=1)
        except UserWarning:
            return 2.0
        return 1.0

    return Program(
        lambda x: observe(x, scale()), change=lambda: warnings.filterwarnings("error", message="the scale is wide")
    )


@probe(WATCHED)
def default_type_of_torch():
    return Program(observe, change=lambda: torch.set_default_dtype(torch.float64))


@probe(WATCHED)
def default_type_that_is_read():
    def model(x):
        observe(x, 1.0 if torch.get_default_dtype() is torch.float32 else 2.0)

    return Program(model, change=lambda: torch.set_default_dtype(torch.float64))


@probe(WATCHED)
def threads_of_torch():
    before = torch.get_num_threads()
    return Program(
        lambda x: observe(x, 1.0 if torch.get_num_threads() == before else 2.0),
        change=lambda: torch.set_num_threads(before + 1),
        undo=lambda: torch.set_num_threads(before),
    )


@probe(WATCHED)
def setting_of_pyro():
    def model(x):
        observe(x, 2.0 if pyro.settings.get("cholesky_relative_jitter") > 5.0 else 1.0)

    return Program(model, change=lambda: pyro.settings.set(cholesky_relative_jitter=8.0))


@probe(WATCHED)
def validation_of_pyro():
    def model(x):
        observe(x, 1.0 if pyro.settings.get("validate_infer") == enabled else 2.0)

    enabled = pyro.settings.get("validate_infer")
    return Program(model, change=lambda: pyro.enable_validation(not enabled))
