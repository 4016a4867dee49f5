"""Compiled graphs compute the same, are found in the cache on disk, and the error says why one does not compile."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.exc import InvalidCxxCompiler

from amortvi.compile.backends.inductor import compile_graph
from amortvi.compile.recording import record
from amortvi.errors import CaptureError
from tests.global_state import nothing_changes

X = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
STATE = torch.zeros(3)


def step(x: Tensor) -> list[Tensor]:
    first = torch.randn(4, 3)
    STATE.mul_(0.9).add_((x * first).sum(0))
    return [(x.exp() * STATE + torch.rand(3)).sum(), torch.randint(0, 5, (3,))]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(InvalidCxxCompiler(), r"needs a C\+\+ compiler"), (ValueError(), "RuntimeError: inductor failed")],
    ids=["no compiler", "another error"],
)
def test_the_error_explains_why_a_graph_does_not_compile(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*given: Any) -> None:
        raise RuntimeError("inductor failed") from error

    monkeypatch.setattr(torch._inductor, "compile", fail)
    with nothing_changes(), pytest.raises(CaptureError, match=f"{reason}.*compile=False"):
        compile_graph(record(step, [X]).graph, [X, STATE])


@pytest.mark.slow
def test_a_compiled_graph_draws_the_same_numbers_and_writes_the_same_tensors() -> None:
    recording = record(step, [X])
    with nothing_changes():
        run = compile_graph(recording.graph, [X, *recording.outside])
    found = []
    for each in (lambda x: run([x, *recording.outside])[: recording.results], step):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            STATE.zero_()
            found.append(
                [result for offset in range(3) for result in (*each(X + offset), STATE.clone(), torch.rand(2))]
            )
    torch.testing.assert_close(*found)
    STATE.zero_()


IN_A_NEW_PROCESS = """
import torch
from amortvi.compile.backends.inductor import compile_graph
from amortvi.compile.recording import record
from torch._dynamo.utils import counters
x, state = torch.ones(4, 3), torch.zeros(3)
recording = record(lambda x: [(x.exp() * state + torch.randn(3)).sum()], [x])
compile_graph(recording.graph, [x, state])([x, state])
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.mark.slow
def test_a_new_process_finds_the_compiled_graph_on_disk(tmp_path: Path) -> None:
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    arguments = [sys.executable, "-W", "ignore", "-c", IN_A_NEW_PROCESS]
    for expected in ("0 1", "1 0"):
        done = subprocess.run(arguments, env=environment, check=True, timeout=200, capture_output=True, text=True)
        assert done.stdout.strip() == expected
