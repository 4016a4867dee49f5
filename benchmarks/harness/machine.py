"""The machine and the versions that a result belongs to."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

__all__ = ["describe_machine"]

_PACKAGES = {"pyro": "pyro-ppl", "numpyro": "numpyro", "jax": "jax", "amortvi": "amortvi"}


def describe_machine() -> dict[str, str | int | None]:
    """Return the processor, the cores, the GPU and the versions; ``None`` for what is not installed."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,  # unlike the metadata, it names the build
        **{name: _version(package) for name, package in _PACKAGES.items()},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the name of the processor, which `platform` does not know on Linux."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
