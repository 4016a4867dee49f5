"""Jobs in the workers of an executor: settings, warnings, errors and bytes."""

import multiprocessing
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from amortvi._util.executors import Jobs, check_executor, run_jobs, stop_requested
from amortvi._util.executors.packing import packed, packed_arguments, unpacked
from amortvi.errors import AmortviError, AmortviWarning, OptionError, TrainingDiverged


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["amortvi", "cloudpickle", "pytest"])
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        yield executor


def run_one(executor: Executor, function: Any, **shared: Any) -> Any:
    (value,) = run_jobs(executor, function, shared, {"only": {}}).values()
    return value


def read_settings() -> tuple[Any, ...]:
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        pyro.settings.get("validate_infer"),
        stop_requested(),
    )


def test_workers_compute_with_the_settings_of_the_caller(pool: Executor) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        with pyro.settings.context(validate_infer=False):
            expected = read_settings()
            assert run_one(pool, read_settings) == expected == (threads + 1, torch.float64, True, False, False)
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
    assert run_one(pool, read_settings) == read_settings()


def warn() -> int:
    warnings.warn("from the worker", AmortviWarning, stacklevel=1)
    return 3


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_warnings_are_issued_by_the_caller(kind: str, request: pytest.FixtureRequest) -> None:
    executor = request.getfixturevalue("pool") if kind == "processes" else ThreadPoolExecutor(1)
    with pytest.warns(AmortviWarning, match="from the worker"):
        assert run_one(executor, warn) == 3


class UnreadableError(Exception):
    """An exception that pickle writes, and cannot read."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail(error: BaseException | None = None) -> Any:
    raise UnreadableError(1, 2) if error is None else error


def test_errors_are_raised_by_the_caller(pool: Executor) -> None:
    with pytest.raises(TrainingDiverged, match="lost") as caught:
        run_one(pool, fail, error=TrainingDiverged("lost", epoch=3, sites=["z"]))
    assert (caught.value.epoch, caught.value.sites) == (3, ["z"])
    assert "in fail" in caught.value.__notes__[0]
    with pytest.raises(AmortviError, match="UnreadableError: 1 and 2"):
        run_one(pool, fail)
    with pytest.raises(KeyboardInterrupt):
        run_one(pool, fail, error=KeyboardInterrupt())


def make_generator() -> Any:
    return (each for each in ())


def test_results_that_cannot_be_sent(pool: Executor) -> None:
    with pytest.raises(AmortviError, match=r"cannot be sent back .*generator"):
        run_one(pool, make_generator)


def identity(value: int) -> int:
    return value


def test_order_and_early_end() -> None:
    jobs = {f"job {number}": {"value": number} for number in range(4)}
    with ThreadPoolExecutor(2) as executor:
        assert run_jobs(executor, identity, {}, jobs).values() == [0, 1, 2, 3]
    with ThreadPoolExecutor(1) as executor:
        ended: Jobs[str] = run_jobs(executor, identity, {}, jobs, ends_all=lambda value: value == 1)
    assert ended.is_interrupted
    assert list(ended.outcomes)[:2] == ["job 0", "job 1"]
    with pytest.raises(KeyboardInterrupt):
        ended.values()


def test_tensors_share_memory_after_the_journey_as_before() -> None:
    whole = torch.arange(6.0)
    one, two = unpacked(packed((whole[:3], whole[2:])))
    one[2] = 9
    assert float(two[0]) == 9


def test_what_cannot_be_sent_is_named() -> None:
    with pytest.raises(OptionError, match=r"^inner cannot be sent to the workers"):
        packed_arguments({"fine": 3, "outer": {"fine": 4, "inner": make_generator()}})


def test_executors_are_checked() -> None:
    class Client:
        def get_executor(self) -> Executor:
            return ThreadPoolExecutor()

    assert check_executor(None) is None
    with pytest.raises(OptionError, match=r"executor must be .*Pass client.get_executor\(\)"):
        check_executor(Client())
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(OptionError, match="executor accepts no work"):
        run_jobs(executor, identity, {}, {"only": {"value": 1}})


def add(one: Tensor, two: Tensor) -> Tensor:
    return one + two


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_workers_need_one_thread() -> None:
    arguments = {"one": torch.ones(2), "two": torch.ones(2)}
    threads = torch.get_num_threads()
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
            torch.set_num_threads(1)
            assert torch.equal(run_one(executor, add, **arguments), torch.full((2,), 2.0))
            torch.set_num_threads(2)
            with pytest.raises(OptionError, match=r"forked workers.*set_num_threads\(1\)"):
                run_one(executor, add, **arguments)
    finally:
        torch.set_num_threads(threads)


def test_too_many_threads_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with (
            ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor,
            pytest.warns(
                AmortviWarning, match=r"2 workers with 2 threads each compete for 2 cores.*set_num_threads\(1\)"
            ),
            pytest.raises(OptionError),
        ):
            run_jobs(executor, identity, {"value": make_generator()}, {1: {}, 2: {}})
    finally:
        torch.set_num_threads(threads)
