"""Encoders map the model's arguments to a context ``(B, C)``. Any `nn.Module` that does so can be an encoder."""

from amortvi.encoders.conv import Conv
from amortvi.encoders.mlp import MLP

__all__ = ["MLP", "Conv"]
