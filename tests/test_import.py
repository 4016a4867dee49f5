"""Importing amortvi is quick, quiet, and changes nothing for anybody else."""

import os
import subprocess
import sys
import textwrap


def _run(program: str) -> str:
    """Run a program in a fresh interpreter and return what it prints; it must succeed and leave standard error empty."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_what_is_not_needed_is_not_imported_and_nothing_warns() -> None:
    """Beside what torch and pyro warn of themselves when they are imported."""
    program = """
        import sys, warnings, torch, pyro, pyro.infer
        warnings.simplefilter("error")
        import amortvi
        print(*sorted({name.partition(".")[0] for name in sys.modules}))
    """
    loaded = _run(program).split()
    assert "torch" in loaded
    assert "pyro" in loaded
    heavy = {"pandas", "matplotlib", "sklearn", "scipy", "xarray", "netCDF4", "h5netcdf", "h5py", "zuko", "pytest"}
    assert not heavy & set(loaded)
    # arviz_base and others are what arviz 1.x consists of.
    assert not [name for name in loaded if name.startswith("arviz")]


def test_import_changes_no_global_state() -> None:
    """Against what importing torch and pyro alone makes of it."""
    program = """
        import logging, os, random, signal, sys, warnings
        import numpy, torch, pyro
        import pyro.distributions, pyro.infer, pyro.nn
        import torch.distributions as td

        def state():
            from pyro.distributions.torch_distribution import TorchDistributionMixin
            from pyro.distributions.distribution import Distribution
            from pyro.poutine.runtime import _PYRO_STACK
            store = pyro.get_param_store()
            return {
                "default dtype": torch.get_default_dtype(),
                "default device": torch.get_default_device(),
                "grad mode": torch.is_grad_enabled(),
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "matmul precision": torch.get_float32_matmul_precision(),
                "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
                "print options": str(torch._tensor_str.PRINT_OPTS),
                "torch validation": td.Distribution._validate_args,
                "validation of each class": {
                    name: getattr(pyro.distributions, name)._validate_args
                    for name in ("Normal", "Bernoulli", "Delta", "MultivariateNormal")
                },
                "pyro settings": pyro.settings.get(),
                "pyro validation": pyro.infer.util.is_validation_enabled(),
                "pyro handlers": list(_PYRO_STACK),
                "pyro params": list(store.keys()),
                "torch random state": torch.get_rng_state().tolist(),
                "numpy random state": str(numpy.random.get_state()),
                "python random state": random.getstate(),
                "warnings": [str(each) for each in warnings.filters],
                "show warning": warnings.showwarning,
                "numpy errors": numpy.geterr(),
                "numpy print options": str(numpy.get_printoptions()),
                "log level": logging.getLogger().level,
                "log handlers": list(logging.getLogger().handlers),
                "environment": dict(os.environ),
                "excepthook": sys.excepthook,
                "path": list(sys.path),
                "signals": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
                "recursion limit": sys.getrecursionlimit(),
            }

        before = state()
        import amortvi
        after = state()
        print([name for name in before if before[name] != after[name]])
    """
    assert _run(program) == "[]"
    # Somebody who works in double precision, without validation, keeps both.
    other = "pyro.enable_validation(False); torch.set_default_dtype(torch.float64)\n        before = state()"
    assert _run(program.replace("before = state()", other)) == "[]"


def test_a_missing_extra_is_named_when_it_is_needed() -> None:
    program = """
        import sys
        sys.modules["sklearn"] = sys.modules["matplotlib"] = None  # as if they were not installed
        import torch, amortvi
        for call in (amortvi.data.datasets.digits, lambda: amortvi.plots.plot_images(torch.rand(2, 4))):
            try:
                call()
            except amortvi.errors.MissingDependencyError as error:
                assert isinstance(error, ImportError)
                print(error)
    """
    assert _run(program).splitlines() == [
        "the digits data needs sklearn, which is not installed: pip install 'amortvi[examples]'.",
        "plotting needs matplotlib, which is not installed: pip install 'amortvi[plots]'.",
    ]


def test_the_extras_that_are_named_exist() -> None:
    from importlib.metadata import metadata

    assert {"examples", "plots"} <= set(metadata("amortvi").get_all("Provides-Extra") or [])
