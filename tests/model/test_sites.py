"""What a site reports about one run of a model, and the handler that reads sites."""

from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine

from amortvi.errors import ModelError
from amortvi.model.sites import Site, SiteReader, distribution_layers, plate_frames

B = 5


def model(x: torch.Tensor, mask: torch.Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=torch.ones(2))
    with pyro.plate("data", 4 * B, subsample=x, dim=-2):
        with poutine.scale(scale=0.5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("double", 2 * z)
        pyro.factor("penalty", -z.abs())
        with pyro.plate("parts", 3, dim=-1), poutine.mask(mask=mask):
            pyro.sample("x", dist.Normal(z + weight.sum(), 1.0), obs=x)


X, MASK = torch.randn(B, 3), torch.rand(B, 3) > 0.5


def sites(**options: Any) -> dict[str, Site]:
    reader = SiteReader("data", B, **options)
    with reader:
        model(X, MASK)
    return {site.name: site for site in reader}


def test_sites_are_read_in_order() -> None:
    visited: list[tuple[str, torch.Size]] = []
    found = sites(visit=lambda site: visited.append((site.name, site.value.shape)))
    assert visited == [("weight", (2,)), ("z", (B, 1)), ("double", (B, 1)), ("penalty", (B, 1, 0)), ("x", (B, 3))]
    assert list(found) == [name for name, _ in visited]
    kinds = {"latent": ["z"], "data": ["weight", "x"], "deterministic": ["double"], "factor": ["penalty"]}
    for kind, names in kinds.items():
        assert [name for name, site in found.items() if getattr(site, f"is_{kind}")] == names


def test_plates_and_layout() -> None:
    found = sites()
    assert [frame.name for frame in found["x"].plates] == ["data", "parts"]
    assert found["x"].frame("data").size == B
    assert found["weight"].frame("data") is None
    layout = found["x"].layout("data")
    assert (layout.dim, layout.nested_shape, layout.event_dim) == (-2, (3,), 0)
    assert set(plate_frames(found.values())) == {"data", "parts"}


def test_log_probability_excludes_the_scale_of_the_data_plate() -> None:
    found = sites()
    z = found["z"].value
    torch.testing.assert_close(found["z"].log_prob(), dist.Normal(0.0, 1.0).log_prob(z))
    torch.testing.assert_close(found["z"].log_prob("data"), 0.5 * dist.Normal(0.0, 1.0).log_prob(z))
    torch.testing.assert_close(found["x"].log_prob("data"), dist.Normal(z + 2.0, 1.0).log_prob(X) * MASK)
    assert [site.is_weighted("data") for site in found.values()] == [False, True, False, False, True]


def test_values_by_observation() -> None:
    found = sites()
    assert torch.equal(found["x"].by_observation(X, "data", B), X)
    assert found["z"].by_observation(found["z"].value, "data", B).shape == (B,)
    assert found["weight"].by_observation(torch.ones(2), "data", B) is None
    assert found["penalty"].by_observation(found["penalty"].value, "data", B) is None


def test_values_of_undeclared_deterministic_sites_are_expanded_if_possible() -> None:
    for shape, expected in (((B, 2), (B, 2)), ((1, 2), (B, 2)), ((), (B,)), ((B + 1,), None)):
        value = torch.ones(shape)
        reader = SiteReader()
        with reader, pyro.plate("data", B):
            pyro.deterministic("value", value, event_dim=value.dim())
        (site,) = reader
        assert site.layout_is_unknown
        found = site.by_observation(value, "data", B)
        assert found is None if expected is None else found.shape == expected


def test_observed_entries_combine_all_masks() -> None:
    seen = torch.rand(B, 2) > 0.5

    def run(x: torch.Tensor) -> None:
        with pyro.plate("data", B), poutine.mask(mask=torch.arange(B) > 0):
            pyro.sample("x", dist.Normal(torch.zeros(B, 2), 1.0).mask(seen).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(torch.zeros(B, 2), 1.0).to_event(1), obs=x)

    x, rows = torch.zeros(B, 2), (torch.arange(B) > 0).unsqueeze(1)
    nodes = poutine.trace(run).get_trace(x).nodes
    assert torch.equal(Site(nodes["x"]).observed_entries("data", x), seen & rows)
    assert torch.equal(Site(nodes["y"]).observed_entries("data", x), rows.expand(B, 2))
    found = sites()
    assert found["z"].observed_entries("data", torch.zeros(B)) is None
    assert torch.equal(found["x"].observed_entries("data", X), MASK)


def test_layers_end_at_the_distribution_with_the_density() -> None:
    wrapped = dist.Normal(torch.zeros(2), 1.0).expand([B, 2]).mask(torch.ones(B, 2) > 0).to_event(1)
    assert type(distribution_layers(wrapped)[-1]) is dist.Normal


def test_latents_can_be_set_and_data_drawn() -> None:
    z = torch.full((B, 1), 3.0)
    found = sites(values={"z": z}, draw_data=True)
    assert torch.equal(found["z"].value, z)
    assert torch.equal(found["double"].value, 2 * z)
    assert found["x"].value.shape == X.shape
    assert (found["x"].value != X).all()
    assert torch.equal(found["weight"].value, torch.ones(2))  # outside the data plate


def test_a_data_plate_of_another_size_is_refused() -> None:
    with pytest.raises(ModelError, match=r"plate 'data' has size 5, but .* here 4 observations"), SiteReader("data", 4):
        model(X, MASK)


def test_plates_that_subsample_at_random_are_recorded() -> None:
    reader = SiteReader()
    with reader, pyro.plate("random", 10, subsample_size=2), pyro.plate("given", 10, subsample=torch.arange(2), dim=-2):
        pyro.sample("z", dist.Normal(0.0, 1.0))
    assert reader.random_plates == ["random"]
