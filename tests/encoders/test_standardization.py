"""What the encoder reads: statistics of the training data, of each feature or of all alike, with heavy tails compressed."""

import copy
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.data import Batch
from amortvi.encoders.standardization import Standardization

GENERATOR = torch.Generator().manual_seed(0)
NORMAL = 50 + torch.tensor([1e-3, 1.0, 40.0]) * torch.randn(2000, 3, generator=GENERATOR)
COUNTS = torch.poisson(torch.exp(2 + 1.5 * torch.randn(2000, 2, generator=GENERATOR)), generator=GENERATOR)


def standardized(*values: Tensor, casts_integers: bool = True, shares_weights: bool = False) -> tuple[Tensor, ...]:
    batch = Batch(values)
    found: Batch = Standardization.of(batch, casts_integers=casts_integers, shares_weights=shares_weights)(batch)
    return found.args


def test_features_have_mean_zero_and_at_most_unit_variance() -> None:
    (found,) = standardized(NORMAL)
    torch.testing.assert_close(found.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(found[:, 2].std(correction=0), torch.tensor(1.0), rtol=1e-4, atol=0)
    # A feature that hardly varies compared with the others is not inflated to their scale.
    assert found[:, 0].std() < 0.01


def test_the_map_of_light_tails_is_affine() -> None:
    """So that a linear encoder remains linear."""
    (found,) = standardized(NORMAL)
    slopes = (found[1:] - found[:-1]) / (NORMAL[1:] - NORMAL[:-1])
    assert (slopes[:, 1:] / slopes[0, 1:] - 1).abs().max() < 1e-2


def test_heavy_tails_are_compressed() -> None:
    assert ((COUNTS - COUNTS.mean(0)) / COUNTS.std(0)).max() > 8
    for values in (COUNTS, COUNTS.long()):
        (found,) = standardized(values)
        assert found.abs().max() < 8
        assert (found.diff(dim=0) * COUNTS.diff(dim=0) >= 0).all()  # the order is kept


def test_features_of_images_are_treated_alike() -> None:
    images = torch.rand(100, 1, 4, 4, generator=GENERATOR) * torch.linspace(0, 1, 16).reshape(4, 4)
    for found in (*standardized(images), *standardized(images.flatten(1), shares_weights=True)):
        slope = (found.reshape(100, -1).diff(dim=0) / images.flatten(1).diff(dim=0))[:, 1:]
        torch.testing.assert_close(slope, torch.full_like(slope, slope.median().item()), rtol=1e-2, atol=0)


def test_integers_that_may_be_indices_are_not_changed() -> None:
    labels = torch.arange(10)
    assert standardized(labels, casts_integers=False)[0] is labels
    found = standardized(torch.ones(10, dtype=torch.bool), labels)
    assert found[0].dtype == torch.bool
    assert found[1].is_floating_point()


def test_constant_features_and_extreme_scales_stay_finite() -> None:
    for values in (torch.full((50, 2), 7.0), NORMAL * 1e30, NORMAL * 1e-30, torch.zeros(1, 3)):
        (found,) = standardized(values)
        assert found.isfinite().all()
        assert found.abs().max() < 10


SEEN = torch.rand(2000, 3, generator=GENERATOR) < torch.tensor([0.3, 0.9, 0.6])
FILLED = NORMAL.where(SEEN, 0.0)


def test_filled_values_do_not_enter_the_statistics() -> None:
    values, mask = standardized(FILLED, SEEN)
    assert torch.equal(mask, SEEN)
    assert (values[~SEEN] == 0).all()
    for feature in range(3):
        seen = SEEN[:, feature]
        alone, _ = standardized(NORMAL[seen], SEEN[seen])
        ratio = alone[:, feature].std() / values[seen, feature].std()
        torch.testing.assert_close(values[seen, feature] * ratio, alone[:, feature], rtol=1e-3, atol=1e-3)
    for fill in (torch.tensor(-1e3), torch.tensor([1.0, 2.0, 3.0])):
        assert torch.equal(standardized(NORMAL.where(SEEN, fill), SEEN)[0], values)
        assert torch.equal(standardized(SEEN, NORMAL.where(SEEN, fill))[1], values)


def test_a_boolean_that_excludes_nothing_known_is_no_mask() -> None:
    """A label, a covariate: what it marks would be lost."""
    label = torch.rand(2000, generator=GENERATOR) < 0.5
    for other in (SEEN, label, torch.ones(2000, dtype=torch.bool), label[:, None].expand(-1, 3)):
        assert torch.equal(standardized(NORMAL, other)[0], standardized(NORMAL)[0])
    one = torch.ones(2000, 3, dtype=torch.bool)
    one[17, 1] = False
    assert torch.equal(standardized(NORMAL, one)[0], standardized(NORMAL)[0])


def test_each_argument_is_masked_by_the_next_boolean_that_fits() -> None:
    other = torch.rand(2000, 3, generator=GENERATOR) < 0.5
    first, _, second, _ = standardized(FILLED, SEEN, NORMAL.where(other, 5.0), other)
    assert torch.equal(first, standardized(FILLED, SEEN)[0])
    assert torch.equal(second, standardized(NORMAL.where(other, 5.0), other)[0])


def test_a_feature_that_was_never_observed() -> None:
    seen = SEEN & torch.tensor([True, False, True])
    values, _ = standardized(NORMAL.where(seen, 0.0), seen)
    assert (values[:, 1] == 0).all()
    assert values.isfinite().all()


@pytest.mark.parametrize("length", [5, 12])
def test_rows_of_a_set_share_the_statistics_of_each_feature(length: int) -> None:
    sets = [NORMAL[5 * i : 5 * i + 1 + i % 5] for i in range(400)]
    covariates = NORMAL[:400]
    values, mask, others = standardized(*avi.pad(sets, length=length), covariates, shares_weights="rows")
    found, expected = values[mask], standardized(torch.cat(sets))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (values[~mask] == 0).all()
    assert torch.equal(others, standardized(covariates)[0])
    vectors, _ = standardized(*avi.pad([each[:, 2] for each in sets], length=length), shares_weights="rows")
    torch.testing.assert_close(vectors[mask], standardized(torch.cat(sets)[:, 2:])[0][:, 0], rtol=1e-4, atol=1e-4)


def test_masks_of_images() -> None:
    images = torch.rand(500, 1, 2, 3, generator=GENERATOR)
    seen = torch.rand(images.shape, generator=GENERATOR) < 0.5
    means = images.where(seen, torch.nan).nanmean(0)
    for fill in (torch.zeros(()), means):
        values, _ = standardized(images.where(seen, fill), seen)
        assert (values[~seen] == 0).all()
        torch.testing.assert_close(values[seen].mean(), torch.tensor(0.0), rtol=0, atol=1e-4)


class Recording(nn.Module):
    """Keeps what it last read."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = avi.encoders.MLP(3, [4])

    def forward(self, x: Tensor) -> Tensor:
        self.read = x
        context: Tensor = self.layers(x)
        return context


def fitted(**options: bool) -> avi.AmortizedVI:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(avi.models.VAE(nn.Linear(2, 3), 2, "normal"), Recording())
    return vi.fit(NORMAL[:200], epochs=1, compile=False, progress=False, seed=0, **options)


def test_a_fit_standardizes_once_and_only_if_asked() -> None:
    vi = fitted()
    vi.posterior(NORMAL[:5]).mean  # noqa: B018  # runs the encoder of a copy
    first = copy.deepcopy(vi.guide.network.standardization.state_dict())
    vi.fit(10 * NORMAL[:200], epochs=1, progress=False)
    assert all(torch.equal(first[name], value) for name, value in vi.guide.network.standardization.state_dict().items())
    assert vi.encoder.read.abs().max() > 100
    assert fitted(standardize=False).encoder.read.max() > 50
    assert not list(fitted(standardize=False).guide.network.standardization.buffers())


def test_statistics_are_saved(tmp_path: Path) -> None:
    vi = fitted()
    vi.save(tmp_path / "run")
    loaded = avi.AmortizedVI.load(tmp_path / "run", avi.models.VAE(nn.Linear(2, 3), 2, "normal"), Recording())
    assert torch.equal(vi.posterior(NORMAL[:5]).mean["z"], loaded.posterior(NORMAL[:5]).mean["z"])
    assert loaded.status == vi.status


def masked_model(x: Tensor, seen: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(1, keepdim=True), 1.0).mask(seen).to_event(1), obs=x)


def test_masks_are_saved(tmp_path: Path) -> None:
    """Also if the first observations, which a loaded run knows, have no missing values."""
    seen = SEEN.clone()
    seen[:16] = True
    x = (NORMAL.where(seen, 0.0), seen)
    vi = avi.AmortizedVI(masked_model, avi.encoders.MLP(6, [4])).fit(x, epochs=1, seed=0, progress=False)
    vi.save(tmp_path / "run")
    loaded = avi.AmortizedVI.load(tmp_path / "run", masked_model, avi.encoders.MLP(6, [4]))
    assert torch.equal(vi.posterior(x).mean["z"], loaded.posterior(x).mean["z"])
    assert torch.equal(vi.posterior((NORMAL, seen)).mean["z"], loaded.posterior(x).mean["z"])


@pytest.mark.slow
def test_counts_with_exposure_need_no_preprocessing() -> None:
    """The evidence is negative binomial."""
    generator = np.random.default_rng(0)
    exposure = torch.tensor(np.exp(1.5 + generator.normal(size=2000)), dtype=torch.float32)
    counts = torch.tensor(generator.poisson(generator.gamma(2.0, size=2000) * exposure.numpy()), dtype=torch.float32)

    def model(y: Tensor, exposure: Tensor) -> None:
        with pyro.plate("data", len(y)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("y", dist.Poisson(rate * exposure), obs=y)

    vi = avi.AmortizedVI(model, avi.encoders.MLP(2)).fit((counts, exposure), seed=0, progress=False)
    exact = torch.distributions.NegativeBinomial(2.0, probs=exposure / (exposure + 1)).log_prob(counts).mean()
    bounds = vi.evaluate((counts, exposure), particles=100, seed=0)
    assert vi.status == "converged"
    assert float(exact) - bounds["elbo"].mean() < 0.03
