"""Fits, comparisons and calibrations by the workers of an executor: the same as one after the other, bit for bit."""

import copy
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import amortvi as avi
from amortvi.comparison import FamilyFits, compare, fit_families
from amortvi.errors import AmortviWarning, ModelError, OptionError
from tests.comparison.conftest import FAMILIES, SHORT, X, make_encoder, make_model, with_param
from tests.comparison.test_fits import decode

pytestmark = [
    pytest.mark.filterwarnings("ignore:the evidence of .* may be nats too low"),
    pytest.mark.filterwarnings("ignore::amortvi.errors.ConvergenceWarning"),
]
CHOICES = ["diagonal", "full"]
OPTIONS = {"seeds": [3, 4], "validation_data": 0.1, "batch_size": 50, **SHORT, "epochs": 12}
"""The options of fits in which the steps of the larger batches are recorded."""


def processes(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["amortvi", "cloudpickle", "pandas", "pytest"])
    return ProcessPoolExecutor(workers, mp_context=context)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with processes(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def in_turn() -> FamilyFits:
    return fit_families(make_model(), make_encoder(), CHOICES, X, **OPTIONS)


def fit_some(executor: Executor, **options: Any) -> FamilyFits:
    arguments = {"model": make_model(), "encoder": make_encoder(), "families": CHOICES, "x": X, **OPTIONS, **options}
    return fit_families(**arguments, executor=executor)


def assert_same(found: FamilyFits, expected: FamilyFits) -> None:
    assert [(fit.family, fit.seed) for fit in found.fits] == [(fit.family, fit.seed) for fit in expected.fits]
    for one, two in zip(found.fits, expected.fits, strict=True):
        assert_same_fit(one.vi, two.vi)


def assert_same_fit(one: avi.AmortizedVI, two: avi.AmortizedVI) -> None:
    for found, expected in ((one.guide, two.guide), (one.model, two.model)):
        assert isinstance(found, nn.Module)
        values = found.state_dict()
        assert values.keys() == expected.state_dict().keys()
        assert all(torch.equal(values[name], value) for name, value in expected.state_dict().items())
    pd.testing.assert_frame_equal(one.history.drop(columns="seconds"), two.history.drop(columns="seconds"))
    assert one.status == two.status


def test_processes(pool: Executor, in_turn: FamilyFits, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    fits = fit_some(pool)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(fits, in_turn)
    assert all(fit.seconds > 0 for fit in fits.fits)
    tables = [compare(each, X, particles=5, executor=by) for each, by in ((fits, pool), (in_turn, None))]
    pd.testing.assert_frame_equal(*(table.drop(columns="seconds") for table in tables))
    # Everything that an estimator can do, it can do after its return.
    vi, expected = fits["full"], copy.deepcopy(in_turn["full"])
    assert_same_fit(vi.fit(X, seed=1, **SHORT), expected.fit(X, seed=1, **SHORT))
    vi.save(tmp_path / "run.safetensors")
    assert torch.equal(vi.refine(X[:3]).mean["z"], expected.refine(X[:3]).mean["z"])
    assert vi.to_arviz(X[:3], draws=2, seed=0) is not None


def test_gaps_by_processes(pool: Executor) -> None:
    model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.8], [0.2, 1.0], [0.5, -0.5]]), scale=0.5)
    fits = fit_some(pool, model=model, families=["diagonal", "full"], seeds=[0], freeze_model=True)
    tables = [compare(fits, X[:5], particles=30, gaps=True, executor=executor) for executor in (pool, None)]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize("refined", [False, True])
def test_calibration_by_processes(pool: Executor, in_turn: FamilyFits, refined: bool) -> None:
    vi = in_turn["full"]
    options: dict[str, Any] = {"posterior": lambda x: vi.refine(x)} if refined else {}
    found, expected = (avi.calibrate(vi, 300, 20, seed=0, executor=each, **options) for each in (pool, None))
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame())
    assert all((found.ranks[name] == expected.ranks[name]).all() for name in expected.ranks)


def test_calibration_without_a_seed_follows_the_global_one(pool: Executor, in_turn: FamilyFits) -> None:
    tables = []
    for executor in (pool, None):
        torch.manual_seed(7)
        tables.append(avi.calibrate(in_turn["full"], 40, 20, executor=executor).to_frame())
    pd.testing.assert_frame_equal(*tables)


def test_functions_with_parameters(pool: Executor) -> None:
    options = {"model": with_param, "families": ["full"]}
    expected = fit_families(encoder=make_encoder(), x=X, **{**OPTIONS, **options})
    assert_same(fit_some(pool, **options), expected)


def test_what_cannot_be_imported(pool: Executor) -> None:
    class Model(avi.models.VAE):
        pass

    torch.manual_seed(0)
    model = Model(nn.Linear(2, 3), 2, "normal")
    options = {"model": model, "families": ["diagonal"], "lr_schedule": lambda optimizer: schedule(optimizer)}

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.StepLR:
        return torch.optim.lr_scheduler.StepLR(optimizer, 3)

    fits = fit_some(pool, **options)
    assert type(fits["diagonal"].model) is Model
    assert_same(fits, fit_families(encoder=make_encoder(), x=X, **options, **OPTIONS))


def test_what_cannot_be_sent(pool: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"^callbacks cannot be sent .* Objects such as open files"):
        fit_some(pool, callbacks=[WithLock()])
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(OptionError, match=r"^optimizer cannot be sent .*Install cloudpickle"):
        fit_some(pool, optimizer=lambda parameters, lr: torch.optim.Adam(parameters, lr))
    with ThreadPoolExecutor(1) as executor:  # in whose threads cloudpickle is missing as well
        fits = fit_some(executor, families=["diagonal"], seeds=[3])
    assert_same(fits, fit_families(make_model(), make_encoder(), ["diagonal"], X, **{**OPTIONS, "seeds": [3]}))


class WithLock(avi.callbacks.Callback):
    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parametrize("model", [make_model(), with_param], ids=["module", "function"])
def test_a_frozen_model_remains_one_object(pool: Executor, model: Any) -> None:
    fits = fit_some(pool, model=model, freeze_model=True, seeds=[3])
    assert len({id(vi.model) for vi in fits.values()}) == 1
    assert not isinstance(model, nn.Module) or fits["full"].model is model
    assert compare(fits, X, particles=3, executor=pool)["score"].iloc[0] == "elbo"
    assert_same_fit(
        fits["full"],
        fit_families(model, make_encoder(), ["full"], X, freeze_model=True, **{**OPTIONS, "seeds": [3]})["full"],
    )
    fits["full"].fit(X, **SHORT)


def test_functions_with_outer_modules_are_refused(pool: Executor) -> None:
    decoder = nn.Linear(2, 3)

    def model(x: Tensor) -> None:
        decode(decoder, x)

    with pytest.raises(ModelError, match="PyroModule"):
        fit_some(pool, model=model, freeze_model=True)


def test_lazy_encoders_and_checkpoints(pool: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the workers stay where they are
    options = {"encoder": nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Tanh()), "seeds": [3]}
    fits = fit_some(pool, checkpoint="run", **options)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [f"{name}_seed_3" for name in CHOICES]
    assert_same(fit_some(pool, checkpoint="run", **options), fits)
    resumed = fit_families(make_model(), families=CHOICES, x=X, checkpoint="run", **{**OPTIONS, **options})
    assert_same(resumed, fits)


class InOneFit(avi.callbacks.Callback):
    """Does something in the second epoch of one of the fits of a worker, counted from 0; the others stop after the third."""

    begun = itertools.count()

    def __init__(self, number: int, action: str) -> None:
        self.number, self.action, self.caller = number, action, os.getpid()

    def on_fit_start(self, fit: Any) -> None:
        self.is_chosen = next(self.begun) == self.number

    def on_epoch_end(self, fit: Any) -> None:
        if not self.is_chosen and fit.epoch == 3:
            fit.stop()
        if not self.is_chosen or fit.epoch != 2:
            return
        if self.action == "fail":
            raise RuntimeError("the disk is full")
        if self.action == "die":
            os._exit(1)
        if self.action == "interrupt":
            raise KeyboardInterrupt
        os.kill(self.caller, signal.SIGINT)


def test_a_failed_fit_leaves_the_others() -> None:
    with processes(1) as executor, pytest.warns(AmortviWarning, match=r"1 fits failed.*'low_rank' .*the disk is full"):
        fits = fit_some(executor, families=FAMILIES, seeds=[3], callbacks=[InOneFit(1, "fail")])
    assert list(fits) == ["diagonal", "full"]
    ((key, error),) = fits.failures.items()
    assert (key, type(error), str(error)) == (("low_rank", 3), RuntimeError, "the disk is full")
    assert "on_epoch_end" in error.__notes__[0]  # the traceback in the worker


def test_a_worker_that_dies_loses_its_fits_only() -> None:
    with processes(1) as executor:
        with pytest.warns(AmortviWarning, match=r"2 fits failed.*'low_rank'.*'full'"):
            fits = fit_some(executor, families=FAMILIES, seeds=[3], callbacks=[InOneFit(1, "die")])
        with pytest.raises(OptionError, match="executor accepts no work: BrokenProcessPool"):
            fit_some(executor)
    assert [(fit.family, len(fit.vi.history)) for fit in fits.fits] == [("diagonal", 3)]
    assert {key: type(error) for key, error in fits.failures.items()} == {
        ("low_rank", 3): BrokenProcessPool,
        ("full", 3): BrokenProcessPool,
    }


@pytest.mark.parametrize("action", ["interrupt", "interrupt the caller"])
def test_ctrl_c_ends_all_fits(action: str) -> None:
    with (
        processes(1) as executor,
        pytest.warns(AmortviWarning, match=r"'low_rank' \(seed 3\) was cut short.*not fitted: 'full'"),
    ):
        fits = fit_some(executor, families=FAMILIES, seeds=[3], callbacks=[InOneFit(1, action)], epochs=20_000)
    assert {name: vi.status for name, vi in fits.items()} == {"diagonal": "stopped", "low_rank": "interrupted"}
    assert fits.not_fitted == (("full", 3),)
    assert len(fits["low_rank"].history) >= 1
    assert fits["low_rank"].posterior(X[:2]).mean["z"].isfinite().all()


def test_threads(in_turn: FamilyFits) -> None:
    with ThreadPoolExecutor(2) as executor:
        assert_same(fit_some(executor), in_turn)
        table = compare(in_turn, X, particles=5, executor=executor)
        found = avi.calibrate(in_turn["full"], 300, 20, seed=0, executor=executor)
    pd.testing.assert_frame_equal(table, compare(in_turn, X, particles=5))
    pd.testing.assert_frame_equal(found.to_frame(), avi.calibrate(in_turn["full"], 300, 20, seed=0).to_frame())


@pytest.mark.parametrize("value", [3, "processes", ThreadPoolExecutor])
def test_bad_executors(value: Any) -> None:
    with pytest.raises(OptionError, match="executor must be a"):
        fit_some(value)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda vi: pickle.loads(pickle.dumps(vi))], ids=["copy", "pickle"])
@pytest.mark.parametrize("family", ["full", "flow", avi.families.Mixture(2)], ids=str)
def test_estimators_can_be_copied_and_pickled(copied: Any, family: Any) -> None:
    vi = avi.AmortizedVI(make_model(), make_encoder(), family).fit(X, seed=0, epochs=30, progress=False)
    other = copied(vi)
    assert_same_fit(other, vi)
    assert_same_fit(other.fit(X, seed=1, **SHORT), vi.fit(X, seed=1, **SHORT))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_dask(in_turn: FamilyFits) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        with pytest.raises(OptionError, match=r"Pass client.get_executor\(\)"):
            fit_some(client)
        executor = client.get_executor()
        fits = fit_some(executor)
        table = compare(fits, X, particles=5, executor=executor)
    assert_same(fits, in_turn)
    expected = compare(in_turn, X, particles=5)
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), expected.drop(columns="seconds"))


@pytest.mark.slow
def test_loky(in_turn: FamilyFits) -> None:
    loky = pytest.importorskip("joblib.externals.loky")
    executor = loky.get_reusable_executor(2)
    assert_same(fit_some(executor), in_turn)
    executor.shutdown()
