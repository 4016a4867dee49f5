"""The layout of an ArviZ export: groups, and the names of variables, dimensions and coordinates."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from amortvi._util.lazy import arviz, xarray
from amortvi._util.lazy import pandas as pd
from amortvi.errors import OptionError

__all__ = ["DATA_GROUPS", "DimensionNames", "Groups", "assemble"]

Groups: TypeAlias = dict[str, dict[str, Tensor]]
"""The variables of each group by name."""

DATA_GROUPS = ("observed_data", "constant_data")
"""The groups without chain and draw dimensions."""

_SUMMED_GROUPS = ("sample_stats", "log_likelihood")
"""The groups whose variables may be summed over nested plates and event dimensions."""
_RESERVED = ("chain", "draw")


@dataclass(frozen=True)
class DimensionNames:
    """The user's names of dimensions, and of what is along them.

    Args:
        dims: for each variable, the names of its event dimensions, or of all its dimensions.
        coords: for each dimension, its labels.
        columns: for each variable, the labels of its last dimension, used if there are no others.

    Raises:
        OptionError: ``dims`` does not map names to lists of names, or ``coords`` names to one-dimensional labels.
    """

    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    coords: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("dims", self.dims), ("coords", self.coords)):
            if not isinstance(value, Mapping):
                raise OptionError(f"{name} must be a dict; got {value!r}.")
        for variable, names in self.dims.items():
            is_list = isinstance(names, Sequence) and not isinstance(names, str)
            bad = [name for name in names if not _is_name(name)] if is_list else [names]
            if bad or len(set(names)) < len(names):
                raise OptionError(
                    f"dims[{variable!r}] must be a list of distinct names of dimensions, other than 'chain' and 'draw' and "
                    f"without '/'; got {names!r}."
                )
        object.__setattr__(self, "coords", {name: _index(name, labels) for name, labels in self.coords.items()})


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", *_RESERVED) and "/" not in name


def _index(name: object, labels: Any) -> Any:
    try:
        return pd.Index(np.asarray(labels.cpu()) if isinstance(labels, Tensor) else labels)
    except (TypeError, ValueError) as error:
        raise OptionError(f"coords[{name!r}] must be a one-dimensional list of labels; got {labels!r}.") from error


def assemble(
    groups: Groups,
    plate: str,
    nested: Mapping[str, list[str]],
    index: Any | None,
    attrs: Mapping[str, str],
    shared: Set[str] = frozenset(),
    names: DimensionNames | None = None,
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
        names: the user's names of dimensions, if any.

    Raises:
        OptionError: ``names`` has a variable or a dimension that does not exist, or too many or too few of them.
    """
    layout = _Layout(groups, plate, nested, shared, names or DimensionNames())
    labels = layout.labels(index)
    datasets = {group: _dataset(layout, group, labels, attrs) for group in groups}
    if int(arviz.__version__.partition(".")[0]) < 1:
        return arviz.InferenceData(attrs=dict(attrs), **datasets)
    tree = xarray.DataTree.from_dict(datasets)
    tree.attrs.update(attrs)
    return tree


class _Layout:
    """Distinct names of variables and dimensions: xarray treats a variable named like a dimension as its index."""

    def __init__(
        self, groups: Groups, plate: str, nested: Mapping[str, list[str]], shared: Set[str], names: DimensionNames
    ) -> None:
        self.groups = groups
        self._nested = nested
        self._shared = shared
        self._names = names
        self._plates = {_plate_dimension(name) for name in (plate, *itertools.chain(*nested.values()))}
        self._data = _plate_dimension(plate)
        self._own: dict[str, list[str]] = {}  # the user's names of event dimensions
        self._check_dims()

    def variable(self, name: str) -> str:
        """Return the name of a variable that differs from all dimensions."""
        return _plain(f"{name}_argument" if name in self._plates else name)

    def variables(self) -> Iterator[tuple[str, str, Tensor]]:
        """Iterate over group, name and value of all variables."""
        yield from ((group, name, value) for group, values in self.groups.items() for name, value in values.items())

    def dimensions(self, group: str, name: str) -> list[str]:
        """Return the names of the dimensions of a variable."""
        plates = self._plates_of(group, name)
        rest = self.groups[group][name].dim() - len(plates)
        own = self._own.get(name, []) if self._takes_names(group, name) else []
        event = own or [f"{self.variable(name)}_dim_{i}" for i in range(rest)]
        return [*plates, *event[:rest]]

    def _plates_of(self, group: str, name: str) -> list[str]:
        """Return the dimensions of a variable that plates, chains and draws give it."""
        lead = [] if group in DATA_GROUPS else [*_RESERVED]
        if group in DATA_GROUPS or name not in self._shared:
            lead.append(self._data)
        # An argument of the model may have the name of a site.
        inner = [] if group == "constant_data" else [_plate_dimension(plate) for plate in self._nested.get(name, [])]
        if group in _SUMMED_GROUPS:
            inner = inner[: self.groups[group][name].dim() - len(lead)]
        return [*lead, *inner]

    def _takes_names(self, group: str, name: str) -> bool:
        """Whether ``dims`` refers to this variable, and not to the site of the same name."""
        is_site = any(name in values for other, values in self.groups.items() if other not in ("constant_data", group))
        return group != "constant_data" or not is_site

    def _check_dims(self) -> None:
        """Read ``dims``, whose names must belong to variables and have their number of dimensions."""
        whole = {
            self.variable(name): (group, name)
            for group, name, _ in self.variables()
            if group not in _SUMMED_GROUPS and self._takes_names(group, name)
        }
        variables = {self.variable(name) for _, name, _ in self.variables()}
        for variable, given in self._names.dims.items():
            if variable not in whole:
                raise OptionError(f"dims has no variable {variable!r} to name the dimensions of: there are {[*whole]}.")
            group, name = whole[variable]
            plates = [each for each in self._plates_of(group, name) if each not in _RESERVED]
            rest = self.groups[group][name].dim() - len(self._plates_of(group, name))
            own = [*given[len(plates) :]] if [*given[: len(plates)]] == plates else [*given]
            if len(own) != rest:
                raise OptionError(
                    f"dims[{variable!r}] must name {rest} dimension{'s' * (rest != 1)} besides those of plates, {plates}, which "
                    f"have the names of the plates; got {[*given]}."
                )
            taken = [each for each in own if each in variables or each in plates]
            if taken:
                raise OptionError(
                    f"dims[{variable!r}] must differ from the names of variables and plates; got {taken}."
                )
            self._own[name] = own

    def labels(self, index: Any | None) -> dict[str, Any]:
        """Return the labels of dimensions: the user's, or else the index of the observations and the names of columns."""
        sizes: dict[str, set[int]] = defaultdict(set)
        columns: dict[str, list[Any]] = defaultdict(list)
        for group, name, value in self.variables():
            dims = self.dimensions(group, name)
            for dim, size in zip(dims, value.shape, strict=True):
                sizes[dim].add(size)
            given = self._names.columns.get(name)
            if given is not None and group in DATA_GROUPS and value.dim() > 1 and len(given) == value.shape[-1]:
                columns[dims[-1]].append(given)
        for dim in itertools.chain(*self._own.values()):
            if len(sizes[dim]) > 1:
                raise OptionError(
                    f"dims gives the name {dim!r} to dimensions of different sizes, {sorted(sizes[dim])}."
                )
        known = [dim for dim in sizes if dim not in _RESERVED]
        for dim, labels in self._names.coords.items():
            if dim not in known:
                raise OptionError(f"coords has no dimension {dim!r} to label: there are {known}.")
            if len(labels) not in sizes[dim]:
                raise OptionError(f"coords[{dim!r}] must have {sorted(sizes[dim])[0]} labels; got {len(labels)}.")
        # Tables with different columns may share a dimension, which then keeps its positions.
        found = {dim: each[0] for dim, each in columns.items() if all(each[0].equals(other) for other in each)}
        return found | ({} if index is None else {self._data: index}) | dict(self._names.coords)


def _plate_dimension(plate: str) -> str:
    """Return the name of the dimension of a plate: that of the plate, unless ArviZ reserves it."""
    return _plain(f"{plate}_dim" if plate in _RESERVED else plate)


def _plain(name: str) -> str:
    """Replace slashes, which `pyro.contrib.autoname.scope` inserts and NetCDF reserves for paths."""
    return name.replace("/", ".")


def _dataset(layout: _Layout, group: str, labels: Mapping[str, Any], attrs: Mapping[str, str]) -> Any:
    variables: dict[str, tuple[list[str], np.ndarray[Any, Any]]] = {}
    coords: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in layout.groups[group].items():
        dims = layout.dimensions(group, name)
        variables[layout.variable(name)] = (dims, value.numpy())
        for dim, size in zip(dims, value.shape, strict=True):
            given = labels.get(dim)
            coords[dim] = np.arange(size) if given is None or len(given) != size else _labels(given)
    return xarray.Dataset(variables, coords=coords, attrs=dict(attrs))


def _labels(index: Any) -> np.ndarray[Any, Any]:
    """Return a pandas index as a coordinate that NetCDF can store: numbers, times or text."""
    labels = np.asarray(index)
    if labels.dtype.kind in "biufM":
        return labels
    # NetCDF has no type for several levels, time zones, categories or other objects.
    return np.asarray([", ".join(map(str, label)) if isinstance(label, tuple) else str(label) for label in index])
