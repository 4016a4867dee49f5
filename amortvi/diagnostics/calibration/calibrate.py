"""Calibration of a posterior on data simulated from its own model."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch

from amortvi._util.checks import positive_int
from amortvi._util.executors import check_executor
from amortvi._util.lazy import special
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.diagnostics.c2st import compare_pairs
from amortvi.diagnostics.calibration.blocks import Compared, PosteriorFunction, compare_with_truth
from amortvi.diagnostics.calibration.coverage import coverage_test
from amortvi.diagnostics.calibration.ranks import shape_of, uniformity
from amortvi.diagnostics.calibration.result import Calibration
from amortvi.diagnostics.calibration.verdicts import NOT_CALIBRATED, Array, CalibrationTest, holm_corrected
from amortvi.diagnostics.calibration.whitened import correlation_test, location_test, spread_test
from amortvi.diagnostics.simulation import Simulator, simulate_observations
from amortvi.inference import AmortizedVI

__all__ = ["calibrate"]


def calibrate(
    vi: AmortizedVI,
    simulations: int = 1000,
    draws: int = 200,
    x: Any = None,
    *,
    posterior: PosteriorFunction | None = None,
    simulator: Simulator | None = None,
    classifier: bool = False,
    executor: Executor | None = None,
    seed: int | None = None,
) -> Calibration:
    """Simulate latents and data from the model, and test whether the posteriors of the data agree with these latents.

    The tests by ``kind``, where *truth* means the latents from which the data were simulated:

    - ``marginal``: the rank of each unconstrained coordinate among the draws is uniform (Talts et al., 2018). Marginal ranks
      cannot reveal a missing correlation. Statistic: the Kolmogorov-Smirnov distance.
    - ``joint``: the ranks of random projections of the whitened latents are uniform, and so are those of the log-likelihood
      and the log joint density, which also reveal a posterior that ignores the data (Modrák et al., 2023). Statistic: the
      Kolmogorov-Smirnov distance.
    - ``coverage``: highest-density regions contain the truth as often as they claim (Hermans et al., 2022). They contain it
      less often (``"overconfident"``) if the posterior is too narrow or misplaced, and more often (``"conservative"``) if it
      is too wide. Statistic: the area between the coverage and the diagonal above one half.
    - ``TARP``: balls around random reference points contain the truth as often as they claim (Lemos et al., 2023).
      Statistic: the same area, averaged over the reference points.
    - ``location``, ``spread``, ``correlation``: the truth in units of its posterior has mean 0, variance 1 and no
      correlation. The verdicts name the fault: ``"shifted"``, ``"too narrow"``, ``"too wide"``, ``"missing correlation"``
      (if the posteriors are uncorrelated), ``"wrong correlation"``. A posterior whose location has a different error for
      each observation is too narrow for its errors. Statistics: the largest mean distance in posterior standard deviations,
      the standard deviation of the truth relative to that of the posterior, the largest remaining correlation.
    - ``classifier``: a network cannot tell the truth from a draw, given the location and the scale of the posterior
      (Lopez-Paz and Oquab, 2017). Statistic: its accuracy.

    An exact posterior passes all tests with a probability of at least 0.95, whatever the number of simulations; more
    simulations reveal smaller faults. The tests assess ``q`` on data from the model, not the fit of the model to real data.

    Args:
        vi: a fitted estimator.
        simulations: ``n``, the number of simulated observations.
        draws: ``K``, the number of draws from each posterior.
        x: observations whose sizes and covariates are used for the simulations, cyclically; by default some of the training
            data.
        posterior: a function from simulated observations to their posteriors, called for blocks of at least 250 simulations; by
            default ``vi.posterior``. With ``vi.refine``, the tests show the faults that remain without the amortization gap.
        simulator: draws latents and data in place of the model; see `simulate_observations`.
        classifier: whether to run the ``classifier`` test (needs scikit-learn, extra ``diagnostics``).
        executor: whose workers compute the posteriors of the blocks and draw from them, with the same results; see
            `fit_families`. The data are simulated in this process.
        seed: reproduces all draws and leaves the caller's random state untouched.

    Returns:
        The tests with their verdicts, the ranks and the coverage.

    Raises:
        NotFittedError: no data have been seen.
        OptionError: ``simulations`` is below 20 or ``draws`` below 10; ``posterior`` does not return a `Posterior` of this
            estimator; or the result of ``simulator`` has the wrong form.
        DataError: ``posterior`` returns the posterior of other observations.
        ModelError: data cannot be simulated from the model; see `simulate_observations`.
        NonFiniteError: a draw is not finite, a log density is NaN, or the draws do not vary.
        MissingDependencyError: ``classifier=True``, but scikit-learn is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.9, 1.0]]), scale=0.5)
        >>> x = model.simulate(500, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "diagonal", freeze_model=True)
        >>> vi = vi.fit(x, epochs=60, lr=0.02, seed=0, progress=False)
        >>> avi.calibrate(vi, 500, 100, seed=0).verdict
        'too narrow, missing correlation'
    """
    simulations = positive_int("simulations", simulations, at_least=20)
    draws = positive_int("draws", draws, at_least=10)
    executor = check_executor(executor)
    own_seed = derived_seed(seed, Stream.CALIBRATION)
    with random_state(own_seed, vi.device):
        simulated = simulate_observations(vi, simulations, x, simulator=simulator)
        seed_of_draws = int(torch.randint(2**62, ()))
    # Outside the context, in which the threads of an executor could not draw.
    compared = compare_with_truth(vi, simulated, draws, posterior, seed_of_draws, executor)
    compared.check_spread()
    values = compared.values
    ranks = dict(zip(compared.names, np.ascontiguousarray(values["ranks"].T), strict=True))
    tests = [
        *_rank_tests(ranks, compared.labels),
        coverage_test("coverage", "highest-density regions", values["density_levels"]),
        coverage_test("TARP", "balls around reference points", values["reference_levels"]),
        *_moment_tests(compared),
    ]
    if classifier:
        tests.append(_classifier_test(values, 0 if own_seed is None else own_seed))
    return Calibration(
        draws=draws,
        tests=holm_corrected(tests),
        ranks=ranks,
        density_levels=values["density_levels"],
        reference_levels=values["reference_levels"],
        whitened=values["truth"],
    )


def _rank_tests(ranks: dict[str, Array], coordinates: list[str]) -> list[CalibrationTest]:
    tests = []
    for name, found in ranks.items():
        distance, p_value = uniformity(found)
        # Only the ranks of a coordinate have a shape that names the fault of its posterior.
        kind, fault = ("marginal", shape_of(found)) if name in coordinates else ("joint", NOT_CALIBRATED)
        tests.append(CalibrationTest(kind, name, distance, p_value, fault))
    return tests


def _moment_tests(compared: Compared) -> list[CalibrationTest]:
    values, second_moment = compared.values, compared.second_moment
    truth, scores = values["truth"], special.ndtri(values["whitened_ranks"])
    tests = [
        location_test(truth, scores),
        spread_test(truth, scores, special.ndtri(values["norm_ranks"]), second_moment),
    ]
    if truth.shape[1] > 1:
        tests.append(correlation_test(truth, second_moment, compared.squared_correlation))
    return tests


def _classifier_test(values: dict[str, Array], seed: int) -> CalibrationTest:
    context = [values["loc"], values["log_scale"]]
    truth, draw = (np.concatenate([values[name], *context], axis=1) for name in ("truth", "draw"))
    found = compare_pairs(truth, draw, classifier="mlp", folds=5, seed=seed)
    return CalibrationTest("classifier", "truth and draw", found.accuracy, found.p_value, NOT_CALIBRATED)
