"""Another process fills the cache of compiled code; the graph reaches it unchanged, and the process does not outlive its use."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx

from amortvi.compile.backends import ahead
from amortvi.compile.backends.ahead import CompilationAhead, read_graph, write_graph
from amortvi.compile.backends.interpreter import interpret
from amortvi.compile.recording import Recording, record

X = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
WEIGHT = torch.tensor([0.5, 1.5, -1.0])


def recorded() -> Recording:
    """Return a recording with draws, constants, several results of one operation, and a change in place."""
    total = torch.zeros(3)

    def function(x: Tensor) -> list[Tensor]:
        values, _ = (x * WEIGHT + torch.randn(4, 3) + torch.tensor([1.0, -float("inf"), 2.0])).sort(dim=0)
        total.add_(values.sum(0), alpha=0.5)
        return [values.amax().clone(), x.new_full((2,), 3.0, dtype=torch.float64)]

    return record(function, [X])


def test_a_graph_is_read_as_it_was_written() -> None:
    recording = recorded()
    inputs = recording.inputs([X])
    file = io.BytesIO()
    write_graph(recording.graph, inputs, file)
    file.seek(0)
    module, example = read_graph(file)
    assert isinstance(module, fx.GraphModule)
    assert [(t.shape, t.stride(), t.dtype) for t in example] == [(t.shape, t.stride(), t.dtype) for t in inputs]
    found = []
    for each in (recording.graph, module):
        given = [tensor.clone() for tensor in inputs]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            # The draws differ from call to call, which they would not if reading the graph had made constants of them.
            found.append([*(out for _ in range(2) for out in interpret(each)(given)), *given, torch.rand(1)])
    assert not torch.equal(found[0][0], found[0][2])
    torch.testing.assert_close(*found, rtol=0, atol=0, equal_nan=True)


def test_the_process_ends_with_the_graph_that_it_compiles_for() -> None:
    recording = recorded()
    compilation = CompilationAhead(recording.graph, recording.inputs([X]))
    process = compilation._process
    assert process.poll() is None
    del compilation
    assert process.poll() is not None


def test_a_process_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_PATIENCE", 0.1)
    monkeypatch.setattr(ahead, "_PROGRAM", "import time; time.sleep(600)")
    recording = recorded()
    compilation = CompilationAhead(recording.graph, recording.inputs([X]))
    compilation.wait()
    assert compilation._process.poll() is not None


IN_A_NEW_PROCESS = """
import torch
from torch._dynamo.utils import counters
from amortvi.compile.verified_graph import VerifiedGraph
state = torch.zeros(3)
def step(x):
    return [(x.exp() * state.add_(1) + torch.randn(3)).sum()]
graph = VerifiedGraph(step, [torch.ones(4, 3)], [], lambda: 1)
ahead = []
for number in range(12):
    graph.compile_when_due(lambda: [torch.ones(4, 3)], after=10)
    ahead.append(graph._ahead is not None)
    graph.run([torch.ones(4, 3)], lambda: step(torch.ones(4, 3)))
assert ahead == [False] * 2 + [True] * 8 + [False] * 2, ahead
assert graph.is_compiled
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.mark.slow
def test_what_the_process_has_compiled_is_found_on_disk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_NEW_PROCESS],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        check=True,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "1 0"
