"""The requirements of amortized inference on a model; the error for each violation says how to fix it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from pyro.distributions import Delta, MaskedDistribution, SineBivariateVonMises, VonMises, VonMises3D
from torch import Tensor

from amortvi.data import Batch
from amortvi.errors import DataError, ModelError
from amortvi.model.discrete import check_enumerable, partly_observed
from amortvi.model.sites import Site, distribution_layers, distribution_parts, plate_frames
from amortvi.model.supports import has_tensor_bounds, inner_support

__all__ = [
    "FIXED_SITES",
    "check_latent",
    "check_observed",
    "check_reached",
    "check_support",
    "find_plate",
    "nothing_to_predict",
    "plate_draws_rows",
    "without_value",
    "wrong_plate_size",
]


FIXED_SITES = (
    "a site must not appear or disappear depending on the data: always sample it, and exclude what does not count with "
    "pyro.poutine.mask around the observed site."
)


def check_latent(site: Site) -> None:
    """Raise `ModelError` unless a latent site has an unmasked density over the real numbers, or values that can be listed."""
    name, base = site.name, site.base_distribution
    if site.is_discrete:
        check_enumerable(site)
        return
    for part in distribution_parts(base):
        what = "is" if part is base else "contains"
        if isinstance(part, Delta):
            raise ModelError(
                f"latent site {name!r} {what} a point (Delta), which has no density: use pyro.deterministic, or observe it "
                f"with obs=."
            )
        if isinstance(part, VonMises | VonMises3D | SineBivariateVonMises):
            raise ModelError(
                f"latent site {name!r} {what} an angle ({type(part).__name__}), whose density is periodic over the real line, "
                f"so no bound holds: sample a normal latent in the plane and compute its angle with torch.atan2."
            )
    # A mask that is true everywhere on the example may be false on the next batch.
    layers = distribution_layers(site.distribution)
    masks = [site.message["mask"], *(part._mask for part in layers if isinstance(part, MaskedDistribution))]
    masked = any(mask is False or isinstance(mask, Tensor) for mask in masks)
    observed = partly_observed(name)
    if masked and observed is not None:
        raise ModelError(
            f"site {observed!r} has obs_mask=, which makes a latent of each missing value: exclude missing values instead, "
            f"with 'with pyro.poutine.mask(mask=mask): pyro.sample({observed!r}, ..., obs=...)'."
        )
    if masked:
        raise ModelError(
            f"latent site {name!r} is masked, which would leave its posterior unbounded: mask only the observed sites. A "
            f"latent that nothing observes then has its prior as posterior, and the evidence is the same."
        )


def find_plate(
    sites: Sequence[Site], latent: Sequence[Site], example: Batch, observations: int, plate: str | None
) -> str:
    """Return the name of the data plate; raise `ModelError` unless exactly one plate qualifies, or is named by ``plate``."""
    found = plate_frames(sites)
    if not found:
        raise ModelError(
            "the model has no plate: put the latents and the observations of each row inside "
            "'with pyro.plate(\"data\", x.shape[0]):'."
        )
    if plate is not None and plate not in found:
        raise ModelError(f"plate={plate!r} is not in the model; its plates are {_listed(found)}.")
    loops = [frame.name for frame in found.values() if not frame.vectorized]
    if loops and (plate in loops or len(loops) == len(found)):
        raise ModelError(
            f"plate {loops[0]!r} is a Python loop: write 'with pyro.plate({loops[0]!r}, x.shape[0]):', so that all "
            f"observations are processed at once."
        )
    of_batch_size = [name for name, frame in found.items() if frame.vectorized and frame.size == observations]
    if not of_batch_size or (plate is not None and plate not in of_batch_size):
        raise wrong_plate_size(found, example, observations)
    if plate is not None:
        return plate
    with_latents = [name for name in of_batch_size if any(name in _plate_names(site) for site in latent)]
    # A nested plate may have the size of the batch by chance; the data plate contains every latent.
    complete = [name for name in with_latents if all(name in _plate_names(site) for site in latent)]
    candidates = complete if len(complete) == 1 else with_latents
    if not candidates:
        raise ModelError(
            f"plate {of_batch_size[0]!r} contains no latent: the latents {[site.name for site in latent]} are outside it. "
            f"Each observation needs a latent of its own, sampled inside the plate."
        )
    if len(candidates) > 1:
        raise ModelError(
            f"several plates of batch size {observations} contain latents: {candidates}. Name the one over observations with "
            f"plate=..."
        )
    return candidates[0]


def check_observed(sites: Sequence[Site], plate: str, example: Batch, observations: int) -> None:
    """Raise `ModelError` unless something is observed inside the data plate, and no data are observed outside it."""
    observed = [site for site in sites if not site.is_latent and not site.is_deterministic]
    memory = {value.untyped_storage().data_ptr() for value in example.tensors()}
    for site in observed:
        sizes = {frame.name: frame.size for frame in site.plates}
        others = [name for name, size in sizes.items() if size == observations]
        value = site.value
        is_argument = isinstance(value, Tensor) and value.numel() and value.untyped_storage().data_ptr() in memory
        if plate not in sizes and (others or is_argument):
            where = f"in plate {others[0]!r}" if others else "in no plate"
            raise ModelError(
                f"observed site {site.name!r} is {where}, but its latents are in plate {plate!r}: move it inside "
                f"'with pyro.plate({plate!r}, ...):', so that the log-probability of each row is known."
            )
    if not any(plate in _plate_names(site) for site in observed):
        raise ModelError(
            f"nothing is observed inside plate {plate!r}, so the posterior is the prior: pass the data to a pyro.sample with "
            f"obs=x there."
        )


def check_support(site: Site) -> None:
    """Raise `DataError` if the value of an observed site is outside the support of its distribution.

    A support with tensor bounds is not checked, because the bounds may depend on the latents or the parameters; nor is an entry
    of which the log-probability is masked and not computed, see `Site.log_prob`.
    """
    if has_tensor_bounds(site.distribution.support) or not isinstance(site.value, Tensor):
        return
    support, value = inner_support(site.distribution.support), site.scored_value
    inside = support.check(value)
    if not bool(inside.all()):
        outside = value[~inside]
        raise DataError(
            f"observed site {site.name!r} ({type(site.base_distribution).__name__}) has support {support}, but {len(outside)} "
            f"of the {inside.numel()} values in a batch are outside it, the first of them {outside[0].tolist()}: choose a "
            f"likelihood that fits the data, clean the data, or pass validate_args=False to the distribution if its density is "
            f"valid there."
        )


def plate_draws_rows(plate: str) -> ModelError:
    """Return the error for a data plate that subsamples at random."""
    return ModelError(
        f"plate {plate!r} draws its own subsample (subsample_size=...), but batches are made for the model: write "
        f"pyro.plate({plate!r}, x.shape[0]), or pyro.plate({plate!r}, N, subsample=x) with the total number N of "
        f"observations."
    )


def without_value(name: str, *, is_global: bool) -> ModelError:
    """Return the error for a latent without a value, ``is_global`` if it is outside the data plate."""
    if is_global:
        return ModelError(f"global latent {name!r} needs a value: pass theta=, or set global_point.")
    return ModelError(f"latent site {name!r} was not in the model at setup: {FIXED_SITES}")


def check_reached(names: Set[str], sites: Sequence[Site]) -> None:
    """Raise `ModelError` unless all latents ``names`` are among the sites of a run."""
    missing = names - {site.name for site in sites}
    if missing:
        raise ModelError(f"the model did not reach its latent sites {sorted(missing)} this time: {FIXED_SITES}")


def nothing_to_predict(plate: str) -> ModelError:
    """Return the error for a model of which no values can be drawn."""
    return ModelError(
        f"there is nothing to predict, because no pyro.sample in plate {plate!r} has obs=: a pyro.factor contributes to the "
        f"density but draws no data. Write the likelihood as a distribution, with pyro.sample(..., obs=x), to predict from it."
    )


def wrong_plate_size(found: Mapping[str, Any], example: Batch, observations: int) -> ModelError:
    """Return the error for a model without a plate of the batch size."""
    return ModelError(
        f"no plate has the size of the batch: the example has {observations} observations ({example.describe('x')}), and the "
        f"plates are {_listed(found)}. Write pyro.plate('data', x.shape[0]) or pyro.plate('data', N, subsample=x)."
    )


def _plate_names(site: Site) -> list[str]:
    return [frame.name for frame in site.plates]


def _listed(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{frame.name!r} of size {frame.size}" for frame in found.values())
