"""Where a number comes from: the machine and the versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

__all__ = ["describe_machine"]

_PACKAGES = {"torch": "torch", "pyro": "pyro-ppl", "numpyro": "numpyro", "jax": "jax", "amortvi": "amortvi"}


def describe_machine() -> dict[str, str | int | None]:
    """Return processor, cores, GPU and versions; ``None`` for what is not installed."""
    import torch

    found: dict[str, str | int | None] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    for name, package in _PACKAGES.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["torch"] = torch.__version__  # says which build it is
    return found


def _processor() -> str:
    """Return the name of the processor; `platform` does not know it on Linux."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
