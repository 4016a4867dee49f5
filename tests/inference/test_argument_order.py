"""The order in which a dict lists the arguments has no meaning."""

from pathlib import Path

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi

X = {
    "counts": torch.randint(200, (60,), generator=torch.Generator().manual_seed(0)).float(),
    "exposure": torch.rand(60) + 0.5,
}
REORDERED = {"exposure": X["exposure"], "counts": X["counts"]}


def model(counts: Tensor, exposure: Tensor) -> None:
    with pyro.plate("data", counts.shape[0]):
        rate = pyro.sample("rate", dist.LogNormal(4.0, 1.0))
        pyro.sample("counts", dist.Poisson(rate * exposure), obs=counts)


@pytest.mark.parametrize("standardize", [True, False])
def test_posteriors_do_not_depend_on_it(standardize: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = avi.encoders.MLP(2, [8])
    vi = avi.AmortizedVI(model, encoder).fit(X, epochs=3, standardize=standardize, seed=0, progress=False)
    expected = vi.posterior(X).mean["rate"]
    assert torch.equal(vi.posterior(REORDERED).mean["rate"], expected)
    assert torch.equal(vi.refine(REORDERED, tolerance=10.0).mean["rate"], vi.refine(X, tolerance=10.0).mean["rate"])
    vi.save(tmp_path / "run")
    loaded = avi.AmortizedVI.load(tmp_path / "run", model, avi.encoders.MLP(2, [8]))
    assert torch.equal(loaded.posterior(REORDERED).mean["rate"], expected)
    further = [vi.history["elbo"].tolist()]
    for data in (X, REORDERED):
        run = avi.AmortizedVI.load(tmp_path / "run", model, avi.encoders.MLP(2, [8]))
        further.append(
            run.fit(data, epochs=2, standardize=standardize, seed=0, progress=False).history["elbo"].tolist()
        )
    assert further[1] == further[2]
