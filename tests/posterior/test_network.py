"""The inference network: from observations to posteriors, with errors that name the encoder."""

from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from torch import nn

from amortvi.data import Batch
from amortvi.encoders import MLP
from amortvi.errors import EncoderError
from amortvi.families import Diagonal
from amortvi.posterior import InferenceNetwork

X = torch.randn(7, 3)


def network(encoder: Any = None) -> InferenceNetwork:
    return InferenceNetwork(encoder or MLP(3, [4]), Diagonal().setup(2, 4), "diagonal")


def test_posteriors_are_those_of_the_context_which_can_be_given() -> None:
    net, context = network(), torch.randn(7, 4)
    q = net(Batch((X,)))
    assert (q.batch_shape, q.event_shape) == ((7,), (2,))
    torch.testing.assert_close(q.mean, net.family(net.encoder(X)).mean)
    torch.testing.assert_close(net(Batch((X,), context=context)).mean, net.family(context).mean)


def test_frozen_copies_are_independent() -> None:
    net = network(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))).train()
    frozen = net.frozen()
    assert net.training
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    before = frozen(Batch((X,))).mean
    with torch.no_grad():
        net.encoder[0].weight.zero_()
    assert torch.equal(frozen(Batch((X,))).mean, before)


class WithPyroParam(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.gain = PyroParam(torch.tensor(2.0), constraint=torch.distributions.constraints.positive)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * torch.cat([x, x[:, :1]], dim=1)


def test_parameters_of_pyro_modules_stay_out_of_store_and_trace() -> None:
    net = network(WithPyroParam())
    trace = poutine.trace(lambda: net(Batch((X,)))).get_trace()
    assert not [name for name in trace.nodes if "gain" in name]
    assert not list(pyro.get_param_store().keys())
    assert [name for name, _ in net.encoder.named_parameters()] == ["gain_unconstrained"]


def test_failures_of_the_encoder_are_reported_with_the_shapes() -> None:
    with pytest.raises(EncoderError, match=r"the encoder Linear failed on x of shape \(7, 3\)") as caught:
        network(nn.Linear(5, 4))(Batch((X,)))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(EncoderError, match="called with 2 arguments"):
        network(nn.Linear(3, 4))(Batch((X, X)))
