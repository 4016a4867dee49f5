"""Objects are shown with the options that differ from their defaults."""

from amortvi._util.options import options_repr


class Loss:
    def __init__(self, power: float, *, weight: object = 1.0, schedule: object = None) -> None:
        self.power, self.weight, self.schedule = power, weight, schedule


def test_options_that_differ_are_shown() -> None:
    assert options_repr(Loss(2)) == "Loss(power=2)"
    assert options_repr(Loss(2, weight=1.0)) == "Loss(power=2)"
    assert options_repr(Loss(2, weight="cosine")) == "Loss(power=2, weight='cosine')"


def test_classes_and_functions_are_shown_by_name() -> None:
    assert options_repr(Loss(2, schedule=Loss)) == "Loss(power=2, schedule=Loss)"
