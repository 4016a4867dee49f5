"""Data for examples, tests and benchmarks."""

from amortvi.datasets.digits import digits
from amortvi.datasets.mnist import mnist
from amortvi.datasets.splits import ImageSplits

__all__ = ["ImageSplits", "digits", "mnist"]
