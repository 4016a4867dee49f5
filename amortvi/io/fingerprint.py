"""What a model, its posterior and their networks are made of, by which a saved run recognizes its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from amortvi.data import Batch
from amortvi.model import Model
from amortvi.posterior import AmortizedGuide
from amortvi.posterior.global_latents import guide_label

__all__ = ["Fingerprint", "differences", "fingerprint", "shapes"]

Fingerprint: TypeAlias = Mapping[str, Mapping[str, str]]
"""Descriptions of the parts of a run, by kind and name."""


def fingerprint(model: Model, guide: AmortizedGuide, example: Batch) -> Fingerprint:
    """Return the latents with their shapes, the likelihoods, and the classes of all modules, by kind and name."""
    network = guide.network
    with model.inference_mode():
        sites = [site for site in model.run(example) if site.is_data]
    return {
        "latent": {site.name: str(list(site.shape)) for site in guide.latents.sites},
        "global latent": {site.name: str(list(site.shape)) for site in model.structure.globals},
        "guide of the global latents, the argument": {"global_guide": str(guide_label(network.global_posterior))},
        "likelihood": {site.name: type(site.base_distribution).__name__ for site in sites},
        "module": {**_classes("model", model.program), **_classes("encoder", network.encoder)},
    }


def differences(saved: Fingerprint, here: Fingerprint) -> list[str]:
    """Describe in what two fingerprints differ; what an earlier version did not save is not compared."""
    return [
        f"{kind} {name}: {saved[kind].get(name, 'missing')} in the run, {parts.get(name, 'missing')} here"
        for kind, parts in here.items()
        if kind in saved
        for name in sorted(parts.keys() | saved[kind].keys())
        if parts.get(name) != saved[kind].get(name)
    ]


def shapes(part: str, state: Mapping[str, Any]) -> dict[str, str]:
    """Return the shape of each entry of a state dict, which need not be a tensor."""
    return {
        f"{part}.{name}": str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
        for name, value in state.items()
    }


def _classes(part: str, module: nn.Module) -> dict[str, str]:
    return {
        f"{part}.{name}".rstrip("."): type(each).__name__
        for name, each in module.named_modules()
        # The wrapper of a model, and its list of parameters, say nothing about it.
        if not isinstance(each, nn.ParameterList) and (name or part != "model")
    }
