"""Encoders map the model's arguments to a context ``(B, C)``. Any `nn.Module` that does so can be an encoder."""

from amortvi.encoders.conv import Conv
from amortvi.encoders.deep_sets import DeepSets
from amortvi.encoders.mlp import MLP
from amortvi.encoders.recurrent import Recurrent
from amortvi.encoders.set_attention import SetAttention

__all__ = ["MLP", "Conv", "DeepSets", "Recurrent", "SetAttention"]
