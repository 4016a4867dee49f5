"""Data sets for examples, tests and benchmarks."""

from amortvi.data.datasets.digits import digits
from amortvi.data.datasets.mnist import mnist
from amortvi.data.datasets.splits import ImageSplits

__all__ = ["ImageSplits", "digits", "mnist"]
