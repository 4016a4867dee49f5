"""Encoders: from the model's arguments to a context ``(B, C)``. Any `nn.Module` that does this is one."""

from amortvi.encoders.conv import Conv
from amortvi.encoders.mlp import MLP

__all__ = ["MLP", "Conv"]
