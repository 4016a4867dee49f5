"""Training and evaluation mode, changed temporarily."""

import contextlib

import pytest
from torch import nn

from amortvi._util.modes import evaluation_mode, restored_modes


@pytest.mark.parametrize("context", [evaluation_mode, restored_modes])
def test_the_mode_of_each_submodule_is_restored(context) -> None:
    one, two = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(1))), nn.Dropout().eval()
    one[0].eval()  # submodules need not agree
    parts = [*one.modules(), *two.modules()]
    before = [part.training for part in parts]
    with contextlib.suppress(KeyError), context(one, two):
        assert [part.training for part in parts] == (before if context is restored_modes else [False] * 5)
        one.train()
        raise KeyError
    assert [part.training for part in parts] == before
