"""The table of families: every conformance check runs on each row."""

from amortvi import families

FAMILIES: dict[str, families.FamilyChoice] = {
    "diagonal": "diagonal",
    "full": "full",
    "low_rank": "low_rank",
    "rank one": families.LowRank(rank=1),
    "full, slow off-diagonals": families.FullCovariance(off_diagonal_rate=0.01),
    "banded": "banded",
    "spline flow": families.Flow(transforms=2, hidden=[16], bins=4, features=3),
    "affine flow": families.Flow(transforms=2, kind="affine", hidden=[16], features=3, base="diagonal"),
    "mixture": "mixture",
    "mixture of two diagonal Gaussians": families.Mixture(2, "diagonal"),
    "mixture of Student's t": families.Mixture(2, families.StudentT(4)),
    "structured": "structured",
    "structured with a mixture": families.Structured(default=families.Mixture(2, "diagonal")),
    "student_t": "student_t",
    "top_down": "top_down",
}
