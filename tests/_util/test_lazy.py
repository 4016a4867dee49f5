"""Packages that load at first use, and the error for those that are missing."""

import subprocess
import sys

import pytest

from amortvi._util.lazy import pandas, require
from amortvi.errors import MissingDependencyError

PROGRAM = """
import sys
from amortvi._util.lazy import arviz, pandas as pd, special, stats, xarray
heavy = ("pandas", "scipy.stats", "scipy.special", "xarray", "arviz")
assert not [name for name in heavy if name in sys.modules]
assert pd.DataFrame({"a": [1]}).shape == (1, 1)
assert "pandas" in sys.modules and "xarray" not in sys.modules
assert abs(float(stats.norm.cdf(0.0)) - 0.5) < 1e-12
assert isinstance(pd.DataFrame(), pd.DataFrame)
"""


def test_packages_load_at_first_use() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=True)


def test_missing_attributes_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = pandas.no_such_name


def test_require_imports_submodules() -> None:
    assert require("os.path", extra="any", purpose="this test").join("a", "b") == "a/b"


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_a_missing_package_is_named_with_its_extra(module: str) -> None:
    with pytest.raises(MissingDependencyError, match=r"this test needs no_such_package.*'amortvi\[flows\]'"):
        require(module, extra="flows", purpose="this test")
