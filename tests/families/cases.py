"""The table of families: a row here, and every conformance check runs on it."""

from functools import partial

from amortvi import families

FAMILIES: dict[str, families.FamilyChoice] = {
    "diagonal": "diagonal",
    "full": "full",
    "low_rank": "low_rank",
    "rank one": families.LowRank(1),
    "full, slow mixing": partial(families.FullCovariance, mixing_rate=0.01),
}
