"""Training in two processes started by torchrun: the result of one process, and one decision for all, also to fail.

One launch runs all fits and checks; see `worker`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import amortvi as avi
from tests.distributed.fits import FITS, X, make_vi, parameters, run

ROOT = Path(__file__).parents[2]
Results = list[dict[str, Any]]


def launch(module: str, folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", module]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(folder)], cwd=ROOT, env=environment, timeout=timeout, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each process has found."""
    folder = tmp_path_factory.mktemp("distributed")
    done = launch("tests.distributed.worker", folder, timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", FITS)
def test_the_result_is_that_of_one_process(results: Results, name: str) -> None:
    alone = FITS[name](False)
    expected, history = parameters(alone), alone.history.drop(columns="seconds")
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-4
    for found in (each[name] for each in results):
        torch.testing.assert_close(found["parameters"], expected, rtol=tolerance, atol=tolerance)
        assert found["status"] == alone.status
        for column, values in found["history"].items():
            assert values == pytest.approx(history[column].tolist(), rel=tolerance, abs=tolerance, nan_ok=True), column


def test_early_stopping_was_tried(results: Results) -> None:
    assert results[0]["early_stopping"]["status"] == "stopped early"


@pytest.mark.parametrize(
    "name", [*FITS, "other initial parameters", "no seed", "dropout", "stopped", "resumed", "finished"]
)
def test_all_processes_have_the_same_result(results: Results, name: str) -> None:
    first, second = (each[name] for each in results)
    assert torch.equal(first["parameters"], second["parameters"])
    assert first["parameters"].isfinite().all()
    assert repr(first["history"]) == repr(second["history"])
    assert first["status"] == second["status"]


def test_initial_parameters_are_those_of_the_first_process(results: Results) -> None:
    alone = run(make_vi(seed=0), X, False, seed=5)
    torch.testing.assert_close(
        results[1]["other initial parameters"]["parameters"], parameters(alone), rtol=1e-8, atol=1e-8
    )


def test_histories_are_equal_even_in_time(results: Results) -> None:
    assert results[0]["seconds"] == results[1]["seconds"]


def test_each_process_reads_its_share_of_a_data_set(results: Results) -> None:
    reads = [after_three - after_one for after_one, after_three in (each["rows read"] for each in results)]
    # Two epochs of five minibatches of 60 and one of a single observation, which the first process reads to compute something.
    assert reads == [2 * (5 * 30 + 1), 2 * (5 * 30 + 1)]


def test_a_checkpoint_of_the_first_process_resumes_all(results: Results) -> None:
    expected = run(make_vi(), X, False, epochs=6, validation_data=X[:40], patience=6)
    for each in results:
        assert each["stopped"]["status"] == "stopped"
        assert len(each["stopped"]["history"]["elbo"]) == 3
        for name in ("resumed", "finished"):
            torch.testing.assert_close(each[name]["parameters"], parameters(expected), rtol=1e-8, atol=1e-8)
            assert each[name]["status"] == expected.status


def test_a_signal_to_one_process_ends_the_fit_in_all_at_the_same_step(results: Results) -> None:
    first, second = (each["interrupted"] for each in results)
    assert first["status"] == second["status"] == "interrupted"
    assert torch.equal(first["parameters"], second["parameters"])
    expected = parameters(run(make_vi(), X, False, epochs=8))
    for each in results:
        assert len(each["interrupted"]["history"]["elbo"]) == 2
        torch.testing.assert_close(each["after the interruption"]["parameters"], expected, rtol=1e-8, atol=1e-8)


def test_divergence_is_the_same_error_in_all(results: Results) -> None:
    first, second = (each["diverged"] for each in results)
    assert first == second
    assert first[0] == "TrainingDiverged"
    assert first[2]["rows"]
    assert all(X[row, 0] > 2.0 for row in first[2]["rows"])


@pytest.mark.parametrize(("name", "failing", "kind"), [
    ("broken data", 1, "DataError"),
    ("broken callback", 0, "DataError"),
    ("other data", 1, "OptionError"),
    ("other options", 1, "OptionError"),
    ("bad checkpoint", 0, "OptionError"),
])  # fmt: skip
def test_an_error_in_one_process_ends_all(results: Results, name: str, failing: int, kind: str) -> None:
    (own, text, _), (others, report, _) = results[failing][name], results[1 - failing][name]
    assert own == kind
    assert others == "DistributedError"
    assert f"process {failing}" in report
    assert text.splitlines()[0][:60] in report


@pytest.mark.parametrize(("name", "kind"), [
    ("loader", "DataError"), ("stream", "DataError"), ("line search", "OptionError"), ("compiled", "OptionError"),
])  # fmt: skip
def test_what_cannot_be_divided_is_refused(results: Results, name: str, kind: str) -> None:
    assert [each[name][0] for each in results] == [kind, kind]


def test_processes_train_on_after_errors(results: Results) -> None:
    expected = parameters(run(make_vi(), X, False))
    for each in results:
        torch.testing.assert_close(each["at the end"]["parameters"], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("call", [
    lambda: run(make_vi(), X, True),
    lambda: run(make_vi(), X, False).fit_encoder(X, distributed=True),
    lambda: run(make_vi(), X, True, compile=True),
    lambda: run(make_vi(), X, "gloo"),
])  # fmt: skip
def test_one_process_alone_is_told_what_to_do(call: Callable[[], object]) -> None:
    with pytest.raises(avi.errors.OptionError, match="distributed"):
        call()


@pytest.mark.slow
def test_the_death_of_a_process_ends_the_others(tmp_path: Path) -> None:
    launch("tests.distributed.dies", tmp_path, timeout=120)
    assert (tmp_path / "survivor").read_text() == "DistributedError"
