"""Usage of the latents: active and inactive coordinates, mutual information, aggregate posterior."""

from amortvi.diagnostics.latents.coordinates import CoordinateUsage, warn_of_inactive_latents
from amortvi.diagnostics.latents.latent_usage import LatentUsage, latent_usage

__all__ = ["CoordinateUsage", "LatentUsage", "latent_usage", "warn_of_inactive_latents"]
