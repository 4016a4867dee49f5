"""Fits that are interrupted and resumed end as if they had never been interrupted."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import amortvi as avi
from amortvi.errors import AmortviWarning, CheckpointError, OptionError
from amortvi.io import checkpoints as module
from amortvi.io import load_run
from tests.io.resumption import CASES, EPOCHS, Case, Interrupt, X, assert_equal, checkpoints, eager, make_vi


@pytest.fixture(autouse=True)
def _written_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """These epochs take less time than a checkpoint, which would therefore wait."""
    monkeypatch.setattr(module, "_LARGEST_SHARE", float("inf"))


def interrupted(case: Case, folder: Path, at: Interrupt, vi: avi.AmortizedVI | None = None) -> avi.AmortizedVI:
    vi = case.fit(vi, checkpoint=folder, callbacks=[at])
    assert vi.status == "interrupted"
    return vi


def check_resumption(case: Case, folder: Path) -> None:
    whole, start = case.fit(), len(case.make().history)
    interrupted(case, folder, Interrupt(start + 2, 3))  # in the middle of an epoch
    interrupted(case, folder, Interrupt(start + 5))  # at the end of one, before its checkpoint
    vi = interrupted(case, folder, Interrupt(start + 7, 1), vi=case.make())
    assert len(vi.history) == start + 6
    assert_equal(case.fit(vi, checkpoint=folder), whole)  # in the same process
    again = case.fit(checkpoint=folder)
    assert_equal(again, whole)
    with pytest.raises(OptionError, match="this fit, which is finished"):
        case.fit(again, checkpoint=folder)
    assert_equal(again, whole)


QUICK = {
    "eager",
    "recorded",
    "patience",
    "ReduceLROnPlateau",
    "NAdam",
    "KL schedule",
    "loader with a generator",
    "labels",
}
"""The cases that `make test` runs; each needs three fits."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_resumed_fit_ends_as_if_it_had_never_been_interrupted(name: str, tmp_path: Path) -> None:
    check_resumption(CASES[name], tmp_path)


@pytest.mark.slow
def test_a_resumed_fit_is_compiled_as_if_it_had_never_been_interrupted(tmp_path: Path) -> None:
    check_resumption(Case(options={"compile": True}), tmp_path)


@pytest.mark.slow
def test_a_resumed_fit_ends_by_itself_at_the_same_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_SHARE", -1.0)  # of hundreds of epochs, only interruptions are written
    case = Case(options={"epochs": None, "batch_size": 10, "lr": 0.02})
    interrupted(case, tmp_path / "late", Interrupt(130, 2))
    assert_equal(case.fit(checkpoint=tmp_path / "late"), case.fit())
    check_resumption(case, tmp_path)


def test_another_estimator_resumes_after_every_epoch(tmp_path: Path) -> None:
    case = eager()
    for epoch in range(2, EPOCHS + 1):
        interrupted(case, tmp_path, Interrupt(epoch, 1))
    assert_equal(case.fit(checkpoint=tmp_path), case.fit())


def test_a_fit_without_a_seed_is_resumed_with_the_one_in_its_checkpoint(tmp_path: Path) -> None:
    case = eager(seed=None, validation_data=0.2)
    torch.manual_seed(1)
    interrupted(case, tmp_path, Interrupt(4, 2))
    seed = load_run(tmp_path).tree["fit"]["seed"]
    torch.manual_seed(2)
    assert_equal(case.fit(checkpoint=tmp_path), case.fit(seed=seed))
    assert_equal(case.fit(checkpoint=tmp_path), case.fit(seed=seed))  # now that it is finished


@pytest.mark.parametrize("epochs", [4, 100])
def test_the_last_checkpoint_may_be_missing(tmp_path: Path, epochs: int) -> None:
    """A process can be killed between the checkpoint of the last epoch and the one of the finished fit."""
    case = CASES["patience"]
    whole = case.fit(checkpoint=tmp_path, epochs=epochs)
    assert (whole.status == "stopped early") == (epochs == 100)
    (finished,) = tmp_path.glob("*-finished.safetensors")
    finished.unlink()
    assert_equal(case.fit(checkpoint=tmp_path, epochs=epochs), whole)


def test_a_finished_fit_trains_no_further_epoch(tmp_path: Path) -> None:
    case = eager()
    case.fit(checkpoint=tmp_path)
    never = Interrupt(1, 1)
    never.on_fit_start = lambda fit: pytest.fail("the fit has started")  # type: ignore[method-assign]
    case.fit(checkpoint=tmp_path, callbacks=[never])


def test_a_fit_that_a_callback_has_stopped_goes_on(tmp_path: Path) -> None:
    class Stop(avi.callbacks.Callback):
        def on_epoch_end(self, fit: avi.callbacks.RunningFit) -> None:
            if fit.epoch == 3:
                fit.stop()

    case = eager(validation_data=0.3, patience=50)
    vi = case.fit(checkpoint=tmp_path, callbacks=[Stop()])
    assert (vi.status, len(vi.history)) == ("stopped", 3)
    assert_equal(case.fit(checkpoint=tmp_path), case.fit())


def test_a_checkpoint_is_a_saved_run(tmp_path: Path) -> None:
    interrupted(eager(), tmp_path, Interrupt(5, 2))
    made = make_vi()
    loaded = avi.AmortizedVI.load(tmp_path, made.model, made.encoder)
    # Ctrl-C at the end of an epoch leaves the parameters of that epoch in the estimator.
    expected = eager().fit(callbacks=[Interrupt(4)])
    pd.testing.assert_frame_equal(loaded.history.iloc[:, :-1], expected.history.iloc[:, :-1])
    for found, trained in ((loaded.guide, expected.guide), (loaded.generative, expected.generative)):
        assert all(torch.equal(*pair) for pair in zip(found.parameters(), trained.parameters(), strict=True))
    assert torch.equal(loaded.posterior(X).mean["z"], expected.posterior(X).mean["z"])
    assert torch.equal(loaded.posterior(X).sample(2, seed=0)["z"], expected.posterior(X).sample(2, seed=0)["z"])


OTHER_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "epochs": ({"epochs": 13}, "epochs=12 (here 13)"),
    "seed": ({"seed": 1}, "seed=0 (here 1)"),
    "batch_size": ({"batch_size": 20}, "batch_size=30 (here 20)"),
    "optimizer": ({"optimizer": torch.optim.NAdam}, "optimizer="),
    "objective": ({"objective": "iwae"}, "objective="),
    "lr_schedule": ({"lr_schedule": "constant"}, "lr_schedule='auto' (here 'constant')"),
    "validation_data": ({"validation_data": X[:5]}, "validation_data="),
}


@pytest.mark.parametrize("option", OTHER_CALLS)
def test_other_options_are_refused(option: str, tmp_path: Path) -> None:
    case = eager()
    interrupted(case, tmp_path, Interrupt(3, 1))
    options, message = OTHER_CALLS[option]
    refused(case, tmp_path, OptionError, message, **options)


def refused(case: Case, folder: Path, error: type[Exception], *facts: str, **options: Any) -> None:
    """Check that the error states the facts, and that neither the estimator nor the folder has changed."""
    vi = options.pop("vi", None) or case.make().setup(case.x(), seed=4)
    before, files = {name: value.clone() for name, value in vi.guide.state_dict().items()}, checkpoints(folder)
    with pytest.raises(error) as caught:
        case.fit(vi, checkpoint=folder, **options)
    assert type(caught.value) is error
    assert all(fact in str(caught.value) for fact in (str(folder), *facts)), caught.value
    assert all(torch.equal(value, vi.guide.state_dict()[name]) for name, value in before.items())
    assert checkpoints(folder) == files


def test_other_data_models_and_histories_are_refused(tmp_path: Path) -> None:
    case = eager()
    interrupted(case, tmp_path, Interrupt(3, 1))
    refused(Case(x=lambda: X + 1, options=case.options), tmp_path, OptionError, "x=")
    refused(case, tmp_path, CheckpointError, "shape", vi=make_vi(width=5))
    refused(case, tmp_path, CheckpointError, "another history", vi=eager(seed=3, epochs=2).fit())


def test_folders_that_hold_no_checkpoints_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(eager(), tmp_path / "file", CheckpointError, "cannot be used")
    make_vi().setup(X).save(tmp_path / "saved" / "epoch-000001.safetensors")
    refused(eager(), tmp_path / "saved", CheckpointError, "saved run, and no checkpoint")


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    case = eager()
    interrupted(case, tmp_path, Interrupt(6, 1))
    newest = tmp_path / checkpoints(tmp_path)[-1]
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    with pytest.warns(AmortviWarning, match=rf"passed over: {newest}.*checksum"):
        vi = interrupted(case, tmp_path, Interrupt(5, 1))  # one epoch has to be repeated
    assert len(vi.history) == 4
    with pytest.warns(AmortviWarning, match="passed over"):
        assert_equal(case.fit(checkpoint=tmp_path), case.fit())


FALLING = Case(
    lambda: make_vi("diagonal"),
    lambda: X[:20],
    {"validation_data": X[60:], "lr": 0.2, "lr_schedule": "constant", "epochs": 40, "compile": False},
)
"""A fit whose validation ELBO soon falls, so that its best epoch is an early one."""


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_good_one(tmp_path: Path) -> None:
    interrupted(FALLING, tmp_path, Interrupt(35, 1))
    (tmp_path / "epoch-000038.safetensors").write_bytes(b"damaged")
    with pytest.warns(AmortviWarning, match="passed over"):
        FALLING.fit(checkpoint=tmp_path, keep=1, callbacks=[Interrupt(37, 1)])
    with pytest.warns(AmortviWarning, match="passed over"):
        assert len(load_run(tmp_path).records) == 36


def test_an_error_if_no_checkpoint_can_be_read(tmp_path: Path) -> None:
    interrupted(eager(), tmp_path, Interrupt(4, 1))
    for name in checkpoints(tmp_path):
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.warns(AmortviWarning, match="passed over"):
        refused(eager(), tmp_path, CheckpointError, "can be read", "delete")


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    vi = FALLING.fit(checkpoint=tmp_path, keep=2)
    best = int(vi.history["validation_elbo"].idxmax())
    assert best < 39
    assert checkpoints(tmp_path) == [
        f"epoch-{best:06d}.safetensors",
        "epoch-000040-finished.safetensors",
        "epoch-000040.safetensors",
    ]
    made = make_vi("diagonal")
    assert len(avi.AmortizedVI.load(tmp_path / checkpoints(tmp_path)[0], made.model, made.encoder).history) == best


def test_interrupted_in_the_first_epoch(tmp_path: Path) -> None:
    """The same call begins again from the parameters from before the first, interrupted, epoch."""
    vi = make_vi()
    eager().fit(vi, checkpoint=tmp_path, callbacks=[Interrupt(1, 1)])
    assert checkpoints(tmp_path) == ["epoch-000000.safetensors"]
    assert_equal(eager().fit(vi, checkpoint=tmp_path), eager().fit())


def test_every_second_epoch(tmp_path: Path) -> None:
    interrupted(eager(), tmp_path, Interrupt(8, 1))
    assert checkpoints(tmp_path)[-1] == "epoch-000007.safetensors"
    interrupted(eager(every=3), tmp_path / "third", Interrupt(8, None))
    names = [f"epoch-{epoch:06d}.safetensors" for epoch in (0, 3, 6)]
    assert checkpoints(tmp_path / "third") == names


def test_checkpoints_hold_few_observations(tmp_path: Path) -> None:
    eager().fit(checkpoint=tmp_path)
    for name in checkpoints(tmp_path):
        found = load_run(tmp_path / name).tree["example"]["args"][0]
        assert torch.equal(found, X[:16])
        assert (tmp_path / name).stat().st_size < 50_000
