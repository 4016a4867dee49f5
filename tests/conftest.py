"""The option ``--seed-offset``: the suite with other random numbers, to show that no test rests on a seed."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pyro
import pytest
import torch

from amortvi._util import random


@pytest.fixture(autouse=True)
def _empty_param_store() -> Iterator[None]:
    """A test that trains in plain Pyro leaves parameters in its store."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed-offset", type=int, default=0, help="added to every seed; doctests, which print numbers, are skipped"
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell ignores Ctrl-C in what it runs in the background, and so would all processes that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Most tests fit for a few epochs only.
    config.addinivalue_line("filterwarnings", "ignore::amortvi.errors.ConvergenceWarning")
    # When its compiler is first used, torch turns validation off, in whichever test that would be.
    torch.compiler.disable(lambda: None)
    pyro.enable_validation(True)
    offset = config.getoption("--seed-offset")
    if not offset:
        return
    seed_or_none, manual_seed = random.seed_or_none, torch.manual_seed

    def shifted(value: object) -> int | None:
        seed = seed_or_none(value)
        return None if seed is None else (seed + offset) % 2**64

    # Every seed that amortvi is given passes through these two functions.
    random.seed_or_none = shifted
    torch.manual_seed = lambda seed: manual_seed(int(seed) + offset)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--seed-offset"):
        items[:] = [item for item in items if not isinstance(item, pytest.DoctestItem)]
