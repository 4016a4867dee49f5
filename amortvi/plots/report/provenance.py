"""How the results of a report came about: data, models, fits, versions and settings."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence

import pyro
import torch

from amortvi._util import __version__
from amortvi._util.text import MISSING, number
from amortvi.comparison.fits import Fit
from amortvi.data import Observations
from amortvi.model import Model
from amortvi.plots.report.findings import CHECKED, Work
from amortvi.plots.report.page import Part, Section
from amortvi.plots.report.tables import Table

__all__ = ["model_name", "named_runs", "provenance_section"]

_COUNTED = 10_000_000
"""The number of elements of an argument from which its range is computed."""


def provenance_section(fits: Sequence[Fit], observations: Observations, work: Work) -> Section:
    """Return the section about where the numbers come from."""
    parts = [
        Part("Data", tables=[_data_table(observations)]),
        Part("Models and fits", tables=[_model_table(fits), _call_table(fits)]),
        Part("This report", tables=[_settings_table(work), _version_table(fits)]),
    ]
    return Section("Provenance", parts)


def model_name(model: Model) -> str:
    """Return the name of the class or function of a model."""
    given = model.program.model
    return type(given).__name__ if isinstance(given, torch.nn.Module) else getattr(given, "__name__", repr(given))


def _data_table(observations: Observations) -> Table:
    batch = observations.as_batch()
    rows = []
    for name, value in batch.named():
        known = value[torch.isfinite(value)] if value.is_floating_point() else value
        summary = [MISSING] * 3
        if 0 < known.numel() <= _COUNTED:
            exact = known.double()
            summary = [number(float(each), 3) for each in (exact.min(), exact.mean(), exact.max())]
        dtype = str(value.dtype).removeprefix("torch.")
        rows.append([name, str(tuple(value.shape)), dtype, *summary])
    caption = f"{batch.size:,} observations: the arguments of the model."
    return Table(caption, ["argument", "shape", "type", "minimum", "mean", "maximum"], rows)


def _model_table(fits: Sequence[Fit]) -> Table:
    header = ["fit", "model", "latents", "encoder", "posterior", "parameters of the model", "of the posterior"]
    rows = [
        [
            name,
            model_name(fit.vi.generative) + ", frozen" * fit.vi.freeze_model,
            _latents(fit.vi.generative),
            type(fit.vi.encoder).__name__,
            type(fit.vi.guide.family).__name__,
            number(sum(each.numel() for each in fit.vi.generative.parameters())),
            number(sum(each.numel() for each in fit.vi.guide.parameters())),
        ]
        for name, fit in named_runs(fits)
    ]
    return Table("What was fitted.", header, rows)


def _latents(model: Model) -> str:
    sites = {site.name: tuple(site.shape) for site in model.latents.sites}
    sites |= {site.name: tuple(site.shape) for site in model.structure.globals}
    return ", ".join(f"{name} {shape}" if shape else name for name, shape in sites.items())


def _call_table(fits: Sequence[Fit]) -> Table:
    rows = [
        [name, place, dtype, fit.vi.objective, ", then ".join(fit.vi.calls) or MISSING]
        for name, fit in named_runs(fits)
        for place, dtype in [(str(fit.vi.device), str(fit.vi.dtype).removeprefix("torch."))]
    ]
    notes = ["Options that are not listed had their defaults."]
    if any(not fit.vi.calls for fit in fits):
        notes.append(f"{MISSING} in calls: the fit was loaded from a file, which does not contain its options.")
    return Table("How it was fitted.", ["fit", "device", "type", "objective", "calls"], rows, notes)


def named_runs(fits: Sequence[Fit]) -> list[tuple[str, Fit]]:
    """Return the fits with the names of their families, and with their seeds where a family has several fits."""
    counts = Counter(fit.family for fit in fits)
    return [(f"{fit.family}, seed {fit.seed}" if counts[fit.family] > 1 else fit.family, fit) for fit in fits]


def _settings_table(work: Work) -> Table:
    rows = [
        ["draws per observation", number(work.draws), "for each bound, the evidence and k-hat"],
        ["simulated observations", number(CHECKED), "on which the estimates of the evidence are checked"],
        ["simulated observations", number(work.simulations), f"for the calibration, with {work.ranked} draws each"],
        ["tolerance", f"{work.tolerance:g}", "nats per observation"],
        ["seed", str(work.seed), "of all draws"],
    ]
    return Table("What was computed.", ["setting", "value", "use"], rows)


def _version_table(fits: Sequence[Fit]) -> Table:
    rows = [
        ["amortvi", __version__],
        ["PyTorch", torch.__version__],
        ["Pyro", pyro.__version__],
        ["Python", platform.python_version()],
        ["system", f"{platform.system()} {platform.machine()}"],
        *([["GPU", torch.cuda.get_device_name(_gpu(fits))]] if _gpu(fits) is not None else []),
    ]
    return Table("Versions.", ["software", "version"], rows)


def _gpu(fits: Sequence[Fit]) -> torch.device | None:
    return next((fit.vi.device for fit in fits if fit.vi.device.type == "cuda"), None)
