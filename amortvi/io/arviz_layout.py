"""The layout of an ArviZ export: groups, and the names of variables, dimensions and coordinates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Set
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from amortvi._util.lazy import arviz, xarray

__all__ = ["DATA_GROUPS", "Groups", "assemble"]

Groups: TypeAlias = dict[str, dict[str, Tensor]]
"""The variables of each group by name."""

DATA_GROUPS = ("observed_data", "constant_data")
"""The groups without chain and draw dimensions."""


def assemble(
    groups: Groups,
    plate: str,
    nested: Mapping[str, list[str]],
    index: Any | None,
    attrs: Mapping[str, str],
    shared: Set[str] = frozenset(),
) -> Any:
    """Return groups of variables as `arviz.InferenceData` (ArviZ 0.x) or `xarray.DataTree` (ArviZ 1.x).

    Args:
        groups: the variables of each group by name: ``(chains, draws, N, *nested, *event)``, or ``(N, *nested, *event)`` in
            `DATA_GROUPS`; ``(chains, draws, *shape)`` for the sites ``shared``.
        plate: the name of the data plate.
        nested: for each site, the plates around it other than the data plate, outermost first.
        index: the user's labels of the observations, if any.
        attrs: attributes of the result and of each group.
        shared: the global latents, which have no dimension of the observations.
    """
    names = _Names(plate, nested, shared)
    datasets = {group: _dataset(names, group, values, index, attrs) for group, values in groups.items()}
    if int(arviz.__version__.partition(".")[0]) < 1:
        return arviz.InferenceData(attrs=dict(attrs), **datasets)
    tree = xarray.DataTree.from_dict(datasets)
    tree.attrs.update(attrs)
    return tree


class _Names:
    """Distinct names of variables and dimensions: xarray treats a variable named like a dimension as its index."""

    def __init__(self, plate: str, nested: Mapping[str, list[str]], shared: Set[str]) -> None:
        self.plate = plate
        self.nested = nested
        self.shared = shared
        self._dimensions = {self.dimension(name) for name in (plate, *itertools.chain(*nested.values()))}

    def dimension(self, plate: str) -> str:
        """Return the name of the dimension of a plate: that of the plate, unless ArviZ reserves it."""
        return _plain(f"{plate}_dim" if plate in ("chain", "draw") else plate)

    def variable(self, name: str) -> str:
        """Return the name of a variable that differs from all dimensions."""
        return _plain(f"{name}_argument" if name in self._dimensions else name)

    def dimensions(self, group: str, name: str, count: int) -> list[str]:
        """Return the names of the ``count`` dimensions of a variable."""
        data = self.dimension(self.plate)
        lead = [data] if group in DATA_GROUPS else ["chain", "draw"]
        if group not in DATA_GROUPS and name not in self.shared:
            lead.append(data)
        # A log-probability is summed over nested plates, and an argument of the model may have the name of a site.
        summed = group in ("sample_stats", "log_likelihood", "constant_data")
        inner = [] if summed else [self.dimension(plate) for plate in self.nested.get(name, [])]
        rest = count - len(lead) - len(inner)
        return [*lead, *inner, *(f"{self.variable(name)}_dim_{i}" for i in range(rest))]


def _plain(name: str) -> str:
    """Replace slashes, which `pyro.contrib.autoname.scope` inserts and NetCDF reserves for paths."""
    return name.replace("/", ".")


def _dataset(
    names: _Names, group: str, values: Mapping[str, Tensor], index: Any | None, attrs: Mapping[str, str]
) -> Any:
    variables: dict[str, tuple[list[str], np.ndarray[Any, Any]]] = {}
    coords: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in values.items():
        array = value.numpy()
        dims = names.dimensions(group, name, array.ndim)
        variables[names.variable(name)] = (dims, array)
        coords |= {dim: np.arange(size) for dim, size in zip(dims, array.shape, strict=True)}
    if index is not None:
        coords[names.dimension(names.plate)] = _labels(index)
    return xarray.Dataset(variables, coords=coords, attrs=dict(attrs))


def _labels(index: Any) -> np.ndarray[Any, Any]:
    """Return a pandas index as a coordinate that NetCDF can store: numbers, times or text."""
    labels = np.asarray(index)
    if labels.dtype.kind in "biufM":
        return labels
    # NetCDF has no type for several levels, time zones, categories or other objects.
    return np.asarray([", ".join(map(str, label)) if isinstance(label, tuple) else str(label) for label in index])
