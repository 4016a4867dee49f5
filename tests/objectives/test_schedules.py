"""Weight schedules as functions of the passes over the data."""

import pytest

from amortvi.errors import OptionError
from amortvi.objectives import ELBO, CyclicalSchedule, LinearSchedule


def test_linear_schedule() -> None:
    schedule = LinearSchedule(epochs=8, start=0.2, stop=0.6)
    assert [schedule(epochs) for epochs in (-3, 0, 2, 4, 8, 100)] == pytest.approx([0.2, 0.2, 0.3, 0.4, 0.6, 0.6])
    assert LinearSchedule(2, start=3.0)(1) == 2.0


def test_cyclical_schedule() -> None:
    """Compare with the formula of Fu et al. (2019), with ``tau = mod(t - 1, T / M) / (T / M)``."""
    schedule = CyclicalSchedule(epochs=12, cycles=3, rising=0.25)
    for tick in range(240):
        epochs = tick / 20
        tau = (epochs % 4) / 4
        assert schedule(epochs) == pytest.approx(min(1.0, tau / 0.25), abs=1e-9)
    assert [schedule(epochs) for epochs in (-1, 12, 12.5, 1000)] == [0.0, 1.0, 1.0, 1.0]
    sawtooth = CyclicalSchedule(epochs=2, cycles=2, rising=1.0, start=1.0, stop=2.0)
    assert [sawtooth(epochs) for epochs in (0, 0.5, 1, 1.75)] == [1.0, 1.5, 1.0, 1.75]


@pytest.mark.parametrize("schedule", [LinearSchedule, CyclicalSchedule])
def test_options(schedule) -> None:
    for bad in (0, -1, float("inf"), float("nan"), "10", True):
        with pytest.raises(OptionError, match=r"epochs must be .*; got"):
            schedule(bad)
    with pytest.raises(OptionError, match=r"start must be .*; got -0.1"):
        schedule(3, start=-0.1)
    with pytest.raises(OptionError, match=r"stop must be .*; got None"):
        schedule(3, stop=None)


def test_options_of_cycles() -> None:
    with pytest.raises(OptionError, match=r"rising must be .*; got 1.5"):
        CyclicalSchedule(3, rising=1.5)
    with pytest.raises(OptionError, match="cycles must be a positive integer; got 0"):
        CyclicalSchedule(3, cycles=0)


def test_values_of_a_schedule_are_checked() -> None:
    with pytest.raises(OptionError, match=r"kl_weight is a schedule .* after 0 passes it returned -1"):
        ELBO(kl_weight=lambda epochs: epochs - 1)
    late = ELBO(kl_weight=lambda epochs: 1 - epochs)
    late.advance(1.0)
    with pytest.raises(OptionError, match=r"after 1.5 passes it returned -0.5"):
        late.advance(1.5)
