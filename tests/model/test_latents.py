"""The latent vector: constraining and unconstraining are inverse, and log-determinants are those of autograd."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.distributions import constraints

from amortvi.errors import DataError
from amortvi.model.latents import LatentSite, LatentVector, element_labels, sum_from
from amortvi.model.plates import NestedPlate, PlateLayout
from tests.model.layouts import SUPPORTS, latent_vectors
from tests.properties import PROPERTY

LEADING = st.sampled_from([(1,), (4,), (2, 3), (2, 1, 3)])


def unconstrained(latents: LatentVector, leading: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*leading, latents.dim, generator=generator, dtype=torch.float64)


def free_elements(support: constraints.Constraint, value: torch.Tensor) -> torch.Tensor:
    """Return the elements of one value that determine it: as many as there are unconstrained coordinates."""
    if support is constraints.simplex:
        return value[..., :-1].flatten()
    if support is constraints.corr_cholesky:
        rows, columns = torch.tril_indices(*value.shape[-2:], offset=-1)
        return value[..., rows, columns].flatten()
    return value.flatten()


@PROPERTY
@given(latent_vectors(), LEADING)
def test_constrain_and_unconstrain_are_inverse(latents: LatentVector, leading: tuple[int, ...]) -> None:
    vector = unconstrained(latents, leading)
    values, log_dets = latents.constrain(vector)
    for site in latents.sites:
        assert values[site.name].shape == (*leading, *site.shape)
        assert site.support.check(values[site.name]).all()
    again, total = latents.unconstrain(values)
    torch.testing.assert_close(again, vector)
    assert total.shape == leading
    expected = sum(
        (sum_from(log_det, len(leading)) for log_det in log_dets.values()), start=torch.zeros(leading).double()
    )
    torch.testing.assert_close(total, expected)


@PROPERTY
@given(latent_vectors(), LEADING)
def test_sites_are_consecutive_parts_of_the_vector(latents: LatentVector, leading: tuple[int, ...]) -> None:
    vector = unconstrained(latents, leading)
    parts = latents.split(vector)
    assert list(parts) == [site.name for site in latents.sites]
    flat = [parts[site.name].reshape(*leading, site.size) for site in latents.sites]
    assert torch.equal(torch.cat(flat, dim=-1), vector)
    assert len(latents.labels) == len(set(latents.labels)) == latents.dim
    assert latents.names == set(parts)


@PROPERTY
@given(latent_vectors())
def test_log_determinants_have_one_element_per_nested_position(latents: LatentVector) -> None:
    _, log_dets = latents.constrain(unconstrained(latents, (2, 3)))
    for site in latents.sites:
        if site.is_unconstrained:
            assert site.name not in log_dets
        else:
            assert log_dets[site.name].shape == (2, 3, *site.layout.nested_shape)


@pytest.mark.parametrize("support", SUPPORTS)
def test_log_determinant_is_that_of_the_jacobian(support: str) -> None:
    """It is taken with respect to the free elements: without the last element of a simplex, for example."""
    constraint, event_shape = SUPPORTS[support]
    layout = PlateLayout(-1, (NestedPlate("nested", -2, 2),), len(event_shape))
    latents = LatentVector([LatentSite("z", layout, event_shape, constraint)])
    for seed in range(5):
        vector = unconstrained(latents, (1,), seed)

        def to_elements(flat: torch.Tensor) -> torch.Tensor:
            return free_elements(constraint, latents.constrain(flat.unsqueeze(0))[0]["z"])

        jacobian = torch.autograd.functional.jacobian(to_elements, vector[0])
        _, found = latents.unconstrain(latents.constrain(vector)[0])
        torch.testing.assert_close(found[0], torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.parametrize("support", SUPPORTS)
def test_labels_match_the_elements(support: str) -> None:
    constraint, event_shape = SUPPORTS[support]
    site = LatentSite("z", PlateLayout(-1, (NestedPlate("nested", -2, 2),), len(event_shape)), event_shape, constraint)
    assert len(site.labels) == site.shape.numel()
    assert site.labels[-1] == f"z[{', '.join(str(size - 1) for size in site.shape)}]"
    assert site.is_elementwise is (support not in ("simplex", "correlation", "ordered", "positive and ordered"))


def test_element_labels() -> None:
    assert element_labels("z", torch.Size([])) == ["z"]
    assert element_labels("z", torch.Size([2, 1])) == ["z[0, 0]", "z[1, 0]"]


def two_sites() -> LatentVector:
    return LatentVector(
        [
            LatentSite("scale", PlateLayout(-1, (), 0), torch.Size([]), constraints.positive),
            LatentSite("z", PlateLayout(-1, (), 1), torch.Size([3]), constraints.real_vector),
        ]
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"values must be a dict with the latent sites \['scale', 'z'\]; got \[\]"),
        (torch.ones(2, 3), r"values must be a dict with the latent sites .*; got Tensor"),
        ({"z": torch.ones(2, 3)}, r"values must be a dict .*; got \['z'\]"),
        ({"z": [1.0], "scale": torch.ones(2)}, r"values\['z'\] must be a tensor; got list"),
        (
            {"z": torch.ones(3), "scale": torch.ones(2)},
            r"values\['z'\] must have shape \(\.\.\., observations, 3\); got \(3,\)",
        ),
        ({"z": torch.ones(2, 4), "scale": torch.ones(2)}, r"values\['z'\] must have shape"),
        (
            {"z": torch.ones(2, 3), "scale": torch.ones(3)},
            r"same draws and observations .* 'scale' has \(3,\)",
        ),
        ({"z": torch.ones(2, 3), "scale": -torch.ones(2)}, r"values\['scale'\] has values outside the support"),
    ],
)
def test_invalid_values_are_refused(values: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        two_sites().unconstrain(values)


def test_leading_shape() -> None:
    values = {"z": torch.ones(5, 2, 3), "scale": torch.ones(5, 2)}
    assert two_sites().leading_shape(values) == (5, 2)
