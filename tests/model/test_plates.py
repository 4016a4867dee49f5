"""The two layouts of a value inside plates are converted into each other without loss."""

import contextlib
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro import distributions as dist
from pyro import poutine

from amortvi.model.plates import NestedPlate, PlateLayout
from amortvi.model.sites import Site
from tests.model.layouts import SIZES, layouts
from tests.properties import PROPERTY


@st.composite
def values(draw: Any) -> tuple[PlateLayout, torch.Tensor, torch.Size]:
    """Return a layout, a value in observation layout whose elements are all different, and its sample shape."""
    event = draw(st.lists(SIZES, max_size=2))
    layout = draw(layouts(len(event)))
    sample_shape = torch.Size(draw(st.lists(SIZES, max_size=2)))
    shape = torch.Size([*sample_shape, draw(SIZES), *layout.nested_shape, *event])
    return layout, torch.arange(float(shape.numel())).reshape(shape), sample_shape


@PROPERTY
@given(values())
def test_layouts_are_inverse(drawn: tuple[PlateLayout, torch.Tensor, torch.Size]) -> None:
    layout, value, sample_shape = drawn
    first = value[(0,) * len(sample_shape)]
    assert torch.equal(layout.to_observations(layout.to_model(first)), first)
    in_model = layout.to_model(first)
    assert torch.equal(layout.to_model(layout.to_observations(in_model)), in_model)


@PROPERTY
@given(values())
def test_sample_dimensions_are_leftmost(drawn: tuple[PlateLayout, torch.Tensor, torch.Size]) -> None:
    layout, value, sample_shape = drawn
    whole = layout.to_model(value, sample_shape)
    assert whole.dim() == len(sample_shape) + layout.batch_dims + layout.event_dim
    for place in np.ndindex(*sample_shape):
        assert torch.equal(whole[place], layout.to_model(value[place]))


@PROPERTY
@given(values(), st.randoms())
def test_each_plate_has_its_own_dimension(drawn: tuple[PlateLayout, torch.Tensor, torch.Size], random: Any) -> None:
    layout, value, sample_shape = drawn
    value = value[(0,) * len(sample_shape)]
    in_model = layout.to_model(value)
    place = tuple(random.randrange(size) for size in value.shape)
    inside = [0] * in_model.dim()
    for dim, index in zip([layout.dim, *(plate.dim for plate in layout.nested)], place, strict=False):
        inside[in_model.dim() - layout.event_dim + dim] = index
    inside[in_model.dim() - layout.event_dim :] = place[1 + len(layout.nested) :]
    assert in_model[tuple(inside)] == value[place]


@PROPERTY
@given(values())
def test_omitted_leftmost_dimensions_are_singletons(drawn: tuple[PlateLayout, torch.Tensor, torch.Size]) -> None:
    """Pyro omits the leftmost batch dimensions of a value that does not vary over them."""
    layout, value, sample_shape = drawn
    event = value.shape[len(sample_shape) + 1 + len(layout.nested) :]
    constant = torch.arange(float(event.numel())).reshape(event)
    found = layout.to_observations(constant)
    assert found.shape == (1,) * (1 + len(layout.nested)) + event
    assert torch.equal(found.reshape(event), constant)


@PROPERTY
@given(layouts(event_dim=1), SIZES)
def test_layout_agrees_with_pyro(layout: PlateLayout, size: int) -> None:
    """Pyro broadcasts a distribution over the plates to the shape of the model layout."""

    def model() -> None:
        with contextlib.ExitStack() as plates:
            plates.enter_context(pyro.plate("data", size, dim=layout.dim))
            for plate in layout.nested:
                plates.enter_context(pyro.plate(plate.name, plate.size, dim=plate.dim))
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    site = Site(poutine.trace(model).get_trace().nodes["z"])
    assert site.layout("data") == layout
    found = layout.to_observations(site.value)
    assert found.shape == (size, *layout.nested_shape, 2)
    assert torch.equal(layout.to_model(found), site.value)


def test_example() -> None:
    """Two observations at dimension -2, a nested plate of three at -1, and another of two at -3."""
    layout = PlateLayout(-2, (NestedPlate("outer", -1, 3), NestedPlate("inner", -3, 2)), event_dim=1)
    value = torch.rand(2, 3, 2, 5)
    assert layout.batch_dims == 3
    assert torch.equal(layout.to_model(value), value.permute(2, 0, 1, 3))
    with pytest.raises(RuntimeError):
        layout.to_model(value[:, :2])
