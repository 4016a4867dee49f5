"""Importing amortvi is fast and quiet, and changes no global state."""

import inspect
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import amortvi


def run(program: str) -> str:
    """Run a program in a new interpreter, check that it succeeds silently, and return its output."""
    command, environment = [sys.executable, "-c", textwrap.dedent(program)], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


HEAVY = {"arviz", "h5netcdf", "h5py", "jinja2", "matplotlib", "netCDF4", "pandas", "scipy", "sklearn", "xarray", "zuko"}
LAZY = {"amortvi.comparison", "amortvi.compile.svi", "amortvi.diagnostics", "amortvi.plots", "amortvi.testing"}


def test_import_loads_only_what_a_fit_needs_and_issues_no_warning() -> None:
    """The warnings that PyTorch and Pyro issue at their own import do not count."""
    program = """
        import sys, warnings, torch, pyro, pyro.infer
        before = set(sys.modules)
        warnings.simplefilter("error")
        import amortvi
        print(*sorted(before))
        print(*sorted(set(sys.modules) - before))
    """
    before, loaded = (set(line.split()) for line in run(program).splitlines())
    assert "amortvi.inference" in loaded
    # If PyTorch or Pyro loaded one of these, this test could not detect an import.
    for modules in (before, loaded):
        assert not HEAVY & {name.partition(".")[0] for name in modules}
        assert not [name for name in modules if name.startswith("arviz")]  # ArviZ 1.x consists of several packages
    assert not LAZY & loaded


def test_a_fit_and_its_posterior_do_not_import_the_compiler_of_torch() -> None:
    """Importing it takes longer than a short fit."""
    program = """
        import sys, torch, amortvi as avi
        model = avi.models.VAE(torch.nn.Linear(2, 3), 2)
        vi = avi.AmortizedVI(model, avi.encoders.MLP(3, [8]), "diagonal")
        x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).sigmoid()
        vi.fit(x, epochs=30, batch_size=40, seed=0, progress=False)
        vi.posterior(x).mean
        print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
        # Optimizers constructed later are excluded from torch.compile, as ever.
        torch.optim.Adam(model.parameters())
        print(torch.optim.Adam.add_param_group.__wrapped__.__dynamo_disable is not None)
    """
    assert run(program).splitlines() == ["[]", "True"]


def test_import_changes_no_global_state() -> None:
    """The state is compared with that after importing PyTorch and Pyro alone."""
    program = """
        import logging, os, random, signal, sys, warnings
        import numpy, torch, pyro
        import pyro.distributions, pyro.infer, pyro.nn
        import torch.distributions as td

        def state():
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
                "validation of torch": td.Distribution._validate_args,
                "validation of each class": {
                    name: getattr(pyro.distributions, name)._validate_args
                    for name in ("Normal", "Bernoulli", "Delta", "MultivariateNormal")
                },
                "pyro settings": pyro.settings.get(),
                "validation of pyro": pyro.infer.util.is_validation_enabled(),
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
        # Importing zuko disables validation for the whole process, which the family Flow undoes.
        with torch.random.fork_rng():
            amortvi.families.Flow().setup(dim=2, context_features=3)
        assert "zuko" in sys.modules
        after = state()
        print([name for name in before if before[name] != after[name]])
    """
    assert run(program) == "[]\n[]"
    # A caller who works in double precision without validation keeps both.
    other = "pyro.enable_validation(False); torch.set_default_dtype(torch.float64)\n        before = state()"
    assert run(program.replace("before = state()", other)) == "[]\n[]"


def test_every_public_name_resolves() -> None:
    modules = [amortvi, *(value for name in amortvi.__all__ if inspect.ismodule(value := getattr(amortvi, name)))]
    for module in modules:
        assert len(set(module.__all__)) == len(module.__all__), module
        for name in module.__all__:
            assert hasattr(module, name), f"{module.__name__}.{name}"
    assert sorted(dir(amortvi)) == sorted(amortvi.__all__)
    assert not hasattr(amortvi, "unknown")


def test_every_extra_that_is_named_exists() -> None:
    package = Path(amortvi.__file__).parent
    named = {name for path in package.rglob("*.py") for name in re.findall(r'extra="(\w+)"', path.read_text())}
    extras = tomllib.loads((package.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set() < named <= set(extras)
