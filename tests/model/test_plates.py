"""The two layouts of a value inside plates are converted into each other without loss."""

import contextlib
from typing import Any

import numpy as np
import pyro
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
@given(values(), st.randoms())
def test_layouts_are_inverse(drawn: tuple[PlateLayout, torch.Tensor, torch.Size], random: Any) -> None:
    layout, value, sample_shape = drawn
    whole = layout.to_model(value, sample_shape)
    assert whole.dim() == len(sample_shape) + layout.batch_dims + layout.event_dim
    for place in np.ndindex(*sample_shape):  # sample dimensions are leftmost
        in_model = layout.to_model(value[place])
        assert torch.equal(whole[place], in_model)
        assert torch.equal(layout.to_observations(in_model), value[place])
    # Each plate has its own dimension.
    place = tuple(random.randrange(size) for size in value[(0,) * len(sample_shape)].shape)
    inside = [0] * layout.batch_dims
    for dim, index in zip([layout.dim, *(plate.dim for plate in layout.nested)], place, strict=False):
        inside[dim] = index
    first = (0,) * len(sample_shape)
    assert whole[(*first, *inside, *place[1 + len(layout.nested) :])] == value[(*first, *place)]


@PROPERTY
@given(values())
def test_omitted_leftmost_dimensions_are_singletons(drawn: tuple[PlateLayout, torch.Tensor, torch.Size]) -> None:
    """Pyro omits the leftmost batch dimensions of a value that does not vary over them."""
    layout, value, sample_shape = drawn
    event = value.shape[len(sample_shape) + 1 + len(layout.nested) :]
    constant = torch.arange(float(event.numel())).reshape(event)
    found = layout.to_observations(constant)
    assert torch.equal(found, constant.reshape((1,) * (1 + len(layout.nested)) + event))


@PROPERTY
@given(layouts(event_dim=1), SIZES)
def test_layout_agrees_with_pyro(layout: PlateLayout, size: int) -> None:
    """Pyro broadcasts a distribution over the plates to the shape of the model layout."""

    def model() -> None:
        with contextlib.ExitStack() as plates:
            for plate in (NestedPlate("data", layout.dim, size), *layout.nested):
                plates.enter_context(pyro.plate(plate.name, plate.size, dim=plate.dim))
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    site = Site(poutine.trace(model).get_trace().nodes["z"])
    assert site.layout("data") == layout
    found = layout.to_observations(site.value)
    assert found.shape == (size, *layout.nested_shape, 2)
    assert torch.equal(layout.to_model(found), site.value)
