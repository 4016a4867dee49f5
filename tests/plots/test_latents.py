"""plot_latents: the positions of the points, and the size of the ellipses."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyro
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from pyro import distributions as dist
from scipy.stats import chi2
from torch import Tensor

import amortvi as avi
from amortvi.errors import DataError, FamilyError, OptionError
from amortvi.families import Flow
from amortvi.plots import plot_latents
from amortvi.plots.palette import PALETTE
from amortvi.posterior import Posterior
from tests.exact import linear_gaussian
from tests.plots.conftest import legend_texts


def points_of(ax: Axes) -> npt.NDArray[Any]:
    """Return the points of observations without labels."""
    return np.asarray(ax.collections[0].get_offsets())


@pytest.fixture(scope="module")
def four_sites(x: Tensor) -> Posterior:
    """The sites ``a``, a real matrix; ``b``, a positive vector; ``c``, a simplex; ``d``, a real vector."""

    def program(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            a = pyro.sample("a", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
            b = pyro.sample("b", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
            c = pyro.sample("c", dist.Dirichlet(torch.ones(3)))
            d = pyro.sample("d", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = a.flatten(-2) + torch.cat([b + d, c[..., :2]], -1)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    vi = avi.AmortizedVI(program, avi.encoders.MLP(4, []), "full").setup(x.float(), seed=0)
    return vi.posterior(x.float())


def test_points_are_the_posterior_means(posterior: Posterior, ax: Axes) -> None:
    assert plot_latents(posterior, dims=(2, 0), ellipses=0, ax=ax) is ax
    np.testing.assert_allclose(points_of(ax), posterior.mean["z"][:, [2, 0]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z[2]", "z[0]")
    assert not ax.patches


def test_the_default_dims_have_the_largest_variances(vi: avi.AmortizedVI, x: Tensor, ax: Axes) -> None:
    plot_latents(vi, x, ellipses=3, level=0.95, ax=ax)
    means = vi.posterior(x).mean["z"]
    first, second = means.var(0).topk(2).indices.sort().values.tolist()
    np.testing.assert_allclose(points_of(ax), means[:, [first, second]])
    assert ax.get_title() == f"Posterior means of z[{first}] and z[{second}]\n60 observations, 95% ellipses of 3"


def assert_outline(ellipse: Any, mean: Tensor, covariance: Tensor, level: float) -> None:
    """Assert that the squared Mahalanobis distance of the whole outline is the quantile of the level."""
    angles = np.linspace(0, 6, 13)
    outline = ellipse.get_patch_transform().transform(np.stack([np.cos(angles), np.sin(angles)], 1))
    residual = outline - mean.double().numpy()
    distance = np.einsum("ij,jk,ik->i", residual, np.linalg.inv(covariance.double().numpy()), residual)
    np.testing.assert_allclose(distance, chi2.ppf(level, df=2), rtol=1e-4)


@pytest.mark.parametrize(("level", "dims"), [(0.5, (0, 1)), (0.9, (2, 1))])
def test_ellipses_have_the_size_of_the_level(posterior: Posterior, ax: Axes, level: float, dims: tuple) -> None:
    plot_latents(posterior, ellipses=7, level=level, dims=dims, ax=ax)
    rows = np.linspace(0, len(posterior) - 1, 7).round().astype(int)
    for row, ellipse in zip(rows, ax.patches, strict=True):
        mean = posterior.mean["z"][row, list(dims)]
        assert_outline(ellipse, mean, posterior.covariance[row][list(dims)][:, list(dims)], level)


def test_at_most_one_ellipse_per_observation_inside_the_axes(posterior: Posterior, ax: Axes) -> None:
    plot_latents(posterior, ellipses=1000, level=0.999, ax=ax)
    assert len(ax.patches) == len(posterior)
    ax.figure.canvas.draw()
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for ellipse in ax.patches:
        box = ellipse.get_path().get_extents(ellipse.get_patch_transform())
        assert left <= box.x0 < box.x1 <= right
        assert bottom <= box.y0 < box.y1 <= top


NUMBERS = torch.arange(60) % 2 * 4 + 3


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (NUMBERS, ["3", "7"]),
        (pd.Series(NUMBERS.numpy(), index=range(100, 160)), ["3", "7"]),
        ([f"class {n}" for n in NUMBERS], ["class 3", "class 7"]),
        ((NUMBERS == 7).numpy(), ["False", "True"]),
    ],
    ids=["tensor", "series", "strings", "booleans"],
)
def test_few_labels_color_points_and_ellipses(posterior: Posterior, ax: Axes, labels: Any, names: list[str]) -> None:
    plot_latents(posterior, labels=labels, dims=(0, 1), ellipses=5, ax=ax)
    assert legend_texts(ax) == names
    shown = [to_hex(handle.get_color()).upper() for handle in ax.get_legend().legend_handles]
    assert shown == list(PALETTE[:2])
    expected = np.array([to_rgba(PALETTE[int(n == 7)]) for n in NUMBERS])
    shapes = set()
    for kind, number in enumerate((3, 7)):
        points = ax.collections[kind]
        np.testing.assert_allclose(np.asarray(points.get_offsets()), posterior.mean["z"][number == NUMBERS][:, :2])
        np.testing.assert_allclose(np.asarray(points.get_facecolor())[:, :3], expected[number == NUMBERS][:, :3])
        shapes.add(points.get_paths()[0].vertices.tobytes())
    assert len(shapes) == 2  # without colors
    rows = np.linspace(0, len(posterior) - 1, 5).round().astype(int)
    np.testing.assert_allclose([ellipse.get_edgecolor() for ellipse in ax.patches], expected[rows])


@pytest.mark.parametrize("labels", [torch.arange(60), np.linspace(0, 1, 60), np.r_[np.nan, np.linspace(2, 5, 59)]])
def test_many_numbers_have_a_color_bar(posterior: Posterior, ax: Axes, labels: Any) -> None:
    plot_latents(posterior, labels=labels, ellipses=0, ax=ax)
    assert ax.get_legend() is None
    bar = ax.child_axes[0]
    values = np.asarray(labels, dtype=float)
    assert bar.get_ylim() == pytest.approx((np.nanmin(values), np.nanmax(values)))
    points = np.asarray(ax.collections[0].get_facecolor())[:, :3]
    viridis = pyplot.get_cmap("viridis")
    np.testing.assert_allclose(points[-1], viridis(1.0)[:3])
    np.testing.assert_allclose(points[0], (0.8,) * 3 if np.isnan(values[0]) else viridis(0.0)[:3])


def test_a_flattened_first_site_is_the_default_and_a_later_one_has_its_own_coordinates(four_sites: Posterior) -> None:
    ax = plot_latents(four_sites, dims=(1, 2), ellipses=2)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a[0, 1]", "a[1, 0]")
    np.testing.assert_allclose(points_of(ax), four_sites.mean["a"].flatten(1)[:, [1, 2]])
    ax = plot_latents(four_sites, site="d", ellipses=3, level=0.9)
    first = four_sites.latents.labels.index("d[0]")
    covariance = four_sites.covariance[0, first : first + 2, first : first + 2]
    assert_outline(ax.patches[0], four_sites.mean["d"][0], covariance, 0.9)
    np.testing.assert_allclose(points_of(ax), four_sites.mean["d"])


@pytest.mark.parametrize(("site", "dims"), [("b", (0, 1)), ("c", (0, 2))])
def test_constrained_sites_have_no_ellipses(four_sites: Posterior, ax: Axes, site: str, dims: tuple[int, int]) -> None:
    plot_latents(four_sites, site=site, dims=dims, ellipses=0, ax=ax)
    offsets = points_of(ax)
    assert offsets.shape == (60, 2)
    assert (offsets > 0).all()
    with pytest.raises(OptionError, match=f"ellipses must be 0 for site '{site}'"):
        plot_latents(four_sites, site=site, dims=dims)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dims": (0, 3)}, OptionError, r"dims must be .* size 3; got \(0, 3\)"),
        ({"dims": (-1, 0)}, OptionError, "dims must be"),
        ({"dims": (1, 1)}, OptionError, "dims must be two different"),
        ({"dims": (0, 0.5)}, OptionError, "dims must be"),
        ({"site": "w"}, OptionError, r"site must be one of \['z'\]; got 'w'"),
        ({"level": 1.0}, OptionError, "level must lie strictly between 0 and 1"),
        ({"ellipses": -1}, OptionError, "ellipses must be a nonnegative integer"),
        ({"ax": "left"}, OptionError, "ax must be one matplotlib Axes; got str"),
        ({"labels": torch.arange(7)}, DataError, r"one label per observation, \(60,\); got shape \(7,\)"),
        ({"labels": np.zeros((60, 1))}, DataError, "one label per observation"),
        ({"labels": [f"class {i}" for i in range(60)]}, DataError, "at most 10 different strings; got 60"),
        ({"labels": np.full(60, np.nan)}, DataError, "finite"),
    ],
)
def test_invalid_options_are_refused(posterior: Posterior, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        plot_latents(posterior, **options)
    assert not pyplot.get_fignums()


def test_a_posterior_without_covariance_has_points_only(x: Tensor) -> None:
    model = linear_gaussian(3, 4, dtype=torch.float32)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(4, []), Flow(transforms=1, hidden=[4])).setup(x.float(), seed=0)
    with pytest.raises(FamilyError, match="closed form"):
        plot_latents(vi.posterior(x.float()))
    assert not pyplot.get_fignums()
    assert not plot_latents(vi.posterior(x.float()), ellipses=0).patches
