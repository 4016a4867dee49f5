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
@given(latent_vectors(), st.sampled_from([(1,), (4,), (2, 3), (2, 1, 3)]))
def test_constrain_and_unconstrain_are_inverse(latents: LatentVector, leading: tuple[int, ...]) -> None:
    vector = unconstrained(latents, leading)
    parts, (values, log_dets) = latents.split(vector), latents.constrain(vector)
    flat = [parts[site.name].reshape(*leading, site.size) for site in latents.sites]
    assert torch.equal(torch.cat(flat, dim=-1), vector)
    assert len(latents.labels) == len(set(latents.labels)) == latents.dim
    for site in latents.sites:
        assert values[site.name].shape == (*leading, *site.shape)
        assert site.support.check(values[site.name]).all()
        assert (site.name in log_dets) is not site.is_unconstrained
    assert latents.leading_shape(values) == leading
    again, total = latents.unconstrain(values)
    torch.testing.assert_close(again, vector)
    expected = torch.zeros(leading, dtype=torch.float64)
    for name, log_det in log_dets.items():
        nested = next(site.layout.nested_shape for site in latents.sites if site.name == name)
        assert log_det.shape == (*leading, *nested)
        expected = expected + sum_from(log_det, len(leading))
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("support", SUPPORTS)
def test_log_determinant_is_that_of_the_jacobian(support: str) -> None:
    """It is taken with respect to the free elements: without the last element of a simplex, for example."""
    constraint, event_shape = SUPPORTS[support]
    layout = PlateLayout(-1, (NestedPlate("nested", -2, 2),), len(event_shape))
    site = LatentSite("z", layout, event_shape, constraint)
    latents = LatentVector([site])
    for seed in range(3):
        vector = unconstrained(latents, (1,), seed)

        def to_elements(flat: torch.Tensor) -> torch.Tensor:
            return free_elements(constraint, latents.constrain(flat.unsqueeze(0))[0]["z"])

        jacobian = torch.autograd.functional.jacobian(to_elements, vector[0])
        _, found = latents.unconstrain(latents.constrain(vector)[0])
        torch.testing.assert_close(found[0], torch.linalg.slogdet(jacobian).logabsdet)
    assert site.is_elementwise is (support not in ("simplex", "correlation", "ordered", "positive and ordered"))
    assert len(site.labels) == site.shape.numel()
    assert site.labels[-1] == f"z[{', '.join(str(size - 1) for size in site.shape)}]"


def test_element_labels() -> None:
    assert element_labels("z", torch.Size([])) == ["z"]
    assert element_labels("z", torch.Size([2, 1])) == ["z[0, 0]", "z[1, 0]"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"values must be a dict with the latent sites \['scale', 'z'\]; got \[\]"),
        (torch.ones(2, 3), r"values must be a dict with the latent sites .*; got Tensor"),
        ({"z": [1.0], "scale": torch.ones(2)}, r"values\['z'\] must be a tensor; got list"),
        ({"z": torch.ones(3), "scale": torch.ones(2)}, r"must have shape \(\.\.\., observations, 3\); got \(3,\)"),
        ({"z": torch.ones(2, 3), "scale": torch.ones(3)}, r"same draws and observations .* 'scale' has \(3,\)"),
        ({"z": torch.ones(2, 3), "scale": -torch.ones(2)}, r"values\['scale'\] has values outside the support"),
    ],
)
def test_invalid_values_are_refused(values: Any, message: str) -> None:
    scale = LatentSite("scale", PlateLayout(-1, (), 0), torch.Size([]), constraints.positive)
    z = LatentSite("z", PlateLayout(-1, (), 1), torch.Size([3]), constraints.real_vector)
    with pytest.raises(DataError, match=message):
        LatentVector([scale, z]).unconstrain(values)
