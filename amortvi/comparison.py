"""Fitted posterior families beside one another, on observations that they were not fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from amortvi.errors import OptionError
from amortvi.fitting import FamilyFits, Fit
from amortvi.inference import AmortizedVI

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare"]


def compare(
    fits: FamilyFits | Mapping[str, AmortizedVI], x: Any, *, particles: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Compare fitted families on held-out observations.

    Families are ranked by their mean ELBO. A difference is taken observation by observation, since all families see the
    same ones: its standard error is then that of the mean of paired differences, and much smaller than that of the
    ELBOs. With several seeds an observation's ELBO is its mean over the seeds.

    Args:
        fits: from `fit_families`, or fitted estimators by name.
        x: held-out observations, as for `AmortizedVI.evaluate`.
        particles: draws for each observation.
        seed: of the draws.

    Returns:
        A row a family, best first. Means an observation in nats are ``elbo``, ``elbo_se``, ``difference`` to the best and
        ``difference_se``, ``iwae``, ``reconstruction``, ``kl``; then come ``parameters`` (trained ones of encoder and
        family), ``seconds`` a fit, ``seeds``, and ``seed_sd``, the standard deviation of the mean ELBO between seeds
        (NaN for one).

    Raises:
        OptionError: ``fits`` is neither from `fit_families` nor a dict of fitted estimators, or is empty.
        DataError: the observations cannot be used.
    """
    import pandas as pd  # imported where it is used: it would double the time that importing amortvi takes

    runs = _runs(fits)
    families = list(dict.fromkeys(run.family for run in runs))
    tables = {
        family: [run.vi.evaluate(x, particles=particles, seed=seed) for run in runs if run.family == family]
        for family in families
    }
    elbos = {family: np.mean([table["elbo"] for table in found], axis=0) for family, found in tables.items()}
    # A bound that is not a number is the worst of all: no comparison with it would hold.
    best = max(families, key=lambda family: float(np.nan_to_num(elbos[family].mean(), nan=-np.inf)))
    rows = []
    for family in families:
        own = [run for run in runs if run.family == family]
        elbo, difference = elbos[family], elbos[family] - elbos[best]
        per_seed = [float(table["elbo"].mean()) for table in tables[family]]
        means = {
            column: float(np.mean([table[column].mean() for table in tables[family]]))
            for column in ("iwae", "reconstruction", "kl")
        }
        rows.append(
            {
                "family": family,
                "elbo": float(elbo.mean()),
                "elbo_se": _standard_error(elbo),
                "difference": float(difference.mean()),
                "difference_se": _standard_error(difference),
                **means,
                "parameters": sum(p.numel() for p in own[0].vi.guide.parameters() if p.requires_grad),
                "seconds": float(np.mean([run.seconds for run in own])),
                "seeds": len(own),
                "seed_sd": float(np.std(per_seed, ddof=1)) if len(own) > 1 else float("nan"),
            }
        )
    return pd.DataFrame(rows).set_index("family").sort_values("elbo", ascending=False)


def _runs(fits: FamilyFits | Mapping[str, AmortizedVI]) -> Sequence[Fit]:
    """Return the single fits."""
    if isinstance(fits, FamilyFits):
        return fits.fits
    if not isinstance(fits, Mapping) or not all(isinstance(vi, AmortizedVI) for vi in fits.values()):
        raise OptionError(
            "fits must come from fit_families, or be a dict of fitted estimators such as {'full': vi}; "
            f"got {type(fits).__name__}."
        )
    if not fits:
        raise OptionError("fits holds no fit to compare.")
    return [Fit(name, 0, vi, _seconds(vi)) for name, vi in fits.items()]


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")


def _seconds(vi: AmortizedVI) -> float:
    return float(vi.history["seconds"].sum())
