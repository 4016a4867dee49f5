"""Work on many observations needs memory for its result and for one chunk, measured in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads resident memory from /proc")

PROGRAM = """
import json
import torch

torch.set_num_threads(1)
torch.manual_seed(0)
import amortvi as avi

def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024

def measure(name, work, size, *scale):
    '''Print resident memory in MiB before some work, at its peak, and the size of the result.'''
    work(20, 2)  # libraries are loaded at their first use
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak
    result = work(*scale)
    print(json.dumps({"name": name, "before": before, "peak": resident("VmHWM"), "result": size(result) / 2**20}))

def tensors(drawn):
    return sum(value.numel() * value.element_size() for value in drawn.values())

def frame(table):
    return float(table.memory_usage().sum())

def export(data):
    names = data.groups() if hasattr(data, "posterior") and callable(data.groups) else data.children
    return sum(data[name].nbytes for name in names)

# The hidden layer of the decoder has 1,000 units: 3,000 observations with 50 draws each take 570 MiB there.
x = torch.randn(3000, 10)
decoder = torch.nn.Sequential(torch.nn.Linear(4, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 10))
vi = avi.AmortizedVI(avi.models.VAE(decoder, 4, "normal"), avi.encoders.MLP(10, [64]), "full").setup(x, seed=0)
works = {
    "predict": (lambda n, k: vi.predict(x[:n], k), tensors),
    "to_arviz": (lambda n, k: vi.to_arviz(x[:n], k, prior_draws=(k + 3) // 4), export),
    "sample_prior": (lambda n, k: vi.sample_prior(n * k, x), tensors),
    "evaluate": (lambda n, k: vi.evaluate(x[:n], particles=k), frame),
    "evidence": (lambda n, k: avi.evidence(vi, x[:n], draws=k), lambda found: frame(found.to_frame())),
    "evidence, many draws": (lambda n, k: avi.evidence(vi, x[:3], draws=n * k // 3), lambda found: 0.0),
    "resample": (lambda n, k: vi.posterior(x[:n // 4]).sample(k, resample=True, proposals=4 * k), tensors),
}
for name, (work, size) in works.items():
    measure(name, work, size, 3000, 50)

y = torch.randn(1_000_000, 20)
model = avi.models.LinearGaussian(torch.randn(20, 16), scale=1.0)
for family, rows in (("diagonal", 1_000_000), ("low_rank", 200_000), ("full", 1_000_000)):
    vi = avi.AmortizedVI(model, avi.encoders.MLP(20, [64]), family, freeze_model=True).setup(y[:256], seed=0)
    measure(family, lambda n, _: vi.posterior(y[:n]).mean, tensors, rows, 0)
"""


@pytest.fixture(scope="module")
def found():
    """The memory of each piece of work, in MiB, by name."""
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return {memory.pop("name"): memory for memory in map(json.loads, done.stdout.splitlines())}


LEAST = {"predict": 5, "to_arviz": 12, "sample_prior": 7, "diagonal": 60, "low_rank": 12, "full": 60}
"""The size in MiB that large results have at least, so that the work was done."""
SMALL = ["evaluate", "evidence", "evidence, many draws", "resample"]


@pytest.mark.parametrize("name", [*LEAST, *SMALL])
def test_memory_is_that_of_the_result_and_one_chunk(found, name):
    """All draws at once would take 570 MiB, and the parameters of a million full covariances 580 MiB."""
    memory = found[name]
    assert memory["result"] >= LEAST.get(name, 0)
    assert memory["peak"] - memory["before"] < memory["result"] + 250


def test_a_million_observations_take_less_than_two_gigabytes(found):
    """Everything included: PyTorch, the observations and the result."""
    assert found["full"]["peak"] < 2e9 / 2**20
