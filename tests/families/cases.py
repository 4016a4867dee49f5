"""The table of families: every conformance check runs on each row."""

from amortvi import families

FAMILIES: dict[str, families.FamilyChoice] = {
    "diagonal": "diagonal",
    "full": "full",
    "low_rank": "low_rank",
    "rank one": families.LowRank(rank=1),
    "full, slow off-diagonals": families.FullCovariance(off_diagonal_rate=0.01),
    "flow": "flow",
    "small flow": families.Flow(transforms=1, hidden=[8]),
}
