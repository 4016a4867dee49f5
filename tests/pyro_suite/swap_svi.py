"""A pytest plugin that swaps amortvi's `SVI` in for Pyro's and writes the outcome of every test as JSON.

python -m pytest -p swap_svi --svi pyro|amortvi|compiled --report FILE TESTS...
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyro
import pytest

import amortvi

OPTIONS: dict[str, dict[str, Any]] = {"amortvi": {"compile_after": 2}, "compiled": {"compile": True}}

instances: list[Any] = []
result: dict[str, Any] = {"outcomes": {}, "messages": {}, "made": 0, "compiled": 0}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--svi", choices=["pyro", *OPTIONS], required=True)
    parser.addoption("--report", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    svi = config.getoption("--svi")
    if svi in OPTIONS:
        # A refusal is no failure, but a difference that the audit finds is one.
        config.addinivalue_line("filterwarnings", "ignore::amortvi.errors.AmortviWarning")
        config.addinivalue_line("filterwarnings", "error::amortvi.errors.VerificationWarning")
        installed = amortvi.svi.install(**OPTIONS[svi])
        installed.__enter__()
        config.add_cleanup(lambda: installed.__exit__(None, None, None))
        amortvi.svi.SVI.__init__ = _collecting(amortvi.svi.SVI.__init__)


def _collecting(initialize: Any) -> Any:
    def collect(svi: Any, *args: Any, **kwargs: Any) -> None:
        initialize(svi, *args, **kwargs)
        instances.append(svi)

    return collect


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    pyro.set_rng_seed(0)  # each test draws the same random numbers with either SVI


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)  # not there if the file cannot be collected
        result["messages"][report.nodeid] = message = crash.message if crash else report.longreprtext
        # With compile=True, a refusal is an error.
        outcome = "slow" if "Timeout (>" in message else "skipped" if "CaptureError" in message else "failed"
        result["outcomes"][report.nodeid] = outcome
    elif report.skipped or report.when == "call":
        result["outcomes"][report.nodeid] = report.outcome
    if report.when == "teardown":
        result["made"] += len(instances)
        result["compiled"] += sum(svi.compilations > 0 for svi in instances)
        instances.clear()


def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.getoption("--report").write_text(json.dumps(result))
