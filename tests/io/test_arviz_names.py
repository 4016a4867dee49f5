"""Names of dimensions and labels that the user gives to an export, or that a DataFrame has."""

from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi.errors import OptionError
from tests.arviz_versions import groups
from tests.io.exports import nested, normal


def curves(y: Tensor, offset: Tensor) -> None:
    with pyro.plate("curve", y.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        level = pyro.deterministic("level", z.sum(-1), event_dim=0)
        mean = level.unsqueeze(-1) + offset.sum(-1, keepdim=True)
        pyro.sample("y", dist.Normal(mean, torch.ones(3)).to_event(1), obs=y)


Y = pd.DataFrame(normal(6, 3).numpy(), columns=["mon", "tue", "wed"], index=list("abcdef"))
OFFSET = pd.DataFrame(normal(6, 2).numpy(), columns=["in", "out"])
VI = avi.AmortizedVI(curves, avi.encoders.MLP(5, [])).setup((Y, OFFSET), seed=0)
SMALL: dict[str, Any] = {"draws": 5, "prior_draws": 2, "seed": 0}


def export(x: Any = (Y, OFFSET), **options: Any) -> dict[str, Any]:
    return groups(VI.to_arviz(x, **SMALL, **options))


def labels(found: Any, dim: str) -> list[Any]:
    return list(found.coords[dim].values)


def test_names_apply_to_every_group() -> None:
    found = export(dims={"z": ["factor"], "y": ["day"], "offset": ["gate"]}, coords={"factor": ["speed", "power"]})
    for group, lead in (("posterior", 4), ("prior", 1)):
        assert found[group]["z"].dims == ("chain", "draw", "curve", "factor")
        assert found[group].sizes["chain"] == lead
        assert labels(found[group], "factor") == ["speed", "power"]
    for group in ("posterior_predictive", "prior_predictive"):
        assert found[group]["y"].dims == ("chain", "draw", "curve", "day")
    assert found["observed_data"]["y"].dims == ("curve", "day")
    assert found["constant_data"]["offset"].dims == ("curve", "gate")
    assert found["log_likelihood"]["y"].dims == ("chain", "draw", "curve")
    np.testing.assert_array_equal(found["observed_data"]["y"].sel(curve="c", day="tue"), np.float32(Y.loc["c", "tue"]))


def test_columns_label_the_sites_and_arguments_that_they_are() -> None:
    found = export()
    for group in ("observed_data", "posterior_predictive", "prior_predictive"):
        assert labels(found[group], "y_dim_0") == ["mon", "tue", "wed"]
    assert labels(found["constant_data"], "offset_dim_0") == ["in", "out"]
    assert labels(export(coords={"y_dim_0": [1, 2, 3]})["observed_data"], "y_dim_0") == [1, 2, 3]
    assert labels(export((Y.to_numpy(), OFFSET))["observed_data"], "y_dim_0") == [0, 1, 2]


def test_columns_label_a_nested_plate() -> None:
    y, t = pd.DataFrame(normal(5, 4).numpy(), columns=list("wxyz")), normal(5)
    vi = avi.AmortizedVI(nested, avi.encoders.MLP(5, [])).setup({"y": y, "t": t}, seed=0)
    found = groups(vi.to_arviz({"t": t, "y": y}, dims={"drift": ["units", "times", "part"]}, **SMALL))
    assert found["posterior"]["drift"].dims == ("chain", "draw", "units", "times", "part")
    assert labels(found["posterior"], "times") == labels(found["observed_data"], "times") == list("wxyz")


def test_plates_and_repeated_names() -> None:
    found = export(dims={"z": ["curve", "k"], "offset": ["curve", "k"], "level": []}, coords={"curve": range(6)})
    assert found["posterior"]["z"].dims[2:] == found["constant_data"]["offset"].dims == ("curve", "k")
    assert labels(found["posterior"], "curve") == list(range(6))  # in place of the index


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": {"w": ["k"]}}, r"dims has no variable 'w'.*'z'"),
        ({"dims": {"log_q": []}}, r"dims has no variable 'log_q'"),
        ({"dims": {"z": ["a", "b", "c"]}}, r"dims\['z'\] must name 1 dimension besides.*'curve'.*\['a', 'b', 'c'\]"),
        ({"dims": {"z": []}}, r"dims\['z'\] must name 1 dimension "),
        ({"dims": {"level": ["k"]}}, r"dims\['level'\] must name 0 dimensions"),
        ({"dims": {"z": ["draw"]}}, r"dims\['z'\] must be a list of distinct names"),
        ({"dims": {"z": ["curve", "curve"]}}, r"dims\['z'\] must be a list of distinct names"),
        ({"dims": {"z": ["level"]}}, r"dims\['z'\] must differ from the names of variables.*\['level'\]"),
        ({"dims": {"z": ["k"], "y": ["k"]}}, r"dims gives the name 'k' to dimensions of different sizes, \[2, 3\]"),
        ({"coords": {"factor": [0, 1]}}, r"coords has no dimension 'factor'.*'z_dim_0'"),
        ({"coords": {"z_dim_0": ["a"]}}, r"coords\['z_dim_0'\] must have 2 labels; got 1"),
        ({"coords": {"chain": range(4)}}, r"coords has no dimension 'chain'"),
        ({"coords": {"z_dim_0": [[0], [1]], "y_dim_0": "abc"}}, r"coords\['y_dim_0'\] must be a one-dimensional list"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        export(**options)


@pytest.mark.parametrize("given", [["a", "b"], np.array([1.5, 2.5]), torch.tensor([3, 4]), [("a", 1), ("b", 2)]])
def test_labels_of_any_kind(given: Any, tmp_path: Any) -> None:
    data = VI.to_arviz((Y, OFFSET), coords={"z_dim_0": given}, **SMALL)
    found = labels(groups(data)["posterior"], "z_dim_0")
    assert found == (["a, 1", "b, 2"] if isinstance(given[0], tuple) else list(np.asarray(given)))
    data.to_netcdf(str(tmp_path / "run.nc"))


def test_chains_hold_successive_draws_of_one_stream() -> None:
    def drawn(**options: int) -> Any:
        return groups(VI.to_arviz((Y, OFFSET), prior_draws=0, seed=0, **options))["posterior"]["z"].values

    one, three = drawn(draws=12, chains=1), drawn(draws=4, chains=3)
    assert three.shape == (3, 4, 6, 2)
    np.testing.assert_array_equal(three.reshape(1, 12, 6, 2), one)
    assert len(np.unique(three)) == three.size
