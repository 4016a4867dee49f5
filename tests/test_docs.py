"""The Python code in the documentation runs, in order, and its skeletons pass the conformance suites."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pyro
import pytest
import torch

import amortvi as avi
from tests.exact import linear_gaussian, solved

matplotlib.use("Agg")

from matplotlib import pyplot  # the backend is chosen before

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "# not run"


@dataclass(frozen=True)
class Block:
    """A Python block of a page, with the line at which it starts."""

    page: str
    line: int
    code: str

    def compiled(self) -> Any:
        # Preceded by empty lines, so that a traceback names the line of the page.
        return compile("\n" * self.line + self.code, str(ROOT / self.page), "exec")

    @property
    def runs(self) -> bool:
        return NOT_RUN not in self.code.splitlines()


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    return [Block(page, text.count("\n", 0, m.start("code")), m["code"]) for m in BLOCK.finditer(text)]


def run(page: str) -> dict[str, Any]:
    """Run the blocks of a page in one namespace, and return it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        code = block.compiled()
        if block.runs:
            exec(code, namespace)
    return namespace


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Isolate what a page writes, draws and puts into Pyro's parameter store."""
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
    pyro.clear_param_store()
    pyplot.close("all")


def test_blocks_are_found_with_their_lines() -> None:
    first = blocks("docs/quickstart.md")[0]
    assert (ROOT / first.page).read_text().splitlines()[first.line] == first.code.splitlines()[0]
    fences = (ROOT / first.page).read_text().count("```python")
    assert len(blocks(first.page)) == fences


# The page explains the k-hats that ArviZ warns about.
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution:UserWarning")
@pytest.mark.parametrize("page", ["docs/quickstart.md", "README.md", "CONTRIBUTING.md"])
def test_page_runs(page: str) -> None:
    assert blocks(page), f"{page} has no Python block"
    run(page)


@pytest.fixture(scope="module")
def skeletons() -> dict[str, Any]:
    """What CONTRIBUTING.md defines."""
    namespace: dict[str, Any] = {"__name__": __name__}
    for block in blocks("CONTRIBUTING.md"):
        if block.runs and ("\nclass " in block.code or "\ndef " in block.code):
            exec(block.compiled(), namespace)
    return namespace


@pytest.mark.parametrize("check", avi.testing.FAMILY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ["Bidiagonal", "Laplace"])
def test_family_skeleton(
    name: str, check: Callable[[avi.families.FamilyChoice], None], skeletons: dict[str, Any]
) -> None:
    check(skeletons[name]())


def test_bidiagonal_skeleton_agrees_with_torch(skeletons: dict[str, Any]) -> None:
    family = skeletons["Bidiagonal"]().setup(4, 3).double()
    q = family.distribution(torch.linspace(-1.0, 1.0, 22, dtype=torch.float64).reshape(2, 11))
    reference = torch.distributions.MultivariateNormal(q.mean, q.covariance_matrix)
    z = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64).reshape(3, 2, 4)
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z))
    far = torch.ones_like(q.covariance_matrix).triu(2).bool()
    assert (q.covariance_matrix[far] == 0).all()


@pytest.mark.parametrize("check", avi.testing.OBJECTIVE_CHECKS, ids=lambda check: check.__name__)
def test_objective_skeleton(check: Callable[[avi.objectives.Objective], None], skeletons: dict[str, Any]) -> None:
    check(skeletons["Combined"](5))


def test_diagnostic_skeleton(skeletons: dict[str, Any]) -> None:
    model = linear_gaussian()
    found = skeletons["contraction"](solved(model), model.simulate(5, seed=0), site="z").to_frame()
    expected = torch.linalg.inv(model.precision()).diagonal().sqrt()
    # The standard deviation of the prior, one, is estimated from 10,000 draws: five standard errors.
    torch.testing.assert_close(torch.tensor(found.to_numpy()), expected.expand(5, -1), rtol=5 / 20_000**0.5, atol=0)


def test_plot_skeleton(skeletons: dict[str, Any]) -> None:
    model = avi.models.LinearGaussian(torch.tensor([[1.0], [0.5]]), scale=1.0)
    x = model.simulate(20, seed=0)
    posterior = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).setup(x, seed=0).posterior(x)
    ax = pyplot.subplots()[1]
    assert skeletons["plot_intervals"](posterior, "z", ax=ax) is ax
    expected = posterior.median["z"].flatten().sort().values
    torch.testing.assert_close(torch.as_tensor(ax.lines[0].get_ydata()), expected.double())
    with pytest.raises(avi.errors.OptionError, match=r"one of \['z'\]; got 'w'"):
        skeletons["plot_intervals"](posterior, "w")
