"""What is read off a posterior, against closed forms, quadrature and draws."""

import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from torch.utils.data import DataLoader, Dataset, IterableDataset

import amortvi as avi
from amortvi import _chunks
from amortvi.errors import DataError, FamilyError, OptionError
from tests.exact import linear_gaussian, one_latent, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(50, seed=1)
EXACT = MODEL.posterior(X)


@pytest.fixture(scope="module")
def posterior():
    return solved(MODEL).posterior(X)


class Laplace(avi.families.Family):
    """A family that says nothing of itself in closed form."""

    def __init__(self, dim, context_features):
        super().__init__(dim, context_features, num_parameters=2 * dim)

    def distribution(self, parameters):
        loc, log_scale = parameters.chunk(2, dim=-1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


# ------------------------------------------------------------------------------ closed forms


def test_moments_are_those_of_the_exact_posterior(posterior):
    torch.testing.assert_close(posterior.mean["z"], EXACT.mean)
    torch.testing.assert_close(posterior.std["z"], EXACT.variance.sqrt())
    torch.testing.assert_close(posterior.covariance, EXACT.covariance_matrix)
    scale = EXACT.variance.sqrt()
    expected = EXACT.covariance_matrix / scale[:, :, None] / scale[:, None, :]
    torch.testing.assert_close(posterior.correlation, expected)


def test_quantiles_are_those_of_the_marginals(posterior):
    levels = [0.05, 0.5, 0.9]
    marginal = torch.distributions.Normal(EXACT.mean, EXACT.variance.sqrt())
    expected = torch.stack([marginal.icdf(torch.tensor(level, dtype=torch.float64)) for level in levels])
    torch.testing.assert_close(posterior.quantiles(levels)["z"], expected)
    torch.testing.assert_close(posterior.median["z"], EXACT.mean)


def test_log_prob_is_that_of_the_exact_posterior(posterior):
    z = torch.randn(4, 2, len(X), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(posterior.log_prob({"z": z}), EXACT.log_prob(z))
    torch.testing.assert_close(posterior.log_prob({"z": z[0, 0]}), EXACT.log_prob(z[0, 0]))


def test_draws_have_the_moments(posterior):
    draws = 20_000
    z = posterior.sample(draws, seed=0)["z"]
    assert z.shape == (draws, len(X), 3)
    deviation = (z.mean(0) - EXACT.mean) / EXACT.variance.sqrt() * math.sqrt(draws)
    assert deviation.abs().max() < 5
    centred = z - z.mean(0)
    covariance = torch.einsum("sni,snj->nij", centred, centred) / (draws - 1)
    scale = EXACT.variance.sqrt()
    error = (covariance - EXACT.covariance_matrix) / scale[:, :, None] / scale[:, None, :]
    assert error.abs().max() < 5 * math.sqrt(2 / draws)
    coverage = (z < posterior.quantiles([0.2])["z"][0]).double().mean(0)
    assert (coverage - 0.2).abs().max() < 5 * math.sqrt(0.16 / draws)


def test_a_seed_reproduces_draws_and_leaves_the_random_state(posterior):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = posterior.sample(3, seed=11)["z"]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, posterior.sample(3, seed=11)["z"])
    assert not torch.equal(first, posterior.sample(3)["z"])


# ------------------------------------------------------------------------------ other supports


def _of_one(prior, mean, std, count=1):
    """A posterior that is N(mean, std) before the transform to the support of ``prior``."""
    parameters = torch.tensor([*mean, *(math.log(s) for s in std)], dtype=torch.float64)
    vi = with_parameters(one_latent(prior), parameters, torch.zeros(count, dtype=torch.float64), avi.families.Diagonal)
    return vi.posterior(torch.zeros(count, dtype=torch.float64))


def _zeros(*shape):
    return torch.zeros(*shape, dtype=torch.float64)


SCALARS = {
    "positive": (dist.LogNormal(_zeros(()), 1.0), (1e-12, 60.0)),
    "interval": (dist.Uniform(_zeros(()) + 2, 5.0), (2 + 1e-12, 5 - 1e-12)),
    "unit interval": (dist.Beta(_zeros(()) + 2, 2.0), (1e-12, 1 - 1e-12)),
    "greater than": (dist.Pareto(_zeros(()) + 1.5, 2.0), (1.5 + 1e-12, 60.0)),
}


def test_a_positive_latent_has_lognormal_moments():
    mean, std = 0.3, 0.7
    found = _of_one(SCALARS["positive"][0], [mean], [std])
    expected = math.exp(mean + std**2 / 2)
    assert found.mean["z"].item() == pytest.approx(expected, rel=1e-9)
    assert found.std["z"].item() == pytest.approx(expected * math.sqrt(math.expm1(std**2)), rel=1e-8)
    assert found.median["z"].item() == pytest.approx(math.exp(mean), rel=1e-9)
    values = torch.tensor([[0.2], [1.0], [4.0]], dtype=torch.float64)
    density = torch.distributions.LogNormal(mean, std).log_prob(values)
    torch.testing.assert_close(found.log_prob({"z": values}), density.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("support", SCALARS)
def test_density_integrates_to_one_and_gives_the_moments(support):
    prior, (low, high) = SCALARS[support]
    found = _of_one(prior, [-0.2], [0.5])
    grid = torch.linspace(low, high, 200_001, dtype=torch.float64)
    density = found.log_prob({"z": grid.unsqueeze(-1)}).squeeze(-1).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-5)
    mean = torch.trapezoid(density * grid, grid)
    variance = torch.trapezoid(density * (grid - mean) ** 2, grid)
    assert found.mean["z"].item() == pytest.approx(mean.item(), rel=1e-5)
    assert found.std["z"].item() == pytest.approx(variance.sqrt().item(), rel=1e-4)
    below = torch.trapezoid(density * (grid < found.quantiles([0.3])["z"].item()), grid)
    assert below.item() == pytest.approx(0.3, abs=1e-3)


class BelowZero(dist.TorchDistribution):
    """Minus an exponential: the transform to its support is decreasing."""

    support = constraints.less_than(0.0)
    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self):
        super().__init__(torch.Size(), torch.Size(), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        found = BelowZero()
        found._batch_shape = torch.Size(batch_shape)
        return found

    def rsample(self, sample_shape=()):
        return -torch.distributions.Exponential(_zeros(()) + 1).rsample(self._extended_shape(sample_shape))

    def log_prob(self, value):
        return value


def test_quantiles_of_a_decreasing_transform_ascend():
    found = _of_one(BelowZero(), [0.1], [0.5])
    low, high = found.quantiles([0.05, 0.95])["z"]
    assert low < high < 0
    draws = found.sample(20_000, seed=0)["z"]
    assert (draws < low).double().mean().item() == pytest.approx(0.05, abs=0.008)


def test_a_simplex_latent():
    found = _of_one(dist.Dirichlet(torch.ones(3, dtype=torch.float64)), [0.4, -0.3], [0.5, 0.3])
    first, second = torch.meshgrid(*[torch.linspace(1e-6, 1 - 1e-6, 801, dtype=torch.float64)] * 2, indexing="ij")
    inside = first + second < 1 - 1e-6
    points = torch.stack([first, second, 1 - first - second], dim=-1)[inside].unsqueeze(1)
    cell = (first[1, 0] - first[0, 0]) ** 2
    # The density is with respect to the first two coordinates, as Pyro's and PyTorch's own is.
    density = found.log_prob({"z": points}).squeeze(1).exp()
    assert (density.sum() * cell).item() == pytest.approx(1, abs=1e-3)
    mean = (density[:, None] * points.squeeze(1)).sum(0) * cell
    spread = ((density[:, None] * (points.squeeze(1) - mean) ** 2).sum(0) * cell).sqrt()
    error = (found.mean["z"][0] - mean) / (spread / math.sqrt(1000))
    assert error.abs().max() < 5
    torch.testing.assert_close(found.std["z"][0], spread, rtol=0.15, atol=0)
    assert found.mean["z"].sum(-1).item() == pytest.approx(1)


def test_an_estimate_is_the_same_when_asked_again_and_leaves_the_random_state():
    found = _of_one(dist.Dirichlet(torch.ones(3, dtype=torch.float64)), [0.4, -0.3], [0.5, 0.3])
    state = torch.get_rng_state()
    assert torch.equal(found.mean["z"], found.mean["z"])
    assert torch.equal(found.quantiles([0.5])["z"], found.quantiles([0.5])["z"])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_family_without_closed_forms_is_estimated_from_draws():
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(5, []), Laplace).fit(X, epochs=1, progress=False, seed=0)
    found = vi.posterior(X)
    q = vi.guide.get_posterior(X)
    error = (found.mean["z"] - q.mean) / q.stddev * math.sqrt(1000)
    assert error.abs().max() < 5
    torch.testing.assert_close(found.std["z"], q.stddev.detach(), rtol=0.3, atol=0)
    torch.testing.assert_close(found.log_prob({"z": EXACT.mean}), q.log_prob(EXACT.mean).detach())
    with pytest.raises(FamilyError, match=r"Laplace has no covariance in closed form: .* sample\(1000\)"):
        _ = found.covariance


# ------------------------------------------------------------------------------ several sites, nested plates


def hierarchical(y):
    with pyro.plate("units", y.shape[0], dim=-2):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("times", y.shape[1], dim=-1):
            level = pyro.sample("level", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(level.sum(-1), scale), obs=y)


@pytest.fixture(scope="module")
def nested():
    y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    vi = avi.AmortizedVI(hierarchical, avi.encoders.MLP(3, [8]), "full").fit(y, epochs=2, progress=False, seed=0)
    return vi.posterior(y)


def test_shapes_are_observations_then_nested_plates_then_event(nested):
    assert {name: tuple(value.shape) for name, value in nested.mean.items()} == {"scale": (6,), "level": (6, 3, 2)}
    draws = nested.sample(4, seed=0)
    assert draws["level"].shape == (4, 6, 3, 2)
    assert nested.log_prob(draws).shape == (4, 6)
    assert nested.quantiles([0.1, 0.9])["level"].shape == (2, 6, 3, 2)
    assert nested.covariance.shape == (6, 7, 7)
    assert len(nested.latents.labels) == 7


def test_log_prob_is_the_gaussian_of_the_unconstrained_vector_less_the_jacobian(nested):
    draws = nested.sample(4, seed=0)
    vector = torch.cat([draws["scale"].log().reshape(4, 6, 1), draws["level"].flatten(2)], dim=-1)
    unconstrained_mean = torch.cat([nested.median["scale"].log().reshape(6, 1), nested.mean["level"].flatten(1)], -1)
    gaussian = torch.distributions.MultivariateNormal(unconstrained_mean, nested.covariance)
    expected = gaussian.log_prob(vector) - draws["scale"].log().reshape(4, 6)
    torch.testing.assert_close(nested.log_prob(draws), expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------ selection and tables


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (slice(2, 8, 3), [2, 5]),
        ([4, 0, -1, 4], [4, 0, 49, 4]),
        (7, [7]),
        (np.array([1, 2]), [1, 2]),
        (torch.tensor([3, 1]), [3, 1]),
        (np.arange(50) % 20 == 3, [3, 23, 43]),
        (torch.arange(50) >= 48, [48, 49]),
    ],
    ids=["slice", "list", "integer", "array", "tensor", "mask", "tensor mask"],
)
def test_select(posterior, rows, expected):
    chosen = posterior.select(rows)
    assert len(chosen) == len(expected)
    torch.testing.assert_close(chosen.mean["z"], EXACT.mean[expected])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([50], r"rows must be positions from -50 to 49; got 50\."),
        ([True, False], r"rows is a mask of 2 entries; there are 50 observations\."),
        ([], r"rows selects no observation\."),
        (slice(5, 5), r"rows selects no observation\."),
        (np.zeros(50, dtype=bool), r"rows selects no observation\."),
        ([0.5], r"rows must be integer positions, a slice or a boolean mask; got an array of float64"),
    ],
)
def test_select_refuses_what_names_no_observation(posterior, rows, message):
    with pytest.raises(DataError, match=message):
        posterior.select(rows)


def test_select_keeps_the_labels():
    frame = pd.DataFrame(X.numpy(), index=[f"row {i}" for i in range(50)])
    chosen = solved(MODEL).posterior(frame).select([9, 3])
    assert list(chosen.index) == ["row 9", "row 3"]
    torch.testing.assert_close(chosen.mean["z"], EXACT.mean[[9, 3]])


class Rows(Dataset):
    """The observations as a `Dataset` that is no `TensorDataset`."""

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        return X[row]


@pytest.mark.parametrize(
    "source", [Rows(), DataLoader(Rows(), batch_size=8), DataLoader(Rows(), batch_size=100)], ids=["set", "8", "100"]
)
def test_observations_that_a_loader_reads(source):
    posterior = solved(MODEL).posterior(source)
    torch.testing.assert_close(posterior.mean["z"], EXACT.mean)
    torch.testing.assert_close(posterior.log_prob({"z": EXACT.mean}), EXACT.log_prob(EXACT.mean))
    torch.testing.assert_close(posterior.select([40, 3, 3]).mean["z"], EXACT.mean[[40, 3, 3]])


class Stream(IterableDataset):
    """Observations whose number only reading them tells."""

    def __iter__(self):
        return iter(X)


def test_observations_whose_number_is_not_known():
    posterior = solved(MODEL).posterior(DataLoader(Stream(), batch_size=7))
    assert repr(posterior) == "Posterior(FullCovariance, observations, z: (3,))"
    assert len(posterior) == 50
    torch.testing.assert_close(posterior.mean["z"], EXACT.mean)
    draws = posterior.sample(3, seed=0)
    assert draws["z"].shape == (3, 50, 3)
    torch.testing.assert_close(posterior.log_prob(draws), EXACT.log_prob(draws["z"]))
    torch.testing.assert_close(posterior.select([-1, 0]).mean["z"], EXACT.mean[[49, 0]])


def test_an_encoder_that_is_compiled():
    vi = avi.AmortizedVI(MODEL, torch.nn.Linear(5, 6).double(), "diagonal").fit(X, epochs=1, progress=False, seed=0)
    expected = vi.posterior(X).mean["z"]
    compiled = torch.compile(vi.encoder, backend="eager")
    again = avi.AmortizedVI(MODEL, compiled, "diagonal").fit(X, epochs=1, lr=1e-30, progress=False, seed=0)
    again.guide.family.load_state_dict(vi.guide.family.state_dict())
    torch.testing.assert_close(again.posterior(X).mean["z"], expected)


def test_a_loader_that_drops_its_last_batch():
    posterior = solved(MODEL).posterior(DataLoader(Rows(), batch_size=8, drop_last=True))
    torch.testing.assert_close(posterior.mean["z"], EXACT.mean[:48])
    assert posterior.sample(2, seed=0)["z"].shape == (2, 48, 3)


def test_to_frame(posterior):
    frame = posterior.select([0, 7]).to_frame(quantiles=[0.1, 0.9])
    assert list(frame.columns) == ["mean", "std", "10%", "90%"]
    assert frame.index.names == ["data", "latent"]
    assert list(frame.index[:3]) == [(0, "z[0]"), (0, "z[1]"), (0, "z[2]")]
    np.testing.assert_allclose(frame["mean"].to_numpy().reshape(2, 3), EXACT.mean[[0, 7]])
    np.testing.assert_allclose(frame["std"].to_numpy().reshape(2, 3), EXACT.variance[[0, 7]].sqrt())
    assert (frame["10%"] < frame["90%"]).all()


def test_to_frame_of_several_sites(nested):
    frame = nested.to_frame()
    assert frame.shape == (6 * 7, 5)
    assert list(frame.loc[0].index) == ["scale", *(f"level[{i}, {j}]" for i in range(3) for j in range(2))]
    expected = nested.mean["level"][4, 2, 1].item()
    assert frame.loc[(4, "level[2, 1]"), "mean"] == pytest.approx(expected)


def test_repr_and_len(posterior, nested):
    assert repr(posterior) == "Posterior(FullCovariance, 50 observations, z: (3,))"
    assert repr(nested.select(0)) == "Posterior(FullCovariance, 1 observation, scale: (), level: (3, 2))"
    assert len(posterior) == 50


# ------------------------------------------------------------------------------ what it depends on


def test_later_training_changes_nothing():
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [4]).double(), "full").fit(X, epochs=1, progress=False, seed=0)
    posterior = vi.posterior(X)
    before = posterior.mean["z"]
    vi.fit(X, epochs=3, lr=0.1, progress=False, seed=0)
    assert torch.equal(posterior.mean["z"], before)
    assert not torch.equal(vi.posterior(X).mean["z"], before)


def test_chunks_of_any_size_give_the_same(posterior, nested, monkeypatch):
    whole = [posterior.mean["z"], posterior.covariance, posterior.quantiles([0.2])["z"], nested.std["scale"]]
    frame = nested.to_frame()
    z = posterior.sample(2, seed=0)["z"]
    density = posterior.log_prob({"z": z})
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", 64)
    pieces = [posterior.mean["z"], posterior.covariance, posterior.quantiles([0.2])["z"], nested.std["scale"]]
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(posterior.log_prob({"z": z}), density)
    pd.testing.assert_frame_equal(nested.to_frame(), frame, atol=1e-6)  # single precision, near zero


def test_the_encoder_sets_the_size_of_a_chunk(monkeypatch):
    """A network far wider than its input and output must not meet many rows at once."""
    rows = []

    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(5, 1000), torch.nn.Linear(1000, 4)

        def forward(self, x):
            rows.append(x.shape[0])
            return self.second(self.first(x).relu())

    x = MODEL.simulate(100, seed=0).float()
    vi = avi.AmortizedVI(linear_gaussian(dtype=torch.float32), Wide(), "full").fit(x, epochs=1, progress=False, seed=0)
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", 20_000)
    posterior = vi.posterior(x)
    rows.clear()
    _ = posterior.mean
    assert max(rows) == 20
    assert sum(row for row in rows if row == 20) == 100


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"values must be a dict with the latent sites \['z'\]; got \[\]"),
        (torch.zeros(50, 3), r"values must be a dict with the latent sites \['z'\]; got Tensor"),
        ({"z": torch.zeros(50, 3), "y": torch.zeros(50)}, r"values must be a dict with the latent sites \['z'\]"),
        ({"z": np.zeros((50, 3))}, r"values\['z'\] must be a tensor; got ndarray"),
        ({"z": torch.zeros(3)}, r"values\['z'\] must have shape \(\.\.\., observations, 3\); got \(3,\)"),
        ({"z": torch.zeros(50, 4)}, r"values\['z'\] must have shape"),
        ({"z": torch.zeros(2, 49, 3)}, r"values are of 49 observations; the posterior is of 50\."),
    ],
)
def test_log_prob_refuses_what_does_not_fit(posterior, values, message):
    with pytest.raises(DataError, match=message):
        posterior.log_prob(values)


def test_log_prob_refuses_what_is_outside_the_support(nested):
    draws = nested.sample(1, seed=0)
    with pytest.raises(DataError, match=r"values\['scale'\] has values outside the support"):
        nested.log_prob({**draws, "scale": -draws["scale"]})
    with pytest.raises(DataError, match="values must have the same draws and observations for each site"):
        nested.log_prob({**draws, "scale": draws["scale"][0]})


def test_options_are_checked(posterior):
    with pytest.raises(OptionError, match="draws must be a positive integer; got 0"):
        posterior.sample(0)
    with pytest.raises(OptionError, match="quantiles must lie strictly between 0 and 1"):
        posterior.quantiles([0.5, 1.0])
