"""The table of families: a row here, and every conformance check runs on it."""

from amortvi import families

FAMILIES: dict[str, families.FamilyChoice] = {
    "diagonal": "diagonal",
    "full": "full",
    "low_rank": "low_rank",
    "rank one": families.LowRank(1),
}
