"""Training and evaluation mode, changed temporarily."""

import contextlib

from torch import nn

from amortvi._util.modes import evaluation_mode, restored_modes


def network() -> nn.Module:
    net = nn.Sequential(nn.Linear(1, 1), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(1)))
    net[1].eval()  # submodules need not agree
    return net


def modes(net: nn.Module) -> list[bool]:
    return [part.training for part in net.modules()]


def test_evaluation_mode_restores_each_submodule() -> None:
    one, two = network(), network().eval()
    before = modes(one), modes(two)
    with contextlib.suppress(KeyError), evaluation_mode(one, two):
        assert not any(modes(one) + modes(two))
        raise KeyError
    assert (modes(one), modes(two)) == before


def test_restored_modes_changes_nothing_itself() -> None:
    net = network()
    before = modes(net)
    with restored_modes(net):
        assert modes(net) == before
        net.train()
    assert modes(net) == before
