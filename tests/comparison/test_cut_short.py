"""Fits that Ctrl-C ends or that fail: what has been fitted is kept, and everything else is named."""

import copy
import itertools
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import amortvi as avi
from amortvi.comparison import FamilyFits, compare, fit_families
from amortvi.comparison.fits import Fit
from amortvi.errors import AmortviWarning, ConvergenceWarning, OptionError
from amortvi.training import Status
from tests.comparison.conftest import FAMILIES, SHORT, X, make_encoder, make_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:the evidence of .* may be nats too low"),
    pytest.mark.filterwarnings("ignore::amortvi.errors.ConvergenceWarning"),
]
EPOCHS = SHORT["epochs"]


def raising(error: BaseException, *epochs: int) -> Callable[[Optimizer], LambdaLR]:
    """Return a schedule that raises an error at the end of some epochs, counted from 0 across all fits."""
    counter = itertools.count()

    def rate(epoch: int) -> float:
        if epoch and next(counter) in epochs:
            raise error
        return 1.0

    return lambda optimizer: LambdaLR(optimizer, rate)


def fit_some(**options: Any) -> FamilyFits:
    return fit_families(make_model(), make_encoder(), FAMILIES, X, **{**SHORT, "seeds": [3, 4], **options})


def warned(records: Any, category: type[Warning]) -> list[str]:
    return [str(each.message) for each in records if each.category is category]


def test_ctrl_c_ends_all_fits() -> None:
    with pytest.warns(AmortviWarning) as records:
        fits = fit_some(lr_schedule=raising(KeyboardInterrupt(), EPOCHS + 2))
    assert [(fit.family, fit.seed, len(fit.vi.history)) for fit in fits.fits] == [
        ("diagonal", 3, EPOCHS),
        ("low_rank", 3, 2),
    ]
    assert fits["low_rank"].status == "interrupted"
    assert fits.not_fitted == (("full", 3), ("diagonal", 4), ("low_rank", 4), ("full", 4))
    assert (fits.failures, len(fits)) == ({}, 2)
    (message,) = warned(records, AmortviWarning)
    assert "'low_rank' (seed 3) was cut short in epoch 3; not fitted: 'full' (seed 3), 'diagonal' (seed 4)" in message
    with pytest.raises(KeyError, match=r"'full' was not fitted, because Ctrl-C"):
        fits["full"]
    table = compare(fits, X, particles=3)
    assert dict(table["status"]) == {"diagonal": fits["diagonal"].status, "low_rank": "interrupted"}
    assert [verdict.endswith(", but cut short") for verdict in table["verdict"][["diagonal", "low_rank"]]] == [
        False,
        True,
    ]


def test_ctrl_c_in_the_last_fit() -> None:
    with pytest.warns(AmortviWarning, match=r"'full' \(seed 0\) was cut short in epoch 1\."):
        fits = fit_some(seeds=[0], lr_schedule=raising(KeyboardInterrupt(), 2 * EPOCHS))
    assert (list(fits), fits.not_fitted) == (FAMILIES, ())


class Copied(nn.Sequential):
    """An encoder during one of whose copies the user presses Ctrl-C."""

    copies = itertools.count()
    last = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "Copied":
        if next(self.copies) == self.last:
            raise KeyboardInterrupt
        made = type(self)(*(copy.deepcopy(part, memo) for part in self))
        made.copies, made.last = self.copies, self.last
        return made


def copied(last: int) -> Copied:
    made = Copied(nn.Linear(3, 4))
    made.copies, made.last = itertools.count(), last
    return made


def test_ctrl_c_between_two_fits() -> None:
    # The first copy is made to check the arguments.
    with pytest.warns(
        AmortviWarning, match=r"Ctrl-C ended the fits: not fitted: 'low_rank' \(seed 0\), 'full' \(seed 0\)\."
    ):
        fits = fit_families(make_model(), copied(2), FAMILIES, X, **SHORT)
    assert (list(fits), fits["diagonal"].status == "interrupted") == (["diagonal"], False)


def test_ctrl_c_before_and_after_the_training_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizers = itertools.count()

    def optimizer(parameters: Any, lr: float) -> Optimizer:
        if next(optimizers) == 1:
            raise KeyboardInterrupt
        return torch.optim.Adam(parameters, lr)

    with pytest.warns(AmortviWarning, match="not fitted: 'low_rank'"):
        fits = fit_some(optimizer=optimizer)
    assert list(fits) == ["diagonal"]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(avi.AmortizedVI, "after_fit", [interrupt])
    with pytest.warns(AmortviWarning, match="not fitted: 'low_rank'"):
        fits = fit_some()
    assert [(fit.family, len(fit.vi.history)) for fit in fits.fits] == [("diagonal", EPOCHS)]


@pytest.mark.parametrize("last", [0, 1], ids=["while checking", "before the first fit"])
def test_ctrl_c_before_anything_is_fitted(last: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit_families(make_model(), copied(last), FAMILIES, X, **SHORT)


def test_an_error_in_one_fit_does_not_stop_the_others() -> None:
    error = RuntimeError("the disk is full\n" + "trace\n" * 20)
    # In the second epoch of "low_rank" with seed 3, and in the first of "full" with both seeds.
    schedule = raising(error, EPOCHS + 1, EPOCHS + 2, 3 * EPOCHS + 3)
    with pytest.warns(AmortviWarning) as records:
        fits = fit_some(lr_schedule=schedule)
    assert fits.failures == {("low_rank", 3): error, ("full", 3): error, ("full", 4): error}
    assert [(fit.family, fit.seed) for fit in fits.fits] == [("diagonal", 3), ("diagonal", 4), ("low_rank", 4)]
    assert fits["low_rank"] is fits.fits[-1].vi
    (message,) = warned(records, AmortviWarning)
    assert "3 fits failed" in message
    assert "'low_rank' (seed 3): RuntimeError: the disk is full" in message
    with pytest.raises(KeyError, match=r"'full' \(seed 3\) failed.*RuntimeError: the disk is full") as caught:
        fits["full"]
    assert caught.value.__cause__ is error
    assert "full" not in fits
    with pytest.warns(ConvergenceWarning, match=r"'full' \(seed 4\) failed, and is not in the table"):
        table = compare(fits, X, particles=3)
    assert dict(table["seeds"]) == {"diagonal": 2, "low_rank": 1}


def test_a_failed_fit_leaves_a_shared_model_as_the_others_need_it() -> None:
    model = make_model()
    before = model.likelihood.log_scale.double()
    options = {"x": X.double(), "dtype": torch.float64, "freeze_model": True, "seeds": [0]}
    arguments = {"model": model, "encoder": make_encoder(), "families": FAMILIES, **SHORT, **options}
    with pytest.warns(AmortviWarning, match=r"1 fits failed.*'diagonal'"):
        fits = fit_families(**arguments, lr_schedule=raising(RuntimeError(), 0))
    assert list(fits) == FAMILIES[1:]
    assert (
        {vi.dtype for vi in fits.values()} == {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    )
    assert torch.equal(model.likelihood.log_scale, before)
    assert set(compare(fits, X.double(), particles=3).index) == set(fits)


def test_the_same_call_resumes_all_fits_from_their_checkpoints(tmp_path: Path) -> None:
    options = {"seeds": [0], "checkpoint": tmp_path / "run"}
    with pytest.warns(AmortviWarning, match=r"'low_rank' \(seed 0\) was cut short in epoch 2; not fitted: 'full'"):
        cut = fit_some(callbacks=[Interrupt(EPOCHS + 2)], **options)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["diagonal_seed_0", "low_rank_seed_0"]
    resumed, complete = fit_some(**options), fit_some(seeds=[0])
    assert [len(cut[family].history) for family in cut] == [EPOCHS, 1]
    for family in FAMILIES:
        assert len(resumed[family].history) == EPOCHS
        found, expected = (fits[family].guide.state_dict() for fits in (resumed, complete))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


class Interrupt(avi.callbacks.Callback):
    """Ctrl-C after a number of steps of one batch per epoch, counted across all fits."""

    def __init__(self, step: int) -> None:
        self.left = step

    def on_step_end(self, fit: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_the_error_is_raised_if_every_fit_fails() -> None:
    with pytest.raises(OptionError, match="lr_schedule must return a schedule"):
        fit_some(lr_schedule=lambda optimizer: 3)
    error = RuntimeError("first")
    with pytest.raises(RuntimeError, match="first") as caught:
        fit_some(lr_schedule=raising(error, *range(6)))
    assert caught.value is error


def test_complete_fits_have_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", AmortviWarning)
        fits = fit_some(seeds=[0])
    assert (fits.failures, fits.not_fitted) == ({}, ())


def with_statuses(**statuses: tuple[Status, ...]) -> FamilyFits:
    """Return fits of each family that ended as given."""
    fits = []
    for family, ended in statuses.items():
        for seed, status in enumerate(ended):
            vi = avi.AmortizedVI(make_model(), make_encoder(), family).fit(X, seed=seed, epochs=1, progress=False)
            object.__setattr__(vi.convergence, "status", status)
            fits.append(Fit(family, seed, vi, 0.0))
    return FamilyFits(fits)


def test_one_warning_names_all_fits_that_have_not_converged() -> None:
    fits = with_statuses(
        diagonal=("converged", "budget"), full=("interrupted", "still rising"), low_rank=("stopped early",) * 2
    )
    with pytest.warns(ConvergenceWarning) as records:
        table = compare(fits, X, particles=3)
    (message,) = warned(records, ConvergenceWarning)
    assert "'diagonal': budget; 'full': interrupted; 'full': still rising." in message
    assert dict(table["status"]) == {"diagonal": "budget", "full": "interrupted", "low_rank": "stopped early"}
    assert dict(table["converged"]) == {"diagonal": False, "full": False, "low_rank": True}
    assert {name for name in table.index if table["verdict"][name].endswith(", but cut short")} == {"full"}


def test_every_status_can_be_compared() -> None:
    for status in typing.get_args(Status):
        with warnings.catch_warnings(record=True) as records:
            warnings.simplefilter("always")
            table = compare(with_statuses(full=("converged", status)), X[:20], by="elbo", particles=2)
        assert table["status"]["full"] == status
        assert bool(warned(records, ConvergenceWarning)) is not table["converged"]["full"]
